"""From a capture to flows: the sandbox, the limits, damaged files, and every real capture there is."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from robustidps.errors import CaptureError, ConfigError, MissingExtraError, TruncatedCaptureError
from robustidps.traffic import _nfstream_worker as worker
from robustidps.traffic import capture
from robustidps.traffic.capture import FlowTable, Limits, extract, extract_many, ingest, inspect
from robustidps.traffic.flow64 import FLOW64, STATISTICS

FLOOD = 20_000


@pytest.fixture(scope="session")
def flood(tmp_path_factory, packet, pcap_content) -> Path:
    """As many flows as packets: datagrams from ever new ports, long enough to be ended while it is read."""
    path = tmp_path_factory.mktemp("flood") / "flood.pcap"
    path.write_bytes(
        pcap_content((1.7e9 + i / 1000, packet(1 + i // 60_000, 2, 1024 + i % 60_000, 53)) for i in range(FLOOD))
    )
    return path


def value(flows: FlowTable, name: str) -> np.ndarray:
    return flows.features[:, FLOW64.feature_names.index(name)]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_packets_become_flows_with_ends_times_and_statistics(make_capture, conversation, kind):
    flows = extract(make_capture(conversation, kind=kind))
    assert flows.src_ip.tolist() == ["10.0.0.1"] * 3
    assert flows.dst_ip.tolist() == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert flows.src_port.tolist() == [5000, 5001, 5002]
    assert flows.dst_port.tolist() == [53] * 3
    assert flows.protocol.tolist() == [17] * 3
    assert flows.first_seen == pytest.approx(conversation[0][0] + np.array([0, 3, 6]))
    assert value(flows, "bidirectional_packets").tolist() == [4] * 3
    assert value(flows, "bidirectional_duration_ms").tolist() == [750] * 3
    report = flows.report
    assert (report.flows, report.packets, report.packets_in_flows, report.packets_without_ip) == (3, 13, 12, 1)


def test_sizes_are_those_of_ip_packets_without_link_layer_or_padding(make_capture, packet):
    padded = packet(1, 2, 5000, 80, protocol=6, payload=0, padding=6)
    bare = packet(1, 3, 5000, 80, protocol=6, payload=0)
    flows = extract(make_capture([(1.7e9, padded), (1.7e9 + 1, bare)]))
    assert value(flows, "bidirectional_bytes").tolist() == [40, 40]
    assert value(flows, "bidirectional_max_ps").tolist() == [40, 40]


def test_packets_cut_to_their_headers_count_at_their_full_size(make_capture, packet):
    long = packet(1, 2, 5000, 80, protocol=6, payload=1000)
    flows = extract(make_capture([(1.7e9, long)], snaplen=54))
    assert value(flows, "bidirectional_bytes").tolist() == [1040]


def test_extracting_twice_gives_the_same_rows_in_the_same_order(make_capture, conversation):
    path = make_capture(conversation)
    one, two = extract(path), extract(path)
    assert (one.features == two.features).all()
    assert one.src_port.tolist() == two.src_port.tolist()


def test_ingest_gives_unlabelled_traffic_that_names_its_capture(make_capture, conversation):
    traffic = ingest(make_capture(conversation))
    assert len(traffic) == 3
    assert not traffic.labelled.any()
    assert set(traffic.source) == {"made.pcap"}
    assert traffic.has_time
    assert traffic.provenance["capture"]["sha256"] == inspect(Path(traffic.provenance["capture"]["path"])).sha256
    assert not any("10.0.0" in str(v) for v in (*traffic.campaign, *traffic.tool, traffic.provenance))


def test_columns_and_records_of_the_two_processes_agree():
    assert worker.COLUMNS == STATISTICS
    assert worker.RECORD.size == capture._RECORD.itemsize


# --- files that aren't what they should be


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_truncated_capture_is_refused_and_its_whole_part_used_when_asked_for(make_capture, conversation, kind):
    whole = make_capture(conversation, kind=kind).read_bytes()
    path = make_capture(whole[:-30])
    with pytest.raises(TruncatedCaptureError, match=r"after 12 whole packets.*--truncated use"):
        extract(path)
    flows = extract(path, truncated="use")
    assert flows.report.truncated
    assert flows.report.packets == 12
    assert value(flows, "bidirectional_packets").tolist() == [4, 4, 3]


def test_a_capture_without_ip_is_an_empty_table_and_no_traffic(make_capture, conversation):
    path = make_capture([(t, p) for t, p in conversation if p[12:14] == b"\x08\x06"])
    assert len(extract(path)) == 0
    with pytest.raises(CaptureError, match="holds 1 packets, and no IP flow"):
        ingest(path)
    with pytest.raises(CaptureError, match="holds no packet"):
        ingest(make_capture([]))


def test_a_name_with_terminal_markup_is_shown_without_it(make_capture):
    with pytest.raises(CaptureError) as caught:
        ingest(make_capture(b"", "\x1b[31mred.pcap"))
    assert "\x1b" not in str(caught.value)


def test_two_link_types_in_one_file_are_an_error_and_no_endless_loop(make_capture, conversation):
    import struct

    content = make_capture(conversation, kind="pcapng").read_bytes()
    raw_ip = struct.pack("<IIHHII", 1, 20, 101, 0, 65535, 20)
    started = time.monotonic()
    with pytest.raises(CaptureError, match="link types"):
        extract(make_capture(content + raw_ip + content[48:]), limits=Limits(seconds=20))
    assert time.monotonic() - started < 10


# --- limits


def children() -> list[psutil.Process]:
    """Workers of ours that run; one that has ended may still be waited for."""

    def runs(process: psutil.Process) -> bool:
        try:
            return worker.__file__ in process.cmdline()
        except (psutil.ZombieProcess, psutil.NoSuchProcess):
            return False

    return [p for p in psutil.Process().children(recursive=True) if runs(p)]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(flows=100, seconds=60), "more than 100 flows"),
        (Limits(seconds=0.02), "within 0.02 s"),
        (Limits(bytes=1000), "over the limit of 1000"),
        (Limits(memory_bytes=40 * 1024**2, seconds=60), "needs more than 41943040 bytes of memory"),
    ],
)
def test_what_goes_beyond_a_limit_is_ended_and_says_which(flood, limits, words):
    with pytest.raises(CaptureError, match=words) as caught:
        extract(flood, limits=limits)
    assert caught.value.remedy
    assert not children()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["bytes", "flows", "memory_bytes", "seconds"])
def test_a_limit_that_is_none_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"limit on {name}"):
        Limits(**{name: value})


def test_a_cancelled_extraction_leaves_no_process(flood):
    class Cancelled(Exception): ...

    def cancel(stage: str, *_: object, **__: object) -> None:
        if stage == "extracting flows":
            raise Cancelled

    with pytest.raises(Cancelled):
        extract(flood, progress=cancel)
    assert not children()


def test_progress_runs_to_the_number_of_packets(flood):
    told: list[tuple[float, float]] = []

    def progress(stage: str, done: float, total: float | None = None, **_: object) -> None:
        if stage == "extracting flows":
            told.append((done, total or 0))

    assert len(extract(flood, progress=progress)) == FLOOD
    assert told[-1] == (FLOOD, FLOOD)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert len(told) > 1


def test_ctrl_c_ends_the_worker_with_us(flood, tmp_path):
    """A real process that is interrupted, so that the signal goes where a terminal sends it."""
    ours = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfrom robustidps.traffic.capture import extract\n"
         "while True: extract(sys.argv[1], progress=lambda s, *a, **k: print(s, flush=True))", str(flood)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    try:
        assert ours.stdout is not None
        while b"extracting" not in ours.stdout.readline():
            pass
        theirs = psutil.Process(ours.pid).children(recursive=True)
        assert theirs
        os.killpg(ours.pid, signal.SIGINT)
        ours.communicate(timeout=20)
        _, alive = psutil.wait_procs(theirs, timeout=5)
        assert not alive
    finally:
        ours.kill()


def test_the_worker_ends_when_its_parent_is_killed(flood):
    ours = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfrom robustidps.traffic.capture import extract\n"
         "while True: extract(sys.argv[1], progress=lambda s, *a, **k: print(s, flush=True))", str(flood)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert ours.stdout is not None
    while b"extracting" not in ours.stdout.readline():
        pass
    theirs = psutil.Process(ours.pid).children(recursive=True)
    assert theirs
    ours.kill()
    ours.communicate()
    _, alive = psutil.wait_procs(theirs, timeout=10)
    assert not alive


# --- what the worker may do

SPY = """
import encodings.idna, json, os, socket, sys
sys.path.insert(0, {folder!r})
import _nfstream_worker as worker

