"""What a publisher does to the remote registry: begin it, add and revoke versions, sign, refresh, exchange keys.

Each of these edits the metadata it concerns and hands over to `StagedRepository.settle`, which signs with the keys that
are here and publishes what enough of them have signed. So each command is the same whether one person holds all keys or
three hold one each: what is missing is staged, and `sign` goes on from there.

`root` and `targets` are meant for keys that stay offline, `snapshot` and `timestamp` for keys on the machine that
refreshes them. `targets` holds no targets: it says which keys may sign which family.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustidps.errors import (
    BundleError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    RobustIDPSError,
    StorageError,
    VersionExistsError,
    printable,
)
from robustidps.progress import Progress, silent
from robustidps.registry.keys import write_atomically
from robustidps.registry.metadata import ModelMetadata, version_key
from robustidps.settings import check_name, writable
from robustidps.updates.keys import KeyRing
from robustidps.updates.naming import (
    BUNDLE,
    METADATA,
    TOP_ROLES,
    family_of,
    parse_target,
    role_paths,
    summary_of,
    target,
)
from robustidps.updates.staging import Publication, StagedRepository, key_name

__all__ = ["DEFAULT_ROLES", "EXPIRY_DAYS", "Publisher", "RoleKeys", "RoleStatus", "Status", "has_real_rows"]

EXPIRY_DAYS = {"root": 365.0, "targets": 90.0, "snapshot": 7.0, "timestamp": 1.0}
"""For how many days metadata holds unless it is told otherwise; families' as `targets`."""


_REVOKED = "x-robustidps-revoked"  # in a family's signed metadata: NAME/VERSION of what was published and taken back


@dataclass(frozen=True)
class RoleKeys:
    """Who signs a role: names of keys, and how many of them it takes."""

    keys: tuple[str, ...]
    threshold: int = 1


_OFFLINE = RoleKeys(("offline-1", "offline-2", "offline-3"), 2)
DEFAULT_ROLES = {
    "root": _OFFLINE,
    "targets": _OFFLINE,
    "snapshot": RoleKeys(("snapshot",)),
    "timestamp": RoleKeys(("timestamp",)),
}
"""Two of three offline keys: one that is lost stops nothing, one that is stolen signs nothing. Each online role has a
key of its own, so that each can be replaced alone."""


@dataclass(frozen=True)
class RoleStatus:
    """A role as it is published. keys: name and id of each, and whether it can sign here; days: until it expires.

    staged: what is changed by what waits, in words; waits_for: what that waits for.
    """

    role: str
    version: int
    threshold: int
    keys: tuple[dict[str, Any], ...]
    expires: datetime | None
    days: float | None
    staged: tuple[str, ...] = ()
    waits_for: str | None = None


