"""One simulated day as its applications and attacks see it: hosts, hours, and where to put conversations.

Each application and attack run draws from a random stream of its own, so that switching one off leaves the others'
choices as they are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.simulator.catalogue import BENIGN, CLASSES
from robustidps.traffic.simulator.plan import ICMP, Messages, Plan
from robustidps.traffic.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from robustidps.traffic.simulator.world import World

__all__ = ["Day", "Run", "lognormal", "owners", "sensor"]

Array = npt.NDArray[Any]

# Relative activity per hour, UTC.
OFFICE = np.array([1, 1, 1, 1, 1, 2, 5, 12, 22, 26, 26, 24, 17, 22, 26, 25, 22, 16, 10, 8, 7, 6, 4, 2], float)
EVENING = np.array([5, 3, 2, 1, 1, 1, 3, 5, 6, 6, 6, 7, 9, 8, 7, 8, 9, 12, 16, 20, 22, 20, 15, 9], float)
NIGHT = np.array([14, 22, 26, 24, 18, 10, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 6, 8, 11], float)
FLAT = np.ones(24)
CUT, SIX = 0.03, 0.12
"""Shares of benign flows of which the capture has not the beginning (or the end), and that are IPv6."""
_COALESCED = np.array([2, 4, 8, 16, 44])  # segments that a network card puts together, at most 64 kB
BLOCKS = 3  # groups of hosts that a benign application's day is cut into, as campaigns


def lognormal(
    rng: np.random.Generator, median: float, sigma: float, n: int, low: float = 0, high: float = 1e9
) -> Array:
    return np.clip(median * rng.lognormal(0, sigma, n), low, high)


def owners(rng: np.random.Generator, mean: float, n: int, high: int = 400, heavy: bool = False, low: int = 1) -> Array:
    """Each of n flows repeated as often as it has rounds: about `mean` on average, at least `low` (0 or 1).

    heavy: Pareto with exponent 1.6 in place of geometric.
    """
    if heavy:
        counts = np.minimum((mean * 0.45 * (1 + rng.pareto(1.6, n))).astype(np.int64) + low, high)
    else:
        counts = np.clip(rng.geometric(1 / (max(mean, 0.01) + 1 - low), n) - 1 + low, low, high)
    return np.repeat(np.arange(n), counts)


def sensor(rng: np.random.Generator, n: int, cut: float) -> dict[str, Array]:
    """What the sensor sees of n flows, as columns: a share `cut` began before it looked, as many go on after it; of a
    few it sees one direction, or segments that the capturing host's network card had put together."""
    u = rng.random((6, n))
    # Geometric with mean 8, and Pareto with exponent 1.1, from uniform numbers.
    before = 1 + np.floor(np.log1p(-u[1]) / np.log(0.88)).astype(np.int64)
    after = np.minimum(4 / (1 - u[3]) ** (1 / 1.1) - 3, 5000).astype(np.int64)
    return {
        "skip": np.where(u[0] < cut, before, 0),
        "keep": np.where(u[2] < cut, after, 1 << 40),
        "ways": np.where(u[4] < cut / 3, np.where(u[4] < cut / 6, 1, 2), 3),
        "coalesced": np.where(
            u[5] < 0.04, _COALESCED[(u[5] * 25 * len(_COALESCED)).astype(np.int64) % len(_COALESCED)], 1
        ),
    }


def stream(settings: SimulatorSettings, number: int, name: str) -> np.random.Generator:
    """The random numbers of one application or run on one day."""
    return np.random.default_rng(
        np.random.SeedSequence([settings.seed, number, SIMULATOR_VERSION, zlib.crc32(name.encode())])
    )


def _defaults(rng: np.random.Generator, n: int, cut: float, six: float, columns: dict[str, Any]) -> dict[str, Any]:
    """Columns of n flows, with what an application leaves to chance: its port, IP version, what is seen of it."""
    drawn = sensor(rng, n, cut)
    drawn |= {"sport": rng.integers(32768, 61000, n), "ip_version": np.where(rng.random(n) < six, 6, 4)}
    if "relay" in columns:  # a man in the middle's copies are seen as whole as what they copy
        drawn = {"sport": drawn["sport"], "ip_version": drawn["ip_version"]}
    if np.ndim(columns.get("protocol", 0)) == 0 and columns.get("protocol") == ICMP:
        drawn["ip_version"] = np.full(n, 4)
    return drawn | columns


@dataclass
class Day:
    settings: SimulatorSettings
    number: int
    world: World
    plan: Plan = field(default_factory=Plan)
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def difficulty(self) -> float:
        return self.settings.difficulty

    @property
    def is_weekend(self) -> bool:
        return (self.settings.start.weekday() + self.number) % 7 >= 5

    def times(self, n: int, profile: Array = FLAT) -> Array:
        """n times of day in s, with hours drawn by a profile."""
        hours = self.rng.choice(24, n, p=profile / profile.sum())
        return (hours + self.rng.random(n)) * 3600

    def pick(self, group: str, n: int, skew: float = 1.0) -> Array:
        return self.world.pick(self.rng, group, n, skew)

    def server(self, index: int, n: int) -> Array:
        """One of the site's own servers (0 resolver, 1 web, 2 mail, 3 ssh, 4 ftp, 5 database, 6 backup, ...)."""
        return np.full(n, self.world.groups["servers"][index])

    def benign(self, name: str, *said: Messages, client: Array, server: Array, dport: Any, **columns: Any) -> None:
        """Adds flows of a benign application, as they are on this day."""
        change = self.settings.change(name, self.number)
        for m in said:
            m.size = np.rint(m.size * change.size).astype(np.int64)
            m.gap = m.gap * change.pace
        n = len(columns["t0"])
        codes = np.array([self.plan.code(f"benign/{name}/day{self.number:02d}/{b}") for b in range(BLOCKS)])
        columns = _defaults(self.rng, n, CUT, SIX, columns)
        self.plan.add(
            *said,
            client=client,
            server=server,
            dport=dport if change.port is None else change.port,
            label=CLASSES.index(BENIGN),
            campaign=codes[client % BLOCKS],
            tool=self.plan.code(name),
            **columns,
        )


@dataclass
class Run:
    """One attack run: a tool used by one actor for a while. Its flows are one campaign.

    n: about how many flows it should leave. mimic: 0..1 per run, how much this actor takes care to look normal.
    """

    day: Day
    label: str
    tool: str
    campaign: str
    n: int
    rng: np.random.Generator
    mimic: float

    @property
    def world(self) -> World:
        return self.day.world

    def window(self, seconds: float) -> float:
        """A start in working hours or at night, so that `seconds` fit into the day."""
        return float(self.rng.uniform(1800, max(86_000 - seconds, 2000)))

    def spread(self, n: int, seconds: float) -> Array:
        """n times in order within a window of that length."""
        return self.window(seconds) + np.sort(self.rng.random(n)) * seconds

    def attacker(self, n: int, count: int = 1, group: str = "attackers") -> Array:
        """n rows from `count` attacking hosts."""
        return self.rng.choice(self.rng.choice(self.world.groups[group], count), n)

    def target(self, index: int, n: int) -> Array:
        return self.day.server(index, n)

    def add(self, *said: Messages, **columns: Any) -> None:
        columns = _defaults(self.rng, len(columns["t0"]), CUT / 4, SIX / 3, columns)
        self.day.plan.add(
            *said,
            label=CLASSES.index(self.label),
            campaign=self.day.plan.code(self.campaign),
            tool=self.day.plan.code(self.tool),
            **columns,
        )
