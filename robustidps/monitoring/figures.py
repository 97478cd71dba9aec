"""What a window of traffic is like, over all of its flows, in one pass that holds a chunk of them at a time.

Each column is counted in the bins of a reference profile (`robustidps.evaluation.reference`); the distance is the
population stability index (PSI). Two profiles are compared with:

- the **reference** of the version in production: the traffic that it was trained on;
- the **anchor**: the reference of the first version of the model that was ever in production. Each retraining brings a
  reference of its own, so traffic that moves a little between any two of them would never be far from any; from the
  anchor it would. It lies in a bundle whose digest is in a signed decision, so nobody moves it but by a review.

Two samples of the same traffic have a PSI too: about (1/N + 1/M) times a chi-square variable with B - 1 degrees of
freedom, for B bins and N and M rows (Yurdakul & Naranjo, Statistical properties of the population stability index,
Journal of Risk Model Validation 14(4), 2020). A column has moved when its PSI is at least the threshold *plus* that
variable's mean and three standard deviations, so that a small window isn't taken for a moved one.

Chunks are scored and counted in several threads, since NumPy and ONNX Runtime let go of the interpreter; results are
taken in the chunks' order, so that threads change no figure.
"""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from robustidps.decisions import decide
from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation.bootstrap import Blocks, fold, interval
from robustidps.evaluation.drift import jensen_shannon
from robustidps.evaluation.reference import FeatureProfile, ReferenceProfile, psi
from robustidps.evaluation.report import Interval
from robustidps.monitoring.window import Chunk, Digest, Window
from robustidps.progress import Progress, silent
from robustidps.traffic.trafficset import TrafficSet

__all__ = [
    "ColumnFigures",
    "Comparison",
    "Labelled",
    "Measured",
    "WindowFigures",
    "allowance",
    "blocks",
    "columns_moved",
    "compared",
    "drawn_predictions",
    "drawn_rows",
    "measure",
]

HOUR_S = 3600
NEVER = 1e9
"""An allowance that no column exceeds: nothing can be said of no rows."""
RESAMPLES = 1000
MOST_THREADS = 4
"""Each holds a chunk in memory."""


class ColumnFigures(BaseModel):
    """One column. allowance: PSI that chance alone may give with so many rows; missing: share of the window's rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    psi: float
    allowance: float
    anchor_psi: float | None = None
    anchor_allowance: float | None = None
    missing: float
    missing_reference: float


class Comparison(BaseModel):
    """Counts of a window beside a profile, summed up. moved: columns at or above threshold and allowance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    moved: list[str]
    share: float
    prediction_distance: float | None = Field(description="Jensen-Shannon, of the shares of predicted classes")
    prediction_allowance: float = 0.0


class Labelled(BaseModel):
    """What labels that came back say. Intervals: 95 %, resampled by `blocks`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    accuracy: Interval
    recall: dict[str, Interval]
    support: dict[str, int]
    blocks: str
    n_blocks: int


class WindowFigures(BaseModel):
    """All that was measured of a window; a part of `drift.json` and of the window's row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    first: float | None
    last: float | None
    digest: str
    columns: list[ColumnFigures]
    reference: Comparison
    anchor: Comparison | None
    predictions: dict[str, int]
    predictions_reference: dict[str, float] | None
    confidence_psi: float | None
    alerts: dict[str, int] = Field(description="flows by class that was alerted on")
    uncertain: int
    labelled: Labelled | None
    counts: dict[str, list[int]] = Field(description="column -> rows per bin of the reference, missing ones last")

    @property
    def alert_share(self) -> float:
        return sum(self.alerts.values()) / self.rows


