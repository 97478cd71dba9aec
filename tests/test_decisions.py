"""From probabilities to alerts within a budget."""

import numpy as np
import pytest

from robustidps.decisions import NEVER, UNCERTAIN, decide, fit_thresholds
from robustidps.errors import ConfigError, DatasetError, SchemaError
from robustidps.registry.metadata import ModelMetadata
from robustidps.traffic.schema import Feature, TrafficSchema

SCHEMA = TrafficSchema(name="three", features=(Feature(name="a"),), classes=("Benign", "Scan", "Flood"))
HALF = {"Scan": 0.5, "Flood": 0.9}


def scored(n: int = 6000, seed: int = 0, skill: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(seed)
    labels = r.choice(3, n, p=[0.8, 0.15, 0.05])
    logits = r.normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    e = np.exp(logits)
    return (e / e.sum(1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize(
    ("probabilities", "decision"),
    [
        ([0.2, 0.7, 0.1], 1),
        ([0.1, 0.0, 0.9], 2),
        ([0.2, 0.0, 0.8], UNCERTAIN),  # most likely a flood, but below its threshold
        ([0.6, 0.3, 0.1], 0),
        ([0.5, 0.5, 0.0], 1),  # at the threshold is enough
    ],
)
def test_one_flow(probabilities, decision):
    assert decide(np.array([probabilities]), HALF, SCHEMA).tolist() == [decision]


def test_decisions_are_whole_numbers_one_a_row():
    d = decide(scored(50)[0], HALF, SCHEMA)
    assert d.dtype == np.int16 and d.shape == (50,)
    assert decide(np.empty((0, 3)), HALF, SCHEMA).shape == (0,)


@pytest.mark.parametrize("budget", [0, 1e-3, 1e-2, 0.05, 1])
def test_thresholds_keep_the_budget_on_the_rows_they_were_fitted_to(budget):
    p, y = scored()
    alerts = decide(p, fit_thresholds(p, y, SCHEMA, budget), SCHEMA) > 0
    assert alerts[y == 0].mean() <= budget


def test_a_larger_budget_finds_more():
    p, y = scored()
    found = [(decide(p, fit_thresholds(p, y, SCHEMA, b), SCHEMA) > 0)[y > 0].mean() for b in (0, 1e-3, 1e-2, 0.1)]
    assert found == sorted(found) and found[-1] > found[0] + 0.2


def test_thresholds_keep_about_the_budget_on_other_rows():
    p, y = scored(40_000)
    other, truth = scored(40_000, seed=1)
    alerts = decide(other, fit_thresholds(p, y, SCHEMA, 1e-2), SCHEMA) > 0
    assert 5e-3 < alerts[truth == 0].mean() < 2e-2


def test_a_benign_row_at_probability_one_silences_its_class_and_fits_the_metadata():
    p = np.array([[0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.1, 0.9]])
    thresholds = fit_thresholds(p, [0, 0, 1, 2], SCHEMA, 0)
    assert thresholds == {"Scan": NEVER, "Flood": 0.5}
    assert (decide(p, thresholds, SCHEMA) == [UNCERTAIN, 0, UNCERTAIN, 2]).all()
    ModelMetadata(
        name="m", version="1.0.0", model_type="t", framework="f", input_dim=1, output_dim=3, thresholds=thresholds
    )


def test_the_onnx_model_may_differ_by_a_rounding_without_breaking_the_budget():
    p, y = scored()
    wobble = p + np.random.default_rng(1).uniform(-5e-6, 5e-6, p.shape)
    assert (decide(wobble, fit_thresholds(p, y, SCHEMA, 1e-3), SCHEMA) > 0)[y == 0].mean() <= 1e-3


def test_a_rare_class_is_not_starved_by_a_common_one():
    p, y = scored()
    alerts = decide(p, fit_thresholds(p, y, SCHEMA, 2e-2), SCHEMA) > 0
    assert alerts[y == 2].mean() > 0.5 * alerts[y == 1].mean()


def test_attack_classes_without_rows_get_a_threshold_too():
    p, y = scored()
    assert set(fit_thresholds(p[y != 2], y[y != 2], SCHEMA)) == {"Scan", "Flood"}


def test_bad_input_is_refused():
    p, y = scored(100)
    with pytest.raises(DatasetError, match="no benign"):
        fit_thresholds(p[y > 0], y[y > 0], SCHEMA)
    with pytest.raises(ConfigError, match="alert_budget"):
        fit_thresholds(p, y, SCHEMA, 2.0)
    with pytest.raises(SchemaError, match="expected"):
        decide(p[:, :2], HALF, SCHEMA)
    with pytest.raises(SchemaError, match="differ: Flood"):
        decide(p, {"Scan": 0.5}, SCHEMA)
    with pytest.raises(SchemaError, match="not a number"):
        decide(p * np.nan, HALF, SCHEMA)
