"""The picture of a paired comparison: both versions' figures, and the difference with its interval beside them."""

from __future__ import annotations

from pathlib import Path

from robustidps.evaluation.plots import save_figure, start_figure, tidy_axes
from robustidps.evaluation.report import Evaluation, PairedDifference

__all__ = ["draw_comparison"]

_ONE, _OTHER, _INK = "#0072B2", "#D55E00", "#1b1b1b"


def draw_comparison(one: Evaluation, other: Evaluation, differences: list[PairedDifference], path: Path) -> Path:
    """Writes `path` (PNG): left the figures of both, right `one` minus `other` with 95 % paired intervals.

    Raises:
        StorageError: the folder can't be written to. MissingExtraError: matplotlib is not installed.
    """
    height = 1.5 + 0.27 * len(differences)
    figure = start_figure(one, f"Against {other.model} {other.version}", 9.5, height)
    bottom, tall = 0.5 / height, 1 - 1.45 / height
    left = tidy_axes(figure.add_axes((0.27, bottom, 0.32, tall)))
    right = tidy_axes(figure.add_axes((0.65, bottom, 0.32, tall)))
    rows = range(len(differences))
    left.plot([d.champion for d in differences], rows, "o", color=_OTHER, ms=5, label=f"{other.model} {other.version}")
    left.plot([d.candidate for d in differences], rows, "D", color=_ONE, ms=4, label=f"{one.model} {one.version}")
    left.set_yticks(list(rows), [d.metric for d in differences])
    left.set_ylim(len(differences) - 0.5, -0.5)
    left.set_xlabel("figure on the same rows", fontsize=8.5)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncol=2, fontsize=8, frameon=False)
    for row, entry in zip(rows, differences, strict=True):
        change = entry.difference
        if change.value is None:
            continue
        low = change.value if change.low is None else change.low
        high = change.value if change.high is None else change.high
        clear = low > 0 or high < 0
        right.plot([low, high], [row, row], "-", color=_INK, lw=2 if clear else 1)
        right.plot([change.value], [row], "o", color=_INK, ms=5, mfc=_INK if clear else "white")
    right.axvline(0, color=_INK, lw=0.8)
    right.set_yticks(list(rows), [""] * len(differences))
    right.set_ylim(len(differences) - 0.5, -0.5)
    right.set_xlabel("difference, 95 % paired interval (filled: excludes 0)", fontsize=8.5)
    return save_figure(figure, path)
