"""What tests of faults share: installations, commands as processes of their own, and what has to hold afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.linear import toy_bundle
from tests.flows.conftest import TOY_RULES, toy_traffic

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory) -> Path:
    """Three classes of flow64 that a tree tells apart in a second."""
    return toy_traffic().write(tmp_path_factory.mktemp("toy") / "toy.parquet")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """Three small bundles of the model `toy`, by version."""
    folder = tmp_path_factory.mktemp("bundles")
    return {v: toy_bundle(folder / v, version=v, seed=i).path for i, v in enumerate(VERSIONS)}


@pytest.fixture
def install(tmp_path):
    """An empty installation with a rule set that toys can pass, and a way to run commands in it."""
    home = tmp_path / "home"
    rules = home / "configs" / "promotion" / "toy.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(TOY_RULES)
    return at(home)


def at(home: Path, **env: str) -> SimpleNamespace:
    """An installation: its home, its registry opened anew, and `command(...)` as a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTIDPS_", "PREFECT_", "MLFLOW_"))}
    environment = clean | {"ROBUSTIDPS_HOME": str(home)} | env

    def start(*words: object, prefix: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "robustidps", *map(str, words)],
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def command(*words: object, **more: str) -> SimpleNamespace:
        process = start(*words, **more)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err, err[-3000:]
        return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)

    def registry() -> ModelRegistry:
        settings = {"mlflow_tracking_uri": env.get("ROBUSTIDPS_MLFLOW_TRACKING_URI")}
        return ModelRegistry(settings=Settings(home=home, database_url=env.get("ROBUSTIDPS_DATABASE_URL"), **settings))

    return SimpleNamespace(home=home, env=env, start=start, command=command, registry=registry)


TRAIN = ("train", "boosted_trees", "--name", "toy", "--rules", "toy", "--set", "rounds=20", "--json")


def trained(install: SimpleNamespace, toy_file: Path, *more: str) -> dict:
    done = install.command(*TRAIN, "--dataset", toy_file, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sound(install: SimpleNamespace) -> ModelRegistry:
    """The registry, after all that is asked of it when a fault is over: repaired, projected, every record verified."""
    registry = install.registry()
    registry.repair()
    assert registry.verify(artifacts=True).ok
    for summary in registry.models():
        assert summary.assignment.projected
    return registry
