"""What a publisher publishes, as python-tuf's own client sees it over HTTP."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from tuf.api.exceptions import ExpiredMetadataError, UnsignedMetadataError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater
from tuf.ngclient.config import UpdaterConfig
from typer.testing import CliRunner

from robustidps import cli
from robustidps import settings as robustidps_settings
from robustidps.bundle import bundle_digest, examine
from robustidps.cli import _app
from robustidps.cli import publishing as cli_publishing
from robustidps.errors import (
    BundleError,
    ConfigError,
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageError,
    VersionExistsError,
)
from robustidps.registry import steps
from robustidps.settings import writable
from robustidps.testing.forge import reseal
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import memory_registry
from robustidps.testing.web import served
from robustidps.updates import staging
from robustidps.updates.archive import unpack
from robustidps.updates.naming import Summary
from robustidps.updates.publishing import Publisher, RoleKeys, has_real_rows

PASSPHRASE = b"correct horse battery"


class Clock:
    """A publisher's clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture(scope="session")
def toy_versions(tmp_path_factory) -> dict[str, Path]:
    """Bundles of `toy`, family `linear`, by version; and `other`, of a family of its own."""
    folder = tmp_path_factory.mktemp("toys")
    made = {"1.0.0": toy_bundle(folder / "1.0.0").path}
    for key, changes in {
        "1.1.0": {"version": "1.1.0"},
        "1.10.0": {"version": "1.10.0"},
        "other": {"name": "other", "family": "another"},
        "edited": {"description": "another content under the same number"},
    }.items():
        made[key] = Path(shutil.copytree(made["1.0.0"], folder / key))
        reseal(made[key], **changes)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(tmp_path, clock) -> Publisher:
    """A publisher's folder in which nothing has begun."""
    return Publisher(tmp_path / "publisher", passphrase=lambda name, new: PASSPHRASE, clock=clock)


@pytest.fixture
def serve():
    """Serves a folder on loopback; its address."""
    with ExitStack() as servers:

        def start(folder: Path) -> str:
            folder.mkdir(parents=True, exist_ok=True)
            return servers.enter_context(served(folder))

        yield start


BUNDLE = "linear/toy/1.0.0/bundle.tar"
SECOND = "linear/toy/1.1.0/bundle.tar"


class Client:
    """An installation that was given a root once, out of band."""

    def __init__(self, url: str, folder: Path, root: Path) -> None:
        self.url, self.folder, self.root = url, folder, root.read_bytes()
        (folder / "metadata").mkdir(parents=True)
        (folder / "targets").mkdir()

    def updater(self) -> Updater:
        updater = Updater(
            metadata_dir=str(self.folder / "metadata"),
            metadata_base_url=f"{self.url}/metadata/",
            target_dir=str(self.folder / "targets"),
            target_base_url=f"{self.url}/targets/",
            config=UpdaterConfig(),
            bootstrap=self.root,
        )
        updater.refresh()
        return updater

    def sees(self, path: str) -> bool:
        return self.updater().get_targetinfo(path) is not None

    def download(self, path: str) -> Path:
        updater = self.updater()
        return Path(updater.download_target(updater.get_targetinfo(path)))


@pytest.fixture
def client(serve, tmp_path):
    """Makes a client of a publisher, pinned to the newest root."""
    numbers = iter(range(100))

    def make(publisher: Publisher) -> Client:
        url = serve(publisher.folder / "public")
        return Client(url, tmp_path / f"client{next(numbers)}", publisher.status().root)

    return make


@pytest.fixture(scope="module")
def begun(tmp_path_factory, toy_versions):
    """A folder with `toy` 1.0.0 published by two of three offline keys."""
    folder = tmp_path_factory.mktemp("begun") / "publisher"
    publisher = Publisher(folder, passphrase=lambda name, new: PASSPHRASE)
    publisher.init()
    publisher.add(toy_versions["1.0.0"], with_real_rows=True)
    return folder


