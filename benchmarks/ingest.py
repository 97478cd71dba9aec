"""Captures: our sandboxed extraction against NFStream called directly, packets a second.

Both read the same simulated capture with the same settings, in turns within one run, so that a busy machine slows
them alike; the ratio is what to look at. Ours includes all it does around NFStream: walking the record headers,
hashing the file, starting the sandbox, checking records, deriving features, sorting. The peer gives a pandas frame.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section

MINUTES = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ingest", description=__doc__)
    parser.add_argument("--packets", type=int, default=60_000, help="in the capture, about")
    parser.add_argument("--rounds", type=int, default=3, help="readings by each peer")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/data.md")
    arguments = parser.parse_args()

    from nfstream import NFStreamer

    from robustidps.traffic.capture import extract, inspect
    from robustidps.traffic.simulator import fresh_capture

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.pcap"
        fresh_capture(path, seed=1, packets=arguments.packets)
        os.chdir(folder)  # NFStream writes a temporary CSV into the current folder

        def direct() -> int:
            streamer = NFStreamer(str(path), statistical_analysis=True, n_dissections=0, accounting_mode=1)
            return len(streamer.to_pandas())

        peers: dict[str, Callable[[], int]] = {
            "robustidps extract": lambda: len(extract(path)),
            "NFStream to_pandas()": direct,
            "header walk alone": lambda: inspect(path).packets,
        }
        taken: dict[str, list[float]] = {name: [] for name in peers}
        found = {}
        for _ in range(arguments.rounds):
            for name, peer in peers.items():
                started = time.perf_counter()
                found[name] = peer()
                taken[name].append(time.perf_counter() - started)
        packets, size = inspect(path).packets, path.stat().st_size
    medians = {name: float(np.median(values)) for name, values in taken.items()}
    ours = medians["robustidps extract"]
    rows = [
        [name, f"{seconds:.2f}", f"{packets / seconds:,.0f}", f"{seconds / ours:.2f}"]
        for name, seconds in medians.items()
    ]
    text = "\n\n".join(
        [
            table(["reader", "median s", "packets/s", "times our time"], rows),
            f"{packets:,} packets, {size / 1e6:.1f} MB, {found['robustidps extract']:,} flows of ours and "
            f"{found['NFStream to_pandas()']:,} of NFStream's own. "
            + circumstances("python -m benchmarks ingest")
            + " Absolute figures are of that machine.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('data.md', 'ingest', text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
