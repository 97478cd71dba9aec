"""Where a rollback goes, whatever was decided before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustidps.errors import InputError, RefusedError
from robustidps.registry.stages import Standing, advance, check_stage, replay, stage_of

VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "2.0.0")


def promoted(*versions: str) -> Standing:
    return replay([("promote", v, "Production") for v in versions])


def rolled_back(standing: Standing) -> Standing:
    return advance(standing, "rollback", standing.previous, "Production")


def test_previous_is_the_one_in_production_before():
    assert promoted("1.0.0").previous is None
    assert promoted("1.0.0", "1.1.0").previous == "1.0.0"


def test_a_rollback_never_leads_back_to_what_was_just_left():
    standing = rolled_back(promoted("1.0.0", "1.1.0", "1.2.0"))
    assert (standing.production, standing.previous) == ("1.1.0", "1.0.0")
    standing = rolled_back(standing)
    assert (standing.production, standing.previous) == ("1.0.0", None)


def test_a_promotion_after_a_rollback_goes_back_to_what_worked():
    standing = rolled_back(promoted("1.0.0", "1.1.0"))
    standing = advance(standing, "promote", "1.2.0", "Production")
    assert standing.previous == "1.0.0"


def test_promoting_a_rolled_back_version_again_brings_it_back_into_the_running():
    standing = rolled_back(promoted("1.0.0", "1.1.0"))
    standing = advance(standing, "promote", "1.1.0", "Production")
    standing = advance(standing, "promote", "1.2.0", "Production")
    assert standing.previous == "1.1.0"


def test_a_withdrawn_version_is_passed_over():
    standing = advance(promoted("1.0.0", "1.1.0", "1.2.0"), "withdraw", "1.1.0", "Archived")
    assert standing.previous == "1.0.0"
    with pytest.raises(RefusedError, match="is in Production"):
        advance(standing, "withdraw", "1.2.0", "Archived")


def test_archiving_production_leaves_it_as_the_way_back():
    standing = advance(promoted("1.0.0"), "archive", "1.0.0", "Archived")
    assert (standing.production, standing.previous) == (None, "1.0.0")
    assert rolled_back(standing).production == "1.0.0"


def test_refusals_and_registrations_move_nothing():
    before = promoted("1.0.0", "1.1.0")
    assert advance(before, "refuse", "1.2.0", "Production") == before
    assert advance(before, "register", "1.2.0", "None") == before


def test_a_version_is_in_one_stage_only():
    standing = advance(promoted("1.0.0"), "promote", "1.1.0", "Staging")
    assert [stage_of(standing, v) for v in VERSIONS[:3]] == ["Production", "Staging", "None"]
    standing = advance(standing, "promote", "1.1.0", "Production")
    assert [stage_of(standing, v) for v in VERSIONS[:3]] == ["Archived", "Production", "None"]
    with pytest.raises(RefusedError, match="can't be in Staging as well"):
        advance(standing, "promote", "1.1.0", "Staging")


def test_an_unknown_stage_is_named():
    assert check_stage("production") == "Production"
    with pytest.raises(InputError, match="'prod' is not a stage"):
        check_stage("prod")


MOVES = st.lists(
    st.tuples(
        st.sampled_from(("promote", "stage", "rollback", "archive", "withdraw", "refuse")), st.sampled_from(VERSIONS)
    ),
    max_size=25,
)


def by_definition(done: list[tuple[str, str]], production: str | None) -> str | None:
    """`previous` straight from its definition, by looking back over everything that was done."""
    fate: dict[str, str] = {}
    entered: dict[str, int] = {}
    current = None
    for moment, (action, version) in enumerate(done):
        if action == "promote":
            fate[version], entered[version], current = "good", moment, version
        elif action == "rollback":
            if current is not None:
                fate[current] = "rolled back"
            current = version
        elif action == "withdraw":
            fate[version] = "withdrawn"
        elif action == "archive" and current == version:
            current = None
    good = [v for v in entered if fate[v] == "good" and v != production]
    return max(good, key=lambda v: entered[v], default=None)


@settings(max_examples=400, deadline=None)
@given(MOVES)
def test_previous_is_what_its_definition_says_after_any_moves(moves):
    standing, done, left = Standing(), [], None
    for kind, wanted in moves:
        action, stage = {"stage": ("promote", "Staging"), "promote": ("promote", "Production")}.get(
            kind, (kind, "Archived")
        )
        version = standing.previous if kind == "rollback" else wanted
        try:
            after = advance(standing, action, version, "Production" if kind == "rollback" else stage)
        except RefusedError:
            continue
        if kind == "rollback":
            left = standing.production
            assert after.production == standing.previous
            assert after.previous != left or left is None
        standing = after
        if kind != "stage":
            done.append((kind, version))
        assert standing.previous == by_definition(done, standing.production)
        assert standing.production is None or standing.production not in (standing.previous, standing.staging)