@pytest.fixture
def published(begun, publisher):
    shutil.copytree(begun, publisher.folder)
    return publisher


def without(publisher: Publisher, folder: Path, *names: str) -> Publisher:
    """The publisher on a machine that has only the keys `names`."""
    keys = publisher.folder / "keys"
    folder.mkdir()
    for file in list(keys.glob("*.pem")):
        if file.stem not in names:
            file.rename(folder / file.name)
    return Publisher(publisher.folder, passphrase=lambda name, new: PASSPHRASE, clock=publisher.clock)


def with_only(publisher: Publisher, away: Path, *names: str) -> Publisher:
    """The same folder, where the keys `names` are and no others."""
    for file in away.glob("*.pem"):
        file.rename(publisher.folder / "keys" / file.name)
    away.rmdir()
    return without(publisher, away, *names)


# --- what is published


def test_a_client_with_the_first_root_gets_the_bundle_that_was_added(published, client, toy_versions, tmp_path):
    info = client(published).updater().get_targetinfo(BUNDLE)
    summary = Summary.read(info.custom, BUNDLE)
    unpack(client(published).download(BUNDLE), tmp_path / "bundle")
    assert bundle_digest(tmp_path / "bundle") == summary.digest == bundle_digest(toy_versions["1.0.0"])
    described = client(published).download("linear/toy/1.0.0/metadata.json")
    assert described.read_bytes() == (toy_versions["1.0.0"] / "metadata.json").read_bytes()


def test_families_are_roles_of_their_own_and_targets_holds_none(published, toy_versions):
    published.add(toy_versions["other"], with_real_rows=True)
    with published._repository() as repository:
        assert not repository.published["targets"].signed.targets
        assert repository.families() == ["linear", "another"]
        assert set(repository.published["another"].signed.targets) == {
            "another/other/1.0.0/bundle.tar",
            "another/other/1.0.0/metadata.json",
        }
        role = repository.published["targets"].signed.get_delegated_role("another")
        assert (role.paths, role.terminating, role.threshold) == (["another/*/*/*"], True, 2)


def test_versions_are_listed_by_their_meaning(published, toy_versions):
    published.add_many([toy_versions["1.10.0"], toy_versions["1.1.0"]], with_real_rows=True)
    assert published.status().versions == {"linear/toy": ["1.0.0", "1.1.0", "1.10.0"]}


def test_adding_the_same_bundle_again_changes_nothing(published, toy_versions):
    before = published.status()
    assert published.add(toy_versions["1.0.0"], with_real_rows=True).roles == ()
    assert [r.version for r in published.status().roles] == [r.version for r in before.roles]


def test_a_published_number_is_not_taken_by_another_content(published, toy_versions):
    with pytest.raises(VersionExistsError, match="another content"):
        published.add(toy_versions["edited"], with_real_rows=True)
    assert not [f for f in (published.folder / "staged" / "targets").rglob("*") if f.is_file()]


def test_what_is_no_bundle_is_not_published(published, toy_versions, tmp_path):
    copy = Path(shutil.copytree(toy_versions["1.1.0"], tmp_path / "copy"))
    (copy / "metadata.json").write_bytes((copy / "metadata.json").read_bytes().replace(b"\n", b"\n "))
    with pytest.raises(BundleError):
        published.add(copy, with_real_rows=True)
    assert published.status().versions == {"linear/toy": ["1.0.0"]}


def test_rows_that_may_be_of_real_traffic_are_published_only_when_asked_for(published, toy_versions, tmp_path, home):
    with pytest.raises(RefusedError, match="real traffic"):
        published.add(toy_versions["1.1.0"])
    facts = {"dataset": "simulated", "data_digest": "", "rows": 1}
    copy = Path(shutil.copytree(toy_versions["1.1.0"], tmp_path / "copy"))
    for dataset, real in {"nsl-kdd": True, "/srv/flows.parquet": True, "simulated": False}.items():
        reseal(copy, training=facts | {"dataset": dataset})
        assert has_real_rows(examine(copy).metadata) is real
    assert "linear" in published.add(copy).roles


