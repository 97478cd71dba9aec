"""Every family's ONNX graph against its own framework, by batch size.

    python -m benchmarks exported [--seconds 1] [--write]

Both compute the same, standardised features to logits, and are timed in turns within one run on one thread: the ratio
is what to look at. Models are of the size that `configs/families/` gives, trained for one epoch on simulated traffic:
how long a row takes doesn't depend on how well it is told apart. (Boosted trees have no epochs; theirs are
as they come.)
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks._timing import BATCHES, own_graph, timed
from benchmarks.families import available
from robustidps.families import family_settings, get_family
from robustidps.training import fit

MINUTES = 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks exported", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing per batch size and peer")
    parser.add_argument("--only", nargs="*", metavar="FAMILY", help="these families alone")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("--write is for all families")
    split = split_of("simulated")
    lines = []
    for name in arguments.only or available():
        family = get_family(name)
        short = {"epochs": 1} if "epochs" in family.settings.model_fields else {}
        fitted = fit(family, family_settings(family, short), split.train, split.validation)
        x = fitted.preprocessing.transform(split.test.features)
        peers = {"ONNX": own_graph(fitted.trained), "native": fitted.trained.logits}
        for batch in BATCHES:
            rows = np.ascontiguousarray(np.resize(x, (batch, x.shape[1])))
            taken = timed({kind: partial(peer, rows) for kind, peer in peers.items()}, arguments.seconds)
            rates = [f"{batch / taken[kind]:,.0f}" for kind in peers]
            lines.append([f"{name}, batch {batch}", *rates, f"{taken['native'] / taken['ONNX']:.1f}"])
            print(" ".join(lines[-1]), file=sys.stderr, flush=True)
    text = "\n\n".join(
        [
            table(["family", "ONNX Runtime, rows/s", "its framework, rows/s", "times as fast"], lines),
            circumstances("python -m benchmarks exported --write") + " One thread. Absolute rates are of that machine.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'exported', text)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
