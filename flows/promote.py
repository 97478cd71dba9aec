"""Judges a registered version and moves it, or records the refusal; the analysts' entry in the Prefect UI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from robustidps.tasks.registry import promote_version

__all__ = ["promote"]


@flow(name="promote", persist_result=True, result_serializer="json", validate_parameters=True)
def promote(
    name: Annotated[str, Field(description="registered model")],
    version: Annotated[str, Field(description="the version to move")],
    stage: Annotated[Literal["Staging", "Production"], Field(description="how far")] = "Production",
    rules: Annotated[str | None, Field(description="rule set in configs/promotion; default: the version's own")] = None,
) -> list[dict[str, Any]]:
    """Asks the rules for each stage up to `stage`. A refusal is a result: the last outcome has `moved: false`."""
    outcomes: list[dict[str, Any]] = promote_version(name, version, stage, rules)
    return outcomes
