"""`robustidps export loihi` as people call it: through Prefect, Lava and MLflow."""

from __future__ import annotations

import asyncio
import json

import pytest

from robustidps.errors import UnavailableError
from robustidps.loihi.runner import installed
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import make_settings
from tests.conftest import missing_part

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def exported(command, installation, toy) -> dict:
    """What the command prints for a small spiking version that asks for the alias."""
    try:
        installed(make_settings(home=installation))
    except UnavailableError as error:
        missing_part(str(error))
    done = command(
        "train", "spiking", "--dataset", toy, "--name", "spikes", "--rules", "toy", "--json",
        "--set", "hidden=[24, 20]", "--set", "epochs=4", "--set", "steps=10",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = command("export", "loihi", "spikes", "--rows", 60, "--alias", "--json")
    assert done.returncode in (0, 4), done.stderr
    return json.loads(done.stdout) | {"returncode": done.returncode}


def test_the_version_is_simulated_and_its_arithmetic_is_exact(exported):
    report = exported["report"]
    assert (report["model"], report["rows"]) == ("spikes", 60)
    assert report["emulator"]["spikes_differing"] == 0


def test_the_alias_is_given_or_refused_by_what_the_report_says_and_both_are_recorded(exported, installation):
    registry = ModelRegistry(settings=make_settings(home=installation))
    decision = registry.history("spikes")[-1]
    met = all(requirement["passed"] for requirement in exported["report"]["requirements"])
    assert (decision.action, decision.to_stage) == ("alias" if met else "refuse", "loihi")
    assert exported["returncode"] == (0 if met else 4)
    if met:
        assert registry.load_model("spikes", "loihi").version == decision.version
    assert registry.verify().ok


def test_the_report_is_in_mlflow_and_an_artefact_in_prefect(exported, installation):
    registry = ModelRegistry(settings=make_settings(home=installation))
    run = registry.version("spikes", "1.0.0").run_id
    with registry.tracking.errors():
        client = registry.tracking.client
        names = {file.path for file in client.list_artifacts(run, "loihi")}
        figures = client.get_run(run).data.metrics
    assert {"loihi/report.json", "loihi/report.md", "loihi/model.nir"} <= names
    assert any(name.startswith("loihi/") for name in figures)

    async def artefact() -> str:
        from prefect.artifacts import Artifact

        found = await Artifact.aget("spikes-loihi")
        return str(found.data) if found else ""

    assert "spikes 1.0.0" in asyncio.run(artefact())
