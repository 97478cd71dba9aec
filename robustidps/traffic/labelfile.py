"""Reads a label file: what somebody wrote down about captured traffic, as CSV.

    CaptureLabels   columns `capture` and `label`: one class for all flows of a capture
    FlowLabels      who spoke to whom, from when to when, and what it was: a row a flow, or a row an attack with `*` for
                    whatever isn't known ("this host against that one, from 9:20 to 10:20, is a port scan")

Columns are found by the names in `COLUMNS`, whatever their order; others are ignored and listed. Nothing is guessed: a
cell that isn't what its column says is one error that names file, row (the first data row is 1) and column. Which class
a label stands for is `labelwords.py`'s business, which flows a row holds `labels.py`'s, and what is made of both
`labelling.py`'s.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from robustidps.errors import DatasetError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.labelcells import Clock, address, port, protocol, seconds
from robustidps.traffic.labels import ANY, Truth
from robustidps.traffic.loaders.base import opened

__all__ = ["COLUMNS", "CaptureLabels", "FlowLabels", "read_labels"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "src_ip": ("src_ip", "Src IP", "Source IP", "id.orig_h", "saddr", "attacker"),
    "src_port": ("src_port", "Src Port", "Source Port", "id.orig_p", "sport"),
    "dst_ip": ("dst_ip", "Dst IP", "Destination IP", "id.resp_h", "daddr", "victim"),
    "dst_port": ("dst_port", "Dst Port", "Destination Port", "id.resp_p", "dport"),
    "protocol": ("protocol", "proto"),
    "start": ("start", "start_time", "Timestamp", "ts", "stime"),
    "end": ("end", "end_time", "ltime"),
    "duration": ("duration", "dur", "duration_ms", "Flow Duration"),
    "label": ("label", "class"),
    "campaign": ("campaign",),
    "tool": ("tool",),
    "capture": ("capture", "pcap"),
}
"""Field to the names that its column may have; upper and lower case, blanks and `_` make no difference."""

_UNITS = {"durationms": 1e-3, "flowduration": 1e-6}
"""Durations in other units than seconds: CICFlowMeter's `Flow Duration` is in microseconds."""
_NEEDED = ("src_ip", "dst_ip", "start", "label")
_PORTLESS = (1, 2, 58)  # ICMP, IGMP, ICMPv6: port 0 for NFStream, type and code for Zeek; so any port here
_LARGEST = 2 * 1024**3
_LONGEST_LINE = 1 << 20
_MOST_ROWS = 5_000_000


@dataclass(frozen=True)
class CaptureLabels:
    """label: capture, as the file writes it, to label ("" where it says none). row: the same to its row."""

    path: Path
    sha256: str
    label: dict[str, str]
    row: dict[str, int]
    ignored: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class FlowLabels:
    """truth: one entry a row, with labels as the file writes them; `campaign` and `tool` empty where it has none.

    zone: that times without one were read in; None if no row needed it.
    """

    path: Path
    sha256: str
    truth: Truth
    ignored: tuple[str, ...]
    zone: tzinfo | None = None

    def __len__(self) -> int:
        return len(self.truth)


def read_labels(path: Path | str, *, zone: tzinfo = UTC, progress: Progress = silent) -> CaptureLabels | FlowLabels:
    """What a label file says, which may be gzip-compressed.

    Args:
        zone: of times that name none.

    Raises:
        DatasetError: not there, no UTF-8 text, columns missing or doubled, no row, a row named in the message that
            doesn't fit.
    """
    path = Path(path)
    with opened(path, ceiling=_LARGEST, progress=progress) as stream:
        lines = _Lines(path, stream)
        rows = csv.reader(lines, delimiter=lines.delimiter, strict=True)
        header = [cell.strip() for cell in next(_checked(path, rows, lines), [])]
        columns, unit = _columns(path, header)
        table = _table(path, rows, lines, len(header))
        ignored = tuple(printable(name, 80) for i, name in enumerate(header) if i not in columns.values())
        if "capture" in columns:
            label, row = _captures(path, columns, table)
            stream.drain()
            return CaptureLabels(path, stream.hash.hexdigest(), label, row, ignored)
        truth, zoneless = _truth(path, columns, unit, table, zone)
        stream.drain()
        return FlowLabels(path, stream.hash.hexdigest(), truth, ignored, zone if zoneless else None)


class _Lines:
    """Lines of text of a stream, one at a time. given: rows so far, the header included: the next one's number."""

    def __init__(self, path: Path, stream: Any) -> None:
        self.path, self.given = path, 0
        self._raw = self._split(stream)
        first = next(self._raw, b"")
        if first.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in first:
            raise self._foreign("is UTF-16 text or no text")
        self._first: bytes | None = first.removeprefix(b"\xef\xbb\xbf")
        # A header has more separators than anything else that could be one.
        self.delimiter = max(",;\t", key=lambda mark: first.count(mark.encode()))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw, self._first = (next(self._raw), None) if self._first is None else (self._first, None)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._foreign(f"{self.place} is no UTF-8 text (byte {raw[error.start]:#04x})") from None

    @property
    def place(self) -> str:
        return f"row {self.given}" if self.given else "the header"

    def _foreign(self, what: str) -> DatasetError:
        return DatasetError(what, where=self.path, remedy="save it as UTF-8, e.g. iconv -f cp1252 -t utf-8")

    def _split(self, stream: Any) -> Iterator[bytes]:
        rest = b""
        while block := stream.read(1 << 20):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield line + b"\n"
            if len(rest) > _LONGEST_LINE:
                raise DatasetError(f"{self.place} is longer than {_LONGEST_LINE} bytes", where=self.path)
        if rest:
            yield rest


