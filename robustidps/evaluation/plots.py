"""Pictures of an evaluation: confusion matrix, precision-recall, reliability, stability over time, base rates.

Matplotlib's object interface with the Agg canvas is used throughout, so nothing here touches pyplot's global state and
flows may draw in several threads. Same evaluation, same bytes: no date or version of the software is written. Colours
are Okabe and Ito's (2008), told apart with any colour vision; a matrix is one hue from light to dark.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import MissingExtraError, SchemaError, printable
from robustidps.evaluation import metrics as m
from robustidps.evaluation.base_rates import FLOWS_PER_DAY, BaseRates, amount
from robustidps.evaluation.evaluate import Predictions
from robustidps.evaluation.report import Evaluation, Interval
from robustidps.settings import write_whole
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["draw", "draw_base_rates", "save_figure", "start_figure", "tidy_axes", "titled_figure"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_INK, _QUIET, _LINE = "#1b1b1b", "#6a6a6a", "#d9d9d9"
_DPI = 130


def draw(
    evaluation: Evaluation,
    predictions: Predictions,
    held_out: TrafficSet,
    folder: Path,
    rates: BaseRates | None = None,
) -> list[Path]:
    """Writes the pictures of `evaluation` as PNG and returns their paths.

    `confusion_matrix.png`, `precision_recall.png` and `reliability.png`; `stability.png` where the rows have time,
    `base_rates.png` where `rates` are given and known, `evasion.png` where evaded traffic was scored.

    Args:
        predictions: what `evaluate` returned beside the evaluation. held_out: the rows it was given.

    Raises:
        SchemaError: the predictions are of other rows.
        MissingExtraError: matplotlib is not installed.
        StorageError: `folder` can't be written to.
    """
    if len(predictions) != len(held_out):
        raise SchemaError(f"predictions of {len(predictions)} rows, traffic of {len(held_out)}")
    known = held_out.labelled
    p, labels = predictions.probabilities[known], held_out.labels[known]
    pictures = {
        "confusion_matrix": _confusion(evaluation),
        "precision_recall": _precision_recall(evaluation, p, labels),
        "reliability": _reliability(evaluation, p, labels),
    }
    if evaluation.windows:
        pictures["stability"] = _stability(evaluation)
    if rates and all(row.precision.value is not None and row.alerts.value is not None for row in rates.rows):
        pictures["base_rates"] = draw_base_rates(evaluation, rates)
    if evaluation.evasion:
        from robustidps.evaluation.evasion_plot import evasion_figure

        pictures["evasion"] = evasion_figure(evaluation)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in pictures.items()]


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure as PNG under `path`, all or nothing. Raises StorageError."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return write_whole(path, content.getvalue())


def start_figure(evaluation: Evaluation, title: str, width: float, height: float) -> Any:
    """An empty figure with a headline and, under it, whose figures these are."""
    subject = f"{evaluation.model} {evaluation.version} on {evaluation.dataset}, {evaluation.rows:,} held-out flows"
    return titled_figure(title, subject, width, height)


def titled_figure(title: str, subject: str, width: float, height: float) -> Any:
    """An empty figure with a headline and a line under it; width and height in inches. Raises MissingExtraError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "mlops") from None
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    left = 0.25 / width
    figure.text(left, 1 - 0.32 / height, title, fontsize=13, weight="bold", color=_INK, va="center")
    figure.text(left, 1 - 0.60 / height, _plain(subject), fontsize=9, color=_QUIET, va="center")
    return figure


def _axes(figure: Any, *, left: float, bottom: float, right: float, top: float) -> Any:
    """Axes with margins in inches."""
    width, height = figure.get_size_inches()
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return tidy_axes(figure.add_axes(box))


