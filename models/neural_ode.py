"""Neural ODE: a network whose depth is time (Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018).

    q_k(x) = clip((x - e_k) / (e_k+1 - e_k), 0, 1)              of each of P columns, e the quantiles of training rows
    h(0) = tanh(W_in [x, q(x)] + b_in)                          encoder     x [D] -> [D + P B] -> h [H]
    dh/dt = f(t, h) = W_2 tanh(W_1 h + b_1 + t a) + b_2         ODE block   [H] -> [W] -> [H], t from 0 to t1
    logits = W_out h(t1) + b_out                                decoder     h [H] -> [C]

with D standardised features, P of which take more than a few values, B = `bins`, C classes, H = `hidden`, W = `width`;
t has no unit. W_1, W_2, a and the biases are the same at every t: that is what makes it a differential equation and not
a stack of layers. q is the piecewise-linear encoding of Gorishniy et al. ("On Embeddings for Numerical Features in
Tabular Deep Learning", NeurIPS 2022): it lets the network tell apart values that lie close together, such as packet
sizes of 40 and 44 bytes, which trees do with ease.

The equation is solved by the classical Runge-Kutta method of order 4 with a fixed number of equal steps, written out
below. Adaptive solvers (torchdiffeq's dopri5) don't survive export to ONNX, and a fixed loop costs every flow the same
time; dopri5 is the oracle that the tests hold this solver against. Because it is an equation, the number of steps
is a matter of accuracy alone: training takes `training_steps`, the exported model `steps`.

Training: AdamW with warm-up and cosine decay, class-weighted cross-entropy, gradients clipped, early stopping on the
validation rows with the best weights restored; then the tilt that class weights gave is taken out of the output bias.
On a CPU, the same seed, rows and threads give the same weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from robustidps.errors import BundleError, ConfigError, DatasetError, MissingExtraError
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.settings import config_error, writable

__all__ = ["NeuralODE", "NeuralODESettings", "TrainedNeuralODE", "load_native"]

Floats = npt.NDArray[np.float32]

_STEPS_AN_EPOCH = 16  # at least, where rows are few: a smaller batch rather than a handful of steps in all
_NARROWEST = 0.01  # of a bin, in standard deviations: a steep slope would magnify the last digit of its input
_CHUNK = 8192  # rows at a time when predicting: fits the cache, and memory stays bounded


class NeuralODESettings(FamilySettings):
    """What a neural ODE can be told."""

    bins: int = Field(default=16, ge=0, le=256, description="B, quantile bins per column in the encoder; 0 for none")
    hidden: int = Field(default=64, ge=1, le=1024, description="H, the size of the state h")
    width: int = Field(default=64, ge=1, le=4096, description="W, the size of the hidden layer of f")
    steps: int = Field(default=8, ge=1, le=200, description="Runge-Kutta steps of the exported model")
    training_steps: int = Field(default=4, ge=1, le=200, description="Runge-Kutta steps while training")
    t1: float = Field(default=1.0, gt=0, le=20, description="the time at which the state is read")
    epochs: int = Field(default=30, ge=1, le=10_000, description="passes over the training rows at most")
    patience: int = Field(default=15, ge=1, le=10_000, description="epochs without improvement before stopping")
    stop_on: Literal["macro_f1", "loss"] = Field(
        default="macro_f1", description="validation figure that decides which epoch was best; ties go to the loss"
    )
    batch_size: int = Field(default=256, ge=1, le=1_000_000, description="rows per step at most")
    learning_rate: float = Field(default=4e-3, gt=0, le=1, description="highest learning rate, after warming up")
    weight_decay: float = Field(default=0.1, ge=0, le=10, description="AdamW's decoupled weight decay")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of input columns silenced per row in training")
    noise: float = Field(default=0.0, ge=0, le=5, description="standard deviation of noise added to inputs in training")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="probability spread evenly over all classes")


class NeuralODE:
    """The family. Importing it imports no torch."""

    name: ClassVar[str] = "neural_ode"
    description: ClassVar[str] = "Neural ordinary differential equation, solved by fixed-step Runge-Kutta"
    framework: ClassVar[str] = "pytorch"
    model_type: ClassVar[str] = "pytorch"
    extra: ClassVar[str] = "torch"
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "safetensors")
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic"})
    settings: ClassVar[type[FamilySettings]] = NeuralODESettings

    def train(
        self,
        settings: NeuralODESettings,
        train: Standardised,
        validation: Standardised,
        context: TrainingContext,
    ) -> TrainedNeuralODE:
        """Trains on `train`, stops early on `validation`.

        Args:
            train, validation: x float32 [N, D], y int64 [N]; classes may lack rows, batches may hold a single class.

        Raises:
            ConfigError: training diverged under these settings.
            DatasetError: no rows to train on, or to stop on.
        """
        torch = _torch()
        if not len(train) or not len(validation):
            raise DatasetError("a neural ODE needs training rows and validation rows")
        with _torch_at(settings.seed, context.threads):
            columns, start, slope = _quantile_bins(train.x, settings.bins)
            network = _network_class()(train.x.shape[1], context.n_classes, len(columns), settings)
            network.set_bins(columns, start, slope)
            order = torch.Generator().manual_seed(settings.seed)
            best = _fit(network, settings, train, validation, context, order)
            network.load_state_dict(best)
            _undo_class_weights(network, context.class_weights)
        network.eval()
        return TrainedNeuralODE(network, settings)


class TrainedNeuralODE:
    """A trained network with the settings that made it."""

    def __init__(self, network: Any, settings: NeuralODESettings) -> None:
        self.network = network
        self.settings = settings

    def logits(self, x: Floats) -> Floats:
        """Standardised float32 [N, D] to logits float32 [N, C], with `settings.steps` steps."""
        torch = _torch()
        x = np.ascontiguousarray(x, dtype=np.float32)
        out = np.empty((len(x), self.network.decoder.out_features), np.float32)
        with torch.inference_mode():
            for start in range(0, len(x), _CHUNK):
                rows = slice(start, start + _CHUNK)
                out[rows] = self.network(torch.from_numpy(x[rows])).numpy()
        return out

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C], the solver's steps unrolled."""
        import logging
        import warnings

        torch = _torch()
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it remarks on operators that this model has none of
        example = torch.zeros(2, self.network.inputs)
        try:
            with writable(path), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
                torch.onnx.export(
                    self.network,
                    (example,),
                    str(path),
                    input_names=["x"],
                    output_names=["logits"],
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    external_data=False,
                    opset_version=18,
                    verbose=False,
                )
        finally:
            logger.setLevel(level)

    def save_native(self, folder: Path) -> None:
        """Writes `weights.safetensors` and `config.json` into `folder`. Read them again with `load_native`."""
        from safetensors.torch import save_file

        config = {
            "format_version": 1,
            "family": NeuralODE.name,
            "inputs": self.network.inputs,
            "binned": len(self.network.bin_column),
            "classes": self.network.decoder.out_features,
            "settings": self.settings.model_dump(mode="json"),
        }
        with writable(folder):
            save_file(self.network.state_dict(), str(folder / "weights.safetensors"))
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")