def test_a_bundle_that_does_not_run_is_refused_before_anything_is_signed(published, toy_versions, tmp_path):
    copy = Path(shutil.copytree(toy_versions["1.1.0"], tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"no graph")
    reseal(copy)
    with pytest.raises(BundleError):
        published.add(copy, with_real_rows=True)
    assert not published.status().roles[-1].staged


# --- thresholds


def test_one_signature_of_two_publishes_nothing_and_the_second_all(published, client, toy_versions, tmp_path):
    pinned, away = client(published), tmp_path / "away"
    first = without(published, away, "offline-1", "snapshot", "timestamp")
    done = first.add(toy_versions["1.1.0"], with_real_rows=True)
    assert done.roles == () and set(done.waiting) == {"linear"}
    assert "1 more signature, of offline-2, offline-3" in done.waiting["linear"]
    assert not pinned.sees(SECOND)
    waiting = next(r for r in first.status().roles if r.role == "linear")
    assert waiting.staged == (f"adds {SECOND}",) and waiting.waits_for == done.waiting["linear"]
    second = with_only(published, away, "offline-3", "snapshot", "timestamp")
    signed, done = second.sign("linear")
    assert signed == {"linear": ["offline-3"]}
    assert "linear" in done.roles and not done.waiting
    assert pinned.sees(SECOND)


def test_what_is_signed_where_no_online_key_is_goes_out_with_the_next_refresh(
    published, client, toy_versions, tmp_path
):
    pinned, away = client(published), tmp_path / "away"
    offline = without(published, away, "offline-1", "offline-2")
    done = offline.add(toy_versions["1.1.0"], with_real_rows=True)
    assert done.roles == () and "refresh" in done.waiting["linear"]
    assert not pinned.sees(SECOND)
    done, _ = with_only(published, away, "snapshot", "timestamp").refresh()
    assert {"linear", "snapshot", "timestamp"} <= set(done.roles)
    assert pinned.sees(SECOND)


def test_a_first_root_waits_for_the_people_whose_public_keys_it_names(publisher, tmp_path):
    theirs = Publisher(tmp_path / "theirs", [tmp_path / "stick"], passphrase=lambda name, new: b"their own passphrase")
    theirs.make_key("bob")
    (publisher.folder / "keys").mkdir(parents=True)
    shutil.copy(tmp_path / "stick" / "bob.pub", publisher.folder / "keys")
    both = RoleKeys(("alice", "bob"), 2)
    done = publisher.init({"root": both, "targets": both})
    assert done.roles == () and not list((publisher.folder / "public").rglob("*.json"))
    secrets = {"bob": b"their own passphrase"}
    together = Publisher(
        publisher.folder, [tmp_path / "stick"], passphrase=lambda name, new: secrets.get(name, PASSPHRASE)
    )
    _, done = together.sign()
    assert set(done.roles) == {"root", "targets", "snapshot", "timestamp"}


def test_a_signature_by_a_key_that_is_none_of_the_role_does_not_count(published, toy_versions, tmp_path):
    away = tmp_path / "away"
    first = without(published, away, "offline-1")
    first.add(toy_versions["1.1.0"], with_real_rows=True)
    stranger = with_only(published, away, "snapshot", "timestamp")
    signed, done = stranger.sign("linear")
    assert signed == {"linear": []} and done.roles == ()


# --- keys change


@pytest.mark.parametrize(("old", "role"), [("offline-1", None), ("snapshot", None), ("timestamp", "timestamp")])
def test_a_client_pinned_before_a_key_was_rotated_follows(published, client, toy_versions, old, role):
    pinned = client(published)
    assert pinned.sees(BUNDLE)
    published.make_key("fresh")
    done = published.rotate_key(role, old, "fresh")
    assert "root" in done.roles and not done.waiting
    assert pinned.sees(BUNDLE)
    used = {key["name"] for r in published.status().roles for key in r.keys}
    assert old not in used and "fresh" in used
    published.add(toy_versions["1.1.0"], with_real_rows=True)
    assert pinned.sees(SECOND)
    assert client(published).sees(SECOND)


def test_root_keys_rotated_away_one_by_one_still_lead_from_the_first_root(published, client):
    pinned = client(published)
    for number in (1, 2, 3):
        published.make_key(f"fresh-{number}")
        published.rotate_key(None, f"offline-{number}", f"fresh-{number}")
    for number in (1, 2, 3):
        (published.folder / "keys" / f"offline-{number}.pem").unlink()
    published.refresh()
    assert pinned.sees(BUNDLE)


def test_a_family_gets_keys_of_its_own_and_they_are_rotated_without_touching_root(published, client, toy_versions):
    pinned = client(published)
    published.make_key("team")
    published.make_key("team-2")
    root = published.status().roles[0].version
    published.delegate("linear", ["team"])
    assert pinned.sees(BUNDLE)
    published.rotate_key("linear", "team", "team-2")
    assert pinned.sees(BUNDLE)
    linear = next(r for r in published.status().roles if r.role == "linear")
    assert [key["name"] for key in linear.keys] == ["team-2"] and linear.threshold == 1
    assert published.status().roles[0].version == root
    published.add(toy_versions["1.1.0"], with_real_rows=True)
    assert pinned.sees(SECOND)


def test_targets_wait_for_the_family_whose_keys_they_change(published, client, tmp_path):
    pinned, away = client(published), tmp_path / "away"
    published.make_key("team")
    offline = without(published, away, "offline-1", "offline-2", "snapshot", "timestamp")
    done = offline.delegate("linear", ["team"])
    assert done.roles == () and set(done.waiting) == {"targets", "linear"}
    assert pinned.sees(BUNDLE)
    _, done = with_only(published, away, "team", "snapshot", "timestamp").sign()
    assert {"targets", "linear"} <= set(done.roles)
    assert pinned.sees(BUNDLE)


def test_a_key_is_revoked_where_enough_others_remain(published, client):
    pinned = client(published)
    published.revoke_key("offline-3")
    assert pinned.sees(BUNDLE)
    with pytest.raises(ConfigError, match="would have 1 keys and takes 2 signatures"):
        published.revoke_key("offline-2")
    with pytest.raises(NotFoundError, match="no such key signs there"):
        published.revoke_key("offline-3")


def test_rotating_to_a_key_that_is_not_there_changes_nothing(published):
    before = published.status()
    with pytest.raises(NotFoundError):
        published.rotate_key(None, "offline-1", "nobody")
    with pytest.raises(NotFoundError):
        published.rotate_key("nothing", "offline-1", "snapshot")
    assert published.status().fingerprint == before.fingerprint


# --- revocation and time


def test_a_revoked_version_vanishes_from_metadata_and_folder(published, client, toy_versions):
    pinned = client(published)
    published.add(toy_versions["1.1.0"], with_real_rows=True)
    assert pinned.sees(BUNDLE)
    published.revoke("toy", "1.0.0")
    assert not pinned.sees(BUNDLE) and pinned.sees(SECOND)
    assert not (published.folder / "public" / "targets" / "linear" / "toy" / "1.0.0").exists()
    with pytest.raises(NotFoundError):
        published.revoke("toy", "1.0.0")


def test_a_revoked_number_is_not_given_again(published, client, toy_versions, tmp_path):
    published.add(toy_versions["1.1.0"], with_real_rows=True)
    published.revoke("toy", "1.0.0")
    published.delegate("linear", ["offline-1"], 1)  # signed anew, and from a folder that went to another machine
    moved = Publisher(
        Path(shutil.copytree(published.folder, tmp_path / "moved")), passphrase=lambda name, new: PASSPHRASE
    )
    for again in ("edited", "1.0.0"):
        with pytest.raises(VersionExistsError, match="was revoked") as refused:
            moved.add_many([toy_versions["1.10.0"], toy_versions[again]], with_real_rows=True)
        assert "higher number" in str(refused.value.remedy)
    reseal(Path(shutil.copytree(toy_versions["1.0.0"], tmp_path / "other")), family="other")
    moved.delegate("other", ["offline-1"], 1)
    with pytest.raises(VersionExistsError, match="was revoked"):
        moved.add(tmp_path / "other", with_real_rows=True)
    assert moved.status().versions == {"linear/toy": ["1.1.0"]}
    assert not [f for f in (moved.folder / "staged" / "targets").rglob("*") if f.is_file()]
    moved.add(toy_versions["1.10.0"], with_real_rows=True)
    assert client(moved).sees("linear/toy/1.10.0/bundle.tar") and client(moved).sees(SECOND)


def test_a_number_that_was_never_published_is_free_when_it_is_taken_back(published, toy_versions, tmp_path):
    few = without(published, tmp_path / "away", "offline-1", "snapshot", "timestamp")
    few.add(toy_versions["1.1.0"], with_real_rows=True)
    few.revoke("toy", "1.1.0")
    few.add(toy_versions["1.1.0"], with_real_rows=True)
    with_only(few, tmp_path / "away", "offline-1", "offline-2", "snapshot", "timestamp").sign()
    assert published.status().versions == {"linear/toy": ["1.0.0", "1.1.0"]}


def numbers(publisher: Publisher) -> dict[str, list[int]]:
    """Which numbers of each role's metadata lie in the published folder."""
    found: dict[str, list[int]] = {}
    for file in (publisher.folder / "public" / "metadata").glob("[0-9]*.json"):
        number, role = file.name.removesuffix(".json").split(".", 1)
        found.setdefault(role, []).append(int(number))
    return {role: sorted(those) for role, those in found.items()}


def test_superseded_metadata_goes_when_no_client_can_need_it_and_roots_stay(published, client, toy_versions, clock):
    pinned = client(published)  # by the first root, after which come more
    published.make_key("fresh")
    published.rotate_key("timestamp", "timestamp", "fresh")
    metadata = published.folder / "public" / "metadata"
    early = (metadata / "timestamp.json").read_bytes()
    named = Metadata.from_bytes(early).signed.snapshot_meta.version
    published.add(toy_versions["1.1.0"], with_real_rows=True)
    before = numbers(published)
    assert len(before["linear"]) == 2 and len(before["root"]) == 2

    clock.ahead = timedelta(days=13)  # the earlier snapshots held for 7 days, and a week more is nobody's
    published.refresh()
    assert numbers(published)["linear"] == before["linear"]
    late = (metadata / "timestamp.json").read_bytes()
    (metadata / "timestamp.json").write_bytes(early)  # as from a cache
    assert pinned.sees(BUNDLE) and f"{named}.snapshot.json" in {f.name for f in metadata.iterdir()}
    (metadata / "timestamp.json").write_bytes(late)

    clock.ahead = timedelta(days=15)
    (metadata / "1.snapshot.json").write_bytes(b"{")  # whatever lies there
    (metadata / "99.linear.json").write_bytes(b"{}")  # of a publication that was cut short
    published.refresh()
    after = numbers(published)
    assert after["root"] == before["root"]
    assert after["linear"] == [before["linear"][-1], 99]
    assert after["targets"] == [before["targets"][-1]]
    assert after["snapshot"] == [max(before["snapshot"]) + 1]
    clock.ahead = timedelta()
    assert pinned.sees(SECOND) and client(published).sees(BUNDLE)
    published.add(toy_versions["1.10.0"], with_real_rows=True)
    assert client(published).sees("linear/toy/1.10.0/bundle.tar")


def test_a_refresh_in_time_keeps_clients_going_and_renews_what_is_due(published, client, clock):
    pinned = client(published)
    assert pinned.sees(BUNDLE)
    days = {r.role: r.days for r in published.status().roles}
    clock.ahead += timedelta(days=80)
    done, late = published.refresh()
    assert set(done.roles) == {"linear", "snapshot", "targets", "timestamp"} and not late
    after = {r.role: r.days for r in published.status().roles}
    assert after["targets"] > 89 and after["timestamp"] > 0.9 and after["root"] < days["root"]
    assert pinned.sees(BUNDLE)


def test_a_refresh_long_before_anything_is_due_renews_the_timestamp_alone(published):
    done, late = published.refresh()
    assert done.roles == ("timestamp",) and not late


def test_a_refresh_without_the_offline_keys_says_what_is_due(published, clock, tmp_path):
    online = without(published, tmp_path / "away", "snapshot", "timestamp")
    clock.ahead += timedelta(days=80)
    done, late = online.refresh()
    assert set(done.roles) == {"snapshot", "timestamp"}
    assert set(late) == {"targets", "linear"}


def test_without_a_refresh_clients_stop_trusting(publisher, client, toy_versions, clock):
    clock.ahead = -timedelta(days=2)
    publisher.init()
    with pytest.raises(ExpiredMetadataError):
        client(publisher).updater()
    clock.ahead = timedelta()
    publisher.refresh()
    assert client(publisher).updater()


def test_a_refresh_where_the_online_keys_are_not_is_refused(published, tmp_path):
    offline = without(published, tmp_path / "away", "offline-1", "offline-2")
    with pytest.raises(NotFoundError, match="key of snapshot isn't here"):
        offline.refresh()


def test_expiries_are_chosen_at_the_beginning(publisher):
    publisher.init({"root": RoleKeys(("a",)), "targets": RoleKeys(("a",))}, {"timestamp": 3})
    days = {r.role: round(r.days) for r in publisher.status().roles}
    assert days == {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 3}
    with pytest.raises(VersionExistsError):
        publisher.init()


@pytest.mark.parametrize(
    ("roles", "days"),
    [({"root": RoleKeys(("a",), 2)}, {}), ({"roots": RoleKeys(("a",))}, {}), ({}, {"root": 0})],
)
def test_what_can_not_be_begun_leaves_nothing(publisher, roles, days):
    with pytest.raises(ConfigError):
        publisher.init(roles, days)
    assert not publisher.folder.exists()


# --- accidents


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "at", ["publish.staged", "publish.targets", "publish.metadata", "publish.timestamp", "publish.root"]
)
def test_killed_between_two_steps_clients_see_the_old_or_the_new_and_the_next_command_finishes(
    published, client, toy_versions, monkeypatch, at
):
    pinned = client(published)
    published.make_key("fresh")

    def kill(name: str) -> None:
        if name == at:
            raise Killed

    monkeypatch.setattr(steps, "hook", kill)
    if at == "publish.root":
        with pytest.raises(Killed):
            published.rotate_key(None, "offline-1", "fresh")
        assert pinned.sees(BUNDLE)
    else:
        with pytest.raises(Killed):
            published.rotate_key(None, "timestamp", "fresh")
        assert pinned.sees(BUNDLE)
        monkeypatch.undo()
        published.refresh()
        monkeypatch.setattr(steps, "hook", kill)
        with pytest.raises(Killed):
            published.add(toy_versions["1.1.0"], with_real_rows=True)
        assert pinned.sees(SECOND) is (at == "publish.timestamp")
        assert pinned.sees(BUNDLE)
    monkeypatch.undo()
    published.refresh()
    status = published.status()
    assert not any(r.staged for r in status.roles)
    assert any(key["name"] == "fresh" for r in status.roles for key in r.keys)
    assert pinned.sees(BUNDLE) and pinned.sees(SECOND) is (at != "publish.root")