def tidy_axes(axes: Any) -> Any:
    """`axes` in the house's look: two spines, a light grid behind, small labels."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET)
    axes.tick_params(colors=_INK, labelsize=8.5, length=3, color=_QUIET)
    axes.grid(True, color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _confusion(evaluation: Evaluation) -> Any:
    counts = np.asarray(evaluation.confusion)
    names = [_plain(n) for n in evaluation.classes]
    n = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(len(name) for name in names)
    label = 0.35 + 0.075 * longest
    cell = 0.62 if n > 6 else 0.85
    wide, high = label + n * cell + 1.0, 0.95 + n * cell + label + 0.3
    figure = start_figure(evaluation, "Confusion matrix", max(wide, 5.6), high)
    width = figure.get_size_inches()[0]
    axes = _axes(figure, left=label + 0.25, bottom=label + 0.3, right=width - label - 0.25 - n * cell, top=0.95)
    axes.grid(False)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.set_xlabel("predicted", fontsize=9, color=_QUIET)
    axes.set_ylabel("true", fontsize=9, color=_QUIET)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    for row in range(n):
        for column in range(n):
            if counts[row, column]:
                ink = "white" if shares[row, column] > 0.55 else _INK
                text = _short(int(counts[row, column]))
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    edge, square = label + 0.25 + n * cell, n * cell
    bar = _axes(
        figure, left=edge + 0.15, bottom=label + 0.3, right=width - edge - 0.27, top=high - label - 0.3 - square
    )
    bar.grid(False)
    figure.colorbar(image, cax=bar)
    bar.tick_params(labelsize=7.5, length=2, color=_QUIET)
    bar.set_yticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    bar.set_title("of row", fontsize=7.5, color=_QUIET, loc="left")
    bar.spines["outline"].set_visible(False)
    return figure


def _precision_recall(evaluation: Evaluation, p: npt.NDArray[np.float32], labels: npt.NDArray[np.int16]) -> Any:
    figure = start_figure(evaluation, "Precision and recall, each class against the rest", 9.4, 5.6)
    axes = _axes(figure, left=0.75, bottom=0.65, right=3.35, top=0.95)
    style = 0
    for c, name in enumerate(evaluation.classes):
        positive = labels == c
        if not positive.any():
            continue
        scores = p[:, c].astype(np.float64)
        precision, recall = m.precision_recall_curve(scores, positive)
        area = m.average_precision(scores, positive)
        colour, dash = _COLOURS[style % len(_COLOURS)], _DASHES[style // len(_COLOURS) % len(_DASHES)]
        style += 1
        keep = _thin(recall, precision)
        axes.step(
            recall[keep],
            precision[keep],
            where="pre",
            color=colour,
            linestyle=dash,
            linewidth=1.6,
            label=f"{area:.3f}  {_plain(name)} ({_short(int(positive.sum()))})",
        )
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_xlabel("recall", fontsize=9, color=_QUIET)
    axes.set_ylabel("precision", fontsize=9, color=_QUIET)
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        frameon=False,
        fontsize=8.5,
        title="average precision, class (flows)",
        title_fontsize=8.5,
        alignment="left",
    )
    legend.get_title().set_color(_QUIET)
    return figure


def _reliability(evaluation: Evaluation, p: npt.NDArray[np.float32], labels: npt.NDArray[np.int16]) -> Any:
    table = m.reliability(p, labels)
    figure = start_figure(evaluation, "Reliability: is the model as sure as it is right?", 6.4, 6.4)
    axes = _axes(figure, left=0.75, bottom=1.95, right=0.4, top=0.95)
    width = np.diff(table.edges)
    used = table.count > 0
    axes.plot((0, 1), (0, 1), color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    axes.bar(
        table.edges[:-1][used],
        table.accuracy[used],
        width[used],
        align="edge",
        color=_COLOURS[0],
        alpha=0.28,
        edgecolor="white",
        label="share that is right",
    )
    axes.plot(
        table.confidence[used], table.accuracy[used], color=_COLOURS[0], marker="o", markersize=4.5, linewidth=1.4
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xticklabels([])
    axes.set_ylabel("share that is right", fontsize=9, color=_QUIET)
    axes.legend(
        loc="upper left",
        frameon=False,
        fontsize=8.5,
        title=f"expected calibration error {table.error:.4f}",
        title_fontsize=9,
        alignment="left",
    )
    below = _axes(figure, left=0.75, bottom=0.65, right=0.4, top=4.65)
    below.bar(table.edges[:-1], np.maximum(table.count, 0), width, align="edge", color=_QUIET, edgecolor="white")
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(0, max(10.0, 2.5 * float(table.count.max())))
    below.set_yticks([10.0**k for k in range(int(np.log10(max(10, table.count.max()))) + 1)][-3:])
    below.minorticks_off()
    below.set_xlim(0, 1)
    below.set_ylabel("flows (log)", fontsize=9, color=_QUIET)
    below.set_xlabel("confidence: probability of the most probable class", fontsize=9, color=_QUIET)
    return figure


def _stability(evaluation: Evaluation) -> Any:
    windows = evaluation.windows
    stable = evaluation.figures.get("stability")
    figure = start_figure(evaluation, "Stability over time, windows of equally many flows", 7.6, 4.8)
    axes = _axes(figure, left=0.75, bottom=0.95, right=0.4, top=1.25)
    x = np.arange(len(windows))
    accuracy = np.array([w["accuracy"] for w in windows], np.float64)
    low, high = (np.array([w[k] for w in windows], np.float64) for k in ("accuracy_low", "accuracy_high"))
    macro = np.array([w["macro_f1"] for w in windows], np.float64)
    spread = np.nan_to_num(np.stack([accuracy - low, high - accuracy]).clip(0))
    axes.axhline(accuracy.mean(), color=_COLOURS[0], linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
    axes.errorbar(
        x - 0.06,
        accuracy,
        yerr=spread,
        color=_COLOURS[0],
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1.2,
        capsize=3,
        label=f"accuracy, 95 % intervals (worst / mean {stable:.3f})" if stable is not None else "accuracy",
    )
    axes.plot(x + 0.06, macro, color=_COLOURS[1], marker="s", markersize=4.5, linewidth=1.3, label="macro-F1")
    lowest = float(np.nanmin([accuracy.min(), macro.min(), *(v for v in low if np.isfinite(v))]))
    floor = max(0.0, lowest - 0.06 * (1 - lowest) - 0.005)
    axes.set_ylim(floor, 1 + 0.02 * (1 - floor))
    axes.set_xlim(-0.5, len(windows) - 0.5)
    axes.set_xticks(x, [_moment(w["time_from"]) for w in windows], rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel("first flow of the window (UTC)", fontsize=9, color=_QUIET)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=8.5)
    return figure


def draw_base_rates(evaluation: Evaluation, rates: BaseRates) -> Any:
    """Precision and analysts needed against the share of flows that are attacks; a figure to be saved."""
    figure = start_figure(evaluation, "What alerts come to in a network, by how rare attacks are", 9.4, 4.6)
    left = _axes(figure, left=0.9, bottom=0.65, right=5.0, top=1.15)
    right = _axes(figure, left=5.25, bottom=0.65, right=1.15, top=1.15)
    x = [float(row.prevalence) for row in rates.for_flows(FLOWS_PER_DAY[0])]
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(max(x) * 2, min(x) / 2)
        axes.set_xticks(x, [f"1 in {_short(round(1 / p))}" for p in x])
        axes.minorticks_off()
        axes.set_xlabel("flows that are attacks", fontsize=9, color=_QUIET)
    left.set_yscale("log")
    left.set_yticks([10.0**-k for k in range(7)], ["100 %", "10 %", "1 %", "0.1 %", "0.01 %", "0.001 %", "0.0001 %"])
    left.set_ylim(min(x) / 2, 1.5)
    left.minorticks_off()
    left.plot(x, x, color=_QUIET, linewidth=1, linestyle=(0, (4, 3)))
    _band(left, x, [row.precision for row in rates.for_flows(FLOWS_PER_DAY[0])], _COLOURS[0])
    left.set_title("share of alerts that are attacks (dashed: alerts at random)", fontsize=9, color=_QUIET, loc="left")
    for flows, colour in zip(FLOWS_PER_DAY, _COLOURS, strict=False):
        figures = [row.analysts for row in rates.for_flows(flows)]
        _band(right, x, figures, colour)
        last = figures[-1].value or 0.0
        text = f"{amount(last)}\nat {_short(flows)} flows"
        right.annotate(text, (x[-1], last), (8, 0), textcoords="offset points", fontsize=8, color=colour, va="center")
    right.set_yscale("log")
    right.minorticks_off()
    right.axhline(1, color=_QUIET, linewidth=1, linestyle=(0, (4, 3)))
    title = f"analysts needed, {amount(rates.alerts_per_analyst)} alerts a day each (dashed: one)"
    right.set_title(title, fontsize=9, color=_QUIET, loc="left")
    return figure


def _band(axes: Any, x: list[float], figures: list[Interval], colour: str) -> None:
    """A line through figures, and a band where they have intervals."""
    axes.plot(x, [f.value for f in figures], color=colour, marker="o", markersize=4.5, linewidth=1.6)
    if all(f.low is not None and f.high is not None for f in figures):
        axes.fill_between(x, [f.low for f in figures], [f.high for f in figures], color=colour, alpha=0.2, linewidth=0)


def _thin(recall: npt.NDArray[np.float64], precision: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Indices of at most about 2000 points that draw the same curve as all of them, to the eye."""
    if len(recall) <= 2000:
        return np.arange(len(recall))
    bucket = np.floor(recall * 1000) * 1001 + np.floor(precision * 1000)
    return np.append(np.flatnonzero(np.diff(bucket, prepend=-1)), len(recall) - 1)


def _short(count: int) -> str:
    """12345 as 12.3k, so that it fits a cell."""
    if count < 1000:
        return str(count)
    for size, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if count < 999.5 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.2g}"


def _moment(seconds: float | None) -> str:
    from datetime import UTC, datetime

    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%d %b %H:%M")


def _plain(text: object) -> str:
    """Text that Matplotlib shows as it is: no dollar sign starts a formula."""
    return printable(text, 90).replace("$", r"\$")
