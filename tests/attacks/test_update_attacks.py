"""Attacks on the way to an update: by who runs or relays a mirror, and by who holds some of the keys.

Each is refused before a byte of a model is looked at; trusted metadata and the installation stay as they were.
The marker names the attack and the documented refusal; `python -m benchmarks attacks` counts them.
"""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole

from robustidps.errors import RemoteUnavailableError, UpdateError
from robustidps.testing.linear import toy_bundle
from robustidps.testing.remote import URL, MemoryRemote
from tests.attacks.conftest import Site

DAY = 86_400


def attack(name: str, refusal: str = "UpdateError"):
    return pytest.mark.attack(name, refusal)


# --- old metadata, and mixtures of old and new


@attack("rollback to an older version")
def test_rollback_to_an_older_version(site, remote):
    old = dict(remote.files)
    remote.publish()
    site.registry.offers()
    remote.files = old
    error = site.refuses(UpdateError, "is another version than it has to be")
    assert "timestamp.json" in str(error)


@attack("rollback to an older version")
def test_rollback_of_one_familys_role_under_a_new_snapshot(site, remote):
    remote.publish()
    site.registry.offers()
    remote.signed("snapshot").meta["linear.json"].version = 1
    remote.publish_snapshot()
    error = site.refuses(UpdateError, "is another version than it has to be")
    assert "snapshot.json" in str(error)


@attack("rollback to an older version")
def test_a_snapshot_that_no_longer_names_a_family(site, remote):
    site.registry.offers()
    del remote.signed("snapshot").meta["linear.json"]
    remote.publish_snapshot()
    site.refuses(UpdateError, "missing info for 'linear.json'")


@attack("freeze")
def test_freeze_at_metadata_that_was_good_once(tmp_path, remote):
    now = time.time()
    site = Site(tmp_path / "site", remote, clock=lambda: now)
    site.registry.offers()
    now += 8 * DAY  # the timestamp lives for seven
    error = site.refuses(UpdateError, "has expired")
    assert "timestamp.json" in str(error) and "refresh" in error.remedy


@attack("mix-and-match of snapshot and targets")
def test_mix_and_match_of_snapshot_and_targets(site, remote):
    remote.publish()
    remote.files["metadata/2.linear.json"] = remote.files["metadata/1.linear.json"]
    error = site.refuses(UpdateError, "isn't the file that was signed")
    assert "linear.json" in str(error)


@attack("mix-and-match of snapshot and targets")
def test_mix_and_match_where_the_snapshot_names_versions_alone(site, remote):
    remote.publish(hashes=False)
    remote.files["metadata/2.targets.json"] = remote.files["metadata/1.targets.json"]
    error = site.refuses(UpdateError, "Expected targets v2, got v1")
    assert "targets.json" in str(error)


@attack("mix-and-match of snapshot and targets")
def test_an_older_snapshot_under_a_new_timestamp(site, remote):
    old = remote.files["metadata/1.snapshot.json"]
    remote.publish(hashes=False)
    remote.files["metadata/2.snapshot.json"] = old
    site.refuses(UpdateError, "Expected snapshot version 2, got 1")


@attack("fast-forward, and its recovery")
def test_fast_forward_and_its_recovery(site, remote):
    """Who holds the online keys can shut honest metadata out; new keys in a new root let it in again."""
    site.registry.offers()
    honest = {role: remote.signed(role).version for role in ("snapshot", "timestamp")}
    for role in honest:
        remote.signed(role).version = 2**31
    remote.publish_snapshot()
    site.registry.offers()
    for role, version in honest.items():
        remote.signed(role).version = version
    remote.publish_snapshot()
    site.refuses(UpdateError, "New timestamp version 2 must be >= 2147483649")
    for role in honest:
        remote.rotate(role)
    remote.publish_snapshot()
    assert [o.version for o in site.registry.offers()] == ["1.0.0"]
    assert site.registry.offers()[0].root_version == 3


# --- what a server can make a client spend


@attack("endless data")
@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/2.root.json"])
def test_endless_data_in_place_of_metadata(site, path):
    site.fetcher.answers[path] = lambda: itertools.repeat(b"[" * 10_000)
    site.refuses(UpdateError, "is longer than it may be")
    assert site.fetcher.served < 3_000_000


