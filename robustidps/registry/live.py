"""Handles of loaded models, and the swap of what they use when a version moves in this process.

A handle asked for by a role follows it: `production` and `latest` go where production goes, `staging` where Staging
does. One asked for by a number stays what it is; so does `previous`, and an alias for hardware. What a handle uses is
one immutable `Loaded`, and a swap is one assignment of another, opened, verified and run on its golden rows before: a
call reads it once and ends on what it began with, so none fails and none is answered by both.

Followers are known by weak references, by installation (the address of its state store) and model. A swap has the
generation of the decision that it follows, and one that comes late is left out. Other processes are not reached from
here: they read the state store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from robustidps.bundle import Bundle
    from robustidps.registry.metadata import ModelMetadata

__all__ = ["FOLLOWS", "Loaded", "ModelHandle", "follow", "followed", "swap"]

FOLLOWS = {"production": "Production", "latest": "Production", "staging": "Staging"}
"""The stage that a handle follows, by the role that it was asked for by."""


@dataclass(frozen=True)
class Loaded:
    """A version and its bundle, ready to be asked."""

    version: str
    bundle: Bundle = field(repr=False)


class ModelHandle:
    """A model to call with raw features, float32 [N, F], for probabilities, float32 [N, C]; from any thread.

    name: the model. role: what it was asked for by, where it follows that role; None where it stays as it is.
    version, bundle, metadata, digest: of what it uses now.
    """

    def __init__(self, name: str, loaded: Loaded, role: str | None = None) -> None:
        self.name = name
        self.role = role
        self._now = loaded

    def __call__(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return self._now.bundle.probabilities(x)

    @property
    def now(self) -> Loaded:
        """Version and bundle together, as they are at one moment."""
        return self._now

    @property
    def version(self) -> str:
        return self._now.version

    @property
    def bundle(self) -> Bundle:
        return self._now.bundle

    @property
    def metadata(self) -> ModelMetadata:
        return self._now.bundle.metadata

    @property
    def digest(self) -> str:
        return self._now.bundle.digest

    def __repr__(self) -> str:
        return f"<ModelHandle {self.name} {self.version}{f', follows {self.role}' if self.role else ''}>"


@dataclass
class _Group:
    """Who follows one stage of one model, and the generation of the last swap."""

    handles: WeakSet[ModelHandle] = field(default_factory=WeakSet)
    generation: int = 0


_groups: dict[tuple[str, str, str], _Group] = {}
_lock = threading.Lock()


def follow(installation: str, name: str, role: str, find: Callable[[], Loaded]) -> ModelHandle:
    """A handle that follows `role` from now on.

    Args:
        find: what is in the role now; asked again where that moved while it was being loaded.
    """
    key = (installation, name, FOLLOWS[role])
    while True:
        with _lock:
            seen = _groups.setdefault(key, _Group()).generation
        handle = ModelHandle(name, find(), role)
        with _lock:
            if _groups[key].generation == seen:
                _groups[key].handles.add(handle)
                return handle


def followed(installation: str, name: str, stage: str) -> bool:
    """Whether anybody follows that stage of a model."""
    with _lock:
        group = _groups.get((installation, name, stage))
        return group is not None and len(group.handles) > 0


def swap(installation: str, name: str, stage: str, generation: int, loaded: Loaded | None) -> int:
    """Has every follower of a stage use `loaded`; gives how many there are.

    Args:
        generation: of the decision that put it there; an earlier one than the last changes nothing.
        loaded: None where nobody followed when the move was prepared; then nothing is swapped, and the number says
            whether that has changed meanwhile.
    """
    with _lock:
        group = _groups.setdefault((installation, name, stage), _Group())
        if generation < group.generation:
            return 0
        group.generation = generation
        handles = list(group.handles)
        if loaded is not None:
            for handle in handles:
                handle._now = loaded
        return len(handles)
