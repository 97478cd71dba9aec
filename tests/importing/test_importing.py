"""Models made elsewhere become bundles that say what the models say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustidps.bundle import Bundle
from robustidps.calibration import softmax
from robustidps.errors import BundleError, InputError, NotFoundError, SchemaError
from robustidps.importing import Imported, _with_output, as_logits, import_model
from robustidps.importing.given import read_metadata, read_schema
from robustidps.importing.rows import draw, empty_profile
from robustidps.preprocessing import Preprocessing
from robustidps.registry.metadata import ModelMetadata
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.flow64 import FLOW64

WEIGHTS = np.random.default_rng(0).normal(0, 0.05, (8, 4)).astype(np.float32)
WEIGHTS[:2] = 0  # durations and bytes, in the hundreds of thousands: float32 would round their sums visibly


def meta(**changes) -> ModelMetadata:
    facts = {"name": "mine", "version": "1.0.0", "model_type": "onnx", "framework": "onnx"}
    return ModelMetadata(**(facts | {"input_dim": 8, "output_dim": 4} | changes))


def linear(path: Path, *, probabilities: bool = False, label: bool = False, batch: str | int = "n") -> Path:
    """A Gemm over raw features under names of its own, maybe with a softmax, and with a label beside it."""
    nodes = [helper.make_node("Gemm", ["float_input", "w"], ["scores"])]
    wanted = "scores"
    if probabilities:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probs"], axis=-1))
        wanted = "probs"
    outputs = [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, [batch, 4])]
    if label:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [batch]))
    inputs = [helper.make_tensor_value_info("float_input", TensorProto.FLOAT, [batch, 8])]
    graph = helper.make_graph(nodes, "theirs", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key="made by", value="somebody")
    path.write_bytes(model.SerializeToString())
    return path


def expected(bundle: Bundle, rows) -> np.ndarray:
    """Softmax regression on raw rows with missing values filled in."""
    return softmax(Preprocessing.fit(TOY, rows.features).raw().transform(rows.features) @ WEIGHTS)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "probabilities beside a label"])
def test_an_onnx_file_with_names_of_its_own_becomes_a_bundle(tmp_path, kind):
    rows = toy_traffic(300)
    path = linear(tmp_path / "m.onnx", probabilities=kind != "logits", label="label" in kind)
    bundle = import_model(path, tmp_path / "b", metadata=meta(), rows=rows)
    assert np.abs(bundle.probabilities(rows.features) - expected(bundle, rows)).max() < 1e-5
    assert bundle.metadata.family == "onnx_import" and bundle.reference["rows"] == 300
    assert set(bundle.thresholds) == set(TOY.classes[1:])


def test_without_rows_some_are_drawn_and_the_reference_stays_empty(tmp_path):
    bundle = import_model(linear(tmp_path / "m.onnx"), tmp_path / "b", metadata=meta(), schema=TOY)
    assert bundle.reference["rows"] == 0 and bundle.reference["predictions"] is None
    assert set(bundle.thresholds.values()) == {0.5}


def test_drawn_rows_keep_the_schemas_rules_and_repeat():
    for schema in (TOY, FLOW64):
        rows = draw(schema, 200)
        assert np.array_equal(rows.features, draw(schema, 200).features, equal_nan=True)
        assert Preprocessing.fit(schema, rows.features).transform(rows.features).shape[0] == 200
        assert empty_profile(schema)["schema_digest"] == schema.digest


def test_raw_preprocessing_fills_what_is_missing_and_touches_nothing_else():
    x = toy_traffic(100).features
    raw = Preprocessing.fit(TOY, x).raw()
    out = raw.transform(x)
    assert np.isfinite(out).all() and np.array_equal(out[~np.isnan(x)], x[~np.isnan(x)])
    assert raw.output_dim == 8 and raw.column_names() == TOY.feature_names
    assert np.array_equal(Preprocessing.from_dict(raw.to_dict()).transform(x), out)


# --- what a model gives


def imported(y: list[list[float]]) -> Imported:
    return Imported(b"", ("x", "y"), np.zeros((len(y), 2), np.float32), np.asarray(y, np.float32))


def test_probabilities_are_told_from_logits_by_their_sums():
    assert _with_output(imported([[0.2, 0.8], [1, 0]]), "auto", "m").output == "probabilities"
    assert _with_output(imported([[0.2, 0.8], [0.5, 0.6]]), "auto", "m").output == "logits"


def test_probabilities_that_do_not_sum_to_one_are_refused_with_their_row():
    with pytest.raises(BundleError, match=r"row 1 sum to 1\.1"):
        _with_output(imported([[0.2, 0.8], [0.5, 0.6]]), "probabilities", "m")


def test_a_softmax_model_declared_as_logits_is_refused():
    with pytest.raises(BundleError, match=r"second softmax|row of probabilities"):
        _with_output(imported([[0.2, 0.8], [1, 0]]), "logits", "m")


def test_a_model_that_gives_no_number_is_refused():
    with pytest.raises(BundleError, match="no number for row 1"):
        _with_output(imported([[0, 1], [np.nan, 1]]), "auto", "m")


def test_logarithms_of_probabilities_give_them_back():
    p = np.array([[0.0, 1.0], [1e-7, 1 - 1e-7], [0.5, 0.5]], np.float32)
    assert np.abs(softmax(as_logits(p)) - p).max() < 1e-7


# --- what doesn't fit


def test_sizes_that_differ_are_refused_with_both(tmp_path):
    with pytest.raises(SchemaError, match="8 features x 4 classes, schema flow64 has 64 x 13"):
        import_model(linear(tmp_path / "m.onnx"), tmp_path / "b", metadata=meta())
    with pytest.raises(SchemaError, match="'float_input' has 8 columns, expected 64"):
        import_model(tmp_path / "m.onnx", tmp_path / "b", metadata=meta(input_dim=64, output_dim=13), schema=FLOW64)
    assert not (tmp_path / "b").exists()


def test_a_fixed_batch_size_is_refused(tmp_path):
    with pytest.raises(BundleError, match="fixed batch size of 1"):
        import_model(linear(tmp_path / "m.onnx", batch=1), tmp_path / "b", metadata=meta(), schema=TOY)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("nothing.onnx", NotFoundError, "no such file"),
        ("model.h5", InputError, r"save it as \.keras"),
        ("model.pkl", InputError, r"\.pkl is no kind of model"),
        ("folder", InputError, "neither a bundle folder nor a SavedModel"),
    ],
)
def test_what_is_no_model_is_refused_by_name(tmp_path, name, error, says):
    (tmp_path / "folder").mkdir()
    for file in ("model.h5", "model.pkl"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(error, match=says):
        import_model(tmp_path / name, tmp_path / "b", metadata=meta(), schema=TOY)


def test_an_object_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither a torch.nn.Module nor a Keras model"):
        import_model(lambda x: x, tmp_path / "b", metadata=meta(), schema=TOY)


def test_standardised_features_need_the_rows_they_come_from(tmp_path):
    with pytest.raises(InputError, match="none were given"):
        import_model(linear(tmp_path / "m.onnx"), tmp_path / "b", metadata=meta(), schema=TOY, features="standardised")


def test_thresholds_must_name_every_attack_class(tmp_path):
    with pytest.raises(SchemaError, match="thresholds and attack classes differ: Never-Seen, Scan"):
        import_model(linear(tmp_path / "m.onnx"), tmp_path / "b", metadata=meta(thresholds={"Flood": 0.5}), schema=TOY)


# --- metadata and schema as files


def test_a_metadata_file_is_filled_in_from_what_is_known(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"author": "me", "thresholds": {}}))
    made = read_metadata(tmp_path / "m.json", "mine", "1.0.0", TOY, Path("x.keras"))
    assert (made.author, made.framework, made.input_dim, made.output_dim) == ("me", "tensorflow", 8, 4)


@pytest.mark.parametrize(("text", "says"), [("[1]", "JSON object"), ('{"a": 1, "a": 2}', "twice"), ("{", "JSON")])
def test_metadata_that_is_no_object_is_refused(tmp_path, text, says):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_metadata(tmp_path / "m.json", "mine", "1.0.0", TOY, Path("x.onnx"))


def test_an_unknown_key_of_metadata_is_named(tmp_path):
    (tmp_path / "m.json").write_text('{"colour": "red"}')
    with pytest.raises(InputError, match="unknown key 'colour'"):
        read_metadata(tmp_path / "m.json", "mine", "1.0.0", TOY, Path("x.onnx"))


def test_a_schema_is_read_from_a_bundles_file(tmp_path):
    (tmp_path / "schema.json").write_text(TOY.model_dump_json())
    assert read_schema(tmp_path / "schema.json").digest == TOY.digest
    with pytest.raises(NotFoundError, match="no such file"):
        read_schema(tmp_path / "other.json")


def test_an_export_leaves_nothing_of_the_makers_notes_in_the_bundle(tmp_path):
    bundle = import_model(linear(tmp_path / "m.onnx"), tmp_path / "b", metadata=meta(), schema=TOY)
    made = onnx.load(bundle.path / "model.onnx")
    assert not made.metadata_props and b"somebody" not in (bundle.path / "model.onnx").read_bytes()
