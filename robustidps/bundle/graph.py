"""One ONNX graph from raw features to probabilities, around whatever a family exports.

A family exports `x` (standardised) -> `logits`. Here the schema's preprocessing is put before it and temperature and
softmax behind it, once for all families, so that a bundle can be served by anything that runs ONNX, and no two families
can disagree about what a missing value means:

    features [N, F] -> fill, log, standardise, clip, one-hot (robustidps.preprocessing has the formulas) -> x [N, D]
             -> the family's graph, its names prefixed with `model/` -> logits [N, C]
             -> / temperature -> softmax -> probabilities [N, C]

Local functions are inlined, and what an exporter left behind (stack traces with paths of the training machine, names of
modules, documentation) is taken out. The result goes through the same `audit` as a bundle from a stranger.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustidps.bundle.audit import INPUT, MAX_BYTES, MAX_OPSET, MIN_OPSET, OUTPUT, audit
from robustidps.emitting import Graph
from robustidps.errors import BundleError, InputError, printable
from robustidps.preprocessing import Preprocessing
from robustidps.settings import writable

if TYPE_CHECKING:
    import onnx

__all__ = ["STANDARDISED", "audit", "compose", "compose_bytes", "standardising"]

_PREFIX = "model/"
STANDARDISED = f"{_PREFIX}x"
"""What standardised features are called within the graph."""

_IR_VERSION = 10  # understood by ONNX Runtime from 1.18 on


def compose(logits_onnx: Path, preprocessing: Preprocessing, temperature: float, out: Path) -> Path:
    """Writes the graph from raw features to calibrated probabilities to `out`; see `compose_bytes`."""
    data = compose_bytes(logits_onnx, preprocessing, temperature)
    with writable(out):
        out.write_bytes(data)
    return out


def compose_bytes(logits_onnx: Path, preprocessing: Preprocessing, temperature: float) -> bytes:
    """The graph from raw features [N, F] to calibrated probabilities [N, C] as one self-contained ONNX file.

    Args:
        logits_onnx: what a family's `export_onnx` wrote: input `x` float32 [N, D], output `logits` float32 [N, C].
        temperature: what logits are divided by before softmax, over 0.

    Raises:
        BundleError: the family's file isn't as `TrainedModel.export_onnx` promises, or doesn't pass the audit.
    """
    import onnx

    if not 0 < temperature < float("inf"):
        raise BundleError(f"temperature {temperature} is not a number over 0")
    family = _family_graph(logits_onnx, preprocessing.output_dim)
    classes = family.graph.output[0].type.tensor_type.shape.dim[1].dim_value

    # Its names can't meet the family's, which are all prefixed.
    emit = Graph("robustidps")
    emit.node("Identity", _preprocessing(emit, preprocessing), outputs=[STANDARDISED])
    before = len(emit.nodes)
    scaled = emit.node("Div", f"{_PREFIX}logits", emit.constant(temperature, name="temperature"))
    emit.node("Softmax", scaled, outputs=[OUTPUT], axis=-1)

    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [*emit.nodes[:before], *family.graph.node, *emit.nodes[before:]],
        emit.name,
        [onnx.helper.make_tensor_value_info(INPUT, float32, ["batch", preprocessing.input_dim])],
        [onnx.helper.make_tensor_value_info(OUTPUT, float32, ["batch", classes])],
        [*emit.constants, *family.graph.initializer],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=family.opset_import, ir_version=_IR_VERSION, producer_name="robustidps"
    )
    data = model.SerializeToString()
    audit(data, where=f"the graph composed from {logits_onnx.name}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the composed graph isn't valid ONNX: {printable(error, 300)}", where=logits_onnx) from None
    return data


def standardising(data: bytes, where: object) -> bytes:
    """The part of a bundle's graph before the family's: raw [N, F] to standardised [N, D], as `STANDARDISED`.

    Args:
        data: model.onnx of a verified bundle.

    Raises:
        InputError: the graph has no such part, as in a bundle of several models, or of one that takes raw features.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    last = next((i for i, node in enumerate(graph.node) if STANDARDISED in node.output), None)
    if last is None:
        raise InputError("its graph doesn't standardise features apart from the model", where=where)
    del graph.node[last + 1 :]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(STANDARDISED, onnx.TensorProto.FLOAT, ["batch", "columns"]))
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model.SerializeToString()


