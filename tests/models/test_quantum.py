"""The quantum family: PennyLane is the oracle for its values, its gradients and its depth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robustidps.errors import BundleError, ConfigError, MissingExtraError
from robustidps.families import Standardised, Target, TrainingContext, family_settings, get_family
from robustidps.models import _devices
from robustidps.models._circuits import on_device, pennylane_node
from robustidps.models._ibm import qiskit_circuit
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


BATCHES = [pytest.param(8, id="fewer rows than amplitudes"), pytest.param(20, id="more")]


@pytest.mark.parametrize(("qubits", "rows"), [(2, 8), (3, 3), (4, 8), (4, 20), (7, 5)])
def test_expectations_are_those_of_pennylane(qubits, rows):
    ours, t = network(qubits, 4), angles(qubits, rows)
    theirs = on_device("default.qubit", t.numpy().astype(float), ours.weights.detach().numpy().astype(float))
    assert np.abs(ours.expectations(t).detach().numpy() - theirs).max() < 1e-5
    assert np.abs(theirs).max() > 0.1  # the states differ from the evenly mixed one, so agreement means something


@pytest.mark.parametrize("rows", BATCHES)
def test_gradients_are_those_of_pennylane(rows):
    ours, t = network(), angles(4, rows)
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
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 6)).astype(np.float32))
    with torch.no_grad():
        model.network.train()
        fresh = model.network(x)
        model.network.eval()
        assert torch.allclose(model.network(x), fresh, atol=1e-5)


@pytest.mark.parametrize("device", ["lightning.qubit", "cirq.simulator", "braket.local.qubit"])
def test_other_devices_measure_what_the_compiled_circuit_says(model, device):
    x = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)
    run = model.run_on(Target(device=device), x)
    assert np.abs(run.measured - model.expectations(model.angles(x))).max() < 1e-5
    assert np.abs(run.logits - model.logits(x)).max() < 1e-4
    assert run.facts["device"] == device and run.facts["depth"] == circuit_depth(model.settings)


def test_without_a_device_the_one_in_the_settings_is_used(model):
    x = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    run = model.run_on(Target(), x)
    assert run.facts["device"] == "default.qubit" and np.abs(run.measured - run.exact).max() < 1e-5


@pytest.mark.parametrize("device", ["default.qubit", "cirq.simulator"])
def test_shots_scatter_by_their_number_and_repeat_by_their_seed(model, device):
    t = angles(4, 4).numpy().astype(float)
    exact = model.expectations(t)
    first, again, other = (on_device(device, t, model.circuit_weights, shots=400, seed=s) for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    # The standard error of a mean of 400 values of +-1 is at most 0.05.
    assert 0 < np.abs(first - exact).max() < 0.25


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
    with pytest.raises(ConfigError, match=r"abacus.*lightning\.qubit"):
        on_device("abacus", np.zeros((1, 2)), np.zeros((1, 2, 3)))


def test_options_that_a_device_does_not_take_are_one_error():
    with pytest.raises(ConfigError, match="colour"):
        on_device("default.qubit", np.zeros((1, 2)), np.zeros((1, 2, 3)), colour="red")
    with pytest.raises(ConfigError, match="device_arn"):
        on_device("braket.aws.qubit", np.zeros((1, 2)), np.zeros((1, 2, 3)))


def test_a_missing_plugin_names_the_extra_that_brings_it(model, tmp_path):
    """To train for such a device is refused; a model that was trained for it elsewhere still loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_devices, "known_devices", lambda: ["default.qubit"])
        with pytest.raises(MissingExtraError, match=r"robustidps\[braket\]"):
            family_settings(get_family("quantum"), {"device": "braket.local.qubit"})
        model.save_native(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["settings"]["device"] = "cirq.simulator"
        (tmp_path / "config.json").write_text(json.dumps(config))
        loaded = load_native(tmp_path)
        with pytest.raises(MissingExtraError, match=r"robustidps\[cirq\]"):
            loaded.check_target(Target())
        assert loaded.check_target(Target(device="default.qubit")).device == "default.qubit"


def test_a_saved_model_is_the_same_model(model, tmp_path):
    model.save_native(tmp_path)
    x = np.random.default_rng(5).normal(size=(50, 6)).astype(np.float32)
    assert np.allclose(load_native(tmp_path).logits(x), model.logits(x), atol=1e-6)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError):
        load_native(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("qubits", 1), ("qubits", 11), ("layers", 0), ("wires", 4), ("device", "abacus")]
)
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=key):
        family_settings(get_family("quantum"), {key: value})
