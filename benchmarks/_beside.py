"""The neural ODE over seeds beside a boosted tree on the same split, judged as bundles are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._pages import table
from robustidps.decisions import fit_thresholds
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.report import Evaluation
from robustidps.families import family_settings, get_family
from robustidps.traffic.splits import Split
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import fit

Asked = tuple[Callable[..., Any], dict[str, float]]
"""A model's probabilities and thresholds."""
SHOWN = (
    "accuracy",
    "macro_f1",
    "false_positive_rate",
    "recall_at_fpr_1e-2",
    "alert_false_positive_rate",
    "alert_recall",
)


def compared(split: Split, dataset: str, seeds: int, rows: str = "held-out flows") -> str:
    """Both side by side, in Markdown. rows: what the data set's rows are called."""
    ours = []
    for seed in range(seeds):
        started = time.perf_counter()
        ours.append(neural_ode(split, dataset, seed))
        print(f"neural_ode seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    tree = boosted_tree(split, dataset)
    lines = [
        [name, spread([e.metric(name) or 0.0 for e in ours]), str(ours[0].headline[name]), str(tree.headline[name])]
        for name in SHOWN
    ]
    lines += [
        [
            f"recall {c}",
            spread([e.metric(f"recall.{c}") or 0.0 for e in ours]),
            str(ours[0].classes[c].recall),
            str(tree.classes[c].recall),
        ]
        for c in split.test.schema.classes
    ]
    header = [f"{len(split.test):,} {rows}", f"neural_ode, {len(ours)} seeds", "seed 0", "LightGBM, balanced"]
    blocks = ours[0]
    return (
        table(header, lines)
        + "\n\nMean (lowest to highest) over seeds; then one model each with its 95 % interval, resampled by "
        + f"{blocks.blocks} ({blocks.n_blocks} of them)."
    )


def neural_ode(split: Split, dataset: str, seed: int) -> Evaluation:
    family = get_family("neural_ode")
    fitted = fit(family, family_settings(family, {"seed": seed}), split.train, split.validation)
    return judged(f"seed {seed}", (fitted.probabilities, fitted.thresholds), split.test, dataset)


def boosted_tree(split: Split, dataset: str) -> Evaluation:
    return judged("LightGBM", fitted_tree(split), split.test, dataset)


def fitted_tree(split: Split) -> Asked:
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
    return probabilities, thresholds


def spread(values: list[float]) -> str:
    """`mean (lowest to highest)`."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def judged(name: str, asked: Asked, part: TrafficSet, dataset: str, evaded: TrafficSet | None = None) -> Evaluation:
    """The same evaluation that bundles get, for a model that isn't one."""
    probabilities, thresholds = asked
    meta = SimpleNamespace(name=name, version="0.0.0", thresholds=thresholds, training=None)
    model: Any = SimpleNamespace(
        probabilities=probabilities, metadata=meta, schema=part.schema, digest="", close=lambda: None
    )
    return evaluate(model, part, dataset=dataset, evaded=evaded, timing=False)[0]
