"""Work that the watcher does at intervals besides looking at MLflow. To join, append to `PERIODIC` when imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustidps import approving, notifying
from robustidps.watch import webhook

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["PERIODIC", "Periodic"]


@dataclass(frozen=True)
class Periodic:
    """call: given the registry; what it did, a sentence each. What it raises is logged and tried again next time."""

    name: str
    every_s: float
    call: Callable[[ModelRegistry], list[str]]


def _prune(registry: ModelRegistry) -> list[str]:
    gone = webhook.prune(registry.store)
    return [f"{gone} rows forgotten"] if gone else []


def _notify(registry: ModelRegistry) -> list[str]:
    """Lets approvals whose time is up lapse, and sends what the channels haven't had."""
    approving.settle(registry)
    done = notifying.deliver(registry, patient=True)
    return [f"{name}: {count} sent" for name, count in done.sent.items() if count]


PERIODIC: list[Periodic] = [Periodic("prune", 3600.0, _prune), Periodic("notify", 10.0, _notify)]
