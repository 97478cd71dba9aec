"""From captures and their truth to evaded traffic: the same attacks under every perturbation, through the extractor.

Nobody edits a feature: packets are perturbed, written as a capture and read by NFStream like any other, so every row is
a flow that the network can carry and the extractor would give. Rows of the attacks as they were (`source` is
`unchanged`) are among the result, so that what a perturbation does is seen on the same conversations.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError
from robustidps.progress import Progress, silent
from robustidps.settings import writable
from robustidps.traffic.capture import FlowTable, extract
from robustidps.traffic.evasion.packets import Packets, capture_bytes
from robustidps.traffic.evasion.perturb import PERTURBATIONS, UNCHANGED, perturb
from robustidps.traffic.evasion.roles import View
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.labels import Truth, match
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["EVASION_VERSION", "evade"]

EVASION_VERSION = 1
"""Same version, seed and captures: the same rows. Any change of what a perturbation does raises it."""
MOST = 20_000
"""Conversations; of more, so many are drawn at random."""

Array = npt.NDArray[Any]


def evade(
    captures: Iterable[tuple[Path, Truth]],
    *,
    held_out: TrafficSet | None = None,
    tolerance_s: float = 0.01,
    seed: int = 0,
    processes: int = 2,
    progress: Progress = silent,
) -> TrafficSet:
    """Flows of the captures' attacks, unchanged and under each of `PERTURBATIONS`; `source` names which.

    Label, campaign and tool are the truth's. `provenance["cost"]` says what each perturbation costs the attacker, by
    class and for `all`: packets, bytes and seconds of his conversations, as multiples of what they were.

    Args:
        captures: each with all that is known about its conversations; what may be left open, see `labels.Truth`.
        held_out: only conversations of which an unchanged flow is a row of this traffic are taken, so that what a
            split left out (rows that equal training rows, campaigns on its boundary) stays out. Default: all.
        tolerance_s: how far outside a truth's time a conversation may begin.
        processes: captures that NFStream reads at a time.

    Raises:
        CaptureError: a capture that is damaged, no pcap, or not of Ethernet frames.
        DatasetError: no attack of the truth is in the captures (or in `held_out`).
        MissingExtraError: NFStream isn't installed.
    """
    done, lock, stopped = [0], threading.Lock(), threading.Event()
    names = list(PERTURBATIONS)

    def step(note: str) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        with lock:
            done[0] += 1
            progress("perturbing attacks", done[0], len(names) + 2, unit="variants", note=note)

    progress("perturbing attacks", 0, len(names) + 2, unit="variants")
    before = Packets.concat(
        [Packets.read(c, t, tolerance_s=tolerance_s) for c, t in _within(captures, held_out)] or [_nothing()]
    )
    step("read")
    with tempfile.TemporaryDirectory(prefix="robustidps-evasion-") as folder:
        flows, owner = _flows(before, Path(folder) / f"{UNCHANGED}.pcap")
        kept = np.zeros(len(before.truth), bool)
        kept[owner[(owner >= 0) & _among(flows, held_out)]] = True
        if kept.sum() > MOST:
            left = np.random.default_rng([seed, EVASION_VERSION]).permutation(np.flatnonzero(kept))[MOST:]
            kept[left] = False
        if not kept.any():
            where = "captures" if held_out is None else "held-out traffic"
            raise DatasetError(
                "holds no attack that the truth names", where=where, remedy="give the capture that the truth is of"
            )
        taken = before.select(kept)
        number = np.cumsum(kept) - 1
        mine = (owner >= 0) & kept[owner]
        parts = [_rows(flows, np.where(mine, number[owner], -1), taken.truth, UNCHANGED)]
        step(UNCHANGED)

        def one(index: int) -> tuple[TrafficSet, dict[str, dict[str, float]]]:
            name = names[index]
            after = perturb(taken, name, np.random.default_rng([seed, EVASION_VERSION, index]))
            found, of = _flows(after, Path(folder) / f"{name}.pcap")
            step(name)
            return _rows(found, of, taken.truth, name), _cost(taken, after)

        with ThreadPoolExecutor(max(processes, 1)) as pool:
            try:
                made = list(pool.map(one, range(len(names))))
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    traffic = TrafficSet.concat(parts + [rows for rows, _ in made])
    provenance = {
        "loader": "evasion",
        "evasion": EVASION_VERSION,
        "seed": seed,
        "conversations": len(taken.truth),
        "held_out": None if held_out is None else held_out.digest,
        "cost": dict(zip(names, (cost for _, cost in made), strict=True)),
    }
    return replace(traffic, provenance=provenance)


def _within(captures: Iterable[tuple[Path, Truth]], held_out: TrafficSet | None) -> Iterable[tuple[Path, Truth]]:
    """The captures in whose time `held_out` has rows."""
    for path, truth in captures:
        if held_out is None or not len(truth):
            yield path, truth
            continue
        first, last = float(truth.start.min()) - 1, float(truth.end.max()) + 1
        if ((held_out.time >= first) & (held_out.time <= last)).any():
            yield path, truth


def _nothing() -> Packets:
    raise DatasetError(
        "no capture covers the time of the held-out traffic", remedy="give the captures that it was made from"
    )


def _flows(packets: Packets, capture: Path) -> tuple[FlowTable, npt.NDArray[np.int64]]:
    """What the extractor makes of these packets, and the conversation of each flow (-1: none)."""
    with writable(capture), capture.open("wb") as file:
        for piece in capture_bytes(packets):
            file.write(piece)
    flows = extract(capture)
    capture.unlink()
    t, first = packets.rows["t"] / 1e6, packets.first
    there = first[1:] > first[:-1]
    start, end = np.full(len(packets.truth), np.inf), np.full(len(packets.truth), -np.inf)
    start[there], end[there] = t[first[:-1][there]], t[first[1:][there] - 1]
    return flows, match(flows, replace(packets.truth, start=start, end=end), tolerance_s=0.01).owner


def _among(flows: FlowTable, held_out: TrafficSet | None) -> npt.NDArray[np.bool_]:
    """Whether each flow is a row of `held_out`: the same time and the same features."""
    if held_out is None:
        return np.ones(len(flows), bool)

    def key(time: Any, features: Array) -> bytes:
        return np.float64(time).tobytes() + features.tobytes()

    known = {key(held_out.time[i], held_out.features[i]) for i in np.flatnonzero(held_out.labels > 0).tolist()}
    rows = range(len(flows))
    return np.fromiter((key(flows.first_seen[i], flows.features[i]) in known for i in rows), bool, len(flows))


def _rows(flows: FlowTable, owner: npt.NDArray[np.int64], truth: Truth, name: str) -> TrafficSet:
    mine = owner >= 0
    of = owner[mine]
    index = {label: i for i, label in enumerate(FLOW64.classes)}
    labels = np.array([index[str(label)] for label in truth.label.tolist()], np.int16)
    return TrafficSet.build(
        FLOW64,
        flows.features[mine],
        labels[of],
        time=flows.first_seen[mine],
        source=name,
        campaign=np.asarray(truth.campaign, dtype=object)[of],
        tool=np.asarray(truth.tool, dtype=object)[of],
    )


def _cost(before: Packets, after: Packets) -> dict[str, dict[str, float]]:
    """What the attacker sends and how long it takes him, after over before; by class and for `all`."""
    sides = [_effort(packets) for packets in (before, after)]
    label = before.truth.label.astype(str)
    cost = {}
    for name in [*(c for c in FLOW64.classes if (label == c).any()), "all"]:
        mine = np.ones(len(label), bool) if name == "all" else label == name
        sums = [[float(column[mine].sum()) for column in side] for side in sides]
        words = ("packets", "bytes", "seconds")
        cost[name] = {w: round(b / a, 4) for w, a, b in zip(words, *sums, strict=True) if a}  # a probe lasts no time
    return cost


def _effort(packets: Packets) -> tuple[Array, Array, Array]:
    """Packets and bytes on the wire that the attacker sends, and seconds from first to last; [F] each."""
    view, rows, first = View(packets), packets.rows, packets.first
    sends = view.controlled | (rows["relayed"] & view.relay[rows["flow"]])
    size = np.where(sends, rows["size"] + rows["payload"], 0)
    count = len(packets.truth)
    there = first[1:] > first[:-1]
    seconds = np.zeros(count)
    seconds[there] = (rows["t"][first[1:][there] - 1] - rows["t"][first[:-1][there]]) / 1e6
    return np.bincount(rows["flow"][sends], minlength=count), np.bincount(rows["flow"], size, count), seconds
