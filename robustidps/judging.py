"""Gathers what the promotion rules judge, asks them, and carries out what they say.

`robustidps.promotion` is pure and `robustidps.evaluation` only measures; this module opens the bundles, finds the
held-out traffic that the candidate was registered with, scores candidate and champion anew on the very same rows, and
hands both to the rules. `judge` changes nothing; `promote` commits the decision, refusals included, to the registry.
`measured` is the part that a version which isn't registered yet has in common with one that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustidps.errors import DatasetError, InputError, IntegrityError, NotFoundError
from robustidps.progress import Progress, silent
from robustidps.settings import config_file, get_settings, load_yaml

if TYPE_CHECKING:
    from robustidps.approving import Request
    from robustidps.bundle import Bundle
    from robustidps.evaluation.report import Evaluation, PairedDifference
    from robustidps.promotion import Evidence, RuleSet, Verdict
    from robustidps.registry.registry import ModelRegistry
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Case", "gather", "held", "judge", "measured", "promote", "recent_traffic", "recorded", "rule_set", "weigh"]

Tier = Literal["labelled", "unlabelled", "none"]
ORDER = ("Staging", "Production")
"""The stages a version passes through."""


def rule_set(name: str) -> RuleSet:
    """The rules `promotion/NAME.yaml`, from HOME/configs or ours. Raises ConfigError."""
    from robustidps.promotion import RuleSet

    return load_yaml(config_file("promotion", name), RuleSet)


@dataclass(frozen=True)
class Case:
    """All that is known about a candidate when the rules are asked. `verdict(stage)` asks them.

    tier: the best evidence there was: labelled traffic, recent traffic without labels, or none.
    """

    rules: RuleSet
    candidate: Evidence
    champion: Evidence | None
    paired: list[PairedDifference]
    tier: Tier = "labelled"

    def verdict(self, stage: str) -> Verdict:
        from robustidps.promotion import decide

        return decide(self.candidate, self.champion, self.paired, self.rules, stage=stage)


def traffic_file(path: str, digest: Any, home: Path | None = None) -> Path:
    """Where recorded traffic lies: in home under its digest, where a restore has put it, else where it was recorded.

    Whatever is found there is used only if it has the recorded digest.
    """
    kept = (home or get_settings().home) / "traffic" / "kept" / f"{digest}.parquet"
    return kept if re.fullmatch(r"[0-9a-f]{64}", str(digest)) and kept.is_file() else Path(path)


def read_held_out(held_out: dict[str, Any] | None, where: str, *, home: Path | None = None) -> TrafficSet:
    """The held-out traffic that a version was registered with; its digest is checked.

    Raises:
        NotFoundError: none was recorded, or the file is gone.
        IntegrityError: the file holds other rows than were recorded.
    """
    from robustidps.traffic.trafficset import TrafficSet

    if not held_out or not held_out.get("path"):
        raise NotFoundError("no held-out traffic is recorded", where=where, remedy="name some with --on FILE.parquet")
    path = traffic_file(held_out["path"], held_out.get("digest"), home)
    if not path.is_file():
        raise NotFoundError(
            "the held-out traffic is gone", where=path, remedy="name other traffic with --on FILE.parquet"
        )
    traffic = TrafficSet.read(path)
    if traffic.digest != held_out.get("digest"):
        raise IntegrityError(
            "the held-out traffic was changed since it was recorded", where=path, remedy="restore it, or train anew"
        )
    return traffic


def read_evaded(held_out: dict[str, Any] | None, where: str, *, home: Path | None = None) -> TrafficSet | None:
    """The evaded version of the held-out traffic that a version was registered with; None where none was recorded.

    Raises:
        NotFoundError: the file is gone. IntegrityError: it holds other rows, or names them otherwise, than recorded.
    """
    from robustidps.evaluation.evasion import evaded_digest
    from robustidps.traffic.trafficset import TrafficSet

    recorded = (held_out or {}).get("evaded")
    if not recorded:
        return None
    path = traffic_file(recorded["path"], recorded.get("digest"), home)
    if not path.is_file():
        raise NotFoundError(
            f"the evaded traffic of {where} is gone", where=path, remedy="name other with --evaded FILE.parquet"
        )
    traffic = TrafficSet.read(path)
    if evaded_digest(traffic) != recorded.get("digest"):
        raise IntegrityError(
            "the evaded traffic was changed since it was recorded", where=path, remedy="restore it, or train anew"
        )
    return traffic


def gather(
    registry: ModelRegistry,
    name: str,
    version: str,
    *,
    rules: str | None = None,
    held_out: TrafficSet | None = None,
    evaded: TrafficSet | None = None,
    validation_fn: Callable[[Any], bool] | None = None,
    progress: Progress = silent,
) -> Case:
    """Scores a registered version, and the production version if it is another, on the same held-out traffic.

    Rules that never need labels are asked without it, too; those on recent traffic take what came in last.

    Args:
        rules: rule set; default: the one the version was registered with.
        held_out: traffic to judge on; default: what the version was registered with.
        evaded: attacks altered to evade; default: what the version was registered with, if anything.
        validation_fn: one rule more; called with the candidate's handle, and true means that it passes.

    Raises:
        NotFoundError, IntegrityError, ConfigError, DatasetError.
    """
    from robustidps.rules import LABEL_FREE

    record = registry.resolve(name, version)  # checked against the ledger: it names the rules and the traffic
    recorded = record.held_out or {}
    chosen = rule_set(rules or recorded.get("rules") or "default")
    if held_out is None and (recorded.get("path") or chosen.evidence.stages):
        held_out = read_held_out(recorded, f"{name} {version}", home=registry.settings.home)
    if evaded is None:
        evaded = read_evaded(recorded, f"{name} {version}", home=registry.settings.home)
    bundle = registry.bundle(name, version)
    return measured(
        registry,
        bundle,
        rules=chosen,
        held_out=held_out,
        evaded=evaded,
        dataset=recorded.get("dataset"),
        recent=recent_traffic(registry, bundle) if {r.kind for r in chosen.rules} & LABEL_FREE else None,
        drift_share=recorded.get("drift_share"),
        validations={} if validation_fn is None else {"validation_fn": validated(validation_fn, bundle)},
        progress=progress,
    )


def measured(
    registry: ModelRegistry,
    bundle: Bundle,
    *,
    rules: RuleSet,
    held_out: TrafficSet | None = None,
    evaded: TrafficSet | None = None,
    dataset: str | None = None,
    recent: TrafficSet | None = None,
    drift_share: float | None = None,
    validations: Mapping[str, bool] | None = None,
    progress: Progress = silent,
) -> Case:
    """Scores a bundle, registered or not, and what is in production under its name, on the same rows.

    Args:
        held_out: labelled traffic; without it nothing is said of right and wrong.
        evaded: attacks altered to evade.
        recent: traffic that needs no labels; without it no alert volume, no disagreement.
        drift_share: share of drifted columns, where it is known already; `recent` gives another.
        validations: answers of the caller's own checks, by name.

    Raises:
        DatasetError: traffic of another schema than the bundle's. NotFoundError, IntegrityError: the version in
        production can't be opened.
    """
    from robustidps import approving
    from robustidps.evaluation.evaluate import evaluate, paired
    from robustidps.monitoring.unlabelled import compare_unlabelled, widened

    name, version = bundle.metadata.name, bundle.metadata.version
    doing = f"judging {name} {version}"
    try:
        incumbent = registry.assignment(name).production
    except NotFoundError:
        incumbent = None  # the model is new here
    incumbent = None if incumbent == version else incumbent
    steps = 2 if incumbent else 1
    replaces = registry.bundle(name, incumbent) if incumbent else None
    # Where the bundle only knows more classes, the champion is scored as one that never gives those.
    beside = None if replaces is None else widened(replaces, bundle.schema)
    progress(doing, 0, steps)
    evaluation, theirs, differences = None, None, []
    if held_out is not None:
        held_out = _cast(held_out, bundle, f"{name} {version}")
        where = str(dataset or held_out.provenance.get("dataset") or "traffic")
        evaded = None if evaded is None else _cast(evaded, bundle, f"{name} {version}")
        # No rule asks how fast the champion is.
        timed = timing_needed(rules)
        evaluation, predictions = evaluate(bundle, held_out, dataset=where, evaded=evaded, timing=timed)
        if beside is not None:
            progress(doing, 1, steps, note=f"against {incumbent}")
            theirs, their_predictions = evaluate(beside, held_out, dataset=where, evaded=evaded, timing=False)
            differences = paired(predictions, their_predictions, held_out)
    unlabelled = None
    if recent is not None:
        batches = () if held_out is not None else timing_needed(rules)
        unlabelled = compare_unlabelled(bundle, beside, _cast(recent, bundle, f"{name} {version}"), timing=batches)
        drift_share = unlabelled.drift_share if unlabelled.drift_share is not None else drift_share
    candidate = _evidence(
        bundle,
        evaluation,
        replaces=replaces,
        rollback_available=registry.retained(name, incumbent) if incumbent else None,
        drift_share=drift_share,
        validations=dict(validations or {}),
    )
    decisions = registry.checked_history(name)
    candidate = candidate.model_copy(
        update={
            "unlabelled": unlabelled,
            "approvals": approving.approvals(decisions, version),
            "production_generation": approving.production_generation(decisions),
            "judged_at": datetime.now(UTC),
        }
    )
    progress(doing, steps, steps)
    tier: Tier = "labelled" if evaluation else "unlabelled" if unlabelled else "none"
    return Case(rules, candidate, _evidence(replaces, theirs) if replaces else None, differences, tier)


def recent_traffic(
    registry: ModelRegistry, bundle: Bundle, given: Path | None = None, *, progress: Progress = silent
) -> TrafficSet | None:
    """The newest flows for a bundle, registered or not (`monitoring.unlabelled.recent_traffic`): of the schema of what
    is in production, where the bundle only knows more classes."""
    from robustidps.monitoring import unlabelled

    name, schema = bundle.metadata.name, bundle.schema
    try:
        served = registry.bundle(name, "production").schema
    except NotFoundError:
        served = schema
    if not schema.compatible_with(served, allow_more_classes=True):
        schema = served
    return unlabelled.recent_traffic(registry.settings, name, schema, given, progress=progress)


def _cast(traffic: TrafficSet, bundle: Bundle, who: str) -> TrafficSet:
    """`traffic` in the bundle's schema: as it is, or where that only has more classes. Raises DatasetError."""
    if traffic.schema.digest == bundle.schema.digest:
        return traffic
    if bundle.schema.compatible_with(traffic.schema, allow_more_classes=True):
        raise DatasetError(
            f"is traffic of schema {traffic.schema.name}, the model's is {bundle.schema.name}", where=who
        )
    return replace(traffic, schema=bundle.schema)


