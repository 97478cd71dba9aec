"""Simulated months for an ageing study: a scenario is a file of simulator settings in `configs/ageing/` that says when
attack tools appear and benign services change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robustidps.families import FamilySettings, ModelFamily, family_settings
from robustidps.progress import Progress, silent
from robustidps.settings import config_file, load_yaml
from robustidps.traffic.simulator import SimulatorSettings, simulated_traffic
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Change", "changes", "scenario", "scenario_traffic", "study_settings"]

OFTEN: dict[str, dict[str, Any]] = {
    "neural_ode": {"epochs": 10, "batch_size": 128, "training_steps": 1, "steps": 4},
}
"""Family settings for a study, which trains on a few thousand rows a hundred times: smaller batches, fewer epochs and
steps. Chosen on the scenario `development`."""


@dataclass(frozen=True)
class Change:
    """What happens to traffic on a day: an attack `tool` appears, or a benign `service` changes."""

    day: int
    kind: Literal["tool", "service"]
    name: str


def scenario(name: str, *, seed: int | None = None) -> SimulatorSettings:
    """The scenario `ageing/NAME.yaml` of HOME/configs or ours; another `seed` gives other hosts and other choices,
    with the same calendar. Raises ConfigError."""
    settings = load_yaml(config_file("ageing", name), SimulatorSettings)
    return settings if seed is None else settings.model_copy(update={"seed": seed})


def changes(settings: SimulatorSettings) -> tuple[Change, ...]:
    """What changes in a scenario, in order of time."""
    tools = [Change(day, "tool", tool) for tool, day in settings.new_tools.items() if 0 < day < settings.days]
    services = [Change(c.day, "service", c.service) for c in settings.drift if 0 < c.day < settings.days]
    return tuple(sorted([*tools, *services], key=lambda c: (c.day, c.name)))


def scenario_traffic(settings: SimulatorSettings, folder: Path, *, progress: Progress = silent) -> TrafficSet:
    """The scenario's labelled flows, through captures and the extractor; kept under `folder`.

    Raises:
        StorageError, MissingExtraError.
    """
    return simulated_traffic(settings, folder / f"simulated-{settings.digest[:12]}", progress=progress)


def study_settings(family: ModelFamily, overrides: dict[str, Any] | None = None) -> FamilySettings:
    """A family's settings for a study: its configuration, `OFTEN`, then `overrides`. Raises ConfigError."""
    return family_settings(family, OFTEN.get(family.name, {}) | (overrides or {}))
