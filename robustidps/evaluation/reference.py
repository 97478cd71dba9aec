"""The training distribution in a bundle's `reference.json`: bins and counts, never rows; and PSI against it.

`profile` is taken once, when a bundle is written. `drift_against_profile` then compares any amount of later traffic
with it in one vectorised pass per feature, over all rows, where Evidently's report (`robustidps.evaluation.drift`) sees
a sample. The statistic is the population stability index,

    PSI = sum over bins b of (q_b - p_b) * ln(q_b / p_b)

with p the reference's and q the current shares (Siddiqi, Credit Risk Scorecards, 2006, where 0.1 and 0.25 are the usual
bounds for a shift worth watching and one worth acting on). Shares are smoothed by half a count a bin (Jeffreys' prior),
so an empty bin gives a large but finite figure. Missing values are a bin of their own.

Bins lie between quantiles of the reference, at most 20 and with at least 50 rows each. A value that more than one
quantile falls on (a constant column, a heavy tie such as 0) gets a bin to itself, so a shift away from it shows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustidps.errors import BundleError, DatasetError, SchemaError, printable
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

__all__ = [
    "FeatureProfile",
    "ReferenceProfile",
    "drift_against_profile",
    "fitting_profile",
    "profile",
    "psi",
    "read_profile",
]

MAX_BINS = 20
MIN_ROWS_PER_BIN = 50
_CONFIDENCE_EDGES = [round(0.1 * i, 1) for i in range(1, 10)]
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_Count = Annotated[int, Field(ge=0, le=2**53)]  # a double holds it exactly
_Edge = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]


class FeatureProfile(BaseModel):
    """Counts of one column. Numeric: bin i holds edges[i-1] < x <= edges[i], so there is one count more than edges.
    Categorical: counts[k] is for the category with index k of the schema's vocabulary, 0 being "other"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["numeric", "categorical"]
    edges: list[_Edge] = Field(default_factory=list, max_length=4 * MAX_BINS)
    counts: list[_Count] = Field(min_length=1, max_length=10_001)
    missing: _Count

    @model_validator(mode="after")
    def _fits(self) -> FeatureProfile:
        if self.kind == "numeric" and len(self.counts) != len(self.edges) + 1:
            raise ValueError("a numeric feature has one count more than edges")
        if not all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges are not increasing")
        return self

    @property
    def rows(self) -> int:
        return sum(self.counts) + self.missing


class ReferenceProfile(BaseModel):
    """What `reference.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    schema_digest: str
    rows: _Count
    features: list[FeatureProfile] = Field(min_length=1, max_length=10_000, description="in the schema's order")
    classes: list[str] = Field(min_length=2, max_length=1_000)
    predictions: list[_Count] | None = Field(
        default=None, max_length=1_000, description="rows per predicted class (argmax)"
    )
    confidence: FeatureProfile | None = Field(default=None, description="the top class's probability, in tenths")


def profile(traffic: TrafficSet, probabilities: npt.NDArray[np.float32] | None = None) -> dict[str, Any]:
    """The content of `reference.json` for `traffic`, ready for `json.dumps`.

    Args:
        traffic: N rows, labelled or not.
        probabilities: float32 [N, C], what the model says about them; None leaves prediction shares out.

    Raises:
        DatasetError: there is no row.
        SchemaError: `probabilities` doesn't fit the rows.
    """
    if not len(traffic):
        raise DatasetError("a reference needs at least one row", where="reference profile")
    features = []
    for i, feature in enumerate(traffic.schema.features):
        column = traffic.features[:, i]
        if feature.kind == "categorical":
            features.append(_categories(feature.name, column, len(feature.vocabulary) + 1))
        else:
            features.append(_bins(feature.name, column, _edges(column)))
    shares = confidence = None
    if probabilities is not None:
        shares = _predicted(probabilities, len(traffic), traffic.schema.output_dim).tolist()
        confidence = _bins("confidence", np.asarray(probabilities).max(axis=1), _CONFIDENCE_EDGES)
    return ReferenceProfile(
        schema_digest=traffic.schema.digest,
        rows=len(traffic),
        features=features,
        classes=list(traffic.schema.classes),
        predictions=shares,
        confidence=confidence,
    ).model_dump(mode="json")


def read_profile(content: dict[str, Any], where: object = "reference.json") -> ReferenceProfile:
    """`content` checked. Raises BundleError when it isn't what `profile` makes."""
    try:
        return ReferenceProfile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = printable(".".join(str(k) for k in first["loc"]))
        raise BundleError(f"'{place}': {printable(first['msg'])}", where=where) from None


