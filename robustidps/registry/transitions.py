"""One move of one model, as one transaction: the assignment's next generation and the decision that explains it.

`commit` reads where the model stands from its checked decisions, works out where the move leads (`stages.advance`),
and writes both with `UPDATE assignment .. WHERE generation = :expected`. That commit *is* the promotion or rollback.
A process that is killed leaves it done or not begun; of two that race, one is told what the other did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from robustidps.errors import ConflictError, LedgerError, NotFoundError, RefusedError
from robustidps.registry import state
from robustidps.registry.holds import freeze_of, holding, pin_of
from robustidps.registry.ledger import PIN_COLUMNS, REMEDY, Decision, Entry, Ledger, require_registered
from robustidps.registry.stages import (
    ALIAS,
    MOVES,
    OVERRIDE,
    TURNED_AWAY,
    Course,
    Standing,
    advance,
    alias_of,
    stage_of,
)
from robustidps.registry.steps import step

__all__ = ["Also", "Move", "commit", "standing_of"]

Also = Callable[[Connection, Decision], None]
"""What else is written in the transaction of a decision."""


@dataclass(frozen=True)
class Move:
    """What is to be decided about a version.

    action: `promote`, `archive`, `rollback` and `withdraw` move it; `alias` gives it the alias that is its to_stage;
    all others (`stages.RECORDS`) are only recorded. version: None only for `turn_away`, of a whole repository.
    """

    model: str
    version: str | None
    action: str
    to_stage: str
    actor: str
    actor_source: str
    verdict: str = "recorded"
    reasons: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    rule_set: str | None = None

    @property
    def moves(self) -> bool:
        return self.action in MOVES


def standing_of(decisions: Sequence[Entry | Decision]) -> Standing:
    """Where a model stands after `decisions`. Raises LedgerError naming the row that can't have been taken."""
    course = Course()
    for entry in decisions:
        try:
            course.take(entry.action, entry.version, entry.to_stage)
        except RefusedError as error:
            raise LedgerError(
                f"is not a decision that could have been taken: {error}", where=f"ledger row {entry.seq}", remedy=REMEDY
            ) from None
    return course.standing()


def commit(
    store: state.StateStore,
    ledger: Ledger,
    move: Move,
    *,
    expected_generation: int | None = None,
    version_values: Mapping[str, Any] | None = None,
    also: Also | None = None,
) -> Decision:
    """Carries out `move`, or records it where it moves nothing.

    Args:
        expected_generation: the assignment's generation when the decision was prepared; None skips the comparison.
        version_values: further columns to set on the version's row in the same transaction.
        also: called in the same transaction once the decision is appended; what it raises undoes everything.

    Raises:
        ConflictError: the assignment has moved on since, or the version is there already; says what happened.
        RefusedError: the move makes no sense from where the model stands; it is frozen, or another version is pinned.
        NotFoundError: no such registered version.
        LedgerError: the ledger or the assignment was edited.
        StorageError, UnavailableError: the store can't be written.
    """
    with store.write() as connection:
        row = _assignment_row(connection, move.model)
        decisions = ledger.checked(connection, move.model)
        standing = standing_of(decisions)
        for role, expected in standing.roles().items():
            if row[role] != expected:
                raise LedgerError(
                    f"assignment has {role} {row[role]}, the ledger {expected}", where=move.model, remedy=REMEDY
                )
        generation = row["generation"]
        if expected_generation is not None and generation != expected_generation:
            raise ConflictError(
                _meanwhile(decisions, expected_generation),
                where=move.model,
                remedy="look at it again, then decide anew",
            )
        told = ledger.with_evidence(connection, decisions, holding)
        _require_free(move, told)
        version = _version_row(connection, move)
        if move.version is not None and move.action not in ("register", TURNED_AWAY):
            registered = ledger.registration(connection, decisions, move.model, move.version)
            require_registered(registered, move.model, move.version, version["digest"], version["held_out"])
        before = stage_of(standing, move.version or "")
        if move.action in ("promote", "archive") and before == move.to_stage:
            raise ConflictError(_already(decisions, move), where=f"{move.model} {move.version}", remedy="nothing to do")
        bearer = alias_of([(d.action, d.version, d.to_stage) for d in decisions], move.to_stage)
        if move.action == ALIAS and bearer == move.version:
            raise ConflictError(
                f"is {move.to_stage} already", where=f"{move.model} {move.version}", remedy="nothing to do"
            )
        after = advance(standing, move.action, move.version, move.to_stage)
        step(f"{move.action}.begun")
        if version_values:
            connection.execute(_update_version(move).values(**version_values))
        if move.action == "withdraw":
            connection.execute(_update_version(move).values(status="withdrawn"))
        if move.moves:
            update = (
                sa.update(state.assignment)
                .where(state.assignment.c.model == move.model, state.assignment.c.generation == generation)
                .values(generation=generation + 1, **after.roles())
            )
            if connection.execute(update).rowcount != 1:
                raise ConflictError(
                    "another process moved it in this moment", where=move.model, remedy="look at it again"
                )
            generation += 1
        step(f"{move.action}.assigned")
        decision = ledger.append(
            connection,
            {
                "model": move.model,
                "version": move.version,
                "action": move.action,
                "from_stage": before,
                "to_stage": move.to_stage,
                "from_version": bearer if move.action == ALIAS else _displaced(standing, move),
                "actor": move.actor,
                "actor_source": move.actor_source,
                "rule_set": move.rule_set,
                "verdict": move.verdict,
                "reasons": move.reasons,
                "evidence": move.evidence,
                "bundle_digest": (version_values or {}).get("digest", version["digest"]),
                "generation": generation,
                "standing": after.roles(),
            },
        )
        pin = pin_of([*told, decision])
        pinned = pin.columns() if pin else dict.fromkeys(PIN_COLUMNS)
        if any(row[column] != value for column, value in pinned.items()):
            connection.execute(sa.update(state.assignment).where(state.assignment.c.model == move.model).values(pinned))
        if also is not None:
            also(connection, decision)
        step(f"{move.action}.recorded")
    step(f"{move.action}.committed")
    ledger.remember(decision)
    step(f"{move.action}.witnessed")
    return decision