def load_native(folder: Path) -> TrainedNeuralODE:
    """The model that `save_native` wrote: for training on from it, or for large offline batches.

    Raises:
        BundleError: a file is missing, or weights and config don't fit each other.
    """
    _torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = NeuralODESettings.model_validate(config["settings"])
        with _torch_at(0, None):
            network = _network_class()(int(config["inputs"]), int(config["classes"]), int(config["binned"]), settings)
        network.load_state_dict(load_file(str(folder / "weights.safetensors")))
    except ValidationError as error:
        raise BundleError(config_error(error, "config.json").problem, where=folder) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"holds no neural ODE: {' '.join(str(error).split())}", where=folder) from None
    network.eval()
    return TrainedNeuralODE(network, settings)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("PyTorch", NeuralODE.extra) from None
    return torch


@contextmanager
def _torch_at(seed: int, threads: int | None) -> Iterator[None]:
    """torch seeded and with this many threads for a block; the caller's own random state and threads come back."""
    torch = _torch()
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _network_class() -> Any:
    """The torch module; made on first use, so that this file imports without torch."""
    torch = _torch()
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[name-defined]
        """x [N, D] -> logits [N, C]."""

        def __init__(self, inputs: int, classes: int, binned: int, settings: NeuralODESettings) -> None:
            super().__init__()
            self.inputs = inputs
            self.encoder = nn.Linear(inputs + binned * settings.bins, settings.hidden)
            self.register_buffer("bin_column", torch.zeros(binned, dtype=torch.int64))
            self.register_buffer("bin_start", torch.zeros(binned, settings.bins))
            self.register_buffer("bin_slope", torch.zeros(binned, settings.bins))
            self.inner = nn.Linear(settings.hidden, settings.width)
            self.time = nn.Parameter(torch.zeros(settings.width))
            self.outer = nn.Linear(settings.width, settings.hidden)
            self.decoder = nn.Linear(settings.hidden, classes)
            self.steps, self.training_steps, self.t1 = settings.steps, settings.training_steps, settings.t1
            self.dropout = nn.Dropout(settings.dropout)

        def f(self, t: Any, h: Any) -> Any:
            """dh/dt at time t: [N, H] -> [N, H]."""
            inner = nn.functional.linear(h, self.inner.weight, self.inner.bias + t * self.time)
            return self.outer(torch.tanh(inner))

        def set_bins(self, columns: npt.NDArray[np.int64], start: Floats, slope: Floats) -> None:
            self.bin_column.copy_(torch.from_numpy(columns))
            self.bin_start.copy_(torch.from_numpy(start))
            self.bin_slope.copy_(torch.from_numpy(slope))

        def encode(self, x: Any) -> Any:
            """h(0): [N, D] -> [N, H]."""
            x = self.dropout(x)
            if len(self.bin_column):
                q = ((x[:, self.bin_column].unsqueeze(2) - self.bin_start) * self.bin_slope).clamp(0, 1)
                x = torch.cat([x, q.flatten(1)], dim=1)
            return torch.tanh(self.encoder(x))

        def forward(self, x: Any) -> Any:
            steps = self.training_steps if self.training else self.steps
            return self.decoder(runge_kutta_4(self.f, self.encode(x), self.t1, steps))

    return Network


