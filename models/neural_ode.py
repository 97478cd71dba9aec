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

Where W <= 2 H, the exported graph solves the same equation in other coordinates, which saves matrix products:

    u(t) = W_1 h(t) + b_1 + t a        du/dt = W_1 W_2 tanh(u) + W_1 b_2 + a        [W], autonomous
    h(t1) = h(0) + W_2 int_0^t1 tanh(u) dt + t1 b_2

A Runge-Kutta method commutes with such an affine change of coordinates, so it gives the same numbers step by step but
for rounding; the integral is the sum of the stages by the method's own weights.

Training is that of all families in PyTorch (`_torch.py`); then the tilt that class weights gave is taken out of the
output bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.emitting import Graph
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.models._loop import demand_rows
from robustidps.models._torch import (
    TorchModel,
    TorchSettings,
    fit,
    load,
    torch_at,
    torch_of,
    undo_class_weights,
)

__all__ = ["NeuralODE", "NeuralODESettings", "TrainedNeuralODE", "load_native"]

Floats = npt.NDArray[np.float32]

_NARROWEST = 0.01  # of a bin, in standard deviations: a steep slope would magnify the last digit of its input


class NeuralODESettings(TorchSettings):
    """What a neural ODE can be told."""

    bins: int = Field(default=16, ge=0, le=256, description="B, quantile bins per column in the encoder; 0 for none")
    hidden: int = Field(default=64, ge=1, le=1024, description="H, the size of the state h")
    width: int = Field(default=64, ge=1, le=4096, description="W, the size of the hidden layer of f")
    steps: int = Field(default=8, ge=1, le=200, description="Runge-Kutta steps of the exported model")
    training_steps: int = Field(default=4, ge=1, le=200, description="Runge-Kutta steps while training")
    t1: float = Field(default=1.0, gt=0, le=20, description="the time at which the state is read")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of input columns silenced per row in training")


class NeuralODE:
    """The family. Importing it imports no torch."""

    name: ClassVar[str] = "neural_ode"
    description: ClassVar[str] = "Neural ordinary differential equation, solved by fixed-step Runge-Kutta"
    framework: ClassVar[str] = "pytorch"
    model_type: ClassVar[str] = "pytorch"
    extra: ClassVar[str] = "torch"
    requires: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
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
        demand_rows(train, validation)
        with torch_at(settings.seed, context.threads, self.name):
            columns, start, slope = _quantile_bins(train.x, settings.bins)
            network = _network_class()(train.x.shape[1], context.n_classes, len(columns), settings)
            network.set_bins(columns, start, slope)
            fit(network, settings, train, validation, context)
            undo_class_weights(network.decoder.bias, context.class_weights)
        return TrainedNeuralODE(network, settings)


