"""Judging and promoting: both on the same rows, every answer in the ledger, no move on a state that has gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustidps.comparing import compare_versions, evaluate_version
from robustidps.errors import ConflictError, InputError, IntegrityError, ModelValidationError, NotFoundError
from robustidps.evaluation.evasion import evaded_digest
from robustidps.judging import gather, judge, promote
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import use_settings
from robustidps.testing.judged import RULES
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.registry import memory_registry
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import train_bundle

DAY = 86_400.0


@pytest.fixture
def registry(tmp_path: Path):
    """A registry with versions 1.0.0 and 1.1.0 of a good model and 1.2.0 of one that never learnt."""
    made = memory_registry(tmp_path / "home")
    with use_settings(made.settings):
        rules = made.settings.folder("configs", "promotion") / "toy.yaml"
        rules.write_text(RULES)
        held_out = _at(toy_traffic(900, seed=9), days=5)
        path = held_out.write(made.settings.folder("traffic") / "held-out.parquet")
        evaded = _evaded(held_out)
        altered = evaded.write(made.settings.folder("traffic") / "evaded.parquet")
        facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "toy"}
        facts |= {"evaded": {"path": str(altered), "digest": evaded_digest(evaded)}}
        for version, seed, epochs in (("1.0.0", 0, 150), ("1.1.0", 1, 150), ("1.2.0", 2, 1)):
            settings = LinearSettings(seed=seed, epochs=epochs, learning_rate=0.5 if epochs > 1 else 1e-6)
            train, validation = toy_traffic(900, seed=3), _at(toy_traffic(400, seed=4), days=1)
            out = tmp_path / version
            train_bundle(Linear(), settings, train, validation, name="toy", version=version, out=out)
            made.register_model("toy", version, out, held_out=facts)
        yield made


def _at(traffic, days: float):
    return replace(traffic, time=traffic.time + days * DAY)


def _evaded(held_out: TrafficSet) -> TrafficSet:
    """The held-out attacks, and again with benign rows' features: nothing is found of those."""
    attacks, benign = held_out.select(held_out.labels > 0), held_out.select(held_out.labels == 0)
    hidden = replace(attacks, features=np.resize(benign.features, attacks.features.shape))
    parts = [replace(t, source=np.full(len(t), n, object)) for t, n in ((attacks, "unchanged"), (hidden, "disguise"))]
    return TrafficSet.concat(parts)


def test_a_version_passes_through_staging_and_each_step_is_a_decision(registry: ModelRegistry) -> None:
    outcomes = promote(registry, "toy", "1.0.0")
    assert [(o.stage, o.moved) for o in outcomes] == [("Staging", True), ("Production", True)]
    assert registry.assignment("toy").production == "1.0.0" and registry.assignment("toy").staging is None
    log = [d for d in registry.history("toy") if d.action == "promote"]
    assert [d.to_stage for d in log] == ["Staging", "Production"]
    assert log[-1].evidence["candidate"]["metrics"]["accuracy"] > 0.6 and log[-1].rule_set == "toy"
    assert registry.verify().ok


def test_candidate_and_champion_are_scored_on_the_same_rows(registry: ModelRegistry) -> None:
    promote(registry, "toy", "1.0.0")
    case = gather(registry, "toy", "1.1.0")
    assert case.champion is not None and case.champion.evaluation is not None and case.candidate.evaluation is not None
    assert case.champion.evaluation.data_digest == case.candidate.evaluation.data_digest
    assert {"accuracy", "macro_f1"} <= {p.metric for p in case.paired}


def test_a_worse_candidate_is_refused_and_the_refusal_is_kept(registry: ModelRegistry) -> None:
    promote(registry, "toy", "1.0.0")
    outcomes = promote(registry, "toy", "1.2.0")
    assert [(o.stage, o.moved) for o in outcomes] == [("Staging", False)]
    assert any("accuracy" in reason for reason in outcomes[0].verdict.reasons)
    last = registry.history("toy")[-1]
    assert (last.action, last.version, last.verdict) == ("refuse", "1.2.0", "reject")
    assert registry.assignment("toy").production == "1.0.0"


def test_a_version_that_gets_no_further_than_staging_is_shown_there(registry: ModelRegistry) -> None:
    strict = "  - {kind: threshold, metric: macro_f1, min: 1, stages: [Production]}\nleft_out:"
    rules = registry.settings.home / "configs" / "promotion" / "strict.yaml"
    rules.write_text(RULES.replace("name: toy", "name: strict").replace("left_out:", strict))
    outcomes = promote(registry, "toy", "1.0.0", rules="strict")
    assert [(o.stage, o.moved) for o in outcomes] == [("Staging", True), ("Production", False)]
    assert registry.assignment("toy").staging == "1.0.0" and registry.assignment("toy").projected


def test_judging_changes_nothing(registry: ModelRegistry) -> None:
    before = len(registry.history("toy"))
    assert judge(registry, "toy", "1.0.0", "Production").outcome == "promote"
    assert len(registry.history("toy")) == before and registry.assignment("toy").production is None


def test_a_validation_function_is_one_rule_more(registry: ModelRegistry) -> None:
    outcomes = promote(registry, "toy", "1.0.0", validation_fn=lambda model: False)
    assert not outcomes[-1].moved and "validation_fn" in outcomes[-1].verdict.reasons[0]
    with pytest.raises(InputError, match="not True or False"):
        promote(registry, "toy", "1.0.0", validation_fn=lambda model: 0.97)


