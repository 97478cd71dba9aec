"""Captures made byte by byte, so that each test says what is in its file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Packet = tuple[float, bytes]


def ip_packet(
    src: int,
    dst: int,
    sport: int,
    dport: int,
    *,
    protocol: int = 17,
    payload: int = 20,
    flags: int = 0x02,
    padding: int = 0,
) -> bytes:
    """Ethernet + IPv4 + UDP or TCP, `payload` zero bytes; hosts are the last byte of 10.0.0.0/24."""
    if protocol == 6:
        inner = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 8192, 0, 0)
    else:
        inner = struct.pack(">HHHH", sport, dport, 8 + payload, 0)
    inner += bytes(payload)
    head = struct.pack(">BBHHHBBH4B4B", 0x45, 0, 20 + len(inner), 1, 0, 64, protocol, 0, 10, 0, 0, src, 10, 0, 0, dst)
    return bytes(12) + b"\x08\x00" + head + inner + bytes(padding)


def arp_packet() -> bytes:
    return b"\xff" * 6 + bytes(6) + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20) + bytes(18)


def pcap_bytes(packets: Iterable[Packet], *, order: str = "<", nano: bool = False, snaplen: int = 65535) -> bytes:
    ticks = 1_000_000_000 if nano else 1_000_000
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, 1)]
    for when, data in packets:
        seconds, fraction = divmod(round(when * ticks), ticks)
        kept = data[:snaplen]
        out.append(struct.pack(order + "IIII", seconds, fraction, len(kept), len(data)) + kept)
    return b"".join(out)


def pcapng_bytes(packets: Iterable[Packet], *, order: str = "<", nano: bool = False) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + length + body + length

    options = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0) if nano else b""
    out = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", 1, 0, 65535) + options),
    ]
    for when, data in packets:
        stamp = round(when * (1_000_000_000 if nano else 1_000_000))
        head = struct.pack(order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        out.append(block(6, head + data))
    return b"".join(out)


@pytest.fixture(scope="session")
def conversation() -> list[Packet]:
    """Twelve UDP packets of three conversations, and one ARP request, over ten seconds."""
    start = 1_767_600_000.0
    packets = [(start, arp_packet())]
    for flow in range(3):
        for i in range(4):
            there = i % 2 == 0
            ends = (1, 2 + flow, 5000 + flow, 53) if there else (2 + flow, 1, 53, 5000 + flow)
            packets.append((start + flow * 3 + i * 0.25, ip_packet(*ends, payload=20 if there else 100)))
    return packets


@pytest.fixture
def make_capture(tmp_path: Path) -> Callable[..., Path]:
    """Writes packets (or bytes) to a file: `make_capture(packets, kind="pcap", order="<", nano=False)`."""

    def make(content: bytes | list[Packet], name: str = "made.pcap", *, kind: str = "pcap", **options: object) -> Path:
        path = tmp_path / name
        if not isinstance(content, bytes):
            content = (pcap_bytes if kind == "pcap" else pcapng_bytes)(content, **options)  # type: ignore[arg-type]
        path.write_bytes(content)
        return path

    return make


@pytest.fixture(scope="session")
def packet() -> Callable[..., bytes]:
    return ip_packet


@pytest.fixture(scope="session")
def pcap_content() -> Callable[..., bytes]:
    return pcap_bytes
