"""Registering a bundle, so that a process killed anywhere leaves nothing that the next call can't finish or clean away.

    reserved        the version's row, with the bundle's digest; the number is taken, the version isn't there yet
    cached          a verified copy of the bundle on this machine
    run, uploaded   the MLflow run (found again by the digest in its tag) and the bundle in its artefacts
    version         MLflow's model version with source `runs:/RUN/bundle` (found again by its run)
    committed       one transaction: the row becomes `registered` and the ledger records the digest

Each effect is looked for before it is made. The same bundle offered again goes on where the last call ended; another
one under the same number first takes back what the last call left in MLflow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from robustidps.errors import BundleError, InputError, NotFoundError, RegistryUnavailableError, VersionExistsError
from robustidps.registry import state
from robustidps.registry.cache import BundleCache
from robustidps.registry.ledger import Ledger, canonical
from robustidps.registry.metadata import ModelMetadata, check_version, next_version
from robustidps.registry.steps import step
from robustidps.registry.tracking import TAG, Tracking
from robustidps.registry.transitions import Move, commit
from robustidps.settings import Settings, check_name

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = ["Registration"]

log = logging.getLogger(__name__)

# Figures at training time that are worth a column in MLflow's list of versions.
SHOWN = ("accuracy", "macro_f1", "false_positive_rate", "latency_ms")


@dataclass(frozen=True)
class Registration:
    """Reserves numbers and enters versions; the methods are `ModelRegistry`'s, which documents them."""

    settings: Settings
    store: state.StateStore
    ledger: Ledger
    cache: BundleCache
    tracking: Tracking

    def reserve(self, name: str, version: str | None, breaking: bool, digest: str | None = None) -> str:
        check_name(name)
        if version is not None:
            check_version(version)
        with self.store.write() as connection:
            self.ledger.require_end(connection)  # a number of a lost store would be given twice
            query = sa.select(state.version).where(state.version.c.model == name)
            taken = {str(row["version"]): row for row in connection.execute(query).mappings()}
            chosen = version or next_version(list(taken), breaking=breaking)
            if digest is not None and chosen in taken:
                row = taken[chosen]
                if (row["status"], row["digest"]) == ("reserved", digest):
                    return chosen
            if chosen in taken:
                raise VersionExistsError(
                    "that version exists already",
                    where=f"{name} {chosen}",
                    remedy=f"the next free one is {next_version(list(taken))}",
                )
            connection.execute(sa.insert(state.version).values(**self._reservation(name, chosen, digest=digest)))
        return chosen

    def release(self, name: str, version: str, digest: str | None = None) -> bool:
        check_name(name)
        column = state.version.c
        mine = (column.model == name) & (column.version == version) & (column.status == "reserved")
        if digest is not None:
            mine &= column.digest == digest
        with self.store.lock(f"register-{name}"), self.store.write() as connection:
            row = connection.execute(sa.select(state.version).where(mine)).mappings().first()
            connection.execute(sa.delete(state.version).where(mine))
        if row is not None and row["run_id"]:
            self._clean_up(name, row["run_id"])
        return row is not None

    def register(
        self,
        name: str,
        version: str,
        model_path: Path,
        metadata: ModelMetadata | None,
        *,
        held_out: Mapping[str, Any] | None,
        run_id: str | None,
        history: Any,
        params: Mapping[str, Any] | None,
        command: str,
        actor: tuple[str, str],
        provenance: Mapping[str, Any] | None,
        digest: str | None,
    ) -> None:
        check_name(name)
        check_version(version)
        bundle = self._offered(name, version, model_path, metadata, digest)
        with self.store.lock(f"register-{name}"):
            row = self._row(name, version)
            if row is not None and row["status"] != "reserved":
                raise _registered_already(name, version, row["digest"] == bundle.digest)
            # Whether MLflow answers is found out before anything is entered anywhere.
            self.tracking.ping()
            if row is not None and row["run_id"] and row["digest"] not in (None, bundle.digest):
                self._clean_up(name, row["run_id"])
                row = None
            run_id = run_id or (row["run_id"] if row else None)
            self._reserve_for(name, version, bundle, held_out, run_id)
            step("register.reserved")
            self.cache.add(bundle.path, bundle.digest)
            step("register.cached")
            if run_id is None:
                run_id = self._own_run(bundle, history, params, command)
                with self.store.write() as connection:
                    connection.execute(_update(name, version).values(run_id=run_id))
                step("register.run")
            number = self._upload(bundle, run_id)
            move = Move(
                name, version, "register", "None", *actor, evidence=_facts(bundle.metadata, held_out, provenance)
            )
            values = {"status": "registered", "mlflow_version": number, "run_id": run_id, "digest": bundle.digest}
            commit(self.store, self.ledger, move, version_values=values)

    def _offered(
        self, name: str, version: str, path: Path, metadata: ModelMetadata | None, digest: str | None
    ) -> Bundle:
        if not (path / "metadata.json").is_file():
            raise InputError(
                "is not a bundle folder; only bundles are taken",
                where=path,
                remedy="make one with robustidps.bundle.write_bundle, or train with `robustidps train`",
            )
        from robustidps.bundle import open_bundle

        bundle = open_bundle(path, expected_digest=digest)
        bundle.close()
        found = bundle.metadata
        if (found.name, found.version) != (name, version):
            raise InputError(f"is {found.name} {found.version}, not {name} {version}", where=path)
        if metadata is not None and metadata.model_copy(update={"checksum": found.checksum}) != found:
            given, own = metadata.model_dump(), found.model_dump()
            differs = sorted(k for k in own if k != "checksum" and given[k] != own[k])
            raise InputError(f"the metadata given differs from the bundle's in {', '.join(differs)}", where=path)
        if metadata is not None and metadata.checksum not in ("", found.checksum):
            raise BundleError("the metadata given names another checksum than the bundle's", where=path)
        return bundle

    def _reservation(self, name: str, version: str, **values: Any) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        base = {"model": name, "version": version, "status": "reserved", "created_at": now}
        return base | {"author": self.settings.author} | values

    def _reserve_for(
        self, name: str, version: str, bundle: Bundle, held_out: Mapping[str, Any] | None, run_id: str | None
    ) -> None:
        values: dict[str, Any] = {"digest": bundle.digest, "author": bundle.metadata.author, "run_id": run_id}
        values["held_out"] = None if held_out is None else canonical(held_out)
        with self.store.write() as connection:
            if not connection.execute(_update(name, version).values(**values)).rowcount:
                connection.execute(sa.insert(state.version).values(**self._reservation(name, version, **values)))

    def _row(self, name: str, version: str) -> RowMapping | None:
        query = sa.select(state.version).where(state.version.c.model == name, state.version.c.version == version)
        with self.store.read() as connection:
            return connection.execute(query).mappings().first()

    def _own_run(self, bundle: Bundle, history: Any, params: Mapping[str, Any] | None, command: str) -> str:
        meta = bundle.metadata
        # A run that was begun for this very bundle by a process that was killed is used again.
        run_id = self.tracking.find_run(meta.name, "digest", bundle.digest)
        if run_id is None:
            data = meta.training.data_digest if meta.training else ""
            tags = {
                TAG + "digest": bundle.digest,
                TAG + "data_digest": data,
                TAG + "repeat": command,
                "mlflow.user": meta.author,
            }
            run_id = self.tracking.start_run(meta.name, meta.version, {k: v for k, v in tags.items() if v})
        facts = meta.training.model_dump(exclude={"settings"}) if meta.training else {}
        self.tracking.log_parameters(
            run_id, {"family": meta.family, "framework": meta.framework, **facts, **(params or {})}
        )
        self.tracking.log_curves(run_id, _epochs(history))
        self.tracking.log_metrics(run_id, meta.performance_metrics)
        return run_id

    def _upload(self, bundle: Bundle, run_id: str) -> int:
        meta = bundle.metadata
        self.tracking.upload_bundle(run_id, bundle.path)
        step("register.uploaded")
        self.tracking.ensure_model(meta.name, f"{meta.family} on schema {meta.schema_digest[:12]}")
        tags = {
            TAG + "version": meta.version,
            TAG + "digest": bundle.digest,
            TAG + "stage": "None",
            TAG + "family": meta.family,
        }
        tags |= {key: f"{value:.4f}" for key, value in meta.performance_metrics.items() if key in SHOWN}
        number = self.tracking.ensure_version(meta.name, run_id, tags, meta.description)
        step("register.version")
        run = self.tracking.client.get_run(run_id)
        if run.info.status == "RUNNING" and run.data.tags.get(TAG + "digest") == bundle.digest:
            self.tracking.end_run(run_id)
        step("register.run-ended")
        return number

    def _clean_up(self, name: str, run_id: str) -> None:
        """Marks what an abandoned registration left in MLflow, so that nobody takes it for a version."""
        try:
            self.tracking.drop_versions(name, run_id)
            self.tracking.end_run(run_id, "FAILED")
        except (RegistryUnavailableError, NotFoundError) as error:
            log.warning("an abandoned run of %s stays in MLflow: %s", name, error)


def _update(name: str, version: str) -> sa.Update:
    return sa.update(state.version).where(state.version.c.model == name, state.version.c.version == version)


def _epochs(history: Any) -> list[Mapping[str, float]]:
    """Figures per epoch, whether they come as a list of mappings or as a mapping of lists."""
    if not history:
        return []
    if isinstance(history, Mapping):
        return [dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)]
    return [dict(entry) for entry in history]


def _facts(
    metadata: ModelMetadata, held_out: Mapping[str, Any] | None, provenance: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a registration's record keeps of the bundle's own claims, what it is judged on, where it is from."""
    keys = {"family", "schema_digest", "performance_metrics", "training", "author", "description"}
    return (
        metadata.model_dump(mode="json", include=keys)
        | {"held_out": held_out}
        | ({} if provenance is None else {"provenance": dict(provenance)})
    )


def _registered_already(name: str, version: str, same: bool) -> VersionExistsError:
    what = "is registered already, with this very content" if same else "is registered already, with other content"
    return VersionExistsError(
        what, where=f"{name} {version}", remedy="nothing to do" if same else "give the bundle a new version"
    )