def test_a_decision_on_a_state_that_is_gone_is_a_conflict(registry: ModelRegistry) -> None:
    def meanwhile(model) -> bool:
        promote(registry, "toy", "1.1.0")
        return True

    with pytest.raises(ConflictError):
        promote(registry, "toy", "1.0.0", validation_fn=meanwhile)
    assert registry.assignment("toy").production == "1.1.0"


def test_hot_swap_goes_through_the_same_rules(registry: ModelRegistry) -> None:
    registry.hot_swap_model("toy", "1.0.0", validation_fn=lambda model: True)
    assert registry.assignment("toy").production == "1.0.0"
    with pytest.raises(ModelValidationError, match="accuracy"):
        registry.hot_swap_model("toy", "1.2.0")
    assert registry.assignment("toy").production == "1.0.0"


def test_held_out_traffic_from_the_time_of_training_holds(registry: ModelRegistry) -> None:
    verdict = judge(registry, "toy", "1.0.0", "Staging", held_out=toy_traffic(900, seed=9))
    assert verdict.outcome == "hold" and any("overlaps in time" in reason for reason in verdict.reasons)


def test_changed_or_missing_held_out_traffic_is_refused(registry: ModelRegistry) -> None:
    path = registry.settings.home / "traffic" / "held-out.parquet"
    _at(toy_traffic(900, seed=10), days=5).write(path)
    with pytest.raises(IntegrityError, match="was changed"):
        promote(registry, "toy", "1.0.0")
    path.unlink()
    with pytest.raises(NotFoundError, match="is gone"):
        promote(registry, "toy", "1.0.0")
    assert registry.assignment("toy").staging is None


@pytest.mark.parametrize(("version", "stage"), [("1.0.0", "production"), ("1.0.0", "Archived"), ("9.9.9", "Staging")])
def test_an_unknown_stage_or_version_is_named(registry: ModelRegistry, version: str, stage: str) -> None:
    with pytest.raises(InputError):
        promote(registry, "toy", version, stage)


def test_a_version_in_production_is_not_promoted_again(registry: ModelRegistry) -> None:
    promote(registry, "toy", "1.0.0")
    with pytest.raises(InputError, match="already"):
        promote(registry, "toy", "1.0.0")


def test_candidate_and_champion_are_scored_on_the_evaded_traffic_recorded_with_the_version(
    registry: ModelRegistry,
) -> None:
    rules = registry.settings.home / "configs" / "promotion" / "evasion.yaml"
    rule = "  - {kind: recall_under_evasion, min: 0.5}\nleft_out:"
    rules.write_text(RULES.replace("name: toy", "name: evasion").replace("left_out:", rule))
    case = gather(registry, "toy", "1.0.0", rules="evasion")
    evaluation = case.candidate.evaluation
    assert evaluation is not None and evaluation.evasion is not None
    assert evaluation.metric("detection_under.unchanged") == pytest.approx(evaluation.metric("detection_rate"))
    verdict = case.verdict("Staging")
    assert verdict.outcome == "reject" and any("recall_under_evasion" in reason for reason in verdict.reasons)
    assert case.candidate.summary()["evaded_digest"] == evaluation.evasion.data_digest
    promote(registry, "toy", "1.0.0")
    champion = gather(registry, "toy", "1.1.0").champion
    assert champion is not None and champion.evaluation is not None and champion.evaluation.evasion is not None
    assert champion.evaluation.evasion.data_digest == evaluation.evasion.data_digest
    compared = compare_versions(registry, "toy@1.0.0", "toy@1.1.0")
    assert compared.candidate.evasion and compared.champion.evasion


def test_other_evaded_traffic_can_be_named(registry: ModelRegistry, tmp_path: Path) -> None:
    from robustidps.judging import read_held_out

    record = registry.resolve("toy", "1.0.0").held_out
    own = _evaded(read_held_out(record, "toy").select(slice(0, 600)))
    evaluation, _ = evaluate_version(registry, "toy", "1.0.0", evaded=own.write(tmp_path / "own.parquet"))
    assert evaluation.evasion is not None and evaluation.evasion.data_digest == evaded_digest(own)


def test_evaded_traffic_from_the_time_of_training_holds(registry: ModelRegistry) -> None:
    verdict = judge(registry, "toy", "1.0.0", "Staging", evaded=_evaded(toy_traffic(900, seed=9)))
    assert verdict.outcome == "hold" and any("evaded traffic" in reason for reason in verdict.reasons)


def test_changed_or_missing_evaded_traffic_is_refused(registry: ModelRegistry) -> None:
    path = registry.settings.home / "traffic" / "evaded.parquet"
    rows = TrafficSet.read(path)
    calmed = replace(rows, source=np.where(rows.source == "disguise", "unchanged", "disguise"))
    assert calmed.digest == rows.digest
    calmed.write(path)
    with pytest.raises(IntegrityError, match="was changed"):
        promote(registry, "toy", "1.0.0")
    path.unlink()
    with pytest.raises(NotFoundError, match="is gone"):
        promote(registry, "toy", "1.0.0")
    assert registry.assignment("toy").staging is None
