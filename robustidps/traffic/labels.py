"""Joins what is known about traffic (who attacked whom, from when to when) to the flows cut from its packets.

A flow belongs to a truth when both have the same two endpoints and protocol, in either direction, and the flow's
first packet lies within the truth's time. NFStream may cut one conversation into several flows (its active time-out),
so one truth may own many. Where several truths hold a flow they are asked for one answer: if they agree it is theirs,
if they don't the row stays unlabelled and is counted. Nothing is guessed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import SchemaError
from robustidps.traffic.capture import FlowTable
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["JoinReport", "Truth", "join", "owners"]

_CLOCK = 0.002
"""Seconds; NFStream's stamps are whole milliseconds, so a flow may seem to begin before its first packet."""


@dataclass(frozen=True, eq=False)
class Truth:
    """M conversations whose class is known, as arrays [M]: endpoints, IANA protocol number, first and last packet.

    src_ip, dst_ip: str as NFStream writes them. start, end: seconds since 1970 UTC. label: class names.
    campaign, tool: as in `TrafficSet`. Ports are 0 for protocols without any.
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


@dataclass(frozen=True)
class JoinReport:
    """flows = matched + unmatched + ambiguous; `unused` truths own no flow."""

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
    flows: FlowTable, truth: Truth, *, tolerance_s: float = 1.0, schema: TrafficSchema = FLOW64
) -> tuple[npt.NDArray[np.int16], npt.NDArray[Any], npt.NDArray[Any], JoinReport]:
    """Labels, campaigns and tools of flows, [N] each: `UNLABELLED` and empty where no truth, or no single one, fits.

    Args:
        tolerance_s: how far outside a truth's time a flow may begin, when no truth holds it exactly.

    Raises:
        SchemaError: a truth's label is none of the schema's classes, or its arrays differ in length.
    """
    n, m = len(flows), len(truth)
    if {len(getattr(truth, name)) for name in truth.__dataclass_fields__} != {m}:
        raise SchemaError("the truth's arrays differ in length")
    index = {name: i for i, name in enumerate(schema.classes)}
    unknown = sorted({str(v) for v in np.unique(truth.label.astype(str))} - set(index)) if m else []
    if unknown:
        raise SchemaError(f"the truth has labels that are no class: {unknown[:5]}", where=schema.name)
    labels = np.full(n, UNLABELLED, np.int16)
    campaign, tool = np.full(n, "", dtype=object), np.full(n, "", dtype=object)
    if not n or not m:
        return labels, campaign, tool, JoinReport(n, 0, n, 0, m)

    owner, ambiguous = owners(flows, truth, tolerance_s=tolerance_s)
    got = owner >= 0
    codes = np.array([index[str(v)] for v in truth.label.tolist()], np.int16)
    labels[got] = codes[owner[got]]
    campaign[got] = np.asarray(truth.campaign, dtype=object)[owner[got]]
    tool[got] = np.asarray(truth.tool, dtype=object)[owner[got]]
    matched, unsure = int(got.sum()), int(ambiguous.sum())
    unused = m - len(np.unique(owner[got]))
    return labels, campaign, tool, JoinReport(n, matched, n - matched - unsure, unsure, unused)


def owners(
    flows: FlowTable, truth: Truth, *, tolerance_s: float = 1.0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The truth that each flow belongs to (-1: none), int64 [N], and whether several that disagree claim it, bool [N].

    Where several agree, it is the last of them to begin.
    """
    owner = np.full(len(flows), -1, np.int64)
    ambiguous = np.zeros(len(flows), bool)
    if not len(flows) or not len(truth):
        return owner, ambiguous
    flow_key, truth_key = _keys(flows, truth)
    what = _identity(truth)
    # Exactly first, so that a neighbour in time is not drawn in by the tolerance.
    for slack in (min(_CLOCK, tolerance_s), tolerance_s):
        open_ = np.flatnonzero((owner < 0) & ~ambiguous)
        if len(open_):
            found, several = _held(flow_key[open_], flows.first_seen[open_], truth_key, truth, slack, what)
            owner[open_] = found
            ambiguous[open_] = several
    return owner, ambiguous


