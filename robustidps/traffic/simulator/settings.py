"""What a simulation is made of: one closed, frozen settings object whose digest names its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustidps.settings import config_error, load_yaml
from robustidps.traffic.simulator.catalogue import APPLICATIONS, TOOLS

__all__ = ["SIMULATOR_VERSION", "ServiceChange", "SimulatorSettings"]

SIMULATOR_VERSION = 2
"""Same version, settings and seed: the same packets, byte for byte. Any change of the packets raises it."""


class ServiceChange(BaseModel):
    """A benign service that is not what it was, from a day on (a release, a new supplier, a move to another port).

    size multiplies what it sends, pace its think times; `port` replaces the server's port.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str
    day: int = Field(ge=0, description="first day on which it is different, counted from 0")
    size: float = Field(default=1.0, ge=0.05, le=20)
    pace: float = Field(default=1.0, ge=0.05, le=20)
    port: int | None = Field(default=None, ge=1, le=65535)

    @model_validator(mode="after")
    def _known(self) -> ServiceChange:
        if self.service not in APPLICATIONS:
            raise ValueError(f"no such benign application; known: {', '.join(APPLICATIONS)}")
        return self


class SimulatorSettings(BaseModel):
    """Knobs of the simulator. Days are counted from 0 on `start`, 00:00 UTC.

    prevalence: share of flows that are attacks. The default is made for training; in a real network it is a thousandth
        of that or less, so precision has to be restated for the prevalence at hand.
    difficulty: 0 keeps attacks at their noisiest, 1 lets them mimic benign traffic as far as their aim allows, and
        raises the share of benign look-alikes.
    drift: benign services that change. new_tools: attack tools that do not appear before a given day.
    without_tools: attack tools that never appear. classes: attack classes that appear at all; empty means all twelve.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=7, ge=0, lt=2**32)
    start: date = date(2026, 1, 5)
    days: int = Field(default=14, ge=1, le=366)
    packets_per_day: int = Field(default=50_000, ge=500, le=5_000_000, description="approximate")
    prevalence: float = Field(default=0.25, ge=0.0, le=0.95)
    difficulty: float = Field(default=0.15, ge=0.0, le=1.0)
    drift: tuple[ServiceChange, ...] = ()
    new_tools: Mapping[str, int] = Field(default_factory=dict)
    without_tools: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> SimulatorSettings:
        known = {tool: label for label, tools in TOOLS.items() for tool in tools}
        for tool in (*self.new_tools, *self.without_tools):
            if tool not in known:
                raise ValueError(f"no attack tool '{tool}'; known: {', '.join(known)}")
        for label in self.classes:
            if label not in TOOLS:
                raise ValueError(f"no attack class '{label}'; known: {', '.join(TOOLS)}")
        if any(day < 0 for day in self.new_tools.values()):
            raise ValueError("new_tools: a day is counted from 0")
        return self

    @classmethod
    def make(cls, **values: Any) -> SimulatorSettings:
        """Settings from keywords.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise config_error(error, "simulator settings", cls) from None

    @classmethod
    def load(cls, path: Path) -> SimulatorSettings:
        """Settings from a YAML file. Raises ConfigError."""
        return load_yaml(path, cls)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the simulator's version and every setting."""
        content = {"simulator": SIMULATOR_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def epoch(self) -> float:
        """Seconds since 1970 at the start of day 0."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()

    def tools(self, label: str, day: int) -> tuple[str, ...]:
        """The attack tools of a class that may appear on a day, in the catalogue's order."""
        if self.classes and label not in self.classes:
            return ()
        return tuple(t for t in TOOLS[label] if t not in self.without_tools and self.new_tools.get(t, 0) <= day)

    def change(self, service: str, day: int) -> ServiceChange:
        """How a benign service differs on a day from what it was: the latest change in force."""
        in_force = [c for c in self.drift if c.service == service and c.day <= day]
        return max(in_force, key=lambda c: c.day) if in_force else ServiceChange(service=service, day=0)
