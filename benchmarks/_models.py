"""What several benchmarks train and compare: the neural ODE as configured, and a boosted tree on the same rows.

Neither becomes a bundle on disk, but both are judged by the evaluation that bundles get: `Stand` has what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.decisions import fit_thresholds
from robustidps.evaluation.evaluate import Predictions, evaluate
from robustidps.evaluation.report import Evaluation
from robustidps.families import family_settings, get_family
from robustidps.traffic.splits import Split
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import fit, tool_names

Probabilities = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Stand:
    """A trained model in the place of a bundle."""

    schema: Any
    probabilities: Probabilities
    metadata: Any
    digest: str = ""

    @classmethod
    def of(cls, name: str, train: TrafficSet, probabilities: Probabilities, thresholds: dict[str, float]) -> Stand:
        facts = SimpleNamespace(
            tools=tool_names(train, train.labels > 0), services=tool_names(train, train.labels == 0)
        )
        metadata = SimpleNamespace(name=name, version="0.0.0", thresholds=thresholds, training=facts)
        return cls(train.schema, probabilities, metadata)

    @property
    def pair(self) -> tuple[Probabilities, dict[str, float]]:
        """Features to probabilities, and the thresholds of its alerts."""
        return self.probabilities, self.metadata.thresholds

    def judged(self, test: TrafficSet, dataset: str, **options: Any) -> tuple[Evaluation, Predictions]:
        return evaluate(self, test, dataset=dataset, timing=False, **options)


def neural_ode(split: Split, seed: int, **overrides: Any) -> Stand:
    family = get_family("neural_ode")
    fitted = fit(family, family_settings(family, {"seed": seed} | overrides), split.train, split.validation)
    return Stand.of(f"seed {seed}", split.train, fitted.probabilities, fitted.thresholds)


def boosted_tree(split: Split) -> Stand:
    """LightGBM's defaults with balanced class weights, on raw features."""
    import lightgbm

    model = lightgbm.LGBMClassifier(class_weight="balanced", n_jobs=1, verbose=-1)
    model.fit(split.train.features, split.train.labels)
    classes = split.train.schema.output_dim

    def probabilities(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        out = np.zeros((len(x), classes), np.float32)
        out[:, model.classes_] = model.predict_proba(x)
        return out

    validation = split.validation
    thresholds = fit_thresholds(probabilities(validation.features), validation.labels, validation.schema)
    return Stand.of("LightGBM", split.train, probabilities, thresholds)


def spread(values: Sequence[float | None]) -> str:
    """Mean (lowest to highest); a dash where any is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    return f"{np.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if len(known) > 1 else f"{known[0]:.3f}"


def side_by_side(names: Sequence[str], ours: Sequence[Evaluation], tree: Evaluation) -> list[list[str]]:
    """A row a figure: over seeds, then seed 0 and the tree with their intervals."""
    return [
        [name, spread([e.metric(name) for e in ours]), str(ours[0].headline[name]), str(tree.headline[name])]
        for name in names
    ]
