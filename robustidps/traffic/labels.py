"""Joins what is known about traffic (who attacked whom, from when to when) to the flows cut from its packets.

A flow belongs to a truth when both have the same two endpoints and protocol, in either direction, and the flow's
first packet lies within the truth's time. NFStream may cut one conversation into several flows (its active time-out),
so one truth may own many; and a truth may leave a host, a port or the protocol open, as a schedule of attacks does.
Where several truths hold a flow they are asked for one answer: if they agree it is theirs, if they don't the row stays
unlabelled and is counted. Nothing is guessed, and the order of truths and flows makes no difference.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from robustidps.errors import SchemaError
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["ANY", "Endpoints", "Ends", "JoinReport", "Match", "Truth", "join", "match", "passes"]

ANY = -1
"""A truth's port or protocol that may be any; its host is "" then."""

_CLOCK = 0.002
"""Seconds; NFStream's stamps are whole milliseconds, so a flow may seem to begin before its first packet."""

Ints = npt.NDArray[np.int64]


class Ends(Protocol):
    """What a join reads of N flows, [N] each, as `FlowTable` has it."""

    @property
    def first_seen(self) -> npt.NDArray[np.float64]: ...
    @property
    def src_ip(self) -> npt.NDArray[Any]: ...
    @property
    def dst_ip(self) -> npt.NDArray[Any]: ...
    @property
    def src_port(self) -> npt.NDArray[Any]: ...
    @property
    def dst_port(self) -> npt.NDArray[Any]: ...
    @property
    def protocol(self) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Endpoints:
    """`Ends` of the flows of several captures, in order."""

    first_seen: npt.NDArray[np.float64]
    src_ip: npt.NDArray[Any]
    dst_ip: npt.NDArray[Any]
    src_port: npt.NDArray[Any]
    dst_port: npt.NDArray[Any]
    protocol: npt.NDArray[Any]

    @classmethod
    def of(cls, tables: Sequence[Ends], rows: slice = slice(None)) -> Endpoints:
        return cls(**{k: np.concatenate([getattr(t, k)[rows] for t in tables]) for k in cls.__dataclass_fields__})


@dataclass(frozen=True, eq=False)
class Truth:
    """M conversations whose class is known, as arrays [M]: endpoints, IANA protocol number, first and last packet.

    src_ip, dst_ip: str as NFStream writes them, "" for any. src_port, dst_port, protocol: `ANY` for any; ports are 0
    for protocols without any. start, end: seconds since 1970 UTC. label: class names. campaign, tool: as in
    `TrafficSet`.
    """

    src_ip: npt.NDArray[Any]
    dst_ip: npt.NDArray[Any]
    src_port: npt.NDArray[Any]
    dst_port: npt.NDArray[Any]
    protocol: npt.NDArray[Any]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    label: npt.NDArray[Any]
    campaign: npt.NDArray[Any]
    tool: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        """[M], where nothing is left open."""
        named = (self.src_ip.astype(str) != "") & (self.dst_ip.astype(str) != "")
        return named & (self.src_port != ANY) & (self.dst_port != ANY) & (self.protocol != ANY)


@dataclass(frozen=True, eq=False)
class Match:
    """owner: int64 [N], the truth that each flow belongs to, or one of those that agree; -1 for none or no single one.

    ambiguous: bool [N], several that disagree. held: int64 [M], flows within each truth; of a truth that leaves
    something open only whether there is any.
    """

    owner: Ints
    ambiguous: npt.NDArray[np.bool_]
    held: Ints


@dataclass(frozen=True)
class JoinReport:
    """flows = matched + unmatched + ambiguous; `unused` truths hold no flow."""

    flows: int
    matched: int
    unmatched: int  # no truth of these endpoints at that time
    ambiguous: int  # several that disagree
    unused: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.flows} flows matched, {self.unmatched} not, {self.ambiguous} ambiguous; "
            f"{self.unused} truths without a flow"
        )


