"""Several bundles' graphs as one: the same features into each, a weighted mean of their probabilities out.

    features [N, F] -+-> member 0 -> p0 [N, C] --*w0--+
                     +-> member 1 -> p1 [N, C] --*w1--+--> sum -> log -> / temperature -> softmax -> probabilities

Every name in member k is prefixed with `k/`, so that members may come from the same family, or be merged graphs
themselves. Members whose operator sets differ in age are brought to the newest by ONNX's own converter; whether that,
or anything here, changed what they say is found by the parity gate (`write_graph`), which asks the members themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import INPUT, OUTPUT, audit
from robustidps.errors import BundleError, printable

__all__ = ["FLOOR", "merge"]

FLOOR = 1e-12
"""Probabilities below count as this much before the logarithm; float32 has no ln 0."""

_IR_VERSION = 10  # understood by ONNX Runtime from 1.18 on


def merge(models: Sequence[bytes], weights: npt.ArrayLike, temperature: float) -> bytes:
    """One self-contained ONNX file from those of several bundles of one schema.

    Args:
        models: each a bundle's `model.onnx`, `features` [N, F] to `probabilities` [N, C]; audited before they are used.
        weights: float [K], one a member, none negative, adding up to 1.
        temperature: what the logarithm of the mean is divided by before softmax, over 0.

    Raises:
        BundleError: the members differ in width or can't be brought to one operator set, or the whole doesn't pass the
            audit (it may be too large).
    """
    import onnx
    import onnx.compose
    from onnx import TensorProto, helper, numpy_helper

    w = np.asarray(weights, np.float32)
    if len(models) < 2 or w.shape != (len(models),) or not (w >= 0).all() or not abs(float(w.sum()) - 1) <= 1e-5:
        raise BundleError(f"{len(models)} members and weights {w.tolist()}: two or more that add up to 1 are needed")
    facts = [audit(model, where=f"member {k}") for k, model in enumerate(models)]
    if len({(f.input_dim, f.output_dim) for f in facts}) > 1:
        said = ", ".join(f"{f.input_dim} x {f.output_dim}" for f in facts)
        raise BundleError(f"members differ in features x classes: {said}")
    parsed = [onnx.ModelProto.FromString(model) for model in models]
    opsets = _common_opsets(parsed)
    nodes, constants = [], []
    shares = []
    for k, model in enumerate(parsed):
        part = onnx.compose.add_prefix(_at_opset(model, opsets[""], f"member {k}"), f"{k}/").graph
        nodes.append(helper.make_node("Identity", [INPUT], [f"{k}/{INPUT}"], name=f"input/{k}"))
        nodes.extend(part.node)
        constants.extend(part.initializer)
        constants.append(numpy_helper.from_array(w[k], f"weight/{k}"))
        nodes.append(helper.make_node("Mul", [f"{k}/{OUTPUT}", f"weight/{k}"], [f"share/{k}"], name=f"weigh/{k}"))
        shares.append(f"share/{k}")
    constants.append(numpy_helper.from_array(np.array(FLOOR, np.float32), "floor"))
    constants.append(numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
    nodes += [
        helper.make_node("Sum", shares, ["mean"], name="mean"),
        helper.make_node("Max", ["mean", "floor"], ["positive"], name="positive"),
        helper.make_node("Log", ["positive"], ["logits"], name="logits"),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"], name="scaled"),
        helper.make_node("Softmax", ["scaled"], [OUTPUT], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "robustidps",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", facts[0].input_dim])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", facts[0].output_dim])],
        constants,
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    merged = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="robustidps")
    data: bytes = merged.SerializeToString()
    audit(data, where="the merged graph")
    try:
        onnx.checker.check_model(merged, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the merged graph isn't valid ONNX: {printable(error, 300)}") from None
    return data


def _common_opsets(models: Sequence) -> dict[str, int]:
    """Domain -> the newest version that a member uses; other domains than the default can't be converted."""
    found: dict[str, set[int]] = {}
    for model in models:
        for entry in model.opset_import:
            found.setdefault("" if entry.domain == "ai.onnx" else entry.domain, set()).add(entry.version)
    for domain, versions in found.items():
        if domain and len(versions) > 1:
            raise BundleError(
                f"members use {printable(domain, 60)} in versions {sorted(versions)}, which can't be mixed"
            )
    return {domain: max(versions) for domain, versions in found.items()}


def _at_opset(model, opset: int, where: str):  # type: ignore[no-untyped-def] # onnx's own types are loose
    import onnx.version_converter

    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions == [opset]:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"has opset {versions}, which can't be converted to {opset}: {printable(error, 200)}", where=where
        ) from None
