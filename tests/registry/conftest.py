"""Registries for tests: one without MLflow in no time, and real ones that start from a prepared MLflow database."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from robustidps.judging import promote
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.testing.judged import judged_bundles, register_judged
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import memory_registry


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """Four small bundles of the model `toy`, by version."""
    folder = tmp_path_factory.mktemp("bundles")
    numbers = ("1.0.0", "1.1.0", "1.2.0", "1.10.0")
    return {v: toy_bundle(folder / v, version=v, seed=i).path for i, v in enumerate(numbers)}


@pytest.fixture
def registry(tmp_path) -> ModelRegistry:
    """An empty registry whose MLflow is in memory."""
    return memory_registry(tmp_path / "home")


@pytest.fixture(scope="session")
def stock(tmp_path_factory, bundles) -> ModelRegistry:
    """What `stocked` is a copy of."""
    registry = memory_registry(tmp_path_factory.mktemp("stock") / "home")
    for version, path in bundles.items():
        registry.register_model("toy", version, path)
    return registry


@pytest.fixture
def stocked(stock, tmp_path) -> ModelRegistry:
    """A registry with four versions of `toy`, none of them in any stage."""
    shutil.copytree(stock.settings.home, tmp_path / "home")
    registry = memory_registry(tmp_path / "home")
    registry.tracking.memory = copy.deepcopy(stock.tracking.memory)
    return registry


@pytest.fixture
def real(tmp_path, mlflow_template) -> ModelRegistry:
    """An empty registry on a real MLflow (embedded, SQLite)."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    return ModelRegistry(settings=Settings(home=home))


@pytest.fixture(scope="session")
def judged_stock(tmp_path_factory) -> ModelRegistry:
    """What `judged` is a copy of."""
    folder = tmp_path_factory.mktemp("judged")
    registry = memory_registry(folder / "home")
    with use_settings(registry.settings):
        register_judged(registry, judged_bundles(folder))
        promote(registry, "toy", "1.0.0")
    return registry


@pytest.fixture
def judged(judged_stock, tmp_path):
    """`toy` 1.0.0 in Production, 1.1.0 as good, 1.2.0 bad: MLflow's versions 1, 2 and 3."""
    shutil.copytree(judged_stock.settings.home, tmp_path / "home")
    registry = memory_registry(tmp_path / "home")
    registry.tracking.memory = copy.deepcopy(judged_stock.tracking.memory)
    with use_settings(registry.settings):
        yield registry
