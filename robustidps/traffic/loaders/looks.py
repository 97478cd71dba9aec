"""Looks at a file without reading it as a table: its first lines, how many rows it has, what it is called."""

from __future__ import annotations

import csv
from pathlib import Path

from robustidps.errors import DatasetError, printable
from robustidps.progress import Progress
from robustidps.traffic.loaders.base import opened
from robustidps.traffic.loaders.cells import arrow
from robustidps.traffic.loaders.spec import TableSpec, columns_of
from robustidps.traffic.loaders.table import is_parquet

__all__ = ["check_counts", "counted", "first_row", "is_number", "shown", "stem_of"]

_START = 1 << 16  # bytes in which a file's first line must end
_BEHIND = ("csv", "txt", "parquet", "gz", "pcap")


def first_row(file: Path) -> list[str]:
    """The cells of a file's first line, or a Parquet file's columns. Names and numbers are ASCII in all known sets."""
    if is_parquet(file):
        pa, pq = arrow()
        try:
            return list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"not readable as Parquet: {printable(error)}", where=file) from None
    return _first_rows(file, 1)[0]


def _first_rows(file: Path, most: int) -> list[list[str]]:
    """The cells of a file's first lines, as far as 64 KiB hold them whole; [[]] where it isn't CSV."""
    with opened(file) as stream:
        start = b""
        while len(start) < _START and (block := stream.read(_START)):
            start += block
    lines = start.removeprefix(b"\xef\xbb\xbf").decode("latin-1").splitlines()
    if len(start) >= _START and len(lines) > 1:
        lines.pop()
    try:
        return [[c.strip() for c in cells] for cells in csv.reader(lines[:most])] or [[]]
    except csv.Error:
        return [[]]


def counted(file: Path, table: TableSpec, progress: Progress) -> tuple[int, str]:
    """Data rows, and the SHA-256 (hex) of the unpacked file (empty for Parquet)."""
    if is_parquet(file):
        return int(arrow()[1].read_metadata(file).num_rows), ""
    with opened(file, progress=lambda stage, *args, **more: progress("counting rows", *args, **more)) as stream:
        stream.drain()
        return stream.lines - table.header, stream.hash.hexdigest()


def check_counts(file: Path, table: TableSpec) -> None:
    """Raises DatasetError for a count with a fraction in the first rows: `describe` reads no more of a file."""
    counts = [f.name for f in table.features if f.kind == "count"]
    if not table.fractions or not counts or is_parquet(file):
        return
    header, *rows = _first_rows(file, 200)
    index = columns_of(header, table).index
    for at, cells in enumerate(rows, start=1):
        for name in counts:
            cell = cells[index[name]] if index[name] < len(cells) else ""
            if is_number(cell) and float(cell) % 1:
                raise DatasetError(
                    f"{printable(cell, 40)} is no count: {table.fractions}", where=f"{file}, row {at}, column '{name}'"
                )


def stem_of(file: Path) -> str:
    """A file's name without what was put behind it: `.csv.gz`, `.pcap.csv`, `.pcap_ISCX.csv`."""
    stem = file.name
    while (parts := stem.rpartition("."))[0] and parts[2].casefold().startswith(_BEHIND):
        stem = parts[0]
    return stem


def shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file != root and file.is_relative_to(root) else file.name


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
