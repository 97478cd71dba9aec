"""What the two plain multilayer perceptrons (Keras, Flax) share: their settings, and their graph in ONNX.

    h_0 = x;  h_k = max(0, W_k h_k-1 + b_k), k = 1..L;  logits = W_out h_L + b_out        x [D] -> [hidden_1] .. -> [C]

The graph is written node by node: for a chain of matrix products that is exact, needs no converter, and takes no time;
the parity gate holds it against the framework's own answer like any other export.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.emitting import Graph
from robustidps.models._loop import LoopSettings

__all__ = ["Layer", "MLPSettings", "write_mlp"]

Floats = npt.NDArray[np.float32]
Layer = tuple[Floats, Floats]
"""Weights [inputs, outputs] and bias [outputs] of one layer."""


class MLPSettings(LoopSettings):
    """What a multilayer perceptron can be told, whichever framework trains it."""

    hidden: tuple[int, ...] = Field(
        default=(256, 128), min_length=1, max_length=16, description="sizes of the hidden layers"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of hidden units silenced per row in training")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="highest learning rate, after warming up")

    def model_post_init(self, context: object) -> None:
        if not all(1 <= size <= 16_384 for size in self.hidden):
            raise ValueError("hidden: a layer has 1 to 16384 units")


def write_mlp(path: Path, layers: Sequence[Layer]) -> None:
    """Writes a chain of Gemm and Relu: `x` float32 [N, D] to `logits` float32 [N, C].

    Raises:
        StorageError: full disk, read-only folder.
    """
    graph, value = Graph("mlp"), "x"
    for weights, bias in layers[:-1]:
        value = graph.node("Relu", graph.node("Gemm", value, graph.constant(weights), graph.constant(bias)))
    weights, bias = layers[-1]
    graph.node("Gemm", value, graph.constant(weights), graph.constant(bias), outputs=["logits"])
    graph.save(path, inputs=layers[0][0].shape[0], classes=weights.shape[1])
