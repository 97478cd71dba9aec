"""The decision ledger: what was decided about which version, by whom, on what evidence; only ever added to.

Each record carries the hash of the one before it and is signed with the installation's key, so that no record can be
changed, removed from the middle, put in or reordered without `verify` naming it. What a chain can't show by itself is
that its end was cut off. So the end is kept in two more places: the signed `ledger_head` row beside it, and the
*witness*, a small file outside the database. What that leaves open is in `docs/threat-model.md`.

A record's hash is SHA-256 over its canonical JSON (sorted keys, no blanks, ASCII) without `hash` and `signature`; the
signature is over the same bytes, each behind a prefix of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.engine import Connection, RowMapping

from robustidps.errors import LedgerError, printable
from robustidps.registry import state
from robustidps.registry.holds import pin_of
from robustidps.registry.keys import InstallationKey, write_atomically
from robustidps.registry.stages import APPROVED, OVERRIDE, Standing, advance
from robustidps.settings import writable

__all__ = ["Decision", "Ledger", "LedgerReport", "Problem", "canonical"]

Row = Mapping[str, Any] | RowMapping
GENESIS = "0" * 64
PIN_COLUMNS = ("pinned_by", "pin_reason", "pinned_until")
RECORD_PREFIX = b"robustidps ledger record 1\n"
HEAD_PREFIX = b"robustidps ledger head 1\n"
REMEDY = "restore the state store from a backup; find out who can write to it"


def canonical(value: Any) -> str:
    """The one JSON text of `value`: keys sorted, no blanks, ASCII; numbers that JSON lacks become strings."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if hasattr(value, "item"):
        return _plain(value.item())  # a NumPy scalar
    return str(value)


@dataclass(frozen=True)
class Decision:
    """One record of the ledger.

    action: one of `stages.MOVES` or `stages.RECORDS`.
    from_stage, to_stage: of `version`; a refusal's to_stage is the one that was asked for; an alias's is the alias.
    from_version: the version whose place it takes in to_stage; None if there was none.
    verdict: `promote`, `hold` or `reject` where rules were asked, `override` where a person went round them, `lost` of
        a version that MLflow has lost for good, else `recorded`.
    standing: production, previous and staging of the model once this was decided; generation: the assignment's.
    """

    seq: int
    time: datetime
    model: str
    version: str | None
    action: str
    from_stage: str
    to_stage: str
    from_version: str | None
    actor: str
    actor_source: str
    rule_set: str | None
    verdict: str
    reasons: tuple[str, ...]
    evidence: dict[str, Any] = field(repr=False)
    bundle_digest: str | None
    generation: int
    standing: dict[str, str | None]
    previous_hash: str = field(repr=False)
    hash: str
    key_id: str = field(repr=False)
    signature: str = field(repr=False)

    @classmethod
    def from_row(cls, row: Row) -> Decision:
        """Raises LedgerError when a column doesn't hold what it should."""
        try:
            values = dict(row)
            values["time"] = datetime.fromisoformat(values["time"])
            values["reasons"] = tuple(json.loads(values["reasons"]))
            values["evidence"] = json.loads(values["evidence"])
            values["standing"] = json.loads(values["standing"])
            if not isinstance(values["generation"], int):  # SQLite keeps any type in any column
                raise ValueError("generation is not a number")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"is not a decision: {error}", where=f"ledger row {row['seq']}", remedy=REMEDY) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able content, for `--json`."""
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__}
        return plain | {"time": self.time.isoformat(), "reasons": list(self.reasons)}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `seq` is the ledger row, None where it isn't one row's."""

    seq: int | None
    what: str
    model: str | None = None

    def __str__(self) -> str:
        return self.what if self.seq is None else f"ledger row {self.seq} {self.what}"


