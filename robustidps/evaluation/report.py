"""What an evaluation says: figures with intervals, as plain data that JSON, MLflow, rules and pages all take from.

`Evaluation.metric(name)` is how promotion rules read it; the names are listed in `docs/evaluation.md`. A figure that
couldn't be computed is None with a sentence in `notes`, never 0 and never left to be assumed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ClassFigures",
    "Evaluation",
    "Evasion",
    "Interval",
    "PairedDifference",
    "Timing",
    "UnderPerturbation",
    "Unlabelled",
    "WorstCase",
]


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


class UnderPerturbation(BaseModel):
    """The attacks under one perturbation. classes: share of each class's flows called an attack. cost: packets, bytes
    and seconds of the attacker's conversations, as multiples of what they were; empty where nobody measured it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detection: Interval
    alert_recall: Interval
    flows: int
    classes: dict[str, float]
    cost: dict[str, float] = Field(default_factory=dict)


class WorstCase(BaseModel):
    """The perturbation that hides a tool best, what is found of it then, and what is found of it unchanged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    perturbation: str
    detection: float
    unchanged: float | None
    flows: int


class Evasion(BaseModel):
    """Attacks altered to evade, scored by one model (`robustidps.evaluation.evasion`).

    detection, alert_recall: under the worst perturbation for each tool; classes: detection by class then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_digest: str = Field(description="of rows, perturbations, tools and campaigns")
    rows: int
    time_from: float | None
    time_to: float | None
    detection: Interval
    alert_recall: Interval
    perturbations: dict[str, UnderPerturbation] = Field(description="by name, `unchanged` first")
    classes: dict[str, float]
    worst: dict[str, WorstCase] = Field(description="by tool")


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
    evasion: Evasion | None = Field(default=None, description="attacks altered to evade, where they were measured")
    blocks: str = Field(description="what was resampled: campaign, day or row")
    n_blocks: int
    resamples: int
    seed: int
    notes: list[str] = Field(default_factory=list)

    def metric(self, name: str) -> float | None:
        """The figure `name`: a headline, a scalar, or a class's or perturbation's (`recall.CLASS`); None if missing."""
        if name in self.headline:
            return self.headline[name].value
        if name in self.figures:
            return self.figures[name]
        kind, _, label = name.partition(".")
        if label in self.classes and kind in ("recall", "precision", "f1"):
            entry = self.classes[label]
            return entry.recall.value if kind == "recall" else getattr(entry, kind)
        if self.evasion and label in self.evasion.perturbations:
            under = self.evasion.perturbations[label]
            figures = {"detection_under": under.detection, "alert_recall_under": under.alert_recall}
            return figures[kind].value if kind in figures else None
        return None

    def metrics(self) -> dict[str, float]:
        """All figures that have a value, flat, for MLflow and `performance_metrics`."""
        flat = {k: v.value for k, v in self.headline.items()} | dict(self.figures)
        for label, entry in self.classes.items():
            flat[f"recall.{label}"] = entry.recall.value
            flat |= {f"precision.{label}": entry.precision, f"f1.{label}": entry.f1}
        for name in self.evasion.perturbations if self.evasion else ():
            flat |= {
                f"{kind}.{name}": self.metric(f"{kind}.{name}") for kind in ("detection_under", "alert_recall_under")
            }
        return {k: float(v) for k, v in flat.items() if v is not None}


class PairedDifference(BaseModel):
    """Candidate minus champion on the same rows; the interval is a paired block bootstrap's (same blocks for both).

    error_reduction: the share of the champion's error that the candidate is rid of, (e - e') / e, where an error is
    1 - metric, or the metric itself where lower is better. Above 0 is better, whatever the metric; None where the
    champion makes no error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    candidate: float
    champion: float
    difference: Interval
    relative: Interval = Field(description="difference over the champion's figure")
    error_reduction: Interval = Interval(value=None)


class Unlabelled(BaseModel):
    """What can be told without labels: a candidate, and the champion, on the same recent flows.

    time_from, time_to: of the first and last flow, seconds since 1970 UTC. alert_share: share of the flows that raise
    an alert; disagreement: share whose most probable class is not the same for both. Both of the champion's are None
    without one. drift_share: share of columns that have moved from the candidate's own training reference. figures:
    latency and throughput of the candidate by metric name, where they were measured. Intervals: 95 %, by `blocks`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    time_from: float | None
    time_to: float | None
    data_digest: str
    alert_share: Interval
    champion_alert_share: Interval | None = None
    disagreement: Interval | None = None
    drift_share: float | None = None
    moved: list[str] = Field(default_factory=list, description="columns that have moved")
    figures: dict[str, float | None] = Field(default_factory=dict)
    blocks: str
    n_blocks: int
