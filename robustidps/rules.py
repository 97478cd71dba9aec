"""The kinds of promotion rule: what each asks of a candidate's evidence, and the sentence it answers with. Pure.

A rule judges a `Case` (the candidate's `Evidence`, the champion's, and their paired differences on the same rows) and
gives a `RuleResult`: passed, broken, or None where it can't tell. Which rules are asked when, and what their answers
add up to, is `robustidps.promotion`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps.evaluation.metrics import describe
from robustidps.evaluation.report import Evaluation, Interval, PairedDifference, Unlabelled
from robustidps.registry.metadata import TrainingFacts, version_key

__all__ = [
    "APPROVAL",
    "LABEL_FREE",
    "Approved",
    "Case",
    "Evidence",
    "Rule",
    "RuleResult",
    "Stage",
    "gain_table",
    "needed",
]

Stage = Literal["Staging", "Production"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Measure = Literal["absolute", "relative", "error_reduction"]

APPROVAL = "approval"
"""The kind of rule that waits for a person."""
_CLOCKS_DIFFER = timedelta(minutes=5)  # between machines of one installation


class Approved(BaseModel):
    """A person's approval, as the signed ledger has it, and what exactly was approved.

    by: who; several where it can't be told which of them it was. source: how that is known. requested_by: everybody
    who may have asked for it. production_generation, data_digest: the production it was shown against, and the
    held-out traffic whose figures were shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: str
    by: tuple[str, ...]
    source: str
    at: datetime
    expires_at: datetime
    requested_by: tuple[str, ...]
    stage: Stage
    bundle_digest: str
    rule_set_digest: str
    production_generation: int
    data_digest: str | None


class Evidence(BaseModel):
    """What is known about one version when the rules are asked.

    incompatibilities: why it can't take the champion's place (`TrafficSchema.compatible_with`); empty when it can.
    added_classes: those it knows beyond the champion's, where features and the champion's classes are the same in the
    same order; None where they aren't, or nobody looked.
    drift_share: share of drifted columns, training reference against held-out or recent traffic. rollback_available:
    whether there would be a version to go back to. Both None where nobody looked.
    unlabelled: what recent traffic without labels says; None where none was looked at.
    validations: answers of the caller's own checks, by name. approvals: what persons said about this version, whether
    it counts or not. production_generation: the move that put the present production there; 0 where nothing is.
    judged_at: when the rules are asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    schema_digest: str
    incompatibilities: list[str] = Field(default_factory=list)
    added_classes: tuple[str, ...] | None = None
    bundle_digest: str
    evaluation: Evaluation | None
    unlabelled: Unlabelled | None = None
    training: TrainingFacts | None = None
    drift_share: float | None = None
    rollback_available: bool | None = None
    validations: dict[str, bool] = Field(default_factory=dict)
    approvals: list[Approved] = Field(default_factory=list)
    production_generation: int = 0
    judged_at: datetime | None = None

    def summary(self) -> dict[str, object]:
        """What the ledger keeps: identity, what it was judged on, and every figure that has a value."""
        e = self.evaluation
        return {
            "model": self.model,
            "version": self.version,
            "bundle_digest": self.bundle_digest,
            "schema_digest": self.schema_digest,
            "dataset": e.dataset if e else None,
            "data_digest": e.data_digest if e else None,
            "evaded_digest": e.evasion.data_digest if e and e.evasion else None,
            "rows": e.rows if e else 0,
            "blocks": f"{e.n_blocks} x {e.blocks}" if e else None,
            "metrics": e.metrics() if e else {},
            "unlabelled": self.unlabelled.model_dump() if self.unlabelled else None,
            "drift_share": self.drift_share,
            "approvals": [a.model_dump(mode="json") for a in self.approvals],
            "validations": self.validations,
        }


class RuleResult(BaseModel):
    """What one rule says. passed: None means that it couldn't be judged. text: one sentence with rule, figure and
    threshold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    passed: bool | None
    figure: float | None = None
    threshold: float | None = None
    text: str