@attack("endless data")
def test_endless_data_in_place_of_a_bundle(site, remote):
    place = next(p for p in remote.files if p.endswith("bundle.tar"))
    site.fetcher.answers[place] = lambda: itertools.repeat(bytes(10_000))
    site.registry.offers()
    site.refuses(UpdateError, "is longer than it may be .sends more than the")
    assert site.fetcher.served < 100_000
    assert all(p.stat().st_size == 0 for p in (site.updates / "partial").iterdir())


@attack("endless data")
def test_metadata_that_signs_a_bundle_larger_than_any(site, remote):
    for path, info in remote.signed("linear").targets.items():
        if path.endswith("bundle.tar"):
            info.length = 2**50
    remote.publish()
    site.refuses(UpdateError, "more than")


# --- other bytes than those that were signed


@attack("wrong hash")
def test_wrong_hash(site, remote):
    place = next(p for p in remote.files if p.endswith("bundle.tar"))
    site.registry.offers()
    remote.files[place] = remote.files[place][::-1]
    site.refuses(UpdateError, "isn't the file that was signed .has SHA-256")
    assert not list((site.updates / "partial").iterdir())


@attack("wrong length")
def test_wrong_length_too_long(site, remote):
    place = next(p for p in remote.files if p.endswith("bundle.tar"))
    site.registry.offers()
    remote.files[place] += b"\0"
    site.refuses(UpdateError, "longer than it may be")


@attack("wrong length", "RemoteUnavailableError")
def test_wrong_length_too_short(site, remote):
    """Not told from a connection that breaks; what came is kept for the next mirror, and believed no more than it."""
    place = next(p for p in remote.files if p.endswith("bundle.tar"))
    site.registry.offers()
    whole = remote.files[place]
    remote.files[place] = whole[:-1]
    site.refuses(RemoteUnavailableError, "ends before its")
    remote.files[place] = whole
    assert site.take()


@attack("wrong length")
def test_wrong_length_of_metadata(site, remote):
    site.registry.offers()
    remote.publish()
    remote.files["metadata/2.linear.json"] += b"\n"
    site.refuses(UpdateError, "is longer than it may be")


@attack("wrong hash")
def test_an_archive_that_is_changed_on_disk_after_it_was_verified(site):
    offer = site.registry.offers()[-1]
    archive = site.registry.download(offer, site.updates / "quarantine")
    archive.write_bytes(archive.read_bytes().replace(b"toy", b"yot"))
    from robustidps.updates.quarantine import admit

    site.refuses(UpdateError, "isn't the archive", lambda: admit(archive, offer, site.updates / "quarantine"))


# --- keys


@attack("unsigned")
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "linear"])
def test_unsigned(site, remote, role):
    site.registry.offers()
    remote.keys[role] = []
    remote.publish()
    error = site.refuses(UpdateError, "isn't signed by enough of the keys")
    assert f"{role}.json" in str(error)


@attack("unsigned")
def test_signed_by_a_key_that_nobody_knows(site, remote):
    site.registry.offers()
    remote.keys["linear"] = [CryptoSigner.generate_ed25519()]
    remote.publish()
    site.refuses(UpdateError, "isn't signed by enough of the keys")


@attack("signed by a revoked key")
def test_signed_by_a_revoked_key_of_a_family(site, remote):
    site.registry.offers()
    old = remote.keys["linear"]
    delegations = remote.signed("targets")
    delegations.revoke_key(old[0].public_key.keyid, "linear")
    fresh = CryptoSigner.generate_ed25519()
    delegations.add_key(fresh.public_key, "linear")
    remote.publish()  # the family's role still signed with the old one
    error = site.refuses(UpdateError, "isn't signed by enough of the keys")
    assert "linear.json" in str(error)
    remote.keys["linear"] = [fresh]
    remote.publish()
    assert site.registry.offers()[0].keys == (fresh.public_key.keyid,)


