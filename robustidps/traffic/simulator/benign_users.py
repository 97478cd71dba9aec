"""What people do: look up, browse, watch, download, write mail, talk. Heavy tails and office hours.

Each function adds `n` flows (a few more where one use makes several) of the application it is named for.
"""

from __future__ import annotations

import numpy as np

from robustidps.traffic.simulator.day import EVENING, OFFICE, Day, lognormal, owners
from robustidps.traffic.simulator.plan import TCP, UDP, Array, Close, Messages, talk

__all__ = ["dns", "download", "mail", "pages", "quic", "tls", "video", "voip", "web", "web_inbound"]


def tls(rng: np.random.Generator, n: int) -> Messages:
    """A TLS handshake: client hello, server flight (short when resumed), client finish, session ticket."""
    flows = np.arange(n)
    resumed = rng.random(n) < 0.3
    kind = rng.random(n)  # padded, with or without a ticket, with a post-quantum key
    hello = np.where(kind < 0.5, 517, np.where(kind < 0.8, rng.integers(210, 700, n), rng.integers(1650, 2050, n)))
    flight = np.where(resumed, rng.integers(150, 420, n), lognormal(rng, 3600, 0.3, n, 1200, 7000))
    return talk(
        flows,
        (0, hello, rng.exponential(0.002, n)),
        (1, flight, rng.exponential(0.004, n)),
        (0, rng.integers(64, 150, n), rng.exponential(0.003, n)),
        (1, rng.integers(200, 580, n), rng.exponential(0.002, n)),
    )


def pages(rng: np.random.Generator, n: int, rounds: float, body: float, think: float, high: int = 60) -> Messages:
    """Requests with cookies and their answers; pages arrive in bunches, with pauses for reading between."""
    owner = owners(rng, rounds, n, high)
    m = len(owner)
    pause = np.where(rng.random(m) < 0.4, rng.exponential(think, m), rng.exponential(0.03, m))
    request = lognormal(rng, 430, 0.45, m, 90, 4000)
    posts = rng.random(m) < 0.04
    request = np.where(posts, request + lognormal(rng, 1500, 1.1, m, 50, 60_000), request)
    answer = lognormal(rng, body, 1.4, m, 120, 300_000)
    slow = np.where(rng.random(m) < 0.02, rng.uniform(1, 7, m), 0)  # reports and searches that take their time
    return talk(owner, (0, request, pause), (1, answer, rng.exponential(0.04, m) + slow))


def _closings(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    closing = rng.choice(
        [Close.CLIENT, Close.SERVER, Close.RST_CLIENT, Close.FIN_RST, Close.RST_SERVER, Close.NONE],
        n,
        p=[0.5, 0.2, 0.1, 0.1, 0.02, 0.08],
    )
    linger = np.where(rng.random(n) < 0.45, rng.choice([5.0, 10.0, 15.0, 60.0], n), rng.exponential(0.5, n))
    return closing, linger + rng.exponential(0.01, n)


def web(day: Day, n: int) -> None:
    rng = day.rng
    closing, linger = _closings(rng, n)
    day.benign(
        "web",
        tls(rng, n),
        pages(rng, n, 2.4, 2200, 6),
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n, 1.4),
        server=day.pick("services", n, 2.2),
        dport=443,
        closing=closing,
        linger=linger,
    )


def web_inbound(day: Day, n: int) -> None:
    """Visitors of our own site: a sixth in the clear (an old portal), among them searches, forms and API clients."""
    rng = day.rng
    clear = n // 6
    closing, linger = _closings(rng, clear)
    said = [pages(rng, clear, 3.0, 2000, 5)]
    # Long queries and form posts that come back in the answer.
    api = np.flatnonzero(rng.random(clear) < 0.01 + 0.05 * day.difficulty)
    long = lognormal(rng, 750, 0.6, len(api), 200, 5000)
    said.append(
        talk(
            api,
            (0, long, rng.exponential(0.3, len(api))),
            (1, 1500 + long * rng.random(len(api)), rng.exponential(0.05, len(api))),
        )
    )
    day.benign(
        "web_inbound",
        *said,
        t0=day.times(clear, EVENING),
        client=day.pick("visitors", clear, 1.3),
        server=day.server(1, clear),
        dport=80,
        closing=closing,
        linger=linger,
    )
    rest = n - clear
    closing, linger = _closings(rng, rest)
    day.benign(
        "web_inbound",
        tls(rng, rest),
        pages(rng, rest, 2.0, 2000, 5),
        t0=day.times(rest, EVENING),
        client=day.pick("visitors", rest, 1.3),
        server=day.server(1, rest),
        dport=443,
        closing=closing,
        linger=linger,
    )


