"""Stages by hand: what a person changed in MLflow is taken as a request, judged, recorded, and kept or put back.

One model at a time, and one process at a time (lock `reconcile-NAME`):

1. An unfinished picture is completed: what differs because a process was killed is no request.
2. A model that was renamed or deleted, and versions that were deleted, are brought back (`recreating.py`).
3. What then differs between MLflow and the decisions was changed by somebody. Each difference is answered once: a wish
   for Staging or Production by the rules, all others by what `_answer` says; the answer is in the ledger before MLflow
   is touched. What has been changed meanwhile is answered as well.
4. The picture is drawn: kept and put back in one go, with the answer in the version's tag `robustidps.answer`.

A process that is killed between 3 and 4 has left an answer that `assignment.answered` hasn't reached: the next run
doesn't judge that again, it only draws.

What is refused as it was within the last hour, to the same person, is put back without another record (`_same`): nobody
makes the ledger, and what is sent from it, grow by asking again and again.

Who asked is taken from `mlflow_request`, which the MLflow app `robustidps-auth` fills; else it is *unverified*.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from robustidps.errors import (
    InputError,
    IntegrityError,
    LedgerError,
    MissingExtraError,
    NotFoundError,
    RefusedError,
    RegistryUnavailableError,
    RobustIDPSError,
    printable,
)
from robustidps.registry import state
from robustidps.registry.ledger import Decision, Entry
from robustidps.registry.picture import ANSWER, Picture, Request, Wanted, differences, read, requested
from robustidps.registry.records import verdict_parts
from robustidps.registry.recreating import LOST, bring_back, renamed_to
from robustidps.registry.stages import APPROVED, HARDWARE, MOVES, TURNED_AWAY
from robustidps.registry.steps import step
from robustidps.registry.transitions import Move, commit

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["UNKNOWN", "Finding", "reconcile"]

log = logging.getLogger(__name__)

UNKNOWN = "somebody in MLflow"
ROUNDS = 5
"""How often it is looked whether more was asked for while the last was judged."""
AGAIN = timedelta(hours=1)
"""How long a refusal stands for the same one asked for again."""
FOLLOWS = "it follows from the decisions; ask for a stage by its alias"


@dataclass(frozen=True)
class Finding:
    """What was found about a model, and what became of it.

    outcome: `kept`, `put back`, `made again`, `lost`; `put back again` by an answer that is in the ledger already, as
    row `seq`; `completed` of a picture that was behind; `failed`: nothing was decided, the next run looks again.
    """

    model: str
    version: str | None
    what: str
    outcome: str
    reasons: tuple[str, ...] = ()
    actor: str = ""
    seq: int | None = None

    def __str__(self) -> str:
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        by = f" by {self.actor}" if self.actor else ""
        row = f" [ledger row {self.seq}]" if self.seq is not None else ""
        return printable(f"{self.model} {self.version or ''}: {self.what}{by}: {self.outcome}{why}", 2000) + row


def reconcile(registry: ModelRegistry, name: str | None = None) -> list[Finding]:
    """Answers what people changed in MLflow, of one model or all; nothing to do gives an empty list.

    Raises:
        RegistryUnavailableError: MLflow doesn't answer.
        NotFoundError: there is no model `name`. With a name also whatever hinders it; of all models, one that fails is
            a finding, and the others go on.
    """
    if name is not None:
        registry.assignment(name)
        return _Reconciliation(registry, name).run()
    findings: list[Finding] = []
    for summary in registry.models():
        if not summary.versions:
            continue
        try:
            findings += _Reconciliation(registry, summary.name).run()
        except RegistryUnavailableError:
            raise
        except RobustIDPSError as error:
            findings.append(Finding(summary.name, None, "not looked at to the end", "failed", (str(error),)))
    return findings


class _Reconciliation:
    """One model, once."""

    def __init__(self, registry: ModelRegistry, name: str) -> None:
        self.registry, self.name = registry, name
        self.projection = registry.projection
        self.findings: list[Finding] = []
        self.generation = 0
        self.used: set[int] | None = None
        self.repeats: list[tuple[Request, Decision]] = []
        self.who: dict[Request, tuple[str, str, int | None]] = {}

    def run(self) -> list[Finding]:
        with self.registry.store.lock(f"reconcile-{self.name}"):
            with self._drawing():
                wanted, picture = self._begin()
                self.generation = wanted.generation
                undrawn = self._undrawn()
                seen = {request for d in undrawn if (request := requested(d)) is not None}
                found = [r for r in differences(wanted, picture) if r not in seen and not _ours(r, wanted, undrawn)]
                if not found:
                    if undrawn or differences(wanted, picture):
                        self.projection.draw(self.name)
                    return self.findings
            for _ in range(ROUNDS):
                self._answer_all(wanted, found, seen)
                with self._drawing():
                    if self.registry.assignment(self.name).generation != self.generation:
                        break  # a command moved the model meanwhile
                    picture = self._read()
                    found = [r for r in differences(wanted, picture) if r not in seen and not _ours(r, wanted, undrawn)]
                    if not found:
                        break
            self.projection.complete(self.name)
            for request, answer in self.repeats:  # not before it is drawn: who asked is asked again after a kill
                self._forget(request, answer)
        return self.findings

    def _drawing(self) -> AbstractContextManager[None]:
        return self.registry.store.lock(f"project-{self.name}")

    def _read(self) -> Picture:
        with self.registry.tracking.errors():
            return read(self.registry.tracking.client, self.name)

    def _decisions(self) -> list[Decision]:
        with self.registry.store.read() as connection:
            return self.registry.ledger.checked_of_model(connection, self.name)

    def _undrawn(self) -> list[Decision]:
        """Decisions that MLflow doesn't show yet: answers that a killed process left, versions just made again."""
        query = sa.select(state.assignment.c.answered).where(state.assignment.c.model == self.name)
        with self.registry.store.read() as connection:
            done = connection.execute(query).scalar() or 0
            late = [e for e in self.registry.ledger.checked(connection, self.name) if e.seq > done]
            found = self.registry.ledger.with_evidence(connection, late)
        return [d for d in found if isinstance(d, Decision) and requested(d) is not None]

    # --- before anything is judged

    def _begin(self) -> tuple[Wanted, Picture]:
        """What MLflow should show and what it shows, once nothing is missing there."""
        wanted = self.projection.wanted(self.name)
        try:
            picture = self._read()
        except NotFoundError:
            self._bring_back_model(wanted)
            picture = self._read()
        present = wanted.present(picture)
        gone = [v for v in wanted.numbers if v not in present]
        for version in gone:
            decision = bring_back(
                self.registry, self.registry.version(self.name, version), self._decisions(), self._asked
            )
            if decision is not None:
                self._found(decision, LOST if decision.verdict == LOST else "made again")
        if self.projection.pending(self.name):
            changes = self.projection.draw(self.name)
            self.findings.append(Finding(self.name, None, "MLflow's picture was behind", "completed", tuple(changes)))
        elif not gone:
            return wanted, picture
        return self.projection.wanted(self.name), self._read()

    def _bring_back_model(self, wanted: Wanted) -> None:
        other = renamed_to(self.registry, self.name, wanted)
        request = Request("renamed", "", None, other) if other else Request("model-deleted")
        reason = f"it is {self.name} by its decisions: named back" if other else "its versions are made again"
        if request not in [requested(d) for d in self._undrawn()]:
            self._found(self._refuse(request, self._about(), "None", (reason,)), "put back")
        with self.registry.tracking.errors():
            if other:
                self.registry.tracking.client.rename_registered_model(other, self.name)
            else:
                self.registry.tracking.ensure_model(self.name)
        step("restore.model")

    # --- answering

    def _answer_all(self, wanted: Wanted, found: list[Request], seen: set[Request]) -> None:
        asked: set[tuple[str | None, str]] = set()
        for request in found:
            version = wanted.version_of(request.number)
            stage = _stage_asked(request)
            part_of_another = (
                (stage is not None and (version, stage) in asked)  # by alias and by dropdown
                # MLflow's dialog moves out who was there.
                or (request.kind == "stage" and request.what == "Archived" and self._displaced(wanted, version, found))
                or (request.kind == "tag" and any(r.kind == "tag" and r.number == request.number for r in seen))
            )
            seen.add(request)
            if part_of_another:
                continue
            if stage:
                asked.add((version, stage))
            decision = self._answer(wanted, request, version, stage)
            if decision.action in MOVES:
                self.generation = decision.generation
            again = " again" if any(answer is decision for _, answer in self.repeats) else ""
            self._found(decision, f"put back{again}" if decision.action == "refuse" else "kept")
            step("reconcile.answered")

    def _displaced(self, wanted: Wanted, version: str | None, found: list[Request]) -> bool:
        role = next((a for a in ("production", "staging") if version and wanted.aliases[a] == version), None)
        return role is not None and any(r.kind == "stage" and r.what.lower() == role for r in found)

    def _answer(self, wanted: Wanted, request: Request, version: str | None, stage: str | None) -> Decision:
        if version is None and request.kind != "model-tag":
            why = f"MLflow version {request.number} isn't registered with RobustIDPS (robustidps registry add)"
            return self._refuse(request, self._about(), stage or "None", (why,))
        if stage and version:
            return self._promotion(request, version, stage)
        where = version or self._about()
        if request.kind in ("tag", "model-tag"):
            return self._refuse(
                request, where, "None", ("it follows from the decisions; ask for a stage by its alias",)
            )
        if request.what == "previous":
            why = f"previous follows from the decisions; to go back: robustidps rollback {self.name}"
            return self._refuse(request, where, "None", (why,))
        if request.what in HARDWARE:
            why = f"given by what the simulation shows: robustidps export {request.what} {self.name} --alias"
            return self._refuse(request, where, request.what, (why,))
        return self._taken_out(wanted, request, where)

    def _taken_out(self, wanted: Wanted, request: Request, version: str) -> Decision:
        """An alias deleted, or a version moved to Archived or None by the dropdown."""
        if version == wanted.aliases["production"] or request.what == "production":
            why = f"production isn't left empty: promote another version, or robustidps rollback {self.name}"
            return self._refuse(request, version, "Archived", (why,))
        if request.kind == "stage" and request.what == "None" and wanted.stages[version] == "Archived":
            return self._refuse(request, version, "None", ("a version can't go back to None",))
        if self.registry.version(self.name, version).stage == "Archived":
            return self._refuse(request, version, "Archived", ("is Archived already",))
        actor, source, _ = self._asked(request)
        return self.registry.transition(
            self.name,
            version,
            "Archived",
            evidence=self._facts(request),
            expected_generation=self.generation,
            project=False,
            actor=actor,
            actor_source=source,
        )

    def _promotion(self, request: Request, version: str, stage: str) -> Decision:
        from robustidps import judging

        evidence: Mapping[str, Any] = {}
        try:
            record = self.registry.version(self.name, version)
            if record.status == "withdrawn":
                raise RefusedError("was withdrawn")
            if stage == "Staging" and record.stage == "Production":
                raise RefusedError("is in Production; it can't be in Staging as well")
            if record.stage == stage:
                raise RefusedError(f"is in {stage} already")
            verdict, evidence = judging.weigh(self.registry, self.name, version, stage)
            if verdict.outcome == APPROVED:
                return self.registry.transition(
                    self.name,
                    version,
                    stage,
                    verdict=verdict,
                    rule_set=verdict.rule_set,
                    evidence=self._facts(request) | dict(evidence),
                    expected_generation=self.generation,
                    project=False,
                    actor=self._asked(request)[0],
                    actor_source=self._asked(request)[1],
                )
            outcome, reasons = verdict_parts(verdict)
            return self._refuse(
                request,
                version,
                stage,
                reasons,
                outcome or "hold",
                verdict.rule_set,
                self._rules(verdict) | dict(evidence),
            )
        except RefusedError as error:
            return self._refuse(request, version, stage, (error.problem,))
        except LedgerError:
            raise
        except (InputError, IntegrityError, MissingExtraError) as error:
            return self._refuse(request, version, stage, (f"can't be judged: {error}",), "hold")

    @staticmethod
    def _rules(verdict: Any) -> dict[str, Any]:
        rules = [{"text": r.text, "passed": r.passed} for r in verdict.results]
        return {"rules": rules, "rule_set_digest": verdict.rule_set_digest}

    def _refuse(
        self,
        request: Request,
        version: str,
        stage: str,
        reasons: tuple[str, ...],
        verdict: str = "reject",
        rule_set: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Decision:
        actor, source, _ = self._asked(request)
        facts = self._facts(request) | dict(evidence or {})
        move = Move(self.name, version, "refuse", stage, actor, source, verdict, reasons, facts, rule_set)
        return self._same(request, move) or commit(self.registry.store, self.registry.ledger, move)

    def _same(self, request: Request, move: Move) -> Decision | None:
        """The refusal of the last hour that says the same to the same person about the same wish, if there is one and
        nothing but refusals was decided about the model since (no move, freeze, thaw). What is renamed or deleted is
        made again, and each time recorded."""
        if request.kind not in ("alias", "alias-deleted", "stage", "tag", "model-tag"):
            return None
        now, key = datetime.now(UTC), _wish(request, move)
        ledger = self.registry.ledger
        with self.registry.store.read() as connection:
            since = list(takewhile(_only_refuses, reversed(ledger.checked(connection, self.name))))
            late = [e for e in reversed(since) if e.action == "refuse" and abs(now - e.time) < AGAIN]
            found = ledger.with_evidence(connection, late)
        for d in reversed(found):
            if isinstance(d, Decision) and (asked := requested(d)) is not None and _wish(asked, d) == key:
                self.repeats.append((request, d))
                return d
        return None

    def _forget(self, request: Request, answer: Decision) -> None:
        """Takes away what the MLflow app noted of a wish since its answer, which names the account."""
        first, last = answer.evidence["request"].get("id"), self._asked(request)[2]
        if first is None or last is None:
            return
        column = state.mlflow_request.c
        since = (column.actor == answer.actor) & (column.id > first) & (column.id <= last)
        with self.registry.store.write() as connection:
            connection.execute(sa.delete(state.mlflow_request).where(self._fits(request) & since))

    def _about(self) -> str:
        """The version that a record about the whole model is filed under."""
        assigned = self.registry.assignment(self.name).production
        return assigned or [r.version for r in self.registry.versions(self.name) if r.status != "reserved"][-1]

    def _found(self, decision: Decision, outcome: str) -> None:
        by = f"{decision.actor} ({decision.actor_source})"
        what = str(requested(decision))
        self.findings.append(Finding(self.name, decision.version, what, outcome, decision.reasons, by, decision.seq))

    # --- who asked

    def _facts(self, request: Request) -> dict[str, Any]:
        return {"request": request.as_dict() | {"id": self._asked(request)[2]}}

    def _asked(self, request: Request) -> tuple[str, str, int | None]:
        """(actor, source, row of `mlflow_request`): the newest that fits and explains no earlier answer."""
        if request not in self.who:
            self.who[request] = self._look_up(request)
        return self.who[request]

    def _look_up(self, request: Request) -> tuple[str, str, int | None]:
        if self.used is None:
            answered = (d.evidence.get("request") for d in self._decisions())
            self.used = {facts["id"] for facts in answered if isinstance(facts, dict)} - {None}
        column = state.mlflow_request.c
        query = sa.select(column.id, column.actor).where(self._fits(request)).order_by(column.id.desc()).limit(20)
        with self.registry.store.read() as connection:
            for row_id, actor in connection.execute(query):
                if row_id not in self.used:
                    self.used.add(int(row_id))
                    return str(actor), "mlflow", int(row_id)
        return UNKNOWN, "unverified", None

    def _fits(self, request: Request) -> sa.ColumnElement[bool]:
        """Which rows of `mlflow_request` can be where a request comes from."""
        column = state.mlflow_request.c
        fits = (column.model == self.name) & (column.kind == request.kind)
        if request.number is not None and request.kind != "alias-deleted":
            fits &= column.mlflow_version == request.number
        if request.what:
            fits &= column.detail == request.what
        return fits


def _only_refuses(entry: Entry) -> bool:
    return entry.action in ("refuse", "register", TURNED_AWAY)


def _wish(request: Request, answer: Move | Decision) -> tuple[object, ...]:
    """What a refusal is the same by: who wished for what, and what the rules said. Of rules, which passed: what they
    measured differs a little each time. Of an edited tag, that it was: what is in it is free to choose."""
    rules = answer.evidence.get("rules")
    said = answer.reasons if rules is None else tuple(rule["passed"] for rule in rules)
    judged = (answer.verdict, answer.rule_set, answer.evidence.get("rule_set_digest"), said)
    what = (answer.version, answer.to_stage, request.kind, request.what, request.number)
    return (answer.actor, answer.actor_source, *what, *judged)


def _stage_asked(request: Request) -> str | None:
    """The stage that a request wants a version to be in, where it wants it to go up."""
    if request.kind == "alias":
        return {"production": "Production", "staging": "Staging"}.get(request.what)
    return request.what if request.kind == "stage" and request.what in ("Production", "Staging") else None


def _ours(request: Request, wanted: Wanted, undrawn: list[Decision]) -> bool:
    """Whether a difference comes from what was just answered or made again, and not from a person."""
    versions = {d.version for d in undrawn}
    made = {d.version for d in undrawn if d.action == "restore"}
    if request.kind == "model-tag":
        return any(requested(d) == Request("model-deleted") for d in undrawn)
    about = wanted.version_of(request.number)
    if request.kind == "tag" and request.what == ANSWER:
        return about in versions
    return about in made and request.kind in ("alias-deleted", "stage", "tag")
