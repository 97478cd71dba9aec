"""Linear discriminant analysis as a family of models for RobustIDPS, in NumPy: the example of docs/plugins.md.

Every class is taken to be normally distributed with a mean of its own and one covariance for all (R. A. Fisher, 1936),
which makes the logarithm of its probability linear in the features: logits = x W + b.
"""

import json

import numpy as np
from pydantic import Field

from robustidps.families import FamilySettings


class LDASettings(FamilySettings):
    shrinkage: float = Field(0.1, ge=0, le=1, description="how far the covariance is drawn towards a multiple of I")


class LDA:
    name, framework, model_type = "lda", "numpy", "linear"
    description = "linear discriminant analysis: one covariance for all classes, solved at once"
    extra, requires = "none", ("numpy",)
    capabilities = frozenset({"calibrated", "deterministic"})
    settings = LDASettings

    def train(self, settings, train, validation, context):
        x, classes = train.x.astype(np.float64), range(context.n_classes)
        mean = np.stack([x[train.y == c].mean(axis=0) if (train.y == c).any() else x.mean(axis=0) for c in classes])
        scatter = (x - mean[train.y]).T @ (x - mean[train.y]) / len(x)
        level = max(np.trace(scatter) / len(scatter), 1e-6)
        covariance = (1 - settings.shrinkage) * scatter + (settings.shrinkage + 1e-4) * level * np.eye(len(scatter))
        counts = np.bincount(train.y, minlength=context.n_classes) * context.class_weights
        weights = np.linalg.solve(covariance, mean.T)
        biases = np.log(np.maximum(counts, 1e-3) / len(x)) - 0.5 * np.einsum("cd,dc->c", mean, weights)
        model = TrainedLDA(weights.astype(np.float32), biases.astype(np.float32))
        right = model.logits(validation.x).argmax(axis=1) == validation.y
        context.epoch(1, 1, {"val_accuracy": float(right.mean())})
        return model


class TrainedLDA:
    def __init__(self, weights, biases):
        self.weights, self.biases = weights, biases

    def logits(self, x):
        return x @ self.weights + self.biases

    def export_onnx(self, path):
        from onnx import TensorProto, helper, numpy_helper

        sides = {"x": self.weights.shape[0], "logits": self.weights.shape[1]}
        x, logits = (helper.make_tensor_value_info(k, TensorProto.FLOAT, ["batch", n]) for k, n in sides.items())
        constants = [numpy_helper.from_array(self.weights, "W"), numpy_helper.from_array(self.biases, "b")]
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "W", "b"], ["logits"])], "lda", [x], [logits], constants
        )
        path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())

    def save_native(self, folder):
        content = {"weights": self.weights.tolist(), "biases": self.biases.tolist()}
        (folder / "lda.json").write_text(json.dumps(content))
