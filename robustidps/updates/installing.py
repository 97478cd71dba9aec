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

Whatever is refused is in the ledger with its reasons: `turn_away` before it became a version here, `refuse` after.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    ModelValidationError,
    NotFoundError,
    RefusedError,
    RobustIDPSError,
    UnavailableError,
    UpdateError,
    VersionExistsError,
)
from robustidps.progress import Progress, silent
from robustidps.registry.keys import write_atomically
from robustidps.registry.stages import APPROVED, TURNED_AWAY
from robustidps.registry.steps import step
from robustidps.settings import check_name, writable
from robustidps.updates.offers import Update, check, survey

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
    "held_back",
    "install",
    "open_remote",
    "refused",
    "run",
    "settle",
    "stage",
    "undo_stage",
    "validate",
    "verify",
    "working_on",
]

UPDATER = "auto-update"
"""Who the updater is in the ledger; the registration's actor is the publisher."""
RULES, UNLABELLED_RULES = "auto_update", "auto_update_unlabelled"
WAIT_S = 0.5
"""How long a second run waits for the first before it gives up."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model's update.

    outcome: `none` (nothing newer), `available` (updates are only looked for), `held` (frozen or pinned), `refused`,
        `staged` (waits in Staging) or `activated`.
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


# --- around the steps: the lock, the working folder, what a killed run left


@contextmanager
def working_on(registry: ModelRegistry, name: str) -> Iterator[Path]:
    """An empty working folder for one model's update, under a lock that ends with the process; gone afterwards.

    What an earlier run that was killed left behind is undone first.

    Raises:
        ConflictError: another update of this model is going on.
    """
    check_name(name)
    with registry.store.lock(f"update-{name}", timeout_s=WAIT_S):
        folder = registry.settings.folder("updates", "work") / name
        _undo_leftovers(registry, name, folder)
        with writable(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def settle(registry: ModelRegistry) -> None:
    """Undoes what runs that were killed left behind, of all models; one that is at work is left alone."""
    for folder in registry.settings.folder("updates", "work").iterdir():
        with suppress(ConflictError), working_on(registry, folder.name):
            pass


def _undo_leftovers(registry: ModelRegistry, name: str, folder: Path) -> None:
    note = folder / _NOTE
    if note.is_file():
        try:
            version = str(json.loads(note.read_text(encoding="utf-8"))["version"])
        except (ValueError, LookupError, TypeError):
            version = None  # killed in the middle of nothing: the note is written whole, before the registration begins
        if version is not None:
            registry.release_reservation(name, version)  # no effect on one that was registered to the end
    shutil.rmtree(folder, ignore_errors=True)


_NOTE = "registering.json"


def held_back(registry: ModelRegistry, name: str) -> str | None:
    """Why nothing of this model may be put into production now: it is frozen, or a person's override is pinned."""
    try:
        stands = registry.frozen(name) or registry.pinned(name)
    except NotFoundError:
        return None  # a model that isn't here yet
    return None if stands is None else str(stands)


@contextmanager
def refused(registry: ModelRegistry, update: Update, *, for_good: bool = False) -> Iterator[None]:
    """Puts into the ledger why an offer was refused within the block; the error goes on.

    Args:
        for_good: what isn't what it claims to be says something about the offer itself, which is signed and stays that.
            Not so while it is downloaded (a mirror may send anything), nor of what is ours and was edited.
    """
    try:
        yield
    except (IntegrityError, RefusedError) as error:
        if not _known_here(registry, update):
            verdict = "reject" if for_good and isinstance(error, IntegrityError) else "hold"
            _turn_away(registry, update, (str(error),), verdict=verdict)
        raise


def _known_here(registry: ModelRegistry, update: Update) -> bool:
    try:
        return registry.version(update.name, update.new_version).status != "reserved"
    except NotFoundError:
        return False