@attack("signed by a revoked key")
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_signed_by_a_revoked_key_of_a_top_role(site, remote, role):
    site.registry.offers()
    remote.keys[role] = remote.rotate(role)
    remote.publish()
    before = site.held()
    with pytest.raises(UpdateError, match="isn't signed by enough of the keys"):
        site.registry.offers()
    after = site.held()
    assert after.pop("home/updates/trusted/root_history/2.root.json")  # a root that two thresholds signed is kept
    assert after == before


@attack("below the threshold")
def test_targets_below_the_threshold(tmp_path, original):
    remote = MemoryRemote(threshold=2)
    remote.add(original)
    remote.publish()
    site = Site(tmp_path / "site", remote)
    site.registry.offers()
    remote.keys["targets"].pop()
    remote.publish()
    error = site.refuses(UpdateError, "was signed by 1/2 keys")
    assert "targets.json" in str(error)


@attack("below the threshold")
def test_a_root_below_the_threshold_of_the_one_before(tmp_path, original):
    remote = MemoryRemote(threshold=2)
    remote.add(original)
    remote.publish()
    site = Site(tmp_path / "site", remote)
    site.registry.offers()
    stolen = remote.keys["root"][0]
    root = remote.signed("root")
    mine = [CryptoSigner.generate_ed25519() for _ in range(2)]
    root.roles["root"].keyids = []
    for key in mine:
        root.add_key(key.public_key, "root")
    root.version += 1
    remote.keys["root"] = [stolen, *mine]
    remote.store("root")
    error = site.refuses(UpdateError, "was signed by 1/2 keys")
    assert "root.json" in str(error)


@attack("below the threshold")
def test_one_signature_given_twice_counts_once(tmp_path, original):
    remote = MemoryRemote(threshold=2)
    remote.add(original)
    remote.publish()
    site = Site(tmp_path / "site", remote)
    remote.keys["targets"][1] = remote.keys["targets"][0]
    remote.publish()
    site.refuses(UpdateError, "was signed by 1/2 keys")


@attack("key compromise and rotation")
def test_key_compromise_and_rotation(site, remote):
    """A stolen online key is worth nothing once a root without it was seen, even to one who withholds that root."""
    site.registry.offers()
    stolen = {role: remote.rotate(role) for role in ("timestamp", "snapshot")}
    remote.publish()
    assert site.registry.offers()[0].root_version == 3
    remote.keys |= stolen
    remote.publish()
    for version in (2, 3):
        del remote.files[f"metadata/{version}.root.json"]
    error = site.refuses(UpdateError, "isn't signed by enough of the keys")
    assert "timestamp.json" in str(error)


@attack("key compromise and rotation")
def test_a_rotation_counts_even_if_the_rest_of_that_check_failed(site, remote):
    site.registry.offers()
    stolen = remote.rotate("timestamp")
    site.fetcher.answers["metadata/timestamp.json"] = b"garbage"
    with pytest.raises(UpdateError):
        site.registry.offers()
    site.fetcher.answers.clear()
    remote.keys["timestamp"] = stolen
    remote.publish()
    del remote.files["metadata/2.root.json"]
    site.refuses(UpdateError, "isn't signed by enough of the keys")


@attack("key compromise and rotation")
def test_another_root_in_place_of_the_next_one(site, remote, original):
    """A whole repository of the attacker's, whose root says it is version 2."""
    site.registry.offers()
    other = MemoryRemote()
    other.add(original)
    other.signed("root").version = 2
    other.store("root")
    other.publish()
    remote.files = other.files
    error = site.refuses(UpdateError, "isn't signed by enough of the keys")
    assert "root.json" in str(error)


# --- time


@attack("expired metadata")
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "linear"])
def test_expired_metadata(site, remote, role):
    site.registry.offers()
    remote.publish()
    past = remote.in_days(-1)
    signed = remote.signed(role)
    signed.expires = past
    if role in ("targets", "linear"):
        remote.publish()
    else:
        remote.store(role)
        if role == "snapshot":
            remote.signed("snapshot").version += 1
            remote.signed("timestamp").snapshot_meta.version += 1
            remote.signed("timestamp").snapshot_meta.hashes = remote.signed("timestamp").snapshot_meta.length = None
            remote.store("snapshot")
            remote.publish_timestamp()
    error = site.refuses(UpdateError, "has expired")
    assert f"{role}.json" in str(error)


