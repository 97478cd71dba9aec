"""Perturbations of an attack's packets that leave it an attack and its conversations valid.

    padding     more payload in the attacker's packets, up to what segment, datagram and protocol allow
    delay       longer and uneven pauses before what the attacker sends of his own accord
    splitting   a segment of data becomes several, each sent when the one before is acknowledged; TCP alone, since a
                datagram is a message of its own
    chaff       packets more, of which the protocol allows any number: keep-alives and small segments in a connection,
                probes sent again, dummy datagrams; answered where such packets are answered
    combined    all four

Each is light or heavy. What keeps a conversation valid: sequence and acknowledgement numbers follow a map of the byte
streams, a retransmission stays equal to what it repeats, whatever follows a packet still follows it by at least the
same time, an acknowledgement waits no longer than a stack would let it, a segment respects the announced maximum.
What is limited, and by what, stands at the constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.evasion.packets import ACK, FIN, PSH, RST, SYN, Packets
from robustidps.traffic.evasion.roles import BOTH, View

__all__ = ["KINDS", "PERTURBATIONS", "UNCHANGED", "perturb"]

Array = npt.NDArray[Any]

UNCHANGED = "unchanged"
SECOND = 1_000_000
PAD = 200  # bytes that light padding adds at most: some headers, a comment, EDNS padding
STRETCH = (2.0, 5.0)  # times the pause there was, light and heavy
PAUSE = (0.05 * SECOND, 0.5 * SECOND)  # a mean pause that is added besides
LONGEST = (2 * SECOND, 10 * SECOND)  # that one pause grows: below an HTTP server's idle time-out
TOTAL = (30 * SECOND, 90 * SECOND)  # that a conversation grows: below OpenSSH's LoginGraceTime of 120 s
IDLE = 100 * SECOND  # no pause is stretched beyond it: below the extractor's idle time-out
REACTION = (0.04 * SECOND, 0.15 * SECOND)  # an acknowledgement comes within the 0.2 s after which peers send again
RELAY = (0.004 * SECOND, 0.02 * SECOND)  # mean time that a man in the middle holds a packet longer
RELAY_TOTAL = 5 * SECOND
PIECES = (2, 8)
PIECE = 16  # bytes on average that a piece is not smaller than
MOST_PIECES = 60  # added to one conversation
SPLIT_TOTAL = 60 * SECOND
EXCHANGES = (2, 6)  # keep-alives or small segments in one connection
PROBES = (1, 3)  # repetitions of a probe: fewer than a stack's own tries of a SYN
DATAGRAMS = (0.3, 1.0)  # dummies for every datagram
MOST_DATAGRAMS = 20
SSH = 22


def perturb(packets: Packets, name: str, rng: np.random.Generator) -> Packets:
    """The same conversations under one of `PERTURBATIONS`."""
    if name == UNCHANGED or not len(packets.rows):
        return packets
    steps, strength = PERTURBATIONS[name]
    for step in steps:
        packets = step(packets, View(packets), rng, strength)
    return packets


def _padding(packets: Packets, view: View, rng: np.random.Generator, strength: int) -> Packets:
    rows = packets.rows.copy()
    free = np.maximum(view.room - rows["payload"], 0)
    full = rng.random(view.n) * 0.5 + 0.5
    amount = np.minimum(rng.integers(1, PAD + 1, view.n), free) if strength == 0 else np.rint(free * full).astype(int)
    flags, flow = rows["flags"], view.flow

    stream = view.tcp & view.stream[flow]
    data = stream & view.controlled & (rows["payload"] > 0) & (flags & SYN == 0)
    grown = _grow(view, rows, data, amount)
    too_large = stream & (grown["payload"] > np.maximum(rows["payload"], view.room))
    if too_large.any():  # a segment that overlaps others took up what was meant for several: leave such streams alone
        data &= ~np.isin(flow, np.unique(flow[too_large]))
        grown = _grow(view, rows, data, amount)
    rows = grown

    # Packets of no connection: each has a size of its own, but a probe that is sent again equals the first.
    crafted = view.tcp & ~view.stream[flow] & view.controlled & (flags & (RST | FIN) == 0)
    at = np.flatnonzero(crafted)
    _, one, of = np.unique(
        np.stack([flow[at], view.side[at], rows["seq"][at], rows["payload"][at]]), axis=1, return_index=True,
        return_inverse=True,
    )  # fmt: skip
    added = np.zeros(view.n, np.int64)
    added[at] = amount[at[one]][of.reshape(-1)]
    probe = np.maximum.accumulate(np.where(crafted, np.arange(view.n), -1))
    refusal = view.tcp & ~view.controlled & (flags & (RST | ACK) == RST | ACK) & (probe >= 0)
    answered = np.flatnonzero(refusal)[flow[probe[refusal]] == flow[refusal]]
    rows["ack"][answered] += added[probe[answered]]  # a reset acknowledges all that the probe held (RFC 9293, 3.10.7.1)

    datagram = ~view.tcp & view.controlled
    asked = (view.per_conversation(datagram & view.request) > 0)[flow]
    mirrored = view.reply & ~view.controlled & asked
    alike = (view.per_conversation(mirrored) > 0)[flow] & (view.request | view.reply)
    # An answer is as long as its request, so all of a conversation grow by the same.
    least = np.full(view.flows, 1 << 30)
    np.minimum.at(least, flow[alike], free[alike])
    one_for_all = (
        np.minimum(rng.integers(1, PAD + 1, view.flows), least) if strength == 0 else (least * 0.8).astype(int)
    )
    added = np.where(alike, one_for_all[flow], np.where(datagram, amount, added))
    rows["payload"] += added
    return packets.with_rows(rows)


def _grow(view: View, rows: Array, which: Array, amount: Array) -> Array:
    """Bytes put into the streams at the ends of the segments marked; every number follows the map of the streams."""
    out = rows.copy()
    at = np.flatnonzero(which)
    span = 1 << 33
    key = (rows["flow"] * 2 + rows["side"]) * span + (1 << 32)
    ends = (key + rows["seq"] + rows["payload"])[at]
    where, one = np.unique(ends, return_index=True)
    total = np.r_[0, np.cumsum(amount[at[one]])]

    def shift(stream: Array, position: Array) -> Array:
        before = np.searchsorted(where, stream - (1 << 32), side="right")
        return total[np.searchsorted(where, stream + position, side="right")] - total[before]

    own, peer = key, key + np.where(rows["side"] == 0, span, -span)
    begin = rows["seq"] + (rows["flags"] & SYN > 0)
    stream = view.tcp & view.stream[view.flow]
    begins, grows = shift(own, begin), shift(own, begin + rows["payload"])
    out["payload"] = np.where(stream & (rows["payload"] > 0), rows["payload"] + grows - begins, rows["payload"])
    out["seq"] = np.where(stream, rows["seq"] + shift(own, rows["seq"]), rows["seq"])
    acks = stream & (rows["flags"] & ACK > 0)
    out["ack"] = np.where(acks, rows["ack"] + shift(peer, rows["ack"]), rows["ack"])
    return out


def _delay(packets: Packets, view: View, rng: np.random.Generator, strength: int) -> Packets:
    rows, flow = packets.rows.copy(), view.flow
    n, flags = view.n, rows["flags"]
    gap = np.where(view.first, 0, np.diff(rows["t"], prepend=rows["t"][:1]))
    turn = ~view.first & np.r_[False, view.side[1:] != view.side[:-1]]
    bare = view.tcp & (rows["payload"] == 0) & (flags & (SYN | FIN) == 0)
    reacts = bare & (turn | (view.open[flow] & (flags & RST == 0)))
    free = view.controlled & ~view.forged & ~view.first
    own = gap * (STRETCH[strength] - 1) * rng.uniform(0.5, 1, n) + rng.exponential(PAUSE[strength], n)
    own = np.minimum(own, LONGEST[strength])
    extra = np.where(free, np.where(reacts, rng.random(n) * REACTION[strength], own), 0.0)
    extra = np.minimum(extra, np.maximum(IDLE - gap, 0))
    held = view.relay[flow] & rows["relayed"]
    extra = np.where(held, np.minimum(rng.exponential(RELAY[strength], n), REACTION[1]), extra)
    limit = np.where(view.relay, RELAY_TOTAL, TOTAL[strength])
    whole = np.bincount(flow, extra, view.flows)
    extra = (extra * np.minimum(1, limit / np.maximum(whole, 1))[flow]).astype(np.int64)
    moved = view.sum_before(extra) + extra
    rows["t"] += moved

    # Data that carried the acknowledgement of what came before it and is now late: the stack sends that alone, in time.
    late = free & view.open[flow] & (rows["payload"] > 0) & (flags & ACK > 0) & turn & (gap + extra > REACTION[1])
    late &= (gap <= REACTION[1]) & np.r_[False, rows["payload"][:-1] > 0]
    at = np.flatnonzero(late)
    alone = _bare(rows, at, rows["t"][at - 1] + rng.integers(10_000, 40_000, len(at)))
    return packets.with_rows(np.concatenate([rows, alone]))


def _bare(rows: Array, template: Array, t: Array, **columns: Any) -> Array:
    """Acknowledgements without data, made from other packets: options stay, unless they were a SYN's.

    columns: what differs from the packet made from, of the packets' columns.
    """
    out = rows[template].copy()
    syn = out["flags"] & SYN > 0
    out["size"] = np.where(syn, out["l4"] + 20, out["size"])
    out["flags"], out["payload"], out["mss"], out["relayed"] = ACK, 0, 0, False
    out["t"] = t
    for name, value in columns.items():
        out[name] = value
    return out


def _splitting(packets: Packets, view: View, rng: np.random.Generator, strength: int) -> Packets:
    rows, flow, side = packets.rows, view.flow, view.side
    end = rows["seq"] + rows["payload"]
    sent = [view.reached(end, side == s) for s in (0, 1)]
    before = np.where(side == 0, *[np.r_[0, s[:-1]] for s in sent])
    fresh = view.first | (rows["seq"] >= before)  # a retransmission stays whole
    pieces = np.minimum(PIECES[strength], rows["payload"] // PIECE)
    wanted = view.tcp & view.open[flow] & view.controlled & (pieces >= 2) & fresh & (rows["flags"] & SYN == 0)
    wanted &= view.template[flow, 1 - side] >= 0
    trip = view.rtt.sum(axis=1)[flow]
    more = np.where(wanted, pieces - 1, 0)
    wanted &= view.sum_before(more) + more <= MOST_PIECES
    wanted &= view.sum_before(more * trip) + more * trip <= SPLIT_TOTAL
    pieces = np.where(wanted, pieces, 1)
    moved = view.sum_before((pieces - 1) * trip)

    i = np.repeat(np.arange(view.n), pieces)
    k = np.arange(len(i)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    weight = np.where(pieces[i] > 1, rng.uniform(0.5, 1.5, len(i)), 1.0)
    first = np.cumsum(pieces) - pieces
    upto = np.cumsum(weight)
    upto -= (upto[first] - weight[first])[i]
    bound = np.rint(upto / upto[first + pieces - 1][i] * rows["payload"][i]).astype(np.int64)
    begin = np.where(k == 0, 0, np.r_[0, bound[:-1]])
    out = rows[i].copy()
    out["payload"] = bound - begin
    out["seq"] += begin
    out["t"] += moved[i] + k * trip[i]
    last = k == pieces[i] - 1
    out["flags"] = np.where(last, out["flags"], (out["flags"] & ~FIN) | np.where(view.tcp[i], PSH, 0))

    cut = np.flatnonzero(~last)
    j = i[cut]
    peer = np.where(side == 0, sent[1], sent[0])[j]
    acks = _bare(
        rows,
        view.template[flow[j], 1 - side[j]],
        out["t"][cut] + view.rtt[flow[j], 1 - side[j]],
        seq=np.maximum(peer, rows["ack"][j]),
        ack=out["seq"][cut] + out["payload"][cut],
    )
    return packets.with_rows(np.concatenate([out, acks]))


def _chaff(packets: Packets, view: View, rng: np.random.Generator, strength: int) -> Packets:
    rows, inserted = _exchanges(packets, view, rng, strength)
    return packets.with_rows(
        np.concatenate([rows, inserted, _probes(view, rng, strength), _datagrams(view, rng, strength)])
    )


def _exchanges(packets: Packets, view: View, rng: np.random.Generator, strength: int) -> tuple[Array, Array]:
    """Keep-alives and small segments with their answers, put where nothing is outstanding; the packets there were, with
    what moves for it, and those that are new."""
    rows, flow, side, n = packets.rows.copy(), view.flow, view.side, view.n
    flags = rows["flags"]
    end = rows["seq"] + rows["payload"] + (flags & SYN > 0)
    sent = [view.reached(end, side == s) for s in (0, 1)]
    acked = [view.reached(rows["ack"], (side == 1 - s) & (flags & ACK > 0)) for s in (0, 1)]
    begin = [view.to_come(rows["seq"], side == s) for s in (0, 1)]
    over = view.reached((flags & (FIN | RST) > 0).astype(np.int64), view.tcp) > 0
    up = [view.reached(view.plain.astype(np.int64), side == s) > 0 for s in (0, 1)]
    control = view.control[flow]
    # Where both ends are his, either may speak; else the source does.
    who = np.where(control == BOTH, rng.integers(0, 2, n), 0)

    def pick(pair: list[Array]) -> Array:
        return np.where(who == 0, pair[0], pair[1])

    def other(pair: list[Array]) -> Array:
        return np.where(who == 0, pair[1], pair[0])

    quiet = (pick(acked) >= pick(sent)) & (pick(begin) >= pick(sent)) & (other(acked) >= other(sent))
    fits = view.tcp & view.open[flow] & (control <= BOTH) & ~over & up[0] & quiet & (view.template[flow, 1 - who] >= 0)
    fits &= (view.template[flow, who] >= 0) & (pick(sent) > 0) & (other(sent) > 0)
    at = view.choose(rng, fits, np.full(view.flows, EXCHANGES[strength]))
    w, f = who[at], flow[at]
    talks = (rows["payload"] > 0) & (side == 0)
    ssh = packets.truth.dst_port == SSH
    speaks = (control[at] == BOTH) | (ssh[f] & (view.sum_before(talks.astype(np.int64))[at] >= 2))  # SSH_MSG_IGNORE
    size = np.where(speaks & (rng.random(len(at)) < 0.7), rng.integers(16, 97, len(at)), 0)

    added = np.zeros((2, n), np.int64)  # bytes that either side says after a packet
    added[w, at] = size
    shift = [view.sum_before(a) for a in added]
    gap = np.where(view.next >= 0, np.r_[rows["t"][1:], 0] - rows["t"], 4 * SECOND)[at]
    trip = view.rtt[f, 1 - w]
    offset = np.where(gap > 3 * trip, gap * rng.uniform(0.1, 0.5, len(at)), rng.uniform(500, 5000, len(at)))
    offset = offset.astype(np.int64)
    longer = np.zeros(n, np.int64)
    longer[at] = np.maximum(offset + trip + 1000 - gap, 0)
    later = view.sum_before(longer)

    own, theirs = pick(sent)[at] + pick(shift)[at], other(sent)[at] + other(shift)[at]
    t = rows["t"][at] + later[at] + offset
    asks = _bare(rows, view.template[f, w], t, seq=own - (size == 0), ack=theirs, payload=size)
    asks["flags"] = np.where(size > 0, PSH | ACK, ACK)
    answers = _bare(rows, view.template[f, 1 - w], t + trip, seq=theirs, ack=own + size)
    moves = view.tcp & view.open[flow]
    rows["seq"] += np.where(moves, np.where(side == 0, *shift), 0)
    rows["ack"] += np.where(moves & (flags & ACK > 0), np.where(side == 0, *shift[::-1]), 0)
    rows["t"] += later
    return rows, np.concatenate([asks, answers])


def _probes(view: View, rng: np.random.Generator, strength: int) -> Array:
    """Probes of no connection sent again, each with what came back the first time."""
    rows, flow, side = view.rows, view.flow, view.side
    loose = view.tcp & ~view.open[flow]
    at = view.choose(rng, loose & view.controlled & (rows["flags"] & RST == 0), np.full(view.flows, PROBES[strength]))
    one, two = np.minimum(at + 1, view.n - 1), np.minimum(at + 2, view.n - 1)
    answered = (view.next[at] >= 0) & (side[one] != side[at])
    reset = answered & (view.next[one] >= 0) & (side[two] == side[at]) & (rows["flags"][two] == RST)
    lag = (rng.uniform(0.2, 3.0, len(at)) * SECOND).astype(np.int64)
    parts = []
    for mine, which in ((at, np.ones(len(at), bool)), (one, answered), (two, reset)):
        copy = rows[mine[which]].copy()
        copy["t"] += lag[which]
        parts.append(copy)
    return np.concatenate(parts)


def _datagrams(view: View, rng: np.random.Generator, strength: int) -> Array:
    """Dummy datagrams between the others, answered where echo requests are, or where the answering end is his too."""
    rows, flow, side = view.rows, view.flow, view.side
    fits = ~view.tcp & view.controlled & (view.room > 8)
    most = np.clip(np.ceil(view.per_conversation(fits) * DATAGRAMS[strength]), 1, MOST_DATAGRAMS).astype(np.int64)
    asks = np.where(view.control[flow] == BOTH, side == 0, True)
    at = view.choose(rng, fits & asks, most)
    gap = np.where(view.next >= 0, np.r_[rows["t"][1:], 0] - rows["t"], SECOND)[at]
    dummy = rows[at].copy()
    dummy["t"] += (gap * rng.uniform(0.05, 0.45, len(at))).astype(np.int64)
    most_bytes = np.minimum(view.room[at], 64 if strength == 0 else 1 << 16)
    dummy["payload"] = rng.integers(8, np.maximum(most_bytes, 8) + 1)
    answers = np.full(view.flows, -1)
    back = np.flatnonzero((side == 1) & (view.udp | view.reply))[::-1]
    answers[flow[back]] = back
    followed = view.request[at] | (view.control[flow[at]] == BOTH)
    is_answered = (answers[flow[at]] >= 0) & (side[at] == 0) & followed
    reply = rows[answers[flow[at[is_answered]]]].copy()
    reply["t"] = dummy["t"][is_answered] + view.rtt[flow[at[is_answered]], 1]
    reply["payload"] = dummy["payload"][is_answered]
    return np.concatenate([dummy, reply])


Step = Callable[[Packets, View, np.random.Generator, int], Packets]
KINDS: dict[str, tuple[Step, ...]] = {
    "padding": (_padding,),
    "delay": (_delay,),
    "splitting": (_splitting,),
    "chaff": (_chaff,),
    "combined": (_padding, _splitting, _chaff, _delay),
}
PERTURBATIONS: dict[str, tuple[tuple[Step, ...], int]] = {
    f"{kind}-{word}": (steps, strength)
    for kind, steps in KINDS.items()
    for strength, word in enumerate(("light", "heavy"))
}
"""By name: the steps, and 0 for light or 1 for heavy."""
