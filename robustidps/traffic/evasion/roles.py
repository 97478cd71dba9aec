"""What an attacker holds in his hands: whose packets he makes, and what the protocols leave him room for.

The conversation's source is the attacker, or the sender whose address he forges, unless its class or tool says
otherwise below. What the other side sends is not his to change: it only follows, later or with other numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.evasion.packets import ACK, ETHERNET, ICMP, RST, SYN, TCP, UDP, Packets

__all__ = ["View"]

Array = npt.NDArray[Any]

SOURCE, DESTINATION, BOTH = 1, 2, 3
FORGED = 4  # answers in the destination's name that race with the true one, which comes last
RELAY = 8  # a man in the middle: he may only pass packets on later

CONTROL = {"Malware-Backdoor": BOTH, "Spoofing-DNS": FORGED, "Spoofing-ARP": RELAY}
"""By class, where it is not SOURCE."""
TOOL_CONTROL = {"iodine": BOTH, "dnscat": BOTH}
"""By tool, where it is not as its class: both ends of a tunnel are his."""

MTU = 1500
PORT_ROOM = {(TCP, 21): 512, (UDP, 53): 1232, (UDP, 123): 0}
"""Bytes of payload at most. FTP: a command line (servers refuse longer ones). DNS: what EDNS resolvers take (DNS flag
day 2020), padding by RFC 7830. NTP: a reflector's answers are what they are."""
REQUESTS, REPLIES = (8, 128), (0, 129)
"""ICMP and ICMPv6 echo."""
ERRORS = (3, 4, 5, 11, 12)
ERROR_ROOM = 548
"""An ICMP error quotes as much as fits 576 bytes (RFC 1812, 4.3.2.3)."""
SEGMENT = 1460
_SPAN = 1 << 33
_UNKNOWN = -(1 << 32)


