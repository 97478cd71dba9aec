"""Tasks that judge a bundle on held-out traffic, draw it, and compare the traffic with what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from robustidps.bundle import open_bundle
from robustidps.evaluation.report import Evaluation
from robustidps.progress import current
from robustidps.settings import get_settings, writable
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load

__all__ = ["evaluate_model", "report_drift"]


@task(name="evaluate model", **PLAIN)
def evaluate_model(
    bundle: dict[str, Any],
    held_out: dict[str, Any],
    dataset: str,
    timing: bool = True,
    evaded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Figures with intervals, and pictures; gives the evaluation and the files, and shows both as Prefect artefacts."""
    from robustidps.evaluation.evaluate import evaluate
    from robustidps.evaluation.plots import draw

    traffic = load(held_out)
    opened = open_bundle(Path(bundle["path"]), expected_digest=bundle["digest"])
    altered = load(evaded) if evaded else None
    evaluation, predictions = evaluate(
        opened, traffic, dataset=dataset, evaded=altered, timing=timing, progress=current()
    )
    meta = opened.metadata
    folder = get_settings().folder("reports", meta.name, meta.version)
    current()("drawing", 0, 1)
    files = draw(evaluation, predictions, traffic, folder)
    target = folder / "evaluation.json"
    with writable(target):
        target.write_text(evaluation.model_dump_json(indent=2))
    _show(evaluation)
    return {"evaluation": evaluation.model_dump(mode="json"), "files": [str(target), *map(str, files)]}


def _show(evaluation: Evaluation) -> None:
    key = f"{evaluation.model}-evaluation".replace("_", "-")
    lines = [f"# {evaluation.model} {evaluation.version} on {evaluation.dataset}", ""]
    lines += [f"{evaluation.rows:,} held-out flows. Intervals: 95 %, resampled by {evaluation.blocks}.", ""]
    lines += ["| figure | value [95 % interval] |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in evaluation.headline.items()]
    create_markdown_artifact("\n".join(lines), key=key, description="figures on held-out traffic")
    rows = [
        {"class": label, "precision": e.precision, "recall": e.recall.value, "F1": e.f1, "support": e.support}
        for label, e in evaluation.classes.items()
    ]
    create_table_artifact(rows, key=f"{key}-classes", description="figures per class")


@task(name="report drift", **PLAIN)
def report_drift(bundle: dict[str, Any], reference: dict[str, Any], held_out: dict[str, Any]) -> dict[str, Any]:
    """Held-out traffic against training traffic, with Evidently; gives the summary and the report's files."""
    from robustidps.evaluation.drift import drift_report

    opened = open_bundle(Path(bundle["path"]), expected_digest=bundle["digest"])
    before, after = load(reference), load(held_out)
    meta = opened.metadata
    folder = get_settings().folder("reports", meta.name, meta.version)
    summary = drift_report(
        before,
        after,
        folder,
        reference_probabilities=opened.probabilities(before.features),
        current_probabilities=opened.probabilities(after.features),
        progress=current(),
    )
    files = [folder / name for name in summary.files.values()]
    page = next(file for file in files if file.suffix == ".html")
    key = f"{meta.name}-drift".replace("_", "-")
    create_link_artifact(page.absolute().as_uri(), key=key, link_text=f"drift report of {meta.name} {meta.version}")
    return {"summary": summary.model_dump(mode="json"), "headline": summary.headline, "files": [str(f) for f in files]}