@dataclass(frozen=True)
class Case:
    candidate: Evidence
    champion: Evidence | None
    paired: dict[str, PairedDifference]
    stage: Stage = "Production"
    rule_set_digest: str = ""

    def metric(self, name: str) -> float | None:
        """A finite figure or None: NaN is a missing figure, never one that compares false and slips through."""
        e, recent = self.candidate.evaluation, self.candidate.unlabelled
        value = e.metric(name) if e else None
        if value is None and recent is not None:  # how fast it is can be told without labels
            value = recent.figures.get(name)
        return value if value is not None and math.isfinite(value) else None


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[Stage, ...] = Field(default=("Staging", "Production"), min_length=1)

    @property
    def title(self) -> str:
        return str(self.kind)  # type: ignore[attr-defined]

    def judge(self, case: Case) -> RuleResult:
        raise NotImplementedError

    def _bound(
        self, figure: float | None, *, at_least: float | None = None, at_most: float | None = None, what: str = ""
    ) -> RuleResult:
        """A figure against one or two bounds."""
        what = what or self.title
        wanted = " and ".join(
            f"{word} {_n(limit)}" for word, limit in (("at least", at_least), ("at most", at_most)) if limit is not None
        )
        threshold = at_least if at_least is not None else at_most
        if figure is None:
            return self._result(None, f"{what} was not measured; {wanted} is required", None, threshold)
        if at_least is not None and figure < at_least:
            return self._result(False, f"{what} {_n(figure, at_least)} is below {_n(at_least)}", figure, at_least)
        if at_most is not None and figure > at_most:
            return self._result(False, f"{what} {_n(figure, at_most)} is above {_n(at_most)}", figure, at_most)
        return self._result(True, f"{what} {_n(figure)} is {wanted}", figure, threshold)

    def _result(
        self, passed: bool | None, text: str, figure: float | None = None, threshold: float | None = None
    ) -> RuleResult:
        return RuleResult(
            rule=self.title, passed=passed, figure=figure, threshold=threshold, text=f"{self.title}: {text}"
        )


class Threshold(_Rule):
    """A metric by name (`docs/evaluation.md`) against an absolute bound."""

    kind: Literal["threshold"]
    metric: str = Field(max_length=120)
    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        metric = describe(self.metric)
        if metric is None:
            raise ValueError(f"no such metric: {self.metric!r}; docs/evaluation.md lists them")
        given = [v for v in (self.min, self.max) if v is not None]
        if not given:
            raise ValueError("give min or max")
        if metric.share and not all(0 <= v <= 1 for v in given):
            raise ValueError(f"{self.metric} is a share, so its threshold lies between 0 and 1")
        if not metric.share and any(v < 0 for v in given):
            raise ValueError(f"{self.metric} is never negative")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self

    @property
    def title(self) -> str:
        return f"threshold {self.metric}"

    def judge(self, case: Case) -> RuleResult:
        return self._bound(case.metric(self.metric), at_least=self.min, at_most=self.max, what=self.metric)


