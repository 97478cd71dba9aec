"""Each rule passes, breaks or holds as the table says; what is missing never passes; every refusal says why."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from robustidps.errors import ConfigError
from robustidps.evaluation.report import ClassFigures, Evaluation, Interval, PairedDifference, Timing, Unlabelled
from robustidps.promotion import EXPECTED, Evidence, Rule, RuleSet, Verdict, decide
from robustidps.registry.metadata import TrainingFacts
from robustidps.rules import Approved, gain_table, needed
from robustidps.settings import CONFIGS, load_yaml

PROFILES = sorted((CONFIGS / "promotion").glob("*.yaml"))
CLASSES = ("Benign", "Flood", "Scan")


def evaluation(**changes) -> Evaluation:
    """A good evaluation; `metrics` and `recalls` are laid over it."""
    headline = {"accuracy": 0.97, "macro_f1": 0.9, "false_positive_rate": 0.01, "alert_false_positive_rate": 0.0005}
    figures = {"stability": 0.97, "latency_p99_ms": 0.4, "throughput_rows_per_second": 2e5}
    figures |= {"recall_under_evasion": 0.5}
    for name, value in changes.pop("metrics", {}).items():
        (headline if name in headline else figures)[name] = value
    recalls = {"Benign": (0.99, 5000), "Flood": (0.95, 400), "Scan": (0.8, 100)} | changes.pop("recalls", {})
    fields = {
        "model": "model",
        "version": "1.1.0",
        "bundle_digest": "c" * 64,
        "dataset": "simulated",
        "data_digest": "e" * 64,
        "rows": 5500,
        "time_from": 2000.0,
        "time_to": 3000.0,
        "classes": {
            n: ClassFigures(precision=0.9, recall=Interval(value=r), f1=0.9, support=s) for n, (r, s) in recalls.items()
        },
        "confusion": [[1]],
        "headline": {k: Interval(value=v) for k, v in headline.items()},
        "figures": figures,
        "timings": [Timing(batch=1, p50_ms=0.1, p99_ms=0.4, rows_per_second=1e4)],
        "blocks": "campaign",
        "n_blocks": 80,
        "resamples": 1000,
        "seed": 0,
    }
    return Evaluation(**(fields | changes))


def evidence(version="1.1.0", digest="c" * 64, **changes) -> Evidence:
    fields = {
        "model": "model",
        "version": version,
        "schema_digest": "a" * 64,
        "bundle_digest": digest,
        "evaluation": evaluation(version=version, bundle_digest=digest),
        "training": TrainingFacts(dataset="simulated", data_digest="b" * 64, rows=9, time_from=0.0, time_to=1000.0),
        "rollback_available": True,
    }
    return Evidence(**(fields | changes))


CHAMPION = evidence("1.0.0", "d" * 64)


def pair(metric="accuracy", low=-0.001, high=0.01, candidate=0.97, champion=0.965) -> PairedDifference:
    change = Interval(value=candidate - champion, low=low, high=high)
    relative = Interval(value=(candidate - champion) / champion, low=low / champion, high=high / champion)
    return PairedDifference(metric=metric, candidate=candidate, champion=champion, difference=change, relative=relative)


def rid(value, low, high, **more) -> PairedDifference:
    """A pair of which this share of the champion's error is gone."""
    return pair(**more).model_copy(update={"error_reduction": Interval(value=value, low=low, high=high)})


def recent(share=0.02, theirs=0.02, disagreement=0.01, **changes) -> Evidence:
    """Evidence on recent traffic alone."""
    shares = {"champion_alert_share": theirs, "disagreement": disagreement}
    fields = {
        "rows": 5000,
        "time_from": 0.0,
        "time_to": 9.0,
        "data_digest": "f" * 64,
        "alert_share": Interval(value=share),
    }
    fields |= {k: None if v is None else Interval(value=v) for k, v in shares.items()}
    fields |= {"blocks": "day", "n_blocks": 1, "figures": {"latency_p99_ms": 0.4}}
    return evidence(evaluation=None, unlabelled=Unlabelled(**(fields | changes)))


