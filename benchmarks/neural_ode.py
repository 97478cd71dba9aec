"""Neural ODE: ONNX Runtime against eager PyTorch and against torchdiffeq's dopri5, by batch size.

All three are timed in turns within one run, on one thread, so that a busy machine slows them alike; the ratio is what
to look at. The ONNX figure is of the family's own graph (standardised features to logits): the others compute the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section

MINUTES = 1
BATCHES = (1, 64, 4096)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks neural_ode", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing per batch size and peer")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()

    import onnxruntime
    import torch

    from robustidps.families import Standardised, TrainingContext, family_settings, get_family

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(max(BATCHES), 64)).astype(np.float32)
    y = (x[:, :13] + 0.5 * rng.normal(size=(len(x), 13))).argmax(axis=1)
    family = get_family("neural_ode")
    data = Standardised(x, y.astype(np.int64))
    settings = family_settings(family, {"epochs": 3})
    model = family.train(settings, data, data, TrainingContext(13, np.ones(13, np.float32)))
    network = model.network  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.onnx"
        model.export_onnx(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    peers: dict[str, Callable[[np.ndarray], object]] = {
        "ONNX Runtime": lambda rows: session.run(None, {"x": rows})[0],
        "PyTorch eager": model.logits,
    }
    try:
        from torchdiffeq import odeint
    except ImportError:
        print("torchdiffeq is not installed: left out", file=sys.stderr)
    else:
        times = torch.tensor([0.0, network.t1])

        def dopri5(rows: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                h = network.encode(torch.from_numpy(rows))
                return network.decoder(odeint(network.f, h, times, rtol=1e-4, atol=1e-5, method="dopri5")[-1]).numpy()

        peers["torchdiffeq dopri5"] = dopri5

    exact = model.logits(x[:512])
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
            "Largest difference of a logit from eager PyTorch's on 512 rows: "
            + ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items() if gap)
            + f" (dopri5 at rtol 1e-4; ours takes {network.steps} Runge-Kutta steps).",
            circumstances("python -m benchmarks neural_ode") + " One thread. Absolute times are of that machine.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'neural_ode', text)}")
    return 0


def timed(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, taken in turns until `seconds` per call are used up."""
    for call in calls.values():
        call()
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    ends = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < ends:
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in taken.items()}


if __name__ == "__main__":
    sys.exit(main())
