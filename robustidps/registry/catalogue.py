"""The reading side of the registry: which models and versions there are, where they stand, and how that came about.

What is merely shown comes from the tables as they are. What is about to be used (`resolve`) is compared with the
signed decisions first, and anything that says otherwise than they do is refused.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from robustidps.errors import BundleError, NotFoundError, printable
from robustidps.registry import state
from robustidps.registry.holds import Freeze, Pin, freeze_of, holding, pin_of
from robustidps.registry.ledger import Decision, Entry, Ledger, approval, canonical, require_registered
from robustidps.registry.metadata import check_version, version_key
from robustidps.registry.records import Assignment, ModelSummary, VersionRecord, assignment_record, version_record
from robustidps.registry.stages import ALIAS, APPROVED, HARDWARE, STAGE_MOVES, Stage, alias_of, replay, stage_of
from robustidps.registry.transitions import standing_of
from robustidps.settings import check_name

__all__ = ["Catalogue"]

_DECISION = state.decision.c


class Catalogue:
    """Looks things up in a state store and its ledger; needs neither MLflow nor a bundle."""

    def __init__(self, store: state.StateStore, ledger: Ledger) -> None:
        self.store = store
        self.ledger = ledger

    def models(self) -> list[ModelSummary]:
        """All models, by name."""
        with self.store.read() as connection:
            rows = connection.execute(sa.select(state.version)).mappings().all()
            assigned = {
                row["model"]: assignment_record(row)
                for row in connection.execute(sa.select(state.assignment)).mappings()
            }
        by_model: dict[str, list[str]] = {}
        for row in rows:
            by_model.setdefault(row["model"], [])
            if row["status"] != "reserved":
                by_model[row["model"]].append(row["version"])
        return [
            ModelSummary(
                name, len(found), max(found, key=version_key, default=None), assigned.get(name, Assignment(name))
            )
            for name, found in sorted(by_model.items())
        ]

    def versions(self, name: str) -> list[VersionRecord]:
        """All versions of a model, lowest first. Raises NotFoundError for an unknown model."""
        check_name(name)
        with self.store.read() as connection:
            rows = connection.execute(sa.select(state.version).where(state.version.c.model == name)).mappings().all()
            moves = sa.select(_DECISION.action, _DECISION.version, _DECISION.to_stage).where(_DECISION.model == name)
            standing = replay((a, v, s) for a, v, s in connection.execute(moves.order_by(_DECISION.seq)))
        if not rows:
            raise self._unknown(name)
        records = [version_record(row, stage_of(standing, row["version"])) for row in rows]
        return sorted(records, key=lambda r: version_key(r.version))

    def version(self, name: str, version: str) -> VersionRecord:
        """One version. Raises NotFoundError naming those that exist."""
        check_name(name)
        check_version(version)
        column = state.version.c
        with self.store.read() as connection:
            query = sa.select(state.version).where(column.model == name, column.version == version)
            row = connection.execute(query).mappings().first()
            if row is not None:
                return version_record(row, self._stage(connection, name, version))
        records = self.versions(name)
        known = ", ".join(r.version for r in records[-8:])
        raise NotFoundError("no such version", where=f"{name} {version}", remedy=f"there are: {known}")

    def _stage(self, connection: Connection, name: str, version: str) -> Stage:
        roles = state.assignment.c
        query = sa.select(roles.production, roles.staging).where(roles.model == name)
        production, staging = connection.execute(query).first() or (None, None)
        if version in (production, staging):
            return "Production" if version == production else "Staging"
        moved = sa.exists().where(
            _DECISION.model == name, _DECISION.version == version, _DECISION.action.in_(STAGE_MOVES)
        )
        return "Archived" if connection.execute(sa.select(moved)).scalar() else "None"

    def assignment(self, name: str) -> Assignment:
        """Where a model stands; its `generation` is what `transition` compares. Raises NotFoundError."""
        check_name(name)
        with self.store.read() as connection:
            row = (
                connection.execute(sa.select(state.assignment).where(state.assignment.c.model == name))
                .mappings()
                .first()
            )
            known = (
                row or connection.execute(sa.select(state.version.c.model).where(state.version.c.model == name)).first()
            )
        if known is None:
            raise self._unknown(name)
        return assignment_record(row) if row else Assignment(name)

    def frozen(self, name: str) -> Freeze | None:
        """The freeze in force, if there is one. Raises NotFoundError for an unknown model."""
        self.assignment(name)
        return freeze_of(self._holding(name))

    def pinned(self, name: str) -> Pin | None:
        """The pin of the version in Production, while it is in force. Raises NotFoundError for an unknown model."""
        self.assignment(name)
        pin = pin_of(self._holding(name))
        return pin if pin is not None and pin.in_force() else None

    def _holding(self, name: str) -> list[Entry | Decision]:
        with self.store.read() as connection:
            return self.ledger.with_evidence(connection, self.ledger.checked(connection, name), holding)

    def holds(self) -> dict[str, str]:
        """What keeps models from moving up, as it is shown: a sentence for each that is frozen or pinned."""
        column = state.decision.c
        query = sa.select(state.decision).where(column.action.in_(("freeze", "thaw"))).order_by(column.seq)
        shown: dict[str, str] = {}
        by_model: dict[str, list[Decision]] = {}
        with self.store.read() as connection:
            for row in connection.execute(query).mappings():
                by_model.setdefault(row["model"], []).append(Decision.from_row(row))
            pins = sa.select(state.assignment).where(state.assignment.c.pinned_until.is_not(None))
            for row in connection.execute(pins).mappings():
                until = datetime.fromisoformat(row["pinned_until"])
                pin = Pin(row["production"], row["pinned_by"], row["pin_reason"], until)
                shown |= {row["model"]: str(pin)} if pin.in_force() else {}
        return shown | {name: str(found) for name, entries in by_model.items() if (found := freeze_of(entries))}

    def history(self, name: str | None = None) -> list[Decision]:
        """What was decided, oldest first; `verify` is what checks it. Raises NotFoundError for an unknown model."""
        with self.store.read() as connection:
            if name is not None:
                check_name(name)
                found = self.ledger.of_model(connection, name)
            else:
                query = sa.select(state.decision).order_by(state.decision.c.seq)
                found = [Decision.from_row(row) for row in connection.execute(query).mappings()]
        if not found and name is not None:
            self.assignment(name)
        return found

    def checked_history(self, name: str) -> list[Decision]:
        """What was decided about a model, oldest first; hashes and signatures are checked. Raises LedgerError."""
        check_name(name)
        with self.store.read() as connection:
            return self.ledger.checked_of_model(connection, name)

    def production_at(self, name: str, when: datetime) -> Decision | None:
        """The decision that had last changed what is in production at `when`; its `standing` says what that was."""
        found, before = None, None
        for entry in self.history(name):
            if entry.time > when:
                break
            if entry.standing["production"] != before:
                found, before = entry, entry.standing["production"]
        return found

    def resolve(self, name: str, version: str = "latest") -> VersionRecord:
        """The version that a role (`latest`, `production`, ..), `loihi` or a number means. Raises as `load_model`."""
        if version in HARDWARE:
            return self._bearer(name, version)
        if version not in ("latest", "production", "staging", "previous"):
            record = self.version(name, version)
            if record.status == "reserved":
                raise NotFoundError("is reserved, but not registered", where=f"{name} {version}")
            self._require_registered(record, self._checked(name))
            return record
        assigned = self.assignment(name)
        decisions = self._checked(name)
        standing = standing_of(decisions)
        roles: dict[str, str | None] = dict(standing.roles())
        if roles != {role: getattr(assigned, role) for role in roles}:
            self._verify_ledger(name)
        stage = {"staging": "Staging", "latest": None}.get(version, "Production")
        if version == "latest":
            roles["latest"] = self._latest(name, decisions)
        chosen = roles[version]
        if chosen is None:
            what = "no version was approved yet" if version == "latest" else f"no version is in the role {version}"
            raise NotFoundError(what, where=name, remedy="promote one (robustidps promote)")
        record = self.version(name, chosen)
        granted = approval(decisions, chosen, stage)
        if granted is None or granted.bundle_digest != record.digest:
            self._verify_ledger(name)
            raise BundleError("no decision approves this bundle for that stage", where=f"{name} {chosen}")
        self._require_registered(record, decisions)
        return record

    def _bearer(self, name: str, alias: str) -> VersionRecord:
        self.assignment(name)
        decisions = self._checked(name)
        chosen = alias_of([(d.action, d.version, d.to_stage) for d in decisions], alias)
        if chosen is None:
            raise NotFoundError(
                f"no version has the alias {alias}", where=name, remedy=f"robustidps export {alias} {name} --alias"
            )
        record = self.version(name, chosen)
        given = [d for d in decisions if (d.action, d.version, d.to_stage) == (ALIAS, chosen, alias)][-1]
        if given.verdict != APPROVED or given.bundle_digest != record.digest:
            self._verify_ledger(name)
            raise BundleError(f"no decision gives this bundle the alias {alias}", where=f"{name} {chosen}")
        self._require_registered(record, decisions)
        return record

    def _checked(self, name: str) -> list[Entry]:
        with self.store.read() as connection:
            return self.ledger.checked(connection, name)

    def _require_registered(self, record: VersionRecord, decisions: list[Entry]) -> None:
        held_out = None if record.held_out is None else canonical(record.held_out)
        with self.store.read() as connection:
            registered = self.ledger.registration(connection, decisions, record.model, record.version)
        require_registered(registered, record.model, record.version, record.digest, held_out)

    def _latest(self, name: str, decisions: list[Entry]) -> str | None:
        standing = standing_of(decisions)
        fallen = {d.from_version for d in decisions if d.action == "rollback"} - set(standing.tenures)
        withdrawn = {d.version for d in decisions if d.action == "withdraw"}
        approved = {d.version for d in decisions if d.version and approval([d], d.version)} - fallen - withdrawn
        return max((v for v in approved if v), key=version_key, default=None)

    def _unknown(self, name: str) -> NotFoundError:
        with self.store.read() as connection:
            known = connection.execute(sa.select(state.version.c.model).distinct()).scalars().all()
        return NotFoundError(
            "no such model", where=printable(name), remedy=f"there are: {', '.join(sorted(known)) or 'none'}"
        )

    def _verify_ledger(self, name: str) -> None:
        """Raises LedgerError naming what was edited, if anything of `name` was."""
        with self.store.read() as connection:
            self.ledger.verify(connection, model=name).require()
