"""Small models that can really be judged: held-out traffic, rules, two versions that pass them and one that doesn't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.traffic import toy_traffic

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["BAD", "GOOD", "RULES", "judged_bundles", "register_judged"]

DAY = 86_400.0
GOOD, BAD = ("1.0.0", "1.1.0"), "1.2.0"
RULES = """
name: toy
evidence: {min_rows: 100, min_blocks: 5}
rules:
  - {kind: threshold, metric: accuracy, min: 0.6}
  - {kind: gain, metric: accuracy, margin: -0.02}
  - {kind: schema_compatible}
  - {kind: rollback_available, stages: [Production]}
left_out:
  recall_floor: the toy model is linear, and this is not about it
  false_positive_ceiling: the toy model is linear, and this is not about it
  latency: not what these models are about
  stability: not what these models are about
"""


def judged_bundles(folder: Path) -> dict[str, Path]:
    """Bundles of the model `toy` by version: `GOOD` ones, and `BAD`, which never learnt."""
    from robustidps.training import train_bundle

    train = toy_traffic(900, seed=3)
    validation = toy_traffic(400, seed=4)
    validation = replace(validation, time=validation.time + DAY)
    made = {}
    for seed, version in enumerate((*GOOD, BAD)):
        learns = version != BAD
        settings = LinearSettings(seed=seed, epochs=150 if learns else 1, learning_rate=0.5 if learns else 1e-6)
        train_bundle(Linear(), settings, train, validation, name="toy", version=version, out=folder / version)
        made[version] = folder / version
    return made


def register_judged(registry: ModelRegistry, bundles: dict[str, Path]) -> None:
    """Writes rules and held-out traffic into the registry's home, and registers the bundles to be judged by them."""
    home = registry.settings
    (home.folder("configs", "promotion") / "toy.yaml").write_text(RULES, encoding="utf-8")
    traffic = toy_traffic(900, seed=9)
    held_out = replace(traffic, time=traffic.time + 5 * DAY)
    path = held_out.write(home.folder("traffic") / "held-out.parquet")
    facts: dict[str, Any] = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "toy"}
    for version, bundle in bundles.items():
        registry.register_model("toy", version, bundle, held_out=facts)
