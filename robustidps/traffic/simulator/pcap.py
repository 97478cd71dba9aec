"""From packets to a capture file: Ethernet, IPv4 or IPv6, and TCP, UDP or ICMP headers in one array of records.

The file is a classic little-endian pcap with microseconds. Of each IPv4 frame the headers are kept, and the length on
the wire is in the record header, as when a sensor keeps headers only. IPv6 frames are kept whole: NFStream passes over
those that are cut, without a word. IPv4 and transport checksums are right (payloads are zeros). Records are built as
one structured array with room for both IP headers; the one that a packet hasn't, and bytes beyond a short frame's end,
are masked out when it is written: no loop over packets but to let the payloads of IPv6 follow.

An IPv6 address is the host's number within 2001:db8::/32, the prefix for documentation. Protocols other than TCP, UDP
and ICMP have eight bytes of header without meaning.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.simulator.build import SYN
from robustidps.traffic.simulator.plan import ICMP, ICMP6, TCP, UDP
from robustidps.traffic.simulator.world import World

__all__ = ["RECORD", "SNAPLEN", "capture_bytes", "followed_by_zeros"]

Array = npt.NDArray[Any]

RECORD = np.dtype(
    [
        ("seconds", "<u4"),
        ("microseconds", "<u4"),
        ("kept", "<u4"),
        ("length", "<u4"),
        ("to_mac", "u1", 6),
        ("from_mac", "u1", 6),
        ("ethertype", ">u2"),
        ("version", ">u2"),
        ("ip_length", ">u2"),
        ("ident", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("ip_checksum", "<u2"),
        ("src", ">u4"),
        ("dst", ">u4"),
        ("version6", ">u4"),
        ("payload6", ">u2"),
        ("next6", "u1"),
        ("hops6", "u1"),
        ("src6", ">u4", 4),
        ("dst6", ">u4", 4),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("seq", ">u4"),
        ("ack", ">u4"),
        ("flags", ">u2"),
        ("window", ">u2"),
        ("checksum", "<u2"),
        ("urgent", ">u2"),
        ("options", ">u4", 5),
    ]
)
IP4, IP6, L4 = 30, 50, 90  # where the headers begin in a record
HEADERS = 94  # Ethernet 14, IPv6 40, TCP 20 and its options 20
SNAPLEN = 14 + 65535  # of IPv6 frames, which segments that a card put together may fill
_ABSENT = 1 << 20
_PLACES = np.vstack(
    [
        np.r_[np.arange(IP6), np.full(40, _ABSENT), np.arange(50, 90)],
        np.r_[np.arange(IP4), np.full(20, _ABSENT), 30:110],
    ]
)
"""Where each byte of a record is in its packet's record on disk: row 0 for IPv4, 1 for IPv6."""
_ON_DISK = _PLACES[:, None, :] < 16 + np.arange(HEADERS + 1)[:, None]
"""Which bytes of a record go to disk, by IP version (as above) and bytes kept of the frame."""
_PREFIX = 2 * (0x0120 + 0xB80D)  # what 2001:db8 of both addresses adds to a sum of little-endian words
_ZEROS = np.zeros(SNAPLEN, np.uint8)
SHORTEST = 60  # of an Ethernet frame, without its checksum
GLOBAL_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, 1)
_CHUNK = 1 << 16


def capture_bytes(packets: Array, flows: dict[str, Array], world: World, day_start: float, seed: int) -> list[Array]:
    """The records of a capture file, in pieces, after `GLOBAL_HEADER`.

    packets: PACKET[N] by time; flows: a day's flows by column; day_start: seconds since 1970.
    """
    rng = np.random.default_rng(seed)
    isn = rng.integers(0, 2**32, (2, len(flows["t0"])), dtype=np.int64)
    host = {c: np.asarray(v) for c, v in world.columns.items()}
    return [
        _records(packets[start : start + _CHUNK], flows, host, isn, day_start, rng)
        for start in range(0, len(packets), _CHUNK)
    ]


