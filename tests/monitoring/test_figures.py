"""A window's figures against the plain way to compute them, all rows at once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robustidps.calibration import softmax
from robustidps.decisions import decide
from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation.reference import drift_against_profile, profile, read_profile
from robustidps.monitoring import window as window_module
from robustidps.monitoring.figures import NEVER, allowance, compared, drawn_rows, measure
from robustidps.monitoring.window import Window
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import TrafficSet


class Model:
    """Probabilities that depend on the row."""

    schema = TOY
    metadata = SimpleNamespace(thresholds=dict.fromkeys(TOY.classes[1:], 0.6))

    def probabilities(self, x):
        if np.isinf(x).any():
            raise SchemaError("is infinite", where="row 0, column 'bytes'")
        known = np.nan_to_num(x)
        steps = np.stack([known[:, 4], np.log1p(known[:, 1]) / 5, 3 * known[:, 5], known[:, 6] - 4], axis=1)
        return softmax(steps).astype(np.float32)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 300 rows, so that a window has many."""
    whole = Window.chunks
    monkeypatch.setattr(Window, "chunks", lambda self, size=300: whole(self, size))
    assert window_module.CHUNK > 300


def test_counted_chunk_by_chunk_against_two_profiles_it_is_what_all_rows_at_once_give(tmp_path, small_chunks):
    model, early, late = Model(), toy_traffic(3_000, 1), toy_traffic(3_000, 2, missing=0.1)
    now = toy_traffic(2_500, 3, missing=0.05)
    files = tuple(
        now.select(part).write(tmp_path / f"{i}.parquet") for i, part in enumerate((slice(900), slice(900, None)))
    )
    profiles = [profile(t, model.probabilities(t.features)) for t in (late, early)]
    found = measure(Window(files, TOY), model, *map(read_profile, profiles), sample=400)
    figures, p = found.figures, model.probabilities(now.features)
    for content, values in (
        (profiles[0], {c.name: c.psi for c in figures.columns}),
        (profiles[1], {c.name: c.anchor_psi for c in figures.columns}),
    ):
        assert values == pytest.approx(drift_against_profile(content, now.features)["psi"])
    plain = drift_against_profile(profiles[0], now.features, p)
    assert figures.confidence_psi == pytest.approx(plain["confidence_psi"])
    counts = np.bincount(p.argmax(1), minlength=4)
    assert list(figures.predictions.values()) == counts.tolist()
    alerts = decide(p, model.metadata.thresholds, TOY)
    assert sum(figures.alerts.values()) == (alerts > 0).sum() and figures.uncertain == (alerts < 0).sum()
    assert figures.rows == 2_500 and figures.first == now.time.min() and figures.last == now.time.max()
    right = p.argmax(1) == now.labels
    assert figures.labelled.accuracy.value == pytest.approx(right.mean())
    assert figures.labelled.accuracy.low < right.mean() < figures.labelled.accuracy.high
    assert figures.labelled.blocks == "campaign"
    assert figures.labelled.recall["Flood"].value == pytest.approx(right[now.labels == 1].mean())
    assert "Never-Seen" not in figures.labelled.recall
    # the sample: as many as were asked for, all different, all of the window, each with what the model said
    rows = {row.tobytes() for row in now.features}
    assert len(found.sample) == 400 == len({row.tobytes() for row in found.sample.features})
    assert all(row.tobytes() in rows for row in found.sample.features)
    np.testing.assert_array_equal(found.probabilities, model.probabilities(found.sample.features))


def test_a_sample_has_rows_from_everywhere(tmp_path, small_chunks):
    now = toy_traffic(6_000, 3, missing=0)
    x = now.features.copy()
    x[:, 3] = np.arange(6_000)
    file = TrafficSet.build(TOY, x, time=now.time).write(tmp_path / "a.parquet")
    drawn = measure(Window((file,), TOY), Model(), read_profile(profile(now)), sample=600).sample.features[:, 3]
    per_tenth = np.histogram(drawn, bins=10, range=(0, 6_000))[0]
    assert per_tenth.min() > 30 and per_tenth.max() < 95  # 60 expected, standard deviation 7


@pytest.mark.parametrize("rows", [150, 1_500])
def test_chance_alone_moves_no_column(tmp_path, rows):
    reference = read_profile(profile(toy_traffic(4_000, 0)))
    for seed in range(1, 9):
        file = toy_traffic(rows, seed).write(tmp_path / f"{seed}.parquet")
        assert measure(Window((file,), TOY), Model(), reference, threshold=0.02).figures.reference.moved == []


def test_the_allowance_grows_with_bins_and_falls_with_rows():
    few, many = np.full(5, 20), np.full(20, 5)
    assert allowance(few, few) < allowance(many, many)
    assert allowance(few * 100, few * 100) == pytest.approx(allowance(few, few) / 100)
    assert allowance(few, np.zeros(5, int)) == NEVER


def test_two_windows_are_compared_in_the_same_bins(tmp_path):
    reference = read_profile(profile(toy_traffic(4_000, 0)))
    now, later = (
        measure(
            Window((toy_traffic(2_000, seed).write(tmp_path / f"{seed}.parquet"),), TOY), Model(), reference
        ).figures
        for seed in (1, 2)
    )
    assert compared(now, later, 0.1).moved == []
    odd = later.model_copy(update={"counts": later.counts | {"skew": [1, 2]}})
    with pytest.raises(SchemaError):
        compared(now, odd, 0.1)


def test_an_infinite_value_is_refused_with_its_place(tmp_path):
    traffic = toy_traffic(700)
    x = traffic.features.copy()
    x[500, 1] = np.inf
    file = TrafficSet.build(TOY, x, time=traffic.time).write(tmp_path / "i.parquet")
    with pytest.raises(SchemaError, match=r"i.parquet"):
        measure(Window((file,), TOY), Model(), read_profile(profile(traffic)))


def test_a_window_without_a_flow_is_refused(tmp_path):
    file = toy_traffic(700).select(slice(0)).write(tmp_path / "e.parquet")
    with pytest.raises(DatasetError, match="no flow"):
        measure(Window((file,), TOY), Model(), read_profile(profile(toy_traffic(700))))


def test_rows_drawn_from_a_profile_have_its_shares_and_coarse_ones_theirs():
    traffic = toy_traffic(4_000, 0)
    content = profile(traffic)
    made, coarse = drawn_rows(read_profile(content), 4_000, 0, like=traffic.features)
    assert max(drift_against_profile(content, made)["psi"].values()) < 0.03
    assert max(drift_against_profile(content, coarse)["psi"].values()) < 1e-9  # each value stayed in its bin
