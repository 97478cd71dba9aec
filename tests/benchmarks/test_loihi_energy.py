"""The study of energy: its front, its choice, its differences, and a small run of all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import loihi_energy as study
from benchmarks.loihi_energy import DEFAULT, Candidate, Config, Run
from robustidps.evaluation.report import Interval
from robustidps.preprocessing import Preprocessing
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.trafficset import TrafficSet

SMALL, MIDDLE = Config((8, 8), 5), Config((32, 32), 5)


def test_the_front_holds_what_nothing_beats_by_rising_energy():
    points = [(10.0, 0.96), (2.0, 0.95), (1.0, 0.93), (1.5, 0.93), (2.0, 0.94), (12.0, 0.95), (2.0, 0.95)]
    assert study.front(points) == [2, 1, 0]
    assert study.front([(1.0, 0.9), (2.0, 0.9)]) == [0]
    assert study.front([]) == []


@pytest.mark.parametrize(
    ("low", "high", "held"),
    [
        (-0.005, 0.003, True),
        (0.001, 0.004, True),
        (-0.005, 0.0, True),
        (-0.005, -0.001, False),  # clearly lower
        (-0.030, 0.020, False),  # too few rows to say
        (None, None, False),
    ],
)
def test_accuracy_holds_where_the_interval_reaches_zero_and_rules_a_loss_out(low, high, held):
    assert study.holds(Interval(value=0.0, low=low, high=high)) is held


def test_the_cheapest_that_holds_is_chosen_and_else_the_default():
    def candidate(config: Config, energy: float, low: float, high: float) -> Candidate:
        return Candidate(config, energy, Interval(value=(low + high) / 2, low=low, high=high))

    default = candidate(DEFAULT, 16.0, 0.0, 0.0)
    lower, equal = candidate(SMALL, 0.5, -0.02, -0.01), candidate(MIDDLE, 2.0, -0.004, 0.002)
    dear = candidate(Config((64, 64), 5), 3.0, 0.001, 0.005)
    assert study.choose([default, dear, equal, lower], DEFAULT) == MIDDLE
    assert study.choose([default, lower], DEFAULT) == DEFAULT


def said(traffic: TrafficSet, wrong: float, seed: int) -> Run:
    """What a model says that is wrong on a share of the rows."""
    rng = np.random.default_rng(seed)
    fixed = np.where(rng.random(len(traffic)) < wrong, (traffic.labels + 1) % 3, traffic.labels).astype(np.int64)
    return Run(fixed, fixed, 1.0, 0.5, 0.0, {})


def test_a_difference_is_that_of_the_mean_accuracies_and_its_interval_is_paired():
    traffic = toy_traffic(900)
    mine, other = ([said(traffic, wrong, s) for s in range(3)] for wrong in (0.1, 0.3))
    found = study.difference(traffic, mine, other)
    means = [np.mean([r.accuracy(traffic.labels) for r in runs]) for runs in (mine, other)]
    assert found.value == pytest.approx(means[0] - means[1])
    assert 0 < found.low < found.value < found.high
    same = study.difference(traffic, mine, list(reversed(mine)))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_the_study_counts_energy_asks_the_test_part_about_two_models_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    pytest.importorskip("torch")
    pytest.importorskip("snntorch")
    toy = toy_traffic(600)
    days = replace(toy, time=toy.time[0] + 4 * (toy.time - toy.time[0]))
    day = np.floor((days.time - days.time[0]) / 86_400)
    split = SimpleNamespace(train=days.select(day <= 1), validation=days.select(day == 2), test=days.select(day == 3))
    default = Config((32, 32), 12)
    monkeypatch.setattr(study, "split_of", lambda *given: split)
    monkeypatch.setattr(study, "DEFAULT", default)
    monkeypatch.setattr(study, "GRID", (default, Config((8, 8), 6), Config((8, 8), 6, "latency")))
    monkeypatch.setattr(study, "MARGIN", 1.0)
    words = ["--seeds", "2", "--epochs", "2", "--keep", str(tmp_path)]
    assert study.main(words) == 0
    text = capsys.readouterr().out
    asked = {file.name.rpartition("_")[0].rpartition("_")[0] for file in tmp_path.glob("test_*.npz")}
    assert len(asked) <= 2 and any("32-32" in name for name in asked)
    first = study.run(default, 0, study.Study(split, tmp_path, 1, 2).parts["validation"], 2)
    inputs = Preprocessing.fit(days.schema, days.features).transform(days.features[:1]).shape[1]
    assert first.first == pytest.approx(inputs * 12 * 32 * 23.6e-6)
    assert f"{first.energy:.2f}" in text and "cores of Loihi 1 | doesn't fit" in " ".join(text.split())
    monkeypatch.delattr(study, "run")
    assert study.main(words) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("some", [["--seeds", "1"], ["--epochs", "2"]])
def test_the_page_takes_the_whole_study_alone(some: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        study.main([*some, "--write"])
    assert "the page's own figures" in capsys.readouterr().err
