"""Where the versions of one model stand, worked out from its decisions. Pure: no database, no clock.

A model has at most one version in Production and one in Staging. `previous` is where a rollback goes: the newest
version that was in Production and was neither rolled back nor withdrawn since. "Newest" is by the last time it was
put there by a promotion, and the version in Production now is never its own previous. So after A, B, C were promoted
in turn, a rollback puts B back, C is out of the running, and `previous` is A; a second rollback puts A back and leaves
no previous. Promoting C again (which means judging it again) brings it back into the running.

A version may also bear an alias of its own kind, whatever its stage: `loihi`, the one that goes to that hardware. It is
given by a decision of its own and taken by the next such decision, or by withdrawing the version.

The state store keeps the outcome in `assignment`; the ledger's check replays the decisions through `advance` and
compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from robustidps.errors import InputError, RefusedError, printable

__all__ = [
    "ALIAS",
    "APPROVED",
    "HARDWARE",
    "MOVES",
    "OVERRIDE",
    "RECORDS",
    "STAGES",
    "STAGE_MOVES",
    "TURNED_AWAY",
    "Course",
    "Stage",
    "Standing",
    "advance",
    "alias_of",
    "check_stage",
    "replay",
    "stage_of",
]

Stage = Literal["None", "Staging", "Production", "Archived"]
STAGES: tuple[Stage, ...] = ("None", "Staging", "Production", "Archived")
# The verdict of a decision that puts a version into a stage. Refusals carry "hold" or "reject".
APPROVED = "promote"
# ... or this one, where a person has put it there against the rules (`robustidps.overriding`).
OVERRIDE = "override"
# Aliases for hardware, and the action of the decision that gives one; its `to_stage` is the alias.
HARDWARE = ("loihi",)
ALIAS = "alias"
# What a decision can do: move something, or be on record alone.
STAGE_MOVES = ("promote", "rollback", "archive", "withdraw")
MOVES = (*STAGE_MOVES, ALIAS)
RECORDS = ("register", "refuse", "approve", "alarm", "review", "freeze", "thaw", "restore", "retrain", "turn_away")
# An offered update that was refused before it became a version here; `version` may be None, of a whole repository.
TURNED_AWAY = "turn_away"


@dataclass(frozen=True)
class Standing:
    """Where one model's versions are.

    tenures: versions that were put into Production and neither rolled back nor withdrawn since, oldest first; the one
        in Production now is among them.
    seen: versions that were ever in Staging or Production, or were archived by hand; Archived when nowhere else.
    """

    production: str | None = None
    staging: str | None = None
    tenures: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()

    @property
    def previous(self) -> str | None:
        return next((v for v in reversed(self.tenures) if v != self.production), None)

    def roles(self) -> dict[str, str | None]:
        """What `assignment` and each decision record of it."""
        return {"production": self.production, "previous": self.previous, "staging": self.staging}


def check_stage(stage: str) -> Stage:
    """`stage` in its canonical spelling. Raises InputError."""
    for known in STAGES:
        if isinstance(stage, str) and stage.lower() == known.lower():
            return known
    raise InputError(f"{printable(repr(stage), 40)} is not a stage", remedy=f"one of {', '.join(STAGES[1:])}")


def stage_of(standing: Standing, version: str) -> Stage:
    """The stage that `version` is in."""
    if version == standing.production:
        return "Production"
    if version == standing.staging:
        return "Staging"
    return "Archived" if version in standing.seen else "None"


class Course:
    """A standing that decisions are applied to one after the other, however many there are."""

    def __init__(self, standing: Standing | None = None) -> None:
        begun = standing or Standing()
        self.production, self.staging = begun.production, begun.staging
        self.tenures = dict.fromkeys(begun.tenures)
        self.seen = set(begun.seen)

    @property
    def previous(self) -> str | None:
        return next((v for v in reversed(self.tenures) if v != self.production), None)

    def roles(self) -> dict[str, str | None]:
        return {"production": self.production, "previous": self.previous, "staging": self.staging}

    def standing(self) -> Standing:
        return Standing(self.production, self.staging, tuple(self.tenures), frozenset(self.seen))

    def take(self, action: str, version: str | None, to_stage: str) -> None:
        """Applies one decision; arguments and errors as for `advance`."""
        if action not in STAGE_MOVES:
            return
        if version is None:
            raise RefusedError(f"{action} without a version")
        if action == "promote" and to_stage == "Production":
            self.tenures.pop(version, None)
            self.tenures[version] = None
            self.production = version
        elif action == "promote" and to_stage == "Staging":
            if version == self.production:
                raise RefusedError("is in Production; it can't be in Staging as well", where=version)
            self.staging = version
            self.seen.add(version)
            return
        elif action == "rollback":
            previous = self.previous
            if previous is None:
                raise RefusedError("there is no previous version to go back to")
            if version != previous:
                raise RefusedError(f"a rollback goes to the previous version, {previous}", where=version)
            self.tenures.pop(self.production or "", None)
            self.production = version
        elif action == "archive":
            self.production = None if version == self.production else self.production
        elif action == "withdraw":
            if version == self.production:
                raise RefusedError("is in Production", where=version, remedy="roll back first, then withdraw it")
            self.tenures.pop(version, None)
        else:
            raise RefusedError(f"{action} to {to_stage} is not a move")
        self.staging = None if self.staging == version else self.staging
        self.seen.add(version)


def advance(standing: Standing, action: str, version: str | None, to_stage: str) -> Standing:
    """The standing after one decision.

    Args:
        action: `promote`, `rollback`, `archive` or `withdraw` move something; any other (`register`, `refuse`) doesn't.
        version: promote, archive, withdraw: the one that moves. rollback: the one that Production goes *to*.

    Raises:
        RefusedError: the move makes no sense from here; nothing is ever half-applied.
    """
    if action not in STAGE_MOVES:
        return standing
    course = Course(standing)
    course.take(action, version, to_stage)
    return course.standing()


def alias_of(decisions: Iterable[tuple[str, str | None, str]], alias: str) -> str | None:
    """The version that bears `alias` after a model's decisions, given as (action, version, to_stage), oldest first."""
    bearer = None
    for action, version, to_stage in decisions:
        if action == ALIAS and to_stage == alias:
            bearer = version
        elif action == "withdraw" and version == bearer:
            bearer = None
    return bearer


def replay(decisions: Iterable[tuple[str, str | None, str]]) -> Standing:
    """The standing after all of one model's decisions, given as (action, version, to_stage), oldest first."""
    course = Course()
    for action, version, to_stage in decisions:
        course.take(action, version, to_stage)
    return course.standing()
