"""Detection under evasion: the worst perturbation for each tool, beside every other and the attacks unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.evasion import evaded_digest, under_evasion
from robustidps.evaluation.metrics import describe
from robustidps.evaluation.plots import draw
from robustidps.evaluation.report import Evaluation
from robustidps.testing.traffic import toy_traffic

BENIGN, UNSURE, SURE = (0.9, 0.1, 0.0), (0.45, 0.55, 0.0), (0.1, 0.9, 0.0)
"""Probabilities that the fake bundle gives back: no attack; an attack below its threshold of 0.6; an alert."""


def make_evaded(make, table: dict[tuple[str, str], list[tuple[float, float, float]]], campaigns: int = 6):
    """Rows of (tool, perturbation): what the model says; class Flood, spread evenly over campaigns of the tool."""
    rows, tools, sources, campaign = [], [], [], []
    for (tool, source), said in table.items():
        rows += said
        tools += [tool] * len(said)
        sources += [source] * len(said)
        campaign += [f"{tool} {i % campaigns}" for i in range(len(said))]
    return make.traffic(
        rows,
        [1] * len(rows),
        time=1.75e9 + np.arange(len(rows)),
        source=np.array(sources, object),
        campaign=np.array(campaign, object),
        tool=np.array(tools, object),
    )


@pytest.fixture(scope="module")
def evaded(make):
    return make_evaded(
        make,
        {
            ("loud", "unchanged"): [SURE] * 60,
            ("loud", "padding-light"): [SURE] * 30 + [BENIGN] * 30,
            ("loud", "delay-light"): [UNSURE] * 60,
            ("quiet", "unchanged"): [BENIGN] * 10 + [SURE] * 30,
            ("quiet", "padding-light"): [SURE] * 40,
            ("quiet", "delay-light"): [BENIGN] * 36 + [SURE] * 4,
        },
    )


def test_the_attacker_takes_the_best_perturbation_for_each_tool(bundle, evaded):
    found = under_evasion(bundle, evaded)
    assert {t: (w.perturbation, w.detection, w.unchanged) for t, w in found.worst.items()} == {
        "loud": ("padding-light", 0.5, 1.0),
        "quiet": ("delay-light", 0.1, 0.75),
    }
    assert found.detection.value == pytest.approx((30 + 4) / 100)
    # Of alerts he minds others: an attack held uncertain raises none.
    assert found.alert_recall.value == pytest.approx((0 + 4) / 100)
    low, high = found.detection.low, found.detection.high
    assert low is not None and high is not None and low < 0.34 < high


def test_every_perturbation_stands_beside_the_attacks_unchanged(bundle, evaded):
    found = under_evasion(bundle, evaded)
    assert list(found.perturbations) == ["unchanged", "padding-light", "delay-light"]
    assert found.perturbations["unchanged"].detection.value == pytest.approx(90 / 100)
    assert found.perturbations["delay-light"].detection.value == pytest.approx(64 / 100)
    assert found.perturbations["delay-light"].alert_recall.value == pytest.approx(4 / 100)
    assert found.perturbations["padding-light"].classes == {"Flood": pytest.approx(0.7)}
    assert found.classes == {"Flood": pytest.approx(0.34)}


def test_an_attacker_whom_no_perturbation_helps_uses_none(bundle, make):
    rows = make_evaded(make, {("t", "unchanged"): [SURE] * 20, ("t", "chaff-light"): [SURE] * 20})
    assert under_evasion(bundle, rows).worst["t"].perturbation == "unchanged"


def test_a_row_without_a_tool_counts_with_its_class(bundle, make):
    rows = make_evaded(make, {("", "unchanged"): [SURE] * 20, ("", "chaff-light"): [BENIGN] * 20})
    assert list(under_evasion(bundle, rows).worst) == ["Flood"]


def test_the_evaluation_holds_it_under_names_that_rules_know(bundle, traffic, evaded):
    e, _ = evaluate(bundle, traffic, dataset="d", evaded=evaded, timing=False, resamples=50)
    assert e.metric("recall_under_evasion") == pytest.approx(0.34)
    assert e.metric("alert_recall_under_evasion") == pytest.approx(0.04)
    assert e.metric("detection_under.delay-light") == e.metrics()["detection_under.delay-light"] == pytest.approx(0.64)
    assert e.metric("alert_recall_under.delay-light") == pytest.approx(0.04)
    assert e.metric("recall.delay-light") is None and e.metric("detection_under.none") is None
    assert describe("detection_under.delay-light") and describe("alert_recall_under.x") and not describe("under.x")
    assert Evaluation.model_validate_json(e.model_dump_json()) == e
    assert not any("evasion" in note for note in e.notes)


def test_an_evaluation_from_before_still_loads_and_knows_nothing_of_evasion(bundle, traffic):
    e, _ = evaluate(bundle, traffic, dataset="d", timing=False, resamples=50)
    assert e.metric("recall_under_evasion") is None and any("evasion was not measured" in note for note in e.notes)
    old = json.loads(e.model_dump_json())
    del old["evasion"]
    assert Evaluation.model_validate(old) == e


def test_what_is_no_evaded_traffic_is_refused(bundle, traffic, evaded, make):
    with pytest.raises(DatasetError, match="isn't evaded traffic"):
        under_evasion(bundle, traffic)
    with pytest.raises(DatasetError):
        under_evasion(bundle, evaded.select(evaded.source == "unchanged"))
    with pytest.raises(DatasetError):
        under_evasion(bundle, evaded.select(evaded.source != "unchanged"))
    with pytest.raises(DatasetError):
        under_evasion(bundle, replace(evaded, labels=np.where(np.arange(len(evaded)) == 3, 0, evaded.labels)))
    with pytest.raises(SchemaError, match="schema"):
        under_evasion(bundle, toy_traffic(30))


def test_its_digest_covers_what_the_figures_rest_on(evaded):
    calmed = replace(evaded, source=np.full(len(evaded), "unchanged", dtype=object))
    renamed = replace(evaded, tool=np.full(len(evaded), "one", dtype=object))
    assert calmed.digest == evaded.digest
    assert len({evaded_digest(evaded), evaded_digest(calmed), evaded_digest(renamed)}) == 3


def test_there_is_a_picture_of_it_the_same_each_time(bundle, traffic, evaded, tmp_path):
    e, p = evaluate(bundle, traffic, dataset="d", evaded=evaded, timing=False, resamples=50)
    drawn = [draw(e, p, traffic, tmp_path / name)[-1] for name in ("a", "b")]
    assert drawn[0].name == "evasion.png" and drawn[0].stat().st_size > 8000
    assert len({sha256(path.read_bytes()).hexdigest() for path in drawn}) == 1


def test_the_page_of_a_version_shows_every_perturbation_and_the_worst_for_each_tool(bundle, traffic, evaded, tmp_path):
    from robustidps.evaluation.base_rates import base_rates
    from robustidps.evaluation.page import write_page

    e, p = evaluate(bundle, traffic, dataset="d", evaded=evaded, timing=False, resamples=50)
    pictures = draw(e, p, traffic, tmp_path)
    page = write_page(e, tmp_path, rates=base_rates(e, 48), pictures=pictures).read_text()
    assert "the worst for each tool" in page and "The perturbation that hides each tool best" in page
    assert all(word in page for word in ("padding-light", "delay-light", "loud", "quiet"))
    plain, _ = evaluate(bundle, traffic, dataset="d", timing=False, resamples=50)
    assert "the worst for each tool" not in write_page(plain, tmp_path, rates=base_rates(plain, 48)).read_text()
