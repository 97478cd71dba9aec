"""Other people's families at work: whatever they raise, and what they give that is no model, is an error with a name.

`guarded_train` stands in for `family.train`. A family of ours is trained as it is: what it raises unasked is a defect
of ours and shall look like one. A plugin's model is wrapped, so that an exception anywhere in it, logits of another
shape, infinite ones, or probabilities in place of logits end the training with one sentence that says whose fault it
is. Nothing is hidden: `--debug` shows the plugin's own traceback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robustidps.errors import ModelValidationError, RobustIDPSError, printable
from robustidps.families import Floats, MeasuredModel, ModelFamily, Standardised, TrainedModel, TrainingContext

__all__ = ["guarded_train", "looks_like_probabilities"]


def guarded_train(
    family: ModelFamily, settings: Any, train: Standardised, validation: Standardised, context: TrainingContext
) -> TrainedModel:
    """`family.train`, and a model that holds to the protocol or names its family.

    Raises:
        ModelValidationError: a plugin raised something, or gave something that is no model.
        Exception: what `context.epoch` raises to cancel comes through as it is.
    """
    module = type(family).__module__
    if module.startswith("robustidps.models."):
        return family.train(settings, train, validation, context)
    where = f"family {family.name} ({module.partition('.')[0]})"
    cancelled: list[BaseException] = []

    def epoch(number: int, total: int, metrics: dict[str, float]) -> None:
        try:
            context.epoch(number, total, metrics)
        except BaseException as error:
            cancelled.append(error)
            raise

    with _named(where, cancelled):
        trained = family.train(settings, train, validation, dataclasses.replace(context, epoch=epoch))
    if not isinstance(trained, TrainedModel):
        raise ModelValidationError(
            f"train() gave a {type(trained).__name__}, no TrainedModel", where=where, remedy=_REMEDY
        )
    kind = _GuardedMeasured if isinstance(trained, MeasuredModel) else _Guarded
    return kind(trained, context.n_classes, where)


_REMEDY = "tell its authors; robustidps.testing.check_family finds such defects, --debug shows where they are"


class _Guarded:
    """A plugin's trained model: the same three methods, each held to what it promises."""

    def __init__(self, trained: TrainedModel, n_classes: int, where: str) -> None:
        self.trained, self.n_classes, self.where = trained, n_classes, where

    def logits(self, x: Floats) -> Floats:
        with _named(self.where):
            given = np.asarray(self.trained.logits(x))
        expected = (len(x), self.n_classes)
        if given.shape != expected or given.dtype.kind != "f":
            raise self._garbage(f"its logits are {given.dtype} {given.shape}, expected float32 {expected}")
        if not np.isfinite(given).all():
            row = int(np.flatnonzero(~np.isfinite(given).all(axis=1))[0])
            raise self._garbage(f"its logits aren't finite (row {row} is the first)")
        if looks_like_probabilities(given):
            sums = given.sum(axis=1)
            raise self._garbage(
                f"its logits all lie between 0 and 1 (rows add up to {sums.min():.3g} to {sums.max():.3g}): "
                "it gives probabilities, or has learnt nothing; the library's softmax comes on top of logits, so a "
                "family that has probabilities gives their logarithm"
            )
        return np.asarray(given, np.float32)

    def export_onnx(self, path: Path) -> None:
        with _named(self.where, writes=True):
            self.trained.export_onnx(path)

    def save_native(self, folder: Path) -> None:
        with _named(self.where, writes=True):
            self.trained.save_native(folder)

    def _garbage(self, problem: str) -> ModelValidationError:
        return ModelValidationError(problem, where=self.where, remedy=_REMEDY)


class _GuardedMeasured(_Guarded):
    """The same of one that gives figures of its own."""

    def figures(self, x: Floats) -> dict[str, float]:
        assert isinstance(self.trained, MeasuredModel)  # noqa: S101 - why this class was chosen
        with _named(self.where):
            return {str(name): float(value) for name, value in self.trained.figures(x).items()}


def looks_like_probabilities(logits: Floats) -> bool:
    """Whether all of some rows' logits [N, C] lie within [0, 1], as softmax's or sigmoids' outputs do and no useful
    logits: those would put no class above e / (e + C - 1)."""
    return len(logits) >= 2 and bool(((logits >= 0) & (logits <= 1.000001)).all())


@contextmanager
def _named(where: str, cancelled: list[BaseException] | None = None, *, writes: bool = False) -> Iterator[None]:
    """Names the culprit of whatever is raised, but for our own errors and what cancels a training; while a model writes
    files, the system's refusals (a full disk) are nobody's fault and come through as well."""
    try:
        yield
    except RobustIDPSError:
        raise
    except (Exception, SystemExit) as error:
        if (cancelled and error is cancelled[-1]) or (writes and isinstance(error, OSError)):
            raise
        problem = f"raised {type(error).__name__}: {printable(error, 300)}"
        raise ModelValidationError(problem, where=where, remedy=_REMEDY) from error
