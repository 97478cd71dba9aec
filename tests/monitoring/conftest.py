"""An installation with a model in production, and traffic that moves as far as a test wants."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustidps.monitoring.windows import Case, Entered, enter, look, next_windows
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE, memory_registry
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import TrafficSet

DAY = 86_400.0


def day(number: int, *, moved: float = 0.0, rows: int = 2_000, labelled: bool = False) -> TrafficSet:
    """A day of flows; `moved` shifts two numeric columns of eight by so many of their spreads."""
    traffic = toy_traffic(rows, 100 + number)
    x = traffic.features.copy()
    x[:, 0] = x[:, 0] * np.float32(np.exp(2 * moved))  # duration is lognormal with a spread of 2
    x[:, 3] = x[:, 3] + np.float32(3 * moved)
    labels = traffic.labels if labelled else None
    return TrafficSet.build(TOY, x, labels, time=traffic.time + number * DAY, campaign=traffic.campaign)


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """What `registry` is a copy of: `toy` 1.0.0 in production, 1.1.0 registered."""
    registry = memory_registry(tmp_path_factory.mktemp("stock") / "home")
    held_out = day(-1, labelled=True)
    path = held_out.write(registry.settings.home / "traffic" / "held-out.parquet")
    for number, version in enumerate(("1.0.0", "1.1.0")):
        bundle = toy_bundle(tmp_path_factory.mktemp("bundle") / version, version=version, seed=number, rows=4_000)
        kept = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "default"}
        registry.register_model("toy", version, bundle.path, held_out=kept)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    return registry


@pytest.fixture
def registry(stock: ModelRegistry, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(stock.settings.home, home)
    made = memory_registry(home)
    made.tracking.memory = copy.deepcopy(stock.tracking.memory)
    with use_settings(Settings(home=home)):
        yield made


Watch = Callable[..., Entered]


@pytest.fixture
def watch(registry: ModelRegistry, tmp_path: Path) -> Watch:
    """Puts a day of traffic into the folder and enters the window that it makes."""
    incoming = tmp_path / "incoming"

    def watched(number: int, **how) -> Entered:
        day(number, **how).write(incoming / f"day{number:02d}.parquet")
        files, ranges = next_windows(registry, "toy", incoming, folder=tmp_path / "flows")
        assert len(ranges) == 1
        case = Case.of(registry, "toy")
        found = look(case, files, ranges[0])
        assert found is not None
        return enter(registry, case, found.figures)

    return watched
