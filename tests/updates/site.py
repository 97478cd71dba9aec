"""An installation whose updates can really be judged: one version in production, held-out traffic, rules of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustidps.bundle import Bundle, open_bundle
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.testing.judged import later
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.registry import APPROVE, MemoryTracking
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle

NOT, LITTLE, ALL = (1, 1e-6), (3, 0.05), (150, 0.5)
"""Lessons, as epochs and learning rate: after the first a model has learnt nothing, after the last all there is."""

RULES = """
name: toy_update
evidence: {min_rows: 100, min_blocks: 5, stages: [Production]}
rules:
  - {kind: gain, metric: accuracy, relative: true, margin: 0.02, stages: [Production]}
  - {kind: schema_compatible}
  - {kind: same_major}
  - {kind: rollback_available, stages: [Production]}
left_out:
  threshold: the toy model is linear, and this is not about it
  recall_floor: the toy model is linear, and this is not about it
  false_positive_ceiling: the toy model is linear, and this is not about it
  latency: not what these models are about
  stability: not what these models are about
"""


def lessons(folder: Path, made: Mapping[str, tuple[int, float]], name: str = "toy") -> dict[str, Bundle]:
    """Bundles of the model `name` by version, each after its lesson."""
    train, validation = toy_traffic(900, seed=3), later(toy_traffic(400, seed=4), 1)
    for version, (epochs, rate) in made.items():
        settings = LinearSettings(seed=0, epochs=epochs, learning_rate=rate)
        train_bundle(Linear(), settings, train, validation, name=name, version=version, out=folder / version)
    return {version: open_bundle(folder / version) for version in made}


def installation(home: Path, bundle: Path, *, mlflow: bool = False, **settings: Any) -> ModelRegistry:
    """With `bundle`, toy 1.0.0, in production, and held-out traffic of its own; automatic updates are on.

    mlflow: whether there is a real one, embedded; else what it would keep stays in this process's memory.
    """
    (home / "configs" / "promotion").mkdir(parents=True)
    (home / "configs" / "promotion" / "toy_update.yaml").write_text(RULES)
    chosen = Settings(home=home, enable_auto_update=True, updates_rules={"toy": "toy_update"}, **settings)
    registry = ModelRegistry(settings=chosen, tracking=None if mlflow else MemoryTracking(chosen))
    held_out = later(toy_traffic(900, seed=9), 5)
    path = held_out.write(chosen.folder("traffic") / "held-out.parquet")
    facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "toy_update"}
    with use_settings(chosen):
        registry.register_model("toy", "1.0.0", bundle, held_out=facts)
        registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    return registry
