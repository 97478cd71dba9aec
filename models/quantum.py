"""A quantum classifier: a small circuit between two classical layers, trained and served without a call for each row.

    t      = s tanh(W_in x + b_in)                  angles                  x [D] -> t [n], radians
    |f(t)> = RX(t_1) .. RX(t_n) |0..0>              angle embedding         [n] -> 2^n amplitudes
    |g>    = U |f(t)>                               entangling layers       2^n -> 2^n amplitudes
    z_i    = <g| Z_i |g>                            expectations            -> [n], between -1 and 1
    logits = W_2 max(0, W_1 z + b_1) + b_2          decoder                 [n] -> [H] -> [C]

U is L times: a rotation Rot(a, b, c) = RZ(c) RY(b) RZ(a) on each qubit, then a ring of CNOTs from i to i + r, with r =
1, 2, .. n - 1 by turns. That is PennyLane's StronglyEntanglingLayers, after Schuld, Bocharov, Svore and Wiebe,
"Circuit-centric quantum classifiers", Phys. Rev. A 101, 032308 (2020).

D standardised features, n = `qubits`, L = `layers`, s = `scale`, H = `hidden`, C classes.

Neither training nor serving runs a circuit for each row. RX of an angle gives amplitudes cos(t/2) and -i sin(t/2), so
|f> has the amplitudes r_k (-i)^popcount(k), with r_k real, a product of cosines and sines, which is a sum of sines of
sums of the angles (`_products`). U doesn't depend on the row: with V = U diag((-i)^popcount(k)), probabilities are
(Re V r)^2 + (Im V r)^2, two real matrix products. Training lets the layers act on the states of the batch instead,
where those are fewer than V has columns. What is exported to ONNX has all matrices that follow each other multiplied:
encoder, sines, one product, squares, decoder. Qubit 0 is the highest bit of k, as in PennyLane, which is the oracle for
values and gradients in the tests, and the way to other devices (`robustidps.models._circuits`); docs/quantum.md derives
it all.

Training is that of all families in PyTorch (`_torch.py`); then the tilt that class weights gave is taken out of the
output bias. "Quantum" says nothing about speed or accuracy: docs/results.md sets it beside a boosted tree.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator

from robustidps.emitting import Graph
from robustidps.families import FamilySettings, Run, Standardised, Target, TrainingContext
from robustidps.models._devices import check_device
from robustidps.models._loop import demand_rows
from robustidps.models._torch import TorchModel, TorchSettings, fit, load, torch_at, torch_of, undo_class_weights
from robustidps.progress import Progress, silent

__all__ = ["Quantum", "QuantumSettings", "TrainedQuantum", "circuit_depth", "load_native", "ring"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class QuantumSettings(TorchSettings):
    """What a quantum classifier can be told."""

    qubits: int = Field(default=4, ge=2, le=10, description="n, qubits of the circuit")
    layers: int = Field(default=3, ge=1, le=50, description="L, entangling layers of the circuit")
    scale: float = Field(default=math.pi, gt=0, le=2 * math.pi, description="s, the largest embedding angle in radians")
    hidden: int = Field(default=32, ge=1, le=4096, description="H, units of the decoder's hidden layer")
    device: str = Field(
        default="default.qubit",
        max_length=60,
        description="PennyLane device that evaluate-on-hardware uses where none is named",
    )
    learning_rate: float = Field(default=1e-2, gt=0, le=1, description="highest learning rate, after warming up")
    weight_decay: float = Field(default=1e-3, ge=0, le=10, description="AdamW's decoupled weight decay")

    @field_validator("device")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        """A model that is only loaded may name a device whose plugin isn't installed here."""
        if not info.context:
            check_device(value)
        return value