@dataclass(frozen=True)
class Status:
    """fingerprint: SHA-256 of the newest root.json; versions: published ones, by `FAMILY/NAME`."""

    fingerprint: str | None
    root: Path | None
    roles: tuple[RoleStatus, ...]
    versions: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Publisher:
    """A publisher's folder.

    keys: folders in which keys lie, beside `FOLDER/keys`, which comes last. The first is where new ones are made.
    passphrase, clock: as `KeyRing` and `StagedRepository` take them.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[Path] = (),
        *,
        passphrase: Callable[[str, bool], bytes] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.folder = Path(folder)
        folders = [*(Path(k) for k in keys), self.folder / "keys"]
        self.ring = KeyRing(folders, passphrase) if passphrase else KeyRing(folders)
        self.clock = clock
        self._settings_file = self.folder / "publisher.json"

    # --- beginning

    def init(
        self, roles: Mapping[str, RoleKeys] | None = None, expiry_days: Mapping[str, float] | None = None
    ) -> Publication:
        """Begins a repository: makes the keys that aren't there yet, root and an empty `targets`.

        Args:
            roles: who signs each of TUF's four roles; those left out as in `DEFAULT_ROLES`. A key of which only
                `NAME.pub` is here is somebody else's, who signs later.
            expiry_days: for each role, where it shall not be as in `EXPIRY_DAYS`.

        Raises:
            VersionExistsError: there is a repository. ConfigError: a role, threshold or expiry that can't be.
            And as `KeyRing.make`.
        """
        chosen = _checked_roles({**DEFAULT_ROLES, **(roles or {})})
        days = _checked_days({**EXPIRY_DAYS, **(expiry_days or {})})
        repository = StagedRepository(self.folder, self.ring, days, self.clock)
        with repository.locked():
            if self._settings_file.exists() or repository.published or repository.staged:
                raise VersionExistsError(
                    "there is a repository already", where=self.folder, remedy="see robustidps publish status"
                )
            known = self.ring.names()
            for name in dict.fromkeys(name for role in chosen.values() for name in role.keys):
                if name not in known:
                    self.ring.make(name)
            write_atomically(self._settings_file, json.dumps({"format": 1, "expiry_days": days}, indent=2).encode())
            with repository.edit_root() as root:
                for role, who in chosen.items():
                    for name in who.keys:
                        root.add_key(self._key(name), role)
                    root.roles[role].threshold = who.threshold
            with repository.edit_targets():
                pass
            return repository.settle()

    # --- versions

    def add(self, bundle: Path, *, with_real_rows: bool = False, progress: Progress = silent) -> Publication:
        """Adds one version; see `add_many`."""
        return self.add_many([bundle], with_real_rows=with_real_rows, progress=progress)

    def add_many(
        self, bundles: Iterable[Path], *, with_real_rows: bool = False, progress: Progress = silent
    ) -> Publication:
        """Adds versions in one edit: each bundle is opened, packed, and put under its family's role.

        A family that is new is delegated to the keys of `targets`, with their threshold.

        Args:
            with_real_rows: bundles whose golden rows aren't known to be simulated too.

        Raises:
            BundleError: not a bundle, or edited. VersionExistsError: the version is there with another content, or was
                revoked.
            RefusedError: see `with_real_rows`. And as `StagedRepository.settle`.
        """
        bundles = [Path(b) for b in bundles]
        with self._repository() as repository, repository.swept_on_failure():
            added: dict[str, dict[str, Any]] = {}
            for done, folder in enumerate(bundles):
                progress("verifying and packing", done, len(bundles), unit="versions")
                metadata = _judged(folder, with_real_rows)
                family = family_of(metadata)
                there = repository.open(family).signed if family in repository.families() else None
                if f"{metadata.name}/{metadata.version}" in _revoked(repository):
                    raise VersionExistsError(
                        "was revoked, and its number isn't given again",
                        where=f"{metadata.name} {metadata.version}",
                        remedy="publish it under a higher number",
                    )
                paths = self._pack(repository, folder, metadata)
                held = {**(there.targets if there else {}), **added.get(family, {})}
                for path, file in paths.items():
                    if path not in held:
                        added.setdefault(family, {})[path] = file
                    elif held[path].hashes != file.hashes:
                        raise VersionExistsError(
                            "is published with another content",
                            where=f"{metadata.name} {metadata.version}",
                            remedy="give what is new another number",
                        )
            progress("verifying and packing", len(bundles), len(bundles), unit="versions")
            for family in added:
                if family not in repository.families():
                    root = repository.root()
                    of_targets = root.get_delegated_role("targets")
                    keys = [root.get_key(k) for k in of_targets.keyids]
                    self._delegate(repository, family, keys, of_targets.threshold)
            for family, files in added.items():
                with repository.edit_targets(family) as role:
                    role.targets.update(files)
            progress("publishing", 0, None)
            return repository.settle()

    def revoke(self, name: str, version: str) -> Publication:
        """Takes a version out of the metadata, and its files away once that is published.

        That its number was published is kept in the family's metadata. One that is only staged leaves nothing.

        Raises:
            NotFoundError: no such version. And as `StagedRepository.settle`.
        """
        check_name(name)
        with self._repository() as repository:
            found = False
            for family in repository.families():
                wanted = {target(family, name, version, file).path for file in (BUNDLE, METADATA)}
                if wanted & repository.open(family).signed.targets.keys():
                    found = True
                    with repository.edit_targets(family) as role:
                        for path in wanted:
                            role.targets.pop(path, None)
                        held = repository.published.get(family)
                        if held is not None and wanted & held.signed.targets.keys():
                            known = role.unrecognized_fields.get(_REVOKED, ())
                            role.unrecognized_fields[_REVOKED] = sorted({*known, f"{name}/{version}"})
            if not found:
                raise NotFoundError("no such version is published or staged", where=f"{name} {version}")
            return repository.settle()

    # --- keys

    def make_key(self, name: str) -> str:
        """Makes a key in the first key folder; gives its id. Raises as `KeyRing.make`."""
        return str(self.ring.make(name).keyid)

    def delegate(self, family: str, keys: Sequence[str], threshold: int = 1) -> Publication:
        """Gives a family keys of its own; a family that is there is signed anew with them.

        Raises:
            ConfigError: no key, or fewer than the threshold. NotFoundError: no such key.
        """
        target(family, "x", "1.0.0")
        _check_threshold(family, keys, threshold)
        with self._repository() as repository:
            self._delegate(repository, family, [self._key(name) for name in keys], threshold)
            with repository.edit_targets(family):
                pass
            return repository.settle()

    def rotate_key(self, role: str | None, old: str, new: str | None) -> Publication:
        """Puts the key `new` in the place of `old`, in one role or in all that it signs; those are signed anew.

        A new root is signed by as many of the former keys as it took, and as many of the new ones.

        Args:
            role: one of TUF's roles or a family; None for all.
            old: a key's name, or its id or the beginning of that.
            new: a key's name; None to take `old` out without another in its place.

        Raises:
            NotFoundError: no such key, or it doesn't sign that role.
            ConfigError: without `old`, a role would have fewer keys than its threshold.
        """
        with self._repository() as repository:
            added = self._key(new) if new is not None else None
            families = repository.families()
            concerned = [r for r in (*TOP_ROLES, *families) if role in (None, r)]
            if role is not None and not concerned:
                raise NotFoundError("no such role", where=printable(role, 63))
            done: list[str] = []
            edits = (
                (repository.edit_root, [r for r in concerned if r in TOP_ROLES]),
                (repository.edit_targets, [r for r in concerned if r not in TOP_ROLES]),
            )
            for edit, roles in edits:
                by = repository.root() if roles and roles[0] in TOP_ROLES else repository.targets()
                ids = {r: found for r in roles if (found := _key_id(by, r, old))}
                if not ids:
                    continue
                with edit() as signed:
                    for each, key_id in ids.items():
                        signed.revoke_key(key_id, each)
                        if added is not None:
                            signed.add_key(added, each)
                        left = signed.get_delegated_role(each)
                        if len(left.keyids) < left.threshold:
                            raise ConfigError(
                                f"would have {len(left.keyids)} keys and takes {left.threshold} signatures",
                                where=each,
                                remedy="rotate the key instead: name one in its place",
                            )
                done += ids
            if not done:
                raise NotFoundError("no such key signs there", where=printable(old, 80), remedy="see publish status")
            for each in done:
                if each == "targets" or each in families:
                    with repository.edit_targets(each):
                        pass
            return repository.settle()

    def revoke_key(self, old: str) -> Publication:
        """Takes a key out of every role. Raises as `rotate_key`."""
        return self.rotate_key(None, old, None)

    def sign(self, role: str | None = None) -> tuple[dict[str, list[str]], Publication]:
        """Signs what is staged, one role or all, with the keys that are here; publishes what has enough signatures.

        Returns:
            by role, the names of the keys that signed; and what came of it.

        Raises:
            NotFoundError: nothing is staged for that role.
        """
        with self._repository() as repository:
            if role is not None and role not in repository.staged:
                raise NotFoundError("nothing is staged for it", where=printable(role, 63), remedy="see publish status")
            signed = {}
            for each in sorted(repository.staged):
                if role in (None, each):
                    signed[each] = repository.sign(each)
                    repository.save(each)
            return signed, repository.settle()

    # --- time

    def refresh(self, *, share: float = 1 / 3) -> tuple[Publication, dict[str, str]]:
        """A new timestamp and, where due, a new snapshot; then renews other roles that are due, if their keys are here.

        Args:
            share: a role is due when less than this share of its time is left.

        Returns:
            what was published, and what is due and could not be renewed: role to why.

        Raises:
            NotFoundError: the key of snapshot or timestamp isn't here. And as `StagedRepository.settle`.
        """
        with self._repository() as repository:
            if not repository.published and not repository.staged:
                raise NotFoundError("nothing is published yet", where=self.folder)
            held = repository.published
            first = repository.settle(
                force=True, snapshot="snapshot" in held and self._is_due(repository, "snapshot", share)
            )
            due = [r for r in held if r not in ("timestamp", "snapshot") and self._is_due(repository, r, share)]
            late: dict[str, str] = {}
            for role in due:
                if role in repository.staged:
                    late[role] = "a change of it waits for signatures"
                elif not repository.can_sign(role):
                    late[role] = "its keys aren't here"
                else:
                    with repository.edit(role):
                        pass
            second = repository.settle() if len(late) < len(due) else first
            return Publication(tuple(sorted({*first.roles, *second.roles})), second.waiting), late

    def _is_due(self, repository: StagedRepository, role: str, share: float) -> bool:
        left = (repository.published[role].signed.expires - self.clock()).total_seconds() / 86400
        return bool(left < share * repository.days(role))

    # --- looking

    def status(self) -> Status:
        """What is published and staged, who may sign it, and until when it holds. Asks for no passphrase."""
        with self._repository() as repository:
            roots = repository.roots()
            file = repository.metadata / f"{roots[-1]}.root.json" if roots else None
            fingerprint = hashlib.sha256(file.read_bytes()).hexdigest() if file else None
            names = dict.fromkeys([*TOP_ROLES, *repository.families(), *repository.staged])
            roles = tuple(self._role_status(repository, role) for role in names)
            versions: dict[str, list[str]] = {}
            for family in repository.families(repository.published):
                for path in repository.published[family].signed.targets:
                    parts = parse_target(path)
                    if parts.file == BUNDLE:
                        versions.setdefault(f"{family}/{parts.name}", []).append(parts.version)
            return Status(fingerprint, file, roles, {k: sorted(v, key=version_key) for k, v in versions.items()})

    def _role_status(self, repository: StagedRepository, role: str) -> RoleStatus:
        md, staged = repository.published.get(role), repository.staged.get(role)
        delegators = repository.delegators(role)
        keys, threshold = [], 0
        if delegators:
            by = delegators[0]
            threshold = by.get_delegated_role(role).threshold
            for key_id in by.get_delegated_role(role).keyids:
                here = self.ring.name_of(key_id) is not None
                keys.append({"name": key_name(by.get_key(key_id)), "id": key_id, "here": here})
        waits_for = repository.waiting().get(role) if staged else None
        return RoleStatus(
            role=role,
            version=md.signed.version if md else 0,
            threshold=threshold,
            keys=tuple(keys),
            expires=md.signed.expires if md else None,
            days=round((md.signed.expires - self.clock()).total_seconds() / 86400, 2) if md else None,
            staged=tuple(_changes(md.signed if md else None, staged.signed)) if staged else (),
            waits_for=waits_for,
        )

    # --- parts

    @contextmanager
    def _repository(self) -> Iterator[StagedRepository]:
        try:
            days = json.loads(self._settings_file.read_bytes())["expiry_days"]
            days = _checked_days({str(k): float(v) for k, v in days.items()})
        except FileNotFoundError:
            raise NotFoundError(
                "no publisher's folder", where=self.folder, remedy="begin one: robustidps publish init"
            ) from None
        except OSError as error:
            raise StorageError(f"can't be read: {error.strerror}", where=self._settings_file) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IntegrityError(
                "can't be read", where=self._settings_file, remedy="restore it from a backup"
            ) from None
        repository = StagedRepository(self.folder, self.ring, days, self.clock)
        with repository.locked():
            yield repository

    def _key(self, name: str) -> Any:
        """A key as it stands in metadata, with the name that its publisher gave it."""
        from tuf.api.metadata import Key

        public = self.ring.public(name)
        return Key.from_dict(public.keyid, {**public.to_dict(), "x-robustidps-name": name})

    def _delegate(self, repository: StagedRepository, family: str, keys: Sequence[Any], threshold: int) -> None:
        from tuf.api.metadata import DelegatedRole, Delegations

        with repository.edit_targets() as targets:
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            roles = targets.delegations.roles
            assert roles is not None  # noqa: S101 - made above; ours never has succinct roles
            for key_id in list(roles[family].keyids) if family in roles else ():
                targets.revoke_key(key_id, family)
            roles[family] = DelegatedRole(family, [], threshold, True, paths=role_paths(family))
            for key in keys:
                targets.add_key(key, family)

    def _pack(self, repository: StagedRepository, folder: Path, metadata: ModelMetadata) -> dict[str, Any]:
        from tuf.api.metadata import TargetFile

        from robustidps.bundle import bundle_digest
        from robustidps.updates.archive import pack, unpack

        family, name, version = family_of(metadata), metadata.name, metadata.version
        path = target(family, name, version).path
        waiting = repository.staged_targets / family / name / version
        with writable(waiting):
            waiting.mkdir(parents=True, exist_ok=True)
        archive = waiting / BUNDLE
        pack(folder, archive)
        with tempfile.TemporaryDirectory(prefix="robustidps-publish-") as temporary:
            copy = Path(temporary) / "bundle"
            unpack(archive, copy, where=folder)
            if bundle_digest(copy) != metadata.checksum:
                raise BundleError("was changed while it was packed", where=folder)
            described = (copy / METADATA).read_bytes()
        bundle = TargetFile.from_file(path, str(archive), ["sha256"])
        bundle.unrecognized_fields["custom"] = summary_of(metadata).as_custom()
        small = TargetFile.from_data(target(family, name, version, METADATA).path, described, ["sha256"])
        with writable(archive):
            archive.replace(repository.target_file(bundle, staged=True))
        write_atomically(repository.target_file(small, staged=True), described)
        return {bundle.path: bundle, small.path: small}


def has_real_rows(metadata: ModelMetadata) -> bool:
    """Whether a bundle's golden rows may be of real traffic: unless it says that it was trained on a data set which the
    configurations here know as simulated. What says nothing, or names a file, may be anybody's traffic."""
    from robustidps.traffic.prepare import dataset_config

    if metadata.training is None:
        return True
    try:
        return dataset_config(metadata.training.dataset).source != "simulator"
    except RobustIDPSError:
        return True


