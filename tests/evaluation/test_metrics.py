"""Figures against scikit-learn and against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from robustidps.calibration import expected_calibration_error
from robustidps.evaluation import metrics as m

ROOT = Path(__file__).resolve().parents[2]
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_accuracy_and_f1_are_scikit_learns(rows):
    true, guess = np.array(rows).T
    confusion = m.confusion_matrix(true, guess, 4)
    assert m.accuracy(confusion) == pytest.approx(sk.accuracy_score(true, guess))
    present = sorted(set(true.tolist()))
    expected = sk.precision_recall_fscore_support(true, guess, labels=range(4), zero_division=np.nan)
    precision, recall, f1, support = m.per_class(confusion)
    np.testing.assert_allclose(precision, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    np.testing.assert_array_equal(support, expected[3])
    np.testing.assert_allclose(f1[present], sk.f1_score(true, guess, labels=present, average=None, zero_division=0))
    macro = sk.f1_score(true, guess, labels=present, average="macro", zero_division=0)
    assert m.macro_f1(confusion) == pytest.approx(macro)


@given(pairs)
def test_shares_lie_between_0_and_1_or_are_undefined(rows):
    confusion = m.confusion_matrix(*np.array(rows).T, 4)
    for figure in (m.accuracy(confusion), m.macro_f1(confusion), m.false_positive_rate(confusion)):
        assert np.isnan(figure) or 0 <= figure <= 1
    assert np.isnan(m.false_positive_rate(confusion)) == (confusion[0].sum() == 0)


def test_many_confusion_matrices_at_once_are_each_as_alone():
    stack = np.random.default_rng(0).integers(0, 9, (5, 4, 3, 3))
    for function in (m.accuracy, m.macro_f1, m.false_positive_rate):
        np.testing.assert_allclose(function(stack)[2, 1], function(stack[2, 1]))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
        lambda r: any(b for _, b in r)
    )
)
def test_average_precision_is_scikit_learns_ties_included(rows):
    scores, positive = np.array([s for s, _ in rows], float), np.array([b for _, b in rows])
    assert m.average_precision(scores, positive) == pytest.approx(sk.average_precision_score(positive, scores))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_no_more_benign_rows_lie_above_a_threshold_than_the_rate_allows(scores, rate):
    scores = np.array(scores, float)
    threshold = m.threshold_at_fpr(scores, rate)
    assert (scores > threshold).mean() <= rate + 1e-12
    if np.isfinite(threshold):  # and it is the lowest such: the rows at the threshold would be too many
        assert (scores >= threshold).mean() > rate


def test_precision_at_prevalence_is_bayes_rule():
    # Axelsson's base-rate fallacy: 2 attacks in 100 000, all found, FPR 0.001, and 2 % of the alerts are true.
    assert m.precision_at_prevalence(1.0, 1e-3, 2e-5) == pytest.approx(2e-5 / (2e-5 + 1e-3 * (1 - 2e-5)))
    assert m.precision_at_prevalence(0.5, 0.5, 0.1) == pytest.approx(0.1)
    assert np.isnan(m.precision_at_prevalence(0.0, 0.0, 0.1))


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1]] * 10)
    labels = np.array([0] * 6 + [1] * 4)  # sure at 0.9, right at 0.6
    table = m.reliability(p, labels)
    assert table.error == pytest.approx(0.3)
    assert table.count.sum() == 10 and (table.count > 0).sum() == 1


def test_calibration_error_is_the_one_that_training_uses():
    rng = np.random.default_rng(1)
    p = rng.dirichlet((1, 1, 1, 1), 2000).astype(np.float32)
    labels = rng.integers(0, 4, 2000)
    assert m.reliability(p, labels).error == pytest.approx(expected_calibration_error(p, labels, bins=15), abs=2e-3)


def test_log_loss_is_scikit_learns_and_finite_on_a_sure_miss():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet((1, 1, 1), 500), rng.integers(0, 3, 500)
    assert m.log_loss(p, labels) == pytest.approx(sk.log_loss(labels, p, labels=[0, 1, 2]), rel=1e-6)
    assert m.log_loss(np.array([[0.0, 1.0]]), [0]) < 17


def test_names_are_known_or_not():
    assert m.describe("recall.DDoS-TCP_Flood").share
    assert m.describe("latency_p99_ms").better == "lower"
    for unknown in ("acuracy", "recall", "recall.", "support.Benign"):
        assert m.describe(unknown) is None


def test_every_metric_is_in_the_docs():
    assert m.table() in (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_area_under_the_roc_curve_is_scikit_learns_with_ties_and_weights():
    rng = np.random.default_rng(0)
    scores, labels, weights = rng.integers(0, 9, 300), rng.random(300) < 0.3, rng.integers(0, 4, 300)
    counts = [np.bincount(scores[kind], weights[kind], minlength=9) for kind in (labels, ~labels)]
    assert m.roc_auc(*counts) == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights))
    assert m.roc_auc([[0, 2], [2, 0]], [[3, 0], [0, 3]]).tolist() == [1.0, 0.0]
    assert np.isnan(m.roc_auc([1, 1], [0, 0]))