class Quantum:
    """The family. Importing it imports neither torch nor PennyLane."""

    name: ClassVar[str] = "quantum"
    description: ClassVar[str] = "Variational quantum circuit between two classical layers"
    framework: ClassVar[str] = "pennylane"
    model_type: ClassVar[str] = "quantum"
    extra: ClassVar[str] = "quantum"
    requires: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "pennylane")
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic", "quantum"})
    settings: ClassVar[type[FamilySettings]] = QuantumSettings

    def train(
        self, settings: QuantumSettings, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedQuantum:
        """Trains on `train`, stops early on `validation`.

        Raises:
            ConfigError: training diverged under these settings. DatasetError: no rows.
        """
        demand_rows(train, validation)
        with torch_at(settings.seed, context.threads, self.name):
            network = _network_class()(train.x.shape[1], context.n_classes, settings)
            fit(network, settings, train, validation, context)
            undo_class_weights(network.decoder[-1].bias, context.class_weights)
        return TrainedQuantum(network, settings)


class TrainedQuantum(TorchModel):
    """A trained circuit with the settings that made it; predicts with the circuit compiled to one fixed matrix."""

    family: ClassVar[str] = Quantum.name

    def __init__(self, network: Any, settings: QuantumSettings) -> None:
        network.compile_circuit()
        super().__init__(network, settings)

    @property
    def circuit_weights(self) -> npt.NDArray[np.float64]:
        """Angles of the rotations in radians, float64 [L, n, 3], as StronglyEntanglingLayers takes them."""
        return self.network.weights.detach().numpy().astype(np.float64)

    def figures(self, x: Floats) -> dict[str, float]:
        """Qubits and depth of the circuit (see `circuit_depth`), whatever the rows."""
        return {"qubits": float(self.settings.qubits), "circuit_depth": float(circuit_depth(self.settings))}

    def angles(self, x: Floats) -> npt.NDArray[np.float64]:
        """Embedding angles in radians, float64 [N, n], of standardised rows float32 [N, D]."""
        import torch

        with torch.inference_mode():
            return self.network.angles(torch.from_numpy(np.ascontiguousarray(x, np.float32))).numpy().astype(np.float64)

    def expectations(self, angles: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """What exact arithmetic gives for angles [N, n]: float64 [N, n]."""
        import torch

        with torch.inference_mode():
            return (
                self.network.expectations(torch.from_numpy(np.asarray(angles, np.float32))).numpy().astype(np.float64)
            )

    def decode(self, expectations: npt.ArrayLike) -> Floats:
        """Logits float32 [N, C] from expectations [N, n], wherever those were measured."""
        import torch

        with torch.inference_mode():
            return self.network.decoder(torch.from_numpy(np.asarray(expectations, np.float32))).numpy()

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C], the compiled circuit.

        Raises:
            StorageError: full disk, read-only folder.
        """
        network, graph = self.network, Graph("quantum")

        def product(value: str, matrix: Any, bias: Any, **attributes: Any) -> str:
            return graph.node("Gemm", value, graph.constant(matrix), graph.constant(bias), **attributes)

        def linear(value: str, layer: Any, **attributes: Any) -> str:
            return product(value, layer.weight.detach(), layer.bias.detach(), transB=1, **attributes)

        waves = graph.node(
            "Sin", product(graph.node("Tanh", linear("x", network.encoder)), network.sums, network.shift)
        )
        parts = graph.node("MatMul", waves, graph.constant(network.compiled))
        first = product(graph.node("Mul", parts, parts), network.readout, network.decoder[0].bias.detach())
        linear(graph.node("Relu", first), network.decoder[2], outputs=["logits"])
        graph.save(path, network.inputs, network.classes)

    def check_target(self, target: Target) -> Target:
        """See `RunnableModel`: IBM's backends by name, or PennyLane's devices, by default the settings' `device`."""
        if target.backend is None:
            device = target.device or self.settings.device
            check_device(device)
            return replace(target, device=device)
        from robustidps.models._ibm import check_backend

        check_backend(target.backend, self.settings.qubits)
        return target

    def run_on(self, target: Target, x: Floats, progress: Progress = silent) -> Run:
        """See `RunnableModel`. What is measured are the n expectations of Z."""
        from robustidps.models._circuits import on_device

        target, angles, weights = self.check_target(target), self.angles(x), self.circuit_weights
        facts: dict[str, Any] = {"qubits": self.settings.qubits}
        if target.backend is not None:
            from robustidps.models._ibm import DEFAULT_SHOTS, on_backend

            shots = target.shots or DEFAULT_SHOTS
            measured, more = on_backend(target.backend, angles, weights, shots, target.seed, progress)
        else:
            name = str(target.device)
            options = {"shots": target.shots, "seed": target.seed} | target.options
            measured = on_device(name, angles, weights, progress=progress, **options)
            more = {"device": name, "depth": circuit_depth(self.settings), **options}
        exact = self.expectations(angles)
        return Run(self.decode(measured), measured, exact, facts | more)


def load_native(folder: Path) -> TrainedQuantum:
    """The model that `save_native` wrote.

    Raises:
        BundleError: a file is missing, or weights and config don't fit each other.
    """

    def build(config: dict[str, Any], settings: QuantumSettings) -> Any:
        return _network_class()(int(config["inputs"]), int(config["classes"]), settings)

    return TrainedQuantum(*load(folder, QuantumSettings, build, Quantum.name))


def ring(layer: int, qubits: int) -> list[tuple[int, int]]:
    """Control and target of a layer's CNOTs, in order: PennyLane's default ranges, r = layer mod (n - 1) + 1."""
    reach = layer % (qubits - 1) + 1
    return [(i, (i + reach) % qubits) for i in range(qubits)]


def circuit_depth(settings: QuantumSettings) -> int:
    """Gates on the longest path: the embedding, then for each layer one rotation and what its CNOTs add.

    A rotation counts as one gate, as in PennyLane's StronglyEntanglingLayers; measurement isn't counted.
    """
    depth = [1] * settings.qubits
    for layer in range(settings.layers):
        depth = [d + 1 for d in depth]
        for control, target in ring(layer, settings.qubits):
            depth[control] = depth[target] = max(depth[control], depth[target]) + 1
    return max(depth)


def _permutation(layer: int, qubits: int) -> npt.NDArray[np.int64]:
    """Where the amplitude of each basis state comes from after a layer's CNOTs: new[k] = old[p[k]]."""
    source = np.arange(2**qubits)
    for control, target in reversed(ring(layer, qubits)):
        # A CNOT is its own inverse; from the last one back, each says which state led to this one.
        bit = source >> (qubits - 1 - control) & 1
        source = source ^ (bit << (qubits - 1 - target))
    return source


def _products(n: int) -> tuple[Doubles, Doubles, Doubles]:
    """All products of n cosines and sines as sums: A [n, 2^n], b [2^n] and T [2^n, 2^n] for which

        prod_i (cos, sin)[k_i](t_i / 2) = sum_m T_mk sin(t A + b)_m            k_i: bit i of k, the highest first

    for any t [n]. Half of the 2^n waves are cosines and half are sines of (t_1 +- t_2 +- .. +- t_n) / 2; that is the
    product-to-sum rule, cos u cos v = (cos(u - v) + cos(u + v)) / 2, applied n - 1 times.
    """
    half = 2 ** (n - 1)
    k = np.arange(2**n)
    bits = k[:, None] >> np.arange(n - 1, -1, -1) & 1
    signs = 1.0 - 2 * bits[:half]  # [half, n], the first always 1
    # sin u is cos(u - pi / 2), so row k's product is a mean over sign patterns of cos(phase - (pi / 2) signs . bits).
    turns = (signs @ bits.T).astype(int) % 4  # quarter turns, [half, 2^n]
    cosine, sine = np.array([1, 0, -1, 0])[turns], np.array([0, 1, 0, -1])[turns]
    sums = np.concatenate([signs, signs]).T / 2
    return sums, np.repeat([math.pi / 2, 0.0], half), np.concatenate([cosine, sine]) / half


def _rotation() -> Doubles:
    """Rot from the products of cosines and sines of a/2, b/2, c/2, as `_products(3)` orders them: [8, 8], the columns
    being row, column and part (real, imaginary). RZ(a) = cos(a/2) - i Z sin(a/2), RY(b) = cos(b/2) - i Y sin(b/2)."""
    one, y, z = np.eye(2), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])
    rz, ry = (one, -1j * z), (one, -1j * y)
    gates = np.stack([rz[c] @ ry[b] @ rz[a] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    return np.stack([gates.real, gates.imag], axis=-1).reshape(8, 8)


@lru_cache(maxsize=1)
def _network_class() -> Any:
    """The torch module; made on first use, so that this file imports without torch."""
    torch = torch_of(Quantum.name)
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[name-defined]
        """x [N, D] -> logits [N, C]."""

        def __init__(self, inputs: int, classes: int, settings: QuantumSettings) -> None:
            super().__init__()
            n, self.layers = settings.qubits, settings.layers
            self.inputs, self.classes, self.qubits, self.scale = inputs, classes, n, settings.scale
            self.encoder = nn.Linear(inputs, n)
            self.weights = nn.Parameter(torch.rand(settings.layers, n, 3) * (2 * math.pi))
            self.decoder = nn.Sequential(nn.Linear(n, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, classes))
            k = np.arange(2**n)
            bits = k[:, None] >> np.arange(n - 1, -1, -1) & 1
            # What follows is fixed by n and L, or compiled from the weights: no part of what is saved.
            self._keep("signs", 1.0 - 2 * bits)
            self._keep("phase", (-1j) ** bits.sum(axis=1), torch.complex64)
            sums, shift, products = _products(n)
            self._keep("sums", self.scale * sums)
            self._keep("shift", shift)
            self._keep("products", products)
            sums, shift, products = _products(3)
            self._keep("gate_sums", sums)
            self._keep("gate_shift", shift)
            self._keep("gate", products @ _rotation())
            self._keep("moves", np.stack([_permutation(i, n) for i in range(settings.layers)]), torch.int64)
            self._keep("compiled", np.zeros((2**n, 2 ** (n + 1))))
            self._keep("readout", np.zeros((2 ** (n + 1), settings.hidden)))
            self.is_compiled = False

        def _keep(self, name: str, value: Any, kind: Any = torch.float32) -> None:
            self.register_buffer(name, torch.from_numpy(value).to(kind), persistent=False)

        def angles(self, x: Any) -> Any:
            """Embedding angles, [N, D] -> [N, n]."""
            return self.scale * torch.tanh(self.encoder(x))

        def waves(self, u: Any) -> Any:
            """What the amplitudes r are sums of; u = t / s, [N, n] -> [N, 2^n]."""
            return torch.sin(torch.addmm(self.shift, u, self.sums))

        def evolve(self, states: Any) -> Any:
            """U times states, complex [2^n, M] -> [2^n, M]."""
            waves = torch.sin(self.weights @ self.gate_sums + self.gate_shift)
            gates = torch.view_as_complex((waves @ self.gate).unflatten(2, (2, 2, 2)))  # [L, n, 2, 2]
            n, half = self.qubits, self.qubits // 2
            # All rotations of a layer at once, as two Kronecker products of half the qubits each.
            left, right = _kron(gates[:, :half]), _kron(gates[:, half:])
            for layer in range(self.layers):
                states = (left[layer] @ states.reshape(2**half, -1)).reshape(2**half, 2 ** (n - half), -1)
                states = (right[layer] @ states).reshape(2**n, -1).index_select(0, self.moves[layer])
            return states

        def measure(self, waves: Any) -> Any:
            """z from waves, [N, 2^n] -> [N, n], at the present weights."""
            r = waves @ self.products
            if len(r) < 2**self.qubits:  # fewer states than V has columns
                g = self.evolve((r * self.phase).T)
                return torch.view_as_real(g).square().sum(2).T @ self.signs
            v = self.evolve(torch.diag(self.phase))
            return ((r @ v.real.T).square() + (r @ v.imag.T).square()) @ self.signs

        def expectations(self, t: Any) -> Any:
            """z of angles t, [N, n] -> [N, n], at the present weights."""
            return self.measure(self.waves(t / self.scale))

        def compile_circuit(self) -> None:
            """Fixes the circuit at its present weights, for prediction and export."""
            with torch.no_grad():
                v = self.evolve(torch.diag(self.phase))
                self.compiled.copy_(self.products @ torch.cat([v.real.T, v.imag.T], dim=1))
                self.readout.copy_(torch.cat([self.signs, self.signs]) @ self.decoder[0].weight.T)
            self.is_compiled = True

        def forward(self, x: Any) -> Any:
            waves = self.waves(torch.tanh(self.encoder(x)))
            if self.training or not self.is_compiled:
                return self.decoder(self.measure(waves))
            # Matrices that follow each other were multiplied beforehand, down to the decoder's first.
            parts = waves @ self.compiled
            return self.decoder[1:](torch.addmm(self.decoder[0].bias, parts * parts, self.readout))

    def _kron(gates: Any) -> Any:
        """Kronecker product of the n matrices in [L, n, 2, 2], for each layer: [L, 2^n, 2^n]."""
        out = gates[:, 0]
        for i in range(1, gates.shape[1]):
            out = torch.einsum("lab,lcd->lacbd", out, gates[:, i]).flatten(3, 4).flatten(1, 2)
        return out

    return Network
