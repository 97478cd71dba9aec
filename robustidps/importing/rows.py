"""Rows drawn from a schema alone, for a model that comes without traffic.

They have the kinds and ranges that a schema promises and nothing of any network: good for holding two computations
against each other, for nothing else. So the reference of such a bundle is left empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["ROWS", "draw", "empty_profile"]

ROWS = 512
_MISSING = 0.02  # share of cells that are missing, where that is allowed


def draw(schema: TrafficSchema, rows: int = ROWS, seed: int = 0) -> TrafficSet:
    """Unlabelled rows under `schema`, the same for the same seed."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([_column(feature, rows, rng) for feature in schema.features]).astype(np.float32)
    allowed = np.array([feature.missing != "refuse" for feature in schema.features])
    x[(rng.random(x.shape) < _MISSING) & allowed] = np.nan
    return TrafficSet.build(schema, x, source="drawn", provenance={"loader": "drawn", "seed": seed})


def _column(feature: Feature, rows: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    if feature.kind == "categorical":
        return rng.integers(0, len(feature.vocabulary) + 1, rows)
    if feature.kind == "flag":
        return rng.integers(0, 2, rows)
    if feature.kind == "ratio":
        return rng.random(rows)
    if feature.kind == "count":
        return np.floor(rng.lognormal(1, 1, rows))
    return rng.lognormal(1, 1, rows) if feature.transform == "log" else rng.normal(0, 1, rows)


def empty_profile(schema: TrafficSchema) -> dict[str, Any]:
    """A `reference.json` of no rows: it names features and classes, and knows no distribution."""
    from robustidps.evaluation.reference import FeatureProfile, ReferenceProfile

    features = [
        FeatureProfile(name=f.name, kind="categorical", counts=[0] * (len(f.vocabulary) + 1), missing=0)
        if f.kind == "categorical"
        else FeatureProfile(name=f.name, kind="numeric", counts=[0], missing=0)
        for f in schema.features
    ]
    profile = ReferenceProfile(schema_digest=schema.digest, rows=0, features=features, classes=list(schema.classes))
    return profile.model_dump(mode="json")
