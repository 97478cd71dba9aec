"""Probabilities that mean what they say: temperature scaling, and how far they are off.

A network's logits are divided by one number T > 0 before softmax, chosen on validation rows so that their negative
log-likelihood is least (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). It changes no ranking of
classes, so no accuracy, and is one division in the bundle's ONNX graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError

__all__ = ["expected_calibration_error", "fit_temperature", "negative_log_likelihood", "softmax"]

LOWEST, HIGHEST = 0.25, 10.0
"""Bounds of T. Validation rows that are all classified rightly would drive it to 0, and every probability to 1."""

_GOLDEN = (5**0.5 - 1) / 2


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Logits [N, C] to probabilities float32 [N, C]: exp(z / T) / sum(exp(z / T)), without overflow."""
    z = np.asarray(logits, dtype=np.float64) / temperature
    z -= z.max(axis=-1, keepdims=True)
    np.exp(z, out=z)
    return (z / z.sum(axis=-1, keepdims=True)).astype(np.float32)


def negative_log_likelihood(logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float = 1.0) -> float:
    """Mean of -ln p(true class), in nats. Labels are class indices; every row must be labelled."""
    z = np.asarray(logits, dtype=np.float64) / temperature
    z -= z.max(axis=1, keepdims=True)
    true = np.take_along_axis(z, np.asarray(labels, dtype=np.int64)[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - true))


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The T in [0.25, 10] with the least negative log-likelihood on these validation rows.

    Args:
        logits: [N, C].
        labels: [N] class indices; negative ones (unlabelled) are left out.

    Raises:
        DatasetError: no labelled row, or a logit that isn't finite.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    z, y = z[y >= 0], y[y >= 0]
    if not len(y):
        raise DatasetError("a temperature can't be fitted to no labelled validation row")
    if not np.isfinite(z).all():
        raise DatasetError("a logit is not a finite number", remedy="training diverged: lower the learning rate")
    # Convex in 1/T, hence with one valley in ln T: golden section finds it.
    low, high = np.log(LOWEST), np.log(HIGHEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = negative_log_likelihood(z, y, np.exp(left)), negative_log_likelihood(z, y, np.exp(right))
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = negative_log_likelihood(z, y, np.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = negative_log_likelihood(z, y, np.exp(right))
    best = float(np.exp((low + high) / 2))
    return best if negative_log_likelihood(z, y, best) <= negative_log_likelihood(z, y) else 1.0


def expected_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """How far confidence is from accuracy: the mean over equal-width bins of |accuracy - confidence|, weighted by rows.

    Confidence is the highest probability of a row (Naeini et al., AAAI 2015; Guo et al. 2017). 0 is perfect; NaN where
    there is no labelled row.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    p, y = p[y >= 0], y[y >= 0]
    if not len(y):
        return float("nan")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))
