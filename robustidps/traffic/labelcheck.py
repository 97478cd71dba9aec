"""Whether labels of flows belong to the captures that they are put on, and keep the same time.

Three things go wrong in practice and give a table that looks right: the label file is another capture's; its times
are local and were read as UTC, or the capture's clock was; two sources of labels contradict each other. Each is an
error here that says which it is, with counts, row numbers and the option that mends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, printable
from robustidps.traffic.labelfile import FlowLabels
from robustidps.traffic.labelreport import LabelOptions, some
from robustidps.traffic.labels import Endpoints, Ends, Match, Truth, match, passes

__all__ = ["Shift", "best_shift", "check_flow_labels"]

SHIFTS = tuple(half * 1800.0 for half in range(-28, 29))
"""Seconds; zones are whole and half hours apart, up to fourteen (UTC-14 to UTC+14)."""

_SAMPLE = 5_000  # labels that shifts are tried on
_FEW = 4  # a shift is named when it holds more than this many times the flows that are held without it
_HOUR = 3600.0


@dataclass(frozen=True)
class Shift:
    """seconds: added to all label times. flows: held then. rows: labels that hold any, of `rows_in_time`."""

    seconds: float
    flows: int
    rows: int
    rows_in_time: int

    def __str__(self) -> str:
        return f"{self.seconds / _HOUR:+g} h"


def check_flow_labels(
    flows: Ends, labels: FlowLabels, truth: Truth, found: Match, elsewhere: npt.NDArray[np.bool_], options: LabelOptions
) -> None:
    """Refuses labels that don't fit the flows.

    Args:
        truth: the labels as they were joined, `options.shift_s` added. found: what came of the join.
        elsewhere: [M] labels whose time no capture covers.

    Raises:
        DatasetError: no endpoint in common; another clock; no overlap in time; too many labels without a flow; too
            many flows whose labels disagree.
    """
    _check_endpoints(flows, labels, truth)
    used = found.held > 0
    if used.sum() * 2 < len(truth):
        _check_clock(flows, labels, truth, options)
    if elsewhere.all():
        first, last = _period(truth.start.min(), truth.end.max())
        begin, end = _period(flows.first_seen.min(), flows.first_seen.max())
        raise DatasetError(
            f"is for another time: labels run from {first} to {last}, flows from {begin} to {end}",
            where=labels.path,
            remedy="is it another day's label file? If its clock was wrong, mend that with --labels-shift HOURS",
        )
    unused = np.flatnonzero(~used & ~elsewhere)
    asked = int((~elsewhere).sum())
    if len(unused) > options.max_unmatched * asked:
        raise DatasetError(
            f"{len(unused)} of {asked} labels of the captures' time meet no flow, over the share of "
            f"{options.max_unmatched:g} (rows {_rows(unused)})",
            where=labels.path,
            remedy="is it this capture's label file? If so, allow it with --max-unmatched",
        )
    unsure = np.flatnonzero(found.ambiguous)
    spoken = len(unsure) + int((found.owner >= 0).sum())
    if len(unsure) > options.max_unmatched * spoken:
        raise DatasetError(
            f"{len(unsure)} of {spoken} flows that have labels have some that disagree, over the share of "
            f"{options.max_unmatched:g} (for one, rows {_rows(_claims(flows, int(unsure[0]), truth, options))})",
            where=labels.path,
            remedy="labels agree when class, campaign and tool do; remove what contradicts, or use --max-unmatched",
        )


def _check_endpoints(flows: Ends, labels: FlowLabels, truth: Truth) -> None:
    named = {str(a) for a in (*np.unique(truth.src_ip.astype(str)), *np.unique(truth.dst_ip.astype(str))) if a}
    seen = set(flows.src_ip.tolist()) | set(flows.dst_ip.tolist())
    if named and not named & seen:
        raise DatasetError(
            f"is for another capture: none of its {len(named)} addresses ({some(sorted(named))}) "
            f"is among the {len(seen)} of the flows ({some(sorted(seen))})",
            where=labels.path,
            remedy="give the label file of this capture; behind NAT, write the addresses that the capture shows",
        )


def _check_clock(flows: Ends, labels: FlowLabels, truth: Truth, options: LabelOptions) -> None:
    best = best_shift(flows, truth, tolerance_s=options.tolerance_s)
    if best is None:
        return
    remedy = f"--labels-shift={(options.shift_s + best.seconds) / _HOUR:g}"
    if labels.zone is not None and not options.shift_s:
        now = datetime.fromtimestamp(float(truth.start[0]), UTC).astimezone(labels.zone).utcoffset() or timedelta()
        minutes = round((now.total_seconds() - best.seconds) / 60)
        if abs(minutes) <= 14 * 60:
            remedy = f"--labels-timezone={'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    tried = f" in a sample of {_SAMPLE}" if len(truth) > _SAMPLE else ""
    raise DatasetError(
        f"has another clock than the capture: shifted by {best}, its labels hold {best.flows} flows "
        f"({best.rows} of {best.rows_in_time} labels meet one{tried}), and few or none as they are",
        where=labels.path,
        remedy=f"if that is so, say {remedy}",
    )


def best_shift(flows: Ends, truth: Truth, *, tolerance_s: float = 1.0) -> Shift | None:
    """The whole or half number of hours by which labels must be shifted to hold many flows, if they hold few as is.

    Of shifts that hold as many flows, whole hours come first, then small ones. A sample of the labels is tried.
    """
    rows = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), _SAMPLE)).astype(np.int64))
    some = Truth(**{name: getattr(truth, name)[rows] for name in truth.__dataclass_fields__})
    when = np.asarray(flows.first_seen, np.float64)
    held = {shift: np.zeros(len(some), np.int64) for shift in SHIFTS}
    for mine, flow_key, truth_key in passes(flows, some):
        keys = np.unique(truth_key)
        place = np.searchsorted(keys, flow_key)
        met = np.flatnonzero(keys[np.minimum(place, len(keys) - 1)] == flow_key)
        # Key and millisecond as one integer, with room on both sides of the flows' time.
        base = float(when.min())
        width = int((when.max() - base) * 1000) + 4
        if width * len(keys) >= 2**62:  # stamps that no clock has
            return None
        flow = np.sort(place[met] * width + ((when[met] - base) * 1000).astype(np.int64) + 2)
        row = np.searchsorted(keys, truth_key) * width
        for shift, count in held.items():
            start, end = (
                np.clip((t[mine] + shift + slack - base) * 1000 + 2, 0, width - 1).astype(np.int64)
                for t, slack in ((some.start, -tolerance_s), (some.end, tolerance_s))
            )
            count[mine] += np.searchsorted(flow, row + end, "right") - np.searchsorted(flow, row + start, "left")
    order = sorted(SHIFTS, key=lambda s: (-held[s].sum(), s % _HOUR != 0, abs(s)))
    best = order[0]
    flows_held = int(held[best].sum())
    in_time = (some.start + best <= when.max() + tolerance_s) & (some.end + best >= when.min() - tolerance_s)
    found = Shift(best, flows_held, int((held[best] > 0).sum()), int(in_time.sum()))
    many = flows_held > _FEW * int(held[0.0].sum()) and found.rows * 2 >= found.rows_in_time
    return found if many else None


def _claims(flows: Ends, flow: int, truth: Truth, options: LabelOptions) -> npt.NDArray[np.int64]:
    """The labels that hold one flow."""
    one = Endpoints.of([flows], slice(flow, flow + 1))
    return np.flatnonzero(match(one, truth, tolerance_s=options.tolerance_s).held)


def _rows(indices: npt.NDArray[np.int64]) -> str:
    """Row numbers of a label file, the first of them."""
    return some((i + 1 for i in indices.tolist()), 5)


def _period(first: float, last: float) -> tuple[str, str]:
    return printable(np.datetime64(int(first), "s")) + "Z", printable(np.datetime64(int(last), "s")) + "Z"
