"""The composed graph computes what NumPy and the family compute, whatever the family's exporter is like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from robustidps.bundle.audit import INPUT, audit
from robustidps.bundle.graph import STANDARDISED, compose, compose_bytes, standardising
from robustidps.bundle.session import Session
from robustidps.calibration import softmax
from robustidps.errors import BundleError, InputError
from robustidps.preprocessing import Preprocessing
from robustidps.testing.linear import TrainedLinear
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.schema import Feature, TrafficSchema

FITTED = Preprocessing.fit(TOY, toy_traffic(500).features)
ONLY = {
    "one plain": (Feature(name="a"),),
    "one logarithmic": (Feature(name="a", transform="log", missing="zero"),),
    "all categorical": tuple(
        Feature(name=n, kind="categorical", transform="onehot", vocabulary=("u", "v"), missing="zero") for n in "ab"
    ),
    "plain behind categorical": (
        Feature(name="c", kind="categorical", transform="onehot", vocabulary=("u",)),
        Feature(name="a", transform="log"),
        Feature(name="b", missing="median"),
    ),
}


def identity(path: Path, width: int, opset: int = 17) -> Path:
    """A family that passes its input on, so that softmax of what preprocessing gave comes out."""
    return save(path, [helper.make_node("Identity", ["x"], ["logits"])], width, width, opset=opset)


def save(path, nodes, width, classes, *, opset=17, constants=(), functions=(), batch="N", ir=9, domains=(), **more):
    graph = helper.make_graph(
        nodes,
        "family",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width]), *more.get("inputs", ())],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes]), *more.get("outputs", ())],
        list(constants),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return path


def gemm(width=TOY.standardised_dim, classes=4):
    rng = np.random.default_rng(0)
    trained = TrainedLinear(rng.normal(size=(width, classes)).astype(np.float32), np.zeros(classes, np.float32))
    constants = [numpy_helper.from_array(trained.weights, "w"), numpy_helper.from_array(trained.biases, "b")]
    return trained, constants


def expected(preprocessing, x, logits=lambda z: z, temperature=1.0):
    return softmax(logits(preprocessing.transform(x)), temperature)


# --- preprocessing


def test_preprocessing_is_the_same_in_the_graph(tmp_path):
    x = toy_traffic(2000, seed=8, missing=0.2).features
    session = Session(compose_bytes(identity(tmp_path / "f", FITTED.output_dim), FITTED, 1.0), "here")
    np.testing.assert_allclose(session.run(x), expected(FITTED, x), atol=1e-6)


def test_the_part_up_to_the_standardised_features_gives_just_those(tmp_path):
    x = toy_traffic(500, seed=8, missing=0.2).features
    _, constants = gemm()
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["logits"])]
    whole = compose_bytes(save(tmp_path / "f", nodes, TOY.standardised_dim, 4, constants=constants), FITTED, 1.0)
    part = standardising(whole, "here")
    found = Session(part, "here", names=(INPUT, STANDARDISED)).run(x)
    np.testing.assert_allclose(found, FITTED.transform(x), atol=1e-6)
    assert not any(node.op_type in ("Gemm", "Softmax") for node in onnx.load_from_string(part).graph.node)
    with pytest.raises(InputError, match="doesn't standardise"):
        standardising(part.replace(b"model/x", b"model/y"), "here")


ODD = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 4.0, -1.0, 1.5, 0.999999, 1e-30, -1e-7, 1e9, -3e38, 3.4e38, np.nan])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(hnp.arrays(np.float32, (40, 8), elements=ODD | st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_preprocessing_is_the_same_for_absurd_values(tmp_path_factory, x):
    x[np.isnan(x) & FITTED.refuse] = 0
    path = tmp_path_factory.getbasetemp() / "identity.onnx"
    data = compose_bytes(identity(path, FITTED.output_dim), FITTED, 1.0)
    np.testing.assert_allclose(Session(data, "here").run(x), expected(FITTED, x), atol=1e-6)


@pytest.mark.parametrize("kind", ONLY)
def test_any_mixture_of_features_composes(tmp_path, kind):
    schema = TrafficSchema(name="s", features=ONLY[kind], classes=("Benign", "Attack"))
    x = np.random.default_rng(0).integers(0, 4, (300, schema.input_dim)).astype(np.float32)
    fitted = Preprocessing.fit(schema, x)
    weights = np.random.default_rng(1).normal(size=(fitted.output_dim, 2)).astype(np.float32)
    trained = TrainedLinear(weights, np.zeros(2, np.float32))
    trained.export_onnx(tmp_path / "f.onnx")
    session = Session(compose_bytes(tmp_path / "f.onnx", fitted, 2.0), "here")
    np.testing.assert_allclose(session.run(x), expected(fitted, x, trained.logits, 2.0), atol=1e-6)


def test_a_missing_value_that_is_refused_is_never_turned_into_a_figure(tmp_path):
    x = toy_traffic(10, missing=0).features.copy()
    x[3, 5] = np.nan
    out = Session(compose_bytes(identity(tmp_path / "f", FITTED.output_dim), FITTED, 1.0), "here").run(x)
    assert np.isnan(out[3]).all() and np.isfinite(np.delete(out, 3, axis=0)).all()


# --- the file


def test_the_file_is_one_that_anything_can_run(tmp_path):
    trained, _ = gemm()
    trained.export_onnx(tmp_path / "f.onnx")
    path = compose(tmp_path / "f.onnx", FITTED, 1.5, tmp_path / "model.onnx")
    x = toy_traffic(30).features
    plain = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in plain.get_inputs()] == [("features", ["batch", 8])]
    assert [(o.name, o.shape) for o in plain.get_outputs()] == [("probabilities", ["batch", 4])]
    (got,) = plain.run(None, {"features": x})
    np.testing.assert_allclose(got, expected(FITTED, x, trained.logits, 1.5), atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.onnx", "model.onnx"]


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21, 23])
def test_a_family_may_export_any_recent_opset(tmp_path, opset):
    x = toy_traffic(20).features
    data = compose_bytes(identity(tmp_path / "f", FITTED.output_dim, opset), FITTED, 1.0)
    np.testing.assert_allclose(Session(data, "here").run(x), expected(FITTED, x), atol=1e-6)
    assert audit(data).opset == (opset if opset >= 13 else 18)


def test_names_of_the_family_cannot_meet_ours(tmp_path):
    trained, _ = gemm()
    constants = [
        numpy_helper.from_array(trained.weights, "temperature"),
        numpy_helper.from_array(trained.biases, "fill"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "temperature"], ["features"]),
        helper.make_node("Add", ["features", "fill"], ["probabilities"]),
        helper.make_node("Identity", ["probabilities"], ["logits"]),
    ]
    save(tmp_path / "f", nodes, FITTED.output_dim, 4, constants=constants)
    x = toy_traffic(20).features
    got = Session(compose_bytes(tmp_path / "f", FITTED, 1.0), "here").run(x)
    np.testing.assert_allclose(got, expected(FITTED, x, trained.logits), atol=1e-6)


def test_local_functions_are_inlined(tmp_path):
    body = [helper.make_node("Neg", ["a"], ["t"]), helper.make_node("Relu", ["t"], ["b"])]
    function = helper.make_function("pkg.torch", "block", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("block", ["x"], ["logits"], domain="pkg.torch")]
    save(tmp_path / "f", nodes, FITTED.output_dim, FITTED.output_dim, functions=[function], domains=["pkg.torch"])
    data = compose_bytes(tmp_path / "f", FITTED, 1.0)
    assert not onnx.load_from_string(data).functions
    x = toy_traffic(20).features
    np.testing.assert_allclose(
        Session(data, "here").run(x), expected(FITTED, x, lambda z: np.maximum(-z, 0)), atol=1e-6
    )


def test_nothing_of_the_training_machine_stays_in_the_file(tmp_path):
    path = identity(tmp_path / "f", FITTED.output_dim)
    model = onnx.load(path)
    secret = "/home/alice/secret/train.py"  # noqa: S105
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = secret
    model.producer_name = model.graph.name = model.graph.node[0].name = secret
    model.metadata_props.add(key="path", value=secret)
    model.graph.metadata_props.add(key="path", value=secret)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    path.write_bytes(model.SerializeToString())
    assert b"alice" not in compose_bytes(path, FITTED, 1.0)


def test_composing_twice_gives_the_same_bytes(tmp_path):
    path = identity(tmp_path / "f", FITTED.output_dim)
    assert compose_bytes(path, FITTED, 1.3) == compose_bytes(path, FITTED, 1.3)


# --- families that don't keep their promise

D = FITTED.output_dim
PASS = [helper.make_node("Identity", ["x"], ["logits"])]
FLOAT = TensorProto.FLOAT
BROKEN = {
    "another input": lambda p: save(p, PASS, D, D, inputs=[helper.make_tensor_value_info("more", FLOAT, ["N", 1])]),
    "another output": lambda p: save(p, PASS, D, D, outputs=[helper.make_tensor_value_info("x", FLOAT, ["N", D])]),
    "another width": lambda p: save(p, PASS, D + 1, D + 1),
    "unknown classes": lambda p: save(p, PASS, D, "C"),
    "a fixed batch": lambda p: save(p, PASS, D, D, batch=64),
    "random numbers": lambda p: save(p, [helper.make_node("RandomNormalLike", ["x"], ["logits"])], D, D),
    "a custom operator": lambda p: save(
        p, [helper.make_node("Op", ["x"], ["logits"], domain="e")], D, D, domains=["e"]
    ),
    "no such file": lambda p: None,
    "not ONNX": lambda p: p.write_bytes(b"hello, hello, hello"),
    "a wrong shape": lambda p: save(
        p,
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        D,
        4,
        constants=[numpy_helper.from_array(np.ones((D + 2, 4), np.float32), "w")],
    ),
    "a value from nowhere": lambda p: save(p, [helper.make_node("Add", ["x", "nowhere"], ["logits"])], D, D),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_family_that_exports_something_else_is_told_so(tmp_path, what):
    BROKEN[what](tmp_path / "f.onnx")
    with pytest.raises(BundleError) as caught:
        compose_bytes(tmp_path / "f.onnx", FITTED, 1.0)
    assert "f.onnx" in str(caught.value.where)


def test_an_export_that_wrote_its_weights_beside_is_refused(tmp_path):
    _, constants = gemm()
    save(tmp_path / "f.onnx", [helper.make_node("MatMul", ["x", "w"], ["logits"])], D, 4, constants=constants)
    model = onnx.load(tmp_path / "f.onnx")
    onnx.save(model, tmp_path / "f.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(BundleError, match="outside the file"):
        compose_bytes(tmp_path / "f.onnx", FITTED, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(tmp_path, temperature):
    with pytest.raises(BundleError, match="temperature"):
        compose_bytes(identity(tmp_path / "f", D), FITTED, temperature)
