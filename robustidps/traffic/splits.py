"""Train, validation and test parts that don't leak into each other.

    temporal_split   earlier trains, later tests; the honest one wherever rows have a time
    group_split      whole campaigns, sources or tools on one side; for held-out tools and hosts
    official_split   a data set's own train and test files; validation is cut out of train
    shuffled_split   rows at random. Flatters every model on traffic of one testbed, hence only by this name

What all of them guarantee (tests/traffic/test_splits.py asks for it on random sets): no row is in two parts; no
campaign crosses a boundary (`shuffled_split` apart); rows with equal features never lie on two sides, since a model
is asked for what it has seen word for word otherwise. What that costs is counted per class in the `SplitReport`.
All of them take a `HoldOut`: tools, services and days that are in the test part and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, SchemaError
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.trafficset import TrafficSet

__all__ = [
    "Split",
    "SplitReport",
    "group_split",
    "identical_rows",
    "official_split",
    "shuffled_split",
    "temporal_split",
]

PARTS = ("train", "validation", "test")
_DAY = 86_400.0
_NOWHERE = -1
Counts = dict[str, int]


@dataclass(frozen=True)
class SplitReport:
    """How the parts came about and what was left out of them. Plain data: `to_dict()` is JSON-able.

    parts: per part its rows, classes, campaigns, and first and last time (ISO, None without times).
    dropped: rows left out, by reason, then by class.
    duplicates: rows of validation and test that equal a row of an earlier part, by class.
    duplicates_removed: whether they were taken out or only counted.
    held_out: per name that was held out (`tool=NAME`, `service=NAME`, `day=DATE`) its rows in the test part, and how
        many more were taken out of it because they equal a training or validation row.
    """

    kind: str
    parameters: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    dropped: dict[str, Counts]
    duplicates: dict[str, Counts]
    duplicates_removed: bool
    notes: list[str] = field(default_factory=list)
    held_out: dict[str, Counts] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.kind} split"]
        for name, part in self.parts.items():
            when = f", {part['first']} to {part['last']}" if part["first"] else ""
            lines.append(f"  {name}: {part['rows']} rows, {len(part['classes'])} classes{when}")
        for name, counts in self.held_out.items():
            removed = f" (and {counts['duplicates']} equal to an earlier row)" if counts["duplicates"] else ""
            lines.append(f"  held out, {name}: {counts['test']} rows in test{removed}")
        for reason, counts in self.dropped.items():
            if counts:
                lines.append(f"  dropped, {reason}: {sum(counts.values())} ({_listed(counts)})")
        for name, counts in self.duplicates.items():
            if counts:
                verb = "removed from" if self.duplicates_removed else "left in"
                lines.append(f"  duplicates of earlier rows {verb} {name}: {sum(counts.values())} ({_listed(counts)})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, eq=False)
class Split:
    train: TrafficSet
    validation: TrafficSet
    test: TrafficSet
    report: SplitReport


def temporal_split(
    traffic: TrafficSet,
    *,
    train: float = 0.6,
    validation: float = 0.2,
    gap_s: float = 0.0,
    at: tuple[float, float] | None = None,
    whole_days: bool | None = None,
    duplicates: Literal["remove", "count"] = "remove",
    hold_out: HoldOut | None = None,
) -> Split:
    """Earlier rows train, later ones test.

    Args:
        train, validation: shares of the *time* that the set spans (not of its rows: one flood would shift them),
            days that are held out not counted.
        gap_s: seconds left out after each boundary, so that what runs on across it is in neither part.
        at: the two boundaries themselves, seconds since 1970, instead of shares.
        whole_days: move boundaries to the nearest midnight UTC. Default: when the set spans five days or more, so
            that a day's benign service, which is a campaign, stays whole.
        duplicates: "remove" takes rows that equal one of an earlier part out of the later one; "count" leaves them.
        hold_out: what is in the test part whenever it happened, the training days included.

    Raises:
        DatasetError: rows without a time, shares that leave a part empty, a held-out name that doesn't occur.
    """
    _check_shares(train, validation)
    if not traffic.has_time:
        raise DatasetError(
            "rows have no time, so they can't be split by it",
            where=_name(traffic),
            remedy="use the set's official split, or group_split where it has campaigns or sources",
        )
    held = _held_out(traffic, hold_out)
    rest = traffic.time[~held.rows]
    if not len(rest):
        raise DatasetError("everything is held out: nothing is left to train on", where=_name(traffic))
    first, last = float(rest.min()), float(rest.max())
    if at is None:
        whole_days = last - first >= 5 * _DAY if whole_days is None else whole_days
        at = (first + train * (last - first), first + (train + validation) * (last - first))
        if whole_days:
            at = (round(at[0] / _DAY) * _DAY, round(at[1] / _DAY) * _DAY)
    part = np.searchsorted(np.asarray(at), traffic.time, side="right").astype(np.int8)
    dropped = {"unlabelled": _drop(traffic, part, ~traffic.labelled)}
    since = np.where((part > 0) & ~held.rows, traffic.time - np.asarray(at)[np.maximum(part, 1) - 1], np.inf)
    held.set_aside(traffic, part, dropped)
    # Straddling first: a campaign whose later rows fall into the gap has still been cut.
    straddling = _straddling(traffic, part)
    dropped["in the gap after a boundary"] = _drop(traffic, part, since < gap_s)
    dropped["of a campaign that began in an earlier part"] = _drop(traffic, part, straddling)
    parameters = {"train": train, "validation": validation, "gap_s": gap_s, "boundaries": [_iso(t) for t in at]}
    return _finish("temporal", traffic, part, dropped, parameters, duplicates == "remove", held=held)


def group_split(
    traffic: TrafficSet,
    *,
    by: Literal["campaign", "source", "tool"] = "campaign",
    train: float = 0.6,
    validation: float = 0.2,
    hold_out: HoldOut | None = None,
    seed: int = 0,
    duplicates: Literal["remove", "count"] = "remove",
) -> Split:
    """Whole groups on one side, drawn so that each class comes near the shares asked for.

    Args:
        by: what a group is. A row without a name is a group of its own. Groups that share a campaign stay together.
        hold_out: what is in the test part whatever is drawn; groups with such a row go there whole.

    Raises:
        DatasetError: no row has such a name, a held-out name doesn't occur, a part stays empty.
    """
    _check_shares(train, validation)
    names = getattr(traffic, by).astype(str)
    if not (names != "").any():
        raise DatasetError(f"no row has a {by}", where=_name(traffic), remedy="choose another `by`")
    held = _held_out(traffic, hold_out)
    part = np.zeros(len(traffic), np.int8)
    dropped = {"unlabelled": _drop(traffic, part, ~traffic.labelled)}
    group = _joined(_codes(names), _codes(traffic.campaign.astype(str)))
    forced = np.isin(group, np.unique(group[held.rows]))
    open_ = (part != _NOWHERE) & ~forced
    rng = np.random.default_rng(seed)
    part[open_] = _assign(group[open_], traffic.labels[open_], (train, validation, 1.0 - train - validation), rng)
    part[(part != _NOWHERE) & forced] = 2
    parameters = {"by": by, "train": train, "validation": validation, "seed": seed}
    return _finish("group", traffic, part, dropped, parameters, duplicates == "remove", held=held)


def official_split(
    train: TrafficSet, test: TrafficSet, *, validation: float = 0.1, seed: int = 0, hold_out: HoldOut | None = None
) -> Split:
    """A data set's own two files. Validation is a share of train, by class; rows with equal features stay together.

    The test part keeps every labelled row, so that figures compare with others'; those that equal a training row are
    counted in the report. What is held out of the train file joins the test, and figures compare no longer: a note
    says so.

    Raises:
        SchemaError: the two have different schemas. DatasetError: a part stays empty.
    """
    if train.schema.digest != test.schema.digest:
        raise SchemaError("the train and the test file have different schemas")
    if not 0.0 < validation < 1.0:
        raise DatasetError(f"validation share {validation} is not between 0 and 1")
    both = TrafficSet.concat([train, test])
    in_test = np.arange(len(both)) >= len(train)
    part = np.where(in_test, 2, 0).astype(np.int8)
    dropped = {"unlabelled": _drop(both, part, ~both.labelled)}
    held = _held_out(both, hold_out)
    held.set_aside(both, part, dropped)
    moved = int((part[~in_test] == 2).sum())
    notes = (
        [f"{moved} rows of the train file were held out, so the test is not the official one alone"] if moved else []
    )
    mine = (part == 0) & ~in_test
    group = _joined(identical_rows(both.features[mine]), _codes(both.campaign[mine].astype(str)))
    rng = np.random.default_rng(seed)
    part[mine] = _assign(group, both.labels[mine], (1.0 - validation, validation), rng)
    both = replace(both, provenance=train.provenance)
    parameters = {"validation": validation, "seed": seed}
    return _finish("official", both, part, dropped, parameters, remove=False, notes=notes, held=held)


def shuffled_split(
    traffic: TrafficSet,
    *,
    train: float = 0.6,
    validation: float = 0.2,
    seed: int = 0,
    hold_out: HoldOut | None = None,
) -> Split:
    """Rows at random, by class. Rows with equal features stay together; campaigns are cut.

    For comparison with published figures, which mostly come from such splits and don't hold on other traffic.
    """
    _check_shares(train, validation)
    part = np.zeros(len(traffic), np.int8)
    dropped = {"unlabelled": _drop(traffic, part, ~traffic.labelled)}
    held = _held_out(traffic, hold_out)
    held.set_aside(traffic, part, dropped)
    rows = part == 0
    rng = np.random.default_rng(seed)
    shares = (train, validation, 1.0 - train - validation)
    part[rows] = _assign(identical_rows(traffic.features[rows]), traffic.labels[rows], shares, rng)
    notes = ["rows were shuffled: campaigns lie on both sides, so figures flatter the model"]
    parameters = {"train": train, "validation": validation, "seed": seed}
    return _finish("shuffled", traffic, part, dropped, parameters, True, notes, held)


def identical_rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """One number per row [N], equal exactly where all features are (NaN equals NaN, -0 equals 0)."""
    x = np.ascontiguousarray(features, np.float32) + np.float32(0.0)
    x[np.isnan(x)] = np.nan
    if not x.size:
        return np.zeros(len(x), np.int64)
    bits = x.view(np.uint32)
    factors = np.random.default_rng(0).integers(1, 1 << 63, (bits.shape[1],), dtype=np.uint64) | np.uint64(1)
    mixed = np.zeros(len(bits), np.uint64)
    for column, factor in enumerate(factors):
        mixed += (bits[:, column] + np.uint64(1)) * factor
        mixed ^= mixed >> np.uint64(29)
    _, where, code = np.unique(mixed, return_index=True, return_inverse=True)
    if not (bits == bits[where[code]]).all():  # two rows met in one sum: settle it the slow way
        code = np.unique(bits, axis=0, return_inverse=True)[1].reshape(-1)
    return code.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Held:
    """Rows that were held out, bool [N]: all of them, and by name."""

    rows: npt.NDArray[np.bool_]
    by_name: dict[str, npt.NDArray[np.bool_]]

    def set_aside(self, traffic: TrafficSet, part: npt.NDArray[np.int8], dropped: dict[str, Counts]) -> None:
        """Puts the rows into the test part; earlier rows of a campaign that has some of them are left out."""
        if not self.by_name:
            return
        part[self.rows & (part != _NOWHERE)] = 2
        code = _codes(traffic.campaign.astype(str))
        mates = np.isin(code, np.unique(code[self.rows])) & ~self.rows & (part < 2)
        dropped["of a campaign that was held out in part"] = _drop(traffic, part, mates)


def _held_out(traffic: TrafficSet, hold_out: HoldOut | None) -> _Held:
    """Raises DatasetError: a name that doesn't occur."""
    by_name = hold_out.masks(traffic) if hold_out else {}
    return _Held(np.any([*by_name.values(), np.zeros(len(traffic), bool)], axis=0), by_name)


