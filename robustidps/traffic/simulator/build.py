"""From conversations to packets: a TCP, UDP and ICMP model that handles all flows of a day at once.

Per flow: an opening, the messages one after the other (a change of direction costs that end's share of the round
trip; a long message is paced by slow start and bandwidth), an acknowledgement for every second segment, lost segments
sent again, and a close. Sequence and acknowledgement numbers follow from the bytes said so far. A man in the middle's
relayed copies are added, and last what the sensor did not see is taken away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.simulator.plan import TCP, Close, Messages, Open, Plan
from robustidps.traffic.simulator.world import World

__all__ = ["ACK", "CWR", "ECE", "FIN", "PACKET", "PSH", "RST", "SYN", "URG", "packets"]

Array = npt.NDArray[Any]

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DELAYED_ACK, DAY, LARGEST = 0.04, 86_400.0, 64_000

PACKET = np.dtype(
    [("t", "f8"), ("flow", "i8"), ("direction", "i1"), ("flags", "i4"), ("size", "i8"), ("seq", "i8"), ("ack", "i8")]
)
"""A packet before headers: time of day in s, who sends (0 the flow's client), TCP flags or ICMP type * 256 + code,
payload bytes, sequence and acknowledgement numbers relative to each side's first."""


def _pack(t: Array, flow: Array, direction: Any, flags: Any, size: Any = 0, seq: Any = 0, ack: Any = 0) -> Array:
    out = np.empty(len(t), PACKET)
    for name, value in zip(PACKET.names or (), (t, flow, direction, flags, size, seq, ack), strict=True):
        out[name] = value
    return out


_WINDOWS = np.array([10 * (2**r - 1) for r in range(1, 24)])


def _rounds(k: Array) -> Array:
    """Round trips before segment k leaves: slow start sends 10 segments, then 20, 40, ... (RFC 6928)."""
    return np.searchsorted(_WINDOWS, k, side="right")


def _running(values: Array, first: Array, flow: Array) -> Array:
    """Cumulative sum within each flow; `first` is the position of a flow's first entry."""
    total = np.cumsum(values)
    return total - (total[first] - values[first])[flow]


def packets(plan: Plan, world: World, rng: np.random.Generator) -> tuple[Array, dict[str, Array]]:
    """All packets of a day's plan, by time, and its flows by column. Packets after the day's end are left out."""
    flows, said = plan.tables()
    n = plan.count
    client = {c: v[flows["client"]] for c, v in world.columns.items()}
    server = {c: v[flows["server"]] for c, v in world.columns.items()}
    wobble = flows["delay"] * rng.lognormal(0, 0.12, n)
    near, far = client["delay"] * wobble, server["delay"] * wobble
    loss = client["loss"] + server["loss"]
    tcp = flows["protocol"] == TCP

    stamped = 12 * ((client["timestamps"] > 0) & (server["timestamps"] > 0) & (flows["syn_options"] < 0))
    six = np.where(flows["ip_version"] == 6, 20, 0)
    mss = np.minimum(client["mss"], server["mss"]).astype(np.int64) - stamped - six
    mss = np.minimum(mss * flows["coalesced"], LARGEST)

    parts, ready = _openings(flows, near, far, loss, tcp, rng)
    body, end, sent = _bodies(
        flows, said, ready, near, far, loss, np.minimum(client["bandwidth"], server["bandwidth"]), mss, rng
    )
    parts += body
    parts += _closings(flows, end, sent, near, far, tcp, rng)
    out = np.concatenate(parts)
    relayed = _relayed(out, flows, rng)
    if len(relayed):
        out = np.concatenate([out, relayed])
    out = out[out["t"] < DAY]
    return _seen(out[np.argsort(out["t"], kind="stable")], flows), flows


def _openings(
    flows: dict[str, Array], near: Array, far: Array, loss: Array, tcp: Array, rng: np.random.Generator
) -> tuple[list[Array], Array]:
    """Packets of all openings, and when each client is ready to speak."""
    opening, t0 = flows["opening"], flows["t0"]
    parts: list[Array] = []
    ready = t0.copy()

    full = np.flatnonzero(tcp & (opening == Open.FULL))
    lost = full[rng.random(len(full)) < loss[full]]
    ready[lost] += 1.0 + rng.random(len(lost)) * 0.02
    parts.append(_pack(t0[lost], lost, 0, SYN))
    parts.append(_pack(ready[full], full, 0, SYN))
    parts.append(_pack(ready[full] + far[full], full, 1, SYN | ACK, ack=1))
    ready[full] += far[full] + near[full]
    parts.append(_pack(ready[full], full, 0, ACK, seq=1, ack=1))

    half = np.flatnonzero(tcp & (opening == Open.HALF))
    parts.append(_pack(t0[half], half, 0, SYN))
    parts.append(_pack(t0[half] + far[half], half, 1, SYN | ACK, ack=1))
    parts.append(_pack(t0[half] + far[half] + near[half], half, 0, RST, seq=1))

    tried = np.flatnonzero(tcp & np.isin(opening, (Open.REFUSED, Open.SILENT, Open.UNANSWERED)))
    count = flows["tries"][tried]
    flow = np.repeat(tried, count)
    k = np.arange(len(flow)) - np.repeat(np.cumsum(count) - count, count)
    kind, backoff = opening[flow], flows["backoff"][flow]
    doubling = backoff * (2.0**k - 1)
    t = t0[flow] + np.where(kind == Open.REFUSED, k * (backoff + far[flow]), doubling)
    t += np.where(k > 0, rng.random(len(flow)) * 0.012 * (k + 1), 0)
    from_client = (kind != Open.UNANSWERED) | (k == 0)
    parts.append(_pack(t[from_client], flow[from_client], 0, SYN))
    refused, answered = kind == Open.REFUSED, kind == Open.UNANSWERED
    parts.append(_pack(t[refused] + far[flow[refused]], flow[refused], 1, RST | ACK, ack=1))
    parts.append(_pack(t[answered] + far[flow[answered]], flow[answered], 1, SYN | ACK, ack=1))
    return parts, ready


def _bodies(
    flows: dict[str, Array],
    said: Messages,
    ready: Array,
    near: Array,
    far: Array,
    loss: Array,
    bandwidth: Array,
    mss: Array,
    rng: np.random.Generator,
) -> tuple[list[Array], Array, tuple[Array, Array]]:
    """Segments and acknowledgements of all messages, when each flow's last is over, and bytes sent by either side."""
    n, m = len(ready), len(said.flow)
    end = ready.copy()
    sent = (np.zeros(n, np.int64), np.zeros(n, np.int64))
    if not m:
        return [], end, sent
    f, d, size = said.flow, said.direction, said.size
    stream = (flows["protocol"][f] == TCP) & (said.flags == 0)
    is_first = np.r_[True, f[1:] != f[:-1]]
    start_of = np.zeros(n, np.int64)
    start_of[f[is_first]] = np.flatnonzero(is_first)
    first = start_of

    turn = np.where(d == 1, far[f], near[f])
    same = np.r_[False, d[1:] == d[:-1]] & ~is_first
    turn[same | (is_first & (d == 0))] = 0.0
    turn *= 1 + np.abs(rng.normal(0, 0.12, m))
    most = mss[f]
    segments = np.where(stream, np.maximum(1, -(-size // most)), 1)
    spacing = (most + 66) / bandwidth[f]
    rtt = near[f] + far[f]
    lasting = (segments - 1) * spacing + _rounds(segments - 1) * rtt
    took = said.gap + turn
    begin = ready[f] + _running(took + lasting, first, f) - lasting
    np.maximum.at(end, f, begin + lasting)

    # Bytes that either side has said before each message.
    both = []
    for side in (0, 1):
        mine = np.where(stream & (d == side), size, 0)
        before = _running(mine, first, f) - mine
        np.maximum.at(sent[side], f, before + mine)
        both.append(before)
    own, peer = np.where(d == 0, both[0], both[1]), np.where(d == 0, both[1], both[0])

    i = np.repeat(np.arange(m), segments)
    k = np.arange(len(i)) - np.repeat(np.cumsum(segments) - segments, segments)
    last = k == segments[i] - 1
    tcp_segment = stream[i]
    due = begin[i] + k * spacing[i] + _rounds(k) * rtt[i]
    t = due + rng.random(len(i)) * np.minimum(spacing[i], 40e-6)
    payload = np.where(tcp_segment, np.where(last, size[i] - k * most[i], most[i]), size[i])
    flags = np.where(tcp_segment, np.where(last, PSH | ACK, ACK), said.flags[i])
    seq, ack = own[i] + k * most[i] + 1, peer[i] + 1
    data = _pack(t, f[i], d[i], flags, payload, seq, ack)
    parts = [data]

    # Lost segments come again: after a round trip where later ones show the gap, else after the retransmission timer.
    again = np.flatnonzero(tcp_segment & (rng.random(len(i)) < loss[f[i]]))
    wait = np.where(last[again], np.maximum(0.2, 2 * rtt[i[again]]), rtt[i[again]]) * (1 + 0.2 * rng.random(len(again)))
    copies = data[again]
    copies["t"] += wait
    parts.append(copies)

    # Every second segment is acknowledged, and the last unless an answer carries the acknowledgement.
    follows = np.r_[(~is_first[1:]) & (d[1:] != d[:-1]) & (said.gap[1:] < DELAYED_ACK), False]
    alone = last & (k % 2 == 0)
    acked = np.flatnonzero(tcp_segment & (((k % 2 == 1) & ~(last & follows[i])) | (alone & ~follows[i])))
    j = i[acked]
    back = np.where(d[j] == 1, near[f[j]], far[f[j]]) + np.where(alone[acked], DELAYED_ACK * rng.random(len(j)), 0)
    parts.append(_pack(due[acked] + back, f[j], 1 - d[j], ACK, 0, ack[acked], seq[acked] + payload[acked]))
    np.maximum.at(end, f[j], due[acked] + back)
    return parts, end, sent


def _closings(
    flows: dict[str, Array],
    end: Array,
    sent: tuple[Array, Array],
    near: Array,
    far: Array,
    tcp: Array,
    rng: np.random.Generator,
) -> list[Array]:
    closing = np.where(tcp & np.isin(flows["opening"], (Open.FULL, Open.NONE)), flows["closing"], Close.NONE)
    t = end + flows["linger"] + rng.exponential(0.0004, len(end))
    parts: list[Array] = []
    for side, kinds in ((0, (Close.CLIENT,)), (1, (Close.SERVER, Close.FIN_RST))):
        own, peer = sent[side] + 1, sent[1 - side] + 1
        there, back = (far, near) if side == 0 else (near, far)
        who = np.flatnonzero(np.isin(closing, kinds))
        parts.append(_pack(t[who], who, side, FIN | ACK, 0, own[who], peer[who]))
        reset = who[closing[who] == Close.FIN_RST]
        parts.append(_pack(t[reset] + there[reset], reset, 1 - side, RST, 0, peer[reset], own[reset] + 1))
        kept = who[closing[who] != Close.FIN_RST]
        apart = kept[rng.random(len(kept)) < 0.4]
        parts.append(_pack(t[apart] + there[apart], apart, 1 - side, ACK, 0, peer[apart], own[apart] + 1))
        answer = t[kept] + there[kept] + np.where(np.isin(kept, apart), rng.exponential(0.003, len(kept)), 0)
        parts.append(_pack(answer, kept, 1 - side, FIN | ACK, 0, peer[kept], own[kept] + 1))
        parts.append(_pack(answer + back[kept], kept, side, ACK, 0, own[kept] + 1, peer[kept] + 1))
    for side, kind in ((0, Close.RST_CLIENT), (1, Close.RST_SERVER)):
        who = np.flatnonzero(closing == kind)
        parts.append(_pack(t[who], who, side, RST | ACK, 0, sent[side][who] + 1, sent[1 - side][who] + 1))
    return parts


def _relayed(sent: Array, flows: dict[str, Array], rng: np.random.Generator) -> Array:
    """The second sight of each packet that a man in the middle passes on (TTL one less: see `pcap`)."""
    delay, ways = flows["relay"][sent["flow"]], flows["relay_ways"][sent["flow"]]
    seen_twice = (delay > 0) & ((ways >> sent["direction"]) & 1 == 1)
    copies = sent[seen_twice]
    copies["t"] += delay[seen_twice] * rng.lognormal(0, 0.35, len(copies))
    copies["direction"] += 2  # 2 and 3: relayed
    return copies


def _seen(sent: Array, flows: dict[str, Array]) -> Array:
    """Those of `sent` (by time) that passed the sensor while it looked; at least one packet of every flow."""
    partly = (flows["ways"] != 3) | (flows["skip"] > 0) | (flows["keep"] < 1 << 40)
    at = np.flatnonzero(partly[sent["flow"]])
    if not len(at):
        return sent
    at = at[np.argsort(sent["flow"][at], kind="stable")]
    f = sent["flow"][at]
    ways = flows["ways"][f]
    passes = (ways >> (sent["direction"][at] & 1)) & 1 == 1
    only_way = np.bincount(f, passes, len(partly)) == 0  # it has no packet that way: it is seen as it is
    passes |= only_way[f]
    kept, lost = at[passes], [at[~passes]]
    f = sent["flow"][kept]
    counts = np.bincount(f, minlength=len(partly))
    rank = np.arange(len(f)) - (np.cumsum(counts) - counts)[f]
    first = np.minimum(flows["skip"][f], counts[f] - 1)
    lost.append(kept[(rank < first) | (rank - first >= np.maximum(flows["keep"][f], 1))])
    there = np.ones(len(sent), bool)
    there[np.concatenate(lost)] = False
    return sent[there]
