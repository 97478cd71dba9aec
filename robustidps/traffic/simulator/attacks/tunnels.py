"""Data in DNS: tunnels and slow leaks, over UDP or TCP, a whole session on one port.

What a flow record shows is a lookup that never ends: names as long as they may be one way, long records the other, and
as many of both. Forwarders and busy clients that keep their port make flows of that shape too, with shorter names.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.day import Run, lognormal, owners
from robustidps.traffic.simulator.plan import TCP, UDP, Array, Close, talk

__all__ = ["dns2tcp", "dns_exfil", "dnscat", "iodine"]

_RESERVED = (61_000, 65_535)  # the client's ports, apart from those of the same host's lookups


def _session(run: Run, owner: Array, up: Array, down: Array, pause: Array, over_tcp: Array) -> None:
    rng, n = run.rng, run.n
    extra = 2 * over_tcp[owner]  # a message's length goes before it
    run.add(
        talk(owner, (0, up + extra, pause), (1, down + extra, lognormal(rng, 0.02, 0.6, len(owner)))),
        t0=run.spread(n, 20_000),
        client=rng.choice(run.world.groups["clients"], n),
        server=np.where(rng.random() < 0.5, run.target(0, n), run.world.pick(rng, "services", n, 6)),
        sport=rng.integers(*_RESERVED, n),
        dport=53,
        protocol=np.where(over_tcp, TCP, UDP),
        closing=rng.choice([Close.CLIENT, Close.NONE, Close.RST_CLIENT], n, p=[0.5, 0.3, 0.2]),
    )


def _tunnel(run: Run, rounds: float, ask: float, answer: float, pause: float, over_tcp: float) -> None:
    rng, n = run.rng, run.n
    owner = owners(rng, rounds * rng.uniform(0.4, 1.8), n, 220, heavy=rng.random() < 0.5, low=3)
    m = len(owner)
    mtu = answer * (1 - 0.4 * run.mimic)
    busy = rng.random(m) < rng.uniform(0.3, 0.9)
    up = np.where(busy, lognormal(rng, ask * (1 - 0.35 * run.mimic), 0.2, m, 40, 255), rng.integers(40, 75, m))
    down = np.where(rng.random(m) < 0.5, lognormal(rng, mtu, 0.3, m, 70, 1300), up + rng.integers(16, 60, m))
    _session(run, owner, up, down, rng.exponential(pause * (1 + 4 * run.mimic), m), rng.random(n) < over_tcp)


def iodine(run: Run) -> None:
    """An interface of its own: large records down, full names up, and a poll whenever nothing is said."""
    _tunnel(run, 40, 190, 700, 0.08, 0)


def dnscat(run: Run) -> None:
    """Commands: short sessions of middling names."""
    _tunnel(run, 12, 130, 190, 0.8, 0)


def dns2tcp(run: Run) -> None:
    """One TCP connection inside lookups, some of them over TCP themselves."""
    _tunnel(run, 35, 110, 180, 0.15, 0.5)


def dns_exfil(run: Run) -> None:
    """A file goes out in names of one length at an even pace; the answers only say that they came."""
    rng, n = run.rng, run.n
    owner = owners(rng, rng.uniform(20, 90), n, 220, low=5)
    m = len(owner)
    name = int(rng.integers(90, 250) * (1 - 0.3 * run.mimic))
    up = name + rng.integers(-4, 5, m)
    down = up + int(rng.integers(16, 90)) + rng.integers(0, 6, m)
    pause = rng.uniform(0.05, 0.6) * (1 + 4 * run.mimic) * rng.lognormal(0, rng.uniform(0.05, 0.8), m)
    _session(run, owner, up, down, pause, rng.random(n) < 0.1)
