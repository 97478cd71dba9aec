"""Forged answers: an ARP man in the middle, and spoofed DNS.

ARP itself makes no flow. What a sensor on the wire sees of a man in the middle is every IP packet twice: on its way to
him and, a relay delay later, on its way on. A flow record shows that as doubled counts and many short gaps, and hardly
at all where only one direction is taken over or the conversation is two packets long.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.benign_users import pages, tls
from robustidps.traffic.simulator.day import Run, lognormal, owners
from robustidps.traffic.simulator.plan import UDP, Close, talk

__all__ = ["arpspoof", "bettercap", "birthday", "dns_race", "ettercap", "kaminsky"]

_RESERVED = (61_000, 65_535)  # the victim's ports, apart from those of the same host's other conversations


def _middle(run: Run, delay: float, one_way: float) -> None:
    """What a victim does anyway, relayed: browsing, lookups, mail, an inner page in the clear."""
    rng, n = run.rng, run.n
    victims = rng.choice(run.world.groups["clients"], int(rng.integers(1, 4)))
    kind = rng.choice(4, n, p=[0.55, 0.2, 0.15, 0.1])
    t0 = run.spread(n, 3600)
    relay = lognormal(rng, delay, 0.5, n, 0.0001, 0.05)
    ways = np.where(rng.random(n) < one_way, rng.choice([1, 2], n), 3)
    for k, (group, dport, skew) in enumerate(
        (("services", 443, 2.2), ("dns", 53, 1), ("servers", 80, 1), ("services", 993, 4))
    ):
        mine = np.flatnonzero(kind == k)
        m = len(mine)
        if not m:
            continue
        if group == "dns":
            pair = rng.random(m) < 0.35
            name, size, flows = rng.integers(28, 62, m), lognormal(rng, 110, 0.55, m, 44, 1200), np.arange(m)
            wait = lognormal(rng, 0.02, 1.0, m, 0, 2)
            said = [
                talk(flows, (0, name, 0.0)),
                talk(flows[pair], (0, name[pair], 0.0003)),
                talk(flows, (1, size, wait)),
                talk(flows[pair], (1, size[pair], 0.001)),
            ]
            server, protocol = run.world.pick(rng, "services", m, 6), UDP
        else:
            said = [pages(rng, m, 2.4, 2200, 6)] if dport == 80 else [tls(rng, m), pages(rng, m, 2.4, 2200, 6)]
            server, protocol = (run.target(1, m) if group == "servers" else run.world.pick(rng, group, m, skew)), 6
        run.add(
            *said,
            t0=t0[mine],
            client=rng.choice(victims, m),
            server=server,
            sport=rng.integers(*_RESERVED, m),
            dport=dport,
            protocol=protocol,
            relay=relay[mine],
            relay_ways=ways[mine],
            closing=rng.choice([Close.CLIENT, Close.SERVER, Close.RST_CLIENT, Close.NONE], m, p=[0.6, 0.2, 0.1, 0.1]),
            linger=rng.exponential(1.5, m),
        )


def arpspoof(run: Run) -> None:
    """The kernel forwards; often only one direction is poisoned."""
    _middle(run, 0.0025, 0.05 + 0.2 * run.mimic)


def ettercap(run: Run) -> None:
    """Forwards in user space, slowly."""
    _middle(run, 0.008, 0.05 + 0.15 * run.mimic)


def bettercap(run: Run) -> None:
    _middle(run, 0.004, 0.05 + 0.2 * run.mimic)


def dns_race(run: Run) -> None:
    """A forged answer that is there before the true one."""
    rng, n = run.rng, run.n
    flows = np.arange(n)
    name = rng.integers(28, 62, n)
    forged = rng.exponential(0.0015, n) + 0.0003
    truth = lognormal(rng, 0.03, 0.8, n, 0.001, 2)
    size = np.where(rng.random(n) < 0.6, name + 16, lognormal(rng, 110, 0.4, n, 44, 900))
    again = np.flatnonzero(rng.random(n) < 0.3)  # sent twice to be sure
    run.add(
        talk(flows, (0, name, 0.0), (1, size, forged)),
        talk(again, (1, size[again], rng.exponential(0.001, len(again)))),
        talk(flows, (1, lognormal(rng, 110, 0.55, n, 44, 1200), truth)),
        t0=run.spread(n, 7200),
        client=rng.choice(run.world.groups["clients"], n),
        server=np.where(rng.random(n) < 0.5, run.target(0, n), run.world.pick(rng, "services", n, 6)),
        sport=rng.integers(*_RESERVED, n),
        dport=53,
        protocol=UDP,
        delay=rng.lognormal(-1.5, 0.5, n),
    )


def kaminsky(run: Run) -> None:
    """The resolver asks for a name that does not exist, and is showered with answers that guess its number."""
    rng, n = run.rng, run.n
    flows = np.arange(n)
    guesses = owners(rng, 14 - 9 * run.mimic, n, 90, low=2)
    m = len(guesses)
    size = int(rng.integers(90, 180)) + rng.integers(0, 4, m)
    run.add(
        talk(flows, (0, rng.integers(36, 60, n), 0.0)),
        talk(guesses, (1, size, rng.exponential(0.0008 + 0.01 * run.mimic, m))),
        talk(flows, (1, rng.integers(80, 140, n), lognormal(rng, 0.02, 0.8, n))),
        t0=run.spread(n, 900),
        client=run.target(0, n),
        server=run.world.pick(rng, "services", n, 6),
        sport=rng.integers(*_RESERVED, n),
        dport=53,
        protocol=UDP,
        delay=0.3,
    )


def birthday(run: Run) -> None:
    """The same question many times at once, and as many forged answers: some pair of numbers will meet."""
    rng, n = run.rng, run.n
    flows = np.arange(n)
    asked = owners(rng, 7 - 4 * run.mimic, n, 40, low=2)
    forged = owners(rng, 9 - 5 * run.mimic, n, 60, low=2)
    name, answer = int(rng.integers(30, 60)), int(rng.integers(60, 170))
    run.add(
        talk(asked, (0, name, rng.exponential(0.002 + 0.01 * run.mimic, len(asked)))),
        talk(forged, (1, answer, rng.exponential(0.001 + 0.01 * run.mimic, len(forged)))),
        talk(flows, (1, rng.integers(60, 200, n), lognormal(rng, 0.02, 0.8, n))),
        t0=run.spread(n, 1200),
        client=run.target(0, n),
        server=run.world.pick(rng, "services", n, 6),
        sport=rng.integers(*_RESERVED, n),
        dport=53,
        protocol=UDP,
        delay=0.5,
    )
