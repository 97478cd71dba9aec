"""`ModelRegistry`: versions, their artefacts, and which of them is in production.

    state.py        the state store, the one authority on versions, stages and decisions
    ledger.py       the signed, hash-chained record of every decision       keys.py        the key it is signed with
    catalogue.py    the reading side: models, versions, history
    stages.py       pure: where versions stand after which decisions         transitions.py a move as one transaction
    cache.py        verified bundles kept on this machine                    tracking.py    MLflow: runs, artefacts
    projection.py   MLflow's aliases and tags as a picture of the state      registration.py  a bundle becomes a version
    adoption.py     a model that isn't a bundle yet becomes one              objects.py      artefacts in S3
    preparing.py    tables and bucket made, or brought up to date            reports.py      what is measured, in MLflow
    live.py         handles of loaded models, and what they use swapped when a version moves in this process

Moving a version is one transaction in the state store, after which the picture in MLflow follows; if MLflow is away,
the move stands and the picture is completed by whatever runs next. Reading history, rolling back and loading a kept
bundle need no MLflow and don't import it.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import (
    BundleError,
    ConflictError,
    InputError,
    ModelValidationError,
    NotFoundError,
    RefusedError,
    RegistryUnavailableError,
    RobustIDPSError,
    VersionExistsError,
)
from robustidps.progress import Progress, silent
from robustidps.registry import live
from robustidps.registry.adoption import as_bundle, is_bundle
from robustidps.registry.cache import BundleCache
from robustidps.registry.keys import InstallationKey
from robustidps.registry.ledger import Decision, Ledger, LedgerReport, Problem
from robustidps.registry.live import Loaded, ModelHandle
from robustidps.registry.metadata import ModelMetadata, check_version
from robustidps.registry.projection import Projection
from robustidps.registry.records import Assignment, ModelSummary, VersionRecord, acting, verdict_parts
from robustidps.registry.registration import Registration
from robustidps.registry.reports import Reports
from robustidps.registry.stages import ALIAS, APPROVED, HARDWARE, OVERRIDE, RECORDS, TURNED_AWAY, check_stage
from robustidps.registry.state import StateStore
from robustidps.registry.tracking import Tracking
from robustidps.registry.transitions import Also, Move, commit
from robustidps.settings import Settings, check_name, get_settings, make_settings, with_changes, writable
from robustidps.updates.api import Updating

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.importing import Features, Output
    from robustidps.traffic.schema import TrafficSchema
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Assignment", "ModelHandle", "ModelRegistry", "ModelSummary", "VersionRecord"]

log = logging.getLogger(__name__)


class ModelRegistry(Updating, Reports):
    """The registry of one installation.

    Args:
        registry_path: home folder of the installation; default: the settings in force.
        remote_registry_url: where signed updates come from, one address or several mirrors; default: the settings'.
        enable_auto_update: whether the updater takes updates by itself; default: the settings'.
        settings: settings to use instead of those in force; not together with `registry_path`.
        tracking: how MLflow is reached; tests put a stand-in here (`robustidps.testing.registry`).
    """

    def __init__(
        self,
        registry_path: Path | str | None = None,
        remote_registry_url: str | Sequence[str] | None = None,
        enable_auto_update: bool | None = None,
        *,
        settings: Settings | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        if registry_path is not None and settings is not None:
            raise InputError("give registry_path or settings, not both")
        base = make_settings(home=Path(registry_path)) if registry_path else settings or get_settings()
        given = {"remote_registry_url": remote_registry_url, "enable_auto_update": enable_auto_update}
        self.settings = with_changes(base, {key: value for key, value in given.items() if value is not None})
        home = self.settings.home
        super().__init__(
            StateStore(self.settings.state_url, home / "locks"),
            Ledger(InstallationKey(home / "keys"), home / "keys" / "ledger.witness.json"),
        )
        self.cache = BundleCache(home / "cache" / "bundles")
        self.tracking = tracking or Tracking(self.settings)
        self._registration = Registration(self.settings, self.store, self.ledger, self.cache, self.tracking)
        self.projection = Projection(self.store, self.ledger, self.tracking)

    # --- checking

    def check(self, name: str | None = None, *, artifacts: bool = False) -> LedgerReport:
        """Checks the ledger, the tables against it, and the kept bundles; returns what it found.

        Args:
            name: compare only this model's tables and bundles; the chain is always checked as a whole.
            artifacts: also fetch every registered bundle from MLflow and compare its digest.

        Raises:
            NotFoundError: nothing is wrong, but there is no model `name`.
        """
        with self.store.read() as connection:
            report = self.ledger.verify(connection, model=name)
        if not report.ok:
            return report  # which bundles belong to whom can't be told from an edited ledger
        if name is not None:
            self.assignment(name)
        problems: list[Problem] = []
        for summary in self.models():
            if name in (None, summary.name):
                problems += self._bundle_problems(summary, artifacts)
        return LedgerReport(report.records, tuple(problems), report.head, report.keys)

    def verify(self, name: str | None = None, *, artifacts: bool = False) -> LedgerReport:
        """As `check`, but fails closed.

        Raises:
            LedgerError: something was edited; names the first row and how many more there are.
        """
        report = self.check(name, artifacts=artifacts)
        report.require()
        return report

    def _bundle_problems(self, summary: ModelSummary, artifacts: bool) -> Iterator[Problem]:
        assigned = summary.assignment
        roles = {assigned.production, assigned.previous, assigned.staging}
        for record in self.versions(summary.name):
            if record.status == "reserved" or record.digest is None:
                continue
            try:
                if record.version in roles and self.cache.has(record.digest):
                    self.cache.check(record.digest)
                if artifacts:
                    with self.fetched(record):
                        pass
            except RobustIDPSError as error:
                yield Problem(None, f"{record.model} {record.version}: {error}", record.model)

    # --- registering

    def reserve_version(
        self, name: str, version: str | None = None, *, breaking: bool = False, digest: str | None = None
    ) -> str:
        """Takes a version number before it is trained, so that two trainings can't claim the same.

        Args:
            version: the number wanted; default: the next minor one, with `breaking` the next major one.
            digest: of the bundle, where there is one: a number reserved for that very bundle may be taken again.

        Raises:
            VersionExistsError: the number is taken.
            NameInvalidError: the name or version is malformed.
        """
        return self._registration.reserve(name, version, breaking, digest)

    def release_reservation(self, name: str, version: str, *, digest: str | None = None) -> bool:
        """Gives a reserved number back; true if there was a reservation. A registered version is left alone.

        Args:
            digest: only where it is reserved for the bundle with this digest.
        """
        return self._registration.release(name, version, digest)

    def register_model(
        self,
        name: str,
        version: str,
        model_path: Any = None,
        metadata: ModelMetadata | None = None,
        *,
        model: Any = None,
        schema: TrafficSchema | None = None,
        rows: TrafficSet | None = None,
        features: Features = "raw",
        output: Output = "auto",
        progress: Progress = silent,
        held_out: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        digest: str | None = None,
        run_id: str | None = None,
        history: Any = None,
        params: Mapping[str, Any] | None = None,
        command: str = "",
        actor: str | None = None,
        actor_source: str | None = None,
    ) -> VersionRecord:
        """Enters a model as a version: verified, uploaded to MLflow, recorded.

        A bundle is entered as it is. Anything else is first made one (`robustidps.importing` has what can be read and
        how): converted, tried in a process of its own, held against itself by the parity gate.

        Args:
            model_path: a bundle folder, as `robustidps.bundle.write_bundle` makes it; an `.onnx`, `.keras` or
                `.safetensors` file, a SavedModel folder, a `.pt` state dict; a `torch.nn.Module` or a Keras model.
            metadata: for a bundle: if given, must say what the bundle's own says; an empty `checksum` is filled in.
                For anything else: what the version is.
            model: the module that a file of weights belongs to; or, without `model_path`, the model itself.
            schema, rows, features, output, progress: for anything but a bundle: as `importing.import_model`.
            held_out: what the version is to be judged on: path, digest, dataset, rules.
            provenance: where a bundle from elsewhere came from, for the ledger.
            digest: what a bundle's has to be, where it was looked at before: another one is refused.
            run_id: the training's MLflow run (`training_run`); default: a run of its own.
            history, params, command: for a run of its own: figures per epoch, parameters, the command that repeats it.

        Raises:
            InputError: not a model that can be read, or one of another name or version.
            SchemaError: model, metadata, schema and rows don't fit each other.
            BundleError: the bundle is malformed or was edited; the model holds what isn't allowed, or failed its trial.
            VersionExistsError: the version exists.
            RegistryUnavailableError: MLflow doesn't answer; nothing is entered, the same call can be made again.
        """
        kept: dict[str, Any] = {"held_out": held_out, "run_id": run_id, "history": history, "params": params}
        kept |= {"command": command, "actor": acting(actor, actor_source), "provenance": provenance}
        kept["digest"] = digest
        if model_path is None and model is None:
            raise InputError("no model was given", where=f"{name} {version}", remedy="give a path, or an object")
        if is_bundle(model_path):
            self._registration.register(name, version, Path(model_path), metadata, **kept)
            return self.version(name, version)
        given, network = (model, None) if model_path is None else (model_path, model)
        how: dict[str, Any] = {"schema": schema, "rows": rows, "features": features, "output": output}
        with as_bundle(self, name, version, given, metadata, network=network, progress=progress, **how) as folder:
            self._registration.register(name, version, folder, None, **kept)
        return self.version(name, version)

    # --- moving

    def transition(
        self,
        name: str,
        version: str,
        stage: str,
        *,
        verdict: Any = None,
        actor: str | None = None,
        actor_source: str | None = None,
        rule_set: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        reason: str = "",
        expected_generation: int | None = None,
        project: bool = True,
        override_until: datetime | None = None,
    ) -> Decision:
        """Moves a version to Staging, Production or Archived: one commit, then MLflow's picture follows.

        Handles in this process that follow the stage (`load_model`) use the version from then on.

        Args:
            verdict: what the rules said: a `promotion.Verdict`, or a mapping with `outcome` and `reasons`. Staging and
                Production take an outcome of `promote` and nothing else.
            expected_generation: `assignment(name).generation` from before the version was judged; if it has moved on
                since, the judgement is of a state that is gone, and nothing happens. Default: as it is now.
            override_until: the move is a person's override of `verdict`, with `reason`; into Production it pins the
                version until then. `robustidps.overriding.override` checks what an override can't waive.

        Raises:
            ModelValidationError: the verdict isn't `promote`, and this is no override.
            RefusedError: the model is frozen, or another version is pinned.
            ConflictError: somebody else moved the model meanwhile, or the version is there already.
            BundleError, NotFoundError: its bundle can't be kept for later rollbacks.
        """
        target = check_stage(stage)
        if expected_generation is None:
            expected_generation = self.assignment(name).generation
        outcome, reasons = verdict_parts(verdict)
        facts = _with_rules(evidence, verdict)
        prepared: Loaded | None = None
        if target in ("Staging", "Production"):
            if override_until is not None:
                until = override_until.isoformat()
                facts["override"] = {"reason": reason, "until": until, "verdict": outcome, "reasons": reasons}
                outcome = OVERRIDE
            elif outcome != APPROVED:
                raise ModelValidationError(
                    f"not approved: {'; '.join(reasons) or outcome or 'no verdict'}",
                    where=f"{name} {version} -> {target}",
                )
            record = self.version(name, version)
            if record.status == "registered":
                self._kept(record)
                prepared = self._prepared(record, target)
        elif target != "Archived":
            raise InputError("a version can't go back to None", remedy="archive it")
        who, source = acting(actor, actor_source)
        decision = commit(
            self.store,
            self.ledger,
            Move(
                name,
                version,
                "archive" if target == "Archived" else "promote",
                target,
                who,
                source,
                outcome or "recorded",
                tuple([reason] if reason else []) + reasons,
                facts,
                rule_set or getattr(verdict, "rule_set", None),
            ),
            expected_generation=expected_generation,
        )
        self._swapped(decision, prepared)
        if project:
            self._project_or_warn(name)
        return decision

    def record_refusal(
        self,
        name: str,
        version: str,
        stage: str,
        *,
        verdict: Any,
        actor: str | None = None,
        actor_source: str | None = None,
        rule_set: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        reason: str = "",
        also: Also | None = None,
    ) -> Decision:
        """Writes into the ledger that a version was not let into a stage, and why. Moves nothing.

        Args:
            also: writes of the caller's that belong to the same transaction.
        """
        target = check_stage(stage)
        outcome, reasons = verdict_parts(verdict)
        if outcome == APPROVED:
            raise InputError("a refusal needs a verdict that refuses", where=f"{name} {version}")
        who, source = acting(actor, actor_source)
        said = tuple([reason] if reason else []) + reasons
        facts, rules = _with_rules(evidence, verdict), rule_set or getattr(verdict, "rule_set", None)
        move = Move(name, version, "refuse", target, who, source, outcome or "reject", said, facts, rules)
        decision = commit(self.store, self.ledger, move, also=also)
        self._project_or_warn(name)
        return decision

    def record(
        self,
        name: str,
        version: str,
        action: str,
        *,
        reasons: Iterable[str] = (),
        evidence: Mapping[str, Any] | None = None,
        to_stage: str = "None",
        verdict: str = "recorded",
        rule_set: str | None = None,
        actor: str | None = None,
        actor_source: str | None = None,
        also: Also | None = None,
    ) -> Decision:
        """Puts something about a version on record that moves nothing: an approval, an alarm, a review.

        Args:
            action: one of `stages.RECORDS`, but not `register`, `refuse`, `turn_away`: they have methods of their own.
            also: writes of the caller's that belong to the same transaction.

        Raises:
            InputError: no such action. NotFoundError: no such version. LedgerError: the ledger was edited.
        """
        if action not in RECORDS or action in ("register", "refuse", TURNED_AWAY):
            raise InputError(f"{action!r} is nothing that is recorded by itself", where=f"{name} {version}")
        who, source = acting(actor, actor_source)
        facts = dict(evidence or {})
        move = Move(name, version, action, to_stage, who, source, verdict, tuple(reasons), facts, rule_set)
        return commit(self.store, self.ledger, move, also=also)

    def turn_away(
        self,
        name: str,
        version: str | None,
        *,
        reasons: Iterable[str],
        evidence: Mapping[str, Any] | None = None,
        verdict: str = "reject",
        rule_set: str | None = None,
        actor: str | None = None,
        actor_source: str | None = None,
    ) -> Decision:
        """Writes into the ledger that an offered update was refused before it became a version here, and why.

        Args:
            version: the one that was offered; None where a whole repository was refused.
            evidence: with `digest`, the offered bundle's, where it is known.

        Raises:
            LedgerError: the ledger was edited.
        """
        who, source = acting(actor, actor_source)
        facts = dict(evidence or {})
        checked = None if version is None else check_version(version)
        move = Move(
            check_name(name), checked, TURNED_AWAY, "None", who, source, verdict, tuple(reasons), facts, rule_set
        )
        return commit(self.store, self.ledger, move)

    def freeze(
        self,
        name: str,
        *,
        reason: str,
        until: datetime | None = None,
        actor: str | None = None,
        actor_source: str | None = None,
    ) -> Decision:
        """The emergency stop: from now on nothing of `name` is promoted, until it is thawed or `until`; rollback works.

        Raises:
            InputError: no reason. NotFoundError: no registered version.
        """
        facts = {"until": until.isoformat() if until else None}
        return self._hold(name, "freeze", reason, facts, actor, actor_source)

    def thaw(self, name: str, *, reason: str, actor: str | None = None, actor_source: str | None = None) -> Decision:
        """Ends a freeze, and the pin of an override.

        Raises:
            InputError: no reason. ConflictError: neither frozen nor pinned.
        """
        if self.frozen(name) is None and self.pinned(name) is None:
            raise ConflictError("is neither frozen nor pinned", where=name, remedy="nothing to do")
        return self._hold(name, "thaw", reason, {}, actor, actor_source)

    def _hold(
        self, name: str, action: str, reason: str, facts: dict[str, Any], actor: str | None, source: str | None
    ) -> Decision:
        if not reason.strip():
            raise InputError("a reason is needed", where=f"{action} {name}", remedy="--reason TEXT")
        registered = [r.version for r in self.versions(name) if r.status != "reserved"]
        if not registered:
            raise NotFoundError("has no registered version", where=name)
        about = self.assignment(name).production or registered[-1]
        return self.record(name, about, action, reasons=(reason,), evidence=facts, actor=actor, actor_source=source)

    def take_alias(
        self,
        name: str,
        version: str,
        alias: str,
        *,
        verdict: Any,
        evidence: Mapping[str, Any],
        rule_set: str | None = None,
        actor: str | None = None,
        actor_source: str | None = None,
    ) -> Decision:
        """Gives a version an alias for hardware if the verdict is `promote`; else records that it was refused.

        The version that had it loses it. Stages stay as they are; MLflow's alias follows.

        Args:
            alias: `loihi`. verdict: a mapping with `outcome` and `reasons` (`robustidps.loihi.gate.verdict`).
            evidence: what the verdict rests on; kept in the ledger.

        Raises:
            InputError: no such alias. ConflictError: the version has it already, or somebody else was first.
            NotFoundError, BundleError: its bundle can't be kept here.
        """
        if alias not in HARDWARE:
            raise InputError(f"no alias {alias!r} for hardware", remedy=f"known: {', '.join(HARDWARE)}")
        generation = self.assignment(name).generation
        outcome, reasons = verdict_parts(verdict)
        approved = outcome == APPROVED
        if approved:
            record = self.version(name, version)
            if record.status == "registered":
                self._kept(record)
        who, source = acting(actor, actor_source)
        action = ALIAS if approved else "refuse"
        move = Move(name, version, action, alias, who, source, outcome or "reject", reasons, dict(evidence), rule_set)
        decision = commit(self.store, self.ledger, move, expected_generation=generation)
        self._project_or_warn(name)
        return decision

    def rollback(
        self, name: str, *, reason: str = "", actor: str | None = None, actor_source: str | None = None
    ) -> Decision:
        """Puts the retained previous version back into Production. One commit; needs neither network nor MLflow.

        MLflow's picture is left pending; `ensure_projected` completes it. Handles in this process follow.

        Raises:
            RefusedError: there is no previous version.
            NotFoundError, BundleError: its bundle isn't kept here any more, or was edited.
            ConflictError: somebody else moved the model in this moment.
        """
        assigned = self.assignment(name)
        if assigned.previous is None:
            raise RefusedError(
                "there is no previous version to go back to",
                where=name,
                remedy="promote another version (robustidps models)",
            )
        record = self.version(name, assigned.previous)
        try:
            self.cache.check(record.digest or "")
        except NotFoundError as error:
            remedy = (
                f"fetch it while MLflow answers: robustidps registry repair, then roll back; looked in {error.where}"
            )
            raise NotFoundError(
                "the previous version's bundle is not kept on this machine",
                where=f"{name} {record.version}",
                remedy=remedy,
            ) from None
        prepared = self._prepared(record, "Production")
        who, source = acting(actor, actor_source)
        move = Move(name, record.version, "rollback", "Production", who, source, reasons=(reason,) if reason else ())
        decision = commit(self.store, self.ledger, move, expected_generation=assigned.generation)
        self._swapped(decision, prepared)
        return decision

    def withdraw(
        self, name: str, version: str, *, reason: str, actor: str | None = None, actor_source: str | None = None
    ) -> Decision:
        """Takes a version out of the running for good: never promoted, never rolled back to, never `latest`.

        Raises:
            RefusedError: it is in Production (roll back first), or was withdrawn before.
        """
        who, source = acting(actor, actor_source)
        move = Move(name, check_version(version), "withdraw", "Archived", who, source, reasons=(reason,))
        decision = commit(self.store, self.ledger, move, expected_generation=self.assignment(name).generation)
        self._project_or_warn(name)
        return decision

    def hot_swap_model(
        self,
        current_name: str,
        new_version: str,
        validation_fn: Callable[[ModelHandle], bool] | None = None,
        *,
        judge: Callable[..., Any] | None = None,
        actor: str | None = None,
        actor_source: str | None = None,
    ) -> Decision:
        """Puts a version into Production if the rules let it, and `validation_fn` too where one is given.

        Every handle in this process that follows production uses it from then on, under load and without a failed call;
        a swap that is refused or fails leaves all of them on what they used. Where the version is in Production
        already, nothing is judged or moved, and the decision that put it there is given.

        Args:
            validation_fn: one rule more: called with the version's handle, true means that it passes.
            judge: `judge(registry, name, version, "Production") -> Verdict`; default: `robustidps.judging.judge`.

        Raises:
            ModelValidationError: refused; the reasons are in the message and in the ledger.
            ConflictError: somebody else moved the model meanwhile.
        """
        if judge is None:
            from robustidps import judging

            judge = judging.judge
        assigned = self.assignment(current_name)
        if assigned.production == new_version:
            self.resolve(current_name, "production")  # what isn't so is refused
            put, before = None, None
            for entry in self.checked_history(current_name):
                if entry.standing["production"] != before:
                    put, before = entry, entry.standing["production"]
            assert put is not None  # noqa: S101 - it is in Production by some decision
            return put
        generation = assigned.generation
        verdict = judge(self, current_name, new_version, "Production")
        outcome, reasons = verdict_parts(verdict)
        if outcome == APPROVED and validation_fn is not None:
            handle = self.load_model(current_name, new_version)
            if not validation_fn(handle):
                outcome, reasons = "reject", ("validation_fn: said no", *reasons)
        facts: dict[str, Any] = {
            "verdict": {"outcome": outcome, "reasons": reasons},
            "actor": actor,
            "actor_source": actor_source,
            "rule_set": getattr(verdict, "rule_set", None),
            "evidence": _with_rules({"validation_fn": validation_fn is not None}, verdict),
        }
        if outcome != APPROVED:
            self.record_refusal(current_name, new_version, "Production", **facts)
            raise ModelValidationError(
                f"refused: {'; '.join(reasons) or outcome}", where=f"{current_name} {new_version} -> Production"
            )
        return self.transition(current_name, new_version, "Production", expected_generation=generation, **facts)

    # --- loading

    def load_model(self, name: str, version: str = "latest") -> ModelHandle:
        """A model to call with raw features.

        Args:
            version: a number; `production`, `staging` or `loihi`; or `latest`, the newest version that was approved and
                neither rolled back nor withdrawn. All but a number need an approving decision whose signature checks
                out; a number needs the decision that registered it.

        Returns:
            A handle. One asked for as `production` or `latest` follows what is put into Production in this process from
            then on, one asked for as `staging` what is put into Staging; all others stay on their version.

        Raises:
            NotFoundError: no such version, or none in that role.
            BundleError: its artefact was edited. LedgerError: its decision was.
        """

        def find() -> Loaded:
            record = self.resolve(name, version)
            return Loaded(record.version, self._opened(record))

        if version in live.FOLLOWS:
            return live.follow(self.store.url, name, version, find)
        return ModelHandle(name, find())

    def bundle(self, name: str, version: str) -> Bundle:
        """The verified bundle of a version (or `production`, `staging`, `latest`). Raises what `load_model` raises."""
        return self._opened(self.resolve(name, version))

    def retained(self, name: str, version: str) -> bool:
        """Whether a version's bundle is kept on this machine, and opens: whether one could roll back to it.

        Raises:
            BundleError: it is there, but was changed, or doesn't reproduce its golden rows here.
        """
        record = self.version(name, version)
        if record.digest is None or not self.cache.has(record.digest):
            return False
        with self.cache.open(record.digest):
            return True

    def _opened(self, record: VersionRecord) -> Bundle:
        self._kept(record)
        return self.cache.open(record.digest or "")

    def _kept(self, record: VersionRecord) -> None:
        """Makes sure that the version's bundle is kept here: as it is, or fetched from MLflow."""
        assert record.digest is not None  # noqa: S101 - the table's check says so for all but reservations
        if self.cache.has(record.digest):
            self.cache.check(record.digest)
            return
        with self.fetched(record) as folder:
            self.cache.add(folder, record.digest)

    @contextmanager
    def fetched(self, record: VersionRecord) -> Iterator[Path]:
        """The version's bundle from MLflow, its digest checked, for the length of the block."""
        from robustidps.bundle import bundle_digest

        where = f"{record.model} {record.version} (runs:/{record.run_id}/bundle)"
        folder = self.settings.folder("cache", "fetch") / secrets.token_hex(8)
        try:
            with writable(folder):
                folder.mkdir()
            try:
                fetched = self.tracking.fetch_bundle(record.run_id or "", folder)
            except NotFoundError:
                raise NotFoundError(
                    "the artefacts are no longer in MLflow", where=where, remedy="restore them from a backup"
                ) from None
            found = bundle_digest(fetched)
            if found != record.digest:
                raise BundleError(
                    f"the artefact in MLflow was edited: its digest is {found[:16]}…, not {str(record.digest)[:16]}…",
                    where=where,
                    remedy="restore it from a backup, or withdraw the version",
                )
            yield fetched
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # --- what handles in this process use

    def _prepared(self, record: VersionRecord, stage: str) -> Loaded | None:
        """The version, opened, verified and run once, where a handle in this process follows the stage; else None."""
        if not live.followed(self.store.url, record.model, stage):
            return None
        return Loaded(record.version, self._opened(record))

    def _swapped(self, decision: Decision, prepared: Loaded | None) -> None:
        """Has handles follow a move that is done."""
        if decision.version is None or decision.to_stage not in live.FOLLOWS.values():
            return
        where = (self.store.url, decision.model, decision.to_stage, decision.generation)
        if live.swap(*where, prepared) and prepared is None:
            # Somebody began to follow between preparing and moving, and may have loaded what was there before.
            try:
                live.swap(*where, Loaded(decision.version, self.bundle(decision.model, decision.version)))
            except RobustIDPSError as error:  # the move stands
                log.warning("%s: handles in this process stay on what they use (%s)", decision.model, error)

    # --- MLflow's picture

    def ensure_projected(self, name: str | None = None) -> list[str]:
        """Completes MLflow's picture where it is behind; without anything pending MLflow isn't even imported.

        Raises:
            RegistryUnavailableError: MLflow doesn't answer; it stays pending.
        """
        return [
            change
            for pending in self.projection.pending(name)
            for change in self.projection.complete(pending, whole=False)
        ]

    def repair(self) -> list[str]:
        """Finishes registrations cut short, but undoes updates that were; keeps the bundles that rollbacks need;
        brings MLflow's aliases and tags in line with the state. What was done, one sentence each.

        Raises:
            RegistryUnavailableError: MLflow doesn't answer.
            LedgerError: the ledger was edited; nothing is repaired from it.
        """
        from robustidps.updates.working import settle

        done = [f"{name}: what an update that was killed had left is undone" for name in settle(self)]
        for summary in self.models():
            done += self._finish_registrations(summary.name)
            assigned = self.assignment(summary.name)
            for version in filter(None, (assigned.production, assigned.previous, assigned.staging)):
                record = self.version(summary.name, version)
                if not self.cache.has(record.digest or ""):
                    self._kept(record)
                    done.append(f"{record.model}: bundle of {record.version} fetched for rollbacks")
            if any(r.status != "reserved" for r in self.versions(summary.name)):
                done += self.projection.complete(summary.name)
        return done

    def _finish_registrations(self, name: str) -> Iterator[str]:
        if not any(map(self._can_be_finished, self.versions(name))):
            return
        from robustidps.updates.working import working_on

        with ExitStack() as held:
            try:
                held.enter_context(working_on(self, name))
            except ConflictError:
                return  # an update is at work, and enters its version itself, with where it is from
            for record in filter(self._can_be_finished, self.versions(name)):
                kept = self.cache.check(record.digest or "")
                try:
                    self.register_model(name, record.version, kept, held_out=record.held_out)
                except VersionExistsError:
                    continue  # it wasn't cut short: whoever was at it has finished meanwhile
                yield f"{name}: registration of {record.version} finished"

    def _can_be_finished(self, record: VersionRecord) -> bool:
        return record.status == "reserved" and record.digest is not None and self.cache.has(record.digest)

    def _project_or_warn(self, name: str) -> None:
        try:
            self.ensure_projected(name)
        except (RegistryUnavailableError, NotFoundError, ConflictError) as error:
            log.warning("%s: the move stands; MLflow's aliases follow later (%s)", name, error)


def _with_rules(evidence: Mapping[str, Any] | None, verdict: Any) -> dict[str, Any]:
    """The evidence, and what each rule said, so that a decision can be followed from its record alone."""
    facts = dict(evidence or {})
    results = getattr(verdict, "results", None)
    if results and "rules" not in facts:
        facts["rules"] = [{"text": getattr(r, "text", str(r)), "passed": getattr(r, "passed", None)} for r in results]
    digest = getattr(verdict, "rule_set_digest", None)
    return facts | ({"rule_set_digest": digest} if digest else {})