def dns(day: Day, n: int) -> None:
    """Lookups: A and AAAA together or apart, retries, long TXT and DNSSEC answers, a forwarder on one port."""
    rng = day.rng
    name = rng.integers(28, 62, n)  # question in bytes, with the header
    pair = rng.random(n) < 0.35
    size = lognormal(rng, 110, 0.55, n, 44, 1200)
    slow = np.where(rng.random(n) < 0.35, lognormal(rng, 0.03, 1.0, n, 0, 2), rng.exponential(0.0008, n))
    flows = np.arange(n)
    lost = rng.random(n) < 0.03  # asked again once or twice, and never answered
    single = flows[~pair & ~lost]
    said = [talk(single, (0, name[single], 0), (1, size[single], slow[single]))]
    given_up = np.repeat(flows[lost & ~pair], rng.integers(1, 4, int((lost & ~pair).sum())))
    said.append(talk(given_up, (0, name[given_up], rng.choice([1.0, 2.0, 5.0], len(given_up)))))
    both = flows[pair]
    said.append(
        talk(
            both,
            (0, name[pair], 0),
            (0, name[pair], rng.exponential(0.0003, len(both))),
            (1, size[pair], slow[pair]),
            (1, size[pair] + rng.integers(-16, 40, len(both)), rng.exponential(0.002, len(both))),
        )
    )
    retried = flows[(rng.random(n) < 0.02) & ~lost]
    k = len(retried)
    said.append(
        talk(
            retried,
            (0, name[retried], rng.choice([1.0, 2.0, 5.0], k)),
            (1, size[retried], slow[retried]),
            (1, size[retried], rng.exponential(0.01, k)),
        )
    )
    outside = rng.random(n) < 0.3
    server = np.where(outside, day.pick("services", n, 6), day.server(0, n))
    client = np.where(outside & (rng.random(n) < 0.5), day.server(0, n), day.pick("clients", n))
    day.benign("dns", *said, t0=day.times(n, OFFICE), client=client, server=server, dport=53, protocol=UDP)
    k = max(n // 45, 1)  # a forwarder or busy client keeps its port; TXT records, mail policies, long names of CDNs
    owner = owners(rng, 9, k, 90, heavy=True)
    m = len(owner)
    day.benign(
        "dns",
        talk(
            owner,
            (
                0,
                np.where(rng.random(m) < 0.3, rng.integers(60, 150, m), rng.integers(28, 70, m)),
                rng.exponential(2.5, m),
            ),
            (
                1,
                np.where(rng.random(m) < 0.3, rng.integers(200, 1100, m), lognormal(rng, 130, 0.5, m, 44, 900)),
                lognormal(rng, 0.01, 1, m, 0, 1),
            ),
        ),
        t0=day.times(k, OFFICE),
        client=day.server(0, k),
        server=day.pick("services", k, 6),
        dport=53,
        protocol=np.where(rng.random(k) < 0.3, TCP, UDP),
    )


def quic(day: Day, n: int) -> None:
    """Handshakes in full datagrams, then streams; some are never answered, or told to speak another version."""
    rng = day.rng
    kind = rng.choice(3, n, p=[0.9, 0.06, 0.04])  # served, unanswered, refused
    served, silent, refused = (np.flatnonzero(kind == k) for k in range(3))
    full = rng.choice([1200, 1232, 1250, 1252, 1280, 1330, 1350, 1357, 1378, 1392, 1440], n)
    tries = np.repeat(silent, rng.geometric(0.3, len(silent)).clip(1, 8))
    first = np.r_[True, tries[1:] != tries[:-1]][: len(tries)]
    k = len(served)
    hello = rng.integers(1, 3, k)  # a post-quantum key takes a second datagram
    more = served[hello == 2]
    flights = np.repeat(served, rng.integers(1, 4, k))
    owner = served[owners(rng, 4, k, 150, heavy=True)]
    m = len(owner)
    rest = rng.integers(600, full[served] + 1)
    pause = np.where(rng.random(m) < 0.2, rng.exponential(5, m), rng.exponential(0.02, m))
    said = [
        talk(served, (0, full[served], 0)),
        talk(more, (0, full[more], 0.0001)),
        talk(flights, (1, full[flights], 0.0005)),
        talk(served, (1, rest, 0), (0, np.where(rng.random(k) < 0.5, full[served], rng.integers(40, 90, k)), 0.001)),
        talk(
            owner,
            (0, rng.integers(25, 420, m), pause),
            (1, np.minimum(lognormal(rng, 700, 0.8, m), full[owner]), rng.exponential(0.01, m)),
            (1, full[owner], 0.0004),
            (0, rng.integers(24, 45, m), 0.001),
        ),
        talk(tries, (0, full[tries], np.where(first, 0, rng.uniform(0.1, 2, len(tries))))),
        talk(refused, (0, full[refused], 0), (1, rng.integers(24, 120, len(refused)), 0.001)),
    ]
    day.benign(
        "quic",
        *said,
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n, 1.4),
        server=day.pick("services", n, 3),
        dport=443,
        protocol=UDP,
    )


