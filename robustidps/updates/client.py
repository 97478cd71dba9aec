"""What an installation asks the remote registry, and what it believes: what the pinned root's signatures lead to.

    registry = RemoteRegistry(settings.home, settings.remote_registry_url)
    registry.trust(Path("root.json").read_bytes())          # once; the file came by another way than the mirrors
    offers = registry.offers({"neural_ode": "neural_ode"})  # a few small files, however many versions there are
    archive = registry.download(offers[0], folder)          # bytes as signed; quarantine.py says what they are

A mirror is a folder on a web server with `metadata/` and `targets/` in it. Mirrors are asked in turn; one that is
down, slow, or sends what isn't signed, has expired or is older than what was seen is left for the next.

HOME/updates holds
    root.json     the pinned root, as it was given          trusted/      TUF metadata that was verified last
    time.json     the latest time that is known to be past  partial/      targets on their way, by SHA-256
    lock          tuf's Updater works alone in its folder   quarantine/   see quarantine.py

A check works on a copy of `trusted/`. What it found is put there once all of it has been verified, in the order in
which tuf itself would write it; what a mirror did that failed leaves no trace. The one exception are new roots: each is
signed by the thresholds of the one before and of itself, and says which keys count no more, so it is kept at once.

**Time.** Whether metadata has expired is judged at the later of the clock and `time.json`, so that a clock set back
gains nothing. `time.json` takes over the clock, and the creation times that publishers sign, after a check that went
well; after one that failed because something had expired it takes over the clock as far as that moment of expiry. So
a clock that was once wrong can push it at most to where a signed timestamp ends, usually some days. Until newer
metadata is published a check then says that it has expired; `forget_time` is the way out for who can't wait.

tuf is pinned below 8: `_Updater` enumerates a role's targets through `_load_targets`, sets the time of
`_trusted_set`, and notes in overridden `_load_*` methods where a check is. tuf has no public way for these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from robustidps.errors import (
    ConfigError,
    ConflictError,
    NameInvalidError,
    NotFoundError,
    RemoteUnavailableError,
    RobustIDPSError,
    UpdateError,
    printable,
    without_passwords,
)
from robustidps.progress import Progress, silent
from robustidps.registry.keys import write_atomically
from robustidps.registry.metadata import ModelMetadata, version_key
from robustidps.settings import check_name, writable
from robustidps.updates.archive import MAX_BYTES
from robustidps.updates.fetching import HttpFetcher, ResumingFetcher
from robustidps.updates.naming import BUNDLE, METADATA, Summary, family_of, parse_target, role_paths, target

__all__ = ["ROOT_BYTES", "Answer", "Offer", "RemoteRegistry"]

_METADATA_BYTES = 2**20
ROOT_BYTES = 512_000
"""What a root.json may measure."""
_PARTIAL_DAYS = 14
_CONFIG = UpdaterConfig()


@dataclass(frozen=True)
class Offer:
    """A version that the remote registry offers, as its publisher describes it. Verified to be signed, not to be true.

    digest: the bundle's; sha256, size (bytes): of its archive. metrics: shares; created_at: when it was trained.
    keys: ids of the keys that signed the family's role in `metadata_version`. mirror: where it was seen.
    """

    family: str
    name: str
    version: str
    digest: str
    schema_digest: str
    metrics: dict[str, float]
    created_at: datetime
    size: int
    sha256: str
    keys: tuple[str, ...]
    metadata_version: int
    root_version: int
    mirror: str


@dataclass(frozen=True)
class _Found:
    """An offer with its two targets, as signed."""

    offer: Offer
    bundle: TargetFile
    metadata: TargetFile
    consistent: bool


@dataclass(frozen=True)
class Answer:
    """A mirror whose top-level metadata verified. role: the one that expires first, in so many days."""

    mirror: str
    role: str
    days: float


@dataclass
class _Tried:
    """What mirrors did that failed. answered: whether one of them sent something that can't be trusted."""

    said: list[str] = field(default_factory=list)
    answered: bool = False
    remedy: str | None = None

    def add(self, mirror: str, where: str, error: Exception, hint: str | None = None) -> None:
        what, wrong = _words(error)
        self.said.append(f"{_shown(mirror)}: {where}: {what}")
        self.answered = self.answered or wrong
        self.remedy = self.remedy or hint

    def error(self) -> RobustIDPSError:
        problem = "; ".join(self.said)
        if self.answered:
            return UpdateError(problem, where="remote registry", remedy=self.remedy or "nothing was changed here")
        return RemoteUnavailableError(problem, where="remote registry", remedy="try later, or name another mirror")