def _finish(
    kind: str,
    traffic: TrafficSet,
    part: npt.NDArray[np.int8],
    dropped: dict[str, Counts],
    parameters: dict[str, Any],
    remove: bool,
    notes: list[str] | None = None,
    held: _Held | None = None,
) -> Split:
    """Takes duplicates out of later parts (or counts them), makes the parts and says what happened."""
    notes = list(notes or [])
    by_name = held.by_name if held else {}
    code = identical_rows(traffic.features)
    earliest = np.full(int(code.max()) + 1 if len(code) else 0, len(PARTS), np.int64)
    kept = part != _NOWHERE
    np.minimum.at(earliest, code[kept], part[kept])
    double = kept & (part > earliest[code])
    duplicates = {PARTS[p]: _by_class(traffic, double & (part == p)) for p in (1, 2)}
    if remove:
        part = np.where(double, _NOWHERE, part).astype(np.int8)
    held_out = {
        name: {"test": int((rows & (part == 2)).sum()), "duplicates": int((rows & double).sum()) if remove else 0}
        for name, rows in by_name.items()
    }
    if gone := [name for name, counts in held_out.items() if not counts["test"]]:
        notes.append(f"no row of {', '.join(gone)} is left in test: all equal an earlier row, or have no label")
    sets = {}
    for index, name in enumerate(PARTS):
        chosen = traffic.select(part == index)
        sets[name] = replace(chosen, provenance={**traffic.provenance, "split": {"kind": kind, "part": name}})
    for name, chosen in sets.items():
        if not len(chosen):
            raise DatasetError(
                f"the {name} part of a {kind} split is empty",
                where=_name(traffic),
                remedy="change the shares or boundaries",
            )
    seen = {c for c, n in sets["train"].class_counts().items() if n}
    for name in ("validation", "test"):
        counts = sets[name].class_counts()
        if missing := sorted(c for c in seen if not counts[c]):
            notes.append(f"no {', '.join(missing)} in {name}")
        if new := sorted(c for c, n in counts.items() if n and c not in seen):
            notes.append(f"{', '.join(new)} in {name} but not in train")
    report = SplitReport(
        kind=kind,
        parameters=parameters,
        parts={name: _described(chosen) for name, chosen in sets.items()},
        dropped=dropped,
        duplicates=duplicates,
        duplicates_removed=remove,
        notes=notes,
        held_out=held_out,
    )
    return Split(sets["train"], sets["validation"], sets["test"], report)


