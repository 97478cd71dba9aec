"""Attacks inside a validly signed update: by a publisher of a family who is hostile, or whose key was stolen.

All is refused in the quarantine, before ONNX Runtime sees a graph in this process. Where a first run is part of it, it
happens in the confined process.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustidps import bundle as bundle_module
from robustidps.bundle import trees
from robustidps.bundle.files import pack_golden
from robustidps.errors import BundleError, UpdateError
from robustidps.sandbox import Limits
from robustidps.testing.forge import chain_of_a_tree, files_of, raw_archive, reseal
from robustidps.traffic.schema import TrafficSchema

PICKLE = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
PICKLE_0 = b"cposix\nsystem\n(S'true'\ntR."


def attack(name: str, refusal: str = "BundleError"):
    return pytest.mark.attack(name, refusal)


@pytest.fixture(autouse=True)
def nothing_is_loaded_here(original, monkeypatch):
    monkeypatch.setattr(bundle_module, "Session", lambda *args, **kw: pytest.fail("it was handed to ONNX Runtime here"))


def refused(site, match: str, kind=BundleError, **options) -> Exception:
    """The archive comes and is refused; the check before it, which is all right, is not part of what is compared."""
    offer = site.registry.offers()[-1]
    assert offer.version != "1.0.0"
    return site.refuses(kind, match, lambda: site.take(**options))


# --- the archive


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", size: int | None = None
) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, len(data) if size is None else size
    entry.mode = 0o644
    return entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@attack("links and devices in an archive")
@pytest.mark.parametrize(
    "evil",
    [
        member("model.onnx", tarfile.SYMTYPE, link="/etc/passwd"),
        member("model.onnx", tarfile.LNKTYPE, link="metadata.json"),
        member("golden.npz", tarfile.CHRTYPE),
        member("golden.npz", tarfile.BLKTYPE),
        member("golden.npz", tarfile.FIFOTYPE),
        member("native", tarfile.DIRTYPE),
        member("model.onnx", tarfile.GNUTYPE_SPARSE, size=0),
        member("model.onnx", tarfile.CONTTYPE),
        member("model.onnx", b"Z"),
    ],
    ids=["symbolic", "hard", "character", "block", "pipe", "folder", "sparse", "contiguous", "unknown"],
)
def test_links_and_devices_in_an_archive(site, forger, evil):
    good = files_of(forger.folder)
    good.pop("model.onnx")
    forger.publish_archive(evil + raw_archive(good))
    refused(site, "holds|says more about")


@attack("name or version that climbs out of a folder")
@pytest.mark.parametrize(
    "name",
    ["../evil", "../../../../evil", "/etc/cron.d/evil", "native/../../evil", "native/a/b.json", "native/..",
     "./model.onnx", "model.onnx/", "native\\..\\evil", "native/.hidden.json", "evil.py", "MODEL.ONNX",
     "native/x.json\0.py"],
)  # fmt: skip
def test_a_name_that_climbs_out_of_the_archives_folder(site, forger, name):
    files = {name: b"evil"} | files_of(forger.folder)
    forger.publish_archive(raw_archive(files))
    refused(site, "a bundle has no such file|says more about|out of order")
    assert not (site.folder.parent / "evil").exists()


@attack("name or version that climbs out of a folder")
@pytest.mark.parametrize("style", ["pax", "gnu", "prefix"])
def test_an_extended_header_that_renames(site, forger, style):
    buffer = io.BytesIO()
    if style == "prefix":
        header = bytearray(tarfile.TarInfo("golden.npz").tobuf(tarfile.USTAR_FORMAT))
        header[345:353] = b"../../x/"
        total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
        header[148:156] = f"{total:06o}\0 ".encode()
        evil = bytes(header)
    else:
        formats = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
        with tarfile.open(fileobj=buffer, mode="w", format=formats[style]) as archive:
            entry = tarfile.TarInfo("golden.npz" if style == "pax" else "x" * 200)
            entry.pax_headers = {"path": "../../evil"}
            archive.addfile(entry)
        evil = buffer.getvalue()[:-1024].rstrip(b"\0")
        evil += bytes(-len(evil) % 512)
    forger.publish_archive(evil + raw_archive(files_of(forger.folder)))
    refused(site, "holds an extended header|says more about")


@attack("decompression bomb")
@pytest.mark.parametrize("kind", ["gzip", "gzip of a tar", "size that lies"])
def test_decompression_bomb(site, forger, kind):
    if kind == "gzip":
        archive = gzip.compress(bytes(50_000_000))
    elif kind == "gzip of a tar":
        archive = gzip.compress(raw_archive(files_of(forger.folder)))
    else:
        archive = member("golden.npz", size=8**11 - 1) + raw_archive(files_of(forger.folder))
    forger.publish_archive(archive)
    refused(site, "is compressed|more than")


@attack("decompression bomb")
def test_a_zip_bomb_in_place_of_golden_rows(site, forger):
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, features=np.zeros((3_000_000, 8), np.float32), probabilities=np.zeros((2, 4), np.float32)
    )
    forger.write("golden.npz", buffer.getvalue())
    forger.publish()
    refused(site, "is compressed")


@attack("an archive that is cut off, doubled or goes on")
@pytest.mark.parametrize(
    "how", ["cut", "no end", "doubled", "goes on", "twice", "behind", "no tar", "empty", "unsorted"]
)
def test_an_archive_that_is_not_what_pack_writes(site, forger, how):
    files = files_of(forger.folder)
    whole = raw_archive(files)
    first = raw_archive({"golden.npz": files["golden.npz"]})[:-1024]
    padded = bytearray(whole)
    padded[512 + len(files["golden.npz"])] = 1
    forger.publish_archive(
        {
            "cut": whole[: len(whole) // 2],
            "no end": whole[:-1024],
            "doubled": whole + whole,
            "goes on": whole + b"\0" * 512,
            "twice": first + whole,
            "behind": bytes(padded),
            "no tar": b"x" * 2048,
            "empty": b"\0",
            "unsorted": raw_archive(dict(reversed(files.items()))),
        }[how]
    )
    refused(site, "cut off|goes on behind|twice, or out of order|hides something|isn't a tar")


# --- pickles and code


@attack("pickle in disguise")
@pytest.mark.parametrize(
    ("name", "data"),
    [("native/weights.txt", PICKLE_0), ("native/weights.json", PICKLE), ("native/weights.safetensors", PICKLE),
     ("native/weights.keras", PICKLE), ("native/weights.nir", PICKLE), ("golden.npz", PICKLE), ("model.onnx", PICKLE)],
)  # fmt: skip
def test_pickle_in_disguise(site, forger, name, data):
    forger.write(name, data)
    forger.publish()
    refused(site, "isn't what its name says|isn't an archive of two|isn't ONNX|holds")


@attack("pickle in disguise")
def test_golden_rows_that_are_pickled_objects(site, forger):
    buffer = io.BytesIO()
    rows = np.array([[None] * 8], dtype=object)
    np.savez(buffer, features=rows, probabilities=np.zeros((1, 4), np.float32))
    forger.write("golden.npz", buffer.getvalue())
    forger.publish()
    refused(site, "holds something else than a float32 matrix")


@attack("pickle in disguise")
@pytest.mark.parametrize("name", ["native/weights.pkl", "native/weights.pt", "native/weights.npy", "native/code.py"])
def test_a_format_that_may_hold_code(site, forger, name):
    forger.write(name, PICKLE)
    forger.publish()
    refused(site, "a bundle has no such file")


@attack("an MLmodel file that runs code")
@pytest.mark.parametrize("name", ["MLmodel", "python_env.yaml", "code/loader.py", "native/MLmodel"])
def test_an_mlmodel_file_that_runs_code(site, forger, name):
    forger.write(name, b"flavors:\n  python_function:\n    loader_module: os\n")
    forger.publish()
    error = refused(site, "a bundle has no such file")
    assert name != "MLmodel" or "run code" in error.remedy


# --- the graph


@pytest.fixture
def model(original) -> onnx.ModelProto:
    return onnx.load(original.path / "model.onnx")


def publish_graph(forger, model: onnx.ModelProto) -> None:
    forger.write("model.onnx", model.SerializeToString())
    forger.publish()


def inner(*operators: str) -> onnx.GraphProto:
    nodes = [helper.make_node(name, ["a"], ["b"], name=f"inner/{name}") for name in operators]
    return helper.make_graph(nodes, "inner", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])


@attack("ONNX bomb: huge initialisers")
@pytest.mark.parametrize("dims", [[2**40], [2**31, 2**31], [-1]])
def test_onnx_bomb_of_huge_initialisers(site, forger, model, dims):
    model.graph.initializer[0].dims[:] = dims
    publish_graph(forger, model)
    refused(site, "says it has|impossible shape")


@attack("ONNX bomb: huge initialisers", "BundleError")
def test_onnx_bomb_that_asks_for_all_memory_when_run(site, forger, model):
    site_limits = Limits(seconds=30.0, memory_bytes=2 * 2**30)
    grown(model, numpy_helper.from_array(np.array([2**20, 2**20, 1, 1], np.int64), "grown/side"), squares=0)
    publish_graph(forger, model)
    refused(site, "needs more than 2048 MiB of memory", limits=site_limits)


@attack("ONNX bomb: endless loop")
@pytest.mark.parametrize("operator", ["Loop", "Scan", "If"])
def test_onnx_bomb_of_an_endless_loop(site, forger, model, operator):
    model.graph.node.append(helper.make_node(operator, ["features"], ["z"], name="for ever", body=inner("Relu")))
    publish_graph(forger, model)
    refused(site, "holds a subgraph")


@attack("ONNX bomb: external data")
@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../etc/passwd", "metadata.json"])
def test_onnx_bomb_of_external_data_that_points_at_etc(site, forger, model, location):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    publish_graph(forger, model)
    refused(site, "lies outside the file")


@attack("an operator outside the allow-list inside a subgraph")
@pytest.mark.parametrize("operator", ["RandomNormal", "ImageDecoder", "StringNormalizer"])
def test_an_operator_outside_the_list_inside_a_subgraph(site, forger, model, operator):
    middle = inner("Relu")
    middle.node[0].attribute.append(helper.make_attribute("body", inner("Relu", operator)))
    model.graph.node.append(helper.make_node("If", ["features"], ["z"], name="outer", then_branch=middle))
    publish_graph(forger, model)
    refused(site, operator)


@attack("an operator outside the allow-list inside a subgraph")
def test_an_operator_of_a_custom_domain(site, forger, model):
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    model.graph.node.append(helper.make_node("Run", ["features"], ["z"], name="outer", domain="com.evil"))
    publish_graph(forger, model)
    refused(site, "com.evil")


def grown(model: onnx.ModelProto, side: onnx.TensorProto, squares: int) -> None:
    """Adds what is computed from the rows, takes what `side` and `squares` say, and adds zero to the answer."""
    out = model.graph.node[-1].output
    answer, out[0] = out[0], "grown/before"
    model.graph.initializer.append(side)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), "grown/nought"))
    nodes = [
        helper.make_node("ReduceMean", ["grown/before"], ["grown/one"], keepdims=0),
        helper.make_node("Expand", ["grown/one", "grown/side"], ["grown/m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"grown/m{k}", f"grown/m{k}"], [f"grown/m{k + 1}"]) for k in range(squares)]
    nodes += [
        helper.make_node("ReduceMax", [f"grown/m{squares}"], ["grown/end"], keepdims=0),
        helper.make_node("Mul", ["grown/end", "grown/nought"], ["grown/nothing"]),
        helper.make_node("Add", ["grown/before", "grown/nothing"], [answer]),
    ]
    model.graph.node.extend(nodes)


@attack("a model that crashes the runtime")
def test_a_model_that_never_ends(site, forger, model):
    grown(model, numpy_helper.from_array(np.array([3000, 3000], np.int64), "grown/side"), squares=400)
    publish_graph(forger, model)
    refused(site, r"not done within 3 s|needs more than 3 s", limits=Limits(seconds=3.0))


@attack("a model that crashes the runtime")
def test_a_tree_too_deep_for_the_runtime(site, forger):
    publish_graph(forger, chain_of_a_tree(20_000))
    refused(site, "more than 4096 nodes one below another")


@attack("a model that crashes the runtime")
def test_a_model_that_crashes_the_runtime(site, forger, monkeypatch):
    """What the audit doesn't know of ends in the trial: here a tree whose depth it wasn't told to look at."""
    monkeypatch.setattr(trees, "MAX_DEPTH", 10**6)
    publish_graph(forger, chain_of_a_tree(20_000))
    refused(site, "ended by signal 11|doesn't reproduce")  # the latter from a runtime that has learnt to build it


@attack("a model that crashes the runtime")
def test_a_model_that_the_runtime_refuses(site, forger, model):
    model.graph.node[-1].input[0] = "a value that nothing computes"
    publish_graph(forger, model)
    refused(site, "ONNX Runtime can't load it")


# --- what it says of itself


@attack("metadata that lies about dimensions")
@pytest.mark.parametrize("lie", [{"input_dim": 9}, {"output_dim": 5}])
def test_metadata_that_lies_about_dimensions(site, forger, lie):
    forger.publish(**lie)
    refused(site, "its files disagree about features x classes")


@attack("metadata that lies about dimensions", "UpdateError")
@pytest.mark.parametrize("lie", [{"input_dim": 2**31}, {"output_dim": 1}, {"input_dim": -1}])
def test_dimensions_that_no_model_has(site, forger, lie):
    forger.publish(**lie)
    refused(site, "isn't metadata of a model", UpdateError)


@attack("metadata that lies about dimensions")
def test_golden_rows_of_another_width(site, forger, original):
    x, p = original.golden
    forger.write("golden.npz", pack_golden(x[:, :5].copy(), p))
    forger.publish()
    refused(site, "has shapes")


@attack("metadata that lies about dimensions", "UpdateError")
def test_metadata_beside_the_bundle_that_is_not_the_bundles_own(site, forger, remote):
    """The small target promises what the bundle isn't: fewer requirements, say."""
    forger.publish(requirements=["evil==1.0"])
    kept = (forger.folder / "metadata.json").read_bytes().replace(b"evil==1.0", b"nice==1.0")
    remote.add_target("linear", "linear/toy/2.0.0/metadata.json", kept)
    remote.publish()
    refused(site, "says another requirements", UpdateError)


