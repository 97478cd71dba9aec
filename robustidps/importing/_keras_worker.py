"""The process in which a stranger's Keras or TensorFlow model is loaded and converted; started by `keras_files.py`.

What a SavedModel holds is checked before TensorFlow builds it (only objects that are variables, constants and
functions, and none with a saver of its own, which would run while loading) and what its signature reaches is checked
before it is called: plain arithmetic alone. Operators that read and write files stand in every SavedModel, in functions
for saving and restoring that nothing here calls.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from robustidps import sandbox

OPERATORS = frozenset(
    """
    Abs Add AddN AddV2 ArgMax AvgPool BatchMatMulV2 BatchToSpaceND BiasAdd Cast ClipByValue ConcatV2 Const Conv2D
    DepthwiseConv2dNative Einsum Elu Equal Erf Exp ExpandDims Fill Floor FusedBatchNormV3 GatherV2 Greater GreaterEqual
    Identity IdentityN IsFinite IsNan LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr
    MatMul Max MaxPool Maximum Mean Min Minimum Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2 PartitionedCall
    Placeholder Pow Prod Range ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape Round Rsqrt Select SelectV2 Selu
    Shape Sigmoid Sign Slice Softmax Softplus Softsign SpaceToBatchND Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack ZerosLike
    """.split()  # noqa: SIM905 - a hundred quoted names would read worse
)
_VARIABLES = frozenset({"VarHandleOp", "VarIsInitializedOp", "AssignVariableOp", "DisableCopyOnRead"})
_OBJECTS = frozenset({"user_object", "function", "bare_concrete_function", "variable", "constant", "captured_tensor"})


class Refused(Exception):
    """Why this model isn't taken."""


def main(folder: Path) -> None:
    request = sandbox.request_of(folder)
    held = sandbox.confine(folder, request)
    import numpy as np

    x = np.fromfile(folder / "rows.f32", np.float32).reshape(-1, request["width"])
    try:
        from robustidps.importing._tensorflow import answers, convert

        read = _keras if request["keras"] else _saved_model
        function, owner = read(folder, request)
        assert owner is not None  # noqa: S101 - a function doesn't keep the variables that it reads alive
        y = answers(function, x)
        if y.shape != (len(x), request["columns"]):
            raise Refused(f"gives {y.shape[1:]} figures a row, expected {request['columns']} classes")
        (folder / "model.onnx").write_bytes(convert(function))
        y.tofile(folder / "out.f32")
        sandbox.reply(folder, {"sandbox": held})
    except MemoryError:
        sandbox.reply(folder, {"memory": True})
    except Exception as error:  # noqa: BLE001 - whatever a framework raises on a stranger's file, it isn't taken
        said = str(error) if isinstance(error, Refused) else f"TensorFlow can't convert it: {error}"
        sandbox.refuse(folder, " ".join(said.split())[:400])


def _keras(folder: Path, request: dict[str, Any]) -> tuple[Any, Any]:
    import keras

    from robustidps.importing._tensorflow import function_of

    model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != request["width"]:
        raise Refused(f"takes inputs of shape {shape}, expected {request['width']} features")
    return function_of(model, request["width"]), model


def _saved_model(folder: Path, request: dict[str, Any]) -> tuple[Any, Any]:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved" / "saved_model.pb").read_bytes())
    if len(saved.meta_graphs) != 1:
        raise Refused(f"holds {len(saved.meta_graphs)} graphs, expected one")
    name = _check(saved.meta_graphs[0])
    loaded = tf.saved_model.load(str(folder / "saved"))
    function = loaded.signatures[name]
    reached = function.graph.as_graph_def()  # with every function that it calls, and those that they call
    names = {f.signature.name for f in reached.library.function}
    for nodes in (reached.node, *(f.node_def for f in reached.library.function)):
        _check_operators(nodes, names)
    inputs = list(function.structured_input_signature[1].values())
    outputs = function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise Refused(f"signature {name!r} has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    if inputs[0].dtype != tf.float32 or inputs[0].shape.rank != 2 or inputs[0].shape[1] != request["width"]:
        raise Refused(f"takes {inputs[0].dtype.name} {inputs[0].shape}, expected float32 (N, {request['width']})")
    return function, loaded


def _check(graph: Any) -> str:
    """The name of the one signature that is to be served."""
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _OBJECTS:
            raise Refused(f"holds an object of kind {kind!r}")
        if node.registered_name or node.registered_saver:
            raise Refused(f"holds the custom object {node.registered_name or node.registered_saver!r}")
        if kind != "variable" and node.saveable_objects:
            raise Refused("holds an object with a saver of its own, which would run while loading")
    names = [key for key in graph.signature_def if not key.startswith("__")]
    name = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else ""
    if not name:
        raise Refused(f"has signatures {sorted(names)[:5]}, and none of them is 'serving_default'")
    _check_operators(graph.graph_def.node, set())
    return name


def _check_operators(nodes: Any, functions: set[str]) -> None:
    for node in nodes:
        if node.op not in OPERATORS | _VARIABLES | functions:
            raise Refused(f"node {node.name!r} is operator {node.op!r}, which is not allowed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
