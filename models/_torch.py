"""What the families written in PyTorch share: settings of the training loop, the loop, and files.

A family builds a module that maps standardised rows [N, D] to logits [N, C] and hands it to `fit`; `TorchModel` is what
comes out. Importing this module imports no torch.

Training: AdamW with warm-up and cosine decay, class-weighted cross-entropy, gradients clipped, early stopping on the
validation rows with the best weights restored. On a CPU, the same seed, rows and threads give the same weights.

torch has one random state and one number of threads a process. Whoever trains holds `_turn` meanwhile:
trainings that threads of one process begin at once take turns, and each gives what it gives alone.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from robustidps.errors import BundleError, MissingExtraError
from robustidps.families import Standardised, TrainingContext
from robustidps.models._loop import (
    BestEpoch,
    LoopSettings,
    demand_rows,
    schedule,
    validation_figures,
    weight_shift,
)
from robustidps.settings import config_error, writable

__all__ = [
    "STORED",
    "TorchModel",
    "TorchSettings",
    "fit",
    "forward",
    "load",
    "torch_at",
    "torch_of",
    "undo_class_weights",
]

Floats = npt.NDArray[np.float32]

STORED = {"stored": True}
"""Context in which settings of a model made earlier are read: what training would need here may be missing."""

_CHUNK = 8192  # rows at a time when predicting: fits the cache, and memory stays bounded
_turn = threading.RLock()


class TorchSettings(LoopSettings):
    """What every family in PyTorch can be told about its training; each gives defaults of its own."""

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
        return forward(self.network, x)

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
        settings = settings_class.model_validate(config["settings"], context=STORED)
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
    """torch seeded and with this many threads for a block; the caller's own random state and threads come back.

    Another thread of this process that calls it meanwhile waits.
    """
    torch = torch_of(family)
    with _turn, torch.random.fork_rng(devices=[]):
        before = torch.get_num_threads()
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def undo_class_weights(bias: Any, weights: Floats) -> None:
    """Takes the class weights' tilt out of an output bias [C]; why, says `weight_shift`."""
    import torch

    with torch.no_grad():
        bias -= torch.from_numpy(weight_shift(weights))


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
    size = settings.batch_for(len(y))
    total = math.ceil(len(y) / size) * settings.epochs
    best, step = BestEpoch(settings), 0
    for epoch in range(1, settings.epochs + 1):
        network.train()
        rows, summed, weighed = torch.randperm(len(y), generator=order), 0.0, 0.0
        for batch in torch.split(rows, size):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, total)
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
        metrics = {"train_loss": summed / max(weighed, 1e-12)}
        metrics |= validation_figures(forward(network, validation.x), validation.y, context.class_weights)
        if best.better(epoch, metrics):
            best.keep = {name: value.detach().clone() for name, value in network.state_dict().items()}
        context.epoch(epoch, settings.epochs, metrics)
        if best.over(epoch):
            break
    network.load_state_dict(best.keep)
    network.eval()


def forward(network: Any, x: Floats) -> Floats:
    """Logits float32 [N, C] of a module in evaluation mode, for rows float32 [N, D], in blocks."""
    import torch

    network.eval()
    x = np.ascontiguousarray(x, dtype=np.float32)
    out = np.empty((len(x), network.classes), np.float32)
    with torch.inference_mode():
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            out[rows] = network(torch.from_numpy(x[rows])).numpy()
    return out