def timing_needed(rules: RuleSet) -> tuple[int, ...]:
    """The batch sizes that have to be timed for the rules to be asked; timing takes longer than all else."""
    from robustidps.evaluation.timing import BATCHES

    asked = {rule.kind for rule in rules.rules} | {str(getattr(rule, "metric", "")) for rule in rules.rules}
    if any(name.startswith("throughput") for name in asked):
        return BATCHES
    return (1,) if any(name.startswith("latency") for name in asked) else ()


def validated(validation_fn: Callable[[Any], bool], bundle: Bundle) -> bool:
    """The answer of a caller's own check. Raises InputError where it isn't True or False."""
    answer = validation_fn(bundle.probabilities)
    if not isinstance(answer, bool):
        raise InputError(f"validation_fn answered {type(answer).__name__}, not True or False")
    return answer


def _evidence(
    bundle: Bundle,
    evaluation: Evaluation | None,
    *,
    replaces: Bundle | None = None,
    rollback_available: bool | None = None,
    drift_share: float | None = None,
    validations: dict[str, bool] | None = None,
) -> Evidence:
    from robustidps.promotion import Evidence

    meta = bundle.metadata
    return Evidence(
        model=meta.name,
        version=meta.version,
        schema_digest=bundle.schema.digest,
        incompatibilities=bundle.schema.compatible_with(replaces.schema) if replaces else [],
        added_classes=_added(bundle, replaces) if replaces else None,
        bundle_digest=bundle.digest,
        evaluation=evaluation,
        training=meta.training,
        drift_share=drift_share,
        rollback_available=rollback_available,
        validations=validations or {},
    )