def _turn_away(
    registry: ModelRegistry,
    update: Update,
    reasons: tuple[str, ...],
    *,
    verdict: str = "reject",
    evidence: Mapping[str, Any] | None = None,
    rule_set: str | None = None,
) -> None:
    """Once for each answer: a schedule that comes upon the same thing again adds nothing."""
    said = [d for d in registry.checked_history(update.name) if d.action == TURNED_AWAY]
    last = next((d for d in reversed(said) if d.version == update.new_version), None)
    if last and (last.bundle_digest, last.verdict, last.reasons) == (update.offer.digest, verdict, reasons):
        return
    facts = {"digest": update.offer.digest, "provenance": _provenance(update), **(evidence or {})}
    registry.turn_away(
        update.name,
        update.new_version,
        reasons=reasons,
        evidence=facts,
        verdict=verdict,
        rule_set=rule_set,
        actor=UPDATER,
        actor_source=UPDATER,
    )


def _provenance(update: Update) -> dict[str, Any]:
    offer = update.offer
    return {
        "target": f"{offer.family}/{offer.name}/{offer.version}/bundle.tar",
        "sha256": offer.sha256,
        "mirror": offer.mirror,
        "keys": list(offer.keys),
        "metadata_version": offer.metadata_version,
        "root_version": offer.root_version,
        "stated": dict(offer.metrics),
    }


# --- the steps


def download(
    registry: ModelRegistry, remote: RemoteRegistry, update: Update, folder: Path, *, progress: Progress = silent
) -> Path:
    """The offer's verified archive, in `folder`; its requirements are looked at before anything large is fetched.

    Raises:
        UpdateError, RemoteUnavailableError: see `RemoteRegistry`.
        ModelValidationError: what it requires isn't installed; names the command.
    """
    _require_installed(remote.metadata(update.offer).requirements, update)
    return remote.download(update.offer, folder, progress=progress)


