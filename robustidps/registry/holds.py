"""What keeps a model from moving up: a freeze by a person, and the pin that an override puts on a version.

Both follow from the decisions alone. A freeze stands from its record until it is thawed or its time is up: nothing is
promoted meanwhile, rollbacks work. A pin comes with an override into Production: until its time is up the version stays
there, whatever the rules say of others. A rollback, an archiving, a further override or a thaw ends it earlier.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from robustidps.errors import InputError, printable
from robustidps.registry.stages import OVERRIDE

if TYPE_CHECKING:
    from robustidps.registry.ledger import Decision, Entry

__all__ = ["Freeze", "Pin", "freeze_of", "holding", "parse_until", "pin_of"]


@dataclass(frozen=True)
class Freeze:
    """until: when it ends by itself; None: when it is thawed."""

    by: str
    reason: str
    since: datetime
    until: datetime | None

    def __str__(self) -> str:
        end = f", until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return f"frozen by {self.by} since {self.since:%Y-%m-%d %H:%M} UTC{end}: {self.reason}"


@dataclass(frozen=True)
class Pin:
    """A version that was put into Production against the rules, and until when it is to stay."""

    version: str
    by: str
    reason: str
    until: datetime

    def __str__(self) -> str:
        return f"{self.version} is pinned by {self.by} until {self.until:%Y-%m-%d %H:%M} UTC: {self.reason}"

    def in_force(self, now: datetime | None = None) -> bool:
        return (now or datetime.now(UTC)) < self.until

    def columns(self) -> dict[str, str]:
        """What `assignment` keeps of it."""
        return {"pinned_by": self.by, "pin_reason": self.reason, "pinned_until": self.until.isoformat()}


def holding(entry: Entry) -> bool:
    """Whether what holds a model depends on this record's evidence or reasons."""
    return entry.action in ("freeze", "thaw") or entry.verdict == OVERRIDE


def freeze_of(decisions: Iterable[Entry | Decision], now: datetime | None = None) -> Freeze | None:
    """The freeze that is in force at `now` (default: the clock's) after a model's decisions, oldest first.

    Of those that are `holding` the whole decision is needed.
    """
    found = None
    for entry in decisions:
        if entry.action == "freeze":
            entry = cast("Decision", entry)
            until = entry.evidence.get("until")
            reason = entry.reasons[0] if entry.reasons else ""
            found = Freeze(_who(entry), reason, entry.time, datetime.fromisoformat(until) if until else None)
        elif entry.action == "thaw":
            found = None
    if found is None or (found.until is not None and (now or datetime.now(UTC)) >= found.until):
        return None
    return found


def pin_of(decisions: Iterable[Entry | Decision]) -> Pin | None:
    """The pin that a model's decisions, oldest first, leave; whether its time is up is for `Pin.in_force`.

    Of those that are `holding` the whole decision is needed.
    """
    pin = None
    for entry in decisions:
        if entry.action == "promote" and entry.verdict == OVERRIDE and entry.to_stage == "Production":
            entry = cast("Decision", entry)
            facts: dict[str, Any] = entry.evidence["override"]
            until = datetime.fromisoformat(facts["until"])
            pin = Pin(str(entry.version), _who(entry), str(facts["reason"]), until)
        elif entry.action == "thaw" or (pin is not None and _leaves_production(entry, pin.version)):
            pin = None
    return pin


def parse_until(text: str, *, now: datetime | None = None) -> datetime:
    """A date or time with `T`, as ISO 8601 has it, in UTC where no zone is given; a bare date means its end.

    Raises:
        InputError: not a date, or one that is over.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{printable(repr(text), 60)} is not a date", where="--until", remedy="e.g. 2026-12-31 or 2026-12-31T18:00"
        ) from None
    if len(text) <= 10:
        found = found.replace(hour=23, minute=59, second=59)
    found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    if found <= (now or datetime.now(UTC)):
        raise InputError(f"{found:%Y-%m-%d %H:%M} UTC is over", where="--until", remedy="name a time to come")
    return found


def _leaves_production(entry: Entry | Decision, version: str) -> bool:
    """Whether `version`, which is in Production, isn't any more after this decision."""
    if entry.action == "rollback" or (entry.action == "promote" and entry.to_stage == "Production"):
        return entry.version != version
    return entry.action == "archive" and entry.version == version


def _who(entry: Decision) -> str:
    return printable(f"{entry.actor} ({entry.actor_source})", 200)