def _assign(
    group: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int16],
    shares: tuple[float, ...],
    rng: np.random.Generator,
) -> npt.NDArray[np.int8]:
    """A part per row: whole groups, in random order, each class's groups laid along the shares.

    A class with at least as many groups as there are parts reaches every part.
    """
    if not len(group):
        return np.empty(0, np.int8)
    names, code, size = np.unique(group, return_inverse=True, return_counts=True)
    # A group's class is its rarest one, so that rare classes are the ones that are balanced.
    rarity = np.bincount(labels.astype(np.int64))
    own = np.full(len(names), -1, np.int64)
    by_rarity = np.argsort(-rarity[labels], kind="stable")
    own[code[by_rarity]] = labels[by_rarity]
    part = np.zeros(len(names), np.int8)
    wanted = [k for k, share in enumerate(shares) if share > 0]
    for label in np.unique(own):
        members = rng.permutation(np.flatnonzero(own == label))
        ends = np.cumsum(size[members])
        middle = (ends - size[members] / 2) / ends[-1]
        placed = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
        if len(members) >= len(wanted):
            for k in wanted:
                if not (placed == k).any():
                    # Take from the part that has most to spare, its smallest group.
                    counts = np.bincount(placed, minlength=len(shares))
                    rich = np.flatnonzero(placed == counts.argmax())
                    placed[rich[size[members][rich].argmin()]] = k
        part[members] = placed
    return part[code]


