"""One update of one model, from the offer to the record; each step is one function, which the flow wraps in a task.

    download   the small metadata first, then the bundle, verified, into this model's working folder
    verify     quarantine: unpacked, audited, tried in a process of its own; requirements against what is installed
    validate   measured on our own traffic, beside production; the rules of Staging and Production are asked
    stage      registered, with provenance, and put into Staging
    activate   put into Production, if the rules let it, and it is wanted

What fails before `stage` has changed nothing but the working folder, which goes away. A registration that was cut short
is given back; staging and activating are one commit each, after which they are done. If activating breaks for another
reason than the rules' answer, the version is archived again. A run that was killed leaves its working folder, from
which the next run, under the same lock, undoes what was left and begins anew; downloads go on where they ended.

What is around the steps is elsewhere: the lock, and what becomes of a killed run, in `working.py`; what a refusal
leaves in the ledger, and what there stands in an update's way, in `recording.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import (
    BundleError,
    ConfigError,
    ConflictError,
    ModelValidationError,
    NotFoundError,
    RefusedError,
    RobustIDPSError,
    UpdateError,
)
from robustidps.progress import Progress, silent
from robustidps.registry.stages import APPROVED
from robustidps.registry.steps import step
from robustidps.settings import writable
from robustidps.updates.offers import UPDATER, Update, asked_about, check, survey
from robustidps.updates.recording import (
    decided_by,
    distrust,
    evidence_of,
    generation_of,
    held_back,
    known_here,
    on_record,
    provenance,
    refuse,
    still,
)
from robustidps.updates.working import registering, settle, working_on

if TYPE_CHECKING:
    from robustidps.judging import Case
    from robustidps.registry.ledger import Decision
    from robustidps.registry.registry import ModelRegistry
    from robustidps.settings import Settings
    from robustidps.updates.client import RemoteRegistry

__all__ = [
    "Outcome",
    "activate",
    "download",
    "each",
    "generation_of",
    "held_back",
    "install",
    "look",
    "open_remote",
    "run",
    "settle",
    "stage",
    "undo_stage",
    "validate",
    "verify",
    "working_on",
]

RULES, UNLABELLED_RULES = "auto_update", "auto_update_unlabelled"


@dataclass(frozen=True)
class Outcome:
    """What became of one model's update.

    outcome: `none` (nothing newer), `available` (updates are only looked for), `held` (a person's decision stands, or
        somebody else is at it), `refused`, `failed` (nothing is known about it: something here or elsewhere is broken
        or away), `staged` (waits in Staging) or `activated`.
    reasons: why it went no further. measured: the improvement as measured here.
    """

    name: str
    outcome: str
    version: str | None = None
    current: str | None = None
    reasons: tuple[str, ...] = ()
    measured: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__dataclass_fields__} | {"reasons": list(self.reasons)}


def open_remote(settings: Settings) -> RemoteRegistry:
    """The remote registry of the settings.

    Raises:
        ConfigError: none is named. NotFoundError: no root is pinned.
    """
    from robustidps.updates.client import RemoteRegistry

    if not settings.remote_registry_url:
        raise ConfigError(
            "no remote registry is named",
            where="remote_registry_url",
            remedy="set ROBUSTIDPS_REMOTE_REGISTRY_URL, or remote_registry_url in HOME/settings.yaml",
        )
    limit = settings.updates_max_mib_per_second
    return RemoteRegistry(
        settings.home,
        settings.remote_registry_url,
        max_bytes_per_second=None if limit is None else int(limit * 2**20),
    )


# --- the steps


def download(
    registry: ModelRegistry,
    remote: RemoteRegistry,
    update: Update,
    folder: Path,
    *,
    asked: bool = False,
    progress: Progress = silent,
) -> Path:
    """The offer's verified archive, in `folder`; its requirements are looked at before anything large is fetched.

    Raises:
        ConflictError: something was decided about it since it was looked at.
        UpdateError, RemoteUnavailableError: see `RemoteRegistry`.
        ModelValidationError: what it requires isn't installed; names the command.
    """
    still(registry, update)
    with on_record(registry, update, asked):
        _require_installed(remote.metadata(update.offer).requirements, update)
        return remote.download(update.offer, folder, progress=progress)


def verify(
    registry: ModelRegistry,
    update: Update,
    archive: Path,
    folder: Path,
    *,
    asked: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Admits the archive from quarantine: `path` of the bundle's folder below `folder`, `digest`.

    Raises:
        BundleError, UpdateError: not a bundle, not what the offer says, or not safe to load.
        ModelValidationError: what it requires isn't installed.
    """
    from robustidps.updates.quarantine import admit, check_archive

    with on_record(registry, update, asked):  # of this disk: says nothing about what was signed
        check_archive(archive, update.offer)
    quarantine = registry.settings.folder("updates", "quarantine")
    with (
        on_record(registry, update, asked, verdict="reject"),
        admit(archive, update.offer, quarantine, progress=progress) as admitted,
    ):
        _require_installed(admitted.metadata.requirements, update)
        bundle = folder / "bundle"
        with writable(bundle):
            shutil.move(admitted.path, bundle)
    return {"path": str(bundle), "digest": admitted.digest}


