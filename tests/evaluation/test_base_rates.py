"""Alerts a day against figures worked out by hand, and what must hold for any model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustidps.evaluation.base_rates import FLOWS_PER_DAY, SHARES, BaseRate, amount, base_rates
from robustidps.evaluation.bootstrap import blocks_of, fold
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.metrics import precision_at_prevalence
from robustidps.evaluation.report import ClassFigures, Evaluation, Interval
from robustidps.settings import Settings

B, F = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]
rate = st.floats(1e-6, 1)
ENDS = ("value", "low", "high")
quick = settings(max_examples=40, deadline=None)


def judged(recall: float | None, fpr: float | None, *, benign: int = 1000, missing: tuple[str, ...] = ()) -> Evaluation:
    """An evaluation with these two rates, and intervals a tenth to either side."""

    def around(value: float | None) -> Interval:
        return Interval(value=None) if value is None else Interval(value=value, low=0.9 * value, high=1.1 * value)

    headline = {"alert_recall": around(recall), "alert_false_positive_rate": around(fpr)}
    if recall is not None and fpr is not None:
        seen = fpr or 3 / benign
        for share in ("1e-1", *SHARES):
            values = [float(precision_at_prevalence(recall, f, float(share))) for f in (seen, 1.1 * seen, 0.9 * seen)]
            headline[f"precision_at_prevalence_{share}"] = Interval(value=values[0], low=values[1], high=values[2])
    for share in missing:
        del headline[f"precision_at_prevalence_{share}"]
    figures = ClassFigures(precision=None, recall=Interval(value=None), f1=None, support=benign)
    return Evaluation(
        model="m", version="1.0.0", bundle_digest="", dataset="d", data_digest="", rows=benign, time_from=None,
        time_to=None, classes={"Benign": figures}, confusion=[], headline=headline, figures={}, blocks="row",
        n_blocks=1, resamples=1, seed=0,
    )  # fmt: skip


def line(evaluation: Evaluation, flows: int, prevalence: str, capacity: float = 50) -> BaseRate:
    rows = base_rates(evaluation, capacity).rows
    return next(r for r in rows if (r.flows_per_day, r.prevalence) == (flows, prevalence))


def test_a_day_of_a_million_flows_by_hand():
    # 1e6 flows, 1e-4 of them attacks: 100 attacks, 999,900 others. Recall 0.9, one benign flow in a thousand alerts.
    row = line(judged(0.9, 0.001), 1_000_000, "1e-4")
    assert row.attacks == pytest.approx(100)
    assert row.true_alerts.value == pytest.approx(90) and row.missed.value == pytest.approx(10)
    assert row.false_alerts.value == pytest.approx(999.9)
    assert row.alerts.value == pytest.approx(1089.9)
    assert row.analysts.value == pytest.approx(1089.9 / 50)
    assert row.precision.value == pytest.approx(90 / 1089.9)


def test_intervals_by_hand():
    row = line(judged(0.8, 0.001), 10_000_000, "1e-2")  # recall 0.72 to 0.88, rate 0.0009 to 0.0011
    assert (row.true_alerts.low, row.true_alerts.high) == (pytest.approx(72_000), pytest.approx(88_000))
    assert (row.missed.low, row.missed.high) == (pytest.approx(12_000), pytest.approx(28_000))
    assert (row.false_alerts.low, row.false_alerts.high) == (pytest.approx(8_910), pytest.approx(10_890))
    assert (row.alerts.low, row.alerts.high) == (pytest.approx(80_910), pytest.approx(98_890))
    assert row.analysts.high == pytest.approx(98_890 / 50)


def test_every_volume_and_prevalence_has_its_line():
    rows = base_rates(judged(0.9, 0.01), 48).rows
    assert FLOWS_PER_DAY == (1e6, 1e7, 1e8) and SHARES == ("1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
    assert [(r.flows_per_day, r.prevalence) for r in rows] == [(f, p) for f in FLOWS_PER_DAY for p in SHARES]


@quick
@given(recall=rate, fpr=rate)
def test_the_rarer_attacks_are_the_fewer_alerts_are_attacks(recall, fpr):
    for flows in FLOWS_PER_DAY:
        precision = [r.precision.value for r in base_rates(judged(recall, fpr), 48).for_flows(flows)]
        assert all(a > b for a, b in pairwise(precision))


@quick
@given(recall=rate, fpr=rate, capacity=st.floats(1, 1000))
def test_alerts_scale_with_flows_and_add_up(recall, fpr, capacity):
    rates = base_rates(judged(recall, fpr), capacity)
    small, *larger = (rates.for_flows(flows) for flows in FLOWS_PER_DAY)
    for rows in larger:
        for a, b in zip(small, rows, strict=True):
            times = b.flows_per_day / a.flows_per_day
            for name in ("attacks", "true_alerts", "missed", "false_alerts", "alerts", "analysts"):
                one, other = getattr(a, name), getattr(b, name)
                pairs = [(one, other)] if name == "attacks" else [(getattr(one, e), getattr(other, e)) for e in ENDS]
                assert all(y == pytest.approx(times * x, rel=1e-9) for x, y in pairs), name
            assert b.precision == a.precision
    for row in rates.rows:
        assert row.true_alerts.value + row.missed.value == pytest.approx(row.attacks)
        assert row.alerts.value == pytest.approx(row.true_alerts.value + row.false_alerts.value)
        assert row.true_alerts.value / row.alerts.value == pytest.approx(row.precision.value)
        assert row.alerts.low <= row.alerts.value <= row.alerts.high


@quick
@given(recall=rate, fpr=rate)
def test_an_older_evaluation_without_one_in_a_million_is_told_the_same(recall, fpr):
    known = line(judged(recall, fpr), 1_000_000, "1e-6").precision
    carried = line(judged(recall, fpr, missing=("1e-6",)), 1_000_000, "1e-6").precision
    for end in ENDS:
        assert getattr(carried, end) == pytest.approx(getattr(known, end), rel=1e-6)


def test_no_false_alert_seen_is_a_bound_and_not_nothing():
    rates = base_rates(judged(0.9, 0.0, benign=300), 48)  # 3/n = 0.01
    row = rates.rows[0]
    assert rates.no_false_alert_among == 300
    assert row.false_alerts.value == pytest.approx(0.01 * 990_000) and row.false_alerts.low is None
    assert row.alerts.value == pytest.approx(9_000 + 9_900)
    assert rates.count(row.false_alerts) == "≤ 9,900" and rates.precision(row).startswith("≥ 0.476 [")
    assert rates.count(row.true_alerts, exact=True) == "9,000 [8,100 to 9,900]"
    assert any("300 benign rows: 3/n" in note for note in rates.notes)


def test_a_false_alert_that_was_seen_is_no_bound():
    rates = base_rates(judged(0.9, 0.01), 48)
    assert rates.no_false_alert_among is None and "≤" not in str(rates.compact()) and "3/n" not in str(rates.notes)


@pytest.mark.parametrize(("recall", "fpr"), [(None, 0.01), (0.9, None), (None, None)])
def test_what_cannot_be_known_is_unknown_and_not_nothing(recall, fpr):
    rates = base_rates(judged(recall, fpr), 48)
    row = rates.rows[0]
    assert (row.true_alerts.value is None) == (row.missed.value is None) == (recall is None)
    assert (row.false_alerts.value is None) == (fpr is None)
    assert row.alerts.value is None and row.precision.value is None and row.analysts.value is None
    assert "n/a" in rates.compact()[1][0]


def test_figures_of_an_evaluation_are_carried_over_as_they_are(make, traffic):
    e, _ = evaluate(make.bundle(), traffic, dataset="made up", timing=False)
    for row in base_rates(e, 48).rows:
        assert row.precision == e.headline[f"precision_at_prevalence_{row.prevalence}"]
        false = e.headline["alert_false_positive_rate"]
        assert row.false_alerts.high == pytest.approx(false.high * (row.flows_per_day - row.attacks))


@pytest.mark.parametrize("prevalence", SHARES)
def test_the_interval_of_all_alerts_holds_the_bootstraps_own(make, traffic, prevalence):
    """Both rates at the same end, against counting alerts in each of the very same resamples."""
    e, p = evaluate(make.bundle(), traffic, dataset="made up", timing=False)
    folded = fold([traffic.labels > 0, p.alerts > 0], blocks_of(traffic))
    attack, alert = folded.patterns.astype(bool).T
    drawn = folded.resample(1000, seed=0)
    recall = drawn[:, attack & alert].sum(axis=1) / drawn[:, attack].sum(axis=1)
    rate = drawn[:, ~attack & alert].sum(axis=1) / drawn[:, ~attack].sum(axis=1)
    share = float(prevalence)
    low, high = np.percentile(1e6 * (share * recall + (1 - share) * rate), (2.5, 97.5))
    row = line(e, 1_000_000, prevalence)
    assert row.alerts.low <= low * (1 + 1e-9) and row.alerts.high >= high * (1 - 1e-9)
    low, high = np.percentile(1e6 * (1 - share) * rate, (2.5, 97.5))
    assert (row.false_alerts.low, row.false_alerts.high) == (pytest.approx(low), pytest.approx(high))


def test_amounts_have_three_significant_digits():
    assert [amount(x) for x in (0, 0.000147, 0.0936, 1, 97.83, 99.96, 123.4, 4690.3, 13_548_211)] == [
        "0", "0.000147", "0.0936", "1", "97.8", "100", "123", "4,690", "13,500,000"
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many"])
def test_an_analyst_who_looks_at_no_alert_is_refused(value, monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUSTIDPS_ALERTS_PER_ANALYST", value)
    with pytest.raises(ValueError, match="alerts_per_analyst"):
        Settings(home=tmp_path)
