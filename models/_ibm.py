"""The quantum family's circuit on IBM's hardware, or on this machine with the noise of one of IBM's devices.

    fake_manila, ..    local testing mode: Qiskit Aer with the noise that was measured on that device; no account
    any other name     a backend of IBM Quantum, with the account from the environment (QISKIT_IBM_TOKEN, ..)

One job holds everything: a single PUB of the estimator primitive, with the transpiled circuit, the n operators Z_i, and
the embedding angles of all rows as its parameter values. Qiskit numbers qubits from the lowest bit, PennyLane from the
highest; operators are named by qubit, so it makes no difference here.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, MissingExtraError, RobustIDPSError, UnavailableError, printable
from robustidps.models.quantum import ring
from robustidps.progress import Progress, silent

__all__ = ["DEFAULT_SHOTS", "check_backend", "fake_backends", "on_backend", "qiskit_circuit"]

Doubles = npt.NDArray[np.float64]

DEFAULT_SHOTS = 1024
"""Measurements for each row where nobody says how many."""

OPTIMISATION = 3
"""How hard Qiskit's transpiler tries: 3 is its most."""

TRIES = 8
"""Transpilations that the best is chosen from."""

POLL_S = (0.1, 5.0)
"""Seconds between questions after a job: of this machine's own, and of IBM's."""

TOKEN = "QISKIT_IBM_TOKEN"  # noqa: S105 - the name of a variable
REMEDY = (
    f"set {TOKEN} to an API key of IBM Cloud and QISKIT_IBM_INSTANCE to the instance's CRN or name (and, where they "
    "aren't the usual ones, QISKIT_IBM_CHANNEL and QISKIT_IBM_URL); or name a simulated one, for example fake_manila"
)

log = logging.getLogger(__name__)


def check_backend(name: str, qubits: int) -> None:
    """Whether there is such a backend, and room for the circuit on it. Raises as `on_backend`."""
    _fitting(_backend(name), name, qubits)


def fake_backends() -> list[str]:
    """Names of the devices whose noise Qiskit has on record, sorted."""
    return sorted(_fakes())