def _checked(path: Path, rows: Any, lines: _Lines) -> Iterator[list[str]]:
    """Rows that aren't blank; what the csv module says against one becomes an error of ours."""
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DatasetError(f"{lines.place} isn't readable as CSV: {error}", where=path) from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            lines.given += 1
            yield row


def _columns(path: Path, header: list[str]) -> tuple[dict[str, int], float]:
    """Where each field's column is, and the unit of a duration in seconds."""
    by_name = {_folded(name): field for field, names in COLUMNS.items() for name in names}
    columns: dict[str, int] = {}
    for i, name in enumerate(header):
        field = by_name.get(_folded(name))
        if field is None:
            continue
        if field in columns:
            one, other = (printable(header[k], 60) for k in (columns[field], i))
            raise DatasetError(
                f"columns '{one}' and '{other}' both give the {field}", where=path, remedy="remove or rename one"
            )
        columns[field] = i
    flows = columns.keys() & {"src_ip", "dst_ip", "start"}
    if "capture" in columns and flows:
        raise DatasetError(
            f"has a column for the capture and others for its flows ({', '.join(sorted(flows))})",
            where=path,
            remedy="label whole captures or flows: remove one or the other",
        )
    needed = ("capture", "label") if "capture" in columns else _NEEDED
    if missing := [field for field in needed if field not in columns]:
        known = ", ".join(f"'{printable(name, 40)}'" for name in header[:12])
        raise DatasetError(
            f"has no column for {', '.join(missing)}; its columns are {known or 'none'}",
            where=path,
            remedy="whole captures need `capture` and `label`, flows src_ip, dst_ip, start and label (docs/data.md)",
        )
    if "end" in columns and "duration" in columns:
        # Zeek and Argus write one, CIC the other. Of both, the end says it without arithmetic.
        del columns["duration"]
    unit = _UNITS.get(_folded(header[columns["duration"]]), 1.0) if "duration" in columns else 1.0
    return columns, unit


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum() or c == ".")


def _table(path: Path, rows: Any, lines: _Lines, width: int) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of each data row."""
    row = 0
    for row, cells in enumerate(_checked(path, rows, lines), start=1):
        if len(cells) != width:
            raise DatasetError(
                f"row {row} has {len(cells)} fields, expected {width}", where=path, remedy="mend or remove it"
            )
        if row > _MOST_ROWS:
            raise DatasetError(f"has more than {_MOST_ROWS} rows", where=path, remedy="split it")
        yield row, cells
    if not row:
        raise DatasetError("has no row", where=path)


def _captures(
    path: Path, columns: dict[str, int], table: Iterator[tuple[int, list[str]]]
) -> tuple[dict[str, str], dict[str, int]]:
    label: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row, cells in table:
        name = cells[columns["capture"]].strip().replace("\\", "/").removeprefix("./")
        if not name:
            raise DatasetError(f"row {row} names no capture", where=path)
        if name in label:
            raise DatasetError(
                f"row {row} names {printable(name, 100)} again (row {rows[name]} did)", where=path, remedy="keep one"
            )
        label[name], rows[name] = cells[columns["label"]].strip(), row
    return label, rows


def _truth(
    path: Path, columns: dict[str, int], unit: float, table: Iterator[tuple[int, list[str]]], zone: tzinfo
) -> tuple[Truth, bool]:
    """One entry a row; and whether any time had no zone of its own."""
    clocks = {field: Clock(zone) for field in ("start", "end")}
    parse: dict[str, Callable[[str], Any]] = {
        "src_ip": cache(address), "dst_ip": cache(address), "src_port": cache(port), "dst_port": cache(port),
        "protocol": cache(protocol), "start": clocks["start"], "end": clocks["end"], "duration": seconds,
        "label": sys.intern, "campaign": sys.intern, "tool": sys.intern,
    }  # fmt: skip
    found: dict[str, list[Any]] = {field: [] for field in parse}
    used = [(field, columns[field], parse[field], found[field]) for field in parse if field in columns]
    for row, cells in table:
        for field, column, read, values in used:
            try:
                values.append(read(cells[column].strip()))
            except ValueError as error:
                raise DatasetError(f"row {row}, {field}: {error}", where=path) from None
        if "end" in columns and found["end"][-1] < found["start"][-1]:
            raise DatasetError(
                f"row {row} ends before it starts", where=path, remedy="mend it; are day and month the right way round?"
            )
    n = len(found["label"])
    start = np.array(found["start"], np.float64)
    if "end" in columns:
        end = np.array(found["end"], np.float64)
    else:
        end = start + np.array(found["duration"], np.float64) * unit if "duration" in columns else start
    numbers = {f: np.array(found[f] or [ANY] * n, np.int32) for f in ("src_port", "dst_port", "protocol")}
    portless = np.isin(numbers["protocol"], _PORTLESS)
    numbers["src_port"][portless] = numbers["dst_port"][portless] = ANY
    texts = {f: np.array(found[f] or [""] * n, dtype=object) for f in ("src_ip", "dst_ip", "label", "campaign", "tool")}
    return Truth(start=start, end=end, **numbers, **texts), any(clock.zoneless for clock in clocks.values())
