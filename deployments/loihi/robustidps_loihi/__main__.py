"""python -m robustidps_loihi FOLDER [--progress FD], or --versions.

FOLDER holds `model.nir`, `inputs.npz` (`data`; for fixed point also the integers of each layer) and `request.json`
(mode, batch, raster, token). `results.npz` is written there, whole or not at all. Exit code 3: refused, the last line
says why.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from robustidps_loihi import PROTOCOL


def versions():
    from importlib.metadata import version

    return {
        "protocol": PROTOCOL,
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in ("lava-nc", "nir", "numpy")},
    }


def main():
    parser = argparse.ArgumentParser(prog="robustidps_loihi", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--progress", type=int, default=None, help="file descriptor for progress")
    parser.add_argument("--versions", action="store_true", help="print what is installed, as JSON")
    options = parser.parse_args()
    if options.versions:
        print(json.dumps(versions()))
        return 0
    if options.folder is None:
        parser.error("a folder is needed")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # each of Lava's processes has a processor's work already
    import nir
    import numpy as np

    from robustidps_loihi.network import Refused, run

    folder = options.folder
    try:
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        with np.load(folder / "inputs.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        data = arrays.pop("data")
        results = run(
            nir.read(folder / "model.nir"),
            data,
            fixed=arrays if request["mode"] == "fixed" else None,
            batch=int(request["batch"]),
            raster=int(request["raster"]),
            token=str(request["token"]),
            progress=options.progress,
        )
    except Refused as error:
        print(f"refused: {error}", flush=True)
        return 3
    partial = folder / "results.npz.part"
    with partial.open("wb") as file:
        np.savez(file, **results)
    partial.replace(folder / "results.npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
