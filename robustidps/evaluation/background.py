"""What the evaluation page says about a model beside its figures: where it comes from, how its traffic has drifted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.evaluation.report import Evaluation

if TYPE_CHECKING:
    from robustidps.evaluation.drift import DriftSummary
    from robustidps.registry.metadata import ModelMetadata

__all__ = ["Background", "moment"]


@dataclass(frozen=True)
class Background:
    """Sentences for the page, each empty where nothing is known.

    description: the version's own. training: what it was trained on. split: how held-out traffic was set apart, and
    what was dropped. drift: the drift report's headline; drift_page: that report's path, relative to the page.
    """

    description: str = ""
    training: str = ""
    split: str = ""
    drift: str = ""
    drift_page: str = ""

    @classmethod
    def of(
        cls, meta: ModelMetadata, evaluation: Evaluation, folder: Path, *, split: str = "", reports: Path | None = None
    ) -> Background:
        """What a bundle says of itself, and the drift report if there is one of the very traffic that was judged on.

        Args:
            folder: where the page will lie. reports: where the drift report does; default: `folder`.
        """
        facts, trained = meta.training, ""
        if facts:
            trained = f"{facts.dataset}, {facts.rows:,} flows"
            if facts.time_from is not None:
                trained += f", {moment(facts.time_from)} to {moment(facts.time_to)} UTC (validation included)"
            trained += f"; seed {facts.seed}"
        reports = reports or folder
        summary = _drift_summary(reports / "drift.json")
        if summary is None or summary.current_digest != evaluation.data_digest:
            return cls(meta.description, trained, split)
        return cls(
            meta.description, trained, split, summary.headline, os.path.relpath(reports / summary.files["html"], folder)
        )


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as day and minute, UTC."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _drift_summary(file: Path) -> DriftSummary | None:
    from robustidps.evaluation.drift import DriftSummary

    try:
        return DriftSummary.model_validate_json(file.read_bytes())
    except (OSError, ValueError):  # none was made, or not by this version: the page does without
        return None
