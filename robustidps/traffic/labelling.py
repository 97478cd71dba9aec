"""Labelled traffic from real captures: one capture or a folder of them, and what a label file says about them.

    labelled_captures   a folder's captures as one `TrafficSet`, and a `LabelReport`

Labels come in two forms (`labelfile.py`): a class for a whole capture, or rows that name endpoints and times, which
are joined to flows (`labels.py`). Every flow is kept: what has no label, two that disagree, or one that the schema has
no class for is unlabelled, and counted with its reason. A label file that doesn't belong to the captures, or whose
clock is another, is an error that says so (`labelcheck.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import CaptureError, ConfigError, DatasetError, RobustIDPSError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.capture import CAPTURE_SUFFIXES, FlowTable, Limits, extract_many
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.labelfile import CaptureLabels, FlowLabels, read_labels
from robustidps.traffic.labelwords import LabelWords, label_words
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["LabelOptions", "LabelReport", "labelled_captures"]

_LIMITS = Limits()
_SHOWN = 20
"""Names listed in a report; the rest is counted."""


@dataclass(frozen=True)
class LabelOptions:
    """How a label file is read.

    words: file that says which class other words stand for (`labelwords.py`).
    unmatched: what flows are that no label speaks of.
    max_unmatched: an error when a larger share of the labels meets no flow (captures that aren't there count too), or
        a larger share of the labelled flows has labels that disagree.
    timezone: of times that name none. shift_s: added to every time of the file, seconds; for a clock that was wrong.
    tolerance_s: as for `labels.match`.
    """

    words: Path | None = None
    unmatched: Literal["unlabelled", "benign"] = "unlabelled"
    max_unmatched: float = 0.5
    timezone: str = "UTC"
    shift_s: float = 0.0
    tolerance_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_unmatched <= 1.0:
            raise ConfigError(f"{self.max_unmatched:g} is no share", where="--max-unmatched", remedy="give 0 to 1")


@dataclass(frozen=True)
class LabelReport:
    """What was matched, what wasn't, and why. Plain data: `to_dict()` is JSON-able and goes into the provenance.

    file, sha256: of the label file. kind: whether it labels captures or flows. labels: its rows.
    captures: how many were read; empty: those without an IP flow; failed: those that couldn't be read, with the error.
    flows: all; classes: flows per class, those that occur; unlabelled: flows by reason.
    unused: labels that meet no flow, and elsewhere: those of times that no capture covers, which don't count as unused.
    several: labels with full ends that hold more than one flow (NFStream cuts long conversations).
    ignored: columns that weren't read. notes: what else a reader should know.
    """

    file: str
    sha256: str
    kind: Literal["captures", "flows"]
    labels: int
    captures: int
    empty: int
    failed: dict[str, str]
    flows: int
    classes: dict[str, int]
    unlabelled: dict[str, int]
    unused: int
    elsewhere: int = 0
    several: int = 0
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def labelled(self) -> int:
        return sum(self.classes.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "labelled": self.labelled, "ignored": list(self.ignored), "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """A line a fact, for people."""
        lines = [f"{self.labelled:,} of {self.flows:,} flows labelled"]
        lines += [f"  {name}: {count:,}" for name, count in self.classes.items()]
        lines += [f"  not labelled, {reason}: {count:,}" for reason, count in self.unlabelled.items()]
        if self.captures > 1 or self.failed:
            lines.append(
                f"{self.captures:,} captures read, {self.empty} without an IP flow, {len(self.failed)} refused"
            )
            lines += [f"  {name}: {why}" for name, why in list(self.failed.items())[:_SHOWN]]
        lines.append(f"{self.unused:,} of {self.labels:,} labels without a flow")
        if self.elsewhere:
            lines.append(f"{self.elsewhere:,} labels of other times than the captures'")
        if self.several:
            lines.append(f"{self.several:,} labels with more than one flow")
        if self.ignored:
            lines.append(f"columns ignored: {', '.join(self.ignored[:_SHOWN])}")
        return [*lines, *(f"note: {note}" for note in self.notes)]


def labelled_captures(
    folder: Path | str,
    labels: Path | str,
    *,
    options: LabelOptions = LabelOptions(),
    limits: Limits = _LIMITS,
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> tuple[TrafficSet, LabelReport]:
    """Flows of all captures under `folder`, labelled; NFStream is started once.

    Rows are ordered by capture, then as in `FlowTable`. `source` is the capture's path within the folder. Under labels
    of whole captures that is the campaign too, and `tool` is the name of the file without its suffix.

    A capture that can't be read (damaged, hostile, over a limit) is left out and named in the report.

    Raises:
        DatasetError: a label file that can't be used, or that isn't of these captures.
        CaptureError: no capture there, or no IP flow in any.
        ConfigError: an unknown time zone, a mapping file that can't be used.
        MissingExtraError: NFStream isn't installed.
    """
    folder = Path(folder)
    words, read = _prepared(Path(labels), options, progress)
    if not folder.is_dir():
        raise CaptureError("is no folder" if folder.exists() else "no such folder", where=folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in CAPTURE_SUFFIXES and p.is_file())
    if not paths:
        raise CaptureError("holds no capture", where=folder, remedy=f"captures end in {', '.join(CAPTURE_SUFFIXES)}")
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    if isinstance(read, CaptureLabels) and not read.label.keys() & set(names.values()):
        raise _of_others(read, f"none of the {len(paths)} captures under {folder}")
    tables: dict[str, FlowTable] = {}
    failed: dict[str, str] = {}
    progress("extracting flows", 0, len(paths), unit="captures")
    for done, (path, found) in enumerate(extract_many(paths, limits=limits, truncated=truncated), start=1):
        if isinstance(found, RobustIDPSError):
            failed[printable(names[path])] = found.problem
        else:
            tables[names[path]] = found
        progress("extracting flows", done, len(paths), unit="captures", note=printable(path.name, 40))
    if not sum(map(len, tables.values())):
        raise CaptureError(f"no IP flow in any of {len(paths)} captures ({len(failed)} can't be read)", where=folder)
    return _labelled(tables, failed, read, words, options)


def _prepared(file: Path, options: LabelOptions, progress: Progress) -> tuple[LabelWords, CaptureLabels | FlowLabels]:
    from robustidps.traffic.labelcells import time_zone

    words = label_words(options.words)
    return words, read_labels(file, zone=time_zone(options.timezone), progress=progress)


def _of_others(labels: CaptureLabels, whose: str) -> DatasetError:
    some = ", ".join(printable(name, 60) for name in list(labels.label)[:3])
    return DatasetError(
        f"labels {len(labels)} other captures ({some}, ...) and {whose}",
        where=labels.path,
        remedy="is it another folder's label file? Names are paths within the folder",
    )


def _labelled(
    tables: dict[str, FlowTable],
    failed: dict[str, str],
    labels: CaptureLabels | FlowLabels,
    words: LabelWords,
    options: LabelOptions,
) -> tuple[TrafficSet, LabelReport]:
    """The flows of `tables` (by the capture's name) under the labels."""
    if isinstance(labels, FlowLabels):
        raise DatasetError("labels flows, not captures", where=labels.path, remedy="use labels.join")
    result = _by_capture(tables, labels, words, options)
    sizes = [len(t) for t in tables.values()]
    names = np.array([printable(name) for name in tables], dtype=object)
    classes = np.bincount(result.codes[result.codes != UNLABELLED], minlength=len(words.classes))
    report = LabelReport(
        file=printable(labels.path.name),
        sha256=labels.sha256,
        kind="captures",
        labels=len(labels),
        captures=len(tables) + len(failed),
        empty=sizes.count(0),
        failed=failed,
        flows=sum(sizes),
        classes={name: int(n) for name, n in zip(words.classes, classes, strict=True) if n},
        unlabelled=dict(sorted(result.reasons.items())),
        unused=result.unused,
        ignored=labels.ignored,
        notes=tuple(result.notes),
    )
    traffic = TrafficSet.build(
        FLOW64,
        np.concatenate([t.features for t in tables.values()]),
        result.codes,
        time=np.concatenate([t.first_seen for t in tables.values()]),
        source=np.repeat(names, sizes),
        campaign=result.campaign,
        tool=result.tool,
        provenance={
            "loader": "labelled captures",
            "labels": report.to_dict(),
            "captures": {
                str(name): {"sha256": t.report.sha256, "packets": t.report.packets, "flows": len(t)}
                | ({"truncated": t.report.damage} if t.report.truncated else {})
                for name, t in zip(names, tables.values(), strict=True)
            },
        },
    )
    return traffic, report


@dataclass
class _Result:
    """codes, campaign, tool: per flow. reasons: unlabelled flows by reason."""

    codes: npt.NDArray[np.int16]
    campaign: npt.NDArray[Any]
    tool: npt.NDArray[Any]
    reasons: Counter[str]
    unused: int
    notes: list[str]


def _by_capture(
    tables: dict[str, FlowTable], labels: CaptureLabels, words: LabelWords, options: LabelOptions
) -> _Result:
    codes, reasons = [], Counter[str]()
    for name, table in tables.items():
        word = labels.label.get(name)
        code = words.code(word) if word else UNLABELLED
        if word is None and options.unmatched == "benign":
            code = 0
        elif code == UNLABELLED:
            reasons[_why(word)] += len(table)
        codes.append(np.full(len(table), code, np.int16))
    sizes = [len(t) for t in tables.values()]
    spread = {
        "campaign": np.repeat(np.array([printable(n) for n in tables], dtype=object), sizes),
        "tool": np.repeat(np.array([printable(Path(n).stem) for n in tables], dtype=object), sizes),
    }
    unused = sum(not len(tables.get(name, ())) for name in labels.label)
    return _Result(np.concatenate(codes), **spread, reasons=+reasons, unused=unused, notes=_notes(labels, words))


def _why(word: str | None) -> str:
    if word is None:
        return "no label speaks of it"
    return f"no class for '{printable(word, 60)}'" if word else "its label is empty"


def _notes(labels: CaptureLabels | FlowLabels, words: LabelWords) -> list[str]:
    """Words without a class that come near one."""
    found = labels.label.values() if isinstance(labels, CaptureLabels) else labels.truth.label.tolist()
    lost = sorted({word for word in found if word and words.code(word) == UNLABELLED})
    near = [(printable(word, 60), words.near(word)) for word in lost[:1000]]
    return [f"'{word}' has no class; perhaps {name}? (--label-words FILE)" for word, name in near[:_SHOWN] if name]
