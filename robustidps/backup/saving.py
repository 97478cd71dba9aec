"""Saving an installation: each part in one state of its own, in an order in which what refers comes before what it
refers to. The state store is read first, in one transaction that also verifies the ledger; whatever it names was in
MLflow before it was committed, so MLflow's rows and artefacts, read after it, have all of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from robustidps import __version__
from robustidps.backup import mlflow
from robustidps.backup.archive import FORMAT, FileFact, Manifest, Writer, writing
from robustidps.errors import InputError, NotFoundError, RobustIDPSError
from robustidps.judging import traffic_file
from robustidps.progress import Progress, silent
from robustidps.registry import state
from robustidps.registry.registry import ModelRegistry
from robustidps.registry.tracking import BUNDLE_FOLDER
from robustidps.settings import Settings

__all__ = ["ADDRESSES", "STATE_TABLES", "Saved", "save"]

STATE_TABLES = (
    *(state.version, state.assignment, state.decision, state.ledger_head),
    *(state.approval, state.drift_window, state.mlflow_request, state.webhook_seen, state.notified),
)
"""In an order in which each row's parents come first."""
ADDRESSES = (
    *("home", "database_url", "mlflow_tracking_uri", "mlflow_database_url", "prefect_database_url", "artifacts_uri"),
    *("loihi_python", "dask"),
)
"""Settings that say where this installation lies: neither saved nor restored, like all that may hold a secret, whose
fields are not to be shown (`repr=False`)."""


@dataclass(frozen=True)
class Saved:
    """path: the archive. missing: what belongs to it and couldn't be found. left_out: what no backup holds."""

    path: Path
    manifest: Manifest
    left_out: tuple[str, ...]


def save(registry: ModelRegistry, path: Path, *, with_key: bool = False, progress: Progress = silent) -> Saved:
    """Saves state, ledger, MLflow's rows and artefacts, held-out traffic, configurations and the public key.

    Args:
        path: the archive to be; a folder gets one named for the time.
        with_key: the private signing key as well: whoever has that file can then write decisions in this name.

    Raises:
        InputError: nothing is registered, or there is a file already.
        LedgerError: the ledger was edited; an older backup is what is needed then.
        RegistryUnavailableError, StorageError.
    """
    now = datetime.now(UTC)
    if path.is_dir():
        path = path / f"robustidps-{now:%Y%m%dT%H%M%SZ}.tar.gz"
    settings = registry.settings
    missing: list[str] = []
    facts: dict[str, Any] = {"release": __version__, "made_at": now.isoformat(timespec="seconds"), "format": FORMAT}

    def manifest(files: dict[str, FileFact]) -> Manifest:
        return Manifest(**facts, missing=missing, private_key=with_key, key_id=registry.ledger.key.key_id, files=files)

    with writing(path, registry.ledger.key, manifest) as archive:
        progress("saving", 0, None, note="state and ledger")
        versions = _state(registry, archive, facts)
        with mlflow.database(registry.tracking) as connection:
            from mlflow.version import VERSION

            facts |= {"mlflow_version": VERSION, "mlflow_revision": mlflow.revision(connection)}
            left_out = mlflow.left_out(connection)
            runs = []
            for name, rows in mlflow.dump(connection):
                archive.add(f"mlflow/{name}.jsonl", mlflow.as_lines(rows))
                runs += [str(row["run_uuid"]) for row in rows if name == "runs"]
        digests = {v["run_id"]: v for v in versions if v["status"] != "reserved"}
        for done, run_id in enumerate(runs):
            progress("saving", done, len(runs), unit="runs", note="artefacts")
            missing += _artefacts(registry, archive, run_id, digests.get(run_id))
        missing += [f"the run of {v['model']} {v['version']}" for r, v in digests.items() if r not in runs]
        judged_on = [
            (f"{v['model']} {v['version']}", json.loads(v["held_out"]) if v["held_out"] else {}) for v in versions
        ]
        missing += _traffic([*judged_on, *_updates(registry, archive, missing)], archive, settings.home)
        if (settings.home / "configs").is_dir():
            archive.add_folder("configs", settings.home / "configs")
        _settings(settings.home / "settings.yaml", archive)
        key = registry.ledger.key
        archive.add_file("keys/installation.pub", key.public_file)
        if key.former_file.exists():
            archive.add_file("keys/former.json", key.former_file)
        if with_key:
            archive.add_file("keys/installation.pem", key.private_file)
    if registry.settings.prefect_url:
        left_out.append("Prefect's runs: its PostgreSQL is saved by itself (pg_dump)")
    return Saved(path, manifest(archive.files), tuple(left_out))


