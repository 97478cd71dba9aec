"""A remote registry in memory, in which a test can change anything: versions, signatures, hashes, expiry, keys, roles.

After the RepositorySimulator of python-tuf's own tests. `MemoryRemote` holds the roles as objects (`remote.roles`) and
what a web server would serve as bytes (`remote.files`, by path: `metadata/timestamp.json`, `targets/..`).

    remote = MemoryRemote.offering(bundle)
    remote.add(another)                   # a version of its family: two targets, the family's role
    remote.publish()                      # all roles one version on, signed, in remote.files
    registry = remote.registry(home)      # an installation that trusts its root

`MemoryFetcher` serves `remote.files` to `RemoteRegistry` in place of a network; `answers` puts something else in place
of a path. `write(folder)` lets a real web server serve the same.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from robustidps.bundle import Bundle
from robustidps.updates.archive import pack
from robustidps.updates.client import RemoteRegistry
from robustidps.updates.fetching import ResumingFetcher
from robustidps.updates.naming import BUNDLE, METADATA, family_of, role_paths, summary_of, target

__all__ = ["URL", "MemoryFetcher", "MemoryRemote"]

URL = "http://remote.test"
_COMPACT = JSONSerializer(compact=True)


class MemoryFetcher(ResumingFetcher):
    """Serves a `MemoryRemote`. asked: the paths that were asked for; served: how many bytes went out.

    answers: path to what comes instead of the file: bytes, an exception, or a function that gives an iterator.
    """

    pause_s = 0.0

    def __init__(self, remote: MemoryRemote) -> None:
        self.remote = remote
        self.asked: list[str] = []
        self.served = 0
        self.answers: dict[str, bytes | Exception | Callable[[], Iterator[bytes]]] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.partition("://")[2].partition("/")[2]
        self.asked.append(path)
        answer = self.answers.get(path, self.remote.files.get(path))
        if answer is None:
            raise DownloadHTTPError("answered 404", 404)
        if isinstance(answer, Exception):
            raise answer
        return self._counted(iter([answer]) if isinstance(answer, bytes) else answer())

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.served += len(chunk)
            yield chunk


class MemoryRemote:
    """A whole repository, with its keys.

    roles: role to its metadata as it is being edited; `publish` and `store` make bytes of it.
    keys: role to the keys that sign it.
    threshold: of root and top-level targets.
    """

    def __init__(self, *, threshold: int = 1, days: int = 7) -> None:
        self.files: dict[str, bytes] = {}
        self.keys: dict[str, list[CryptoSigner]] = {}
        self.days = days
        root = Root(expires=self.in_days(365), consistent_snapshot=True)
        targets = Targets(expires=self.in_days(90), delegations=Delegations({}, {}))
        self.roles: dict[str, Metadata[Any]] = {
            "root": Metadata(root),
            "targets": Metadata(targets),
            "snapshot": Metadata(Snapshot(expires=self.in_days(days))),
            "timestamp": Metadata(Timestamp(expires=self.in_days(days))),
        }
        for role in ("root", "targets", "snapshot", "timestamp"):
            count = threshold if role in ("root", "targets") else 1
            self.keys[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
            for key in self.keys[role]:
                root.add_key(key.public_key, role)
            root.roles[role].threshold = count
        self._stored: set[str] = set()
        self.store("root")
        self.first_root = self.files["metadata/1.root.json"]

    @staticmethod
    def in_days(days: float) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)

    def signed(self, role: str) -> Any:
        """The role's content, to be changed."""
        return self.roles[role].signed

    @property
    def families(self) -> list[str]:
        return [r for r in self.roles if r not in ("root", "targets", "snapshot", "timestamp")]

    # --- content

    @classmethod
    def offering(cls, *bundles: Bundle) -> MemoryRemote:
        """A repository in which these are published."""
        remote = cls()
        for bundle in bundles:
            remote.add(bundle)
        remote.publish()
        return remote

    def add_family(self, family: str, *, paths: list[str] | None = None) -> None:
        """A delegated role of one key."""
        key = CryptoSigner.generate_ed25519()
        self.roles[family] = Metadata(Targets(expires=self.in_days(90)))
        self.keys[family] = [key]
        role = DelegatedRole(family, [], 1, True, paths or role_paths(family))
        self.signed("targets").delegations.roles[family] = role
        self.signed("targets").add_key(key.public_key, family)

    def add(self, bundle: Bundle, **claims: Any) -> str:
        """Both targets of a bundle, in the role of its family; the path of its archive.

        Args:
            claims: what the summary shall say otherwise than the bundle does, and may be a lie.
        """
        with tempfile.TemporaryDirectory(prefix="robustidps-") as folder:
            pack(bundle.path, Path(folder) / BUNDLE)
            archive = (Path(folder) / BUNDLE).read_bytes()
        meta = bundle.metadata
        custom = summary_of(meta).as_custom() | claims
        text = (bundle.path / METADATA).read_bytes()
        return self.add_archive(family_of(meta), meta.name, meta.version, archive, custom, text)

    def add_archive(
        self, family: str, name: str, version: str, archive: bytes, custom: dict[str, Any], metadata: bytes
    ) -> str:
        """Any bytes as a version; the path of its archive."""
        if family not in self.roles:
            self.add_family(family)
        self.add_target(family, target(family, name, version, METADATA).path, metadata)
        path = target(family, name, version).path
        self.add_target(family, path, archive, custom)
        return path

    def add_target(self, role: str, path: str, data: bytes, custom: dict[str, Any] | None = None) -> TargetFile:
        """A target of any path, signed by any role."""
        sha256 = hashlib.sha256(data).hexdigest()
        more = {} if custom is None else {"custom": custom}
        self.signed(role).targets[path] = info = TargetFile(len(data), {"sha256": sha256}, path, more)
        self.files[self.place(path, sha256)] = data
        return info

    @staticmethod
    def place(path: str, sha256: str) -> str:
        folder, _, name = path.rpartition("/")
        return f"targets/{folder}/{sha256}.{name}"

    # --- publishing

    def store(self, role: str, *, sign: bool = True) -> bytes:
        """Signs a role as it is and puts it among the files."""
        metadata = self.roles[role]
        if sign:
            metadata.signatures.clear()
            for key in self.keys[role]:
                metadata.sign(key, append=True)
        data = metadata.to_bytes(_COMPACT)
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        self.files[f"metadata/{name}"] = data
        return data

    def publish(self, *, hashes: bool = True) -> None:
        """One version on: families, targets, snapshot, timestamp. hashes: whether snapshot and timestamp name them."""
        for role in (*self.families, "targets"):
            data = self._next(role)
            self.signed("snapshot").meta[f"{role}.json"] = _meta(self.signed(role).version, data, hashes)
        self.publish_snapshot(hashes=hashes)

    def publish_snapshot(self, *, hashes: bool = True) -> None:
        """Snapshot and timestamp, of what the snapshot's `meta` says."""
        snapshot, timestamp = self.signed("snapshot"), self.signed("timestamp")
        snapshot.expires = self.in_days(self.days)
        data = self._next("snapshot")
        timestamp.snapshot_meta = _meta(snapshot.version, data, hashes)
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        timestamp = self.signed("timestamp")
        timestamp.expires = self.in_days(self.days)
        self._next("timestamp")

    def _next(self, role: str) -> bytes:
        """Stores the role one version on, or as its first one."""
        self.signed(role).version += role in self._stored
        self._stored.add(role)
        return self.store(role)

    def rotate(self, role: str, *, count: int | None = None) -> list[CryptoSigner]:
        """New keys for a top-level role, in a root of the next version; the keys that count no more."""
        root, old = self.signed("root"), self.keys[role]
        fresh = [CryptoSigner.generate_ed25519() for _ in range(count or len(old))]
        for key in old:
            root.revoke_key(key.public_key.keyid, role)
        for key in fresh:
            root.add_key(key.public_key, role)
        root.version += 1
        self.keys[role] = fresh
        if role == "root":  # a new root is signed by the old keys as well
            self.keys["root"] = [*fresh, *old]
            self.store("root")
            self.keys["root"] = fresh
        else:
            self.store("root")
        return old

    # --- an installation

    def fetcher(self) -> MemoryFetcher:
        return MemoryFetcher(self)

    def registry(self, home: Path, **options: Any) -> RemoteRegistry:
        """An installation in `home` that trusts this repository's first root."""
        fetcher = options.pop("fetcher", None) or self.fetcher()
        registry = RemoteRegistry(home, options.pop("mirrors", [URL]), fetcher=fetcher, **options)
        registry.trust(self.first_root)
        return registry

    def write(self, folder: Path) -> Path:
        """All files, as a web server would have them."""
        for path, data in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return folder


def _meta(version: int, data: bytes, hashes: bool) -> MetaFile:
    if not hashes:
        return MetaFile(version)
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