def _quantile_bins(x: Floats, bins: int) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Which columns are binned [P], where their bins begin, and one over how wide they are, float32 [P, bins] each.

    Edges lie at evenly spaced quantiles of the training rows. Where rows pile up on one value, several fall together;
    they are merged, and the bins left over get slope 0, which makes them silent. A column with fewer than two bins (a
    flag, a one-hot column) is left as it is: a bin would only repeat it.
    """
    columns, starts, slopes = [], [], []
    for column in range(x.shape[1] if bins else 0):
        edges = np.unique(np.quantile(x[:, column], np.linspace(0, 1, bins + 1)).astype(np.float32))
        kept = [edges[0]]
        for edge in edges[1:]:
            if edge - kept[-1] >= _NARROWEST:
                kept.append(edge)
        if len(kept) > 2:
            silent = bins - (len(kept) - 1)
            columns.append(column)
            starts.append(np.pad(np.asarray(kept[:-1]), (0, silent)))
            slopes.append(np.pad(1 / np.diff(kept), (0, silent)))
    shape = (len(columns), bins)
    return (
        np.asarray(columns, np.int64),
        np.asarray(starts, np.float32).reshape(shape),
        np.asarray(slopes, np.float32).reshape(shape),
    )


def runge_kutta_4(f: Callable[[float, Any], Any], h: Any, t1: float, steps: int) -> Any:
    """h(t1) for dh/dt = f(t, h) from h(0) = h, by the classical method of order 4 in equal steps.

    Its error shrinks with the fourth power of the step (Hairer, Norsett & Wanner, Solving ODEs I, II.1).
    """
    dt = t1 / steps
    for step in range(steps):
        t = step * dt
        k1 = f(t, h)
        k2 = f(t + dt / 2, h + (dt / 2) * k1)
        k3 = f(t + dt / 2, h + (dt / 2) * k2)
        k4 = f(t + dt, h + dt * k3)
        h = h + (dt / 6) * (k1 + 2 * (k2 + k3) + k4)
    return h


def _undo_class_weights(network: Any, weights: Floats) -> None:
    """Takes the class weights' tilt out of the output bias.

    A loss weighted by w is least where softmax(z)_c is proportional to w_c p(c | x), so z - ln w gives p(c | x) back:
    rare classes were learnt with more force, and probabilities still mean what they say. A temperature can't do that.
    """
    torch = _torch()
    present = weights > 0
    shift = np.log(np.where(present, weights, 1.0)).astype(np.float32)
    with torch.no_grad():
        network.decoder.bias -= torch.from_numpy(shift)


def _fit(
    network: Any,
    settings: NeuralODESettings,
    train: Standardised,
    validation: Standardised,
    context: TrainingContext,
    order: Any,
) -> dict[str, Any]:
    """Trains in place; returns the weights of the best epoch."""
    torch = _torch()
    x, y = torch.from_numpy(np.ascontiguousarray(train.x)), torch.from_numpy(np.ascontiguousarray(train.y))
    weights = torch.from_numpy(np.asarray(context.class_weights, dtype=np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    size = min(settings.batch_size, max(16, len(y) // _STEPS_AN_EPOCH))
    total = math.ceil(len(y) / size) * settings.epochs
    best: dict[str, Any] = {}
    best_rank, best_epoch, step = (-math.inf, -math.inf), 0, 0
    for epoch in range(1, settings.epochs + 1):
        network.train()
        rows, summed, weighed = torch.randperm(len(y), generator=order), 0.0, 0.0
        for batch in torch.split(rows, size):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, total)
            step += 1
            inputs, labels = x[batch], y[batch]
            if settings.noise:
                inputs = inputs + settings.noise * torch.randn(inputs.shape, generator=order)
            losses = torch.nn.functional.cross_entropy(
                network(inputs), labels, reduction="none", label_smoothing=settings.label_smoothing
            )
            weight = weights[labels]
            loss = (losses * weight).sum() / weight.sum().clamp_min(1e-12)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            summed += float((losses.detach() * weight).sum())
            weighed += float(weight.sum())
        metrics = {"train_loss": summed / max(weighed, 1e-12)} | _validate(network, validation, weights)
        if not all(math.isfinite(v) for v in metrics.values()):
            raise ConfigError(
                f"training diverged in epoch {epoch}",
                where="learning_rate",
                remedy=f"lower it (it was {settings.learning_rate:g})",
            )
        rank = (round(metrics["val_macro_f1"], 4) if settings.stop_on == "macro_f1" else 0.0, -metrics["val_loss"])
        if rank > best_rank:
            best_rank, best_epoch = rank, epoch
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        context.epoch(epoch, settings.epochs, metrics)
        if epoch - best_epoch >= settings.patience:
            break
    return best


def _schedule(step: int, total: int) -> float:
    """Share of the highest learning rate: a linear rise over the first tenth, then half a cosine down to nearly 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) + 1e-3


def _validate(network: Any, validation: Standardised, weights: Any) -> dict[str, float]:
    """Class-weighted loss and macro-F1 (over the classes that have validation rows)."""
    torch = _torch()
    network.eval()
    with torch.inference_mode():
        chunks = torch.split(torch.from_numpy(np.ascontiguousarray(validation.x)), _CHUNK)
        logits, y = torch.cat([network(chunk) for chunk in chunks]), torch.from_numpy(validation.y)
        # A class that training had no row of has weight 0; it can't be learnt, and must not decide when to stop.
        weight = weights[y]
        losses = torch.nn.functional.cross_entropy(logits, y, reduction="none") * weight
        loss = float(losses.sum() / weight.sum().clamp_min(1e-12))
    confusion = confusion_matrix(validation.y, logits.argmax(1).numpy(), len(weights))
    return {"val_loss": loss, "val_macro_f1": float(macro_f1(confusion))}
