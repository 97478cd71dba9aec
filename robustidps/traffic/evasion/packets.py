"""Packets of known conversations as one table: read from a capture, changed elsewhere, and written back as a capture.

A row is a packet: when, which conversation, which side sent it, TCP numbers relative to each side's first, bytes of
payload, and its headers as bytes. Perturbations change rows and insert new ones; `capture_bytes` then gives every
packet the lengths and checksums that follow, so that what a perturbation changes stays a valid packet. Payloads are not
kept: in the capture that is written they are zeros, and each IPv4 frame is cut after its headers with its true length
in the record, as when a sensor keeps headers only. Flow records see no payload, so they lose nothing by it.

Read: classic pcap of Ethernet frames, IPv4 and IPv6, TCP, UDP, ICMP and ICMPv6. Fragments, other protocols and headers
cut short belong to no conversation.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import CaptureError, TruncatedCaptureError
from robustidps.progress import Progress, silent
from robustidps.traffic.capture import IDLE_SECONDS, Limits, inspect
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.labels import ANY, Endpoints, Truth, match
from robustidps.traffic.simulator.pcap import SNAPLEN, followed_by_zeros

__all__ = ["ACK", "ETHERNET", "FIN", "ICMP", "ICMP6", "PSH", "RST", "SYN", "TCP", "UDP", "Packets", "capture_bytes"]

Array = npt.NDArray[Any]

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ETHERNET = 14  # bytes of its header
LARGEST_HEAD = 134  # Ethernet, IPv4 with all options, TCP with all options
SHORTEST_FRAME = 60
LIMITS = Limits(bytes=1024**3)
ATTACKS = FLOW64.classes[1:]
_CHUNK = 1 << 16
_RELAY_US = 500_000  # a relayed copy comes at most this much later


def _row(head: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("t", "i8"),  # microseconds since 1970
            ("flow", "i8"),  # row of the conversation
            ("side", "i1"),  # 0: the conversation's source sends, 1: its destination
            ("protocol", "i2"),
            ("flags", "i2"),  # of TCP; the type of an ICMP message
            ("l4", "i2"),  # bytes before the transport header
            ("size", "i2"),  # bytes of all headers
            ("payload", "i8"),  # bytes after them
            ("seq", "i8"),  # relative to the side's first; TCP alone
            ("ack", "i8"),  # relative to the other side's first
            ("mss", "i2"),  # that a SYN announces; 0: none
            ("relayed", "?"),  # a man in the middle's copy of an earlier packet
            ("head", "u1", head),
        ]
    )


@dataclass(frozen=True, eq=False)
class Packets:
    """Packets of F conversations. rows: sorted by conversation, then time. truth: the conversations. base: int64
    [F, 2], the sequence number that each side's relative ones count from."""

    rows: Array
    truth: Truth
    base: npt.NDArray[np.int64]

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """Position of each conversation's first packet, and the end: int64 [F + 1]."""
        return np.searchsorted(self.rows["flow"], np.arange(len(self.truth) + 1))

    def select(self, conversations: npt.NDArray[np.bool_]) -> Packets:
        """The conversations marked, and their packets."""
        number = np.cumsum(conversations) - 1
        rows = self.rows[conversations[self.rows["flow"]]].copy()
        rows["flow"] = number[rows["flow"]]
        return Packets(rows, _rows_of(self.truth, conversations), self.base[conversations])

    def with_rows(self, rows: Array) -> Packets:
        """The same conversations with other packets, put in order."""
        return Packets(rows[np.lexsort([rows["t"], rows["flow"]])], self.truth, self.base)

    @classmethod
    def concat(cls, parts: list[Packets]) -> Packets:
        width = max(part.rows["head"].shape[1] for part in parts)
        rows, before = [], 0
        for part in parts:
            wide = np.zeros(len(part.rows), _row(width))
            for name in part.rows.dtype.names or ():
                if name != "head":
                    wide[name] = part.rows[name]
            wide["head"][:, : part.rows["head"].shape[1]] = part.rows["head"]
            wide["flow"] += before
            before += len(part.truth)
            rows.append(wide)
        fields = {
            name: np.concatenate([getattr(part.truth, name) for part in parts]) for name in Truth.__dataclass_fields__
        }
        return cls(np.concatenate(rows), Truth(**fields), np.concatenate([part.base for part in parts]))

    @classmethod
    def read(cls, capture: Path, truth: Truth, *, tolerance_s: float = 0.01, progress: Progress = silent) -> Packets:
        """The packets of a capture's attacks, by conversation: what the same two ends send each other under one
        protocol, without a pause as long as the extractor's idle time-out.

        Args:
            truth: all that is known. It is asked about each conversation's first packet, as about a flow's; one that
                it holds benign, calls what is no class, or contradicts itself about is left out.

        Raises:
            CaptureError: not there, damaged, no pcap of Ethernet frames, too large.
        """
        columns, heads = _parsed(capture, progress)
        order, flow, begins = _conversations(columns)
        first = {name: column[order[begins]] for name, column in columns.items()}
        ends = Endpoints(
            first_seen=first["t"] / 1e6,
            src_ip=first["src_ip"],
            dst_ip=first["dst_ip"],
            src_port=first["sport"],
            dst_port=first["dport"],
            protocol=first["protocol"],
        )
        owner = match(ends, truth, tolerance_s=tolerance_s).owner
        attack = (
            (owner >= 0) & np.isin(np.asarray(truth.label, dtype=object), ATTACKS)[owner] if len(truth) else owner > 0
        )
        known = _known(ends, truth, owner, attack)
        mine = attack[flow]
        rows = np.zeros(int(mine.sum()), _row(heads.shape[1]))
        taken = order[mine]
        rows["flow"] = (np.cumsum(attack) - 1)[flow[mine]]
        for name in ("t", "protocol", "flags", "l4", "size", "payload", "seq", "ack"):
            rows[name] = columns[name][taken]
        rows["head"] = heads[taken]
        source = known.src_ip[rows["flow"]], known.src_port[rows["flow"]]
        rows["side"] = (columns["src_ip"][taken] != source[0]) | (columns["sport"][taken] != source[1])
        _options(rows)
        rows["relayed"] = _relayed(rows)
        return cls(rows, known, _relative(rows, len(known)))


