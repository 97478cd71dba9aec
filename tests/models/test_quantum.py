"""The quantum family: PennyLane is the oracle for its values, its gradients and its depth."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.errors import BundleError, ConfigError
from robustidps.families import Standardised, TrainingContext, family_settings, get_family
from robustidps.models._circuits import on_device, pennylane_node, qiskit_circuit
from robustidps.models.quantum import Quantum, QuantumSettings, _network_class, circuit_depth, load_native

torch = pytest.importorskip("torch")
qml = pytest.importorskip("pennylane")

CLASSES = 3


def network(qubits=4, layers=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _network_class()(6, CLASSES, QuantumSettings(qubits=qubits, layers=layers))


def angles(qubits, rows=8, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-3, 3, (rows, qubits)).astype(np.float32))


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    rows = Standardised(x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5))
    context = TrainingContext(CLASSES, np.ones(CLASSES, np.float32))
    return Quantum().train(QuantumSettings(epochs=3), rows, rows, context)


@pytest.mark.parametrize("qubits", [2, 3, 4, 7])
def test_expectations_are_those_of_pennylane(qubits):
    ours, t = network(qubits, 4), angles(qubits)
    theirs = on_device("default.qubit", t.numpy().astype(float), ours.weights.detach().numpy().astype(float))
    assert np.abs(ours.expectations(t).detach().numpy() - theirs).max() < 1e-5
    assert np.abs(theirs).max() > 0.1  # the states differ from the evenly mixed one, so agreement means something


def test_gradients_are_those_of_pennylane():
    ours, t = network(), angles(4)
    t.requires_grad_()
    chosen = torch.linspace(-1, 1, 4)
    (ours.expectations(t) * chosen).sum().backward()
    theirs_t = t.detach().clone().requires_grad_()
    theirs_w = ours.weights.detach().clone().requires_grad_()
    node = pennylane_node(qml.device("default.qubit", wires=4), 4)
    (torch.stack(node(theirs_t, theirs_w), dim=1) * chosen).sum().backward()
    assert torch.allclose(t.grad, theirs_t.grad.to(t.dtype), atol=1e-4)
    assert torch.allclose(ours.weights.grad, theirs_w.grad.to(t.dtype), atol=1e-4)
    assert theirs_w.grad.abs().max() > 0.1


@pytest.mark.parametrize("qubits", [2, 4, 5])
def test_the_depth_that_is_logged_is_pennylanes(qubits):
    settings = QuantumSettings(qubits=qubits, layers=3)
    node = pennylane_node(qml.device("default.qubit", wires=qubits), qubits)
    specs = qml.specs(node, level="device")(np.zeros(qubits), np.ones((3, qubits, 3)))
    assert circuit_depth(settings) == specs["resources"].depth


def test_qubits_and_depth_are_its_figures(model):
    depth = circuit_depth(model.settings)
    assert model.figures(np.zeros((1, 6), np.float32)) == {"qubits": 4, "circuit_depth": depth}


def test_the_compiled_circuit_says_what_the_circuit_says(model):
    t = angles(4, 50)
    with torch.no_grad():
        model.network.train()
        fresh = model.network.expectations(t)
        model.network.eval()
        assert torch.allclose(model.network.expectations(t), fresh, atol=1e-6)


def test_what_a_device_measures_decodes_to_the_models_own_logits(model):
    x = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    measured = on_device("lightning.qubit", model.angles(x), model.circuit_weights, batch=7)
    assert np.abs(model.decode(measured) - model.logits(x)).max() < 1e-4


def test_the_circuit_for_qiskit_is_the_same_circuit(model):
    quantum_info = pytest.importorskip("qiskit.quantum_info")
    x = np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)
    t = model.angles(x)
    circuit, parameters = qiskit_circuit(4, model.circuit_weights)
    ours = on_device("default.qubit", t, model.circuit_weights)
    for row in range(3):
        state = quantum_info.Statevector(circuit.assign_parameters(dict(zip(parameters, t[row], strict=True))))
        theirs = [state.expectation_value(quantum_info.Pauli("Z"), [i]).real for i in range(4)]
        assert np.abs(ours[row] - theirs).max() < 1e-9


def test_a_device_that_pennylane_does_not_have_is_named():
    with pytest.raises(ConfigError, match="abacus"):
        on_device("abacus", np.zeros((1, 2)), np.zeros((1, 2, 3)))


def test_a_saved_model_is_the_same_model(model, tmp_path):
    model.save_native(tmp_path)
    x = np.random.default_rng(5).normal(size=(50, 6)).astype(np.float32)
    assert np.allclose(load_native(tmp_path).logits(x), model.logits(x), atol=1e-6)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError):
        load_native(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("qubits", 1), ("qubits", 11), ("layers", 0), ("wires", 4)])
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=key):
        family_settings(get_family("quantum"), {key: value})
