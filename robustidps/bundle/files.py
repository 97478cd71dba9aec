"""What may lie in a bundle's folder, read once and judged from bytes; nothing here builds a model.

    model.onnx        the graph, features to probabilities        golden.npz       rows and what the model says of them
    metadata.json     ModelMetadata, canonical JSON               evaluation.json  figures at training time (optional)
    schema.json       TrafficSchema                               native/          the framework's own artefact: flat,
    reference.json    the training distribution, aggregates                        formats of data alone (optional)

A file that isn't on this list, a link, a device or a file beyond its limit means refusal. Each file is opened once,
without following links, relative to the opened folder; what is hashed is what is used, so that a file that is swapped
between check and use changes nothing.

The digest is SHA-256 over `robustidps bundle 1`, then path, size and SHA-256 of every file but metadata.json, sorted by
path, then metadata.json's content without `checksum` as canonical JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.bundle.audit import MAX_BYTES
from robustidps.errors import BundleError, NotFoundError, printable

__all__ = [
    "FILES",
    "Contents",
    "canonical",
    "check_native",
    "digest_of",
    "limit_of",
    "pack_golden",
    "read_folder",
    "strict_json",
    "unpack_golden",
]

MIB = 2**20
FILES = {
    "model.onnx": MAX_BYTES,
    "metadata.json": 1 * MIB,
    "schema.json": 16 * MIB,
    "reference.json": 64 * MIB,
    "golden.npz": 64 * MIB,
    "evaluation.json": 16 * MIB,
}
"""The files of a bundle and the largest size of each in bytes."""
OPTIONAL = {"evaluation.json"}
NATIVE_BYTES, NATIVE_FILES = 1024 * MIB, 64
_NATIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{1,20}){1,3}")

# What parsers of the standard library raise on nonsense.
_MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError, OSError),
    *(struct.error, zipfile.BadZipFile),
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Contents:
    """A folder that has been read: bytes of the files at the top, and (path, size, SHA-256) of every file, sorted."""

    where: Path
    files: dict[str, bytes]
    listing: tuple[tuple[str, int, str], ...]


def limit_of(path: str) -> int | None:
    """The largest size in bytes of a bundle's file of this relative path; None if a bundle has no such file."""
    folder, _, name = path.rpartition("/")
    if not folder:
        return FILES.get(name)
    known = folder == "native" and _NATIVE_NAME.fullmatch(name) and Path(name).suffix in NATIVE
    return NATIVE_BYTES if known else None


def read_folder(folder: Path, *, unfinished: bool = False) -> Contents:
    """Reads and judges a bundle's folder.

    Args:
        unfinished: for the writer alone, to look at what it is writing.

    Raises:
        NotFoundError: there is no such folder.
        BundleError: it isn't a folder, or something in it shouldn't be there, is missing or too large.
    """
    if folder.name.startswith(".partial-") and not unfinished:
        raise BundleError("is a bundle that was never finished", where=folder, remedy="train it anew")
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        top = os.open(folder, flags)
    except FileNotFoundError:
        raise NotFoundError("no such bundle", where=folder) from None
    except OSError as error:
        raise BundleError(f"isn't a bundle's folder: {error.strerror}", where=folder) from None
    files: dict[str, bytes] = {}
    listing: list[tuple[str, int, str]] = []
    try:
        for name in sorted(os.listdir(top)):  # noqa: PTH208 - of an open folder, which has no path
            if name == "native":
                listing += _read_native(top, folder)
                continue
            if name not in FILES:
                hint = "ours is made at registration; a foreign one can run code" if name == "MLmodel" else None
                raise BundleError("a bundle has no such file", where=folder / printable(name, 80), remedy=hint)
            files[name] = _read(top, name, FILES[name], folder)
            listing.append((name, len(files[name]), hashlib.sha256(files[name]).hexdigest()))
    except OSError as error:
        raise BundleError(f"can't be read: {error.strerror}", where=folder) from None
    finally:
        os.close(top)
    for name in FILES.keys() - OPTIONAL - files.keys():
        raise BundleError("is missing", where=folder / name)
    return Contents(folder, files, tuple(sorted(listing)))


def check_native(folder: Path) -> None:
    """Raises BundleError unless everything in `folder`, named `native`, may lie in a bundle."""
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _read_native(parent, folder.parent)
    finally:
        os.close(parent)