REFERENCES = {
    "nothing": lambda r: r.clear(),
    "no features": lambda r: r.update(features=[]),
    "features without end": lambda r: r.update(features=r["features"] * 2_000),
    "counts without end": lambda r: r["features"][0].update(counts=[1] * 100_000, edges=list(range(99_999))),
    "more bins than edges": lambda r: r["features"][0]["counts"].append(1),
    "edges that fall": lambda r: r["features"][0].update(edges=[2.0, 1.0], counts=[600, 0, 0], missing=0),
    "edge beyond float32": lambda r: r["features"][0].update(edges=[1e300], counts=[600, 0], missing=0),
    "infinite edge": lambda r: r["features"][0].update(edges=[float("inf")], counts=[600, 0], missing=0),
    "count beyond any number": lambda r: r.update(rows=10**400, predictions=[10**400, 0, 0, 0]),
    "negative count": lambda r: r["features"][0].update(missing=-1),
    "rows that aren't counted": lambda r: r.update(rows=10**9),
    "another column's name": lambda r: r["features"][0].update(name="\x1b[2Jevil"),
    "another schema": lambda r: r.update(schema_digest="0" * 64),
    "a class more": lambda r: r.update(predictions=[600, 0, 0, 0, 0]),
    "confidence by categories": lambda r: r["confidence"].update(kind="categorical", edges=[]),
    "key of its own": lambda r: r.update({"\x1b[2J" * 1_000: 1}),
}


