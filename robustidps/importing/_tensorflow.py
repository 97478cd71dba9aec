"""From a TensorFlow function to ONNX: its variables become constants, and tf2onnx translates what is left.

Shared by the confined process, for files, and by `objects.py`, for a model object of the caller's own.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["answers", "convert", "function_of"]

Floats = npt.NDArray[np.float32]

_OPSET = 18
_CHUNK = 4096


def function_of(model: Any, width: int) -> Any:
    """A Keras model in evaluation mode as one concrete function of float32 [N, width]."""
    import tensorflow as tf

    call = tf.function(lambda x: model(x, training=False), autograph=False)
    return call.get_concrete_function(tf.TensorSpec([None, width], tf.float32, name="x"))


def answers(function: Any, x: Floats) -> Floats:
    """What a concrete function of one matrix gives for `x` [N, D]: float32 [N, C]."""
    import tensorflow as tf

    parts = []
    for start in range(0, len(x), _CHUNK):
        rows = tf.constant(x[start : start + _CHUNK])
        keywords = function.structured_input_signature[1]
        out = function(**{next(iter(keywords)): rows}) if keywords else function(rows)
        parts.append(np.asarray(next(iter(out.values())) if isinstance(out, dict) else out, np.float32))
    return np.concatenate(parts)


def convert(function: Any) -> bytes:
    """The ONNX file of a concrete function."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    for name in ("tensorflow", "tf2onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)  # notes on functions of theirs that will go
    frozen = convert_variables_to_constants_v2(function)
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[t.name for t in frozen.inputs],
        output_names=[t.name for t in frozen.outputs],
        opset=_OPSET,
    )
    return bytes(model.SerializeToString())
