"""A multilayer perceptron in JAX with Flax NNX: two dense layers of 256 and 128 units by default.

What it computes is in `_mlp.py`. Training: AdamW with warm-up and cosine decay, class-weighted cross-entropy, gradients
clipped, early stopping on the validation rows with the best weights restored; then the tilt that class weights gave is
taken out of the output bias. One compiled function makes a step; JAX's random keys are explicit, so the same seed and
rows give the same weights, and nobody else's random state is touched.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustidps.errors import BundleError, MissingExtraError
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.models._loop import BestEpoch, batches, demand_rows, schedule, validation_figures, weight_shift
from robustidps.models._mlp import Layer, MLPSettings, write_mlp
from robustidps.settings import writable

__all__ = ["FlaxMLP", "FlaxMLPSettings", "TrainedFlaxMLP", "load_native"]

Floats = npt.NDArray[np.float32]

_CHUNK = 4096  # rows at a time when predicting; fewer are filled up, so that few shapes are compiled


class FlaxMLPSettings(MLPSettings):
    """What the Flax perceptron can be told."""


class FlaxMLP:
    """The family. Importing it imports no JAX."""

    name: ClassVar[str] = "flax_mlp"
    description: ClassVar[str] = "Multilayer perceptron in JAX with Flax NNX"
    framework: ClassVar[str] = "jax"
    model_type: ClassVar[str] = "jax"
    extra: ClassVar[str] = "jax"
    requires: ClassVar[tuple[str, ...]] = ("jax", "flax", "optax", "safetensors")
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic"})
    settings: ClassVar[type[FamilySettings]] = FlaxMLPSettings

    def train(
        self, settings: FlaxMLPSettings, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedFlaxMLP:
        """Trains on `train`, stops early on `validation`.

        Raises:
            ConfigError: training diverged under these settings. DatasetError: no rows.
        """
        demand_rows(train, validation)
        jax, nnx = _frameworks()
        import optax

        size = settings.batch_for(len(train))
        total = -(-len(train) // size) * settings.epochs
        network = _perceptron(nnx, train.x.shape[1], context.n_classes, settings)
        rates = np.array([settings.learning_rate * schedule(step, total) for step in range(total)], np.float32)
        steps = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(lambda count: jax.numpy.asarray(rates)[count], weight_decay=settings.weight_decay),
        )
        optimiser = nnx.Optimizer(network, steps, wrt=nnx.Param)

        @nnx.jit
        def step(network: Any, optimiser: Any, x: Any, y: Any, weight: Any) -> Any:
            def loss(network: Any) -> Any:
                losses = optax.softmax_cross_entropy_with_integer_labels(network(x), y)
                return (losses * weight).sum() / jax.numpy.maximum(weight.sum(), 1e-12)

            network.train()
            value, gradients = nnx.value_and_grad(loss)(network)
            optimiser.update(network, gradients)
            return value

        rng = np.random.default_rng(settings.seed)
        weights = np.asarray(context.class_weights, np.float32)
        best = BestEpoch(settings)
        for epoch in range(1, settings.epochs + 1):
            losses = []
            for rows, counts in batches(len(train), size, rng):
                weight = weights[train.y[rows]] * counts
                losses.append(float(step(network, optimiser, train.x[rows], train.y[rows].astype(np.int32), weight)))
            layers = _layers(network)
            model = TrainedFlaxMLP(layers, settings)
            metrics = {"train_loss": float(np.mean(losses))}
            metrics |= validation_figures(model.logits(validation.x), validation.y, weights)
            if best.better(epoch, metrics):
                best.keep = layers
            context.epoch(epoch, settings.epochs, metrics)
            if best.over(epoch):
                break
        *hidden, (matrix, bias) = best.keep
        return TrainedFlaxMLP([*hidden, (matrix, bias - weight_shift(weights))], settings)


class TrainedFlaxMLP:
    """The layers of a trained perceptron; predictions are compiled by JAX."""

    def __init__(self, layers: list[Layer], settings: FlaxMLPSettings) -> None:
        self.layers, self.settings = layers, settings

    def logits(self, x: Floats) -> Floats:
        """Standardised float32 [N, D] to logits float32 [N, C]."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        out = np.empty((len(x), self.layers[-1][0].shape[1]), np.float32)
        for start in range(0, len(x), _CHUNK):
            rows = x[start : start + _CHUNK]
            width = next((w for w in (1, 64) if len(rows) <= w), _CHUNK)
            filled = np.resize(rows, (width, x.shape[1]))
            out[start : start + len(rows)] = np.asarray(_forward()(self.layers, filled))[: len(rows)]
        return out

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C]."""
        write_mlp(path, self.layers)

    def save_native(self, folder: Path) -> None:
        """Writes `weights.safetensors` and `config.json`. Read them again with `load_native`."""
        from safetensors.numpy import save_file

        tensors: dict[str, Floats] = {}
        for k, (matrix, bias) in enumerate(self.layers):
            tensors |= {f"kernel{k}": np.ascontiguousarray(matrix), f"bias{k}": np.ascontiguousarray(bias)}
        config = {"format_version": 1, "family": FlaxMLP.name, "settings": self.settings.model_dump(mode="json")}
        with writable(folder):
            save_file(tensors, str(folder / "weights.safetensors"))
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")


def load_native(folder: Path) -> TrainedFlaxMLP:
    """The model that `save_native` wrote.

    Raises:
        BundleError: a file is missing, or holds something else than such a model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = FlaxMLPSettings.model_validate(config["settings"])
        tensors = load_file(str(folder / "weights.safetensors"))
        layers = [(tensors[f"kernel{k}"], tensors[f"bias{k}"]) for k in range(len(settings.hidden) + 1)]
        widths = [layers[0][0].shape[0], *settings.hidden, layers[-1][0].shape[1]]
        fits = all(
            w.shape == (widths[k], widths[k + 1]) and b.shape == (widths[k + 1],) for k, (w, b) in enumerate(layers)
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError, ValidationError) as error:
        raise BundleError(f"holds no Flax perceptron: {' '.join(str(error).split())[:200]}", where=folder) from None
    if not fits:
        raise BundleError("its weights and its config.json don't fit each other", where=folder)
    return TrainedFlaxMLP(layers, settings)


