"""Lava's Loihi simulation, all samples side by side against the plain way: a network and a run for every sample.

    python -m benchmarks loihi [--rows 2000] [--alone 4] [--write]

64-256-256-13 neurons, 25 steps, direct input; weights are random, so scaled that about a quarter of the neurons fires.
"Side by side" is what `robustidps export loihi` does, from the call to the results, the start of the other Python
included. "One by one" is Lava's own Dense and LIF; a few samples are run, and the time of all is that of one sample
(the median) times their number. What both say of those samples must be the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from robustidps.errors import UnavailableError
from robustidps.loihi.quantising import quantise
from robustidps.loihi.runner import installed, simulate
from robustidps.loihi.subject import encode
from robustidps.nir import LIFLayer, LIFNetwork, write_nir
from robustidps.settings import Settings, get_settings

MINUTES = 1
SIZES, STEPS = (64, 256, 256, 13), 25


def network() -> LIFNetwork:
    rng = np.random.default_rng(0)
    layers = []
    for inputs, outputs, gain in zip(SIZES[:-1], SIZES[1:], (1.2, 2.0, 2.0), strict=True):
        weights = rng.normal(size=(outputs, inputs)) * gain / np.sqrt(inputs)
        layers.append(LIFLayer(weights, rng.normal(size=outputs) * 0.1, 3686 / 4096, 1.0))
    return LIFNetwork(tuple(layers), STEPS, "direct", 3.0)


def one_by_one(settings: Settings, nir: Path, data: Any, arrays: dict[str, Any]) -> tuple[Any, float]:
    """Counts, and the median seconds of a sample."""
    folder = nir.parent
    given: dict[str, Any] = {"data": data, **arrays}
    np.savez(folder / "inputs.npz", **given)
    (folder / "request.json").write_text(json.dumps({"mode": "fixed" if arrays else "float"}))
    command = [str(settings.loihi_python), "-I", "-m", "robustidps_loihi.one_by_one", str(folder)]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    with np.load(folder / "one_by_one.npz") as found:
        return found["counts"], float(np.median(found["seconds"]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loihi", description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="samples side by side")
    parser.add_argument("--alone", type=int, default=4, help="samples one by one")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the side-by-side way; the median counts")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/neuromorphic.md")
    arguments = parser.parse_args()
    settings = get_settings()
    try:
        installed(settings)
    except UnavailableError as error:
        print(f"left out: {error}")
        return 0
    net = network()
    x = np.random.default_rng(1).normal(size=(arguments.rows, SIZES[0])).astype(np.float32)
    quantised = quantise(net)
    modes: dict[str, tuple[Any, dict[str, Any]]] = {
        "floating point": (encode(net, x), {}),
        "fixed point": (quantised.inputs(net, x)[0], quantised.arrays()),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        nir = Path(name) / "model.nir"
        write_nir(nir, net)
        for mode, (data, arrays) in modes.items():
            taken = []
            for _ in range(arguments.repeats):
                begun = time.perf_counter()
                together = simulate(settings, nir, data, integers=arrays or None)
                taken.append(time.perf_counter() - begun)
            alone, each = one_by_one(settings, nir, data[: arguments.alone], arrays)
            assert np.array_equal(alone, together.counts[: arguments.alone]), "the two ways disagree"
            rate = float(together.totals.mean(axis=0).sum() / (sum(SIZES[1:]) * STEPS))
            mine = float(np.median(taken))
            rows.append(
                [
                    mode,
                    f"{each:.2f} s a sample",
                    f"{each * arguments.rows:,.0f} s (extrapolated from {arguments.alone})",
                    f"{mine:.2f} s",
                    f"{each * arguments.rows / mine:,.0f}",
                    f"{rate:.2f}",
                ]
            )
    head = ["arithmetic", "one by one", f"all {arguments.rows:,}", "side by side", "times as fast", "spikes a step"]
    text = table(head, rows) + "\n\n" + circumstances("python -m benchmarks loihi --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('neuromorphic.md', 'loihi', text)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
