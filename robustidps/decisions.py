"""From probabilities to alerts, within a budget of false ones.

A bundle holds one threshold per attack class beside its probabilities. A flow raises an alert for its most probable
attack class c when p_c >= t_c. Otherwise it is *uncertain* when an attack is still its most probable class, and benign
when not. An analyst sees alerts; uncertain flows are counted and kept for a second look.

Thresholds are fitted on validation rows for an alert budget: at most `budget` false alerts per benign flow. The budget
is held on those rows; on other traffic it is an estimate, which evaluation measures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, DatasetError, SchemaError
from robustidps.traffic.schema import TrafficSchema

__all__ = ["NEVER", "UNCERTAIN", "decide", "fit_thresholds"]

UNCERTAIN = -2
"""The decision on a flow that looks like an attack, but not surely enough for an alert."""

NEVER = 1.000001
"""A threshold no probability reaches: the class raises no alert."""

_LOWEST = 0.5  # below it, benign and attack together could be likelier than the attack that is alerted on
_MARGIN = 1e-5  # above the highest score to be kept out: the ONNX model may differ from the native one by this much


def decide(probabilities: npt.ArrayLike, thresholds: dict[str, float], schema: TrafficSchema) -> npt.NDArray[np.int16]:
    """What to do about each flow.

    Args:
        probabilities: [N, C].
        thresholds: from attack class to the probability at which it raises an alert.

    Returns:
        int16 [N]: the index of the class that is alerted on, 0 for benign, or `UNCERTAIN`.

    Raises:
        SchemaError: a threshold is missing, names no attack class, or the shape doesn't fit.
    """
    p = _probabilities(probabilities, schema)
    attacks = schema.classes[1:]
    if set(thresholds) != set(attacks):
        odd = sorted(set(thresholds) ^ set(attacks))
        raise SchemaError(f"thresholds and attack classes differ: {', '.join(odd[:5])}", where=schema.name)
    limits = np.array([thresholds[name] for name in attacks])
    top = p[:, 1:].argmax(axis=1)
    alert = p[np.arange(len(p)), top + 1] >= limits[top]
    uncertain = ~alert & (p.argmax(axis=1) != 0)
    return np.where(alert, top + 1, np.where(uncertain, UNCERTAIN, 0)).astype(np.int16)


def fit_thresholds(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, schema: TrafficSchema, budget: float = 1e-3
) -> dict[str, float]:
    """Thresholds that find most attacks with at most `budget` false alerts per benign validation row.

    The permitted number of false alerts is spent where one more buys the most recall, each attack class counting the
    same however rare it is: for a class, permitting its k highest-scoring benign rows puts the threshold just above the
    next one, never below 0.5.

    Args:
        probabilities: [N, C] on validation rows, calibrated.
        labels: [N] class indices; unlabelled rows are left out.
        budget: false alerts per benign flow, in [0, 1].

    Returns:
        A threshold for each attack class; `NEVER` (over 1) where even a probability of 1 would break the budget.

    Raises:
        ConfigError: a budget out of range.
        DatasetError: no benign validation row to measure false alerts on.
    """
    if not 0 <= budget <= 1:
        raise ConfigError(f"{budget} is not a share of benign flows", where="alert_budget", remedy="use 0 to 1")
    p, y = _probabilities(probabilities, schema), np.asarray(labels, dtype=np.int64)
    p, y = p[y >= 0], y[y >= 0]
    benign = y == 0
    if not benign.any():
        raise DatasetError(
            "no benign row to measure false alerts on", where="validation", remedy="add benign traffic to it"
        )
    top = p[:, 1:].argmax(axis=1) + 1
    score = p[np.arange(len(p)), top]
    weight = 1.0 / np.maximum(np.bincount(y, minlength=schema.output_dim), 1)
    left = int(budget * benign.sum() + 1e-9)
    ladders = [_ladder(c, top, score, y, benign, weight, left) for c in range(1, schema.output_dim)]
    spent = [0] * len(ladders)
    while True:
        best, best_rate, best_step = -1, 0.0, 0
        for c, (_, gain) in enumerate(ladders):
            steps = min(left, len(gain) - 1 - spent[c])
            if steps < 1:
                continue
            ahead = gain[spent[c] + 1 : spent[c] + 1 + steps] - gain[spent[c]]
            rates = ahead / np.arange(1, steps + 1)
            if rates.max() > best_rate:
                best, best_rate, best_step = c, float(rates.max()), int(rates.argmax()) + 1
        if best < 0:
            break
        spent[best] += best_step
        left -= best_step
    return {name: float(ladders[c][0][spent[c]]) for c, name in enumerate(schema.classes[1:])}


def _ladder(
    c: int,
    top: npt.NDArray[np.int64],
    score: npt.NDArray[np.float64],
    y: npt.NDArray[np.int64],
    benign: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64],
    most: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For class c: the threshold and the recall found when its 0, 1, 2, .. highest benign scores may alert."""
    false = np.sort(score[benign & (top == c)])[::-1]
    false = false[false >= _LOWEST]
    attack = ~benign & (top == c)
    order = np.argsort(score[attack])
    scores = score[attack][order]
    recall = np.concatenate([np.cumsum(weight[y[attack]][order][::-1])[::-1], [0.0]])
    kept_out = np.append(false, -1.0)[: most + 1]
    limits = np.where(kept_out >= _LOWEST, np.minimum(kept_out + _MARGIN, NEVER), _LOWEST)
    limits[limits > 1] = NEVER
    return limits, recall[np.searchsorted(scores, limits, side="left")]


def _probabilities(probabilities: npt.ArrayLike, schema: TrafficSchema) -> npt.NDArray[np.float64]:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != schema.output_dim:
        raise SchemaError(f"probabilities have shape {p.shape}, expected (N, {schema.output_dim})", where=schema.name)
    if not np.isfinite(p).all():
        raise SchemaError("a probability is not a number", where=schema.name)
    return p