class TrainedNeuralODE(TorchModel):
    """A trained network with the settings that made it; predicts with `settings.steps` steps, unrolled in ONNX."""

    family: ClassVar[str] = NeuralODE.name

    @property
    def sizes(self) -> dict[str, int]:
        return super().sizes | {"binned": len(self.network.bin_column)}

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C]; see this module's text.

        Raises:
            StorageError: full disk, read-only folder.
        """
        network, graph = self.network, Graph("neural_ode")
        weights = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
        h0 = graph.node("Tanh", _encoder(graph, weights))
        inner, outer, t1 = weights["inner.weight"], weights["outer.weight"], float(network.t1)
        bias, pull, along = weights["inner.bias"], weights["outer.bias"], weights["time"]
        if len(inner) <= 2 * inner.shape[1]:
            u = graph.node("Gemm", h0, graph.constant(inner), graph.constant(bias), transB=1)
            total = _integral(graph, u, lambda u, t: u, inner @ outer, inner @ pull + along, t1, network.steps)
        else:
            matrix = graph.constant(inner)

            def argument(h: str, t: float) -> str:
                return graph.node("Gemm", h, matrix, graph.constant(bias + t * along), transB=1)

            total = _integral(graph, h0, argument, outer, pull, t1, network.steps)
        decoder = weights["decoder.weight"]
        shift = weights["decoder.bias"] + t1 * (decoder @ pull)
        logits = graph.node("Gemm", h0, graph.constant(decoder), graph.constant(shift), transB=1)
        share = t1 / network.steps / 6
        graph.node("Gemm", total, graph.constant(share * (decoder @ outer)), logits, outputs=["logits"], transB=1)
        graph.save(path, inputs=network.inputs, classes=network.classes)


def load_native(folder: Path) -> TrainedNeuralODE:
    """The model that `save_native` wrote: for training on from it, or for large offline batches.

    Raises:
        BundleError: a file is missing, or weights and config don't fit each other.
    """

    def build(config: dict[str, Any], settings: NeuralODESettings) -> Any:
        return _network_class()(int(config["inputs"]), int(config["classes"]), int(config["binned"]), settings)

    return TrainedNeuralODE(*load(folder, NeuralODESettings, build, NeuralODE.name))


@lru_cache(maxsize=1)
def _network_class() -> Any:
    """The torch module; made on first use, so that this file imports without torch."""
    torch = torch_of(NeuralODE.name)
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[name-defined]
        """x [N, D] -> logits [N, C]."""

        def __init__(self, inputs: int, classes: int, binned: int, settings: NeuralODESettings) -> None:
            super().__init__()
            self.inputs, self.classes = inputs, classes
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


def _encoder(graph: Graph, weights: dict[str, npt.NDArray[np.float64]]) -> str:
    """W_in [x, q(x)] + b_in, [N, H], of `x` [N, D]."""
    matrix, columns, start = weights["encoder.weight"], weights["bin_column"].astype(np.int64), weights["bin_start"]
    if not len(columns):
        return graph.node("Gemm", "x", graph.constant(matrix), graph.constant(weights["encoder.bias"]), transB=1)
    inputs = matrix.shape[1] - start.size
    plain = graph.node(
        "Gemm", "x", graph.constant(matrix[:, :inputs]), graph.constant(weights["encoder.bias"]), transB=1
    )
    binned = graph.node("Gather", "x", graph.constant(columns, np.int64), axis=1)
    binned = graph.node("Reshape", binned, graph.constant([-1, len(columns), 1], np.int64))
    beyond = graph.node("Sub", binned, graph.constant(start))
    beyond = graph.node("Reshape", beyond, graph.constant([-1, start.size], np.int64))
    q = graph.node("Mul", beyond, graph.constant(weights["bin_slope"].ravel()))
    q = graph.node("Clip", q, graph.constant(0.0), graph.constant(1.0))
    return graph.node("Gemm", q, graph.constant(matrix[:, inputs:]), plain, transB=1)


def _integral(
    graph: Graph,
    z: str,
    argument: Callable[[str, float], str],
    matrix: npt.NDArray[np.float64],
    drift: npt.NDArray[np.float64],
    t1: float,
    steps: int,
) -> str:
    """6 / dt times the integral of s(t) = tanh(argument(z, t)) from 0 to t1, [N, W], for dz/dt = `matrix` s + `drift`.

    Where the argument is z itself, a stage is two nodes: Gemm adds its product to z, and Tanh.
    """
    dt = t1 / steps
    half, whole, sixth = (graph.constant(matrix * share) for share in (dt / 2, dt, dt / 6))
    by_half, by_whole, two = graph.constant(drift * dt / 2), graph.constant(drift * dt), graph.constant(2.0)
    total = ""
    for step in range(steps):
        t = step * dt
        at_half, at_end = graph.node("Add", z, by_half), graph.node("Add", z, by_whole)
        s1 = graph.node("Tanh", argument(z, t))
        s2 = graph.node("Tanh", argument(graph.node("Gemm", s1, half, at_half, transB=1), t + dt / 2))
        s3 = graph.node("Tanh", argument(graph.node("Gemm", s2, half, at_half, transB=1), t + dt / 2))
        s4 = graph.node("Tanh", argument(graph.node("Gemm", s3, whole, at_end, transB=1), t + dt))
        middle = graph.node("Mul", graph.node("Add", s2, s3), two)
        stages = graph.node("Add", graph.node("Add", s1, s4), middle)
        total = graph.node("Add", total, stages) if total else stages
        if step < steps - 1:
            z = graph.node("Gemm", stages, sixth, at_end, transB=1)
    return total


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
