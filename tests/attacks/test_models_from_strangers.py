"""Models that a stranger hands in to break the machine: refused by name, nothing registered, the number free again."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustidps import sandbox
from robustidps.bundle.trial import try_graph
from robustidps.errors import BundleError, InputError, NotFoundError, RobustIDPSError, VersionExistsError
from robustidps.registry.metadata import ModelMetadata
from robustidps.sandbox import Limits
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import memory_registry
from robustidps.testing.traffic import TOY

META = ModelMetadata(name="mine", version="1.0.0", model_type="onnx", framework="onnx", input_dim=8, output_dim=4)


@pytest.fixture
def registry(tmp_path):
    return memory_registry(tmp_path / "home")


def model(*nodes: onnx.NodeProto, constants=(), opsets=()) -> onnx.ModelProto:
    """features `x` [n, 8] to `y` [n, 4], with `nodes` between, which take `z` [n, 4] to `y`."""
    first = helper.make_node("MatMul", ["x", "w"], ["z"], name="first")
    weights = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(
        [first, *(nodes or [helper.make_node("Identity", ["z"], ["y"])])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weights, *constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *opsets], ir_version=9)


def forever() -> onnx.ModelProto:
    true = helper.make_tensor("t", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["u"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("u", 1, None)],
    )
    start = helper.make_node("Constant", [], ["true"], value=true)
    return model(start, helper.make_node("Loop", ["", "true", "z"], ["y"], name="for_ever", body=body))


def external() -> onnx.ModelProto:
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return made


CUSTOM = model(
    helper.make_node("Evil", ["z"], ["y"], name="evil", domain="com.evil"), opsets=[helper.make_opsetid("com.evil", 1)]
)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (model().SerializeToString()[:-20], "cut off"),
        (b"", "cut off"),
        (external().SerializeToString(), "constant 'w' lies outside the file"),
        (CUSTOM.SerializeToString(), "operators of domain 'com.evil'"),
        (forever().SerializeToString(), "for_ever holds a subgraph"),
    ],
    ids=["truncated", "empty", "external data", "custom operator", "loop without end"],
)
def test_a_hostile_onnx_file_leaves_nothing_behind(registry, tmp_path, data, says):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=says):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx", META, schema=TOY)
    assert registry.models() == [] and not list((registry.settings.home / "runs").iterdir())
    assert registry.reserve_version("mine", "1.0.0") == "1.0.0"


def test_a_gigabyte_of_constants_is_refused_unread(registry, tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(BundleError, match="larger than 512 MiB"):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx", META, schema=TOY)


X = np.ones((20, 8), np.float32)


def test_a_graph_that_asks_for_all_memory_ends_in_its_own_process():
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape")
    large = model(
        helper.make_node("ConstantOfShape", ["shape"], ["sea"]),
        helper.make_node("ReduceSum", ["sea"], ["drop"], keepdims=0),
        helper.make_node("Add", ["z", "drop"], ["y"]),
        constants=[shape],
    )
    with pytest.raises(BundleError, match=r"memory|can't load it|can't run it"):
        try_graph(large.SerializeToString(), X, 4, names=("x", "y"))


def test_a_graph_that_computes_for_hours_is_ended():
    side = numpy_helper.from_array(np.array([3000, 3000], np.int64), "side")
    nodes = [helper.make_node("Expand", ["one", "side"], ["m0"]), helper.make_node("ReduceSum", ["z"], ["s"])]
    one = helper.make_node("ReduceMean", ["z"], ["one"], keepdims=1)
    nodes = [one, *nodes]
    nodes += [helper.make_node("MatMul", [f"m{k}", f"m{k}"], [f"m{k + 1}"]) for k in range(400)]
    nodes += [
        helper.make_node("ReduceMean", ["m400"], ["end"], keepdims=0),
        helper.make_node("Add", ["z", "end"], ["y"]),
    ]
    slow = model(*nodes, constants=[side])
    with pytest.raises(BundleError, match=r"not done within 6 s|needs more than 6 s"):
        try_graph(slow.SerializeToString(), X, 4, names=("x", "y"), limits=Limits(seconds=6.0))


def test_a_crash_of_the_runtime_is_a_refusal(tmp_path, monkeypatch):
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\necho it broke >&2\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sandbox.sys, "executable", str(crash))
    with pytest.raises(BundleError, match="ended by signal 11: it broke"):
        try_graph(b"", X, 4)


def test_a_worker_that_answers_nonsense_is_a_refusal(tmp_path, monkeypatch):
    liar = tmp_path / "python"
    liar.write_text('#!/bin/sh\nfor last; do :; done\necho "{\\"sandbox\\": {}}" > $last/reply.json\n')
    liar.chmod(0o755)
    monkeypatch.setattr(sandbox.sys, "executable", str(liar))
    with pytest.raises(BundleError, match="left no answer"):
        try_graph(b"", X, 4)


def test_an_answer_of_another_width_is_refused():
    wide = model(helper.make_node("Concat", ["z", "z"], ["y"], axis=1))
    with pytest.raises(BundleError, match=r"gives|expected"):
        try_graph(wide.SerializeToString(), X, 4, names=("x", "y"))


INSIDE = """
import os, socket, sys
from pathlib import Path
from robustidps import sandbox
held = sandbox.confine(Path(sys.argv[1]), {"memory_bytes": 2**33, "seconds": 60, "file_bytes": 2**20})
def tried(what):
    try:
        what()
    except OSError:
        return "refused"
    return "done"