class Gain(_Rule):
    """Not worse than the champion (margin < 0) or better than it (margin > 0), at 95 % confidence, on the same rows.

    The lower bound of the improvement's paired interval must reach `margin`. The improvement is candidate minus
    champion where higher is better, champion minus candidate where lower is. measure: `absolute`; `relative`, over the
    champion's figure (`relative: true` says the same); or `error_reduction`, over the champion's error.
    """

    kind: Literal["gain"]
    metric: str = Field(max_length=120)
    relative: bool = False
    measure: Measure = "absolute"
    margin: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = -0.005

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if describe(self.metric) is None:
            raise ValueError(f"no such metric: {self.metric!r}; docs/evaluation.md lists them")
        if self.relative and "measure" in self.model_fields_set and self.measure != "relative":
            raise ValueError(f"relative: true and measure: {self.measure} contradict each other")
        return self

    @property
    def title(self) -> str:
        return f"gain {self.metric}"

    @property
    def over(self) -> Measure:
        return "relative" if self.relative else self.measure

    def judge(self, case: Case) -> RuleResult:
        if case.champion is None:
            return self._result(True, "there is no champion to compare with", None, self.margin)
        who = f"champion {case.champion.version}"
        pair = case.paired.get(self.metric)
        if pair is None:
            return self._result(None, f"{self.metric} was not compared with {who}", None, self.margin)
        metric = describe(self.metric)
        lower_better = metric is not None and metric.better == "lower"
        change, kind = {
            "absolute": (pair.difference, "improvement"),
            "relative": (pair.relative, "relative improvement"),
            "error_reduction": (pair.error_reduction, "reduction of error"),
        }[self.over]
        # For a metric where lower is better, the worst case is the interval's upper end; an error reduction is turned.
        turned = lower_better and self.over != "error_reduction"
        end = change.high if turned else change.low
        worst = None if end is None or not math.isfinite(end) else -end if turned else end
        both = f"{self.metric} {_n(pair.candidate)} against {who}'s {_n(pair.champion)}"
        if worst is None:
            why = "too few blocks for an interval of" if change.value is not None else "there is no such thing as"
            return self._result(None, f"{both}: {why} the {kind}", None, self.margin)
        worst = worst + 0.0  # no "-0"
        passed = worst >= self.margin
        word = "reaches" if passed else "is below"
        bound = f"the lower bound of the {kind} (95 %), {_n(worst, self.margin)}, {word} {_n(self.margin)}"
        figure = needed(pair.champion, self.margin, self.over, lower_better=lower_better)
        if not passed and not 0 <= figure <= 1:
            bound += f"; no model can reach it, it would take {_n(figure)}: choose another measure (error_reduction)"
        return self._result(passed, f"{both}: {bound}", worst, self.margin)


class RecallFloor(_Rule):
    """Every attack class is recognised at least so often; a class with too few rows to tell gives hold.

    default: the floor of classes not named. classes: floors by class. exempt: classes not asked about, with the reason.
    """

    kind: Literal["recall_floor"]
    default: Share
    classes: dict[str, Share] = Field(default_factory=dict)
    exempt: dict[str, Annotated[str, Field(min_length=10, max_length=300)]] = Field(default_factory=dict)
    min_support: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := set(self.classes) & set(self.exempt):
            raise ValueError(f"{sorted(both)} have a floor and are exempt")
        return self

    def judge(self, case: Case) -> RuleResult:
        evaluation = case.candidate.evaluation
        if evaluation is None:
            return self._result(None, "recall was not measured", None, self.default)
        known = list(evaluation.classes)
        unknown = sorted((set(self.classes) | set(self.exempt)) - set(known))
        if unknown:
            return self._result(None, f"the model has no class {', '.join(unknown[:3])}", None, self.default)
        low: list[tuple[float, float, float, str]] = []
        few: list[str] = []
        margins: list[tuple[float, float, float, str]] = []
        for position, name in enumerate(known):
            if name in self.exempt or (position == 0 and name not in self.classes):
                continue  # the benign class's recall is 1 minus the false-positive rate, which has a rule of its own
            floor = self.classes.get(name, self.default)
            recall, support = evaluation.classes[name].recall.value, evaluation.classes[name].support
            if recall is None or not math.isfinite(recall) or support < self.min_support:
                few.append(f"{name} ({support} of {self.min_support} rows)")
                continue
            margins.append((recall - floor, recall, floor, name))
            if recall < floor:
                low.append(margins[-1])
        if low:
            low.sort()
            listed = "; ".join(f"{name} {_n(r, f)} is below {_n(f)}" for _, r, f, name in low[:4])
            more = f"; and {len(low) - 4} more" if len(low) > 4 else ""
            return self._result(False, f"recall of {listed}{more}", low[0][1], low[0][2])
        if few:
            return self._result(None, f"too few held-out rows of {', '.join(few[:4])}", None, self.default)
        if not margins:
            return self._result(None, "no class is left to ask about", None, self.default)
        _, recall, floor, name = min(margins)
        text = (
            f"the recall of all {len(margins)} classes asked about reaches its floor; nearest is {name}: {_n(recall)}"
        )
        return self._result(True, f"{text}, floor {_n(floor)}", recall, floor)


