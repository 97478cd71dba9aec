"""The reference profile holds aggregates alone, and PSI against it says what moved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustidps.errors import BundleError, DatasetError, SchemaError
from robustidps.evaluation.reference import drift_against_profile, profile, psi, read_profile
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

SCHEMA = TrafficSchema(
    name="tiny",
    features=(
        Feature(name="normal"),
        Feature(name="constant"),
        Feature(name="mostly_zero"),
        Feature(name="gappy", missing="zero"),
        Feature(name="service", kind="categorical", transform="onehot", vocabulary=("http", "dns")),
    ),
    classes=("Benign", "Flood"),
)


def rows(n: int = 4000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 5), np.float32)
    x[:, 0] = rng.normal(size=n)
    x[:, 1] = 7.5
    x[:, 2] = np.where(rng.random(n) < 0.8, 0, rng.exponential(size=n))
    x[:, 3] = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))
    x[:, 4] = rng.integers(0, 3, n)
    return x


def probabilities(n: int = 4000, attack: float = 0.1, seed: int = 0) -> np.ndarray:
    p = np.where(np.random.default_rng(seed).random(n) < attack, 0.9, 0.2).astype(np.float32)
    return np.stack([1 - p, p], axis=1)


@pytest.fixture(scope="module")
def known() -> dict:
    return profile(TrafficSet.build(SCHEMA, rows()), probabilities())


def test_a_profile_is_plain_json_and_counts_every_row(known):
    again = json.loads(json.dumps(known, allow_nan=False, sort_keys=True))
    assert read_profile(again).rows == 4000
    for feature in again["features"]:
        assert sum(feature["counts"]) + feature["missing"] == 4000
        assert len(feature["counts"]) <= 45
    assert sum(again["predictions"]) == 4000


def test_more_rows_of_the_same_traffic_have_not_drifted(known):
    now = drift_against_profile(known, rows(seed=1), probabilities(seed=1))
    assert max(now["psi"].values()) < 0.03
    assert now["drifted"] == [] and now["prediction_psi"] < 0.01 and now["confidence_psi"] < 0.01


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("normal", lambda v: v + 1),
        ("constant", lambda v: v + 1e-5),
        ("constant", lambda v: v - 3),
        ("mostly_zero", lambda v: np.where(v == 0, -1e-6, v)),
        ("gappy", lambda v: np.where(np.arange(len(v)) % 2 == 0, np.nan, v)),
        ("service", lambda v: np.full_like(v, 1)),
    ],
)
def test_a_moved_column_and_no_other_is_named(known, column, change):
    x = rows(seed=1)
    i = SCHEMA.feature_names.index(column)
    x[:, i] = change(x[:, i])
    assert drift_against_profile(known, x)["drifted"] == [column]


def test_predictions_that_moved_show(known):
    now = drift_against_profile(known, rows(seed=1), probabilities(attack=0.5))
    assert now["prediction_psi"] > 0.5


def test_a_category_that_nobody_knew_counts_as_other(known):
    x = rows(seed=1)
    x[:, 4] = 99
    assert drift_against_profile(known, x)["psi"]["service"] > 1


def test_bins_of_a_small_set_hold_enough_rows_to_give_no_row_away():
    small = profile(TrafficSet.build(SCHEMA, rows(100)))
    assert len(small["features"][0]["edges"]) == 1
    assert small["predictions"] is None


@pytest.mark.parametrize("n", [1, 2])
def test_one_row_is_enough_for_a_profile(n):
    known = profile(TrafficSet.build(SCHEMA, rows(n)))
    assert drift_against_profile(known, rows(n))["rows"] == n


def test_an_empty_set_and_misfits_are_refused(known):
    with pytest.raises(DatasetError):
        profile(TrafficSet.build(SCHEMA, np.empty((0, 5))))
    with pytest.raises(DatasetError):
        drift_against_profile(known, rows(0))
    with pytest.raises(SchemaError):
        drift_against_profile(known, rows(5)[:, :3])
    with pytest.raises(SchemaError):
        profile(TrafficSet.build(SCHEMA, rows(10)), probabilities(9))


def test_an_edited_profile_is_refused(known):
    content = json.loads(json.dumps(known))
    content["features"][0]["counts"].pop()
    with pytest.raises(BundleError, match=r"features\.0"):
        read_profile(content)
    with pytest.raises(BundleError, match="rows_themselves"):
        read_profile({**known, "rows_themselves": [[1, 2]]})


def test_psi_by_hand():
    # (0.8-0.5) ln(0.8/0.5) + (0.2-0.5) ln(0.2/0.5) = 0.41589; smoothing is invisible at a million rows
    assert psi([500_000, 500_000], [800_000, 200_000]) == pytest.approx(0.4158883, abs=1e-5)


counts = st.lists(st.integers(0, 10_000), min_size=3, max_size=8)


@given(counts, counts)
def test_psi_is_symmetric_finite_and_never_negative(a, b):
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    assert psi(a, b) == pytest.approx(psi(b, a), abs=1e-12)
    assert 0 <= psi(a, b) + 1e-12 < np.inf
