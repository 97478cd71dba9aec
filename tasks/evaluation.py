"""Tasks that judge a bundle on held-out traffic, compare the traffic with what it was trained on, and make its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from robustidps.bundle import open_bundle
from robustidps.evaluation.base_rates import BaseRates, base_rates
from robustidps.evaluation.report import Evaluation
from robustidps.progress import current
from robustidps.settings import get_settings, writable
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load

__all__ = ["evaluate_model", "report_drift", "show_families", "write_evaluation_page"]


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
    rates = base_rates(evaluation, get_settings().alerts_per_analyst)
    files = draw(evaluation, predictions, traffic, folder, rates)
    target = folder / "evaluation.json"
    with writable(target):
        target.write_text(evaluation.model_dump_json(indent=2))
    _show(evaluation, rates)
    return {"evaluation": evaluation.model_dump(mode="json"), "files": [str(target), *map(str, files)]}


def _show(evaluation: Evaluation, rates: BaseRates) -> None:
    key = f"{evaluation.model}-evaluation".replace("_", "-")
    lines = [f"# {evaluation.model} {evaluation.version} on {evaluation.dataset}", ""]
    lines += [f"{evaluation.rows:,} held-out flows. Intervals: 95 %, resampled by {evaluation.blocks}.", ""]
    lines += ["| figure | value [95 % interval] |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in evaluation.headline.items()]
    header, table = rates.compact()
    lines += ["", f"## {rates.title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table]
    lines += ["", *(f"- {note}" for note in rates.notes)]
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


@task(name="write evaluation page", **PLAIN)
def write_evaluation_page(bundle: dict[str, Any], evaluated: dict[str, Any], split: str) -> dict[str, Any]:
    """Puts what `evaluate_model` found, and the drift report beside it, into one page; gives both, with `page` added.

    Args:
        split: how held-out traffic was set apart and what was dropped, as `SplitReport` tells it.
    """
    from robustidps.evaluation.background import Background
    from robustidps.evaluation.page import write_page

    evaluation = Evaluation.model_validate(evaluated["evaluation"])
    meta = open_bundle(Path(bundle["path"]), expected_digest=bundle["digest"]).metadata
    settings = get_settings()
    folder = settings.folder("reports", meta.name, meta.version)
    page = write_page(
        evaluation,
        folder,
        rates=base_rates(evaluation, settings.alerts_per_analyst),
        pictures=map(Path, evaluated["files"]),
        background=Background.of(meta, evaluation, folder, split=split),
    )
    key = f"{meta.name}-page".replace("_", "-")
    create_link_artifact(
        page.absolute().as_uri(),
        key=key,
        link_text=f"evaluation of {meta.name} {meta.version}",
        description="all figures, base rates and pictures on one page",
    )
    return evaluated | {"page": str(page), "files": [str(page), *evaluated["files"]]}


@task(name="compare families", **PLAIN)
def show_families(
    outcomes: dict[str, dict[str, Any]], skipped: dict[str, dict[str, str | None]], dataset: str
) -> list[dict[str, Any]]:
    """The families' figures side by side, and what failed or was left out, as a Prefect artefact; gives the rows."""
    from robustidps.pages import family_rows

    rows = family_rows(outcomes)
    header = list(rows[0])
    lines = [f"# Families on {dataset}", "", "Held-out flows; intervals: 95 %.", ""]
    lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(_cell(row[column]) for column in header)} |" for row in rows]
    failed = {family: o["error"]["problem"] for family, o in outcomes.items() if o["error"]}
    lines += ["", *(f"- {family} failed: {problem}" for family, problem in failed.items())]
    lines += [f"- {family} left out: {why['problem']}" for family, why in skipped.items()]
    create_markdown_artifact("\n".join(lines), key="families", description="families side by side")
    return rows


def _cell(value: Any) -> str:
    return str(value if value is not None else "-").replace("|", "\\|")
