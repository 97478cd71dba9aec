"""Keras archives and SavedModel folders of strangers: looked at first, then converted in a process of its own.

A `.keras` file is a zip of JSON and HDF5. Keras builds whatever classes the JSON names, and safe mode alone has let
through more than it should (CVE-2025-1550); so every class in it must be on a closed list before Keras sees it. Lambda
layers, custom layers and functions, and layers that load further files are not on it. A SavedModel is a TensorFlow
graph; what may stand in that is checked by the worker, which has TensorFlow to read it (`_keras_worker.py`).

The conversion runs in a confined process (`robustidps.sandbox`), without network; what comes back is an ONNX file,
which is judged like any other, and the model's own answers.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import MAX_BYTES, read_limited
from robustidps.bundle.trial import read_matrix
from robustidps.errors import BundleError, MissingExtraError, printable
from robustidps.progress import Progress, silent
from robustidps.sandbox import Limits, run
from robustidps.settings import writable
from robustidps.traffic.schema import TrafficSchema

if TYPE_CHECKING:
    from robustidps.importing import Imported

__all__ = ["LAYERS", "LIMITS", "audit_archive", "read"]

LIMITS = Limits(seconds=300.0, memory_bytes=16 * 2**30, file_bytes=2**30)
"""TensorFlow alone reserves some 4 GiB of address space, and takes half a minute to start on a busy machine."""

Floats = npt.NDArray[np.float32]

LAYERS = frozenset(
    """
    Activation Add AlphaDropout Average AveragePooling1D BatchNormalization Concatenate Conv1D Cropping1D Dense
    DepthwiseConv1D Dot Dropout ELU EinsumDense Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalMaxPooling1D GroupNormalization Identity InputLayer LayerNormalization LeakyReLU MaxPooling1D Maximum Minimum
    Multiply Normalization PReLU Permute ReLU RepeatVector Rescaling Reshape SeparableConv1D Softmax SpatialDropout1D
    Subtract UnitNormalization ZeroPadding1D
    """.split()  # noqa: SIM905 - forty quoted names would read worse
)
"""Layers that are functions of their input and weights, and read nothing else."""

_MODELS = frozenset({"Sequential", "Functional"})
_PLAIN = frozenset({"__keras_tensor__", "__tuple__", "__ellipsis__", "__slice__"})
_MARKS = frozenset({"DTypePolicy", "TensorShape"})
_PARTS = re.compile(r"keras\.(src\.)?(initializers|regularizers|constraints)(\.\w+)*")
_CONFIG_BYTES, _NODES = 16 * 2**20, 200_000
_VARIABLES = re.compile(r"variables\.(index|data-\d{5}-of-\d{5})")


def read(path: Path, x: Floats, schema: TrafficSchema, progress: Progress = silent) -> Imported:
    """The model in a `.keras` file or a SavedModel folder, and its answers for `x` [N, D].

    Raises:
        BundleError: it holds what isn't allowed, can't be converted, or failed when it was tried.
        MissingExtraError: TensorFlow isn't installed.
    """
    from robustidps.importing.graphs import tried

    for module in ("tensorflow", "keras", "tf2onnx"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("TensorFlow, which reads this kind of model,", "tensorflow")
    with writable(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="robustidps-") as name:
        folder = Path(name)
        native: dict[str, bytes] = {}
        if path.is_dir():
            _copy_saved_model(path, folder / "saved")
        else:
            data = read_limited(path, path)
            audit_archive(data, path)
            (folder / "model.keras").write_bytes(data)
            native["model.keras"] = data
        (folder / "rows.f32").write_bytes(np.ascontiguousarray(x).tobytes())
        request = {"width": x.shape[1], "columns": schema.output_dim, "keras": not path.is_dir()}
        module = "robustidps.importing._keras_worker"
        run(module, request, folder, limits=LIMITS, where=path, stage="converting with TensorFlow", progress=progress)
        y = read_matrix(folder / "out.f32", len(x), schema.output_dim, path)
        graph = read_limited(folder / "model.onnx", path)
    made = tried(graph, x, y, schema, path, progress)
    made.native.update(native)
    return made


def audit_archive(data: bytes, where: object) -> None:
    """Refuses a `.keras` archive unless every object in it is on the list.

    Raises:
        BundleError: names the layer or object.
    """
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {m.filename: m.file_size for m in archive.infolist()}
            odd = sorted(set(members) - {"metadata.json", "config.json", "model.weights.h5"})
            if odd:
                raise BundleError(f"holds {printable(odd[0], 60)!r}, which isn't part of a model", where=where)
            if "config.json" not in members or "model.weights.h5" not in members:
                raise BundleError("holds no Keras model", where=where)
            if members["config.json"] > _CONFIG_BYTES or sum(members.values()) > MAX_BYTES:
                raise BundleError("unpacks to more than a model takes", where=where)
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, ValueError, OSError, RecursionError, EOFError, NotImplementedError, RuntimeError) as e:
        raise BundleError(f"isn't a Keras archive, or was cut off: {printable(e, 120)}", where=where) from None
    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        raise BundleError(
            f"is a {printable(config.get('class_name') if isinstance(config, dict) else config, 60)!r}",
            where=where,
            remedy="only Sequential and Functional models of Keras 3 hold all of themselves in their file",
        )
    config.pop("compile_config", None)  # losses and optimisers: never built, the model is loaded uncompiled
    waiting: list[Any] = [config]
    for _ in range(_NODES):
        if not waiting:
            return
        item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                _check_object(item, where)
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    raise BundleError("its configuration has no end", where=where)


def _check_object(item: dict[str, Any], where: object) -> None:
    name, module, registered = item.get("class_name"), item.get("module"), item.get("registered_name")
    inner = item.get("config")
    label = inner.get("name") if isinstance(inner, dict) else None
    what = f"layer {printable(label, 60)!r} is" if label else "holds"
    if name in _PLAIN:
        return
    ours = isinstance(module, str) and (module == "keras" or module.startswith("keras."))
    if isinstance(name, str) and ours and registered in (None, name):
        if name in LAYERS and module.startswith(("keras.layers", "keras.src.layers")):  # type: ignore[union-attr]
            return
        if name in _MODELS or name in _MARKS or (_PARTS.fullmatch(module) and name[:1].isupper()):  # type: ignore[arg-type]
            return
    if name in ("Lambda", "__lambda__"):
        raise BundleError(f"{what} a Lambda, which is code", where=where, remedy="use a layer of Keras's own")
    kind = "a custom object" if registered not in (None, name) or not ours else "not on the list of layers"
    raise BundleError(
        f"{what} {printable(registered or name, 60)!r} of {printable(module, 60)!r}: {kind}",
        where=where,
        remedy="only Keras's own plain layers are taken from a file; hand the model object over instead (model=)",
    )


def _copy_saved_model(path: Path, to: Path) -> None:
    """The files of a SavedModel that hold graph and variables, within limits; assets are refused."""
    (to / "variables").mkdir(parents=True)
    found = [path / "saved_model.pb"]
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise BundleError("is a link", where=entry)
        if entry.name == "assets" and entry.is_dir() and not any(entry.iterdir()):
            continue
        if entry.name in ("saved_model.pb", "fingerprint.pb", "keras_metadata.pb"):
            continue
        if entry.name == "variables" and entry.is_dir():
            found += sorted(entry.iterdir())
            continue
        raise BundleError("is no part of a plain SavedModel", where=path / printable(entry.name, 60))
    if sum(file.stat().st_size for file in found) > MAX_BYTES:
        raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB", where=path)
    for file in found:
        if file.is_symlink() or not file.is_file() or (file.parent != path and not _VARIABLES.fullmatch(file.name)):
            raise BundleError("is no part of a plain SavedModel", where=file)
        shutil.copyfile(file, to / file.relative_to(path))