@dataclass(frozen=True)
class LedgerReport:
    """What checking the ledger found."""

    records: int
    problems: tuple[Problem, ...]
    head: str
    keys: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.problems:
            return "; ".join(map(str, self.problems))
        return f"{self.records} decisions, every hash and signature checks out; the last is {self.head[:16]}"

    def require(self) -> None:
        """Raises LedgerError naming the first problem, if there is one."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            first = self.problems[0]
            raise LedgerError(
                f"{first.what}{more}",
                where="state store" if first.seq is None else f"ledger row {first.seq}",
                remedy=REMEDY,
            )

    def as_dict(self) -> dict[str, Any]:
        problems = [{"seq": p.seq, "model": p.model, "what": p.what} for p in self.problems]
        return {
            "ok": self.ok,
            "records": self.records,
            "head": self.head,
            "keys": list(self.keys),
            "problems": problems,
        }


def _content(row: Row) -> bytes:
    return canonical({k: v for k, v in row.items() if k not in ("hash", "signature")}).encode()


def _head_content(seq: int, digest: str) -> bytes:
    return HEAD_PREFIX + canonical({"hash": digest, "seq": seq}).encode()


@dataclass
class Ledger:
    """Adds to and checks the `decision` table.

    Args:
        key: signs new records; its public half is what old ones are checked against.
        witness: file outside the database that remembers the ledger's end.
    """

    key: InstallationKey
    witness: Path
    _checked: set[tuple[str, str, str]] = field(default_factory=set, init=False, repr=False)

    def append(self, connection: Connection, record: Mapping[str, Any]) -> Decision:
        """Adds one record inside the caller's transaction.

        Args:
            record: model, version, action, from_stage, to_stage, from_version, actor, actor_source, rule_set, verdict,
                reasons, evidence, bundle_digest, generation, standing.

        Raises:
            LedgerError: the present end of the ledger doesn't check out; nothing is built on it.
            IntegrityError, StorageError: the key can't be used.
        """
        last = self._checked_end(connection)
        row = {
            "seq": last["seq"] + 1 if last else 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **record,
            "reasons": canonical([printable(reason, 2000) for reason in record["reasons"]]),
            "evidence": canonical(record["evidence"]),
            "standing": canonical(record["standing"]),
            "previous_hash": last["hash"] if last else GENESIS,
        }
        row["key_id"] = self.key.key_id
        content = _content(row)
        row["hash"] = hashlib.sha256(content).hexdigest()
        row["signature"] = self.key.sign(RECORD_PREFIX + content)[1]
        connection.execute(sa.insert(state.decision).values(**row))
        key_id, signature = self.key.sign(_head_content(row["seq"], row["hash"]))
        head = {"seq": row["seq"], "hash": row["hash"], "key_id": key_id, "signature": signature}
        if last:
            connection.execute(sa.update(state.ledger_head).values(**head))
        else:
            connection.execute(sa.insert(state.ledger_head).values(id=1, **head))
        return Decision.from_row(row)

    def remember(self, decision: Decision) -> None:
        """Writes the end of the ledger to the witness, once it is committed.

        Never backwards: of two processes that committed, the later record stays. A crash before this leaves the
        witness one record behind, which is harmless: it says "at least so far".
        """
        content = canonical({"seq": decision.seq, "hash": decision.hash, "time": decision.time.isoformat()})
        with writable(self.witness), FileLock(self.witness.with_suffix(".lock")):
            seen = self._witnessed()
            if not (isinstance(seen, tuple) and seen[0] >= decision.seq):
                write_atomically(self.witness, content.encode() + b"\n", mode=0o600)

    def of_model(self, connection: Connection, model: str) -> list[Decision]:
        """All decisions about `model`, oldest first; not checked."""
        query = sa.select(state.decision).where(state.decision.c.model == model).order_by(state.decision.c.seq)
        return [Decision.from_row(row) for row in connection.execute(query).mappings()]

    def checked_of_model(self, connection: Connection, model: str) -> list[Decision]:
        """All decisions about `model`, oldest first, each with hash and signature checked.

        Raises:
            LedgerError: a record was changed or isn't ours; names the row.
        """
        query = sa.select(state.decision).where(state.decision.c.model == model).order_by(state.decision.c.seq)
        found = []
        for row in connection.execute(query).mappings():
            for what in self._problems_of(row):
                raise LedgerError(what, where=f"ledger row {row['seq']}", remedy=REMEDY)
            found.append(Decision.from_row(row))
        return found

    def verify(self, connection: Connection, *, model: str | None = None) -> LedgerReport:
        """Checks every record, the chain, its end, and that `assignment` and `version` say what the ledger says.

        Args:
            model: compare only this model's assignment and versions; the chain is always checked as a whole.
        """
        seen = self._witnessed()  # before the first query: what is committed meanwhile must not look cut off
        problems: list[Problem] = []
        rows = list(connection.execute(sa.select(state.decision).order_by(state.decision.c.seq)).mappings())
        before, expected, keys = GENESIS, 1, set()
        standings: dict[str, Standing] = {}
        decisions: dict[str, list[Decision]] = {}
        for row in rows:
            seq = row["seq"]
            if seq != expected:
                gap = f"{expected}" if seq == expected + 1 else f"{expected} to {seq - 1}"
                problems.append(Problem(expected, f"is missing (rows {gap}): it was deleted"))
            found = self._problems_of(row)
            if row["previous_hash"] != before and seq == expected:
                found.append("does not continue from the row before it")
            problems += [Problem(seq, what, row["model"]) for what in found]
            keys.add(str(row["key_id"]))
            before, expected = row["hash"], (seq + 1 if isinstance(seq, int) else expected + 1)
            problems += self._replayed(row, standings, decisions)
        problems += self._problems_of_end(connection, rows, seen)
        if not problems:  # an edited ledger is nothing to compare with
            problems += _against_tables(connection, standings, decisions, model)
        return LedgerReport(len(rows), tuple(problems), before, tuple(sorted(keys)))

    def _replayed(
        self, row: Row, standings: dict[str, Standing], decisions: dict[str, list[Decision]]
    ) -> list[Problem]:
        try:
            decision = Decision.from_row(row)
            standing = advance(
                standings.get(decision.model, Standing()), decision.action, decision.version, decision.to_stage
            )
        except Exception as error:  # noqa: BLE001 - whatever an edited row provokes, it is that row's problem
            return [Problem(row["seq"], f"is not a decision that could have been taken: {error}", row["model"])]
        standings[decision.model] = standing
        decisions.setdefault(decision.model, []).append(decision)
        if decision.standing != standing.roles():
            return [Problem(decision.seq, "records another standing than the decisions so far give", decision.model)]
        return []

    def _problems_of(self, row: Row) -> list[str]:
        content = _content(row)
        digest = hashlib.sha256(content).hexdigest()
        if digest != row["hash"]:
            return ["was changed after it was written"]
        # The watcher reads the same records again and again: a signature over the same bytes is checked once a process.
        checked = (digest, str(row["key_id"]), str(row["signature"]))
        if checked in self._checked:
            return []
        problem = self.key.problem_with(RECORD_PREFIX + content, row["key_id"], row["signature"])
        if problem is None:
            self._checked.add(checked)
        return [problem] if problem else []

    def require_end(self, connection: Connection) -> None:
        """That the ledger ends where its signed head and the witness say; cheap, before anything long begins.

        Raises:
            LedgerError: it was cut off or edited, or the state store is gone while the witness is not.
        """
        self._checked_end(connection)

    def _checked_end(self, connection: Connection) -> Row | None:
        last = (
            connection.execute(sa.select(state.decision).order_by(state.decision.c.seq.desc()).limit(1))
            .mappings()
            .first()
        )
        problems = self._problems_of_end(connection, [last] if last else [], self._witnessed())
        if last:
            problems = [Problem(last["seq"], what) for what in self._problems_of(last)] + problems
        LedgerReport(0, tuple(problems), "", ()).require()
        return last

    def _problems_of_end(
        self, connection: Connection, rows: list[Any], seen: tuple[int, str] | str | None
    ) -> list[Problem]:
        """What the signed head and the witness say against the last row."""
        head = connection.execute(sa.select(state.ledger_head)).mappings().first()
        last_seq, last_hash = (rows[-1]["seq"], rows[-1]["hash"]) if rows else (0, GENESIS)
        problems = []
        if head is None:
            if rows:
                problems.append(Problem(last_seq, "is the end of the ledger, but the signed head is gone"))
        else:
            wrong = self.key.problem_with(_head_content(head["seq"], head["hash"]), head["key_id"], head["signature"])
            if wrong:
                problems.append(Problem(None, f"the ledger's head {wrong}"))
            elif (head["seq"], head["hash"]) != (last_seq, last_hash):
                missing = max(head["seq"], last_seq + 1) if head["seq"] > last_seq else last_seq
                problems.append(
                    Problem(
                        missing, f"does not match the signed head at row {head['seq']}: the end was cut off or edited"
                    )
                )
        if isinstance(seen, str):
            problems.append(Problem(None, seen))
        elif seen is not None:
            at = connection.execute(sa.select(state.decision.c.hash).where(state.decision.c.seq == seen[0])).scalar()
            if at != seen[1]:
                what = "is missing: the end was cut off" if at is None else "is not the one that was written"
                problems.append(Problem(seen[0], f"{what} (witness {self.witness.name})"))
        return problems

    def _witnessed(self) -> tuple[int, str] | str | None:
        try:
            content = json.loads(self.witness.read_text(encoding="utf-8"))
            return int(content["seq"]), str(content["hash"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return f"the witness {self.witness} can't be read"


def _against_tables(
    connection: Connection, standings: dict[str, Standing], decisions: dict[str, list[Decision]], model: str | None
) -> Iterable[Problem]:
    """Where `assignment` and `version` say something else than the ledger."""
    rows = {row["model"]: row for row in connection.execute(sa.select(state.assignment)).mappings()}
    for name in sorted(set(rows) | set(standings)):
        if model is not None and name != model:
            continue
        roles = standings.get(name, Standing()).roles()
        row = rows.get(name) or {"generation": 0, **dict.fromkeys(roles)}
        for role, expected in roles.items():
            if row[role] != expected:
                yield Problem(None, f"{name}: assignment has {role} {row[role]}, the ledger {expected}", name)
        last = max((d.generation for d in decisions.get(name, [])), default=0)
        if row["generation"] != last:
            yield Problem(None, f"{name}: assignment is at generation {row['generation']}, the ledger at {last}", name)
        pin = pin_of(decisions.get(name, []))
        for column, expected in (pin.columns() if pin else dict.fromkeys(PIN_COLUMNS)).items():
            if row.get(column) != expected:
                yield Problem(None, f"{name}: assignment has {column} {row.get(column)}, the ledger {expected}", name)
    query = sa.select(state.version).where(state.version.c.status != "reserved")
    known = {(r["model"], r["version"]): (r["digest"], r["held_out"]) for r in connection.execute(query).mappings()}
    for name, entries in decisions.items():
        if model is not None and name != model:
            continue
        for entry in entries:
            if entry.action == "register":
                key = (name, str(entry.version))
                if key not in known:
                    yield Problem(
                        entry.seq, f"registers {name} {entry.version}, which is not in the version table", name
                    )
                elif differs := contradiction(entry, *known.pop(key)):
                    yield Problem(None, f"{name} {entry.version}: {differs}", name)
    for name, number in known:
        if model is None or name == model:
            yield Problem(None, f"{name} {number}: is in the version table, but no decision registers it", name)


def contradiction(registered: Decision, digest: str | None, held_out: str | None) -> str | None:
    """What the version table says otherwise than the decision that registered the version; None if they agree.

    Args:
        held_out: canonical JSON of what the version is judged on: whoever could exchange that, or the rules named in
            it, would need no forged decision.
    """
    if digest != registered.bundle_digest:
        return "the version table has another digest than the ledger"
    recorded = registered.evidence.get("held_out")
    if held_out != (None if recorded is None else canonical(recorded)):
        return "the version table has other held-out traffic than the ledger"
    return None


def require_registered(
    decisions: Iterable[Decision], model: str, version: str, digest: str | None, held_out: str | None
) -> None:
    """Raises LedgerError unless a checked decision registered the version just as the version table has it."""
    registered = next((d for d in decisions if d.action == "register" and d.version == version), None)
    problem = "no decision registers it" if registered is None else contradiction(registered, digest, held_out)
    if problem:
        raise LedgerError(problem, where=f"{model} {version}", remedy=REMEDY)


def approval(decisions: Iterable[Decision], version: str, stage: str | None = None) -> Decision | None:
    """The newest decision that put `version` into `stage` (or any stage) with an approving verdict."""
    found = None
    for entry in decisions:
        approved = entry.verdict in (APPROVED, OVERRIDE)
        moved = entry.action == "promote" and approved and entry.version == version
        if moved and (stage is None or entry.to_stage == stage):
            found = entry
    return found