def _straddling(traffic: TrafficSet, part: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Rows of a campaign that has rows in an earlier part."""
    code = _codes(traffic.campaign.astype(str))
    first = np.full(int(code.max()) + 1 if len(code) else 0, len(PARTS), np.int64)
    kept = part != _NOWHERE
    np.minimum.at(first, code[kept], part[kept])
    return kept & (part > first[code])


def _codes(names: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """One number per name; each nameless row gets its own."""
    code = np.unique(names, return_inverse=True)[1].astype(np.int64) if len(names) else np.empty(0, np.int64)
    alone = np.flatnonzero(names == "")
    code[alone] = len(names) + np.arange(len(alone))
    return np.unique(code, return_inverse=True)[1].astype(np.int64)


def _joined(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Groups that contain every row of both groupings whole (connected components)."""
    group = one.copy()
    while True:
        before = group
        for code in (other, one):
            least = np.full(int(code.max()) + 1 if len(code) else 0, np.iinfo(np.int64).max)
            np.minimum.at(least, code, group)
            group = least[code]
        if (group == before).all():
            return group


def _drop(traffic: TrafficSet, part: npt.NDArray[np.int8], rows: npt.NDArray[np.bool_]) -> Counts:
    rows = rows & (part != _NOWHERE)
    part[rows] = _NOWHERE
    return _by_class(traffic, rows)


def _by_class(traffic: TrafficSet, rows: npt.NDArray[np.bool_]) -> Counts:
    names = np.array([*traffic.schema.classes, "(unlabelled)"], dtype=object)
    found, counts = np.unique(traffic.labels[rows], return_counts=True)
    return dict(zip(names[found].tolist(), counts.tolist(), strict=True))


def _described(part: TrafficSet) -> dict[str, Any]:
    return {
        "rows": len(part),
        "classes": {c: n for c, n in part.class_counts().items() if n},
        "campaigns": len(set(part.campaign.tolist()) - {""}),
        "first": _iso(float(part.time.min())) if part.has_time else None,
        "last": _iso(float(part.time.max())) if part.has_time else None,
    }


def _check_shares(train: float, validation: float) -> None:
    if not (0.0 < train < 1.0 and 0.0 < validation < 1.0 and train + validation < 1.0):
        raise DatasetError(
            f"shares of {train} and {validation} leave nothing for test", remedy="e.g. train 0.6 and validation 0.2"
        )


def _iso(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):  # a capture may claim any year
        return f"{time:.0f} s"


def _listed(counts: Counts) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _name(traffic: TrafficSet) -> str:
    return str(traffic.provenance.get("loader") or traffic.schema.name)