@attack("expired metadata")
def test_an_expired_root(tmp_path, remote):
    now = time.time()
    site = Site(tmp_path / "site", remote, clock=lambda: now)
    site.registry.offers()
    now += 366 * DAY
    site.refuses(UpdateError, "Final root.json is expired")


@attack("clock set back")
def test_a_clock_that_is_set_back_does_not_revive_what_has_expired(tmp_path, remote):
    began = now = time.time()
    site = Site(tmp_path / "site", remote, clock=lambda: now)
    site.registry.offers()
    now = began + 8 * DAY
    site.refuses(UpdateError, "has expired")
    now = began  # set back, beside a mirror that stands still
    error = site.refuses(UpdateError, "has expired")
    assert "clock" in error.remedy and "--forget-time" in error.remedy


@attack("clock set back")
def test_a_clock_that_was_always_wrong_meets_the_time_that_publishers_sign(tmp_path, remote):
    """A clock in 1970 on the first day: a version made in January says that it is January."""
    site = Site(tmp_path / "site", remote, clock=lambda: 0.0)
    site.registry.offers()
    remote.signed("timestamp").expires = datetime(2026, 1, 5, tzinfo=UTC)
    remote.signed("timestamp").version += 1
    remote.store("timestamp")
    site.refuses(UpdateError, "has expired")


# --- targets and delegations


@attack("a target for another family's delegation")
def test_a_target_for_another_familys_delegation(site, remote, original):
    remote.add_family("spiking")
    remote.publish()
    site.registry.offers()
    remote.add_target("spiking", "linear/toy/9.0.0/bundle.tar", b"x")
    remote.publish()
    error = site.refuses(UpdateError, "which isn't its own")
    assert "spiking" in str(error)


@attack("a target for another family's delegation")
@pytest.mark.parametrize("paths", [["*/*/*/*"], ["linear/*/*/*"], ["spiking/*/*/*", "linear/*/*/*"]])
def test_a_delegation_of_more_than_a_familys_own(site, remote, paths):
    site.registry.offers()
    remote.add_family("spiking", paths=paths)
    remote.publish()
    site.refuses(UpdateError, "is delegated other paths than its family's")


@attack("a target for another family's delegation")
def test_a_bundle_of_another_family_in_a_familys_role(site, remote, original):
    archive = remote.add(original)
    info = remote.signed("linear").targets.pop(archive)
    text = remote.signed("linear").targets.pop(archive.replace("bundle.tar", "metadata.json"))
    data = {i.path: remote.files[remote.place(i.path, i.hashes["sha256"])] for i in (info, text)}
    remote.add_archive("spiking", "toy", "1.0.0", data[info.path], info.custom, data[text.path])
    remote.publish()
    site.registry.offers()
    site.refuses(UpdateError, "its family is 'linear', the offer says 'spiking'")


@attack("name or version that climbs out of a folder")
@pytest.mark.parametrize(
    "path",
    [
        "linear/../1.0.0/bundle.tar",
        "linear/toy/../bundle.tar",
        "linear/toy/1.0.0/../../../../etc/cron.d/x",
        "linear/toy/..%2f..%2fetc/bundle.tar",
        "linear/toy\0/1.0.0/bundle.tar",
        "linear/.partial-x/1.0.0/bundle.tar",
        "linear/toy/1.0.0+../bundle.tar",
        "/linear/toy/1.0.0/bundle.tar",
        "linear/toy/1.0.0/bundle.tar/../evil",
    ],
)
def test_name_or_version_that_climbs_out_of_a_folder(site, remote, path):
    site.registry.offers()
    remote.add_target("linear", path, b"x")
    remote.publish()
    error = site.refuses(UpdateError, "isn't the name of a version's file")
    assert str(error).isprintable()


@attack("name or version that climbs out of a folder")
@pytest.mark.parametrize("name", ["../../evil", "a/b", "", "root", "timestamp"])
def test_a_role_whose_name_climbs_out_of_a_folder(site, remote, name):
    site.registry.offers()
    delegations = remote.signed("targets").delegations
    key = CryptoSigner.generate_ed25519()
    delegations.roles[name] = DelegatedRole(name, [key.public_key.keyid], 1, True, ["linear/*/*/*"])
    delegations.keys[key.public_key.keyid] = key.public_key
    remote.publish()
    site.refuses(UpdateError, "is delegated other paths than its family's|isn't TUF metadata")


