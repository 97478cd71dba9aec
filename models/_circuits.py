"""The quantum family's circuit on something else than its own matrices: any PennyLane device.

Embedding angles of all rows go in at once; what comes out are the expectations [N, n] of Z, which
`TrainedQuantum.decode` turns into logits. What comes before and behind the circuit is classical and the same
everywhere. `_ibm.py` does the same by way of Qiskit.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, MissingExtraError, UnavailableError, printable
from robustidps.models._devices import check_device, device_class
from robustidps.progress import Progress, silent

__all__ = ["on_device", "pennylane_node"]

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
    name: str,
    angles: Doubles,
    weights: Doubles,
    *,
    shots: int | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: Progress = silent,
    **options: Any,
) -> Doubles:
    """Expectations float64 [N, n] from the PennyLane device `name`, a batch of rows a call where it can broadcast.

    Args:
        angles: radians [N, n]. weights: radians [L, n, 3].
        shots: measurements for each row; None: exact, or the device's own number where it can't be.
        seed: of shots, for devices that draw them on this machine.
        options: of the device, for example `device_arn`.

    Raises:
        ConfigError: no such device, or it refuses the options. MissingExtraError: PennyLane or the plugin is missing.
        UnavailableError: the device failed.
    """
    try:
        import pennylane as qml
    except ImportError:
        raise MissingExtraError("PennyLane", "quantum") from None
    check_device(name)
    qubits = angles.shape[1]
    node = pennylane_node(_device(name, qubits, seed, options), qubits)
    if shots is not None:
        node = qml.set_shots(node, shots=shots)
    out = np.empty_like(angles)
    try:
        with _seeded(seed):
            for start in range(0, len(angles), batch):
                progress(f"running on {name}", start, len(angles), unit="rows")
                rows = slice(start, start + batch)
                out[rows] = np.stack([np.asarray(v) for v in node(angles[rows], weights)], axis=-1)
    except Exception as error:  # a device is somebody else's program, and may raise anything
        raise UnavailableError(f"failed: {printable(error)}", where=f"device {name}") from error
    progress(f"running on {name}", len(angles), len(angles), unit="rows")
    return out


def _device(name: str, qubits: int, seed: int, options: dict[str, Any]) -> Any:
    import pennylane as qml

    if name.startswith("braket.") and not hasattr(qml, "QuantumFunctionError"):
        # The newest Braket plugin that goes with Prefect (those after it want cloudpickle 2.2.1, Prefect 3.1 or later)
        # imports this name from where PennyLane no longer has it.
        qml.QuantumFunctionError = qml.exceptions.QuantumFunctionError
    try:
        if "seed" in inspect.signature(device_class(name)).parameters:  # not every device takes one
            options = {"seed": seed} | options
        return qml.device(name, wires=qubits, **options)
    except Exception as error:  # somebody else's program again: a plugin's own errors, botocore's
        raise ConfigError(
            f"can't be used: {printable(error)}",
            where=f"device {name}",
            remedy="see what options it takes (docs/quantum.md)",
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global random state at `seed` for a block: PennyLane's older devices draw shots from it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations between PennyLane and its plugins
            yield
    finally:
        np.random.set_state(before)
