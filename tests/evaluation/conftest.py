"""A small schema, a bundle that answers what it is told, and traffic with campaigns and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from robustidps.registry.metadata import TrainingFacts
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

CLASSES = ("Benign", "Flood", "Scan")
SCHEMA = TrafficSchema(name="small", features=tuple(Feature(name=f"f{i}") for i in range(3)), classes=CLASSES)


@dataclass
class FakeBundle:
    """Gives back the first C features of a row, as probabilities."""

    version: str = "1.0.0"
    thresholds: dict = field(default_factory=lambda: {"Flood": 0.6, "Scan": 0.6})
    schema: TrafficSchema = SCHEMA
    digest: str = "d" * 64
    training: TrainingFacts | None = None

    @property
    def metadata(self) -> SimpleNamespace:
        return SimpleNamespace(name="model", version=self.version, thresholds=self.thresholds, training=self.training)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        return x[:, : self.schema.output_dim]


def make_traffic(probabilities, labels, **more) -> TrafficSet:
    return TrafficSet.build(SCHEMA, np.asarray(probabilities, np.float32), labels, **more)


def random_traffic(n: int = 3000, *, campaigns: int = 60, seed: int = 0, skill: float = 3.0) -> TrafficSet:
    """Rows of whole campaigns, one class each, in order of time, that a softmax with some skill has scored."""
    rng = np.random.default_rng(seed)
    campaign = np.sort(rng.integers(0, campaigns, n))
    kind = np.random.default_rng(7).choice(3, size=campaigns, p=(0.6, 0.2, 0.2))
    labels = kind[campaign]
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    p = np.exp(logits)
    return make_traffic(
        p / p.sum(axis=1, keepdims=True),
        labels,
        time=1.75e9 + np.arange(n) * 60.0,
        campaign=np.array([f"run {c}" for c in campaign], dtype=object),
        tool=np.array([f"tool {c % 2}" for c in campaign], dtype=object),
    )


@pytest.fixture
def bundle() -> FakeBundle:
    return FakeBundle()


@pytest.fixture(scope="session")
def traffic() -> TrafficSet:
    return random_traffic()


@pytest.fixture(scope="session")
def make():
    """The helpers above, for tests that need other rows: bundle, traffic, random."""
    return SimpleNamespace(bundle=FakeBundle, traffic=make_traffic, random=random_traffic, schema=SCHEMA)
