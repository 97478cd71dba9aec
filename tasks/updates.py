"""Tasks of the updater: each is one step of `robustidps.updates.installing`. What goes from one to the next is JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.transactions import Transaction

from robustidps.errors import ConflictError, ModelValidationError, RefusedError
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN, RETRIED
from robustidps.updates import installing
from robustidps.updates.offers import Update

__all__ = ["activate_update", "check_updates", "download_update", "stage_update", "validate_update", "verify_update"]


@task(name="check for updates", **RETRIED)
def check_updates(models: list[str]) -> list[dict[str, Any]]:
    """The newest update of each model that nothing speaks against; downloads no model."""
    registry = _registry()
    found = installing.look(registry, installing.open_remote(registry.settings), models, progress=current())
    lines = [f"- {update}" for update in found] or ["Nothing newer than what is here."]
    create_markdown_artifact("\n".join(["# Updates", "", *lines]), key="updates", description="what is on offer")
    return [update.as_dict() for update in found]


@task(name="download update", **RETRIED)
def download_update(update: dict[str, Any], folder: str) -> str:
    """The verified archive; what the version requires is looked at before anything large is fetched."""
    registry, wanted = _registry(), Update.of(update)
    remote = installing.open_remote(registry.settings)
    return str(installing.download(registry, remote, wanted, Path(folder), progress=current()))


@task(name="verify update", **PLAIN)
def verify_update(update: dict[str, Any], archive: str, folder: str) -> dict[str, Any]:
    """The bundle, out of quarantine: audited, tried in a process of its own, its requirements met."""
    registry, wanted = _registry(), Update.of(update)
    return installing.verify(registry, wanted, Path(archive), Path(folder), progress=current())


@task(name="validate update", **PLAIN)
def validate_update(update: dict[str, Any], admitted: dict[str, Any] | None, rules: str | None) -> dict[str, Any]:
    """Measured on traffic of ours beside production, and what the rules say; `admitted` is None for a version that
    waits in Staging already."""
    registry, wanted = _registry(), Update.of(update)
    there = admitted or installing.waiting(registry, wanted) or {}
    judged = installing.validate(registry, wanted, there, rules=rules, progress=current())
    lines = [f"# {wanted}", "", f"Judged on: {judged['tier']} traffic."]
    for verdict in (judged["staging"], judged["production"]):
        lines += ["", f"## {verdict['stage']}: {verdict['outcome']}", ""]
        lines += [f"- {'passed' if r['passed'] else 'not passed'}: {r['text']}" for r in verdict["results"]]
    create_markdown_artifact(
        "\n".join(lines), key=f"{wanted.name}-update".replace("_", "-"), description="what the rules said"
    )
    return judged


@task(name="stage update", **PLAIN)
def stage_update(update: dict[str, Any], admitted: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """Registers it with its provenance and puts it into Staging; what was judged, with the generation that gave."""
    decision = installing.stage(_registry(), Update.of(update), admitted, judged)
    return judged | {"generation": decision.generation}


@stage_update.on_rollback
def _unstage(transaction: Transaction) -> None:
    """A later step broke: the version that was staged is archived."""
    update = transaction.get("update", None)
    if update is not None:
        installing.undo_stage(_registry(), Update.of(update), "a later step of the update failed")


@task(name="activate update", **PLAIN)
def activate_update(update: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """Puts it into Production if the rules let it. That they don't is a result: the version stays in Staging."""
    try:
        installing.activate(_registry(), Update.of(update), judged)
    except (ModelValidationError, RefusedError, ConflictError) as error:
        return {"activated": False, "reason": str(error)}
    return {"activated": True, "reason": None}


def _registry() -> ModelRegistry:
    return ModelRegistry(settings=get_settings())
