"""Keras archives and SavedModels: refused for what is in them before Keras sees them, else converted apart."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from robustidps.errors import BundleError
from robustidps.importing import import_model
from robustidps.importing.keras_files import audit_archive
from robustidps.registry.metadata import ModelMetadata
from robustidps.testing.traffic import TOY, toy_traffic

pytestmark = pytest.mark.timeout(900)  # TensorFlow is loaded anew for each conversion

META = ModelMetadata(
    name="mine", version="1.0.0", model_type="tensorflow", framework="tensorflow", input_dim=8, output_dim=4
)


def layer(name: str, module: str = "keras.layers", registered: str | None = None, **config) -> dict:
    config = {"name": f"my_{name.lower()}"} | config
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def archive(*layers: dict, more: dict[str, bytes] | None = None, compile_config: dict | None = None) -> bytes:
    config = layer("Sequential", "keras", layers=list(layers)) | {"compile_config": compile_config}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("metadata.json", "{}")
        made.writestr("config.json", json.dumps(config))
        made.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
        for name, data in (more or {}).items():
            made.writestr(name, data)
    return buffer.getvalue()


def test_plain_layers_pass_whatever_they_were_compiled_with():
    kernel = layer("HeNormal", "keras.initializers", seed=1)
    audit_archive(
        archive(layer("Dense", kernel_initializer=kernel), compile_config={"loss": layer("MyLoss", "my.losses")}), "m"
    )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wA="}}), "Lambda, which is code"),
        (layer("Mine", "my.layers", "my>Mine"), r"'my_mine' is 'my>Mine'.*custom object"),
        (layer("Dense", "os"), r"of 'os': a?.*custom object"),
        (layer("TFSMLayer", filepath="/etc"), "not on the list"),
        (layer("TorchModuleWrapper"), "not on the list"),
        (layer("StringLookup", vocabulary="/etc/passwd"), "not on the list"),
        (layer("Dense", activation={"class_name": "function", "module": "builtins", "config": "f"}), "'function'"),
        (layer("run", "keras.src.utils.file_utils"), "not on the list"),
        (layer("Sequential", "keras", layers=[layer("Lambda")]), "Lambda"),
    ],
)
def test_code_and_custom_objects_in_an_archive_are_refused_by_name(bad, says):
    with pytest.raises(BundleError, match=says):
        audit_archive(archive(layer("Dense"), bad), "m.keras")


def test_an_archive_with_more_in_it_or_cut_off_is_refused():
    with pytest.raises(BundleError, match=r"holds 'assets/vocabulary.txt'"):
        audit_archive(archive(layer("Dense"), more={"assets/vocabulary.txt": b"x"}), "m")
    whole = archive(layer("Dense"))
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(BundleError, match="cut off"):
            audit_archive(whole[:length], "m")


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    import keras

    return keras


def test_a_saved_model_says_in_its_bundle_what_it_said_in_tensorflow(keras, tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Rescaling(1e-3), keras.layers.Dense(4)])
    model.export(tmp_path / "saved", verbose=False)
    rows = toy_traffic(200)
    bundle = import_model(tmp_path / "saved", tmp_path / "b", metadata=META, rows=rows)
    clean = rows.features[np.isfinite(rows.features).all(axis=1)]
    logits = np.asarray(model(clean), np.float64)
    said = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.abs(bundle.probabilities(clean) - said / said.sum(axis=1, keepdims=True)).max() < 1e-5


def test_a_saved_model_that_reads_a_file_is_refused_before_it_runs(keras, tmp_path):
    import tensorflow as tf

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32)])
        def serve(self, x):
            size = tf.strings.length(tf.io.read_file("/etc/hostname"))
            return x[:, :4] + tf.cast(size, tf.float32)

    reader = Reader()
    tf.saved_model.save(reader, str(tmp_path / "saved"), signatures=reader.serve)
    with pytest.raises(BundleError, match="operator 'ReadFile', which is not allowed"):
        import_model(tmp_path / "saved", tmp_path / "b", metadata=META, schema=TOY)


def test_a_saved_model_with_assets_or_links_is_refused(tmp_path):
    saved = tmp_path / "saved"
    (saved / "assets").mkdir(parents=True)
    (saved / "saved_model.pb").write_bytes(b"x")
    (saved / "assets" / "table.txt").write_text("x")
    with pytest.raises(BundleError, match=r"assets.*no part of a plain SavedModel"):
        import_model(saved, tmp_path / "b", metadata=META, schema=TOY)
    (saved / "assets" / "table.txt").unlink()
    (saved / "variables").symlink_to("/etc")
    with pytest.raises(BundleError, match="is a link"):
        import_model(saved, tmp_path / "b", metadata=META, schema=TOY)


def test_a_model_object_of_the_callers_own_is_taken_with_layers_of_its_own(keras, tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return x * 2e-3

    model = keras.Sequential([keras.Input((8,)), Doubled(), keras.layers.Dense(4, activation="softmax")])
    bundle = import_model(model, tmp_path / "b", metadata=META, rows=toy_traffic(100))
    assert bundle.probabilities(toy_traffic(10).features).shape == (10, 4)
