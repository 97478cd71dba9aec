"""The process in which a stranger's graph is loaded for the first time; started by `trial.py` through the sandbox."""

from __future__ import annotations

import sys
from pathlib import Path

from robustidps import sandbox


def main(folder: Path) -> None:
    request = sandbox.request_of(folder)
    held = sandbox.confine(folder, request)
    import numpy as np

    from robustidps.bundle.session import Session
    from robustidps.errors import BundleError

    try:
        x = np.fromfile(folder / "rows.f32", np.float32).reshape(-1, request["width"])
        model = (folder / "model.onnx").read_bytes()
        try:
            session = Session(model, "model.onnx", names=tuple(request["names"]))
            for batch, rows in ((1, x[:2]), (7, x[:14])):  # a batch size that an exporter has fixed fails here
                session.run(rows, batch)
            out = session.run(x)
        except BundleError as error:
            problem = error.problem
            if "bad_alloc" in problem or "Failed to allocate memory" in problem:
                raise MemoryError from None
            sandbox.refuse(folder, problem)
            return
        if out.shape != (len(x), request["columns"]) or out.dtype != np.float32:
            sandbox.refuse(folder, f"gives {out.dtype} {out.shape[1:]} a row, expected {request['columns']} float32")
            return
        out.tofile(folder / "out.f32")
        sandbox.reply(folder, {"sandbox": held})
    except MemoryError:
        sandbox.reply(folder, {"memory": True})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
