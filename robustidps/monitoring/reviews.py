"""What a person made of a window: `expected`, `incident` or `ignore`. Signed records in the ledger; the latest counts.

    ignore     until a date, no alarm of the model is raised, whatever its windows look like
    expected   this is how traffic is now: an alarm is silenced as long as a window looks like the reviewed one, until
               the date if one was given, and at the latest until another version is in production
    incident   silences nothing; the window is never what later ones are compared with

Windows that are silenced are measured, recorded and counted as before: only the alarm isn't raised. The counts of a
window that was called expected are named by their digest in the signed record, so that an edit of the table silences
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

from robustidps.errors import InputError, LedgerError, printable
from robustidps.registry.ledger import Decision, canonical

if TYPE_CHECKING:
    from robustidps.monitoring.windows import DriftWindow
    from robustidps.registry.registry import ModelRegistry

__all__ = ["KINDS", "Kind", "Review", "anchor_version", "fingerprint", "in_force", "review", "reviews"]

Kind = Literal["expected", "incident", "ignore"]
KINDS: tuple[Kind, ...] = ("expected", "incident", "ignore")
MOST_DAYS = 366


@dataclass(frozen=True)
class Review:
    """One review. until: the end of that day, UTC. counts: `fingerprint` of the window's counts when it was given."""

    time: datetime
    model: str
    version: str
    window: str
    kind: Kind
    until: datetime | None
    reason: str
    actor: str
    actor_source: str
    counts: str
    new_anchor: bool = False

    def lasts(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def reviews(decisions: Iterable[Decision]) -> dict[str, Review]:
    """The review in force for each window that has one, oldest first. Raises LedgerError: a malformed record."""
    found: dict[str, Review] = {}
    for entry in decisions:
        if entry.action != "review":
            continue
        facts = entry.evidence
        try:
            window, kind = str(facts["window"]), facts["as"]
            if kind not in KINDS:
                raise ValueError(kind)
            until = datetime.fromisoformat(facts["until"]) if facts.get("until") else None
        except (KeyError, ValueError, TypeError):
            raise LedgerError("is not a review of a window", where=f"ledger row {entry.seq}") from None
        found.pop(window, None)
        found[window] = Review(
            entry.time,
            entry.model,
            entry.version or "",
            window,
            cast(Kind, kind),
            until,
            "; ".join(entry.reasons),
            entry.actor,
            entry.actor_source,
            str(facts.get("counts", "")),
            bool(facts.get("new_anchor")),
        )
    return found


def in_force(found: Iterable[Review], version: str, now: datetime) -> tuple[Review | None, list[Review]]:
    """The review by which alarms are ignored at `now`, if any, and those that call a window of `version` expected."""
    lasting = [r for r in found if r.lasts(now)]
    ignoring = [r for r in lasting if r.kind == "ignore"]
    return (ignoring[-1] if ignoring else None), [r for r in lasting if r.kind == "expected" and r.version == version]


def anchor_version(decisions: Sequence[Decision]) -> str | None:
    """The version whose reference is the early anchor: the first in Production, or what a review put in its place."""
    moved = [r.version for r in reviews(decisions).values() if r.kind == "expected" and r.new_anchor]
    if moved:
        return moved[-1]
    promoted = (d.version for d in decisions if d.action == "promote" and d.to_stage == "Production")
    return next(promoted, None)


def fingerprint(figures: Any) -> str:
    """SHA-256 (hex) over a window's counts and predictions, which a review rests on."""
    facts = {"counts": figures.counts, "predictions": figures.predictions, "alerts": figures.alerts}
    return hashlib.sha256(canonical(facts | {"rows": figures.rows}).encode()).hexdigest()


def review(
    registry: ModelRegistry,
    window: DriftWindow,
    kind: Kind,
    *,
    reason: str,
    until: date | None = None,
    new_anchor: bool = False,
    actor: str | None = None,
    actor_source: str | None = None,
    now: datetime | None = None,
) -> Review:
    """Puts a review into the ledger.

    Args:
        until: the last day on which it silences anything, UTC.
        new_anchor: with `expected`: from now on the early anchor is the reference of the window's version.

    Raises:
        InputError: no reason; `ignore` without a date; a date that has passed or lies more than a year ahead.
        LedgerError: the ledger was edited.
    """
    now = now or datetime.now(UTC)
    where = f"{window.model} {window.id}"
    if kind not in KINDS:
        raise InputError(f"{printable(repr(kind), 40)} is no review", where=where, remedy=f"one of {', '.join(KINDS)}")
    if not reason.strip():
        raise InputError("a review needs a reason", where=where, remedy="say why with --reason")
    if kind == "ignore" and until is None:
        raise InputError("alarms are ignored until a date", where=where, remedy="name it with --until YYYY-MM-DD")
    if kind == "incident" and until is not None:
        raise InputError("an incident silences nothing, so it has no end", where=where, remedy="leave --until out")
    if new_anchor and kind != "expected":
        raise InputError("only an expected window moves the anchor", where=where, remedy="give it with --as expected")
    end = None
    if until is not None:
        end = datetime(until.year, until.month, until.day, tzinfo=UTC) + timedelta(days=1)
        if end <= now:
            raise InputError(f"{until} has passed", where="--until", remedy="name a day that is to come")
        if end > now + timedelta(days=MOST_DAYS):
            raise InputError(f"{until} is more than a year ahead", where="--until", remedy="name an earlier day")
    facts = {
        "window": window.id,
        "as": kind,
        "until": end.isoformat() if end else None,
        "counts": fingerprint(window.measured),
        "new_anchor": new_anchor,
        "digest": window.digest,
    }
    registry.record(
        window.model,
        window.version,
        "review",
        reasons=[printable(reason.strip(), 500)],
        evidence=facts,
        actor=actor,
        actor_source=actor_source,
    )
    with registry.store.read() as connection:
        return reviews(registry.ledger.checked_of_model(connection, window.model))[window.id]
