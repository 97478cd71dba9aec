"""Which PennyLane devices there are, told without importing PennyLane: it takes seconds."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from robustidps.errors import ConfigError, MissingExtraError, printable

__all__ = ["check_device", "device_class", "known_devices"]

_GROUP = "pennylane.plugins"
_EXTRAS = {"cirq": "cirq", "braket": "braket", "lightning": "quantum", "default": "quantum"}
"""The extra of ours that brings a family of devices, by the word before the dot."""


def known_devices() -> list[str]:
    """Names of the devices that installed packages announce to PennyLane, sorted."""
    return sorted(entry_points(group=_GROUP).names)


def device_class(name: str) -> Any:
    """The class behind a known device; imports its plugin."""
    return entry_points(group=_GROUP)[name].load()


def check_device(name: str) -> None:
    """Raises ConfigError, naming the devices there are, or MissingExtraError where an extra of ours would bring it."""
    known = known_devices()
    if name in known:
        return
    brand = name.partition(".")[0]
    if brand in _EXTRAS and not any(device.startswith(f"{brand}.") for device in known):
        raise MissingExtraError(f"the plugin of PennyLane's device {printable(name, 60)!r}", _EXTRAS[brand])
    raise ConfigError(
        f"PennyLane has no device {printable(name, 60)!r}",
        where="device",
        remedy=f"installed: {', '.join(known)}; others come with their plugin (docs/quantum.md)",
    )
