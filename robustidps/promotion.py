"""Promotion rules: evidence in, verdict with reasons out. Pure: no file, clock, network or registry is touched here.

A `RuleSet` (one file in `configs/promotion/`) is a list of rules, each for Staging, Production or both. `decide` asks
them about the candidate's `Evidence`, and the champion's on the *same* held-out traffic:

    reject    a rule's figure breaks its threshold
    hold      no rule is broken, but something can't be judged: a figure is missing, the traffic is too little, or it
              overlaps in time with what either model was trained on. What is missing never passes
    promote   every rule passes

The kinds of rule are in `robustidps.rules`. One that can't apply to a data set is left out in writing: `left_out` names
it and says why, and a rule set that neither has nor leaves out one of `EXPECTED` is refused when it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps.evaluation.report import PairedDifference
from robustidps.rules import APPROVAL, Case, Evidence, HumanApproval, Rule, RuleResult, Stage

__all__ = ["EXPECTED", "Evidence", "EvidenceNeeds", "Rule", "RuleResult", "RuleSet", "Verdict", "decide"]

Outcome = Literal["promote", "hold", "reject"]

EXPECTED = (
    "threshold",
    "gain",
    "recall_floor",
    "false_positive_ceiling",
    "latency",
    "stability",
    "schema_compatible",
    "rollback_available",
    "disjoint_in_time",
)
"""What every rule set either asks before Production or leaves out in writing."""


class Verdict(BaseModel):
    """The answer. reasons: the sentences of every rule that didn't pass, broken ones first; empty for promote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Outcome
    stage: Stage
    rule_set: str
    rule_set_digest: str
    results: list[RuleResult]
    reasons: list[str]
    left_out: dict[str, str] = Field(default_factory=dict)

    @property
    def passed(self) -> int:
        return sum(r.passed is True for r in self.results)

    @property
    def counts(self) -> str:
        """For example `9 of 9 rules`."""
        return f"{self.passed} of {len(self.results)} rules"

    @property
    def waits_for_approval(self) -> bool:
        """Whether nothing is missing but a person's approval."""
        return self.outcome == "hold" and {r.rule for r in self.results if r.passed is not True} == {APPROVAL}