def _assignment_row(connection: Connection, model: str) -> RowMapping:
    query = sa.select(state.assignment).where(state.assignment.c.model == model)
    row = connection.execute(query).mappings().first()
    if row is None:
        connection.execute(sa.insert(state.assignment).values(model=model, generation=0, applied_generation=0))
        row = connection.execute(query).mappings().one()
    return row


def _require_free(move: Move, decisions: Sequence[Entry | Decision]) -> None:
    if move.action not in ("promote", ALIAS):
        return
    if freeze := freeze_of(decisions):
        raise RefusedError(str(freeze), where=move.model, remedy=f"robustidps thaw {move.model} --reason ..")
    pin = pin_of(decisions)
    if move.to_stage == "Production" and move.verdict != OVERRIDE and pin and pin.in_force():
        raise RefusedError(str(pin), where=move.model, remedy=f"robustidps thaw {move.model} --reason ..")


def _version_row(connection: Connection, move: Move) -> RowMapping | Mapping[str, Any]:
    if move.action == TURNED_AWAY:  # it never became a version here; what was offered is all there is
        return {"digest": move.evidence.get("digest"), "held_out": None}
    query = sa.select(state.version).where(state.version.c.model == move.model, state.version.c.version == move.version)
    row = connection.execute(query).mappings().first()
    if row is None or (row["status"] == "reserved" and move.action != "register"):
        raise NotFoundError("is not registered", where=f"{move.model} {move.version}", remedy="robustidps models")
    if row["status"] == "withdrawn" and move.action in ("promote", "rollback", "withdraw", ALIAS):
        raise RefusedError("was withdrawn", where=f"{move.model} {move.version}", remedy="register a new version")
    return row


def _displaced(standing: Standing, move: Move) -> str | None:
    if move.action in ("promote", "rollback"):
        return standing.production if move.to_stage == "Production" else standing.staging
    return None


def _update_version(move: Move) -> sa.Update:
    return sa.update(state.version).where(state.version.c.model == move.model, state.version.c.version == move.version)


def _said(decision: Entry) -> str:
    where = f" to {decision.to_stage}" if decision.action in ("promote", "rollback") else ""
    return (
        f"{decision.action} of {decision.version}{where} by {decision.actor} at {decision.time:%Y-%m-%d %H:%M:%S} UTC"
    )


def _meanwhile(decisions: list[Entry], expected: int) -> str:
    since = [_said(d) for d in decisions if d.generation > expected and d.action in MOVES]
    return f"somebody else was first: {'; '.join(since[-3:]) or 'the assignment has moved on'}"


def _already(decisions: list[Entry], move: Move) -> str:
    moved = [d for d in decisions if d.version == move.version and d.to_stage == move.to_stage and d.action != "refuse"]
    return f"is in {move.to_stage} already{f' ({_said(moved[-1])})' if moved else ''}"