def rules(*listed, **more) -> RuleSet:
    """A rule set of these rules alone; everything else is left out in writing."""
    kinds = {r["kind"] for r in listed}
    needs = more.pop("evidence", {})
    if needs.get("disjoint_in_time", True):
        kinds.add("disjoint_in_time")
    left_out = {k: "not what this test is about" for k in EXPECTED if k not in kinds}
    return RuleSet.model_validate(
        {"name": "test", "rules": listed, "evidence": needs, "left_out": left_out | more.pop("left_out", {}), **more}
    )


def ask(rule: dict, candidate: Evidence, champion: Evidence | None = None, paired=()):
    """What one rule says."""
    return TypeAdapter(Rule).validate_python(rule), decide(candidate, champion, paired, rules(rule)).results[-1]


def with_metrics(**metrics) -> Evidence:
    return evidence(evaluation=evaluation(metrics=metrics))


VOLUME = {"kind": "alert_volume", "max_share": 0.2, "max_ratio": 2, "min_ratio": 0.5, "floor": 0.001}
DISAGREE = {"kind": "disagreement", "max": 0.05}
BEYOND = ["classes differ: ['Worm']"]
GAIN = {"kind": "gain", "metric": "accuracy", "margin": -0.005}
RELATIVE = {"kind": "gain", "metric": "accuracy", "margin": 0.02, "measure": "relative"}
ERROR = {"kind": "gain", "metric": "accuracy", "margin": 0.02, "measure": "error_reduction"}
ERROR_LOWER = ERROR | {"metric": "false_positive_rate"}
LOWER = {"kind": "gain", "metric": "false_positive_rate", "margin": -0.005}
FLOOR = {"kind": "recall_floor", "default": 0.5, "min_support": 20}

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def approved(by="ben", **changes) -> Approved:
    """An approval, an hour before noon, of what `asked` judges."""
    names = (by,) if isinstance(by, str) else by
    fields = {"request": "r", "by": names, "source": "os", "at": NOON - HOUR, "expires_at": NOON + HOUR}
    fields |= {"requested_by": ("ann",), "stage": "Production", "bundle_digest": "c" * 64, "data_digest": "e" * 64}
    digest = rules({"kind": "approval"}).digest
    return Approved(**(fields | {"rule_set_digest": digest, "production_generation": 0} | changes))


def asked(*approvals: Approved, at=NOON, **changes) -> Evidence:
    return evidence(approvals=list(approvals), judged_at=at, **changes)


APPROVALS = [
    # what was said, passed, words
    (asked(), None, "0 of 1 approvals are there"),
    (asked(approved()), True, "approved by ben (os, 2026-03-02 11:00 UTC)"),
    (asked(approved("ann")), None, "ann's does not count: who asked for it"),
    (asked(approved(by=("ben", "ann"), requested_by=("ann",))), None, "ben or ann's does not count"),
    (asked(approved(source="unverified")), None, "not known who that is"),
    (asked(approved(bundle_digest="d" * 64)), None, "another bundle"),
    (asked(approved(rule_set_digest="0" * 64)), None, "under other rules"),
    (asked(approved(production_generation=3)), None, "production has moved since"),
    (asked(approved(), production_generation=1), None, "production has moved since"),
    (asked(approved(data_digest="0" * 64)), None, "other held-out traffic"),
    (asked(approved(), evaluation=None), None, "other held-out traffic"),
    (asked(approved(expires_at=NOON - 2 * HOUR)), None, "it came too late"),
    (asked(approved(), at=NOON + 72 * HOUR), None, "not from the last 72 h"),
    (asked(approved(), at=NOON - 2 * HOUR), None, "not from the last 72 h"),
    (asked(approved(), at=None), None, "not from the last 72 h"),
    (asked(approved(stage="Staging")), None, "0 of 1"),
]

