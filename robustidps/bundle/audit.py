"""Whether an ONNX file may be handed to ONNX Runtime: judged from its bytes, before anything of it is built.

ONNX Runtime is a large C++ program that trusts its input; it has crashed on fuzzed models. So the file is parsed by
protobuf alone and refused unless it is a plain feed-forward graph:

    one float32 input `features` [batch, F], one float32 output `probabilities` [batch, C], batch dynamic
    operators from an allow-list, over the main graph and all that hangs below it: no control flow, no functions,
        no custom domain, nothing that draws random numbers, reads files or handles strings
    every constant inside the file, with exactly as many bytes as its shape says; no external data
    no field that this version of the format doesn't know, no session options smuggled in as metadata
    decision trees that end, and not too deep down (`trees.py`)

The list is closed on purpose: an operator is added when a family needs it, with a look at what it can be made to do.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.bundle.trees import check_trees
from robustidps.errors import BundleError, printable

if TYPE_CHECKING:
    import onnx

__all__ = ["INPUT", "MAX_BYTES", "OPERATORS", "OUTPUT", "ModelFacts", "audit", "parse", "read_limited"]

INPUT, OUTPUT = "features", "probabilities"
MAX_BYTES = 512 * 2**20
MAX_NODES = 200_000
MIN_OPSET, MAX_OPSET, MAX_OPSET_ML = 13, 25, 5
MIN_IR, MAX_IR = 7, 12

# All are pure functions of their inputs, and what they allocate follows from the shapes that go in and from constants.
OPERATORS: dict[str, frozenset[str]] = {
    "": frozenset(
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast CastLike
        Ceil Celu Clip Concat Constant ConstantOfShape Conv Cos Cosh CumSum Div Einsum Elu Equal Erf Exp Expand Flatten
        Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
        GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu
        Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow
        RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin
        Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
        Transpose Trilu Unsqueeze Where Xor
        """.split()  # noqa: SIM905 - ninety quoted names would read worse
    ),
    "ai.onnx.ml": frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}),
}

# TensorProto.DataType -> (bytes an element, the field that holds it where raw_data doesn't)
_ELEMENT = {
    1: (4, "float_data"),
    2: (1, "int32_data"),
    3: (1, "int32_data"),
    4: (2, "int32_data"),
    5: (2, "int32_data"),
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    9: (1, "int32_data"),
    10: (2, "int32_data"),
    11: (8, "double_data"),
    12: (4, "uint64_data"),
    13: (8, "uint64_data"),
    16: (2, "int32_data"),
}
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True)
class ModelFacts:
    """What an audited model is: F, C, opset, operators by how often they stand in it, number of constant elements."""

    input_dim: int
    output_dim: int
    opset: int
    operators: dict[str, int]
    parameters: int


def audit(source: Path | bytes, *, where: object | None = None, names: tuple[str, str] = (INPUT, OUTPUT)) -> ModelFacts:
    """Refuses whatever isn't a plain classifier over features (see this module's docstring).

    Args:
        source: the file, or its bytes where they have been read already (so that what is judged is what is loaded).
        where: what to call it in an error.
        names: what input and output have to be called.

    Raises:
        BundleError: names what was found and, where it is in a node, that node.
    """
    where = where or (source if isinstance(source, Path) else "model.onnx")
    data = read_limited(source, where) if isinstance(source, Path) else source
    model = parse(data, where)
    opset = _check_header(model, where)
    operators: Counter[str] = Counter()
    for node in model.graph.node:
        operators[_check_node(node, where)] += 1
    parameters = sum(_check_tensor(t, where) for t in model.graph.initializer)
    if model.graph.sparse_initializer:
        raise BundleError("holds sparse initialisers", where=where)
    input_dim, output_dim = _check_signature(model.graph, where, names)
    return ModelFacts(input_dim, output_dim, opset, dict(operators), parameters)