def test_a_lost_timestamp_key_is_replaced_and_a_kill_between_root_and_timestamp_is_mended(
    published, client, monkeypatch
):
    pinned = client(published)
    published.make_key("fresh")
    (published.folder / "keys" / "timestamp.pem").unlink()

    def kill(name: str) -> None:
        if name == "publish.root":
            raise Killed

    monkeypatch.setattr(steps, "hook", kill)
    with pytest.raises(Killed):
        published.rotate_key("timestamp", "timestamp", "fresh")
    with pytest.raises(UnsignedMetadataError):  # the old timestamp's key no longer counts; the client keeps what it has
        pinned.updater()
    monkeypatch.undo()
    published.refresh()
    assert pinned.sees(BUNDLE)


def test_a_full_disk_is_said_and_leaves_what_was_published(published, client, toy_versions, monkeypatch):
    pinned = client(published)
    real = staging.write_atomically

    def full(path: Path, content: bytes, **how) -> None:
        if path.name == "timestamp.json":
            with writable(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, content, **how)

    monkeypatch.setattr(staging, "write_atomically", full)
    with pytest.raises(StorageError, match="disk is full"):
        published.add(toy_versions["1.1.0"], with_real_rows=True)
    assert pinned.sees(BUNDLE) and not pinned.sees(SECOND)
    monkeypatch.undo()
    published.refresh()
    assert pinned.sees(SECOND)


