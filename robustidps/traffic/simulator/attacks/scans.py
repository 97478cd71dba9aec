"""Scans of ports and of operating systems: in sequence and at random, fast and slow, open, closed and filtered."""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.build import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG
from robustidps.traffic.simulator.day import Run, lognormal
from robustidps.traffic.simulator.plan import ICMP, NULL, UDP, Array, Close, Messages, Open, talk

__all__ = [
    "masscan",
    "nmap_connect",
    "nmap_fin",
    "nmap_os",
    "nmap_syn",
    "nmap_udp",
    "ping_sweep",
    "sinfp",
    "slow_scan",
    "xprobe",
]

COMMON = np.array([21, 22, 23, 25, 53, 80, 110, 135, 139, 143, 443, 445, 993, 1433, 3306, 3389, 5432, 5900, 8080, 8443])


def _ports(run: Run, n: int, in_sequence: bool) -> Array:
    if in_sequence:
        return (int(run.rng.integers(1, 50_000)) + np.arange(n)) % 65535 + 1
    return np.where(run.rng.random(n) < 0.2, run.rng.choice(COMMON, n), run.rng.integers(1, 65536, n))


def _scanned(run: Run, t0: Array, openings: Array, tries: Array, backoff: Array, **columns: object) -> None:
    rng, n = run.rng, len(t0)
    inside = rng.random() < 0.25  # a machine of our own that was taken over
    client = np.full(n, rng.choice(run.world.groups["attackers"]))
    if inside:
        client = np.full(
            n,
            run.world.add(
                rng, np.array([10 << 24 | 40 << 16 | int(rng.integers(2**16))]), np.array([0.001]), inside=True
            )[0],
        )
    targets = rng.choice(
        np.concatenate([run.world.groups["servers"], run.world.groups["clients"][:40]]), int(rng.integers(1, 6))
    )
    run.add(
        t0=t0,
        client=client,
        server=rng.choice(targets, n),
        opening=openings,
        tries=tries,
        backoff=backoff,
        closing=Close.NONE,
        delay=rng.lognormal(0, 0.35, n),
        **columns,
    )


def nmap_syn(run: Run) -> None:
    """Half-open: open ports answer and are reset, closed ones refuse, filtered ones are asked again."""
    rng, n = run.rng, run.n
    kind = rng.choice(3, n, p=[0.2, 0.45, 0.35])
    backoff = rng.uniform(0.1, 1.3) * rng.lognormal(0, 0.15, n)
    _scanned(
        run,
        run.spread(n, 60 + 900 * run.mimic),
        np.choose(kind, [Open.HALF, Open.REFUSED, Open.SILENT]),
        np.where(kind == 2, rng.choice([1, 2, 3], n, p=[0.15, 0.6, 0.25]), 1),
        backoff,
        sport=int(rng.integers(33_000, 65_000)),
        dport=_ports(run, n, rng.random() < 0.4),
        syn_options=4,
    )


def nmap_connect(run: Run) -> None:
    """Through the operating system's own connect: what is open is closed at once, with a reset or properly."""
    rng, n = run.rng, run.n
    kind = rng.choice(3, n, p=[0.3, 0.45, 0.25])
    openings = np.choose(kind, [Open.FULL, Open.REFUSED, Open.SILENT])
    client = run.attacker(n)
    run.add(
        t0=run.spread(n, 120 + 900 * run.mimic),
        client=client,
        server=rng.choice(run.world.groups["servers"], n),
        opening=openings,
        tries=np.where(kind == 2, rng.integers(2, 4, n), 1),
        backoff=1 + rng.random(n) * 0.02,
        closing=rng.choice([Close.RST_CLIENT, Close.CLIENT], n, p=[0.8, 0.2]),
        linger=rng.exponential(0.001, n),
        dport=_ports(run, n, rng.random() < 0.4),
        delay=rng.lognormal(0, 0.35, n),
    )


def masscan(run: Run) -> None:
    """Without state and at random: one SYN without options each, sent again after seconds."""
    rng, n = run.rng, run.n
    kind = rng.choice(3, n, p=[0.15, 0.45, 0.4])
    _scanned(
        run,
        run.spread(n, 90),
        np.choose(kind, [Open.HALF, Open.REFUSED, Open.SILENT]),
        np.where(kind > 0, rng.choice([1, 2], n, p=[0.4, 0.6]), 1),
        rng.uniform(5, 12) * rng.lognormal(0, 0.1, n),
        sport=rng.integers(40_000, 65_000, n),
        dport=_ports(run, n, False),
        syn_options=0,
    )


def slow_scan(run: Run) -> None:
    """One probe in minutes, over hours, with the SYN of an ordinary stack."""
    rng, n = run.rng, run.n
    kind = rng.choice(3, n, p=[0.3, 0.45, 0.25])
    _scanned(
        run,
        run.spread(n, 20_000),
        np.choose(kind, [Open.HALF, Open.REFUSED, Open.SILENT]),
        np.where(kind == 2, rng.integers(1, 4, n), 1),
        rng.uniform(1, 15) * rng.lognormal(0, 0.2, n),
        sport=rng.integers(32_768, 61_000, n),
        dport=_ports(run, n, False),
        syn_options=12 if run.mimic > 0.5 else 4,
    )