def _judged(folder: Path, with_real_rows: bool) -> ModelMetadata:
    from robustidps.bundle import open_bundle

    with open_bundle(folder) as bundle:
        metadata = bundle.metadata
        rows = len(bundle.golden[0])
    if has_real_rows(metadata) and not with_real_rows:
        trained_on = metadata.training.dataset if metadata.training else "nothing that it names"
        raise RefusedError(
            f"its golden.npz holds {rows} rows that may be of real traffic: it was trained on {trained_on}",
            where=folder,
            remedy="publish them with --with-real-rows, if whoever's traffic it is agrees",
        )
    return metadata


def _checked_roles(roles: Mapping[str, RoleKeys]) -> dict[str, RoleKeys]:
    for role, who in roles.items():
        if role not in TOP_ROLES:
            raise ConfigError(
                "isn't one of TUF's roles", where=printable(role, 63), remedy=f"known: {', '.join(TOP_ROLES)}"
            )
        _check_threshold(role, who.keys, who.threshold)
    return dict(roles)


def _check_threshold(role: str, keys: Sequence[str], threshold: int) -> None:
    for name in keys:
        check_name(name, "key's name")
    if not 1 <= threshold <= len(set(keys)):
        raise ConfigError(f"{len(set(keys))} keys can't give {threshold} signatures", where=f"role {role}")


