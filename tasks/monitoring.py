"""Tasks that look at traffic of models in production: a window's figures, its record, its pages, its alarm."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.events import emit_event

from robustidps.errors import InputError
from robustidps.monitoring import labels
from robustidps.monitoring.figures import Measured, WindowFigures
from robustidps.monitoring.index import write_index
from robustidps.monitoring.reports import evidently_report, write_page
from robustidps.monitoring.window import Range
from robustidps.monitoring.windows import (
    Case,
    DriftWindow,
    announced,
    enter,
    look,
    next_windows,
    position,
    report_folder,
    reviews_of,
    unannounced,
    window,
)
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN, RETRIED
from robustidps.tasks.references import load, store

__all__ = [
    "ALARM",
    "compare_window",
    "draw_index",
    "find_windows",
    "gather_labels",
    "link_in_mlflow",
    "record_window",
    "report_window",
    "tell_alarms",
]

ALARM = "robustidps.drift.alarm"
"""The event of an alarm. Its resource is `robustidps.model.NAME`; its payload has `model`, `version` and `window`."""


def _registry() -> ModelRegistry:
    return ModelRegistry(settings=get_settings())


def _seconds(text: str | None, what: str) -> float | None:
    """An ISO 8601 moment as seconds since 1970; one without a zone is UTC. Raises InputError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no time", where=what, remedy="write it as 2026-01-05T10:00:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@task(name="find windows", **PLAIN)
def find_windows(
    model: str,
    traffic: str,
    since: str | None,
    until: str | None,
    length_h: float | None,
    truncated: Literal["refuse", "use"],
) -> dict[str, Any]:
    """The files of traffic, and the ranges of time in them that a model's traffic wasn't looked at yet."""
    files, found = next_windows(
        _registry(),
        model,
        Path(traffic),
        folder=get_settings().folder("traffic"),
        since=_seconds(since, "since"),
        until=_seconds(until, "until"),
        length_s=None if length_h is None else length_h * 3600,
        truncated=truncated,
        progress=current(),
    )
    return {"files": [str(f) for f in files], "ranges": [[r.since, r.until] for r in found]}


@task(name="compare window", **PLAIN)
def compare_window(model: str, files: list[str], wanted: list[float | None]) -> dict[str, Any] | None:
    """A window's figures over all of its flows, and a sample of them as a reference; None for too few flows."""
    case = Case.of(_registry(), model)
    found = look(case, [Path(f) for f in files], Range(*wanted), progress=current())
    if found is None:
        return None
    sample = store(found.sample, get_settings().folder("runs", "monitor"), f"{model}-sample")
    return {"figures": found.figures.model_dump(mode="json"), "sample": sample.model_dump()}


@task(name="record window", **PLAIN)
def record_window(model: str, compared: dict[str, Any]) -> dict[str, Any]:
    """Puts a window on record, and its alarm into the ledger where it is one."""
    registry = _registry()
    entered = enter(registry, Case.of(registry, model), WindowFigures.model_validate(compared["figures"]))
    row = entered.window
    return {
        "window": row.id,
        "version": row.version,
        "status": row.status,
        "rows": row.rows,
        "reasons": row.reasons,
        "silenced": row.silenced,
        "fresh": entered.fresh,
        "alarm": entered.alarm is not None,
    }


@task(name="report window", **PLAIN)
def report_window(model: str, window_id: str, compared: dict[str, Any]) -> dict[str, Any]:
    """Writes a window's pages, Evidently's of a sample among them, and shows both as Prefect artefacts."""
    registry, settings = _registry(), get_settings()
    row = window(registry, model, window_id)
    case = Case.of(registry, model)
    sample = load(compared["sample"])
    if row.version == case.version:
        figures = WindowFigures.model_validate(compared["figures"])
        found = Measured(figures, sample, case.bundle.probabilities(sample.features))
        evidently_report(registry, case, row, found, progress=current())
    Path(compared["sample"]["path"]).unlink(missing_ok=True)
    files = write_page(registry, row, reviews_of(registry, model).get(row.id))
    address = f"{settings.reports_url}/{row.report}/{files[0].name}"
    key = f"{model}-traffic".replace("_", "-")
    create_link_artifact(address, key=f"{key}-page", link_text=f"{model} {row.version}: {row.ended:%Y-%m-%d %H:%M} UTC")
    create_markdown_artifact(_summary(row, address), key=key, description="a window of traffic beside its reference")
    return {"page": str(files[0]), "address": address, "files": [str(f) for f in files]}