TABLE = [
    # rule, evidence, champion, paired, expected, words of the sentence
    ({"kind": "threshold", "metric": "accuracy", "min": 0.95}, evidence(), None, (), True, "accuracy 0.97"),
    ({"kind": "threshold", "metric": "accuracy", "min": 0.98}, evidence(), None, (), False, "0.97 is below 0.98"),
    ({"kind": "threshold", "metric": "accuracy", "min": 0.97}, evidence(), None, (), True, "at least 0.97"),
    ({"kind": "threshold", "metric": "accuracy", "max": 0.95}, evidence(), None, (), False, "0.97 is above 0.95"),
    ({"kind": "threshold", "metric": "log_loss", "max": 1}, evidence(), None, (), None, "not measured"),
    (
        {"kind": "threshold", "metric": "accuracy", "min": 0.1},
        with_metrics(accuracy=math.nan),
        None,
        (),
        None,
        "not me",
    ),
    ({"kind": "threshold", "metric": "recall.Scan", "min": 0.9}, evidence(), None, (), False, "0.8 is below 0.9"),
    (GAIN, evidence(), None, (), True, "no champion"),
    (GAIN, evidence(), CHAMPION, [pair()], True, "-0.001, reaches -0.005"),
    (GAIN, evidence(), CHAMPION, [pair(low=-0.02)], False, "-0.02, is below -0.005"),
    (GAIN, evidence(), CHAMPION, [], None, "was not compared"),
    (GAIN, evidence(), CHAMPION, [pair(metric="macro_f1")], None, "was not compared"),
    (
        GAIN,
        evidence(),
        CHAMPION,
        [pair().model_copy(update={"difference": Interval(value=0.1)})],
        None,
        "too few blocks",
    ),
    (GAIN | {"margin": 0.02}, evidence(), CHAMPION, [pair()], False, "is below 0.02"),
    (GAIN | {"margin": 0.02, "relative": True}, evidence(), CHAMPION, [pair(low=0.03)], True, "relative"),
    (RELATIVE, evidence(), CHAMPION, [pair(low=0.03)], True, "relative improvement"),
    (RELATIVE, evidence(), CHAMPION, [pair(candidate=0.99, champion=0.985)], False, "no model can reach it"),
    (RELATIVE, evidence(), CHAMPION, [pair(candidate=0.99, champion=0.985)], False, "it would take 1.005"),
    (RELATIVE | {"margin": 0.01}, evidence(), CHAMPION, [pair(candidate=0.99, champion=0.985)], False, "below 0.01"),
    (ERROR, evidence(), CHAMPION, [rid(0.2, 0.03, 0.3)], True, "of the reduction of error (95 %), 0.03, reaches 0.02"),
    (ERROR, evidence(), CHAMPION, [rid(0.2, 0.01, 0.3)], False, "0.01, is below 0.02"),
    (ERROR, evidence(), CHAMPION, [rid(None, None, None)], None, "no such thing as the reduction of error"),
    (ERROR_LOWER, evidence(), CHAMPION, [rid(0.2, 0.03, 0.3, metric="false_positive_rate")], True, "0.03, reaches"),
    (ERROR_LOWER, evidence(), CHAMPION, [rid(0.2, -0.1, 0.9, metric="false_positive_rate")], False, "-0.1, is below"),
    (LOWER, evidence(), CHAMPION, [pair("false_positive_rate", -0.03, 0.004)], True, "-0.004, reaches"),
    (LOWER, evidence(), CHAMPION, [pair("false_positive_rate", -0.03, 0.006)], False, "-0.006, is below"),
    (FLOOR, evidence(), None, (), True, "nearest is Scan: 0.8, floor 0.5"),
    (FLOOR | {"default": 0.9}, evidence(), None, (), False, "Scan 0.8 is below 0.9"),
    (FLOOR | {"default": 0.9, "classes": {"Scan": 0.7}}, evidence(), None, (), True, "Flood"),
    (FLOOR | {"default": 0.9, "exempt": {"Scan": "shows in no flow record"}}, evidence(), None, (), True, "Flood"),
    (FLOOR | {"classes": {"Benign": 0.995}}, evidence(), None, (), False, "Benign 0.99 is below 0.995"),
    (FLOOR | {"min_support": 200}, evidence(), None, (), None, "too few held-out rows of Scan (100 of 200 rows)"),
    (FLOOR | {"classes": {"Worm": 0.5}}, evidence(), None, (), None, "no class Worm"),
    ({"kind": "false_positive_ceiling", "max": 0.015}, evidence(), None, (), True, "0.01 is at most 0.015"),
    (
        {"kind": "false_positive_ceiling"},
        with_metrics(false_positive_rate=0.02),
        None,
        (),
        False,
        "0.02 is above 0.015",
    ),
    ({"kind": "false_positive_ceiling"}, with_metrics(false_positive_rate=None), None, (), None, "not measured"),
    ({"kind": "alert_budget", "max": 0.001}, evidence(), None, (), True, "0.0005"),
    ({"kind": "alert_budget", "max": 0.0001}, evidence(), None, (), False, "0.0005 is above 0.0001"),
    ({"kind": "latency", "max_ms": 100}, evidence(), None, (), True, "latency_p99_ms 0.4"),
    ({"kind": "latency", "max_ms": 0.1}, evidence(), None, (), False, "0.4 is above 0.1"),
    ({"kind": "latency"}, with_metrics(latency_p99_ms=None), None, (), None, "not measured"),
    ({"kind": "throughput", "min_rows_per_second": 1e5}, evidence(), None, (), True, "2e+05"),
    ({"kind": "throughput", "min_rows_per_second": 1e6}, evidence(), None, (), False, "is below 1e+06"),
    ({"kind": "stability", "min": 0.9}, evidence(), None, (), True, "0.97"),
    ({"kind": "stability", "min": 0.99}, evidence(), None, (), False, "0.97 is below 0.99"),
    ({"kind": "stability"}, with_metrics(stability=None), None, (), None, "not measured"),
    ({"kind": "schema_compatible"}, evidence(), None, (), True, "no champion"),
    ({"kind": "schema_compatible"}, evidence(), CHAMPION, (), True, "same schema"),
    ({"kind": "schema_compatible"}, evidence(incompatibilities=["2 new"]), CHAMPION, (), False, "2 new"),
    ({"kind": "schema_compatible"}, evidence(schema_digest="f" * 64), CHAMPION, (), None, "digests"),
    (
        {"kind": "schema_compatible", "superset": True},
        evidence(incompatibilities=BEYOND, added_classes=("Worm",), schema_digest="f" * 64),
        CHAMPION,
        (),
        True,
        "and 1 more: Worm",
    ),
    (
        {"kind": "schema_compatible"},
        evidence(incompatibilities=BEYOND, added_classes=("Worm",), schema_digest="f" * 64),
        CHAMPION,
        (),
        False,
        "classes differ",
    ),
    (
        {"kind": "schema_compatible", "superset": True},
        evidence(incompatibilities=["1 new"]),
        CHAMPION,
        (),
        False,
        "new",
    ),
    ({"kind": "same_major"}, evidence(), None, (), True, "no champion"),
    ({"kind": "same_major"}, evidence("1.10.0"), CHAMPION, (), True, "1.10.0 and champion 1.0.0 have the same major"),
    ({"kind": "same_major"}, evidence("2.0.0-rc.1"), CHAMPION, (), False, "a breaking change"),
    (VOLUME, evidence(), CHAMPION, (), None, "recent traffic was not looked at"),
    (VOLUME, recent(rows=999), CHAMPION, (), None, "999 recent flows, too few: 1000"),
    (VOLUME, recent(), CHAMPION, (), True, "alerts on 0.02 of 5000 recent flows, champion 1.0.0 on 0.02"),
    (VOLUME, recent(0.05), CHAMPION, (), False, "above 2 times that (0.04)"),
    (VOLUME, recent(0.009), CHAMPION, (), False, "below 0.5 times that (0.01)"),
    (VOLUME, recent(0.0018, 0.0001), CHAMPION, (), True, "at most 2 times that (0.002)"),
    (VOLUME, recent(0.0, 0.0009), CHAMPION, (), True, "champion 1.0.0 on 0.0009"),
    (VOLUME, recent(0.3, 0.3), CHAMPION, (), False, "is above 0.2"),
    (VOLUME, recent(0.1, None), CHAMPION, (), None, "not compared with champion"),
    (VOLUME, recent(0.1, None), None, (), True, "no champion"),
    (VOLUME, recent(None), CHAMPION, (), None, "was not measured"),
    (VOLUME, recent(math.nan), CHAMPION, (), None, "was not measured"),
    (DISAGREE, recent(), CHAMPION, (), True, "0.01 is at most 0.05"),
    (DISAGREE, recent(disagreement=0.06), CHAMPION, (), False, "0.06 is above 0.05"),
    (DISAGREE, recent(disagreement=None), CHAMPION, (), None, "was not measured"),
    (DISAGREE, recent(rows=10), CHAMPION, (), None, "too few"),
    (DISAGREE, evidence(), CHAMPION, (), None, "was not looked at"),
    (DISAGREE, recent(disagreement=None), None, (), True, "no champion"),
    ({"kind": "latency", "max_ms": 100}, recent(), None, (), True, "latency_p99_ms 0.4"),
    ({"kind": "drift_ceiling", "max": 0.3}, evidence(drift_share=0.1), None, (), True, "0.1"),
    ({"kind": "drift_ceiling", "max": 0.3}, evidence(drift_share=0.4), None, (), False, "0.4 is above 0.3"),
    ({"kind": "drift_ceiling", "max": 0.3}, evidence(), None, (), None, "not measured"),
    ({"kind": "rollback_available"}, evidence(rollback_available=None), None, (), True, "first version"),
    ({"kind": "rollback_available", "required": True}, evidence(), None, (), None, "nothing to go back to"),
    ({"kind": "rollback_available", "required": True}, evidence(), CHAMPION, (), True, "can be brought back"),
    ({"kind": "rollback_available"}, evidence(), CHAMPION, (), True, "can be brought back"),
    ({"kind": "rollback_available"}, evidence(rollback_available=False), CHAMPION, (), False, "could not"),
    ({"kind": "rollback_available"}, evidence(rollback_available=None), CHAMPION, (), None, "nobody looked"),
    *[({"kind": "approval"}, said, None, (), passed, words) for said, passed, words in APPROVALS],
    ({"kind": "recall_under_evasion", "min": 0.6}, with_metrics(recall_under_evasion=0.7), None, (), True, "0.7"),
    (
        {"kind": "recall_under_evasion", "min": 0.8},
        with_metrics(recall_under_evasion=0.7),
        None,
        (),
        False,
        "below 0.8",
    ),
    (
        {"kind": "recall_under_evasion", "min": 0.6},
        with_metrics(recall_under_evasion=None),
        None,
        (),
        None,
        "not measured",
    ),
]