class _Tally:
    """Rows of a window in the bins of profiles. Each value is looked up once, among the edges of all of them."""

    def __init__(self, profiles: list[ReferenceProfile]) -> None:
        self.profiles = profiles
        features = list(zip(*(p.features for p in profiles), strict=True))
        self.kinds = [same[0].kind for same in features]
        self.edges = [np.unique(np.concatenate([np.asarray(f.edges, np.float32) for f in same])) for same in features]
        sizes = [
            len(edges) + 1 if kind == "numeric" else len(same[0].counts)
            for edges, kind, same in zip(self.edges, self.kinds, features, strict=True)
        ]
        self.counts = [np.zeros(size + 1, np.int64) for size in sizes]  # missing ones last

    def add(self, columns: npt.NDArray[np.float32]) -> None:
        for i, counts in enumerate(self.counts):
            values, known = columns[i], np.isfinite(columns[i])
            if not known.all():
                counts[-1] += int(len(values) - known.sum())
                values = values[known]
            if self.kinds[i] == "categorical":
                where = np.rint(values).astype(np.int64)
                where[(where < 0) | (where >= len(counts) - 1)] = 0  # "other", as everywhere
            else:
                where = np.searchsorted(self.edges[i], values, side="left")
            counts[:-1] += np.bincount(where, minlength=len(counts) - 1)

    def of(self, number: int) -> list[npt.NDArray[np.int64]]:
        """Rows per bin of one of the profiles, column by column, missing ones last."""
        found = []
        for feature, edges, counts in zip(self.profiles[number].features, self.edges, self.counts, strict=True):
            if feature.kind == "numeric":
                # What lies between two edges of all is in one bin of this profile: that of the upper edge.
                bins = np.searchsorted(np.asarray(feature.edges, np.float32), edges, side="left")
                bins = np.append(bins, len(feature.edges))
                counts = np.append(np.bincount(bins, counts[:-1], len(feature.counts)).astype(np.int64), counts[-1])
            found.append(counts)
        return found

    def psi(self, number: int) -> list[tuple[float, float]]:
        """PSI and allowance of each column against one of the profiles."""
        found = []
        for expected, now in zip(self.profiles[number].features, self.of(number), strict=True):
            before = np.array([*expected.counts, expected.missing], np.int64)
            found.append((psi(before, now), allowance(before, now)))
        return found


@dataclass
class _Scores:
    """What the model said about a window, and what labels say of that."""

    classes: int
    edges: npt.NDArray[np.float32]
    predictions: npt.NDArray[np.int64] = field(init=False)
    confidence: npt.NDArray[np.int64] = field(init=False)
    alerts: npt.NDArray[np.int64] = field(init=False)
    uncertain: int = 0
    kept: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.predictions = np.zeros(self.classes, np.int64)
        self.confidence = np.zeros(len(self.edges) + 1, np.int64)
        self.alerts = np.zeros(self.classes, np.int64)

    def add(self, chunk: Chunk, p: npt.NDArray[np.float32], alerts: npt.NDArray[np.int16]) -> None:
        top = p.argmax(axis=1)
        self.predictions += np.bincount(top, minlength=self.classes)
        best = np.searchsorted(self.edges, p[np.arange(len(p)), top], side="left")
        self.confidence += np.bincount(best, minlength=len(self.confidence))
        self.alerts += np.bincount(alerts[alerts > 0], minlength=self.classes)
        self.uncertain += int((alerts < 0).sum())
        known = chunk.labels >= 0
        if known.any():
            self.kept.append(
                (chunk.labels[known], top[known].astype(np.int16), chunk.time[known], chunk.campaign[known])
            )


class _Sample:
    """A uniform sample of rows whose number isn't known beforehand: the rows with the smallest of random keys."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.rng = most, np.random.default_rng(seed)
        self.keys = np.empty(0)
        self.rows: npt.NDArray[np.float32] | None = None
        self.p: npt.NDArray[np.float32] | None = None

    def add(self, features: npt.NDArray[np.float32], p: npt.NDArray[np.float32]) -> None:
        keys = self.rng.random(len(features))
        bound = self.keys.max() if len(self.keys) >= self.most else 2.0
        chosen = np.flatnonzero(keys < bound)
        if len(chosen) > self.most:
            chosen = chosen[np.argpartition(keys[chosen], self.most)[: self.most]]
        if not len(chosen):
            return
        pool = [self.keys, keys[chosen]]
        rows, said = [features[chosen]], [p[chosen]]
        if self.rows is not None and self.p is not None:
            rows.insert(0, self.rows)
            said.insert(0, self.p)
        all_keys = np.concatenate(pool)
        order = np.argsort(all_keys)[: self.most]
        self.keys, self.rows, self.p = all_keys[order], np.concatenate(rows)[order], np.concatenate(said)[order]


@dataclass(frozen=True)
class Measured:
    """A window's figures, and a sample of its rows with what the model said of them."""

    figures: WindowFigures
    sample: TrafficSet
    probabilities: npt.NDArray[np.float32]


