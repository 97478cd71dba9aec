"""What is held out by name is in the test part and nowhere else, whichever way the rest is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robustidps.errors import ConfigError, DatasetError
from robustidps.settings import parse_yaml
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import DatasetConfig, dataset_config, split_dataset
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.simulator.catalogue import APPLICATIONS, TOOLS
from robustidps.traffic.splits import group_split, official_split, shuffled_split, temporal_split
from robustidps.traffic.trafficset import TrafficSet
from tests.traffic.test_splits import assert_no_leak, made, parts, thorough, traffic_sets

SCHEMA = TrafficSchema(name="small", features=(Feature(name="a"), Feature(name="b")), classes=("ok", "bad"))
START = 1_767_571_200.0  # 2026-01-05 UTC
NAMES = ("nmap", "zmap", "web", "mail")


def flows(n: int = 240, **options: object) -> TrafficSet:
    """One row an hour over ten days; two attack tools and two benign services in turn; all rows different."""
    values: dict = {"time": START + np.arange(n) * 3600.0, "tool": np.array(NAMES, object)[np.arange(n) % 4]} | options
    features = values.pop("features", np.arange(2 * n).reshape(n, 2))
    return TrafficSet.build(SCHEMA, features, np.where(np.arange(n) % 4 < 2, 1, 0), **values)


def named(part: TrafficSet) -> set[str]:
    return set(part.tool.astype(str))


ALL = HoldOut.parse(["tool=zmap", "service=mail", "day=2026-01-07"])


@pytest.mark.parametrize("split", [temporal_split, group_split, shuffled_split])
def test_held_out_names_are_in_the_test_part_alone_and_whole(split):
    traffic = flows(campaign=np.array([f"c{i}" for i in range(240)], object))
    cut = split(traffic, hold_out=ALL)
    for part in (cut.train, cut.validation):
        assert not named(part) & {"zmap", "mail"}
        assert not (np.floor(part.time / 86_400) == np.floor((START + 2 * 86_400) / 86_400)).any()
    assert sum(cut.test.tool == "zmap") == sum(traffic.tool == "zmap")
    assert cut.report.held_out == {
        "day=2026-01-07": {"test": 24, "duplicates": 0},
        "service=mail": {"test": 60, "duplicates": 0},
        "tool=zmap": {"test": 60, "duplicates": 0},
    }
    assert "held out, tool=zmap: 60 rows in test" in str(cut.report)


@thorough
@given(traffic_sets(), st.sampled_from([temporal_split, group_split, shuffled_split]), st.data())
def test_holding_out_breaks_no_promise_of_a_split(traffic, split, data):
    assume(split is not group_split or (traffic.campaign != "").any())
    tools = sorted(set(traffic.tool[traffic.labels > 0]) - {""})
    services = sorted(set(traffic.tool[traffic.labels == 0]) - {""})
    held = HoldOut(
        tools=data.draw(st.lists(st.sampled_from(tools), max_size=2)) if tools else (),
        services=data.draw(st.lists(st.sampled_from(services), max_size=2)) if services else (),
    )
    cut = made(split, traffic, hold_out=held)
    assert_no_leak(cut, traffic, campaigns=split is not shuffled_split)
    for part in parts(cut)[:2]:
        assert not set(part.tool[part.labels > 0]) & set(held.tools)
        assert not set(part.tool[part.labels == 0]) & set(held.services)


def test_the_official_split_says_that_its_test_is_no_longer_the_official_one():
    train, test = flows(), flows(80, features=np.arange(160).reshape(80, 2) + 0.5)
    cut = official_split(train, test, hold_out=HoldOut(tools=["zmap"]))
    assert "zmap" not in named(cut.train) | named(cut.validation)
    assert len(cut.test) == 80 + 60
    assert "not the official one alone" in str(cut.report)
    assert "official one alone" not in str(official_split(train, test).report)


def test_the_rest_of_a_campaign_that_is_held_out_in_part_is_left_out():
    campaign = np.full(240, "", object)
    campaign[:8] = "mixed"  # two rows of zmap, six of others
    cut = temporal_split(flows(campaign=campaign), hold_out=HoldOut(tools=["zmap"]))
    assert "mixed" not in set(cut.train.campaign)
    assert (cut.test.campaign == "mixed").sum() == 2
    assert sum(cut.report.dropped["of a campaign that was held out in part"].values()) == 6


def test_shares_of_time_are_of_the_days_that_are_left():
    last = HoldOut.parse([f"day=2026-01-{d}" for d in (12, 13, 14)])  # three of ten: seven are left
    cut = temporal_split(flows(), train=5 / 7, validation=1 / 7, hold_out=last)
    assert [b[:10] for b in cut.report.parameters["boundaries"]] == ["2026-01-10", "2026-01-11"]
    assert cut.report.parts["test"]["last"].startswith("2026-01-14")


def test_rows_like_a_training_row_are_counted_by_the_name_they_were_held_out_under():
    features = np.arange(480).reshape(240, 2)
    features[1:9:4] = features[0]  # two rows of zmap are rows of nmap, feature by feature
    cut = temporal_split(flows(features=features), hold_out=HoldOut(tools=["zmap"]))
    assert cut.report.held_out == {"tool=zmap": {"test": 58, "duplicates": 2}}


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("tool=web", "known: nmap, zmap"),  # a service is no tool
        ("service=zmap", "known: mail, web"),
        ("day=2026-02-01", "known: 2026-01-05, 2026-01-06"),
    ],
)
def test_a_name_that_the_traffic_lacks_is_an_error_that_lists_those_it_has(word, known):
    with pytest.raises(DatasetError, match="to hold out") as error:
        temporal_split(flows(), hold_out=HoldOut.parse([word]))
    assert known in (error.value.remedy or "")


def test_a_day_needs_times():
    with pytest.raises(DatasetError, match="no day can be held out"):
        shuffled_split(flows(time=np.full(240, np.nan)), hold_out=HoldOut.parse(["day=2026-01-05"]))


def test_nothing_left_to_train_on_is_said():
    with pytest.raises(DatasetError, match="nothing is left to train on"):
        temporal_split(flows(), hold_out=HoldOut(tools=["nmap", "zmap"], services=["web", "mail"]))


@pytest.mark.parametrize(
    "word",
    ["nmap", "tool", "tool=", "tools=nmap", "=nmap", "day=tomorrow", "day=2026-13-01", "tool=" + "x" * 300, "\x1b[2J"],
)
def test_a_word_of_another_form_is_refused(word):
    with pytest.raises(ConfigError) as error:
        HoldOut.parse([word])
    assert "\x1b" not in str(error.value)


@given(st.lists(st.sampled_from(["tool=a=b", "tool=ü", "service=x y", "day=2024-02-29", "tool=z"])))
def test_words_are_read_as_they_are_written(words):
    held = HoldOut.parse(words)
    assert sorted(held.words()) == sorted(set(words))
    assert HoldOut.parse(held.words()).words() == held.words()
    assert bool(held) == bool(words)


def test_the_option_adds_to_what_the_configuration_holds_out():
    content = parse_yaml("{source: file, hold_out: {tools: [zmap], days: [2026-01-14]}}", "test")
    config = DatasetConfig.model_validate(content)
    cut = split_dataset({"all": flows()}, config, hold_out=HoldOut.parse(["service=mail", "tool=zmap"]))
    assert set(cut.report.held_out) == {"day=2026-01-14", "service=mail", "tool=zmap"}


def test_the_shipped_data_set_holds_out_a_tool_of_each_class_and_three_services(home):
    held = dataset_config("simulated-held-out").hold_out
    assert all(len(set(tools) & set(held.tools)) == 1 for tools in TOOLS.values())
    assert len(held.tools) == len(TOOLS)
    assert len(set(held.services) & set(APPLICATIONS)) == len(held.services) == 3
    assert len(held.days) == 3
