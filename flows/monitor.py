"""Traffic of the models in production: a window, its figures, its record, its pages, and its alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from pydantic import Field

from robustidps.errors import RobustIDPSError, SchemaError, UnavailableError
from robustidps.monitoring.window import incoming
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.monitoring import (
    compare_window,
    draw_index,
    find_windows,
    link_in_mlflow,
    record_window,
    report_window,
    tell_alarms,
)

__all__ = ["monitor"]


@flow(name="monitor", persist_result=True, result_serializer="json", validate_parameters=True)
def monitor(
    models: list[str] | None = None,
    traffic: str | None = None,
    since: str | None = None,
    until: str | None = None,
    length_h: Annotated[float, Field(gt=0, le=8760)] | None = None,
    truncated: Literal["refuse", "use"] = "refuse",
) -> dict[str, Any]:
    """Traffic -> windows -> figures -> record, alarm -> pages -> MLflow -> event -> index.

    Args:
        models: Registered models; default is all that have a version in production.
        traffic: A capture, a Parquet file or a folder; default is incoming/MODEL in the home folder, else incoming.
        since: Flows after this time (UTC); default is what is newer than the window before.
        until: Flows up to this time (UTC); default is the newest flow.
        length_h: Cut into windows of so many hours; what fills none waits. Default is one window.
        truncated: A capture that is cut off; refuse it, or use its whole part.

    Returns:
        By model: `outcome` (`looked`, `nothing new`, `no traffic`, `failed`), `windows`, `error`.

    Raises:
        RobustIDPSError: the first of what went wrong, once every model has had its turn.
    """
    settings = get_settings()
    standing = ModelRegistry(settings=settings).models()
    chosen = models if models is not None else [m.name for m in standing if m.assignment.production]
    found: dict[str, Any] = {}
    problems: list[RobustIDPSError] = []
    for name in chosen:
        where = incoming(settings.home, name) if traffic is None else Path(traffic)
        if where is None:
            found[name] = {"outcome": "no traffic", "windows": [], "error": None}
            continue
        try:
            found[name] = _watch(name, str(where), since, until, length_h, truncated)
        except RobustIDPSError as error:
            if models is None and isinstance(error, SchemaError) and where.name != name:
                # A folder that all models share: what is of another schema is another model's.
                found[name] = {"outcome": "no traffic", "windows": [], "error": str(error)}
                continue
            get_run_logger().error("%s: %s", name, error)
            found[name] = {"outcome": "failed", "windows": [], "error": str(error)}
            problems.append(error)
    page = draw_index()
    if problems:
        raise problems[0]
    return {"models": found, "index": page}


def _watch(
    model: str,
    traffic: str,
    since: str | None,
    until: str | None,
    length_h: float | None,
    truncated: Literal["refuse", "use"],
) -> dict[str, Any]:
    there = find_windows(model, traffic, since, until, length_h, truncated)
    looked: list[dict[str, Any]] = []
    for wanted in there["ranges"]:
        compared = compare_window(model, there["files"], wanted)
        if compared is None:
            continue  # too few flows: they wait for the next window
        entered: dict[str, Any] = record_window(model, compared)
        entered |= report_window(model, entered["window"], compared)
        if entered["fresh"]:
            try:
                link_in_mlflow(model, entered["window"])
            except UnavailableError as error:  # the window is on record; MLflow only shows it
                get_run_logger().warning("%s is not shown in MLflow: %s", entered["window"], error)
        looked.append(entered)
    told = tell_alarms(model)
    fresh = any(window["fresh"] for window in looked)
    return {"outcome": "looked" if fresh else "nothing new", "windows": looked, "told": told, "error": None}