class _Updater(Updater):
    """tuf's Updater, at a time of ours, that says where it is and lists what a family's role signs."""

    def __init__(self, folder: Path, mirror: str, fetcher: ResumingFetcher, root: bytes, now: datetime) -> None:
        self.at = "root.json"
        super().__init__(str(folder), f"{mirror}/metadata/", fetcher=fetcher, config=_CONFIG, bootstrap=root)
        self._trusted_set.reference_time = now

    def _load_root(self) -> None:
        self.at = "root.json"
        super()._load_root()

    def _load_timestamp(self) -> None:
        self.at = "timestamp.json"
        super()._load_timestamp()

    def _load_snapshot(self) -> None:
        self.at = "snapshot.json"
        super()._load_snapshot()

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        self.at = f"{printable(role, 80)}.json"
        return super()._load_targets(role, parent_role)

    @property
    def root(self) -> Root:
        return self._trusted_set.root

    def expires(self) -> datetime | None:
        """When the timestamp that was verified, expired or not, ends."""
        with contextlib.suppress(KeyError):
            return self._trusted_set.timestamp.expires
        return None

    def first_to_expire(self) -> tuple[str, datetime]:
        """Of the four roles that were verified, the one that ends first, and when."""
        trusted = self._trusted_set
        roles = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
        return min(((role.type, role.expires) for role in roles), key=lambda each: each[1])

    def families(self) -> list[str]:
        """The families that the top-level targets delegate to.

        Raises:
            UpdateError: a delegation that isn't one family's, to itself.
        """
        delegations = self._trusted_set.targets.delegations
        if delegations is None:
            return []
        if delegations.roles is None:
            raise UpdateError("delegates by hash bins, not by family", where="targets.json")
        for name, role in delegations.roles.items():
            if role.paths != _paths(name):
                raise UpdateError("is delegated other paths than its family's", where=f"role {printable(name, 80)}")
        return list(delegations.roles)

    def role(self, family: str) -> tuple[Targets, tuple[str, ...]]:
        """What the family's role signs, and the ids of the keys that signed it."""
        signed = self._load_targets(family, Targets.type)
        data = (Path(self._dir) / f"{quote(family, '')}.json").read_bytes()
        signatures = json.loads(data)["signatures"]
        delegations = self._trusted_set.targets.delegations
        allowed = delegations.roles[family].keyids if delegations and delegations.roles else []
        ids = {str(s["keyid"]) for s in signatures}
        if len(ids & set(allowed)) == len(allowed) == 1:
            return signed, tuple(allowed)  # verified just now, and there is no other
        metadata = Metadata[Targets].from_bytes(data)
        result = self._trusted_set.targets.get_verification_result(family, metadata.signed_bytes, metadata.signatures)
        return signed, tuple(sorted(result.signed))


