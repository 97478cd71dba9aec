"""What people log in to: shells, scripts and copies over SSH, files over FTP; passwords mistyped and expired.

Each function adds `n` flows of the application it is named for. The start of an SSH session is shared with the tools
that try passwords.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.day import OFFICE, Day, lognormal, owners
from robustidps.traffic.simulator.plan import Close, Messages, talk

__all__ = ["ftp", "ssh", "ssh_start"]


def ssh_start(rng: np.random.Generator, n: int, slow: float = 1.0) -> Messages:
    """Banners and key exchange."""
    flows = np.arange(n)
    wait = rng.exponential(0.01 * slow, (4, n))
    return talk(
        flows,
        (1, rng.integers(21, 43, n), wait[0]),
        (0, rng.integers(21, 43, n), wait[1]),
        (0, rng.integers(800, 1600, n), 0.001),
        (1, rng.integers(900, 1150, n), wait[2]),
        (0, rng.choice([48, 80, 1210], n), 0.003),
        (1, rng.integers(450, 1700, n), wait[3]),
        (0, rng.choice([16, 76, 92], n), 0.002),
        (0, 44, 0.001),
        (1, 44, 0.001),
    )


def ssh(day: Day, n: int) -> None:
    """Shells, scripts, copies of files, and people who mistype their password (some give up)."""
    rng = day.rng
    flows = np.arange(n)
    typo = rng.random(n) < 0.03
    wrong = np.repeat(flows[typo], rng.integers(1, 4, typo.sum()))
    k = len(wrong)
    given_up = typo & (rng.random(n) < 0.1 + 0.3 * day.difficulty)
    said = [
        ssh_start(rng, n),
        talk(wrong, (0, rng.choice([84, 148], k), rng.gamma(4, 0.9, k)), (1, 52, 1.8 + rng.exponential(0.4, k))),
    ]
    on = flows[~given_up]
    said.append(
        talk(
            on,
            (0, rng.integers(84, 650, len(on)), np.where(rng.random(len(on)) < 0.5, rng.gamma(4, 0.9, len(on)), 0.05)),
            (1, 28, rng.exponential(0.1, len(on))),
            (0, 112, 0.01),
            (1, rng.integers(44, 700, len(on)), 0.05),
        )
    )
    kind = rng.choice(3, n, p=[0.35, 0.45, 0.2])  # shell, script, copy
    for what, rounds, pause, up, down in ((0, 14, 1.2, 36, 110), (1, 3, 0.15, 200, 500), (2, 3, 0.01, 14_000, 90)):
        mine = on[kind[on] == what]
        owner = mine[owners(rng, rounds, len(mine), 120)]
        m = len(owner)
        said.append(
            talk(
                owner,
                (0, lognormal(rng, up, 0.9, m, 36, 300_000), rng.exponential(pause, m)),
                (1, lognormal(rng, down, 0.9, m, 36, 60_000), rng.exponential(0.01, m)),
            )
        )
    day.benign(
        "ssh",
        *said,
        t0=day.times(n, OFFICE),
        client=np.where(rng.random(n) < 0.4, day.pick("visitors", n, 4), day.pick("clients", n, 2)),
        server=day.server(3, n),
        dport=22,
        closing=rng.choice([Close.CLIENT, Close.SERVER], n, p=[0.85, 0.15]),
    )


def ftp(day: Day, n: int) -> None:
    """Control channels with their data channels; scripts whose password has expired; anonymous visitors."""
    rng = day.rng
    control = max(n // 2, 1)
    flows = np.arange(control)
    fails = rng.random(control) < 0.01 + 0.05 * day.difficulty
    wait = rng.exponential(0.02, (3, control))
    said = [
        talk(
            flows,
            (1, rng.integers(20, 90, control), wait[0]),
            (0, rng.integers(10, 22, control), rng.exponential(0.4, control)),
            (1, rng.integers(31, 60, control), wait[1]),
            (0, rng.integers(11, 26, control), rng.exponential(0.4, control)),
        )
    ]
    bad, good = flows[fails], flows[~fails]
    said.append(
        talk(bad, (1, rng.integers(22, 40, len(bad)), rng.uniform(0.5, 3, len(bad))), (0, 6, 0.1), (1, 14, 0.01))
    )
    said.append(
        talk(good, (1, rng.integers(23, 60, len(good)), rng.exponential(0.05, len(good))), (0, 6, 0.05), (1, 19, 0.01))
    )
    owner = good[owners(rng, 6, len(good), 60)]
    m = len(owner)
    said.append(
        talk(
            owner,
            (0, rng.integers(6, 40, m), rng.exponential(1.0, m)),
            (1, rng.integers(20, 80, m), rng.exponential(0.03, m)),
        )
    )
    client = np.where(rng.random(control) < 0.6, day.pick("visitors", control, 4), day.pick("clients", control))
    t0 = day.times(control, OFFICE)
    day.benign("ftp", *said, t0=t0, client=client, server=day.server(4, control), dport=21)
    data = rng.choice(good if len(good) else flows, n - control)
    k = len(data)
    up = rng.random(k) < 0.4
    day.benign(
        "ftp",
        talk(np.arange(k), (np.where(up, 0, 1), lognormal(rng, 9000, 1.6, k, 60, 600_000), 0.01)),
        t0=np.minimum(t0[data] + rng.uniform(1, 20, k), 86_000),
        client=client[data],
        server=day.server(4, k),
        dport=rng.integers(50_000, 51_000, k),
        closing=np.where(up, Close.CLIENT, Close.SERVER),
    )
