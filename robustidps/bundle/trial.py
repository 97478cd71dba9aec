"""The first load and run of a graph that somebody else made, in a process of its own.

The audit looks at bytes; it can't know that ONNX Runtime doesn't crash on them, or that a graph of allowed operators
doesn't ask for all memory or an hour (`Expand` to a terabyte is one node). So what has passed the audit is loaded and
run once in a confined process (`robustidps.sandbox`), on all rows and on single ones: a crash, a limit or an answer of
another shape is a refusal, and nothing of it has been loaded here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import INPUT, OUTPUT
from robustidps.errors import BundleError
from robustidps.progress import Progress, silent
from robustidps.sandbox import Limits, run
from robustidps.settings import writable

__all__ = ["LIMITS", "read_matrix", "try_graph"]

LIMITS = Limits(seconds=60.0, memory_bytes=4 * 2**30, file_bytes=2**30)

Floats = npt.NDArray[np.float32]


def try_graph(
    model: bytes,
    x: Floats,
    columns: int,
    *,
    names: tuple[str, str] = (INPUT, OUTPUT),
    limits: Limits = LIMITS,
    where: object = "model.onnx",
    progress: Progress = silent,
) -> Floats:
    """What an audited graph gives for rows `x` [N, F], N >= 1: float32 [N, columns], maybe with NaN in it.

    Args:
        names: of the graph's input and output.

    Raises:
        BundleError: ONNX Runtime refuses it or crashes on it, it goes beyond a limit, or its answer has another shape.
    """
    with writable(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="robustidps-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        (folder / "rows.f32").write_bytes(np.ascontiguousarray(x, dtype=np.float32).tobytes())
        request = {"width": x.shape[1], "columns": columns, "names": names}
        module = "robustidps.bundle._trial_worker"
        run(module, request, folder, limits=limits, where=where, stage="trying the model", progress=progress)
        return read_matrix(folder / "out.f32", len(x), columns, where)


def read_matrix(path: Path, rows: int, columns: int, where: object) -> Floats:
    """The float32 matrix a worker left, if it has exactly this size. Raises BundleError."""
    size = rows * columns * 4
    try:
        with path.open("rb") as file:
            data = file.read(size + 1)
    except OSError as error:
        raise BundleError(f"the process that tried it left no answer: {error.strerror}", where=where) from None
    if len(data) != size:
        raise BundleError(f"doesn't give {columns} figures for each of {rows} rows", where=where)
    return np.frombuffer(data, np.float32).reshape(rows, columns).copy()