def _keys(flows: FlowTable, truth: Truth) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One integer per pair of endpoints and protocol, the same for both directions."""
    n = len(flows)
    words: dict[Any, int] = {}
    ends = []
    for ip, port in (("src_ip", "src_port"), ("dst_ip", "dst_port")):
        addresses = [*getattr(flows, ip).tolist(), *(str(v) for v in getattr(truth, ip).tolist())]
        codes = np.fromiter((words.setdefault(a, len(words)) for a in addresses), np.int64, len(addresses))
        ports = np.concatenate([getattr(flows, port), getattr(truth, port)]).astype(np.int64)
        ends.append(codes * 65536 + ports)
    # Re-ranked before they are put together, so that the product stays far below 2^63.
    different, ranks = np.unique(np.concatenate(ends), return_inverse=True)
    one, other = ranks[: len(ranks) // 2], ranks[len(ranks) // 2 :]
    protocol = np.concatenate([flows.protocol, truth.protocol]).astype(np.int64)
    pairs = np.minimum(one, other) * len(different) + np.maximum(one, other)
    pairs = np.unique(pairs, return_inverse=True)[1] * 256 + protocol
    key = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return key[:n], key[n:]


def _identity(truth: Truth) -> npt.NDArray[np.int64]:
    """One integer per (label, campaign, tool)."""
    seen: dict[Any, int] = {}
    rows = zip(truth.label.tolist(), truth.campaign.tolist(), truth.tool.tolist(), strict=True)
    return np.fromiter((seen.setdefault(row, len(seen)) for row in rows), np.int64, len(truth))


def _held(
    key: npt.NDArray[np.int64],
    when: npt.NDArray[np.float64],
    truth_key: npt.NDArray[np.int64],
    truth: Truth,
    slack: float,
    what: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The truth that holds each flow (-1: none), and whether several that disagree do.

    Truths are sorted by (key, start). The last one that begins no later than a flow is looked up; the largest end
    among it and those before it, of the same key, says whether any holds the flow. Times enter as ranks, so that key
    and time make one exact integer.
    """
    start, end = np.asarray(truth.start, np.float64) - slack, np.asarray(truth.end, np.float64) + slack
    order = np.lexsort([start, truth_key])
    k, s, e = truth_key[order], start[order], end[order]
    ranks = np.unique(np.concatenate([s, when, e]), return_inverse=True)[1].astype(np.int64)
    width = len(ranks) + 1
    s_rank, w_rank, e_rank = ranks[: len(s)], ranks[len(s) : len(s) + len(when)], ranks[len(s) + len(when) :]
    last = np.searchsorted(k * width + s_rank, key * width + w_rank, side="right") - 1
    reach = np.maximum.accumulate(k * width + e_rank)  # the largest end so far; a later key is always larger
    safe = np.maximum(last, 0)
    held = (last >= 0) & (k[safe] == key) & (reach[safe] >= key * width + w_rank)
    found = np.where(held & (e_rank[safe] >= w_rank), order[safe], -1)
    # Another truth holds it too, or instead, when those before the last reach past the flow.
    before = np.maximum(last - 1, 0)
    more = held & (last >= 1) & (k[before] == key) & (reach[before] >= key * width + w_rank)
    several = np.zeros(len(key), bool)
    for row in np.flatnonzero(more).tolist():
        first = int(np.searchsorted(k, key[row]))
        candidates = np.arange(first, last[row] + 1)
        candidates = candidates[e_rank[candidates] >= w_rank[row]]
        if len(np.unique(what[order[candidates]])) > 1:
            several[row], found[row] = True, -1
        else:
            found[row] = order[candidates[-1]]
    return found, several
