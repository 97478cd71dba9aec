"""A multilayer perceptron in Keras 3 on TensorFlow: two dense layers of 256 and 128 units by default.

What it computes is in `_mlp.py`. Training: AdamW with warm-up and cosine decay, cross-entropy with class-weighted rows,
gradients clipped, early stopping on the validation rows with the best weights restored; then the tilt that class
weights gave is taken out of the output bias. Weights, order of rows and dropout are seeded one by one, so that the
caller's random state is left alone; on a CPU the same seed and rows give the same weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from robustidps.errors import BundleError, MissingExtraError
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.models._loop import BestEpoch, batches, demand_rows, validation_figures, weight_shift
from robustidps.models._mlp import Layer, MLPSettings, write_mlp
from robustidps.settings import writable

__all__ = ["KerasMLP", "KerasMLPSettings", "TrainedKerasMLP", "load_native"]

Floats = npt.NDArray[np.float32]

_CHUNK = 8192  # rows at a time when predicting


class KerasMLPSettings(MLPSettings):
    """What the Keras perceptron can be told."""


class KerasMLP:
    """The family. Importing it imports no Keras."""

    name: ClassVar[str] = "keras_mlp"
    description: ClassVar[str] = "Multilayer perceptron in Keras on TensorFlow"
    framework: ClassVar[str] = "tensorflow"
    model_type: ClassVar[str] = "tensorflow"
    extra: ClassVar[str] = "tensorflow"
    requires: ClassVar[tuple[str, ...]] = ("tensorflow", "keras")
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic"})
    settings: ClassVar[type[FamilySettings]] = KerasMLPSettings

    def train(
        self, settings: KerasMLPSettings, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedKerasMLP:
        """Trains on `train`, stops early on `validation`.

        Raises:
            ConfigError: training diverged under these settings. DatasetError: no rows.
        """
        demand_rows(train, validation)
        keras = _keras()
        size = settings.batch_for(len(train))
        steps = -(-len(train) // size) * settings.epochs
        warm = max(1, steps // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=settings.learning_rate / warm,
            decay_steps=max(1, steps - warm),
            alpha=1e-3,
            warmup_target=settings.learning_rate,
            warmup_steps=warm,
        )
        model = _perceptron(keras, train.x.shape[1], context.n_classes, settings)
        model.compile(
            optimizer=keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=1.0),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        rng = np.random.default_rng(settings.seed)
        weights = np.asarray(context.class_weights, np.float32)
        best = BestEpoch(settings)
        for epoch in range(1, settings.epochs + 1):
            losses = []
            for rows, counts in batches(len(train), size, rng):
                weight = weights[train.y[rows]] * counts
                losses.append(float(model.train_on_batch(train.x[rows], train.y[rows], sample_weight=weight)))
            metrics = {"train_loss": float(np.mean(losses))}
            metrics |= validation_figures(_logits(model, validation.x, context.n_classes), validation.y, weights)
            if best.better(epoch, metrics):
                best.keep = model.get_weights()
            context.epoch(epoch, settings.epochs, metrics)
            if best.over(epoch):
                break
        best.keep[-1] = best.keep[-1] - weight_shift(weights)
        model.set_weights(best.keep)
        return TrainedKerasMLP(model, context.n_classes)


class TrainedKerasMLP:
    """A trained Keras model of dense layers."""

    def __init__(self, model: Any, classes: int) -> None:
        self.model, self.classes = model, classes

    def logits(self, x: Floats) -> Floats:
        """Standardised float32 [N, D] to logits float32 [N, C]."""
        return _logits(self.model, np.ascontiguousarray(x, dtype=np.float32), self.classes)

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C]."""
        values = [np.asarray(v, np.float32) for v in self.model.get_weights()]
        layers: list[Layer] = list(zip(values[::2], values[1::2], strict=True))
        write_mlp(path, layers)

    def save_native(self, folder: Path) -> None:
        """Writes `model.keras`, an archive of JSON and HDF5. Read it again with `load_native`."""
        with writable(folder):
            self.model.save(folder / "model.keras")


def load_native(folder: Path) -> TrainedKerasMLP:
    """The model that `save_native` wrote; Keras's safe mode refuses code in it.

    Raises:
        BundleError: the file is missing, or holds something else than such a model.
    """
    keras = _keras()
    path = folder / "model.keras"
    if not path.is_file():
        raise BundleError("no such file", where=path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        shape = model.output_shape
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"holds no Keras model: {' '.join(str(error).split())[:200]}", where=path) from None
    return TrainedKerasMLP(model, int(shape[-1]))


def _keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its remarks on processor features
    try:
        import keras
    except ImportError:
        raise MissingExtraError("TensorFlow and Keras", KerasMLP.extra) from None
    return keras


def _perceptron(keras: Any, inputs: int, classes: int, settings: KerasMLPSettings) -> Any:
    layers = [keras.Input((inputs,), name="x")]
    for k, units in enumerate(settings.hidden):
        start = keras.initializers.HeNormal(seed=settings.seed * 64 + k)
        layers.append(keras.layers.Dense(units, activation="relu", kernel_initializer=start))
        if settings.dropout:
            layers.append(keras.layers.Dropout(settings.dropout, seed=settings.seed * 64 + 32 + k))
    start = keras.initializers.GlorotUniform(seed=settings.seed * 64 + 63)
    layers.append(keras.layers.Dense(classes, kernel_initializer=start, name="logits"))
    return keras.Sequential(layers)


def _logits(model: Any, x: Floats, classes: int) -> Floats:
    out = np.empty((len(x), classes), np.float32)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        out[rows] = np.asarray(model(x[rows], training=False))
    return out
