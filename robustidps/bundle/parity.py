"""The parity gate: does the ONNX graph say what the trained model says, on real rows?

An exporter can succeed and be wrong (torchdiffeq's dopri5 through the old torch exporter: no error, 0.38 agreement), so
every bundle is compared before it is written. Both sides start from the same raw rows:

    native  softmax(trained.logits(preprocessing.transform(x)) / T)       the framework and NumPy
    onnx    the composed graph in ONNX Runtime, in batches of 1, 7 and 1000

They agree when at least 99.9 % of rows are within 1e-5 in every probability, and no row has another most probable class
unless its two highest native probabilities are closer together than that row's difference: trees and spikes may flip
on the rounding of an input that lies on a threshold, and then only where the model itself could not tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from robustidps.errors import ParityError

__all__ = ["SHARE", "TOLERANCE", "ParityReport", "compare", "demand_parity"]

TOLERANCE = 1e-5
SHARE = 0.999
BATCHES = {1: 50, 7: 70, 1000: None}
"""Batch size -> on how many of the rows it is tried; None: on all."""

Floats = npt.NDArray[np.float32]


class ParityReport(BaseModel):
    """How well native model and ONNX agree. `difference` is a row's largest absolute one over classes and batches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    batches: tuple[int, ...]
    tolerance: float = TOLERANCE
    share_within: float
    max_difference: float
    worst_row: int
    differing_classes: int
    """Rows with another most probable class, or with something that isn't a number on either side."""
    excused: int
    """Of these, how many rows the model itself could not tell apart (margin below the difference)."""

    @property
    def agrees(self) -> bool:
        return self.share_within >= SHARE and self.differing_classes == self.excused


def compare(
    native: Floats, predict: Callable[[Floats, int], Floats], x: Floats
) -> tuple[ParityReport, npt.NDArray[np.float64]]:
    """Compares without judging.

    Args:
        native: the native model's probabilities [N, C], N >= 1.
        predict: raw rows and a batch size to the graph's probabilities.
        x: the raw rows [N, F] that `native` is of.

    Returns:
        The report, and each row's difference [N] (infinite where either side isn't finite).
    """
    n = len(x)
    difference = np.zeros(n)
    other = np.zeros(n, bool)
    for batch, tried in BATCHES.items():
        # Fewer rows than a batch are repeated, so that the batch has its size.
        wanted = max(n, batch) if tried is None else max(min(n, tried), batch)
        rows = np.arange(wanted) % n if wanted > n else np.linspace(0, n - 1, wanted).astype(int)
        got = predict(x[rows], batch)
        if got.shape != (len(rows), native.shape[1]):
            raise ParityError(f"ONNX gives {got.shape[1:]} columns, the native model {native.shape[1:]}")
        with np.errstate(invalid="ignore"):  # infinity minus infinity, which is told apart below
            gap = np.abs(got.astype(np.float64) - native[rows]).max(axis=1)
        broken = ~np.isfinite(gap)
        np.maximum.at(difference, rows, np.where(broken, np.inf, gap))
        np.logical_or.at(other, rows, broken | (got.argmax(axis=1) != native[rows].argmax(axis=1)))
    top = np.sort(native, axis=1)[:, -2:].astype(np.float64)
    excused = other & np.isfinite(difference) & (top[:, 1] - top[:, 0] <= difference)
    report = ParityReport(
        rows=n,
        batches=tuple(BATCHES),
        share_within=float((difference <= TOLERANCE).mean()),
        max_difference=float(min(difference.max(), 1e300)),
        worst_row=int(difference.argmax()),
        differing_classes=int(other.sum()),
        excused=int(excused.sum()),
    )
    return report, difference


def demand_parity(
    native: Floats, predict: Callable[[Floats, int], Floats], x: Floats, where: object
) -> tuple[ParityReport, npt.NDArray[np.float64]]:
    """`compare`, and the verdict.

    Raises:
        ParityError: they disagree, or there is no row to compare on; with the figures and the worst row.
    """
    if not len(x):
        raise ParityError("no row to compare the native model and ONNX on", where=where)
    report, difference = compare(native, predict, x)
    if not report.agrees:
        raise ParityError(
            f"ONNX and the native model disagree: {report.share_within:.2%} of {report.rows} rows are within "
            f"{TOLERANCE:g} (needed: {SHARE:.1%}), {report.differing_classes - report.excused} rows change class "
            f"without being a tie, the worst is row {report.worst_row}, off by {report.max_difference:.3g}",
            where=where,
            remedy="the family's export_onnx computes something else than its logits; nothing was written",
        )
    return report, difference
