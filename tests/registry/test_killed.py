"""A real process is killed after each step of a registration, a promotion and a rollback. What is left is the state
before or the state after, never between; and the next call brings MLflow in line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from robustidps.errors import VersionExistsError
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE

SCRIPT = Path(__file__).with_name("killed.py")
ACTIONS = ("promote", "rollback", "register")


def opened(home: Path) -> ModelRegistry:
    return ModelRegistry(settings=Settings(home=home))


def stand(home: Path, *, production: str, generation: int) -> ModelRegistry:
    registry = opened(home)
    registry.verify()
    assigned = registry.assignment("toy")
    assert (assigned.production, assigned.generation) == (production, generation)
    return registry


def picture(registry: ModelRegistry) -> dict[str, str]:
    """MLflow's aliases, as versions of ours."""
    numbers = {str(v.mlflow_version): v.version for v in registry.versions("toy")}
    return {k: numbers[str(v)] for k, v in registry.tracking.client.get_registered_model("toy").aliases.items()}


def wanted(registry: ModelRegistry) -> dict[str, str]:
    a = registry.assignment("toy")
    return {k: v for k, v in (("production", a.production), ("previous", a.previous), ("staging", a.staging)) if v}


@pytest.fixture(scope="module")
def killed(tmp_path_factory, mlflow_template, bundles) -> dict[str, dict[str, Path]]:
    """By action: homes by the step that the process was killed after, and `whole`, where it wasn't.

    Before, 1.0.0 was in production, 0.9.0 was before it, and 1.1.0 registered.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # made once, whichever workers the three tests land on
    folder = shared / "killed"
    with FileLock(shared / "killed.lock"):
        if not (folder / "steps.json").exists():
            kill_everywhere(folder, mlflow_template, bundles)
    steps = json.loads((folder / "steps.json").read_text())
    return {
        action: {name: folder / action / str(n) for n, name in enumerate(names)} | {"whole": folder / action / "whole"}
        for action, names in steps.items()
    }


def kill_everywhere(folder: Path, mlflow_template: Path, bundles: dict[str, Path]) -> None:
    """Prepares a home and has `killed.py` make a copy of it for every step; `steps.json` is written last."""
    home = folder / "home"
    home.mkdir(parents=True)
    shutil.copy(mlflow_template, home / "mlflow.db")
    registry = opened(home)
    older = toy_bundle(folder / "older", version="0.9.0", seed=9).path
    for version, path in (("0.9.0", older), ("1.0.0", bundles["1.0.0"]), ("1.1.0", bundles["1.1.0"])):
        registry.register_model("toy", version, path)
    registry.transition("toy", "0.9.0", "Production", verdict=APPROVE)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    for action in ACTIONS:
        (folder / action).mkdir()
    shutil.copytree(bundles["1.2.0"], folder / "bundle")
    command = [sys.executable, str(SCRIPT), str(home), str(folder), *ACTIONS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout.splitlines()[-1])
    assert all(len(set(names)) == len(names) for names in steps.values())
    (folder / "steps.json").write_text(json.dumps(steps))


@pytest.fixture(autouse=True)
def _mlflow_reads_its_migrations_once(killed, monkeypatch):
    from mlflow.store.db import utils

    head = utils._get_latest_schema_revision()
    monkeypatch.setattr(utils, "_get_latest_schema_revision", lambda: head)


@pytest.mark.fault("a promotion killed (SIGKILL) after each of its steps", "done or not begun; MLflow follows")
def test_a_killed_promotion_is_done_or_not_begun_and_mlflow_follows(killed):
    homes = killed["promote"]
    committed = list(homes).index("promote.committed")
    assert len(homes) >= 10
    for number, (name, home) in enumerate(homes.items()):
        after = number >= committed
        registry = stand(home, production="1.1.0" if after else "1.0.0", generation=3 if after else 2)
        assert registry.assignment("toy").previous == ("1.0.0" if after else "0.9.0"), name
        registry.ensure_projected()
        assert picture(registry) == wanted(registry), name
        assert registry.repair() == [], name


@pytest.mark.fault("a rollback killed (SIGKILL) after each of its steps", "done or not begun; MLflow follows")
def test_a_killed_rollback_is_done_or_not_begun_and_mlflow_follows(killed):
    homes = killed["rollback"]
    committed = list(homes).index("rollback.committed")
    assert len(homes) >= 6
    for number, (name, home) in enumerate(homes.items()):
        after = number >= committed
        registry = stand(home, production="0.9.0" if after else "1.0.0", generation=3 if after else 2)
        assert registry.assignment("toy").previous == (None if after else "0.9.0"), name
        registry.repair()  # the picture's own steps are killed in the promotion above
        assert picture(registry) == wanted(registry), name
        assert registry.assignment("toy").projected, name


@pytest.mark.fault("a registration killed (SIGKILL) after each of its steps", "finished or taken away by the next call")
def test_a_killed_registration_is_finished_or_cleaned_away_by_the_next_call(killed, bundles, tmp_path):
    other = toy_bundle(tmp_path / "other", version="1.2.0", seed=77).path
    homes = killed["register"]
    committed = list(homes).index("register.committed")
    assert len(homes) >= 9
    for number, (name, home) in enumerate(homes.items()):
        registry = stand(home, production="1.0.0", generation=2)
        if number >= committed:
            with pytest.raises(VersionExistsError):
                registry.register_model("toy", "1.2.0", bundles["1.2.0"])
            assert registry.version("toy", "1.2.0").held_out == {"dataset": "toy"}
            continue
        # By turns: the same bundle again, another one under that number, or `repair`.
        assert registry.version("toy", "1.2.0").status == "reserved", name
        if number % 3 == 0:
            registry.register_model("toy", "1.2.0", bundles["1.2.0"])
        elif number % 3 == 1:
            registry.register_model("toy", "1.2.0", other)
        else:
            registry.repair()
            if registry.version("toy", "1.2.0").status == "reserved":  # killed before anything was worth finishing
                registry.register_model("toy", "1.2.0", bundles["1.2.0"])
        made = registry.tracking.client.search_model_versions("name = 'toy'")
        assert sorted(v.tags["robustidps.version"] for v in made) == ["0.9.0", "1.0.0", "1.1.0", "1.2.0"], name
        record = registry.version("toy", "1.2.0")
        assert [v.run_id for v in made if v.tags["robustidps.version"] == "1.2.0"] == [record.run_id], name
        assert registry.verify(artifacts=True).ok, name