def _frameworks() -> tuple[Any, Any]:
    try:
        import jax
        from flax import nnx
    except ImportError:
        raise MissingExtraError("JAX and Flax", FlaxMLP.extra) from None
    return jax, nnx


def _perceptron(nnx: Any, inputs: int, classes: int, settings: FlaxMLPSettings) -> Any:
    rngs = nnx.Rngs(settings.seed)
    layers: list[Any] = []
    for units in settings.hidden:
        start = nnx.initializers.he_normal()
        layers += [nnx.Linear(inputs, units, kernel_init=start, rngs=rngs), nnx.relu]
        if settings.dropout:
            layers.append(nnx.Dropout(settings.dropout, rngs=rngs))
        inputs = units
    layers.append(nnx.Linear(inputs, classes, rngs=rngs))
    return nnx.Sequential(*layers)


def _layers(network: Any) -> list[Layer]:
    """Copies of the network's weights and biases, in order."""
    dense = [layer for layer in network.layers if hasattr(layer, "kernel")]
    return [(np.array(layer.kernel[...]), np.array(layer.bias[...])) for layer in dense]


@lru_cache(maxsize=1)
def _forward() -> Any:
    """The compiled chain of layers; made on first use, so that this file imports without JAX."""
    jax, _ = _frameworks()

    @jax.jit
    def forward(layers: Any, x: Any) -> Any:
        *hidden, (matrix, bias) = layers
        for weights, shift in hidden:
            x = jax.nn.relu(x @ weights + shift)
        return x @ matrix + bias

    return forward