def test_two_publishers_at_once_are_kept_apart(published):
    with FileLock(published.folder / ".lock"), pytest.raises(ConflictError, match="another publisher"):
        published.refresh()


def test_metadata_that_somebody_edited_is_not_signed_anew(published, toy_versions):
    file = published.folder / "public" / "metadata" / "1.linear.json"
    file.write_bytes(file.read_bytes().replace(b'"length":', b'"length":1', 1))
    with pytest.raises(IntegrityError, match="isn't signed by the keys"):
        published.add(toy_versions["1.1.0"], with_real_rows=True)


def test_a_root_that_somebody_put_in_the_place_of_the_newest_is_not_built_upon(published, tmp_path):
    published.rotate_key(None, "offline-1", published.make_key("fresh") and "fresh")
    thief = Publisher(tmp_path / "thief", passphrase=lambda name, new: PASSPHRASE)
    thief.make_key("thief")
    file = published.status().root
    forged = Metadata.from_file(str(file))
    forged.signed.add_key(thief._key("thief"), "root")
    forged.signed.roles["root"].threshold = 1
    forged.sign(thief.ring.signer("thief"))
    forged.to_file(str(file))
    with pytest.raises(IntegrityError, match="isn't signed by the keys"):
        published.refresh()


def test_a_signature_that_does_not_fit_is_made_anew(published, toy_versions, tmp_path):
    away = tmp_path / "away"
    without(published, away, "offline-1", "snapshot", "timestamp").add(toy_versions["1.1.0"], with_real_rows=True)
    file = published.folder / "staged" / "metadata" / "linear.json"
    content = json.loads(file.read_bytes())
    content["signatures"][0]["sig"] = "00" * 64
    file.write_text(json.dumps(content))
    _, done = with_only(published, away, "offline-1", "offline-2", "snapshot", "timestamp").sign()
    assert "linear" in done.roles


