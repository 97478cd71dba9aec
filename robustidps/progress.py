"""How long work tells how far it is: one callable, so that the library knows nothing of terminals or Prefect.

Functions that take long have a `progress` argument. Between a command and the library stand Prefect tasks, which take
only plain data; they ask `current()` for what the command line put up with `shown()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "current", "shown", "silent"]


class Progress(Protocol):
    """Called from time to time while work goes on; must return quickly, and may raise to cancel.

    stage: what is being done, in a few words ("extracting flows"); a new stage means the one before is finished.
    done, total: how far, in `unit`s; total is None while unknown.
    note: a short figure worth showing beside the bar ("val F1 0.961").
    """

    def __call__(
        self, stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = ""
    ) -> None: ...


def silent(stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
    """Tells nobody."""


_current: Progress = silent


def current() -> Progress:
    """What this process shows progress on; `silent` unless a command put something up."""
    return _current


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Makes `progress` the current one for a block."""
    global _current
    before, _current = _current, progress
    try:
        yield
    finally:
        _current = before
