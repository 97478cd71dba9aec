"""One static page over all models: drift over time as small multiples, each point a link to its window's page.

Two figures a panel, from 0 to 1: the share of columns that moved away from the version's reference, and from the early
anchor. A dashed line is the threshold, a vertical one a new version. Alarms are filled, reviews have a letter below.
A window whose report `robustidps gc` has taken away keeps its point, without a link. The page is plain SVG and a table
of the same, without a script.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.evaluation.drift import DriftSettings
from robustidps.evaluation.markup import Markup, document, element, table
from robustidps.monitoring.reports import PAGE, style
from robustidps.monitoring.windows import DriftWindow, report_folder, reviews_of, windows
from robustidps.settings import write_whole

if TYPE_CHECKING:
    from robustidps.monitoring.reviews import Review
    from robustidps.registry.registry import ModelRegistry

__all__ = ["MOST", "write_index"]

MOST = 200
"""Windows of a model that are drawn, the newest."""
LISTED = 20
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 190, 34, 10, 12, 44
_LETTERS = {"expected": "E", "incident": "I", "ignore": "-"}
_STYLE = """
.panels {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1.2rem; margin: 1.2rem 0;
}
.panel { margin: 0; padding: .8rem 1rem; background: var(--raised); border-radius: .5rem; }
.panel h2 { margin: 0 0 .2rem; padding: 0; border: 0; font-size: 1.1rem; }
.panel svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font: 11px system-ui, "DejaVu Sans", sans-serif; }
.axis { stroke: var(--line); } .threshold { stroke: var(--quiet); stroke-dasharray: 4 3; }
.version { stroke: var(--quiet); stroke-dasharray: 1 3; }
.reference { stroke: var(--mark); } .anchor { stroke: #d55e00; }
polyline { fill: none; stroke-width: 1.5; }
circle, rect.dot { stroke-width: 1.5; fill: var(--raised); }
circle.alarm, rect.alarm { fill: #b3261e; stroke: #b3261e; }
a:focus-visible circle { outline: 2px solid var(--mark); }
.legend { color: var(--quiet); font-size: .9rem; }
"""


def write_index(registry: ModelRegistry) -> Path:
    """Writes HOME/reports/index.html from the windows on record. Raises StorageError, LedgerError, IntegrityError."""
    settings = DriftSettings.load()
    models = [summary.name for summary in registry.models()]
    known = {name: found for name in models if (found := windows(registry, name, last=MOST))}
    said = {name: reviews_of(registry, name) for name in known}
    there = {
        (row.model, row.id)
        for found in known.values()
        for row in found
        if (report_folder(registry, row) / PAGE).is_file()
    }
    panels = [_panel(name, found, said[name], settings, there) for name, found in known.items()]
    listed = [_listed(name, found, said[name], there) for name, found in known.items()]
    rules = settings.windows
    legend = (
        "Each point is a window of traffic and opens its page, as long as that is kept. Blue circles: share of columns "
        "that moved away from what the version in production was trained on; orange squares: from the early anchor, "
        f"the first version's. Dashed: the threshold of {rules.share:g}. Dotted: another version. Red: an alarm, which "
        f"takes {rules.k} drifted windows of the last {rules.n}, the latest among them. Below the axis: what a "
        "reviewer made of it, E expected, I incident, - ignore."
    )
    nothing = "No window was looked at yet: robustidps monitor MODEL --traffic FOLDER."
    page = document(
        "Drift - RobustIDPS",
        style() + _STYLE,
        element(
            "header",
            element("p", "RobustIDPS", class_="kicker"),
            element("h1", "Traffic of the models in production"),
            element("p", legend if known else nothing, class_="legend"),
        ),
        element("main", element("div", *panels, class_="panels"), *listed),
    )
    return write_whole(registry.settings.home / "reports" / "index.html", page)


There = Collection[tuple[str, str]]
"""(model, window) of those whose report is there."""


def _linked(row: DriftWindow, content: Markup | str, there: There) -> Markup | str:
    """`content` as a link to the window's page, where there is one."""
    if (row.model, row.id) not in there:
        return content
    return element("a", content, href=f"drift/{row.model}/{row.id}/{PAGE}")


def _panel(
    name: str, found: Sequence[DriftWindow], said: Mapping[str, Review], settings: DriftSettings, there: There
) -> Markup:
    began, ended = found[0].ended, found[-1].ended
    span = max((ended - began).total_seconds(), 1.0)

    def x(when: datetime) -> float:
        inner = _WIDTH - _LEFT - _RIGHT - 12
        return _LEFT + 6 + (inner * (when - began).total_seconds() / span if len(found) > 1 else inner / 2)

    def y(share: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)

    drawn: list[Markup | str] = [
        element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y(v):.1f}", y2=f"{y(v):.1f}", class_="axis")
        for v in (0, 0.5, 1)
    ]
    drawn += [element("text", f"{v:g}", x=_LEFT - 6, y=f"{y(v) + 4:.1f}", text_anchor="end") for v in (0, 0.5, 1)]
    bound = f"{y(settings.windows.share):.1f}"
    drawn.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bound, y2=bound, class_="threshold"))
    for before, after in pairwise(found):
        if before.version != after.version:
            at = f"{(x(before.ended) + x(after.ended)) / 2:.1f}"
            drawn.append(element("line", x1=at, x2=at, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="version"))
    series: dict[str, list[tuple[float, float, DriftWindow]]] = {"reference": [], "anchor": []}
    for row in found:
        figures = row.measured
        for kind, comparison in (("reference", figures.reference), ("anchor", figures.anchor)):
            if comparison is not None:
                series[kind].append((x(row.ended), y(comparison.share), row))
    for kind, points in series.items():
        if len(points) > 1:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
            drawn.append(element("polyline", points=line, class_=kind))
    for kind, points in reversed(series.items()):
        for a, b, row in points:
            told = f"{row.ended:%Y-%m-%d %H:%M} UTC, {row.version}, {row.status}: {row.rows:,} flows"
            told += "" if (row.model, row.id) in there else "; its report is no longer kept"
            moved = row.measured.anchor if kind == "anchor" else row.measured.reference
            red = row.alarm and (kind == "reference" or (moved is not None and moved.share >= settings.windows.share))
            mark = f"dot {kind}{' alarm' if red else ''}"
            shape = (
                element("circle", element("title", told), cx=f"{a:.1f}", cy=f"{b:.1f}", r=4, class_=mark)
                if kind == "reference"
                else element(
                    "rect", element("title", told), x=f"{a - 3:.1f}", y=f"{b - 3:.1f}", width=6, height=6, class_=mark
                )
            )
            drawn.append(_linked(row, shape, there))
    for row in found:
        review = said.get(row.id)
        if review is not None:
            text = element("text", element("title", f"{review.kind}: {review.reason}"), _LETTERS[review.kind],
                           x=f"{x(row.ended):.1f}", y=_HEIGHT - _BOTTOM + 15, text_anchor="middle")  # fmt: skip
            drawn.append(_linked(row, text, there))
    bottom = _HEIGHT - 8
    drawn.append(element("text", f"{began:%Y-%m-%d %H:%M}", x=_LEFT, y=bottom))
    if len(found) > 1:
        drawn.append(element("text", f"{ended:%Y-%m-%d %H:%M} UTC", x=_WIDTH - _RIGHT, y=bottom, text_anchor="end"))
    latest = found[-1]
    svg = element("svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"drift of {name} over time")
    title = element("h2", f"{name} {latest.version} ", element("span", latest.status, class_=f"status {latest.status}"))
    return element("figure", title, svg, class_="panel")


def _listed(name: str, found: Sequence[DriftWindow], said: Mapping[str, Review], there: There) -> Markup:
    rows = []
    for row in reversed(found[-LISTED:]):
        figures, review = row.measured, said.get(row.id)
        words = review.kind + (f" until {review.until:%Y-%m-%d}" if review.until else "") if review else ""
        rows.append(
            [
                _linked(row, f"{row.ended:%Y-%m-%d %H:%M}", there),
                row.version,
                row.status,
                words,
                f"{row.rows:,}",
                f"{figures.reference.share:.0%}",
                "-" if figures.anchor is None else f"{figures.anchor.share:.0%}",
                "-"
                if figures.reference.prediction_distance is None
                else f"{figures.reference.prediction_distance:.3f}",
                f"{figures.alert_share:.2%}",
            ]
        )
    header = ["until (UTC)", "version", "status", "review", "flows", "moved", "from anchor", "predictions", "alerts"]
    more = f", the latest {LISTED} of {len(found)}" if len(found) > LISTED else ""
    return element("section", element("h2", name), table(f"Windows{more}", header, rows, words=4))