def measure(
    window: Window,
    bundle: Any,
    reference: ReferenceProfile,
    anchor: ReferenceProfile | None = None,
    *,
    threshold: float = 0.25,
    sample: int = 5000,
    seed: int = 0,
    progress: Progress = silent,
) -> Measured:
    """Reads a window once and works out its figures.

    Args:
        bundle: has `probabilities(x)`, `metadata.thresholds` and `schema`.
        reference: of the version in production. anchor: of the first that ever was; None where it is the same.
        threshold: PSI from which, with the allowance on top, a column has moved.
        sample, seed: rows to draw for a closer look.

    Raises:
        DatasetError: no flow is in the window; a file is damaged.
        SchemaError: files or profiles are of another schema, or a value may not be there.
    """
    schema = window.schema
    for profile in filter(None, (reference, anchor)):
        if profile.schema_digest != schema.digest:
            raise SchemaError("the reference profile is of another schema", where=schema.name)
    tally = _Tally([profile for profile in (reference, anchor) if profile is not None])
    edges = reference.confidence.edges if reference.confidence else []
    scores, drawn, digest = (
        _Scores(schema.output_dim, np.asarray(edges, np.float32)),
        _Sample(sample, seed),
        Digest(schema),
    )
    rows, first, last = 0, math.inf, -math.inf

    def score(chunk: Chunk, x: npt.NDArray[np.float32], begins: int) -> npt.NDArray[np.float32]:
        try:
            p: npt.NDArray[np.float32] = bundle.probabilities(x)
        except SchemaError as error:
            where = f"{window.files[chunk.file]}, after flow {begins:,} of the window: {error.where}"
            raise SchemaError(error.problem, where=where, remedy=error.remedy) from None
        return p

    def take() -> None:
        chunk, x, said = waiting.popleft()
        p = said.result()
        scores.add(chunk, p, decide(p, bundle.metadata.thresholds, schema))
        drawn.add(x, p)

    threads = min(max(len(os.sched_getaffinity(0)), 2), MOST_THREADS)
    waiting: deque[tuple[Chunk, npt.NDArray[np.float32], Future[npt.NDArray[np.float32]]]] = deque()
    counted: Future[None] | None = None
    with ThreadPoolExecutor(threads) as pool:
        for chunk in window.chunks():
            progress("comparing flows", rows, None, unit="flows")
            x = chunk.features
            if len(waiting) == threads:
                take()
            if counted is not None:
                counted.result()  # one at a time: all add to the same counts
            # The chunk after this one is read, and hashed, while this one is counted and scored.
            waiting.append((chunk, x, pool.submit(score, chunk, x, rows)))
            counted = pool.submit(tally.add, chunk.columns)
            digest.add(chunk, x)
            rows += len(chunk)
            if np.isfinite(chunk.time[:1]).all():
                first, last = min(first, float(chunk.time.min())), max(last, float(chunk.time.max()))
        while waiting:
            take()
        if counted is not None:
            counted.result()
    if not rows or drawn.rows is None or drawn.p is None:
        raise DatasetError("no flow is in the window", where="the window")
    progress("comparing flows", rows, rows, unit="flows")
    figures = _figures(window, rows, first, last, digest.hexdigest(), reference, anchor, tally, scores, threshold)
    return Measured(figures, TrafficSet.build(schema, drawn.rows), drawn.p)