def verify(
    registry: ModelRegistry, update: Update, archive: Path, folder: Path, *, progress: Progress = silent
) -> dict[str, Any]:
    """Admits the archive from quarantine: `path` of the bundle's folder below `folder`, `digest`.

    Raises:
        BundleError, UpdateError: not a bundle, not what the offer says, or not safe to load.
        ModelValidationError: what it requires isn't installed.
        VersionExistsError: its number is taken here.
    """
    from robustidps.updates.quarantine import admit

    quarantine = registry.settings.folder("updates", "quarantine")
    with admit(archive, update.offer, quarantine, progress=progress) as admitted:
        _require_installed(admitted.metadata.requirements, update)
        bundle = folder / "bundle"
        with writable(bundle):
            shutil.move(admitted.path, bundle)
    try:
        there = registry.version(update.name, update.new_version)
    except NotFoundError:
        there = None
    if there is not None and there.digest != admitted.digest:
        raise VersionExistsError(
            "its number is taken here", where=f"{update.name} {update.new_version}", remedy="ask for another version"
        )
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
        a person is missing), held_out (what the version is judged on from now on), generation (of the assignment when
        it was measured: what moves on from it must find it so).
    """
    from robustidps import judging
    from robustidps.bundle import open_bundle
    from robustidps.updates import evidence

    held_out = evidence.benchmark(registry, update.name)
    fallback = UNLABELLED_RULES if held_out is None else RULES
    generation = generation_of(registry, update.name)
    with open_bundle(Path(admitted["path"]), expected_digest=str(admitted["digest"])) as bundle:
        own = {} if validation_fn is None else {"validation_fn": judging.validated(validation_fn, bundle)}
        case = evidence.measure(
            registry,
            bundle,
            rules=rules or registry.settings.updates_rules.get(update.name) or fallback,
            validations={"verified": True, **own},
            progress=progress,
        )
    staging, production = case.verdict("Staging"), case.verdict("Production")
    if case.tier != "labelled" and registry.settings.updates_without_labels == "hold":
        reason = "updates_without_labels: without labelled traffic an update waits for a person"
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
        "approval": production.waits_for_approval,
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


def stage(registry: ModelRegistry, update: Update, admitted: Mapping[str, Any], judged: Mapping[str, Any]) -> Decision:
    """Registers the bundle with its provenance and puts it into Staging; what stood there before gives way.

    Raises:
        ModelValidationError: the rules say no, to Staging or, for good, to Production; it is on record.
        ConflictError: the model was moved meanwhile.
    """
    name, version = update.name, update.new_version
    staging, production = judged["staging"], judged["production"]
    facts = _facts(update, judged)
    no = next((v for v in (staging, production) if v["outcome"] == "reject"), None)
    if no is None and staging["outcome"] != APPROVED:
        no = staging
    if no is not None:
        reasons = tuple(no["reasons"]) or (no["outcome"],)
        _turn_away(registry, update, reasons, verdict=no["outcome"], evidence=facts, rule_set=no["rule_set"])
        raise ModelValidationError(
            f"refused: {'; '.join(reasons)}",
            where=f"{name} {version} -> {no['stage']}",
            remedy=f"robustidps history {name}",
        )
    if not _known_here(registry, update):
        folder = Path(admitted["path"])
        write_atomically(folder.parent / _NOTE, json.dumps({"version": version}).encode())
        step("update.noted")
        try:
            registry.register_model(
                name,
                version,
                folder,
                held_out=judged["held_out"],
                provenance=_provenance(update),
                actor=f"publisher {', '.join(key[:16] for key in update.offer.keys)}",
                actor_source="publisher-key",
            )
        except RobustIDPSError:
            registry.release_reservation(name, version)
            raise
        step("update.registered")
    decision = registry.transition(
        name,
        version,
        "Staging",
        verdict=staging,
        rule_set=staging["rule_set"],
        evidence=facts,
        actor=UPDATER,
        actor_source=UPDATER,
        expected_generation=judged["generation"],
    )
    step("update.staged")
    return decision


def activate(registry: ModelRegistry, update: Update, judged: Mapping[str, Any]) -> Decision:
    """Puts the staged version into Production, if the rules let it; a person is asked where nothing else is missing.

    Raises:
        ModelValidationError: the rules say no, or not yet; it is on record and stays in Staging.
        ConflictError: the model was moved meanwhile; it stays in Staging.
    """
    name, version, verdict = update.name, update.new_version, judged["production"]
    facts = _facts(update, judged)
    if hold := held_back(registry, name):
        raise ModelValidationError(f"held: {hold}", where=f"{name} {version} -> Production")
    if verdict["outcome"] == APPROVED:
        try:
            decision = registry.transition(
                name,
                version,
                "Production",
                verdict=verdict,
                rule_set=verdict["rule_set"],
                evidence=facts,
                actor=UPDATER,
                actor_source=UPDATER,
                expected_generation=judged["generation"],
            )
        except (ConflictError, RefusedError):
            raise
        except RobustIDPSError as error:
            undo_stage(registry, update, str(error))
            raise
        step("update.activated")
        return decision
    reasons = tuple(verdict["reasons"]) or (verdict["outcome"],)
    if judged["approval"]:
        _ask_a_person(registry, update, verdict["rule_set"])
    elif not _said_already(registry, update, reasons):
        registry.record_refusal(
            name,
            version,
            "Production",
            verdict=verdict,
            rule_set=verdict["rule_set"],
            evidence=facts,
            actor=UPDATER,
            actor_source=UPDATER,
        )
    raise ModelValidationError(f"stays in Staging: {'; '.join(reasons)}", where=f"{name} {version} -> Production")


def _ask_a_person(registry: ModelRegistry, update: Update, rules: str) -> None:
    """Opens a request for approval, unless one waits: it is judged anew, since a request is bound to what was shown."""
    from robustidps import approving, judging

    approving.settle(registry, update.name)
    if any(r.version == update.new_version for r in approving.waiting(registry) if r.model == update.name):
        return
    judging.promote(registry, update.name, update.new_version, "Production", rules=rules, actor=UPDATER)


def _said_already(registry: ModelRegistry, update: Update, reasons: tuple[str, ...]) -> bool:
    last = next((d for d in reversed(registry.checked_history(update.name)) if d.version == update.new_version), None)
    return last is not None and last.action == "refuse" and last.reasons == reasons


def undo_stage(registry: ModelRegistry, update: Update, reason: str) -> None:
    """Archives a version that this run staged and couldn't activate. No effect on one that isn't in Staging."""
    if registry.assignment(update.name).staging == update.new_version:
        registry.transition(
            update.name, update.new_version, "Archived", reason=reason, actor=UPDATER, actor_source=UPDATER
        )


def _facts(update: Update, judged: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"tier": judged["tier"], "measured": judged["measured"], "stated": dict(update.offer.metrics)}
    return {**judged["evidence"], "update": kept | {"provenance": _provenance(update)}}


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
        BundleError, UpdateError: it can't be trusted. RemoteUnavailableError. ConflictError: an update is going on.
    """
    _require_rules(rules)
    settle(registry)
    _require_free(registry, name)
    offered = survey(registry, remote, [name], progress=progress)
    update = next((u for u in offered if u.new_version == version), None)
    if update is None:
        known = ", ".join(u.new_version for u in offered[-8:]) or "none"
        raise NotFoundError("is not on offer", where=f"{name} {version}", remedy=f"there are: {known}")
    return take(
        registry,
        remote,
        update,
        auto_activate=auto_activate,
        rules=rules,
        validation_fn=validation_fn,
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
    progress: Progress = silent,
) -> Outcome:
    """All steps of one update, in this process. Raises as `install`."""
    with working_on(registry, update.name) as folder:
        admitted = waiting(registry, update)
        if admitted is None:
            with refused(registry, update):
                archive = download(registry, remote, update, folder, progress=progress)
            with refused(registry, update, for_good=True):
                admitted = verify(registry, update, archive, folder, progress=progress)
        with refused(registry, update):
            judged = validate(registry, update, admitted, rules=rules, validation_fn=validation_fn, progress=progress)
        if not update.waiting:
            judged |= {"generation": stage(registry, update, admitted, judged).generation}
        found: dict[str, Any] = {"name": update.name, "version": update.new_version, "current": update.current_version}
        if not auto_activate:
            reasons = tuple(judged["production"]["reasons"])
            return Outcome(**found, outcome="staged", reasons=reasons, measured=judged["measured"])
        activate(registry, update, judged)
        return Outcome(**found, outcome="activated", measured=judged["measured"])


