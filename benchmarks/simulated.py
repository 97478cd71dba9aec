"""Simulated traffic, held-out days: the neural ODE over seeds beside a boosted tree on the same rows.

    python -m benchmarks simulated [--seeds 3] [--write]

The data set and its split are `robustidps train`'s own (`configs/training/simulated.yaml`): the first week trains, the
next day validates, the last six days are looked at once. Intervals are block bootstraps over campaigns. The same
models are then asked about the real captures, of which they have seen nothing.
"""

from __future__ import annotations

import argparse

from benchmarks._beside import compared, trained
from benchmarks._pages import circumstances, write_section
from benchmarks._real import real_captures, transfer
from benchmarks._splits import split_of

MINUTES = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the neural ODE")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    split = split_of("simulated")
    ours, tree = trained(split, arguments.seeds)
    columns = {f"neural_ode, {len(ours)} seeds": ours, "seed 0": ours[:1], "LightGBM, balanced": [tree]}
    asked = {name: [model.pair for model in models] for name, models in columns.items()}
    text = compared(split, "simulated", ours, tree) + "\n\n" + transfer(real_captures(), asked)
    text += "\n\n" + circumstances("python -m benchmarks simulated --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'simulated', text)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