print(held["files"], held["no_network"],
      tried(lambda: Path(sys.argv[2]).read_bytes()),
      tried(lambda: Path(sys.argv[2]).with_name("new").write_bytes(b"x")),
      tried(lambda: Path(sys.argv[1], "new").write_bytes(b"x")),
      tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), timeout=5)))
"""


def test_a_confined_process_reads_no_secret_writes_nowhere_else_and_has_no_network(tmp_path):
    import socket

    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", INSIDE, tmp_path / "inside", tmp_path / "secret", server.getsockname()[1]]
        said = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=True).stdout.split()
    if said[0] == "0" or said[1] == "False":
        pytest.skip(f"this kernel has no Landlock or no namespaces (version {said[0]}, no network {said[1]})")
    assert said[2:] == ["refused", "refused", "done", "refused"]


# --- the registry's side


def test_metadata_of_another_version_and_none_at_all_are_refused(registry, tmp_path):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    with pytest.raises(InputError, match=r"the metadata is mine 1.0.0's, not mine 2.0.0's"):
        registry.register_model("mine", "2.0.0", tmp_path / "m.onnx", META, schema=TOY)
    with pytest.raises(InputError, match="needs metadata"):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no model was given"):
        registry.register_model("mine", "1.0.0", metadata=META)
    with pytest.raises(NotFoundError, match="no such file"):
        registry.register_model("mine", "1.0.0", tmp_path / "nothing.onnx", META)


def test_a_number_that_is_taken_is_refused_before_anything_is_converted(registry, tmp_path, monkeypatch):
    registry.register_model("mine", "1.0.0", toy_bundle(tmp_path / "b", name="mine").path)
    monkeypatch.setattr("robustidps.importing.import_model", lambda *a, **k: pytest.fail("it was converted"))
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    with pytest.raises(VersionExistsError):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx", META, schema=TOY)


def test_an_interruption_gives_the_number_back(registry, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustidps.importing.import_model", interrupted)
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    with pytest.raises(KeyboardInterrupt):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx", META, schema=TOY)
    assert registry.models() == []


def test_a_reservation_of_the_callers_own_stays_the_callers(registry, tmp_path):
    registry.reserve_version("mine", "1.0.0")
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(RobustIDPSError):
        registry.register_model("mine", "1.0.0", tmp_path / "m.onnx", META, schema=TOY)
    assert registry.version("mine", "1.0.0").status == "reserved"


def test_registering_from_the_command_line_ends_in_json_or_a_code(registry, tmp_path, monkeypatch, capsys):
    import json

    from robustidps import cli
    from robustidps.cli import registry as cli_registry

    monkeypatch.setattr(cli_registry, "open_registry", lambda: registry)
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    (tmp_path / "schema.json").write_text(TOY.model_dump_json())
    (tmp_path / "cut.onnx").write_bytes(model().SerializeToString()[:-20])

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", "registry", "add", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    schema = ("--schema", tmp_path / "schema.json")
    code, _, err = call("mine", "1.0.0", tmp_path / "cut.onnx", *schema)
    assert code == 5 and "cut off" in " ".join(err.split())
    assert call("mine", "1.0.0", tmp_path / "m.onnx", "--metadata", tmp_path / "none.json")[0] == 3
    assert call("mine", "1.0.0", tmp_path / "m.onnx")[0] == 3  # flow64 has other sizes
    code, out, _ = call("mine", "1.0.0", tmp_path / "m.onnx", *schema)
    assert code == 0 and json.loads(out)["digest"] == registry.version("mine", "1.0.0").digest
    assert call("mine", "1.0.0", tmp_path / "m.onnx", *schema)[0] == 7
    assert os.listdir(registry.settings.home / "runs") == []  # noqa: PTH208
