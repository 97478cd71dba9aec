"""What a version says about itself in MLflow: headline figures with intervals; where evaluation, drift and data are.

Markdown, as MLflow shows it on the version's page and on the run's. Links are relative to MLflow's own page, so that
they hold whatever address it is reached under.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import printable
from robustidps.registry.records import VersionRecord

if TYPE_CHECKING:
    from robustidps.evaluation.report import Evaluation
    from robustidps.registry.metadata import TrainingFacts

__all__ = ["HEADLINE", "MARK", "describe"]

HEADLINE = ("accuracy", "macro_f1", "false_positive_rate", "alert_recall", "alert_false_positive_rate")
"""Held-out figures that MLflow's list of versions shows, with their intervals; all others are in the run."""
MARK = "*From RobustIDPS, with the last evaluation:*"
"""What stands between a person's own description and ours."""


def describe(
    record: VersionRecord,
    experiment_id: str,
    evaluation: Evaluation,
    files: Iterable[Path],
    training: TrainingFacts | None = None,
) -> str:
    """Our part of a version's description.

    Args:
        files: what was put into the run's folder `evaluation`; pages and the drift summary among them get a link.
    """
    run = f"#/experiments/{experiment_id}/runs/{record.run_id}"
    at = f"{run}/artifacts/evaluation"
    figures = [f"| {key} | {evaluation.headline[key]} |" for key in HEADLINE if key in evaluation.headline]
    names = sorted(Path(file).name for file in files if Path(file).suffix in (".html", ".json"))
    links = [f"[{_title(name)}]({at}/{name})" for name in names] + [f"[figures]({at}/evaluation.json)"]
    links.append(f"[run: curves, parameters, artefacts]({run})")
    held_out = record.held_out or {}
    where = f" in `{_plain(held_out['path'])}`" if held_out.get("path") else ""
    data = [f"Judged on {_plain(evaluation.dataset)}{where}, rows of digest `{evaluation.data_digest[:12]}`."]
    if training is not None:
        data.append(
            f"Trained on {_plain(training.dataset)}, {training.rows:,} rows of digest `{training.data_digest[:12]}`."
        )
    head = f"On {evaluation.rows:,} held-out rows, with 95 % intervals:"
    shown = "\n".join(["| figure | value |", "|---|---|", *figures])
    return "\n\n".join([MARK, head, shown, " · ".join(links), " ".join(data)])


def _title(name: str) -> str:
    stem = Path(name).stem
    return {"evaluation": "evaluation page", "drift": "drift report"}.get(stem, stem.replace("_", " "))


def _plain(text: object) -> str:
    return "".join("?" if c in "`|[]<>" else c for c in printable(text, 300))
