"""Walks the record headers of a pcap or pcapng file, before anything parses a packet.

NFStream reads what it can of a damaged file and says nothing, so this walk is what notices: it follows every length
field to the end of the file, and says how many whole packets there are and at which byte the first broken one begins.
It reads in blocks (never by mmap: a file cut while it is read would be a SIGBUS), keeps only counters, and believes
no length beyond what the format allows. `python -m benchmarks ingest` says how fast.

Formats: pcap with either byte order, micro- and nanosecond stamps (draft-ietf-opsawg-pcap); pcapng with any number of
sections and interfaces (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from robustidps.errors import CaptureError
from robustidps.progress import Progress, silent

__all__ = ["LARGEST_PACKET", "CaptureReport", "walk"]

LARGEST_PACKET = 262_144
"""Bytes; libpcap's own MAXIMUM_SNAPLEN. A record that claims more is damage, not a packet."""
LARGEST_BLOCK = 16 * 1024 * 1024
"""Bytes; libpcap's limit on a pcapng block."""

_BLOCK = 4 * 1024 * 1024
_PCAP = {  # the first four bytes: byte order, ticks a second
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000),
    b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_LOOKALIKES = {
    b"\x1f\x8b": "is gzip-compressed", b"\x28\xb5\x2f\xfd": "is zstd-compressed", b"PK\x03\x04": "is a zip archive",
    b"\xa1\xb2\xcd\x34": "is Kuznetzov's modified pcap", b"\x34\xcd\xb2\xa1": "is Kuznetzov's modified pcap",
    b"snoop\0": "is a Solaris snoop file", b"PAR1": "is Parquet",
}  # fmt: skip


@dataclass(frozen=True)
class CaptureReport:
    """What a capture file is, and after `extract` what was read from it. Plain data."""

    path: str
    format: str  # pcap | pcapng
    size: int  # bytes
    packets: int  # whole ones
    whole_bytes: int  # up to the end of the last whole record
    truncated: bool  # something other than a whole record follows
    damage: str = ""  # what follows, in words
    byte_order: str = "little"
    link_types: tuple[int, ...] = ()  # LINKTYPE_ numbers
    first_time: float | None = None  # earliest stamp, seconds since 1970
    last_time: float | None = None  # latest
    sha256: str = ""  # of the file
    flows: int | None = None  # None until extracted
    packets_in_flows: int | None = None
    packets_without_ip: int | None = None  # ARP and the like, fragments and what NFStream couldn't parse
    seconds: float | None = None  # that NFStream took
    sandbox: dict[str, Any] = field(default_factory=dict)  # what rights the worker had given up

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "link_types": list(self.link_types)}


class _Damage(Exception):
    """The walk can't go on past the last whole record."""


