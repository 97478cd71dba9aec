"""Public data sets from their authors' addresses into a folder, and what to do where a form stands in between.

    ways()                 every public set: can it be downloaded, or which page has the form
    fetch(name, folder)    its files, each whole and checked; what is there already isn't fetched again

Addresses, sizes and digests are the `fetch:` sections of `configs/datasets/*.yaml`. A file gets its name once its
SHA-256 is the known one. Where none is known it is computed, told, and kept in `FOLDER/fetched.json`, so that a later
fetch notices another file under the same address. One fetch at a time works in a folder.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from robustidps.errors import ConflictError, IntegrityError, StorageError, UnavailableError
from robustidps.progress import Progress, silent
from robustidps.settings import known_configs, writable
from robustidps.traffic.download import Limits, download, shown
from robustidps.traffic.loaders.card import Card, Fetch, FetchFile, default_folder, read_card

__all__ = ["Fetched", "FetchedFile", "fetch", "instructions", "ways"]

RECORD = "fetched.json"
_LIMITS = Limits()


@dataclass(frozen=True)
class FetchedFile:
    """One file as it lies in the folder. checked: what its SHA-256 was compared with. fresh: fetched just now."""

    file: Path
    url: str
    bytes: int
    sha256: str
    checked: str
    fresh: bool


@dataclass(frozen=True)
class Fetched:
    """A data set's files. by_hand: what is to be had through a form only, and how; empty if nothing."""

    name: str
    folder: Path
    files: tuple[FetchedFile, ...]
    by_hand: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Seen(BaseModel):
    """What is kept of a fetch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    bytes: int
    sha256: str
    checked: str
    fetched: str


class _Record(RootModel[dict[str, _Seen]]):
    """`fetched.json`: file name to what is known of it."""


def ways() -> list[dict[str, Any]]:
    """One row per public set: name, title, how it is had, from where, and its default folder if that is there."""
    rows = []
    for name in known_configs("datasets"):
        card = read_card(name)
        how = card.fetch or Fetch(page=card.source)
        folder = default_folder(name)
        rows.append(
            {
                "name": name,
                "title": card.title,
                "how": "download" + (", the rest by hand" if how.page else "") if how.files else "by hand",
                "from": ", ".join(file.url for file in how.files) or how.page,
                "folder": str(folder) if folder.is_dir() else None,
            }
        )
    return rows


def instructions(name: str, card: Card, folder: Path) -> str:
    """What a person does for what can't be downloaded; empty if there is nothing of the kind."""
    how = card.fetch or Fetch(page=card.source)
    if not how.page:
        return ""
    # Two releases in one folder can't be told apart: what comes by hand beside a download lies elsewhere.
    where, word = ("a folder of their own", "FOLDER") if how.files else (str(folder), shlex.quote(str(folder)))
    steps = (*how.steps, f"put the files into {where}", f"check them: robustidps data describe {word}")
    return " ".join([f"go to {how.page};", *(f"({n}) {step};" for n, step in enumerate(steps, 1))]).rstrip(";")