def _summary(row: DriftWindow, address: str) -> str:
    figures = row.measured
    lines = [
        f"# {row.model} {row.version}: {row.status}",
        "",
        f"{row.rows:,} flows until {row.ended:%Y-%m-%d %H:%M} UTC.",
    ]
    lines += ["", f"- {len(figures.reference.moved)} of {len(figures.columns)} columns moved from the reference"]
    if figures.anchor is not None:
        lines.append(f"- {len(figures.anchor.moved)} from the early anchor ({row.anchor})")
    lines.append(f"- {figures.alert_share:.2%} of flows raised an alert")
    lines += [f"- {reason}" for reason in row.reasons]
    return "\n".join([*lines, "", f"[The report]({address})"])


@task(name="link in MLflow", **RETRIED)
def link_in_mlflow(model: str, window_id: str) -> None:
    """A window's figures as curves in the version's run, its pages as artefacts, and a tag that leads to the report."""
    registry, settings = _registry(), get_settings()
    row = window(registry, model, window_id)
    figures = row.measured
    curves = {
        "share_moved": figures.reference.share,
        "share_moved_from_anchor": figures.anchor.share if figures.anchor else None,
        "prediction_distance": figures.reference.prediction_distance,
        "alert_share": figures.alert_share,
        "accuracy": figures.labelled.accuracy.value if figures.labelled else None,
    }
    pages = [p for p in sorted(report_folder(registry, row).glob("drift.*")) if p.is_file()]
    registry.log_report(
        model,
        row.version,
        "traffic",
        {key: value for key, value in curves.items() if value is not None},
        pages,  # Evidently's page, 8 MB, stays where it is served
        folder=f"traffic/{row.id}",
        step=position(registry, row),
        tags={
            "traffic": f"{row.status}, {row.ended:%Y-%m-%d %H:%M} UTC",
            "drift_report": f"{settings.reports_url}/{row.report}/{pages[0].name}" if pages else "",
        },
    )


@task(name="tell alarms", **PLAIN)
def tell_alarms(model: str) -> list[str]:
    """Sends an event for each alarm on record of which none was sent; gives the windows."""
    registry = _registry()
    told = []
    for row in unannounced(registry, model):
        emit_event(
            event=ALARM,
            resource={"prefect.resource.id": f"robustidps.model.{model}", "prefect.resource.name": model},
            payload={"model": model, "version": row.version, "window": row.id, "reasons": row.reasons},
        )
        announced(registry, row)
        told.append(row.id)
    return told


@task(name="draw index", **PLAIN)
def draw_index() -> str:
    """The page over all models."""
    return str(write_index(_registry()))


@task(name="gather labels", **PLAIN)
def gather_labels(model: str, window_id: str) -> dict[str, Any]:
    """Whether a model may be retrained because of a window's alarm, and the labelled flows to do it with. What comes
    of it is in the ledger afterwards, a remark included."""
    registry, settings = _registry(), get_settings()
    version = registry.resolve(model, "production").version
    with registry.store.lock(f"retrain-{model}"):  # of two that ask at once, the second sees that it was retrained
        with registry.store.read() as connection:
            decisions = registry.ledger.checked_of_model(connection, model)
        config = labels.retraining(model)
        why = labels.may_retrain(decisions, window_id, config)
        gathered = None
        if why is None and config is not None:
            gathered = labels.gather(registry, model, config)
            why = gathered.shortage
        labels.started(registry, model, version, window_id, gathered, why or "")
    if why is not None or gathered is None or gathered.split is None or config is None:
        return {"go": False, "why": why or ""}
    split = gathered.split
    folder = settings.folder("traffic")
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    references = {name: store(part, folder, name).model_dump() for name, part in parts.items()}
    record = registry.version(model, version)
    return {
        "go": True,
        "why": "",
        "cut": references | {"report": split.report.to_dict() | {"text": str(split.report)}, "evaded": None},
        "family": registry.bundle(model, version).metadata.family,
        "rules": config.rules or (record.held_out or {}).get("rules") or "default",
        "promote_to": config.promote_to,
        "overrides": config.overrides,
        "facts": gathered.facts,
    }