def join(
    flows: Ends, truth: Truth, *, tolerance_s: float = 1.0, schema: TrafficSchema = FLOW64
) -> tuple[npt.NDArray[np.int16], npt.NDArray[Any], npt.NDArray[Any], JoinReport]:
    """Labels, campaigns and tools of flows, [N] each: `UNLABELLED` and empty where no truth, or no single one, fits.

    Args:
        tolerance_s: how far outside a truth's time a flow may begin, when no truth holds it exactly.

    Raises:
        SchemaError: a truth's label is none of the schema's classes, or its arrays differ in length.
    """
    n, m = len(flows.first_seen), len(truth)
    index = {name: i for i, name in enumerate(schema.classes)}
    unknown = sorted({str(v) for v in np.unique(truth.label.astype(str))} - set(index)) if m else []
    if unknown:
        raise SchemaError(f"the truth has labels that are no class: {unknown[:5]}", where=schema.name)
    found = match(flows, truth, tolerance_s=tolerance_s)
    got = found.owner >= 0
    labels = np.full(n, UNLABELLED, np.int16)
    campaign, tool = np.full(n, "", dtype=object), np.full(n, "", dtype=object)
    codes = np.array([index[str(v)] for v in truth.label.tolist()], np.int16)
    labels[got] = codes[found.owner[got]]
    campaign[got] = np.asarray(truth.campaign, dtype=object)[found.owner[got]]
    tool[got] = np.asarray(truth.tool, dtype=object)[found.owner[got]]
    matched, unsure = int(got.sum()), int(found.ambiguous.sum())
    report = JoinReport(n, matched, n - matched - unsure, unsure, int((found.held == 0).sum()))
    return labels, campaign, tool, report


def match(flows: Ends, truth: Truth, *, tolerance_s: float = 1.0) -> Match:
    """Which truth each flow belongs to. Labels may be any words here; truths agree when label, campaign and tool do.

    Raises:
        SchemaError: the truth's arrays differ in length.
    """
    n, m = len(flows.first_seen), len(truth)
    if {len(getattr(truth, name)) for name in truth.__dataclass_fields__} != {m}:
        raise SchemaError("the truth's arrays differ in length")
    owner, ambiguous, held = np.full(n, -1, np.int64), np.zeros(n, bool), np.zeros(m, np.int64)
    if not n or not m:
        return Match(owner, ambiguous, held)
    what = _identity(truth)
    when = np.asarray(flows.first_seen, np.float64)
    ways = list(passes(flows, truth))
    # Exactly first, so that a neighbour in time is not drawn in by the tolerance.
    for slack in (min(_CLOCK, tolerance_s), tolerance_s):
        open_ = np.flatnonzero((owner < 0) & ~ambiguous)
        if not len(open_):
            break
        mine, clash = owner[open_], ambiguous[open_]
        for rows, flow_key, truth_key in ways:
            time = (truth.start[rows] - slack, truth.end[rows] + slack)
            found, several, count = _held(flow_key[open_], when[open_], truth_key, *time, what[rows])
            found = np.where(found >= 0, rows[found], -1)
            clash |= several | ((found >= 0) & (mine >= 0) & (what[found] != what[mine]))
            mine = np.where(mine >= 0, mine, found)
            held[rows] += count
        owner[open_], ambiguous[open_] = np.where(clash, -1, mine), clash
    return Match(owner, ambiguous, held)