class FalsePositiveCeiling(_Rule):
    """Share of benign flows whose most probable class is an attack."""

    kind: Literal["false_positive_ceiling"]
    max: Share = 0.015

    def judge(self, case: Case) -> RuleResult:
        return self._bound(case.metric("false_positive_rate"), at_most=self.max, what="false_positive_rate")


class AlertBudget(_Rule):
    """Share of benign flows that raise an alert, thresholds applied."""

    kind: Literal["alert_budget"]
    max: Share = 1e-3

    def judge(self, case: Case) -> RuleResult:
        name = "alert_false_positive_rate"
        return self._bound(case.metric(name), at_most=self.max, what=name)


class Latency(_Rule):
    """99th percentile of one row, one thread, this host, milliseconds."""

    kind: Literal["latency"]
    max_ms: Positive = 100.0

    def judge(self, case: Case) -> RuleResult:
        return self._bound(case.metric("latency_p99_ms"), at_most=self.max_ms, what="latency_p99_ms")


class Throughput(_Rule):
    """Rows a second at the best batch size, one thread, this host."""

    kind: Literal["throughput"]
    min_rows_per_second: Positive

    def judge(self, case: Case) -> RuleResult:
        name = "throughput_rows_per_second"
        return self._bound(case.metric(name), at_least=self.min_rows_per_second, what=name)


class Stability(_Rule):
    """Worst time-ordered window over the mean."""

    kind: Literal["stability"]
    metric: Literal["stability", "stability_macro_f1"] = "stability"
    min: Share = 0.9

    def judge(self, case: Case) -> RuleResult:
        return self._bound(case.metric(self.metric), at_least=self.min, what=self.metric)


class SchemaCompatible(_Rule):
    """The candidate can take the champion's place without a change on the callers' side.

    superset: it may know more classes, after the champion's and with the same features; callers then meet new names.
    """

    kind: Literal["schema_compatible"]
    superset: bool = False

    def judge(self, case: Case) -> RuleResult:
        if case.champion is None:
            return self._result(True, "there is no champion whose schema would have to be met")
        problems, more = case.candidate.incompatibilities, case.candidate.added_classes
        if problems and more and self.superset:
            text = f"same features and classes as champion {case.champion.version}, and {len(more)} more: "
            return self._result(True, text + ", ".join(more[:4]), len(more))
        if problems:
            return self._result(False, f"differs from champion {case.champion.version}: {'; '.join(problems)}")
        if case.candidate.schema_digest != case.champion.schema_digest:
            text = "the digests of the two schemas differ, and nobody said whether they are compatible"
            return self._result(None, text)
        return self._result(True, f"same schema as champion {case.champion.version}")


class SameMajor(_Rule):
    """The candidate's major version is the champion's: no breaking change, as whoever numbered it says."""

    kind: Literal["same_major"]

    def judge(self, case: Case) -> RuleResult:
        if case.champion is None:
            return self._result(True, "there is no champion whose major version would have to be met")
        mine, theirs = (version_key(v).major for v in (case.candidate.version, case.champion.version))
        both = f"{case.candidate.version} and champion {case.champion.version}"
        if mine != theirs:
            return self._result(False, f"{both} differ in their major version: a breaking change", mine, theirs)
        return self._result(True, f"{both} have the same major version", mine, theirs)


class _LabelFree(_Rule):
    """Asks what recent traffic says without labels; too few flows of it give hold."""

    min_rows: int = Field(default=1000, ge=1)

    def _too_little(self, case: Case) -> RuleResult | None:
        recent = case.candidate.unlabelled
        if recent is None:
            return self._result(None, "recent traffic was not looked at")
        if recent.rows < self.min_rows:
            text = f"{recent.rows} recent flows, too few: {self.min_rows} are required"
            return self._result(None, text, recent.rows, self.min_rows)
        return None