def _require_installed(requirements: list[str], update: Update) -> None:
    from robustidps.updates.evidence import unmet

    missing = unmet(requirements)
    if missing:
        raise ModelValidationError(
            f"requires what isn't installed: {'; '.join(missing)}", where=f"{update.name} {update.new_version}"
        )


def validate(
    registry: ModelRegistry,
    update: Update,
    admitted: Mapping[str, Any],
    *,
    rules: str | None = None,
    validation_fn: Callable[[Any], bool] | None = None,
    asked: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measures the bundle on our own traffic and asks the rules; plain JSON-able content.

    Args:
        admitted: as `verify` gave it; or `path` and `digest` of a version that waits in Staging.
        rules: rule set; default: `updates_rules` of the settings, else `auto_update`, or `auto_update_unlabelled` where
            there is no labelled traffic.

    Returns:
        tier (`labelled`, `unlabelled`, `none`), staging and production (verdicts: outcome, reasons, rule_set, ..),
        measured (the improvement in words, or None), evidence (what the ledger keeps), approval (whether nothing but
        a person is missing), rules (the file that was asked), held_out (what the version is judged on from now on),
        generation (of the assignment when it was measured: what moves on from it must find it so).

    Raises:
        ConflictError: something was decided about it since it was looked at.
        IntegrityError, NotFoundError, DatasetError: our own traffic, or what is in production, can't be used.
    """
    from robustidps import judging
    from robustidps.bundle import open_bundle
    from robustidps.updates import evidence

    generation = still(registry, update)
    with (
        on_record(registry, update, asked),
        open_bundle(Path(admitted["path"]), expected_digest=str(admitted["digest"])) as bundle,
    ):
        held_out = evidence.benchmark(registry, update.name)
        fallback = UNLABELLED_RULES if held_out is None else RULES
        chosen = rules or registry.settings.updates_rules.get(update.name) or fallback
        own = {} if validation_fn is None else {"validation_fn": judging.validated(validation_fn, bundle)}
        case = evidence.measure(
            registry, bundle, rules=chosen, validations={"verified": True, **own}, progress=progress
        )
    staging, production = case.verdict("Staging"), case.verdict("Production")
    approval = production.waits_for_approval and case.tier == "labelled"
    # Whatever a rule set asks for: where nothing was measured, nothing is known.
    if case.tier == "none" or (case.tier == "unlabelled" and registry.settings.updates_without_labels == "hold"):
        reason = (
            "there is no traffic to measure it on: it waits for a person"
            if case.tier == "none"
            else "updates_without_labels: without labelled traffic an update waits for a person"
        )
        production = production.model_copy(
            update={
                "outcome": "reject" if production.outcome == "reject" else "hold",
                "reasons": [*production.reasons, reason],
            }
        )
    return {
        "tier": case.tier,
        "staging": staging.model_dump(mode="json"),
        "production": production.model_dump(mode="json"),
        "measured": _in_words(case),
        "evidence": judging.recorded(case),
        "approval": approval,
        "rules": chosen,
        "held_out": held_out,
        "generation": generation,
    }


def _in_words(case: Case) -> str | None:
    """`+2.1 % [1.6, 2.6]`: the relative gain in accuracy with its interval."""
    pair = next((p for p in case.paired if p.metric == "accuracy"), None)
    if pair is None or pair.relative.value is None:
        return None
    interval = pair.relative
    bounds = (
        ""
        if interval.low is None or interval.high is None
        else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    )
    return f"{100 * pair.relative.value:+.1f} %{bounds}"


def stage(
    registry: ModelRegistry,
    update: Update,
    admitted: Mapping[str, Any],
    judged: Mapping[str, Any],
    *,
    asked: bool = False,
) -> Decision:
    """Registers the bundle with its provenance and puts it into Staging; what stood there before gives way.

    Raises:
        ModelValidationError: the rules say no, to Staging or, for good, to Production; it is on record.
        ConflictError: the model was moved meanwhile. VersionExistsError: its number was taken meanwhile.
    """
    name, version, digest = update.name, update.new_version, update.offer.digest
    staging, production = judged["staging"], judged["production"]
    no = next((v for v in (staging, production) if v["outcome"] == "reject"), None)
    if no is None and staging["outcome"] != APPROVED:
        no = staging
    if no is not None:
        reasons = tuple(no["reasons"]) or (no["outcome"],)
        facts = {"evidence": evidence_of(update, judged, no), "rule_set": no["rule_set"]}
        refuse(registry, update, reasons, asked=asked, verdict=no["outcome"], stage=no["stage"], **facts)
        raise ModelValidationError(
            f"refused: {'; '.join(reasons)}",
            where=f"{name} {version} -> {no['stage']}",
            remedy=f"robustidps history {name}",
        )
    if not known_here(registry, update):
        folder = Path(admitted["path"])
        with registering(folder.parent, version, digest):
            step("update.noted")
            registry.reserve_version(name, version, digest=digest)
            registry.register_model(
                name,
                version,
                folder,
                digest=digest,
                held_out=judged["held_out"],
                provenance=provenance(update),
                actor=f"publisher {', '.join(key[:16] for key in update.offer.keys)}",
                actor_source="publisher-key",
            )
            step("update.registered")
    decision = registry.transition(
        name,
        version,
        "Staging",
        verdict=staging,
        rule_set=staging["rule_set"],
        evidence=evidence_of(update, judged, staging),
        expected_generation=judged["generation"],
        **decided_by(asked),
    )
    step("update.staged")
    return decision


def activate(registry: ModelRegistry, update: Update, judged: Mapping[str, Any], *, asked: bool = False) -> Decision:
    """Puts the staged version into Production, if the rules let it; a person is asked where nothing else is missing.

    Raises:
        ModelValidationError: the rules say no, or not yet; it is on record and stays in Staging.
        ConflictError: the model was moved meanwhile; it stays in Staging.
    """
    name, version, verdict = update.name, update.new_version, judged["production"]
    where = f"{name} {version} -> Production"
    if hold := held_back(registry, name, version):
        raise ModelValidationError(f"held: {hold}", where=where)
    if verdict["outcome"] == APPROVED:
        try:
            decision = registry.transition(
                name,
                version,
                "Production",
                verdict=verdict,
                rule_set=verdict["rule_set"],
                evidence=evidence_of(update, judged, verdict),
                expected_generation=judged["generation"],
                **decided_by(asked),
            )
        except (ConflictError, RefusedError):
            raise
        except RobustIDPSError as error:
            if not update.waiting:  # this run has staged it
                undo_stage(registry, update, str(error))
            raise
        step("update.activated")
        return decision
    reasons = tuple(verdict["reasons"]) or (verdict["outcome"],)
    if judged["approval"]:
        _ask_a_person(registry, update, judged, asked)
    else:
        facts = {"evidence": evidence_of(update, judged, verdict), "rule_set": verdict["rule_set"]}
        refuse(registry, update, reasons, asked=asked, verdict=verdict["outcome"], stage="Production", **facts)
    raise ModelValidationError(f"stays in Staging: {'; '.join(reasons)}", where=where)


def _ask_a_person(registry: ModelRegistry, update: Update, judged: Mapping[str, Any], asked: bool) -> None:
    """Opens a request for approval, unless one waits: it is judged anew, since a request is bound to what was shown."""
    from robustidps import approving, judging

    name, held_out, home = update.name, judged["held_out"], registry.settings.home
    approving.settle(registry, name)
    if any(r.version == update.new_version for r in approving.waiting(registry, name)):
        return
    judging.promote(
        registry,
        name,
        update.new_version,
        "Production",
        rules=judged["rules"],
        held_out=judging.read_held_out(held_out, f"updates of {name}", home=home),
        evaded=judging.read_evaded(held_out, f"updates of {name}", home=home),
        actor=None if asked else UPDATER,
    )


def undo_stage(registry: ModelRegistry, update: Update, reason: str) -> None:
    """Archives a version that this run staged and couldn't activate. No effect on one that isn't in Staging."""
    if registry.assignment(update.name).staging == update.new_version:
        registry.transition(update.name, update.new_version, "Archived", reason=reason, **decided_by(False))


# --- the whole of it


def install(
    registry: ModelRegistry,
    remote: RemoteRegistry,
    name: str,
    version: str,
    *,
    auto_activate: bool = False,
    rules: str | None = None,
    validation_fn: Callable[[Any], bool] | None = None,
    progress: Progress = silent,
) -> Outcome:
    """One version that a person asks for: `staged`, or `activated` where that is wanted.

    What the updater would leave alone (`Update.why_not`) may be asked for by name; the rules judge it all the same.

    Raises:
        NotFoundError: it isn't on offer. ModelValidationError: the rules say no, or what it requires is missing.
        RefusedError: the model is frozen. ConfigError: no such rules; both before anything is downloaded.
        BundleError, UpdateError: it can't be trusted. RemoteUnavailableError. ConflictError: an update is going on; or
            several families offer it, and none of them is here.
    """
    _require_rules(rules)
    settle(registry)
    _require_free(registry, name)
    offered = survey(registry, remote, [name], progress=progress)
    update = next((u for u in offered if u.new_version == version), None)
    if update is None:
        known = ", ".join(u.new_version for u in offered[-8:]) or "none"
        raise NotFoundError("is not on offer", where=f"{name} {version}", remedy=f"there are: {known}")
    if len({u.offer.family for u in offered}) > 1:
        raise ConflictError(str(update.why_not), where=f"{name} {version}", remedy="ask the publisher whose it is")
    return take(
        registry,
        remote,
        update,
        auto_activate=auto_activate,
        rules=rules,
        validation_fn=validation_fn,
        asked=True,
        progress=progress,
    )


def _require_rules(rules: str | None) -> None:
    if rules is not None:
        from robustidps import judging

        judging.rule_set(rules)


def _require_free(registry: ModelRegistry, name: str) -> None:
    """Nothing of a frozen model moves, not even into Staging."""
    with suppress(NotFoundError):  # a model that isn't here yet
        if (freeze := registry.frozen(name)) is not None:
            raise RefusedError(str(freeze), where=name, remedy=f"robustidps thaw {name} --reason '...'")


def take(
    registry: ModelRegistry,
    remote: RemoteRegistry,
    update: Update,
    *,
    auto_activate: bool,
    rules: str | None = None,
    validation_fn: Callable[[Any], bool] | None = None,
    asked: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """All steps of one update, in this process. Raises as `install`."""
    how: dict[str, Any] = {"asked": asked, "progress": progress}
    with working_on(registry, update.name) as folder:
        admitted = waiting(registry, update) or verify(
            registry, update, download(registry, remote, update, folder, **how), folder, **how
        )
        judged = validate(registry, update, admitted, rules=rules, validation_fn=validation_fn, **how)
        if not update.waiting:
            judged |= {"generation": stage(registry, update, admitted, judged, asked=asked).generation}
        found: dict[str, Any] = {"name": update.name, "version": update.new_version, "current": update.current_version}
        if not auto_activate:
            reasons = tuple(judged["production"]["reasons"])
            return Outcome(**found, outcome="staged", reasons=reasons, measured=judged["measured"])
        activate(registry, update, judged, asked=asked)
        return Outcome(**found, outcome="activated", measured=judged["measured"])


def waiting(registry: ModelRegistry, update: Update) -> dict[str, Any] | None:
    """The kept bundle of a version that waits in Staging here, as `verify` would give it; else None."""
    if not update.waiting:
        return None
    with registry.bundle(update.name, update.new_version) as bundle:
        return {"path": str(bundle.path), "digest": bundle.digest}


def run(
    registry: ModelRegistry,
    remote: RemoteRegistry,
    names: list[str] | None = None,
    *,
    rules: str | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """One round of the updater over all models, or `names`: looks, and takes what may be taken. A refusal is an
    outcome; what was refused stays as it was.

    Raises:
        UpdateError, RemoteUnavailableError: of the remote registry as a whole; the first is in the ledger of each model
            it was asked about. ConfigError: no such rules.
    """
    _require_rules(rules)
    settle(registry)
    wanted = asked_about(registry, names)
    updates = look(registry, remote, wanted, progress=progress)

    def one(update: Update) -> Outcome:
        return take(registry, remote, update, auto_activate=True, rules=rules, progress=progress)

    return each(registry, wanted, updates, one)[0]


def each(
    registry: ModelRegistry, names: Iterable[str], updates: Iterable[Update], one: Callable[[Update], Outcome]
) -> tuple[list[Outcome], list[RobustIDPSError]]:
    """Every model has its turn, whatever became of those before it.

    Args:
        one: takes one update.

    Returns:
        The outcome of each model; and the errors behind those that failed.
    """
    offered = {update.name: update for update in updates}
    found: list[Outcome] = []
    failed: list[RobustIDPSError] = []
    for name in names:
        update = offered.get(name)
        if update is None:
            found.append(Outcome(name, "none", current=_production(registry, name)))
            continue
        facts: dict[str, Any] = {"version": update.new_version, "current": update.current_version}
        if not registry.settings.enable_auto_update:
            found.append(Outcome(name, "available", reasons=("enable_auto_update is off",), **facts))
            continue
        try:
            hold = held_back(registry, name, update.new_version)
            found.append(Outcome(name, "held", reasons=(hold,), **facts) if hold else one(update))
        except (BundleError, UpdateError, RefusedError, ConflictError) as error:
            found.append(ended(registry, update, error))
        except RobustIDPSError as error:
            failed.append(error)
            found.append(Outcome(name, "failed", reasons=(str(error),), **facts))
    return found, failed


def ended(registry: ModelRegistry, update: Update, error: RobustIDPSError) -> Outcome:
    """The outcome of an update that an error ended: it waits in Staging, or is refused."""
    staged = generation_of(registry, update.name) and registry.assignment(update.name).staging == update.new_version
    outcome = "staged" if staged else "held" if isinstance(error, ConflictError) else "refused"
    return Outcome(update.name, outcome, update.new_version, update.current_version, (str(error),), update.measured)


def look(
    registry: ModelRegistry, remote: RemoteRegistry, names: list[str], *, progress: Progress = silent
) -> list[Update]:
    """`offers.check`; that the remote registry as a whole can't be trusted goes on record. Raises as `run`."""
    try:
        return check(registry, remote, names, progress=progress)
    except UpdateError as error:
        distrust(registry, names, error)
        raise


def _production(registry: ModelRegistry, name: str) -> str | None:
    try:
        return registry.assignment(name).production
    except NotFoundError:
        return None
