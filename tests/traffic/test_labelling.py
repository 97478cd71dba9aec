"""Labels on captures: what is matched, what isn't and why, and label files that belong somewhere else."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from robustidps import cli
from robustidps.errors import CaptureError, ConfigError, DatasetError, InputError, TruncatedCaptureError
from robustidps.traffic.flow64 import CLASSES
from robustidps.traffic.labelling import LabelOptions, labelled_capture, labelled_captures
from robustidps.traffic.simulator import SimulatorSettings, simulate, simulated_traffic
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

START = 1_767_600_000.0  # 2026-01-05 08:00 UTC, when `conversation` begins
HEADER = "src_ip,src_port,dst_ip,dst_port,protocol,start,end,label"
SCAN = CLASSES.index("Recon-PortScan")


@pytest.fixture
def capture(make_capture, conversation) -> Path:
    """Three UDP flows of 10.0.0.1 with .2, .3 and .4, three seconds apart."""
    return make_capture(conversation)


@pytest.fixture
def file(tmp_path: Path):
    def write(*lines: str, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def row(to: int, begin: float = 0.0, end: float = 1.0, label: str = "Benign", port: int | str | None = None) -> str:
    """A label of the flow of `conversation` with host `to`, times after START."""
    port = 4998 + to if port is None else port
    return f"10.0.0.1,{port},10.0.0.{to},53,udp,{START + begin},{START + end},{label}"


FULL = (row(2), row(3, 3, 4, "PortScan"), row(4, 6, 7, "DoS Hulk"))


def iso(after: float, hours: float = 0.0) -> str:
    return datetime.fromtimestamp(START + after + hours * 3600, UTC).replace(tzinfo=None).isoformat(sep=" ")


# --- by flow


def test_flows_get_the_labels_of_their_rows_and_the_rest_is_counted(capture, file):
    traffic, report = labelled_capture(capture, file(HEADER, *FULL))
    assert traffic.labels.tolist() == [0, SCAN, UNLABELLED]
    assert traffic.tool.tolist() == ["Benign", "PortScan", "DoS Hulk"]
    assert traffic.campaign.tolist() == ["Benign 2026-01-05T08:00", "PortScan 2026-01-05", ""]
    assert set(traffic.source) == {"made.pcap"}
    assert (report.labelled, report.flows, report.unused, report.labels) == (2, 3, 0, 3)
    assert report.unlabelled == {"no class for 'DoS Hulk'": 1}
    assert report.classes == {"Benign": 1, "Recon-PortScan": 1}


def test_campaigns_and_tools_of_the_file_come_before_ours(capture, file):
    path = file(HEADER + ",campaign,tool", *(f"{r},run-{i},nmap" for i, r in enumerate(FULL)))
    traffic, _ = labelled_capture(capture, path)
    assert traffic.campaign.tolist() == ["run-0", "run-1", "run-2"]
    assert set(traffic.tool) == {"nmap"}


@pytest.mark.parametrize(("unmatched", "expected"), [("unlabelled", UNLABELLED), ("benign", 0)])
def test_a_schedule_labels_its_attack_and_the_rest_as_asked(capture, file, unmatched, expected):
    path = file("attacker,victim,start,end,label", f"10.0.0.1,10.0.0.3,{iso(-60)},{iso(60)},PortScan")
    traffic, report = labelled_capture(capture, path, options=LabelOptions(unmatched=unmatched))
    assert traffic.labels.tolist() == [expected, SCAN, expected]
    assert report.unlabelled == ({} if expected == 0 else {"no label speaks of it": 2})
    if expected == 0:
        assert traffic.campaign.tolist()[0] == "unmatched 2026-01-05T08:00"


def test_the_report_is_in_the_provenance_and_survives_the_file(capture, file, tmp_path):
    traffic, report = labelled_capture(capture, file(HEADER, *FULL))
    again = TrafficSet.read(traffic.write(tmp_path / "flows.parquet"))
    assert again.provenance["labels"] == json.loads(json.dumps(report.to_dict()))
    assert again.provenance["labels"]["unlabelled"] == {"no class for 'DoS Hulk'": 1}
    assert len(again.provenance["captures"]["made.pcap"]["sha256"]) == 64
    assert not any("10.0.0" in str(v) for v in (*again.campaign, *again.tool, again.provenance))


def test_what_the_simulator_knows_comes_back_through_a_label_file(tmp_path):
    settings = SimulatorSettings(days=1, packets_per_day=4000)
    simulation, expected = simulate(settings, tmp_path), simulated_traffic(settings, tmp_path)
    truth = simulation.truth(0)
    names = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "start", "end", "label", "campaign", "tool")
    columns = [getattr(truth, name).tolist() for name in names]
    order = np.random.default_rng(3).permutation(len(truth))
    lines = [",".join(repr(v) if isinstance(v, float) else str(v) for v in r) for r in zip(*columns, strict=True)]
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([",".join(names), *(lines[i] for i in order)]) + "\n")
    traffic, report = labelled_capture(simulation.captures[0], path, options=LabelOptions(tolerance_s=0.01))
    assert traffic.labels.tolist() == expected.labels.tolist()
    assert traffic.campaign.tolist() == expected.campaign.tolist()
    assert report.labelled == int(expected.labelled.sum()) > 100


def test_a_word_that_nearly_is_a_class_is_pointed_out(capture, file):
    _, report = labelled_capture(capture, file(HEADER, row(2), row(3, 3, 4, "Portscn"), row(4, 6, 7)))
    assert report.notes == ("'Portscn' has no class; perhaps Recon-PortScan? (--label-words FILE)",)


def test_a_mapping_file_gives_a_word_its_class(capture, file, tmp_path):
    words = tmp_path / "words.yaml"
    words.write_text("DDoS-TCP_Flood: [DoS Hulk]\n")
    traffic, report = labelled_capture(capture, file(HEADER, *FULL), options=LabelOptions(words=words))
    assert traffic.labels[2] == CLASSES.index("DDoS-TCP_Flood") and not report.unlabelled


# --- labels that don't fit


@pytest.mark.parametrize("hours", [3, -3, 5.5, -9.5, 12, 1])
def test_labels_in_another_zone_are_noticed_and_the_zone_is_named(capture, file, hours):
    local = [(2, 0, 1, "Benign"), (3, 3, 4, "PortScan"), (4, 6, 7, "PortScan")]
    lines = [f"10.0.0.1,10.0.0.{to},{iso(b, hours)},{iso(e, hours)},{label}" for to, b, e, label in local]
    path = file("src_ip,dst_ip,start,end,label", *lines)
    with pytest.raises(DatasetError, match=re.escape(f"shifted by {-hours:+g} h, its labels hold 3 flows")) as caught:
        labelled_capture(capture, path)
    zone = caught.value.remedy.partition("--labels-timezone=")[2]
    assert zone
    traffic, report = labelled_capture(capture, path, options=LabelOptions(timezone=zone))
    assert traffic.labels.tolist() == [0, SCAN, SCAN] and report.unused == 0


def test_a_clock_that_was_wrong_is_noticed_and_the_shift_is_named(capture, file):
    late = [row(2, 7200, 7201), row(3, 7203, 7204, "PortScan"), row(4, 7206, 7207, "PortScan")]
    with pytest.raises(DatasetError, match=r"shifted by -2 h") as caught:
        labelled_capture(capture, file(HEADER, *late))
    assert caught.value.remedy.endswith("--labels-shift=-2")
    traffic, _ = labelled_capture(capture, file(HEADER, *late), options=LabelOptions(shift_s=-7200))
    assert traffic.labels.tolist() == [0, SCAN, SCAN]


def test_a_schedule_in_another_zone_is_noticed(capture, file):
    path = file("attacker,victim,start,end,label", f"10.0.0.1,*,{iso(-1200, 3)},{iso(1200, 3)},PortScan")
    with pytest.raises(DatasetError, match=r"shifted by -3 h.*hold 3 flows"):
        labelled_capture(capture, path, options=LabelOptions(unmatched="benign"))


def test_a_label_file_for_another_capture_says_which_of_both_does_not_fit(capture, file):
    elsewhere = [r.replace("10.0.0.", "192.168.7.") for r in FULL]
    with pytest.raises(DatasetError, match=r"another capture: none of its 4 addresses \(192\.168\.7\.1"):
        labelled_capture(capture, file(HEADER, *elsewhere))
    week = 7 * 86_400
    later = [row(2, week, week + 1), row(3, week, week + 1), row(4, week, week + 1)]
    with pytest.raises(
        DatasetError, match=r"another time: labels run from 2026-01-12T08:00:00Z .* flows from 2026-01-05"
    ):
        labelled_capture(capture, file(HEADER, *later))


def test_too_many_labels_without_a_flow_are_an_error_with_their_rows(capture, file):
    lost = [row(3, 3, 4, port=p) for p in range(2000, 2006)]
    path = file(HEADER, row(2), *lost, row(4, 6, 7))
    with pytest.raises(DatasetError, match=r"6 of 8 labels .* share of 0.5 \(rows 2, 3, 4, 5, 6, \.\.\.\)"):
        labelled_capture(capture, path)
    traffic, report = labelled_capture(capture, path, options=LabelOptions(max_unmatched=0.8))
    assert traffic.labels.tolist() == [0, UNLABELLED, 0]
    assert (report.unused, report.labels) == (6, 8)


def test_labels_of_a_longer_time_than_the_capture_are_counted_apart(capture, file):
    day = [row(2, 3600 * h, 3600 * h + 1) for h in range(2, 12)]
    _, report = labelled_capture(capture, file(HEADER, *FULL, *day))
    assert (report.elsewhere, report.unused) == (10, 0)


def test_labels_that_disagree_are_counted_and_above_the_threshold_an_error(capture, file):
    once = file(HEADER, *FULL, row(2, label="PortScan"))
    traffic, report = labelled_capture(capture, once)
    assert traffic.labels.tolist() == [UNLABELLED, SCAN, UNLABELLED]
    assert report.unlabelled["labels that disagree"] == 1
    twice = file(HEADER, *FULL, row(2, label="PortScan"), row(3, 3, 4, "Benign"))
    with pytest.raises(DatasetError, match=r"2 of 3 flows .* disagree.* rows 1, 4\)"):
        labelled_capture(capture, twice)


def test_a_label_that_meets_two_flows_is_counted(make_capture, packet, file):
    times = (0, 1, 200, 201)  # silence of more than 120 s ends a flow
    capture = make_capture([(START + t, packet(1, 2, 5000, 53)) for t in times])
    _, report = labelled_capture(capture, file(HEADER, row(2, 0, 300)))
    assert (report.flows, report.several) == (2, 1)


def test_labels_of_which_none_has_a_class_are_an_error(capture, file):
    path = file(HEADER, row(2, label="DoS-Other"), row(3, 3, 4, "Heartbleed"))
    with pytest.raises(DatasetError, match=r"none of 3 flows got a label .*'DoS-Other': 1.*'Heartbleed': 1") as caught:
        labelled_capture(capture, path)
    assert "--label-words" in caught.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [{"max_unmatched": 1.5}, {"max_unmatched": float("nan")}, {"shift_s": float("inf")}, {"tolerance_s": -1.0}],
    ids=str,
)
def test_an_option_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError):
        LabelOptions(**wrong)


# --- by capture


@pytest.fixture
def folder(tmp_path, conversation, pcap_content, packet) -> Path:
    """Two captures, one cut off, one without IP, one that is none."""
    home = tmp_path / "captures"
    whole = pcap_content(conversation)
    contents = {
        "benign/web.pcap": whole,
        "attack/scan.pcap": pcap_content([(START, packet(1, 2, 5000, 80, protocol=6, payload=0))]),
        "benign/cut.pcap": whole[:-30],
        "benign/arp.pcap": pcap_content(conversation[:1]),
        "hostile/x.pcapng": b"\x0a\x0d\x0d\x0a" + b"\xff" * 60,
    }
    for name, content in contents.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)
    return home


WHOLE = ("benign/web.pcap,Benign", "attack/scan.pcap,PortScan", "benign/cut.pcap,Benign", "hostile/x.pcapng,")


def test_a_folder_of_labelled_captures_becomes_one_traffic_set(folder, file):
    labels = file("capture,label", *WHOLE, "benign/arp.pcap,Benign")
    traffic, report = labelled_captures(folder, labels, options=LabelOptions(max_unmatched=0.6))
    assert traffic.labels.tolist() == [SCAN, 0, 0, 0]
    assert traffic.campaign.tolist() == ["attack/scan.pcap"] + ["benign/web.pcap"] * 3
    assert traffic.source.tolist() == traffic.campaign.tolist()
    assert traffic.tool.tolist() == ["scan"] + ["web"] * 3
    assert (report.captures, report.empty, report.unused) == (5, 1, 3)
    assert set(report.failed) == {"benign/cut.pcap", "hostile/x.pcapng"}
    assert "after 12 whole packets" in report.failed["benign/cut.pcap"]


def test_a_cut_capture_of_a_folder_gives_its_whole_part_when_asked_to(folder, file):
    traffic, report = labelled_captures(folder, file("capture,label", *WHOLE), truncated="use")
    assert report.classes == {"Benign": 6, "Recon-PortScan": 1}
    assert "truncated" in traffic.provenance["captures"]["benign/cut.pcap"]


def test_captures_that_no_row_names_are_unlabelled_or_benign(folder, file):
    labels = file("capture,label", "attack/scan.pcap,PortScan")
    traffic, report = labelled_captures(folder, labels)
    assert traffic.labels.tolist() == [SCAN] + [UNLABELLED] * 3
    assert report.unlabelled == {"no label speaks of it": 3}
    traffic, _ = labelled_captures(folder, labels, options=LabelOptions(unmatched="benign"))
    assert traffic.labels.tolist() == [SCAN, 0, 0, 0]


def test_labels_of_flows_reach_all_captures_of_a_folder(folder, file):
    traffic, report = labelled_captures(
        folder, file("src_ip,dst_ip,protocol,start,end,label", f"10.0.0.1,10.0.0.2,tcp,{START},{START},PortScan",
                     f"10.0.0.1,*,udp,{START},{START + 10},Benign"),
    )  # fmt: skip
    assert traffic.labels.tolist() == [SCAN, 0, 0, 0]
    assert report.kind == "flows" and report.unused == 0


def test_a_label_file_of_another_folder_is_refused(folder, file):
    with pytest.raises(DatasetError, match=r"labels 2 \(a.pcap, b.pcap\), none of the 5 under"):
        labelled_captures(folder, file("capture,label", "a.pcap,Benign", "b.pcap,Benign"))
    missing = [f"gone-{i}.pcap,Benign" for i in range(5)]
    with pytest.raises(DatasetError, match=r"5 of its 7 captures .*row 3: gone-0.pcap"):
        labelled_captures(folder, file("capture,label", *WHOLE[:2], *missing))


def test_one_capture_is_found_in_a_folders_label_file(folder, file):
    labels = file("capture,label", *WHOLE)
    traffic, report = labelled_capture(folder / "attack/scan.pcap", labels)
    assert traffic.labels.tolist() == [SCAN] and traffic.campaign.tolist() == ["attack/scan.pcap"]
    assert (report.labels, report.elsewhere, report.unused) == (4, 3, 0)
    with pytest.raises(DatasetError, match="for other captures"):
        labelled_capture(folder / "benign/arp.pcap", labels)


def test_a_name_that_two_rows_could_mean_is_refused_and_the_nearer_path_is_taken(capture, file, tmp_path):
    with pytest.raises(DatasetError, match=r"rows 1, 2 could mean made.pcap"):
        labelled_capture(capture, file("capture,label", "a/made.pcap,Benign", "b/made.pcap,PortScan"))
    near = file("capture,label", "a/made.pcap,Benign", f"{tmp_path.name}/made.pcap,PortScan")
    assert labelled_capture(capture, near)[0].labels.tolist() == [SCAN] * 3


def test_one_class_for_a_whole_capture(capture):
    traffic, report = labelled_capture(capture, label="portscan")
    assert traffic.labels.tolist() == [SCAN] * 3
    assert (set(traffic.campaign), set(traffic.tool)) == ({"made.pcap"}, {"made"})
    assert report.file == "--label"
    with pytest.raises(ConfigError, match="'Teleport' is no class"):
        labelled_capture(capture, label="Teleport")


def test_captures_that_give_nothing_are_an_error(folder, file, make_capture, conversation, tmp_path):
    labels = file("capture,label", "benign/arp.pcap,Benign", "made.pcap,Benign")
    with pytest.raises(CaptureError, match="no IP flow"):
        labelled_capture(folder / "benign/arp.pcap", labels)
    with pytest.raises(TruncatedCaptureError):
        labelled_capture(folder / "benign/cut.pcap", label="Benign")
    for name in ("benign/web.pcap", "attack/scan.pcap"):
        (folder / name).unlink()
    with pytest.raises(CaptureError, match=r"no IP flow in any of 3 captures \(2 can't be read\)"):
        labelled_captures(folder, labels)
    (tmp_path / "none").mkdir()
    for where, words in (("none", "holds no capture"), ("nowhere", "no such folder"), ("labels.csv", "is no folder")):
        with pytest.raises(CaptureError, match=words):
            labelled_captures(tmp_path / where, labels)


def test_names_with_terminal_markup_are_harmless_wherever_they_end_up(folder, file):
    (folder / "benign/web.pcap").rename(folder / "benign/\x1b[31mred.pcap")
    traffic, report = labelled_captures(folder, file("capture,label", "benign/\x1b[31mred.pcap,Benign"))
    assert report.labelled == 3
    assert "\x1b" not in "".join([*traffic.campaign, *traffic.source, *traffic.tool, str(report)])


# --- the command


def ingest(*words: object):
    return CliRunner().invoke(cli.app, ["ingest", *map(str, words)])


def test_the_command_writes_labelled_flows_and_says_what_became_of_them(folder, file):
    labels = file("capture,label", *WHOLE)
    shown = ingest(folder, "--labels", labels, "--json")
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert (facts["labels"]["labelled"], facts["labels"]["unused"]) == (4, 2)
    traffic = TrafficSet.read(folder.with_suffix(".parquet"))
    assert facts["digest"] == traffic.digest and traffic.labels.tolist() == [SCAN, 0, 0, 0]


def test_a_label_file_that_does_not_fit_ends_in_exit_code_3_and_leaves_what_was_there(capture, file, tmp_path):
    path = file(HEADER, *(r.replace("10.0.0.", "192.168.7.") for r in FULL))
    shown = ingest(capture, "--labels", path)
    assert isinstance(shown.exception, InputError) and shown.exception.exit_code == 3
    assert {p.name for p in tmp_path.iterdir()} == {"made.pcap", "labels.csv"}
    earlier = capture.with_suffix(".parquet")
    earlier.write_bytes(b"earlier")
    assert isinstance(ingest(capture, "--labels", path).exception, InputError)
    assert earlier.read_bytes() == b"earlier"


@pytest.mark.real
def test_the_published_schedule_of_cic_ids2017_labels_its_capture_once_its_zone_is_said(shared_data, file):
    capture = shared_data / "captures/attack/WebattackSQLinj.pcap"
    hosts = "172.16.0.1,192.168.10.50"
    schedule = file(
        "attacker,victim,start,end,label",
        f"{hosts},2017-07-06 09:20,2017-07-06 10:00,Web Attack – Brute Force",
        f"{hosts},2017-07-06 10:15,2017-07-06 10:35,Web Attack – XSS",
        f"{hosts},2017-07-06 10:40,2017-07-06 10:42,Web Attack – Sql Injection",
    )
    with pytest.raises(DatasetError, match=r"shifted by \+3 h, its labels hold 9 flows") as caught:
        labelled_capture(capture, schedule)
    assert caught.value.remedy.endswith("--labels-timezone=-03:00")
    _, report = labelled_capture(capture, schedule, options=LabelOptions(timezone="America/Halifax"))
    assert report.classes == {"WebAttack-SQLi": 9}
    assert (report.elsewhere, report.unused) == (2, 0)


@pytest.mark.real
def test_the_real_captures_are_labelled_and_hostile_ones_do_no_harm(shared_data):
    folder = shared_data / "captures"
    traffic, report = labelled_captures(folder, folder / "labels.csv", truncated="use")
    assert len({c for c, label in zip(traffic.campaign, traffic.labels, strict=True) if label == 0}) == 249
    assert report.classes["Benign"] == 2073
    assert {c.split("/")[0] for c in traffic.campaign[traffic.labels > 0]} == {"attack"}
    assert set(report.unlabelled) == {
        "its label is empty", "no class for 'DoS-Other'", "no class for 'WebAttack-Other'",
    }  # fmt: skip
    assert all(name.startswith("hostile/") for name in report.failed)
    assert np.isfinite(traffic.features).all()
    assert report.captures == report.labels == 263
