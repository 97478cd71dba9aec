"""The walk through days: what a policy may know, what it pays, and what it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustidps.errors import ConfigError, DatasetError
from robustidps.evaluation.ageing import POLICIES, AgeingSettings, policies, study
from robustidps.evaluation.ageing.study import timeline, walk
from robustidps.traffic.trafficset import TrafficSet
from tests.evaluation.ageing.conftest import BREAK, weeks

PASSES = "{kind: gain, metric: accuracy, margin: -1}"
NEVER = "{kind: gain, metric: accuracy, margin: 1}"


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_can_see_the_future(policy, traffic, settings, family, rules) -> None:
    """Labels, campaigns and features from a day on are ruined: everything before stays as it was."""
    settings = settings.model_copy(update={"rules": rules(PASSES)})
    poisoned_from = 20
    laid_out = timeline(traffic, settings)
    late = laid_out.day >= poisoned_from
    rng = np.random.default_rng(0)
    labels, features = laid_out.traffic.labels.copy(), laid_out.traffic.features.copy()
    labels[late], features[late] = rng.permutation(labels[late]), rng.permutation(features[late])
    campaign = np.where(late, "", laid_out.traffic.campaign)
    ruined = replace(laid_out, traffic=replace(laid_out.traffic, labels=labels, features=features, campaign=campaign))
    true = walk(laid_out, policy, *family, settings)
    false = walk(ruined, policy, *family, settings)
    assert (true.predicted[~late] == false.predicted[~late]).all()
    assert (true.alerting[~late] == false.alerting[~late]).all()
    assert [e for e in true.events if e.day < poisoned_from] == [e for e in false.events if e.day < poisoned_from]
    assert (true.predicted[late] != false.predicted[late]).any()  # so the poison is one


@pytest.mark.parametrize("policy", POLICIES)
def test_a_label_changes_nothing_before_its_delay_is_over(policy, traffic, settings, family, rules) -> None:
    """Only labels are ruined: they are bought on the day itself, and no prediction differs until they arrive."""
    settings = settings.model_copy(update={"rules": rules(PASSES), "delay_days": 3})
    laid_out = timeline(traffic, settings)
    late = laid_out.day >= 18
    labels = laid_out.traffic.labels.copy()
    labels[late] = (labels[late] + 1) % 3
    ruined = replace(laid_out, traffic=replace(laid_out.traffic, labels=labels))
    true, false = (walk(x, policy, *family, settings) for x in (laid_out, ruined))
    unaware = laid_out.day <= 18 + 3
    assert (true.predicted[unaware] == false.predicted[unaware]).all()
    if policy == "daily":
        assert (true.predicted[~unaware] != false.predicted[~unaware]).any()


def test_budgets_are_equal(traffic, settings, family, rules) -> None:
    settings = settings.model_copy(update={"rules": rules(PASSES)})
    made = study(traffic, *family, settings)
    scored = made.timeline.last_day - settings.first_day + 1
    in_all = settings.start_labels + scored * settings.labels_per_day
    offered_at_start = settings.start_days * 80
    assert {name: w.labels for name, w in made.walks.items()} == {
        "frozen": min(in_all, offered_at_start), "weekly": in_all, "daily": in_all, "loop": in_all,
    }  # fmt: skip
    assert made.walks["frozen"].trainings == 1
    assert made.walks["daily"].trainings == 1 + scored
    assert made.walks["weekly"].trainings == 1 + scored // 7


def test_a_day_with_less_traffic_than_budget_sells_what_it_has(traffic, settings, family) -> None:
    rich = settings.model_copy(update={"labels_per_day": 500})
    walked = walk(timeline(traffic, rich), "daily", *family, rich)
    scored = (30 - rich.first_day) // rich.slot_days * rich.slot_days
    assert walked.labels == rich.start_labels + scored * 80


def test_a_frozen_model_ages_where_traffic_breaks_and_one_that_is_retrained_does_not(traffic, settings, family) -> None:
    made = study(traffic, *family, settings, policies=["frozen", "daily"])
    frozen, daily = (made.curves[p]["macro_f1"].values for p in ("frozen", "daily"))
    broken = (BREAK - settings.first_day) // settings.slot_days
    assert frozen[broken + 1 :].max() < frozen[:broken].min() - 0.1
    assert daily[-1] > frozen[-1] + 0.1
    gap = made.gap("daily", "frozen")
    assert gap.low is not None and gap.low > 0


def test_the_loop_replaces_its_model_when_the_rules_agree(traffic, settings, family, rules) -> None:
    walked = walk(timeline(traffic, settings), "loop", *family, settings.model_copy(update={"rules": rules(PASSES)}))
    promoted = [e for e in walked.events if e.kind == "promoted"]
    assert [e for e in promoted if e.why.startswith("drift") and BREAK < e.day <= BREAK + 5]
    assert all(e.why.startswith(("drift", "decline")) for e in promoted)
    assert walked.count("trained") == walked.trainings == 1 + len(promoted)


def test_the_loop_keeps_its_model_when_the_rules_refuse(traffic, settings, family, rules) -> None:
    laid_out = timeline(traffic, settings)
    settings = settings.model_copy(update={"rules": rules(NEVER)})
    refusing = walk(laid_out, "loop", *family, settings)
    assert refusing.count("refused") > 0 and refusing.count("promoted") == 0
    assert all("below 1" in e.why for e in refusing.events if e.kind == "refused")
    never = settings.model_copy(update={"loop": settings.loop.model_copy(update={"rest_days": 60})})
    untouched = walk(laid_out, "loop", *family, never)
    assert untouched.trainings == 1
    assert (refusing.predicted == untouched.predicted).all()


def test_quiet_traffic_calls_for_no_challenger_by_drift(settings, family, rules) -> None:
    quiet = weeks(breaks=None)
    walked = walk(timeline(quiet, settings), "loop", *family, settings.model_copy(update={"rules": rules(PASSES)}))
    assert not [e for e in walked.events if "drift" in e.why]


def test_challenger_and_champion_are_judged_on_campaigns_that_neither_was_trained_on(
    traffic, settings, family, rules, monkeypatch
) -> None:
    judged = []
    real = policies.evaluate

    def watch(model, held_out, **more):
        judged.append((model.rows, held_out))
        return real(model, held_out, **more)

    monkeypatch.setattr(policies, "evaluate", watch)
    laid_out = timeline(traffic, settings)
    walk(laid_out, "loop", *family, settings.model_copy(update={"rules": rules(PASSES)}))
    assert len(judged) >= 2
    for rows, held_out in judged:
        assert len(held_out) >= 40
        assert not set(laid_out.traffic.campaign[rows]) & set(held_out.campaign)


def test_the_same_seed_gives_the_same_walk(traffic, settings, family, rules) -> None:
    settings = settings.model_copy(update={"rules": rules(PASSES)})
    one, two = (walk(timeline(traffic, settings), "loop", *family, settings) for _ in range(2))
    assert (one.predicted == two.predicted).all() and one.events == two.events


def test_figures_are_plain_data_and_precision_is_restated_for_real_prevalences(traffic, settings, family) -> None:
    made = study(traffic, *family, settings, policies=["frozen"])
    content = made.as_dict()
    assert content["policies"]["frozen"]["aut"]["macro_f1"]["value"] == made.curves["frozen"]["macro_f1"].area.value
    pooled = content["policies"]["frozen"]["pooled"]
    recall, fpr = pooled["alert_recall"], pooled["alert_false_positive_rate"]
    if fpr:
        expected = recall * 0.001 / (recall * 0.001 + fpr * 0.999)
        assert pooled["precision_at_prevalence_1e-3"] == pytest.approx(expected)
    assert pooled["detection_new_tools"] is None  # every tool was there from the beginning


def test_traffic_without_time_is_refused_with_what_to_do(traffic: TrafficSet, settings, family) -> None:
    timeless = replace(traffic, time=np.full(len(traffic), np.nan))
    with pytest.raises(DatasetError, match="no time") as refused:
        study(timeless, *family, settings)
    assert "time column" in (refused.value.remedy or "")


def test_traffic_that_is_too_short_is_refused_with_the_days_it_would_need(settings, family) -> None:
    with pytest.raises(DatasetError, match="spans 14 days"):
        study(weeks(14), *family, settings)


def test_traffic_with_nothing_between_its_beginning_and_its_last_hour_is_refused(traffic, settings, family) -> None:
    day = (traffic.time - traffic.time.min()) // 86_400
    with pytest.raises(DatasetError, match="no row in the days after"):
        study(traffic.select((day < 6) | (day == 29)), *family, settings.model_copy(update={"slot_days": 10}))


def test_a_week_without_traffic_leaves_the_area_unknown_and_says_so(traffic, settings, family) -> None:
    day = (traffic.time - traffic.time.min()) // 86_400
    made = study(traffic.select((day < 12) | (day >= 20)), *family, settings, policies=["frozen", "daily"])
    assert made.curves["daily"]["macro_f1"].area.value is None and made.gap("daily", "frozen").value is None
    assert any("slots have no row" in note for note in made.timeline.notes)


def test_traffic_without_labels_or_rows_is_refused(traffic: TrafficSet, settings, family) -> None:
    with pytest.raises(DatasetError, match="no row has a label"):
        study(replace(traffic, labels=np.full(len(traffic), -1, np.int16)), *family, settings)
    with pytest.raises(DatasetError, match="no rows"):
        study(traffic.select(slice(0, 0)), *family, settings)


def test_a_time_in_the_wrong_unit_is_noticed(traffic: TrafficSet, settings, family) -> None:
    with pytest.raises(DatasetError, match="check its times"):
        study(replace(traffic, time=traffic.time * 1000), *family, settings)


def test_unlabelled_rows_are_left_out_and_counted(traffic: TrafficSet, settings) -> None:
    labels = traffic.labels.copy()
    labels[::10] = -1
    laid_out = timeline(replace(traffic, labels=labels), settings)
    assert len(laid_out.traffic) == len(traffic) - 240
    assert "240 unlabelled rows were left out" in laid_out.notes


def test_first_weeks_of_one_class_can_not_train_a_model_and_say_so(traffic: TrafficSet, settings, family) -> None:
    quiet = traffic.labels.copy()
    quiet[traffic.time < traffic.time.min() + 6 * 86_400] = 0
    with pytest.raises(DatasetError, match="can't train a model") as refused:
        study(replace(traffic, labels=quiet), *family, settings)
    assert "start_labels" in (refused.value.remedy or "")


@pytest.mark.parametrize("names", [[], ["frozen", "hourly"]])
def test_an_unknown_policy_is_refused_before_anything_slow(names, traffic, settings, family) -> None:
    with pytest.raises(ConfigError, match="no policy"):
        study(traffic, *family, settings, policies=names)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="labels_per_day"):
        AgeingSettings.make(labels_per_day=0)
