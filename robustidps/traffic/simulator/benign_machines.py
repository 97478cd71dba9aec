"""What machines do by themselves: updates, telemetry, clocks, pings, backups, health checks, logs, and failures.

Much of what looks like an attack in a flow record is here: connections that are refused or never answered, health
checks that open and reset, reports of a constant size at a constant pace, a mirror port that shows packets twice.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.benign_users import pages, tls
from robustidps.traffic.simulator.day import FLAT, NIGHT, OFFICE, Day, lognormal, owners
from robustidps.traffic.simulator.plan import ICMP, UDP, Close, Open, talk

__all__ = ["backup", "database", "dhcp", "failed", "health", "iot", "logging", "mirrored", "ntp", "ping", "update"]


def update(day: Day, n: int) -> None:
    """Looks for updates: mostly nothing new."""
    rng = day.rng
    found = rng.random(n) < 0.15
    body = np.where(found, lognormal(rng, 60_000, 1.2, n, 3000, 700_000), rng.integers(180, 900, n))
    day.benign(
        "update",
        tls(rng, n),
        talk(np.arange(n), (0, rng.integers(250, 700, n), 0.01), (1, body, 0.05)),
        t0=day.times(n, FLAT),
        client=day.pick("clients", n),
        server=day.pick("services", n, 5),
        dport=443,
        linger=np.where(rng.random(n) < 0.5, 0.01, rng.exponential(10, n)),
    )


def iot(day: Day, n: int) -> None:
    """Telemetry: short HTTPS reports of nearly constant size, and brokers' connections kept alive for hours."""
    rng = day.rng
    short = n * 2 // 3
    device = day.pick("iot", short)
    size = 180 + (device * 37) % 300 + rng.integers(-6, 7, short)
    day.benign(
        "iot",
        tls(rng, short),
        talk(np.arange(short), (0, size, 0.01), (1, rng.choice([126, 139, 180], short), rng.exponential(0.03, short))),
        t0=day.times(short, FLAT),
        client=device,
        server=day.pick("services", short, 8),
        dport=443,
    )
    k = n - short
    device = day.pick("iot", k)
    owner = owners(rng, 5, k, 40)
    m = len(owner)
    every = (15.0 + 15 * (device % 4))[owner] * rng.normal(1, 0.02, m)
    report = rng.random(m) < 0.4
    begins = np.flatnonzero(rng.random(k) < 0.4)  # the others' beginning lies before, as the idle time-out has cut them
    day.benign(
        "iot",
        talk(begins, (0, rng.integers(60, 130, len(begins)), 0.01), (1, 4, 0.01)),
        talk(owner, (0, np.where(report, rng.integers(60, 240, m), 2), every), (1, np.where(report, 4, 2), 0.01)),
        t0=day.times(k, FLAT),
        client=device,
        server=day.pick("services", k, 8),
        dport=1883,
        opening=np.where(np.isin(np.arange(k), begins), Open.FULL, Open.NONE),
        closing=Close.NONE,
    )


def dhcp(day: Day, n: int) -> None:
    """Leases: a broadcast of at least 300 bytes, asked again or not, and renewals between two fixed ports."""
    rng = day.rng
    renewal = rng.random(n) < 0.4
    size = np.where(rng.random(n) < 0.5, 300, rng.integers(300, 380, n))
    flows = np.arange(n)
    tries = np.repeat(flows, np.where(renewal, 1, rng.choice([1, 2, 3], n, p=[0.4, 0.4, 0.2])))
    answered = flows[renewal]
    day.benign(
        "dhcp",
        talk(
            tries,
            (0, size[tries], rng.choice([0.002, 0.02, 1.0, 4.0, 8.0], len(tries)) * rng.lognormal(0, 0.2, len(tries))),
        ),
        talk(answered, (1, rng.integers(300, 380, len(answered)), rng.exponential(0.01, len(answered)))),
        t0=day.times(n, FLAT),
        client=np.where(rng.random(n) < 0.5, day.pick("iot", n), day.pick("clients", n)),
        server=np.where(renewal, day.server(0, n), day.world.groups["multicast"][-1]),
        sport=68,
        dport=67,
        protocol=UDP,
        ip_version=4,
    )


