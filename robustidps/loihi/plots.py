"""Pictures of the report: every spike of a few flows, and recall in floating and in fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustidps.evaluation.plots import save_figure, tidy_axes, titled_figure
from robustidps.evaluation.report import Interval
from robustidps.loihi.report import LoihiReport
from robustidps.loihi.runner import Simulation

__all__ = ["draw"]

_FLOAT, _FIXED, _INK = "#0072B2", "#D55E00", "#1b1b1b"


def draw(report: LoihiReport, fixed: Simulation, titles: Sequence[str], folder: Path) -> list[Path]:
    """Writes `raster.png` and `recall.png` into `folder`.

    Args:
        fixed: the simulation whose rasters are drawn. titles: for each row in them, what to write above.

    Raises:
        StorageError: the folder can't be written to. MissingExtraError: matplotlib isn't installed.
    """
    return [_raster(report, fixed, titles, folder / "raster.png"), _recall(report, folder / "recall.png")]


def _subject(report: LoihiReport) -> str:
    return f"{report.model} {report.version} on {report.dataset}, {report.rows:,} flows, simulated in Lava"


def _raster(report: LoihiReport, fixed: Simulation, titles: Sequence[str], path: Path) -> Path:
    flows, width, height = len(titles), 1.2 + 2.6 * len(titles), 5.6
    figure = titled_figure("Every spike of a few flows, in fixed point", _subject(report), max(width, 6.0), height)
    left, each = 0.75 / figure.get_size_inches()[0], (1 - 0.85 / figure.get_size_inches()[0]) / max(flows, 1)
    bounds = np.cumsum([0, *(raster.shape[2] for raster in fixed.rasters)])
    for flow in range(flows):
        axes = tidy_axes(figure.add_axes((left + flow * each, 0.5 / height, 0.88 * each, 1 - 1.5 / height)))
        for k, raster in enumerate(fixed.rasters):
            step, neuron = np.nonzero(raster[flow])
            colour = _FIXED if k == len(fixed.rasters) - 1 else _FLOAT
            axes.scatter(step + 1, bounds[k] + neuron, s=2.2, marker="s", color=colour, linewidths=0)
        for bound in bounds[1:-1]:
            axes.axhline(bound - 0.5, color=_INK, lw=0.6)
        axes.set_title(titles[flow], fontsize=8, loc="left")
        axes.set_xlim(0.5, report.steps + 0.5)
        axes.set_ylim(bounds[-1], -1)
        axes.set_xlabel("step", fontsize=8.5)
        if flow == 0:
            axes.set_ylabel("neuron: hidden layers, then outputs (orange)", fontsize=8.5)
        else:
            axes.set_yticklabels([])
    return save_figure(figure, path)


def _recall(report: LoihiReport, path: Path) -> Path:
    rows = [("accuracy", report.cost.accuracy_floating, report.cost.accuracy_fixed)]
    rows += [(name, entry.floating, entry.fixed) for name, entry in report.cost.classes.items()]
    height = 1.5 + 0.32 * len(rows)
    figure = titled_figure("Recall by class", _subject(report), 7.5, height)
    axes = tidy_axes(figure.add_axes((0.27, 0.5 / height, 0.68, 1 - 1.45 / height)))
    for offset, colour, label, column in ((-0.12, _FLOAT, "floating point", 1), (0.12, _FIXED, "fixed point", 2)):
        for y, row in enumerate(rows):
            entry = row[column]
            if isinstance(entry, Interval) and entry.value is not None:
                if entry.low is not None:
                    axes.plot([entry.low, entry.high], [y + offset] * 2, "-", color=colour, lw=1.5)
                axes.plot([entry.value], [y + offset], "o", color=colour, ms=4.5, label=label if y == 0 else None)
    axes.set_yticks(range(len(rows)), [str(row[0]) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of the class's rows given the class, with 95 % intervals", fontsize=8.5)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncol=2, fontsize=8, frameon=False)
    return save_figure(figure, path)
