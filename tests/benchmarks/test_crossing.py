"""The tables of `held_out` and `crossing`, on traffic made here."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import crossing
from benchmarks.held_out import folds
from robustidps.traffic.common import Common
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.simulator.catalogue import APPLICATIONS, TOOLS
from robustidps.traffic.splits import group_split
from robustidps.traffic.trafficset import TrafficSet


def test_the_folds_leave_each_tool_and_each_service_out_once():
    names = [*APPLICATIONS, *(tool for tools in TOOLS.values() for tool in tools)]
    labels = [0] * len(APPLICATIONS) + [c for c, tools in enumerate(TOOLS.values(), 1) for _ in tools]
    traffic = TrafficSet.build(FLOW64, np.zeros((len(names), 64)), labels, tool=np.array(names, object))
    left_out = [name for held in folds(traffic) for name in (*held.tools, *held.services)]
    assert sorted(left_out) == sorted(names)
    for held in folds(traffic):
        assert all(len(set(tools) & set(held.tools)) <= 1 for tools in TOOLS.values())
        assert all(set(tools) - set(held.tools) for tools in TOOLS.values())


def made(schema: TrafficSchema, n: int = 800, seed: int = 0) -> TrafficSet:
    """Flows of forty campaigns whose attacks have larger features."""
    rng = np.random.default_rng(seed)
    campaign = rng.integers(0, 40, n)
    labels = campaign % 2
    x = rng.lognormal(3, 1, (n, schema.input_dim)) * (1 + 5 * labels[:, None])
    for i, feature in enumerate(schema.features):
        if feature.kind == "categorical":
            x[:, i] = 1
        elif "bytes" in feature.name:
            x[:, i] *= 1000
    return TrafficSet.build(schema, x, labels, campaign=np.array([f"c{c}" for c in campaign], object))


def test_the_area_and_its_interval_are_of_the_rows_and_their_campaigns():
    traffic = made(FLOW64)
    scores = np.random.default_rng(1).normal(traffic.labels, 2).round(1)
    found = crossing.area(scores, traffic)
    assert found.value == pytest.approx(roc_auc_score(traffic.labels, scores))
    assert found.low < found.value < found.high
    two = traffic.select(np.isin(traffic.campaign.astype(str), ["c0", "c1"]))
    assert crossing.area(np.arange(len(two), dtype=float), two).low is None


def test_each_pair_is_asked_or_says_why_not(monkeypatch):
    monkeypatch.setattr(crossing, "KINDS", {"LightGBM": crossing.boosted_tree})

    def source(name: str, schema: TrafficSchema, seed: int) -> crossing.Source:
        return crossing.Source(name, {"all": made(schema, seed=seed)}, lambda p: group_split(p["all"]))

    nsl = TrafficSchema(
        name="nsl",
        features=(
            Feature(name="duration"),
            Feature(name="protocol_type", kind="categorical", transform="onehot", vocabulary=("tcp",)),
            Feature(name="src_bytes"),
            Feature(name="dst_bytes"),
        ),
        classes=("Normal", "DoS"),
    )
    windows = TrafficSchema(
        name="iot",
        features=tuple(Feature(name=n) for n in ("Protocol Type", "Min", "Max", "AVG", "Std", "IAT")),
        classes=("Benign", "DDoS"),
    )
    found = [source("ours", FLOW64, 0), source("kdd", nsl, 1), source("iot", windows, 2)]
    results = crossing.cross(found)
    assert "share 1 common" in results["kdd", "iot"]
    pair = results["ours", "kdd"]
    assert pair.common == Common.between(FLOW64, nsl) and pair.own > 0.8
    assert results["ours", "ours"].own is None and results["ours", "ours"].cells["LightGBM"].auc.value > 0.9
    text = crossing.report(found, {"unsw-nb15": "add it"}, results)
    assert "iot and kdd: share 1 common features (protocol)" in text and "Absent: unsw-nb15 (add it)." in text
    assert crossing.picture([s.name for s in found], results).axes


def test_a_public_set_without_files_is_listed_with_how_to_add_it(home, tmp_path, monkeypatch):
    monkeypatch.setattr(crossing, "_beside", lambda name: None)
    monkeypatch.setattr(crossing, "load_dataset", lambda name, **_: (_ for _ in ()).throw(OSError(name)))
    found, absent = crossing.sources({"nsl-kdd": tmp_path}, tmp_path / "none", tmp_path)
    assert not found and {"simulated", "real captures", "nsl-kdd"} <= set(absent)
