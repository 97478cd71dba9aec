"""The long tail of benign traffic: families of protocols, and dialects drawn within what is usual for a family.

A network carries hundreds of protocols, and a simulator that has twenty of them, each with its own sizes and paces,
teaches a model that anything else is an attack. Nobody can write them all down. So a family here (discovery, games,
tunnels, ...) is only a set of ranges, and its members are drawn: a *dialect* is one protocol with sizes, rhythm,
manners and failures of its own. The two widest families, `other_tcp` and `other_udp`, stand for everything without a
name. This is domain randomisation (Tobin et al., "Domain randomization for transferring deep neural networks from
simulation to the real world", IROS 2017) for flows.

Most of a day's flows speak dialects that the site has on every day; some speak one that is new on that day. Ranges are
from protocols' specifications and common practice, none is fitted to a capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.simulator.plan import ICMP, ICMP6, TCP, UDP, Close

__all__ = ["FAMILIES", "GREETING", "Dialects", "Family", "draw"]

Array = npt.NDArray[Any]
Range = tuple[float, float]

ESP, IGMP, OSPF, VRRP = 50, 2, 89, 112
GREETING = 6  # messages before the rounds, at most
_CLOSINGS = (Close.CLIENT, Close.SERVER, Close.RST_CLIENT, Close.RST_SERVER, Close.FIN_RST, Close.NONE)


@dataclass(frozen=True)
class Family:
    """What is usual for a family. A pair is a range: of bytes, seconds or counts, drawn evenly on a logarithmic scale;
    of shares (those that can be 0), drawn evenly."""

    transports: dict[int, float]  # protocol number: weight
    hosts: tuple[str, str] = ("clients", "services")
    ports: tuple[int, ...] = ()  # of the server; none: any
    same_port: bool = False  # both ends use it
    types: tuple[int, ...] = ()  # ICMP type * 256 + code
    greeting: tuple[int, int] = (0, 0)  # messages before the rounds
    hello: Range = (40, 600)  # bytes of those
    rounds: Range = (1, 6)
    heavy: float = 0.3  # share of dialects with a heavy tail of rounds
    asks: tuple[int, int] = (1, 1)  # messages a round, one way
    answers: tuple[int, int] = (1, 1)  # and the other
    up: Range = (20, 600)
    down: Range = (20, 1200)
    constant: float = 0.3  # share of dialects whose messages are all of one size
    spread: Range = (0.1, 1.0)  # of log sizes, for the others
    pause: Range = (0.02, 20)  # s between rounds
    regular: float = 0.3  # share of dialects that keep time like a clock
    wait: Range = (0.0003, 0.15)  # s that an answer takes, beside the path
    pushes: float = 0.1  # share of dialects in which the server speaks first
    unanswered: Range = (0.0, 0.1)  # share of flows
    failing: Range = (0.0, 0.08)  # share of TCP flows that are refused or never answered
    keepalives: Range = (0.0, 0.0)  # share of a TCP flow's rounds that are a bare probe and its acknowledgement
    open_ended: Range = (0.0, 0.3)  # share of TCP flows whose end is never seen
    cut: float = 0.06  # share of flows that began before the capture; as many go on after it
    six: Range = (0.0, 0.3)  # share of IPv6


FAMILIES: dict[str, Family] = {
    "discovery": Family(
        {UDP: 1},
        hosts=("clients", "multicast"),
        ports=(5353, 1900, 137, 138, 5355, 67, 3702, 1985, 17500, 57621, 47808, 6771),
        same_port=True,
        rounds=(1, 5),
        answers=(0, 0),
        up=(20, 450),
        constant=0.6,
        spread=(0.05, 0.6),
        pause=(0.001, 70),
        regular=0.5,
        six=(0, 0.5),
    ),
    "signalling": Family(
        {UDP: 0.85, TCP: 0.15},
        ports=(3478, 5060, 19302, 5349, 3479, 1719),
        rounds=(1, 8),
        asks=(1, 3),
        up=(20, 900),
        down=(20, 900),
        pause=(0.02, 40),
        unanswered=(0, 0.4),
        six=(0, 0.4),
    ),
    "media": Family(
        {UDP: 0.95, TCP: 0.05},
        rounds=(10, 80),
        asks=(1, 4),
        answers=(0, 4),
        up=(30, 1200),
        down=(30, 1200),
        pause=(0.004, 0.07),
        regular=0.7,
        wait=(0.001, 0.03),
        pushes=0.4,
        unanswered=(0, 0.2),
        cut=0.2,
    ),
    "games": Family(
        {UDP: 0.9, TCP: 0.1},
        hosts=("clients", "peers"),
        greeting=(0, 4),
        rounds=(1, 90),
        heavy=0.5,
        asks=(1, 3),
        answers=(0, 3),
        up=(10, 300),
        down=(15, 700),
        pause=(0.01, 1),
        unanswered=(0, 0.6),
    ),
    "p2p": Family(
        {UDP: 0.6, TCP: 0.4},
        hosts=("clients", "peers"),
        greeting=(0, 4),
        rounds=(1, 12),
        heavy=0.7,
        asks=(1, 2),
        answers=(1, 4),
        up=(20, 1400),
        down=(20, 1400),
        pause=(0.01, 30),
        pushes=0.3,
        unanswered=(0.1, 0.7),
        failing=(0.05, 0.35),
        open_ended=(0.1, 0.7),
    ),
    "vpn": Family(
        {UDP: 0.5, TCP: 0.25, ESP: 0.25},
        ports=(1194, 51820, 4500, 500, 443, 1701, 8443),
        greeting=(0, 6),
        hello=(40, 1400),
        rounds=(2, 40),
        heavy=0.6,
        asks=(1, 3),
        answers=(1, 5),
        up=(50, 1400),
        down=(60, 1400),
        constant=0.1,
        spread=(0.3, 1.2),
        pause=(0.005, 10),
        pushes=0.3,
        unanswered=(0, 0.15),
        open_ended=(0.2, 0.8),
        cut=0.2,
    ),
    "industrial": Family(
        {TCP: 0.6, UDP: 0.4},
        hosts=("iot", "servers"),
        ports=(502, 102, 44818, 20000, 2404, 4840, 47808, 9600),
        greeting=(0, 4),
        hello=(12, 200),
        rounds=(2, 60),
        up=(6, 150),
        down=(6, 300),
        constant=0.6,
        spread=(0.05, 0.6),
        pause=(0.01, 30),
        regular=0.8,
        unanswered=(0, 0.2),
        open_ended=(0.3, 1),
        cut=0.35,
        six=(0, 0.05),
    ),
    "messaging": Family(
        {TCP: 0.85, UDP: 0.15},
        ports=(5222, 5228, 443, 1863, 4244, 8883, 6667),
        greeting=(1, 6),
        hello=(30, 3000),
        rounds=(1, 14),
        asks=(1, 2),
        answers=(0, 2),
        up=(20, 700),
        down=(20, 1000),
        pause=(0.5, 90),
        pushes=0.4,
        keepalives=(0, 0.7),
        open_ended=(0.2, 0.9),
        cut=0.25,
    ),
    "rpc": Family(
        {UDP: 0.55, TCP: 0.45},
        hosts=("clients", "servers"),
        ports=(88, 389, 161, 1812, 69, 111, 2049, 135, 445, 1433, 3306, 6379, 9042, 11211),
        rounds=(1, 6),
        asks=(1, 2),
        answers=(1, 2),
        up=(15, 1300),
        down=(15, 3000),
        pause=(0.001, 5),
        wait=(0.0002, 0.3),
        unanswered=(0, 0.25),
    ),
    "neighbours": Family(
        {ICMP6: 1},
        hosts=("clients", "multicast"),
        types=(133 << 8, 134 << 8, 135 << 8, 136 << 8, 143 << 8, 128 << 8),
        rounds=(1, 6),
        answers=(0, 1),
        up=(4, 110),
        down=(4, 80),
        constant=0.7,
        spread=(0.05, 0.4),
        pause=(0.1, 60),
        unanswered=(0, 0.4),
        six=(1, 1),
    ),
    "errors": Family(
        {ICMP: 0.75, ICMP6: 0.25},
        hosts=("routers", "clients"),
        types=(3 << 8 | 3, 3 << 8 | 1, 3 << 8 | 13, 11 << 8, 3 << 8 | 4),
        rounds=(1, 8),
        answers=(0, 0),
        up=(28, 900),  # an error quotes the packet that it is about, whole or in part
        constant=0.5,
        spread=(0.1, 0.7),
        pause=(0.0005, 20),
        regular=0.2,
    ),
    "routing": Family(
        {IGMP: 0.3, OSPF: 0.35, VRRP: 0.35},
        hosts=("iot", "multicast"),
        rounds=(1, 40),
        answers=(0, 0),
        up=(4, 80),
        constant=0.9,
        spread=(0.05, 0.3),
        pause=(0.9, 40),
        regular=0.9,
        cut=0.3,
        six=(0, 0.1),
    ),
    "other_tcp": Family(
        {TCP: 1},
        greeting=(0, 6),
        hello=(6, 4000),
        rounds=(1, 14),
        heavy=0.5,
        asks=(1, 4),
        answers=(0, 5),
        up=(6, 3000),
        down=(6, 6000),
        spread=(0.1, 1.6),
        pause=(0.001, 60),
        wait=(0.0002, 1),
        pushes=0.3,
        failing=(0, 0.15),
        keepalives=(0, 0.4),
        open_ended=(0, 1),
        cut=0.15,
    ),
    "other_udp": Family(
        {UDP: 1},
        greeting=(0, 4),
        hello=(6, 1400),
        rounds=(1, 30),
        heavy=0.6,
        asks=(1, 4),
        answers=(0, 5),
        up=(4, 1450),
        down=(4, 1450),
        spread=(0.1, 1.3),
        pause=(0.001, 60),
        wait=(0.0002, 0.6),
        pushes=0.3,
        unanswered=(0, 0.7),
        cut=0.1,
    ),
}
"""Families of the long tail, by the application's name in the catalogue."""


