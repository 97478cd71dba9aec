"""An ONNX graph from elsewhere: looked at, tried in a process of its own, and put into the shape of a family's graph.

    audit      the bytes: size, whole, opset, operators, constants inside the file (`bundle.audit`)
    signature  one float32 matrix of the schema's width in, one of its classes out, rows free
    trial      loaded and run under limits (`bundle.trial`)

Names of input and output, and outputs beside the one that is wanted (a label, as scikit-learn's converters give), are
the maker's own. Local functions are refused rather than inlined: what inlines them is C++ that trusts its input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import audit, parse, read_limited
from robustidps.bundle.trial import try_graph
from robustidps.errors import BundleError, SchemaError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.schema import TrafficSchema

if TYPE_CHECKING:
    import onnx

    from robustidps.importing import Imported

__all__ = ["adapt", "read", "to_family_graph", "tried"]

Floats = npt.NDArray[np.float32]

_THEIRS = "theirs/"


def read(path: Path, x: Floats, schema: TrafficSchema, progress: Progress = silent) -> Imported:
    """The model in an ONNX file, and its answers for `x` [N, D] from the confined process.

    Raises:
        BundleError: it isn't a plain classifier, or failed when it was tried.
        SchemaError: it is one of another number of features or classes.
    """
    from robustidps.importing import Imported

    graph, names = adapt(read_limited(path, path), x.shape[1], schema, path)
    y = try_graph(graph, x, schema.output_dim, names=names, where=path, progress=progress)
    return Imported(graph, names, x, y)


def tried(data: bytes, x: Floats, y: Floats, schema: TrafficSchema, where: object, progress: Progress) -> Imported:
    """A graph that a converter made, with the answers `y` that the model gave in its own framework.

    Raises as `read`.
    """
    from robustidps.importing import Imported

    graph, names = adapt(data, x.shape[1], schema, where)
    try_graph(graph, x, schema.output_dim, names=names, where=where, progress=progress)
    return Imported(graph, names, x, y)


def adapt(data: bytes, width: int, schema: TrafficSchema, where: object) -> tuple[bytes, tuple[str, str]]:
    """The audited graph with one input and one output, and their names.

    Args:
        width: columns D of what it will be given.
    """
    model = parse(data, where)
    constants = {tensor.name for tensor in model.graph.initializer}  # IR 3 lists constants as inputs
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = list(model.graph.output)
    for tensor in model.graph.initializer:  # the usual reason for a strange signature, and said first
        if tensor.data_location or tensor.external_data:
            raise BundleError(
                f"constant {printable(tensor.name, 80)!r} lies outside the file",
                where=where,
                remedy="export without external data",
            )
    if len(inputs) != 1:
        found = [printable(value.name, 60) for value in inputs][:5]
        raise BundleError(f"has inputs {found} where one matrix of features is expected", where=where)
    if len(outputs) > 1:
        outputs = [value for value in outputs if _could_be(value, schema.output_dim)] or outputs
    if len(outputs) != 1:
        found = [printable(value.name, 60) for value in outputs][:5]
        raise BundleError(f"has outputs {found} where one matrix of classes is expected", where=where)
    _settle(inputs[0], "input", width, f"{width} columns of features", where)
    _settle(outputs[0], "output", schema.output_dim, f"{schema.output_dim} classes", where)
    names = (inputs[0].name, outputs[0].name)
    for field, kept in (("input", inputs), ("output", outputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in kept]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    model.graph.ClearField("value_info")
    adapted = model.SerializeToString()
    audit(adapted, where=where, names=names)
    return adapted, names


def _could_be(value: onnx.ValueInfoProto, classes: int) -> bool:
    kind: Any = value.type.tensor_type
    dims = kind.shape.dim
    return bool(kind.elem_type == 1 and len(dims) == 2 and dims[1].dim_value in (0, classes))


def _settle(value: onnx.ValueInfoProto, side: str, columns: int, expected: str, where: object) -> None:
    """Checks a float32 matrix, and writes down its width where the exporter left it open: the trial will tell."""
    label = f"{side} {printable(value.name, 60)!r}"
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type != 1:
        raise BundleError(f"{label} isn't float32", where=where, remedy="export it with float32 inputs and outputs")
    dims = kind.shape.dim
    if not kind.HasField("shape"):
        for _ in range(2):
            dims.add()
    if len(dims) != 2:
        raise SchemaError(f"{label} has {len(dims)} dimensions, expected rows and {expected}", where=where)
    if dims[0].HasField("dim_value"):
        raise BundleError(
            f"{label} has a fixed batch size of {dims[0].dim_value}",
            where=where,
            remedy="export it with a free first dimension (dynamic_shapes, dynamic_axes)",
        )
    if dims[1].dim_value not in (0, columns):
        raise SchemaError(f"{label} has {dims[1].dim_value} columns, expected {expected}", where=where)
    dims[1].dim_value = columns


def to_family_graph(graph: bytes, names: tuple[str, str], output: str) -> bytes:
    """An audited graph as `TrainedModel.export_onnx` promises it: `x` in, `logits` out; probabilities p as ln(p)."""
    import onnx
    import onnx.compose
    from onnx import TensorProto, helper, numpy_helper

    from robustidps.importing import LEAST

    model = onnx.compose.add_prefix(onnx.ModelProto.FromString(graph), _THEIRS)
    dims = [v[0].type.tensor_type.shape.dim[1].dim_value for v in (model.graph.input, model.graph.output)]
    given, wanted = (_THEIRS + name for name in names)
    nodes = [helper.make_node("Identity", ["x"], [given]), *model.graph.node]
    constants = list(model.graph.initializer)
    if output == "probabilities":
        constants.append(numpy_helper.from_array(np.asarray(LEAST, np.float32), "least"))
        nodes += [helper.make_node("Max", [wanted, "least"], ["kept"]), helper.make_node("Log", ["kept"], ["logits"])]
    else:
        nodes.append(helper.make_node("Identity", [wanted], ["logits"]))
    made = helper.make_graph(
        nodes,
        "imported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", dims[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", dims[1]])],
        constants,
    )
    result = helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(result.SerializeToString())
