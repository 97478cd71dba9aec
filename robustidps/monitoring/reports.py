"""A window's pages: `drift.html` over all of its flows, and Evidently's page of a sample beside it.

    HOME/reports/drift/MODEL/WINDOW/   drift.html      ours, made from the window's row; no script
                                       drift.json      the same figures
                                       evidently.html  Evidently's page of a sample; inline script
                                       evidently.json  its figures as it gives them
    HOME/reports/evidently/            Evidently's workspace: a project a model, a snapshot a window

`drift.html` can be made anew from the row at any time, and is when a review comes. Evidently's page needs rows, on both
sides, and so is made while the window is looked at. Its reference is the version's own training traffic where that is
still in the home folder (and its digest is the one that the signed bundle names); else rows drawn from the reference
profile, which knows bins and not values: the page then says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustidps.evaluation.drift import DriftSettings, DriftSummary, drift_report
from robustidps.evaluation.markup import Markup, document, element, join, table
from robustidps.evaluation.report import Interval
from robustidps.monitoring.figures import Measured, drawn_predictions, drawn_rows
from robustidps.monitoring.windows import Case, DriftWindow, report_folder, training_rows
from robustidps.progress import Progress, silent
from robustidps.settings import write_whole
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.monitoring.reviews import Review
    from robustidps.registry.registry import ModelRegistry

__all__ = ["EVIDENTLY", "PAGE", "STYLE", "evidently_report", "keep_snapshot", "style", "write_page"]

PAGE, FIGURES = "drift.html", "drift.json"
EVIDENTLY = "evidently.html"
_FILES = {"html": EVIDENTLY, "evidently": "evidently.json", "summary": "evidently-summary.json"}
STYLE = """
.status { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .9rem; color: #ffffff; }
.alarm { background: #b3261e; } .drifted { background: #9a5b00; } .silenced { background: #5a6169; }
.steady { background: #1b6e3c; }
"""


def style() -> str:
    """The style sheet of our pages, with the colours of a window's status."""
    sheet = Path(__file__).parents[1] / "evaluation" / "page.css"
    return sheet.read_text(encoding="utf-8") + STYLE


def evidently_report(
    registry: ModelRegistry,
    case: Case,
    row: DriftWindow,
    found: Measured,
    *,
    settings: DriftSettings | None = None,
    progress: Progress = silent,
) -> DriftSummary | None:
    """Writes Evidently's page and figures of a sample, and keeps its snapshot; None where settings leave them out.

    Raises:
        StorageError: the folder can't be written to. MissingExtraError: Evidently isn't installed.
    """
    settings = settings or DriftSettings.load()
    wanted = settings.windows.evidently
    if wanted == "never" or (wanted == "drifted" and not row.drifted):
        return None
    sampled, origin = found.sample, []
    said = None
    rows = min(settings.sample, len(found.sample))
    before = _training_sample(registry, case, settings)
    if before is not None:
        said = case.bundle.probabilities(before.features)
        origin.append(f"reference: {len(before):,} rows drawn at random from the traffic {case.version} was trained on")
    else:
        made, coarse = drawn_rows(case.reference, max(rows, settings.min_rows), settings.seed, like=sampled.features)
        before = TrafficSet.build(case.bundle.schema, made)
        sampled = TrafficSet.build(case.bundle.schema, coarse)
        said = drawn_predictions(case.reference, len(made), settings.seed)
        origin.append(
            f"reference: the training traffic of {case.version} is not here; {len(made):,} rows were drawn from its "
            "profile, column by column. Values on both sides are edges of its bins: distances are between bins, and "
            "how columns go together is not shown"
        )
    whole = len(sampled) == row.rows
    drawn = "all" if whole else f"{len(sampled):,} rows drawn at random"
    origin.append(f"current: {drawn} of the window's {row.rows:,} rows")
    folder = report_folder(registry, row)
    return drift_report(
        before,
        sampled,
        folder,
        reference_probabilities=said,
        current_probabilities=found.probabilities if said is not None else None,
        settings=settings,
        files=_FILES,
        origin=origin,
        keep=lambda snapshot: keep_snapshot(registry.settings.home, row, snapshot),
        progress=progress,
    )


def _training_sample(registry: ModelRegistry, case: Case, settings: DriftSettings) -> TrafficSet | None:
    traffic = training_rows(registry.settings.home, case.bundle)
    if traffic is None:
        return None
    size = min(settings.sample, len(traffic))
    return traffic.select(np.sort(np.random.default_rng(settings.seed).choice(len(traffic), size, replace=False)))


def keep_snapshot(home: Path, row: DriftWindow, snapshot: Any) -> None:
    """Puts Evidently's snapshot into the workspace of this home: a project a model, named by the model."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read when Evidently's workspace is imported
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(home / "reports" / "evidently"))
    project = next((p for p in workspace.list_projects() if p.name == row.model), None)
    if project is None:
        project = workspace.create_project(row.model)
    workspace.add_run(project.id, snapshot, name=row.id)


def write_page(registry: ModelRegistry, row: DriftWindow, review: Review | None = None) -> list[Path]:
    """Writes a window's `drift.html` and `drift.json`, from its row and review; gives both.

    Raises:
        StorageError: the folder can't be written to. IntegrityError: the row was edited.
    """
    folder = report_folder(registry, row)
    page = write_whole(folder / PAGE, _page(row, review, (folder / EVIDENTLY).is_file()))
    content = row.as_dict() | {"figures": row.measured.model_dump(mode="json"), "review": _review_facts(review)}
    return [page, write_whole(folder / FIGURES, json.dumps(content, indent=1) + "\n")]


def _review_facts(review: Review | None) -> dict[str, Any] | None:
    if review is None:
        return None
    return {
        "as": review.kind,
        "until": review.until.isoformat() if review.until else None,
        "reason": review.reason,
        "by": review.actor,
        "by_source": review.actor_source,
        "time": review.time.isoformat(),
        "new_anchor": review.new_anchor,
    }


def _page(row: DriftWindow, review: Review | None, evidently: bool) -> str:
    figures = row.measured
    when = f"{row.began:%Y-%m-%d %H:%M} to {row.ended:%Y-%m-%d %H:%M} UTC"
    lead = f"{figures.rows:,} flows, {when}, beside what {row.model} {row.version} was trained on."
    links = [element("a", "all models", href="../../../index.html"), element("a", "figures as JSON", href=FIGURES)]
    if evidently:
        links.insert(1, element("a", "Evidently's page of a sample", href=EVIDENTLY))
    sections: Mapping[str, list[Markup]] = {
        "What a reviewer made of it": _reviewed(review),
        "Columns": _columns(row),
        "Predictions and alerts": _predictions(row),
        "Labels that came back": _labelled(row),
        "Where this comes from": _origin(row),
    }
    head = [
        element("p", "A window of traffic", class_="kicker"),
        element("h1", f"{row.model} ", element("span", row.status, class_=f"status {row.status}")),
        element("p", lead, class_="quiet"),
        *([element("ul", *(element("li", reason) for reason in row.reasons))] if row.reasons else []),
        *([element("p", f"No alarm is raised: {row.silenced}.")] if row.silenced else []),
        element("dl", *_tiles(row), class_="tiles"),
    ]
    filled = {title: content for title, content in sections.items() if content}
    return document(
        f"Drift of {row.model}, {row.ended:%Y-%m-%d %H:%M} - RobustIDPS",
        style(),
        element("header", *head),
        element("nav", *links, aria_label="pages"),
        element("main", *(element("section", element("h2", title), *content) for title, content in filled.items())),
    )


def _tiles(row: DriftWindow) -> list[Markup]:
    figures = row.measured
    facts: list[tuple[str, str, str]] = [
        (
            "columns moved, reference",
            f"{len(figures.reference.moved)} of {len(figures.columns)}",
            "PSI against what the version was trained on",
        )
    ]
    if figures.anchor is not None:
        facts.append(
            (
                "columns moved, anchor",
                f"{len(figures.anchor.moved)} of {len(figures.columns)}",
                f"PSI against the reference of {row.anchor}, the early anchor",
            )
        )
    distance = figures.reference.prediction_distance
    if distance is not None:
        facts.append(("predicted classes", f"{distance:.3f}", "Jensen-Shannon distance of their shares, 0 to 0.83"))
    raised = sum(figures.alerts.values())
    facts.append(("alerts", f"{raised:,}", f"{figures.alert_share:.2%} of flows; {figures.uncertain:,} uncertain"))
    if figures.labelled is not None:
        facts.append(
            (
                "accuracy",
                _interval(figures.labelled.accuracy),
                f"of the {figures.labelled.rows:,} flows whose labels came back",
            )
        )
    return [
        element(
            "div",
            element("dt", element("span", name, class_="name")),
            element("dd", element("div", value, class_="value")),
            element("dd", meaning, class_="quiet"),
        )
        for name, value, meaning in facts
    ]


def _reviewed(review: Review | None) -> list[Markup]:
    if review is None:
        return []
    until = f", until {review.until:%Y-%m-%d %H:%M} UTC" if review.until else ""
    anchor = f"; the early anchor is now the reference of {review.version}" if review.new_anchor else ""
    said = (
        f"{review.kind}{until}, by {review.actor} ({review.actor_source}) on {review.time:%Y-%m-%d %H:%M} UTC{anchor}"
    )
    return [element("p", element("strong", said)), element("p", review.reason)]


def _columns(row: DriftWindow) -> list[Markup]:
    figures = row.measured
    moved, early = set(figures.reference.moved), set(figures.anchor.moved if figures.anchor else ())
    lines = []
    for c in sorted(figures.columns, key=lambda c: -max(c.psi, c.anchor_psi or 0.0)):
        where = [word for word, names in (("reference", moved), ("anchor", early)) if c.name in names]
        lines.append(
            [
                c.name,
                element("strong", " and ".join(where)) if where else "",
                f"{c.psi:.3f}",
                f"{c.allowance:.3f}",
                "-" if c.anchor_psi is None else f"{c.anchor_psi:.3f}",
                f"{c.missing_reference:.2%}",
                f"{c.missing:.2%}",
            ]
        )
    header = ["column", "moved from", "PSI", "by chance", "PSI, anchor", "missing, reference", "missing, window"]
    text = (
        "The population stability index of every column, over all flows of the window. A column has moved when its "
        "index is at least the threshold and what chance may give with so many flows."
    )
    return [element("p", text), table("Columns, the most moved first", header, lines, words=2)]


def _predictions(row: DriftWindow) -> list[Markup]:
    figures = row.measured
    before = figures.predictions_reference
    lines = [
        [
            name,
            "-" if before is None else f"{before.get(name, 0.0):.2%}",
            f"{n / figures.rows:.2%}",
            f"{n:,}",
            f"{figures.alerts.get(name, 0):,}",
        ]
        for name, n in figures.predictions.items()
    ]
    header = ["class", "reference", "window", "flows", "alerts"]
    return [table("What the model says: shares of predicted classes, and alerts", header, lines)]


def _labelled(row: DriftWindow) -> list[Markup]:
    found = row.measured.labelled
    if found is None:
        return []
    lines = [[name, f"{found.support[name]:,}", _interval(value)] for name, value in found.recall.items()]
    text = (
        f"{found.rows:,} flows have a label. Accuracy {_interval(found.accuracy)}; 95 % intervals, resampled by "
        f"{found.blocks} ({found.n_blocks:,}). Flows that somebody looked at are not drawn at random: where only "
        "alerts are labelled, recall is too high, and false alerts weigh too much in accuracy."
    )
    return [element("p", text), table("Recall by class", ["class", "flows", "recall"], lines)]


def _origin(row: DriftWindow) -> list[Markup]:
    facts = {
        "model": f"{row.model} {row.version}",
        "window": element("code", row.id),
        "digest of the window": element("code", row.digest),
        "early anchor": row.anchor or "none",
        "looked at": f"{row.created_at:%Y-%m-%d %H:%M} UTC",
    }
    entries = [join(element("dt", name), element("dd", text)) for name, text in facts.items()]
    notes = [element("ul", *(element("li", note) for note in row.notes), class_="quiet")] if row.notes else []
    return [element("dl", *entries, class_="facts"), *notes]


def _interval(value: Interval) -> str:
    if value.value is None:
        return "n/a"
    spread = f" [{value.low:.3f}, {value.high:.3f}]" if value.low is not None and value.high is not None else ""
    return f"{value.value:.3f}{spread}"