def _read_native(top: int, folder: Path) -> list[tuple[str, int, str]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        native = os.open("native", flags, dir_fd=top)
    except OSError as error:
        raise BundleError(f"isn't a plain folder: {error.strerror}", where=folder / "native") from None
    listing = []
    try:
        names = sorted(os.listdir(native))  # noqa: PTH208 - see above
        if len(names) > NATIVE_FILES or len({n.casefold() for n in names}) < len(names):
            raise BundleError("holds too many files, or two that differ only in case", where=folder / "native")
        for name in names:
            where = folder / "native" / printable(name, 80)
            check = NATIVE.get(Path(name).suffix) if _NATIVE_NAME.fullmatch(name) else None
            if check is None:
                raise BundleError(
                    "isn't a format that holds data alone", where=where, remedy=f"use {', '.join(NATIVE)}"
                )
            data = _read(native, name, NATIVE_BYTES, folder / "native")
            try:
                check(data)
            except _MALFORMED as error:
                raise BundleError(f"isn't what its name says: {printable(error, 120)}", where=where) from None
            listing.append((f"native/{name}", len(data), hashlib.sha256(data).hexdigest()))
    finally:
        os.close(native)
    return listing


def _read(parent: int, name: str, limit: int, folder: Path) -> bytes:
    where = folder / name
    try:  # O_NONBLOCK: opening a FIFO must not wait for a writer
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        raise BundleError(f"isn't a plain file that can be read: {error.strerror}", where=where) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError("isn't a plain file", where=where)
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"is larger than {limit // MIB} MiB", where=where)
    return data


def digest_of(contents: Contents, metadata: dict[str, Any]) -> str:
    """The bundle's digest (hex), see the module's docstring; `metadata` as parsed from its JSON."""
    h = hashlib.sha256(b"robustidps bundle 1\n")
    for path, size, sha256 in contents.listing:
        if path != "metadata.json":
            h.update(f"{path} {size} {sha256}\n".encode())
    rest = {key: value for key, value in metadata.items() if key != "checksum"}
    h.update(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    return h.hexdigest()


def canonical(content: Any) -> bytes:
    """JSON with sorted keys, two blanks of indent, a newline at the end. Raises ValueError for NaN and infinities."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def strict_json(data: bytes, where: object) -> dict[str, Any]:
    """A JSON object. Raises BundleError for anything else, a key given twice, NaN, or nesting without end."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"isn't readable as JSON: {printable(error, 120)}", where=where) from None
    if not isinstance(content, dict):
        raise BundleError("isn't a JSON object", where=where)
    return content


# --- golden.npz: a zip of two stored arrays. NumPy would read more than that, so what is read is checked first.


def pack_golden(features: Floats, probabilities: Floats) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, features=features, probabilities=probabilities)
    return buffer.getvalue()


def unpack_golden(data: bytes, input_dim: int, output_dim: int, where: object) -> tuple[Floats, Floats]:
    """Raw features float32 [n, F] and probabilities float32 [n, C], n >= 1.

    Raises:
        BundleError: other arrays, compressed ones (they could unpack to anything), object arrays, other shapes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if [m.filename for m in members] != ["features.npy", "probabilities.npy"]:
                raise ValueError("holds other arrays than features and probabilities")
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > len(data) for m in members):
                raise ValueError("is compressed")
            features, probabilities = (_matrix(archive.read(m)) for m in members)
    except _MALFORMED as error:
        raise BundleError(f"isn't an archive of two float32 matrices: {printable(error, 120)}", where=where) from None
    n = len(features)
    if n < 1 or features.shape != (n, input_dim) or probabilities.shape != (n, output_dim):
        raise BundleError(f"has shapes {features.shape} and {probabilities.shape}", where=where)
    if np.isinf(features).any() or not np.isfinite(probabilities).all():
        raise BundleError("holds values that aren't finite", where=where)
    return features, probabilities


_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\), \} *\n", re.S
)


def _matrix(data: bytes) -> Floats:
    """An .npy file as `savez` writes one of ours. NumPy's reader evaluates the header and allocates on its word."""
    match = _NPY.match(data)
    if match is None:
        raise ValueError("holds something else than a float32 matrix")
    return np.frombuffer(data, np.float32, offset=match.end()).reshape(int(match[1]), int(match[2])).copy()


# --- native/: a format is accepted by what is in the file, never by its name alone.


def _safetensors(data: bytes) -> None:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 10 or size > len(data) - 8:
        raise ValueError("its header is cut off")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    if max((t["data_offsets"][1] for t in header.values()), default=0) != len(data) - 8 - size:
        raise ValueError("its tensors don't fill it")


def _json(data: bytes) -> None:
    json.loads(data.decode("utf-8"))


def _text(data: bytes) -> None:
    """Text that isn't a pickle of the oldest, textual protocol either."""
    import pickletools

    text = data.decode("utf-8")
    if "\0" in text:
        raise ValueError("holds a zero byte")
    names = set()
    try:
        for operator, _, _ in pickletools.genops(data):
            names.add(operator.name)
    except ValueError:
        return  # not a pickle to its end, then
    if names & {"GLOBAL", "INST", "REDUCE", "BUILD", "OBJ", "STACK_GLOBAL", "NEWOBJ", "PERSID", "PUT"}:
        raise ValueError("is a pickle")


def _keras(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if not re.fullmatch(r"[\w][\w./-]*\.(json|h5)", name) or ".." in name:
                raise ValueError(f"holds {printable(name, 60)!r}")


def _hdf5(data: bytes) -> None:
    if not data.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ValueError("isn't HDF5")


NATIVE: dict[str, Callable[[bytes], None]] = {
    ".safetensors": _safetensors,
    ".json": _json,
    ".keras": _keras,
    ".nir": _hdf5,
    ".txt": _text,
}
"""What a family may save as its own artefact: formats that hold numbers and text, and run nothing when read."""
