"""Floods: TCP, UDP and ICMP, from bots, spoofed sources and reflectors.

A flood is millions of packets; here it is a thinned sample of its flows, each as long as a sampled record would show.
A careful actor (`mimic`) sends less per source, varies sizes and waits longer. Floods of datagrams whose every packet
has a source and port of its own make flows of one packet, which no record tells from an announcement or a question
without an answer: here a source sends at least two.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.build import ACK, PSH, RST, SYN
from robustidps.traffic.simulator.day import Run, lognormal, owners
from robustidps.traffic.simulator.plan import ICMP, UDP, Array, Close, Open, talk

__all__ = [
    "ack_flood",
    "blacknurse",
    "dns_amplification",
    "hping_icmp",
    "hping_syn",
    "http_flood",
    "ntp_amplification",
    "ping_flood",
    "smurf",
    "spoofed_syn",
    "udp_plain",
    "udp_random",
]


def _sources(run: Run, spoofed: bool) -> Array:
    return run.world.spoofed(run.rng, run.n) if spoofed else run.attacker(run.n, int(run.rng.integers(8, 40)))


def _pace(run: Run, m: int, median: float) -> Array:
    """Pauses between a source's packets: short and even, or stretched and uneven."""
    return lognormal(run.rng, median * (1 + 25 * run.mimic**2), 0.3 + 1.1 * run.mimic, m)


def hping_syn(run: Run) -> None:
    """Bots of real addresses repeat SYNs from a port; their own kernels reset what is answered."""
    rng, n = run.rng, run.n
    owner = owners(rng, 4, n, 20, low=2)
    m = len(owner)
    size = int(rng.choice([0, 120, 120, 400]))  # SYNs with data, as flooding tools send them
    answered = rng.random(n) < 0.45
    flows = np.flatnonzero(answered)
    far, near = 0.001, 0.08
    reply = talk(flows, (1, 0, far, SYN | ACK), (0, 0, near, RST))
    run.add(
        talk(owner, (0, size, _pace(run, m, 0.12), SYN)),
        reply,
        t0=run.spread(n, 900),
        client=_sources(run, False),
        server=run.target(1, n),
        sport=rng.integers(1024, 65535, n),
        dport=80,
        opening=Open.NONE,
        closing=Close.NONE,
        syn_options=0,
        delay=rng.lognormal(0, 0.3, n),
    )


def spoofed_syn(run: Run) -> None:
    """Sources that never answer: the victim repeats its SYN-ACK until it gives up or its table is full."""
    rng, n = run.rng, run.n
    overwhelmed = rng.random(n) < 0.3
    run.add(
        t0=run.spread(n, 1200),
        client=_sources(run, True),
        server=run.target(1, n),
        sport=rng.integers(1024, 65535, n),
        dport=rng.choice([80, 443], n),
        opening=np.where(overwhelmed, Open.SILENT, Open.UNANSWERED),
        tries=np.where(overwhelmed, rng.integers(2, 5, n), rng.integers(3, 7, n)),
        backoff=np.where(overwhelmed, rng.exponential(0.4, n), 1 + rng.random(n) * 0.04),
        syn_options=int(rng.choice([0, 4, 20], p=[0.4, 0.4, 0.2])),
    )


def ack_flood(run: Run) -> None:
    """Segments of no connection, some with random data; a few are answered with resets."""
    rng, n = run.rng, run.n
    owner = owners(rng, 4, n, 30, low=2)
    m = len(owner)
    data = (rng.random(n) < 0.5)[owner]
    size = np.where(data, rng.integers(1, 600, n)[owner] + rng.integers(0, 60, m), 0)
    reset = np.flatnonzero(rng.random(n) < 0.4)
    run.add(
        talk(owner, (0, size, _pace(run, m, 0.05), np.where(data, PSH | ACK, ACK))),
        talk(reset, (1, 0, 0.0, RST)),
        t0=run.spread(n, 900),
        client=_sources(run, rng.random() < 0.5),
        server=run.target(1, n),
        dport=rng.choice([80, 443], n),
        opening=Open.NONE,
        closing=Close.NONE,
    )


def http_flood(run: Run) -> None:
    """Whole connections with one or a few small requests; the server answers late, with an error, or not at all."""
    rng, n = run.rng, run.n
    owner = owners(rng, 1.3 + run.mimic, n, 8)
    m = len(owner)
    size = lognormal(rng, 170 + 200 * run.mimic, 0.08 + 0.4 * run.mimic, m, 40, 2000)
    served = rng.random(m) < 0.4
    answer = np.where(rng.random(m) < 0.85, rng.integers(180, 420, m), lognormal(rng, 2600, 1.0, m, 300, 40_000))
    asked = talk(owner, (0, size, _pace(run, m, 0.02)))
    answers = talk(owner[served], (1, answer[served], rng.exponential(0.6, int(served.sum()))))
    run.add(
        asked,
        answers,
        t0=run.spread(n, 900),
        client=_sources(run, True),
        server=run.target(1, n),
        dport=80,
        closing=rng.choice(
            [Close.RST_CLIENT, Close.RST_SERVER, Close.NONE, Close.CLIENT], n, p=[0.38, 0.27, 0.29, 0.06]
        ),
        linger=rng.exponential(0.8, n),
    )