class RemoteRegistry:
    """The remote registry, seen from an installation.

    Args:
        home: the installation's folder.
        mirrors: addresses of the same repository, the one to ask first first.
        max_bytes_per_second: how fast is downloaded at most.
        fetcher: what loads; default: over HTTP.
        clock: seconds since 1970, UTC.

    Raises:
        ConfigError: no mirror, or one that isn't an http(s) address.
    """

    def __init__(
        self,
        home: Path,
        mirrors: Sequence[str],
        *,
        max_bytes_per_second: float | None = None,
        fetcher: ResumingFetcher | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = Path(home) / "updates"
        self.mirrors = [_mirror(url) for url in mirrors]
        self.fetcher = fetcher or HttpFetcher(max_bytes_per_second=max_bytes_per_second)
        self.clock = clock
        self._seen: dict[tuple[str, str, str], _Found] = {}

    # --- trust

    @property
    def pinned(self) -> bool:
        """Whether a root is pinned."""
        return self._root_file.is_file()

    def trust(
        self, root: bytes, *, fingerprint: str | None = None, replace: bool = False, where: object = "root.json"
    ) -> str:
        """Pins the root that everything else is verified from; gives its fingerprint, to be compared by eye.

        Args:
            root: a TUF root.json, of any version; later ones are found from there.
            fingerprint: what the publisher says it has to be; blanks and colons don't matter.
            replace: pin it in place of another one, and forget what was verified under that.
            where: the file it came from, for messages.

        Raises:
            UpdateError: it isn't a root that is signed by itself, or has another fingerprint.
            ConflictError: another one is pinned.
        """
        if len(root) > ROOT_BYTES:
            raise UpdateError(f"is larger than {ROOT_BYTES:,} bytes", where=where, remedy=_ANOTHER_ROOT)
        _compare(root, fingerprint, where)
        try:
            TrustedMetadataSet(root, EnvelopeType.METADATA)
        except exceptions.RepositoryError as error:
            raise UpdateError(f"can't be trusted: {_words(error)[0]}", where=where, remedy=_ANOTHER_ROOT) from None
        with self._locked():
            if self.pinned and self._root() != root:
                if not replace:
                    raise ConflictError(
                        f"another root is pinned, with fingerprint {_fingerprint(self._root())}",
                        where=self._root_file,
                        remedy="robustidps updates trust --replace, once you know why it is another",
                    )
                with writable(self._trusted):
                    if self._trusted.exists():
                        shutil.rmtree(self._trusted)
            write_atomically(self._root_file, root)
            self._seen.clear()
        return _fingerprint(root)

    def fingerprint(self, expected: str | None = None) -> str:
        """SHA-256 (hex) of the pinned root.json, all of its bytes, as `sha256sum root.json` prints it.

        Args:
            expected: what it has to be; blanks and colons don't matter.

        Raises:
            NotFoundError: no root is pinned. UpdateError: it isn't what is expected.
        """
        _compare(self._root(), expected, self._root_file)
        return _fingerprint(self._root())

    def forget_time(self) -> None:
        """Goes by the clock again, whatever later time was known. For a clock that was wrong once, and is right now."""
        with self._locked(), writable(self._time_file):
            self._time_file.unlink(missing_ok=True)

    def look(self) -> list[Answer]:
        """Asks every mirror for the top-level roles, and changes nothing here: new roots and times aren't kept either.

        Raises:
            NotFoundError: no root is pinned.
            RemoteUnavailableError: no mirror answers. UpdateError: none of those that answer can be trusted.
        """
        root, tried, found = self._root(), _Tried(), []
        for mirror in self.mirrors:
            with tempfile.TemporaryDirectory(prefix="robustidps-") as name:
                work, updater = Path(name), None
                try:
                    if self._trusted.is_dir():
                        shutil.copytree(self._trusted, work, symlinks=True, dirs_exist_ok=True)
                    updater = _Updater(work, mirror, self.fetcher, root, self._now())
                    updater.refresh()
                except (exceptions.RepositoryError, exceptions.DownloadError, UpdateError) as error:
                    tried.add(mirror, updater.at if updater else "root.json", error)
                else:
                    role, ends = updater.first_to_expire()
                    days = (ends.timestamp() - self.clock()) / 86_400
                    found.append(Answer(_shown(mirror), role, days))
        if not found:
            raise tried.error()
        return found

    # --- what there is

    def offers(self, models: Mapping[str, str] | None = None, *, progress: Progress = silent) -> list[Offer]:
        """What is offered, sorted by family, name and version (semver.org, oldest first).

        Args:
            models: registered model to family; only these are asked about. None: all there are.

        Raises:
            NotFoundError: no root is pinned.
            RemoteUnavailableError: no mirror answers.
            UpdateError: none of those that answer can be trusted; says what each did.
            ConflictError: another process has been at work for long. StorageError: nothing can be written.
        """
        with self._locked():
            found = self._check(models, progress)
        return [f.offer for f in found]

    def metadata(self, offer: Offer) -> ModelMetadata:
        """The version's metadata, from a small target of its own, in agreement with the offer.

        Raises:
            UpdateError: it is another one's, or no longer offered. And what `offers` raises.
        """
        with self._locked():
            found = self._found(offer)
            data = self._fetch(found, found.metadata, "metadata", silent).read_bytes()
            (self._partial / found.metadata.hashes["sha256"]).unlink(missing_ok=True)
        where = f"{offer.name} {offer.version}: {METADATA}"
        try:
            metadata = ModelMetadata.from_json(data, where=where)
        except RobustIDPSError as error:
            raise UpdateError(f"isn't metadata of a model: {error.problem}", where=where) from None
        said = {
            "name": (metadata.name, offer.name),
            "version": (metadata.version, offer.version),
            "family": (family_of(metadata), offer.family),
            "digest": (metadata.checksum, offer.digest),
            "schema digest": (metadata.schema_digest, offer.schema_digest),
        }
        for what, (here, there) in said.items():
            if here != there:
                raise UpdateError(f"its {what} is {here!r}, the offer says {there!r}", where=where)
        return metadata

    def download(self, offer: Offer, folder: Path, *, progress: Progress = silent) -> Path:
        """The offered archive as `folder`/bundle.tar, byte for byte as signed. A download that was cut off goes on.

        Args:
            folder: is made if it isn't there.

        Raises:
            UpdateError: it is no longer offered, or no mirror has what was signed. And what `offers` raises.
        """
        with self._locked():
            found = self._found(offer)
            part = self._fetch(found, found.bundle, f"downloading {offer.name} {offer.version}", progress)
            archive = Path(folder) / BUNDLE
            with writable(archive):
                archive.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(part, archive)
        return archive

    # --- below

    @property
    def _root_file(self) -> Path:
        return self.folder / "root.json"

    @property
    def _time_file(self) -> Path:
        return self.folder / "time.json"

    @property
    def _trusted(self) -> Path:
        return self.folder / "trusted"

    @property
    def _partial(self) -> Path:
        return self.folder / "partial"

    def _root(self) -> bytes:
        try:
            return self._root_file.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                "no root is pinned: nothing can be verified",
                where=self._root_file,
                remedy="get root.json from the publisher by a way you trust, then robustidps updates trust root.json",
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(self.folder / "lock", timeout=600)
            try:
                lock.acquire()
            except Timeout:
                raise ConflictError(
                    "another process has been asking the remote registry for ten minutes", where=self.folder
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _check(self, models: Mapping[str, str] | None, progress: Progress) -> list[_Found]:
        root, tried = self._root(), _Tried()
        if not self.mirrors:
            raise ConfigError(
                "no address of a remote registry",
                where="remote_registry_url",
                remedy="set ROBUSTIDPS_REMOTE_REGISTRY_URL",
            )
        for mirror in self.mirrors:
            progress("checking for updates", 0, None, note=_shown(mirror))
            with self._copy() as work:
                updater: _Updater | None = None
                try:
                    now = self._now()
                    updater = _Updater(work, mirror, self.fetcher, root, now)
                    updater.refresh()
                    found = self._enumerated(updater, models, mirror)
                except (exceptions.RepositoryError, exceptions.DownloadError, UpdateError) as error:
                    hint = self._after_failure(work, updater, error)
                    tried.add(mirror, updater.at if updater else "root.json", error, hint)
                    continue
                self._commit(work)
                self._remember(updater, [f.offer.created_at for f in found])
            self._seen |= {(f.offer.family, f.offer.name, f.offer.version): f for f in found}
            return found
        raise tried.error()

    def _enumerated(self, updater: _Updater, models: Mapping[str, str] | None, mirror: str) -> list[_Found]:
        known = updater.families()
        wanted = known if models is None else sorted(set(models.values()) & set(known))
        found: list[_Found] = []
        for family in wanted:
            signed, keys = updater.role(family)
            files: dict[tuple[str, str], dict[str, TargetFile]] = {}
            for path, info in signed.targets.items():
                place = parse_target(path)
                if place.family != family:
                    raise UpdateError(f"signs {printable(path, 120)}, which isn't its own", where=f"role {family}")
                files.setdefault((place.name, place.version), {})[place.file] = info
            for (name, version), pair in files.items():
                offer = _offer(family, name, version, pair, keys, signed.version, updater.root.version, mirror)
                if models is None or models.get(name) == family:
                    found.append(_Found(offer, pair[BUNDLE], pair[METADATA], updater.root.consistent_snapshot is True))
        return sorted(found, key=lambda f: (f.offer.family, f.offer.name, version_key(f.offer.version)))

    def _found(self, offer: Offer) -> _Found:
        """The offer with its targets; asked for anew where this object hasn't seen it.

        Raises:
            UpdateError: it isn't offered any more, or as something else.
        """
        key = (offer.family, offer.name, offer.version)
        if key not in self._seen or self._seen[key].offer.sha256 != offer.sha256:
            self._seen.pop(key, None)
            self._check({offer.name: offer.family}, silent)
        found = self._seen.get(key)
        if found is None or (found.offer.sha256, found.offer.digest) != (offer.sha256, offer.digest):
            state = "is no longer offered" if found is None else "is offered as another bundle by now"
            raise UpdateError(state, where=f"{offer.name} {offer.version}", remedy="check for updates again")
        return found

    def _fetch(self, found: _Found, info: TargetFile, stage: str, progress: Progress) -> Path:
        """The target's bytes, verified, in the folder of partial files."""
        folder, _, name = info.path.rpartition("/")
        path = f"{folder}/{next(iter(info.hashes.values()))}.{name}" if found.consistent else info.path
        with writable(self._partial):
            self._partial.mkdir(exist_ok=True, mode=0o700)
            self._drop_old()
        tried = _Tried()
        for mirror in sorted(self.mirrors, key=lambda m: m != found.offer.mirror):
            try:
                part = self.fetcher.fetch_target(
                    f"{mirror}/targets/{quote(path)}",
                    info.length,
                    info.hashes.get("sha256", ""),
                    self._partial,
                    stage=stage,
                    progress=progress,
                )
                with part.open("rb") as file:
                    info.verify_length_and_hashes(file)  # of all kinds that are signed
                return part
            except (exceptions.RepositoryError, exceptions.DownloadError) as error:
                tried.add(mirror, info.path, error)
        raise tried.error()

    def _drop_old(self) -> None:
        """Removes what nobody went on with for long."""
        for path in self._partial.iterdir():
            if path.stat().st_mtime < time.time() - _PARTIAL_DAYS * 86_400:
                path.unlink(missing_ok=True)

    # --- trusted metadata

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        with writable(self.folder):
            for left in self.folder.glob(".checking-*"):  # of a killed run: we hold the lock
                shutil.rmtree(left, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=".checking-", dir=self.folder))
            try:
                if self._trusted.is_dir():
                    shutil.copytree(self._trusted, work, symlinks=True, dirs_exist_ok=True)
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _commit(self, work: Path) -> None:
        """Puts verified metadata in place, file by file, in the order in which tuf writes it."""
        with writable(self._trusted):
            self._trusted.mkdir(exist_ok=True, mode=0o700)
        self._keep_roots(work)
        first = ["timestamp.json", "snapshot.json", "targets.json"]
        names = sorted(p.name for p in work.glob("*.json") if p.name not in ("root.json", *first))
        for name in [*first, *names]:
            _copy_if_new(work / name, self._trusted / name)

    def _keep_roots(self, work: Path) -> None:
        """New roots, that is: the pinned one is where it is."""
        history, pinned = self._trusted / "root_history", self._root()
        for path in sorted(work.glob("root_history/*.root.json"), key=lambda p: int(p.name.partition(".")[0])):
            if path.read_bytes() != pinned:
                with writable(history):
                    history.mkdir(parents=True, exist_ok=True, mode=0o700)
                _copy_if_new(path, history / path.name)

    def _after_failure(self, work: Path, updater: _Updater | None, error: Exception) -> str | None:
        """Keeps new roots, and that a time of expiry has passed. A hint, where time is what is wrong."""
        if updater is None:
            return None
        self._keep_roots(work)
        if not isinstance(error, exceptions.ExpiredMetadataError):
            return None
        clock, end = self.clock(), updater.expires() or self._last_end()
        behind = self._remembered() > clock
        if not behind and end is not None:
            self._write_time(min(clock, end.timestamp() + 1))
        if behind:
            return "the clock is behind what is known to have passed: set it; or robustidps updates trust --forget-time"
        return "the publisher has to refresh it; if this machine's clock is ahead, set it"

    # --- time

    def _now(self) -> datetime:
        return datetime.fromtimestamp(max(self.clock(), self._remembered()), UTC)

    def _remembered(self) -> float:
        try:
            seconds = json.loads(self._time_file.read_bytes())["seconds"]
            if not 0 <= seconds < 2**33:
                raise ValueError(seconds)
            return float(seconds)
        except FileNotFoundError:
            return 0.0
        except (ValueError, KeyError, TypeError):
            raise UpdateError(
                "the last trusted time can't be read",
                where=self._time_file,
                remedy="look at the clock, then robustidps updates trust --forget-time",
            ) from None

    def _remember(self, updater: _Updater, created: Sequence[datetime]) -> None:
        """Takes over the clock, and what publishers say is past, as long as the timestamp that vouches for it lives."""
        end = updater.expires()
        latest = max([self.clock(), *(c.timestamp() for c in created)])
        self._write_time(latest if end is None else min(latest, end.timestamp() - 1))

    def _last_end(self) -> datetime | None:
        """When the timestamp ends that was verified last: where the root has expired, tuf looks at none."""
        with contextlib.suppress(OSError, DeserializationError):
            return Metadata[Timestamp].from_bytes((self._trusted / "timestamp.json").read_bytes()).signed.expires
        return None

    def _write_time(self, seconds: float) -> None:
        if seconds > self._remembered():
            write_atomically(self._time_file, json.dumps({"seconds": round(seconds, 3)}).encode())


def _offer(
    family: str,
    name: str,
    version: str,
    pair: dict[str, TargetFile],
    keys: tuple[str, ...],
    metadata_version: int,
    root_version: int,
    mirror: str,
) -> Offer:
    where = f"{name} {version} of role {family}"
    if missing := {BUNDLE, METADATA} - pair.keys():
        raise UpdateError(f"{sorted(missing)[0]} isn't there: a version has both its files or none", where=where)
    bundle = pair[BUNDLE]
    for file, limit in ((bundle, MAX_BYTES), (pair[METADATA], _METADATA_BYTES)):
        if "sha256" not in file.hashes:
            raise UpdateError("is signed without a SHA-256", where=f"{where}: {file.path}")
        if file.length > limit:
            raise UpdateError(f"is signed with {file.length:,} bytes, more than {limit:,}", where=where)
    summary = Summary.read(bundle.custom, where)
    try:
        created = datetime.fromtimestamp(summary.created_at, UTC)
    except (ValueError, OverflowError, OSError):
        raise UpdateError("was made at no time that there is", where=where) from None
    return Offer(
        family=family,
        name=name,
        version=version,
        digest=summary.digest,
        schema_digest=summary.schema_digest,
        metrics=dict(summary.metrics),
        created_at=created,
        size=bundle.length,
        sha256=bundle.hashes["sha256"],
        keys=keys,
        metadata_version=metadata_version,
        root_version=root_version,
        mirror=mirror,
    )


def _paths(family: str) -> list[str] | None:
    """The paths a family's role has; None where the role isn't named as a family can be."""
    try:
        target(check_name(family, "family"), "x", "1.0.0")
    except NameInvalidError:
        return None
    return role_paths(family)


def _words(error: Exception) -> tuple[str, bool]:
    """What went wrong, and whether it is something that was sent (True) or that nothing came (False)."""
    said = printable(error, 200)
    kinds: list[tuple[type[Exception], str, bool]] = [
        (exceptions.ExpiredMetadataError, "has expired", True),
        (exceptions.UnsignedMetadataError, "isn't signed by enough of the keys that count", True),
        (exceptions.BadVersionNumberError, "is another version than it has to be", True),
        (exceptions.LengthOrHashMismatchError, "isn't the file that was signed", True),
        (DeserializationError, "isn't TUF metadata", True),
        (exceptions.RepositoryError, "can't be trusted", True),
        (exceptions.DownloadLengthMismatchError, "is longer than it may be", True),
        (exceptions.SlowRetrievalError, "comes too slowly", False),
        (exceptions.DownloadError, "can't be had", False),
    ]
    for kind, words, wrong in kinds:
        if isinstance(error, kind):
            return (f"{words} ({said})" if said else words), wrong
    return printable(error, 400), True


_ANOTHER_ROOT = "ask the publisher for root.json and its fingerprint, each by a way you trust"


def _compare(root: bytes, fingerprint: str | None, where: object) -> None:
    if fingerprint is not None and re.sub(r"[\s:]", "", fingerprint).lower() != _fingerprint(root):
        raise UpdateError(
            f"has the fingerprint {_fingerprint(root)}, not the one given", where=where, remedy=_ANOTHER_ROOT
        )


def _fingerprint(root: bytes) -> str:
    return hashlib.sha256(root).hexdigest()


def _copy_if_new(source: Path, to: Path) -> None:
    data = source.read_bytes()
    with writable(to):
        if not to.is_file() or to.read_bytes() != data:
            write_atomically(to, data)


def _shown(mirror: str) -> str:
    return printable(without_passwords(mirror), 200)


def _mirror(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            f"{printable(without_passwords(url), 120)!r} is no address of a mirror",
            where="remote_registry_url",
            remedy="give https://HOST/PATH",
        )
    return url.rstrip("/")
