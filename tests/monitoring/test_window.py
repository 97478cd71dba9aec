"""Which flows a window holds, and what isn't taken for traffic."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.errors import CaptureError, DatasetError, SchemaError
from robustidps.monitoring.window import Digest, Range, Window, collect, ranges, span
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet


def digest_of(window: Window, size: int = 65_536) -> str:
    digest = Digest(window.schema)
    for chunk in window.chunks(size):
        digest.add(chunk, chunk.features)
    return digest.hexdigest()


def test_a_window_holds_the_flows_of_its_time_and_no_others(tmp_path):
    traffic = toy_traffic(1_000)
    file = traffic.write(tmp_path / "a.parquet")
    since, until = np.quantile(traffic.time, [0.25, 0.75])
    window = Window((file,), TOY, Range(since, until))
    chunks = list(window.chunks(100))
    inside = (traffic.time > since) & (traffic.time <= until)
    np.testing.assert_array_equal(np.concatenate([c.features for c in chunks]), traffic.features[inside])
    np.testing.assert_array_equal(np.concatenate([c.labels for c in chunks]), traffic.labels[inside])
    named = [window.names[i] for c in chunks for i in c.campaign]
    assert named == list(traffic.campaign[inside])
    assert span(window) == (traffic.time[inside].min(), traffic.time[inside].max())


def test_the_same_flows_are_the_same_window_whatever_files_and_labels_say(tmp_path):
    one, two = toy_traffic(500, 0), toy_traffic(500, 1)
    bare = TrafficSet.build(TOY, one.features, None, time=one.time)
    first = Window((one.write(tmp_path / "a.parquet"), two.write(tmp_path / "b.parquet")), TOY)
    again = Window((two.write(tmp_path / "c.parquet"), bare.write(tmp_path / "d.parquet")), TOY)
    other = Window((one.write(tmp_path / "e.parquet"), toy_traffic(500, 2).write(tmp_path / "f.parquet")), TOY)
    assert digest_of(first) == digest_of(again) == digest_of(first, 77)
    assert digest_of(other) != digest_of(first)


def test_windows_follow_one_another_without_overlap():
    assert ranges(0.0, 100.0) == [Range(None, 100.0)]
    assert ranges(0.0, 100.0, before=60.0) == [Range(60.0, 100.0)]
    assert ranges(0.0, 100.0, before=100.0) == []
    assert ranges(0.0, 100.0, before=60.0, since=10.0, until=90.0) == [Range(10.0, 90.0)]
    cut = ranges(0.0, 100.0, length_s=30.0, before=5.0)
    assert cut == [Range(5.0, 35.0), Range(35.0, 65.0), Range(65.0, 95.0)]  # 95 to 100 fills none, and waits
    assert ranges(1e6, 1e6 + 10, length_s=5.0, before=0.0)[0].until <= 1e6 + 5  # hours without a flow are no windows


@pytest.mark.parametrize(("ask", "said"), [({"since": 90.0, "until": 10.0}, "before it begins"), ({}, "")])
def test_a_range_that_ends_before_it_begins_is_refused(ask, said):
    if ask:
        with pytest.raises(DatasetError, match=said):
            ranges(0.0, 100.0, **ask)
    else:
        with pytest.raises(DatasetError, match="flows have no time"):
            ranges(None, None, since=0.0)
        assert ranges(None, None) == [Range()]


def test_an_empty_folder_and_one_of_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for where in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DatasetError):
            collect(where, folder=tmp_path)


def test_a_damaged_capture_is_refused_by_name(tmp_path):
    (tmp_path / "broken.pcap").write_bytes(b"no capture")
    with pytest.raises(CaptureError, match=r"broken.pcap"):
        collect(tmp_path, folder=tmp_path / "flows")


def test_traffic_of_another_schema_is_refused(tmp_path):
    other = TrafficSchema(name="other", features=(Feature(name="x"),), classes=("Benign", "Bad"))
    file = TrafficSet.build(other, np.zeros((5, 1))).write(tmp_path / "o.parquet")
    with pytest.raises(SchemaError, match=r"o.parquet: is traffic of schema other"):
        list(Window((file,), TOY).chunks())


@pytest.mark.parametrize("kept", [0, 40, 0.5, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path, kept):
    file = toy_traffic(500).write(tmp_path / "t.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(DatasetError, match=r"t.parquet: not readable as Parquet"):
        list(Window((file,), TOY).chunks())


def test_a_parquet_file_whose_pages_were_overwritten_is_refused(tmp_path):
    file = toy_traffic(2_000).write(tmp_path / "t.parquet")
    content = bytearray(file.read_bytes())
    content[200:1200] = b"\xff" * 1000  # the footer is whole; the first column is not
    file.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"t.parquet"):
        list(Window((file,), TOY).chunks())


def test_parquet_of_somebody_elses_is_refused(tmp_path):
    import pandas as pd

    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="holds no traffic schema"):
        list(Window((tmp_path / "p.parquet",), TOY).chunks())


def test_a_label_that_is_no_class_is_refused_by_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = toy_traffic(50).write(tmp_path / "l.parquet")
    table = pq.read_table(file)
    words = pa.array(["Benign"] * 49 + ["Exfiltration"]).dictionary_encode()
    table = table.set_column(table.schema.get_field_index("_label"), "_label", words)
    pq.write_table(table, file)
    with pytest.raises(DatasetError, match="labelled 'Exfiltration', which is none of the model's classes"):
        list(Window((file,), TOY).chunks())


def test_flows_of_which_only_some_have_a_time_are_refused(tmp_path):
    traffic = toy_traffic(50)
    half = TrafficSet.build(TOY, traffic.features, time=np.where(np.arange(50) < 25, np.nan, traffic.time))
    with pytest.raises(DatasetError, match="some have none"):
        list(Window((half.write(tmp_path / "h.parquet"),), TOY).chunks())
