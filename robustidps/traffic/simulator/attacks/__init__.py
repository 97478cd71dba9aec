"""Attack runs: one module a family of attacks, one function a tool.

`TOOLS` of the catalogue says which tools there are. A tool's function adds about `run.n` flows to the day.
They are traffic shapes for training a detector: packets without content, and nothing that could be aimed at anyone.
"""

from __future__ import annotations

from collections.abc import Callable

from robustidps.traffic.simulator.attacks import backdoor, bruteforce, floods, scans, spoofing, tunnels, web
from robustidps.traffic.simulator.catalogue import TOOLS
from robustidps.traffic.simulator.day import Run

__all__ = ["tool"]

_MODULES = (floods, scans, bruteforce, spoofing, web, backdoor, tunnels)
_FUNCTIONS: dict[str, Callable[[Run], None]] = {
    name: getattr(module, name)
    for names in TOOLS.values()
    for name in names
    for module in _MODULES
    if hasattr(module, name)
}


def tool(name: str) -> Callable[[Run], None]:
    return _FUNCTIONS[name]