class EvidenceNeeds(BaseModel):
    """What held-out traffic must be to decide anything; less gives hold.

    stages: those that labelled evidence is needed for. A version moves into any other on what can be known without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rows: int = Field(default=1000, ge=1)
    min_blocks: int = Field(default=10, ge=1, description="campaigns, days or rows, whichever was resampled")
    disjoint_in_time: bool = True
    stages: tuple[Stage, ...] = ("Staging", "Production")


class RuleSet(BaseModel):
    """One file of `configs/promotion/`. `left_out`: kinds of rule that can't apply to the data set, with the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    description: str = Field(default="", max_length=1000)
    evidence: EvidenceNeeds = EvidenceNeeds()
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=100)
    left_out: dict[str, Annotated[str, Field(min_length=10, max_length=500)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        kinds = {rule.kind for rule in self.rules if "Production" in rule.stages}
        if self.evidence.disjoint_in_time and "Production" in self.evidence.stages:
            kinds.add("disjoint_in_time")  # type: ignore[arg-type]
        if both := kinds & set(self.left_out):
            raise ValueError(f"{', '.join(sorted(both))}: both asked and left out")
        if missing := [k for k in EXPECTED if k not in kinds and k not in self.left_out]:
            raise ValueError(f"{', '.join(missing)}: not asked before Production; say why under left_out")
        titles = [(stage, rule.title) for rule in self.rules for stage in rule.stages]
        if twice := sorted({title for stage, title in titles if titles.count((stage, title)) > 1}):
            raise ValueError(f"{', '.join(twice)}: asked twice at one stage")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the rules, for the ledger."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def for_stage(self, stage: Stage) -> list[Rule]:
        return [rule for rule in self.rules if stage in rule.stages]

    def approval(self, stage: Stage) -> HumanApproval | None:
        """The rule that waits for a person before `stage`, where there is one."""
        return next((rule for rule in self.for_stage(stage) if isinstance(rule, HumanApproval)), None)


def decide(
    candidate: Evidence,
    champion: Evidence | None,
    paired: Iterable[PairedDifference],
    rules: RuleSet,
    *,
    stage: str = "Production",
) -> Verdict:
    """Asks every rule of `stage` about the candidate.

    Args:
        candidate: the version that wants to move.
        champion: the version in production; None where there is none yet.
        paired: candidate against champion on the same rows (`evaluation.evaluate.paired`).
        stage: `Staging` or `Production`.

    Raises:
        ValueError: another stage.
    """
    if stage not in ("Staging", "Production"):
        raise ValueError(f"no rules lead to stage {stage!r}")
    to: Stage = "Staging" if stage == "Staging" else "Production"
    case = Case(candidate, champion, {p.metric: p for p in paired}, to, rules.digest)
    results = [check(case, rules.evidence) for check in _CHECKS] if to in rules.evidence.stages else []
    asked = [r for r in results if r is not None]
    asked += [rule.judge(case) for rule in rules.for_stage(to)]
    asked += [
        RuleResult(rule=name, passed=answer, text=f"{name}: the caller's own check {'passed' if answer else 'failed'}")
        for name, answer in sorted(candidate.validations.items())
    ]
    broken = [r.text for r in asked if r.passed is False]
    unknown = [r.text for r in asked if r.passed is None]
    return Verdict(
        outcome="reject" if broken else "hold" if unknown else "promote",
        stage=to,
        rule_set=rules.name,
        rule_set_digest=rules.digest,
        results=asked,
        reasons=broken + unknown,
        left_out=rules.left_out,
    )


def _enough_rows(case: Case, needs: EvidenceNeeds) -> RuleResult:
    e, name = case.candidate.evaluation, "evidence rows"
    if e is None:
        text = f"{name}: {case.candidate.version} was not evaluated"
        return RuleResult(rule=name, passed=None, threshold=needs.min_rows, text=text)
    if e.bundle_digest != case.candidate.bundle_digest:
        text = f"{name}: the evaluation is of another bundle ({e.bundle_digest[:12]})"
        return RuleResult(rule=name, passed=None, threshold=needs.min_rows, text=text)
    return _enough(name, e.rows, needs.min_rows, "held-out rows")


def _enough_blocks(case: Case, needs: EvidenceNeeds) -> RuleResult | None:
    e = case.candidate.evaluation
    return _enough("evidence blocks", e.n_blocks, needs.min_blocks, f"independent blocks ({e.blocks})") if e else None


def _enough(name: str, figure: int, least: int, what: str) -> RuleResult:
    enough = figure >= least
    text = f"{name}: {figure} {what}, {'at least' if enough else 'too few:'} {least} are required"
    return RuleResult(rule=name, passed=enough or None, figure=figure, threshold=least, text=text)


def _disjoint(case: Case, needs: EvidenceNeeds) -> RuleResult | None:
    """Neither model may have been trained on the held-out traffic: other rows, and by default another time."""
    name, problems = "evidence disjoint", []
    e = case.candidate.evaluation
    if e is None:
        return None
    for who, facts in (("candidate", case.candidate), ("champion", case.champion)):
        if facts is None:
            continue
        known = facts.training
        if known is None:
            problems.append(f"what the {who} was trained on is not known")
        elif known.data_digest == e.data_digest:
            problems.append(f"the {who} was trained on the held-out rows themselves")
        elif not needs.disjoint_in_time:
            continue
        elif None in (known.time_from, known.time_to, e.time_from, e.time_to):
            problems.append(f"when the {who}'s training or the held-out traffic took place is not known")
        elif e.time_from <= known.time_to and known.time_from <= e.time_to:  # type: ignore[operator]
            problems.append(f"the held-out traffic overlaps in time with the {who}'s training")
        elif (x := e.evasion) is not None and (
            x.time_from is None or x.time_to is None or (x.time_from <= known.time_to and known.time_from <= x.time_to)  # type: ignore[operator]
        ):
            problems.append(f"the evaded traffic has no time, or shares some with the {who}'s training")
    if problems:
        return RuleResult(rule=name, passed=None, text=f"{name}: {'; '.join(problems)}")
    if needs.disjoint_in_time:
        return RuleResult(rule=name, passed=True, text=f"{name}: held-out traffic and training share no time")
    return RuleResult(rule=name, passed=True, text=f"{name}: the held-out set is not a training set (digests differ)")


def _same_traffic(case: Case, needs: EvidenceNeeds) -> RuleResult | None:
    name, mine = "evidence same traffic", case.candidate.evaluation
    if case.champion is None or mine is None:
        return None
    theirs = case.champion.evaluation
    if theirs is None:
        text = f"{name}: champion {case.champion.version} was not evaluated on the held-out traffic"
        return RuleResult(rule=name, passed=None, text=text)
    if theirs.data_digest != mine.data_digest or theirs.bundle_digest != case.champion.bundle_digest:
        text = f"{name}: candidate and champion were judged on different traffic, or the figures are another bundle's"
        return RuleResult(rule=name, passed=None, text=text)
    return RuleResult(rule=name, passed=True, text=f"{name}: both were judged on the same {mine.rows} rows")


_CHECKS: tuple[Callable[[Case, EvidenceNeeds], RuleResult | None], ...] = (
    _enough_rows,
    _enough_blocks,
    _disjoint,
    _same_traffic,
)
