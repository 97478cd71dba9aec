"""The working folder of one model's update: whose it is now, and what becomes of what a killed run left in it.

One update of a model works at a time, in a folder of its own, under a lock that ends with the process. What it is
about to register it notes there first. So a folder that is there while nobody holds the lock is of a run that was
killed: its reservation is given back, unless it was registered to the end, and the folder goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import ConflictError, NameInvalidError
from robustidps.registry.keys import write_atomically
from robustidps.settings import check_name, writable

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["registering", "settle", "working_on"]

WAIT_S = 0.5
"""How long a second run waits for the first before it gives up."""
_NOTE = "registering.json"


@contextmanager
def working_on(registry: ModelRegistry, name: str) -> Iterator[Path]:
    """An empty working folder for one model's update, under a lock that ends with the process; gone afterwards.

    What an earlier run that was killed left behind is undone first, what this one leaves (Ctrl-C) at its end.

    Raises:
        ConflictError: another update of this model is going on.
    """
    check_name(name)
    with registry.store.lock(f"update-{name}", timeout_s=WAIT_S):
        folder = _work(registry) / name
        _undo_leftovers(registry, name, folder)
        with writable(folder):
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _undo_leftovers(registry, name, folder)


def settle(registry: ModelRegistry) -> list[str]:
    """Undoes what runs that were killed left behind, of all models, and names these; one at work is left alone."""
    undone = []
    for folder in sorted(_work(registry).iterdir()):
        if folder.is_symlink() or not folder.is_dir():
            continue  # not ours
        with suppress(ConflictError, NameInvalidError), working_on(registry, folder.name):
            undone.append(folder.name)
    return undone


@contextmanager
def registering(folder: Path, version: str, digest: str) -> Iterator[None]:
    """Notes in the working folder what is registered in the block, so that it is given back if that isn't done."""
    write_atomically(folder / _NOTE, json.dumps({"version": version, "digest": digest}).encode())
    yield
    (folder / _NOTE).unlink(missing_ok=True)


def _work(registry: ModelRegistry) -> Path:
    folder = registry.settings.folder("updates") / "work"
    with writable(folder):
        folder.mkdir(exist_ok=True, mode=0o700)  # golden rows are flows of somebody's network
    return folder


def _undo_leftovers(registry: ModelRegistry, name: str, folder: Path) -> None:
    note = folder / _NOTE
    if note.is_file():
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            version, digest = str(content["version"]), str(content["digest"])
        except (ValueError, LookupError, TypeError):
            version = digest = ""  # of another release; such a reservation can be taken again for the same bundle
        if version:  # no effect on one that was registered to the end, or on a training's
            registry.release_reservation(name, version, digest=digest)
    shutil.rmtree(folder, ignore_errors=True)
