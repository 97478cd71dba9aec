"""Temperature scaling and calibration error."""

import numpy as np
import pytest

from robustidps.calibration import (
    HIGHEST,
    LOWEST,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    softmax,
)
from robustidps.errors import DatasetError


def overconfident(n: int = 4000, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels were drawn from their softmax, then multiplied: the right temperature is the factor."""
    r = np.random.default_rng(0)
    logits = r.normal(size=(n, 5)) * 2
    labels = np.array([r.choice(5, p=p / p.sum()) for p in softmax(logits).astype(np.float64)])
    return (logits * factor).astype(np.float32), labels


def test_the_temperature_that_was_put_in_is_found():
    assert fit_temperature(*overconfident(factor=3.0)) == pytest.approx(3.0, rel=0.1)


def test_temperature_lowers_negative_log_likelihood_and_calibration_error():
    logits, labels = overconfident()
    t = fit_temperature(logits, labels)
    assert negative_log_likelihood(logits, labels, t) < negative_log_likelihood(logits, labels) - 0.1
    before, after = (expected_calibration_error(softmax(logits, x), labels) for x in (1.0, t))
    assert after < 0.03 < 0.1 < before


def test_no_other_temperature_is_better():
    logits, labels = overconfident(1000)
    best = negative_log_likelihood(logits, labels, fit_temperature(logits, labels))
    assert best <= min(negative_log_likelihood(logits, labels, t) for t in np.geomspace(LOWEST, HIGHEST, 200)) + 1e-6


def test_temperature_changes_no_class():
    logits, labels = overconfident(500)
    assert (softmax(logits, fit_temperature(logits, labels)).argmax(1) == logits.argmax(1)).all()


def test_rows_all_classified_rightly_do_not_make_every_probability_one():
    labels = np.arange(100) % 3
    assert fit_temperature(np.eye(3)[labels] * 4, labels) == pytest.approx(LOWEST, rel=0.01)


def test_unlabelled_rows_are_left_out():
    logits, labels = overconfident(1000)
    some = labels.copy()
    some[::2] = -1
    assert fit_temperature(logits, some) == fit_temperature(logits[1::2], labels[1::2])


def test_no_labelled_row_or_a_logit_that_is_not_finite_is_refused():
    with pytest.raises(DatasetError, match="no labelled"):
        fit_temperature(np.zeros((3, 2)), [-1, -1, -1])
    with pytest.raises(DatasetError, match="not a finite"):
        fit_temperature([[np.nan, 0.0]], [0])


def test_softmax_of_huge_logits_does_not_overflow():
    p = softmax([[1e4, 0.0, -1e4]])
    assert p.tolist() == [[1.0, 0.0, 0.0]] and p.dtype == np.float32


def test_calibration_error_by_hand():
    # 4 rows at confidence 0.75: 2 right, so off by 0.25; 1 row at 1.0, right, so off by 0.
    p = [[0.75, 0.25]] * 4 + [[1.0, 0.0]]
    assert expected_calibration_error(p, [0, 0, 1, 1, 0]) == pytest.approx(0.25 * 4 / 5)
    assert np.isnan(expected_calibration_error(p, [-1] * 5))