@attack("a reference profile that is none")
@pytest.mark.parametrize("how", REFERENCES)
def test_a_reference_profile_that_is_none(site, forger, original, how):
    """Else it would be found while drift is measured: once in each round, and with whatever else it does there."""
    reference = json.loads((forger.folder / "reference.json").read_bytes())
    REFERENCES[how](reference)
    forger.write("reference.json", json.dumps(reference).encode())
    forger.publish()
    error = refused(site, r"reference\.json")
    assert str(error).isprintable() and len(str(error)) < 1_000


@attack("a reference profile that is none")
def test_a_reference_profile_beyond_its_size(site, forger):
    forger.write("reference.json", (forger.folder / "reference.json").read_bytes() + b" " * 64 * 2**20)
    forger.publish()
    refused(site, "reference.json")


@attack("another bundle under this one's name", "UpdateError")
@pytest.mark.parametrize("what", ["version", "name", "family", "digest", "schema_digest"])
def test_a_summary_that_promises_another_bundle(site, forger, what):
    lies = {"digest": "0" * 64, "schema_digest": "1" * 64}
    if what in lies:
        forger.publish(claims={what: lies[what]})
    else:
        forger.publish(version="2.0.0", **({} if what == "version" else {what: "other"}))
        if what == "version":
            forger.remote.add_archive("linear", "toy", "3.0.0", *_published(forger))
            forger.remote.publish()
    refused(site, f"its {what.replace('_', ' ')} is", UpdateError)


