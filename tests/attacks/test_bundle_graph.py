"""Attacks hidden in a bundle's ONNX graph. The audit refuses each from its bytes; ONNX Runtime never sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustidps import bundle as bundle_module
from robustidps.bundle import open_bundle
from robustidps.bundle.audit import OPERATORS, audit
from robustidps.bundle.trees import MAX_DEPTH
from robustidps.errors import BundleError
from robustidps.testing.forge import chain_of_a_tree, reseal
from robustidps.testing.linear import toy_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("original") / "b")


@pytest.fixture
def model(original) -> onnx.ModelProto:
    return onnx.load(original.path / "model.onnx")


def refused(model: onnx.ModelProto, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        audit(model.SerializeToString())


def append(model: onnx.ModelProto, operator: str, inputs=("features",), domain="", **attributes) -> onnx.NodeProto:
    node = helper.make_node(operator, list(inputs), ["extra"], name="extra", domain=domain, **attributes)
    model.graph.node.append(node)
    return model.graph.node[-1]


def graph_of(*operators: str) -> onnx.GraphProto:
    nodes = [helper.make_node(name, ["a"], ["b"], name=f"inner/{name}") for name in operators]
    return helper.make_graph(nodes, "inner", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])


def test_a_real_bundle_passes(original, model):
    facts = audit(original.path / "model.onnx")
    assert (facts.input_dim, facts.output_dim) == (8, 4) and facts.opset == 17
    assert set(facts.operators) <= OPERATORS[""] and facts.operators["Gemm"] == 1


def test_a_refused_graph_never_reaches_onnx_runtime(original, model, tmp_path, monkeypatch):
    shutil.copytree(original.path, tmp_path / "b")
    append(model, "RandomNormalLike")
    (tmp_path / "b" / "model.onnx").write_bytes(model.SerializeToString())
    reseal(tmp_path / "b")
    monkeypatch.setattr(bundle_module, "Session", lambda *args, **kw: pytest.fail("it was handed to ONNX Runtime"))
    with pytest.raises(BundleError, match="RandomNormalLike"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize("operator", ["RandomNormal", "StringNormalizer", "ImageDecoder", "SequenceMap", "Nonsense"])
def test_an_operator_outside_the_list_is_refused_by_name(model, operator):
    append(model, operator)
    refused(model, f"node extra is operator '{operator}', which is not allowed")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_control_flow_is_refused(model, operator):
    append(model, operator, body=graph_of("Relu"))
    refused(model, "subgraph")


def test_an_operator_in_a_subgraph_of_a_subgraph_is_refused_by_name(model):
    middle = graph_of("Relu")
    middle.node[0].attribute.append(helper.make_attribute("body", graph_of("Relu", "RandomUniform")))
    append(model, "If", then_branch=middle)
    refused(model, "RandomUniform")


def test_a_subgraph_on_an_allowed_operator_is_refused(model):
    append(model, "Relu", body=graph_of("Relu"))
    refused(model, "node extra holds a subgraph")


def function(name: str, domain: str, operator: str) -> onnx.FunctionProto:
    node = helper.make_node(operator, ["a"], ["b"], name="hidden")
    return helper.make_function(domain, name, ["a"], ["b"], [node], [helper.make_opsetid("", 17)])


def test_an_operator_in_a_function_is_refused_by_name(model):
    model.functions.append(function("innocent", "", "RandomUniformLike"))
    refused(model, "node hidden is operator 'RandomUniformLike'")


def test_a_function_that_takes_the_name_of_a_standard_operator_is_refused(model):
    model.functions.append(function("Softmax", "", "Neg"))
    refused(model, "defines a function 'Softmax'")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.contrib", "evil", "ai.onnx.training"])
def test_a_custom_domain_is_refused(model, domain):
    model.opset_import.append(helper.make_opsetid(domain, 1))
    refused(model, f"operators of domain '{domain}'")


def test_a_custom_operator_is_refused_without_an_import_too(model):
    append(model, "PyOp", domain="ai.onnx.contrib")
    refused(model, r"ai\.onnx\.contrib\.PyOp")


def external(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("location", ["model.onnx.data", "/etc/passwd", "../../secret"])
def test_external_data_is_refused(model, location):
    external(model.graph.initializer[0], location)
    refused(model, "outside the file")


def test_external_data_in_an_attribute_is_refused(model):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    external(tensor, "/etc/passwd")
    append(model, "Constant", inputs=(), value=tensor)
    refused(model, "constant 'hidden' lies outside the file")


@pytest.mark.parametrize("dims", [[2**40], [2**31, 2**31, 2**31], [-1], [0, 5], [1] * 20])
def test_a_constant_that_claims_another_size_than_it_has_is_refused(model, dims):
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    refused(model, "says it has|impossible shape")


def test_a_sparse_constant_is_refused(model):
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("at", TensorProto.INT64, [1], [0]),
        [2**40],
    )
    model.graph.sparse_initializer.append(sparse)
    refused(model, "sparse")


def test_strings_are_refused(model):
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"x"]))
    refused(model, "element type 8")


def test_data_in_the_wrong_field_is_refused(model):
    model.graph.initializer[0].int64_data.append(7)
    refused(model, "holds something else")


def test_session_options_in_metadata_are_refused(model):
    model.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": true}}')
    refused(model, "metadata_props")


def test_training_information_is_refused(model):
    model.training_info.add()
    refused(model, "training_info")


def test_a_field_of_an_unknown_future_is_refused(model):
    data = model.SerializeToString() + b"\xfa\x7f\x02hi"  # field 2047, two bytes
    with pytest.raises(BundleError, match="doesn't know"):
        audit(data)


@pytest.mark.parametrize("name", [b"\xff\xfe\xfd\xfc", b"\x1b[2J", b"a\nbc", b"\0abc"])
@pytest.mark.parametrize("old", [b"fill", b"gain"])
def test_a_name_that_is_not_text_is_refused(original, old, name):
    data = (original.path / "model.onnx").read_bytes()
    assert len(name) == len(old) and old in data
    with pytest.raises(BundleError) as caught:
        audit(data.replace(old, name))
    assert str(caught.value).isprintable()


def test_what_onnx_runtime_refuses_is_a_bundle_error_and_nothing_is_printed(original, model, tmp_path, capfd):
    shutil.copytree(original.path, tmp_path / "b")
    model.graph.node[0].input[0] = "from_nowhere"  # passes the audit, which doesn't follow the edges
    (tmp_path / "b" / "model.onnx").write_bytes(model.SerializeToString())
    reseal(tmp_path / "b")
    with pytest.raises(BundleError, match="ONNX Runtime can't load it"):
        open_bundle(tmp_path / "b")
    assert capfd.readouterr() == ("", "")


# --- the signature


def test_inputs_in_another_order_or_number_are_refused(model):
    second = helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 8])
    model.graph.input.insert(0, second)
    refused(model, r"inputs are \['more', 'features'\]")


def test_a_renamed_output_is_refused(model):
    model.graph.output[0].name = "logits"
    refused(model, "outputs are")


def newer_trees(**changes) -> onnx.ModelProto:
    """The operator TreeEnsemble of ai.onnx.ml 5: two nodes and three leaves, with `changes`."""
    model = chain_of_a_tree(1)
    columns = {
        "n_targets": 4,
        "tree_roots": [0],
        "nodes_featureids": [0, 1],
        "nodes_splits": numpy_helper.from_array(np.zeros(2, np.float32), "splits"),
        "nodes_modes": numpy_helper.from_array(np.zeros(2, np.uint8), "modes"),
        "nodes_truenodeids": [1, 0],
        "nodes_trueleafs": [0, 1],
        "nodes_falsenodeids": [1, 2],
        "nodes_falseleafs": [1, 1],
        "leaf_targetids": [0, 1, 3],
        "leaf_weights": numpy_helper.from_array(np.ones(3, np.float32), "weights"),
    }
    node = helper.make_node(
        "TreeEnsemble", ["features"], ["probabilities"], domain="ai.onnx.ml", **{**columns, **changes}
    )
    model.graph.node[0].CopyFrom(node)
    model.opset_import[1].version = 5
    return model


def edited_tree(name: str, at: int, value) -> onnx.ModelProto:
    model = chain_of_a_tree(3)
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == name)
    (attribute.strings if attribute.strings else attribute.ints)[at] = value
    return model


def test_trees_that_end_pass():
    assert audit(chain_of_a_tree(MAX_DEPTH).SerializeToString()).operators == {"TreeEnsembleRegressor": 1}
    assert audit(newer_trees().SerializeToString()).operators == {"TreeEnsemble": 1}
    # Two ways to one node: how converters write membership in a set.
    audit(edited_tree("nodes_truenodeids", 0, 2).SerializeToString())


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 200_000])
def test_a_tree_in_one_long_chain_is_refused(depth):
    refused(chain_of_a_tree(depth), f"more than {MAX_DEPTH} nodes one below another")


@pytest.mark.parametrize("back_to", [0, 5, 9])
def test_a_tree_that_leads_back_is_refused(back_to):
    refused(chain_of_a_tree(10, back_to=back_to), "lead back")


@pytest.mark.parametrize(
    ("name", "at", "value", "match"),
    [
        ("nodes_truenodeids", 0, 99, "leads nowhere"),
        ("nodes_falsenodeids", 2, -1, "leads nowhere"),
        ("nodes_truenodeids", 1, 2**40, "can't be"),
        ("nodes_treeids", 1, 1, "leads nowhere"),
        ("nodes_treeids", 0, -1, "can't be"),
        ("nodes_nodeids", 1, 0, "a node twice"),
        ("nodes_modes", 0, b"BRANCH_MEMBER", "nodes_modes that can't be"),
        ("target_ids", 0, 4, "target_ids beyond"),
        ("target_ids", 0, -1, "can't be"),
    ],
)
def test_a_tree_that_refers_to_what_is_not_there_is_refused(name, at, value, match):
    refused(edited_tree(name, at, value), match)


def test_tree_columns_of_different_lengths_and_attributes_given_twice_are_refused():
    model = chain_of_a_tree(3)
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == "nodes_truenodeids")
    attribute.ints.append(0)
    refused(model, "different lengths")
    model = chain_of_a_tree(3)
    model.graph.node[0].attribute.append(helper.make_attribute("nodes_truenodeids", [0] * 7))
    refused(model, "attribute twice")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"nodes_truenodeids": [1, 1], "nodes_trueleafs": [0, 0]}, "lead back"),
        ({"nodes_truenodeids": [2, 0]}, "leads nowhere"),
        ({"nodes_falsenodeids": [1, 3]}, "leads nowhere"),
        ({"tree_roots": [2]}, "root that isn't there"),
        ({"leaf_targetids": [0, 1, 4]}, "leaf_targetids beyond"),
        ({"nodes_trueleafs": [0]}, "different lengths"),
    ],
)
def test_the_newer_operator_of_trees_is_judged_likewise(changes, match):
    refused(newer_trees(**changes), match)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_fixed_batch_is_refused(model, side):
    getattr(model.graph, side)[0].type.tensor_type.shape.dim[0].dim_value = 64
    refused(model, "fixed batch size of 64")


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_unknown_width_and_another_type_are_refused(model, side):
    value = getattr(model.graph, side)[0].type.tensor_type
    value.elem_type = TensorProto.DOUBLE
    refused(model, "isn't a float32 matrix")
    value.elem_type = TensorProto.FLOAT
    value.shape.dim[1].dim_param = "F"
    refused(model, "of known width")
    value.ClearField("shape")
    refused(model, "of known width")


def test_a_constant_in_place_of_the_input_is_refused(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 8), np.float32), "features"))
    refused(model, "name of the input")


def test_a_model_that_ignores_its_width_fails_its_golden_rows_or_its_sizes(original, model, tmp_path):
    shutil.copytree(original.path, tmp_path / "b")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
    (tmp_path / "b" / "model.onnx").write_bytes(model.SerializeToString())
    reseal(tmp_path / "b")
    with pytest.raises(BundleError, match="disagree about features x classes"):
        open_bundle(tmp_path / "b")


# --- versions and cut files


@pytest.mark.parametrize("version", [0, 1, 12, 99])
def test_an_opset_beyond_what_was_tried_is_refused(model, version):
    model.opset_import[0].version = version
    refused(model, f"has opset {version}")


def test_two_opsets_of_one_domain_are_refused(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(model, "twice")


def test_an_unknown_ir_version_is_refused(model):
    model.ir_version = 99
    refused(model, "IR version 99")


def test_a_cut_off_file_is_refused_at_every_length(original):
    data = (original.path / "model.onnx").read_bytes()
    for length in range(0, len(data) - 1, 7):
        try:
            audit(data[:length])
        except BundleError:
            continue
        pytest.fail(f"the first {length} bytes pass for a model")


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"ORTM" * 10, b"\0" * 100, b"PK\x03\x04" + b"\0" * 60])
def test_what_is_not_onnx_is_refused(data):
    with pytest.raises(BundleError):
        audit(data)


def test_nesting_without_end_is_refused():
    inner = b""
    for _ in range(500):  # graph -> node -> attribute -> graph -> ..
        for tag in (0x32, 0x2A, 0x0A):
            inner = bytes([tag]) + varint(len(inner)) + inner
    with pytest.raises(BundleError):
        audit(b"\x3a" + varint(len(inner)) + inner)


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path: Path = tmp_path / "big.onnx"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match="larger than"):
        audit(path)
