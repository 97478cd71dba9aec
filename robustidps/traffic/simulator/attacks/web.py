"""Injections into our own site's forms: seen only by proxy, as lengths and rhythms of requests and answers.

A flow record has no content. An injected request is longer than most, its answer is of a few fixed sizes (a page, an
error, the page with what was reflected), or late where the database was told to sleep.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.day import Run, lognormal, owners
from robustidps.traffic.simulator.plan import Array, Close, Messages, talk

__all__ = ["dalfox", "manual_sqli", "sqlmap_blind", "sqlmap_union", "stored_xss", "xsser"]


def _site(run: Run, said: list[Messages], n: int, seconds: float, closing: Array | int, linger: Array | float) -> None:
    run.add(
        *said,
        t0=run.spread(n, seconds),
        client=run.attacker(n, int(run.rng.integers(1, 4))),
        server=run.target(1, n),
        dport=80,
        closing=closing,
        linger=linger,
    )


def sqlmap_union(run: Run) -> None:
    """Longer and longer UNION queries, on kept connections or a few each; errors are short, hits are long."""
    rng, n = run.rng, run.n
    kept = rng.random() < 0.8
    owner = owners(rng, 9 - 4 * run.mimic if kept else 3, n, 40, low=3 if kept else 2)
    m = len(owner)
    ask = lognormal(rng, 1100 - 200 * run.mimic, 0.3, m, 300, 3000)
    error = int(rng.integers(350, 1500))
    answer = np.where(rng.random(m) < 0.7, error + rng.integers(0, 40, m), lognormal(rng, 5500, 0.5, m, 900, 40_000))
    pause = rng.exponential(0.03 + 0.4 * run.mimic, m)
    _site(
        run,
        [talk(owner, (0, ask, pause), (1, answer, rng.exponential(0.06, m)))],
        n,
        1500,
        Close.SERVER,
        rng.exponential(2, n),
    )


def sqlmap_blind(run: Run) -> None:
    """True or false, one bit a request: two sizes of answer, or an answer that comes seconds late."""
    rng, n = run.rng, run.n
    owner = owners(rng, 7 - 3 * run.mimic, n, 30, low=3)
    m = len(owner)
    timed = (rng.random(n) < 0.5)[owner]
    ask = lognormal(rng, 900 - 150 * run.mimic, 0.12, m, 250, 2000)
    page = int(rng.integers(1500, 5000))
    answer = np.where(rng.random(m) < 0.5, page, page - int(rng.integers(30, 600))) + rng.integers(0, 8, m)
    sleep = np.where(timed & (rng.random(m) < 0.5), float(rng.choice([2, 3, 5])) + rng.exponential(0.05, m), 0)
    pause = rng.exponential(0.02 + 0.4 * run.mimic, m)
    _site(
        run,
        [talk(owner, (0, ask, pause), (1, answer, rng.exponential(0.03, m) + sleep))],
        n,
        2500,
        Close.CLIENT,
        rng.exponential(0.3, n),
    )


def manual_sqli(run: Run) -> None:
    """A person with a browser: a query, a look at the answer, the next one; then the server closes an idle connection.

    A form's answers have a few sizes: an error, nothing found, one row, all rows."""
    rng, n = run.rng, run.n
    owner = owners(rng, 1.6, n, 5)
    m = len(owner)
    patience = float(rng.choice([2.0, 5.0, 15.0], p=[0.1, 0.75, 0.15]))
    ask = lognormal(rng, 1, 0.12, m) * rng.uniform(400, 820, n)[owner]
    sizes = np.exp(rng.uniform(np.log(250), np.log(6000), 4))
    answer = rng.choice(sizes, m) + rng.integers(0, 30, m)
    pause = np.where(np.r_[False, owner[1:] == owner[:-1]], rng.uniform(0.1, 0.9, m) * patience, 0.001)
    _site(
        run,
        [talk(owner, (0, ask, pause), (1, answer, rng.exponential(0.01, m)))],
        n,
        5000,
        Close.SERVER,
        patience + rng.exponential(0.02, n),
    )


def xsser(run: Run) -> None:
    """A few payloads a connection; what is reflected makes the page as much longer."""
    rng, n = run.rng, run.n
    owner = owners(rng, 4.5 - 2 * run.mimic, n, 14, low=2)
    m = len(owner)
    script = lognormal(rng, 520 - 150 * run.mimic, 0.4, m, 60, 2500)
    page = int(rng.integers(1200, 4000))
    answer = page + script * float(rng.choice([1, 1, 2, 6])) + rng.integers(0, 6, m)
    ask = int(rng.integers(180, 330)) + script * 1.5
    _site(
        run,
        [talk(owner, (0, ask, rng.exponential(0.02, m)), (1, answer, rng.exponential(0.03, m)))],
        n,
        1500,
        Close.CLIENT,
        rng.exponential(0.02, n),
    )


def dalfox(run: Run) -> None:
    """Many parameters and payloads in quick succession on kept connections."""
    rng, n = run.rng, run.n
    owner = owners(rng, 12 - 5 * run.mimic, n, 60, low=4)
    m = len(owner)
    script = lognormal(rng, 520, 0.4, m, 60, 1800)
    page = int(rng.integers(1500, 6000))
    answer = page + script + rng.integers(0, 6, m)
    ask = int(rng.integers(320, 520)) + script
    _site(
        run,
        [talk(owner, (0, ask, rng.exponential(0.008 + 0.2 * run.mimic, m)), (1, answer, rng.exponential(0.02, m)))],
        n,
        900,
        Close.RST_CLIENT,
        rng.exponential(0.2, n),
    )


def stored_xss(run: Run) -> None:
    """A comment that holds a script is posted, then the page that shows it is fetched."""
    rng, n = run.rng, run.n
    flows = np.arange(n)
    script = lognormal(rng, 1900 - 600 * run.mimic, 0.35, n, 300, 8000)
    page = int(rng.integers(3000, 9000))
    said = talk(
        flows,
        (0, 480 + script, rng.exponential(0.01, n)),
        (1, rng.integers(300, 420, n), rng.exponential(0.05, n)),
        (0, rng.integers(380, 460, n), rng.exponential(0.05 + run.mimic, n)),
        (1, page + script, rng.exponential(0.04, n)),
    )
    _site(run, [said], n, 5000, Close.SERVER, 5.0 + rng.exponential(0.05, n))
