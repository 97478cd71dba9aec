"""The page of a model version's evaluation: one HTML file that says how good it is, for whom, and how we know.

`write_page` puts the figures, the base rates and the pictures into `evaluation.html`, which needs nothing beside
itself: pictures are embedded, there is no script, and a content security policy forbids it to load or send anything
(`robustidps.evaluation.markup`, which also escapes every word: classes, data set and notes come from the traffic).

Figures are taken from the evaluation as they are, with their meaning from `METRICS`. One that is new there appears on
the page by itself, under the first of `GROUPS` whose pattern its name fits; so does a new picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from robustidps.evaluation.background import Background, moment
from robustidps.evaluation.base_rates import FLOWS_PER_DAY, BaseRate, BaseRates, amount, one_in
from robustidps.evaluation.markup import Markup, document, element, join, picture, table
from robustidps.evaluation.metrics import describe
from robustidps.evaluation.report import Evaluation, Interval
from robustidps.settings import write_whole

__all__ = ["GROUPS", "PAGE", "write_page"]

PAGE = "evaluation.html"
_STYLE = Path(__file__).with_name("page.css")
_TILES = (
    "accuracy",
    "macro_f1",
    "alert_recall",
    "alert_false_positive_rate",
    "precision_at_prevalence_1e-4",
    "stability",
)
GROUPS = (
    ("Attacks and services seen in training, and unseen ones", r"_(un)?seen_"),
    ("Under evasion", r"evasion|_under[._]"),
    ("At a fixed false-positive rate", r"_at_fpr_"),
    ("Precision, by how rare attacks are", r"^precision_at_prevalence_"),
    ("Alerts", r"alert|uncertain"),
    ("Over time", r"^stability|^aut"),
    ("Probabilities", r"calibration|log_loss"),
    ("Speed", r"^latency|^throughput"),
    ("Classes", r""),
)
"""Headings of figures, and what the names under them look like; the first that fits has it."""
_ORDER = ("Classes", "Alerts")
_PICTURES = {
    "base_rates": "Precision and analysts needed, by the share of flows that are attacks; bands: 95 % intervals.",
    "confusion_matrix": "Confusion matrix: true classes in rows, predicted in columns; shade: share of the row.",
    "evasion": "Share of attack flows still called an attack: classes in rows, perturbations in columns.",
    "precision_recall": "Precision against recall, each class against the rest, with its average precision.",
    "reliability": "Reliability: the share that is right against the probability that the model gave.",
    "stability": "Accuracy and macro-F1 of windows of equally many flows, in order of time.",
}


def write_page(
    evaluation: Evaluation,
    folder: Path,
    *,
    rates: BaseRates,
    pictures: Iterable[Path] = (),
    background: Background | None = None,
) -> Path:
    """Writes `evaluation.html` into `folder` and returns its path.

    Args:
        pictures: what `plots.draw` wrote.

    Raises:
        StorageError: `folder` can't be written to.
    """
    known = background or Background()
    shown = {
        p.stem: picture(p.read_bytes(), _PICTURES.get(p.stem, p.stem.replace("_", " ").capitalize()))
        for p in pictures
        if p.suffix == ".png"
    }
    sections = {
        "Base rates": _base_rates(rates, shown),
        "Classes": _classes(evaluation, shown),
        "All figures": [*_figures(evaluation), *(made for name, made in shown.items() if name not in _PICTURES)],
        "Evasion": _evasion(evaluation, shown),
        "Over time": _windows(evaluation, shown),
        "Probabilities": [shown[name] for name in ("precision_recall", "reliability") if name in shown],
        "Speed": _timings(evaluation),
        "Drift": _drift(known),
        "What to bear in mind": [element("ul", *(element("li", note) for note in evaluation.notes))]
        if evaluation.notes
        else [],
        "Where this comes from": _origin(evaluation, known),
    }
    filled = {title: content for title, content in sections.items() if content}
    name = f"{evaluation.model} {evaluation.version}"
    page = document(
        f"{name} on {evaluation.dataset} - RobustIDPS",
        _STYLE.read_text(encoding="utf-8"),
        element("header", *_head(evaluation, known, name)),
        element("nav", *(element("a", t, href=f"#{_anchor(t)}") for t in filled), aria_label="sections"),
        element("main", *(element("section", element("h2", t, id=_anchor(t)), *c) for t, c in filled.items())),
    )
    return write_whole(folder / PAGE, page)


def _head(evaluation: Evaluation, known: Background, name: str) -> list[Markup]:
    when = ""
    if evaluation.time_from is not None and evaluation.time_to is not None:
        when = f", {moment(evaluation.time_from)} to {moment(evaluation.time_to)} UTC"
    kinds = {"campaign": "whole campaigns", "day": "whole days", "row": "single rows"}
    drawn = kinds.get(evaluation.blocks, evaluation.blocks)
    lead = (
        f"Judged on {evaluation.rows:,} labelled flows of {evaluation.dataset}{when}. "
        f"Brackets are 95 % intervals: {evaluation.resamples:,} resamples of {drawn} ({evaluation.n_blocks:,})."
    )
    tiles = []
    for metric in _TILES:
        value = _value(evaluation, metric)
        if value.value is not None:
            meaning = describe(metric)
            tiles.append(
                element(
                    "div",
                    element("dt", element("span", metric, class_="name")),
                    element("dd", element("div", _number(value.value), class_="value"), _spread(value)),
                    element("dd", meaning.text if meaning else "", class_="quiet"),
                )
            )
    found = [element("p", "Evaluation of a model version", class_="kicker"), element("h1", name)]
    if known.description:
        found.append(element("p", known.description))
    return [*found, element("p", lead, class_="quiet"), element("dl", *tiles, class_="tiles")]


def _base_rates(rates: BaseRates, shown: dict[str, Markup]) -> list[Markup]:
    """Alerts a day, by flows a day and by how rare attacks are."""
    capacity = amount(rates.alerts_per_analyst)
    rows = rates.for_flows(FLOWS_PER_DAY[0])
    share = table(
        "What an alert is worth, whatever the volume",
        ["attacks among flows", "alerts that are attacks", f"attacks among an analyst's {capacity} alerts a day"],
        [[_share(r), _stacked(rates.precision(r)), _stacked(rates.attacks_looked_at(r))] for r in rows],
    )
    header = ["attacks among flows", "attack flows", "found", "missed", "false alerts", "alerts in all", "analysts"]
    volumes = [
        table(
            f"A day of {flows:,} flows",
            header,
            [
                [
                    _share(row),
                    amount(row.attacks),
                    _stacked(rates.count(row.true_alerts, exact=True)),
                    _stacked(rates.count(row.missed, exact=True)),
                    *(_stacked(rates.count(figure)) for figure in (row.false_alerts, row.alerts, row.analysts)),
                ]
                for row in rates.for_flows(flows)
            ],
        )
        for flows in FLOWS_PER_DAY
    ]
    text = (
        "Held-out traffic is full of attacks and a network isn't: the rarer attacks are, the smaller the share of "
        "alerts that are attacks, however good the model (the base-rate fallacy; Axelsson, 2000). Below, this model's "
        "alert_recall and alert_false_positive_rate are carried over to networks of three sizes."
    )
    notes = element("ul", *(element("li", note) for note in rates.notes), class_="quiet")
    return [element("p", text), share, *_some(shown, "base_rates"), *volumes, notes]


def _classes(evaluation: Evaluation, shown: dict[str, Markup]) -> list[Markup]:
    if not evaluation.classes:
        return []
    rows = []
    for label, entry in evaluation.classes.items():
        recall = entry.recall
        bar = join() if recall.value is None else element("meter", min=0, max=1, value=f"{recall.value:.4f}")
        cells = [_maybe(v) for v in (entry.precision, entry.f1, entry.alert_recall)]
        figure = element("span", bar, _number(recall.value), _spread(recall))
        rows.append([label, f"{entry.support:,}", figure, *cells])
    figures = table(
        "Each class against the rest, by most probable class; alerts by the bundle's thresholds",
        ["class", "flows", "recall", "precision", "F1", "raise an alert"],
        rows,
    )
    counts = [
        [label, *(f"{n:,}" if n else "" for n in row)]
        for label, row in zip(evaluation.classes, evaluation.confusion, strict=False)
    ]
    matrix = element(
        "details",
        element("summary", "The confusion matrix as a table"),
        table("True classes in rows, predicted ones in columns; flows", ["", *evaluation.classes], counts),
    )
    return [figures, *_some(shown, "confusion_matrix"), *([matrix] if counts else [])]


def _figures(evaluation: Evaluation) -> list[Markup]:
    grouped: dict[str, list[list[str]]] = {}
    for name in (*evaluation.headline, *evaluation.figures):
        value, meaning = _value(evaluation, name), describe(name)
        heading = next(title for title, pattern in GROUPS if re.search(pattern, name))
        spread = "" if value.low is None or value.high is None else f"{_number(value.low)} to {_number(value.high)}"
        row = [element("span", name, class_="name"), meaning.text if meaning else "", _number(value.value), spread]
        grouped.setdefault(heading, []).append(row)
    titles = [*_ORDER, *(title for title, _ in GROUPS if title not in _ORDER)]
    header = ["figure", "what it is", "value", "95 % interval"]
    listed = {title: grouped[title] for title in titles if title in grouped}
    return [table("By the names that rules and MLflow use", header, listed, words=2)]


def _evasion(evaluation: Evaluation, shown: dict[str, Markup]) -> list[Markup]:
    """What is found of attacks that were altered to evade, and what it costs the attacker."""
    evasion = evaluation.evasion
    if evasion is None:
        return []

    def cell(figure: Interval) -> Markup:
        return element("span", _number(figure.value), _spread(figure))

    rows = [
        [
            name,
            cell(p.detection),
            cell(p.alert_recall),
            *(_number(p.cost.get(w)) for w in ("packets", "bytes", "seconds")),
        ]
        for name, p in evasion.perturbations.items()
    ]
    rows.append(["the worst for each tool", cell(evasion.detection), cell(evasion.alert_recall), "", "", ""])
    header = ["perturbation", "called an attack", "raise an alert", "packets, times", "bytes, times", "seconds, times"]
    tools = [
        [name, w.perturbation, _number(w.unchanged), _number(w.detection), f"{w.flows:,}"]
        for name, w in evasion.worst.items()
    ]
    return [
        *_some(shown, "evasion"),
        table("The held-out attacks, all perturbed in one way, and what it costs the attacker", header, rows),
        table(
            "The perturbation that hides each tool best",
            ["tool", "perturbation", "found unchanged", "found so perturbed", "flows"],
            tools,
            words=2,
        ),
    ]


def _windows(evaluation: Evaluation, shown: dict[str, Markup]) -> list[Markup]:
    if not evaluation.windows:
        return []
    rows = []
    for window in evaluation.windows:
        accuracy = Interval(
            value=window.get("accuracy"), low=window.get("accuracy_low"), high=window.get("accuracy_high")
        )
        rows.append(
            [
                *(moment(window.get(end)) for end in ("time_from", "time_to")),
                f"{window.get('rows') or 0:,.0f}",
                element("span", _number(accuracy.value), _spread(accuracy)),
                *(_number(window.get(name)) for name in ("macro_f1", "false_positive_rate")),
            ]
        )
    header = ["from (UTC)", "to", "flows", "accuracy", "macro-F1", "false-positive rate"]
    grid = table("Windows of equally many flows, in order of time", header, rows, words=2)
    return [*_some(shown, "stability"), grid]


def _timings(evaluation: Evaluation) -> list[Markup]:
    if not evaluation.timings:
        return []
    rows = [
        [f"{t.batch:,}", f"{t.p50_ms:,.3f}", f"{t.p99_ms:,.3f}", f"{t.rows_per_second:,.0f}"]
        for t in evaluation.timings
    ]
    header = ["rows at once", "median ms", "99th percentile ms", "rows a second"]
    return [table("ONNX Runtime, one thread, on the host that evaluated, whatever else it did", header, rows)]


def _drift(known: Background) -> list[Markup]:
    if not known.drift:
        return []
    found = [element("p", f"Held-out traffic against training traffic: {known.drift}.")]
    if known.drift_page:
        link = element("a", "the drift report", href=quote(known.drift_page.lstrip("/"), errors="surrogateescape"))
        where = element("code", Path(known.drift_page).name)
        found.append(element("p", "See ", link, " (", where, ", which lies beside this page where it was written)."))
    return found


def _origin(evaluation: Evaluation, known: Background) -> list[Markup]:
    facts = {
        "model": f"{evaluation.model} {evaluation.version}",
        "bundle digest": element("code", evaluation.bundle_digest),
        "trained on": known.training,
        "judged on": f"{evaluation.dataset}, {evaluation.rows:,} labelled flows",
        "digest of that traffic": element("code", evaluation.data_digest),
        "intervals": f"{evaluation.resamples:,} resamples by {evaluation.blocks}, seed {evaluation.seed}",
    }
    entries = [join(element("dt", name), element("dd", text)) for name, text in facts.items() if text]
    found = [element("dl", *entries, class_="facts")]
    if known.split:
        found += [element("p", "How training and held-out traffic were set apart:"), element("pre", known.split)]
    return found


def _value(evaluation: Evaluation, name: str) -> Interval:
    return evaluation.headline.get(name) or Interval(value=evaluation.figures.get(name))


def _number(value: float | None) -> str:
    """A share to four decimals, as everywhere; larger figures to fewer, small ones to three significant digits."""
    if value is None:
        return "n/a"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _maybe(value: float | None) -> str:
    return "-" if value is None else _number(value)


def _spread(value: Interval) -> Markup:
    if value.low is None or value.high is None:
        return join()
    return element("span", f"[{_number(value.low)}, {_number(value.high)}]", class_="spread")


def _share(row: BaseRate) -> str:
    words = one_in(row.prevalence).replace(" ", "\N{NO-BREAK SPACE}")
    return join(words, element("span", row.prevalence, class_="spread"))


def _stacked(text: str) -> str:
    """`4,690 [3,120 to 6,690]` with the interval below the figure."""
    value, bracket, spread = text.partition(" [")
    return element("span", value, element("span", f"[{spread}", class_="spread")) if bracket else text


def _some(shown: dict[str, Markup], name: str) -> Sequence[Markup]:
    return [shown[name]] if name in shown else []


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower())
