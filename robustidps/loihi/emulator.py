"""Loihi's integer arithmetic in NumPy: the same rounding, wrapping and clipping as Lava's fixed-point model, counted.

    a = (W s) shifted by the weight exponent          u = a 2^6, wrapped at 24 bits
    v = sign(v) floor(|v| (4096 - decay) / 4096) + u + bias, kept within +-(2^23 - 1)
    spike where v > threshold 2^6; then v = 0

It needs no Lava: it calibrates the quantising, and must equal Lava's simulation to the last spike (`parity.py`). Beside
it is the same network in float64, which also tells how close potentials came to their thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.loihi.quantising import Quantised
from robustidps.loihi.runner import Simulation
from robustidps.loihi.subject import Network

__all__ = ["Emulation", "emulate", "margins"]

_LIMIT = 2**23
_CHUNK = 256  # rows at a time: their state stays in the processor's cache

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Emulation:
    """What the network did. overflowed, saturated: for each layer, how often a current wrapped around and a potential
    was clipped, over all rows, neurons and steps."""

    simulation: Simulation
    overflowed: tuple[int, ...]
    saturated: tuple[int, ...]


def emulate(quantised: Quantised, data: Ints, raster: int = 0) -> Emulation:
    """Runs the integer network on all rows.

    Args:
        data: as `Quantised.inputs` gives it: graded values [N, D], or the steps at which inputs fire [N, 2 D].
        raster: rows whose every spike is kept.
    """
    layers, n = quantised.layers, len(data)
    counts = np.zeros((n, len(layers[-1].weights)), np.int64)
    totals = np.zeros((n, len(layers)), np.int64)
    rasters = [np.zeros((min(raster, n), quantised.steps, len(layer.weights)), bool) for layer in layers]
    overflowed, saturated = [0] * len(layers), [0] * len(layers)
    # Products are taken in float64, which has a fast routine and holds whole numbers of this size exactly.
    transposed = [np.ascontiguousarray(layer.weights.T, np.float64) for layer in layers]
    for start in range(0, n, _CHUNK):
        rows = data[start : start + _CHUNK]
        end = start + len(rows)
        potentials = [np.zeros((len(rows), len(layer.weights)), np.int64) for layer in layers]
        still = _current(rows.astype(np.float64) @ transposed[0], layers[0]) if quantised.input_limit else None
        for step in range(quantised.steps):
            spikes: npt.NDArray[Any] = rows == step
            for k, layer in enumerate(layers):
                if k == 0 and still is not None:
                    current = still
                else:
                    current = _current(spikes.astype(np.float64) @ transposed[k], layer)
                if current.min() > -_LIMIT and current.max() <= _LIMIT:
                    wrapped = current
                else:
                    wrapped = np.where(current > _LIMIT, current - 2 * _LIMIT, current)
                    wrapped = np.where(wrapped <= -_LIMIT, current + 2 * _LIMIT, wrapped)
                    overflowed[k] += int((wrapped != current).sum())
                v = potentials[k]
                v *= 4096 - layer.decay
                v += (v < 0) * 4095  # the shift rounds downwards; Loihi rounds towards zero
                v >>= 12
                v += wrapped
                v += layer.bias
                if v.min() <= -_LIMIT or v.max() >= _LIMIT:
                    kept = np.clip(v, 1 - _LIMIT, _LIMIT - 1)
                    saturated[k] += int((kept != v).sum())
                    v[:] = kept
                spikes = v > layer.threshold << 6
                v[spikes] = 0
                totals[start:end, k] += np.count_nonzero(spikes, axis=1)
                if start < len(rasters[k]):
                    seen = min(len(rasters[k]) - start, len(rows))
                    rasters[k][start : start + seen, step] = spikes[:seen]
            counts[start:end] += spikes
    return Emulation(Simulation(counts, totals, rasters), tuple(overflowed), tuple(saturated))


def _current(product: npt.NDArray[np.float64], layer: Any) -> Ints:
    whole = product.astype(np.int64)
    e = layer.weight_exponent
    shifted: Ints = whole << e if e > 0 else whole >> -e
    return shifted << 6


def margins(network: Network, data: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How close each row's potentials came to a threshold, [N]: the least of |v - threshold| over neurons and steps.

    Computed in float64. Where two simulations differ on a row whose margin is not tiny, it wasn't rounding.
    """
    layers = network.layers
    least = np.full(len(data), np.inf)
    transposed = [np.ascontiguousarray(layer.weights.T) for layer in layers]
    potentials = [np.zeros((len(data), len(layer.weights))) for layer in layers]
    for step in range(network.steps):
        value: npt.NDArray[Any] = data if network.coding == "direct" else (data == step).astype(np.float64)
        for k, layer in enumerate(layers):
            v = potentials[k] * layer.beta + (value @ transposed[k] + layer.bias)
            least = np.minimum(least, np.abs(v - layer.threshold).min(axis=1))
            fired = v > layer.threshold
            potentials[k] = np.where(fired, 0.0, v)
            value = fired.astype(np.float64)
    return least
