"""The quantum family's circuit on something else than its own matrices: any PennyLane device, or IBM's hardware.

    on_device        expectations from a PennyLane device by name (`default.qubit`, `lightning.qubit`, ..)
    qiskit_circuit   the same circuit for Qiskit

Both take the embedding angles of all rows at once, and give expectations [N, n] that `TrainedQuantum.decode` turns into
logits; what comes before and behind the circuit is classical and the same everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, MissingExtraError, UnavailableError, printable
from robustidps.models.quantum import ring
from robustidps.progress import Progress, silent

__all__ = ["on_device", "pennylane_node", "qiskit_circuit"]

Doubles = npt.NDArray[np.float64]


def pennylane_node(device: Any, qubits: int) -> Any:
    """A QNode: angles [n] or [N, n] and weights [L, n, 3] to the n expectations of Z."""
    import pennylane as qml

    @qml.qnode(device)
    def circuit(angles: Any, weights: Any) -> Any:
        qml.AngleEmbedding(angles, wires=range(qubits), rotation="X")
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(i)) for i in range(qubits)]

    return circuit


def on_device(
    name: str, angles: Doubles, weights: Doubles, *, batch: int = 64, progress: Progress = silent, **options: Any
) -> Doubles:
    """Expectations float64 [N, n] from the PennyLane device `name`, a batch of rows a call where it can broadcast.

    Args:
        angles: radians [N, n]. weights: radians [L, n, 3]. options: of the device, for example shots.

    Raises:
        ConfigError: no such device, or it refuses the options. MissingExtraError: PennyLane isn't installed.
        UnavailableError: the device failed.
    """
    try:
        import pennylane as qml
    except ImportError:
        raise MissingExtraError("PennyLane", "quantum") from None
    qubits = angles.shape[1]
    try:
        device = qml.device(name, wires=qubits, **options)
    except (qml.exceptions.DeviceError, TypeError, ValueError, ImportError) as error:
        raise ConfigError(
            f"PennyLane has no usable device {printable(name, 60)!r}: {printable(error)}",
            remedy="install the plugin that brings it (docs/quantum.md)",
        ) from None
    node = pennylane_node(device, qubits)
    out = np.empty_like(angles)
    try:
        for start in range(0, len(angles), batch):
            rows = slice(start, start + batch)
            out[rows] = np.stack([np.asarray(v) for v in node(angles[rows], weights)], axis=-1)
            progress(f"running on {name}", min(start + batch, len(angles)), len(angles), unit="rows")
    except Exception as error:  # a device is somebody else's program, and may raise anything
        raise UnavailableError(f"failed: {printable(error)}", where=f"device {name}") from error
    return out


def qiskit_circuit(qubits: int, weights: Doubles) -> tuple[Any, Any]:
    """The same circuit for Qiskit, and its n embedding angles as a parameter vector.

    Qiskit's bit order is the reverse of PennyLane's; operators are named by qubit, so it makes no difference here.
    """
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    angles = ParameterVector("t", qubits)
    circuit = QuantumCircuit(qubits)
    for i in range(qubits):
        circuit.rx(angles[i], i)
    for layer, rotations in enumerate(np.asarray(weights, np.float64)):
        for i, (a, b, c) in enumerate(rotations):
            circuit.rz(a, i)
            circuit.ry(b, i)
            circuit.rz(c, i)
        for control, target in ring(layer, qubits):
            circuit.cx(control, target)
    return circuit, angles
