"""Flows of the long tail: any family of `dialects` is spoken by one function."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

from robustidps.traffic.simulator.build import ACK
from robustidps.traffic.simulator.day import EVENING, FLAT, OFFICE, Array, Day, sensor
from robustidps.traffic.simulator.dialects import FAMILIES, GREETING, Dialects, draw
from robustidps.traffic.simulator.plan import ICMP, ICMP6, TCP, Close, Messages, Open

__all__ = ["speak"]

LASTING, NEW = 60, 12  # dialects that the site has on every day, and those of this day alone
SHARE_NEW = 0.15
MOST_ROUNDS = 250
_MACHINES = ("discovery", "industrial", "neighbours", "errors", "routing", "rpc")


def speak(day: Day, name: str, n: int) -> None:
    """Adds `n` flows of a family."""
    family, rng = FAMILIES[name], day.rng
    known, fresh = _lasting(day.settings.seed, name), draw(rng, family, NEW)
    dialects = Dialects({c: np.concatenate([known.columns[c], fresh.columns[c]]) for c in known.columns})
    weight = np.r_[
        known.columns["weight"] / known.columns["weight"].sum() * (1 - SHARE_NEW),
        fresh.columns["weight"] / fresh.columns["weight"].sum() * SHARE_NEW,
    ]
    which = rng.choice(len(dialects), n, p=weight)
    protocol, tcp = dialects.of("protocol", which), dialects.of("protocol", which) == TCP
    unanswered = ~tcp & (rng.random(n) < dialects.of("unanswered", which))
    six = ((rng.random(n) < dialects.of("six", which)) | (protocol == ICMP6)) & (protocol != ICMP)
    failing = tcp & (rng.random(n) < dialects.of("failing", which))
    closing = np.where(rng.random(n) < 0.75, dialects.of("closing", which), Close.CLIENT)
    own, port = rng.integers(32_768, 61_000, n), dialects.of("port", which)
    hosts = day.pick(family.hosts[0], n), day.pick(family.hosts[1], n, 1.6)
    if family.hosts == ("clients", "servers"):  # some of it comes from the small devices
        hosts = np.where(rng.random(n) < 0.3, day.pick("iot", n), hosts[0]), hosts[1]
    hours = FLAT if name in _MACHINES else EVENING if name in ("games", "p2p") else OFFICE
    day.benign(
        name,
        _greeting(rng, dialects, which, unanswered, protocol, six),
        _rounds(rng, dialects, which, unanswered, protocol, six),
        t0=day.times(n, hours),
        client=hosts[0],
        server=hosts[1],
        sport=np.where(family.same_port & (rng.random(n) < 0.7), port, own),
        dport=port,
        protocol=protocol,
        opening=np.where(
            failing, rng.choice([Open.REFUSED, Open.SILENT, Open.UNANSWERED], n, p=[0.4, 0.5, 0.1]), Open.FULL
        ),
        tries=np.where(failing, rng.integers(1, 6, n), 1),
        closing=np.where(rng.random(n) < dialects.of("open_ended", which), Close.NONE, closing),
        linger=dialects.of("linger", which) * rng.exponential(1, n),
        **sensor(rng, n, family.cut) | {"ip_version": np.where(six, 6, 4)},
    )


@lru_cache(maxsize=64)
def _lasting(seed: int, name: str) -> Dialects:
    return draw(np.random.default_rng([seed, zlib.crc32(name.encode())]), FAMILIES[name], LASTING)


def _greeting(
    rng: np.random.Generator, dialects: Dialects, which: Array, unanswered: Array, protocol: Array, six: Array
) -> Messages:
    """The first few messages: one after the other from either side, each of its own size."""
    count = dialects.of("greeting", which)
    flow = np.repeat(np.arange(len(which)), count)
    k = np.arange(len(flow)) - np.repeat(np.cumsum(count) - count, count)
    d = which[flow]
    direction = (k + dialects.of("server_greets", d)) % 2
    size = dialects.columns["hello"][d, k % GREETING] * np.where(
        rng.random(len(d)) < 0.5, 1, rng.lognormal(0, 0.15, len(d))
    )
    gap = np.where(direction == 1, dialects.of("wait", d), dialects.of("within", d)) * rng.exponential(1, len(d))
    return _messages(dialects, d, flow, direction, size, gap, unanswered, protocol, six)


def _rounds(
    rng: np.random.Generator, dialects: Dialects, which: Array, unanswered: Array, protocol: Array, six: Array
) -> Messages:
    """Asking and answering, again and again."""
    n, mean = len(which), dialects.of("rounds", which)
    heavy = dialects.of("heavy", which)
    tail = 0.45 * mean * (1 + rng.pareto(1.6, n))
    count = np.clip(np.where(heavy, tail, rng.geometric(1 / np.maximum(mean, 1.0))).astype(np.int64), 1, MOST_ROUNDS)
    # A dialect that answers nothing and one that asks nothing are one-way streams; no flow is without a message.
    asks, answers = dialects.of("asks", which), dialects.of("answers", which)
    of_round = np.repeat(np.arange(n), count)
    each = (asks + answers)[of_round]
    flow = np.repeat(of_round, each)
    k = np.arange(len(flow)) - np.repeat(np.cumsum(each) - each, each)
    d = which[flow]
    answer = k >= asks[flow]
    direction = np.where(dialects.of("pushes", d), ~answer, answer).astype(np.int8)
    size = np.where(direction == 1, dialects.of("down", d), dialects.of("up", d))
    size = size * np.exp(dialects.of("spread", d) * rng.standard_normal(len(d)))
    gap = dialects.of("within", d) * rng.exponential(1, len(d))
    begins, turns = k == 0, k == asks[flow]
    gap[begins] = _paused(rng, dialects, d[begins])
    first_of_flow = np.r_[True, flow[1:] != flow[:-1]]
    gap[first_of_flow] *= rng.random(int(first_of_flow.sum())) * 0.2
    gap[turns] = dialects.of("wait", d[turns]) * rng.lognormal(0, 0.7, int(turns.sum()))
    alive = rng.random(len(of_round)) < (dialects.of("keepalives", which) * (protocol == TCP))[of_round]
    probe = np.repeat(alive, each)
    kept = ~probe | begins | turns
    return _messages(dialects, d, flow, direction, size, gap, unanswered, protocol, six, probe, kept)


def _paused(rng: np.random.Generator, dialects: Dialects, d: Array) -> Array:
    return dialects.of("pause", d) * np.exp(dialects.of("unrest", d) * rng.standard_normal(len(d)))


def _messages(
    dialects: Dialects,
    d: Array,
    flow: Array,
    direction: Array,
    size: Array,
    gap: Array,
    unanswered: Array,
    protocol: Array,
    six: Array,
    probe: Array | bool = False,
    kept: Array | bool = True,
) -> Messages:
    """Messages as their protocol allows them. probe: those that are bare TCP keep-alives; kept: those there are."""
    quantum = dialects.of("quantum", d)
    size = np.ceil(np.maximum(size, 1) / quantum) * quantum
    datagram = protocol[flow] != TCP
    size = np.where(datagram, np.minimum(size, np.where(six[flow], 1452, 1472)), np.minimum(size, 120_000))
    size = np.where(probe, 0, size)
    flags = np.where(np.isin(protocol[flow], (ICMP, ICMP6)), dialects.of("kind", d), 0)
    flags = np.where((flags == 128 << 8) & (direction == 1), 129 << 8, flags)
    flags = np.where(probe, ACK, flags)
    heard = ~(unanswered[flow] & (direction == 1))
    if not heard.all():
        # A stream in which only the server would have spoken is seen nevertheless.
        heard |= (np.bincount(flow[heard], minlength=len(unanswered)) == 0)[flow]
    there = heard & kept
    columns = (flow, direction.astype(np.int8), size.astype(np.int64), gap, flags.astype(np.int32))
    return Messages(*(column[there] for column in columns))
