"""95 % intervals by block bootstrap: whole campaigns or days are drawn anew, since flows within one depend.

Every figure here depends on a row through a few small whole numbers: its true class, its predicted class, whether it
raised an alert. So rows are folded once into counts of distinct *patterns* per block, [blocks, U]; a resample is a
vector of block weights, and a thousand of them are one matrix product. A statistic is then a function of pattern
counts [R, U], the same for the point estimate (R = 1) and for the resamples.

Percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). With few blocks they are too
narrow whatever one does: below `MIN_BLOCKS` that say anything about a figure, it gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from robustidps.evaluation.report import Interval
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["MIN_BLOCKS", "Blocks", "Folded", "blocks_of", "fold", "interval"]

MIN_BLOCKS = 5
DAY_S = 86_400
_CHUNK = 4_000_000  # weights drawn at a time; bounds memory at 32 MB


@dataclass(frozen=True)
class Blocks:
    """Which rows belong together. code: int64 [N] in 0..n-1; kind: `campaign`, `day` or `row`."""

    code: npt.NDArray[np.int64]
    n: int
    kind: str
    notes: list[str] = field(default_factory=list)


def blocks_of(traffic: TrafficSet) -> Blocks:
    """The blocks of `traffic`: campaigns where known (rows without one by day), else days, else single rows."""
    campaign = np.asarray([str(c) for c in traffic.campaign], dtype=object)
    named = campaign != ""
    days = np.floor(traffic.time / DAY_S) if traffic.has_time else None
    if named.any():
        notes = []
        if not named.all():
            rest = np.full(len(campaign), "") if days is None else np.array([f"{d:.0f}" for d in days])
            # A space can't begin a campaign's name by accident of ours: names come from labels, these from us.
            campaign = np.where(named, campaign, np.char.add(" day ", rest.astype(str)).astype(object))
            notes.append(f"{int((~named).sum())} rows belong to no campaign and were resampled by day")
        names, code = np.unique(campaign.astype(str), return_inverse=True)
        return Blocks(code.astype(np.int64), len(names), "campaign", notes)
    if days is not None:
        names, code = np.unique(days, return_inverse=True)
        return Blocks(code.astype(np.int64), len(names), "day", ["no campaigns are known: days were resampled"])
    note = (
        "neither campaigns nor times are known: single rows were resampled, so intervals are too narrow if rows depend"
    )
    return Blocks(np.arange(len(traffic)), len(traffic), "row", [note])


@dataclass(frozen=True)
class Folded:
    """Rows folded into patterns.

    patterns: int64 [U, K], the distinct combinations of the K columns. table: float64 [blocks, U] counts; for blocks of
    single rows it is [1, U], and resampling draws patterns directly, which is the same thing.
    """

    patterns: npt.NDArray[np.int64]
    table: npt.NDArray[np.float64]
    blocks: Blocks

    @property
    def totals(self) -> npt.NDArray[np.float64]:
        """Pattern counts of the sample itself, [1, U]."""
        return self.table.sum(axis=0, keepdims=True)

    def resample(self, resamples: int, seed: int) -> npt.NDArray[np.float64]:
        """Pattern counts of `resamples` draws of as many blocks as there are, with replacement: [R, U]."""
        rng = np.random.default_rng(seed)
        n = self.blocks.n
        if self.blocks.kind == "row":
            return rng.multinomial(n, self.totals[0] / n, size=resamples).astype(np.float64)
        out = np.empty((resamples, self.table.shape[1]))
        step = max(1, _CHUNK // n)
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            weights = rng.multinomial(n, np.full(n, 1 / n), size=size)
            out[start : start + size] = weights.astype(np.float64) @ self.table
        return out

    def blocks_with(self, patterns: npt.NDArray[np.bool_]) -> int:
        """How many blocks have a row with one of the patterns marked in bool [U]."""
        counts = self.table[:, patterns].sum(axis=1)
        return int(counts[0]) if self.blocks.kind == "row" else int((counts > 0).sum())


def fold(columns: Sequence[npt.ArrayLike], blocks: Blocks) -> Folded:
    """Folds K columns of small non-negative whole numbers, int [N] each, into pattern counts per block."""
    arrays = [np.asarray(c, np.int64) for c in columns]
    sizes = [int(a.max(initial=0)) + 1 for a in arrays]
    code = np.zeros(len(arrays[0]), np.int64)
    for array, size in zip(arrays, sizes, strict=True):
        code = code * size + array
    distinct, inverse = np.unique(code, return_inverse=True)
    patterns = np.empty((len(distinct), len(arrays)), np.int64)
    rest = distinct
    for k in range(len(arrays) - 1, -1, -1):
        rest, patterns[:, k] = np.divmod(rest, sizes[k])
    u = len(distinct)
    if blocks.kind == "row":
        table = np.bincount(inverse, minlength=u)[None, :]
    else:
        table = np.bincount(blocks.code * u + inverse, minlength=blocks.n * u).reshape(blocks.n, u)
    return Folded(patterns, table.astype(np.float64), blocks)


def interval(value: float, draws: npt.NDArray[np.float64], n_blocks: int) -> Interval:
    """`value` with the 2.5th and 97.5th percentile of its resamples.

    Resamples in which the figure is undefined (no row of a rare class was drawn) are left out; no interval is given
    where that is more than half of them, or where fewer than `MIN_BLOCKS` blocks have a say.
    """
    if not np.isfinite(value):
        return Interval(value=None)
    known = draws[np.isfinite(draws)]
    if n_blocks < MIN_BLOCKS or 2 * len(known) <= len(draws):
        return Interval(value=float(value))
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(value=float(value), low=float(low), high=float(high))