@dataclass(frozen=True)
class Dialects:
    """K dialects as columns [K]; `hello` is [K, GREETING]. Names as in `Family`, one value a dialect.

    weight: how much of the family's traffic speaks it. quantum: sizes are multiples of it (a cipher's block).
    within: s between messages of one round. closing: how most of its connections end.
    """

    columns: dict[str, Array]

    def of(self, name: str, which: Array) -> Array:
        return self.columns[name][which]

    def __len__(self) -> int:
        return len(self.columns["weight"])


def draw(rng: np.random.Generator, family: Family, k: int) -> Dialects:
    """K dialects of a family."""

    def log(pair: Range) -> Array:
        return np.exp(rng.uniform(np.log(pair[0]), np.log(pair[1]), k))

    def even(pair: Range) -> Array:
        return rng.uniform(pair[0], pair[1], k)

    def count(pair: tuple[int, int]) -> Array:
        return rng.integers(pair[0], pair[1] + 1, k)

    numbers = np.array(list(family.transports))
    weights = np.array(list(family.transports.values()))
    constant = rng.random(k) < family.constant
    low, high = np.log(family.hello)
    ports = np.array(family.ports) if family.ports else rng.integers(1024, 61_000, k)
    return Dialects(
        {
            "weight": rng.pareto(1.2, k) + 0.3,
            "protocol": rng.choice(numbers, k, p=weights / weights.sum()),
            "port": rng.choice(ports, k),
            "kind": rng.choice(np.array(family.types or (0,)), k),
            "greeting": count(family.greeting),
            "hello": np.exp(rng.uniform(low, high, (k, GREETING))),
            "server_greets": rng.random(k) < 0.25,
            "rounds": log(family.rounds),
            "heavy": rng.random(k) < family.heavy,
            "asks": count(family.asks),
            "answers": count(family.answers),
            "up": log(family.up),
            "down": log(family.down),
            "spread": np.where(constant, 0.0, log(family.spread)),
            "quantum": rng.choice([1, 4, 8, 16], k, p=[0.7, 0.12, 0.08, 0.1]),
            "pause": log(family.pause),
            "unrest": np.where(rng.random(k) < family.regular, log((0.002, 0.1)), log((0.3, 1.6))),
            "wait": log(family.wait),
            "within": log((0.00002, 0.02)),
            "pushes": rng.random(k) < family.pushes,
            "unanswered": even(family.unanswered),
            "failing": even(family.failing),
            "keepalives": even(family.keepalives) * (rng.random(k) < 0.5),
            "open_ended": even(family.open_ended),
            "closing": rng.choice(_CLOSINGS, k, p=[0.45, 0.2, 0.15, 0.05, 0.05, 0.1]),
            "linger": log((0.0005, 60)),
            "six": even(family.six),
        }
    )