def _added(bundle: Bundle, replaces: Bundle) -> tuple[str, ...] | None:
    if bundle.schema.compatible_with(replaces.schema, allow_more_classes=True):
        return None
    return bundle.schema.classes[len(replaces.schema.classes) :]


@dataclass(frozen=True)
class Outcome:
    """What the rules said about one stage, and what became of it. approval: the request to a person that this waits
    for, if nothing else is missing."""

    stage: str
    verdict: Verdict
    moved: bool
    approval: Request | None = None

    def as_dict(self) -> dict[str, Any]:
        waits = self.approval and {"id": self.approval.id, "expires_at": self.approval.expires_at.isoformat()}
        facts = {"stage": self.stage, "moved": self.moved, "approval": waits}
        return facts | {"verdict": self.verdict.model_dump(mode="json")}


def judge(registry: ModelRegistry, name: str, version: str, stage: str, **options: Any) -> Verdict:
    """What the rules say about moving a version to `stage`; changes nothing. Options as for `gather`."""
    hold = held(registry, name, version, stage, options.get("rules"))
    return hold or gather(registry, name, version, **options).verdict(stage)


def held(registry: ModelRegistry, name: str, version: str, stage: str, rules: str | None = None) -> Verdict | None:
    """The verdict *hold* where the model is frozen, or another version is pinned in Production; else None.

    Raises:
        NotFoundError, ConfigError.
    """
    from robustidps.promotion import RuleResult, Verdict

    stands = registry.frozen(name) or (registry.pinned(name) if stage == "Production" else None)
    if stands is None:
        return None
    chosen = rule_set(rules or (registry.version(name, version).held_out or {}).get("rules") or "default")
    result = RuleResult(rule="held", passed=None, text=f"held: {stands}")
    facts = {"rule_set": chosen.name, "rule_set_digest": chosen.digest, "left_out": chosen.left_out}
    return Verdict(outcome="hold", stage=stage, results=[result], reasons=[result.text], **facts)


