"""A day's conversations before there are packets: who talks to whom, and what is said in which order.

An application or attack adds flows and their *messages* (direction, bytes, pause before); `build` turns all of a day's
messages into packets at once, which is what makes the simulator fast. A message of a TCP flow becomes segments and
acknowledgements; of a flow of any other protocol one packet; a message with `flags` is a single crafted packet (for TCP
the flags on the wire, for ICMP type * 256 + code).

A flow's last columns say how much of it the sensor saw: a capture begins and ends in the middle of conversations, and
where routes are asymmetric only one direction passes by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ICMP", "ICMP6", "NULL", "TCP", "UDP", "Array", "Close", "Messages", "Open", "Plan", "talk"]

Array = npt.NDArray[Any]

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
NULL = 1 << 9
"""The `flags` of a crafted TCP segment that has none."""


class Open:
    """How a TCP flow begins."""

    NONE = 0  # no handshake is seen
    FULL = 1  # SYN, SYN-ACK, ACK
    REFUSED = 2  # SYN, RST; `tries` times
    SILENT = 3  # SYN, `tries` times, no answer
    HALF = 4  # SYN, SYN-ACK, RST by the client
    UNANSWERED = 5  # SYN, SYN-ACK `tries` times, nothing more from the client


class Close:
    """How a TCP flow ends."""

    NONE = 0  # it doesn't, or the end is not seen
    CLIENT = 1  # FIN by the client, FIN by the server
    SERVER = 2
    RST_CLIENT = 3
    RST_SERVER = 4
    FIN_RST = 5  # FIN by the server, answered with a reset


@dataclass
class Messages:
    """What is said: arrays of one length, in order within each flow."""

    flow: Array
    direction: Array
    size: Array
    gap: Array
    flags: Array


def talk(owner: Array, *steps: tuple[Any, ...]) -> Messages:
    """For every entry of `owner` (a flow's index) the same steps: (direction, bytes, pause in seconds[, flags]).

    Bytes, pauses and flags are numbers or arrays of `owner`'s length; direction: 0 from the client, 1 from the server.
    """
    m, k = len(owner), len(steps)
    out = [np.empty((m, k)) for _ in range(4)]
    for column, step in enumerate(steps):
        for array, value in zip(out, (*step, 0)[:4], strict=True):
            array[:, column] = value
    direction, size, gap, flags = (a.ravel() for a in out)
    return Messages(
        np.repeat(owner, k),
        direction.astype(np.int8),
        np.maximum(size, 0).astype(np.int64),
        gap,
        flags.astype(np.int32),
    )


_FLOW: dict[str, tuple[Any, Any]] = {
    # name: (dtype, default)
    "client": (np.int64, None),
    "server": (np.int64, None),
    "sport": (np.int64, 0),
    "dport": (np.int64, 0),
    "protocol": (np.int64, TCP),
    "t0": (np.float64, None),
    "opening": (np.int8, Open.FULL),
    "closing": (np.int8, Close.CLIENT),
    "tries": (np.int64, 1),
    "backoff": (np.float64, 1.0),  # seconds before the second try; doubles
    "linger": (np.float64, 0.0),  # seconds between the last byte and the close
    "delay": (np.float64, 1.0),  # multiplies the path's round trip
    "relay": (np.float64, 0.0),  # seconds by which a man in the middle's copy comes later; 0: there is none
    "relay_ways": (np.int8, 3),  # 1: client to server, 2: server to client, 3: both
    "syn_options": (np.int64, -1),  # bytes of TCP options in a SYN; -1: the client's own
    "ip_version": (np.int8, 4),
    "coalesced": (np.int64, 1),  # segments that the capturing host's network card had put together into one
    "ways": (np.int8, 3),  # which directions are seen: 1 client to server, 2 server to client, 3 both
    "skip": (np.int64, 0),  # packets that had passed before the sensor looked
    "keep": (np.int64, 1 << 40),  # packets after which it stopped looking
    "label": (np.int16, 0),
    "campaign": (np.int32, 0),
    "tool": (np.int32, 0),
}


@dataclass
class Plan:
    """All flows of a day. `names` are the campaigns and tools that flows refer to by number."""

    added: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)  # first flow, flows, their columns
    messages: list[Messages] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    count: int = 0
    _codes: dict[str, int] = field(default_factory=dict)

    def code(self, name: str) -> int:
        if name not in self._codes:
            self._codes[name] = len(self.names)
            self.names.append(name)
        return self._codes[name]

    def add(self, *said: Messages, **columns: Any) -> None:
        """Adds flows: columns as in `_FLOW` (numbers or arrays of the length of t0), and what is said in them."""
        n = len(columns["t0"])
        unknown = columns.keys() - _FLOW.keys()
        if unknown:
            raise TypeError(f"unknown columns: {', '.join(sorted(unknown))}")
        self.added.append((self.count, n, columns))
        for m in said:
            m.flow = m.flow + self.count
            self.messages.append(m)
        self.count += n

    def tables(self) -> tuple[dict[str, Array], Messages]:
        """Flows by column, and messages sorted by flow."""
        flows = {
            k: np.full(self.count, 0 if default is None else default, dtype) for k, (dtype, default) in _FLOW.items()
        }
        for start, n, given in self.added:
            for name, value in given.items():
                flows[name][start : start + n] = value
        columns = {
            k: np.concatenate([getattr(m, k) for m in self.messages]) if self.messages else np.empty(0, np.int64)
            for k in ("flow", "direction", "size", "gap", "flags")
        }
        order = np.argsort(columns["flow"], kind="stable")
        return flows, Messages(**{k: v[order] for k, v in columns.items()})
