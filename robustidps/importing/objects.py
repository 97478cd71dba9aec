"""Models that the caller holds as objects: a `torch.nn.Module` or a Keras model. Their code is the caller's.

What leaves it is an ONNX graph, which is judged like one from a stranger: an export can be wrong.
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import read_limited
from robustidps.errors import BundleError, InputError, SchemaError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.schema import TrafficSchema

if TYPE_CHECKING:
    from robustidps.importing import Imported

__all__ = ["is_keras", "is_torch", "read", "with_weights"]

Floats = npt.NDArray[np.float32]

_CHUNK = 8192


def is_torch(model: Any) -> bool:
    """Whether it is a `torch.nn.Module`; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model; imports nothing."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def read(model: Any, x: Floats, schema: TrafficSchema, progress: Progress = silent) -> Imported:
    """The exported graph, and the model's own answers for `x` [N, D].

    Raises:
        InputError: neither a torch module nor a Keras model.
        BundleError: it fails on these rows, or can't be exported. SchemaError: it gives another number of classes.
    """
    from robustidps.importing.graphs import tried

    where = f"{type(model).__module__}.{type(model).__qualname__}"
    if is_torch(model):
        graph, y = _torch(model, x, where)
    elif is_keras(model):
        graph, y = _keras(model, x, where)
    else:
        raise InputError(
            "is neither a torch.nn.Module nor a Keras model",
            where=where,
            remedy="give one of these, or a path to a bundle, .onnx, .keras, SavedModel, .safetensors or .pt",
        )
    if y.ndim != 2 or y.shape != (len(x), schema.output_dim):
        raise SchemaError(f"gives {y.shape} for {len(x)} rows, expected {schema.output_dim} classes", where=where)
    return tried(graph, x, y, schema, where, progress)


def with_weights(network: Any, tensors: Path, path: Path) -> Any:
    """A copy of the module with the weights of a safetensors file in it, none missing and none left over.

    Raises:
        InputError: not a torch module. BundleError: they don't fit each other; names the first that doesn't.
    """
    if not is_torch(network):
        raise InputError("weights belong to a torch.nn.Module, and none was given", where=path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    filled = copy.deepcopy(network)
    try:
        filled.load_state_dict(load_file(str(tensors)), strict=True)
    except (RuntimeError, SafetensorError, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise BundleError(f"the weights don't fit the module: {printable(said, 300)}", where=path) from None
    return filled


def _torch(model: Any, x: Floats, where: str) -> tuple[bytes, Floats]:
    """ONNX and answers, from a copy in evaluation mode on the CPU: the caller's own model is left as it was."""
    import torch

    network = copy.deepcopy(model).to("cpu").eval()
    try:
        with torch.inference_mode():
            parts = [network(torch.from_numpy(x[i : i + _CHUNK])).numpy() for i in range(0, len(x), _CHUNK)]
    except Exception as error:  # noqa: BLE001 - the caller's code may raise anything
        raise BundleError(f"fails on {len(x)} rows of {x.shape[1]} features: {_said(error)}", where=where) from None
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it remarks on operators that such models have none of
    with tempfile.TemporaryDirectory(prefix="robustidps-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about itself
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                network,
                (torch.from_numpy(x[:2].copy() if len(x) > 1 else np.repeat(x[:1], 2, axis=0)),),
                str(path),
                input_names=["x"],
                output_names=["y"],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                opset_version=18,
                verbose=False,
            )
        except Exception as error:  # noqa: BLE001 - the exporter has no base class for its errors
            raise BundleError(
                f"PyTorch can't export it to ONNX: {_said(error)}",
                where=where,
                remedy="avoid control flow that depends on values, and solvers with adaptive steps",
            ) from None
        finally:
            logger.setLevel(level)
        return read_limited(path, where), np.concatenate(parts)


def _keras(model: Any, x: Floats, where: str) -> tuple[bytes, Floats]:
    import keras

    from robustidps.importing._tensorflow import answers, convert, function_of

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on {keras.backend.backend()} here", where=where, remedy="set KERAS_BACKEND=tensorflow"
        )
    try:
        function = function_of(model, x.shape[1])
        return convert(function), answers(function, x)
    except Exception as error:  # noqa: BLE001 - TensorFlow's and tf2onnx's errors have no common base
        raise BundleError(f"TensorFlow can't convert it: {_said(error)}", where=where) from None


def _said(error: Exception) -> str:
    return printable(" ".join(f"{type(error).__name__}: {error}".split()), 300)
