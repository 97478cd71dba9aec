"""The picture of evasion: what is found of each class under each perturbation, and under the worst for every tool."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustidps.evaluation.plots import start_figure
from robustidps.evaluation.report import Evaluation

__all__ = ["evasion_figure"]

_INK, _QUIET = "#1b1b1b", "#6a6a6a"


def evasion_figure(evaluation: Evaluation) -> Any:
    """A Matplotlib figure: classes in rows, perturbations in columns, the share of flows called an attack in cells.

    Raises:
        ValueError: evasion was not measured. MissingExtraError: matplotlib is not installed.
    """
    evasion = evaluation.evasion
    if evasion is None:
        raise ValueError("evasion was not measured")
    columns = {name: (p.classes, p.detection.value) for name, p in evasion.perturbations.items()}
    columns["worst for each tool"] = (evasion.classes, evasion.detection.value)
    rows = ["all attacks", *evasion.classes]
    shares = np.array(
        [[whole if row == rows[0] else by.get(row) for by, whole in columns.values()] for row in rows], np.float64
    )
    cell, tall, left, below = 0.66, 0.36, 1.75, 1.25
    width, height = left + cell * len(columns) + 0.4, 0.95 + tall * len(rows) + below
    figure = start_figure(evaluation, "Share of attack flows still called an attack, by perturbation", width, height)
    axes = figure.add_axes((left / width, below / height, cell * len(columns) / width, tall * len(rows) / height))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), list(columns), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelsize=8.5, colors=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for position in (0.5, len(rows) - 0.5):
        axes.axhline(position, color="white", linewidth=3)
    axes.axvline(len(columns) - 1.5, color="white", linewidth=3)
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            ink = "white" if share > 0.55 else _INK
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=ink)
    return figure
