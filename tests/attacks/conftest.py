"""An installation that an attacker's remote registry is let loose on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustidps.testing.forge import files_of, raw_archive, reseal
from robustidps.testing.linear import toy_bundle
from robustidps.testing.remote import MemoryRemote
from robustidps.updates.quarantine import admit

PASSING = ("lock", "time.json", "partial", "quarantine")  # below HOME/updates: what an attempt may leave


class Site:
    """A home with a pinned root. `take` is an update as far as the bundle is let out of the quarantine."""

    def __init__(self, folder: Path, remote: MemoryRemote, **options) -> None:
        self.folder, self.remote = folder, remote
        (folder / "home").mkdir(parents=True)
        self.registry = remote.registry(folder / "home", **options)
        self.updates = folder / "home" / "updates"

    @property
    def fetcher(self):
        return self.registry.fetcher

    def take(self, version: str | None = None, **options) -> str:
        """Everything an update does before a version is registered; the digest of what was admitted."""
        offers = self.registry.offers()
        offer = offers[-1] if version is None else next(o for o in offers if o.version == version)
        metadata = self.registry.metadata(offer)
        archive = self.registry.download(offer, self.updates / "quarantine")
        with admit(archive, offer, self.updates / "quarantine", metadata=metadata, **options) as admitted:
            return admitted.digest

    def held(self) -> dict[str, bytes]:
        """Every file of the installation and beside it, but for what attempts may leave."""
        files = files_of(self.folder)
        passing = tuple(f"home/updates/{name}" for name in PASSING)
        return {name: data for name, data in files.items() if not name.startswith(passing)}

    def refuses(self, kind: type[Exception], match: str, action=None) -> Exception:
        """The refusal, after which trusted metadata, and all that lies outside the quarantine, is as before."""
        before = self.held()
        with pytest.raises(kind, match=match) as caught:
            (action or self.take)()
        assert type(caught.value) is kind
        assert self.held() == before
        quarantine = self.updates / "quarantine"
        left = [p.name for p in quarantine.iterdir()] if quarantine.exists() else []
        assert set(left) <= {"bundle.tar"}  # the download itself; nothing of what was in it
        return caught.value


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A bundle as it should be: toy 1.0.0, of family `linear`."""
    return toy_bundle(tmp_path_factory.mktemp("original") / "b", rows=100)


@pytest.fixture
def remote(original) -> MemoryRemote:
    """A repository in which `original` is published."""
    return MemoryRemote.offering(original)


@pytest.fixture
def site(tmp_path, remote) -> Site:
    return Site(tmp_path / "site", remote)


class Forger:
    """A publisher who has a family's key and no scruples."""

    def __init__(self, folder: Path, original, remote: MemoryRemote) -> None:
        self.original, self.remote = original, remote
        self.folder = Path(shutil.copytree(original.path, folder))

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(data)

    def publish(self, *, version: str = "2.0.0", claims: dict | None = None, **metadata) -> None:
        """The folder as it is now, with a digest that fits; `claims` go into the summary."""
        reseal(self.folder, version=version, **metadata)
        self.publish_archive(raw_archive(files_of(self.folder)), version=version, claims=claims)

    def publish_archive(self, archive: bytes, *, version: str = "2.0.0", claims: dict | None = None) -> None:
        text = (self.folder / "metadata.json").read_bytes()
        content = json.loads(text)
        if content["version"] != version:
            reseal(self.folder, version=version)
            return self.publish_archive(archive, version=version, claims=claims)
        custom = {"digest": content["checksum"], "schema_digest": content["schema_digest"], "metrics": {}}
        custom |= {"created_at": 1_767_700_000} | (claims or {})
        self.remote.add_archive("linear", "toy", version, archive, custom, text)
        self.remote.publish()


@pytest.fixture
def forger(tmp_path, original, remote) -> Forger:
    return Forger(tmp_path / "forged", original, remote)
