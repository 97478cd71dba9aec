"""A network's floating-point numbers as the integers that Loihi computes with.

What there is for each layer (Davies et al., IEEE Micro 38(1), 2018; the same figures are in Lava's LIF and Dense):

    weights     8 bits: even numbers from -254 to 254 where signs are mixed
    current     24 bits, the synaptic sum shifted left by 6; an overflow wraps around
    potential   24 bits, kept within +-(2^23 - 1)
    decay       12 bits of what is lost a step: round((1 - beta) 4096)
    threshold   17 bits, shifted left by 6
    bias        mantissa of 13 bits, exponent of 3; not shifted
    input       graded, 24 bits: round(256 x), taken back by a weight exponent of -8

One factor s a layer turns potentials into integers: w -> s w, threshold -> s threshold, bias -> 64 s bias. It is
chosen so that s times the threshold is a whole number, hence has no error. The larger it is, the finer are weights and
the more of the largest are cut off at 254. Where between the two lies best is tried out, layer after layer, on training
traffic: `calibrate` keeps what disagrees least with the floating-point classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, DatasetError
from robustidps.loihi.subject import Network, encode
from robustidps.progress import Progress, silent

__all__ = ["SHARES", "IntegerLayer", "Quantised", "calibrate", "quantise"]

Ints = npt.NDArray[np.int64]

WEIGHT_LIMIT = 254
CURRENT_LIMIT = 2**17 - 1  # before the shift by 6, within 24 bits
THRESHOLD_LIMIT = 2**17 - 1
MANTISSA_LIMIT, EXPONENT_LIMIT = 4095, 7
INPUT_SHIFT = 8
INPUT_LIMIT = 2**23 - 1
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4)
"""Shares of a layer's largest weight that are tried as the largest that isn't cut off."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """weights: [neurons, inputs]. decay: 4096 (1 - beta). cut: weights and biases that lay beyond their limits."""

    weights: Ints
    threshold: int
    bias_mantissa: Ints
    bias_exponent: int
    decay: int
    weight_exponent: int
    cut: int

    @property
    def bias(self) -> Ints:
        """What is added to a potential at every step."""
        return self.bias_mantissa << self.bias_exponent


@dataclass(frozen=True, eq=False)
class Quantised:
    """A network of integers. input_limit: largest graded input, so that no sum overflows; 0 where input is spikes.

    shares: for each layer, see `SHARES`.
    """

    layers: tuple[IntegerLayer, ...]
    steps: int
    input_limit: int
    shares: tuple[float, ...]

    def inputs(self, network: Network, x: npt.NDArray[np.float32]) -> tuple[Ints, int]:
        """What goes in for standardised rows [N, D] (as `encode`, in integers), and how many values were cut off."""
        data = encode(network, x)
        if not self.input_limit:
            return data.astype(np.int64), 0
        whole = np.round(data * 2**INPUT_SHIFT).astype(np.int64)
        kept = np.clip(whole, -self.input_limit, self.input_limit)
        return kept, int((kept != whole).sum())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The integers as the runner takes them."""
        found: dict[str, npt.NDArray[Any]] = {}
        for k, layer in enumerate(self.layers):
            found |= {
                f"weights_{k}": layer.weights,
                f"bias_mant_{k}": layer.bias_mantissa,
                f"bias_exp_{k}": np.full_like(layer.bias_mantissa, layer.bias_exponent),
                f"vth_{k}": np.array(layer.threshold),
                f"dv_{k}": np.array(layer.decay),
                f"du_{k}": np.array(4095),  # a current doesn't outlast its step
                f"weight_exp_{k}": np.array(layer.weight_exponent),
            }
        return found


def quantise(network: Network, shares: Sequence[float] | None = None) -> Quantised:
    """The network in integers.

    Args:
        shares: for each layer the share of its largest weight from which on weights are cut off; default: none are.

    Raises:
        ConfigError: a layer has nothing that integers of this size can stand for.
    """
    shares = tuple(shares or [1.0] * len(network.layers))
    graded = network.coding == "direct"
    layers = tuple(
        _layer(layer, share, k, graded=graded and k == 0)
        for k, (layer, share) in enumerate(zip(network.layers, shares, strict=True))
    )
    limit = 0
    if graded:
        largest = max(1, int(np.abs(layers[0].weights).sum(axis=1).max()))
        # In the product's 32 bits, and after the shift back in the current's 17.
        limit = min(INPUT_LIMIT, (2**31 - 1) // largest, (CURRENT_LIMIT << INPUT_SHIFT) // largest)
    return Quantised(layers, network.steps, limit, shares)


def _layer(layer: Any, share: float, k: int, *, graded: bool) -> IntegerLayer:
    largest = float(np.abs(layer.weights).max())
    bias = float(np.abs(layer.bias).max())
    bounds = [THRESHOLD_LIMIT / layer.threshold]
    bounds += [WEIGHT_LIMIT / (share * largest)] if largest else []
    bounds += [(MANTISSA_LIMIT << EXPONENT_LIMIT) / (64 * bias)] if bias else []
    threshold = int(min(bounds) * layer.threshold)
    if threshold < 1:
        raise ConfigError(
            f"layer {k}: weights up to {largest:g} or biases up to {bias:g} leave no whole number for a threshold of "
            f"{layer.threshold:g}",
            remedy="train with more weight decay",
        )
    scale = threshold / layer.threshold
    whole = 2 * np.round(layer.weights * scale / 2).astype(np.int64)
    weights = np.clip(whole, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    wanted = layer.bias * scale * 64
    exponent = next(e for e in range(EXPONENT_LIMIT + 1) if np.abs(np.round(wanted / 2**e)).max() <= MANTISSA_LIMIT)
    return IntegerLayer(
        weights,
        threshold,
        np.round(wanted / 2**exponent).astype(np.int64),
        exponent,
        round((1 - layer.beta) * 4096),
        -INPUT_SHIFT if graded else 0,
        int((weights != whole).sum()),
    )


def calibrate(
    network: Network,
    x: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    progress: Progress = silent,
) -> Quantised:
    """The quantising that changes least on training rows, found layer after layer from the input on.

    Args:
        x: standardised rows [N, D] that the model was trained on.
        classes, counts: [N] and [N, C], what the floating-point model says of them.

    Raises:
        DatasetError: no rows.
    """
    from robustidps.loihi.emulator import emulate

    if not len(x):
        raise DatasetError("no rows to calibrate the quantising on")
    shares = [1.0] * len(network.layers)
    done, total = 0, len(shares) * len(SHARES)
    for k in range(len(shares)):
        tried = []
        for share in SHARES:
            progress("calibrating", done, total, unit="settings")
            done += 1
            made = quantise(network, [*shares[:k], share, *shares[k + 1 :]])
            said = emulate(made, made.inputs(network, x)[0]).simulation
            tried.append((float((said.classes != classes).mean()), float(np.abs(said.counts - counts).mean()), -share))
        shares[k] = -min(tried)[2]
    progress("calibrating", total, total, unit="settings")
    return quantise(network, shares)
