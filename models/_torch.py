"""What the families written in PyTorch share: settings of the training loop, the loop, export, and files.

A family builds a module that maps standardised rows [N, D] to logits [N, C] and hands it to `fit`; `TorchModel` is what
comes out. Importing this module imports no torch.

Training: AdamW with warm-up and cosine decay, class-weighted cross-entropy, gradients clipped, early stopping on the
validation rows with the best weights restored. On a CPU, the same seed, rows and threads give the same weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from robustidps.errors import BundleError, ConfigError, DatasetError, MissingExtraError
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.settings import config_error, writable

__all__ = ["TorchModel", "TorchSettings", "demand_rows", "fit", "load", "torch_at", "torch_of", "undo_class_weights"]

Floats = npt.NDArray[np.float32]

_STEPS_AN_EPOCH = 16  # at least, where rows are few: a smaller batch rather than a handful of steps in all
_CHUNK = 8192  # rows at a time when predicting: fits the cache, and memory stays bounded


class TorchSettings(FamilySettings):
    """What every family in PyTorch can be told about its training; each gives defaults of its own."""

    epochs: int = Field(default=30, ge=1, le=10_000, description="passes over the training rows at most")
    patience: int = Field(default=15, ge=1, le=10_000, description="epochs without improvement before stopping")
    stop_on: Literal["macro_f1", "loss"] = Field(
        default="macro_f1", description="validation figure that decides which epoch was best; ties go to the loss"
    )
    batch_size: int = Field(default=256, ge=1, le=1_000_000, description="rows per step at most")
    learning_rate: float = Field(default=4e-3, gt=0, le=1, description="highest learning rate, after warming up")
    weight_decay: float = Field(default=0.1, ge=0, le=10, description="AdamW's decoupled weight decay")
    noise: float = Field(default=0.0, ge=0, le=5, description="standard deviation of noise added to inputs in training")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="probability spread evenly over all classes")


class TorchModel:
    """A trained module with the settings that made it.

    A subclass names its `family`, and gives in `sizes` what it takes, besides the settings, to build the module again.
    """

    family: ClassVar[str]

    def __init__(self, network: Any, settings: Any) -> None:
        self.network = network.eval()
        self.settings = settings

    @property
    def sizes(self) -> dict[str, int]:
        """At least `inputs` D and `classes` C."""
        return {"inputs": self.network.inputs, "classes": self.network.classes}

    def logits(self, x: Floats) -> Floats:
        """Standardised float32 [N, D] to logits float32 [N, C]."""
        torch = torch_of(self.family)
        x = np.ascontiguousarray(x, dtype=np.float32)
        out = np.empty((len(x), self.network.classes), np.float32)
        with torch.inference_mode():
            for start in range(0, len(x), _CHUNK):
                rows = slice(start, start + _CHUNK)
                out[rows] = self.network(torch.from_numpy(x[rows])).numpy()
        return out

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C]."""
        import logging
        import warnings

        torch = torch_of(self.family)
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it remarks on operators that such models have none of
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
            "family": self.family,
            **self.sizes,
            "settings": self.settings.model_dump(mode="json"),
        }
        with writable(folder):
            save_file(self.network.state_dict(), str(folder / "weights.safetensors"))
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")


def load(folder: Path, settings_class: type[Any], build: Callable[[dict[str, Any], Any], Any], family: str) -> Any:
    """The module and settings that `TorchModel.save_native` wrote.

    Args:
        build: a module with random weights from config.json's content and the settings.

    Raises:
        BundleError: a file is missing, or weights and config don't fit each other.
    """
    torch_of(family)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = settings_class.model_validate(config["settings"])
        with torch_at(0, None, family):
            network = build(config, settings)
        network.load_state_dict(load_file(str(folder / "weights.safetensors")))
    except ValidationError as error:
        raise BundleError(config_error(error, "config.json").problem, where=folder) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"holds no {family}: {' '.join(str(error).split())}", where=folder) from None
    return network, settings


def torch_of(family: str) -> Any:
    """The torch module. Raises MissingExtraError, naming the extra of `family`."""
    try:
        import torch
    except ImportError:
        extra = {"quantum": "quantum", "spiking": "spiking"}.get(family, "torch")
        raise MissingExtraError("PyTorch", extra) from None
    return torch


@contextmanager
def torch_at(seed: int, threads: int | None, family: str = "") -> Iterator[None]:
    """torch seeded and with this many threads for a block; the caller's own random state and threads come back."""
    torch = torch_of(family)
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def demand_rows(train: Standardised, validation: Standardised) -> None:
    """Raises DatasetError where there is nothing to train on, or to stop on."""
    if not len(train) or not len(validation):
        raise DatasetError("training needs training rows and validation rows")


def undo_class_weights(bias: Any, weights: Floats) -> None:
    """Takes the class weights' tilt out of an output bias [C].

    A loss weighted by w is least where softmax(z)_c is proportional to w_c p(c | x), so z - ln w gives p(c | x) back:
    rare classes were learnt with more force, and probabilities still mean what they say. A temperature can't do that.
    """
    import torch

    shift = np.log(np.where(weights > 0, weights, 1.0)).astype(np.float32)
    with torch.no_grad():
        bias -= torch.from_numpy(shift)


def fit(
    network: Any,
    settings: TorchSettings,
    train: Standardised,
    validation: Standardised,
    context: TrainingContext,
    *,
    penalty: Callable[[], Any] | None = None,
) -> None:
    """Trains a module in place, and leaves it with the weights of its best epoch. Call it within `torch_at`.

    Args:
        network: [N, D] to logits [N, C].
        train, validation: x float32 [N, D], y int64 [N]; classes may lack rows, batches may hold a single class.
        penalty: what is added to the loss of the batch that just went through the network.

    Raises:
        ConfigError: training diverged under these settings.
        DatasetError: no rows to train on, or to stop on.
    """
    import torch

    demand_rows(train, validation)
    order = torch.Generator().manual_seed(settings.seed)
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
            if penalty is not None:
                loss = loss + penalty()
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
    network.load_state_dict(best)
    network.eval()


def _schedule(step: int, total: int) -> float:
    """Share of the highest learning rate: a linear rise over the first tenth, then half a cosine down to nearly 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) + 1e-3


def _validate(network: Any, validation: Standardised, weights: Any) -> dict[str, float]:
    """Class-weighted loss and macro-F1 (over the classes that have validation rows)."""
    import torch

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
