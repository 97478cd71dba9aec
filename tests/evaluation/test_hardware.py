"""A version's circuit on a device, beside the bundle: the same rows, the same treatment behind the logits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from robustidps.errors import BundleError, ConfigError, InputError, NotFoundError, RegistryUnavailableError
from robustidps.evaluation.hardware import evaluate_on_hardware, sample
from robustidps.families import Target, family_settings, get_family
from robustidps.testing.linear import toy_bundle, toy_traffic
from robustidps.testing.registry import memory_registry
from robustidps.training import train_bundle

pytest.importorskip("torch")
pytest.importorskip("pennylane")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    traffic = toy_traffic(500, seed=3)
    return traffic, traffic.write(tmp_path_factory.mktemp("held-out") / "rows.parquet")


@pytest.fixture(scope="module")
def registry(tmp_path_factory, held_out):
    """A quantum version and one of another family, both held out from the same rows."""
    made = memory_registry(tmp_path_factory.mktemp("home"))
    family = get_family("quantum")
    settings = family_settings(family, {"epochs": 5, "device": "lightning.qubit"})
    folder = tmp_path_factory.mktemp("bundles")
    circuit = train_bundle(
        family, settings, toy_traffic(1500), toy_traffic(400, seed=1), name="circuit", version="1.0.0", out=folder / "q"
    ).bundle
    traffic, path = held_out
    recorded = {"path": str(path), "digest": traffic.digest, "dataset": "toy"}
    made.register_model("circuit", "1.0.0", circuit.path, held_out=recorded)
    made.register_model("linear", "1.0.0", toy_bundle(folder / "linear", name="linear").path, held_out=recorded)
    return made


def run(registry, target=None, rows=60, **more):
    return evaluate_on_hardware(registry, "circuit", "1.0.0", target, rows=rows, **more)


def test_an_exact_device_says_what_the_bundle_says(registry):
    """Standardisation, temperature and thresholds are the bundle's; the device is the one that its settings name."""
    report, _ = run(registry, rows=150)
    assert report.target == report.facts["device"] == "lightning.qubit" and report.facts["shots"] is None
    assert report.agreement.value == 1 and report.measured_error < 1e-5
    assert report.on_device.headline["alert_recall"] == report.noiseless.headline["alert_recall"]
    # Were the temperature left out, this would differ in the first digits.
    losses = [e.figures["log_loss"] for e in (report.on_device, report.noiseless)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert all(d.difference.value == 0 for d in report.differences)


def test_noise_is_judged_beside_the_bundle_on_the_same_rows_and_logged(registry, held_out):
    report, file = run(registry, Target(backend="fake_manila", shots=200, seed=3))
    assert (report.facts["shots"], report.facts["seed"], report.facts["qubits"]) == (200, 3, 4)
    assert report.rows == report.on_device.rows == 60 and report.rows_there == 500
    assert report.on_device.data_digest == report.noiseless.data_digest == sample(held_out[0], 60, 3).digest
    assert report.measured_error > 0.02 and report.agreement.value is not None
    kept = json.loads(file.read_text())
    assert kept["facts"] == report.facts and kept["seed"] == 3
    figures = report.metrics()
    assert figures["accuracy"] == report.on_device.headline["accuracy"].value
    assert figures["noiseless_accuracy"] == report.noiseless.headline["accuracy"].value
    assert {"shots", "seed", "depth", "qubits", "agreement", "rows", "difference_accuracy"} <= figures.keys()


def test_rows_are_drawn_uniformly_by_the_seed(held_out):
    traffic, _ = held_out
    first, again, other = (sample(traffic, 300, seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert np.mean(first.labels == 0) == pytest.approx(np.mean(traffic.labels == 0), abs=0.08)
    assert len(sample(traffic, 10**6, 0)) == len(traffic)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Target(backend="fake_atlantis"), "no simulated backend 'fake_atlantis'"),
        (Target(backend="fake_armonk"), "the circuit has 4 qubits, the backend 1"),
        (Target(device="abacus"), "no device 'abacus'"),
        (Target(device="default.qubit", options={"colour": "red"}), "colour"),
    ],
)
def test_where_it_cannot_run_is_one_error(registry, target, says):
    with pytest.raises(ConfigError, match=says):
        run(registry, target)


def test_what_cannot_be_run_is_one_error(registry, tmp_path):
    with pytest.raises(ConfigError, match="family linear, which has no circuit"):
        evaluate_on_hardware(registry, "linear", "1.0.0")
    with pytest.raises(ConfigError, match="0 rows"):
        run(registry, rows=0)
    with pytest.raises(NotFoundError):
        evaluate_on_hardware(registry, "circuit", "2.0.0")
    with pytest.raises(InputError):
        run(registry, on=tmp_path / "none.parquet")


def test_nothing_runs_while_mlflow_is_away(registry, monkeypatch):
    monkeypatch.setattr(registry.tracking, "away", True)
    with pytest.raises(RegistryUnavailableError):
        run(registry, Target(device="default.qubit"))


def test_weights_that_were_edited_are_refused_before_they_are_read(registry):
    bundle = registry.bundle("circuit", "1.0.0")
    weights = bundle.path / "native" / "weights.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BundleError):
            run(registry)
    finally:
        weights.write_bytes(before)


def test_a_device_of_ones_own_settings_is_a_default_alone(registry):
    report, _ = run(registry, replace(Target(), device="default.qubit", shots=50), rows=30)
    assert report.target == "default.qubit" and report.facts["shots"] == 50 and report.measured_error > 0
