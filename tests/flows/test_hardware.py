"""`robustidps evaluate-on-hardware` as people call it: through Prefect, into MLflow."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from robustidps.families import family_settings, get_family
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import make_settings
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import train_bundle


@pytest.fixture(scope="module")
def registry(command, installation, toy, tmp_path_factory) -> ModelRegistry:
    """With a version `circuit 1.0.0` in it."""
    traffic, family = TrafficSet.read(toy), get_family("quantum")
    out = tmp_path_factory.mktemp("bundle") / "circuit"
    settings = family_settings(family, {"epochs": 2})
    # absl, which PennyLane and torch bring in, keeps the standard error of that moment, and closes it when Prefect sets
    # up its logging under another.
    with redirect_stderr(io.StringIO()):
        train_bundle(family, settings, traffic, traffic, name="circuit", version="1.0.0", out=out)
    done = command("registry", "add", "circuit", "1.0.0", out)
    assert done.returncode == 0, done.stderr
    return ModelRegistry(settings=make_settings(home=installation))


def test_figures_are_printed_and_logged_at_the_versions_run(command, registry, toy):
    done = command(
        "evaluate-on-hardware", "circuit", "1.0.0", "--backend", "fake_manila", "--on", toy,
        "--rows", 60, "--shots", 300, "--seed", 3, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    facts = report["facts"]
    assert (facts["backend"], facts["shots"], facts["seed"], facts["qubits"]) == ("fake_manila", 300, 3, 4)
    assert report["on_device"]["headline"]["accuracy"]["low"] is not None
    run_id = registry.version("circuit", "1.0.0").run_id
    logged = registry.tracking.client.get_run(run_id).data.metrics
    for side, name in (("on_device", "accuracy"), ("noiseless", "noiseless_accuracy")):
        assert logged[f"hardware/fake_manila/{name}"] == report[side]["headline"]["accuracy"]["value"]
    for fact in ("shots", "seed", "qubits", "depth"):
        assert logged[f"hardware/fake_manila/{fact}"] == facts[fact]
    (kept,) = registry.tracking.client.list_artifacts(run_id, "hardware/fake_manila")
    assert facts["job"] in Path(registry.tracking.client.download_artifacts(run_id, kept.path)).read_text()


def test_it_is_shown_to_people_too(command, registry, toy):
    done = command(
        "evaluate-on-hardware",
        "circuit",
        "1.0.0",
        "--device",
        "default.qubit",
        "--on",
        toy,
        "--shots",
        50,
        "--rows",
        50,
    )
    assert done.returncode == 0, done.stderr
    for words in ("circuit 1.0.0 on default.qubit", "noiseless", "alert_recall", "shots 50", "50 of 3,000"):
        assert words in done.stdout
    assert "running on default.qubit" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--backend", "fake_manila", "--device", "default.qubit"), 3, "exclude each other"),
        (("--backend", "fake_manila", "--set", "a=1"), 3, "--set"),
        (("--backend", "ibm_torino"), 3, "QISKIT_IBM_TOKEN"),
        (("--rows", "0"), 2, "--rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_run_is_one_message(command, registry, monkeypatch, tmp_path, words, code, says):
    from qiskit_ibm_runtime.accounts import management

    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none.json"))
    done = command("evaluate-on-hardware", "circuit", "1.0.0", *words, QISKIT_IBM_TOKEN="")
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