@pytest.mark.parametrize(("rule", "candidate", "champion", "paired", "expected", "words"), TABLE)
def test_a_rule_says_what_the_table_says(rule, candidate, champion, paired, expected, words):
    asked, result = ask(rule, candidate, champion, paired)
    assert result.passed is expected, result.text
    assert words in result.text
    assert result.rule == asked.title and result.text.startswith(f"{asked.title}: ")
    assert "\n" not in result.text


def test_every_kind_of_rule_is_in_the_table_with_each_answer_it_can_give():
    kinds = {m.model_fields["kind"].annotation.__args__[0] for m in Rule.__args__[0].__args__}
    assert {rule["kind"] for rule, *_ in TABLE} == kinds
    for kind in kinds:
        answers = {expected for rule, _, _, _, expected, _ in TABLE if rule["kind"] == kind}
        assert True in answers and (None in answers or kind in ("alert_budget", "throughput", "same_major")), kind


def test_no_rule_passes_on_evidence_that_is_not_there():
    bare = evidence(evaluation=None, training=None, rollback_available=None)
    for path in PROFILES:
        verdict = decide(bare, CHAMPION, [], load_yaml(path, RuleSet))
        assert verdict.outcome == "hold"
        assert {r.rule for r in verdict.results if r.passed} <= {"schema_compatible", "same_major"}


