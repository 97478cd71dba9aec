"""Small models that can really be judged: held-out traffic, rules, two versions that pass them and one that doesn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.bundle import open_bundle
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.traffic import toy_traffic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from robustidps.bundle import Bundle
    from robustidps.registry.registry import ModelRegistry
    from robustidps.traffic.schema import TrafficSchema
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["BAD", "GOOD", "RULES", "judged_bundles", "later", "register_judged", "taught"]

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


def later(traffic: TrafficSet, days: float) -> TrafficSet:
    """The same flows, so many days later."""
    return replace(traffic, time=traffic.time + days * DAY)


def taught(
    folder: Path,
    version: str,
    lesson: Callable[[npt.NDArray[np.int16]], npt.NDArray[np.int16]] = lambda labels: labels,
    *,
    name: str = "toy",
    seed: int = 0,
    schema: TrafficSchema | None = None,
) -> Bundle:
    """A bundle of the model `name` in `folder`, trained on labels that `lesson` has made of the true ones: whole,
    in accordance with its own golden rows, and as good or as bad as the lesson."""
    from robustidps.training import train_bundle

    parts = []
    for traffic in (toy_traffic(900, seed=3), later(toy_traffic(400, seed=4), 1)):
        said = replace(traffic, labels=lesson(traffic.labels.copy()))
        parts.append(said if schema is None else replace(said, schema=schema))
    settings = LinearSettings(seed=seed, epochs=150, learning_rate=0.5)
    train_bundle(Linear(), settings, *parts, name=name, version=version, out=folder)
    return open_bundle(folder)


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