def _records(
    p: Array, flows: dict[str, Array], host: dict[str, Array], isn: Array, day_start: float, rng: np.random.Generator
) -> Array:
    n, f = len(p), p["flow"]
    back = (p["direction"] & 1).astype(bool)
    client, server = flows["client"][f], flows["server"][f]
    a, b = np.where(back, server, client), np.where(back, client, server)
    protocol = flows["protocol"][f]
    tcp, udp = protocol == TCP, protocol == UDP
    six = flows["ip_version"][f] == 6
    flags = p["flags"]

    # TCP options: in a SYN those of the stack (20, 12, 4 or none), later the timestamp where both sides have it.
    syn = tcp & (flags & SYN > 0)
    own = host["syn_options"][a].astype(np.int64)
    asked = flows["syn_options"][f]
    stamped = (host["timestamps"][client] > 0) & (host["timestamps"][server] > 0) & (asked < 0)
    in_syn = np.where(~back & (asked >= 0), asked, np.where(back & (asked >= 0), np.minimum(own, 4), own))
    crafted = asked >= 0
    options = np.where(syn, in_syn, np.where(tcp & stamped & ~crafted, 12, 0))
    l4 = np.where(tcp, 20 + options, 8)

    r = np.zeros(n, RECORD)
    micros = np.rint((day_start + p["t"]) * 1e6).astype(np.int64)
    r["seconds"], r["microseconds"] = np.divmod(micros, 1_000_000)
    ip_length = np.where(six, 40, 20) + l4 + p["size"]
    r["length"] = np.maximum(SHORTEST, 14 + ip_length)
    r["kept"] = np.where(six, r["length"], np.minimum(r["length"], HEADERS - 20))
    r["to_mac"][:, 0], r["from_mac"][:, 0] = 2, 2
    relayed = p["direction"] >= 2
    for name, row in (("to_mac", b), ("from_mac", a)):
        value = np.where(relayed if name == "from_mac" else False, 0xFFFF, row)
        r[name][:, 4], r[name][:, 5] = value >> 8 & 255, value & 255
    r["ethertype"], r["version"] = np.where(six, 0x86DD, 0x0800), 0x4500
    r["ip_length"], r["ident"], r["fragment"] = ip_length, rng.integers(0, 65536, n), 0x4000
    r["ttl"] = np.maximum(host["ttl"][a] - relayed, 1)
    r["protocol"], r["src"], r["dst"] = protocol, host["ip"][a], host["ip"][b]
    rows = np.flatnonzero(six)
    for name, value in (
        ("version6", np.full(n, 6 << 28)),
        ("payload6", l4 + p["size"]),
        ("next6", protocol),
        ("hops6", r["ttl"]),
    ):
        r[name][rows] = value[rows]
    for name, ends in (("src6", a), ("dst6", b)):
        r[name][rows, 0], r[name][rows, 3] = 0x20010DB8, host["ip"][ends[rows]]
    sport, dport = flows["sport"][f], flows["dport"][f]
    r["sport"], r["dport"] = np.where(back, dport, sport), np.where(back, sport, dport)
    r["seq"] = np.where(tcp, p["seq"] + isn[back.astype(np.int64), f], 0) & 0xFFFFFFFF
    r["ack"] = np.where(tcp & (flags & 16 > 0), p["ack"] + isn[1 - back.astype(np.int64), f], 0) & 0xFFFFFFFF
    r["flags"] = np.where(tcp, (5 + options // 4) << 12 | flags & 0xFF, 0)
    r["window"] = np.where(tcp, 501 + (f * 2654435761 & 0x7FFF), 0)
    _options(r, options, (micros // 1000) & 0xFFFFFFFF)
    others = np.flatnonzero(~tcp)
    r["seq"][others] = np.where(
        udp[others], (8 + p["size"][others]) << 16, (f[others] & 0xFFFF) << 16 | (p["seq"][others] & 0xFFFF)
    )
    icmp = np.flatnonzero((protocol == ICMP) | (protocol == ICMP6))
    r["sport"][icmp], r["dport"][icmp] = flags[icmp], 0

    raw = r.view(np.uint8).reshape(n, RECORD.itemsize)
    r["ip_checksum"] = _fold(_words(raw, IP4, IP6))
    pseudo = _words(raw, IP4 + 12, IP6) + _swap(protocol) + _swap(l4 + p["size"])
    pseudo += np.where(six, _PREFIX, 0)
    total = _words(raw, L4, RECORD.itemsize) + np.where(protocol == ICMP, 0, pseudo)
    checksum = _fold(total)
    r["checksum"] = np.where(tcp, checksum, 0)
    others = np.flatnonzero(udp | (protocol == ICMP) | (protocol == ICMP6))
    if len(others):
        at = np.where(udp[others], L4 + 6, L4 + 2)
        value = checksum[others]
        value = np.where(udp[others] & (value == 0), 0xFFFF, value)
        raw[others, at], raw[others, at + 1] = value & 255, value >> 8
    return _on_disk(raw, six, r["kept"].astype(np.int64))


def _on_disk(raw: Array, six: Array, kept: Array) -> Array:
    """The bytes of the records one after the other, payloads (zeros) as far as they are kept."""
    headers = np.minimum(kept, HEADERS)
    there = raw[_ON_DISK[six.astype(np.int8), headers]]
    beyond = kept - headers
    return followed_by_zeros(there, np.cumsum(16 + headers), beyond)


def followed_by_zeros(data: Array, ends: Array, zeros: Array) -> Array:
    """Bytes uint8 with so many zeros behind each of the places where a record ends; ends, zeros: [N], ascending."""
    longer = np.flatnonzero(zeros)
    done, pieces = 0, []
    for end, count in zip(ends[longer].tolist(), zeros[longer].tolist(), strict=True):
        pieces += [data[done:end], _ZEROS[:count]]
        done = end
    return np.concatenate([*pieces, data[done:]])


def _options(r: Array, length: Array, stamp: Array) -> None:
    """Fills the option words; `length` is what a segment has room for: 0, 4, 12 (SYN or later) or 20 bytes."""
    o = r["options"]
    syn = (r["flags"] & SYN) > 0
    maximum = 0x02040000 | 1460
    o[:, 0] = np.where(length == 0, 0, np.where(syn, maximum, 0x0101080A))
    later, windows, linux = (length == 12) & ~syn, (length == 12) & syn, length == 20
    for rows, words in (
        (windows, (0x01030308, 0x01010402)),
        (linux, (0x0402080A, None, 0, 0x01030307)),
        (later, (None, 0)),
    ):
        at = np.flatnonzero(rows)
        for column, word in enumerate(words, 1):
            o[at, column] = stamp[at] if word is None else word


def _words(raw: Array, start: int, stop: int) -> Array:
    return np.ascontiguousarray(raw[:, start:stop]).view("<u2").sum(axis=1, dtype=np.int64)


def _swap(value: Array) -> Array:
    return (value & 255) << 8 | value >> 8


def _fold(total: Array) -> Array:
    """One's complement of the one's complement sum (RFC 1071, whose sum does not mind the byte order)."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
