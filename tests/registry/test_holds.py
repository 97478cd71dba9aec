"""Override, pin and freeze: the one way around a rule, what it never waives, and the emergency stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from robustidps import cli
from robustidps.errors import BundleError, InputError, LedgerError, ModelValidationError, RefusedError
from robustidps.judging import judge, promote
from robustidps.overriding import override
from robustidps.registry import holds, state
from robustidps.registry.holds import parse_until
from robustidps.registry.registry import ModelRegistry
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE

TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def overridden(judged) -> ModelRegistry:
    override(judged, "toy", "1.2.0", reason="the attack of today", until=TOMORROW)
    return judged


def test_an_override_moves_records_what_the_rules_really_said_and_pins(overridden):
    assert overridden.assignment("toy").production == "1.2.0"
    last = overridden.history("toy")[-1]
    assert (last.action, last.verdict, last.actor_source, last.rule_set) == ("promote", "override", "os", "toy")
    facts = last.evidence["override"]
    assert (
        facts["verdict"] == "reject" and "accuracy" in facts["reasons"][0] and facts["reason"] == "the attack of today"
    )
    assert last.evidence["candidate"]["metrics"]["accuracy"] < 0.6
    assert "attack of today" in str(overridden.pinned("toy"))
    assert overridden.load_model("toy", "production").version == "1.2.0"
    overridden.verify()


def test_the_pin_keeps_every_other_version_out_of_production_until_it_is_over_or_ended(overridden, monkeypatch):
    (outcome,) = [o for o in promote(overridden, "toy", "1.1.0") if not o.moved]
    assert (
        outcome.stage == "Production" and outcome.verdict.outcome == "hold" and "pinned" in outcome.verdict.reasons[0]
    )
    assert overridden.assignment("toy").staging == "1.1.0"
    with pytest.raises(RefusedError, match="pinned"):
        overridden.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    with pytest.raises(ModelValidationError, match="pinned"):
        overridden.hot_swap_model("toy", "1.1.0")

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=2)

    monkeypatch.setattr(holds, "datetime", Later)
    assert overridden.pinned("toy") is None
    assert promote(overridden, "toy", "1.1.0")[-1].moved
    overridden.verify()


@pytest.mark.parametrize("how", ["rollback", "thaw"])
def test_a_rollback_or_a_thaw_ends_the_pin(overridden, how):
    overridden.rollback("toy") if how == "rollback" else overridden.thaw("toy", reason="over")
    assert overridden.pinned("toy") is None and overridden.assignment("toy").pinned_by is None
    overridden.verify()


def test_a_pin_edited_in_the_database_is_found(overridden):
    with overridden.store.write() as connection:
        connection.execute(sa.update(state.assignment).values(pinned_until="2099-01-01T00:00:00+00:00"))
    with pytest.raises(LedgerError, match="pinned_until"):
        overridden.verify()


def test_an_override_works_where_the_rules_cant_be_asked_and_says_so(judged, tmp_path):
    judged.register_model("toy", "2.0.0", toy_bundle(tmp_path / "b", version="2.0.0", seed=5).path)
    decision = override(judged, "toy", "2.0.0", reason="nothing else is left", until=TOMORROW)
    assert decision.evidence["override"]["verdict"] == "hold"
    assert "no held-out traffic" in decision.evidence["override"]["reasons"][0]


def test_what_an_override_never_waives(judged, monkeypatch):
    with pytest.raises(InputError, match="reason"):
        override(judged, "toy", "1.2.0", reason=" ", until=TOMORROW)
    with monkeypatch.context() as patch, pytest.raises(RefusedError, match="no override"):
        patch.setattr("robustidps.traffic.schema.TrafficSchema.compatible_with", lambda *_: ["another feature"])
        override(judged, "toy", "1.2.0", reason="x", until=TOMORROW)
    kept = judged.cache.path(judged.version("toy", "1.2.0").digest) / "model.onnx"
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="changed"):
        override(judged, "toy", "1.2.0", reason="x", until=TOMORROW)
    judged.withdraw("toy", "1.1.0", reason="poisoned")
    with pytest.raises(RefusedError, match="withdrawn"):
        override(judged, "toy", "1.1.0", reason="x", until=TOMORROW)
    assert judged.assignment("toy").production == "1.0.0"


def test_while_frozen_nothing_goes_up_by_whatever_way_but_a_rollback_works(judged):
    promote(judged, "toy", "1.1.0")
    judged.freeze("toy", reason="incident 7")
    (outcome,) = promote(judged, "toy", "1.0.0")
    assert not outcome.moved and "incident 7" in outcome.verdict.reasons[0]
    assert judged.history("toy")[-1].action == "refuse"
    assert judge(judged, "toy", "1.0.0", "Staging").outcome == "hold"
    for move in (
        lambda: judged.transition("toy", "1.0.0", "Staging", verdict=APPROVE),
        lambda: judged.hot_swap_model("toy", "1.0.0"),
        lambda: override(judged, "toy", "1.2.0", reason="x", until=TOMORROW),
        lambda: judged.take_alias("toy", "1.0.0", "loihi", verdict=APPROVE, evidence={}),
    ):
        with pytest.raises(RefusedError, match="incident 7"):
            move()
    judged.rollback("toy", reason="as it was")
    assert judged.assignment("toy").production == "1.0.0"
    judged.thaw("toy", reason="over")
    assert promote(judged, "toy", "1.1.0")[-1].moved
    judged.verify()


def test_a_freeze_with_an_end_ends_by_itself(judged):
    judged.freeze("toy", reason="tonight", until=TOMORROW)
    decisions = judged.history("toy")
    assert holds.freeze_of(decisions, TOMORROW - timedelta(seconds=1)) and not holds.freeze_of(decisions, TOMORROW)


@pytest.mark.parametrize("text", ["yesterday", "2020-01-01", ""])
def test_an_end_that_is_none_or_over_is_refused(text):
    with pytest.raises(InputError):
        parse_until(text)


def test_the_end_of_a_bare_date_is_the_end_of_that_day():
    assert parse_until("2999-01-31").isoformat() == "2999-01-31T23:59:59+00:00"
    assert parse_until("2999-01-31T10:00+02:00").hour == 8


def test_the_commands(judged, monkeypatch):
    monkeypatch.setattr("robustidps.cli.stages.open_registry", lambda: judged)
    monkeypatch.setattr("robustidps.cli.models.open_registry", lambda: judged)
    run = CliRunner().invoke
    refused = run(cli.app, ["promote", "toy", "1.2.0", "--override", "--reason", "x"])
    assert "needs a reason and an end" in str(refused.exception)
    assert "is for --override" in str(run(cli.app, ["promote", "toy", "1.2.0", "--until", "2999-01-01"]).exception)
    words = ["promote", "toy", "1.2.0", "--override", "--reason", "today", "--until", "2999-01-01"]
    said = run(cli.app, words)
    assert said.exit_code == 0 and "reject" in said.output and "2999-01-01" in said.output
    assert run(cli.app, ["freeze", "toy", "--reason", "incident 7"]).exit_code == 0
    (row,) = json.loads(run(cli.app, ["models", "--json"]).output)
    assert "incident 7" in row["held"]
    assert "freeze" in run(cli.app, ["history", "toy"]).output
    assert run(cli.app, ["thaw", "toy", "--reason", "over"]).exit_code == 0
    (row,) = json.loads(run(cli.app, ["models", "--json"]).output)
    assert row["held"] is None
