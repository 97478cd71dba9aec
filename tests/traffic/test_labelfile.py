"""Label files as people have them, and each way in which one can be wrong."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustidps.errors import ConfigError, DatasetError
from robustidps.traffic.flow64 import CLASSES
from robustidps.traffic.labelcells import Clock, address, time_zone
from robustidps.traffic.labelfile import CaptureLabels, FlowLabels, read_labels
from robustidps.traffic.labels import ANY
from robustidps.traffic.labelwords import label_words
from robustidps.traffic.trafficset import UNLABELLED

NINE_TWENTY = datetime(2017, 7, 7, 9, 20, tzinfo=UTC).timestamp()


@pytest.fixture
def file(tmp_path: Path):
    """Writes lines to a label file: `file("header", "row", ..., encoding=)`."""

    def write(*lines: str, encoding: str = "utf-8", name: str = "labels.csv", end: str = "\n") -> Path:
        path = tmp_path / name
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return path

    return write


def flows(path: Path, **options: object) -> FlowLabels:
    found = read_labels(path, **options)
    assert isinstance(found, FlowLabels)
    return found


# --- what is understood


@pytest.mark.parametrize(
    "header",
    [
        "src_ip,src_port,dst_ip,dst_port,protocol,start,duration,label",
        "Src IP,Src Port,Dst IP,Dst Port,Protocol,Timestamp,duration,Label",
        "Source IP,Source Port,Destination IP,Destination Port,Protocol,Timestamp,DURATION,Label",
        "id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,ts,duration,label",
        "saddr,sport,daddr,dport,proto,stime,dur,class",
    ],
)
def test_columns_are_found_under_the_names_that_tools_give_them(file, header):
    truth = flows(file(header, "10.0.0.1,1000,10.0.0.2,80,TCP,1499419200.5,2.5,PortScan")).truth
    assert (truth.src_ip[0], truth.src_port[0], truth.dst_ip[0], truth.dst_port[0]) == (
        "10.0.0.1",
        1000,
        "10.0.0.2",
        80,
    )
    assert (truth.protocol[0], truth.start[0], truth.end[0], truth.label[0]) == (
        6,
        1499419200.5,
        1499419203.0,
        "PortScan",
    )
    assert truth.exact.all()


def test_a_schedule_of_attacks_is_written_as_it_is_published(file):
    path = file(
        "attacker,victim,start,end,label",
        "172.16.0.1,192.168.10.50,2017-07-07 13:55,2017-07-07 14:35,PortScan",
        "any,192.168.10.50,2017-07-07 15:56,2017-07-07 16:16,DDoS",
    )
    found = flows(path, zone=time_zone("America/Halifax"))
    assert found.truth.start[0] == datetime(2017, 7, 7, 16, 55, tzinfo=UTC).timestamp()
    assert found.truth.src_ip.tolist() == ["172.16.0.1", ""]
    assert set(found.truth.src_port) == set(found.truth.protocol) == {ANY}
    assert not found.truth.exact.any()
    assert str(found.zone) == "America/Halifax"


@pytest.mark.parametrize(
    "text",
    ["1499419200", "1499419200000", "1499419200000000", "1.4994192e9", "2017-07-07T09:20:00Z", "2017-07-07 09:20",
     "2017-07-07T06:20:00-03:00", "2017-07-07 09:20:00.000"],
)  # fmt: skip
def test_one_moment_is_read_in_every_form(text):
    assert Clock()(text) == NINE_TWENTY


@pytest.mark.parametrize("zone", ["-03:00", "-3", "UTC-03:00", "-0300", "America/Halifax"])
def test_a_time_without_a_zone_is_read_in_the_one_that_is_given(zone):
    clock = Clock(time_zone(zone))
    assert clock("2017-07-07 06:20") == NINE_TWENTY and clock.zoneless


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-14, 14))
def test_any_time_is_the_same_with_its_zone_written_or_given(moment, hours):
    sign = "-" if hours < 0 else "+"
    zone = f"{sign}{abs(hours):02d}:00"
    assert Clock()(moment.isoformat() + zone) == Clock(time_zone(zone))(moment.isoformat(sep=" "))


def test_addresses_are_written_as_nfstream_writes_them():
    assert address("2001:DB8:0:0:0:0:0:1") == "2001:db8::1"
    assert address("::FFFF:10.0.0.1") == "::ffff:10.0.0.1"
    assert address("*") == address("any") == ""


def test_durations_of_cicflowmeter_are_microseconds_and_an_end_comes_before_any(file):
    row = "10.0.0.1,10.0.0.2,100,2000000,Bot"
    assert flows(file("Src IP,Dst IP,Timestamp,Flow Duration,Label", row)).truth.end[0] == 102
    both = flows(file("Src IP,Dst IP,Timestamp,end,Flow Duration,Label", "10.0.0.1,10.0.0.2,100,101,2000000,Bot"))
    assert both.truth.end[0] == 101 and both.ignored == ("Flow Duration",)


def test_ports_of_protocols_without_ports_are_left_open(file):
    path = file("id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,ts,label", "10.0.0.1,8,10.0.0.2,0,icmp,100,x")
    truth = flows(path).truth
    assert (truth.src_port[0], truth.dst_port[0], truth.protocol[0]) == (ANY, ANY, 1)


def test_what_excel_and_others_write_is_read(file, tmp_path):
    plain = flows(file("src_ip,dst_ip,start,label", "10.0.0.1,10.0.0.2,100,Bot")).truth
    for lines, options in [
        (("\ufeffsrc_ip;dst_ip;start;label", "10.0.0.1;10.0.0.2;100;Bot"), {"end": "\r\n"}),
        (("src_ip\tdst_ip\tstart\tlabel\tnote", "10.0.0.1\t10.0.0.2\t100\tBot\tx"), {}),
        (("", "src_ip, dst_ip, start, label", "", '10.0.0.1,10.0.0.2, 100 ,"Bot"', ""), {}),
    ]:
        assert flows(file(*lines, **options)).truth.start.tolist() == plain.start.tolist()
    packed = tmp_path / "labels.csv.gz"
    packed.write_bytes(gzip.compress(file("src_ip,dst_ip,start,label", "10.0.0.1,10.0.0.2,100,Bot").read_bytes()))
    assert flows(packed).truth.label.tolist() == ["Bot"]


def test_labels_of_whole_captures_are_read_and_other_columns_listed(file):
    found = read_labels(
        file("capture,label,note", "benign/a.pcap,Benign,web", r".\attack\b.pcap,,", "c.pcap,DoS-Other,")
    )
    assert isinstance(found, CaptureLabels)
    assert found.label == {"benign/a.pcap": "Benign", "attack/b.pcap": "", "c.pcap": "DoS-Other"}
    assert found.ignored == ("note",)


# --- what isn't

HEADER = "src_ip,src_port,dst_ip,dst_port,protocol,start,end,label"
GOOD = "10.0.0.1,1000,10.0.0.2,80,tcp,100,200,PortScan"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (GOOD.replace("10.0.0.2", "10.0.0.256"), "row 2, dst_ip: '10.0.0.256' is no address"),
        (GOOD.replace("10.0.0.2", "example.org"), "row 2, dst_ip: 'example.org' is no address"),
        (GOOD.replace("10.0.0.2", ""), "row 2, dst_ip: an empty cell is no address"),
        (GOOD.replace("1000", "70000"), "row 2, src_port: '70000' is no port"),
        (GOOD.replace("1000", "-1"), "row 2, src_port: '-1' is no port"),
        (GOOD.replace("1000", "9" * 5000), "row 2, src_port: '9"),
        (GOOD.replace("tcp", "tpc"), "row 2, protocol: 'tpc' is no protocol that is known"),
        (GOOD.replace("tcp", "256"), "row 2, protocol: '256' is no protocol"),
        (GOOD.replace(",100,", ",yesterday,"), "row 2, start: 'yesterday' is no unix or ISO 8601 time"),
        (GOOD.replace(",100,", ",7/7/2017 9:20,"), "row 2, start: '7/7/2017 9:20' is no"),
        (GOOD.replace(",100,", ",nan,"), "row 2, start: 'nan' is no"),
        (GOOD.replace(",100,", ",1e300,"), "row 2, start: '1e300' is no time"),
        (GOOD.replace(",100,", ",-5,"), "row 2, start: '-5' is no time"),
        (GOOD.replace(",100,", ",2017-07-07,"), "row 2, start: '2017-07-07' is no"),
        (
            GOOD.replace(",100,", ",2017-07-07 09:20,"),
            "row 2, start: .* is ISO 8601, the rows before have a number of s",
        ),
        (GOOD.replace(",100,", ",1499419200000,"), "row 2, start: .* is a number of ms, the rows before"),
        (GOOD.replace(",200,", ",50,"), "row 2 ends before it starts"),
        (GOOD + ",more", "row 2 has 9 fields, expected 8"),
        ("10.0.0.1,1000", "row 2 has 2 fields, expected 8"),
        (GOOD.replace("PortScan", '"PortScan'), "row 2 isn't readable as CSV"),
    ],
    ids=lambda value: value[:40],
)
def test_a_row_that_does_not_fit_is_named(file, row, words):
    with pytest.raises(DatasetError, match=words) as caught:
        read_labels(file(HEADER, GOOD, row, GOOD))
    assert "labels.csv" in str(caught.value.where)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("src_ip,dst_ip,start", "1.1.1.1,2.2.2.2,1"), "has no column for label; its columns are 'src_ip'"),
        (("a,b", "1,2"), "no column for src_ip, dst_ip, start, label"),
        (("src_ip,Source IP,dst_ip,start,label", "1,1,2,3,x"), "columns 'src_ip' and 'Source IP' both give the src_ip"),
        (("src_ip,dst_ip,start,label,label", "1,2,3,x,y"), "columns 'label' and 'label' both give the label"),
        (("capture,label,src_ip", "a.pcap,x,1.1.1.1"), r"a column for the capture and others for its flows \(src_ip\)"),
        (("capture,note", "a.pcap,x"), "no column for label"),
        (("capture,label", "a.pcap,x", "./a.pcap,y"), r"row 2 names a.pcap again \(row 1 did\)"),
        (("capture,label", ",x"), "row 1 names no capture"),
        (("src_ip,dst_ip,start,label",), "has no row"),
        (("src_ip,dst_ip,start,duration,label", "1.1.1.1,2.2.2.2,1,-4,x"), "row 1, duration: '-4' is no duration"),
        (("src_ip,dst_ip,start,label\0", "1.1.1.1,2.2.2.2,1,x"), "no text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_does_not_fit_says_why(file, lines, words):
    with pytest.raises(DatasetError, match=words):
        read_labels(file(*lines))


def test_text_in_another_encoding_is_an_error_that_names_the_row(file):
    lines = (HEADER, GOOD, GOOD.replace("PortScan", "Web Attack – XSS"))
    assert flows(file(*lines)).truth.label[1] == "Web Attack – XSS"
    with pytest.raises(DatasetError, match=r"row 2 is no UTF-8 text \(byte 0x96\)") as caught:
        read_labels(file(*lines, encoding="cp1252"))
    assert "iconv -f cp1252" in caught.value.remedy
    with pytest.raises(DatasetError, match="UTF-16"):
        read_labels(file(*lines, encoding="utf-16"))


def test_files_that_are_no_label_file_at_all_are_refused(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    endless = tmp_path / "endless.csv"
    endless.write_bytes(b"a" * 3_000_000)
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(GOOD.encode() * 1000)[:40])
    for path, words in [
        (tmp_path / "none.csv", "no such file"), (tmp_path, "is not a file"), (empty, "is empty"),
        (endless, "longer than"), (broken, "compression is broken"),
    ]:  # fmt: skip
        with pytest.raises(DatasetError, match=words):
            read_labels(path)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "+25:00", "../../etc/passwd", "\x1b[2J"])
def test_a_time_zone_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="is no time zone") as caught:
        time_zone(name)
    assert "\x1b" not in str(caught.value)


def test_a_local_time_that_occurs_twice_or_never_is_refused(file):
    clock = Clock(time_zone("America/Halifax"))
    for text in ("2017-11-05 01:30", "2017-03-12 02:30"):
        with pytest.raises(ValueError, match="clocks were changed"):
            clock(text)
    assert Clock(time_zone("America/Halifax"))("2017-11-05T01:30:00-04:00") > 0


# --- words


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("BENIGN", "Benign"), ("PortScan", "Recon-PortScan"), ("port scan", "Recon-PortScan"),
        ("SSH-Patator", "BruteForce-SSH"), ("ftp-patator", "BruteForce-FTP"), ("Bot", "Malware-Backdoor"),
        ("Web Attack – XSS", "WebAttack-XSS"), ("Web Attack \ufffd Sql Injection", "WebAttack-SQLi"),
        ("Recon-portscan", "Recon-PortScan"), ("DDoS-SYN_Flood", "DDoS-TCP_Flood"),
    ],
)  # fmt: skip
def test_words_of_published_sets_mean_their_class(word, name):
    assert label_words().code(word) == CLASSES.index(name)


@pytest.mark.parametrize("word", ["WebAttack-Other", "DoS-Other", "DoS Hulk", "DDoS", "Background", "", "—"])
def test_a_word_that_no_class_claims_has_none(word):
    assert label_words().code(word) == UNLABELLED


def test_every_class_is_called_by_its_own_name():
    words = label_words()
    assert [words.code(name) for name in CLASSES] == list(range(len(CLASSES)))


def test_a_slip_of_the_pen_is_told_apart_from_a_class_we_lack():
    assert label_words().near("Portscn") == "Recon-PortScan"
    assert label_words().near("Heartbleed") is None


def test_a_mapping_file_adds_words_and_overrules_ours(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("DDoS-TCP_Flood: [DDoS]\nMalware-Backdoor: [PortScan]\n")
    words = label_words(path)
    assert words.code("ddos") == CLASSES.index("DDoS-TCP_Flood")
    assert words.code("portscan") == CLASSES.index("Malware-Backdoor")
    assert words.code("Bot") == CLASSES.index("Malware-Backdoor")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Recon-Portscan: [x]", "'Recon-Portscan' is no class"),
        ("Benign: [x]\nRecon-PortScan: [X]", "'X' stands for Benign and for Recon-PortScan"),
        ("Benign: ['--']", "neither letter nor digit"),
        ("Benign: 3", "Benign"),
        ("[1, 2]", "must be a mapping"),
    ],
)
def test_a_mapping_file_that_does_not_fit_says_why(tmp_path, text, words):
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        label_words(path)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_a_dataset_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(b"capture,label\n" + content)
    try:
        found = read_labels(path)
    except DatasetError as error:
        assert error.problem
    else:
        assert all(isinstance(name, str) and name for name in found.label)


def test_times_of_a_large_file_are_kept_to_the_microsecond(file):
    times = np.array([1499419200.123456, 1499419200.123457])
    rows = [f"10.0.0.1,10.0.0.2,{t:.6f},x" for t in times]
    assert flows(file("src_ip,dst_ip,start,label", *rows)).truth.start.tolist() == times.tolist()
