"""Malware that calls home: beacons with jitter, a shell that runs the wrong way, a held connection, data in pings, and
a loader that fetches the rest of itself. Tunnels through DNS are in `tunnels`.

A beacon's rhythm spans many flows, and a record holds one: what is left is the sameness of sizes, which telemetry
shares. The class is hardly visible in single flows.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.day import Run, lognormal, owners
from robustidps.traffic.simulator.plan import ICMP, Array, Close, Open, talk

__all__ = ["dropper", "https_beacon", "icmp_rat", "keepalive_rat", "reverse_shell"]


def _beacons(run: Run, n: int) -> tuple[Array, Array, Array]:
    """Times with jitter, infected hosts, and their controller."""
    hosts = run.rng.choice(run.world.groups["clients"], int(run.rng.integers(1, 5)))
    every = 60_000 / n
    t0 = run.rng.uniform(600, 20_000) + np.arange(n) * every * (1 + run.rng.uniform(-0.3, 0.3, n))
    return np.clip(t0, 0, 86_000), run.rng.choice(hosts, n), np.full(n, run.rng.choice(run.world.groups["controllers"]))


def https_beacon(run: Run) -> None:
    """A small request and a small answer inside TLS; sometimes a task, sometimes its result."""
    rng, n = run.rng, run.n
    t0, client, server = _beacons(run, n)
    flows = np.arange(n)
    hello, flight = int(rng.integers(150, 240)), int(rng.integers(900, 1500))
    if rng.random() < 0.5 * run.mimic:
        hello, flight = 517, int(rng.integers(2600, 4300))
    ask, answer = int(rng.integers(190, 420)), int(rng.integers(120, 300))
    task = rng.random(n) < 0.15
    more = owners(rng, 2.6 - 1.2 * run.mimic, n, 6)
    m = len(more)
    run.add(
        talk(
            flows,
            (0, hello, 0.001),
            (1, flight, rng.exponential(0.002, n)),
            (0, rng.integers(90, 130), 0.002),
            (1, int(rng.integers(50, 280)), 0.001),
        ),
        talk(
            more,
            (
                0,
                ask + rng.integers(0, 17, m),
                np.where(np.r_[False, more[1:] == more[:-1]], rng.uniform(5, 60, m), 0.002),
            ),
            (1, answer, rng.exponential(0.01, m)),
        ),
        talk(
            flows[task],
            (1, lognormal(rng, 3000, 1, int(task.sum()), 200, 60_000), 0.01),
            (0, lognormal(rng, 2500, 1.2, int(task.sum()), 100, 90_000), rng.exponential(2, int(task.sum()))),
        ),
        t0=t0,
        client=client,
        server=server,
        dport=rng.choice([443, 8443]),
        closing=rng.choice([Close.CLIENT, Close.RST_CLIENT], n),
    )


def reverse_shell(run: Run) -> None:
    """The outside gives commands and the inside answers with their output."""
    rng, n = run.rng, run.n
    t0, client, server = _beacons(run, n)
    owner = owners(rng, 6, n, 40)
    m = len(owner)
    run.add(
        talk(np.arange(n), (0, rng.integers(30, 130, n), 0.01)),
        talk(
            owner,
            (1, rng.integers(3, 60, m), lognormal(rng, 3, 1.0, m, 0.2, 100)),
            (0, lognormal(rng, 260, 1.3, m, 10, 30_000), rng.exponential(0.05, m)),
        ),
        t0=t0,
        client=client,
        server=server,
        dport=rng.choice([4444, 443, 53]),
        closing=rng.choice([Close.RST_CLIENT, Close.NONE, Close.CLIENT], n),
    )


def keepalive_rat(run: Run) -> None:
    """A connection held open: a few bytes each way, with jitter; mostly its beginning lies before the record."""
    rng, n = run.rng, run.n
    t0, client, server = _beacons(run, n)
    owner = owners(rng, 5, n, 30, low=2)
    m = len(owner)
    every = (rng.uniform(10, 50) * rng.lognormal(0, 0.15, n))[owner] * (1 + rng.uniform(-0.4, 0.4, m))
    size = int(rng.integers(8, 90))
    begins = rng.random(n) < 0.35
    run.add(
        talk(np.flatnonzero(begins), (0, int(rng.integers(80, 400)), 0.01), (1, int(rng.integers(8, 60)), 0.01)),
        talk(
            owner,
            (1, size, every),
            (0, size + np.where(rng.random(m) < 0.2, rng.integers(0, 200, m), 0), rng.exponential(0.01, m)),
        ),
        t0=t0,
        client=client,
        server=server,
        dport=int(rng.choice([8080, 1883, 5555])),
        opening=np.where(begins, Open.FULL, Open.NONE),
        closing=Close.NONE,
    )


def icmp_rat(run: Run) -> None:
    """Commands and output in echo requests and answers, of more than a ping's bytes and less than its regularity."""
    rng, n = run.rng, run.n
    t0, client, server = _beacons(run, n)
    server = rng.choice(run.world.groups["controllers"], n)
    owner = owners(rng, 5, n, 40)
    m = len(owner)
    ask = np.where(rng.random(m) < 0.4, lognormal(rng, 220, 0.6, m, 40, 1400), 56 + int(rng.integers(0, 70)))
    answer = np.where(rng.random(m) < 0.3, lognormal(rng, 160, 0.5, m, 40, 1200), ask)
    pause = rng.uniform(0.6, 6) * rng.lognormal(0, 0.4, m)
    run.add(
        talk(owner, (0, ask, pause, 8 << 8), (1, answer, 0.0, 0)),
        t0=t0,
        client=client,
        server=server,
        protocol=ICMP,
    )


def dropper(run: Run) -> None:
    """In the clear: a program is fetched, then small posts to one address after the other, some of which are gone."""
    rng, n = run.rng, run.n
    t0, client, _ = _beacons(run, n)
    kind = rng.choice(3, n, p=[0.2, 0.68, 0.12])
    fetched, posted = np.flatnonzero(kind == 0), np.flatnonzero(kind == 1)
    owner = posted[owners(rng, 1.5, len(posted), 6)]
    m, k = len(owner), len(fetched)
    post = int(rng.integers(280, 900))
    run.add(
        talk(fetched, (0, rng.integers(90, 330, k), 0.01), (1, lognormal(rng, 110_000, 0.8, k, 8000, 700_000), 0.08)),
        talk(
            owner,
            (0, post + rng.integers(0, 200, m), rng.exponential(0.3 + 2 * run.mimic, m)),
            (
                1,
                np.where(rng.random(m) < 0.8, rng.integers(130, 420, m), lognormal(rng, 9000, 1.2, m, 300, 200_000)),
                0.15,
            ),
        ),
        t0=t0,
        client=client,
        server=rng.choice(run.world.groups["controllers"], n),
        dport=rng.choice([80, 8080, 443, 7080], n),
        opening=np.where(kind == 2, rng.choice([Open.SILENT, Open.REFUSED], n), Open.FULL),
        tries=np.where(kind == 2, rng.integers(2, 6, n), 1),
        closing=rng.choice([Close.CLIENT, Close.SERVER, Close.RST_CLIENT, Close.NONE], n, p=[0.4, 0.2, 0.2, 0.2]),
        linger=rng.exponential(1, n),
    )