def generation_of(registry: ModelRegistry, name: str) -> int:
    """What `transition` compares; 0 for a model that isn't here yet."""
    try:
        return registry.assignment(name).generation
    except NotFoundError:
        return 0


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
    wanted = [m.name for m in registry.models() if m.versions] if names is None else names
    try:
        updates = {u.name: u for u in check(registry, remote, wanted, progress=progress)}
    except UpdateError as error:
        distrust(registry, wanted, error)
        raise
    found, problems = [], []
    for name in wanted:
        update = updates.get(name)
        if update is None:
            found.append(Outcome(name, "none", current=_production(registry, name)))
            continue
        facts: dict[str, Any] = {"version": update.new_version, "current": update.current_version}
        if not registry.settings.enable_auto_update:
            found.append(Outcome(name, "available", reasons=("enable_auto_update is off",), **facts))
        elif hold := held_back(registry, name):
            found.append(Outcome(name, "held", reasons=(hold,), **facts))
        else:
            try:
                found.append(take(registry, remote, update, auto_activate=True, rules=rules, progress=progress))
            except (IntegrityError, RefusedError, ConflictError) as error:
                found.append(ended(registry, update, error))
            except UnavailableError as error:  # every model has its turn
                problems.append(error)
    if problems:
        raise problems[0]
    return found


def ended(registry: ModelRegistry, update: Update, error: RobustIDPSError) -> Outcome:
    """The outcome of an update that an error ended: it waits in Staging, or is refused."""
    staged = generation_of(registry, update.name) and registry.assignment(update.name).staging == update.new_version
    outcome = "staged" if staged else "held" if isinstance(error, ConflictError) else "refused"
    measured = next(iter(u for u in [update.measured] if u), None)
    return Outcome(update.name, outcome, update.new_version, update.current_version, (str(error),), measured)


def distrust(registry: ModelRegistry, names: list[str], error: UpdateError) -> None:
    """Puts into each model's ledger that the remote registry as a whole can't be trusted, once for each reason."""
    for name in names:
        said = [d for d in registry.checked_history(name) if d.action == TURNED_AWAY and d.version is None]
        if not said or said[-1].reasons != (str(error),):
            registry.turn_away(name, None, reasons=(str(error),), actor=UPDATER, actor_source=UPDATER)


def _production(registry: ModelRegistry, name: str) -> str | None:
    try:
        return registry.assignment(name).production
    except NotFoundError:
        return None