def on_backend(
    name: str, angles: Doubles, weights: Doubles, shots: int, seed: int, progress: Progress = silent
) -> tuple[Doubles, dict[str, Any]]:
    """Expectations float64 [N, n] from one job, and what there is to say about it.

    Args:
        angles: radians [N, n]. weights: radians [L, n, 3].
        shots: measurements for each row. seed: of the transpiler, and of shots where they are simulated.

    Raises:
        ConfigError: no such backend, a circuit that is too large for it, no account or one that isn't let in.
        MissingExtraError: Qiskit is missing. UnavailableError: IBM doesn't answer, or the job failed.
    """
    progress(f"asking for {name}", 0, None)
    backend = _backend(name)
    qubits = angles.shape[1]
    _fitting(backend, name, qubits)
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_ibm_runtime import EstimatorV2

    circuit, _ = qiskit_circuit(qubits, weights)
    fitted = _fitted(circuit, backend, seed, progress)
    operators = [
        [SparsePauliOp.from_sparse_list([("Z", [i], 1.0)], qubits).apply_layout(fitted.layout)] for i in range(qubits)
    ]
    pub = (fitted, operators, angles)  # operators [n, 1] against rows [N]
    local = name.startswith("fake_")
    with _told(f"backend {name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its successor isn't under the usual name yet
        estimator = EstimatorV2(mode=backend)
        if local:
            estimator.options.simulator.seed_simulator = seed + 1  # it takes 0 for none
            # Shots are ceil(1 / precision^2) there, which must not come out one too many.
            job = estimator.run([pub], precision=(1 + 1e-12) / math.sqrt(shots))
        else:
            estimator.options.default_shots = shots
            job = estimator.run([pub])
    with _told(f"backend {name}, job {job.job_id()}"):
        result = _awaited(job, name, POLL_S[0 if local else 1], progress)[0]
    measured = np.asarray(result.data.evs, np.float64).T
    if measured.shape != angles.shape or not np.isfinite(measured).all():
        raise UnavailableError(f"gave values of shape {measured.shape} for {angles.shape}", where=f"backend {name}")
    facts = {
        "backend": name,
        "job": str(job.job_id()),
        "shots": int(result.metadata.get("shots", shots)),
        "seed": seed,
        "depth": int(fitted.depth()),
        "two_qubit_gates": int(fitted.num_nonlocal_gates()),
        "optimisation_level": OPTIMISATION,
        "resilience_level": "none (local testing mode)" if local else "the service's default",
        "qiskit_ibm_runtime": importlib.metadata.version("qiskit-ibm-runtime"),
    }
    return measured, facts


def qiskit_circuit(qubits: int, weights: Doubles) -> tuple[Any, Any]:
    """The same circuit for Qiskit, and its n embedding angles as a parameter vector."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    angles = ParameterVector("angle", qubits)
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


def _backend(name: str) -> Any:
    try:
        import qiskit_aer  # noqa: F401 - without it, fake backends would leave their noise out
        import qiskit_ibm_runtime
    except ImportError as error:
        raise MissingExtraError(f"what IBM's backends need ({error.name})", "quantum") from None
    if name.startswith("fake_"):
        known = _fakes()
        if name not in known:
            raise ConfigError(f"no simulated backend {printable(name, 60)!r}", remedy=f"known: {', '.join(known)}")
        return known[name]()
    with _told(f"backend {printable(name, 60)}"):
        return qiskit_ibm_runtime.QiskitRuntimeService().backend(name)


def _fakes() -> dict[str, Any]:
    from qiskit_ibm_runtime import fake_provider
    from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2

    kinds: list[Any] = [k for k in vars(fake_provider).values() if isinstance(k, type) and issubclass(k, FakeBackendV2)]
    return {str(k.backend_name): k for k in sorted(kinds, key=lambda k: str(k.backend_name)) if k.backend_name}


def _fitting(backend: Any, name: str, qubits: int) -> None:
    if backend.num_qubits < qubits:
        raise ConfigError(
            f"the circuit has {qubits} qubits, the backend {backend.num_qubits}",
            where=f"backend {name}",
            remedy="choose a larger backend, or train with fewer (--set qubits=..)",
        )


def _fitted(circuit: Any, backend: Any, seed: int, progress: Progress) -> Any:
    """The circuit in the backend's own gates, on qubits that it connects; the best of several tries, which chance
    makes differ by a quarter: fewest gates on two qubits, where most of the noise is, then the least depth."""
    from qiskit.transpiler import generate_preset_pass_manager

    tries = []
    for i in range(TRIES):
        progress("transpiling", i, TRIES)
        passes = generate_preset_pass_manager(
            optimization_level=OPTIMISATION, backend=backend, seed_transpiler=seed * TRIES + i
        )
        tries.append(passes.run(circuit))
    return min(tries, key=lambda made: (made.num_nonlocal_gates(), made.depth()))


def _awaited(job: Any, name: str, every: float, progress: Progress) -> Any:
    """The job's result. A job that is given up is cancelled; one that IBM can't be asked about may still go on."""
    started = time.monotonic()
    try:
        while not job.in_final_state():
            status = getattr(job.status(), "name", None) or str(job.status())
            progress(f"running on {name}", time.monotonic() - started, None, unit="s", note=status.lower())
            time.sleep(every)
    except BaseException as end:
        if not isinstance(end, Exception) or isinstance(end, RobustIDPSError):
            _cancel(job)
        raise
    return job.result()


def _cancel(job: Any) -> None:
    try:
        job.cancel()
    except Exception as error:  # noqa: BLE001 - whatever it is, what ended the wait matters more
        log.warning("job %s could not be cancelled: %s", job.job_id(), _redacted(error))
    else:
        log.warning("job %s was cancelled", job.job_id())


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns whatever Qiskit and IBM raise into our errors, with no token in them."""
    from qiskit.providers.exceptions import QiskitBackendNotFoundError
    from qiskit_ibm_runtime.accounts import AccountNotFoundError, InvalidAccountError

    try:
        yield
    except (AccountNotFoundError, InvalidAccountError) as error:
        raise ConfigError(f"no account of IBM Quantum: {_redacted(error)}", where=where, remedy=REMEDY) from None
    except QiskitBackendNotFoundError:
        remedy = f"simulated ones: {', '.join(fake_backends())}"
        raise ConfigError("the account has no such backend", where=where, remedy=remedy) from None
    except RobustIDPSError:
        raise
    except Exception as error:  # noqa: BLE001 - errors of three libraries without a common base
        raise UnavailableError(_redacted(error) or type(error).__name__, where=where) from None


def _redacted(error: BaseException) -> str:
    text = " ".join(str(error).split())
    token = os.environ.get(TOKEN)
    return printable(text.replace(token, "***") if token else text, 400)