def _checked_days(days: Mapping[str, float]) -> dict[str, float]:
    for role, value in days.items():
        if role not in TOP_ROLES:
            raise ConfigError("isn't one of TUF's roles", where=printable(role, 63), remedy="families' are as targets'")
        if not 0 < value <= 3650:
            raise ConfigError(f"{value} isn't a number of days up to 3650", where=f"expiry of {role}")
    return dict(days)


def _revoked(repository: StagedRepository) -> set[str]:
    """NAME/VERSION of all that was published and taken back, of whatever family."""
    return {
        name
        for family in repository.families()
        for name in repository.open(family).signed.unrecognized_fields.get(_REVOKED, ())
    }


def _key_id(signed: Any, role: str, key: str) -> str | None:
    """The id of the key of `role` that `key` names: by its name, its id or at least eight characters of that."""
    if role not in TOP_ROLES and signed.delegations is None:
        return None
    for key_id in signed.get_delegated_role(role).keyids:
        if key == key_name(signed.get_key(key_id)) or (len(key) >= 8 and key_id.startswith(key)):
            return str(key_id)
    return None


def _changes(before: Any, after: Any) -> list[str]:
    """What signing `after` means, in words."""
    found = []
    if hasattr(after, "targets"):
        was = before.targets if before else {}
        found += [f"adds {path}" for path in after.targets if path not in was and path.endswith(BUNDLE)]
        found += [f"revokes {path}" for path in was if path not in after.targets and path.endswith(BUNDLE)]
        found += [f"changes {path}" for path in was if path in after.targets and was[path] != after.targets[path]]
        who, had = _signers(after.delegations), _signers(before.delegations if before else None)
    else:
        who, had = _signers(after), _signers(before)
    found += [f"{role}: {text}" for role, text in who.items() if had.get(role) != text]
    return found or ["a new expiry alone"]


def _signers(delegator: Any) -> dict[str, str]:
    roles = getattr(delegator, "roles", None) or {}
    return {
        name: f"{role.threshold} of {', '.join(key_name(delegator.keys[k]) for k in role.keyids)}"
        for name, role in roles.items()
    }
