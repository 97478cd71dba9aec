"""`robustidps gc`: takes away what nobody needs any more, and never what is in use.

    Retention   after how long (`configs/retention.yaml`)
    collect     looks, says what and how much, and takes it away unless it is only asked

What a model's versions are needed for is read from the signed ledger; an edited one stops everything. A dry run is the
same code without the last step of each item.

Nothing is ever half removed: a file goes in one step, a folder is renamed first (`.gc-*`) and emptied then, and what a
killed `gc` left under such a name is finished by the next one. One runs at a time (`StateStore.lock`). What other
processes are at is told by locks where they hold one (`working`, the partial folders of bundles) and by age where they
don't: whatever is used is touched (`settings.used`), so that its age is the time since then.

A bundle is looked at twice: should its version have come into a stage while it was being taken away, it is put back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from robustidps.errors import ConflictError, RegistryUnavailableError, RobustIDPSError
from robustidps.folderlocks import held
from robustidps.monitoring.reviews import anchor_version
from robustidps.registry.metadata import version_key
from robustidps.registry.records import VersionRecord
from robustidps.registry.stages import HARDWARE, alias_of
from robustidps.registry.transitions import standing_of
from robustidps.settings import CONFIGS, Settings, load_yaml, writable

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["Collected", "Item", "Retention", "collect", "working"]

HOUR, DAY = 3600.0, 86_400.0
TRASH = ".gc-"
_PART = re.compile(r".+\.[0-9a-f]{8}\.(part|old)")
_COPY = re.compile(r"\.[0-9a-f]{16}\.[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRAFFIC = re.compile(r"(all|train|validation|test|evaded|ingested)-[0-9a-f]{16}\.parquet")
_SIMULATED = re.compile(r"simulated-[0-9a-f]{12}")
_BENCHMARK = re.compile(r"(evaded-)?[0-9a-f]{64}\.parquet")
_RUN = re.compile(r"(\d.*)-seed\d+|\.partial-.+")


class Retention(BaseModel):
    """`configs/retention.yaml`, which explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    leftovers_hours: float = Field(default=48, ge=1, le=24 * 365, allow_inf_nan=False)
    reservations_days: float = Field(default=7, ge=1, le=36_500, allow_inf_nan=False)
    downloads_days: float = Field(default=30, gt=0, le=36_500, allow_inf_nan=False)
    keep_rollbacks: int = Field(default=3, ge=1, le=1000)
    keep_newest: int = Field(default=10, ge=1, le=100_000)
    bundles_days: float = Field(default=30, ge=1, le=36_500, allow_inf_nan=False)
    reports_days: float = Field(default=180, gt=0, le=36_500, allow_inf_nan=False)
    drift_days: float = Field(default=90, gt=0, le=36_500, allow_inf_nan=False)
    traffic_days: float = Field(default=90, ge=1, le=36_500, allow_inf_nan=False)
    captures_days: float = Field(default=90, ge=1, le=36_500, allow_inf_nan=False)
    runs_days: float = Field(default=365, gt=0, le=36_500, allow_inf_nan=False)
    failed_runs_days: float = Field(default=30, gt=0, le=36_500, allow_inf_nan=False)
    purge_days: float | None = Field(default=None, gt=0, le=36_500, allow_inf_nan=False)

    @classmethod
    def load(cls, settings: Settings) -> Retention:
        """`retention.yaml`, from HOME/configs or ours. Raises ConfigError."""
        own = settings.home / "configs" / "retention.yaml"
        return load_yaml(own if own.is_file() else CONFIGS / "retention.yaml", cls)


@dataclass(frozen=True)
class Item:
    """One thing to take away. what: a path below the home folder, or a name. bytes: what that frees here. remove: takes
    it away; False where it had to stay after all.
    """

    kind: str
    what: str
    why: str
    bytes: int = 0
    remove: Callable[[], object] = field(repr=False, compare=False, default=lambda: None)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "what": self.what, "why": self.why, "bytes": self.bytes}


@dataclass
class Collected:
    """What was taken away (or would be), and what could not be looked at."""

    items: list[Item]
    problems: list[str]
    dry_run: bool

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        items = [item.as_dict() for item in self.items]
        return {"dry_run": self.dry_run, "bytes": self.bytes, "items": items, "problems": self.problems}


@contextmanager
def working(settings: Settings, name: str) -> Iterator[None]:
    """Tells `collect` for the length of the block, or of the process, that somebody works on a version of `name`."""
    with held(settings.folder("runs", name), shared=True):
        yield


