"""The task that registers is tried again while MLflow is away; a second try goes on where the first ended."""

from __future__ import annotations

import json

import pytest

from robustidps.errors import RegistryUnavailableError, VersionExistsError
from robustidps.evaluation.report import Evaluation, Interval
from robustidps.tasks import registry as tasks
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import memory_registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    made = memory_registry(tmp_path / "home")
    monkeypatch.setattr(tasks, "ModelRegistry", lambda **unused: made)
    return made


def register(bundle) -> dict:
    evaluation = Evaluation(
        model="toy",
        version="1.0.0",
        bundle_digest=bundle.digest,
        dataset="made up",
        data_digest="0" * 64,
        rows=10,
        classes={},
        confusion=[],
        headline={"accuracy": Interval(value=0.5)},
        blocks="row",
        n_blocks=10,
        time_from=None,
        time_to=None,
        figures={},
        resamples=0,
        seed=0,
    )
    return tasks.register_version.fn(
        "toy",
        "1.0.0",
        {"path": str(bundle.path), "digest": bundle.digest, "history": [], "settings": {}},
        {"evaluation": json.loads(evaluation.model_dump_json()), "files": []},
        None,
        {"path": "held-out.parquet", "digest": "0" * 64},
        dataset="made up",
        rules="default",
        command="robustidps train toy",
    )


def test_an_outage_after_registering_leaves_a_version_that_the_next_try_completes(registry, tmp_path, monkeypatch):
    bundle = toy_bundle(tmp_path / "one")
    with monkeypatch.context() as outage:

        def away(*unused, **more):
            raise RegistryUnavailableError("MLflow doesn't answer", where="memory")

        outage.setattr(registry, "log_evaluation", away)
        with pytest.raises(RegistryUnavailableError):
            register(bundle)
    assert register(bundle)["version"] == "1.0.0"
    run = registry.tracking.memory.runs[registry.version("toy", "1.0.0").run_id]
    assert "evaluation/evaluation.json" in run.data.files


def test_a_number_taken_by_another_bundle_is_not_taken_for_an_earlier_try(registry, tmp_path):
    register(toy_bundle(tmp_path / "one"))
    with pytest.raises(VersionExistsError, match="other content"):
        register(toy_bundle(tmp_path / "two", seed=5))
