"""Tasks that take a spiking version to the Loihi simulation, file the report, and ask whether it may go to the chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from robustidps.loihi import gate
from robustidps.loihi.exporting import export_version
from robustidps.loihi.report import LoihiReport, markdown
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN, RETRIED

__all__ = ["ask_for_alias", "file_loihi_report", "simulate_on_loihi"]


@task(name="simulate on Loihi", **PLAIN)
def simulate_on_loihi(
    name: str,
    version: str | None,
    rows: int,
    on: str | None = None,
    calibrate_on: str | None = None,
    out: str | None = None,
    limit_s: float = 1800.0,
) -> dict[str, Any]:
    """Quantises and simulates a version; gives the report and its files."""
    report, files = export_version(
        ModelRegistry(settings=get_settings()),
        name,
        version,
        rows=rows,
        on=Path(on) if on else None,
        calibrate_on=Path(calibrate_on) if calibrate_on else None,
        out=Path(out) if out else None,
        limit_s=limit_s,
        progress=current(),
    )
    return {"report": report.model_dump(mode="json"), "files": [str(file.absolute()) for file in files]}


@task(name="file Loihi report", **RETRIED)
def file_loihi_report(simulated: dict[str, Any]) -> None:
    """Puts the report into MLflow, with the version's run, and shows it as a Prefect artefact."""
    report = LoihiReport.model_validate(simulated["report"])
    registry = ModelRegistry(settings=get_settings())
    registry.log_report(report.model, report.version, "loihi", report.figures(), map(Path, simulated["files"]))
    key = f"{report.model}-loihi".replace("_", "-")
    create_markdown_artifact(markdown(report), key=key, description="the model on Loihi, simulated")


@task(name="ask for alias loihi", **RETRIED)
def ask_for_alias(simulated: dict[str, Any]) -> dict[str, Any]:
    """Lets the version take the alias `loihi` if its report meets all requirements; a refusal is recorded too."""
    report = LoihiReport.model_validate(simulated["report"])
    evidence = report.model_dump(mode="json", exclude={"claims", "on_chip"})
    decision = ModelRegistry(settings=get_settings()).take_alias(
        report.model, report.version, "loihi", verdict=gate.verdict(report), evidence=evidence, rule_set="loihi"
    )
    return {"action": decision.action, "verdict": decision.verdict, "reasons": list(decision.reasons)}