def _figures(
    window: Window,
    rows: int,
    first: float,
    last: float,
    digest: str,
    reference: ReferenceProfile,
    anchor: ReferenceProfile | None,
    tally: _Tally,
    scores: _Scores,
    threshold: float,
) -> WindowFigures:
    schema = window.schema
    against, binned = tally.psi(0), tally.of(0)
    early: list[tuple[float, float]] | list[tuple[None, None]] = (
        tally.psi(1) if anchor is not None else [(None, None)] * len(against)
    )
    columns = [
        ColumnFigures(
            name=feature.name,
            psi=value,
            allowance=chance,
            anchor_psi=anchor_value,
            anchor_allowance=anchor_chance,
            missing=float(counts[-1]) / rows,
            missing_reference=feature.missing / max(reference.rows, 1),
        )
        for feature, (value, chance), (anchor_value, anchor_chance), counts in zip(
            reference.features, against, early, binned, strict=True
        )
    ]
    moved = [c.name for c in columns if c.psi >= threshold + c.allowance]
    drifted_from_anchor = [
        c.name for c in columns if c.anchor_psi is not None and c.anchor_psi >= threshold + (c.anchor_allowance or 0.0)
    ]
    confidence = None
    if reference.confidence is not None:
        confidence = psi(reference.confidence.counts, scores.confidence)
    return WindowFigures(
        rows=rows,
        first=None if first > last else first,
        last=None if first > last else last,
        digest=digest,
        columns=columns,
        reference=_summed(moved, len(columns), scores.predictions, reference),
        anchor=None if anchor is None else _summed(drifted_from_anchor, len(columns), scores.predictions, anchor),
        predictions=dict(zip(schema.classes, scores.predictions.tolist(), strict=True)),
        predictions_reference=_shares(reference),
        confidence_psi=confidence,
        alerts={name: int(n) for name, n in zip(schema.classes, scores.alerts, strict=True) if n},
        uncertain=scores.uncertain,
        labelled=_labelled(schema.classes, scores.kept) if scores.kept else None,
        counts={f.name: c.tolist() for f, c in zip(reference.features, binned, strict=True)},
    )


def columns_moved(reference: ReferenceProfile, features: npt.NDArray[np.float32], threshold: float) -> list[str]:
    """Columns of raw `features` [N, F] whose PSI from a profile reaches threshold and allowance."""
    tally = _Tally([reference])
    tally.add(np.ascontiguousarray(features.T))
    figures = zip(reference.features, tally.psi(0), strict=True)
    return [feature.name for feature, (value, chance) in figures if value >= threshold + chance]


def compared(figures: WindowFigures, accepted: WindowFigures, threshold: float) -> Comparison:
    """A window beside an earlier one, both counted in the bins of the same reference."""
    moved = []
    for name, now in figures.counts.items():
        before = accepted.counts.get(name, [])
        if len(before) != len(now):
            raise SchemaError("the two windows were counted in different bins", where=name)
        if psi(before, now) >= threshold + allowance(np.asarray(before), np.asarray(now)):
            moved.append(name)
    p, q = (np.array([f.predictions[name] for name in figures.predictions], np.float64) for f in (accepted, figures))
    distance = jensen_shannon(p / p.sum(), q / q.sum())
    return Comparison(
        moved=moved,
        share=len(moved) / len(figures.counts),
        prediction_distance=distance,
        prediction_allowance=_chance_distance(len(p), p.sum(), q.sum()),
    )


def allowance(expected: npt.NDArray[np.int64], actual: npt.NDArray[np.int64]) -> float:
    """PSI that chance alone may give: (1/N + 1/M) (B - 1 + 3 sqrt(2 (B - 1))), see above."""
    n, m = float(np.sum(expected)), float(np.sum(actual))
    freedom = max(int(((np.asarray(expected) + np.asarray(actual)) > 0).sum()) - 1, 0)
    if not n or not m:
        return NEVER
    return (1 / n + 1 / m) * (freedom + 3 * math.sqrt(2 * freedom))


def _chance_distance(classes: int, n: float, m: float) -> float:
    """Jensen-Shannon distance that chance alone may give: its square is about an eighth of the PSI."""
    freedom = classes - 1
    return math.sqrt((1 / n + 1 / m) * (freedom + 3 * math.sqrt(2 * freedom)) / 8)


def _shares(reference: ReferenceProfile) -> dict[str, float] | None:
    if reference.predictions is None or not sum(reference.predictions):
        return None
    whole = sum(reference.predictions)
    return {name: n / whole for name, n in zip(reference.classes, reference.predictions, strict=True)}


def _summed(
    moved: list[str], columns: int, predictions: npt.NDArray[np.int64], reference: ReferenceProfile
) -> Comparison:
    distance, chance = None, 0.0
    shares = _shares(reference)
    if shares is not None and len(shares) == len(predictions):
        distance = jensen_shannon(np.array(list(shares.values())), predictions / predictions.sum())
        chance = _chance_distance(len(predictions), sum(reference.predictions or ()), float(predictions.sum()))
    return Comparison(
        moved=moved, share=len(moved) / columns, prediction_distance=distance, prediction_allowance=chance
    )


