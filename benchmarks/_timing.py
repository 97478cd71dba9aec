"""Timing peers against each other: in turns, within one run, so that a busy machine slows them alike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCHES = (1, 64, 4096)
Call = Callable[[npt.NDArray[np.float32]], object]


def timed(
    calls: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each call by `clock`, taken in turns until `seconds` per call are used up."""
    for call in calls.values():
        call()
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    ends = clock() + seconds * len(calls)
    while clock() < ends or not all(taken.values()):
        for name, call in calls.items():
            started = clock()
            call()
            taken[name].append(clock() - started)
    return {name: float(np.median(values)) for name, values in taken.items()}


def opened(path: Path) -> Call:
    """ONNX Runtime, on one thread, on a graph with one input: rows [N, D] to its first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: rows})[0]


def own_graph(trained: Any) -> Call:
    """The graph that a trained model exports: standardised rows [N, D] to logits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.onnx"
        trained.export_onnx(path)
        return opened(path)