def read_limited(path: Path, where: object) -> bytes:
    """The file's bytes. Raises BundleError when it is too large for a bundle, or can't be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB", where=where)
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"can't be read: {error.strerror}", where=where) from None


def parse(data: bytes, where: object) -> onnx.ModelProto:
    """The bytes as ONNX, by protobuf alone. Raises BundleError for anything else, and for what was cut off."""
    import onnx
    from google.protobuf.message import DecodeError

    if len(data) > MAX_BYTES:
        raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB", where=where)
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"isn't ONNX, or was cut off: {printable(error, 100)}", where=where) from None
    size = model.ByteSize()
    model.DiscardUnknownFields()  # type: ignore[no-untyped-call, unused-ignore]
    if model.ByteSize() != size:
        raise BundleError("holds fields that this version of the ONNX format doesn't know", where=where)
    if not model.HasField("graph") or not model.graph.node:
        raise BundleError("holds no graph, or was cut off", where=where)
    return model


def _check_header(model: onnx.ModelProto, where: object) -> int:
    """The version of the default operator set."""
    if not MIN_IR <= model.ir_version <= MAX_IR:
        raise BundleError(f"has IR version {model.ir_version}, not {MIN_IR} to {MAX_IR}", where=where)
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = _domain(entry.domain)
        if domain not in OPERATORS:
            raise BundleError(f"uses operators of domain {printable(domain, 60)!r}", where=where)
        if domain in versions:
            raise BundleError(f"imports the operator set {domain or 'ai.onnx'!r} twice", where=where)
        versions[domain] = entry.version
    if not MIN_OPSET <= versions.get("", 0) <= MAX_OPSET:
        raise BundleError(f"has opset {versions.get('', 0)}, not {MIN_OPSET} to {MAX_OPSET}", where=where)
    if versions.get("ai.onnx.ml", 1) not in range(1, MAX_OPSET_ML + 1):
        raise BundleError(f"has ai.onnx.ml opset {versions['ai.onnx.ml']}, above {MAX_OPSET_ML}", where=where)
    for function in model.functions:  # a function may even take a standard operator's name
        for node in function.node:
            _check_node(node, where)
        raise BundleError(f"defines a function {printable(function.name, 60)!r}", where=where, remedy="inline it")
    for field in ("training_info", "metadata_props", "configuration"):
        if getattr(model, field, None):
            raise BundleError(f"carries {field}, which a bundle's model has no use for", where=where)
    if len(model.graph.node) > MAX_NODES:
        raise BundleError(f"has {len(model.graph.node)} nodes, more than {MAX_NODES}", where=where)
    return versions[""]


def _check_node(node: onnx.NodeProto, where: object) -> str:
    """The operator's name."""
    domain, label = _domain(node.domain), f"node {printable(node.name or '(unnamed)', 80)}"
    for name in (*node.input, *node.output, *(a.name for a in node.attribute)):
        if not isinstance(name, str) or not name.isprintable():  # protobuf gives bytes where it isn't UTF-8
            raise BundleError(f"{label} uses a name that isn't plain text", where=where)
    for attribute in node.attribute:  # below first: the most hidden operator is the one to name
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                _check_node(inner, where)
            raise BundleError(f"{label} holds a subgraph", where=where)
        if attribute.ref_attr_name or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise BundleError(f"{label} has an attribute that is sparse or refers to another", where=where)
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            _check_tensor(tensor, where)
    if node.op_type not in OPERATORS.get(domain, ()):
        name = f"{domain}.{node.op_type}" if domain else node.op_type
        raise BundleError(f"{label} is operator {printable(name, 80)!r}, which is not allowed", where=where)
    if getattr(node, "overload", "") or getattr(node, "device_configurations", None):
        raise BundleError(f"{label} has an overload or a device configuration", where=where)
    if len({a.name for a in node.attribute}) < len(node.attribute):
        raise BundleError(f"{label} has an attribute twice", where=where)
    if domain:
        check_trees(node, label, where)
    return node.op_type


def _check_tensor(tensor: onnx.TensorProto, where: object) -> int:
    """Number of elements."""
    label = f"constant {printable(tensor.name or '(unnamed)', 80)!r}"
    if not isinstance(tensor.name, str) or not tensor.name.isprintable():
        raise BundleError(f"{label} has a name that isn't plain text", where=where)
    if tensor.data_location or tensor.external_data:
        raise BundleError(f"{label} lies outside the file", where=where, remedy="export without external data")
    if tensor.data_type not in _ELEMENT or tensor.HasField("segment"):
        raise BundleError(f"{label} is of element type {tensor.data_type}", where=where)
    if len(tensor.dims) > 16 or any(d < 0 for d in tensor.dims):
        raise BundleError(f"{label} has an impossible shape", where=where)
    size, field = _ELEMENT[tensor.data_type]
    count = math.prod(tensor.dims)
    given = {name: len(getattr(tensor, name)) for name in _DATA_FIELDS if len(getattr(tensor, name))}
    if given not in ([{"raw_data": count * size}, {field: count}] if count else [{}]):
        raise BundleError(f"{label} says it has {count} elements and holds something else", where=where)
    return count


def _check_signature(graph: onnx.GraphProto, where: object, expected: tuple[str, str]) -> tuple[int, int]:
    """F and C."""
    sides: list[tuple[Any, str, str]] = [(graph.input, expected[0], "input"), (graph.output, expected[1], "output")]
    dims = []
    for values, name, side in sides:
        names = [printable(v.name, 60) for v in values]
        if names != [name]:
            raise BundleError(f"its {side}s are {names[:5]}, not the one {name!r}", where=where)
        kind = values[0].type.tensor_type if values[0].type.HasField("tensor_type") else None
        shape = kind.shape.dim if kind is not None and kind.HasField("shape") else []
        if kind is None or kind.elem_type != 1 or len(shape) != 2 or shape[1].dim_value < 1:
            raise BundleError(f"{side} {name!r} isn't a float32 matrix of known width", where=where)
        if shape[0].HasField("dim_value"):
            raise BundleError(f"{side} {name!r} has a fixed batch size of {shape[0].dim_value}", where=where)
        dims.append(shape[1].dim_value)
    if {t.name for t in graph.initializer} & set(expected):
        raise BundleError("a constant has the name of the input or the output", where=where)
    return dims[0], dims[1]


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