@given(st.sampled_from([None, math.nan, math.inf, -math.inf]))
def test_a_figure_that_is_no_number_never_passes(value):
    for rule in (
        {"kind": "latency"},
        {"kind": "stability", "min": 0.0},
        {"kind": "false_positive_ceiling", "max": 1.0},
    ):
        name = {"latency": "latency_p99_ms", "stability": "stability"}.get(rule["kind"], "false_positive_rate")
        _, result = ask(rule, with_metrics(**{name: value}))
        assert result.passed is None


# --- The evidence itself

ONE = {"kind": "threshold", "metric": "accuracy", "min": 0.9}


def why(candidate, champion=None, paired=(), **needs) -> Verdict:
    return decide(candidate, champion, paired, rules(ONE, evidence=needs))


@pytest.mark.parametrize(
    ("candidate", "champion", "needs", "words"),
    [
        (evidence(), None, {"min_rows": 6000}, "evidence rows: 5500 held-out rows, too few: 6000 are required"),
        (evidence(), None, {"min_blocks": 100}, "evidence blocks: 80 independent blocks (campaign), too few: 100"),
        (evidence(evaluation=None), None, {}, "was not evaluated"),
        (evidence(bundle_digest="9" * 64), None, {}, "of another bundle"),
        (evidence(training=None), None, {}, "trained on is not known"),
        (evidence(), evidence("1.0.0", "d" * 64, training=None), {}, "champion was trained on is not known"),
        (evidence(), evidence("1.0.0", "d" * 64, evaluation=None), {}, "1.0.0 was not evaluated on the held-out"),
        (
            evidence(),
            evidence("1.0.0", "d" * 64, evaluation=evaluation(bundle_digest="d" * 64, data_digest="0" * 64)),
            {},
            "different traffic",
        ),
    ],
)
def test_evidence_that_is_too_thin_gives_hold(candidate, champion, needs, words):
    verdict = why(candidate, champion, **needs)
    assert verdict.outcome == "hold"
    assert words in " ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("trained", "overlaps"),
    [((0, 1999), False), ((0, 2000), True), ((2500, 2600), True), ((3000, 4000), True), ((3001, 4000), False)],
)
@pytest.mark.parametrize("who", ["candidate", "champion"])
def test_traffic_that_overlaps_in_time_with_either_training_gives_hold(trained, overlaps, who):
    facts = TrainingFacts(dataset="d", data_digest="b" * 64, rows=9, time_from=trained[0], time_to=trained[1])
    candidate = evidence(training=facts) if who == "candidate" else evidence()
    champion = evidence("1.0.0", "d" * 64, training=facts) if who == "champion" else CHAMPION
    verdict = why(candidate, champion)
    assert (verdict.outcome == "hold") == overlaps
    if overlaps:
        assert f"overlaps in time with the {who}'s training" in verdict.reasons[0]


