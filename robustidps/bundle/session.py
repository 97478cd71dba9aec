"""ONNX Runtime, as everything here uses it: one thread a session, from bytes that were audited, errors of our own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import INPUT, OUTPUT
from robustidps.errors import BundleError, printable

__all__ = ["BATCH", "Session"]

BATCH = 4096
"""Rows that go in at once; bounds what the intermediate results of a large request take."""

Floats = npt.NDArray[np.float32]


class Session:
    """A model that is loaded. `run` may be called from several threads at once."""

    def __init__(self, model: bytes, where: object, *, names: tuple[str, str] = (INPUT, OUTPUT)) -> None:
        """Args: `model`: an ONNX file that has passed `audit`; `names`: of its input and output, if they aren't ours.

        Raises BundleError when ONNX Runtime refuses it.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        # Two threads on two busy cores halve throughput and give 10 ms tails (measured): one, and no pool at all.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        options.add_session_config_entry("session.load_model_format", "ONNX")
        self.where = where
        self._input, self._output = names
        try:
            self._session: Any = ort.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # else a model it can't load is tried twice, and standard output written to
            )
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions have no common base but Exception
            raise BundleError(f"ONNX Runtime can't load it: {printable(error, 300)}", where=where) from None

    def run(self, x: Floats, batch: int = BATCH) -> Floats:
        """Raw float32 [N, F] to probabilities float32 [N, C], `batch` rows at a time; N may be 0 only with C known.

        Raises:
            BundleError: the model fails on these rows.
        """
        parts = []
        for start in range(0, len(x), batch):
            rows = np.ascontiguousarray(x[start : start + batch])
            try:
                parts.append(self._session.run([self._output], {self._input: rows})[0])
            except Exception as error:  # noqa: BLE001 - see above
                raise BundleError(f"ONNX Runtime can't run it: {printable(error, 300)}", where=self.where) from None
            if parts[-1].shape[:1] != (len(rows),) or parts[-1].ndim != 2:
                raise BundleError(f"gives {parts[-1].shape} for {len(rows)} rows", where=self.where)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
