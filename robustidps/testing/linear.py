"""The smallest family there can be: softmax regression in NumPy. The suite's own tests use it, and a plugin may start
from it; it is no entry point, so nobody trains it by accident.

    logits = x W + b        x [N, D] standardised, W [D, C], b [C]

trained by full-batch gradient descent on class-weighted cross-entropy.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.bundle import Bundle, write_bundle
from robustidps.calibration import softmax
from robustidps.evaluation.reference import profile
from robustidps.families import FamilySettings, Standardised, TrainedModel, TrainingContext
from robustidps.preprocessing import Preprocessing
from robustidps.registry.metadata import ModelMetadata
from robustidps.testing.traffic import TOY, toy_traffic

__all__ = ["Linear", "LinearSettings", "TrainedLinear", "toy_bundle"]

Floats = npt.NDArray[np.float32]


class LinearSettings(FamilySettings):
    """What softmax regression can be told."""

    epochs: int = Field(default=40, ge=1, le=10_000, description="passes over the training rows")
    learning_rate: float = Field(default=0.5, gt=0, le=10, description="step of gradient descent")


class TrainedLinear:
    """Weights [D, C] and biases [C]."""

    def __init__(self, weights: Floats, biases: Floats) -> None:
        self.weights, self.biases = weights, biases

    def logits(self, x: Floats) -> Floats:
        """Standardised [N, D] to logits [N, C]."""
        return np.asarray(x @ self.weights + self.biases, np.float32)

    def export_onnx(self, path: Path) -> None:
        """One Gemm."""
        import onnx
        from onnx import helper, numpy_helper

        width, classes = self.weights.shape
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "weights", "biases"], ["logits"])],
            "linear",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", width])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
            [numpy_helper.from_array(self.weights, "weights"), numpy_helper.from_array(self.biases, "biases")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString())

    def save_native(self, folder: Path) -> None:
        """`linear.json`: both arrays as lists."""
        content = {"weights": self.weights.tolist(), "biases": self.biases.tolist()}
        (folder / "linear.json").write_text(json.dumps(content), encoding="utf-8")


class Linear:
    """Softmax regression."""

    name: ClassVar[str] = "linear"
    description: ClassVar[str] = "softmax regression in NumPy, for tests"
    framework: ClassVar[str] = "numpy"
    model_type: ClassVar[str] = "linear"
    extra: ClassVar[str] = "dev"
    requires: ClassVar[tuple[str, ...]] = ("numpy",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic"})
    settings: ClassVar[type[FamilySettings]] = LinearSettings

    def train(
        self, settings: LinearSettings, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedModel:
        rng = np.random.default_rng(settings.seed)
        classes = context.n_classes
        w = rng.normal(0, 0.01, (train.x.shape[1], classes))
        b = np.zeros(classes)
        target = np.eye(classes)[train.y]
        weight = context.class_weights[train.y][:, None] / len(train)
        for epoch in range(1, settings.epochs + 1):
            slope = weight * (softmax(train.x @ w + b) - target)
            w -= settings.learning_rate * train.x.T @ slope
            b -= settings.learning_rate * slope.sum(axis=0)
            right = (validation.x @ w + b).argmax(axis=1) == validation.y
            context.epoch(epoch, settings.epochs, {"val_accuracy": float(right.mean()) if len(right) else 0.0})
        return TrainedLinear(w.astype(np.float32), b.astype(np.float32))


def toy_bundle(folder: Path, *, name: str = "toy", version: str = "1.0.0", seed: int = 0, rows: int = 600) -> Bundle:
    """A whole bundle of this family on `toy_traffic`, written to `folder`. Raises what `write_bundle` raises."""
    traffic = toy_traffic(rows, seed)
    preprocessing = Preprocessing.fit(TOY, traffic.features)
    seen = Standardised(preprocessing.transform(traffic.features), traffic.labels.astype(np.int64))
    weights = np.ones(TOY.output_dim, np.float32)
    trained = Linear().train(LinearSettings(seed=seed), seen, seen, TrainingContext(TOY.output_dim, weights))
    return write_bundle(
        folder,
        metadata=ModelMetadata(
            name=name,
            version=version,
            model_type=Linear.model_type,
            framework=Linear.framework,
            input_dim=TOY.input_dim,
            output_dim=TOY.output_dim,
            created_at=datetime(2026, 1, 6, tzinfo=UTC),
            family=Linear.name,
            thresholds=dict.fromkeys(TOY.classes[1:], 0.5),
        ),
        schema=TOY,
        trained=trained,
        preprocessing=preprocessing,
        temperature=1.3,
        rows=traffic,
        reference=profile(traffic, softmax(trained.logits(seen.x) / 1.3)),
    )
