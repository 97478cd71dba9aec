"""Neural ODE: ONNX Runtime against eager PyTorch and against torchdiffeq's dopri5, by batch size.

    python -m benchmarks neural_ode [--seconds 2] [--write]

All are timed in turns within one run, on one thread, so that a busy machine slows them alike; the ratio is what to look
at. They compute the same, standardised features to logits, of one network trained on simulated traffic. dopri5 runs
twice: with tolerances that bring its logits about as close to the exact solution as ours, and with torchdiffeq's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks._timing import BATCHES, own_graph, timed
from robustidps.families import family_settings, get_family
from robustidps.training import fit

MINUTES = 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks neural_ode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing per batch size and peer")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()

    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(1)
    split = split_of("simulated")
    family = get_family("neural_ode")
    fitted = fit(family, family_settings(family), split.train, split.validation)
    model: Any = fitted.trained
    network = model.network
    x = fitted.preprocessing.transform(np.resize(split.test.features, (max(BATCHES), split.test.schema.input_dim)))

    def dopri5(rows: np.ndarray, net: Any = network, **tolerances: float) -> np.ndarray:
        with torch.inference_mode():
            start = torch.from_numpy(rows).to(net.encoder.weight.dtype)
            times = torch.tensor([0.0, net.t1], dtype=start.dtype)
            return net.decoder(odeint(net.f, net.encode(start), times, method="dopri5", **tolerances)[-1]).numpy()

    peers: dict[str, Callable[[np.ndarray], Any]] = {
        "ONNX Runtime": own_graph(model),
        "PyTorch eager": model.logits,
        "dopri5, rtol 1e-5": partial(dopri5, rtol=1e-5, atol=1e-6),
        "dopri5, torchdiffeq's defaults": dopri5,
    }
    exact = dopri5(x[:512], net=deepcopy(network).double(), rtol=1e-10, atol=1e-12)
    gaps = {name: float(np.abs(np.asarray(peer(x[:512])) - exact).max()) for name, peer in peers.items()}
    lines = []
    for batch in BATCHES:
        rows = x[:batch]
        medians = timed({name: partial(peer, rows) for name, peer in peers.items()}, arguments.seconds)
        ours = medians["ONNX Runtime"]
        for name, seconds in medians.items():
            rate = f"{batch / seconds:,.0f}"
            lines.append([f"{name}, batch {batch}", f"{seconds * 1e3:.3f}", rate, f"{seconds / ours:.1f}"])
    text = "\n\n".join(
        [
            table(["peer", "median ms", "rows/s", "times ONNX Runtime's time"], lines),
            "Largest difference of a logit from the exact solution's (dopri5 in float64, rtol 1e-10) on 512 rows: "
            + ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items())
            + f". Ours takes {network.steps} Runge-Kutta steps of order 4.",
            circumstances("python -m benchmarks neural_ode") + " One thread. Absolute times are of that machine.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'neural_ode', text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
