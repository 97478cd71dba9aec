"""What a split promises, asked of random sets; and what it says about what it left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from robustidps.errors import DatasetError, SchemaError
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.splits import (
    Split,
    group_split,
    identical_rows,
    official_split,
    shuffled_split,
    temporal_split,
)
from robustidps.traffic.trafficset import TrafficSet

SCHEMA = TrafficSchema(name="small", features=(Feature(name="a"), Feature(name="b")), classes=("ok", "bad", "worse"))
DAY = 86_400.0


@st.composite
def traffic_sets(draw: st.DrawFn) -> TrafficSet:
    """Few feature values, campaigns of any shape in time, some rows without a label or a campaign."""
    n = draw(st.integers(20, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    span = draw(st.sampled_from([50.0, 12 * DAY]))
    names = np.array(["", "c1", "c2", "c3", "c4", "c5", "c6"], object)
    return TrafficSet.build(
        SCHEMA,
        rng.integers(0, draw(st.sampled_from([5, 1000])), (n, 2)),
        rng.integers(-1 if draw(st.booleans()) else 0, 3, n),
        time=1.7e9 + rng.random(n) * span,
        campaign=np.where(rng.random(n) < draw(st.sampled_from([0.2, 0.8])), "", names[rng.integers(0, 7, n)]),
        tool=names[rng.integers(0, 4, n)],
        # A row's number, to tell where it went.
        source=np.array([str(i) for i in range(n)], object),
    )


def parts(split: Split) -> list[TrafficSet]:
    return [split.train, split.validation, split.test]


def made(make, *args, **options) -> Split:
    try:
        return make(*args, **options)
    except DatasetError as error:
        assume("is empty" not in str(error))
        raise


def assert_no_leak(split: Split, traffic: TrafficSet, *, campaigns: bool = True) -> None:
    rows = [set(p.source) for p in parts(split)]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])
    seen: set[bytes] = set()
    names: set[str] = set()
    for part in parts(split):
        assert part.labelled.all()
        mine = {row.tobytes() for row in part.features}
        assert not (mine & seen)
        seen |= mine
        if campaigns:
            own = set(part.campaign) - {""}
            assert not (own & names)
            names |= own
    dropped = sum(n for counts in split.report.dropped.values() for n in counts.values())
    doubles = sum(n for counts in split.report.duplicates.values() for n in counts.values())
    assert sum(len(p) for p in parts(split)) + dropped + doubles == len(traffic)
    json.dumps(split.report.to_dict())
    assert split.report.kind in str(split.report)


thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@thorough
@given(traffic_sets(), st.sampled_from([0.0, 1.0, 2.0]))
def test_a_temporal_split_leaks_nothing(traffic, gap):
    split = made(temporal_split, traffic, gap_s=gap)
    assert_no_leak(split, traffic)
    for earlier, later in zip(parts(split), parts(split)[1:], strict=False):
        assert earlier.time.max() < later.time.min()
        assert later.time.min() - earlier.time.max() >= gap


@thorough
@given(traffic_sets(), st.sampled_from(["campaign", "tool"]), st.integers(0, 5))
def test_a_group_split_leaks_nothing_and_repeats_by_seed(traffic, by, seed):
    split = made(group_split, traffic, by=by, seed=seed)
    assert_no_leak(split, traffic)
    again = group_split(traffic, by=by, seed=seed)
    assert [p.digest for p in parts(again)] == [p.digest for p in parts(split)]
    if by == "tool":
        named = [set(getattr(p, by)) - {""} for p in parts(split)]
        assert not (named[0] & named[1] or named[0] & named[2] or named[1] & named[2])


@thorough
@given(traffic_sets(), st.integers(0, 5))
def test_a_shuffled_split_leaks_no_row(traffic, seed):
    split = made(shuffled_split, traffic, seed=seed)
    assert_no_leak(split, traffic, campaigns=False)
    assert "flatter" in str(split.report)


@thorough
@given(traffic_sets(), traffic_sets(), st.integers(0, 5))
def test_an_official_split_keeps_the_test_and_leaks_nothing_into_validation(train, test, seed):
    split = made(official_split, train, test, validation=0.3, seed=seed)
    kept = test.select(test.labelled)
    assert split.test.digest == kept.digest
    mine = {row.tobytes() for row in split.train.features}
    assert not mine & {row.tobytes() for row in split.validation.features}
    assert len(split.train) + len(split.validation) == int(train.labelled.sum())
    known = mine | {row.tobytes() for row in split.validation.features}
    doubles = sum(row.tobytes() in known for row in kept.features)
    assert sum(split.report.duplicates["test"].values()) == doubles
    assert not split.report.duplicates_removed


def evenly(n: int = 200, **options: object) -> TrafficSet:
    """One row an hour, all different, classes in turn."""
    values: dict = {"time": 1.7e9 // DAY * DAY + np.arange(n) * 3600.0} | options
    return TrafficSet.build(SCHEMA, np.arange(2 * n).reshape(n, 2), np.arange(n) % 3, **values)


def test_boundaries_fall_on_midnight_when_the_set_spans_days():
    split = temporal_split(evenly())
    assert all(b.endswith("T00:00:00Z") for b in split.report.parameters["boundaries"])
    assert split.validation.time.min() % DAY == 0
    assert any(
        not b.endswith("T00:00:00Z") for b in temporal_split(evenly(), whole_days=False).report.parameters["boundaries"]
    )


def test_a_campaign_that_straddles_a_boundary_loses_its_later_rows():
    campaign = np.full(200, "", object)
    campaign[110:130] = "long"
    traffic = evenly(campaign=campaign)
    split = temporal_split(traffic, train=0.6, validation=0.2, whole_days=False)
    assert set(split.train.campaign) == {"", "long"}
    assert set(split.validation.campaign) == {""}
    dropped = split.report.dropped["of a campaign that began in an earlier part"]
    assert sum(dropped.values()) == 10
    assert "began in an earlier part: 10" in str(split.report)


def test_the_gap_after_a_boundary_is_left_out():
    split = temporal_split(evenly(), gap_s=7200, whole_days=False)
    assert sum(split.report.dropped["in the gap after a boundary"].values()) in (2, 3, 4)


def test_boundaries_may_be_given():
    traffic = evenly()
    split = temporal_split(traffic, at=(float(traffic.time[50]), float(traffic.time[100])))
    assert [len(p) for p in parts(split)] == [50, 50, 100]


def test_duplicates_may_be_counted_instead_of_removed():
    features = np.arange(400).reshape(200, 2)
    features[190:] = features[:10]
    traffic = TrafficSet.build(SCHEMA, features, np.arange(200) % 3, time=np.arange(200.0))
    removed, counted = temporal_split(traffic), temporal_split(traffic, duplicates="count")
    assert (len(removed.test), len(counted.test)) == (30, 40)
    assert removed.report.duplicates["test"] == counted.report.duplicates["test"] == {"ok": 3, "bad": 4, "worse": 3}
    assert "removed from test: 10" in str(removed.report)
    assert "left in test: 10" in str(counted.report)


def test_rows_without_a_time_are_not_split_by_it():
    with pytest.raises(DatasetError, match="official split"):
        temporal_split(evenly(time=np.full(200, np.nan)))


def test_a_held_out_tool_is_in_the_test_alone():
    tool = np.array(["nmap", "masscan", "zmap", "unicorn"] * 50, object)
    split = group_split(evenly(tool=tool), by="tool", hold_out=HoldOut(tools=["zmap"]))
    assert "zmap" in set(split.test.tool)
    assert "zmap" not in {*split.train.tool, *split.validation.tool}
    with pytest.raises(DatasetError, match="hold out"):
        group_split(evenly(tool=tool), by="tool", hold_out=HoldOut(tools=["zmaq"]))


def test_a_group_split_needs_groups():
    with pytest.raises(DatasetError, match="no row has a campaign"):
        group_split(evenly())


def test_each_class_with_three_campaigns_reaches_every_part():
    labels = np.repeat([0, 1, 2], [900, 90, 9])
    campaign = np.concatenate([[f"{c}-{i % 3}" for i in range(n)] for c, n in ((0, 900), (1, 90), (2, 9))]).astype(
        object
    )
    traffic = TrafficSet.build(SCHEMA, np.arange(1998).reshape(999, 2), labels, campaign=campaign)
    for seed in range(5):
        split = group_split(traffic, seed=seed)
        assert all(min(p.class_counts().values()) > 0 for p in parts(split))


def test_a_class_that_a_part_lacks_is_noted():
    traffic = TrafficSet.build(
        SCHEMA, np.arange(200).reshape(100, 2), [0] * 50 + [1] * 30 + [2] * 20, time=np.arange(100.0)
    )
    assert "worse in test but not in train" in str(temporal_split(traffic).report)


@pytest.mark.parametrize("shares", [(0.0, 0.2), (0.8, 0.2), (0.9, 0.5), (0.5, -0.1)])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(DatasetError, match="leave nothing for test"):
        temporal_split(evenly(), train=shares[0], validation=shares[1])


def test_an_empty_part_is_an_error_and_not_a_surprise_later():
    traffic = TrafficSet.build(SCHEMA, np.zeros((30, 2)), np.arange(30) % 3, time=np.arange(30.0))
    with pytest.raises(DatasetError, match="part of a temporal split is empty"):
        temporal_split(traffic)


def test_two_schemas_make_no_official_split():
    other = TrafficSchema(name="other", features=(Feature(name="a"), Feature(name="c")), classes=SCHEMA.classes)
    with pytest.raises(SchemaError):
        official_split(evenly(), TrafficSet.build(other, np.zeros((2, 2)), [0, 1]))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, -0.0, 1.0, 2.5, float("nan")])] * 2), min_size=1, max_size=30))
def test_rows_are_identical_exactly_when_all_features_are(rows):
    code = identical_rows(np.array(rows, np.float32))
    key = [tuple("nan" if v != v else v + 0.0 for v in row) for row in rows]
    for i in range(len(rows)):
        for j in range(len(rows)):
            assert (code[i] == code[j]) == (key[i] == key[j])


def test_rows_whose_sums_meet_are_still_told_apart(monkeypatch):
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: type("R", (), {"integers": lambda *a, **k: np.zeros(2, np.uint64)})()
    )
    code = identical_rows(np.array([[1, 2], [2, 1], [1, 2]], np.float32))
    assert code[0] == code[2] != code[1]