def test_training_on_the_held_out_rows_gives_hold_even_without_times():
    facts = TrainingFacts(dataset="d", data_digest="e" * 64, rows=9)
    assert "rows themselves" in why(evidence(training=facts), disjoint_in_time=False).reasons[0]
    fine = evidence(training=facts.model_copy(update={"data_digest": "b" * 64}))
    assert why(fine, disjoint_in_time=False).outcome == "promote"
    assert "is not known" in why(fine).reasons[0]  # and where time is asked for, none is no answer


def test_a_stage_that_needs_no_labels_is_not_asked_for_any():
    asked = rules({"kind": "same_major"}, ONE | {"stages": ["Production"]}, evidence={"stages": ["Production"]})
    bare = evidence(evaluation=None, training=None)
    assert decide(bare, CHAMPION, [], asked, stage="Staging").outcome == "promote"
    held = decide(bare, CHAMPION, [], asked, stage="Production")
    assert held.outcome == "hold" and "evidence rows" in held.reasons[0]


def test_rules_that_need_no_labels_before_production_say_so_in_writing():
    with pytest.raises(ValueError, match="disjoint_in_time: not asked before Production"):
        RuleSet.model_validate(
            {
                "name": "test",
                "rules": [ONE],
                "evidence": {"stages": []},
                "left_out": {
                    k: "not what this is about" for k in EXPECTED if k not in ("threshold", "disjoint_in_time")
                },
            }
        )


# --- The verdict

