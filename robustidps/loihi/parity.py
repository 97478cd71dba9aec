"""Whether simulations of the same rows agree, and what quantising costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from robustidps.evaluation.bootstrap import blocks_of, fold, interval
from robustidps.evaluation.report import Interval
from robustidps.loihi.emulator import margins
from robustidps.loihi.runner import Simulation
from robustidps.loihi.subject import Network

if TYPE_CHECKING:
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["TOLERANCE", "ClassCost", "Cost", "FixedParity", "FloatParity", "cost", "fixed_parity", "float_parity"]

TOLERANCE = 1e-9
"""How near a threshold (thresholds are 1) a potential must have come for rounding in float64 to explain a difference:
sums of a few thousand terms of size 1 to 100 are exact to some 1e-12."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FloatParity(_Frozen):
    """torch in float64 against Lava in floating point.

    spikes_differing: at least so many; hidden layers are compared by their sums over neurons. unexplained: rows that
    differ although no potential came within `tolerance` of a threshold.
    """

    rows: int
    spikes: int
    spikes_differing: int
    rows_differing: int
    classes_differing: int
    classes_at_ties: int = Field(description="of those, rows where a tie of two outputs is decided otherwise")
    unexplained: int
    tolerance: float = TOLERANCE


def float_parity(network: Network, data: npt.NDArray[Any], ours: Simulation, lava: Simulation) -> FloatParity:
    """Compares the two; `data` is what went in, as `encode` gives it."""
    differing = np.flatnonzero((ours.counts != lava.counts).any(axis=1) | (ours.totals != lava.totals).any(axis=1))
    classes = ours.classes != lava.classes
    hidden = np.abs(ours.totals - lava.totals)[:, :-1].sum()
    unexplained = margins(network, data[differing]) > TOLERANCE if len(differing) else np.zeros(0, bool)
    return FloatParity(
        rows=len(data),
        spikes=int(ours.totals.sum()),
        spikes_differing=int(np.abs(ours.counts - lava.counts).sum() + hidden),
        rows_differing=len(differing),
        classes_differing=int(classes.sum()),
        classes_at_ties=int((classes & (tied(ours.counts) | tied(lava.counts))).sum()),
        unexplained=int(unexplained.sum()),
    )


class FixedParity(_Frozen):
    """The emulator against Lava in fixed point; everything but `rows` and `spikes` must be 0."""

    rows: int
    spikes: int
    spikes_differing: int
    rows_differing: int
    classes_differing: int


def fixed_parity(ours: Simulation, lava: Simulation) -> FixedParity:
    """Compares the two: every output's spikes, every layer's sum, and every single spike of the rows in the rasters."""
    differing = (ours.counts != lava.counts).any(axis=1) | (ours.totals != lava.totals).any(axis=1)
    single = sum(int((a != b).sum()) for a, b in zip(ours.rasters, lava.rasters, strict=True))
    summed = int(np.abs(ours.counts - lava.counts).sum() + np.abs(ours.totals - lava.totals)[:, :-1].sum())
    return FixedParity(
        rows=len(ours.counts),
        spikes=int(ours.totals.sum()),
        spikes_differing=max(single, summed),
        rows_differing=int(differing.sum()),
        classes_differing=int((ours.classes != lava.classes).sum()),
    )


def tied(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Where more than one output has the most spikes, [N]."""
    found: npt.NDArray[np.bool_] = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return found


class ClassCost(_Frozen):
    """Recall of one class."""

    support: int
    floating: Interval
    fixed: Interval


class Cost(_Frozen):
    """Fixed point against floating point, both in Lava. Intervals: 95 %, resampled by `blocks`.

    agreement: share of rows given the same class. agreement_untied: of rows where neither has a tie. accuracy and
    recall: of labelled rows; difference: fixed minus floating point, on the same resamples.
    """

    rows: int
    labelled: int
    blocks: str
    agreement: Interval
    agreement_untied: Interval
    ties_floating: int
    ties_fixed: int
    accuracy_floating: Interval
    accuracy_fixed: Interval
    accuracy_difference: Interval
    classes: dict[str, ClassCost]


def cost(traffic: TrafficSet, floating: Simulation, fixed: Simulation, resamples: int = 1000, seed: int = 0) -> Cost:
    """What quantising costs on these rows, in order."""
    known = traffic.labelled
    ties = tied(floating.counts) | tied(fixed.counts)
    blocks = blocks_of(traffic)
    # Unlabelled rows get a class of their own behind the others; it counts for agreement alone.
    labels = np.where(known, traffic.labels, traffic.schema.output_dim)
    folded = fold([labels, floating.classes, fixed.classes, ties], blocks)
    true, a, b, tie = folded.patterns.T
    totals, draws = folded.totals, folded.resample(resamples, seed)
    with_label = true < traffic.schema.output_dim

    def shares(w: npt.NDArray[np.float64], hit: Any, among: Any) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: npt.NDArray[np.float64] = w[:, hit & among].sum(axis=1) / w[:, among].sum(axis=1)
        return found

    def share(hit: Any, among: Any) -> Interval:
        return interval(float(shares(totals, hit, among)[0]), shares(draws, hit, among), folded.blocks_with(among))

    change = [shares(w, true == b, with_label) - shares(w, true == a, with_label) for w in (totals, draws)]
    everything = np.ones(len(true), bool)
    classes = {
        name: ClassCost(
            support=int((traffic.labels == c).sum()),
            floating=share(true == a, true == c),
            fixed=share(true == b, true == c),
        )
        for c, name in enumerate(traffic.schema.classes)
        if (traffic.labels == c).any()
    }
    return Cost(
        rows=len(traffic),
        labelled=int(known.sum()),
        blocks=blocks.kind,
        agreement=share(a == b, everything),
        agreement_untied=share(a == b, tie == 0),
        ties_floating=int(tied(floating.counts).sum()),
        ties_fixed=int(tied(fixed.counts).sum()),
        accuracy_floating=share(true == a, with_label),
        accuracy_fixed=share(true == b, with_label),
        accuracy_difference=interval(float(change[0][0]), change[1], folded.blocks_with(with_label)),
        classes=classes,
    )