class View:
    """What perturbations ask of packets, of which there is at least one; worked out once.

    Per packet [N]:
        controlled  the attacker makes it
        room        bytes of payload that it may have at most
        next        the packet after it in its conversation, or -1
        first       it is its conversation's first
        plain       a TCP segment with an acknowledgement that neither opens nor resets
        request, reply  of an echo
    Per conversation [F]:
        open        a TCP connection that was established
        stream      open, or one direction of such a connection
        relay       a man in the middle's
        rtt         microseconds between the sensor and either side, there and back [F, 2]
        template    a packet of either side to make others from, -1: none [F, 2]
    """

    def __init__(self, packets: Packets) -> None:
        rows, truth = packets.rows, packets.truth
        self.rows, self.n, self.flows = rows, len(rows), len(truth)
        flow, side = rows["flow"], rows["side"].astype(np.int64)
        self.flow, self.side = flow, side
        self.tcp, self.udp = rows["protocol"] == TCP, rows["protocol"] == UDP
        flags = rows["flags"]
        echo = ~self.tcp & ~self.udp
        self.request, self.reply = echo & np.isin(flags, REQUESTS), echo & np.isin(flags, REPLIES)
        tool = [TOOL_CONTROL.get(str(t)) for t in truth.tool.tolist()]
        label = [CONTROL.get(str(c), SOURCE) for c in truth.label.tolist()]
        control = np.array([t if t is not None else c for t, c in zip(tool, label, strict=True)], np.int64).reshape(-1)
        self.control = control
        self.relay = control == RELAY
        last = np.full(self.flows, -1)
        answers = np.flatnonzero(side == 1)
        last[flow[answers]] = answers
        mine = control[flow]
        forged = (mine == FORGED) & (side == 1) & (np.arange(self.n) != last[flow])
        self.controlled = ((mine <= BOTH) & (mine >> side & 1 == 1)) | forged
        self.forged = forged

        self.first = np.r_[True, flow[1:] != flow[:-1]]
        self.next = np.where(np.r_[~self.first[1:], False], np.arange(1, self.n + 1), -1)
        self.plain = self.tcp & (flags & ACK > 0) & (flags & (SYN | RST) == 0)
        said = np.zeros((self.flows, 2), bool)
        said[flow[self.plain], side[self.plain]] = True
        accepted = np.zeros(self.flows, bool)
        accepted[flow[self.tcp & (side == 1) & (flags & (SYN | ACK) == SYN | ACK)]] = True
        self.open = said[:, 0] & (said[:, 1] | accepted)
        self.stream = self.open | self._seen_from_one_side()
        self.room = self._room(packets)
        self.rtt = self._round_trips()
        self.template = np.full((self.flows, 2), -1)
        for which in (self.tcp & (flags & (RST | SYN) != RST) & (flags & ACK > 0), self.plain):
            at = np.flatnonzero(which)[::-1]  # backwards: the first one stands at last
            self.template[flow[at], side[at]] = at

    def _seen_from_one_side(self) -> Array:
        """Connections of which the capture has one direction alone, and no byte twice (as a flood's packets may)."""
        rows, both = self.rows, np.zeros((self.flows, 2), bool)
        both[self.flow, self.side] = True
        end = self.reached(rows["seq"] + rows["payload"], self.tcp)
        again = self.tcp & ~self.first & (rows["payload"] > 0) & (rows["seq"] < np.r_[0, end[:-1]])
        data = self.per_conversation(self.plain & (rows["payload"] > 0)) > 0
        return (both.sum(axis=1) == 1) & data & (self.per_conversation(again) == 0)

    def _room(self, packets: Packets) -> Array:
        rows, truth = self.rows, packets.truth
        room = ETHERNET + MTU - rows["size"].astype(np.int64)
        segment = np.full(self.flows, SEGMENT)
        announced = np.flatnonzero(rows["mss"] > 0)
        np.minimum.at(segment, self.flow[announced], rows["mss"][announced])
        options = rows["size"] - rows["l4"] - 20
        room = np.where(self.tcp, np.minimum(room, segment[self.flow] - options), room)
        for (protocol, port), most in PORT_ROOM.items():
            there = (truth.protocol == protocol) & ((truth.src_port == port) | (truth.dst_port == port))
            room = np.where(there[self.flow], np.minimum(room, most), room)
        kind = rows["flags"]
        datagram = ~self.tcp & ~self.udp
        error = np.isin(kind, ERRORS) & (rows["protocol"] == ICMP)
        room = np.where(datagram & error, np.minimum(room, ERROR_ROOM), room)
        return np.where(datagram & ~error & ~self.request & ~self.reply, 0, room)

    def _round_trips(self) -> Array:
        """The shortest time in which a side was seen to answer; 20 ms where it never did, at most 300."""
        rtt = np.full((self.flows, 2), 300_000)
        seen = np.zeros((self.flows, 2), bool)
        at = np.flatnonzero((self.next >= 0) & (np.r_[self.side[1:] != self.side[:-1], False]))
        who = self.side[at + 1]
        np.minimum.at(rtt, (self.flow[at], who), np.maximum(self.rows["t"][at + 1] - self.rows["t"][at], 200))
        seen[self.flow[at], who] = True
        return np.where(seen, rtt, 20_000)

    def reached(self, values: Array, which: Array) -> Array:
        """Running maximum of `values` over the packets marked in each conversation; `_UNKNOWN` before the first."""
        offset = self.flow * _SPAN
        return np.maximum.accumulate(np.where(which, values, _UNKNOWN) + offset) - offset

    def to_come(self, values: Array, which: Array) -> Array:
        """The least of `values` over the packets marked that come later in the conversation; huge if none does."""
        offset = self.flow * _SPAN
        huge = -_UNKNOWN
        back = np.minimum.accumulate((np.where(which, values, huge) + offset)[::-1])[::-1]
        later = np.r_[back[1:], huge]
        return np.where(self.next >= 0, later - offset, huge)

    def sum_before(self, values: Array) -> Array:
        """Of the packets before each in its conversation."""
        total = np.cumsum(values) - values
        start = np.flatnonzero(self.first)
        return total - total[start][np.cumsum(self.first) - 1]

    def choose(self, rng: np.random.Generator, candidates: Array, most: Array) -> Array:
        """Positions of candidates drawn at random, at most `most` [F] in each conversation; in order."""
        at = np.flatnonzero(candidates)
        order = np.lexsort([rng.random(len(at)), self.flow[at]])
        flow = self.flow[at[order]]
        rank = np.arange(len(at)) - np.searchsorted(flow, flow)
        return np.sort(at[order][rank < most[flow]])

    def per_conversation(self, which: Array) -> Array:
        """How many packets marked each has, [F]."""
        return np.bincount(self.flow[which], minlength=self.flows)
