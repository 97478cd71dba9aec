"""Judges a registered version and moves it, or records the refusal; the analysts' entry in the Prefect UI."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from robustidps.flows.forms import RuleSetName
from robustidps.tasks.registry import promote_version

__all__ = ["promote"]


@flow(name="promote", persist_result=True, result_serializer="json", validate_parameters=True)
def promote(
    name: str, version: str, stage: Literal["Staging", "Production"] = "Production", rules: RuleSetName | None = None
) -> list[dict[str, Any]]:
    """Asks the rules for each stage up to `stage`. A refusal is a result: the last outcome has `moved: false`.

    Args:
        name: Registered model.
        version: The version to move.
        stage: How far.
        rules: Rule set in configs/promotion; default is the version's own.
    """
    outcomes: list[dict[str, Any]] = promote_version(name, version, stage, rules)
    return outcomes
