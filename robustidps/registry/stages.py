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
from dataclasses import dataclass, replace
from typing import Literal, cast

from robustidps.errors import InputError, RefusedError, printable

__all__ = [
    "ALIAS",
    "APPROVED",
    "HARDWARE",
    "MOVES",
    "RECORDS",
    "STAGES",
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
# Aliases for hardware, and the action of the decision that gives one; its `to_stage` is the alias.
HARDWARE = ("loihi",)
ALIAS = "alias"
# What a decision can do: move something, or be on record alone.
MOVES = ("promote", "rollback", "archive", "withdraw", ALIAS)
RECORDS = ("register", "refuse", "approve", "alarm", "review", "freeze", "thaw", "restore", "retrain")


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


def advance(standing: Standing, action: str, version: str | None, to_stage: str) -> Standing:
    """The standing after one decision.

    Args:
        action: `promote`, `rollback`, `archive` or `withdraw` move something; any other (`register`, `refuse`) doesn't.
        version: promote, archive, withdraw: the one that moves. rollback: the one that Production goes *to*.

    Raises:
        RefusedError: the move makes no sense from here; nothing is ever half-applied.
    """
    if action not in ("promote", "rollback", "archive", "withdraw"):
        return standing
    if version is None:
        raise RefusedError(f"{action} without a version")
    seen = standing.seen | {version}
    staging = None if standing.staging == version else standing.staging
    others = tuple(v for v in standing.tenures if v != version)
    if action == "promote" and to_stage == "Production":
        return Standing(version, staging, (*others, version), seen)
    if action == "promote" and to_stage == "Staging":
        if version == standing.production:
            raise RefusedError("is in Production; it can't be in Staging as well", where=version)
        return replace(standing, staging=version, seen=seen)
    if action == "rollback":
        if standing.previous is None:
            raise RefusedError("there is no previous version to go back to")
        if version != standing.previous:
            raise RefusedError(f"a rollback goes to the previous version, {standing.previous}", where=version)
        kept = tuple(v for v in standing.tenures if v != standing.production)
        return Standing(version, staging, kept, seen)
    if action == "archive":
        production = None if version == standing.production else standing.production
        return Standing(production, staging, standing.tenures, seen)
    if action == "withdraw":
        if version == standing.production:
            raise RefusedError("is in Production", where=version, remedy="roll back first, then withdraw it")
        return Standing(standing.production, staging, others, seen)
    raise RefusedError(f"{action} to {to_stage} is not a move")


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
    standing = Standing()
    for action, version, to_stage in decisions:
        standing = advance(standing, action, version, cast(Stage, to_stage))
    return standing
