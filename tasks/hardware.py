"""The task that runs a version's circuit on a device. It is never tried again: a job may be paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from robustidps.evaluation.hardware import HardwareEvaluation, evaluate_on_hardware
from robustidps.families import Target
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN

__all__ = ["run_on_hardware"]


@task(name="run on hardware", **PLAIN)
def run_on_hardware(name: str, version: str, target: dict[str, Any], rows: int, on: str | None) -> dict[str, Any]:
    """Runs and judges; gives the evaluation, with the `file` it was written to, and shows it as a Prefect artefact."""
    report, file = evaluate_on_hardware(
        ModelRegistry(settings=get_settings()),
        name,
        version,
        Target(**target),
        rows=rows,
        on=Path(on) if on else None,
        progress=current(),
    )
    _show(report)
    return report.model_dump(mode="json") | {"file": str(file)}


def _show(report: HardwareEvaluation) -> None:
    lines = [f"# {report.model} {report.version} on {report.target}", ""]
    lines += ["| figure | on the device | noiseless | difference |", "|---|---|---|---|"]
    for entry in report.differences:
        lines.append(f"| {entry.metric} | {entry.candidate:.4f} | {entry.champion:.4f} | {entry.difference} |")
    lines += ["", *(f"- {key}: {value}" for key, value in report.facts.items()), f"- rows: {report.rows}"]
    create_markdown_artifact(
        "\n".join(lines), key=f"{report.model}-hardware".replace("_", "-"), description="a circuit on a device"
    )