def spy(request, out, channel):
    found = {{"uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups()}}
    try:
        found["root"] = os.listdir("/")
    except OSError as error:
        found["root"] = str(error)
    try:
        socket.create_connection(("127.0.0.1", {port}), 1).close()
        found["network"] = True
    except OSError:
        found["network"] = False
    for name, act in (("fork", os.fork), ("secret", lambda: open({secret!r}).read())):
        try:
            act()
            found[name] = True
        except OSError:
            found[name] = False
    if {behave!r} == "crash":
        os.kill(os.getpid(), 11)
    if {behave!r} == "lie":
        return {{"done": 5, "packets": 1, "skipped": 0}}
    if {behave!r} == "babble":
        channel.send(b"[" * 60000)
    os.write(2, json.dumps(found).encode() + b"\\n")
    os._exit(3)

worker.read_capture = spy
worker.main()
"""


@pytest.fixture
def spied(monkeypatch, tmp_path, make_capture, conversation):
    """Runs the real worker with a spy in NFStream's place; gives the error's text."""
    import socket

    def run(behave: str = "look") -> str:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        with socket.create_server(("127.0.0.1", 0)) as server:
            script = tmp_path / "spy.py"
            script.write_text(
                textwrap.dedent(SPY).format(
                    folder=str(Path(worker.__file__).parent),
                    port=server.getsockname()[1],
                    secret=str(secret),
                    behave=behave,
                )
            )
            monkeypatch.setattr(capture.worker, "__file__", str(script))
            with pytest.raises(CaptureError) as caught:
                extract(make_capture(conversation))
        return caught.value.problem

    return run


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_the_worker_has_no_root_no_network_no_files_and_no_children(spied):
    import json

    text = spied()
    found = json.loads(text[text.index("{") :])
    assert set(found["uids"]) == set(found["gids"]) == {worker.NOBODY}
    assert found["groups"] == []
    assert found["root"] == [] or "denied" in found["root"]
    assert (found["network"], found["fork"], found["secret"]) == (False, False, False)


def test_the_worker_gets_no_new_privileges_and_reports_its_sandbox(make_capture, conversation):
    sandbox = extract(make_capture(conversation)).report.sandbox
    assert sandbox["uid"] != 0
    assert sandbox["no_new_privileges"] is (sys.platform == "linux")


def test_a_crash_in_the_parser_is_an_error_that_names_the_capture(spied):
    assert "ended by signal 11" in spied("crash")


@pytest.mark.parametrize("behave", ["lie", "babble"])
def test_a_worker_that_lies_is_not_believed(spied, behave):
    text = spied(behave)
    assert "for 5 flows" in text or "ended on it" in text


def test_one_broken_capture_of_many_leaves_the_others_alone(make_capture, conversation):
    paths = [
        make_capture(conversation, "one.pcap"),
        make_capture(b"nonsense", "two.pcap"),
        make_capture(make_capture(conversation).read_bytes()[:-3], "three.pcap"),
        make_capture(conversation, "four.pcap"),
    ]
    got = list(extract_many(paths))
    assert [path.name for path, _ in got] == ["one.pcap", "two.pcap", "three.pcap", "four.pcap"]
    assert [type(result) for _, result in got] == [FlowTable, CaptureError, TruncatedCaptureError, FlowTable]
    assert not children()


def test_without_nfstream_the_extra_is_named(make_capture, conversation, monkeypatch):
    monkeypatch.setattr(capture.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"robustidps\[traffic\]"):
        extract(make_capture(conversation))


# --- real captures


@pytest.mark.real
def test_every_real_capture_gives_as_many_flows_as_nfstream_counts(shared_data):
    folder = shared_data / "captures"
    with (folder / "labels.csv").open() as file:
        expected = {row["capture"]: row for row in csv.DictReader(file)}
    different, failed = {}, {}
    for path, result in extract_many([folder / name for name in expected], limits=Limits(seconds=60)):
        name = str(path.relative_to(folder))
        if isinstance(result, FlowTable):
            if expected[name]["flows"] and len(result) != int(expected[name]["flows"]):
                different[name] = (len(result), expected[name]["flows"])
            assert np.isfinite(result.features).all(), name
            assert (np.diff(result.first_seen) >= 0).all(), name
        else:
            failed[name] = result
    assert not different
    # A hostile file may end in a clear error; nobody else's may.
    assert all(name.startswith("hostile/") for name in failed)
    assert all(isinstance(e, CaptureError) and str(folder) in str(e) for e in failed.values())


@pytest.mark.real
def test_flows_are_those_that_nfstream_gives_when_called_directly(shared_data):
    from nfstream import NFStreamer

    path = shared_data / "captures" / "attack" / "emotet.pcap"
    direct = NFStreamer(str(path), statistical_analysis=True, n_dissections=0, accounting_mode=1, n_meters=1)
    theirs = sorted(
        ((f.bidirectional_first_seen_ms, f.src_ip, f.dst_ip, f.src_port), [getattr(f, s) for s in STATISTICS])
        for f in direct
    )
    ours = extract(path)
    assert len(ours) == len(theirs)
    assert ours.features[:, :57] == pytest.approx(np.array([row for _, row in theirs], np.float32))


@pytest.mark.real
def test_captures_with_changed_bytes_end_in_flows_or_a_clear_error(shared_data, tmp_path):
    rng = np.random.default_rng(0)
    sources = [p for p in sorted((shared_data / "captures").glob("*/*.pcap*")) if p.stat().st_size < 30_000][::5]
    paths = []
    for number, source in enumerate(sources):
        content = np.frombuffer(source.read_bytes(), np.uint8).copy()
        where = rng.integers(4, len(content), rng.choice([1, 5, 50]))
        content[where] = rng.integers(0, 256, len(where))
        paths.append(tmp_path / f"{number}{source.suffix}")
        paths[-1].write_bytes(content.tobytes())
    assert len(paths) > 20
    got = [result for _, result in extract_many(paths, truncated="use", limits=Limits(seconds=20))]
    for result in got:
        if isinstance(result, FlowTable):
            assert np.isfinite(result.features).all()
        else:
            assert isinstance(result, CaptureError)
            assert "within 20 s" not in str(result)
    assert sum(isinstance(r, FlowTable) for r in got) > len(got) // 2


def test_a_flow_of_an_absurd_year_does_not_end_the_reading(make_capture, packet):
    path = make_capture([(1.8e13, packet(1, 2, 5000, 53)), (1.8e13, packet(1, 3, 5000, 53))], kind="pcapng")
    assert len(extract(path)) == 2