def nmap_fin(run: Run) -> None:
    """FIN, no flag at all, FIN-PSH-URG, ACK, one after the other: closed ports reset, open and filtered ones don't."""
    rng, n = run.rng, run.n
    probe = rng.choice([FIN, NULL, FIN | PSH | URG, ACK], n)
    reset = rng.random(n) < 0.6
    tries = np.repeat(np.arange(n), np.where(reset, 1, rng.choice([1, 2, 3], n, p=[0.2, 0.6, 0.2])))
    first = np.r_[True, tries[1:] != tries[:-1]]
    pause = np.where(first, 0, rng.uniform(0.1, 1.3) * rng.lognormal(0, 0.2, len(tries)))
    run.add(
        talk(tries, (0, 0, pause, probe[tries])),
        talk(np.flatnonzero(reset), (1, 0, 0.0, np.where(probe == ACK, RST, RST | ACK)[reset])),
        t0=run.spread(n, 60 + 900 * run.mimic),
        client=run.attacker(n),
        server=rng.choice(run.world.groups["servers"], n),
        sport=int(rng.integers(33_000, 65_000)),
        dport=_ports(run, n, rng.random() < 0.4),
        opening=Open.NONE,
        closing=Close.NONE,
        delay=rng.lognormal(0, 0.35, n),
    )


