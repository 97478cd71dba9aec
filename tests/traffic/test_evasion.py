"""Perturbed attacks stay what they were: valid packets, whole streams, the same conversations; scapy is the oracle."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop

import numpy as np
import pytest

from robustidps.errors import CaptureError, DatasetError, TruncatedCaptureError
from robustidps.traffic.evasion import PERTURBATIONS, UNCHANGED, evade
from robustidps.traffic.evasion.packets import ACK, FIN, SYN, TCP, Packets, capture_bytes
from robustidps.traffic.evasion.perturb import IDLE, RELAY_TOTAL, SPLIT_TOTAL, TOTAL, perturb
from robustidps.traffic.evasion.roles import View
from robustidps.traffic.labels import ANY, Truth
from robustidps.traffic.simulator import Simulation, SimulatorSettings, simulate
from robustidps.traffic.trafficset import TrafficSet

SETTINGS = SimulatorSettings(days=2, packets_per_day=6000)
NAMES = [UNCHANGED, *PERTURBATIONS]


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(SETTINGS, tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def attacks(simulation: Simulation) -> Packets:
    return Packets.concat([Packets.read(c, simulation.truth(d)) for d, c in enumerate(simulation.captures)])


@pytest.fixture(scope="module")
def perturbed(attacks: Packets) -> dict[str, Packets]:
    return {name: perturb(attacks, name, np.random.default_rng(0)) for name in NAMES}


@pytest.fixture(scope="module")
def evaded(simulation: Simulation) -> TrafficSet:
    return evade([(c, simulation.truth(d)) for d, c in enumerate(simulation.captures)])


def conversations(packets: Packets) -> list[np.ndarray]:
    return [packets.rows[a:b] for a, b in pairwise(packets.first)]


def test_every_packet_of_an_attack_is_read_and_no_other(simulation: Simulation):
    truth = simulation.truth(0)
    attack = truth.label != "Benign"
    read = Packets.read(simulation.captures[0], truth)
    assert 0.9 * attack.sum() < len(read.truth) < 1.1 * attack.sum()
    ends = {frozenset(pair) for pair in zip(truth.src_ip[attack], truth.dst_ip[attack], strict=True)}
    seen = [frozenset(addresses(frame)) for _, frame in frames(simulation.captures[0])]
    assert 1000 < len(read.rows) <= sum(pair in ends for pair in seen)
    spans = [(rows["t"][0] / 1e6, rows["t"][-1] / 1e6) for rows in conversations(read)]
    # What is silent beyond the idle time-out is two conversations, as it is two flows; what meets again before, one.
    assert np.isin(np.round([s[0] for s in spans], 4), np.round(truth.start[attack], 4)).mean() > 0.95
    assert np.isin(np.round([s[1] for s in spans], 4), np.round(truth.end[attack], 4)).mean() > 0.95


def test_what_is_written_unchanged_are_the_packets_that_were_read(simulation: Simulation, tmp_path: Path):
    truth = simulation.truth(0)
    attacks = Packets.read(simulation.captures[0], truth)
    copy = tmp_path / "copy.pcap"
    copy.write_bytes(b"".join(capture_bytes(attacks)))
    original = frames(simulation.captures[0])
    assert all(frame in original for frame in frames(copy))
    again = Packets.read(copy, truth)
    assert np.array_equal(again.rows, attacks.rows)


def frames(path: Path) -> set[tuple[int, bytes]]:
    """Time in microseconds and bytes of each frame, by scapy; payload and padding, all zeros, are left out."""
    from scapy.utils import RawPcapReader

    return {(m.sec * 1_000_000 + m.usec, frame.rstrip(b"\0")) for frame, m in RawPcapReader(str(path))}


def addresses(frame: bytes) -> tuple[str, str]:
    if frame[12:14] == b"\x08\x00":
        return inet_ntop(AF_INET, frame[26:30]), inet_ntop(AF_INET, frame[30:34])
    return inet_ntop(AF_INET6, frame[22:38]), inet_ntop(AF_INET6, frame[38:54])


@pytest.mark.parametrize("name", NAMES)
def test_lengths_and_checksums_are_what_scapy_computes(perturbed, name: str, tmp_path: Path):
    from scapy.layers.inet import IP, in4_chksum
    from scapy.layers.inet6 import IPv6, in6_chksum
    from scapy.utils import RawPcapReader, checksum

    path = tmp_path / "x.pcap"
    path.write_bytes(b"".join(capture_bytes(perturbed[name])))
    before, seen = -1, Counter[tuple[bool, int]]()
    for i, (frame, meta) in enumerate(RawPcapReader(str(path))):
        stamp = meta.sec * 1_000_000 + meta.usec
        assert stamp >= before
        before = stamp
        if i % 11:  # scapy is slow
            continue
        four = frame[12:14] == b"\x08\x00"
        length = int.from_bytes(frame[16:18], "big") if four else 40 + int.from_bytes(frame[18:20], "big")
        assert meta.wirelen == max(60, 14 + length) <= 1514
        whole = frame[14:].ljust(length, b"\0")[:length]
        src, dst = addresses(frame)
        head, protocol = (20, whole[9]) if four else (40, whole[6])
        if four:
            assert checksum(whole[:20]) == 0
        if protocol == 1:
            assert checksum(whole[20:]) == 0
        else:
            below = (in4_chksum, IP) if four else (in6_chksum, IPv6)
            assert below[0](protocol, below[1](src=src, dst=dst), whole[head:]) == 0
        if protocol == 17:
            assert int.from_bytes(whole[head + 4 : head + 6], "big") == length - head
        seen[four, protocol] += 1
    assert {(True, 1), (True, 6), (True, 17)} <= set(seen)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_has_no_hole_and_nothing_is_acknowledged_before_it_was_sent(attacks, perturbed, name: str):
    is_open = View(attacks).open
    assert is_open.sum() > 50
    for rows in (r for f, r in enumerate(conversations(perturbed[name])) if is_open[f]):
        high: dict[int, int] = {}
        for row in rows[~rows["relayed"]]:
            side, begin = int(row["side"]), int(row["seq"])
            end = begin + int(row["payload"]) + bool(row["flags"] & SYN) + bool(row["flags"] & FIN)
            assert begin <= high.get(side, begin), "a hole"
            high[side] = max(high.get(side, end), end)
            if row["flags"] & ACK and 1 - side in high:
                assert int(row["ack"]) <= high[1 - side], "of what was not sent"


@pytest.mark.parametrize("name", NAMES)
def test_order_is_kept_and_every_limit_holds(attacks, perturbed, name: str):
    view = View(attacks)
    changed = perturbed[name]
    assert len(changed.first) == len(attacks.first)
    assert (changed.rows["payload"] >= 0).all()
    strength = PERTURBATIONS[name][1] if name != UNCHANGED else 0
    for f, (old, new) in enumerate(zip(conversations(attacks), conversations(changed), strict=True)):
        assert new["t"][0] == old["t"][0], "a conversation begins when it began"
        assert (np.diff(new["t"]) >= 0).all()
        assert np.diff(new["t"]).max(initial=0) <= max(IDLE, np.diff(old["t"]).max(initial=0) + 1)
        longer = (new["t"][-1] - new["t"][0]) - (old["t"][-1] - old["t"][0])
        limit = RELAY_TOTAL if view.relay[f] else TOTAL[strength] + SPLIT_TOTAL + 10_000_000
        assert longer <= limit, (name, attacks.truth.tool[f])
        assert (new["payload"] + new["size"]).max() <= 1514


def test_only_the_attackers_data_grow_and_the_other_side_says_what_it_said(attacks, perturbed):
    theirs = ~View(attacks).controlled & (attacks.rows["protocol"] == TCP)
    said = np.bincount(attacks.rows["flow"][theirs], attacks.rows["payload"][theirs], len(attacks.truth))
    for name in ("padding-heavy", "splitting-heavy", "delay-heavy", "chaff-heavy"):
        rows = perturbed[name].rows
        control = View(perturbed[name]).controlled
        again = ~control & (rows["protocol"] == TCP)
        now = np.bincount(rows["flow"][again], rows["payload"][again], len(attacks.truth))
        stream = View(attacks).open
        assert np.array_equal(now[stream], said[stream]), name


def test_splitting_moves_no_byte_and_acknowledges_every_piece(attacks, perturbed):
    view = View(attacks)
    for name in ("splitting-light", "splitting-heavy"):
        rows = perturbed[name].rows
        for protocol in np.unique(rows["protocol"]):
            old, new = attacks.rows["protocol"] == protocol, rows["protocol"] == protocol
            assert rows["payload"][new].sum() == attacks.rows["payload"][old].sum()
            if protocol != TCP:
                assert new.sum() == old.sum(), "a datagram is never split"
        acks: dict[int, set[int]] = defaultdict(set)
        for row in rows[(rows["flags"] & ACK > 0) & (rows["side"] == 1)]:
            acks[int(row["flow"])].add(int(row["ack"]))
        old_ends = set(zip(attacks.rows["flow"], attacks.rows["seq"] + attacks.rows["payload"], strict=True))
        mine = (rows["protocol"] == TCP) & view.open[rows["flow"]] & (rows["side"] == 0) & (rows["payload"] > 0)
        pieces = [
            (int(r["flow"]), int(r["seq"] + r["payload"]))
            for r in rows[mine]
            if (r["flow"], r["seq"] + r["payload"]) not in old_ends
        ]
        assert len(pieces) > 200
        assert all(end in acks[flow] for flow, end in pieces)


def test_a_man_in_the_middle_only_delays_what_he_passes_on(attacks, perturbed):
    relay = View(attacks).relay
    assert attacks.rows["relayed"][relay[attacks.rows["flow"]]].sum() > 100
    before = attacks.rows[relay[attacks.rows["flow"]]]
    for name in NAMES:
        after = perturbed[name].rows[relay[perturbed[name].rows["flow"]]]
        assert np.array_equal(before["payload"], after["payload"])
        delays = name.startswith(("delay", "combined"))
        assert np.array_equal(before["t"], after["t"]) != delays, name


def test_protocols_without_room_are_left_alone(attacks, perturbed):
    heavy = perturbed["combined-heavy"]
    for tool, most in (("ntp_amplification", 480), ("hydra_ftp", 512), ("iodine", 1300), ("xprobe", None)):
        mine = np.isin(heavy.rows["flow"], np.flatnonzero(attacks.truth.tool == tool))
        assert mine.any(), tool
        if most:
            assert heavy.rows["payload"][mine & View(heavy).controlled].max() <= most, tool
    timestamps = heavy.rows[(heavy.rows["protocol"] == 1) & np.isin(heavy.rows["flags"], (13, 17))]
    assert len(timestamps) and (timestamps["payload"] == 12).all()


def test_the_true_answer_of_a_forged_one_is_left_as_it_was(attacks, perturbed):
    race = np.flatnonzero(np.isin(attacks.truth.tool, ("dns_race", "kaminsky")))
    assert len(race)
    last = attacks.rows[attacks.first[race + 1] - 1]
    for name in NAMES:
        assert np.array_equal(perturbed[name].rows[perturbed[name].first[race + 1] - 1], last), name


def test_every_conversation_keeps_its_flow_class_campaign_and_tool(evaded: TrafficSet, attacks: Packets):
    def named(rows: TrafficSet) -> list[tuple[str, str, str]]:
        classes = np.array(rows.schema.classes)[rows.labels]
        return sorted(zip(classes, rows.campaign.astype(str), rows.tool.astype(str), strict=True))

    expected = named(evaded.select(evaded.source == UNCHANGED))
    assert 0.97 * len(attacks.truth) < len(expected) <= len(attacks.truth)  # NFStream leaves some packets out
    assert {tool for _, _, tool in expected} >= set(attacks.truth.tool)
    assert set(evaded.source) == set(NAMES)
    for name in NAMES:
        rows = evaded.select(evaded.source == name)
        assert named(rows) == expected, name
        assert np.isfinite(rows.features[:, :57]).all()


def test_each_perturbation_changes_most_tools_flows_and_has_its_price(evaded: TrafficSet):
    plain = {row.tobytes() for row in evaded.features[evaded.source == UNCHANGED]}
    for name in PERTURBATIONS:
        rows = evaded.select(evaded.source == name)
        differs = np.mean([row.tobytes() not in plain for row in rows.features])
        assert differs > (0.2 if name.startswith("splitting") else 0.5), name
        cost = evaded.provenance["cost"][name]["all"]
        dearer = {
            "padding": "bytes",
            "delay": "seconds",
            "splitting": "packets",
            "chaff": "packets",
            "combined": "bytes",
        }
        assert cost[dearer[name.partition("-")[0]]] > 1.05, name
    assert evaded.provenance["cost"]["padding-heavy"]["all"]["packets"] == 1


def test_the_same_seed_gives_the_same_rows_and_another_gives_others(attacks: Packets):
    for name in ("combined-light", "combined-heavy"):
        one, same, other = (perturb(attacks, name, np.random.default_rng(seed)).rows for seed in (3, 3, 4))
        assert one.tobytes() == same.tobytes() != other.tobytes()


def test_only_conversations_of_the_held_out_traffic_are_taken(evaded: TrafficSet, simulation: Simulation):
    plain = evaded.select(evaded.source == UNCHANGED)
    held_out = plain.select(plain.time > SETTINGS.epoch + 86_400).select(slice(0, 40))
    captures = [(c, simulation.truth(d)) for d, c in enumerate(simulation.captures)]
    made = evade(captures, held_out=held_out)
    again = made.select(made.source == UNCHANGED)
    assert np.array_equal(np.sort(again.time), np.sort(held_out.time))
    assert all((made.source == name).sum() == 40 for name in NAMES)
    with pytest.raises(DatasetError, match="no capture covers"):
        evade(captures[:1], held_out=held_out)


def test_captures_that_cannot_be_read_are_refused(simulation: Simulation, tmp_path: Path, make_capture, packet):
    truth = simulation.truth(0)
    ng = make_capture([(1.0, packet(1, 2, 3, 4))], "a.pcapng", kind="pcapng")
    with pytest.raises(CaptureError, match="editcap"):
        evade([(ng, truth)])
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(simulation.captures[0].read_bytes()[:-10])
    with pytest.raises(TruncatedCaptureError):
        evade([(cut, truth)])
    other = make_capture([(1.0, packet(1, 2, 3, 4))])
    with pytest.raises(DatasetError, match="no attack"):
        evade([(other, truth)])


def test_a_truth_may_leave_open_what_it_does_not_know(simulation: Simulation):
    truth = simulation.truth(0)
    scans = np.flatnonzero(truth.label == "Recon-PortScan")
    busiest = Counter(zip(truth.src_ip[scans], truth.dst_ip[scans], strict=True)).most_common(1)[0][0]
    pair = (truth.src_ip == busiest[0]) & (truth.dst_ip == busiest[1])
    scan = np.flatnonzero(pair)[:1]
    column = lambda value: np.array([value], object)  # noqa: E731
    open_ = Truth(
        truth.src_ip[scan], truth.dst_ip[scan], np.array([ANY]), np.array([ANY]), np.array([ANY]),
        np.array([-np.inf]), np.array([np.inf]), column("Recon-PortScan"), column(""), column("slow"),
    )  # fmt: skip
    read = Packets.read(simulation.captures[0], open_)
    assert len(read.truth) >= pair.sum() * 0.9 > 2
    assert set(read.truth.src_ip) == {truth.src_ip[scan[0]]}, "the truth says who attacks"
    assert set(read.truth.campaign) == {"slow 2026-01-05"}


def made_truth(src: tuple[str, int], dst: tuple[str, int], protocol: int, end: float) -> Truth:
    column = lambda value: np.array([value], object)  # noqa: E731
    return Truth(
        column(src[0]), column(dst[0]), np.array([src[1]]), np.array([dst[1]]), np.array([protocol]), np.array([0.0]),
        np.array([end]), column("BruteForce-SSH"), column("c"), column("t"),
    )  # fmt: skip


def test_ipv6_options_selective_acknowledgements_and_big_endian_nanoseconds_are_read(tmp_path: Path, pcap_content):
    from scapy.layers.inet import TCP as Segment
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.utils import RawPcapReader

    a, b = "2001:db8::1", "2001:db8::2"
    there = lambda **k: Ether() / IPv6(src=a, dst=b) / Segment(sport=1000, dport=22, **k)  # noqa: E731
    back = lambda **k: Ether() / IPv6(src=b, dst=a) / Segment(sport=22, dport=1000, **k)  # noqa: E731
    top = 2**32 - 20  # the numbers wrap
    sent = [
        there(flags="S", seq=top, options=[("MSS", 600)]),
        back(flags="SA", seq=5, ack=top + 1, options=[("MSS", 900)]),
        there(flags="A", seq=top + 1, ack=6),
        there(flags="PA", seq=top + 1, ack=6) / (b"x" * 300),
        back(flags="A", seq=6, ack=(top + 301) % 2**32, options=[("SAck", (1, 2)), ("NOP", None), ("NOP", None)]),
        there(flags="PA", seq=(top + 301) % 2**32, ack=6) / (b"x" * 300),
        back(flags="A", seq=6, ack=(top + 601) % 2**32),
    ]
    path = tmp_path / "six.pcap"
    path.write_bytes(pcap_content([(100 + i * 0.1, bytes(p)) for i, p in enumerate(sent)], order=">", nano=True))
    packets = Packets.read(path, made_truth((a, 1000), (b, 22), 6, 200))
    assert packets.rows["side"].tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert packets.rows["seq"].tolist() == [0, 0, 1, 1, 1, 301, 1]
    for name in NAMES:
        made = perturb(packets, name, np.random.default_rng(1))
        path.write_bytes(b"".join(capture_bytes(made)))
        total = 0
        for frame, meta in RawPcapReader(str(path)):
            packet = Ether(frame.ljust(meta.wirelen, b"\0"))
            rebuilt = packet.copy()
            del rebuilt[IPv6].plen, rebuilt[Segment].chksum
            assert bytes(rebuilt) == bytes(packet), name
            assert "SAck" not in dict(packet[Segment].options)
            segment = packet[IPv6].plen - packet[Segment].dataofs * 4
            assert segment <= 600, "the announced maximum"
            total += segment * (packet[Segment].sport == 1000)
        assert total >= 600 if name != UNCHANGED else total == 600


def evade_command(*words: object):
    """`robustidps data evade ...` in this process."""
    from typer.testing import CliRunner

    from robustidps import cli

    return CliRunner().invoke(cli.app, ["data", "evade", *map(str, words), "--json"])


def test_the_command_takes_a_label_file_or_a_class_and_writes_evaded_flows(simulation: Simulation, tmp_path: Path):
    truth = simulation.truth(0)
    scans = np.flatnonzero(truth.label == "Recon-PortScan")
    labels, out = tmp_path / "labels.csv", tmp_path / "evaded.parquet"
    lines = ["src_ip,src_port,dst_ip,dst_port,protocol,start,end,label"]
    columns = (truth.src_ip, truth.src_port, truth.dst_ip, truth.dst_port, truth.protocol, truth.start, truth.end)
    lines += [",".join(str(c[i]) for c in columns) + ",port scan" for i in scans]
    labels.write_text("\n".join(lines) + "\n")
    done = evade_command(simulation.captures[0], "--labels", labels, "--out", out)
    assert done.exit_code == 0, done.output
    rows = TrafficSet.read(out)
    assert {rows.schema.classes[c] for c in set(rows.labels)} == {"Recon-PortScan"}
    assert (rows.source == UNCHANGED).sum() >= 0.9 * len(scans) and set(rows.source) == set(NAMES)

    attack = truth.label == "Recon-PortScan"
    alone = tmp_path / "alone.pcap"
    alone.write_bytes(b"".join(capture_bytes(Packets.read(simulation.captures[0], select(truth, attack)))))
    done = evade_command(alone, "--label", "Recon-PortScan", "--out", out)
    assert done.exit_code == 0, done.output
    again = TrafficSet.read(out)
    assert set(again.campaign) == {"alone.pcap"} and len(again) == len(rows)


def select(truth: Truth, which: np.ndarray) -> Truth:
    return Truth(**{name: getattr(truth, name)[which] for name in Truth.__dataclass_fields__})


def test_the_command_refuses_what_it_cannot_use_and_writes_nothing(simulation: Simulation, tmp_path: Path):
    from robustidps.errors import ConfigError

    capture, out = simulation.captures[0], tmp_path / "x.parquet"
    for words, error, text in (
        ((), ConfigError, "nobody says"),
        (("--label", "Benign"), DatasetError, "no attack"),
        (("--label", "Nonsense"), ConfigError, "is no class"),
        (("--labels", tmp_path / "none.csv"), DatasetError, "no such file"),
    ):
        done = evade_command(capture, *words, "--out", out)
        assert isinstance(done.exception, error) and text in str(done.exception), done.exception
    done = evade_command(capture, "--label", "Recon-PortScan", "--out", capture)
    assert isinstance(done.exception, ConfigError) and capture.stat().st_size > 1000
    assert not list(tmp_path.glob("x.parquet*"))
