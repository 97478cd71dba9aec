"""Simulated traffic, held-out days: the neural ODE over seeds beside a boosted tree on the same rows.

    python -m benchmarks simulated [--seeds 3] [--write]

The data set and its split are `robustidps train`'s own (`configs/training/simulated.yaml`): the first week trains, the
next day validates, the last six days are looked at once. Intervals are block bootstraps over campaigns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._pages import circumstances, table, write_section
from robustidps.decisions import fit_thresholds
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.report import Evaluation
from robustidps.families import family_settings, get_family
from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset
from robustidps.traffic.splits import Split
from robustidps.training import fit

MINUTES = 5
SHOWN = (
    "accuracy",
    "macro_f1",
    "false_positive_rate",
    "recall_at_fpr_1e-2",
    "alert_false_positive_rate",
    "alert_recall",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the neural ODE")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = load_dataset("simulated", folder=Path(folder))
    split = split_dataset(parts, dataset_config("simulated"))
    ours = [neural_ode(split, seed) for seed in range(arguments.seeds)]
    tree = boosted_tree(split)
    text = report(ours, tree, split) + "\n\n" + circumstances("python -m benchmarks simulated --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'simulated', text)}")
    return 0


def neural_ode(split: Split, seed: int) -> Evaluation:
    family = get_family("neural_ode")
    fitted = fit(family, family_settings(family, {"seed": seed}), split.train, split.validation)
    return _judged(f"seed {seed}", fitted.probabilities, fitted.thresholds, split)


def boosted_tree(split: Split) -> Evaluation:
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
    return _judged("LightGBM", probabilities, thresholds, split)


def _judged(name: str, probabilities: Callable[..., Any], thresholds: dict[str, float], split: Split) -> Evaluation:
    """The same evaluation that bundles get, for a model that isn't one."""
    meta = SimpleNamespace(name=name, version="0.0.0", thresholds=thresholds, training=None)
    model: Any = SimpleNamespace(
        probabilities=probabilities, metadata=meta, schema=split.test.schema, digest="", close=lambda: None
    )
    return evaluate(model, split.test, dataset="simulated", timing=False)[0]


def report(ours: list[Evaluation], tree: Evaluation, split: Split) -> str:
    """Both side by side, in Markdown."""

    def spread(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    def recall(evaluation: Evaluation, label: str) -> float:
        return evaluation.metric(f"recall.{label}") or 0.0

    rows = [
        [name, spread([e.metric(name) or 0.0 for e in ours]), str(ours[0].headline[name]), str(tree.headline[name])]
        for name in SHOWN
    ]
    rows += [
        [
            f"recall {c}",
            spread([recall(e, c) for e in ours]),
            str(ours[0].classes[c].recall),
            str(tree.classes[c].recall),
        ]
        for c in split.test.schema.classes
    ]
    header = [f"{len(split.test):,} held-out flows", f"neural_ode, {len(ours)} seeds", "seed 0", "LightGBM, balanced"]
    return (
        table(header, rows)
        + "\n\nMean (lowest to highest) over seeds; then one model each with its 95 % interval, resampled by "
        + f"{ours[0].blocks} ({ours[0].n_blocks} of them)."
    )


if __name__ == "__main__":
    raise SystemExit(main())