class AlertVolume(_LabelFree):
    """Share of recent flows that raise an alert under the candidate, beside the champion's.

    max_share: whatever the champion does. max_ratio, min_ratio: times the champion's share; where that is below `floor`
    it counts as `floor`, so that one alert more among very few isn't a multiple, and `min_ratio` isn't asked.
    """

    kind: Literal["alert_volume"]
    max_share: Share = 0.2
    max_ratio: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] = 2.0
    min_ratio: Share = 0.0
    floor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-3

    def judge(self, case: Case) -> RuleResult:
        recent, missing = case.candidate.unlabelled, self._too_little(case)
        if missing is not None or recent is None:
            return missing or self._result(None, "recent traffic was not looked at")
        share = _finite(recent.alert_share)
        said = f"alerts on {_n(share or 0)} of {recent.rows} recent flows"
        if share is None:
            return self._result(None, "the share of alerts was not measured", None, self.max_share)
        if share > self.max_share:
            return self._result(False, f"{said} is above {_n(self.max_share)}", share, self.max_share)
        if case.champion is None:
            return self._result(True, f"{said}; there is no champion to compare with", share, self.max_share)
        theirs = _finite(recent.champion_alert_share)
        if theirs is None:
            return self._result(None, f"{said}: not compared with champion {case.champion.version}")
        most, least = self.max_ratio * max(theirs, self.floor), self.min_ratio * theirs if theirs >= self.floor else 0.0
        said += f", champion {case.champion.version} on {_n(theirs)}"
        if share > most:
            return self._result(False, f"{said}: above {_n(self.max_ratio)} times that ({_n(most)})", share, most)
        if share < least:
            return self._result(False, f"{said}: below {_n(self.min_ratio)} times that ({_n(least)})", share, least)
        return self._result(True, f"{said}: at most {_n(self.max_ratio)} times that ({_n(most)})", share, most)


class Disagreement(_LabelFree):
    """Share of recent flows whose most probable class the candidate and the champion see differently."""

    kind: Literal["disagreement"]
    max: Share

    def judge(self, case: Case) -> RuleResult:
        if case.champion is None:
            return self._result(True, "there is no champion to disagree with", None, self.max)
        recent, missing = case.candidate.unlabelled, self._too_little(case)
        if missing is not None or recent is None:
            return missing or self._result(None, "recent traffic was not looked at")
        share = _finite(recent.disagreement)
        what = f"share of {recent.rows} recent flows classed otherwise than by champion {case.champion.version}"
        return self._bound(share, at_most=self.max, what=what)


class DriftCeiling(_Rule):
    """Share of columns that drifted between training and held-out traffic, or recent traffic where that was taken."""

    kind: Literal["drift_ceiling"]
    max: Share

    def judge(self, case: Case) -> RuleResult:
        share = case.candidate.drift_share
        share = share if share is not None and math.isfinite(share) else None
        return self._bound(share, at_most=self.max, what="share of drifted columns")


class RollbackAvailable(_Rule):
    """There is a version to go back to, once this one is in production: kept here, verified, and it opens.

    required: also for the first version, for which there is none; it then waits for a person.
    """

    kind: Literal["rollback_available"]
    required: bool = False

    def judge(self, case: Case) -> RuleResult:
        if case.champion is None and self.required:
            return self._result(None, "nothing is in production, so there would be nothing to go back to")
        if case.champion is None:
            return self._result(True, "first version: there is nothing to go back to yet")
        if case.candidate.rollback_available is None:
            return self._result(None, "nobody looked whether the champion could be brought back")
        if case.candidate.rollback_available:
            return self._result(True, f"champion {case.champion.version} can be brought back")
        return self._result(False, f"champion {case.champion.version} could not be brought back")


