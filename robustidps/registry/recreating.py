"""What was deleted or renamed in MLflow is brought back: the model's name, its versions, their artefacts.

A version is made again from its run, whose bundle is fetched and held against the registered digest, or, where run or
bundle are gone, from the copy that is kept on this machine. Each is recorded with its new number in MLflow, in one
commit; a version of which nothing is left is recorded as lost, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustidps.errors import BundleError, IntegrityError, NotFoundError, RegistryUnavailableError
from robustidps.registry.ledger import Decision
from robustidps.registry.picture import Request, Wanted
from robustidps.registry.records import VersionRecord
from robustidps.registry.registration import SHOWN
from robustidps.registry.steps import step
from robustidps.registry.tracking import TAG
from robustidps.registry.transitions import Move, commit

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["LOST", "bring_back", "renamed_to"]

LOST = "lost"
Actor = Callable[[Request], tuple[str, str, int | None]]


def renamed_to(registry: ModelRegistry, name: str, wanted: Wanted) -> str | None:
    """The name that the model's versions now lie under in MLflow; None if they are nowhere."""
    with registry.tracking.errors():
        for run_id in wanted.runs.values():
            for found in registry.tracking.client.search_model_versions(f"run_id = '{run_id}'"):
                if found.name != name:
                    return str(found.name)
    return None


def bring_back(registry: ModelRegistry, record: VersionRecord, history: list[Decision], who: Actor) -> Decision | None:
    """Makes a version again that is no longer in MLflow; the decision that records it, None if it was lost before.

    Raises:
        RegistryUnavailableError: MLflow doesn't answer; the next call goes on.
    """
    request = Request("version-deleted", "", str(record.mlflow_version))
    before = [d for d in history if d.version == record.version and d.action == "restore"]
    if before and before[-1].verdict == LOST:
        return None
    actor, source, evidence_id = who(request)
    facts: dict[str, Any] = {"request": request.as_dict() | {"id": evidence_id}}
    values: dict[str, Any] | None = None
    verdict = "recorded"
    try:
        run_id, origin = _run_of(registry, record)
        note = registry.tracking.note_of(run_id)
        number = registry.tracking.ensure_version(record.model, run_id, _tags(record, history), note)
        step("restore.version")
        values = {"mlflow_version": number, "run_id": run_id}
        facts |= {"mlflow_version": number, "run_id": run_id}
        reason = f"was deleted in MLflow; made again from {origin} as MLflow version {number}"
    except (NotFoundError, BundleError) as error:
        verdict, reason = LOST, f"was deleted in MLflow and can't be made again: {error}"
    move = Move(record.model, record.version, "restore", "None", actor, source, verdict, (reason,), facts)
    return commit(registry.store, registry.ledger, move, version_values=values)


def _run_of(registry: ModelRegistry, record: VersionRecord) -> tuple[str, str]:
    """A run that holds the version's bundle, and where that came from. Raises NotFoundError, BundleError."""
    tracking, run_id = registry.tracking, record.run_id or ""
    try:
        with tracking.errors():
            if tracking.client.get_run(run_id).info.lifecycle_stage == "deleted":
                tracking.client.restore_run(run_id)
        with registry.fetched(record):
            return run_id, "its run"
    except RegistryUnavailableError:
        raise
    except (NotFoundError, BundleError, IntegrityError):
        kept = registry.cache.check(record.digest or "")  # nothing is left where it isn't kept here either
    made = tracking.find_run(record.model, "restored", str(record.digest))
    if made is None:
        own = {TAG + "restored": str(record.digest), TAG + "digest": str(record.digest)}
        made = tracking.start_run(record.model, record.version, own)
    tracking.upload_bundle(made, kept)
    tracking.end_run(made)
    step("restore.uploaded")
    return made, "the bundle kept on this machine"


def _tags(record: VersionRecord, history: list[Decision]) -> dict[str, str]:
    registered = next(d for d in history if d.action == "register" and d.version == record.version)
    figures = dict(registered.evidence.get("performance_metrics") or {})
    tags = {
        TAG + "version": record.version,
        TAG + "digest": str(record.digest),
        TAG + "stage": record.stage,
        TAG + "family": str(registered.evidence.get("family") or ""),
    }
    return tags | {key: f"{value:.4f}" for key, value in figures.items() if key in SHOWN}
