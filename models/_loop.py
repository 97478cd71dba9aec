"""What training by gradient has in common in every framework: settings, the schedule, when to stop, the best epoch.

The frameworks' own parts (a step of an optimiser, a forward pass) are in the families; nothing here needs any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.errors import ConfigError, DatasetError
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import FamilySettings, Standardised

__all__ = ["BestEpoch", "LoopSettings", "batches", "demand_rows", "schedule", "validation_figures", "weight_shift"]

Floats = npt.NDArray[np.float32]

_STEPS_AN_EPOCH = 16  # at least, where rows are few: a smaller batch rather than a handful of steps in all


class LoopSettings(FamilySettings):
    """What every family that is trained by gradient can be told; each gives defaults of its own."""

    epochs: int = Field(default=30, ge=1, le=10_000, description="passes over the training rows at most")
    patience: int = Field(default=15, ge=1, le=10_000, description="epochs without improvement before stopping")
    stop_on: Literal["macro_f1", "loss"] = Field(
        default="macro_f1", description="validation figure that decides which epoch was best; ties go to the loss"
    )
    batch_size: int = Field(default=256, ge=1, le=1_000_000, description="rows per step at most")
    learning_rate: float = Field(default=4e-3, gt=0, le=1, description="highest learning rate, after warming up")
    weight_decay: float = Field(default=0.1, ge=0, le=10, description="AdamW's decoupled weight decay")

    def batch_for(self, rows: int) -> int:
        """Rows per step where there are `rows` in all."""
        return min(self.batch_size, max(16, rows // _STEPS_AN_EPOCH))


def demand_rows(train: Standardised, validation: Standardised) -> None:
    """Raises DatasetError where there is nothing to train on, or to stop on."""
    if not len(train) or not len(validation):
        raise DatasetError("training needs training rows and validation rows")


def schedule(step: int, total: int) -> float:
    """Share of the highest learning rate at a step from 0: a linear rise over the first tenth of all steps, then half
    a cosine down to nearly 0 (Loshchilov & Hutter, "SGDR", ICLR 2017, without restarts)."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) + 1e-3


def batches(
    rows: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """All of `rows` in random order, as index arrays [size] and which of their entries count: the last batch is filled
    up with rows that don't, so that compiled frameworks see one shape."""
    order = rng.permutation(rows)
    for start in range(0, rows, size):
        chosen = order[start : start + size]
        yield np.resize(chosen, size), np.arange(size) < len(chosen)


def weight_shift(weights: Floats) -> Floats:
    """ln w [C], 0 where a class has weight 0: what class weights add to logits that are trained under them.

    A loss weighted by w is least where softmax(z)_c is proportional to w_c p(c | x), so z - ln w gives p(c | x) back:
    rare classes were learnt with more force, and probabilities still mean what they say. A temperature can't do that.
    """
    return np.log(np.where(np.asarray(weights) > 0, weights, 1.0)).astype(np.float32)


def validation_figures(logits: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike) -> dict[str, float]:
    """`val_loss`, class-weighted cross-entropy in nats, and `val_macro_f1` over the classes that have rows.

    A class that training had no row of has weight 0: it can't be learnt, and must not decide when to stop.

    Args:
        logits: [N, C]. y: [N] class indices. weights: [C].
    """
    z, labels = np.asarray(logits, np.float64), np.asarray(y, np.int64)
    weight = np.asarray(weights, np.float64)[labels]
    top = z.max(axis=1)
    losses = top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(z)), labels]
    confusion = confusion_matrix(labels, z.argmax(axis=1), z.shape[1])
    return {
        "val_loss": float((losses * weight).sum() / max(weight.sum(), 1e-12)),
        "val_macro_f1": float(macro_f1(confusion)),
    }


@dataclass
class BestEpoch:
    """Which epoch was best so far, and whether it is time to stop.

    `keep` holds whatever the family needs to go back to that epoch.
    """

    settings: LoopSettings
    number: int = 0
    keep: Any = None
    _rank: tuple[float, float] = field(default=(-math.inf, -math.inf))

    def better(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Whether `epoch` (from 1) is the best so far; the caller then sets `keep`.

        Raises:
            ConfigError: a figure isn't finite: training diverged.
        """
        if not all(math.isfinite(v) for v in metrics.values()):
            raise ConfigError(
                f"training diverged in epoch {epoch}",
                where="learning_rate",
                remedy=f"lower it (it was {self.settings.learning_rate:g})",
            )
        first = round(metrics["val_macro_f1"], 4) if self.settings.stop_on == "macro_f1" else 0.0
        rank = (first, -metrics["val_loss"])
        if rank <= self._rank:
            return False
        self._rank, self.number = rank, epoch
        return True

    def over(self, epoch: int) -> bool:
        """Whether patience has run out."""
        return epoch - self.number >= self.settings.patience