class _Walk:
    """Counters and a buffer over `file`. `at(n)` guarantees n bytes at `self.pos`, or says that the file ends."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress) -> None:
        self.file, self.size, self.progress = file, size, progress
        self.buffer, self.pos, self.base = b"", 0, 0  # base: the buffer's offset in the file
        self.hash = hashlib.sha256()
        self.packets, self.whole = 0, 0
        self.first, self.last = float("inf"), float("-inf")
        self.links: dict[int, None] = {}
        self.order = "<"

    def fill(self) -> bool:
        """Drops what was read and appends a block; False at the end of the file."""
        block = self.file.read(_BLOCK)
        self.hash.update(block)
        self.base += self.pos
        self.buffer, self.pos = self.buffer[self.pos :] + block, 0
        self.progress("checking the capture", self.base, self.size, unit="B")
        return bool(block)

    def need(self, n: int, what: str) -> None:
        while len(self.buffer) - self.pos < n:
            if not self.fill():
                raise _Damage(f"ends within {what}")

    @property
    def offset(self) -> int:
        return self.base + self.pos

    def finish_hash(self) -> str:
        while block := self.file.read(_BLOCK):
            self.hash.update(block)
        return self.hash.hexdigest()

    def seen(self, stamp: float) -> None:
        if stamp < self.first:
            self.first = stamp
        if stamp > self.last:
            self.last = stamp


def walk(file: BinaryIO, path: Path, *, progress: Progress = silent) -> CaptureReport:
    """Follows all record headers of `file`, open at its start.

    Raises:
        CaptureError: empty, not a capture, or a header that no reader could use. Damage after the header is no
            error here: `truncated` and `damage` tell.
    """
    size = path.stat().st_size
    w = _Walk(file, size, progress)
    w.fill()
    magic = w.buffer[:4]
    if not w.buffer:
        raise CaptureError("is empty", where=path)
    if magic not in _PCAP and magic != _PCAPNG:
        known = next((what for start, what in _LOOKALIKES.items() if w.buffer.startswith(start)), None)
        remedy = "unpack it first" if known and "compress" in known + "zip" else None
        raise CaptureError(
            f"{known or 'is not a capture'}: expected pcap or pcapng",
            where=path,
            remedy=remedy or "give a file written by tcpdump, Wireshark or the like",
        )
    damage = ""
    try:
        (_walk_pcap if magic in _PCAP else _walk_pcapng)(w, path)
    except _Damage as found:
        damage = f"{found} at byte {w.whole} of {size}, after {w.packets} whole packets"
    return CaptureReport(
        path=str(path),
        format="pcap" if magic in _PCAP else "pcapng",
        size=size,
        packets=w.packets,
        whole_bytes=w.whole,
        truncated=bool(damage),
        damage=damage,
        byte_order="little" if w.order == "<" else "big",
        link_types=tuple(w.links),
        first_time=w.first if w.packets and w.first != float("inf") else None,
        last_time=w.last if w.packets and w.last != float("-inf") else None,
        sha256=w.finish_hash(),
    )


def _walk_pcap(w: _Walk, path: Path) -> None:
    w.order, ticks = _PCAP[w.buffer[:4]]
    if len(w.buffer) < 24:
        raise CaptureError(f"ends within pcap's file header: {len(w.buffer)} of 24 bytes", where=path)
    major, minor, _, _, _, link = struct.unpack_from(w.order + "HHiIII", w.buffer, 4)
    if major != 2 or minor > 4:
        raise CaptureError(f"is pcap version {major}.{minor}; 2.4 is what everyone writes", where=path)
    w.links[link & 0x0FFFFFFF] = None
    w.pos = w.whole = 24
    header = struct.Struct(w.order + "IIII").unpack_from
    first, last, packets = 1 << 62, -1, 0
    stamp = -1
    try:
        while True:
            # The loop over packets: locals only, one block of the file at a time.
            buffer, pos = w.buffer, w.pos
            end = len(buffer)
            while end - pos >= 16:
                seconds, fraction, length, _ = header(buffer, pos)
                if length > LARGEST_PACKET:
                    w.pos = pos
                    w.whole = w.base + pos
                    raise _Damage(f"a record claims {length} bytes, beyond any packet")
                if end - pos - 16 < length:
                    break
                pos += 16 + length
                packets += 1
                stamp = seconds * ticks + fraction
                if stamp < first:
                    first = stamp
                if stamp > last:
                    last = stamp
            w.pos = pos
            w.whole = w.base + pos
            if not w.fill():
                if len(w.buffer):
                    raise _Damage("ends within a packet" if len(w.buffer) >= 16 else "ends within a record header")
                return
    finally:
        w.packets = packets
        if packets:
            w.first, w.last = first / ticks, last / ticks


def _walk_pcapng(w: _Walk, path: Path) -> None:
    order = "<"
    interfaces: list[float] = []  # seconds a tick, per interface of the section
    while True:
        w.whole = w.offset
        if len(w.buffer) - w.pos < 28 and not w.fill() and w.pos == len(w.buffer):
            return
        w.need(12, "a block header")
        kind, length = struct.unpack_from(order + "II", w.buffer, w.pos)
        if kind == _SECTION or w.whole == 0:
            mark = w.buffer[w.pos + 8 : w.pos + 12]
            if mark not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                if w.whole == 0:
                    raise CaptureError("its section header has no byte-order mark", where=path)
                raise _Damage("a section header has no byte-order mark")
            order = w.order = "<" if mark == b"\x4d\x3c\x2b\x1a" else ">"
            length = struct.unpack_from(order + "I", w.buffer, w.pos + 4)[0]
            interfaces = []
        if length < (28 if kind == _SECTION else 12) or length % 4 or length > LARGEST_BLOCK:
            raise _Damage(f"a block claims {length} bytes")
        w.need(length, "a block")
        body, pos = w.buffer, w.pos
        if struct.unpack_from(order + "I", body, pos + length - 4)[0] != length:
            raise _Damage("a block's two lengths differ")
        if kind == _INTERFACE:
            if length < 20:
                raise _Damage("an interface's description is too short")
            link = struct.unpack_from(order + "H", body, pos + 8)[0]
            w.links[link] = None
            interfaces.append(_resolution(body[pos + 16 : pos + length - 4], order))
        elif kind in (_ENHANCED, _OLD_PACKET):
            if length < 32:
                raise _Damage("a packet block is too short")
            number, high, low, captured = struct.unpack_from(order + "IIII", body, pos + 8)
            if kind == _OLD_PACKET:
                number = struct.unpack_from(order + "H", body, pos + 8)[0]
            if number >= len(interfaces):
                raise _Damage(f"a packet names interface {number}, and there are {len(interfaces)}")
            if captured > min(LARGEST_PACKET, length - 32):
                raise _Damage(f"a packet claims {captured} bytes in a block of {length}")
            w.packets += 1
            w.seen(((high << 32) | low) * interfaces[number])
        elif kind == _SIMPLE:
            if not interfaces:
                raise _Damage("a packet comes before any interface")
            if length < 16:
                raise _Damage("a packet block is too short")
            w.packets += 1
        w.pos += length


def _resolution(options: bytes, order: str) -> float:
    """Seconds a tick from an interface's options (if_tsresol, code 9); a microsecond unless told."""
    pos = 0
    while pos + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, pos)
        if code == 0:
            break
        if code == 9 and length >= 1 and pos + 4 < len(options):
            value = options[pos + 4]
            return float(2.0 ** -(value & 0x7F)) if value & 0x80 else float(10.0 ** -(value & 0x7F))
        pos += 4 + (length + 3) // 4 * 4
    return 1e-6