def _published(forger) -> tuple[bytes, dict, bytes]:
    info = forger.remote.signed("linear").targets["linear/toy/2.0.0/bundle.tar"]
    data = forger.remote.files[forger.remote.place(info.path, info.hashes["sha256"])]
    return data, info.custom, (forger.folder / "metadata.json").read_bytes()


@attack("another bundle under this one's name")
def test_an_archive_of_another_bundle_than_metadata_and_summary_say(site, forger, original):
    """Replay: the archive of a version that was published before, under a new number."""
    reseal(forger.folder, version="2.0.0")
    forger.publish_archive(raw_archive(files_of(original.path)))
    refused(site, "is another bundle")


def reordered(forger) -> TrafficSchema:
    content = json.loads((forger.folder / "schema.json").read_bytes())
    content["classes"] = [content["classes"][k] for k in (0, 2, 1, 3)]
    schema = TrafficSchema.model_validate(content)
    forger.write("schema.json", (schema.model_dump_json(indent=2) + "\n").encode())
    reference = json.loads((forger.folder / "reference.json").read_bytes())
    reference |= {"schema_digest": schema.digest, "classes": content["classes"]}
    forger.write("reference.json", json.dumps(reference).encode())
    return schema


@attack("classes reordered")
def test_classes_reordered_under_the_old_schemas_digest(site, forger, original):
    schema = reordered(forger)
    assert schema.digest != original.schema.digest
    forger.publish()
    refused(site, "isn't the schema that metadata.json names")


