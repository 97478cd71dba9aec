"""Tasks that talk to the registry. They are tried again while MLflow is away; refusals are results, not failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from robustidps.errors import VersionExistsError
from robustidps.evaluation.evasion import evaded_digest
from robustidps.evaluation.report import Evaluation
from robustidps.judging import promote
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN, RETRIED
from robustidps.tasks.references import load

__all__ = ["promote_version", "register_version", "release_version", "reserve_version"]


@task(name="reserve version", **RETRIED)
def reserve_version(name: str, version: str | None, breaking: bool) -> str:
    """A version number that nobody else can take; the next minor one by default."""
    registry = ModelRegistry(settings=get_settings())
    registry.tracking.ping()  # a training whose end couldn't be registered had better not begin
    return registry.reserve_version(name, version, breaking=breaking)


@task(name="release version", **PLAIN)
def release_version(name: str, version: str) -> None:
    """Gives a reserved number back after a training that failed."""
    ModelRegistry(settings=get_settings()).release_reservation(name, version)


@task(name="register version", **RETRIED)
def register_version(
    name: str,
    version: str,
    bundle: dict[str, Any],
    evaluated: dict[str, Any],
    drift: dict[str, Any] | None,
    held_out: dict[str, Any],
    *,
    dataset: str,
    rules: str,
    command: str,
    evaded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Registers the bundle in MLflow and the state store, with its curves, figures, pictures and reports."""
    registry = ModelRegistry(settings=get_settings())
    share = drift["summary"]["drifted_share"] if drift else None
    current()("registering", 0, 2)
    recorded: dict[str, Any] = {
        "path": held_out["path"],
        "digest": held_out["digest"],
        "dataset": dataset,
        "rules": rules,
        "drift_share": share,
    }
    if evaded:
        recorded["evaded"] = {"path": evaded["path"], "digest": evaded_digest(load(evaded))}
    try:
        registry.register_model(
            name,
            version,
            Path(bundle["path"]),
            held_out=recorded,
            history=bundle["history"],
            params=bundle["settings"],
            command=command,
        )
    except VersionExistsError:  # tried again: the try before got as far as this
        if registry.version(name, version).digest != bundle["digest"]:
            raise
    current()("registering", 1, 2)
    files = [Path(f) for f in evaluated["files"] + (drift["files"] if drift else [])]
    registry.log_evaluation(name, version, Evaluation.model_validate(evaluated["evaluation"]), files, drift_share=share)
    current()("registering", 2, 2)
    return {"name": name, "version": version, "digest": bundle["digest"]}


@task(name="promote version", **RETRIED)
def promote_version(name: str, version: str, stage: str, rules: str | None = None) -> list[dict[str, Any]]:
    """Asks the rules for each stage up to `stage`; moves the version as far as they let it, and records refusals."""
    outcomes = promote(ModelRegistry(settings=get_settings()), name, version, stage, rules=rules, progress=current())
    lines = [f"# Promotion of {name} {version}", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.stage}: {outcome.verdict.outcome}", ""]
        lines += [f"- {'passed' if r.passed else 'not passed'}: {r.text}" for r in outcome.verdict.results] + [""]
    create_markdown_artifact(
        "\n".join(lines), key=f"{name}-promotion".replace("_", "-"), description="what the rules said"
    )
    return [o.as_dict() for o in outcomes]
