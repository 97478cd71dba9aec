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


def timed(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, taken in turns until `seconds` per call are used up."""
    for call in calls.values():
        call()
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    ends = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < ends or not all(taken.values()):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in taken.items()}


def own_graph(trained: Any) -> Call:
    """ONNX Runtime, on one thread, on the graph that a trained model exports: standardised rows [N, D] to logits."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.onnx"
        trained.export_onnx(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: rows})[0]