def passes(flows: Ends, truth: Truth) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(truths, key per flow, key per truth): a flow may belong to a truth of its key.

    Truths that leave nothing open are met by keys without direction, in one go. Of the others, those that leave the
    same open are met at a time, by what they do say; once as the flow runs and once the other way.
    """
    n = len(flows.first_seen)
    words: dict[str, int] = {"": 0}

    def host(name: str) -> tuple[Ints, Ints]:
        codes = [
            np.fromiter((words.setdefault(str(a), len(words)) for a in addresses), np.int64, len(addresses))
            for addresses in (getattr(flows, name).tolist(), getattr(truth, name).tolist())
        ]
        return codes[0], codes[1]

    source, destination = host("src_ip"), host("dst_ip")
    columns: list[tuple[Ints, Ints]] = [source, destination]
    columns += [
        (np.asarray(getattr(flows, name), np.int64), np.asarray(getattr(truth, name), np.int64))
        for name in ("src_port", "dst_port", "protocol")
    ]
    said = np.column_stack([source[1] > 0, destination[1] > 0, *(theirs != ANY for _, theirs in columns[2:])])
    for pattern in np.unique(said, axis=0):
        rows = np.flatnonzero((said == pattern).all(1))
        if pattern.all():
            ends = [np.concatenate([ours, theirs[rows]]) for ours, theirs in columns]
            one, other = ends[0] * 65536 + ends[2], ends[1] * 65536 + ends[3]
            key = _key([np.minimum(one, other), np.maximum(one, other), ends[4]], n + len(rows))
            yield rows, key[:n], key[n:]
            continue
        for way in ((0, 1, 2, 3, 4), (1, 0, 3, 2, 4)):
            key = _key(
                [np.concatenate([columns[way[i]][0], columns[i][1][rows]]) for i in np.flatnonzero(pattern)],
                n + len(rows),
            )
            yield rows, key[:n], key[n:]


def _key(columns: list[Ints], rows: int) -> Ints:
    """One integer per row, equal where all columns are."""
    key = np.zeros(rows, np.int64)
    for column in columns:
        # Ranked before they are put together, so that the product stays far below 2^63.
        ranks = np.unique(column, return_inverse=True)[1].astype(np.int64)
        key = np.unique(key * (int(ranks.max()) + 1) + ranks, return_inverse=True)[1].astype(np.int64)
    return key


def _identity(truth: Truth) -> Ints:
    """One integer per (label, campaign, tool)."""
    seen: dict[Any, int] = {}
    rows = zip(truth.label.tolist(), truth.campaign.tolist(), truth.tool.tolist(), strict=True)
    return np.fromiter((seen.setdefault(row, len(seen)) for row in rows), np.int64, len(truth))


def _held(
    key: Ints,
    when: npt.NDArray[np.float64],
    truth_key: Ints,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    what: Ints,
) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """The truth that holds each flow (-1: none), whether several that disagree do, and the flows each truth holds.

    Truths are sorted by (key, start). The last one that begins no later than a flow is looked up; the largest end
    among it and those before it, of the same key, says whether any holds the flow. Times enter as ranks, so that key
    and time make one exact integer.
    """
    order = np.lexsort([start, truth_key])
    k, s, e = truth_key[order], start[order], end[order]
    ranks = np.unique(np.concatenate([s, when, e]), return_inverse=True)[1].astype(np.int64)
    width = len(ranks) + 1
    s_rank, w_rank, e_rank = ranks[: len(s)], ranks[len(s) : len(s) + len(when)], ranks[len(s) + len(when) :]
    flow, begin, finish = key * width + w_rank, k * width + s_rank, k * width + e_rank
    last = np.searchsorted(begin, flow, side="right") - 1
    reach = np.maximum.accumulate(finish)  # the largest end so far; a later key is always larger
    safe = np.maximum(last, 0)
    held = (last >= 0) & (k[safe] == key) & (reach[safe] >= flow)
    found = np.where(held & (e_rank[safe] >= w_rank), safe, -1)
    # Another truth holds it too, or instead, when those before the last reach past the flow.
    before = np.maximum(last - 1, 0)
    more = np.flatnonzero(held & (last >= 1) & (k[before] == key) & (reach[before] >= flow))
    several = np.zeros(len(key), bool)
    for row, truth, agree in _swept(
        more[np.argsort(flow[more], kind="stable")], key, w_rank, k, s_rank, e_rank, what[order]
    ):
        found[row], several[row] = (truth, False) if agree else (-1, True)
    in_order = np.sort(flow)
    count = np.empty(len(k), np.int64)
    count[order] = np.searchsorted(in_order, finish, side="right") - np.searchsorted(in_order, begin, side="left")
    return np.where(found >= 0, order[found], -1), several, count


def _swept(
    rows: Ints, key: Ints, when: Ints, truth_key: Ints, start: Ints, end: Ints, what: Ints
) -> Iterator[tuple[int, int, bool]]:
    """(flow, a truth that holds it, whether all that do agree), for flows in order of key and time.

    One sweep over the truths of each key, which are in order of start: however many overlap, each comes and goes once.
    """
    current, following = -1, 0
    ends: list[tuple[int, int]] = []
    open_: Counter[int] = Counter()
    for row in rows.tolist():
        if key[row] != current:
            current, ends, open_ = int(key[row]), [], Counter()
            following = int(np.searchsorted(truth_key, current))
        while following < len(truth_key) and truth_key[following] == current and start[following] <= when[row]:
            heapq.heappush(ends, (int(end[following]), following))
            open_[int(what[following])] += 1
            following += 1
        while ends[0][0] < when[row]:
            gone = int(what[heapq.heappop(ends)[1]])
            open_[gone] -= 1
            if not open_[gone]:
                del open_[gone]
        yield row, ends[0][1], len(open_) == 1