FULL = load_yaml(CONFIGS / "promotion" / "simulated.yaml", RuleSet)
BOTH = [pair(), pair("macro_f1")]


def test_a_good_candidate_is_promoted_and_the_rules_are_counted():
    first = decide(evidence(rollback_available=None), None, [], FULL)
    assert (first.outcome, first.reasons) == ("promote", [])
    assert first.counts == f"{len(first.results)} of {len(first.results)} rules"
    second = decide(evidence(), CHAMPION, BOTH, FULL)
    assert second.outcome == "promote" and len(second.results) == len(FULL.rules) + 4


def test_a_broken_rule_outweighs_a_missing_figure_and_both_are_told():
    bad = evidence(evaluation=evaluation(metrics={"accuracy": 0.9, "latency_p99_ms": None}))
    verdict = decide(bad, CHAMPION, BOTH, FULL)
    assert verdict.outcome == "reject"
    assert [re.split(":", r)[0] for r in verdict.reasons] == ["threshold accuracy", "latency"]


def test_staging_asks_only_what_is_asked_of_staging():
    stuck = evidence(rollback_available=False)
    assert decide(stuck, CHAMPION, BOTH, FULL, stage="Staging").outcome == "promote"
    assert decide(stuck, CHAMPION, BOTH, FULL, stage="Production").outcome == "reject"
    with pytest.raises(ValueError, match="Archived"):
        decide(stuck, CHAMPION, BOTH, FULL, stage="Archived")


def test_the_callers_own_check_is_one_rule_more():
    for answer, outcome in ((True, "promote"), (False, "reject")):
        verdict = decide(evidence(validations={"validation_fn": answer}), CHAMPION, BOTH, FULL)
        assert verdict.outcome == outcome
        assert verdict.results[-1].rule == "validation_fn"


def test_a_verdict_and_its_evidence_are_plain_json():
    verdict = decide(evidence(), CHAMPION, BOTH, FULL)
    text = json.dumps(verdict.model_dump(mode="json"), allow_nan=False)
    assert Verdict.model_validate_json(text) == verdict
    assert Evidence.model_validate_json(evidence().model_dump_json()) == evidence()
    assert json.dumps(evidence().summary(), allow_nan=False)
    assert verdict.rule_set_digest == FULL.digest != rules(ONE).digest


def test_a_figure_a_hair_below_its_threshold_is_shown_in_full():
    _, result = ask({"kind": "threshold", "metric": "accuracy", "min": 0.95}, with_metrics(accuracy=0.9499999))
    assert "0.9499999 is below 0.95" in result.text


def test_the_same_evidence_always_gives_the_same_verdict():
    assert decide(evidence(), CHAMPION, BOTH, FULL) == decide(evidence(), CHAMPION, BOTH, FULL)


# --- Rule sets


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_profile_loads_under_its_own_name(path):
    assert load_yaml(path, RuleSet).name == path.stem


def test_the_defaults_are_the_promised_ones():
    for name in ("default", "simulated"):
        by_title = {rule.title: rule for rule in load_yaml(CONFIGS / "promotion" / f"{name}.yaml", RuleSet).rules}
        assert by_title["threshold accuracy"].min == 0.95
        assert by_title["false_positive_ceiling"].max == 0.015
        assert by_title["latency"].max_ms == 100
        assert by_title["gain accuracy"].margin == -0.005


def test_an_automatic_update_gains_two_per_cent_and_is_stable_and_leaves_a_way_back():
    asked = load_yaml(CONFIGS / "promotion" / "auto_update.yaml", RuleSet)
    by_title = {rule.title: rule for rule in asked.for_stage("Production")}
    gain = by_title["gain accuracy"]
    assert (gain.over, gain.margin, by_title["stability"].min) == ("relative", 0.02, 0.95)
    assert by_title["rollback_available"].required and not by_title["schema_compatible"].superset
    assert {rule.title for rule in asked.for_stage("Staging")} == {"schema_compatible", "same_major"}
    bare = evidence(evaluation=None)
    assert decide(bare, CHAMPION, [], asked, stage="Staging").outcome == "promote"
    assert decide(bare, CHAMPION, [], asked).outcome == "hold"