def fetch(name: str, folder: Path | None = None, *, limits: Limits = _LIMITS, progress: Progress = silent) -> Fetched:
    """Downloads what can be downloaded of a public data set.

    Args:
        name: of a file in `configs/datasets`.
        folder: where to; default is `HOME/datasets/NAME`, where training looks for it.

    Raises:
        NotFoundError: no such data set. UnavailableError: there is a form in between, with the page and the steps; or
        the download failed, and may go on later. IntegrityError: a file isn't what it should be; nothing is left
        under its name. ConflictError: another fetch is at work there. StorageError: no room, or not writable.
    """
    if name not in known_configs("datasets"):
        name = name.replace("-", "_")  # `nsl-kdd` is what training calls it
    card = read_card(name)
    folder = (folder or default_folder(name)).absolute()
    by_hand = instructions(name, card, folder)
    files = card.fetch.files if card.fetch else ()
    if not files:
        raise UnavailableError("can't be downloaded by a program", where=card.title, remedy=by_hand)
    with writable(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # in /proc, say
            raise StorageError("can't be made", where=folder, remedy="name another folder with --to") from None
        lock = FileLock(folder / ".fetching.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConflictError("another fetch is at work here", where=folder, remedy="let it end") from None
    try:
        found = tuple(_one(file, folder, card, limits, progress) for file in files)
    finally:
        lock.release()
    return Fetched(name, folder, found, by_hand)


def _one(file: FetchFile, folder: Path, card: Card, limits: Limits, progress: Progress) -> FetchedFile:
    """One file, from the folder if it is there, else from its address."""
    target = folder / file.file
    seen = _read_record(folder).get(file.file)
    sha256 = ""

    def check(path: Path) -> None:
        nonlocal sha256
        sha256 = _sha256(path, progress)
        expected, by = _expected(file, seen)
        if expected and sha256 != expected:
            there = path == target
            raise IntegrityError(
                f"is not the expected file: expected sha256 {expected} ({by}), got {sha256}",
                where=target if there else shown(file.url),
                remedy="move it away and fetch again" if there else _doubt(file, folder, card),
            )

    fresh = not target.exists()
    if not fresh and not target.is_file():
        raise StorageError("can't be written: it is no file", where=target, remedy="move it, or name another --to")
    if fresh:
        download(
            file.url,
            target,
            size=file.bytes,
            check=check,
            by_hand=f"or fetch it with a browser from {file.page or card.source} and put it into {folder}",
            limits=limits,
            progress=progress,
        )
    else:
        size = target.stat().st_size
        if file.bytes not in (None, size):
            raise IntegrityError(
                f"has {size:,} bytes, expected {file.bytes:,}", where=target, remedy="move it away and fetch again"
            )
        check(target)
    checked = _expected(file, seen)[1] or "not checked against a published digest"
    found = FetchedFile(target, file.url, target.stat().st_size, sha256, checked, fresh)
    if fresh or seen is None:
        _keep(found, folder)
    return found


def _expected(file: FetchFile, seen: _Seen | None) -> tuple[str, str]:
    """The SHA-256 that a file must have, and who says so; empty if nobody does."""
    if file.sha256:
        return file.sha256, f"recorded by {file.sha256_by}" if file.sha256_by else "published by its authors"
    if seen and seen.url == file.url:
        return seen.sha256, f"not a published digest, but the one seen on {seen.fetched[:10]}"
    return "", ""


def _doubt(file: FetchFile, folder: Path, card: Card) -> str:
    """What to do about a download with another digest."""
    if file.sha256:
        return (
            f"nothing was kept; try once more, and if it stays so the file was replaced at its source or changed on "
            f"the way: ask at {file.page or card.source}"
        )
    return f"nothing was kept; if {file.page or card.source} says that the file is a new one, remove {folder / RECORD}"


def _sha256(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with writable(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            progress("checking", done, size, unit="B")
    return digest.hexdigest()


def _read_record(folder: Path) -> dict[str, _Seen]:
    path = folder / RECORD
    try:
        with path.open("rb") as file:
            return _Record.model_validate_json(file.read(1 << 20)).root
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise IntegrityError(
            "isn't the record that a fetch keeps", where=path, remedy="remove it; digests are then computed anew"
        ) from None


def _keep(found: FetchedFile, folder: Path) -> None:
    """Adds a file to the folder's record."""
    seen = _Seen(
        url=found.url,
        bytes=found.bytes,
        sha256=found.sha256,
        checked=found.checked,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    record = _read_record(folder) | {found.file.name: seen}
    path = folder / RECORD
    part = path.with_suffix(".json.part")
    with writable(path):
        part.write_text(json.dumps({name: entry.model_dump() for name, entry in record.items()}, indent=2) + "\n")
        part.replace(path)
