"""The page says what the evaluation says, in one file that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from robustidps.evaluation.background import Background
from robustidps.evaluation.base_rates import base_rates
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.page import PAGE, write_page
from robustidps.evaluation.plots import draw
from robustidps.evaluation.report import Evaluation, Interval
from robustidps.registry.metadata import TrainingFacts


class Reader(HTMLParser):
    """Tables as lists of rows of texts by caption; tags with their attributes; all text."""

    VOID = ("img", "meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # well-formed: what is opened last is closed first
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif {"td", "th"} & set(self.open):
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def measured(make, traffic, tmp_path_factory) -> SimpleNamespace:
    e, p = evaluate(make.bundle(), traffic, dataset="made up", resamples=200, seen_tools={"tool 0"})
    folder = tmp_path_factory.mktemp("page")
    rates = base_rates(e, 48)
    pictures = draw(e, p, traffic, folder, rates)
    background = Background(
        "a sentence", "made up, 9 flows", "temporal split\n  dropped: 7", "5 of 6 moved", "drift.html"
    )
    path = write_page(e, folder, rates=rates, pictures=pictures, background=background)
    text = path.read_text(encoding="utf-8")
    return SimpleNamespace(e=e, rates=rates, pictures=pictures, path=path, text=text, read=Reader(text))


def test_every_figure_is_the_evaluations(measured):
    listed = {
        row[0]: row[2:] for row in measured.read.tables["By the names that rules and MLflow use"] if len(row) == 4
    }
    del listed["figure"]
    assert set(listed) == {*measured.e.headline, *measured.e.figures}
    for name, value in measured.e.headline.items():
        if value.value is None:
            assert listed[name] == ["n/a", ""]
        elif 0.001 <= value.value < 1000:
            assert listed[name][0] == f"{value.value:.4f}"
            assert (listed[name][1] == "") == (value.low is None)
    accuracy = measured.e.headline["accuracy"]
    assert listed["accuracy"] == [f"{accuracy.value:.4f}", f"{accuracy.low:.4f} to {accuracy.high:.4f}"]


def test_every_class_has_its_figures(measured):
    _, *rows = measured.read.tables[
        "Each class against the rest, by most probable class; alerts by the bundle's thresholds"
    ]
    for (label, entry), row in zip(measured.e.classes.items(), rows, strict=True):
        recall = entry.recall
        assert row == [
            label,
            f"{entry.support:,}",
            f"{recall.value:.4f}[{recall.low:.4f}, {recall.high:.4f}]",
            *(f"{v:.4f}" for v in (entry.precision, entry.f1, entry.alert_recall)),
        ]


def test_every_line_of_the_base_rates_is_there(measured):
    for flows in (1_000_000, 10_000_000, 100_000_000):
        _, *rows = measured.read.tables[f"A day of {flows:,} flows"]
        for rate, row in zip(measured.rates.for_flows(flows), rows, strict=True):
            assert row[0].endswith(rate.prevalence)
            counts = (rate.true_alerts, rate.missed, rate.false_alerts, rate.alerts, rate.analysts)
            assert row[2:] == [measured.rates.count(c).replace(" [", "[") for c in counts]


def test_windows_timings_confusion_and_origin_are_there(measured):
    tables, e = measured.read.tables, measured.e
    assert len(tables["Windows of equally many flows, in order of time"]) == 1 + len(e.windows)
    assert len(tables["ONNX Runtime, one thread, on the host that evaluated, whatever else it did"]) == 1 + 4
    matrix = tables["True classes in rows, predicted ones in columns; flows"]
    assert [[int(n.replace(",", "") or 0) for n in row[1:]] for row in matrix[1:]] == e.confusion
    for words in (
        e.bundle_digest,
        e.data_digest,
        "a sentence",
        "made up, 9 flows",
        "dropped: 7",
        "5 of 6 moved",
        *e.notes,
    ):
        assert words in measured.read.text
    assert ("a", {"href": "drift.html"}) in measured.read.tags


def test_a_figure_that_is_new_to_metrics_shows_by_itself_where_it_belongs(measured, tmp_path):
    new = {"recall_unseen_services": Interval(value=0.25), "detection_under.padding": Interval(value=0.5)}
    e = measured.e.model_copy(update={"headline": measured.e.headline | new})
    text = write_page(e, tmp_path, rates=measured.rates).read_text()
    rows = Reader(text).tables["By the names that rules and MLflow use"]
    heading = {
        row[0]: next(r[0] for r in reversed(rows[:i]) if len(r) == 1)
        for i, row in enumerate(rows)
        if len(row) > 1 and i
    }
    assert heading["recall_unseen_services"] == heading["recall_unseen_tools"] != heading["accuracy"]
    assert heading["detection_under.padding"] == "Under evasion"


def test_a_picture_that_is_new_shows_by_itself(measured, tmp_path):
    new = tmp_path / "another_view.png"
    new.write_bytes(measured.pictures[0].read_bytes())
    tags = Reader(write_page(measured.e, tmp_path, rates=measured.rates, pictures=[new]).read_text()).tags
    assert [a["alt"] for t, a in tags if t == "img"] == ["Another view"]


def test_the_page_needs_and_asks_for_nothing(measured):
    assert not re.search(
        r"https?:|//|url\(|@import|<script|<link|<iframe|<form", re.sub(r"data:[^\"]+", "", measured.text)
    )
    for tag, attributes in measured.read.tags:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,"), tag
    assert {a["href"] for t, a in measured.read.tags if t == "a"} >= {"#base-rates", "#classes"}
    anchors = {a["href"][1:] for t, a in measured.read.tags if t == "a" and a["href"].startswith("#")}
    assert anchors <= {a.get("id") for _, a in measured.read.tags}


def test_all_pictures_are_embedded_and_told_in_words(measured):
    images = [a for t, a in measured.read.tags if t == "img"]
    assert len(images) == len(measured.pictures) == 5
    assert all(len(a["alt"]) > 30 for a in images)


def test_tables_have_captions_and_header_cells_with_a_scope(measured):
    tags = measured.read.tags
    assert sum(t == "caption" for t, _ in tags) == sum(t == "table" for t, _ in tags)
    assert {a.get("scope") for t, a in tags if t == "th"} == {"col", "row", "rowgroup"}
    assert ("html", {"lang": "en"}) in tags and any(a.get("name") == "viewport" for _, a in tags)


def test_the_same_evaluation_gives_the_same_bytes(measured, tmp_path):
    background = Background(
        "a sentence", "made up, 9 flows", "temporal split\n  dropped: 7", "5 of 6 moved", "drift.html"
    )
    again = write_page(measured.e, tmp_path, rates=measured.rates, pictures=measured.pictures, background=background)
    assert again.name == PAGE and again.read_text() == measured.text
    assert [p.name for p in tmp_path.iterdir()] == [PAGE]


def test_an_evaluation_that_knows_next_to_nothing_has_a_page_too(tmp_path):
    bare = Evaluation(
        model="m", version="1.0.0", bundle_digest="", dataset="d", data_digest="", rows=1, time_from=None,
        time_to=None, classes={}, confusion=[], headline={}, figures={"stability": None}, blocks="row", n_blocks=1,
        resamples=0, seed=0,
    )  # fmt: skip
    text = Reader(write_page(bare, tmp_path, rates=base_rates(bare, 48)).read_text()).text
    assert "n/a" in text and "Drift" not in text and "None" not in text


def drift_report(folder, current: str) -> None:
    from robustidps.evaluation.drift import DriftSettings, DriftSummary

    summary = DriftSummary(
        schema_digest="", reference_digest="", current_digest=current, reference_rows=9, current_rows=9,
        reference_sampled=None, current_sampled=None, settings=DriftSettings(), columns=[], drifted_columns=0,
        drifted_share=0.0, prediction=None, files={"html": "drift.html"},
    )  # fmt: skip
    (folder / "drift.json").write_text(summary.model_dump_json())


def test_the_drift_report_is_linked_only_if_it_is_of_this_traffic(measured, tmp_path):
    facts = TrainingFacts(dataset="made up", data_digest="", rows=1234, time_from=0.0, time_to=86_400.0, seed=3)
    meta = SimpleNamespace(description="", training=facts)
    inner = tmp_path / "inner"
    assert Background.of(meta, measured.e, inner, reports=tmp_path).drift == ""
    drift_report(tmp_path, "other traffic")
    assert Background.of(meta, measured.e, inner, reports=tmp_path).drift == ""
    drift_report(tmp_path, measured.e.data_digest)
    found = Background.of(meta, measured.e, inner, reports=tmp_path)
    assert found.drift_page == "../drift.html" and "0 of 0 columns" in found.drift
    assert (
        found.training.startswith("made up, 1,234 flows, 1970-01-01 00:00 to 1970-01-02") and "seed 3" in found.training
    )
    (tmp_path / "drift.json").write_text("{")
    assert Background.of(meta, measured.e, inner, reports=tmp_path).drift == ""
