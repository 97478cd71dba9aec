"""Figures of detection quality, in NumPy, and the list of every metric name that rules and reports may use.

Functions on a confusion matrix take any leading dimensions, [..., C, C] with true classes in rows and the benign
class first, so one call serves a point estimate and a thousand bootstrap resamples. A figure whose denominator is
zero is NaN here; `robustidps.evaluation.evaluate` turns it into None with a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "FPR_POINTS",
    "METRICS",
    "PREVALENCES",
    "Metric",
    "Reliability",
    "accuracy",
    "average_precision",
    "confusion_matrix",
    "describe",
    "false_positive_rate",
    "log_loss",
    "macro_f1",
    "per_class",
    "precision_at_prevalence",
    "precision_recall_curve",
    "reliability",
    "roc_auc",
    "table",
    "threshold_at_fpr",
]

Floats = npt.NDArray[np.float64]
FPR_POINTS = ("1e-2", "1e-3", "1e-4")
PREVALENCES = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")


@dataclass(frozen=True)
class Metric:
    """What a metric name means. `share`: it lies in [0, 1], so a threshold outside of that is a mistake."""

    name: str
    text: str
    better: Literal["higher", "lower"] = "higher"
    share: bool = True


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", "share of rows whose most probable class is the true one"),
        Metric("macro_f1", "mean F1 of the classes that have held-out rows"),
        Metric("false_positive_rate", "share of benign rows whose most probable class is an attack", "lower"),
        Metric("detection_rate", "share of attack rows whose most probable class is an attack, whichever"),
        Metric("alert_false_positive_rate", "share of benign rows that raise an alert", "lower"),
        Metric("alert_recall", "share of attack rows that raise an alert, of whichever class"),
        Metric(
            "uncertain_share", "share of rows held uncertain: an attack is most probable, below its threshold", "lower"
        ),
        *(
            Metric(f"recall_at_fpr_{f}", f"share of attack rows scored above all but {f} of the benign rows")
            for f in FPR_POINTS
        ),
        Metric("false_alerts_per_day", "alert false-positive rate times the stated benign flows a day", "lower", False),
        *(
            Metric(f"precision_at_prevalence_{p}", f"share of alerts that are attacks where {p} of the flows are")
            for p in PREVALENCES
        ),
        Metric("expected_calibration_error", "mean gap between confidence and accuracy over 15 bins", "lower"),
        Metric("log_loss", "mean negative logarithm (nats) of the true class's probability", "lower", False),
        Metric("stability", "accuracy of the worst time-ordered window over the mean of all"),
        Metric("stability_macro_f1", "macro-F1 of the worst time-ordered window over the mean of all"),
        Metric("recall_seen_tools", "share of rows given the right class, attack tools that were in training"),
        Metric("recall_unseen_tools", "share of rows given the right class, attack tools that were not"),
        Metric("detection_seen_tools", "share of rows taken for any attack, attack tools that were in training"),
        Metric("detection_unseen_tools", "share of rows taken for any attack, attack tools that were not"),
        Metric("alert_recall_seen_tools", "share of rows that raise an alert, attack tools that were in training"),
        Metric("alert_recall_unseen_tools", "share of rows that raise an alert, attack tools that were not"),
        Metric(
            "false_positive_rate_seen_services", "false_positive_rate on benign services that were in training", "lower"
        ),
        Metric("false_positive_rate_unseen_services", "false_positive_rate on benign services that were not", "lower"),
        Metric(
            "alert_false_positive_rate_seen_services",
            "alert_false_positive_rate on benign services that were in training",
            "lower",
        ),
        Metric(
            "alert_false_positive_rate_unseen_services",
            "alert_false_positive_rate on benign services that were not",
            "lower",
        ),
        Metric("recall_under_evasion", "detection rate under the perturbation that hides each attack tool best"),
        Metric("alert_recall_under_evasion", "alert recall under the perturbation that hides each attack tool best"),
        Metric("latency_p50_ms", "median time of one row, one thread, this host", "lower", False),
        Metric("latency_p99_ms", "99th percentile of the time of one row, one thread, this host", "lower", False),
        Metric(
            "throughput_rows_per_second", "rows a second at the best batch size, one thread, this host", "higher", False
        ),
    )
}
_PER_CLASS = {
    "recall": "share of the class's rows given the class",
    "precision": "share of the rows given the class that belong to it",
    "f1": "harmonic mean of the class's precision and recall",
}
_PER_PERTURBATION = {
    "detection_under": "share of attack flows called an attack when all are so perturbed",
    "alert_recall_under": "share of attack flows that raise an alert when all are so perturbed",
}


def describe(name: str) -> Metric | None:
    """What `name` means: one of `METRICS`, or a figure of a class or perturbation (`f1.CLASS`); None if unknown."""
    if name in METRICS:
        return METRICS[name]
    kind, dot, label = name.partition(".")
    known = _PER_CLASS | _PER_PERTURBATION
    return Metric(name, known[kind]) if dot and label and kind in known else None


def table() -> str:
    """The list of metrics in `docs/evaluation.md`, as Markdown; a test keeps the two equal."""
    rows = ["| name | what it is | better | threshold |", "|---|---|---|---|"]
    listed = [*METRICS.values(), *(Metric(f"{kind}.CLASS", text) for kind, text in _PER_CLASS.items())]
    listed += [Metric(f"{kind}.PERTURBATION", text) for kind, text in _PER_PERTURBATION.items()]
    rows += [f"| `{m.name}` | {m.text} | {m.better} | {'0 to 1' if m.share else '0 or more'} |" for m in listed]
    return "\n".join(rows) + "\n"


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int) -> npt.NDArray[np.int64]:
    """int64 [C, C] from int [N] true and int [N] predicted class indices."""
    codes = np.asarray(labels, np.int64) * n_classes + np.asarray(predicted, np.int64)
    return np.bincount(codes, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def accuracy(confusion: npt.ArrayLike) -> Floats:
    """Share of rows on the diagonal; [...] from [..., C, C]."""
    c = np.asarray(confusion, np.float64)
    return _ratio(np.trace(c, axis1=-2, axis2=-1), c.sum(axis=(-2, -1)))


def false_positive_rate(confusion: npt.ArrayLike) -> Floats:
    """Share of benign rows (class 0) with another class predicted; [...] from [..., C, C]."""
    benign = np.asarray(confusion, np.float64)[..., 0, :]
    return _ratio(benign[..., 1:].sum(axis=-1), benign.sum(axis=-1))


def per_class(confusion: npt.ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Precision, recall, F1 and support, each [..., C]. Precision is NaN for a class never predicted, recall and F1
    for one without rows; F1 is 0 for one that has rows and is never predicted (as in scikit-learn)."""
    c = np.asarray(confusion, np.float64)
    hit = np.diagonal(c, axis1=-2, axis2=-1)
    support, predicted = c.sum(axis=-1), c.sum(axis=-2)
    f1 = np.where(support > 0, _ratio(2 * hit, support + predicted), np.nan)
    return _ratio(hit, predicted), _ratio(hit, support), f1, support