def test_without_labels_an_update_is_promoted_on_recent_traffic_alone():
    asked = load_yaml(CONFIGS / "promotion" / "auto_update_unlabelled.yaml", RuleSet)
    quiet = recent().model_copy(update={"drift_share": 0.1})
    assert decide(quiet, CHAMPION, [], asked).outcome == "promote"
    assert decide(quiet, None, [], asked).outcome == "hold"  # a first version waits for a person
    loud = recent(0.05).model_copy(update={"drift_share": 0.1})
    assert decide(loud, CHAMPION, [], asked).outcome == "reject"
    assert decide(evidence(evaluation=None), CHAMPION, [], asked).outcome == "hold"


@pytest.mark.parametrize("measure", ["absolute", "relative", "error_reduction"])
def test_the_docs_say_what_a_gain_of_two_per_cent_takes(measure):
    assert gain_table() in (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert needed(0.985, 0.02, "relative") > 1 > needed(0.985, 0.02, "error_reduction") > 0.985
    assert needed(0.5, 0.02, measure) > 0.5 > needed(0.5, 0.02, measure, lower_better=True)


def test_nsl_kdd_says_in_writing_what_it_leaves_out():
    profile = load_yaml(CONFIGS / "promotion" / "nsl-kdd.yaml", RuleSet)
    assert "no time" in profile.left_out["stability"] and "no time" in profile.left_out["disjoint_in_time"]
    assert decide(evidence(), None, [], profile).left_out == profile.left_out


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.replace("metric: accuracy, min: 0.95", "metric: accuracy, min: 1.5"), "between 0 and 1"),
        (lambda t: t.replace("metric: accuracy, min: 0.95", "metric: acuracy, min: 0.95"), "no such metric"),
        (lambda t: t.replace("metric: accuracy, min: 0.95", "metric: accuracy"), "give min or max"),
        (lambda t: t.replace("metric: accuracy, min: 0.95", "metric: accuracy, min: .nan"), "finite"),
        (lambda t: t.replace("margin: -0.005", "margin: 0.1, relative: true, measure: absolute"), "contradict"),
        (lambda t: t.replace("margin: -0.005", "margin: 0.1, measure: percent"), "error_reduction"),
        (lambda t: t.replace("max: 0.015", "max: -0.1"), "greater than or equal to 0"),
        (lambda t: t.replace("max_ms: 100", "max_ms: 0"), "greater than 0"),
        (lambda t: t.replace("max_ms: 100", "max_seconds: 100"), "unknown key"),
        (lambda t: t.replace("kind: latency", "kind: lattency"), "lattency"),
        (lambda t: t.replace("default: 0.5", "default: 50"), "less than or equal to 1"),
        (lambda t: t.replace("margin: -0.005", "margin: -5"), "greater than or equal to -1"),
        (lambda t: t.replace("  - {kind: stability, min: 0.9}\n", ""), "stability: not asked"),
        (lambda t: t.replace("stages: [Production]", "stages: [Staging]"), "rollback_available: not asked"),
        (lambda t: t.replace("disjoint_in_time: true", "disjoint_in_time: false"), "disjoint_in_time: not asked"),
        (lambda t: t + "left_out: {stability: measured elsewhere by hand}\n", "both asked and left out"),
        (lambda t: t.replace("{kind: latency, max_ms: 100}", "{kind: stability, min: 0.5}"), "latency"),
        (lambda t: t + "promote_always: true\n", "unknown key"),
        (lambda t: t + "rules: []\n", "given twice"),
        (lambda t: "!!python/object/apply:os.system ['true']\n", "YAML"),
    ],
)
def test_a_rule_set_that_makes_no_sense_is_refused_by_file_and_key(tmp_path: Path, edit, words):
    text = (CONFIGS / "promotion" / "simulated.yaml").read_text()
    path = tmp_path / "simulated.yaml"
    path.write_text(edit(text))
    assert path.read_text() != text
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, RuleSet)
    assert "simulated.yaml" in str(caught.value) and words in str(caught.value)
