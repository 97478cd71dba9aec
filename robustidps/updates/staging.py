"""A TUF repository as a publisher's folder: what is published, what waits for signatures, and the step between.

    public/metadata/   N.ROLE.json and timestamp.json      public/targets/   FAMILY/NAME/VERSION/SHA256.FILE
    staged/metadata/   ROLE.json, not signed by enough     staged/targets/   the same, not published yet

A change is made on a copy of a role's metadata, signed by those of its keys that are here, and staged. Whatever of the
staged roles fits together and is signed by as many keys as it takes is then published. A role that changes who may
sign another waits until the other is signed anew, so that at every moment everything published verifies.

Publishing is whole or not at all. Targets come first, then metadata under numbers that nobody knows of yet, and then
`timestamp.json`, by one rename: what it names is the published state. Killed before it, the old state holds, and the
next command goes on from what is staged. A new root is followed as soon as its file is there. So it comes last, and
what it demands of other roles was published before, signed by former and new keys; where the former can't be had, it
comes immediately before the timestamp.

What is superseded stays as long as a client may be on its way to it: one that has an earlier timestamp reads the
snapshot that this names, as long as that holds, and what that names. Snapshots that ended a week ago go, and metadata
that no snapshot that is left names. Roots stay: clients follow them one by one, from whichever they were given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from robustidps.errors import (
    ConflictError,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    RobustIDPSError,
    printable,
)
from robustidps.registry.keys import write_atomically
from robustidps.registry.steps import step
from robustidps.settings import writable
from robustidps.updates.keys import KeyRing
from robustidps.updates.naming import TOP_ROLES

try:
    from tuf.api.exceptions import DownloadError, LengthOrHashMismatchError, RepositoryError
    from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
    from tuf.api.serialization import DeserializationError
    from tuf.api.serialization.json import JSONSerializer
    from tuf.repository import Repository
except ImportError:
    raise MissingExtraError("tuf", "updates") from None

__all__ = ["Publication", "StagedRepository", "key_name"]

_COMPACT = JSONSerializer(compact=True)
_SPARED = timedelta(days=7)  # beyond its end: for clients whose clock is behind
_NUMBERED = re.compile(r"(\d{1,18})\.(.+)\.json")
_MALFORMED = (DeserializationError, RepositoryError, DownloadError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Publication:
    """roles: the roles that got new metadata. waiting: staged roles that stay so, each with what it waits for."""

    roles: tuple[str, ...]
    waiting: Mapping[str, str]


class StagedRepository(Repository):
    """The folder of a publisher. Changes happen within `locked()`, and end with `settle()`.

    ring: the keys that are here.
    expiry_days: for how long metadata of a role holds, by role; families' as `targets`.
    clock: gives the time, aware.
    """

    def __init__(
        self,
        folder: Path,
        ring: KeyRing,
        expiry_days: Mapping[str, float],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.folder, self.ring, self.expiry_days, self.clock = Path(folder), ring, dict(expiry_days), clock
        self.metadata, self.targets_folder = self.folder / "public" / "metadata", self.folder / "public" / "targets"
        self.staged_metadata = self.folder / "staged" / "metadata"
        self.staged_targets = self.folder / "staged" / "targets"
        self.published: dict[str, Metadata[Any]] = {}
        self.staged: dict[str, Metadata[Any]] = {}
        self._bytes: dict[str, bytes] = {}
        self._view: dict[str, Metadata[Any]] = {}
        self._touched: set[str] = set()

    # --- reading

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The only publisher at work in this folder, with what lies there read anew.

        Raises:
            ConflictError: another one is. And what `load` raises.
        """
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise ConflictError(
                    "another publisher is at work here", where=self.folder, remedy="try again when it is done"
                ) from None
        try:
            self.load()
            yield
        finally:
            lock.release()

    def load(self) -> None:
        """Reads what is published and what is staged, and verifies the former.

        Raises:
            IntegrityError: a file is missing, malformed, or wasn't signed by the role's keys.
            ConflictError: something staged was begun on metadata that is no longer the newest.
        """
        self.published, self._bytes = self._read_published()
        self.staged, self._touched = {}, set()
        for file in sorted(self.staged_metadata.glob("*.json")):
            role, md = file.stem, _parsed(file.read_bytes(), file)
            before = self.published.get(role)
            if before is None or md.signed.version == before.signed.version + 1:
                self.staged[role] = md
            elif before.signed == md.signed:  # published; killed before it was taken away
                with writable(file):
                    file.unlink()
            else:
                raise ConflictError(
                    f"is version {md.signed.version}, and {before.signed.version} is published",
                    where=file,
                    remedy="take the file away and make the change again",
                )
        self._view = {**self.published, **self.staged}

    def roots(self) -> list[int]:
        """The versions of the roots that are published, in order."""
        return sorted(int(f.name.split(".")[0]) for f in self.metadata.glob("*.root.json") if f.name[0].isdigit())

    def _read_published(self) -> tuple[dict[str, Metadata[Any]], dict[str, bytes]]:
        found: dict[str, Metadata[Any]] = {}
        raw: dict[str, bytes] = {}

        def read(role: str, name: str) -> Metadata[Any]:
            file = self.metadata / name
            try:
                raw[role] = file.read_bytes()
            except OSError as error:
                raise IntegrityError(
                    f"can't be read: {error.strerror}", where=file, remedy="restore it from a backup or a mirror"
                ) from None
            found[role] = _parsed(raw[role], file)
            return found[role]

        roots = [_parsed((self.metadata / f"{n}.root.json").read_bytes(), n) for n in self.roots()]
        for before, root in zip([*roots[:1], *roots], roots, strict=False):
            if not (_verified(before.signed, "root", root) and _verified(root.signed, "root", root)):
                raise self._edited(f"root {root.signed.version}")
        if roots:
            read("root", f"{roots[-1].signed.version}.root.json")
        if not (self.metadata / "timestamp.json").exists():
            return found, raw
        if not roots:
            raise IntegrityError("has a timestamp and no root", where=self.metadata, remedy="restore it from a backup")
        timestamp = read("timestamp", "timestamp.json").signed
        snapshot = read("snapshot", f"{timestamp.snapshot_meta.version}.snapshot.json").signed
        for name, meta in snapshot.meta.items():
            read(name.removesuffix(".json"), f"{meta.version}.{name}")
        # A process may have been killed between a new root and the timestamp that follows it: its root is staged still.
        unfinished = (self.staged_metadata / "root.json").exists()
        former = roots[-2:] if unfinished else roots[-1:]
        for role, md in found.items():
            if role != "root" and not any(
                _verified(by.signed, role, md) for by in (former if role in TOP_ROLES else [found["targets"]])
            ):
                raise self._edited(role)
        return found, raw

    def _edited(self, what: str) -> IntegrityError:
        return IntegrityError(
            "isn't signed by the keys of its role",
            where=f"{self.metadata}: {what}",
            remedy="restore the folder from a backup or a mirror; find out who changed it",
        )

    # --- python-tuf's editing

    def open(self, role: str) -> Metadata[Any]:
        """A copy of the newest metadata of a role, staged or published; a first version where there is none."""
        if role in self._view:
            return deepcopy(self._view[role])
        made: dict[str, Callable[[], Any]] = {
            "root": lambda: Root(consistent_snapshot=True),
            "snapshot": lambda: Snapshot(meta={}),
            "timestamp": lambda: Timestamp(snapshot_meta=self.snapshot_info),
        }
        return Metadata(made.get(role, Targets)())

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Stages an edit under the next number, with a new expiry. Snapshot and timestamp are signed at once."""
        before = self.published.get(role)
        md.signed.version = before.signed.version + 1 if before else 1
        md.signed.expires = self.clock() + timedelta(days=self.days(role))
        md.signatures.clear()
        self._view[role] = md
        if role in ("snapshot", "timestamp"):
            self.sign(role)
        else:
            self.staged[role] = md
            self._touched.add(role)

    def days(self, role: str) -> float:
        return self.expiry_days.get(role, self.expiry_days["targets"])

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        return {f"{role}.json": self._meta(role) for role in ("targets", *self.families(self._view))}

    @property
    def snapshot_info(self) -> MetaFile:
        return self._meta("snapshot")

    def _meta(self, role: str) -> MetaFile:
        md = self._view[role]
        published = self.published.get(role)
        same = published is not None and published.signed.version == md.signed.version
        data = self._bytes[role] if same else md.to_bytes(_COMPACT)
        return MetaFile.from_data(md.signed.version, data, ["sha256"])

    # --- who signs what

    def families(self, view: Mapping[str, Metadata[Any]] | None = None) -> list[str]:
        """The families that `targets` delegates to."""
        targets = (self._view if view is None else view).get("targets")
        delegations = targets.signed.delegations if targets else None
        return list(delegations.roles or {}) if delegations else []

    def delegators(self, role: str) -> list[Any]:
        """Whose word on who signs `role` counts: what is published, and what is about to be."""
        by = "root" if role in TOP_ROLES else "targets"
        found = [md.signed for md in (self.published.get(by), self._view.get(by)) if md]
        return [signed for i, signed in enumerate(found) if signed not in found[:i] and _delegates(signed, role)]

    def sign(self, role: str) -> list[str]:
        """Signs a staged role (or snapshot and timestamp) with keys that are here until there are enough signatures.

        Returns:
            the names of the keys that signed.

        Raises:
            What `KeyRing.signer` raises.
        """
        md, by = self._view[role], []
        for delegator in self.delegators(role):
            for key_id in delegator.get_verification_result(role, md.signed_bytes, md.signatures).unsigned:
                name = self.ring.name_of(key_id)
                if name is not None and not _verified(delegator, role, md):
                    md.sign(self.ring.signer(name), append=True)
                    by.append(name)
        return by

    def lacking(self, role: str) -> dict[str, Any]:
        """What a staged role lacks: `{}` or how many signatures `missing`, and keys (id to TUF key) `of` which."""
        lacking: dict[str, Any] = {}
        md = self.staged[role]
        for delegator in [d for d in self.delegators(role) if role == "root" or d is self._delegator_of(role)]:
            result = delegator.get_verification_result(role, md.signed_bytes, md.signatures)
            if result.missing:
                lacking["missing"] = max(result.missing, lacking.get("missing", 0))
                lacking["of"] = {**lacking.get("of", {}), **result.unsigned}
        return lacking

    def can_sign(self, role: str) -> bool:
        """Whether as many of the keys of a role are here as it takes."""
        return any(
            sum(self.ring.name_of(k) is not None for k in d.get_delegated_role(role).keyids)
            >= d.get_delegated_role(role).threshold
            for d in self.delegators(role)[-1:]
        )

    def _delegator_of(self, role: str) -> Any:
        md = self._view.get("root" if role in TOP_ROLES else "targets")
        return md.signed if md else None

    # --- publishing

    def settle(self, *, force: bool = False, snapshot: bool = False) -> Publication:
        """Signs what was edited, stages it, and publishes what may be.

        Args:
            force: a new timestamp, whether or not anything else is new; and with `snapshot` a new one of those.

        Raises:
            NotFoundError: `force`, and a key of theirs isn't here.
            StorageError: the disk is full or the folder read-only; what was published still is.
        """
        for role in sorted(self._touched):
            self.sign(role)
        for role in sorted(self._touched):
            self.save(role)
        self._touched = set()
        step("publish.staged")
        ready = self._ready()
        view = {**self.published, **{role: self.staged[role] for role in ready}}
        waiting = {role: text for role, text in self.waiting(ready).items() if role not in ready}
        if not (ready or force) or "root" not in view or "targets" not in view:
            return Publication((), waiting)
        self._view = view
        absent = [role for role in ("snapshot", "timestamp") if not self.can_sign(role)]
        if absent:
            if force:
                raise NotFoundError(f"the key of {absent[0]} isn't here", where=self.folder, remedy="name it: --keys")
            return Publication((), self.waiting(ready))
        self.do_snapshot(force=snapshot)
        self.do_timestamp(force=True)
        self._write(ready)
        done = tuple(sorted(r for r in view if r not in self.published or view[r] is not self.published[r]))
        self.load()
        return Publication(done, waiting)

    def save(self, role: str) -> None:
        """Writes a staged role as it is now. Raises StorageError."""
        with writable(self.staged_metadata):
            self.staged_metadata.mkdir(parents=True, exist_ok=True)
        write_atomically(self.staged_metadata / f"{role}.json", self.staged[role].to_bytes(_COMPACT))

    def waiting(self, ready: Collection[str] | None = None) -> dict[str, str]:
        """What each staged role that isn't `ready` waits for."""
        ready = self._ready() if ready is None else ready
        return {role: self._words(role) for role in self.staged if role not in ready} | (
            dict.fromkeys(ready, "a refresh where the keys of snapshot and timestamp are")
        )

    def _words(self, role: str) -> str:
        lacking = self.lacking(role)
        if not lacking:
            return "another role that is staged, or a role whose keys it changes"
        names = ", ".join(sorted(key_name(key) for key in lacking["of"].values()))
        return f"{lacking['missing']} more signature{'s' * (lacking['missing'] > 1)}, of {names}"

    def _ready(self) -> list[str]:
        """The staged roles that can be published: with them, everything verifies.

        Begins with all and takes back, as long as something doesn't verify, that role, or else what demands it.
        """
        chosen = dict(self.staged)
        while chosen:
            view = {**self.published, **chosen}
            unfit = next((role for role in self._demanded(view) if not self._holds(role, view)), None)
            strange = next((r for r in chosen if r not in TOP_ROLES and r not in self.families(view)), None)
            if unfit is None and strange is None:
                break
            at_fault = strange or unfit or ""
            if at_fault not in chosen:
                at_fault = "root" if at_fault in TOP_ROLES else "targets"
            if chosen.pop(at_fault, None) is None:
                break
        return sorted(chosen)

    def _demanded(self, view: Mapping[str, Metadata[Any]]) -> list[str]:
        return ["root", "targets", *self.families(view)]

    def _holds(self, role: str, view: Mapping[str, Metadata[Any]]) -> bool:
        if role not in view:
            return False
        by = view.get("root" if role in TOP_ROLES else "targets")
        if by is None or not _verified(by.signed, role, view[role]):
            return False
        former = self.published.get("root")
        return role != "root" or former is None or _verified(former.signed, role, view[role])

    def _write(self, ready: list[str]) -> None:
        view, former = self._view, self.published.get("root")
        self._move_targets([role for role in ready if role not in TOP_ROLES])
        step("publish.targets")
        with writable(self.metadata):
            self.metadata.mkdir(parents=True, exist_ok=True)
        new = [r for r in ready if r != "root"]
        for role in (*new, *(r for r in ("snapshot",) if view[r] is not self.published.get(r))):
            write_atomically(self.metadata / f"{view[role].signed.version}.{role}.json", view[role].to_bytes(_COMPACT))
        step("publish.metadata")
        top = [r for r in TOP_ROLES if r != "root"]
        follows = former is not None and all(_verified(former.signed, role, view[role]) for role in top)
        if "root" in ready and not follows:
            self._write_root()
        write_atomically(self.metadata / "timestamp.json", view["timestamp"].to_bytes(_COMPACT))
        step("publish.timestamp")
        if "root" in ready and follows:
            self._write_root()
        with writable(self.staged_metadata):
            for role in ready:
                (self.staged_metadata / f"{role}.json").unlink(missing_ok=True)
        self.sweep()
        with writable(self.metadata):
            self._prune()

    def _write_root(self) -> None:
        root = self._view["root"]
        write_atomically(self.metadata / f"{root.signed.version}.root.json", root.to_bytes(_COMPACT))
        step("publish.root")

    def target_file(self, target: TargetFile, *, staged: bool) -> Path:
        """Where a target lies, by its hash."""
        folder, name = Path(target.path).parent, Path(target.path).name
        top = self.staged_targets if staged else self.targets_folder
        return top / folder / f"{target.hashes['sha256']}.{name}"

    def _move_targets(self, families: list[str]) -> None:
        for family in families:
            for target in self._view[family].signed.targets.values():
                public, staged = self.target_file(target, staged=False), self.target_file(target, staged=True)
                if not staged.exists():
                    if not public.exists():
                        raise IntegrityError(
                            "is missing", where=public, remedy="restore it, or revoke the version that it belongs to"
                        )
                    continue
                with writable(public), staged.open("rb") as file:
                    try:
                        target.verify_length_and_hashes(file)
                    except LengthOrHashMismatchError:
                        raise IntegrityError("was changed since it was signed", where=staged) from None
                    public.parent.mkdir(parents=True, exist_ok=True)
                    staged.replace(public)

    @contextmanager
    def swept_on_failure(self) -> Iterator[None]:
        """Takes away what a block has put into the staged targets, if it fails before the metadata that names it."""
        try:
            yield
        except RobustIDPSError:
            self.load()
            self.sweep()
            raise

    def sweep(self) -> None:
        """Takes away what no role names any more: targets of revoked versions, and folders that are empty then."""
        for top, staged in ((self.targets_folder, False), (self.staged_targets, True)):
            named = {
                self.target_file(target, staged=staged)
                for roles in (self._view, self.staged)
                for role, md in roles.items()
                if role not in TOP_ROLES
                for target in md.signed.targets.values()
            }
            with writable(top):
                for folder, _, files in os.walk(top, topdown=False):
                    for name in files:
                        if Path(folder) / name not in named:
                            (Path(folder) / name).unlink()
                    if not any(Path(folder).iterdir()) and Path(folder) != top:
                        Path(folder).rmdir()

    def _prune(self) -> None:
        """Takes away superseded metadata that no client can still need; see this module's docstring."""
        current = {role: md.signed.version for role, md in self._view.items()}
        earlier: dict[tuple[str, int], Path] = {}
        for file in self.metadata.iterdir():
            found = _NUMBERED.fullmatch(file.name)
            # Numbers above the current one are of a publication that was cut short; the next writes them anew.
            if found and found[2] != "root" and int(found[1]) < current.get(found[2], 0):
                earlier[found[2], int(found[1])] = file
        needed = set()
        for role, number in [key for key in earlier if key[0] == "snapshot"]:
            try:
                snapshot = _parsed(earlier[role, number].read_bytes(), earlier[role, number]).signed
            except IntegrityError:
                continue  # no client takes it either
            if self.clock() < snapshot.expires + _SPARED:
                needed |= {("snapshot", number)}
                needed |= {(name.removesuffix(".json"), meta.version) for name, meta in snapshot.meta.items()}
        for key in earlier.keys() - needed:
            earlier[key].unlink(missing_ok=True)


def key_name(key: Any) -> str:
    """What a key in metadata is called: the name its publisher gave it, else the beginning of its id."""
    return printable(key.unrecognized_fields.get("x-robustidps-name") or key.keyid[:12], 63)


def _parsed(data: bytes, where: object) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(data)
    except _MALFORMED as error:
        raise IntegrityError(
            f"is no TUF metadata: {printable(error, 120)}", where=where, remedy="restore it from a backup or a mirror"
        ) from None


def _delegates(signed: Any, role: str) -> bool:
    try:
        signed.get_delegated_role(role)
    except ValueError:
        return False
    return True


def _verified(signed: Any, role: str, md: Metadata[Any]) -> bool:
    if not _delegates(signed, role):
        return False
    return bool(signed.get_verification_result(role, md.signed_bytes, md.signatures))
