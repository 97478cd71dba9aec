"""What a reviewer's word silences, exactly, and for how long."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from robustidps.errors import InputError
from robustidps.monitoring.reviews import anchor_version, review
from robustidps.monitoring.windows import reviews_of, window, windows
from robustidps.registry import state
from robustidps.testing.registry import APPROVE

SOON = (datetime.now(UTC) + timedelta(days=30)).date()


@pytest.fixture
def alarmed(registry, watch):
    """Three days of moved traffic; the last is an alarm."""
    return [watch(i, moved=1.5).window for i in range(3)]


def test_an_expected_window_silences_what_is_like_it_and_nothing_that_moves_on(registry, watch, alarmed):
    review(registry, alarmed[-1], "expected", reason="the new office", until=SOON)
    like = watch(3, moved=1.5).window
    assert like.drifted and not like.alarm and f"it is like window {alarmed[-1].id}" in like.silenced
    assert like.status == "silenced"
    further = watch(4, moved=4.0)
    assert further.window.alarm and further.alarm is not None


def test_expected_ends_with_its_day(registry, watch, alarmed):
    before = datetime.now(UTC) - timedelta(days=3)
    review(registry, alarmed[-1], "expected", reason="for now", until=before.date(), now=before)
    assert watch(3, moved=1.5).window.alarm


def test_expected_ends_when_another_version_is_in_production(registry, watch, alarmed):
    review(registry, alarmed[-1], "expected", reason="the new office")
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    days = [watch(i, moved=1.5).window for i in range(3, 6)]
    assert [d.status for d in days] == ["drifted", "drifted", "alarm"]  # k of n starts anew with the version


def test_ignore_silences_everything_until_its_day(registry, watch, alarmed):
    review(registry, alarmed[-1], "ignore", reason="the network is rebuilt", until=SOON)
    quiet = watch(3, moved=6.0).window
    assert quiet.status == "silenced" and quiet.silenced.startswith("ignored until")
    assert quiet.drifted  # it counts among the n all the same


def test_an_incident_silences_nothing(registry, watch, alarmed):
    review(registry, alarmed[-1], "incident", reason="a scan from the guest network")
    assert watch(3, moved=1.5).window.alarm


def test_the_latest_word_on_a_window_counts(registry, watch, alarmed):
    review(registry, alarmed[-1], "expected", reason="the new office")
    review(registry, alarmed[-1], "incident", reason="it was no office")
    assert reviews_of(registry, "toy")[alarmed[-1].id].kind == "incident"
    assert watch(3, moved=1.5).window.alarm


def test_counts_that_were_edited_after_the_review_silence_nothing(registry, watch, alarmed):
    """Whoever may write to the table could else make an accepted window look like anything."""
    accepted = alarmed[0]
    review(registry, accepted, "expected", reason="the new office")
    forged = window(registry, "toy", accepted.id).figures
    forged["measured"]["counts"]["skew"][0] += 1
    with registry.store.write() as connection:
        table = state.drift_window
        connection.execute(sa.update(table).where(table.c.id == accepted.id).values(figures=json.dumps(forged)))
    assert watch(3, moved=1.5).window.alarm


def test_expected_traffic_excuses_no_wrong_verdicts(registry, watch, alarmed):
    from dataclasses import replace

    from robustidps.monitoring.window import Range
    from robustidps.monitoring.windows import Case, enter, look
    from tests.monitoring.conftest import day

    review(registry, alarmed[-1], "expected", reason="the new office")
    path = day(3, moved=1.5, labelled=True).write(registry.settings.home / "traffic" / "l.parquet")
    case = replace(Case.of(registry, "toy"), validation_accuracy=0.999)
    assert enter(registry, case, look(case, [path], Range()).figures).window.alarm


def test_a_review_is_signed_and_says_who_and_why(registry, alarmed):
    given = review(registry, alarmed[-1], "ignore", reason="a test\x1b[31m", until=SOON, actor="eve", actor_source=None)
    entry = registry.history("toy")[-1]
    assert (entry.action, entry.actor, entry.actor_source) == ("review", "eve", "unverified")
    assert entry.reasons == ("a test?[31m",) and given.reason == "a test?[31m"
    assert given.until.date() == SOON + timedelta(days=1) and registry.verify("toy").ok


def test_a_new_anchor_is_the_version_of_the_expected_window(registry, watch, alarmed):
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    later = watch(3).window
    assert later.anchor == "1.0.0"
    review(registry, later, "expected", reason="a new network", new_anchor=True)
    assert anchor_version(registry.history("toy")) == "1.1.0"
    assert watch(4).window.anchor is None  # the version is its own anchor now


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        ("ignore", {}, "until a date"),
        ("ignore", {"until": date(2020, 1, 1)}, "has passed"),
        ("ignore", {"until": date.today() + timedelta(days=500)}, "more than a year"),
        ("incident", {"until": SOON}, "silences nothing"),
        ("ignore", {"until": SOON, "new_anchor": True}, "only an expected window"),
        ("expected", {"reason": "  "}, "needs a reason"),
        ("fine", {}, "is no review"),
    ],
)
def test_a_review_that_makes_no_sense_is_refused_and_not_recorded(registry, watch, kind, how, said):
    row = watch(0).window
    with pytest.raises(InputError, match=said):
        review(registry, row, kind, **{"reason": "because", **how})
    assert reviews_of(registry, "toy") == {} and windows(registry, "toy")[0].id == row.id
