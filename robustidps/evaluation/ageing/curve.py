"""Area under time, and a metric's curve over slots of time with intervals. Pure.

    AUT(f, N) = 1 / (N - 1) * sum over k = 1..N-1 of (f(k + 1) + f(k)) / 2

for a figure f measured in N slots of equal length, in order (Pendlebury et al., USENIX Security 2019, section 4.2):
the trapezoid rule, divided by the span, so that a figure between 0 and 1 gives an area between 0 and 1. A model that
keeps its first figure for ever has that figure as its AUT.

Intervals come from the campaign bootstrap of `robustidps.evaluation.bootstrap`, within each slot: slot k's campaigns
are drawn anew, every slot gets its figure, and the draws of all slots give one draw of the area. The same seed gives
the same weights to the same campaigns, so two policies' draws are paired, and so is their difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError
from robustidps.evaluation import metrics as m
from robustidps.evaluation.bootstrap import MIN_BLOCKS, blocks_of, fold, interval
from robustidps.evaluation.report import Interval
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["METRICS", "Curve", "aut", "curves", "difference"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METRICS = ("macro_f1", "detection_rate", "false_positive_rate", "alert_recall", "alert_false_positive_rate")
"""What a curve is drawn of, by the names of `docs/evaluation.md`."""


def aut(values: npt.ArrayLike) -> Floats:
    """Area under time of figures [..., N], one a slot, in order; NaN where a slot's figure is unknown.

    Raises:
        DatasetError: fewer than two slots: a single one says nothing about ageing.
    """
    f = np.asarray(values, np.float64)
    n = f.shape[-1] if f.ndim else 0
    if n < 2:
        raise DatasetError(f"{n} slot of time has no area under it", remedy="use shorter slots, or more days")
    area: Floats = (f[..., 1:] + f[..., :-1]).sum(axis=-1) / 2 / (n - 1)
    return area


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over N slots.

    slots: a figure with its interval each. area: AUT. draws: float64 [R], AUT of each resample.
    """

    metric: str
    slots: tuple[Interval, ...]
    area: Interval
    draws: Floats

    @property
    def values(self) -> Floats:
        """[N], NaN where unknown."""
        return np.array([np.nan if s.value is None else s.value for s in self.slots])


def curves(
    rows: TrafficSet, slot: Ints, predicted: Ints, alerting: Ints, *, resamples: int = 500, seed: int = 0
) -> dict[str, Curve]:
    """The curves of every metric in `METRICS`.

    Args:
        rows: N labelled rows. slot: int [N], from 0, the slot each row lies in.
        predicted: int [N], most probable class. alerting: int [N], 1 where the row raises an alert.

    Raises:
        DatasetError: rows lie in fewer than two slots.
    """
    n_slots = int(slot.max(initial=-1)) + 1
    values = {name: np.full(n_slots, np.nan) for name in METRICS}
    drawn = {name: np.full((resamples, n_slots), np.nan) for name in METRICS}
    n_blocks = [0] * n_slots
    for k in range(n_slots):
        here = np.flatnonzero(slot == k)
        if not len(here):
            continue
        folded = fold([rows.labels[here], predicted[here], alerting[here]], blocks_of(rows.select(here)))
        n_blocks[k] = folded.blocks.n
        counts = np.concatenate([folded.totals, folded.resample(resamples, seed + k)])
        for name, figure in _figures(counts, folded.patterns, rows.schema.output_dim).items():
            values[name][k], drawn[name][:, k] = figure[0], figure[1:]
    made = {}
    for name in METRICS:
        area, draws = float(aut(values[name])), aut(drawn[name])
        slots = tuple(interval(float(values[name][k]), drawn[name][:, k], n_blocks[k]) for k in range(n_slots))
        made[name] = Curve(name, slots, interval(area, draws, min(n_blocks)), draws)
    return made


def difference(one: Curve, other: Curve) -> Interval:
    """AUT of `one` minus that of `other`, paired: both must come from the same rows, slots and seed."""
    if one.area.value is None or other.area.value is None:
        return Interval(value=None)
    known = one.area.low is not None and other.area.low is not None
    return interval(one.area.value - other.area.value, one.draws - other.draws, MIN_BLOCKS if known else 0)


def _figures(counts: Floats, patterns: Ints, n_classes: int) -> dict[str, Floats]:
    """Figures [R] of pattern counts [R, U]; patterns [U, 3] are true class, predicted class, alert or not."""
    true, predicted, alerting = patterns.T
    cell = np.zeros((len(patterns), n_classes * n_classes))
    cell[np.arange(len(patterns)), true * n_classes + predicted] = 1
    confusion = (counts @ cell).reshape(-1, n_classes, n_classes)

    def share(of: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Floats:
        top, bottom = counts[:, of & among].sum(axis=1), counts[:, among].sum(axis=1)
        return np.divide(top, bottom, out=np.full(len(counts), np.nan), where=bottom > 0)

    benign, attack = true == 0, true > 0
    return {
        "macro_f1": m.macro_f1(confusion),
        "detection_rate": share(predicted > 0, attack),
        "false_positive_rate": share(predicted > 0, benign),
        "alert_recall": share(alerting > 0, attack),
        "alert_false_positive_rate": share(alerting > 0, benign),
    }