def _family_graph(path: Path, width: int) -> onnx.ModelProto:
    """The family's model: checked against the protocol, functions inlined, cleaned, every name prefixed."""
    import onnx
    import onnx.compose
    import onnx.inliner
    import onnx.version_converter
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB", where=path)
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise BundleError("export_onnx wrote no such file", where=path) from None
    except DecodeError as error:
        raise BundleError(f"isn't ONNX: {printable(error, 100)}", where=path) from None
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _check_promise(model.graph, width, path)
    if not MIN_OPSET <= _opset(model) <= MAX_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, 18)
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"has opset {_opset(model)}, which can't be converted: {printable(error, 200)}",
                where=path,
                remedy=f"export with an opset of {MIN_OPSET} to {MAX_OPSET}",
            ) from None
    kept = {_domain(node.domain) for node in model.graph.node} | {""}
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    del model.opset_import[:]
    for domain in sorted(kept & opsets.keys()):
        model.opset_import.append(onnx.helper.make_opsetid(domain, opsets[domain]))
    _strip(model.graph)
    return onnx.compose.add_prefix(model, _PREFIX)


def _check_promise(graph: onnx.GraphProto, width: int, path: Path) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]  # IR 3 lists constants as inputs
    remedy = "see TrainedModel.export_onnx in robustidps.families"
    for values, name, columns in ((inputs, "x", width), (list(graph.output), "logits", None)):
        if [value.name for value in values] != [name]:
            found = [printable(value.name, 60) for value in values][:5]
            raise BundleError(f"has {found} where one {name!r} is expected", where=path, remedy=remedy)
        kind = values[0].type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type != 1 or len(dims) != 2 or not dims[1].dim_value:
            raise BundleError(f"{name!r} isn't a float32 matrix of known width", where=path, remedy=remedy)
        if dims[0].HasField("dim_value"):
            raise BundleError(f"{name!r} has a fixed batch size of {dims[0].dim_value}", where=path, remedy=remedy)
        if columns is not None and dims[1].dim_value != columns:
            raise BundleError(f"{name!r} has {dims[1].dim_value} columns, preprocessing gives {columns}", where=path)
    del graph.input[:]
    graph.input.extend(inputs)


def _strip(graph: onnx.GraphProto) -> None:
    """Takes out what isn't computation: intermediate shapes, documentation, an exporter's notes on nodes."""
    for field in ("value_info", "quantization_annotation", "metadata_props"):
        graph.ClearField(field)
    graph.ClearField("doc_string")
    items: list[Any] = [*graph.node, *graph.initializer]
    for item in items:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if not _domain(entry.domain)), 0)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _preprocessing(emit: Graph, p: Preprocessing) -> str:
    """`Preprocessing.transform` as nodes; gives the name of its result.

    A NaN in a column whose rule is `refuse` isn't filled: it runs through to NaN probabilities, so that whoever serves
    the file without our check sees that something is wrong instead of a plausible figure.
    """
    import onnx

    fill = np.where(p.refuse, np.float32(np.nan), p.fill).astype(np.float32)
    filled = emit.node("Where", emit.node("IsNaN", INPUT), emit.constant(fill, name="fill"), INPUT)
    if p.fills_only:
        return filled
    parts = []
    if len(p.numeric):
        parts.append(_numeric(emit, p, filled))
    for i, (column, words) in enumerate(zip(p.categorical, p.words, strict=True)):
        index = emit.constant([column], np.int64, name=f"category_{i}")
        value = emit.node("Gather", filled, index, axis=1)
        vocabulary = emit.constant(np.arange(1, words + 1), name=f"vocabulary_{i}")
        known = emit.node("Cast", emit.node("Equal", value, vocabulary), to=onnx.TensorProto.FLOAT)
        some = emit.node("ReduceSum", known, emit.constant([1], np.int64, name=f"axes_{i}"), keepdims=1)
        parts += [emit.node("Sub", emit.constant(1, name=f"one_{i}"), some), known]
    return parts[0] if len(parts) == 1 else emit.node("Concat", *parts, axis=1)


def _numeric(emit: Graph, p: Preprocessing, filled: str) -> str:
    import onnx

    value, double = filled, np.float64
    if len(p.categorical):
        value = emit.node("Gather", value, emit.constant(p.numeric, np.int64, name="numeric"), axis=1)
    value = emit.node("Cast", value, to=onnx.TensorProto.DOUBLE)
    if p.log.any():
        one = emit.constant(1, double, name="one")
        logarithm = emit.node("Log", emit.node("Add", one, emit.node("Abs", value)))
        signed = emit.node("Mul", emit.node("Sign", value), logarithm)
        value = signed if p.log.all() else emit.node("Where", emit.constant(p.log, bool, name="log"), signed, value)
    value = emit.node("Sub", value, emit.constant(p.mean, double, name="mean"))
    value = emit.node("Mul", value, emit.constant(p.gain, double, name="gain"))
    low, high = (emit.constant(v, double, name=name) for name, v in (("low", -p.clip), ("high", p.clip)))
    return emit.node("Cast", emit.node("Clip", value, low, high), to=onnx.TensorProto.FLOAT)
