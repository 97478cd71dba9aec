"""The walk over record headers: it counts right, finds every cut, and survives any bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from robustidps.errors import CaptureError
from robustidps.traffic import pcap
from robustidps.traffic.capture import inspect
from robustidps.traffic.pcap import walk

KINDS = [(kind, order, nano) for kind in ("pcap", "pcapng") for order in ("<", ">") for nano in (False, True)]
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.parametrize(("kind", "order", "nano"), KINDS)
def test_packets_and_times_are_read_in_every_format(make_capture, conversation, kind, order, nano):
    report = inspect(make_capture(conversation, kind=kind, order=order, nano=nano))
    assert (report.format, report.packets, report.truncated) == (kind, 13, False)
    assert report.byte_order == ("little" if order == "<" else "big")
    assert report.first_time == pytest.approx(conversation[0][0], abs=1e-6)
    assert report.last_time == pytest.approx(max(t for t, _ in conversation), abs=1e-6)
    assert (report.whole_bytes, report.link_types) == (report.size, (1,))


@pytest.mark.parametrize("block", [16, 61, 4096])
def test_the_size_of_a_read_changes_nothing(make_capture, conversation, monkeypatch, block):
    monkeypatch.setattr(pcap, "_BLOCK", block)
    for kind in ("pcap", "pcapng"):
        path = make_capture(conversation, kind=kind)
        if kind == "pcap" and block < 24:
            continue
        report = inspect(path)
        assert (report.packets, report.truncated, report.whole_bytes) == (13, False, path.stat().st_size)


def boundaries(content: bytes, kind: str) -> list[int]:
    """Where each record ends, by a second, slower reading."""
    ends, pos = [], 24 if kind == "pcap" else 0
    if kind == "pcap":
        ends.append(pos)
    while pos < len(content):
        pos += (
            16 + struct.unpack_from("<I", content, pos + 8)[0]
            if kind == "pcap"
            else struct.unpack_from("<I", content, pos + 4)[0]
        )
        ends.append(pos)
    return ends


@quick
@given(kind=st.sampled_from(["pcap", "pcapng"]), share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_at_any_byte_is_noticed(make_capture, conversation, kind, share):
    whole = make_capture(conversation, "whole", kind=kind).read_bytes()
    ends = boundaries(whole, kind)
    cut = int(share * len(whole))
    path = make_capture(whole[:cut], "cut")
    if cut < ends[0]:
        if kind == "pcap" or cut < 12:
            try:
                report = inspect(path)
                assert report.truncated
            except CaptureError:
                pass
        return
    report = inspect(path)
    last = max(e for e in ends if e <= cut)
    assert report.whole_bytes == last
    assert report.truncated == (cut != last)
    if report.truncated:
        assert f"at byte {last}" in report.damage
        assert f"after {report.packets} whole packets" in report.damage


@quick
@given(content=st.binary(max_size=400), magic=st.sampled_from([b"", *pcap._PCAP, b"\x0a\x0d\x0d\x0a"]))
@example(content=b"", magic=b"")
def test_no_bytes_break_the_walk(make_capture, content, magic):
    path = make_capture(magic + content, "any")
    try:
        report = inspect(path)
    except CaptureError as error:
        assert str(path) in str(error)
        return
    assert 0 <= report.whole_bytes <= report.size
    assert report.truncated == (report.whole_bytes != report.size)


@quick
@given(data=st.data(), kind=st.sampled_from(["pcap", "pcapng"]))
def test_no_changed_byte_breaks_the_walk(make_capture, conversation, data, kind):
    content = bytearray(make_capture(conversation, "whole", kind=kind).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        report = inspect(make_capture(bytes(content), "changed"))
    except CaptureError:
        return
    assert report.packets <= len(content) // 16
    assert report.whole_bytes <= report.size


def test_a_record_of_absurd_length_is_damage(make_capture, conversation):
    content = make_capture(conversation).read_bytes() + struct.pack("<IIII", 0, 0, 0x7FFFFFFF, 0x7FFFFFFF) + bytes(100)
    report = inspect(make_capture(content))
    assert (report.packets, report.truncated) == (13, True)
    assert "claims 2147483647 bytes" in report.damage


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello, world\n", "is not a capture"),
        (b"\x1f\x8b\x08\x00 and more", "gzip-compressed"),
        (b"PK\x03\x04 and more", "zip archive"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "ends within pcap's file header"),
        (b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 9, 9, 0, 0, 0, 1), "version 9.9"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "byte-order mark"),
    ],
)
def test_what_is_no_capture_is_said_to_be_none(make_capture, content, words):
    path = make_capture(content)
    with pytest.raises(CaptureError, match=words) as caught:
        inspect(path)
    assert str(path) in str(caught.value)


def test_a_header_alone_holds_no_packet(make_capture):
    for kind in ("pcap", "pcapng"):
        report = inspect(make_capture([], kind=kind))
        assert (report.packets, report.truncated, report.first_time) == (0, False, None)


def test_a_pcapng_packet_of_an_unknown_interface_is_damage(make_capture, conversation):
    content = bytearray(make_capture(conversation, kind="pcapng").read_bytes())
    ends = boundaries(bytes(content), "pcapng")
    struct.pack_into("<I", content, ends[1] + 8, 7)
    report = inspect(make_capture(bytes(content)))
    assert report.truncated
    assert "interface 7" in report.damage


def test_folders_pipes_and_missing_files_are_refused_without_waiting(tmp_path):
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(CaptureError, match="is not a file"):
            inspect(path)
    with pytest.raises(CaptureError, match="no such file"):
        inspect(tmp_path / "none.pcap")


def test_the_walk_reports_how_far_it_is(make_capture, conversation):
    told: list[float] = []
    path = make_capture(conversation)
    with path.open("rb", buffering=0) as file:
        walk(file, path, progress=lambda stage, done, total, **_: told.append(done / total))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


@pytest.mark.real
def test_every_real_capture_is_walked_as_dpkt_reads_it(shared_data: Path):
    import dpkt

    captures = sorted((shared_data / "captures").glob("benign/*"))[::10]
    assert captures
    for path in captures:
        with path.open("rb") as file:
            reader = dpkt.pcap.UniversalReader(file)
            count = sum(1 for _ in reader)
        report = inspect(path)
        assert (report.packets, report.truncated) == (count, False), path.name