def macro_f1(confusion: npt.ArrayLike) -> Floats:
    """Mean F1 over the classes with support; [...] from [..., C, C]."""
    _, _, f1, support = per_class(confusion)
    present = support > 0
    return _ratio(np.where(present, f1, 0).sum(axis=-1), present.sum(axis=-1))


def threshold_at_fpr(benign_scores: npt.ArrayLike, rate: float) -> float:
    """The lowest threshold t for which at most `rate` of the benign scores lie strictly above t.

    Ties count against the model: benign rows that share a score are all above a threshold or none is.
    """
    scores = np.sort(np.asarray(benign_scores, np.float64))[::-1]
    # 1e-9: 0.01 * 1000 must allow 10 rows whatever the rounding.
    allowed = int(np.floor(rate * len(scores) + 1e-9))
    return float(scores[allowed]) if allowed < len(scores) else -np.inf


def roc_auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Floats:
    """Area under the ROC curve: how often a positive row scores higher than a negative one, equal scores counting half.

    Args:
        positive, negative: rows of each kind per distinct score, from the lowest up, [..., S].

    Returns:
        [...]; NaN where there is none of a kind.
    """
    p, n = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    below = np.cumsum(n, axis=-1) - n / 2
    return _ratio((p * below).sum(axis=-1), p.sum(axis=-1) * n.sum(axis=-1))


def precision_at_prevalence(recall: npt.ArrayLike, fpr: npt.ArrayLike, prevalence: float) -> Floats:
    """Bayes' rule: the share of alerts that are attacks when `prevalence` of all flows are (Axelsson, 2000)."""
    r, f = np.asarray(recall, np.float64), np.asarray(fpr, np.float64)
    return _ratio(r * prevalence, r * prevalence + f * (1 - prevalence))


def log_loss(probabilities: npt.NDArray[np.floating], labels: npt.ArrayLike) -> float:
    """Mean of -ln p(true class), p floored at float32's smallest step below 1 (1.2e-7), so one miss is at most 16."""
    p = np.asarray(probabilities, np.float64)[np.arange(len(probabilities)), np.asarray(labels, np.int64)]
    return float(-np.log(np.clip(p, np.finfo(np.float32).eps, 1)).mean())


@dataclass(frozen=True)
class Reliability:
    """Rows by confidence (the top class's probability), in bins of equal width.

    edges: [B+1]; count: [B] rows; confidence, accuracy: [B] means, NaN in an empty bin.
    error: the expected calibration error, sum of count/N * |accuracy - confidence| (Guo et al., ICML 2017).
    """

    edges: Floats
    count: npt.NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    error: float


def reliability(probabilities: npt.NDArray[np.floating], labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Reliability of probabilities [N, C] for true classes [N]; N >= 1."""
    top = np.asarray(probabilities).argmax(axis=1)
    confidence = np.asarray(probabilities, np.float64)[np.arange(len(top)), top]
    right = (top == np.asarray(labels)).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # (low, high], 0 in the first
    count = np.bincount(where, minlength=bins)
    mean_confidence = _ratio(np.bincount(where, confidence, bins), count)
    mean_right = _ratio(np.bincount(where, right, bins), count)
    error = float((count * np.nan_to_num(np.abs(mean_right - mean_confidence))).sum() / len(top))
    return Reliability(edges, count, mean_confidence, mean_right, error)


def precision_recall_curve(scores: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Precision and recall at every distinct threshold, from the highest score down, beginning at (1, 0).

    Args:
        scores: [N], higher means more likely positive. positive: bool [N], at least one True.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(positive, bool)
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # rows that share a score enter together
    hits = np.cumsum(y)[last]
    return np.append(1.0, hits / (last + 1)), np.append(0.0, hits / y.sum())


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Sum over thresholds of (recall step) * precision, without interpolation (scikit-learn's definition)."""
    precision, recall = precision_recall_curve(scores, positive)
    return float((np.diff(recall) * precision[1:]).sum())


def _ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)
