"""The client of signed updates, over HTTP from real web servers on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from robustidps.errors import ConfigError, ConflictError, NotFoundError, RemoteUnavailableError, UpdateError
from robustidps.testing.linear import toy_bundle
from robustidps.testing.remote import MemoryRemote
from robustidps.updates.client import RemoteRegistry
from robustidps.updates.fetching import HttpFetcher, Limits
from robustidps.updates.quarantine import admit
from tests.updates.conftest import Server

QUICK = Limits(tries=2, pause_s=0.01, connect_s=2, silence_s=2, headers_s=2)
DAY = 86_400


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def registry_of(home, remote, *mirrors, **options) -> RemoteRegistry:
    registry = RemoteRegistry(home, mirrors, fetcher=HttpFetcher(limits=QUICK), **options)
    registry.trust(remote.first_root)
    return registry


@pytest.fixture
def second(tmp_path):
    (tmp_path / "www2").mkdir()
    server = Server(tmp_path / "www2")
    yield server
    server.stop()


@pytest.fixture
def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- from check to bundle


def test_a_version_goes_from_a_web_server_into_the_quarantine(home, server, remote, bundle, tmp_path):
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    (offer,) = registry.offers({"toy": "linear"})
    assert (offer.name, offer.version, offer.family) == ("toy", "1.0.0", "linear")
    assert (offer.digest, offer.schema_digest) == (bundle.digest, bundle.schema.digest)
    assert offer.keys == (remote.keys["linear"][0].public_key.keyid,)
    assert (offer.metadata_version, offer.root_version, offer.mirror) == (1, 1, server.url)
    metadata = registry.metadata(offer)
    assert metadata == bundle.metadata
    archive = registry.download(offer, tmp_path / "somewhere")
    assert archive.stat().st_size == offer.size
    quarantine = home / "updates" / "quarantine"
    with admit(archive, offer, quarantine, metadata=metadata) as admitted:
        assert admitted.digest == bundle.digest and admitted.path.is_relative_to(quarantine)
        assert (admitted.path / "native" / "linear.json").is_file()
    assert not list(quarantine.iterdir())
    assert not list((home / "updates" / "partial").iterdir())


def test_a_second_check_loads_two_small_files(home, server, remote):
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    first = registry.offers()
    server.asked.clear()
    assert registry_of(home, remote, server.url).offers() == first
    assert [path for path, _ in server.asked] == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_only_the_families_asked_about_are_loaded(home, server, remote, bundle):
    remote.add_archive("spiking", "spiking", "1.0.0", b"x", _custom(bundle), b"{}")
    remote.publish()
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    assert registry.offers({"spiking": "spiking", "gone": "none"})[0].family == "spiking"
    assert "/metadata/1.linear.json" not in [path for path, _ in server.asked]
    assert registry.offers({"toy": "spiking"}) == []
    assert {o.family for o in registry.offers()} == {"linear", "spiking"}


def _custom(bundle):
    from robustidps.updates.naming import summary_of

    return summary_of(bundle.metadata).as_custom()


def test_figures_of_the_summary_are_numbers_again(home, tmp_path, bundle):
    remote = MemoryRemote()
    remote.add(bundle, metrics={"accuracy": "0.985", "macro_f1": "0.9"})
    remote.publish()
    (offer,) = remote.registry(home).offers()
    assert offer.metrics == {"accuracy": 0.985, "macro_f1": 0.9}


def test_a_thousand_versions_are_a_check_of_less_than_a_megabyte(home, bundle):
    remote = MemoryRemote()
    for k in range(1000):
        remote.add_archive("linear", "toy", f"1.{k}.0", b"x%d" % k, _custom(bundle), b"{}")
    remote.publish()
    registry = remote.registry(home)
    offers = registry.offers({"toy": "linear"})
    assert [o.version for o in offers] == [f"1.{k}.0" for k in range(1000)]
    assert registry.fetcher.served < 1_000_000


# --- resuming


def test_a_download_that_was_killed_goes_on_where_it_was(home, server, remote, bundle, tmp_path):
    """kill -9 of a whole client; the partial is used, the bytes served show it."""
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    (offer,) = registry.offers()
    half = offer.size // 2

    def stall(handler):
        if not handler.path.endswith("bundle.tar"):
            return False
        data = (server.folder / handler.path.lstrip("/")).read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:half])
        time.sleep(20)
        return True

    server.misbehave = stall
    program = (
        "import sys; from pathlib import Path; from robustidps.updates.client import RemoteRegistry\n"
        "r = RemoteRegistry(Path(sys.argv[1]), [sys.argv[2]])\n"
        "r.download(r.offers()[0], Path(sys.argv[3]))"
    )
    part = home / "updates" / "partial" / offer.sha256
    with subprocess.Popen([sys.executable, "-c", program, str(home), server.url, str(tmp_path / "x")]) as process:
        end = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size == half):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    server.misbehave = lambda handler: False
    server.served = 0
    archive = registry.download(offer, tmp_path / "x")
    assert server.served == offer.size - half
    assert archive.stat().st_size == offer.size


def test_another_mirror_goes_on_where_the_first_broke_off(home, server, second, remote, tmp_path):
    remote.write(server.folder)
    remote.write(second.folder)
    registry = registry_of(home, remote, server.url, second.url)
    (offer,) = registry.offers()
    broken = []

    def break_off(handler):
        if not handler.path.endswith("bundle.tar"):
            return False
        if broken:
            return handler.send(500) or True
        broken.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", str(offer.size))
        handler.end_headers()
        handler.wfile.write((server.folder / handler.path.lstrip("/")).read_bytes()[:1000])
        return True

    server.misbehave = break_off
    registry.download(offer, tmp_path / "x")
    assert second.asked[-1][1] == "bytes=1000-" and second.served == offer.size - 1000


def test_what_one_mirror_poisoned_another_makes_good(home, server, second, remote, tmp_path):
    remote.write(server.folder)
    remote.write(second.folder)
    registry = registry_of(home, remote, server.url, second.url)
    (offer,) = registry.offers()
    place = next(server.folder.rglob("*bundle.tar"))
    place.write_bytes(b"x" * (offer.size - 10))
    registry.download(offer, tmp_path / "x")
    assert (tmp_path / "x" / "bundle.tar").read_bytes() == next(second.folder.rglob("*bundle.tar")).read_bytes()


# --- mirrors in turn


@pytest.mark.parametrize("trouble", ["down", "503", "404", "garbage", "expired", "tampered", "hangs up"])
def test_a_mirror_in_trouble_is_left_for_the_next(home, server, second, remote, nowhere, trouble):
    remote.write(second.folder)
    first = nowhere if trouble == "down" else server.url
    if trouble == "expired":
        old = dict(remote.files)
        remote.signed("timestamp").expires = remote.in_days(-1)
        remote.signed("timestamp").version = 99
        remote.store("timestamp")
        remote.write(server.folder)
        remote.files = old
    elif trouble == "tampered":
        remote.write(server.folder)
        file = server.folder / "metadata" / "1.linear.json"
        file.write_bytes(file.read_bytes().replace(b"1.0.0", b"9.0.0"))
    elif trouble != "404":
        answers = {
            "503": lambda handler: handler.send(503) or True,
            "garbage": lambda handler: handler.send(200, b"\x00garbage") or True,
            "hangs up": lambda handler: True,
        }
        server.misbehave = answers.get(trouble, server.misbehave)
    registry = registry_of(home, remote, first, second.url)
    (offer,) = registry.offers()
    assert offer.mirror == second.url
    assert (home / "updates" / "trusted" / "timestamp.json").read_bytes() == remote.files["metadata/timestamp.json"]


def test_where_no_mirror_answers_it_may_work_later(home, remote, nowhere, server):
    registry = registry_of(home, remote, nowhere, server.url)
    server.misbehave = lambda handler: handler.send(503) or True
    with pytest.raises(RemoteUnavailableError) as caught:
        registry.offers()
    assert nowhere in caught.value.problem and "503" in caught.value.problem and caught.value.exit_code == 6


def test_where_one_answers_wrongly_it_is_said_what_each_did(home, remote, nowhere, server):
    server.misbehave = lambda handler: handler.send(200, b"garbage") or True
    registry = registry_of(home, remote, nowhere, server.url)
    with pytest.raises(UpdateError) as caught:
        registry.offers()
    assert "refused" in caught.value.problem and "root.json: isn't TUF metadata" in caught.value.problem
    assert caught.value.exit_code == 5


def test_a_mirror_that_fails_half_way_leaves_nothing_behind(home, remote, server):
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    registry.offers()
    trusted = home / "updates" / "trusted"
    before = {p.name: p.read_bytes() for p in trusted.iterdir() if p.is_file()}
    remote.publish()
    remote.write(server.folder)
    (server.folder / "metadata" / "2.linear.json").unlink()
    with pytest.raises(RemoteUnavailableError, match=r"linear\.json"):
        registry.offers()
    assert {p.name: p.read_bytes() for p in trusted.iterdir() if p.is_file()} == before
    assert not list((home / "updates").glob(".checking-*"))
    remote.write(server.folder)
    assert registry.offers()[0].metadata_version == 2


def test_passwords_in_a_mirrors_address_are_not_told(home, remote):
    registry = RemoteRegistry(home, ["http://user:secret@127.0.0.1:1/x"], fetcher=HttpFetcher(limits=QUICK))
    registry.trust(remote.first_root)
    with pytest.raises(RemoteUnavailableError) as caught:
        registry.offers()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "models.example.org", "file:///srv", "https://", "http://x/?a=b", "http://[::1"]
)
def test_an_address_that_is_none_is_refused(home, url):
    with pytest.raises(ConfigError, match="no address of a mirror"):
        RemoteRegistry(home, [url])


def test_no_mirror_at_all_is_said(home, remote):
    registry = RemoteRegistry(home, [])
    registry.trust(remote.first_root)
    with pytest.raises(ConfigError, match="no address"):
        registry.offers()


# --- the pinned root


def test_without_a_pinned_root_nothing_is_asked(home, server):
    registry = RemoteRegistry(home, [server.url])
    assert not registry.pinned
    with pytest.raises(NotFoundError, match="no root is pinned"):
        registry.offers()
    assert not server.asked


def test_a_root_is_pinned_once_and_replaced_on_purpose_alone(home, server, remote, bundle):
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    registry.offers()
    assert registry.pinned
    done = subprocess.run(["sha256sum", home / "updates" / "root.json"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == registry.fingerprint() == registry.trust(remote.first_root)
    other = MemoryRemote.offering(bundle)
    with pytest.raises(ConflictError, match=registry.fingerprint()):
        registry.trust(other.first_root)
    registry.trust(other.first_root, replace=True)
    assert not (home / "updates" / "trusted").exists()
    shutil.rmtree(server.folder)
    other.write(server.folder)
    assert len(registry.offers()) == 1


@pytest.mark.parametrize("change", [b"garbage", b"{}", None, "unsigned", "a timestamp", b"x" * 600_000])
def test_what_is_no_root_is_not_pinned(home, remote, change):
    data = change
    if change is None:
        data = remote.first_root.replace(b'"version":1', b'"version":7')
    elif change == "unsigned":
        data = json.dumps(json.loads(remote.first_root) | {"signatures": []}).encode()
    elif change == "a timestamp":
        data = remote.files["metadata/timestamp.json"]
    registry = RemoteRegistry(home, [])
    with pytest.raises(UpdateError, match=r"root.json"):
        registry.trust(data)
    assert not registry.pinned


def test_root_keys_can_be_rotated_from_the_pinned_root_on(home, server, remote):
    remote.write(server.folder)
    registry = registry_of(home, remote, server.url)
    registry.offers()
    for _ in range(3):
        remote.rotate("root")
    remote.publish()
    remote.write(server.folder)
    assert registry.offers()[0].root_version == 4
    server.asked.clear()
    assert registry_of(home, remote, server.url).offers()[0].root_version == 4
    assert server.asked[0][0] == "/metadata/5.root.json"  # those between are kept


# --- time


def test_a_clock_that_was_wrong_once_shuts_nothing_out_for_longer_than_a_timestamp_lives(home, remote):
    clock = began = time.time()
    registry = remote.registry(home, clock=lambda: clock)
    registry.offers()
    clock = began + 4000 * DAY
    with pytest.raises(UpdateError, match="expired"):
        registry.offers()
    clock = began
    with pytest.raises(UpdateError, match="expired") as caught:
        registry.offers()
    assert "--forget-time" in caught.value.remedy
    remote.days = 8  # what the publisher refreshes next lives longer than what was refused
    remote.publish_snapshot()
    assert registry.offers()


def test_the_known_time_can_be_forgotten(home, remote):
    clock = began = time.time()
    registry = remote.registry(home, clock=lambda: clock)
    clock = began + 8 * DAY
    with pytest.raises(UpdateError):
        registry.offers()
    clock = began
    registry.forget_time()
    assert registry.offers()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"seconds": "soon"}', b'{"seconds": NaN}', b'{"seconds": 1e300}', b"[]"]
)
def test_a_known_time_that_cannot_be_read_is_not_taken_for_none(home, remote, content):
    registry = remote.registry(home)
    (home / "updates" / "time.json").write_bytes(content)
    with pytest.raises(UpdateError, match="last trusted time can't be read"):
        registry.offers()
    registry.forget_time()
    assert registry.offers()


# --- what was left behind


def test_what_killed_processes_left_in_the_quarantine_is_removed_by_the_next(home, remote, tmp_path):
    registry = remote.registry(home)
    (offer,) = registry.offers()
    archive = registry.download(offer, tmp_path / "x")
    quarantine = home / "updates" / "quarantine"
    (quarantine / "0123456789abcdef" / "bundle").mkdir(parents=True)
    with admit(archive, offer, quarantine) as held:
        with admit(archive, offer, quarantine) as other:
            assert held.path.is_dir() and other.path != held.path
        assert [p.name for p in quarantine.iterdir()] == [held.path.parent.name]


def test_partials_that_nobody_went_on_with_are_removed(home, remote, tmp_path):
    registry = remote.registry(home)
    (offer,) = registry.offers()
    old = home / "updates" / "partial" / ("0" * 64)
    old.parent.mkdir()
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    registry.download(offer, tmp_path / "x")
    assert not old.exists()


def test_a_refused_archive_leaves_an_empty_quarantine(home, remote, tmp_path):
    other = MemoryRemote()
    other.add(toy_bundle(tmp_path / "b", seed=3, rows=100), digest="0" * 64)
    other.publish()
    registry = other.registry(home)
    (offer,) = registry.offers()
    archive = registry.download(offer, tmp_path / "x")
    with pytest.raises(Exception, match="is another bundle"):
        admit(archive, offer, home / "updates" / "quarantine")
    assert not list((home / "updates" / "quarantine").iterdir())
