"""Named points between two effects, where a test can kill the process.

The registry calls `step("promote.committed")` and the like after each thing it does that outlives the process. Nothing
listens, unless a test puts its own function into `hook`.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["hook", "step"]


def _nothing(name: str) -> None:
    return None


hook: Callable[[str], None] = _nothing


def step(name: str) -> None:
    """Tells whoever listens that the effect called `name` is done."""
    hook(name)