def _labelled(classes: tuple[str, ...], kept: list[tuple[npt.NDArray[Any], ...]]) -> Labelled:
    labels, top, time, campaign = (np.concatenate([part[i] for part in kept]) for i in range(4))
    grouped = blocks(time, campaign)
    folded = fold([labels, top], grouped)
    truth, said = folded.patterns[:, 0], folded.patterns[:, 1]
    draws = folded.resample(RESAMPLES, 0)

    def ratio(hit: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_]) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = folded.totals[0, hit].sum() / folded.totals[0, of].sum()
            spread = draws[:, hit].sum(axis=1) / draws[:, of].sum(axis=1)
        return interval(float(value), spread, folded.blocks_with(of))

    every = np.ones(len(truth), bool)
    present = [c for c in range(len(classes)) if (labels == c).any()]
    return Labelled(
        rows=len(labels),
        accuracy=ratio(truth == said, every),
        recall={classes[c]: ratio((truth == c) & (said == c), truth == c) for c in present},
        support={classes[c]: int((labels == c).sum()) for c in present},
        blocks=grouped.kind,
        n_blocks=grouped.n,
    )


def blocks(time: npt.NDArray[np.float64], campaign: npt.NDArray[np.int64]) -> Blocks:
    """What rows aren't independent within: campaigns where known, else hours, else nothing better than single rows."""
    hours = np.floor(time / HOUR_S) if np.isfinite(time).all() else None
    if (campaign >= 0).any():
        rest = np.zeros(len(time)) if hours is None else hours - hours.min()
        # Rows of no campaign go by the hour, below all campaigns.
        key = np.where(campaign >= 0, campaign, -1 - rest.astype(np.int64))
        _, code = np.unique(key, return_inverse=True)
        return Blocks(code.astype(np.int64), int(code.max()) + 1, "campaign")
    if hours is not None:
        _, code = np.unique(hours, return_inverse=True)
        return Blocks(code.astype(np.int64), int(code.max()) + 1, "hour")
    return Blocks(np.arange(len(time)), len(time), "row")


def drawn_rows(
    reference: ReferenceProfile, rows: int, seed: int, *, like: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows drawn from a profile, column by column, and `like` [n, F] made as coarse: a value stands for its bin.

    A profile knows how often a bin occurs and neither where in it values lie nor which occur together. So both sides
    are given the bin's upper edge; what lies beyond the last edge gets one step more. Distances between them are
    between bins.
    """
    rng = np.random.default_rng(seed)
    made = np.empty((rows, len(reference.features)), np.float32)
    coarse = np.array(like, np.float32)
    for i, feature in enumerate(reference.features):
        steps = _steps(feature)
        counts = np.array([*feature.counts, feature.missing], np.float64)
        p = counts / counts.sum() if counts.sum() else np.eye(len(counts))[-1]
        made[:, i] = steps[rng.choice(len(counts), rows, p=p)]
        if feature.kind == "numeric":
            known = np.isfinite(coarse[:, i])
            coarse[known, i] = steps[np.searchsorted(np.asarray(feature.edges, np.float32), coarse[known, i])]
    return made, coarse


def drawn_predictions(reference: ReferenceProfile, rows: int, seed: int) -> npt.NDArray[np.float32] | None:
    """Predicted classes drawn from a profile's shares, float32 [rows, C], 1 for the class; None where it has none."""
    shares = _shares(reference)
    if shares is None:
        return None
    p = np.array(list(shares.values()))
    return np.eye(len(p), dtype=np.float32)[np.random.default_rng(seed).choice(len(p), rows, p=p / p.sum())]


def _steps(feature: FeatureProfile) -> npt.NDArray[np.float32]:
    """A value for each bin, NaN for missing ones."""
    if feature.kind == "categorical":
        return np.array([*range(len(feature.counts)), np.nan], np.float32)
    edges = feature.edges or [0.0]
    step = (edges[-1] - edges[0]) / max(len(edges) - 1, 1) or 1.0
    values = [*feature.edges, edges[-1] + step] if feature.edges else [0.0]
    return np.array([*values, np.nan], np.float32)