@attack("version strings that sort wrongly", "sorted as numbers")
def test_version_1_10_comes_after_1_9(tmp_path, site, remote):
    for version in ("1.10.0", "1.9.0", "1.10.0-rc.1"):
        remote.add(toy_bundle(tmp_path / version, version=version, rows=100))
    remote.publish()
    assert [o.version for o in site.registry.offers()] == ["1.0.0", "1.9.0", "1.10.0-rc.1", "1.10.0"]


@attack("version strings that sort wrongly")
@pytest.mark.parametrize("version", ["1.10", "01.2.3", "v2.0.0", "latest", "2.0.0 ", "٢.0.0", "9" * 70 + ".0.0"])
def test_a_version_that_is_none(site, remote, version):
    site.registry.offers()
    remote.add_target("linear", f"linear/toy/{version}/bundle.tar", b"x")
    remote.publish()
    site.refuses(UpdateError, "isn't the name of a version's file")


@attack("NaN metrics")
@pytest.mark.parametrize("figure", ["nan", "NaN", "inf", "-inf", "1.5", "-0.1", "very good", None, "1e400"])
def test_nan_metrics_in_the_summary(site, remote, original, figure):
    site.registry.offers()
    remote.add(original, metrics={"accuracy": figure})
    remote.publish()
    site.refuses(UpdateError, "its summary is malformed")


@attack("NaN metrics")
def test_nan_in_signed_json(site, remote):
    """JSON has no NaN, Python's reader takes one: canonical JSON, which is what is signed, does not."""
    site.registry.offers()
    text = remote.files["metadata/1.linear.json"].replace(b'"metrics":{}', b'"metrics":{"accuracy":NaN}')
    remote.publish(hashes=False)
    site.fetcher.answers["metadata/2.linear.json"] = text
    site.refuses(UpdateError, "can't be trusted|isn't TUF metadata|isn't signed")


@attack("a summary that lies or is none")
@pytest.mark.parametrize(
    "custom",
    [
        {"author": "x" * 400},
        {"digest": "0" * 63},
        {"digest": "../../etc/passwd"},
        {"extra": 1},
        {"created_at": 10**15},
        {"metrics": {"x" * 33: "0.5"}},
    ],
)
def test_a_summary_that_is_malformed_or_too_large(site, remote, original, custom):
    site.registry.offers()
    remote.add(original, **custom)
    remote.publish()
    site.refuses(UpdateError, "summary|no time")


@attack("a summary that lies or is none")
def test_half_a_version(site, remote):
    site.registry.offers()
    remote.add_target("linear", "linear/toy/9.0.0/metadata.json", b"{}")
    remote.publish()
    site.refuses(UpdateError, "bundle.tar isn't there: a version has both its files or none")


@attack("a summary that lies or is none")
def test_a_bundle_that_was_withdrawn_after_it_was_offered(tmp_path, site, remote):
    offer = site.registry.offers()[-1]
    remote.signed("linear").targets.clear()
    remote.publish()
    later = remote.registry(tmp_path / "site" / "home")  # another process, that has the offer from a journal
    later.offers()
    site.refuses(UpdateError, "is no longer offered", lambda: later.download(offer, tmp_path / "x"))


@attack("garbage")
@pytest.mark.parametrize("garbage", [b"", b"<html>503</html>", b"[" * 16_000, b"\xff\xfe", b'{"signed":{}}', b"null"])
@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/2.root.json"])
def test_garbage_in_place_of_metadata(site, path, garbage):
    site.registry.offers()
    site.fetcher.answers[path] = garbage
    site.refuses(UpdateError, "isn't TUF metadata|can't be trusted|isn't signed")


def test_an_untouched_registry_is_accepted_as_it_is(site, original):
    """What all of the above begins with."""
    assert site.take() == original.digest
    assert f"{URL}" == site.registry.offers()[0].mirror
