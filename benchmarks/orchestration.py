"""Orchestration: a flow of 100 tasks on a running Prefect server, against the same functions called directly.

Two functions: one that does nothing, so that what is left is Prefect, and one that does a small step's work (statistics
of 2,000 flows with 64 features). Both ways are taken in turns within one run, so that a busy machine slows both alike.
A flow's time is from the call to its result, as a command sees it; its tasks run one after the other, as those of
`train` do. Before each flow the server is given some seconds to work off the events of the one before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section

MINUTES = 3
TASKS = 100
ROUNDS = 5
SETTLE_S = 5.0
ROWS, FEATURES = 2_000, 64


def nothing() -> int:
    return 0


def statistics_of_drift() -> int:
    """Means, spreads and quantiles of ROWS x FEATURES: a small step's worth of NumPy."""
    rows = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)
    rows.mean(axis=0), rows.std(axis=0)
    return int(np.histogram(rows, bins=20)[0].argmax())


FUNCTIONS: dict[str, Callable[[], int]] = {"nothing": nothing, "statistics of 2,000 flows": statistics_of_drift}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks orchestration", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/operations.md")
    arguments = parser.parse_args()

    from robustidps.flows import embedded
    from robustidps.settings import Settings
    from robustidps.system.services import services
    from robustidps.system.supervisor import running

    with tempfile.TemporaryDirectory(prefix="robustidps-orchestration-") as folder:
        settings = Settings(home=Path(folder))
        prefect = [s for s in services(settings) if s.name == "prefect"]
        with running(settings, listed=prefect) as up:
            os.environ["PREFECT_API_URL"] = f"{up.url('prefect')}/api"
            embedded(settings)
            rows = [row for name, function in FUNCTIONS.items() for row in measured(name, function, arguments.rounds)]
    text = "\n\n".join(
        [
            table(["100 calls of", "way", "median s", "range s", "more ms a task", "times the calls' time"], rows),
            circumstances("python -m benchmarks orchestration")
            + f" Median and range of {arguments.rounds} rounds, in turns; SQLite behind Prefect. Absolute times are of"
            " that machine, which others used too.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('operations.md', 'orchestration', text)}")
    return 0


def measured(name: str, function: Callable[[], int], rounds: int) -> list[list[str]]:
    from prefect import flow, task

    wrapped = task(name="step")(function)

    @flow(name="overhead", persist_result=False)
    def steps() -> int:
        return sum(wrapped() for _ in range(TASKS))

    def calls() -> int:
        return sum(function() for _ in range(TASKS))

    ways: dict[str, Callable[[], int]] = {"called": calls, "a flow of tasks": steps}
    assert steps() == calls()  # and once before anything is timed
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        time.sleep(SETTLE_S)
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            taken[way].append(time.perf_counter() - began)
    direct = statistics.median(taken["called"])
    more = statistics.median(b - a for a, b in zip(taken["called"], taken["a flow of tasks"], strict=True))
    lines = []
    for way, times in taken.items():
        median = statistics.median(times)
        each = more / TASKS if way == "a flow of tasks" else None
        lines.append(
            [
                name,
                way,
                f"{median:.3f}" if median >= 0.001 else "under 0.001",
                f"{min(times):.3f} to {max(times):.3f}",
                f"{1000 * each:.1f}" if each is not None else "-",
                f"{median / direct:.1f}" if way == "a flow of tasks" and direct > 0.01 else "-",
            ]
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
