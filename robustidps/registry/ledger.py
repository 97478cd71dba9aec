"""The decision ledger: what was decided about which version, by whom, on what evidence; only ever added to.

Each record carries the hash of the one before it and is signed with the installation's key, so that no record can be
changed, removed from the middle, put in or reordered without `verify` naming it. What a chain can't show by itself is
that its end was cut off. So the end is kept in two more places: the signed `ledger_head` row beside it, and the
*witness*, a small file outside the database. What that leaves open is in `docs/threat-model.md`.

Two ways of checking. `verify` asks everything of everything: each hash, each signature, the chain, its end, the tables.
`checked` is what every move and every load goes through: it hashes every record anew and follows the chain to the
signed head, whose one signature stands for all of them, since no other content gives that last hash. What it has read
it keeps in memory for `MEMORY_S` and reads on from there: an edit made meanwhile can't reach what is kept.

A record's hash is SHA-256 over its canonical JSON (sorted keys, no blanks, ASCII) without `hash` and `signature`; the
signature is over the same bytes, each behind a prefix of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.engine import Connection, RowMapping

from robustidps.errors import LedgerError, printable
from robustidps.registry import state
from robustidps.registry.holds import pin_of
from robustidps.registry.keys import InstallationKey, write_atomically
from robustidps.registry.stages import APPROVED, OVERRIDE, Course, Standing
from robustidps.settings import writable

__all__ = ["Decision", "Entry", "Ledger", "LedgerReport", "Problem", "canonical"]

Row = Mapping[str, Any] | RowMapping
GENESIS = "0" * 64
PIN_COLUMNS = ("pinned_by", "pin_reason", "pinned_until")
RECORD_PREFIX = b"robustidps ledger record 1\n"
HEAD_PREFIX = b"robustidps ledger head 1\n"
MEMORY_S = 60.0
"""How long a process goes on from what it has checked, before it hashes every record anew."""
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
    evidence_text: str = field(repr=False)
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
            values["evidence_text"] = values.pop("evidence")
            values["standing"] = json.loads(values["standing"])
            if not isinstance(values["generation"], int):  # SQLite keeps any type in any column
                raise ValueError("generation is not a number")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"is not a decision: {error}", where=f"ledger row {row['seq']}", remedy=REMEDY) from None

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What the decision rests on; read when asked for. Raises LedgerError where the column holds something else."""
        try:
            return dict(json.loads(self.evidence_text))
        except (ValueError, TypeError) as error:
            where = f"ledger row {self.seq}"
            raise LedgerError(f"is not a decision: {error}", where=where, remedy=REMEDY) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able content, for `--json`."""
        plain = {k: getattr(self, k) for k in state.decision.columns.keys()}  # noqa: SIM118 - a collection of columns
        return plain | {"time": self.time.isoformat(), "reasons": list(self.reasons)}


class Entry(NamedTuple):
    """What of a checked record is kept in memory: all that says where versions stand, no evidence."""

    seq: int
    when: str
    model: str
    version: str | None
    action: str
    from_stage: str
    to_stage: str
    from_version: str | None
    actor: str
    verdict: str
    bundle_digest: str | None
    generation: int
    hash: str

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.when)


@dataclass(frozen=True)
class _Checked:
    """Records that were checked: the last one's number and hash, and what is kept of each, by model."""

    since: float
    seq: int
    hash: str
    of: dict[str, list[Entry]]


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


# The same text as `canonical`, for a row of plain values, without walking through it in Python first.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


_COLUMNS = [column.name for column in state.decision.columns]
_LAYOUT = [
    (f'{"," if i else ""}"{name}":', _COLUMNS.index(name))
    for i, name in enumerate(sorted(set(_COLUMNS) - {"hash", "signature"}))
]
_ENTRY = [_COLUMNS.index("time" if name == "when" else name) for name in Entry._fields]
_SEQ, _HASH, _PREVIOUS, _MODEL = map(_COLUMNS.index, ("seq", "hash", "previous_hash", "model"))
_quoted = json.encoder.encode_basestring_ascii


