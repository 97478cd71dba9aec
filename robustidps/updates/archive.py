"""A bundle as one file: a deterministic tar, and the strict reader of one.

`pack` writes an uncompressed USTAR archive of sorted names, with no owner, mode 0644 and time zero, ended by two empty
blocks: the same bundle gives the same bytes, on any machine. `unpack` takes that and nothing else. It goes over all
headers before it writes anything, and each must be, byte for byte, the one that `pack` writes for a file of that name
and size. So links, devices, folders, sparse files, extended headers that rename, absolute paths, `..`, a name given
twice, a second archive behind the first and a compressed one are all refused without a reader that knows them.

What is written is at most what the archive itself holds, which is at most `MAX_BYTES`: nothing expands.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tarfile
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from robustidps.bundle.files import NATIVE_FILES, limit_of, read_folder
from robustidps.errors import BundleError, printable
from robustidps.settings import writable

__all__ = ["MAX_BYTES", "pack", "unpack"]

MAX_BYTES = 2 * 2**30
"""The largest archive, in bytes."""
_BLOCK, _END = 512, bytes(1024)
_COPY = 1 << 20
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"g": "an extended header",
    b"x": "an extended header",
    b"L": "an extended header",
    b"K": "an extended header",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}


@dataclass(frozen=True)
class _Member:
    """start: of its content in the archive, in bytes."""

    name: str
    size: int
    start: int


def pack(folder: Path, target: Path) -> None:
    """Writes the bundle in `folder` as an archive, whole or not at all; a file that is there is replaced.

    Raises:
        NotFoundError: there is no such folder. BundleError: it is no bundle, or larger than `MAX_BYTES`.
        StorageError: the disk is full or the folder read-only.
    """
    contents = read_folder(Path(folder))
    total = sum(_BLOCK + size + _padding(size) for _, size, _ in contents.listing) + len(_END)
    if total > MAX_BYTES:
        raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB as an archive", where=folder)
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    with writable(target):
        try:
            with part.open("xb") as out:
                for name, size, sha256 in contents.listing:
                    data = contents.files.get(name) or _again(Path(folder) / name, sha256)
                    out.write(_header(name, size) + data + bytes(_padding(size)))
                out.write(_END)
                out.flush()
                os.fsync(out.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, *, where: object | None = None) -> None:
    """Unpacks into `folder`, which is made and must not be there yet. Nothing outside it is touched.

    What was unpacked is a set of files of the right names; `bundle.examine` says whether it is a bundle.

    Args:
        where: what to call the archive in an error; default: its path.

    Raises:
        BundleError: the archive isn't exactly what `pack` writes, or is cut off. Nothing was written.
        StorageError: the disk is full or the folder read-only; what was written is in `folder`.
    """
    where = where if where is not None else archive
    with _opened(archive, where) as file:
        members = _members(file, os.fstat(file.fileno()).st_size, where)
        with writable(folder):
            folder.mkdir(mode=0o700)
            if any("/" in member.name for member in members):
                (folder / "native").mkdir(mode=0o700)
            for member in members:
                _extract(file, member, folder / member.name, where)


def _opened(archive: Path, where: object) -> BufferedReader:
    try:
        handle = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(f"isn't a plain file that can be read: {error.strerror}", where=where) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError("isn't a plain file", where=where)
    return os.fdopen(handle, "rb")


def _members(file: BufferedReader, size: int, where: object) -> list[_Member]:
    """What the archive holds, judged to its last byte."""
    if size > MAX_BYTES:
        raise BundleError(f"is larger than {MAX_BYTES >> 20} MiB", where=where)
    found: list[_Member] = []
    at, native = 0, 0
    while True:
        header = file.read(_BLOCK)
        if len(header) < _BLOCK:
            raise BundleError("is cut off", where=where)
        if not any(header):
            break
        name, length = _judged(header, first=not found, where=where)
        if found and name <= found[-1].name:
            raise BundleError(f"holds {printable(name, 80)} twice, or out of order", where=where)
        native += "/" in name
        if native > NATIVE_FILES:
            raise BundleError(f"holds more than {NATIVE_FILES} files in native/", where=where)
        found.append(_Member(name, length, at + _BLOCK))
        at += _BLOCK + length + _padding(length)
        if at + len(_END) > size:
            raise BundleError("is cut off", where=where)
        file.seek(at - _padding(length))
        if any(file.read(_padding(length))):
            raise BundleError(f"hides something behind {printable(name, 80)}", where=where)
    if size != at + len(_END) or any(file.read(_BLOCK)):
        raise BundleError("goes on behind its end", where=where)
    return found


def _judged(header: bytes, *, first: bool, where: object) -> tuple[str, int]:
    """Name and size of a header, if it is the one that `pack` writes for them."""
    if first and (kind := _COMPRESSED.get(header[:2])) and header[257:262] != b"ustar":
        raise BundleError(f"is compressed ({kind}): a bundle travels uncompressed", where=where)
    if header[257:262] != b"ustar":
        raise BundleError("isn't a tar archive, or a damaged one", where=where)
    name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
    if kind := _KINDS.get(header[156:157]):
        raise BundleError(f"holds {kind}, {printable(name, 80)!r}", where=where)
    limit = limit_of(name)
    if limit is None:
        hint = "it can run code, and is never taken" if name == "MLmodel" else None
        raise BundleError(f"holds {printable(name, 80)!r}; a bundle has no such file", where=where, remedy=hint)
    digits = header[124:135]
    if len(digits.strip(b"01234567")) or header[135:136] != b"\0":
        raise BundleError(f"gives no size for {name}", where=where)
    size = int(digits, 8)
    if size > limit:
        raise BundleError(f"holds {name} of {size} bytes, more than {limit}", where=where)
    if header != _header(name, size):
        raise BundleError(f"says more about {name} than name and size", where=where, remedy="pack it with robustidps")
    return name, size


def _extract(file: BufferedReader, member: _Member, path: Path, where: object) -> None:
    file.seek(member.start)
    left = member.size
    with path.open("xb") as out:
        while left:
            data = file.read(min(left, _COPY))
            if not data:
                raise BundleError("was cut off while it was read", where=where)
            out.write(data)
            left -= len(data)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, 0
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> int:
    return -size % _BLOCK


def _again(path: Path, sha256: str) -> bytes:
    """A file of `native/`, which `read_folder` has hashed and not kept."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError("was changed while it was read", where=path)
    return data
