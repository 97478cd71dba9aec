"""A network of random numbers, a small trained version, and the environment in which Lava simulates Loihi."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robustidps.errors import UnavailableError
from robustidps.families import family_settings, get_family
from robustidps.loihi.runner import installed
from robustidps.loihi.subject import subject_of
from robustidps.nir import LIFLayer, LIFNetwork, write_nir
from robustidps.settings import Settings
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle
from tests.conftest import missing_part


def random_network(coding="direct", sizes=(6, 24, 20, 4), steps=8, seed=0, gain=2.0) -> LIFNetwork:
    """Layers with so large weights that neurons do fire."""
    rng = np.random.default_rng(seed)
    layers = []
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        inputs *= 2 if coding == "latency" and k == 0 else 1
        weights = rng.normal(size=(outputs, inputs)) * gain / np.sqrt(inputs)
        layers.append(LIFLayer(weights, rng.normal(size=outputs) * 0.1, 3686 / 4096, 1.0))
    return LIFNetwork(tuple(layers), steps, coding, 3.0)


def random_rows(n=30, inputs=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n, inputs)).astype(np.float32)


@pytest.fixture(params=["direct", "latency"])
def network(request) -> LIFNetwork:
    return random_network(request.param)


@pytest.fixture
def nir_file(network, tmp_path) -> Path:
    write_nir(tmp_path / "model.nir", network)
    return tmp_path / "model.nir"


@pytest.fixture(scope="session")
def lava() -> Settings:
    """Settings under which Loihi can be simulated."""
    settings = Settings(home=Path("unused"))
    try:
        installed(settings)
    except UnavailableError as error:
        missing_part(str(error))
    return settings


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """A small spiking version on toy traffic: its bundle, the rows it was trained on, and held-out ones."""
    train, validation, test = (toy_traffic(rows, seed) for rows, seed in ((900, 0), (300, 1), (600, 2)))
    settings = family_settings(get_family("spiking"), {"hidden": [24, 20], "epochs": 5, "steps": 10})
    out = tmp_path_factory.mktemp("spiking") / "bundle"
    made = train_bundle(get_family("spiking"), settings, train, validation, name="toy", version="1.0.0", out=out)
    return SimpleNamespace(bundle=made.bundle, subject=subject_of(made.bundle), train=train, test=test)