@attack("classes reordered", "UpdateError")
def test_classes_reordered_and_the_offer_says_they_are_not(site, forger, original):
    schema = reordered(forger)
    forger.publish(schema_digest=schema.digest, claims={"schema_digest": original.schema.digest})
    refused(site, "its schema digest is", UpdateError)


@attack("NaN metrics", "UpdateError")
@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1e999"])
def test_nan_metrics_in_a_bundles_metadata(site, forger, figure):
    forger.publish(performance_metrics={"accuracy": 0.25})
    text = (forger.folder / "metadata.json").read_bytes().replace(b"0.25", figure.encode())
    forger.remote.add_target("linear", "linear/toy/2.0.0/metadata.json", text)
    forger.remote.publish()
    refused(site, "isn't metadata of a model", UpdateError)


@attack("NaN metrics")
def test_golden_rows_that_are_nan(site, forger, original):
    x, p = original.golden
    forger.write("golden.npz", pack_golden(x, np.full_like(p, np.nan)))
    forger.publish()
    refused(site, "holds values that aren't finite")


@attack("a model that isn't the one that was trained")
def test_a_model_that_does_not_reproduce_its_golden_rows(site, forger, model):
    weights = model.graph.initializer
    for k, tensor in enumerate(weights):
        if tensor.name.endswith("biases"):
            weights[k].CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor) + np.float32(1) * np.arange(4, dtype=np.float32), tensor.name
                )
            )
    publish_graph(forger, model)
    refused(site, "doesn't reproduce its golden rows")


@attack("a model that isn't the one that was trained")
def test_a_model_that_answers_nan(site, forger, model):
    out = model.graph.node[-1].output
    answer, out[0] = out[0], "grown/before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    model.graph.node.append(helper.make_node("Mul", ["grown/before", "nan"], [answer]))
    publish_graph(forger, model)
    refused(site, "doesn't reproduce its golden rows: off by nan")
