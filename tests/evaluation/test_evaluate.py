"""An evaluation says what rows say, with intervals, and what it can't know it calls unknown."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation.evaluate import Predictions, evaluate, paired
from robustidps.evaluation.metrics import describe
from robustidps.evaluation.report import Evaluation
from robustidps.registry.metadata import TrainingFacts

B, F, S = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]
UNSURE = [0.3, 0.5, 0.2]  # an attack is most probable, below the alert threshold of 0.6


@pytest.fixture(scope="module")
def measured(make, traffic):
    return evaluate(make.bundle(), traffic, dataset="made up", timing=False, seen_tools={"tool 0"})


def test_ten_rows_by_hand(bundle, make):
    rows = [B, B, B, F, UNSURE, F, F, S, B, UNSURE]
    labels = [0, 0, 0, 0, 0, 1, 1, 2, 2, 1]
    e, p = evaluate(bundle, make.traffic(rows, labels), dataset="ten", timing=False)
    assert e.confusion == [[3, 2, 0], [0, 3, 0], [1, 0, 1]]
    assert e.metric("accuracy") == 0.7
    assert e.metric("false_positive_rate") == 0.4
    assert e.metric("alert_false_positive_rate") == 0.2
    assert e.metric("detection_rate") == 0.8
    assert e.metric("alert_recall") == pytest.approx(3 / 5)
    assert e.metric("uncertain_share") == 0.2
    assert e.metric("false_alerts_per_day") == 200_000
    assert e.metric("precision_at_prevalence_1e-1") == pytest.approx(0.6 * 0.1 / (0.6 * 0.1 + 0.2 * 0.9))
    assert e.metric("recall.Scan") == 0.5 and e.metric("precision.Flood") == 0.6
    assert e.classes["Flood"].alert_recall == pytest.approx(2 / 3)
    assert p.alerts.tolist() == [0, 0, 0, 1, -2, 1, 1, 2, 0, -2]


def test_figures_agree_with_scikit_learn(measured, traffic):
    e, p = measured
    assert e.metric("accuracy") == pytest.approx(sk.accuracy_score(traffic.labels, p.predicted))
    assert e.metric("macro_f1") == pytest.approx(sk.f1_score(traffic.labels, p.predicted, average="macro"))
    assert e.confusion == sk.confusion_matrix(traffic.labels, p.predicted).tolist()
    fpr, tpr, _ = sk.roc_curve(traffic.labels > 0, -p.probabilities[:, 0], drop_intermediate=False)
    assert e.metric("recall_at_fpr_1e-2") == pytest.approx(tpr[fpr <= 0.01].max())


def test_headlines_lie_within_their_intervals(measured):
    for name, entry in measured[0].headline.items():
        if entry.low is not None:
            assert entry.low <= entry.value <= entry.high, name
    assert measured[0].headline["accuracy"].low is not None
    assert measured[0].blocks == "campaign" and measured[0].n_blocks == 60


def test_every_figure_has_a_name_that_rules_know(measured):
    for name, value in measured[0].metrics().items():
        metric = describe(name)
        assert metric is not None, name
        assert not metric.share or 0 <= value <= 1, name


def test_an_evaluation_survives_json(measured):
    again = Evaluation.model_validate(json.loads(json.dumps(measured[0].model_dump(mode="json"), allow_nan=False)))
    assert again == measured[0]


def test_the_same_seed_gives_the_same_evaluation(measured, make, traffic):
    again, _ = evaluate(make.bundle(), traffic, dataset="made up", timing=False, seen_tools={"tool 0"})
    assert again == measured[0]
    other, _ = evaluate(make.bundle(), traffic, dataset="made up", timing=False, seed=1)
    assert other.headline["accuracy"].low != measured[0].headline["accuracy"].low
    assert other.metric("accuracy") == measured[0].metric("accuracy")


def test_too_few_benign_rows_leave_a_false_positive_rate_unresolved(measured):
    e = measured[0]
    benign = e.classes["Benign"].support
    assert 1000 < benign < 10_000
    assert e.headline["recall_at_fpr_1e-2"].low is not None
    few = e.headline["recall_at_fpr_1e-3"]  # one benign row decides: a figure, but no interval
    assert few.value is not None and few.low is None
    assert e.metric("recall_at_fpr_1e-4") is None
    assert any("recall_at_fpr_1e-4" in n and "10,000 needed" in n for n in e.notes)


def test_no_false_alert_is_not_taken_for_a_rate_of_zero(bundle, make):
    e, _ = evaluate(bundle, make.traffic([B] * 300 + [F] * 30, [0] * 300 + [1] * 30), dataset="d", timing=False)
    assert e.metric("alert_false_positive_rate") == 0
    assert e.metric("precision_at_prevalence_1e-3") == pytest.approx(1e-3 / (1e-3 + 0.01 * (1 - 1e-3)))
    assert any("upper bound" in n for n in e.notes)
    assert any("without width" in n and "accuracy" in n for n in e.notes)


def test_tools_seen_and_unseen_are_told_apart(bundle, make):
    tools = np.array(["web", "web", "old", "old", "new", "new", ""], dtype=object)
    traffic = make.traffic([B, B, F, S, B, F, F], [0, 0, 1, 1, 1, 1, 1], tool=tools)
    e, _ = evaluate(bundle, traffic, dataset="d", timing=False, seen_tools={"old", "web"})
    assert e.metric("recall_seen_tools") == 0.5 and e.metric("detection_seen_tools") == 1.0
    assert e.metric("recall_unseen_tools") == 0.5 and e.metric("detection_unseen_tools") == 0.5
    bundle.training = TrainingFacts(dataset="d", data_digest="", rows=1, tools=["old", "web"])
    by_its_own_word, _ = evaluate(bundle, traffic, dataset="d", timing=False)
    assert by_its_own_word.headline == e.headline
    bundle.training = None
    unknown, _ = evaluate(bundle, traffic, dataset="d", timing=False)
    assert unknown.metric("recall_unseen_tools") is None
    assert any("not told apart" in n for n in unknown.notes)


def test_benign_services_seen_and_unseen_are_told_apart(bundle, make):
    tools = np.array(["web", "web", "voip", "voip", "voip", "", "web"], dtype=object)
    traffic = make.traffic([B, F, F, UNSURE, B, F, F], [0, 0, 0, 0, 0, 0, 1], tool=tools)
    bundle.training = TrainingFacts(dataset="d", data_digest="", rows=1, tools=["web"], services=["web"])
    e, _ = evaluate(bundle, traffic, dataset="d", timing=False)
    assert e.metric("false_positive_rate_seen_services") == 0.5
    assert e.metric("false_positive_rate_unseen_services") == pytest.approx(2 / 3)
    assert e.metric("alert_false_positive_rate_seen_services") == 0.5
    assert e.metric("alert_false_positive_rate_unseen_services") == pytest.approx(1 / 3)
    given, _ = evaluate(bundle, traffic, dataset="d", timing=False, seen_services={"web"})
    assert given.headline == e.headline


def test_a_bundle_from_before_services_were_named_leaves_them_unknown(bundle, make):
    facts = {"dataset": "d", "data_digest": "", "rows": 1, "tools": ["flood"]}
    bundle.training = TrainingFacts.model_validate(facts)
    e, _ = evaluate(bundle, make.traffic([B, F], [0, 1], tool=["web", "flood"]), dataset="d", timing=False)
    assert e.metric("recall_seen_tools") == 1.0
    assert e.metric("false_positive_rate_seen_services") is None
    assert any("services seen and unseen" in n for n in e.notes)


def test_stability_is_the_worst_window_over_the_mean(bundle, make):
    n, labels = 1000, np.zeros(1000, int)
    p = np.tile(B, (n, 1))
    p[300:350] = F  # half of the fourth of ten windows is wrong
    order = np.random.default_rng(0).permutation(n)
    time_of = 1.7e9 + np.arange(n)
    e, _ = evaluate(bundle, make.traffic(p[order], labels, time=time_of[order]), dataset="d", timing=False)
    assert [w["accuracy"] for w in e.windows] == [1, 1, 1, 0.5, 1, 1, 1, 1, 1, 1]
    assert e.metric("stability") == pytest.approx(0.5 / 0.95)
    assert e.windows[3]["false_positive_rate"] == 0.5


def test_stability_without_time_or_with_few_rows_is_unknown(bundle, make):
    untimed, _ = evaluate(bundle, make.traffic([B] * 900, [0] * 900), dataset="d", timing=False)
    assert untimed.metric("stability") is None and any("no time" in n for n in untimed.notes)
    few, _ = evaluate(bundle, make.traffic([B] * 90, [0] * 90, time=np.arange(90)), dataset="d", timing=False)
    assert few.metric("stability") is None and any("too few" in n for n in few.notes)


def test_a_class_without_rows_has_no_recall_and_no_say(bundle, make):
    e, _ = evaluate(bundle, make.traffic([B, B, F, S], [0, 0, 1, 1]), dataset="d", timing=False)
    assert e.metric("recall.Scan") is None and e.classes["Scan"].support == 0
    assert e.metric("macro_f1") == pytest.approx((1.0 + 2 / 3) / 2)
    assert any("no held-out row of Scan" in n for n in e.notes)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 2]])
def test_traffic_of_one_kind_alone_can_be_evaluated(bundle, make, labels):
    e, _ = evaluate(bundle, make.traffic([B, F, S], labels), dataset="d", timing=False)
    assert (e.metric("false_positive_rate") is None) == (labels[0] == 1)
    assert (e.metric("detection_rate") is None) == (labels[0] == 0)


def test_unlabelled_rows_are_scored_but_not_counted(bundle, make):
    e, p = evaluate(bundle, make.traffic([B, F, S], [0, -1, 2]), dataset="d", timing=False)
    assert e.rows == 2 and len(p) == 3
    assert any("1 unlabelled" in n for n in e.notes)


def test_misfits_are_refused(make, traffic):
    other = make.bundle(schema=make.schema.model_copy(update={"classes": ("Benign", "A", "B")}))
    with pytest.raises(SchemaError, match="schema"):
        evaluate(other, traffic, dataset="d")
    with pytest.raises(DatasetError, match="label"):
        evaluate(make.bundle(), make.traffic([B, F], [-1, -1]), dataset="d")
    with pytest.raises(SchemaError, match="finite"):
        evaluate(make.bundle(), make.traffic([B, [np.nan] * 3], [0, 1]), dataset="d")


def test_latency_and_throughput_are_measured(bundle, make):
    e, _ = evaluate(bundle, make.traffic([B, F, S], [0, 1, 2]), dataset="d", resamples=10)
    assert [t.batch for t in e.timings] == [1, 64, 1024, 4096]
    assert 0 < e.metric("latency_p50_ms") <= e.metric("latency_p99_ms")
    assert e.metric("throughput_rows_per_second") == max(t.rows_per_second for t in e.timings)


def test_a_hundred_thousand_rows_take_seconds(make):
    traffic = make.random(100_000, campaigns=1000)
    start = time.perf_counter()
    evaluate(make.bundle(), traffic, dataset="d", timing=False)
    assert time.perf_counter() - start < 8  # about 0.8 s on an idle core


def say(make, traffic, rows) -> Predictions:
    from robustidps.decisions import decide

    p = np.asarray(rows, np.float32)
    return Predictions(p, decide(p, make.bundle().thresholds, traffic.schema))


def test_a_model_against_itself_differs_by_exactly_nothing(measured, traffic):
    for entry in paired(measured[1], measured[1], traffic):
        assert (entry.difference.value, entry.difference.low, entry.difference.high) == (0, 0, 0), entry.metric
        assert entry.relative.value == 0
        assert entry.error_reduction.value in (0, None), entry.metric


def test_a_paired_difference_by_hand_and_by_brute_force(make, traffic):
    rng = np.random.default_rng(5)
    worse = traffic.features.copy()
    flip = rng.random(len(worse)) < 0.1
    worse[flip] = worse[flip][:, [1, 2, 0]]
    a, b = say(make, traffic, traffic.features), say(make, traffic, worse)
    found = {d.metric: d for d in paired(a, b, traffic, resamples=500, seed=3)}
    right_a, right_b = (p.predicted == traffic.labels for p in (a, b))
    accuracy = found["accuracy"]
    assert accuracy.difference.value == pytest.approx(right_a.mean() - right_b.mean())
    assert accuracy.candidate == pytest.approx(right_a.mean())
    assert accuracy.relative.value == pytest.approx(right_a.mean() / right_b.mean() - 1)
    names, code = np.unique(traffic.campaign.astype(str), return_inverse=True)
    draws = []
    for _ in range(500):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[code]
        draws.append(((right_a * weight).sum() - (right_b * weight).sum()) / weight.sum())
    low, high = np.percentile(draws, (2.5, 97.5))
    assert accuracy.difference.low == pytest.approx(low, abs=0.004)
    assert accuracy.difference.high == pytest.approx(high, abs=0.004)
    assert accuracy.difference.low > 0  # better at 95 % confidence
    assert {"macro_f1", "false_positive_rate", "alert_recall", "recall.Scan"} <= set(found)
    wrong_a, wrong_b = 1 - right_a.mean(), 1 - right_b.mean()
    reduction = accuracy.error_reduction
    assert reduction.value == pytest.approx((wrong_b - wrong_a) / wrong_b)
    assert 0 < reduction.low < reduction.value < reduction.high <= 1
    false = found["false_positive_rate"]  # an error itself: what is left of it
    assert false.error_reduction.value == pytest.approx((false.champion - false.candidate) / false.champion)
    back = {d.metric: d for d in paired(b, a, traffic, metrics=["accuracy"])}["accuracy"]
    assert back.error_reduction.value == pytest.approx((wrong_a - wrong_b) / wrong_a) and back.error_reduction.high < 0


def test_pairing_is_sharper_than_two_intervals(make, measured, traffic):
    nearly = traffic.features.copy()
    nearly[::200] = nearly[::200][:, [1, 2, 0]]
    [entry] = paired(say(make, traffic, nearly), measured[1], traffic, metrics=["accuracy"])
    alone = measured[0].headline["accuracy"]
    assert entry.difference.high - entry.difference.low < alone.high - alone.low


def test_predictions_of_other_rows_are_not_compared(make, measured, traffic):
    with pytest.raises(SchemaError):
        paired(measured[1], say(make, traffic, traffic.features[:-1]), traffic)
    with pytest.raises(SchemaError, match="row by row"):
        paired(measured[1], measured[1], traffic, metrics=["log_loss"])
