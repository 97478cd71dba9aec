"""How long a bundle takes: ONNX Runtime on one thread of this host, by batch size.

Latency is that of `bundle.probabilities` called from Python on one row; throughput that of batches. Both say
something about this host while it did whatever else it does, which is why rules compare them with ample ceilings.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.evaluation.report import Timing
from robustidps.progress import Progress, silent

__all__ = ["BATCHES", "measure"]

BATCHES = (1, 64, 1024, 4096)
_REPEATS = {1: 1000}
_MIN_REPEATS, _MAX_REPEATS, _SECONDS = 7, 200, 0.4


def measure(
    bundle: Any,
    features: npt.NDArray[np.float32],
    *,
    batches: Sequence[int] = BATCHES,
    progress: Progress = silent,
) -> list[Timing]:
    """Times `bundle.probabilities` on rows of `features` [N, F], N >= 1, repeated where a batch is larger than N.

    A batch size is repeated for 0.4 s, 7 to 200 times (batch 1: up to 1000 times and 2 s), after three warm-up calls;
    the garbage collector waits meanwhile.
    """
    timings = []
    for number, batch in enumerate(batches):
        progress("timing", number, len(batches), unit="batch sizes")
        rows = np.ascontiguousarray(np.resize(features, (batch, features.shape[1])))
        for _ in range(3):
            bundle.probabilities(rows)
        most = _REPEATS.get(batch, _MAX_REPEATS)
        budget = 2.0 if batch == 1 else _SECONDS
        taken: list[float] = []
        enabled = gc.isenabled()
        gc.disable()
        try:
            begun = time.perf_counter()
            while len(taken) < _MIN_REPEATS or (len(taken) < most and time.perf_counter() - begun < budget):
                start = time.perf_counter()
                bundle.probabilities(rows)
                taken.append(time.perf_counter() - start)
        finally:
            if enabled:
                gc.enable()
        p50, p99 = np.percentile(taken, (50, 99))
        timings.append(
            Timing(batch=batch, p50_ms=p50 * 1e3, p99_ms=p99 * 1e3, rows_per_second=batch / max(float(p50), 1e-9))
        )
    progress("timing", len(batches), len(batches), unit="batch sizes")
    return timings
