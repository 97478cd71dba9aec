"""Attacks on a bundle's folder: edited, added, linked and disguised files. Each ends in a BundleError.

Where a test says `reseal`, the attacker has also made the digest fit, so that it isn't the digest that saves us.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from robustidps import bundle as bundle_module
from robustidps.bundle import open_bundle
from robustidps.bundle.files import pack_golden
from robustidps.errors import BundleError
from robustidps.testing.forge import reseal
from robustidps.testing.linear import toy_bundle
from robustidps.testing.traffic import toy_traffic

PICKLE = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
PICKLE_0 = b"cposix\nsystem\n(S'true'\ntR."


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("original") / "b")


@pytest.fixture
def folder(original, tmp_path) -> Path:
    shutil.copytree(original.path, tmp_path / "b")
    return tmp_path / "b"


def refused(folder: Path, match: str) -> BundleError:
    with pytest.raises(BundleError, match=match) as caught:
        open_bundle(folder)
    assert str(folder) in str(caught.value.where)
    return caught.value


# --- edits


@pytest.mark.parametrize(
    "name", ["model.onnx", "schema.json", "reference.json", "golden.npz", "metadata.json", "native/linear.json"]
)
def test_an_edited_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    at = data.rindex(b"1") if b"1" in data else len(data) // 2
    data[at] ^= 1
    (folder / name).write_bytes(data)
    refused(folder, "digest|isn't what its name says|canonical")


def test_edited_metadata_is_refused_even_where_only_a_blank_changed(folder):
    path = folder / "metadata.json"
    path.write_text(path.read_text().replace('": ', '":  ', 1))
    refused(folder, "canonical")


def test_a_threshold_cannot_be_raised_quietly(folder):
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    content["thresholds"]["Flood"] = 1.0
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    refused(folder, "digest")


def test_a_forged_bundle_with_a_fitting_digest_is_not_the_expected_one(folder, original):
    reseal(folder, description="forged")
    assert open_bundle(folder).metadata.description == "forged"
    with pytest.raises(BundleError, match="another bundle"):
        open_bundle(folder, expected_digest=original.digest)


def test_another_model_in_place_of_the_trained_one_fails_its_golden_rows(folder, tmp_path):
    other = toy_bundle(tmp_path / "other", seed=1)
    shutil.copy(other.path / "model.onnx", folder / "model.onnx")
    reseal(folder)
    refused(folder, "doesn't reproduce its golden rows")


def test_a_file_that_is_swapped_after_the_check_changes_nothing(folder, original, tmp_path, monkeypatch):
    other = toy_bundle(tmp_path / "other", seed=1)
    verify = bundle_module._verify

    def verify_then_swap(contents, expected):
        digest = verify(contents, expected)
        shutil.copy(other.path / "model.onnx", folder / "model.onnx")
        return digest

    monkeypatch.setattr(bundle_module, "_verify", verify_then_swap)
    x = toy_traffic(50, seed=3).features
    got = open_bundle(folder).probabilities(x)
    np.testing.assert_array_equal(got, original.probabilities(x))
    assert not np.allclose(got, other.probabilities(x))


# --- what may lie there


@pytest.mark.parametrize(
    "name", ["MLmodel", "model.onnx.data", "weights.bin", "notes.txt", ".hidden", "python_env.yaml", "Model.onnx"]
)
def test_an_extra_file_is_refused(folder, name):
    (folder / name).write_text("flavors: {python_function: {loader_module: os}}")
    reseal(folder)
    refused(folder, "no such file")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "<script>", "\udcff"])
def test_an_extra_file_is_named_without_its_markup(folder, name):
    Path(os.fsdecode(os.fsencode(folder / name))).write_text("x")
    message = str(refused(folder, "no such file"))
    assert message.isprintable()


def test_an_extra_folder_is_refused(folder):
    (folder / "code").mkdir()
    refused(folder, "no such file")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "metadata.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refused(folder, "is missing")


@pytest.mark.parametrize("name", ["model.onnx", "metadata.json", "native/linear.json"])
def test_a_link_is_refused_though_it_leads_to_the_right_bytes(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refused(folder, "isn't a plain file")


def test_a_linked_native_folder_is_refused(folder, tmp_path):
    (folder / "native").rename(tmp_path / "elsewhere")
    (folder / "native").symlink_to(tmp_path / "elsewhere")
    refused(folder, "isn't a plain folder")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["reference.json", "native/linear.json"])
def test_a_fifo_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, "isn't a plain file")


def test_a_socket_and_a_folder_in_place_of_a_file_are_refused(folder, monkeypatch):
    (folder / "reference.json").unlink()
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("reference.json")
        refused(folder, "isn't a plain file")
    (folder / "reference.json").unlink()
    (folder / "reference.json").mkdir()
    refused(folder, "isn't a plain file")


def test_a_file_without_end_is_not_read_to_it(folder):
    os.truncate(folder / "reference.json", 2**40)  # sparse: takes no room
    refused(folder, "is larger than 64 MiB")


# --- native/


@pytest.mark.parametrize(
    "name", ["model.pt", "model.pkl", "weights.bin", "model.joblib", "a.npy", "code.py", "x", ".json"]
)
def test_a_format_that_can_hold_code_is_refused(folder, name):
    (folder / "native" / name).write_bytes(b"x")
    reseal(folder)
    refused(folder, "isn't a format that holds data alone")


@pytest.mark.parametrize("name", ["w.safetensors", "w.json", "w.keras", "w.nir", "w.txt"])
@pytest.mark.parametrize("data", [PICKLE, PICKLE_0], ids=["protocol 4", "protocol 0"])
def test_a_pickle_in_disguise_is_refused(folder, name, data):
    (folder / "native" / name).write_bytes(data)
    reseal(folder)
    refused(folder, "isn't what its name says")


def test_a_keras_archive_with_a_pickle_in_it_is_refused(folder):
    with zipfile.ZipFile(folder / "native" / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.pkl", PICKLE)
    reseal(folder)
    refused(folder, "model.weights.pkl")


def test_safetensors_whose_tensors_reach_beyond_the_file_are_refused(folder):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "native" / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    reseal(folder)
    refused(folder, "don't fill it")


@pytest.mark.parametrize("depth", [1, 3])
def test_a_folder_below_native_is_refused(folder, depth):
    place = folder.joinpath("native", *["deep.json"] * depth)
    place.mkdir(parents=True)
    (place / "w.json").write_text("{}")
    reseal(folder)
    refused(folder, "isn't a plain file")


def test_two_files_that_differ_only_in_case_are_refused(folder):
    for name in ("a.json", "A.json"):
        (folder / "native" / name).write_text("{}")
    refused(folder, "differ only in case")


def test_a_flood_of_native_files_is_refused(folder):
    for i in range(70):
        (folder / "native" / f"w{i}.json").write_text("{}")
    refused(folder, "too many files")


# --- metadata, schema, golden rows


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"name": "../../etc/cron.d/x"}, "is not a model name"),
        ({"name": "<script>alert(1)</script>"}, "is not a model name"),
        ({"version": "1.0"}, "not a semantic version"),
        ({"version": "1.0.0+../.."}, "not a semantic version"),
        ({"input_dim": 9}, "disagree about features x classes"),
        ({"output_dim": 3}, "disagree about features x classes"),
        ({"input_dim": 10**12}, "input_dim"),
        ({"schema_digest": "0" * 64}, "isn't the schema"),
        ({"schema_digest": ""}, "isn't the schema"),
        ({"thresholds": {"Benign": 0.1}}, "no attack class"),
        ({"thresholds": {"Flood": -1}}, "not a probability"),
        ({"format_version": 2}, "format_version"),
        ({"run_me": "rm -rf"}, "run_me"),
    ],
)
def test_forged_metadata_is_refused(folder, changes, match):
    reseal(folder, **changes)
    refused(folder, match)


@pytest.mark.parametrize(
    "text, match",
    [
        ("[" * 200_000, "isn't readable as JSON"),
        ("[]", "isn't a JSON object"),
        ('{"a": 1, "a": 2}', "given twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "isn't readable as JSON"),
        ("\xff", "isn't readable as JSON"),
    ],
    ids=["deep", "list", "twice", "NaN", "endless number", "bytes"],
)
@pytest.mark.parametrize("name", ["metadata.json", "reference.json", "evaluation.json"])
def test_json_that_is_none_is_refused(folder, name, text, match):
    (folder / name).write_bytes(text.encode("latin-1"))
    if name != "metadata.json":
        reseal(folder)
    refused(folder, match)


def test_features_in_another_order_are_refused(folder):
    schema = json.loads((folder / "schema.json").read_text())
    schema["features"][0], schema["features"][1] = schema["features"][1], schema["features"][0]
    (folder / "schema.json").write_text(json.dumps(schema))
    reseal(folder)
    refused(folder, "isn't the schema that metadata.json names")


def test_a_schema_that_is_none_is_refused(folder):
    (folder / "schema.json").write_text('{"name": "x", "features": [], "classes": ["a", "b"]}')
    reseal(folder)
    refused(folder, "features")


def npz(compression: int = zipfile.ZIP_STORED, **arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, value in arrays.items():
            data = io.BytesIO()
            if isinstance(value, bytes):
                data.write(value)
            else:
                np.lib.format.write_array(data, value, allow_pickle=True)
            archive.writestr(f"{name}.npy", data.getvalue())
    return buffer.getvalue()


def lying_header(shape: str, dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 32


X, P = np.zeros((5, 8), np.float32), np.full((5, 4), 0.25, np.float32)
FORGED = {
    "a pickled object array": npz(features=np.array([[{}]], dtype=object), probabilities=P),
    "a zip bomb": npz(zipfile.ZIP_DEFLATED, features=np.zeros((10**6, 8), np.float32), probabilities=P),
    "a shape of a terabyte": npz(features=lying_header("(34359738368, 8)"), probabilities=P),
    "a negative shape": npz(features=lying_header("(-1, 8)"), probabilities=P),
    "a shape that overflows": npz(features=lying_header("(9223372036854775807, 9223372036854775807)"), probabilities=P),
    "code for a shape": npz(features=lying_header("__import__('os')"), probabilities=P),
    "nesting in the header": npz(features=lying_header("(" * 60), probabilities=P),
    "another dtype": npz(features=X.astype(">f4"), probabilities=P),
    "float64": npz(features=X.astype(float), probabilities=P),
    "one more array": npz(features=X, probabilities=P, more=P),
    "names that climb": npz(**{"../features": X, "probabilities": P}),
    "no rows": pack_golden(X[:0], P[:0]),
    "another width": pack_golden(X[:, :7], P),
    "rows that don't match": pack_golden(X[:4], P),
    "an infinity": pack_golden(np.full((5, 8), np.inf, np.float32), P),
    "no probabilities": pack_golden(X, np.full((5, 4), np.nan, np.float32)),
    "a pickle": PICKLE,
    "nothing": b"",
}


@pytest.mark.parametrize("what", FORGED)
def test_golden_rows_that_hold_something_else_are_refused(folder, what):
    (folder / "golden.npz").write_bytes(FORGED[what])
    reseal(folder)
    assert "golden.npz" in str(refused(folder, "isn't|has shapes|aren't finite").where)


def test_golden_rows_with_a_missing_value_that_may_not_be_are_refused(folder):
    x = toy_traffic(5).features.copy()
    x[0, 5] = np.nan
    (folder / "golden.npz").write_bytes(pack_golden(x, P))
    reseal(folder)
    refused(folder, "a golden row can't be classified")