def nmap_udp(run: Run) -> None:
    """Empty or short datagrams, asked again after a second; hosts say port unreachable, about once a second."""
    rng = run.rng
    hosts = max(run.n // 8, 1)
    n = max(run.n - hosts, 1)
    scanner = run.world.spoofed(rng, 1)
    targets = rng.choice(
        np.concatenate([run.world.groups[g] for g in ("servers", "clients")]), hosts, replace=hosts > 150
    )
    tries = np.repeat(np.arange(n), rng.choice([1, 2, 3], n, p=[0.15, 0.5, 0.35]))
    first = np.r_[True, tries[1:] != tries[:-1]]
    size = np.where(rng.random(n) < 0.8, 0, rng.choice([12, 30, 46, 48, 53, 116], n))
    answered = np.flatnonzero(rng.random(n) < 0.1)
    run.add(
        talk(tries, (0, size[tries], np.where(first, 0, 0.8 + 0.5 * rng.random(len(tries))))),
        talk(answered, (1, rng.integers(20, 400, len(answered)), 0.001)),
        t0=run.spread(n, 200 + 900 * run.mimic),
        client=np.full(n, scanner[0]),
        server=rng.choice(targets, n),
        sport=int(rng.integers(33_000, 65_000)),
        dport=_ports(run, n, False),
        protocol=UDP,
        delay=rng.lognormal(0, 0.35, n),
    )
    told = np.repeat(np.arange(hosts), np.clip(rng.geometric(0.12, hosts), 1, 60))
    run.add(
        talk(told, (0, 28 + rng.choice([0, 0, 12, 48], len(told)), lognormal(rng, 0.9, 0.25, len(told)), 3 << 8 | 3)),
        t0=run.spread(hosts, 200),
        client=targets,
        server=np.full(hosts, scanner[0]),
        sport=0,
        dport=0,
        protocol=ICMP,
    )


def ping_sweep(run: Run) -> None:
    """Who is there: an echo request each, a timestamp request with it or a second try; most addresses are empty."""
    rng = run.rng
    pool = np.concatenate([run.world.groups[g] for g in ("servers", "clients", "iot")])
    n = min(run.n, len(pool))
    flows = np.arange(n)
    there = np.flatnonzero(rng.random(n) < 0.45)
    again = np.setdiff1d(flows, there)
    size = int(rng.choice([0, 0, 8, 32, 56]))
    stamped = flows[rng.random(n) < 0.4]
    run.add(
        talk(flows, (0, size, 0.0, 8 << 8)),
        talk(there, (1, size, 0.0, 0)),
        talk(stamped, (0, 12, rng.exponential(0.02, len(stamped)), 13 << 8)),
        talk(again, (0, size, rng.uniform(0.3, 1.2, len(again)), 8 << 8)),
        t0=run.spread(n, 30 + 900 * run.mimic),
        client=np.full(n, run.world.spoofed(rng, 1)[0]),
        server=rng.choice(pool, n, replace=False),
        sport=0,
        dport=0,
        protocol=ICMP,
        delay=rng.lognormal(0, 0.35, n),
    )


def _fingerprint(run: Run, t0: Array, target: Array, client: Array, *messages: Messages, **columns: object) -> None:
    rng, n = run.rng, len(t0)
    run.add(
        *messages,
        t0=t0 + rng.exponential(0.003, n),
        client=client,
        server=target,
        delay=rng.lognormal(0, 0.35, n),
        closing=Close.NONE,
        **columns,
    )


def _targets(run: Run, flows_each: int, seconds: float) -> tuple[Array, Array, Array]:
    """Times, targets and the attacker for so many targets that about run.n flows come out."""
    n = max(run.n // flows_each, 1)
    pool = np.concatenate([run.world.groups[g] for g in ("servers", "clients", "iot")])
    return run.spread(n, seconds), run.rng.permutation(pool)[np.arange(n) % len(pool)], np.full(n, run.attacker(1)[0])


def nmap_os(run: Run) -> None:
    """Six SYNs with options, one with ECN, crafted flags to an open and a closed port, two pings, one UDP packet."""
    rng = run.rng
    t0, target, client = _targets(run, 14, 300 + 4000 * run.mimic)
    n = len(t0)
    open_port, closed = int(rng.choice([22, 80, 443, 445])), int(rng.integers(30_000, 45_000))
    for k in range(6):
        _fingerprint(
            run,
            t0 + k * 0.1,
            target,
            client,
            sport=int(rng.integers(33_000, 60_000)),
            dport=open_port,
            opening=Open.HALF,
            syn_options=20 if k < 5 else 12,
        )
    flows = np.arange(n)
    crafted = (
        (open_port, SYN | ECE | CWR, SYN | ACK | ECE, RST, 20),
        (open_port, NULL, 0, 0, 20),
        (open_port, FIN | SYN | PSH | URG, SYN | ACK, RST, 20),
        (open_port, ACK, RST, 0, 20),
        (closed, SYN, RST | ACK, 0, 20),
        (closed, ACK, RST, 0, 20),
        (closed, FIN | PSH | URG, RST | ACK, 0, 20),
    )
    for k, (port, probe, answer, then, options) in enumerate(crafted):
        tries = np.repeat(flows, rng.integers(1, 4, n)) if not answer else flows
        said = [talk(tries, (0, 0, rng.exponential(0.3, len(tries)) if not answer else 0.0, probe))]
        if answer:
            said.append(talk(flows, (1, 0, 0.0, answer)))
        if then:
            said.append(talk(flows, (0, 0, 0.0, then)))
        _fingerprint(
            run,
            t0 + 0.7 + 0.03 * k,
            target,
            client,
            *said,
            sport=int(rng.integers(33_000, 60_000)),
            dport=port,
            opening=Open.NONE,
            syn_options=options,
        )
    echo = [
        (0, 120, 0.0, 8 << 8 | 9),
        (1, 120, 0.0, 0),
        (0, 150, 0.03, 8 << 8),
        (1, 150, 0.0, 0),
        (1, 328, 0.05, 3 << 8 | 3),
    ]
    _fingerprint(run, t0 + 0.65, target, client, talk(flows, *echo), protocol=ICMP)
    _fingerprint(
        run,
        t0 + 0.7,
        target,
        client,
        talk(flows, (0, 300, 0.0)),
        protocol=UDP,
        sport=int(rng.integers(33_000, 60_000)),
        dport=closed,
    )


def xprobe(run: Run) -> None:
    """Mostly ICMP: echo, timestamp, mask and information requests; then a UDP packet and two SYNs."""
    rng = run.rng
    t0, target, client = _targets(run, 4, 600 + 4000 * run.mimic)
    flows = np.arange(len(t0))
    wait = rng.exponential(0.02, (4, len(t0)))
    probes = [
        (0, 12, wait[0], 8 << 8 | 123),
        (1, 12, 0.0, 0),
        (0, 12, 0.3 + wait[1], 13 << 8),
        (0, 12, 0.3 + wait[2], 17 << 8),
        (1, 68, 0.4 + wait[3], 3 << 8 | 3),
    ]
    _fingerprint(run, t0, target, client, talk(flows, *probes), protocol=ICMP)
    _fingerprint(
        run,
        t0 + 1,
        target,
        client,
        talk(flows, (0, 70, 0.0), (0, 70, 1 + wait[0])),
        protocol=UDP,
        sport=53,
        dport=65535,
    )
    for k, opening in ((0, Open.HALF), (1, Open.REFUSED)):
        _fingerprint(
            run,
            t0 + 2 + k,
            target,
            client,
            sport=int(rng.integers(33_000, 60_000)),
            dport=(80, 65535)[k],
            opening=opening,
            syn_options=20,
        )


def sinfp(run: Run) -> None:
    """Three probes of an open port: a SYN with few options, one with many, and a SYN-ACK."""
    rng = run.rng
    t0, target, client = _targets(run, 3, 600 + 4000 * run.mimic)
    flows = np.arange(len(t0))
    port = int(rng.choice([22, 80, 443]))
    for k, options in ((0, 12), (1, 20)):
        _fingerprint(
            run,
            t0 + k * 0.02,
            target,
            client,
            sport=int(rng.integers(33_000, 60_000)),
            dport=port,
            opening=Open.HALF,
            syn_options=options,
        )
    _fingerprint(
        run,
        t0 + 0.04,
        target,
        client,
        talk(flows, (0, 0, 0.0, SYN | ACK), (1, 0, 0.0, RST)),
        opening=Open.NONE,
        sport=int(rng.integers(33_000, 60_000)),
        dport=port,
        syn_options=4,
    )
