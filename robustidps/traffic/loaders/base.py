"""The one shape of a loader, and how its files are found and opened.

A `.gz` is read as a stream with a ceiling on what it unpacks to: a few kilobytes can hold terabytes.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from robustidps.errors import DatasetError
from robustidps.progress import Progress, silent
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.traffic.loaders.table import TableSpec

__all__ = ["LARGEST", "Loader", "Recognised", "Stream", "opened"]

LARGEST = 32 * 1024**3
"""Bytes; what one file may unpack to."""


@dataclass(frozen=True)
class Recognised:
    """A release that a loader knows, found at a path. parts: name to file."""

    loader: str
    release: str
    parts: dict[str, Path]
    notes: tuple[str, ...] = ()


class Loader(Protocol):
    """What every loader has."""

    name: str

    def recognise(self, path: Path) -> Recognised | None:
        """Which release lies at `path`; None if none that this loader knows. Never raises for a file's content."""

    def describe(self) -> dict[str, Any]:
        """Title, source, terms, citation, classes, parts, known defects: for `robustidps data`. JSON-able."""

    def load(
        self, path: Path, *, part: str | None, schema: Path | str | TableSpec | None, progress: Progress
    ) -> TrafficSet:
        """As `robustidps.traffic.loaders.load`."""


@dataclass
class Stream:
    """A file that is read once, from its start, hashing what it unpacks to. Has what pyarrow asks of a file."""

    path: Path
    raw: BinaryIO
    file: Any  # raw, or gzip over it
    ceiling: int
    size: int
    progress: Progress
    hash: Any = field(default_factory=hashlib.sha256)
    read_bytes: int = 0
    newlines: int = 0
    tail: bytes = b""
    closed: bool = False
    mode: str = "rb"

    def read(self, size: int = -1) -> bytes:
        try:
            block: bytes = self.file.read(size if size and size > 0 else 1 << 20)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(
                f"its compression is broken: {error}", where=self.path, remedy="fetch it again"
            ) from None
        self.read_bytes += len(block)
        if self.read_bytes > self.ceiling:
            raise DatasetError(f"unpacks to more than {self.ceiling} bytes", where=self.path)
        self.hash.update(block)
        self.newlines += block.count(b"\n")
        self.tail = block[-1:] or self.tail
        self.progress("reading", self.raw.tell(), self.size, unit="B")
        return block

    @property
    def lines(self) -> int:
        """Lines read so far, one without a line end included."""
        return self.newlines + (self.tail not in (b"", b"\n"))

    def drain(self) -> None:
        while self.read(1 << 20):
            pass

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


@contextmanager
def opened(path: Path, *, ceiling: int = LARGEST, progress: Progress = silent) -> Iterator[Stream]:
    """`path` for one reading, unpacked if it is gzip, whatever its name says.

    Raises:
        DatasetError: not there, not a file, empty.
    """
    try:
        if not path.is_file():
            raise DatasetError("is not a file" if path.exists() else "no such file", where=path)
        with path.open("rb") as raw:
            start = raw.read(2)
            raw.seek(0)
            if not start:
                raise DatasetError("is empty", where=path)
            file = gzip.GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw
            yield Stream(path, raw, file, ceiling, path.stat().st_size, progress)
    except OSError as error:
        raise DatasetError(f"can't be read: {error.strerror or error}", where=path) from None