def udp_plain(run: Run) -> None:
    """One size for the whole run, one port after the other or all the same."""
    rng, n = run.rng, run.n
    owner = owners(rng, 16, n, 150, low=2)
    m = len(owner)
    size = rng.integers(1, 1400) + np.rint(rng.normal(0, 60 * run.mimic, m))
    run.add(
        talk(owner, (0, np.maximum(size, 1), _pace(run, m, 0.0004))),
        t0=run.spread(n, 900),
        client=_sources(run, False),
        server=run.target(int(rng.integers(0, 8)), n),
        dport=int(rng.integers(1, 65535)),
        protocol=UDP,
        sport=rng.integers(1024, 65535, n),
    )


def udp_random(run: Run) -> None:
    """Spoofed sources, random sizes, random ports."""
    rng, n = run.rng, run.n
    owner = owners(rng, 6, n, 40, low=2)
    m = len(owner)
    run.add(
        talk(owner, (0, rng.integers(1, 1440, m), _pace(run, m, 0.001))),
        t0=run.spread(n, 900),
        client=_sources(run, True),
        server=run.target(int(rng.integers(0, 8)), n),
        dport=rng.integers(1, 65535, n),
        protocol=UDP,
        sport=rng.integers(1024, 65535, n),
    )


def dns_amplification(run: Run) -> None:
    """Large answers nobody asked for, from open resolvers."""
    rng, n = run.rng, run.n
    owner = owners(rng, 5, n, 40, low=2)
    m = len(owner)
    size = np.minimum(lognormal(rng, 1100 - 500 * run.mimic, 0.3, n, 150)[owner] + rng.integers(-20, 20, m), 1472)
    run.add(
        talk(owner, (0, np.maximum(size, 60), _pace(run, m, 0.03))),
        t0=run.spread(n, 900),
        client=_sources(run, True),
        server=run.target(1, n),
        sport=53,
        dport=rng.integers(1024, 65535, n),
        protocol=UDP,
    )


def ntp_amplification(run: Run) -> None:
    """Lists of a time server's last clients: 440 bytes each, the last one shorter."""
    rng, n = run.rng, run.n
    owner = owners(rng, 9, n, 100, low=2)
    tail = np.flatnonzero(rng.random(n) < 0.7)
    run.add(
        talk(owner, (0, 440, _pace(run, len(owner), 0.004))),
        talk(tail, (0, rng.integers(1, 7, len(tail)) * 72 + 8, 0.002)),
        t0=run.spread(n, 900),
        client=_sources(run, True),
        server=run.target(1, n),
        sport=123,
        dport=rng.choice([80, 443, 53], n),
        protocol=UDP,
    )


def _icmp(
    run: Run, size: Array, owner: Array, kind: int, pace: float, answered: float, from_victim: bool = False
) -> None:
    """Sources are spoofed or fresh for every flow, so that no pair of hosts is shared with a benign ping."""
    rng, n = run.rng, run.n
    m = len(owner)
    said = [talk(owner, (0, size, _pace(run, m, pace), kind))]
    if answered:
        flows = np.flatnonzero(rng.random(n) < answered)
        k = rng.integers(1, 5, len(flows))
        who = np.repeat(flows, k)
        first = np.r_[0, np.flatnonzero(np.diff(owner)) + 1]
        said.append(talk(who, (1, size[first][who], 0.0, 0)))
    run.add(
        *said,
        t0=run.spread(n, 900),
        client=_sources(run, True),
        server=run.target(int(rng.integers(0, 4)), n),
        sport=0,
        dport=0,
        protocol=ICMP,
    )


def hping_icmp(run: Run) -> None:
    owner = owners(run.rng, 11, run.n, 80, low=4)
    size = run.rng.choice([0, 8, 56, 120, 500]) + np.rint(run.mimic * run.rng.integers(0, 90, run.n))[owner]
    _icmp(run, size, owner, 8 << 8, 0.006, 0.3)


def ping_flood(run: Run) -> None:
    owner = owners(run.rng, 10, run.n, 60, low=4)
    _icmp(run, np.full(len(owner), run.rng.choice([56, 1000, 1400, 1472])), owner, 8 << 8, 0.012, 0.8)


def smurf(run: Run) -> None:
    """Answers of a whole network to a request that the victim never sent."""
    owner = owners(run.rng, 9, run.n, 60, low=4)
    _icmp(run, np.full(len(owner), run.rng.choice([56, 500, 1024])), owner, 0, 0.02, 0.0)


def blacknurse(run: Run) -> None:
    """Port unreachable messages, which are costly for some firewalls."""
    owner = owners(run.rng, 14, run.n, 60, low=5)
    size = run.rng.integers(28, 130, run.n)[owner]
    _icmp(run, size, owner, 3 << 8 | 3, 0.008, 0.0)
