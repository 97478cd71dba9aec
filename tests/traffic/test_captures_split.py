"""Captures stay whole where a class has several; the only one of a class is cut with a gap, and that is said."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.traffic.captures_split import PIECES, capture_split
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

SCHEMA = TrafficSchema(name="toy", features=(Feature(name="a"), Feature(name="b")), classes=("Benign", "Flood", "Scan"))


def traffic(captures: dict[str, tuple[int, int]]) -> TrafficSet:
    """Rows of captures by name: class, number of rows. `a` is the row's place in its capture."""
    parts = []
    for number, (name, (label, n)) in enumerate(captures.items()):
        x = np.stack([np.arange(n), np.full(n, number)], axis=1)
        parts.append(TrafficSet.build(SCHEMA, x, np.full(n, label), campaign=name, source=name))
    return TrafficSet.concat(parts)


CAPTURES = {f"benign{i}": (0, 300) for i in range(5)} | {f"flood{i}": (1, 200) for i in range(4)} | {"scan": (2, 1000)}


def test_captures_of_a_class_that_has_several_are_whole_on_one_side():
    split = capture_split(traffic(CAPTURES), gap_rows=20)
    sides = [set(part.source[part.labels < 2].tolist()) for part in (split.train, split.validation, split.test)]
    assert all(sides)
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_the_only_capture_of_a_class_is_cut_in_its_order_with_a_gap_at_each_cut():
    split = capture_split(traffic(CAPTURES), gap_rows=20)
    places = {}
    for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        for place in part.features[part.labels == 2][:, 0]:
            places[int(place)] = name
    assert set(places.values()) == {"train", "validation", "test"}
    changes = [at for at in range(1, 1000) if places.get(at) and places.get(at - 1) and places[at] != places[at - 1]]
    assert changes == []  # no two neighbours are on different sides
    assert len(places) == 1000 - 20 * (PIECES - 1)
    assert split.report.dropped["in the gap where a capture was cut"] == {"Scan": 80}
    assert split.report.kind == "captures"
    assert "Scan: too few captures" in split.report.notes[0]
    assert "80 (Scan 80)" in str(split.report)


def test_without_a_named_capture_identical_rows_stay_together_and_the_report_says_what_that_is_worth():
    rows = traffic({"": (0, 300)} | {"flood": (1, 0)})
    x = np.concatenate([rows.features] * 3)
    labels = np.tile(np.arange(300) % 3, 3)
    split = capture_split(TrafficSet.build(SCHEMA, x, labels))
    sides = [set(map(tuple, part.features.tolist())) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == 300 == len(set.union(*sides))
    assert split.report.kind == "rows"
    assert "no capture is named" in split.report.notes[0] and "flatter" in split.report.notes[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_parts(seed):
    one, other = (capture_split(traffic(CAPTURES), gap_rows=5, seed=seed) for _ in range(2))
    assert (one.train.digest, one.test.digest) == (other.train.digest, other.test.digest)
