"""How long work tells how far it is: one callable, so that the library knows nothing of terminals or Prefect."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


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
