"""Quantum: how its settings were chosen, on validation rows of simulated days and of NSL-KDD's training file.

    python -m benchmarks quantum_selection [--only CANDIDATE ..] [--keep FILE] [--write]

Each candidate changes one thing, the last few what had helped together. On simulated traffic it trains on a sample of
the training days and is judged on the validation day; on NSL-KDD it trains on a sample of KDDTrain+ without the attack
types of `nsl_kdd`'s first fold, stops on a tenth and is judged on another. No held-out day and no test file is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks.nsl_kdd import folds
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import Standardised, TrainingContext, family_settings, get_family
from robustidps.preprocessing import Preprocessing
from robustidps.traffic.loaders import load
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import class_weights

MINUTES = 12
ROWS = 12_000

PLAIN: dict[str, Any] = {
    "qubits": 4,
    "layers": 3,
    "scale": float(np.pi),
    "hidden": 32,
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 0.01,
    "weight_decay": 0.001,
}
"""Where the search began; each candidate below changes what it names."""

CANDIDATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "learning_rate 0.003": {"learning_rate": 0.003},
    "learning_rate 0.03": {"learning_rate": 0.03},
    "batch_size 256": {"batch_size": 256},
    "weight_decay 0": {"weight_decay": 0.0},
    "weight_decay 0.1": {"weight_decay": 0.1},
    "epochs 15": {"epochs": 15},
    "epochs 60": {"epochs": 60},
    "hidden 128": {"hidden": 128},
    "scale pi/2": {"scale": float(np.pi / 2)},
    "layers 2": {"layers": 2},
    "layers 6": {"layers": 6},
    "qubits 6": {"qubits": 6},
    "qubits 8": {"qubits": 8},
    "epochs 60, hidden 128": {"epochs": 60, "hidden": 128},
    "epochs 60, hidden 128, scale pi/2": {"epochs": 60, "hidden": 128, "scale": float(np.pi / 2)},
    "the same, seed 1": {"epochs": 60, "hidden": 128, "scale": float(np.pi / 2), "seed": 1},
    "plain, seed 1": {"seed": 1},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quantum_selection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / "../shared/data/nsl_kdd", help="folder of KDDTrain+")
    parser.add_argument("--only", nargs="*", metavar="CANDIDATE", help="these settings alone")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="JSON of what was judged before; goes on from there")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    sets = dict(prepared(arguments.data_dir))
    kept: dict[str, list[float]] = {}
    if arguments.keep and arguments.keep.is_file():
        kept = json.loads(arguments.keep.read_text(encoding="utf-8"))
    lines = []
    for name, overrides in CANDIDATES.items():
        if arguments.only and name not in arguments.only:
            continue
        if name not in kept:
            kept[name] = [judged(PLAIN | overrides, *parts) for parts in sets.values()]
            if arguments.keep:
                arguments.keep.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        lines.append((float(np.mean(kept[name])), name, kept[name]))
        print(lines[-1], file=sys.stderr, flush=True)
    lines.sort(reverse=True)
    attacks = {name: np.bincount(parts[2].y, minlength=parts[3]) for name, parts in sets.items()}
    rarest = ", ".join(f"{counts[counts > 0].min()} rows on {name}" for name, counts in attacks.items())
    cells = [[name, f"{mean:.3f}", *(f"{score:.3f}" for score in scores)] for mean, name, scores in lines]
    text = "\n\n".join(
        [
            table(["setting", "mean", *sets], cells),
            f"Macro-F1 on validation rows after training on {ROWS:,} rows. The rarest class has {rarest}: finding it "
            "or not moves macro-F1 more than most settings do, so differences between single runs are largely chance. "
            "The best with 4 qubits and 3 layers, which were given, became the configuration.",
            circumstances(f"python -m benchmarks quantum_selection {'--keep FILE ' if arguments.keep else ''}--write")
            + (" In more than one run, going on from the file." if arguments.keep else ""),
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'quantum_selection', text)}")
    return 0


def prepared(folder: Path) -> Iterator[tuple[str, tuple[Standardised, Standardised, Standardised, int]]]:
    """For each data set: rows to train on, to stop on and to be judged by, and the number of classes."""
    split = split_of("simulated")
    rng = np.random.default_rng(0)
    sample = split.train.select(np.sort(rng.permutation(len(split.train))[:ROWS]))
    # One validation day is all there is: its rows both stop and judge, for every candidate alike.
    yield "simulated", standardised(sample, split.validation, split.validation)
    traffic = load("nsl_kdd", folder, part="train")
    train, stop, seen, _ = next(folds(traffic, ROWS))
    yield "NSL-KDD", standardised(*(traffic.select(rows) for rows in (train, stop, seen)))


def standardised(train: TrafficSet, *others: TrafficSet) -> tuple[Any, ...]:
    preprocessing = Preprocessing.fit(train.schema, train.features)
    parts = [Standardised(preprocessing.transform(p.features), p.labels.astype(np.int64)) for p in (train, *others)]
    return *parts, train.schema.output_dim


def judged(overrides: dict[str, Any], train: Standardised, stop: Standardised, judge: Standardised, n: int) -> float:
    family = get_family("quantum")
    context = TrainingContext(n, class_weights(train.y, n))
    model = family.train(family_settings(family, overrides), train, stop, context)
    return float(macro_f1(confusion_matrix(judge.y, model.logits(judge.x).argmax(axis=1), n)))


if __name__ == "__main__":
    sys.exit(main())
