"""What an evaluation says: figures with intervals, as plain data that JSON, MLflow, rules and pages all take from.

`Evaluation.metric(name)` is how promotion rules read it; the names are listed in `docs/evaluation.md`. A figure that
couldn't be computed is None with a sentence in `notes`, never 0 and never left to be assumed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ClassFigures", "Evaluation", "Interval", "PairedDifference", "Timing"]


class Interval(BaseModel):
    """A figure with its 95 % interval; low and high are None where there were too few blocks to resample."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return format(self, ".4f")

    def __format__(self, spec: str) -> str:
        """`0.9769 [0.9688, 0.9833]`, each figure by `spec` (four decimals without one)."""
        spec = spec or ".4f"
        if self.value is None:
            return "n/a"
        if self.low is None or self.high is None:
            return format(self.value, spec)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class ClassFigures(BaseModel):
    """One class against the rest, by argmax of the probabilities. None where there is no row (or no prediction)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: float | None
    recall: Interval
    f1: float | None
    support: int
    alert_recall: float | None = Field(default=None, description="share of its rows that raise an alert of any class")


class Timing(BaseModel):
    """ONNX Runtime on one thread of this host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int
    p50_ms: float
    p99_ms: float
    rows_per_second: float


class Evaluation(BaseModel):
    """One model version on one held-out set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    model: str
    version: str
    bundle_digest: str
    dataset: str
    data_digest: str
    rows: int
    time_from: float | None
    time_to: float | None
    classes: dict[str, ClassFigures]
    confusion: list[list[int]] = Field(description="rows: true class, columns: predicted class, in schema order")
    headline: dict[str, Interval] = Field(description="figures with block-bootstrap intervals, by metric name")
    figures: dict[str, float | None] = Field(description="further scalar figures, by metric name")
    timings: list[Timing] = Field(default_factory=list)
    windows: list[dict[str, float | None]] = Field(
        default_factory=list, description="time-ordered windows behind `stability`"
    )
    blocks: str = Field(description="what was resampled: campaign, day or row")
    n_blocks: int
    resamples: int
    seed: int
    notes: list[str] = Field(default_factory=list)

    def metric(self, name: str) -> float | None:
        """The figure `name`: a headline, a scalar, `recall.CLASS`, `precision.CLASS` or `f1.CLASS`; None if missing."""
        if name in self.headline:
            return self.headline[name].value
        if name in self.figures:
            return self.figures[name]
        kind, _, label = name.partition(".")
        if label in self.classes and kind in ("recall", "precision", "f1"):
            entry = self.classes[label]
            return entry.recall.value if kind == "recall" else getattr(entry, kind)
        return None

    def metrics(self) -> dict[str, float]:
        """All figures that have a value, flat, for MLflow and `performance_metrics`."""
        flat = {k: v.value for k, v in self.headline.items()} | dict(self.figures)
        for label, entry in self.classes.items():
            flat[f"recall.{label}"] = entry.recall.value
            flat |= {f"precision.{label}": entry.precision, f"f1.{label}": entry.f1}
        return {k: float(v) for k, v in flat.items() if v is not None}


class PairedDifference(BaseModel):
    """Candidate minus champion on the same rows; the interval is a paired block bootstrap's (same blocks for both)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    candidate: float
    champion: float
    difference: Interval
    relative: Interval = Field(description="difference over the champion's figure")