def _quick_digest(values: Sequence[Any]) -> str:
    """The hash of a record, from its columns in order; empty where a column holds what no record does."""
    parts: list[str] = []
    for before, index in _LAYOUT:
        value = values[index]
        if type(value) is str:
            parts += (before, _quoted(value))
        elif type(value) is int:
            parts += (before, str(value))
        elif value is None:
            parts += (before, "null")
        else:
            return ""
    return hashlib.sha256(("{" + "".join(parts) + "}").encode()).hexdigest()


def _content(row: Row) -> bytes:
    plain = {k: v for k, v in row.items() if k not in ("hash", "signature")}
    try:
        return _ENCODER.encode(plain).encode()
    except (TypeError, ValueError):  # SQLite keeps any type in any column
        return canonical(plain).encode()


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
    _known: _Checked | None = field(default=None, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

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

    def checked(self, connection: Connection, model: str) -> list[Entry]:
        """All decisions about `model`, oldest first; every record of the ledger was hashed and chained to its end.

        Raises:
            LedgerError: a record was changed, removed or put in, of whichever model; names the row.
        """
        with self._lock:
            seen = self._witnessed()  # before the first query, as in `verify`
            known = self._remembered(connection) or _Checked(time.monotonic(), 0, GENESIS, {})
            seq, before, of = known.seq, known.hash, known.of
            query = sa.select(state.decision).where(state.decision.c.seq > seq).order_by(state.decision.c.seq)
            for values in connection.execute(query.execution_options(yield_per=2000)):
                self._require_next(values, seq, before)
                of.setdefault(values[_MODEL], []).append(Entry(*[values[i] for i in _ENTRY]))
                seq, before = values[_SEQ], values[_HASH]
            end = [{"seq": seq, "hash": before}] if seq else []
            LedgerReport(0, tuple(self._problems_of_end(connection, end, seen)), "", ()).require()
            self._known = _Checked(known.since, seq, before, of)
            return list(of.get(model, ()))

    def _remembered(self, connection: Connection) -> _Checked | None:
        """What was checked a short while ago, if the ledger still goes through that record."""
        known, self._known = self._known, None  # whatever raises from here on, nothing half-read is kept
        if known is None or time.monotonic() - known.since > MEMORY_S:
            return None
        column = state.decision.c
        there = connection.execute(sa.select(column.hash).where(column.seq == known.seq)).scalar()
        return known if there == known.hash else None

    def _require_next(self, values: Sequence[Any], seq: int, before: str) -> None:
        """Raises LedgerError unless a record is whole and continues from record `seq`, whose hash is `before`."""
        problem = None
        found = values[_SEQ]
        if found != seq + 1:
            problem = Problem(seq + 1, "is missing: it was deleted")
        elif values[_HASH] != _quick_digest(values):
            row = dict(zip(_COLUMNS, values, strict=True))
            if values[_HASH] != hashlib.sha256(_content(row)).hexdigest():
                problem = Problem(found, "was changed after it was written")
        if problem is None and values[_PREVIOUS] != before:
            problem = Problem(found, "does not continue from the row before it")
        if problem:
            LedgerReport(0, (problem,), "", ()).require()

    def with_evidence(
        self, connection: Connection, entries: Sequence[Entry], wanted: Callable[[Entry], bool] = lambda entry: True
    ) -> list[Entry | Decision]:
        """`entries` again, and for those that are `wanted` the whole decision, evidence and reasons included.

        Raises:
            LedgerError: one is no longer the record that was checked.
        """
        asked = {entry.seq: entry for entry in entries if wanted(entry)}
        whole: dict[int, Decision] = {}
        numbers = sorted(asked)
        for first in range(0, len(numbers), 500):
            query = sa.select(state.decision).where(state.decision.c.seq.in_(numbers[first : first + 500]))
            for row in connection.execute(query).mappings():
                if hashlib.sha256(_content(row)).hexdigest() == asked[row["seq"]].hash:
                    whole[row["seq"]] = Decision.from_row(row)
        for seq in asked.keys() - whole.keys():
            raise LedgerError("was changed after it was written", where=f"ledger row {seq}", remedy=REMEDY)
        return [whole.get(entry.seq, entry) for entry in entries]

    def checked_of_model(self, connection: Connection, model: str) -> list[Decision]:
        """As `checked`, with evidence and reasons."""
        found = self.with_evidence(connection, self.checked(connection, model))
        return [entry for entry in found if isinstance(entry, Decision)]

    def registration(
        self, connection: Connection, entries: Iterable[Entry], model: str, version: str
    ) -> Decision | None:
        """The decision that registered a version, whole; `entries` are the model's, checked.

        Raises:
            LedgerError: it is no longer the record that was checked.
        """
        one = [e for e in entries if e.action == "register" and e.version == version][:1]
        return next((d for d in self.with_evidence(connection, one) if isinstance(d, Decision)), None)

    def checked_after(self, connection: Connection, seq: int) -> list[Decision]:
        """All decisions after row `seq`, oldest first, each with hash and signature checked. Raises LedgerError."""
        query = sa.select(state.decision).where(state.decision.c.seq > seq).order_by(state.decision.c.seq)
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
        standings: dict[str, Course] = {}
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

    def _replayed(self, row: Row, standings: dict[str, Course], decisions: dict[str, list[Decision]]) -> list[Problem]:
        try:
            decision = Decision.from_row(row)
            course = standings.setdefault(decision.model, Course())
            course.take(decision.action, decision.version, decision.to_stage)
        except Exception as error:  # noqa: BLE001 - whatever an edited row provokes, it is that row's problem
            return [Problem(row["seq"], f"is not a decision that could have been taken: {error}", row["model"])]
        decisions.setdefault(decision.model, []).append(decision)
        if decision.standing != course.roles():
            return [Problem(decision.seq, "records another standing than the decisions so far give", decision.model)]
        return []

    def _problems_of(self, row: Row) -> list[str]:
        content = _content(row)
        if hashlib.sha256(content).hexdigest() != row["hash"]:
            return ["was changed after it was written"]
        problem = self.key.problem_with(RECORD_PREFIX + content, row["key_id"], row["signature"], row["seq"])
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
            content = _head_content(head["seq"], head["hash"])
            wrong = self.key.problem_with(content, head["key_id"], head["signature"], head["seq"])
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
    connection: Connection, standings: dict[str, Course], decisions: dict[str, list[Decision]], model: str | None
) -> Iterable[Problem]:
    """Where `assignment` and `version` say something else than the ledger."""
    rows = {row["model"]: row for row in connection.execute(sa.select(state.assignment)).mappings()}
    for name in sorted(set(rows) | set(standings)):
        if model is not None and name != model:
            continue
        roles = standings[name].roles() if name in standings else Standing().roles()
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
    registered: Decision | None, model: str, version: str, digest: str | None, held_out: str | None
) -> None:
    """Raises LedgerError unless the checked decision `registered` entered the version just as the table has it."""
    problem = "no decision registers it" if registered is None else contradiction(registered, digest, held_out)
    if problem:
        raise LedgerError(problem, where=f"{model} {version}", remedy=REMEDY)


def approval(decisions: Iterable[Entry], version: str, stage: str | None = None) -> Entry | None:
    """The newest decision that put `version` into `stage` (or any stage) with an approving verdict."""
    found = None
    for entry in decisions:
        approved = entry.verdict in (APPROVED, OVERRIDE)
        moved = entry.action == "promote" and approved and entry.version == version
        if moved and (stage is None or entry.to_stage == stage):
            found = entry
    return found
