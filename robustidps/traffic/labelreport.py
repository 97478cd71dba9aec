"""How labels are to be put on captures, and what came of it: the options and the report of `labelling.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from robustidps.errors import ConfigError, printable

__all__ = ["SHOWN", "LabelOptions", "LabelReport", "some"]

SHOWN = 20
"""Names that are listed one by one for people; the rest is counted."""


def some(names: Iterable[object], most: int = 3) -> str:
    """The first few of `names`, and whether there are more."""
    words = [printable(name, 60) for name, _ in zip(names, range(most + 1), strict=False)]
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


@dataclass(frozen=True)
class LabelOptions:
    """How a label file is read.

    words: file that says which class other words stand for (`labelwords.py`).
    unmatched: what flows are that no label speaks of.
    max_unmatched: an error when a larger share of the labels meets no flow, or a larger share of the flows that have
        labels has some that disagree.
    timezone: of times that name none. shift_s: added to every time of the file, seconds; for a clock that was wrong.
    tolerance_s: how far outside a label's time a flow may begin, where no label holds it exactly.
    """

    words: Path | None = None
    unmatched: Literal["unlabelled", "benign"] = "unlabelled"
    max_unmatched: float = 0.5
    timezone: str = "UTC"
    shift_s: float = 0.0
    tolerance_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_unmatched <= 1.0:  # false for NaN as well
            raise ConfigError(f"{self.max_unmatched:g} is no share", where="--max-unmatched", remedy="give 0 to 1")
        if not abs(self.shift_s) <= 100 * 366 * 86_400:
            raise ConfigError(f"{self.shift_s:g} s is no shift of a clock", where="--labels-shift", remedy="give hours")
        if not 0.0 <= self.tolerance_s <= 3600.0:
            raise ConfigError(
                f"{self.tolerance_s:g} s is no tolerance", where="--labels-tolerance", remedy="give 0 to 3600 seconds"
            )


@dataclass(frozen=True)
class LabelReport:
    """What was matched, what wasn't, and why. Plain data: `to_dict()` is JSON-able and goes into the provenance.

    file, sha256: of the label file; `--label` and empty where the class was given outright.
    kind: what it labels. labels: its rows.
    captures: how many there are; empty: those without an IP flow; failed: those that can't be read, with the error.
    flows: all; classes: flows per class, those that occur; unlabelled: flows by reason.
    unused: labels that meet no flow; elsewhere: those for other times or captures, which don't count as unused.
    several: labels with both ends given in full that hold more than one flow (NFStream cuts long conversations).
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
    elsewhere: int
    several: int
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

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
                f"{self.captures:,} captures, {self.empty} without an IP flow, {len(self.failed)} not readable"
            )
            lines += [f"  {name}: {why}" for name, why in list(self.failed.items())[:SHOWN]]
        if self.file != "--label":
            lines.append(f"{self.unused:,} of {self.labels:,} labels meet no flow")
        if self.elsewhere:
            lines.append(f"{self.elsewhere:,} labels are for other {'times' if self.kind == 'flows' else 'captures'}")
        if self.several:
            lines.append(f"{self.several:,} labels meet more than one flow")
        if self.ignored:
            more = f" and {len(self.ignored) - SHOWN} more" if len(self.ignored) > SHOWN else ""
            lines.append(f"columns ignored: {', '.join(self.ignored[:SHOWN])}{more}")
        return [*lines, *(f"note: {note}" for note in self.notes)]