def weigh(
    registry: ModelRegistry, name: str, version: str, stage: str, **options: Any
) -> tuple[Verdict, dict[str, Any]]:
    """What the rules of every stage on the way to `stage` say, and the evidence; changes nothing.

    For who takes a version to `stage` in one move, all or nothing. Options as for `gather`.

    Returns:
        The first verdict that isn't `promote`, or that on `stage`; and what the ledger keeps of the evidence.
    """
    if hold := held(registry, name, version, stage, options.get("rules")):
        return hold, {}
    staged = registry.assignment(name).staging == version
    wanted = ORDER[staged : ORDER.index(stage) + 1]
    case = gather(registry, name, version, **options)
    verdicts = [case.verdict(target) for target in wanted]
    return next((v for v in verdicts if v.outcome != "promote"), verdicts[-1]), recorded(case)


def promote(
    registry: ModelRegistry,
    name: str,
    version: str,
    stage: str = "Production",
    *,
    actor: str | None = None,
    reason: str = "",
    **options: Any,
) -> list[Outcome]:
    """Moves a version up to `stage`, through Staging, as far as the rules let it. Every answer is recorded. Where
    nothing but a person's approval is missing, it is asked for (`robustidps.approving`).

    Returns:
        One outcome for each stage asked about; the last has `moved=False` where the rules said no.

    Raises:
        InputError: no such stage or version. IntegrityError: an edited bundle, ledger or held-out set.
        ConflictError: somebody else moved a version meanwhile.
    """
    from robustidps import approving

    if stage not in ORDER:
        raise InputError(f"no stage {stage!r}", remedy=f"known: {', '.join(ORDER)}")
    assignment = registry.assignment(name)
    if assignment.production == version or (stage == "Staging" and assignment.staging == version):
        there = "Production" if assignment.production == version else "Staging"
        raise InputError(f"{name} {version} is in {there} already", remedy="nothing to do")
    wanted = ORDER[: ORDER.index(stage) + 1]
    if assignment.staging == version:
        wanted = wanted[1:]
    approving.settle(registry, name)
    generation = assignment.generation
    if hold := held(registry, name, version, wanted[0], options.get("rules")):
        registry.record_refusal(name, version, wanted[0], verdict=hold, actor=actor, reason=reason)
        return [Outcome(wanted[0], hold, moved=False)]
    case = gather(registry, name, version, **options)
    facts: dict[str, Any] = {"actor": actor, "rule_set": case.rules.name, "evidence": recorded(case), "reason": reason}
    outcomes: list[Outcome] = []
    for target in wanted:
        verdict = held(registry, name, version, target, options.get("rules")) or case.verdict(target)
        if verdict.waits_for_approval and case.candidate.evaluation is not None:  # an approval is of figures
            request = approving.ask(registry, case, verdict, **facts)
            outcomes.append(Outcome(target, verdict, moved=False, approval=request))
            break
        if verdict.outcome != "promote":
            registry.record_refusal(name, version, target, verdict=verdict, **facts)
            outcomes.append(Outcome(target, verdict, moved=False))
            break
        decision = registry.transition(
            name, version, target, verdict=verdict, expected_generation=generation, project=target == stage, **facts
        )
        generation = decision.generation
        outcomes.append(Outcome(target, verdict, moved=True))
    return outcomes


def recorded(case: Case) -> dict[str, Any]:
    """What the ledger keeps of the evidence: figures and digests, so that the decision can be followed later."""
    return {
        "candidate": case.candidate.summary(),
        "champion": case.champion.summary() if case.champion else None,
        "paired": [p.model_dump() for p in case.paired],
        "tier": case.tier,
        "rule_set_digest": case.rules.digest,
    }