def ntp(day: Day, n: int) -> None:
    rng = day.rng
    owner = owners(rng, 1.6, n, 8)
    m = len(owner)
    day.benign(
        "ntp",
        talk(
            owner, (0, 48, rng.choice([0.0, 2.0, 64.0], m) + rng.random(m) * 0.1), (1, 48, rng.exponential(0.0003, m))
        ),
        t0=day.times(n, FLAT),
        client=np.where(rng.random(n) < 0.5, day.pick("iot", n), day.pick("clients", n)),
        server=day.pick("services", n, 6),
        sport=np.where(rng.random(n) < 0.4, 123, rng.integers(32768, 61000, n)),
        dport=123,
        protocol=UDP,
    )


def ping(day: Day, n: int) -> None:
    """Echo requests once a second by people, in small series by monitors; some are not answered."""
    rng = day.rng
    owner = owners(rng, 5, n, 120, heavy=True)
    m = len(owner)
    size = rng.choice([56, 56, 40, 32, 64, 992, 1400], n)[owner] + 0
    every = np.where(rng.random(n) < 0.75, 1.0, 0.2)[owner]
    answered = (rng.random(n) > 0.06)[owner] & (rng.random(m) > 0.01)
    said = [talk(owner, (0, size, every, 8 << 8)), talk(owner[answered], (1, size[answered], 0.0, 0))]
    # Requests and answers alternate: order by round, then by direction.
    k = np.arange(m) - np.repeat(np.r_[0, np.flatnonzero(np.diff(owner)) + 1], np.unique(owner, return_counts=True)[1])
    both = talk(np.empty(0, np.int64))
    order = np.lexsort(
        (np.r_[np.zeros(m), np.ones(answered.sum())], np.r_[k, k[answered]], np.r_[owner, owner[answered]])
    )
    for name in ("flow", "direction", "size", "gap", "flags"):
        setattr(both, name, np.concatenate([getattr(s, name) for s in said])[order])
    # The next request leaves a second after the last one, not after its answer: a path's delay is small beside it.
    day.benign(
        "ping",
        both,
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n),
        server=np.where(rng.random(n) < 0.5, day.pick("services", n), day.pick("servers", n)),
        sport=0,
        dport=0,
        protocol=ICMP,
    )


def backup(day: Day, n: int) -> None:
    rng = day.rng
    owner = owners(rng, 2, n, 6)
    m = len(owner)
    day.benign(
        "backup",
        tls(rng, n),
        talk(owner, (0, lognormal(rng, 80_000, 0.9, m, 20_000, 600_000), rng.exponential(0.5, m)), (1, 64, 0.01)),
        t0=day.times(n, NIGHT),
        client=day.pick("clients", n),
        server=day.server(6, n),
        dport=10_000,
    )


def health(day: Day, n: int) -> None:
    """A balancer's checks: open and reset at once, a constant request, or a bare UDP probe."""
    rng = day.rng
    bare = n // 2
    near = day.pick("servers", bare)
    day.benign(
        "health",
        t0=day.times(bare, FLAT),
        client=near,
        server=day.pick("servers", bare),
        dport=rng.choice([80, 443, 25], bare),
        opening=Open.HALF,
        delay=rng.lognormal(0.5, 0.8, bare),
    )
    k = n - bare
    day.benign(
        "health",
        talk(np.arange(k), (0, 118, 0.0), (1, rng.choice([171, 188, 604], k), rng.exponential(0.004, k))),
        t0=day.times(k, FLAT),
        client=np.where(rng.random(k) < 0.4, day.pick("visitors", k, 8), day.pick("servers", k)),
        server=day.server(1, k),
        dport=80,
    )