def fitting_profile(content: dict[str, Any], schema: TrafficSchema, where: object) -> ReferenceProfile:
    """`content` checked, and held against the schema of the bundle that it lies in.

    Raises:
        BundleError: it isn't what `profile` makes of rows under this schema.
    """
    given = content.get("features")
    if isinstance(given, list) and len(given) != schema.input_dim:  # before each of them is looked at
        raise BundleError(f"has {len(given)} features, the schema {schema.input_dim}", where=where)
    found = read_profile(content, where)
    if found.schema_digest != schema.digest or tuple(found.classes) != schema.classes:
        raise BundleError("is of another schema than the model", where=where)
    for column, feature in zip(found.features, schema.features, strict=True):
        categories = len(feature.vocabulary) + 1 if feature.kind == "categorical" else None
        if column.name != feature.name or (column.kind == "categorical") != (feature.kind == "categorical"):
            raise BundleError(f"describes another column in the place of {feature.name!r}", where=where)
        if categories not in (None, len(column.counts)):
            raise BundleError(
                f"counts {len(column.counts)} categories of {feature.name!r}, the schema {categories}", where=where
            )
    if found.predictions is not None and len(found.predictions) != schema.output_dim:
        raise BundleError(f"counts predictions of {len(found.predictions)} classes", where=where)
    if found.confidence is not None and found.confidence.kind != "numeric":
        raise BundleError("counts confidence, which is a number, by categories", where=where)
    sums = {f"feature {c.name!r}": c.rows for c in found.features}
    sums |= {"predictions": sum(found.predictions)} if found.predictions is not None else {}
    sums |= {"confidence": found.confidence.rows} if found.confidence is not None else {}
    for what, rows in sums.items():
        if rows != found.rows:
            raise BundleError(f"is of {found.rows:,} rows, but its {what} of {rows:,}", where=where)
    return found


def drift_against_profile(
    reference: dict[str, Any] | ReferenceProfile,
    features: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32] | None = None,
    *,
    threshold: float = 0.2,
) -> dict[str, Any]:
    """PSI of every feature, and of the predictions, over all rows.

    Args:
        reference: what `profile` gave.
        features: float32 [N, F], raw, columns in the order of the reference's schema.
        probabilities: float32 [N, C] for these rows; None leaves prediction drift out.
        threshold: PSI above which a feature counts as drifted.

    Returns:
        rows (N), psi (feature -> PSI), drifted (names above threshold), drifted_share (of features), threshold,
        prediction_psi and confidence_psi (None where either side has no predictions).

    Raises:
        BundleError: the reference is malformed. SchemaError: columns don't fit it. DatasetError: there is no row.
    """
    known = reference if isinstance(reference, ReferenceProfile) else read_profile(reference)
    if not len(features):
        raise DatasetError("drift needs at least one row", where="current traffic")
    if features.ndim != 2 or features.shape[1] != len(known.features):
        raise SchemaError(f"traffic of shape {features.shape}, the reference has {len(known.features)} features")
    figures = {}
    for i, expected in enumerate(known.features):
        column = features[:, i]
        if expected.kind == "categorical":
            now = _categories(expected.name, column, len(expected.counts))
        else:
            now = _bins(expected.name, column, expected.edges)
        figures[expected.name] = psi([*expected.counts, expected.missing], [*now.counts, now.missing])
    drifted = [name for name, value in figures.items() if value > threshold]
    prediction = confidence = None
    if probabilities is not None and known.predictions is not None:
        counts = _predicted(probabilities, len(features), len(known.predictions))
        prediction = psi(known.predictions, counts)
        if known.confidence is not None:
            now = _bins("confidence", np.asarray(probabilities).max(axis=1), known.confidence.edges)
            confidence = psi(known.confidence.counts, now.counts)
    return {
        "rows": len(features),
        "psi": figures,
        "drifted": drifted,
        "drifted_share": len(drifted) / len(figures),
        "threshold": threshold,
        "prediction_psi": prediction,
        "confidence_psi": confidence,
    }


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Population stability index of two vectors of counts over the same bins; 0 when the shares are equal.

    Bins that are empty on both sides are left out, so their number has no say in the smoothing.
    """
    p, q = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    used = (p + q) > 0
    p, q = p[used] + 0.5, q[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _edges(column: npt.NDArray[np.float32]) -> list[float]:
    """Interior bin edges from quantiles; a value that several quantiles fall on is fenced in on both sides."""
    values = column[np.isfinite(column)]
    n_bins = min(MAX_BINS, len(values) // MIN_ROWS_PER_BIN)
    if not len(values):
        return []
    # Order statistics rather than interpolated values: a tie must be met exactly.
    cuts = np.quantile(values, np.arange(1, max(n_bins, 2)) / max(n_bins, 2), method="inverted_cdf")
    edges, repeats = np.unique(cuts.astype(np.float32), return_counts=True)
    ties = edges[repeats > 1] if values.min() < values.max() else edges
    below = np.nextafter(ties, np.float32(-np.inf), dtype=np.float32)
    return [float(e) for e in np.unique(np.concatenate([edges, below])) if np.isfinite(e)]


def _bins(name: str, column: npt.NDArray[Any], edges: list[float]) -> FeatureProfile:
    values = column[np.isfinite(column)]
    where = np.searchsorted(np.asarray(edges, dtype=np.float32), values.astype(np.float32), side="left")
    counts = np.bincount(where, minlength=len(edges) + 1)
    return FeatureProfile(
        name=name, kind="numeric", edges=edges, counts=counts.tolist(), missing=int(len(column) - len(values))
    )


def _categories(name: str, column: npt.NDArray[np.float32], n: int) -> FeatureProfile:
    known = np.isfinite(column)
    index = np.rint(column[known]).astype(np.int64)
    index[(index < 0) | (index >= n)] = 0  # "other", as everywhere
    counts = np.bincount(index, minlength=n)
    return FeatureProfile(name=name, kind="categorical", counts=counts.tolist(), missing=int((~known).sum()))


def _predicted(probabilities: npt.NDArray[np.float32], n: int, n_classes: int) -> npt.NDArray[np.int64]:
    if np.shape(probabilities) != (n, n_classes):
        raise SchemaError(f"probabilities have shape {np.shape(probabilities)}, expected ({n}, {n_classes})")
    return np.bincount(np.asarray(probabilities).argmax(axis=1), minlength=n_classes)