def _state(registry: ModelRegistry, archive: Writer, facts: dict[str, Any]) -> list[dict[str, Any]]:
    with registry.store.read() as connection:
        report = registry.ledger.verify(connection)
        report.require()
        if not report.records:
            raise InputError("there is nothing to save yet", where=registry.store.where, remedy="register a model")
        tables = {t.name: [dict(r) for r in connection.execute(sa.select(t)).mappings()] for t in STATE_TABLES}
    for name, rows in tables.items():
        if name == "decision":
            rows.sort(key=lambda row: row["seq"])
        archive.add(f"state/{name}.jsonl", mlflow.as_lines(rows))
    counts: dict[str, int] = {}
    for row in tables["version"]:
        counts[row["model"]] = counts.get(row["model"], 0) + 1
    facts |= {"state_revision": state.REVISION, "ledger_seq": report.records, "ledger_hash": report.head}
    facts |= {"models": counts}
    return tables["version"]


def _artefacts(registry: ModelRegistry, archive: Writer, run_id: str, version: dict[str, Any] | None) -> Iterator[str]:
    """Saves a run's files; yields what is missing. A bundle that MLflow lost comes from the cache."""
    from robustidps.bundle import bundle_digest

    with tempfile.TemporaryDirectory(dir=registry.settings.folder("cache")) as name:
        folder = Path(name)
        with contextlib.suppress(NotFoundError):  # a run without files has no folder
            registry.tracking.fetch_files(run_id, folder)
        if version is not None:
            bundle, what = folder / BUNDLE_FOLDER, f"{version['model']} {version['version']}"
            good = bundle.is_dir() and bundle_digest(bundle) == version["digest"]
            if not good:
                try:
                    kept = registry.cache.check(version["digest"])
                except RobustIDPSError:
                    yield f"the bundle of {what}"
                else:
                    shutil.rmtree(bundle, ignore_errors=True)
                    shutil.copytree(kept, bundle)
        archive.add_folder(f"artifacts/{run_id}", folder)


def _traffic(judged_on: Iterable[tuple[str, dict[str, Any]]], archive: Writer, home: Path) -> Iterator[str]:
    """Saves each file of traffic that versions and updates are judged on, under its digest; yields what is missing."""
    from robustidps.judging import read_evaded, read_held_out

    done: set[str] = set()
    for where, held_out in judged_on:
        for recorded, read in ((held_out, read_held_out), (held_out.get("evaded") or {}, read_evaded)):
            path, digest = recorded.get("path"), recorded.get("digest")
            if not path or not digest or digest in done:
                continue
            done.add(digest)
            try:
                read(held_out, where, home=home)
                archive.add_file(f"traffic/{digest}.parquet", traffic_file(path, digest, home))
            except (RobustIDPSError, OSError) as error:
                yield f"traffic of {where}: {error}"


def _updates(registry: ModelRegistry, archive: Writer, missing: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Saves whom updates are believed, and what they are measured on where that is pinned; gives the traffic it names.

    Downloads, quarantine and working folders stay behind.
    """
    from robustidps.updates.evidence import pinned

    folder = registry.settings.home / "updates"
    for path in (folder / "root.json", folder / "time.json", *sorted((folder / "trusted").rglob("*.json"))):
        with contextlib.suppress(FileNotFoundError):
            archive.add(f"updates/{path.relative_to(folder).as_posix()}", path.read_bytes())
    named = []
    for file in sorted((folder / "benchmarks").glob("*.json")):
        try:
            found = pinned(registry, file.stem)
        except RobustIDPSError as error:  # as it is: whoever restores it is told the same
            missing.append(f"benchmark of {file.stem}: {error}")
        else:
            named += [] if found is None else [(f"updates of {file.stem}", found.held_out)]
        with contextlib.suppress(FileNotFoundError):  # it was taken back in this moment
            archive.add(f"updates/benchmarks/{file.name}", file.read_bytes())
    return named


def _settings(path: Path, archive: Writer) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return
    shown = {name for name, field in Settings.model_fields.items() if field.repr}
    kept = {key: value for key, value in content.items() if key in shown and key not in ADDRESSES}
    if kept:
        archive.add("settings.yaml", yaml.safe_dump(kept, allow_unicode=True).encode())