def database(day: Day, n: int) -> None:
    """Inner services: queries that repeat, some of them long, on connections of a pool."""
    rng = day.rng
    owner = owners(rng, 6, n, 200, heavy=True)
    m = len(owner)
    begins = rng.random(n) < 0.5
    day.benign(
        "database",
        talk(
            owner,
            (0, lognormal(rng, 190, 0.9, m, 20, 9000), rng.exponential(1.5, m)),
            (1, lognormal(rng, 420, 1.4, m, 30, 90_000), lognormal(rng, 0.004, 1.2, m, 0, 6)),
        ),
        t0=day.times(n, OFFICE),
        client=np.where(rng.random(n) < 0.6, day.server(1, n), day.pick("clients", n)),
        server=day.server(5, n),
        dport=5432,
        opening=np.where(begins, Open.FULL, Open.NONE),
        closing=np.where(begins & (rng.random(n) < 0.7), Close.CLIENT, Close.NONE),
    )


def logging(day: Day, n: int) -> None:
    """Syslog, SNMP traps and NetFlow: UDP in one direction, sometimes in bursts."""
    rng = day.rng
    owner = owners(rng, 7, n, 200, heavy=True)
    m = len(owner)
    burst = (rng.random(n) < 0.25)[owner]
    size = np.where((rng.random(n) < 0.2)[owner], 1412, lognormal(rng, 190, 0.5, m, 50, 1400))
    day.benign(
        "logging",
        talk(owner, (0, size, np.where(burst, rng.exponential(0.004, m), rng.exponential(9, m)))),
        t0=day.times(n, FLAT),
        client=np.where(rng.random(n) < 0.5, day.pick("iot", n), day.pick("servers", n)),
        server=day.server(7, n),
        dport=rng.choice([514, 162, 2055], n),
        protocol=UDP,
    )


def failed(day: Day, n: int) -> None:
    """Connections to what is not there: refused, filtered, or reset in the middle."""
    rng = day.rng
    kind = rng.choice(4, n, p=[0.42, 0.35, 0.18, 0.05])
    outside = rng.random(n) < 0.5
    opening = np.choose(kind, [Open.REFUSED, Open.SILENT, Open.FULL, Open.UNANSWERED])
    tries = np.choose(
        kind,
        [rng.choice([1, 3], n, p=[0.35, 0.65]), rng.integers(2, 7, n), np.ones(n, np.int64), rng.integers(1, 5, n)],
    )
    talked = np.flatnonzero(kind == 2)
    client = np.where(rng.random(n) < 0.15, day.pick("visitors", n), day.pick("clients", n))
    server = np.where(
        np.isin(client, day.world.groups["visitors"]) | ~outside, day.pick("servers", n), day.pick("services", n)
    )
    day.benign(
        "failed",
        talk(talked, (0, rng.integers(100, 700, len(talked)), 0.01)),
        t0=day.times(n, OFFICE),
        client=client,
        server=server,
        dport=rng.choice([443, 80, 8080, 445, 993, 22], n),
        opening=opening,
        closing=np.where(kind == 2, rng.choice([Close.RST_SERVER, Close.RST_CLIENT], n), Close.NONE),
        tries=tries,
        backoff=np.where(kind == 0, 0.5, 1.0) + rng.random(n) * 0.03,
    )


def mirrored(day: Day, n: int) -> None:
    """A mirror port that shows some packets twice, as when two switches copy the same traffic."""
    rng = day.rng
    day.benign(
        "mirrored",
        tls(rng, n),
        pages(rng, n, 2.4, 2200, 6),
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n),
        server=day.pick("services", n, 3),
        dport=443,
        relay=lognormal(rng, 0.00008, 0.7, n),
        relay_ways=rng.choice([1, 2, 3], n, p=[0.1, 0.1, 0.8]),
    )
