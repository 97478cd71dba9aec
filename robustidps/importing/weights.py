"""Files of weights alone: safetensors as they are, PyTorch's `.pt` through a confined process that has them unpickled.

A `.pt` file is a pickle. torch's `weights_only=True` reads it with an unpickler that builds tensors and plain
containers and refuses every other class; it runs in a process without network or files (`_weights_worker.py`, the one
place in RobustIDPS that unpickles at all), and what comes back is a safetensors file. A whole pickled model is refused.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import read_limited
from robustidps.bundle.files import NATIVE
from robustidps.errors import BundleError, InputError, MissingExtraError, printable
from robustidps.families import discover, family_settings, get_family
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import ModelMetadata
from robustidps.sandbox import Limits, run
from robustidps.settings import writable
from robustidps.traffic.schema import TrafficSchema

if TYPE_CHECKING:
    from robustidps.importing import Imported

__all__ = ["LIMITS", "of_family", "read"]

LIMITS = Limits(seconds=120.0, memory_bytes=8 * 2**30, file_bytes=2**30)

Floats = npt.NDArray[np.float32]


def read(path: Path, folder: Path, progress: Progress = silent) -> Path:
    """`path`'s tensors as a checked safetensors file in `folder`, an empty one.

    Raises:
        BundleError: it holds something else than named tensors. MissingExtraError: torch isn't installed.
    """
    data = read_limited(path, path)
    target = folder / "weights.safetensors"
    if path.suffix.lower() == ".safetensors":
        with writable(target):
            target.write_bytes(data)
    else:
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
            raise MissingExtraError("PyTorch, which reads this kind of file,", "torch")
        with writable(target):
            (folder / "weights.pt").write_bytes(data)
        module = "robustidps.importing._weights_worker"
        run(module, {}, folder, limits=LIMITS, where=path, stage="reading weights", progress=progress)
    try:
        NATIVE[".safetensors"](read_limited(target, path))
    except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
        raise BundleError(f"isn't a safetensors file: {printable(error, 120)}", where=path) from None
    return target


def of_family(
    metadata: ModelMetadata, tensors: Path, path: Path, x: Floats, schema: TrafficSchema, progress: Progress = silent
) -> Imported:
    """Weights of a family's own network: the family builds it and exports it.

    The network's sizes and settings come from `config.json` beside the file, as `save_native` writes it, else from the
    metadata's `training.settings`.

    Raises:
        InputError: metadata names no family, one that has no weights of this kind, or settings that it doesn't know.
        BundleError: weights and sizes don't fit each other.
    """
    from robustidps.importing.graphs import tried

    if metadata.family not in discover():
        named = f"names the family {printable(metadata.family)!r}" if metadata.family else "names no family"
        raise InputError(
            f"are weights alone, and the metadata {named}",
            where=path,
            remedy=f"known: {', '.join(sorted(discover()))}; or give the module that they belong to (model=)",
        )
    family = get_family(metadata.family)
    load: Any = getattr(sys.modules[type(family).__module__], "load_native", None)
    if load is None:
        raise InputError(f"family {metadata.family} doesn't read weights", where=path, remedy="give it as .onnx")
    beside = path.parent / "config.json"
    if beside.is_file():
        config = read_limited(beside, beside)
    else:
        told = metadata.training.settings if metadata.training else {}
        known = family_settings(family, told)
        sizes = {"inputs": x.shape[1], "classes": schema.output_dim}
        content = {"format_version": 1, "family": family.name, **sizes, "settings": known.model_dump(mode="json")}
        config = json.dumps(content).encode()
    folder = tensors.parent
    with writable(folder):
        (folder / "config.json").write_bytes(config)
    model = load(folder)
    y = np.asarray(model.logits(x), np.float32)
    exported = folder / "family.onnx"
    model.export_onnx(exported)
    made = tried(read_limited(exported, path), x, y, schema, path, progress)
    made.native.update({"weights.safetensors": tensors.read_bytes(), "config.json": config})
    return made
