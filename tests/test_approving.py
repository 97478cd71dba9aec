"""A person before Production: who can approve, what an approval is bound to, and that the table alone says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from robustidps import approving
from robustidps.approving import answer, find, settle, waiting
from robustidps.errors import ConflictError, InputError, LedgerError, NotFoundError, RefusedError
from robustidps.evaluation.evaluate import evaluate
from robustidps.judging import judge, promote
from robustidps.registry import records, state
from robustidps.registry.records import os_user, person
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import use_settings
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.registry import memory_registry
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle

DAY = 86_400.0
RULES = """
name: asked
evidence: {min_rows: 100, min_blocks: 5}
rules:
  - {kind: threshold, metric: accuracy, min: 0.6}
  - {kind: gain, metric: accuracy, margin: -0.05}
  - {kind: schema_compatible}
  - {kind: rollback_available, stages: [Production]}
  - {kind: approval, within_hours: 72}
left_out:
  recall_floor: the toy model is linear, and this test is not about it
  false_positive_ceiling: the toy model is linear, and this test is not about it
  latency: not what these tests are about
  stability: not what these tests are about
"""
BEN = {"actor": "ben", "actor_source": "login"}


def later(traffic, days: float):
    return replace(traffic, time=traffic.time + days * DAY)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for number, seed in (("1.0.0", 0), ("1.1.0", 1)):
        settings = LinearSettings(seed=seed, epochs=150, learning_rate=0.5)
        train, validation = toy_traffic(900, seed=3), later(toy_traffic(400, seed=4), 1)
        train_bundle(Linear(), settings, train, validation, name="toy", version=number, out=folder / number)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def measured():
    """`evaluate`, once for each bundle and traffic: these tests ask the same question many times."""
    known: dict[tuple[str, str], Any] = {}

    def once(bundle, traffic, **options):
        key = (bundle.digest, traffic.digest)
        if key not in known:
            known[key] = evaluate(bundle, traffic, **options)
        return known[key]

    return once


@pytest.fixture
def registry(tmp_path, bundles, measured, monkeypatch):
    """A registry with two good versions, whose rules ask for a person."""
    monkeypatch.setattr("robustidps.evaluation.evaluate.evaluate", measured)
    made = memory_registry(tmp_path / "home")
    with use_settings(made.settings):
        (made.settings.folder("configs", "promotion") / "asked.yaml").write_text(RULES)
        held_out = later(toy_traffic(900, seed=9), 5)
        path = held_out.write(made.settings.folder("traffic") / "held-out.parquet")
        facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "asked"}
        for version, folder in bundles.items():
            made.register_model("toy", version, folder, held_out=facts)
        yield made


def wanted(registry: ModelRegistry, version: str = "1.0.0", **options) -> approving.Request:
    """The request that a promotion ends in."""
    request = promote(registry, "toy", version, **options)[-1].approval
    assert request is not None
    return request


def clock(monkeypatch, hours: float) -> None:
    """Lets the approving side believe that it is so many hours later."""

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(approving, "datetime", Later)


def test_the_version_waits_in_staging_until_somebody_else_approves(registry):
    outcomes = promote(registry, "toy", "1.0.0", reason="ticket 7")
    assert [(o.stage, o.moved) for o in outcomes] == [("Staging", True), ("Production", False)]
    request = outcomes[-1].approval
    assert outcomes[-1].verdict.outcome == "hold" and request.status == "waiting"
    assert request.requested_by == (person()[0],) and waiting(registry) == [request]

    assert answer(registry, request, True, reason="looks right", **BEN).status == "approved"
    assert [(o.stage, o.moved) for o in promote(registry, "toy", "1.0.0")] == [("Production", True)]
    promoted = registry.history("toy")[-1]
    assert promoted.evidence["candidate"]["approvals"][0]["by"] == ["ben"]
    assert any("approved by ben (login" in rule["text"] for rule in promoted.evidence["rules"])
    said = registry.history("toy")[-2]
    assert (said.action, said.actor, said.actor_source, said.reasons) == ("approve", "ben", "login", ("looks right",))
    assert registry.verify("toy").ok


@pytest.mark.parametrize("actor", [None, "mallory"])
def test_who_asked_cannot_approve_whatever_name_was_given(registry, actor):
    request = wanted(registry, actor=actor)
    with pytest.raises(RefusedError, match="asked for it"):
        answer(registry, request, True, reason="mine", actor=os_user(), actor_source="token")
    if actor:
        with pytest.raises(RefusedError, match="asked for it"):
            answer(registry, request, True, reason="mine", actor=actor, actor_source="os")
    with pytest.raises(RefusedError, match="asked for it"):  # one of two, and it can't be told which
        answer(registry, request, True, reason="we", actor="x", actor_source="f", one_of=("ben", os_user()))
    assert judge(registry, "toy", "1.0.0", "Production").outcome == "hold"


def test_who_is_not_known_can_refuse_but_not_approve(registry):
    request = wanted(registry)
    for source in (None, "unverified"):
        with pytest.raises(RefusedError, match="not known who"):
            answer(registry, request, True, reason="trust me", actor="ben", actor_source=source)
    assert answer(registry, request, False, reason="no", actor="somebody").status == "refused"
    last = registry.history("toy")[-1]
    assert (last.action, last.actor_source, last.verdict) == ("refuse", "unverified", "reject")
    with pytest.raises(ConflictError, match="was refused already"):
        answer(registry, request, True, reason="but I want it", **BEN)
    assert not promote(registry, "toy", "1.0.0")[-1].moved


def test_an_answer_needs_a_reason_and_a_request(registry):
    request = wanted(registry)
    with pytest.raises(InputError, match="needs a reason"):
        answer(registry, request, True, reason="  ", **BEN)
    with pytest.raises(NotFoundError, match="no such request"):
        find(registry, "nothing")


def test_one_request_waits_for_a_version_and_stage_however_often_it_is_asked(registry):
    first, second = wanted(registry), wanted(registry)
    assert first.id == second.id and len(waiting(registry)) == 1
    assert [d.action for d in registry.history("toy")][-2:] == ["refuse", "refuse"]


def test_a_time_out_refuses_and_is_on_record(registry, monkeypatch):
    request = wanted(registry)
    clock(monkeypatch, 73)
    with pytest.raises(RefusedError, match=r"has lapsed: approval .* nobody answered until"):
        answer(registry, request, True, reason="late", **BEN)
    assert find(registry, request.id).status == "expired" and waiting(registry) == []
    last = registry.history("toy")[-1]
    assert (last.action, last.actor, last.verdict) == ("refuse", "nobody", "hold")
    assert wanted(registry).id != request.id


def test_an_approval_lapses_when_production_moves(registry):
    first, second = wanted(registry), wanted(registry, "1.1.0")
    answer(registry, first, True, reason="yes", **BEN)
    answer(registry, second, True, reason="yes", **BEN)
    promote(registry, "toy", "1.0.0")
    outcome = promote(registry, "toy", "1.1.0")[-1]  # was approved beside an empty production
    assert not outcome.moved and "production has moved since" in outcome.verdict.reasons[-1]
    third = outcome.approval
    registry.transition("toy", "1.0.0", "Archived")
    assert [r.id for r in settle(registry)] == [third.id]
    assert "production has moved" in registry.history("toy")[-1].reasons[0]


def test_an_approval_is_of_the_rules_and_the_traffic_it_was_shown(registry):
    request = wanted(registry)
    answer(registry, request, True, reason="yes", **BEN)
    other = later(toy_traffic(900, seed=10), 6)
    verdict = judge(registry, "toy", "1.0.0", "Production", held_out=other)
    assert verdict.outcome == "hold" and "other held-out traffic" in verdict.reasons[0]
    rules = registry.settings.home / "configs" / "promotion" / "asked.yaml"
    rules.write_text(RULES.replace("min: 0.6", "min: 0.5"))
    assert "under other rules" in judge(registry, "toy", "1.0.0", "Production").reasons[0]
    rules.write_text(RULES)
    assert judge(registry, "toy", "1.0.0", "Production").outcome == "promote"


def test_rules_that_change_while_a_request_waits_make_it_lapse(registry):
    request = wanted(registry)
    rules = registry.settings.home / "configs" / "promotion" / "asked.yaml"
    rules.write_text(RULES.replace("min: 0.6", "min: 0.5"))
    assert wanted(registry).id != request.id
    assert find(registry, request.id).status == "expired"


def test_two_people_have_to_be_two(registry):
    rules = registry.settings.home / "configs" / "promotion" / "asked.yaml"
    rules.write_text(RULES.replace("within_hours: 72", "people: 2"))
    request = wanted(registry)
    assert answer(registry, request, True, reason="yes", **BEN).status == "waiting"
    with pytest.raises(ConflictError, match="ben has approved it already"):
        answer(registry, request, True, reason="yes", actor="ben", actor_source="token")
    assert "1 of 2" in judge(registry, "toy", "1.0.0", "Production").reasons[0]
    assert answer(registry, request, True, reason="yes", actor="cleo", actor_source="login").status == "approved"
    assert promote(registry, "toy", "1.0.0")[-1].moved


def test_the_approval_of_a_request_that_was_then_refused_does_not_count(registry):
    rules = registry.settings.home / "configs" / "promotion" / "asked.yaml"
    rules.write_text(RULES.replace("within_hours: 72", "people: 2"))
    request = wanted(registry)
    answer(registry, request, True, reason="yes", **BEN)
    answer(registry, request, False, reason="no", actor="cleo", actor_source="login")
    assert "0 of 2" in judge(registry, "toy", "1.0.0", "Production").reasons[0]


def test_a_broken_rule_opens_no_request(registry):
    rules = registry.settings.home / "configs" / "promotion" / "asked.yaml"
    rules.write_text(RULES.replace("min: 0.6", "min: 1"))
    assert promote(registry, "toy", "1.0.0")[-1].approval is None and waiting(registry) == []
    broken = (
        "- {kind: threshold, metric: accuracy, min: 0.6}\n  - {kind: drift_ceiling, max: 0.5, stages: [Production]}"
    )
    rules.write_text(RULES.replace("- {kind: threshold, metric: accuracy, min: 0.6}", broken))
    outcome = promote(registry, "toy", "1.0.0")[-1]  # held for a missing figure as well
    assert outcome.verdict.outcome == "hold" and outcome.approval is None


def test_a_killed_process_leaves_no_request_without_its_record(registry, monkeypatch):
    from robustidps.registry import steps

    def die(name: str) -> None:
        if name == "refuse.recorded":
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        promote(registry, "toy", "1.0.0")
    monkeypatch.setattr(steps, "hook", lambda name: None)
    with registry.store.read() as connection:
        assert connection.execute(sa.select(state.approval)).first() is None
    assert wanted(registry).status == "waiting"


# --- what the table says against the ledger


def test_an_edited_table_approves_nothing(registry):
    request = wanted(registry)
    with registry.store.write() as connection:
        values = {"status": "approved", "decided_by": "ben", "decided_source": "os", "requested_by": "zoe"}
        connection.execute(sa.update(state.approval).values(**values))
    assert judge(registry, "toy", "1.0.0", "Production").outcome == "hold"
    assert find(registry, request.id).status == "waiting"
    with pytest.raises(RefusedError, match="asked for it"):
        answer(registry, find(registry, request.id), True, reason="mine", actor=os_user(), actor_source="os")
    assert not promote(registry, "toy", "1.0.0")[-1].moved


def test_a_row_that_the_ledger_does_not_know_is_no_request(registry):
    request = wanted(registry)
    with registry.store.write() as connection:
        row = dict(connection.execute(sa.select(state.approval)).mappings().one())
        connection.execute(sa.insert(state.approval).values(**row | {"id": "forged", "version": "1.1.0"}))
    assert [r.id for r in waiting(registry)] == [request.id]
    with pytest.raises(NotFoundError):
        find(registry, "forged")
    assert wanted(registry, "1.1.0").id != "forged" and len(waiting(registry)) == 2  # nor does it stand in the way


def test_an_edited_record_of_approval_stops_everything(registry):
    answer(registry, wanted(registry), False, reason="no", **BEN)
    with registry.store.write() as connection:
        connection.execute(sa.text("DROP TRIGGER decision_no_update"))
        connection.execute(
            sa.text("UPDATE decision SET action = 'approve' WHERE seq = (SELECT max(seq) FROM decision)")
        )
    with pytest.raises(LedgerError, match="was changed"):
        promote(registry, "toy", "1.0.0")


def test_an_answer_that_was_overtaken_changes_nothing(registry):
    request = wanted(registry)
    records_before = len(registry.history("toy"))
    with registry.store.write() as connection:
        connection.execute(sa.update(state.approval).values(status="refused"))
    with pytest.raises(ConflictError, match="in this moment"):
        answer(registry, request, True, reason="yes", **BEN)
    assert len(registry.history("toy")) == records_before


# --- who sits at the terminal


def test_the_person_is_who_logged_in_where_the_kernel_knows(tmp_path, monkeypatch):
    login = tmp_path / "loginuid"
    monkeypatch.setattr(records, "_LOGIN_UID", login)
    assert person() == (os_user(), "os")
    login.write_text(str(2**32 - 1))
    assert person() == (os_user(), "os")
    login.write_text("54321")
    assert person() == ("uid 54321", "login")


def test_what_a_person_reads_has_figures_with_intervals_and_no_markup_of_others(registry):
    text = approving.markdown(wanted(registry, actor="<b>[x](http://evil)"))
    assert "| accuracy | 0." in text and "[" in text.split("| accuracy |")[1]
    assert "waits: approval: 0 of 1" in text
    assert "<b>" not in text and "](http" not in text
    facts = json.loads(json.dumps(find(registry, waiting(registry)[0].id).as_dict()))
    assert facts["status"] == "waiting" and facts["evidence"]["figures"]["rows"] == 900
    assert datetime.fromisoformat(facts["expires_at"]) > datetime.now(UTC) + timedelta(hours=71)
