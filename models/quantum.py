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
|f> has the amplitudes r_k (-i)^popcount(k), with r_k real, a product of cosines and sines. U doesn't depend on the row:
with V = U diag((-i)^popcount(k)), probabilities are (Re V r)^2 + (Im V r)^2, two real matrix products, which is also
what is exported to ONNX. Qubit 0 is the highest bit of k, as in PennyLane, which is the oracle for values and gradients
in the tests, and the way to other devices (`robustidps.models._circuits`).

Training is that of all families in PyTorch (`_torch.py`); then the tilt that class weights gave is taken out of the
output bias. "Quantum" says nothing about speed or accuracy: docs/results.md sets it beside a boosted tree.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.models._loop import demand_rows
from robustidps.models._torch import TorchModel, TorchSettings, fit, load, torch_at, torch_of, undo_class_weights

__all__ = ["Quantum", "QuantumSettings", "TrainedQuantum", "circuit_depth", "load_native", "ring"]

Floats = npt.NDArray[np.float32]


class QuantumSettings(TorchSettings):
    """What a quantum classifier can be told."""

    qubits: int = Field(default=4, ge=2, le=10, description="n, qubits of the circuit")
    layers: int = Field(default=3, ge=1, le=50, description="L, entangling layers of the circuit")
    scale: float = Field(default=math.pi, gt=0, le=2 * math.pi, description="s, the largest embedding angle in radians")
    hidden: int = Field(default=32, ge=1, le=4096, description="H, units of the decoder's hidden layer")
    learning_rate: float = Field(default=1e-2, gt=0, le=1, description="highest learning rate, after warming up")
    weight_decay: float = Field(default=1e-3, ge=0, le=10, description="AdamW's decoupled weight decay")


class Quantum:
    """The family. Importing it imports neither torch nor PennyLane."""

    name: ClassVar[str] = "quantum"
    description: ClassVar[str] = "Variational quantum circuit between two classical layers"
    framework: ClassVar[str] = "pennylane"
    model_type: ClassVar[str] = "quantum"
    extra: ClassVar[str] = "quantum"
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "safetensors", "pennylane")
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

    def decode(self, expectations: npt.ArrayLike) -> Floats:
        """Logits float32 [N, C] from expectations [N, n], wherever those were measured."""
        import torch

        with torch.inference_mode():
            return self.network.decoder(torch.from_numpy(np.asarray(expectations, np.float32))).numpy()


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
            signs = torch.from_numpy((1 - 2 * bits).astype(np.float32))
            # Fixed by n and L, or compiled from the weights: no part of what is saved.
            self.register_buffer("signs", torch.cat([signs, signs]), persistent=False)
            phase = torch.from_numpy(((-1j) ** bits.sum(axis=1)).astype(np.complex64))
            self.register_buffer("phase", phase, persistent=False)
            moves = np.stack([_permutation(layer, n) for layer in range(settings.layers)])
            self.register_buffer("moves", torch.from_numpy(moves), persistent=False)
            self.register_buffer("compiled", torch.zeros(2**n, 2 ** (n + 1)), persistent=False)
            self.is_compiled = False

        def angles(self, x: Any) -> Any:
            """Embedding angles, [N, D] -> [N, n]."""
            return self.scale * torch.tanh(self.encoder(x))

        def amplitudes(self, t: Any) -> Any:
            """r, the size of each amplitude after the embedding: [N, n] -> [N, 2^n]."""
            both = torch.stack([torch.cos(t / 2), torch.sin(t / 2)], dim=2)
            r = both[:, 0]
            for i in range(1, self.qubits):
                r = (r.unsqueeze(2) * both[:, i].unsqueeze(1)).flatten(1)
            return r

        def circuit(self) -> Any:
            """[Re V^T | Im V^T], real [2^n, 2^(n+1)]; see this file's text."""
            a, b, c = self.weights.unbind(2)  # [L, n] each
            up, down = torch.cos(b / 2), torch.sin(b / 2)
            plus, minus = torch.exp(0.5j * (a + c)), torch.exp(0.5j * (a - c))
            gates = torch.stack([up / plus, -down * minus, down / minus, up * plus], dim=2).unflatten(2, (2, 2))
            n, half = self.qubits, self.qubits // 2
            u = torch.diag(self.phase)
            for layer in range(self.layers):
                # All rotations of a layer at once, as two Kronecker products of half the qubits each.
                left, right = _kron(gates[layer, :half]), _kron(gates[layer, half:])
                u = (left @ u.reshape(2**half, -1)).reshape(2**half, 2 ** (n - half), -1)
                u = (right @ u).reshape(2**n, -1)[self.moves[layer]]
            return torch.cat([u.real.T, u.imag.T], dim=1)

        def compile_circuit(self) -> None:
            """Fixes the circuit at its present weights, for prediction and export."""
            with torch.no_grad():
                self.compiled.copy_(self.circuit())
            self.is_compiled = True

        def expectations(self, t: Any) -> Any:
            """z, [N, n] -> [N, n]."""
            fixed = self.is_compiled and not self.training
            both = self.amplitudes(t) @ (self.compiled if fixed else self.circuit())
            return (both * both) @ self.signs

        def forward(self, x: Any) -> Any:
            return self.decoder(self.expectations(self.angles(x)))

    def _kron(gates: Any) -> Any:
        out = gates[0]
        for gate in gates[1:]:
            out = torch.kron(out, gate)
        return out

    return Network