def _conversations(columns: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Packets in order of conversation and time, the conversation of each, and where each begins."""
    hosts = np.unique(np.r_[columns["src"], columns["dst"]], return_inverse=True)[1].reshape(2, -1)
    one, other = hosts[0] * 65536 + columns["sport"], hosts[1] * 65536 + columns["dport"]
    protocol = columns["protocol"]
    order = np.lexsort([columns["t"], protocol, np.maximum(one, other), np.minimum(one, other)])
    if not len(order):
        return order, order, order
    new = np.diff(columns["t"][order], prepend=0) >= IDLE_SECONDS * 1_000_000
    for column in (np.minimum(one, other), np.maximum(one, other), protocol):
        new |= np.diff(column[order], prepend=-1) != 0
    return order, np.cumsum(new) - 1, np.flatnonzero(new)


def _known(ends: Endpoints, truth: Truth, owner: Array, which: Array) -> Truth:
    """The conversations marked, as truths: source and destination as the truth has them, or who sent first."""
    of = owner[which]
    src, dst = (np.asarray(getattr(truth, f"{end}_ip"), dtype=object)[of] for end in ("src", "dst"))
    port = np.asarray(truth.src_port)[of]
    first = ends.src_ip[which], ends.src_port[which]
    last = ends.dst_ip[which], ends.dst_port[which]
    turned = (src == last[0]) & ((port == ANY) | (port == last[1]))
    turned &= ~((src == first[0]) & ((port == ANY) | (port == first[1])))
    turned |= (src == "") & (dst == first[0]) & (dst != last[0])
    text = {name: np.asarray(getattr(truth, name), dtype=object)[of] for name in ("label", "campaign", "tool")}
    days = ends.first_seen[which].astype("int64").astype("datetime64[s]").astype("datetime64[D]").astype(str)
    named = [
        c or f"{t or w} {d}" for c, t, w, d in zip(text["campaign"], text["tool"], text["label"], days, strict=True)
    ]
    text["campaign"] = np.array(named, dtype=object)
    return Truth(
        src_ip=np.where(turned, last[0], first[0]),
        dst_ip=np.where(turned, first[0], last[0]),
        src_port=np.where(turned, last[1], first[1]),
        dst_port=np.where(turned, first[1], last[1]),
        protocol=ends.protocol[which],
        start=ends.first_seen[which],
        end=ends.first_seen[which],
        **text,
    )


def _rows_of(truth: Truth, which: Array) -> Truth:
    return Truth(**{name: np.asarray(getattr(truth, name))[which] for name in Truth.__dataclass_fields__})


def _parsed(capture: Path, progress: Progress) -> tuple[dict[str, Array], Array]:
    """Columns and headers of every packet that could belong to a conversation."""
    report = inspect(capture, limits=LIMITS, progress=progress)
    if report.truncated:
        raise TruncatedCaptureError(report.damage, where=capture, remedy="fetch the file again")
    if report.format != "pcap":
        raise CaptureError("is pcapng", where=capture, remedy="write it as pcap first: editcap -F pcap")
    if report.link_types != (1,):
        raise CaptureError("holds no Ethernet frames", where=capture, remedy="capture on an Ethernet interface")
    content = capture.read_bytes()
    order = "<" if report.byte_order == "little" else ">"
    tick = 1000 if content[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1  # nanoseconds
    at, kept, stamp = _records(content, order, tick, capture)
    window = np.lib.stride_tricks.sliding_window_view(
        np.frombuffer(content + bytes(LARGEST_HEAD), np.uint8), LARGEST_HEAD
    )
    parts: list[dict[str, Array]] = []
    heads: list[Array] = []
    for start in range(0, len(at), _CHUNK):
        piece = slice(start, start + _CHUNK)
        fields, usable = _fields(window[at[piece]], kept[piece])
        fields["t"] = stamp[piece][usable]
        head = window[at[piece][usable]].copy()
        head[np.arange(LARGEST_HEAD) >= fields["size"][:, None]] = 0
        parts.append(fields)
        heads.append(head)
    names = (
        "t",
        "hi",
        "lo",
        "hi2",
        "lo2",
        "sport",
        "dport",
        "protocol",
        "flags",
        "l4",
        "size",
        "payload",
        "seq",
        "ack",
    )
    columns = {n: np.concatenate([p[n] for p in parts]) if parts else np.empty(0, np.int64) for n in names}
    hi, lo = (np.r_[columns.pop(name), columns.pop(f"{name}2")] for name in ("hi", "lo"))
    words, code = _words(hi, lo)
    columns["src"], columns["dst"] = code.reshape(2, -1)
    columns["src_ip"], columns["dst_ip"] = words[columns["src"]], words[columns["dst"]]
    head = np.concatenate(heads) if heads else np.empty((0, LARGEST_HEAD), np.uint8)
    return columns, head[:, : int(columns["size"].max(initial=ETHERNET))]


def _records(content: bytes, order: str, tick: int, capture: Path) -> tuple[Array, Array, Array]:
    """Where each frame begins, how many bytes of it are there, and its time in microseconds."""
    header = struct.Struct(order + "IIII").unpack_from
    at, kept, stamp = [], [], []
    position, end = 24, len(content)
    while position < end:
        try:
            seconds, fraction, length, _ = header(content, position)
        except struct.error:
            raise CaptureError("was changed while it was read", where=capture, remedy="try again") from None
        at.append(position + 16)
        kept.append(length)
        stamp.append(seconds * 1_000_000 + fraction // tick)
        position += 16 + length
    return np.array(at, np.int64), np.array(kept, np.int64), np.array(stamp, np.int64)


def _fields(b: Array, kept: Array) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
    """What the first bytes of frames, uint8 [N, LARGEST_HEAD], say; and which frames are of use."""

    def word(array: Array, position: int, size: int = 2) -> Array:
        total = np.zeros(len(array), np.int64)
        for i in range(size):
            total = total << 8 | array[:, position + i]
        return total

    ethertype, version = word(b, 12), b[:, 14] >> 4
    v4, v6 = (ethertype == 0x0800) & (version == 4), (ethertype == 0x86DD) & (version == 6)
    l3 = np.where(v4, (b[:, 14] & 15).astype(np.int64) * 4, 40)
    l4 = ETHERNET + l3
    protocol = np.where(v4, b[:, 23], b[:, 20]).astype(np.int64)
    whole = ~(v4 & (word(b, 20) & 0x3FFF != 0))
    usable = (v4 | v6) & (l3 >= 20) & whole
    usable &= np.isin(protocol, (TCP, UDP)) | (v4 & (protocol == ICMP)) | (v6 & (protocol == ICMP6))
    inner = np.take_along_axis(b, l4[:, None] + np.arange(20), axis=1)
    tcp = protocol == TCP
    own = np.where(tcp, (inner[:, 12] >> 4).astype(np.int64) * 4, 8)
    size = l4 + own
    total = np.where(v4, word(b, 16), word(b, 18) + 40)
    payload = ETHERNET + total - size
    usable &= (own >= np.where(tcp, 20, 8)) & (kept >= size) & (payload >= 0)
    ported = tcp | (protocol == UDP)
    # An IPv4 address as the IPv6 one that it is mapped to, so that both fit two numbers.
    hi = [np.where(v4, 0, word(b, start, 8)) for start in (22, 38)]
    lo = [np.where(v4, 0xFFFF << 32 | word(b, four, 4), word(b, six, 8)) for four, six in ((26, 30), (30, 46))]
    fields = {
        "hi": hi[0],
        "lo": lo[0],
        "hi2": hi[1],
        "lo2": lo[1],
        "sport": np.where(ported, word(inner, 0), 0),
        "dport": np.where(ported, word(inner, 2), 0),
        "protocol": protocol,
        "flags": np.where(tcp, inner[:, 13], np.where(ported, 0, inner[:, 0])).astype(np.int64),
        "l4": l4,
        "size": size,
        "payload": payload,
        "seq": np.where(tcp, word(inner, 4, 4), 0),
        "ack": np.where(tcp, word(inner, 8, 4), 0),
    }
    return {name: column[usable] for name, column in fields.items()}, usable


def _words(hi: Array, lo: Array) -> tuple[Array, Array]:
    """The different addresses as NFStream writes them, and which of them each is."""
    different_lo, code = np.unique(lo, return_inverse=True)
    different_hi, upper = np.unique(hi, return_inverse=True)
    pairs, which = np.unique(upper * max(len(different_lo), 1) + code, return_inverse=True)
    words = np.empty(len(pairs), object)
    for i, pair in enumerate(pairs.tolist()):
        top = int(different_hi[pair // len(different_lo)]) & 0xFFFFFFFFFFFFFFFF
        low = int(different_lo[pair % len(different_lo)]) & 0xFFFFFFFFFFFFFFFF
        mapped = top == 0 and low >> 32 == 0xFFFF
        words[i] = str(ipaddress.IPv4Address(low & 0xFFFFFFFF) if mapped else ipaddress.IPv6Address(top << 64 | low))
    return words, which


def _options(rows: Array) -> None:
    """Reads the largest segment that each SYN announces, and blanks selective acknowledgements, whose numbers wouldn't
    fit a changed stream; without them a segment is valid all the same (RFC 2018)."""
    at = np.flatnonzero((rows["protocol"] == TCP) & (rows["size"] - rows["l4"] > 20))
    head, end = rows["head"], rows["size"].astype(np.int64)
    where = rows["l4"].astype(np.int64)[at] + 20
    for _ in range(40):  # options are 40 bytes at most, each of one byte or more
        inside = where < end[at]
        at, where = at[inside], where[inside]
        if not len(at):
            return
        kind = head[at, where]
        length = np.where(kind == 1, 1, head[at, np.minimum(where + 1, end[at] - 1)]).astype(np.int64)
        sound = (kind != 0) & (length > 0) & (where + length <= end[at]) & ((kind == 1) | (length > 1))
        at, where, kind, length = at[sound], where[sound], kind[sound], length[sound]
        sizes = np.flatnonzero((kind == 2) & (length == 4))
        rows["mss"][at[sizes]] = (
            head[at[sizes], where[sizes] + 2].astype(np.int64) << 8 | head[at[sizes], where[sizes] + 3]
        )
        for i in np.flatnonzero(kind == 5):
            head[at[i], where[i] : where[i] + length[i]] = 1  # no operation
        where = where + length


def _relayed(rows: Array) -> npt.NDArray[np.bool_]:
    """Which packets are a man in the middle's copies: all equal an earlier one's, with fewer hops left."""
    keys = [rows[name] for name in ("t", "payload", "ack", "seq", "flags", "side", "flow")]
    order = np.lexsort(keys)
    s = rows[order]
    hops = np.where(s["head"][:, 14] >> 4 == 4, s["head"][:, 22], s["head"][:, 21]).astype(np.int64)
    same = np.ones(max(len(s) - 1, 0), bool)
    for name in ("payload", "ack", "seq", "flags", "side", "flow"):
        same &= s[name][1:] == s[name][:-1]
    copy = same & (hops[1:] < hops[:-1]) & (s["t"][1:] - s["t"][:-1] < _RELAY_US)
    out = np.zeros(len(rows), bool)
    out[order[1:][copy]] = True
    return out


def _relative(rows: Array, flows: int) -> npt.NDArray[np.int64]:
    """Makes sequence numbers relative to the first that is known of either side; gives those, [flows, 2]."""
    base = np.zeros((flows, 2), np.int64)
    tcp = np.flatnonzero(rows["protocol"] == TCP)[::-1]  # backwards, so that the first one stands at last
    acks = tcp[rows["flags"][tcp] & ACK > 0]
    base[rows["flow"][acks], 1 - rows["side"][acks]] = rows["ack"][acks]
    base[rows["flow"][tcp], rows["side"][tcp]] = rows["seq"][tcp]
    for name, side in (("seq", rows["side"]), ("ack", 1 - rows["side"])):
        distance = rows[name] - base[rows["flow"], side]
        rows[name] = np.where(rows["protocol"] == TCP, (distance + 2**31) % 2**32 - 2**31, 0)
    rows["ack"][(rows["flags"] & ACK == 0) & (rows["protocol"] == TCP)] = 0
    return base


def capture_bytes(packets: Packets) -> list[bytes]:
    """A capture file with these packets in order of time, in pieces: lengths, numbers and checksums set anew."""
    rows = packets.rows[np.argsort(packets.rows["t"], kind="stable")]
    width = rows["head"].shape[1]
    pieces = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, 1)]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        frames = np.zeros((len(part), max(width, SHORTEST_FRAME)), np.uint8)
        frames[:, :width] = _finished(part, packets.base)
        length = np.maximum(SHORTEST_FRAME, part["size"] + part["payload"])
        headers = np.minimum(length, frames.shape[1])
        # NFStream passes over IPv6 packets that are cut.
        kept = np.where(part["head"][:, 14] >> 4 == 6, length, headers)
        header = np.empty((len(part), 4), "<u4")
        header[:, 0], header[:, 1] = np.divmod(part["t"], 1_000_000)
        header[:, 2], header[:, 3] = kept, length
        whole = np.concatenate([header.view(np.uint8), frames], axis=1)
        data = whole[np.arange(whole.shape[1]) < 16 + headers[:, None]]
        pieces.append(followed_by_zeros(data, np.cumsum(16 + headers), kept - headers).tobytes())
    return pieces


def _finished(rows: Array, base: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Headers with the lengths, numbers and checksums that follow from the columns."""
    head = rows["head"].copy()
    for l4 in np.unique(rows["l4"]).tolist():
        for protocol in np.unique(rows["protocol"][rows["l4"] == l4]).tolist():
            which = np.flatnonzero((rows["l4"] == l4) & (rows["protocol"] == protocol))
            part, h = rows[which], head[which]
            h[:, int(part["size"].max()) :] = 0
            h[np.arange(h.shape[1]) >= part["size"][:, None]] = 0
            inner = part["size"] - l4 + part["payload"]  # transport header and payload, bytes
            fourth = h[:, 14] >> 4 == 4  # one version in a group, unless an IPv4 header has 20 bytes of options
            v4, v6 = np.flatnonzero(fourth), np.flatnonzero(~fourth)
            pseudo = np.zeros(len(part), np.int64)
            if len(v4):
                _put(h, v4, 16, inner[v4] + l4 - ETHERNET)
                _put(h, v4, 24, 0)
                _put(h, v4, 24, _fold(_sum(h[v4], ETHERNET, l4)))
                pseudo[v4] = _sum(h[v4], 26, 34)
            if len(v6):
                _put(h, v6, 18, inner[v6])
                pseudo[v6] = _sum(h[v6], 22, 54)
            every = np.arange(len(part))
            if protocol == TCP:
                seq = part["seq"] + base[part["flow"], part["side"]]
                ack = np.where(part["flags"] & ACK > 0, part["ack"] + base[part["flow"], 1 - part["side"]], 0)
                for column, value in ((l4 + 4, seq), (l4 + 8, ack)):
                    _put(h, every, column, value >> 16 & 0xFFFF)
                    _put(h, every, column + 2, value & 0xFFFF)
                h[:, l4 + 12] = (part["size"] - l4) // 4 << 4
                h[:, l4 + 13] = part["flags"]
            elif protocol == UDP:
                _put(h, every, l4 + 4, inner)
            at = l4 + {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}[protocol]
            _put(h, every, at, 0)
            total = _sum(h, l4, h.shape[1]) + (0 if protocol == ICMP else pseudo + protocol + inner)
            value = _fold(total)
            _put(h, every, at, np.where((value == 0) & (protocol == UDP), 0xFFFF, value))
            head[which] = h
    return head


def _put(head: Array, rows: Array, at: int, value: Any) -> None:
    head[rows, at], head[rows, at + 1] = np.asarray(value) >> 8 & 255, np.asarray(value) & 255


def _sum(head: Array, start: int, stop: int) -> Array:
    """Sum of the 16-bit words between two offsets, which are even."""
    return (head[:, start:stop:2].astype(np.int64) << 8).sum(1) + head[:, start + 1 : stop : 2].sum(1, dtype=np.int64)


def _fold(total: Array) -> Array:
    """One's complement of the one's complement sum (RFC 1071)."""
    while np.any(total >> 16):
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