def collect(registry: ModelRegistry, *, dry_run: bool = False, retention: Retention | None = None) -> Collected:
    """Takes away what `retention` says nobody needs.

    Args:
        dry_run: only say what that would be.
        retention: default: `configs/retention.yaml`.

    Raises:
        ConflictError: another one is at it. LedgerError: the ledger was edited; nothing is removed on its word.
        ConfigError.
    """
    found = Collected([], [], dry_run)
    with registry.store.lock("gc", timeout_s=0.5):
        sweep = _Sweep(registry, retention or Retention.load(registry.settings), found)
        for part in (
            sweep.leftovers,
            sweep.runs,
            sweep.reservations,
            sweep.bundles,
            sweep.traffic,
            sweep.updates,
            sweep.captures,
            sweep.reports,
            sweep.drift,
            sweep.mlflow,
        ):
            try:
                for item in part():
                    if dry_run or item.remove() is not False:
                        found.items.append(item)
            except RegistryUnavailableError as error:
                found.problems.append(str(error))
        if not dry_run:
            sweep.second_look()
            sweep.index()
    return found


class _Sweep:
    """One pass. What is in use is read once, and again at the end."""

    def __init__(self, registry: ModelRegistry, retention: Retention, found: Collected) -> None:
        self.registry, self.keep, self.found = registry, retention, found
        self.home = registry.settings.home
        self.now = time.time()
        self.records = [r for summary in registry.models() for r in registry.versions(summary.name)]
        self.needed = self._needed()

    def _needed(self) -> set[tuple[str, str]]:
        """(model, version) of everything that is in use, or may be gone back to."""
        from robustidps import approving

        needed: set[tuple[str, str]] = set()
        for model in {record.model for record in self.records}:
            decisions = self.registry.checked_history(model)
            standing = standing_of(decisions)
            assigned = self.registry.assignment(model)
            versions = {*standing.roles().values(), assigned.production, assigned.previous, assigned.staging}
            facts = [(d.action, d.version, d.to_stage) for d in decisions]
            versions |= {alias_of(facts, alias) for alias in HARDWARE}
            versions.add(anchor_version(decisions))  # what traffic is compared with, however old
            versions |= set(standing.tenures[-self.keep.keep_rollbacks - 1 :])
            newest = sorted((r.version for r in self.records if r.model == model), key=version_key)
            versions |= set(newest[-self.keep.keep_newest :])
            needed |= {(model, version) for version in versions if version is not None}
        return needed | {(r.model, r.version) for r in approving.waiting(self.registry)}

    # --- what work that was cut off left

    def leftovers(self) -> Iterator[Item]:
        limit, places = self.keep.leftovers_hours * HOUR, ("traffic", "captures", "reports", "updates/benchmarks")
        for place in places:
            for path in sorted((self.home / place).rglob("*")):
                if _PART.fullmatch(path.name) or path.name.startswith(TRASH):
                    yield from self._old(path, "leftover", limit)
        for path in _entries(self.home / "cache" / "fetch"):
            yield from self._old(path, "leftover", limit)
        for path in _entries(self.home / "cache" / "bundles"):
            if _COPY.fullmatch(path.name):
                yield from self._old(path, "leftover", limit)
        for path in sorted((self.home / "datasets").rglob("*")):
            if path.name.endswith((".part", ".part.json")) and path.is_file():
                yield from self._old(path, "download", self.keep.downloads_days * DAY)

    def runs(self) -> Iterator[Item]:
        """Folders of runs: nobody may be at work on the model, and it must have been quiet for long."""
        limit = self.keep.leftovers_hours * HOUR
        for folder in _entries(self.home / "runs"):
            if folder.name.startswith(("import-", TRASH)):
                yield from self._old(folder, "run folder", limit)
                continue
            with contextlib.suppress(BlockingIOError), held(folder, wait=False):
                for path in _entries(folder):
                    if _RUN.fullmatch(path.name) or path.name.startswith(TRASH):
                        yield from self._old(path, "run folder", limit)

    def reservations(self) -> Iterator[Item]:
        for record in self.records:
            days = (self.now - record.created_at.timestamp()) / DAY
            if record.status != "reserved" or days < self.keep.reservations_days:
                continue
            if record.digest and self.registry.cache.has(record.digest):
                continue  # its registration was cut short; `registry repair` finishes it
            folder = self.registry.settings.folder("runs", record.model)
            with contextlib.suppress(BlockingIOError), held(folder, wait=False):

                def release(record: VersionRecord = record) -> None:
                    self.registry.release_reservation(record.model, record.version)

                what = f"{record.model} {record.version}"
                yield Item("reserved number", what, f"reserved {days:.0f} days ago", 0, release)

    # --- what versions don't need

    def bundles(self) -> Iterator[Item]:
        """Kept bundles: of versions that aren't needed, and of none at all."""
        kept = self._digests(self.needed)
        reserved = {r.digest for r in self.records if r.status == "reserved"}
        known = {r.digest: f"{r.model} {r.version}" for r in self.records}
        for path in _entries(self.home / "cache" / "bundles"):
            if not _DIGEST.fullmatch(path.name) or path.name in kept or path.name in reserved:
                continue
            limit = self.keep.bundles_days * DAY if path.name in known else self.keep.leftovers_hours * HOUR
            yield from self._old(path, "bundle", limit, known.get(path.name, "of no version"))

    def _digests(self, versions: set[tuple[str, str]]) -> set[str | None]:
        return {r.digest for r in self.records if (r.model, r.version) in versions}

    def second_look(self) -> None:
        """Finishes bundles that were put aside, now or by a `gc` that was killed; one whose version has come into use
        meanwhile is put back."""
        aside = [p for p in _entries(self.home / "cache" / "bundles") if p.name.startswith(TRASH)]
        if not aside:
            return
        self.records = [r for summary in self.registry.models() for r in self.registry.versions(summary.name)]
        kept = self._digests(self._needed())
        for path in aside:
            digest = path.name.removeprefix(TRASH).partition("-")[0]
            if digest in kept and not self.registry.cache.has(digest):
                with contextlib.suppress(OSError):  # somebody has fetched it in this moment
                    path.rename(path.with_name(digest))
                self.found.items = [i for i in self.found.items if not i.what.endswith(digest)]
            shutil.rmtree(path, ignore_errors=True)

    def traffic(self) -> Iterator[Item]:
        """Parts of data sets, but none that a version which isn't withdrawn is judged by."""
        judged_by = self._judged_by()
        for path in _entries(self.home / "traffic"):
            if _TRAFFIC.fullmatch(path.name) and os.path.realpath(path) not in judged_by:
                yield from self._old(path, "traffic", self.keep.traffic_days * DAY)

    def _judged_by(self) -> set[str]:
        """Files of traffic that versions which aren't withdrawn are judged by."""
        return {
            os.path.realpath(path)
            for record in self.records
            if record.status != "withdrawn" and record.held_out
            for path in _paths(record.held_out)
        }

    def updates(self) -> Iterator[Item]:
        """What killed updates left, and rows of benchmarks that no pin names and no version is judged by.

        Who is at work on an update holds its lock, or that of its folder in quarantine.
        """
        from robustidps.updates import evidence

        folder, limit = self.home / "updates", self.keep.leftovers_hours * HOUR
        for path in _entries(folder / "work"):
            for item in self._old(path, "leftover", limit):
                yield replace(item, remove=partial(self._undo_update, path.name))
        for path in _entries(folder / "quarantine"):
            with contextlib.suppress(BlockingIOError, NotADirectoryError), held(path, wait=False):
                yield from self._old(path, "leftover", limit)
        for path in _entries(folder):
            if path.name.startswith((".checking-", TRASH)):
                yield from self._old(path, "leftover", limit)
        for path in _entries(folder / "partial"):
            yield from self._old(path, "download", self.keep.downloads_days * DAY)
        kept = self._judged_by()
        for file in sorted((folder / "benchmarks").glob("*.json")):
            try:
                pinned = evidence.pinned(self.registry, file.stem)
            except RobustIDPSError as error:
                self.found.problems.append(str(error))
                return  # what it named isn't known
            kept |= set() if pinned is None else {os.path.realpath(path) for path in _paths(pinned.held_out)}
        for path in _entries(folder / "benchmarks"):
            if _BENCHMARK.fullmatch(path.name) and os.path.realpath(path) not in kept:
                yield from self._old(path, "benchmark", self.keep.traffic_days * DAY)

    def _undo_update(self, name: str) -> bool:
        """As the next update of the model would: a number that it had reserved is free again."""
        from robustidps.updates.working import working_on

        try:
            with working_on(self.registry, name):
                return True
        except ConflictError:
            return False  # somebody is at it

    def captures(self) -> Iterator[Item]:
        """Simulated captures; those of your own are yours."""
        for path in _entries(self.home / "captures"):
            if _SIMULATED.fullmatch(path.name):
                yield from self._old(path, "captures", self.keep.captures_days * DAY)

    def reports(self) -> Iterator[Item]:
        for record in self.records:
            folder = self.home / "reports" / record.model / record.version
            if (record.model, record.version) not in self.needed and folder.is_dir():
                yield from self._old(folder, "report", self.keep.reports_days * DAY)

    def drift(self) -> Iterator[Item]:
        """Reports of windows, and what Evidently's workspace has of the same; their figures stay on record."""
        from robustidps.monitoring import windows

        limit = self.keep.drift_days * DAY
        models = {record.model for record in self.records}
        kept = {m: windows.reported(self.registry, m, self.registry.checked_history(m)) for m in sorted(models)}
        for model in kept:
            for path in _entries(self.home / "reports" / "drift" / model):
                if windows.ID.fullmatch(path.name) and path.name not in kept[model]:
                    yield from self._old(path, "drift report", limit)
        for project in _entries(self.home / "reports" / "evidently"):
            model = _name_in(project / "metadata.json")
            for path in _entries(project / "snapshots") if model in kept else ():
                for item in self._old(path, "drift snapshot", limit):
                    window = _name_in(path)
                    if windows.ID.fullmatch(window) and window not in kept[model]:
                        yield replace(item, why=f"{window}, {item.why}")

    def index(self) -> None:
        """Links to no report that has gone, now or by a `gc` that was killed."""
        from robustidps.monitoring.index import write_index

        if (self.home / "reports" / "index.html").is_file():
            try:
                write_index(self.registry)
            except RobustIDPSError as error:
                self.found.problems.append(str(error))

    def mlflow(self) -> Iterator[Item]:
        """Runs in MLflow: marked as deleted first; for good later, where that is asked for."""
        tracking = self.registry.tracking
        ours = {record.run_id for record in self.records if record.run_id}
        gone = {r.run_id for r in self.records if r.run_id and r.status == "withdrawn"}
        if not ours and tracking.settings.tracking_uri.startswith("sqlite"):
            file = Path(tracking.settings.tracking_uri.removeprefix("sqlite:///"))
            if not file.exists():
                return  # nothing was ever logged
        retired = tracking.retired_runs()
        for record in self.records:
            old = self.now - record.created_at.timestamp() > self.keep.runs_days * DAY
            unneeded = (record.model, record.version) not in self.needed
            over = record.status == "withdrawn" or record.stage == "Archived"
            if record.run_id and old and unneeded and over and record.run_id not in retired:
                yield self._retired(record.run_id, f"{record.model} {record.version}, {record.stage.lower()}")
        for run_id, what in tracking.abandoned_runs(self.now - self.keep.failed_runs_days * DAY):
            if run_id not in ours:
                yield self._retired(run_id, what)
        if self.keep.purge_days is not None:
            before = self.now - self.keep.purge_days * DAY
            due = sorted(i for i, since in retired.items() if since < before and (i in gone or i not in ours))
            if due:
                what = f"{len(due)} runs"
                yield Item("MLflow runs, for good", what, "marked long ago", 0, lambda: tracking.purge_runs(due))

    def _retired(self, run_id: str, what: str) -> Item:
        return Item("MLflow run", run_id, what, 0, lambda: self.registry.tracking.retire_run(run_id))

    # --- taking away

    def _old(self, path: Path, kind: str, limit: float, more: str = "") -> Iterator[Item]:
        """An item for `path`, if nothing in it was touched for `limit` seconds, or it was put aside already."""
        size, touched = _measured(path)
        idle = self.now - touched
        if idle < limit and not path.name.startswith(TRASH):
            return
        try:
            what = str(path.relative_to(self.home))
        except ValueError:
            what = str(path)
        why = ", ".join(filter(None, (more, f"unused for {idle / DAY:.1f} days")))
        yield Item(kind, what, why, size, lambda: self._remove(path, limit))

    def _remove(self, path: Path, limit: float) -> bool:
        """Whether it went: somebody may have used it since it was looked at."""
        if time.time() - _measured(path)[1] < limit and not path.name.startswith(TRASH):
            return False
        with writable(path), contextlib.suppress(FileNotFoundError):
            if not path.is_dir() or path.is_symlink():
                path.unlink()
                return True
            aside = path
            if not path.name.startswith(TRASH):
                aside = path.with_name(f"{TRASH}{path.name}-{secrets.token_hex(4)}")
                path.rename(aside)
            if path.parent != self.home / "cache" / "bundles":
                shutil.rmtree(aside, ignore_errors=True)  # bundles: after the second look
        return True


def _paths(held_out: dict[str, Any]) -> list[str]:
    """The files that recorded traffic names."""
    recorded = [held_out.get("path"), (held_out.get("evaded") or {}).get("path")]
    return [str(path) for path in recorded if path]


def _name_in(file: Path) -> str:
    """The `name` that a JSON file of Evidently's gives; empty where it gives none."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(content.get("name") or "") if isinstance(content, dict) else ""


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _measured(path: Path) -> tuple[int, float]:
    """(bytes, last touched) of a file, or of all that is in a folder; links are not followed."""
    size, touched = 0, 0.0
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    for entry in (path, *inside):
        with contextlib.suppress(FileNotFoundError):
            status = entry.lstat()
            size += status.st_size if not entry.is_dir() else 0
            touched = max(touched, status.st_mtime)
    return size, touched