def test_a_staged_bundle_that_somebody_exchanged_is_not_published(published, toy_versions, tmp_path):
    away = tmp_path / "away"
    without(published, away, "offline-1").add(toy_versions["1.1.0"], with_real_rows=True)
    staged = next((published.folder / "staged" / "targets").rglob("*.bundle.tar"))
    staged.write_bytes(staged.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="changed since it was signed"):
        with_only(published, away, "offline-2", "snapshot", "timestamp").sign()


def test_a_wrong_passphrase_stops_before_anything_is_written(published, toy_versions):
    wrong = Publisher(published.folder, passphrase=lambda name, new: b"another passphrase")
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        wrong.add(toy_versions["1.1.0"], with_real_rows=True)
    assert not any(r.staged for r in published.status().roles)


# --- the command line


@pytest.fixture
def robustidps(tmp_path, monkeypatch):
    """Runs a command in an installation of its own; what it printed as JSON, or its text."""
    monkeypatch.setenv("ROBUSTIDPS_PUBLISH_PASSPHRASE", PASSPHRASE.decode())
    monkeypatch.setattr(_app, "given", {})
    configure_before = robustidps_settings._current

    def run(*words: str, **how):
        result = CliRunner().invoke(cli.app, ["--home", str(tmp_path / "home"), *words], **how)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    yield run
    robustidps_settings._current = configure_before


