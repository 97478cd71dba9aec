"""Studies as one picture: a metric over time with a line a policy, and under it what changed and what the loop did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustidps.errors import DatasetError, printable
from robustidps.evaluation.ageing.study import Ageing
from robustidps.evaluation.metrics import describe
from robustidps.evaluation.plots import save_figure, tidy_axes, titled_figure

__all__ = ["draw_ageing"]

_LINES: dict[str, dict[str, Any]] = {
    "frozen": {"color": "#000000", "linestyle": (0, (5, 1.5)), "marker": "s", "markersize": 3.5},
    "weekly": {"color": "#E69F00", "linestyle": (0, (1.5, 1.2)), "marker": "^", "markersize": 4},
    "daily": {"color": "#56B4E9", "linestyle": "-", "marker": "v", "markersize": 4},
    "loop": {"color": "#D55E00", "linestyle": "-", "marker": "o", "markersize": 4.5},
}
_INK, _QUIET, _LINE = "#1b1b1b", "#6a6a6a", "#d9d9d9"


def draw_ageing(studies: Sequence[Ageing], path: Path, *, metric: str = "macro_f1", subject: str = "") -> Path:
    """Writes `path` (PNG): means over studies as lines, lowest to highest as bands.

    Args:
        studies: of the same calendar, settings and policies, over different seeds; at least one.
        metric: one of `curve.METRICS`.
        subject: a line under the title; what the traffic is.

    Raises:
        DatasetError: the studies differ in slots or policies.
        StorageError: `path` can't be written. MissingExtraError: matplotlib is not installed.
    """
    first = studies[0]
    if len({(s.timeline.n_slots, s.timeline.first_day, tuple(s.walks)) for s in studies}) > 1:
        raise DatasetError("the studies differ in days, slots or policies", where="picture")
    changes = first.timeline.changes
    loops = [s.walks["loop"] for s in studies if "loop" in s.walks]
    strip = 0.3 + 0.2 * len(loops) if loops else 0.0
    names = 1.15 if changes else 0.1
    high = 4.6 + strip + names
    figure = titled_figure("Detection over time, at an equal budget of labels", printable(subject, 140), 9.6, high)
    if changes:
        note = "names above: attack tools that appear, and (green, dotted) benign services that change"
        figure.text(0.25 / 9.6, 1 - 0.84 / high, note, fontsize=9, color=_QUIET, va="center")
    left, right = 0.72 / 9.6, 1 - 2.05 / 9.6
    bottom = (0.62 + strip) / high
    axes = tidy_axes(figure.add_axes((left, bottom, right - left, 1 - (1.05 + names) / high - bottom)))
    width = first.settings.slot_days
    x = first.timeline.first_day + width * (np.arange(first.timeline.n_slots) + 0.5)
    for name, walk in first.walks.items():
        values = np.array([s.curves[name][metric].values for s in studies])
        areas = [s.curves[name][metric].area.value for s in studies]
        area = "unknown" if None in areas else f"{np.mean([a for a in areas if a is not None]):.3f}"
        style = _LINES.get(name, {"color": _QUIET})
        if len(studies) > 1:
            axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, linewidth=0)
        front = 3 if name == "loop" else 2
        axes.plot(x, values.mean(axis=0), label=f"{area}  {walk.text}", linewidth=1.7, zorder=front, **style)
    axes.set_xlim(first.timeline.first_day - 0.5, x[-1] + width / 2 + 0.5)
    title = metric.replace("_f1", "-F1").replace("_", " ")
    meaning = describe(metric)
    axes.set_ylabel(title, fontsize=9, color=_QUIET)
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        frameon=False,
        fontsize=8.5,
        title="area under time (AUT)" + ("\nlower is better" if meaning and meaning.better == "lower" else ""),
        title_fontsize=8.5,
        alignment="left",
    )
    legend.get_title().set_color(_QUIET)
    _mark_changes(axes, changes)
    lowest = axes
    if loops:
        lowest = tidy_axes(figure.add_axes((left, 0.55 / high, right - left, (strip - 0.12) / high)))
        axes.set_xticklabels([])
        _loop_events(lowest, loops, axes.get_xlim())
    lowest.set_xlabel(f"day; a point sums up {width} days", fontsize=9, color=_QUIET)
    return save_figure(figure, path)


def _mark_changes(axes: Any, changes: Sequence[Any]) -> None:
    """A vertical line a change, named above the axes: black for a tool that appears, green and dotted for a service."""
    first, last = axes.get_xlim()
    for change in changes:
        if not first <= change.day <= last:
            continue
        tool = change.kind == "tool"
        axes.axvline(
            change.day,
            color=_QUIET if tool else "#009E73",
            linewidth=0.6 if tool else 1.1,
            linestyle="-" if tool else ":",
            zorder=1,
        )
        axes.annotate(
            f"{printable(change.name, 24)}" if tool else f"{printable(change.name, 24)} changes",
            (change.day, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=_INK if tool else "#00795a",
            style="normal" if tool else "italic",
        )


def _loop_events(axes: Any, loops: Sequence[Any], limits: tuple[float, float]) -> None:
    """A row of dots a study: filled where the loop replaced its model, hollow where the rules kept it."""
    colour = _LINES["loop"]["color"]
    for row, walk in enumerate(loops):
        for kinds, face in ((("promoted",), colour), (("refused", "held"), "white")):
            days = [e.day for e in walk.events if e.kind in kinds]
            axes.plot(
                days, [row] * len(days), "o", color=colour, mfc=face, ms=5, zorder=3, linestyle="none", clip_on=False
            )
    axes.set_xlim(*limits)
    axes.set_ylim(len(loops) - 0.5, -0.5)
    names = [f"seed {i + 1}" for i in range(len(loops))] if len(loops) > 1 else ["loop"]
    axes.set_yticks(range(len(loops)), names, fontsize=7.5)
    axes.grid(True, axis="y", color=_LINE)
    axes.set_title(
        "our loop: filled where a challenger was promoted, hollow where the rules refused it",
        fontsize=8, color=_QUIET, loc="left", pad=3,
    )  # fmt: skip
