"""Restoring an archive into an empty installation, wherever its settings say that it lies.

    checked      the whole archive, and that the target is empty; until here nothing is written
    begun        HOME/restore.json says so; from here on a run that is cut short is cleared away by the next one
    extracted    HOME/restore.part
    rows, files  MLflow's rows in one transaction, artefacts to where the settings say, each bundle's digest checked
    placed       traffic, configurations, keys
    committed    one transaction: the state's rows, the ledger verified, and a `restore` record for each model

The last one is the restore: without it there is no version, and what was left is cleared away. After it, what remains
(the witness, bundles for rollbacks) is completed by the same command, or by `registry repair`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from robustidps.backup import mlflow
from robustidps.backup.archive import Manifest, extract, read_manifest
from robustidps.backup.saving import STATE_TABLES
from robustidps.errors import (
    BundleError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    RobustIDPSError,
    StorageError,
    UnavailableError,
)
from robustidps.progress import Progress, silent
from robustidps.registry import state
from robustidps.registry.ledger import Decision, Ledger
from robustidps.registry.metadata import version_key
from robustidps.registry.records import acting
from robustidps.registry.registry import ModelRegistry
from robustidps.registry.stages import Course, stage_of
from robustidps.registry.steps import step
from robustidps.settings import Settings, writable, write_whole

__all__ = ["Restored", "restore"]

OWN = ("traffic", "configs", "artifacts", "keys", "updates")
"""Folders of home that a restore fills, and that have to be empty."""
_MARKER, _PART = "restore.json", "restore.part"


@dataclass(frozen=True)
class Restored:
    """manifest: of the archive. finished: only what an earlier run had left was completed."""

    manifest: Manifest
    finished: bool = False


def restore(archive: Path, settings: Settings, *, key_id: str | None = None, progress: Progress = silent) -> Restored:
    """Restores `archive` into the installation that `settings` describe, all or nothing.

    Args:
        key_id: the key that the archive has to be signed with, as `backup` printed it. Without it, that the archive is
            the one that was made rests on where it was kept.

    Raises:
        IntegrityError: the archive is damaged, changed or signed by another key; a LedgerError: its ledger was edited.
        RefusedError: the target isn't empty. UnavailableError: made by another release, or MLflow's schema differs.
        StorageError: no room.
    """
    progress("restoring", 0, None, note="checking the archive")
    manifest = read_manifest(archive)
    if key_id is not None and manifest.key_id != key_id:
        raise IntegrityError(
            f"is signed by {manifest.key_id[:16]}…, not by {key_id[:16]}…", where=archive, remedy="find out who made it"
        )
    if manifest.state_revision > state.REVISION:
        raise UnavailableError(
            f"its state is at revision {manifest.state_revision}; this release knows up to {state.REVISION}",
            where=archive,
            remedy=f"use the release that made it, {manifest.release}, or a later one",
        )
    registry = ModelRegistry(settings=settings)
    with registry.store.lock("restore", timeout_s=5):
        return _restored(archive, manifest, registry, progress)


def _restored(archive: Path, manifest: Manifest, registry: ModelRegistry, progress: Progress) -> Restored:
    home = registry.settings.home
    marker = home / _MARKER
    begun = marker.exists()
    if begun and _went_through(registry, manifest):
        _complete(registry)
        return Restored(manifest, finished=True)
    if begun and not _holds(registry):
        _undo(registry)
    _require_empty(registry, manifest)
    try:
        write_whole(marker, json.dumps({"ledger": manifest.ledger_hash}))
        step("restore.begun")
        progress("restoring", 0, None, note="extracting")
        extract(archive, manifest, home / _PART)
        step("restore.extracted")
        _mlflow(registry, manifest, progress)
        _place(registry, manifest)
        step("restore.placed")
        last = _commit(registry, manifest)
        step("restore.committed")
    except BaseException:
        registry.store.close()
        if not _holds(registry):
            _undo(registry)
        raise
    registry.ledger.remember(last)
    step("restore.witnessed")
    progress("restoring", 0, None, note="bundles for rollbacks")
    _complete(registry)
    return Restored(manifest)


def _went_through(registry: ModelRegistry, manifest: Manifest) -> bool:
    """Whether the state store holds what this archive holds."""
    column = state.decision.c
    with registry.store.read() as connection:
        query = sa.select(column.hash).where(column.seq == manifest.ledger_seq)
        return bool(connection.execute(query).scalar() == manifest.ledger_hash)


def _holds(registry: ModelRegistry) -> bool:
    """Whether the state store holds anything."""
    with registry.store.read() as connection:
        return any(connection.execute(sa.select(table).limit(1)).first() is not None for table in STATE_TABLES)


def _require_empty(registry: ModelRegistry, manifest: Manifest) -> None:
    home, remedy = registry.settings.home, "restore into an empty one (--to FOLDER, or other settings)"
    if _holds(registry):
        raise RefusedError("the installation is not empty", where=registry.store.where, remedy=remedy)
    for name in OWN:
        if (home / name).is_dir() and any((home / name).iterdir()):
            raise RefusedError("the home folder is not empty", where=home / name, remedy=remedy)
    with mlflow.database(registry.tracking) as connection:
        found = mlflow.revision(connection)
        if found != manifest.mlflow_revision:
            raise UnavailableError(
                f"MLflow's database here is at {found}, the backup's at {manifest.mlflow_revision}",
                where=registry.tracking.where,
                remedy=f"restore with mlflow=={manifest.mlflow_version}, then upgrade (robustidps registry upgrade)",
            )
        mlflow.require_empty(connection, registry.tracking.where)
    copies = 1 if registry.settings.artifacts_uri or not registry.settings.tracking_is_embedded else 2
    with writable(home):
        free = shutil.disk_usage(registry.settings.folder()).free
    if free < copies * manifest.size:
        raise StorageError(
            f"{copies * manifest.size / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free",
            where=home,
            remedy="free space, or restore elsewhere (--to)",
        )


def _rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    path = folder / name
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a row that is none")
                yield row
    except FileNotFoundError:
        return  # a table that came with a later release
    except ValueError as error:
        raise IntegrityError(f"can't be read as rows: {error}", where=name) from None


def _mlflow(registry: ModelRegistry, manifest: Manifest, progress: Progress) -> None:
    part = registry.settings.home / _PART
    with mlflow.database(registry.tracking, write=True) as connection:
        mlflow.load(connection, lambda name: _rows(part, f"mlflow/{name}.jsonl"), registry.tracking)
    step("restore.rows")
    runs = sorted(p for p in (part / "artifacts").glob("*") if p.is_dir())
    bundles = {row["run_id"]: row for row in _rows(part, "state/version.jsonl") if row["status"] != "reserved"}
    for done, run in enumerate(runs):
        progress("restoring", done, len(runs), unit="runs", note="artefacts")
        registry.tracking.upload_files(run.name, run)
        step(f"restore.artefacts.{done}")
        row = bundles.get(run.name)
        what = None if row is None else f"the bundle of {row['model']} {row['version']}"
        if row is not None and what not in manifest.missing:
            _require_bundle(registry, str(what), run.name, row["digest"])
        shutil.rmtree(run)


def _require_bundle(registry: ModelRegistry, what: str, run_id: str, digest: str) -> None:
    """That the bundle comes back from MLflow as it was registered."""
    from robustidps.bundle import bundle_digest

    folder = registry.settings.home / _PART / "fetched"
    with writable(folder):
        folder.mkdir()
    try:
        if bundle_digest(registry.tracking.fetch_bundle(run_id, folder)) != digest:
            raise BundleError("did not arrive as it was saved", where=what, remedy="look at the artefact store")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(registry: ModelRegistry, manifest: Manifest) -> None:
    home, key = registry.settings.home, registry.ledger.key
    part = home / _PART
    with writable(home):
        if (part / "traffic").is_dir():
            (home / "traffic").mkdir(exist_ok=True)
            (part / "traffic").rename(home / "traffic" / "kept")
        if (part / "configs").is_dir():
            shutil.rmtree(home / "configs", ignore_errors=True)  # empty, as was found out before
            (part / "configs").rename(home / "configs")
        if (part / "updates").is_dir():
            shutil.rmtree(home / "updates", ignore_errors=True)
            (part / "updates").rename(home / "updates")
    saved = part / "keys"
    if (saved / "former.json").exists():
        key.put_former((saved / "former.json").read_bytes())
    pem = (saved / "installation.pub").read_bytes()
    if manifest.private_key:
        key.put(pem, (saved / "installation.pem").read_bytes())
    else:
        key.retire(pem, manifest.ledger_seq)


def _commit(registry: ModelRegistry, manifest: Manifest) -> Decision:
    part = registry.settings.home / _PART
    with registry.store.write() as connection:
        for table in STATE_TABLES:
            rows = list(_rows(part, f"state/{table.name}.jsonl"))
            if rows and set(rows[0]) - set(table.columns.keys()):
                raise IntegrityError("has columns that this release doesn't know", where=f"state/{table.name}")
            for start in range(0, len(rows), 1000):
                connection.execute(sa.insert(table), rows[start : start + 1000])
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text(
                    "SELECT setval(pg_get_serial_sequence('mlflow_request', 'id'), "
                    "(SELECT COALESCE(MAX(id), 0) + 1 FROM mlflow_request), false)"
                )
            )
        report = registry.ledger.verify(connection)
        report.require()
        if (report.records, report.head) != (manifest.ledger_seq, manifest.ledger_hash):
            raise IntegrityError("the ledger ends elsewhere than the manifest says", where="state/decision.jsonl")
        return _record(connection, registry.ledger, manifest)


def _record(connection: Connection, ledger: Ledger, manifest: Manifest) -> Decision:
    """A `restore` record for each model that has a version; the last of them."""
    column, actor = state.version.c, acting(None, None)
    last: Decision | None = None
    for model in sorted(manifest.models):
        query = sa.select(state.version).where(column.model == model, column.status != "reserved")
        versions = {row["version"]: row for row in connection.execute(query).mappings()}
        if not versions:
            continue
        course, generation = Course(), 0
        for decision in ledger.of_model(connection, model):
            course.take(decision.action, decision.version, decision.to_stage)
            generation = max(generation, decision.generation)
        standing = course.standing()
        about = standing.production or max(versions, key=version_key)
        last = ledger.append(
            connection,
            {
                **{"model": model, "version": about, "action": "restore", "from_version": None, "rule_set": None},
                **{"from_stage": stage_of(standing, about), "to_stage": "None", "verdict": "recorded"},
                **{"actor": actor[0], "actor_source": actor[1], "standing": standing.roles()},
                "reasons": [
                    f"restored from the backup of {manifest.made_at}, which ended at row {manifest.ledger_seq}"
                ],
                "evidence": {
                    **{"made_at": manifest.made_at, "release": manifest.release, "key_id": manifest.key_id},
                    **{"ledger_hash": manifest.ledger_hash, "missing": manifest.missing},
                },
                **{"bundle_digest": versions[about]["digest"], "generation": generation},
            },
        )
    if last is None:
        raise IntegrityError("no version is registered in it", where="state/version.jsonl")
    return last


def _complete(registry: ModelRegistry) -> None:
    """What may be done again: the witness, the bundles that rollbacks need, and the end of the traces of a restore."""
    home = registry.settings.home
    last = registry.history()[-1]
    registry.ledger.remember(last)
    for summary in registry.models():
        assigned = summary.assignment
        for version in filter(None, (assigned.production, assigned.previous, assigned.staging)):
            try:
                registry.bundle(summary.name, version).close()
            except NotFoundError:
                continue  # it was missing when the backup was made, and is named as such
    registry.verify()
    settings = home / _PART / "settings.yaml"
    if settings.exists() and not (home / "settings.yaml").exists():
        with writable(home):
            settings.rename(home / "settings.yaml")
    shutil.rmtree(home / _PART, ignore_errors=True)
    with writable(home):
        (home / _MARKER).unlink(missing_ok=True)


def _undo(registry: ModelRegistry) -> None:
    """Clears away what a restore has put into an empty installation. Objects in S3 stay, to be written over."""
    home = registry.settings.home
    try:
        with mlflow.database(registry.tracking, write=True) as connection:
            mlflow.clear(connection)
    except RobustIDPSError:
        return  # the marker stays, and the next restore clears it away
    for name in (*OWN, _PART):
        shutil.rmtree(home / name, ignore_errors=True)
    registry.ledger.key.forget()
    (home / _MARKER).unlink(missing_ok=True)