def test_from_init_to_a_client_by_commands_alone(robustidps, toy_versions, tmp_path, serve):
    begun = robustidps("publish", "init", "--expires", "timestamp=2", "--json")
    folder = tmp_path / "home" / "publisher"
    root = folder / "public" / "metadata" / "1.root.json"
    assert begun["root"] == str(root) and begun["fingerprint"] == hashlib.sha256(root.read_bytes()).hexdigest()
    pinned = Client(serve(folder / "public"), tmp_path / "pinned", root)
    robustidps("publish", "add", str(toy_versions["1.0.0"]), str(toy_versions["1.1.0"]), "--with-real-rows")
    assert pinned.sees(BUNDLE) and pinned.sees(SECOND)
    robustidps("publish", "revoke", "toy", "1.0.0")
    robustidps("publish", "key", "fresh")
    robustidps("publish", "rotate-key", "offline-2", "fresh")
    robustidps("publish", "delegate", "linear", "--key", "fresh")
    robustidps("publish", "refresh")
    assert not pinned.sees(BUNDLE) and pinned.sees(SECOND)
    status = robustidps("publish", "status", "--json")
    assert status["versions"] == {"linear/toy": ["1.1.0"]}
    shown = robustidps("publish", "status")
    assert "2 of offline-1" in shown and "linear/toy" in shown
    assert PASSPHRASE.decode() not in shown + json.dumps(status)