def video(day: Day, n: int) -> None:
    """Chunks of a few seconds each, fetched ahead of time."""
    rng = day.rng
    owner = owners(rng, 5, n, 25)
    m = len(owner)
    chunk = lognormal(rng, 16_000, 0.6, m, 3000, 200_000)
    closing, linger = _closings(rng, n)
    day.benign(
        "video",
        tls(rng, n),
        talk(owner, (0, rng.integers(400, 900, m), rng.uniform(1, 6, m)), (1, chunk, 0.01)),
        t0=day.times(n, EVENING),
        client=day.pick("clients", n),
        server=day.pick("services", n, 4),
        dport=443,
        closing=closing,
        linger=linger,
    )


def download(day: Day, n: int) -> None:
    rng = day.rng
    body = np.minimum(20_000 * (1 + rng.pareto(1.3, n)), 900_000)
    up = rng.random(n) < 0.3  # uploads are as large
    ask = np.where(up, body, rng.integers(300, 900, n))
    day.benign(
        "download",
        tls(rng, n),
        talk(np.arange(n), (0, ask, 0.01), (1, np.where(up, 400, body), 0.02)),
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n),
        server=day.pick("services", n),
        dport=443,
    )


def mail(day: Day, n: int) -> None:
    """SMTP between servers and IMAP clients that look for news."""
    rng = day.rng
    smtp = n // 2
    flows = np.arange(smtp)
    body = lognormal(rng, 6000, 1.4, smtp, 600, 300_000)
    wait = rng.exponential(0.02, (6, smtp))
    said = talk(
        flows,
        (1, rng.integers(40, 110, smtp), wait[0]),
        (0, rng.integers(16, 40, smtp), wait[1]),
        (1, rng.integers(90, 250, smtp), wait[2]),
        (0, rng.integers(30, 70, smtp), wait[3]),
        (1, 14, wait[4]),
        (0, rng.integers(28, 60, smtp), wait[5]),
        (1, 14, 0.01),
        (0, 6, 0.001),
        (1, 37, 0.001),
        (0, body, 0.01),
        (1, rng.integers(30, 80, smtp), 0.08),
        (0, 6, 0.001),
        (1, 15, 0.001),
    )
    day.benign(
        "mail",
        said,
        t0=day.times(smtp, OFFICE),
        client=day.pick("visitors", smtp, 3),
        server=day.server(2, smtp),
        dport=25,
    )
    k = n - smtp
    owner = owners(rng, 3, k, 40)
    m = len(owner)
    news = np.where(rng.random(m) < 0.2, lognormal(rng, 9000, 1.2, m, 300, 200_000), rng.integers(80, 200, m))
    day.benign(
        "mail",
        tls(rng, k),
        talk(owner, (0, rng.integers(60, 130, m), rng.exponential(20, m)), (1, news, 0.01)),
        t0=day.times(k, OFFICE),
        client=day.pick("clients", k),
        server=day.server(2, k),
        dport=993,
        closing=rng.choice([Close.CLIENT, Close.NONE, Close.RST_CLIENT], k, p=[0.7, 0.15, 0.15]),
    )


def voip(day: Day, n: int) -> None:
    """RTP of a fixed size every 20 ms (shown thinned out by silence suppression), both ways or one."""
    rng = day.rng
    owner = owners(rng, 60, n, 220)
    m = len(owner)
    payload = rng.choice([172, 172, 60, 92], n)[owner]
    pause = np.where(rng.random(m) < 0.08, rng.exponential(1.2, m), 0.02 + rng.normal(0, 0.0008, m))
    two_way = (rng.random(n) < 0.8)[owner]
    talking = two_way & (rng.random(m) < 0.5)
    day.benign(
        "voip",
        talk(owner, (talking, payload, np.maximum(pause, 0.001))),
        t0=day.times(n, OFFICE),
        client=day.pick("clients", n),
        server=day.pick("services", n, 5),
        sport=rng.integers(16384, 32768, n),
        dport=rng.integers(16384, 32768, n),
        protocol=UDP,
    )
