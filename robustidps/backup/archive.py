"""The archive: a gzipped tar of plain files, its manifest and the manifest's signature last.

Reading goes through the whole file before anything is written: every member has to be a regular file with a name that
stays inside, be in the manifest once, and have the size and SHA-256 that stand there. Extracting checks again, as the
file could have been exchanged in between.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.errors import InputError, IntegrityError, NotFoundError, UnavailableError, printable
from robustidps.registry.keys import InstallationKey, VerifyingKey
from robustidps.settings import part_of, writable

__all__ = ["FORMAT", "Manifest", "Writer", "extract", "read_manifest", "writing"]

FORMAT = 1
PREFIX = b"robustidps backup manifest 1\n"
_NAME = re.compile(
    r"(state|mlflow)/[a-z_]+\.jsonl|artifacts/[0-9a-f]{32}(/[^/\\]{1,255})+|configs(/[^/\\]{1,255})+|settings\.yaml"
    r"|traffic/[0-9a-f]{64}\.parquet|keys/(installation\.pub|installation\.pem|former\.json)"
    r"|updates/(root|time)\.json|updates/trusted/(root_history/)?[^/\\]{1,255}\.json"
    r"|updates/benchmarks/[^/\\]{1,255}\.json"
)
_MANIFEST, _SIGNATURE = "manifest.json", "manifest.sig"
_MANIFEST_BYTES = 256 * 2**20
_CHUNK = 2**20


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFact(_Closed):
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Closed):
    """What an archive holds, and what it was made by.

    ledger_seq, ledger_hash: the last decision saved. missing: what belongs to it and couldn't be found then.
    """

    format: int
    release: str
    made_at: str
    state_revision: str
    mlflow_version: str
    mlflow_revision: str
    ledger_seq: int = Field(ge=1)
    ledger_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    key_id: str
    private_key: bool
    models: dict[str, int]
    missing: list[str]
    files: dict[str, FileFact]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(fact.size for fact in self.files.values())


def _safe(name: str) -> bool:
    parts = name.split("/")
    return bool(_NAME.fullmatch(name)) and not {"", ".", ".."} & set(parts) and name.isprintable()


class Writer:
    """Adds files to an archive and notes what they are."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, FileFact] = {}

    def add(self, name: str, content: bytes) -> None:
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self._add(name, file, os.fstat(file.fileno()).st_size)

    def add_folder(self, name: str, folder: Path) -> None:
        """All regular files below `folder`; links are left out."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            self.add_file(f"{name}/{path.relative_to(folder).as_posix()}", path)

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        if not _safe(name):
            raise InputError("has a name that can't be saved", where=printable(name), remedy="rename the file")
        hashing = _Hashing(file)
        self._tar.addfile(_info(name, size), hashing)
        self.files[name] = FileFact(size=size, sha256=hashing.sha256.hexdigest())


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self.sha256.update(found)
        return found


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


@contextmanager
def writing(path: Path, key: InstallationKey, manifest: Callable[[dict[str, FileFact]], Manifest]) -> Iterator[Writer]:
    """A new archive at `path`: there, whole and signed, at the end of the block, or not at all.

    Args:
        manifest: called with the files once all are in.

    Raises:
        InputError: there is something at `path`. StorageError: full disk, no permission.
    """
    if path.exists():
        raise InputError("is there already; a backup is never written over", where=path, remedy="name another file")
    part = part_of(path)
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it tells all of the models
            with os.fdopen(descriptor, "wb") as raw:
                with (
                    gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
                    tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
                ):
                    writer = Writer(tar)
                    yield writer
                    content = manifest(dict(writer.files)).model_dump_json(indent=1).encode()
                    key_id, signature = key.sign(PREFIX + content)
                    pem = key.public_file.read_text(encoding="ascii")
                    signed = json.dumps({"key_id": key_id, "signature": signature, "public_key": pem}).encode()
                    for name, text in ((_MANIFEST, content), (_SIGNATURE, signed)):
                        tar.addfile(_info(name, len(text)), io.BytesIO(text))
                raw.flush()
                os.fsync(raw.fileno())
            os.link(part, path)
        finally:
            part.unlink(missing_ok=True)


def read_manifest(path: Path) -> Manifest:
    """Reads the archive through and checks every file against its manifest, and that against its signature.

    Raises:
        NotFoundError: no such file.
        IntegrityError: cut short, changed, or holding what no backup holds; names the member.
        UnavailableError: of a format that this release doesn't know.
    """
    found: dict[str, FileFact] = {}
    ends: dict[str, bytes] = {}
    with _opened(path) as tar:
        for name, size, file in _members(tar, path):
            if name in (_MANIFEST, _SIGNATURE):
                if size > _MANIFEST_BYTES:
                    raise IntegrityError("is larger than any manifest", where=f"{path}: {name}")
                ends[name] = file.read()
                continue
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            found[name] = FileFact(size=size, sha256=digest.hexdigest())
    if set(ends) != {_MANIFEST, _SIGNATURE}:
        raise IntegrityError("has no manifest: cut short, or no backup of RobustIDPS", where=path, remedy=_OTHER)
    manifest = _parsed(path, ends[_MANIFEST])
    _require_signature(path, manifest, ends)
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) != manifest.files.get(name):
            what = "is missing" if name not in found else "was put in" if name not in manifest.files else "was changed"
            raise IntegrityError(what, where=f"{path}: {printable(name)}", remedy=_OTHER)
    return manifest


_OTHER = "take another backup; nothing was restored"


def _parsed(path: Path, content: bytes) -> Manifest:
    try:
        plain = json.loads(content)
        if isinstance(plain, dict) and isinstance(plain.get("format"), int) and plain["format"] != FORMAT:
            raise UnavailableError(
                f"is a backup of format {plain['format']}; this release knows {FORMAT}",
                where=path,
                remedy=f"use the release that made it, {printable(plain.get('release'), 40)}",
            )
        return Manifest.model_validate(plain)
    except (ValueError, ValidationError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise IntegrityError(f"has no manifest that can be read: {text[:200]}", where=path, remedy=_OTHER) from None


def _require_signature(path: Path, manifest: Manifest, ends: dict[str, bytes]) -> None:
    try:
        signed = json.loads(ends[_SIGNATURE])
        key = VerifyingKey.of(str(signed["public_key"]).encode(), path)
        payload = PREFIX + ends[_MANIFEST]
        matches = key.keyid == manifest.key_id and key.verifies(str(signed["signature"]), payload)
    except (ValueError, KeyError, TypeError):
        matches = False
    if not matches:
        raise IntegrityError("the manifest's signature does not match it", where=path, remedy=_OTHER)


def extract(path: Path, manifest: Manifest, folder: Path) -> None:
    """Writes the files of a checked archive below `folder`, which is made. Raises IntegrityError, StorageError."""
    with writable(folder), _opened(path) as tar:
        folder.mkdir(mode=0o700)
        for name, _, file in _members(tar, path):
            if name in (_MANIFEST, _SIGNATURE):
                continue
            fact = manifest.files.get(name)
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            digest = hashlib.sha256()
            with target.open("xb") as out:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
            if fact is None or digest.hexdigest() != fact.sha256:
                raise IntegrityError("was changed while it was restored", where=f"{path}: {name}", remedy=_OTHER)


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each member, in order; refuses whatever no backup holds."""
    seen: set[str] = set()
    for member in tar:
        name = member.name
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise IntegrityError("is a link, folder or device", where=f"{path}: {printable(name)}")
        if not _safe(name) and name not in (_MANIFEST, _SIGNATURE):
            raise IntegrityError("is no name of a backup", where=f"{path}: {printable(name)}", remedy=_OTHER)
        if name in seen:
            raise IntegrityError("is there twice", where=f"{path}: {printable(name)}", remedy=_OTHER)
        seen.add(name)
        file: Any = tar.extractfile(member)
        yield name, member.size, file


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive, for reading through once. Whatever goes wrong with it becomes one of our errors."""
    try:
        with path.open("rb") as raw, gzip.open(raw) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            yield tar
            while packed.read(_CHUNK):  # to its end, where gzip's own checksum stands
                pass
    except FileNotFoundError as error:
        if error.filename != str(path):
            raise
        raise NotFoundError("no such file", where=path, remedy="name an archive that robustidps backup made") from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, remedy="name an archive that robustidps backup made") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError) as error:
        text = " ".join(str(error).split())
        raise IntegrityError(f"is cut short, damaged or no backup: {text[:200]}", where=path, remedy=_OTHER) from None
