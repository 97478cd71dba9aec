"""How long work tells how far it is: one callable, so that the library knows nothing of terminals or Prefect.

Functions that take long have a `progress` argument. Between a command and the library stand Prefect tasks, which take
only plain data; they ask `current()` for what the command line put up with `shown()`. It belongs to the thread that put
it up, and to those that Prefect starts from it; pieces of work that go on side by side each get a `branch` of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Progress", "branch", "current", "shown", "silent"]


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


_current: ContextVar[Progress] = ContextVar("progress", default=silent)


def current() -> Progress:
    """What to show progress on here; `silent` unless a command put something up."""
    return _current.get()


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Makes `progress` the current one for a block."""
    before = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(before)


def branch(progress: Progress, name: str) -> Progress:
    """Progress of one of several pieces of work that go on at once: its stages begin with `name`, and each has a bar
    of its own where `progress` can draw several."""
    own = getattr(progress, "branch", None)
    if own is not None:
        made: Progress = own(name)
        return made

    def named(stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
        progress(f"{name}: {stage}", done, total, unit=unit, note=note)

    return named
