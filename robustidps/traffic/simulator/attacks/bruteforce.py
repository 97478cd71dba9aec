"""Passwords tried over SSH and FTP: several to a connection or one, fast in parallel or slowly over hours.

A person who mistypes a password makes the same flow as a slow tool's single try: the class is seen by proxy.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.benign_sessions import ssh_start
from robustidps.traffic.simulator.day import Run
from robustidps.traffic.simulator.plan import Array, Close, talk

__all__ = [
    "hydra_ftp",
    "hydra_ssh",
    "medusa_ftp",
    "medusa_ssh",
    "patator_ftp",
    "patator_ssh",
    "slow_ftp",
    "slow_ssh",
]


def _pause(run: Run, m: int, fast: float) -> Array:
    """Between answer and next try: the tool's own speed, or now and then a person's."""
    rng = run.rng
    return np.where(rng.random(m) < 0.35 * run.mimic, rng.gamma(4, 0.9, m), rng.exponential(fast, m))


def _ssh(run: Run, tries: Array, fast: float, seconds: float, abrupt: float, hosts: int = 1) -> None:
    rng, n = run.rng, len(tries)
    owner = np.repeat(np.arange(n), tries)
    m = len(owner)
    password = rng.choice([68, 84, 100, 148], m, p=[0.2, 0.5, 0.2, 0.1])
    library = ssh_start(rng, n, 1.5)
    if rng.random() > 0.5 * run.mimic:  # a library's short key exchange, unless it takes OpenSSH's
        library.size = np.where((library.direction == 0) & (library.size > 700), rng.integers(560, 900), library.size)
    asks = talk(np.arange(n), (0, 64, 0.002), (1, 52, 0.01))
    run.add(
        library,
        asks,
        talk(owner, (0, password, _pause(run, m, fast)), (1, 52, 1.6 + rng.gamma(2, 0.25, m))),
        t0=run.spread(n, seconds),
        client=run.attacker(n, hosts),
        server=run.target(3, n),
        dport=22,
        closing=np.where(
            rng.random(n) < abrupt,
            rng.choice([Close.RST_CLIENT, Close.FIN_RST], n),
            rng.choice([Close.CLIENT, Close.SERVER], n),
        ),
        linger=rng.exponential(0.05, n),
    )


def hydra_ssh(run: Run) -> None:
    _ssh(run, run.rng.integers(3, 7, run.n), 0.02, 600, 0.3)


def medusa_ssh(run: Run) -> None:
    _ssh(run, run.rng.integers(2, 4, run.n), 0.05, 1500, 0.1)


def patator_ssh(run: Run) -> None:
    _ssh(run, run.rng.choice([1, 2, 6], run.n, p=[0.2, 0.3, 0.5]), 0.01, 800, 0.5)


def slow_ssh(run: Run) -> None:
    """One or two tries a connection, minutes apart, from many hosts."""
    _ssh(run, run.rng.integers(1, 3, run.n), 4.0, 30_000, 0.2, hosts=12)


def _ftp(run: Run, tries: Array, fast: float, seconds: float, quits: float, hosts: int = 1) -> None:
    rng, n = run.rng, len(tries)
    owner = np.repeat(np.arange(n), tries)
    m = len(owner)
    user = int(rng.integers(10, 20))
    leaving = np.flatnonzero(rng.random(n) < quits)
    run.add(
        talk(np.arange(n), (1, rng.integers(20, 90), rng.exponential(0.03, n))),
        talk(
            owner,
            (0, user + rng.integers(0, 3, m), _pause(run, m, fast)),
            (1, 34 + rng.integers(0, 3, m), rng.exponential(0.004, m)),
            (0, rng.integers(11, 26, m), rng.exponential(0.002 + fast * 0.1, m)),
            (1, 22, rng.uniform(0.4, 3.2) * rng.lognormal(0, 0.2, m)),
        ),
        talk(leaving, (0, 6, 0.01), (1, 14, 0.005)),
        t0=run.spread(n, seconds),
        client=run.attacker(n, hosts),
        server=run.target(4, n),
        dport=21,
        closing=rng.choice([Close.CLIENT, Close.SERVER, Close.RST_CLIENT], n, p=[0.5, 0.2, 0.3]),
        linger=rng.exponential(0.02, n),
    )


def hydra_ftp(run: Run) -> None:
    _ftp(run, run.rng.integers(2, 5, run.n), 0.01, 500, 0.2)


def medusa_ftp(run: Run) -> None:
    _ftp(run, run.rng.integers(1, 4, run.n), 0.05, 1200, 0.9)


def patator_ftp(run: Run) -> None:
    _ftp(run, run.rng.choice([1, 3, 10], run.n, p=[0.3, 0.5, 0.2]), 0.005, 600, 0.1)


def slow_ftp(run: Run) -> None:
    _ftp(run, run.rng.integers(1, 3, run.n), 2.5, 30_000, 0.6, hosts=10)
