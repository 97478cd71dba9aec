"""The one shape of a loader, and how its files are found and opened.

`.gz` and `.zip` (`archive`) are read as streams with a ceiling on what they unpack to: a few kilobytes can hold
terabytes.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from robustidps.errors import DatasetError
from robustidps.progress import Progress, silent
from robustidps.traffic.loaders import archive
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.traffic.loaders.table import TableSpec

__all__ = ["LARGEST", "Loader", "Recognised", "Stream", "data_files", "opened"]

LARGEST = 32 * 1024**3
"""Bytes; what one file may unpack to."""

_ENDINGS = (".csv", ".txt", ".data", ".parquet")
_MOST_FILES = 20_000
_DEPTH = 3  # the per-attack files of CIC-IoT-2023 lie in a folder per attack, in a folder


@dataclass(frozen=True)
class Recognised:
    """A release that a loader knows, found at a path.

    parts: name to file. rows: data rows per part, as counted, where they were. dropped: columns that are left out,
    with the reason. unusable: share of a file's rows that may be left out for want of a finite number. unused: files
    that lie there and belong to no part, with the reason.
    """

    loader: str
    release: str
    parts: dict[str, Path]
    notes: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    unusable: float = 0.0
    unused: dict[str, str] = field(default_factory=dict)


class Loader(Protocol):
    """What every loader has."""

    name: str

    def identify(self, path: Path, *, progress: Progress = silent) -> Recognised | None:
        """Which release lies at `path`; None if nothing there looks like this set.

        Raises:
            DatasetError: what lies there looks like this set and isn't one of its releases, or mixes several.
        """

    def describe(self) -> dict[str, Any]:
        """Title, source, terms, citation, classes, parts, known defects: for `robustidps data`. JSON-able."""

    def load(
        self,
        path: Path,
        *,
        part: str | None,
        schema: Path | str | TableSpec | None,
        limit: int | None = None,
        progress: Progress = silent,
    ) -> TrafficSet:
        """As `robustidps.traffic.loaders.load`."""


@dataclass
class Stream:
    """A file that is read once, from its start, hashing what it unpacks to. Has what pyarrow asks of a file."""

    path: Path
    raw: BinaryIO
    file: Any  # raw, or what unpacks it
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
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"its compression is broken: {error}",
                where=self.path,
                remedy="fetch it again: an interrupted download looks like this",
            ) from None
        self.read_bytes += len(block)
        if self.read_bytes > self.ceiling:
            raise DatasetError(
                f"unpacks to more than {self.ceiling} bytes", where=self.path, remedy="don't trust it: a bomb looks so"
            )
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
    """`path` for one reading, unpacked if it is gzip or zip, whatever its name says.

    Args:
        path: a file, or `ARCHIVE.zip/NAME` for a file in an archive.

    Raises:
        DatasetError: not there, not a file, empty, or an archive that isn't read (`archive`).
    """
    try:
        on_disk, name = archive.located(path)
        if not on_disk.is_file():
            raise DatasetError("is not a file" if path.exists() else "no such file", where=path)
        with on_disk.open("rb") as raw, ExitStack() as stack:
            start = raw.read(8)
            raw.seek(0)
            size = on_disk.stat().st_size
            if not start:
                raise DatasetError("is empty", where=path)
            file: Any = raw
            if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                file, packed = stack.enter_context(archive.member(on_disk, raw, name))
                ceiling = archive.ceiling_of(packed, ceiling)
            elif name is not None:
                raise DatasetError("is no zip archive", where=on_disk)
            elif start[:2] == b"\x1f\x8b":
                file = gzip.GzipFile(fileobj=raw)
                ceiling = archive.ceiling_of(size, ceiling)
            elif kind := archive.foreign(start):
                raise DatasetError(f"is a {kind} archive", where=path, remedy="unpack it; .gz and .zip are read as is")
            yield Stream(path, raw, file, ceiling, size, progress)
    except OSError as error:
        raise DatasetError(f"can't be read: {error.strerror or error}", where=path) from None


def data_files(path: Path) -> list[Path]:
    """The data files at `path`, by name: itself, those of a folder and the folders in it, those in zip archives.

    Raises:
        DatasetError: no such file or folder, too many files, or an archive that is refused.
    """
    if path.is_file():
        return _unfolded(path)
    if not path.is_dir():
        if archive.located(path)[1] is not None:
            return [path]
        raise DatasetError("no such file or folder", where=path)
    found: list[Path] = []
    folders = [(path, 1)]
    while folders:
        folder, depth = folders.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise DatasetError(f"can't be read: {error.strerror or error}", where=folder) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and not entry.is_symlink() and depth < _DEPTH:
                folders.append((entry, depth + 1))
            elif entry.is_file() and _holds_data(entry.name):
                found += _unfolded(entry)
            if len(found) + len(folders) > _MOST_FILES:
                raise DatasetError(f"holds more than {_MOST_FILES} files", where=path, remedy="name a folder in it")
    return sorted(found)


def _unfolded(file: Path) -> list[Path]:
    """A file, or the data files in it where it is an archive."""
    if not archive.is_zip(file):
        return [file]
    return [file / entry.filename for entry in archive.members(file) if _holds_data(entry.filename)]


def _holds_data(name: str) -> bool:
    plain = name.casefold().removesuffix(".gz")
    return plain.endswith((*_ENDINGS, ".zip")) or plain != name.casefold()
