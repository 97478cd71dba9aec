"""A traffic set holds together, and comes back from its file as it was or not at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustidps.errors import DatasetError, SchemaError, StorageError
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

FIELDS = ("features", "labels", "time", "source", "campaign", "tool")


@pytest.fixture
def file(tmp_path):
    return toy_traffic(200, seed=1).write(tmp_path / "t.parquet")


def equal(one: TrafficSet, two: TrafficSet) -> bool:
    return (
        all(np.array_equal(getattr(one, f), getattr(two, f), equal_nan=f in ("features", "time")) for f in FIELDS)
        and one.schema == two.schema
        and one.provenance == two.provenance
    )


# --- a set


def test_single_strings_are_spread_and_what_is_not_given_is_unknown():
    made = TrafficSet.build(TOY, np.zeros((3, 8)), source="a.pcap")
    assert made.source.tolist() == ["a.pcap"] * 3 and made.tool.tolist() == [""] * 3
    assert (made.labels == UNLABELLED).all() and not made.labelled.any()
    assert np.isnan(made.time).all() and not made.has_time and made.features.dtype == np.float32


@pytest.mark.parametrize(
    "given",
    [
        {"labels": [0, 4, 0]},
        {"labels": [0, -2, 0]},
        {"labels": [0, 0]},
        {"time": [0.0, 1.0]},
        {"source": ["a", "b"]},
        {"campaign": ["a"] * 4},
    ],
)
def test_rows_that_do_not_fit_each_other_are_refused(given):
    with pytest.raises(SchemaError):
        TrafficSet.build(TOY, np.zeros((3, 8)), **given)


def test_features_of_another_width_are_refused():
    made = toy_traffic(10)
    with pytest.raises(SchemaError, match=r"shape \(10, 7\), expected \(10, 8\)"):
        dataclasses.replace(made, features=made.features[:, :7])


def test_selecting_keeps_rows_whole_and_in_the_order_asked_for():
    made = toy_traffic(50)
    chosen = made.select(np.array([7, 3, 3]))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(made, name)[[7, 3, 3]])
    assert len(made.select(made.labels == 1)) == made.class_counts()["Flood"]
    assert len(made.select(slice(0, 0))) == 0


def test_class_counts_leave_unlabelled_rows_out():
    made = TrafficSet.build(TOY, np.zeros((4, 8)), [0, 2, UNLABELLED, 2])
    assert made.class_counts() == {"Benign": 1, "Flood": 0, "Scan": 2, "Never-Seen": 0}


def test_the_digest_follows_content_and_order_and_nothing_else():
    one = toy_traffic(50)
    assert one.digest == toy_traffic(50).digest
    assert one.digest == dataclasses.replace(one, source=one.tool, provenance={"other": 1}).digest
    assert one.digest != toy_traffic(50, seed=2).digest
    assert one.digest != one.select(np.arange(50)[::-1]).digest
    changed = one.labels.copy()
    changed[0] = (changed[0] + 1) % 3
    assert one.digest != dataclasses.replace(one, labels=changed).digest


def test_joining_puts_rows_behind_each_other():
    one, two = toy_traffic(20), toy_traffic(30, seed=2)
    joined = TrafficSet.concat([one, two])
    assert equal(dataclasses.replace(joined.select(slice(20, 50)), provenance=two.provenance), two)
    assert joined.provenance == {"parts": [one.provenance, two.provenance]}


def test_sets_of_different_schemas_and_no_sets_are_not_joined():
    other = TOY.model_copy(update={"classes": ("Benign", "A", "B", "C")})
    with pytest.raises(SchemaError, match="different schemas"):
        TrafficSet.concat([toy_traffic(5), dataclasses.replace(toy_traffic(5), schema=other)])
    with pytest.raises(SchemaError, match="nothing to join"):
        TrafficSet.concat([])


def test_a_frame_has_features_then_what_is_known_about_a_row():
    made = toy_traffic(30)
    frame = made.frame()
    assert list(frame.columns) == [*TOY.feature_names, "_label", "_time", "_source", "_campaign", "_tool"]
    assert (frame["_label"] == np.array(TOY.classes)[made.labels]).all()
    unlabelled = TrafficSet.build(TOY, np.zeros((2, 8))).frame()
    assert (unlabelled["_label"] == "").all()


# --- its file


@pytest.mark.parametrize(
    "made",
    [
        toy_traffic(300, seed=4, missing=0.3),
        TrafficSet.build(TOY, np.zeros((3, 8))),
        TrafficSet.build(TOY, np.zeros((0, 8))),
        TrafficSet.build(TOY, np.zeros((2, 8)), [0, UNLABELLED], source=["../../x", "<script>\x1b[2J"], tool="ü 流"),
    ],
    ids=["labelled", "unlabelled", "empty", "odd words"],
)
def test_a_set_comes_back_from_its_file_as_it_was(tmp_path, made):
    back = TrafficSet.read(made.write(tmp_path / "deep" / "t.parquet"))
    assert equal(back, made) and back.digest == made.digest
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["t.parquet"]


def test_a_file_that_was_cut_off_anywhere_is_refused(file):
    data = file.read_bytes()
    for length in (0, 1, 4, 100, len(data) // 2, len(data) - 9, len(data) - 8, len(data) - 4, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(DatasetError, match=r"t\.parquet: not readable as Parquet"):
            TrafficSet.read(file)


@pytest.mark.parametrize("data", [b"a,b,c\n1,2,3\n", b"PAR1" + b"\0" * 100 + b"PAR1", b"\x80\x04K\x01."])
def test_what_is_not_parquet_is_refused(tmp_path, data):
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(DatasetError, match="not readable as Parquet"):
        TrafficSet.read(tmp_path / "t.parquet")


def test_a_missing_file_and_a_folder_are_dataset_errors(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        TrafficSet.read(tmp_path / "t.parquet")
    with pytest.raises(DatasetError):
        TrafficSet.read(tmp_path)


def test_parquet_of_somebody_else_is_told_apart(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="holds no traffic schema"):
        TrafficSet.read(tmp_path / "t.parquet")


def rewritten(file, change):
    """The file with its Arrow table changed."""
    table = pq.read_table(file)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file)


CHANGES = {
    "a column less": lambda t: t.drop_columns(["bytes"]),
    "text in a number": lambda t: t.set_column(0, "duration", pa.array(["x"] * t.num_rows)),
    "an unknown label": lambda t: t.set_column(
        t.column_names.index("_label"), "_label", pa.array(["Martian"] * t.num_rows).dictionary_encode()
    ),
    "labels that aren't words": lambda t: t.set_column(
        t.column_names.index("_label"), "_label", pa.array([1] * t.num_rows)
    ),
    "labels that are missing": lambda t: t.set_column(
        t.column_names.index("_label"), "_label", pa.array([None] * t.num_rows, pa.string()).dictionary_encode()
    ),
    "text for a time": lambda t: t.set_column(t.column_names.index("_time"), "_time", pa.array(["x"] * t.num_rows)),
    "no source": lambda t: t.drop_columns(["_source"]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_columns_that_do_not_fit_the_schema_are_refused(file, what):
    rewritten(file, CHANGES[what])
    with pytest.raises(DatasetError, match="don't fit its schema"):
        TrafficSet.read(file)


@pytest.mark.parametrize("schema", ["{}", "nonsense", '{"name": "../x", "features": [], "classes": []}'])
def test_a_schema_that_is_none_is_refused(file, schema):
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"robustidps.schema": schema}), file)
    with pytest.raises(DatasetError, match="don't fit its schema"):
        TrafficSet.read(file)


def test_labels_of_a_schema_with_other_classes_do_not_slip_through(file):
    table = pq.read_table(file)
    content = json.loads(table.schema.metadata[b"robustidps.schema"])
    content["classes"] = ["Benign", "Other"]
    pq.write_table(table.replace_schema_metadata({"robustidps.schema": json.dumps(content)}), file)
    with pytest.raises(DatasetError):
        TrafficSet.read(file)


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(file, monkeypatch):
    before = file.read_bytes()

    def fail(table, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(StorageError, match="disk is full"):
        toy_traffic(10).write(file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]
