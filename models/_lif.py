"""A spiking network as an ONNX graph: all steps unrolled, for ONNX Runtime. The equations are in `spiking.py`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from robustidps.emitting import Graph
from robustidps.nir import LIFLayer, LIFNetwork

__all__ = ["write_onnx"]


def write_onnx(path: Path, network: LIFNetwork) -> None:
    """Writes `x` float32 [N, D] to `logits` float32 [N, C], the spike counts, with a node for each operation and step.

    Layer by layer: the spikes of all steps lie under each other, [T N, H], and go through the layer's matrix at once;
    then potentials take three operations a step. They are negated (by `alpha` and `beta` of Gemm, which rounds
    nothing), so that ThresholdedRelu, which keeps what is over its threshold and makes the rest 0, is the reset.
    HardSigmoid, clip(a x + b, 0, 1), is steep enough to be 0 up to the threshold and 1 from the next float32 on: no
    operation gives bool, which ONNX Runtime is several times slower at. Node by node rather than through torch's
    exporter, which takes half a minute for as much.

    Raises:
        StorageError: full disk, read-only folder.
    """
    from onnx import TensorProto

    graph = Graph("spiking")
    node, constant = graph.node, graph.constant

    def negated_product(value: str, layer: LIFLayer, dtype: type) -> str:
        weights, bias = constant(layer.weights, dtype), constant(layer.bias, dtype)
        return node("Gemm", value, weights, bias, transB=1, alpha=-1.0, beta=-1.0)

    steps, spikes = network.steps, ""
    if network.coding == "latency":
        zero, one, never = constant(0), constant(1), constant(-1)
        both = node("Concat", "x", node("Neg", "x"), axis=1)
        share = node("Clip", node("Mul", both, constant(1 / network.span)), zero, one)
        time = node("Round", node("Mul", node("Sub", one, share), constant(steps - 1)))
        time = node("Where", node("Greater", both, zero), time, never)
        fired = [node("Equal", time, constant(t)) for t in range(steps)]
        spikes = node("Cast", node("Concat", *fired, axis=0), to=TensorProto.FLOAT)
    for k, layer in enumerate(network.layers):
        if spikes:
            currents = [f"I{k}_{t}" for t in range(steps)]
            node("Split", negated_product(spikes, layer, np.float32), outputs=currents, axis=0, num_outputs=steps)
        else:
            value = negated_product(node("Cast", "x", to=TensorProto.DOUBLE), layer, np.float64)
            currents = [node("Cast", value, to=TensorProto.FLOAT)] * steps
        threshold = np.float32(layer.threshold)
        fires_below = float(np.nextafter(-threshold, np.float32(-np.inf)))  # at -threshold itself it doesn't
        steep = 2.0 ** (24 - math.floor(math.log2(threshold)))  # the next float32 over the threshold gives 2 or more
        beta, potentials, held = constant(layer.beta), list[str](), ""
        for current in currents:
            potentials.append(node("Add", node("Mul", held, beta), current) if held else current)
            held = node("ThresholdedRelu", potentials[-1], alpha=fires_below) if len(potentials) < steps else ""
        stacked = node("Concat", *potentials, axis=0)
        spikes = node("HardSigmoid", stacked, alpha=-steep, beta=-steep * float(threshold))
    outputs = len(network.layers[-1].bias)
    value = node("Reshape", spikes, constant([steps, -1, outputs], np.int64))
    node("ReduceSum", value, constant([0], np.int64), outputs=["logits"], keepdims=0)
    graph.save(path, network.inputs, outputs)
