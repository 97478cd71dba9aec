"""The table that several benchmarks print: the neural ODE over seeds beside a boosted tree on the same split."""

from __future__ import annotations

import sys
import time

from benchmarks._models import Stand, boosted_tree, neural_ode, side_by_side, spread
from benchmarks._pages import table
from robustidps.traffic.splits import Split

SHOWN = (
    "accuracy",
    "macro_f1",
    "false_positive_rate",
    "recall_at_fpr_1e-2",
    "alert_false_positive_rate",
    "alert_recall",
)


def trained(split: Split, seeds: int) -> tuple[list[Stand], Stand]:
    """The neural ODE, one for each seed, and a boosted tree."""
    ours = []
    for seed in range(seeds):
        started = time.perf_counter()
        ours.append(neural_ode(split, seed))
        print(f"neural_ode seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return ours, boosted_tree(split)


def compared(split: Split, dataset: str, models: list[Stand], plain: Stand, rows: str = "held-out flows") -> str:
    """Both side by side on the test part, in Markdown. rows: what the data set's rows are called."""
    ours = [model.judged(split.test, dataset)[0] for model in models]
    tree = plain.judged(split.test, dataset)[0]
    lines = side_by_side(SHOWN, ours, tree)
    lines += [
        [
            f"recall {c}",
            spread([e.metric(f"recall.{c}") for e in ours]),
            str(ours[0].classes[c].recall),
            str(tree.classes[c].recall),
        ]
        for c in split.test.schema.classes
    ]
    header = [f"{len(split.test):,} {rows}", f"neural_ode, {len(ours)} seeds", "seed 0", "LightGBM, balanced"]
    return (
        table(header, lines)
        + "\n\nMean (lowest to highest) over seeds; then one model each with its 95 % interval, resampled by "
        + f"{ours[0].blocks} ({ours[0].n_blocks} of them)."
    )
