"""What is exported: a registered version's network as its NIR file has it, and the model that it must equal."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from robustidps.errors import BundleError, InputError, SchemaError
from robustidps.loihi.runner import Simulation

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["FAMILY", "Layer", "Network", "Subject", "encode", "subject_of"]

FAMILY = "spiking"

Doubles = npt.NDArray[np.float64]


class Layer(Protocol):
    """weights: float64 [neurons, inputs]. bias: float64 [neurons]. beta in [0, 1), threshold > 0."""

    @property
    def weights(self) -> Doubles: ...
    @property
    def bias(self) -> Doubles: ...
    @property
    def beta(self) -> float: ...
    @property
    def threshold(self) -> float: ...


class Network(Protocol):
    """Layers from input to output, T steps, how features go in, and the span of latency coding."""

    @property
    def layers(self) -> tuple[Any, ...]: ...
    @property
    def steps(self) -> int: ...
    @property
    def coding(self) -> Literal["direct", "latency"]: ...
    @property
    def span(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Subject:
    """A version that can go to Loihi. nir: its graph; trained: the family's own model."""

    bundle: Bundle
    nir: Path
    network: Any
    trained: Any

    def standardised(self, traffic: TrafficSet) -> npt.NDArray[np.float32]:
        """What the network is given for these rows, float32 [N, D]: by the preprocessing in the bundle's graph.

        Raises:
            SchemaError: the traffic has another schema.
        """
        if traffic.schema.digest != self.bundle.schema.digest:
            raise SchemaError(
                f"the model reads {self.bundle.schema.name}, the traffic is {traffic.schema.name}",
                where=f"{self.bundle.metadata.name} {self.bundle.metadata.version}",
            )
        return self.bundle.standardised(traffic.features)

    def reference(self, x: npt.NDArray[np.float32], raster: int = 0) -> Simulation:
        """The torch model in float64 on standardised rows [N, D]."""
        import torch

        network = copy.deepcopy(self.trained.network).double()
        counts, totals = [], []
        rasters: list[npt.NDArray[np.bool_]] = []
        with torch.inference_mode():
            for start in range(0, len(x), 512):
                spikes = network.spikes(torch.from_numpy(x[start : start + 512].astype(np.float64)))  # L of [T, N, n]
                counts.append(spikes[-1].sum(0).numpy())
                totals.append(np.stack([layer.sum((0, 2)).numpy() for layer in spikes], axis=1))
                if not rasters:
                    rasters = [layer[:, :raster].permute(1, 0, 2).numpy() > 0 for layer in spikes]
        return Simulation(np.concatenate(counts).astype(np.int64), np.concatenate(totals).astype(np.int64), rasters)


def subject_of(bundle: Bundle) -> Subject:
    """The network in a verified bundle.

    Raises:
        InputError: a model of another family.
        BundleError: its NIR graph is missing or malformed, or isn't the network that its weights make.
        MissingExtraError: torch or nir isn't installed.
    """
    from robustidps.families import get_family
    from robustidps.nir import Identity, read_nir

    meta = bundle.metadata
    where = f"{meta.name} {meta.version}"
    if meta.family != FAMILY:
        raise InputError(
            f"is of family {meta.family or 'unknown'}: Loihi runs spiking networks",
            where=where,
            remedy="train one (robustidps train spiking)",
        )
    native = bundle.path / "native"
    nir = native / "model.nir"
    if not nir.is_file():
        raise BundleError("has no native/model.nir", where=where, remedy="train it anew")
    network = read_nir(nir, Identity(meta.name, meta.version, meta.schema_digest or ""))
    load: Any = sys.modules[type(get_family(FAMILY)).__module__].load_native
    trained = load(native)
    own = trained.arrays
    same = (network.steps, network.coding, network.span) == (own.steps, own.coding, own.span)
    same = same and len(network.layers) == len(own.layers)
    for a, b in zip(network.layers, own.layers, strict=False):
        same = same and (a.beta, a.threshold) == (b.beta, b.threshold)
        same = same and np.array_equal(a.weights, b.weights) and np.array_equal(a.bias, b.bias)
    if not same:
        raise BundleError("isn't the network that weights.safetensors and config.json make", where=nir)
    if network.layers[-1].weights.shape[0] != bundle.schema.output_dim:
        raise BundleError(f"has {network.layers[-1].weights.shape[0]} outputs, not one a class", where=nir)
    return Subject(bundle, nir, network, trained)


def encode(network: Network, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Standardised rows [N, D] as they go in: float64 [N, D] at every step, or the steps int64 [N, 2 D] of latency
    coding at which inputs fire (-1 for never); the formula is in `robustidps/models/spiking.py`."""
    values = x.astype(np.float64)
    if network.coding == "direct":
        return values
    both = np.concatenate([values, -values], axis=1)
    step = np.round((1 - np.clip(both * (1 / network.span), 0, 1)) * (network.steps - 1)).astype(np.int64)
    return np.where(both > 0, step, -1)
