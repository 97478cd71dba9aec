"""Folders that somebody is at work in, told by a lock on the folder itself, which ends with the process that holds it.

held               a lock on a folder, for a block
Claimed            a fresh folder of this process's own; gone at the end, unless it was renamed
remove_abandoned   takes away those of processes that were killed
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Claimed", "held", "remove_abandoned"]


@contextmanager
def held(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """The lock on `folder`, alone or with others who share it.

    Raises:
        BlockingIOError: somebody holds it, and it isn't waited. FileNotFoundError, NotADirectoryError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


class Claimed:
    """A fresh folder `path` in `parent`, locked until `close`, which removes it if it is still there.

    Args:
        prefix: its name is this and eight random hexadecimal digits.
        mode: of the folder, less the process's umask.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, parent: Path, prefix: str = "", *, mode: int = 0o777) -> None:
        while True:
            self.path = parent / f"{prefix}{secrets.token_hex(4)}"
            self.path.mkdir(mode=mode)
            with contextlib.suppress(FileNotFoundError):  # taken for an abandoned one before it was locked
                self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if self.path.exists():
                    return
                os.close(self._lock)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *unused: object) -> None:
        self.close()


def remove_abandoned(parent: Path, named: Callable[[str], object] = lambda name: True) -> None:
    """Removes folders in `parent` that nobody holds, of those whose name `named` says yes to. No link is followed."""
    for path in parent.iterdir():
        if not named(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or not ours to touch
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # its holder lives
        finally:
            os.close(lock)
