"""Area under time, and curves over slots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustidps.errors import DatasetError
from robustidps.evaluation.ageing.curve import aut, curves, difference
from robustidps.testing.traffic import toy_traffic

shares = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("figures", "area"),
    [([1.0, 0.0], 0.5), ([1.0, 0.5, 0.0], 0.5), ([0.9, 0.8, 0.4, 0.6], 0.65), ([0.0, 1.0, 0.0, 1.0, 0.0], 0.5)],
)
def test_the_area_is_what_one_works_out_by_hand(figures: list[float], area: float) -> None:
    assert aut(figures) == pytest.approx(area)


@given(shares)
def test_the_area_lies_between_the_lowest_and_the_highest_figure(figures: list[float]) -> None:
    assert min(figures) - 1e-12 <= float(aut(figures)) <= max(figures) + 1e-12


@given(st.floats(0, 1), st.integers(2, 30))
def test_a_figure_that_never_changes_is_its_own_area(figure: float, slots: int) -> None:
    assert float(aut([figure] * slots)) == pytest.approx(figure)


@given(shares)
def test_the_area_is_the_trapezoid_rule_over_the_span_and_the_same_read_backwards(figures: list[float]) -> None:
    assert float(aut(figures)) == pytest.approx(np.trapezoid(figures) / (len(figures) - 1))
    assert float(aut(figures[::-1])) == pytest.approx(float(aut(figures)))


@given(shares, st.integers(0, 29), st.floats(0.01, 1))
def test_a_better_slot_never_makes_a_smaller_area(figures: list[float], where: int, more: float) -> None:
    better = list(figures)
    better[where % len(figures)] += more
    assert aut(better) > aut(figures)


def test_areas_of_many_resamples_are_taken_at_once() -> None:
    assert aut([[1.0, 0.0], [0.5, 0.5]]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("figures", [[], [0.9]])
def test_one_slot_says_nothing_about_ageing(figures: list[float]) -> None:
    with pytest.raises(DatasetError, match="no area"):
        aut(figures)


def test_a_slot_without_a_figure_leaves_the_area_unknown() -> None:
    assert np.isnan(aut([0.9, np.nan, 0.8]))
    rows = toy_traffic(300)
    slot = np.where(np.arange(300) < 150, 0, 2)  # nothing happened in slot 1
    found = curves(rows, slot, rows.labels.astype(np.int64), (rows.labels > 0).astype(np.int64), resamples=100)
    assert found["macro_f1"].area.value is None
    assert [s.value for s in found["macro_f1"].slots] == [1.0, None, 1.0]


def test_a_slots_figures_are_the_shares_that_one_counts() -> None:
    rows = toy_traffic(400)
    rng = np.random.default_rng(0)
    predicted, alerting = rng.integers(0, 3, 400), rng.integers(0, 2, 400)
    slot = np.arange(400) // 200
    found = curves(rows, slot, predicted, alerting, resamples=100)
    here = slot == 1
    benign, attack = here & (rows.labels == 0), here & (rows.labels > 0)
    assert found["detection_rate"].values[1] == pytest.approx((predicted[attack] > 0).mean())
    assert found["false_positive_rate"].values[1] == pytest.approx((predicted[benign] > 0).mean())
    assert found["alert_recall"].values[1] == pytest.approx(alerting[attack].mean())
    assert found["alert_false_positive_rate"].values[1] == pytest.approx(alerting[benign].mean())
    f1 = []
    for c in range(3):
        true, said = rows.labels[here] == c, predicted[here] == c
        f1.append(2 * (true & said).sum() / (true.sum() + said.sum()))
    assert found["macro_f1"].values[1] == pytest.approx(np.mean(f1))


def test_differences_are_paired_so_that_equal_policies_differ_by_nothing() -> None:
    rows = toy_traffic(400)
    rng = np.random.default_rng(1)
    slot, alerting = np.arange(400) // 100, np.zeros(400, np.int64)
    one = curves(rows, slot, rng.integers(0, 3, 400), alerting, resamples=100)["macro_f1"]
    other = curves(rows, slot, rows.labels.astype(np.int64), alerting, resamples=100)["macro_f1"]
    same = difference(one, one)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = difference(other, one)
    assert better.value is not None and better.low is not None and 0 < better.low <= better.value