def test_signing_shows_what_is_signed_and_asks(robustidps, toy_versions, tmp_path):
    robustidps("publish", "init")
    keys, stick = tmp_path / "home" / "publisher" / "keys", tmp_path / "stick"
    stick.mkdir()
    for name in ("offline-2", "offline-3"):
        (keys / f"{name}.pem").rename(stick / f"{name}.pem")
    shown = robustidps("publish", "add", str(toy_versions["1.0.0"]), "--with-real-rows")
    assert "linear waits for" in shown and "offline-2, offline-3" in shown
    with pytest.raises(AssertionError, match="Aborted"):
        robustidps("publish", "sign", "--keys", str(stick), input="n\n")
    shown = robustidps("publish", "sign", "--keys", str(stick), input="y\n")
    assert f"adds {BUNDLE}" in shown and "by offline-2" in shown and "published" in shown


def test_a_registered_version_is_published_by_name(robustidps, toy_versions, tmp_path, monkeypatch):
    registry = memory_registry(tmp_path / "home")
    registry.register_model("toy", "1.0.0", toy_versions["1.0.0"])
    monkeypatch.setattr(cli_publishing, "open_registry", lambda: registry)
    robustidps("publish", "init", "--offline-key", "mine")
    robustidps("publish", "add", "--from-registry", "toy", "1.0.0", "--with-real-rows")
    assert robustidps("publish", "status", "--json")["versions"] == {"linear/toy": ["1.0.0"]}


@pytest.mark.parametrize(
    "words",
    [
        ["add"],
        ["revoke", "toy"],
        ["revoke", "toy", "1.0.0", "--key", "x"],
        ["init", "--role", "root"],
        ["init", "--expires", "root=soon"],
        ["init", "--offline-key", "Not A Name"],
        ["init", "--threshold", "4"],
        ["status"],
    ],
)
def test_bad_input_is_an_error_in_words_and_begins_nothing(robustidps, tmp_path, words):
    with pytest.raises(InputError):
        robustidps("publish", *words)
    assert not (tmp_path / "home" / "publisher" / "publisher.json").exists()
