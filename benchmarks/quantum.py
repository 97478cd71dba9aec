"""Quantum: the compiled circuit in ONNX Runtime against PennyLane's QNodes, and a training step against PennyLane's.

Each pair is timed in turns within one run, on one thread, so that a busy machine slows both alike; the ratio is what to
look at. Inference is of the family's own graph, standardised features to logits; PennyLane's side computes the same
logits, with the same classical layers around its default.qubit device. A training step is forward, backward and AdamW
on 64 rows; PennyLane's is the same module with its circuit run by one broadcast QNode call, differentiated through
torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import circumstances, table, write_section

MINUTES = 2
INPUTS, CLASSES, BATCH = 64, 13, 64
QUBITS = (4, 8)
OURS = "ONNX Runtime, compiled"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quantum", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing per peer; the loop is run twice at least")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    answered = [answering(qubits, arguments.seconds) for qubits in QUBITS]
    stepped = [stepping(qubits, arguments.seconds) for qubits in QUBITS]
    text = "\n\n".join(
        [
            table(
                ["64 rows to logits", "median ms", "times ONNX Runtime's time"],
                [r for rows, _ in answered for r in rows],
            ),
            "Largest difference of a logit from ONNX Runtime's: "
            + ", ".join(f"{gap:.0e} at {n} qubits" for n, (_, gap) in zip(QUBITS, answered, strict=True))
            + ".",
            table(
                ["a training step, 64 rows", "median ms", "times ours"], [row for rows, _ in stepped for row in rows]
            ),
            "Largest difference of a loss and of a gradient from PennyLane's: "
            + ", ".join(f"{v:.0e} and {g:.0e} at {n} qubits" for n, (_, (v, g)) in zip(QUBITS, stepped, strict=True))
            + ".",
            circumstances("python -m benchmarks quantum")
            + " One thread, 3 layers. Absolute times are of that machine.",
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'quantum', text)}")
    return 0


def rows_of(count: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, INPUTS)).astype(np.float32)
    y = (x[:, :CLASSES] + 0.5 * rng.normal(size=(count, CLASSES))).argmax(axis=1)
    return x, y.astype(np.int64)


def timed(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, taken in turns until about `seconds` per peer are used up, twice at least.

    A turn of a quick call is as many as fit into 20 ms: one alone, after a slow peer has had the cache, would be timed
    by what it has to fetch again.
    """
    once: dict[str, float] = {}
    for name, call in calls.items():
        call()
        started = time.perf_counter()
        call()
        once[name] = time.perf_counter() - started
    taken: dict[str, list[float]] = {name: [] for name in calls}
    ends = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < ends or len(taken[name]) < 2:
        for name, call in calls.items():
            repeats = max(1, int(0.02 / once[name]))
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            taken[name].append((time.perf_counter() - started) / repeats)
    return {name: float(np.median(values)) for name, values in taken.items()}


def answering(qubits: int, seconds: float) -> tuple[list[list[str]], float]:
    """Rows of the table for inference, and the largest difference between peers."""
    import pennylane as qml
    import torch

    from robustidps.bundle.session import Session
    from robustidps.families import Standardised, TrainingContext, family_settings, get_family
    from robustidps.models._circuits import pennylane_node

    x, y = rows_of(1024)
    family, data = get_family("quantum"), Standardised(x, y)
    settings = family_settings(family, {"epochs": 1, "qubits": qubits})
    model: Any = family.train(settings, data, data, TrainingContext(CLASSES, np.ones(CLASSES, np.float32)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.onnx"
        model.export_onnx(path)
        session = Session(path.read_bytes(), path, names=("x", "logits"))
    node = pennylane_node(qml.device("default.qubit", wires=qubits), qubits)
    network, weights = model.network, model.circuit_weights

    def hybrid(rows: np.ndarray, measure: Callable[[Any], Any]) -> np.ndarray:
        """The family's network as PennyLane and torch alone would have it."""
        with torch.inference_mode():
            z = measure(network.angles(torch.from_numpy(rows)))
            return network.decoder(z.float()).numpy()

    def plain(rows: np.ndarray, measure: Callable[[Any], Any]) -> np.ndarray:
        """The same with NumPy in the circuit: PennyLane at its quickest."""
        return model.decode(measure(model.angles(rows)))

    peers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        OURS: session.run,
        "PyTorch, compiled": model.logits,
        "QNode on torch, one call": lambda rows: hybrid(rows, lambda t: torch.stack(node(t, network.weights), dim=-1)),
        "QNode on torch, a call a row": lambda rows: hybrid(
            rows, lambda t: torch.stack([torch.stack(node(row, network.weights)) for row in t])
        ),
        "QNode on NumPy, one call": lambda rows: plain(rows, lambda t: np.stack(node(t, weights), axis=-1)),
        "QNode on NumPy, a call a row": lambda rows: plain(
            rows, lambda t: np.stack([np.stack(node(row, weights)) for row in t])
        ),
    }
    rows = x[:BATCH]
    answers = {name: peer(rows) for name, peer in peers.items()}
    first = answers[OURS]
    medians = timed({name: partial(peer, rows) for name, peer in peers.items()}, seconds / 2)
    ours = medians[OURS]
    lines = [[f"{name}, {qubits} qubits", f"{s * 1e3:,.3f}", f"{s / ours:,.0f}"] for name, s in medians.items()]
    return lines, max(float(np.abs(answer - first).max()) for answer in answers.values())


def stepping(qubits: int, seconds: float) -> tuple[list[list[str]], tuple[float, float]]:
    """Rows of the table for a training step, and the largest differences of loss and gradient before the first."""
    import pennylane as qml
    import torch

    from robustidps.models._circuits import pennylane_node
    from robustidps.models.quantum import QuantumSettings, _network_class

    x, y = (torch.from_numpy(part) for part in rows_of(BATCH))
    node = pennylane_node(qml.device("default.qubit", wires=qubits), qubits)

    def made() -> Any:
        torch.manual_seed(0)
        return _network_class()(INPUTS, CLASSES, QuantumSettings(qubits=qubits)).train()

    ours, theirs = made(), made()
    theirs.forward = lambda x: theirs.decoder(torch.stack(node(theirs.angles(x), theirs.weights), dim=1).float())

    def loss_of(network: Any) -> Any:
        return torch.nn.functional.cross_entropy(network(x), y)

    losses, gradients = [], []
    for network in (ours, theirs):
        loss = loss_of(network)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    gaps = abs(losses[0] - losses[1]), float((gradients[0] - gradients[1]).abs().max())

    def stepper(network: Any) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            loss_of(network).backward()
            optimiser.step()

        return step

    medians = timed({"ours": stepper(ours), "broadcast QNode": stepper(theirs)}, seconds)
    lines = [
        [f"{name}, {qubits} qubits", f"{s * 1e3:,.2f}", f"{s / medians['ours']:.1f}"] for name, s in medians.items()
    ]
    return lines, gaps


if __name__ == "__main__":
    sys.exit(main())
