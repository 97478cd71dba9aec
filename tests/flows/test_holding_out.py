"""`robustidps train --hold-out`: what training must not see, from the command line to the version's record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustidps.registry.metadata import ModelMetadata
from tests.flows.conftest import toy_traffic

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy traffic with two tools a class, each with a campaign a day."""
    traffic = toy_traffic(rows=1500)
    tool = np.array([f"{'ab'[i % 2]}{label}" for i, label in enumerate(traffic.labels)], object)
    campaign = np.array([f"{c}-{t}" for c, t in zip(traffic.campaign, tool, strict=True)], object)
    return replace(traffic, tool=tool, campaign=campaign).write(tmp_path_factory.mktemp("named") / "named.parquet")


def test_a_tool_a_service_and_a_day_are_kept_out_and_told_apart(command, named: Path, installation: Path) -> None:
    import mlflow

    held = ["day=2026-01-06", "service=b0", "tool=b4"]
    done = command(
        "train", "neural_ode", "--dataset", named, "--name", "apart", "--rules", "toy", "--set", "epochs=1",
        *(word for name in held for word in ("--hold-out", name)), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["split"]["held_out"]) == held
    headline = result["evaluation"]["headline"]
    for name in ("recall_unseen_tools", "recall_seen_tools", "false_positive_rate_unseen_services"):
        assert headline[name]["value"] is not None, name

    client = mlflow.MlflowClient(f"sqlite:///{installation / 'mlflow.db'}")
    run = client.get_run(client.get_model_version("apart", "1").run_id)
    assert all(f"--hold-out {word}" in run.data.tags["robustidps.repeat"] for word in held)
    [file] = [f for f in (installation / "artifacts").rglob("metadata.json") if b'"apart"' in f.read_bytes()]
    facts = ModelMetadata.from_json(file.read_bytes()).training
    assert facts is not None and sorted(facts.held_out) == held
    assert facts.tools == ["a1", "a4", "b1"] and facts.services == ["a0"]


def test_a_tool_that_is_not_there_ends_training_with_those_that_are(command, named: Path) -> None:
    done = command("train", "neural_ode", "--dataset", named, "--name", "none", "--hold-out", "tool=b7")
    assert done.returncode == 3
    assert "there is no tool b7 to hold out" in done.stderr and "a1, a4, b1, b4" in " ".join(done.stderr.split())
