"""The alias for hardware: given and refused by decisions in the ledger, whatever stage a version is in."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from robustidps.errors import ConflictError, InputError, LedgerError, NotFoundError, RefusedError
from robustidps.registry import state
from robustidps.registry.stages import alias_of
from robustidps.testing.registry import APPROVE, REFUSE

FACTS = {"agreement": 0.99}


def take(registry, version, verdict=APPROVE, alias="loihi"):
    return registry.take_alias("toy", version, alias, verdict=verdict, evidence=FACTS, rule_set="loihi")


def aliases(registry):
    return registry.tracking.client.aliases["toy"]


def test_an_approved_version_takes_the_alias_and_the_next_one_takes_it_over(stocked):
    first = take(stocked, "1.0.0")
    assert (first.action, first.to_stage, first.from_version, first.evidence) == ("alias", "loihi", None, FACTS)
    assert stocked.resolve("toy", "loihi").version == "1.0.0"
    number = aliases(stocked)["loihi"]
    second = take(stocked, "1.1.0")
    assert second.from_version == "1.0.0" and stocked.load_model("toy", "loihi").version == "1.1.0"
    assert aliases(stocked)["loihi"] != number
    stocked.verify("toy")


def test_a_refused_version_does_not_and_the_refusal_is_recorded(stocked):
    take(stocked, "1.0.0")
    decision = take(stocked, "1.1.0", REFUSE)
    assert (decision.action, decision.verdict, decision.to_stage) == ("refuse", "reject", "loihi")
    assert decision.reasons == ("accuracy 0.871 < 0.95",)
    assert stocked.resolve("toy", "loihi").version == "1.0.0"
    stocked.verify("toy")


@pytest.mark.parametrize("verdict", [None, {}, {"outcome": "hold", "reasons": ["no figure"]}])
def test_anything_but_an_approval_is_a_refusal(stocked, verdict):
    assert take(stocked, "1.0.0", verdict).action == "refuse"
    with pytest.raises(NotFoundError, match="no version has the alias"):
        stocked.resolve("toy", "loihi")


def test_it_moves_no_stage_and_stages_do_not_move_it(stocked):
    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    take(stocked, "1.1.0")
    assert stocked.assignment("toy").production == "1.0.0" and stocked.version("toy", "1.1.0").stage == "None"
    stocked.transition("toy", "1.2.0", "Production", verdict=APPROVE)
    assert stocked.resolve("toy", "loihi").version == "1.1.0"
    assert stocked.load_model("toy", "latest").version == "1.2.0", "an alias approves nothing else"
    with pytest.raises(NotFoundError):
        stocked.resolve("toy", "staging")


def test_a_withdrawn_version_loses_it_and_never_gets_it_back(stocked):
    take(stocked, "1.0.0")
    stocked.withdraw("toy", "1.0.0", reason="test")
    assert "loihi" not in aliases(stocked)
    with pytest.raises(NotFoundError):
        stocked.resolve("toy", "loihi")
    with pytest.raises(RefusedError, match="withdrawn"):
        take(stocked, "1.0.0")


def test_having_it_already_and_other_aliases_are_errors(stocked):
    take(stocked, "1.0.0")
    with pytest.raises(ConflictError, match="already"):
        take(stocked, "1.0.0")
    with pytest.raises(InputError, match="no alias 'production'"):
        take(stocked, "1.1.0", alias="production")
    with pytest.raises(NotFoundError):
        take(stocked, "9.0.0")


def test_an_alias_that_somebody_moved_in_mlflow_is_put_right(stocked):
    take(stocked, "1.0.0")
    right = aliases(stocked)["loihi"]
    aliases(stocked)["loihi"] = "99"
    stocked.repair()
    assert aliases(stocked)["loihi"] == right


def test_an_edited_decision_gives_no_alias(stocked):
    take(stocked, "1.0.0", REFUSE)
    with stocked.store.engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER decision_no_update"))
        connection.execute(sa.update(state.decision).where(state.decision.c.action == "refuse").values(action="alias"))
    with pytest.raises(LedgerError):
        stocked.resolve("toy", "loihi")


def test_the_bearer_is_the_newest_that_was_not_withdrawn():
    given = [("alias", "1", "loihi"), ("refuse", "2", "loihi"), ("promote", "3", "Production")]
    assert alias_of(given, "loihi") == "1"
    assert alias_of([*given, ("alias", "2", "loihi"), ("withdraw", "1", "Archived")], "loihi") == "2"
    assert alias_of([*given, ("withdraw", "1", "Archived")], "loihi") is None
