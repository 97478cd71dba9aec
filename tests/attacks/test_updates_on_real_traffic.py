"""Updates that are whole, signed and true to their golden rows, and bad on this site's own traffic."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.settings import use_settings
from robustidps.testing.judged import later, taught
from robustidps.testing.registry import APPROVE, memory_registry
from robustidps.testing.traffic import toy_traffic
from robustidps.updates import evidence


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A registry with a good 1.0.0 in production and a benchmark of 2400 labelled flows pinned."""
    folder = tmp_path_factory.mktemp("site")
    registry = memory_registry(folder / "home")
    with use_settings(registry.settings):
        registry.register_model("toy", "1.0.0", taught(folder / "1.0.0", "1.0.0").path)
        registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
        evidence.pin(registry, "toy", later(toy_traffic(2400, seed=77), 9).write(folder / "bench.parquet"))
        yield registry


def reasons(site, bundle) -> list[str]:
    """Why the shipped rules refuse an update before Production; nothing of it is registered."""
    features, probabilities = bundle.golden
    assert np.abs(bundle.probabilities(features) - probabilities).max() < 1e-4  # it is what it says it is
    verdict = evidence.measure(site, bundle).verdict("Production")
    assert verdict.outcome == "reject" and verdict.rule_set == "auto_update"
    assert site.assignment("toy").production == "1.0.0" and len(site.versions("toy")) == 1
    return verdict.reasons


@pytest.mark.attack("passes golden rows, fails on real traffic", "reject, by the rules")
def test_a_model_that_passes_its_golden_rows_and_fails_on_real_traffic_is_refused(site, tmp_path):
    def swapped(labels):
        return np.choose(labels, [1, 0, 2]).astype(np.int16)  # benign and flood change places

    said = reasons(site, taught(tmp_path / "1.1.0", "1.1.0", swapped))
    [gain] = [r for r in said if r.startswith("gain accuracy")]
    assert "against champion 1.0.0's" in gain and "is below 0.02" in gain
    [ceiling] = [r for r in said if r.startswith("false_positive_ceiling")]
    assert "is above 0.015" in ceiling


@pytest.mark.attack("trained to be blind to one class", "reject, by the rules")
def test_a_model_that_is_blind_to_one_class_is_refused_by_the_floor_of_that_class(site, tmp_path):
    def blind(labels):
        return np.where(labels == 2, 0, labels).astype(np.int16)  # scans are taught to be benign

    said = reasons(site, taught(tmp_path / "1.1.0", "1.1.0", blind))
    [floor] = [r for r in said if r.startswith("recall_floor")]
    assert "recall of Scan 0 is below 0.5" in floor