class HumanApproval(_Rule):
    """So many different people, none of whom asked for it, have approved just this.

    An approval counts for the bundle, stage, rules, held-out traffic and production that it was given on, if it is
    known who gave it, and for `within_hours` after it was given. A request for one lapses after the same time.
    """

    kind: Literal["approval"]
    stages: tuple[Stage, ...] = Field(default=("Production",), min_length=1)
    people: int = Field(default=1, ge=1, le=20)
    within_hours: float = Field(default=72, gt=0, le=24 * 90, allow_inf_nan=False)

    def judge(self, case: Case) -> RuleResult:
        counted: list[Approved] = []
        names: set[str] = set()
        discarded = []
        for approved in sorted(case.candidate.approvals, key=lambda a: a.at):
            if approved.stage != case.stage:
                continue
            if why := self._doubt(approved, case):
                discarded.append(f"{_names(approved.by)}'s does not count: {why}")
            elif not names & set(approved.by):
                counted.append(approved)
                names |= set(approved.by)
        if len(counted) < self.people:
            text = f"{len(counted)} of {self.people} approvals are there; {case.candidate.version} waits for a person"
            more = f" ({'; '.join(discarded[-3:])})" if discarded else ""
            return self._result(None, text + more, len(counted), self.people)
        who = ", ".join(f"{_names(a.by)} ({a.source}, {a.at:%Y-%m-%d %H:%M} UTC)" for a in counted)
        return self._result(True, f"approved by {who}", len(counted), self.people)

    def _doubt(self, approved: Approved, case: Case) -> str | None:
        """Why an approval doesn't count here; None if it does."""
        e, now = case.candidate, case.candidate.judged_at
        if approved.source == "unverified":
            return "it is not known who that is"
        if set(approved.by) & set(approved.requested_by):
            return "who asked for it can't approve it"
        if approved.bundle_digest != e.bundle_digest:
            return "it is of another bundle"
        if not case.rule_set_digest or approved.rule_set_digest != case.rule_set_digest:
            return "it was given under other rules"
        if approved.production_generation != e.production_generation:
            return "production has moved since"
        if e.evaluation is None or approved.data_digest != e.evaluation.data_digest:
            return "the figures shown were of other held-out traffic"
        if approved.at > approved.expires_at:
            return "it came too late"
        if now is None or not -_CLOCKS_DIFFER <= now - approved.at <= timedelta(hours=self.within_hours):
            return f"it is not from the last {self.within_hours:g} h"
        return None


class RecallUnderEvasion(_Rule):
    """Detection of attacks when each tool's are altered in the way that hides them best."""

    kind: Literal["recall_under_evasion"]
    min: Share

    def judge(self, case: Case) -> RuleResult:
        name = "recall_under_evasion"
        return self._bound(case.metric(name), at_least=self.min, what=name)


Rule = Annotated[
    Threshold
    | Gain
    | RecallFloor
    | FalsePositiveCeiling
    | AlertBudget
    | Latency
    | Throughput
    | Stability
    | SchemaCompatible
    | SameMajor
    | AlertVolume
    | Disagreement
    | DriftCeiling
    | RollbackAvailable
    | HumanApproval
    | RecallUnderEvasion,
    Field(discriminator="kind"),
]


LABEL_FREE = frozenset({"alert_volume", "disagreement"})
"""Kinds of rule that ask about recent traffic without labels."""


def needed(champion: float, margin: float, measure: Measure, *, lower_better: bool = False) -> float:
    """The figure that a gain of `margin` over `champion` takes. Outside 0 to 1 no model has it."""
    if lower_better:
        return champion - margin if measure == "absolute" else champion * (1 - margin)
    if measure == "error_reduction":
        return 1 - (1 - champion) * (1 - margin)
    return champion + margin if measure == "absolute" else champion * (1 + margin)


def gain_table(margin: float = 0.02) -> str:
    """What accuracy a gain of `margin` takes, by production's, as Markdown; a test keeps the docs equal to it."""
    measures: tuple[Measure, ...] = ("absolute", "relative", "error_reduction")
    rows = [f"| production's accuracy | {' | '.join(f'`{m}`' for m in measures)} |", "|" + "---:|" * 4]
    for champion in (0.9, 0.95, 0.98, 0.985, 0.99):
        figures = [needed(champion, margin, m) for m in measures]
        cells = [f"{f:.4f}" if f <= 1 else f"{f:.4f}, impossible" for f in figures]
        rows.append(f"| {champion} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _finite(figure: Interval | None) -> float | None:
    value = figure.value if figure else None
    return value if value is not None and math.isfinite(value) else None


def _names(names: tuple[str, ...]) -> str:
    return " or ".join(names)


def _n(value: float, beside: float | None = None) -> str:
    """A figure in four digits, or in full where that would hide on which side of `beside` it lies."""
    short = f"{value:.4g}"
    return short if beside is None or value == beside or short != f"{beside:.4g}" else repr(value)
