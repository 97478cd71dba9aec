"""Zip archives from strangers, read as streams: nothing is ever unpacked to disk.

A file inside an archive has the path `ARCHIVE.zip/NAME`, and everything that reads data sets takes such a path like any
other. What is refused: a directory with too many or too long entries, names that lead out of the archive, a name that
stands there twice, encrypted members, an archive within an archive, and one that was cut off on its way.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from robustidps.errors import DatasetError, printable

__all__ = ["FREE", "MEMBERS", "RATIO", "ceiling_of", "foreign", "is_zip", "located", "member", "members"]

MEMBERS = 10_000
"""Files that an archive may hold."""

DIRECTORY = 16 * 1024**2
"""Bytes; how long an archive's table of contents may be (it is read into memory)."""

RATIO = 200
"""How many times its packed size a file may unpack to. Flow records as CSV pack by 5 to 40."""

FREE = 256 * 1024**2
"""Bytes that any file may unpack to, whatever the ratio."""

_FOREIGN = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BROKEN = "fetch it again: an interrupted download looks like this"


def ceiling_of(packed: int, ceiling: int) -> int:
    """Bytes that `packed` bytes may unpack to, at most `ceiling`."""
    return min(ceiling, max(FREE, RATIO * packed))


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does (an empty one too)."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def located(path: Path) -> tuple[Path, str | None]:
    """The file on disk, and the name within it where `path` leads into an archive."""
    with suppress(OSError):  # a name beyond the system's length
        for parent in path.parents:
            if parent.is_file():
                return parent, path.relative_to(parent).as_posix()
    return path, None


def members(path: Path) -> list[zipfile.ZipInfo]:
    """The files in an archive, by name, without folders and what operating systems add.

    Raises:
        DatasetError: see the module's text.
    """
    try:
        with path.open("rb") as raw, _archive(path, raw) as archive:
            return _checked(path, archive)
    except OSError as error:
        raise DatasetError(f"can't be read: {error.strerror or error}", where=path) from None


@contextmanager
def member(path: Path, raw: BinaryIO, name: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """One file of the archive in `raw` and its packed size; without a name the only one there is.

    Raises:
        DatasetError: no such file, several to choose from, or see the module's text.
    """
    with _archive(path, raw) as archive:
        files = _checked(path, archive)
        if name is None and len(files) != 1:
            some = ", ".join(f"{path.name}/{printable(f.filename, 80)}" for f in files[:3])
            raise DatasetError(
                f"holds {len(files)} files",
                where=path,
                remedy=f"name one of them: {some}" if files else "fetch it again",
            )
        wanted = [f for f in files if name is None or PurePosixPath(f.filename) == PurePosixPath(name)]
        if not wanted:
            raise DatasetError(f"holds no file '{printable(name, 80)}'", where=path)
        try:
            with archive.open(wanted[0]) as file:
                start = file.peek(8)  # type: ignore[attr-defined]
                if start[:4] in (b"PK\x03\x04", b"PK\x05\x06") or start[:2] == b"\x1f\x8b" or foreign(start):
                    raise DatasetError(
                        f"'{printable(wanted[0].filename, 80)}' in it is an archive too",
                        where=path,
                        remedy="unpack the outer one yourself",
                    )
                if start[:4] == b"PAR1":
                    raise DatasetError("is Parquet within an archive", where=path, remedy="unpack it yourself")
                yield file, wanted[0].compress_size
        except (zipfile.BadZipFile, EOFError) as error:
            raise DatasetError(f"is damaged: {printable(error)}", where=path, remedy=_BROKEN) from None
        except (NotImplementedError, RuntimeError) as error:
            raise DatasetError(f"is packed in a way we can't read: {printable(error)}", where=path) from None


def foreign(start: bytes) -> str:
    """The kind of archive that begins with these bytes, of those nobody here reads; else empty."""
    return next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), "")


class _Bounded(io.RawIOBase):
    """A file of which no single read may be longer than the longest table of contents."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path, self.raw = path, raw

    def read(self, size: int = -1) -> bytes:
        block = self.raw.read(size if 0 <= size <= DIRECTORY else DIRECTORY + 1)
        if len(block) > DIRECTORY:
            raise DatasetError(
                f"has a table of contents of more than {DIRECTORY} bytes", where=self.path, remedy="don't trust it"
            )
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _archive(path: Path, raw: BinaryIO) -> zipfile.ZipFile:
    bounded: Any = _Bounded(path, raw)
    try:
        return zipfile.ZipFile(bounded)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DatasetError(
            f"is a zip archive without its end: {printable(error)}", where=path, remedy=_BROKEN
        ) from None
    except NotImplementedError as error:
        raise DatasetError(f"is packed in a way we can't read: {printable(error)}", where=path) from None


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    entries = archive.infolist()
    if len(entries) > MEMBERS:
        raise DatasetError(f"holds {len(entries)} entries, more than {MEMBERS}", where=path, remedy="don't trust it")
    names, files = set[PurePosixPath](), []
    for entry in entries:
        name = PurePosixPath(entry.filename)
        shown = printable(entry.filename, 80)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.orig_filename or ":" in entry.filename[:3]:
            raise DatasetError(f"'{shown}' in it leads out of the archive", where=path, remedy="don't trust it")
        if name in names:
            raise DatasetError(f"'{shown}' stands in it twice", where=path, remedy="don't trust it")
        names.add(name)
        if entry.is_dir() or name.name.startswith(".") or "__MACOSX" in name.parts:
            continue
        if entry.flag_bits & 1:
            raise DatasetError(f"'{shown}' in it is encrypted", where=path, remedy="unpack it with its password")
        files.append(entry)
    return sorted(files, key=lambda entry: entry.filename)
