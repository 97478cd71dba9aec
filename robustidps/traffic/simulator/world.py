"""The simulated site and the Internet around it: hosts with addresses, distances, losses and habits of their stacks.

The sensor sits at the site's border and sees inner traffic too (a mirror port). A host's `delay` is the round trip
between sensor and host, so a conversation's round trip is the sum of both ends'. The world depends on the seed alone;
a day may add hosts of its own (spoofed sources), from address ranges that no benign host has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "World"]

Array = npt.NDArray[Any]

COLUMNS = ("ip", "delay", "loss", "ttl", "syn_options", "timestamps", "bandwidth", "mss")

# group: (how many, first address, step between addresses at most, median round trip in s, spread)
_GROUPS: dict[str, tuple[int, str, int, float, float]] = {
    "clients": (140, "10.20.0.10", 9, 0.0012, 0.8),
    "iot": (45, "10.30.0.10", 5, 0.004, 0.9),
    "servers": (14, "10.10.0.10", 3, 0.0004, 0.4),
    "services": (420, "23.32.0.1", 60_000, 0.022, 0.8),
    "visitors": (260, "81.2.0.1", 50_000, 0.045, 0.7),
    "attackers": (90, "185.100.0.1", 20_000, 0.070, 0.6),
    "controllers": (30, "45.140.0.1", 9_000, 0.060, 0.6),
    "peers": (600, "66.0.0.1", 90_000, 0.060, 0.9),
    "routers": (150, "96.0.0.1", 90_000, 0.030, 0.9),
}
_MULTICAST = ("224.0.0.1", "224.0.0.5", "224.0.0.18", "224.0.0.22", "224.0.0.251", "239.255.255.250", "10.20.255.255")
_MSS = (np.array([1460, 1440, 1420, 1400, 1380, 1360, 1300, 1220]), [0.62, 0.1, 0.04, 0.08, 0.06, 0.05, 0.02, 0.03])


def address(text: str) -> int:
    a, b, c, d = (int(p) for p in text.split("."))
    return a << 24 | b << 16 | c << 8 | d


def _bad_paths(rng: np.random.Generator, n: int) -> Array:
    """Some hosts sit behind a radio link that loses a percent or more."""
    return np.where(rng.random(n) < 0.06, 8.0, 1.0)


class World:
    """Hosts as columns of one table; groups are ranges of row numbers.

    ip: the address as a number; delay: s; loss: share of packets; ttl: as seen at the sensor; syn_options: bytes of
    TCP options in its SYN; timestamps: 1 if its segments carry the timestamp option; bandwidth: bytes/s; mss: largest
    segment that its path carries, options included.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x57_6F_72_6C_64])
        self.columns: dict[str, Array] = {c: np.empty(0) for c in COLUMNS}
        self.groups: dict[str, Array] = {}
        for name, (n, first, step, delay, spread) in _GROUPS.items():
            steps = rng.integers(1, step + 1, n)
            ip = address(first) + np.cumsum(steps) - steps[0]
            self.groups[name] = self.add(rng, ip, delay * rng.lognormal(0, spread, n), inside=first.startswith("10."))
        many = np.array([address(a) for a in _MULTICAST])
        self.groups["multicast"] = self.add(rng, many, np.full(len(many), 0.001), inside=True)

    def add(self, rng: np.random.Generator, ip: Array, delay: Array, *, inside: bool = False) -> Array:
        """Adds hosts and gives their row numbers."""
        n, before = len(ip), len(self.columns["ip"])
        linux = rng.random(n) < 0.6
        hops = rng.integers(0, 2, n) if inside else rng.integers(6, 22, n)
        new = {
            "ip": ip,
            "delay": np.clip(delay, 0.0002, 0.6),
            "loss": np.clip(rng.lognormal(-7.5 if inside else -5.8, 1.0, n) * _bad_paths(rng, n), 0, 0.12),
            "ttl": np.where(linux, 64, 128) - hops,
            "syn_options": np.where(linux, 20, 12),
            "timestamps": linux,
            "bandwidth": np.clip(rng.lognormal(np.log(3e7 if inside else 2.5e6), 0.9, n), 1e5, 1.2e8),
            "mss": np.where(inside & (rng.random(n) < 0.8), 1460, rng.choice(_MSS[0], n, p=_MSS[1])),
        }
        for c in COLUMNS:
            self.columns[c] = np.concatenate([self.columns[c], new[c]])
        return np.arange(before, before + n)

    def spoofed(self, rng: np.random.Generator, n: int) -> Array:
        """Hosts of random addresses in 112.0.0.0/6, of which no other host has any."""
        return self.add(rng, address("112.0.0.0") + rng.choice(1 << 26, n), 0.08 * rng.lognormal(0, 0.6, n))

    def pick(self, rng: np.random.Generator, group: str, n: int, skew: float = 1.0) -> Array:
        """n hosts of a group, the first ones more often the larger `skew` is (1: all alike)."""
        rows = self.groups[group]
        return rows[(len(rows) * rng.random(n) ** skew).astype(np.int64)]
