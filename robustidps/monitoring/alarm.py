"""When a window has drifted, when windows are an alarm, and what a review silences. Pure: figures in, sentences out.

A window has drifted when any of these is so:

- in at least `share` of the columns PSI is at least `psi` and what chance allows, against the version's reference;
- the same against the early anchor;
- the shares of predicted classes are `prediction_threshold` or more from the reference's (Jensen-Shannon distance), and
  further than chance allows;
- there are `alerts_factor` times more or fewer alerts a flow than in the version's first window that was no incident,
  and that is more than three standard errors;
- where labels came back: the upper end of accuracy's 95 % interval is `accuracy_drop` below validation.

An alarm needs k drifted windows among the last n of the version, the latest among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from robustidps.evaluation.drift import DriftSettings
from robustidps.monitoring.figures import WindowFigures, compared
from robustidps.monitoring.reviews import Review, fingerprint

__all__ = ["LABELS", "Base", "alarming", "reasons", "silenced"]

LABELS = "labels: "
"""How a reason begins that is about labels; what is expected of traffic excuses no wrong verdict."""


@dataclass(frozen=True)
class Base:
    """What a window is compared with beside profiles. first: the version's first window that was no incident."""

    first: WindowFigures | None = None
    validation_accuracy: float | None = None


def reasons(figures: WindowFigures, base: Base, settings: DriftSettings) -> list[str]:
    """Why a window has drifted, a sentence each with figure and threshold; empty where it hasn't."""
    rules = settings.windows
    found = []
    for what, comparison in (("the reference", figures.reference), ("the early anchor", figures.anchor)):
        if comparison is not None and comparison.share >= rules.share:
            found.append(
                f"{len(comparison.moved)} of {len(figures.columns)} columns moved away from {what}: "
                f"{comparison.share:.2f} >= {rules.share:g} (PSI from {rules.psi:g})"
            )
    distance = figures.reference.prediction_distance
    bound = max(settings.prediction_threshold, figures.reference.prediction_allowance)
    if distance is not None and distance >= bound:
        found.append(f"predicted classes moved: Jensen-Shannon {distance:.3f} >= {bound:.3f}")
    if base.first is not None and _alerts_moved(figures, base.first, rules.alerts_factor):
        found.append(
            f"alerts a flow moved: {figures.alert_share:.2g} beside {base.first.alert_share:.2g} in the first window, "
            f"a factor of {rules.alerts_factor:g} or more"
        )
    labelled = figures.labelled
    if labelled is not None and base.validation_accuracy is not None and labelled.accuracy.high is not None:
        floor = base.validation_accuracy - rules.accuracy_drop
        if labelled.accuracy.high < floor:
            found.append(
                f"{LABELS}accuracy {labelled.accuracy.value:.3f} [{labelled.accuracy.low:.3f}, "
                f"{labelled.accuracy.high:.3f}] < {floor:.3f}, validation less {rules.accuracy_drop:g}"
            )
    return found


def _alerts_moved(now: WindowFigures, then: WindowFigures, factor: float) -> bool:
    """Whether the share of alerts changed by `factor`, and by more than three standard errors."""
    counts = [(sum(f.alerts.values()), f.rows) for f in (now, then)]
    shares = [(a + 0.5) / (n + 1) for a, n in counts]
    if not (shares[0] / shares[1] >= factor or shares[1] / shares[0] >= factor):
        return False
    pooled = (sum(a for a, _ in counts) + 0.5) / (sum(n for _, n in counts) + 1)
    error = math.sqrt(pooled * (1 - pooled) * sum(1 / n for _, n in counts))
    return abs(shares[0] - shares[1]) > 3 * error


def alarming(before: Sequence[bool], drifted: bool, settings: DriftSettings) -> bool:
    """Whether the latest window and those before it (oldest first, of the same version) are an alarm."""
    rules = settings.windows
    last = [*before, drifted][-rules.n :]
    return drifted and sum(last) >= rules.k


def silenced(
    figures: WindowFigures,
    why: Sequence[str],
    ignoring: Review | None,
    expected: Sequence[tuple[Review, WindowFigures]],
    settings: DriftSettings,
    now: datetime,
) -> str | None:
    """By which review an alarm isn't raised, as a sentence; None where it is.

    Args:
        why: what `reasons` gave. ignoring: the review by which everything is ignored, if there is one.
        expected: reviews that call a window expected, with what that window's row holds now.
    """
    if ignoring is not None and ignoring.lasts(now):
        return f"ignored until {ignoring.until:%Y-%m-%d %H:%M} UTC, by {ignoring.actor} (window {ignoring.window})"
    if any(reason.startswith(LABELS) for reason in why):
        return None
    for review, accepted in reversed(expected):
        if review.lasts(now) and fingerprint(accepted) == review.counts and _alike(figures, accepted, settings):
            return f"expected: it is like window {review.window}, which {review.actor} accepted"
    return None


def _alike(figures: WindowFigures, accepted: WindowFigures, settings: DriftSettings) -> bool:
    rules = settings.windows
    beside = compared(figures, accepted, rules.psi)
    distance = beside.prediction_distance or 0.0
    return (
        beside.share < rules.share
        and distance < max(settings.prediction_threshold, beside.prediction_allowance)
        and not _alerts_moved(figures, accepted, rules.alerts_factor)
    )
