"""The walk through days, and what comes of it: curves, areas, and what each policy spent."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import ConfigError, DatasetError, printable
from robustidps.evaluation import metrics as m
from robustidps.evaluation.ageing.curve import Curve, curves, difference
from robustidps.evaluation.ageing.labels import LabelDesk
from robustidps.evaluation.ageing.learner import Learner
from robustidps.evaluation.ageing.policies import POLICIES, Event, Policy
from robustidps.evaluation.ageing.scenario import Change
from robustidps.evaluation.ageing.settings import AgeingSettings
from robustidps.evaluation.bootstrap import DAY_S
from robustidps.evaluation.report import Interval
from robustidps.families import FamilySettings, ModelFamily
from robustidps.progress import Progress, silent
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Ageing", "Timeline", "Walk", "check_policies", "study", "timeline", "walk", "walk_curves"]

Ints = npt.NDArray[np.int64]
MAX_DAYS = 1100


@dataclass(frozen=True, eq=False)
class Timeline:
    """Traffic laid out in days and slots.

    traffic: the labelled rows, in order of time. day: int [N] from 0. slot: int [N], -1 for rows that aren't scored.
    start: seconds since 1970 of day 0. changes: what is known to have changed, for the picture.
    """

    traffic: TrafficSet
    day: Ints
    slot: Ints
    n_slots: int
    start: float
    first_day: int
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def last_day(self) -> int:
        """The last day that is scored."""
        return int(self.day[self.slot >= 0].max())


@dataclass(frozen=True, eq=False)
class Walk:
    """What came of one policy.

    predicted: int [N], most probable class of each row that was scored, -1 elsewhere. alerting: int [N], 1 where an
        alert was raised.
    seconds: spent on training; judging_s: on watching for drift and asking rules. waited: days on which a challenger
        was called for and there were too few labels to judge it.
    """

    policy: str
    text: str
    predicted: Ints
    alerting: Ints
    events: tuple[Event, ...]
    labels: int
    trainings: int
    seconds: float
    judging_s: float
    waited: int

    def count(self, kind: str) -> int:
        """How often it `trained`, `promoted`, `refused` or `held`."""
        return sum(e.kind == kind for e in self.events)


@dataclass(frozen=True, eq=False)
class Ageing:
    """A study: walks by policy, in order, with their curves and pooled figures."""

    timeline: Timeline
    settings: AgeingSettings
    family: str
    walks: dict[str, Walk]
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)

    def pooled(self, policy: str) -> dict[str, float | None]:
        """Figures over all scored rows: rates, detection of attack tools that the first weeks had none of, and
        precision restated for prevalences that networks have (`docs/evaluation.md`)."""
        return pooled(self.timeline, self.walks[policy])

    def gap(self, one: str, other: str, metric: str = "macro_f1") -> Interval:
        """AUT of one policy minus another's, paired by campaigns."""
        return difference(self.curves[one][metric], self.curves[other][metric])

    def as_dict(self) -> dict[str, Any]:
        """Everything but rows, ready for JSON."""
        c = self.timeline
        return {
            "family": self.family,
            "settings": self.settings.model_dump(mode="json"),
            "rows": int((c.slot >= 0).sum()),
            "days": {"first_scored": c.first_day, "last_scored": c.last_day, "day_0": _date(c.start)},
            "slots": c.n_slots,
            "changes": [asdict(change) for change in c.changes],
            "notes": list(c.notes),
            "policies": {
                name: {
                    "aut": {k: v.area.model_dump() for k, v in self.curves[name].items()},
                    "curves": {k: [s.model_dump() for s in v.slots] for k, v in self.curves[name].items()},
                    "pooled": self.pooled(name),
                    "labels": w.labels,
                    "trainings": w.trainings,
                    "promoted": w.count("promoted"),
                    "refused": w.count("refused"),
                    "held": w.count("held"),
                    "days_waited": w.waited,
                    "training_seconds": round(w.seconds, 2),
                    "judging_seconds": round(w.judging_s, 2),
                    "events": [{"day": e.day, "kind": e.kind, "why": e.why} for e in w.events],
                }
                for name, w in self.walks.items()
            },
        }


def study(
    traffic: TrafficSet,
    family: ModelFamily,
    family_settings: FamilySettings,
    settings: AgeingSettings | None = None,
    *,
    policies: Sequence[str] = tuple(POLICIES),
    changes: Iterable[Change] = (),
    progress: Progress = silent,
) -> Ageing:
    """Walks labelled traffic through its days under each policy.

    Args:
        traffic: rows with times; unlabelled ones are left out. At least `start_days + delay_days` and two slots long.
        policies: names from `POLICIES`.
        changes: what is known to have changed, for the picture.

    Raises:
        DatasetError: no times, too few days, or labels that can't train a model.
        ConfigError: no such policy or rule set.
    """
    settings = settings or AgeingSettings()
    check_policies(policies)
    laid_out = timeline(traffic, settings, changes)
    walks, drawn = {}, {}
    for name in [p for p in POLICIES if p in policies]:
        walks[name] = walk(laid_out, name, family, family_settings, settings, progress=progress)
        drawn[name] = walk_curves(laid_out, walks[name], settings)
    return Ageing(laid_out, settings, family.name, walks, drawn)


def check_policies(names: Sequence[str]) -> None:
    """Raises ConfigError where a policy isn't known, or none is named."""
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        problem = f"no policy {printable(unknown[0])!r}" if unknown else "no policy is named"
        raise ConfigError(problem, where="policies", remedy=f"known: {', '.join(POLICIES)}")


def timeline(traffic: TrafficSet, settings: AgeingSettings, changes: Iterable[Change] = ()) -> Timeline:
    """Lays traffic out in days and slots. Raises DatasetError."""
    where = str(traffic.provenance.get("loader", "traffic"))
    if not len(traffic):
        raise DatasetError("has no rows", where=where)
    if not traffic.has_time:
        raise DatasetError(
            "its rows have no time, and ageing is about time",
            where=where,
            remedy="name the time column in the schema file (docs/data.md), or take captures",
        )
    notes = []
    unlabelled = int((~traffic.labelled).sum())
    if unlabelled:
        notes.append(f"{unlabelled} unlabelled rows were left out")
        traffic = traffic.select(traffic.labelled)
        if not len(traffic):
            raise DatasetError("no row has a label", where=where, remedy="ageing needs labelled traffic")
    traffic = traffic.select(np.argsort(traffic.time, kind="stable"))
    whole = np.floor(traffic.time / DAY_S).astype(np.int64)
    day = whole - whole[0]
    n_days = int(day[-1]) + 1
    if n_days > MAX_DAYS:
        raise DatasetError(
            f"spans {n_days} days, more than {MAX_DAYS}", where=where, remedy="check its times, or cut it"
        )
    n_slots = (n_days - settings.first_day) // settings.slot_days
    if n_slots < 2:
        raise DatasetError(
            f"spans {n_days} days: {settings.start_days} to begin with, {settings.delay_days} until their labels are "
            f"there, and two slots of {settings.slot_days} are needed",
            where=where,
            remedy="take more days, or set start_days or slot_days lower",
        )
    slot = np.where(day >= settings.first_day, (day - settings.first_day) // settings.slot_days, -1)
    slot[slot >= n_slots] = -1
    rest = n_days - settings.first_day - n_slots * settings.slot_days
    if rest:
        notes.append(f"the last {rest} days don't fill a slot and were left out")
    empty = n_slots - len(np.unique(slot[slot >= 0]))
    if empty == n_slots:
        raise DatasetError(f"has no row in the days after the first {settings.first_day}", where=where)
    if empty:
        notes.append(f"{empty} of {n_slots} slots have no row, so no area is known; take longer slots")
    return Timeline(
        traffic, day, slot, n_slots, float(whole[0] * DAY_S), settings.first_day, tuple(changes), tuple(notes)
    )


def walk(
    laid_out: Timeline,
    name: str,
    family: ModelFamily,
    family_settings: FamilySettings,
    settings: AgeingSettings,
    *,
    progress: Progress = silent,
) -> Walk:
    """One policy's way through the days: score, then buy, then perhaps retrain. Raises DatasetError."""
    from robustidps.judging import rule_set

    traffic, day = laid_out.traffic, laid_out.day
    last = laid_out.last_day
    scored_days = range(settings.first_day, last + 1)
    kind = POLICIES[name]
    a_day = 0 if kind.spends_at_start else settings.labels_per_day
    upfront = settings.start_labels + (settings.labels_per_day - a_day) * len(scored_days)
    budget = {settings.start_days - 1: upfront} | dict.fromkeys(scored_days, a_day)
    desk = LabelDesk(traffic, day, delay_days=settings.delay_days, budget=budget)
    learner = Learner(
        family,
        family_settings,
        settings.validation,
        settings.alert_budget,
        seed=settings.seed,
        threads=settings.threads,
    )
    stream = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
    policy: Policy = kind(desk, learner, stream, rule_set(settings.rules), settings.loop)
    _buy_start(desk, settings, upfront)
    desk.today = settings.first_day - 1
    progress(f"ageing: {policy.text}", 0, len(scored_days), unit="days")
    policy.begin()
    predicted = np.full(len(traffic), -1, np.int64)
    alerting = np.zeros(len(traffic), np.int64)
    for number in scored_days:
        desk.today = number
        rows = desk.rows(number, number)
        said = policy.model.predictions(desk.show(rows).features) if len(rows) else None
        if said is not None:
            predicted[rows], alerting[rows] = said.predicted, said.alerts > 0
        policy.end_of_day(said)
        note = f"{learner.trainings} trainings"
        progress(f"ageing: {policy.text}", number - scored_days[0] + 1, len(scored_days), unit="days", note=note)
    return Walk(
        policy=name,
        text=policy.text,
        predicted=predicted,
        alerting=alerting,
        events=tuple(policy.events),
        labels=sum(desk.spent.values()),
        trainings=learner.trainings,
        seconds=learner.seconds,
        judging_s=policy.judging_s,
        waited=policy.waited,
    )


def _buy_start(desk: LabelDesk, settings: AgeingSettings, count: int) -> None:
    """The labels of the first weeks, drawn at random from all their days: the first `start_labels` of them are the
    same for every policy, so that all begin alike."""
    desk.today = settings.start_days - 1
    offer = desk.on_offer(0, desk.today)
    order = np.random.default_rng([settings.seed, 0]).permutation(offer)
    desk.buy(np.sort(order[:count]), at_random=True)


def walk_curves(laid_out: Timeline, walked: Walk, settings: AgeingSettings) -> dict[str, Curve]:
    """The curves of one walk over the scored rows."""
    scored = laid_out.slot >= 0
    return curves(
        laid_out.traffic.select(scored),
        laid_out.slot[scored],
        walked.predicted[scored],
        walked.alerting[scored],
        resamples=settings.resamples,
        seed=settings.seed,
    )


def pooled(laid_out: Timeline, walked: Walk) -> dict[str, float | None]:
    """See `Ageing.pooled`."""
    scored = laid_out.slot >= 0
    rows = laid_out.traffic.select(scored)
    predicted, alerting = walked.predicted[scored], walked.alerting[scored] > 0
    confusion = m.confusion_matrix(rows.labels, predicted, rows.schema.output_dim)
    attack = rows.labels > 0
    start = laid_out.traffic.select(laid_out.day < laid_out.first_day)
    known = set(start.tool[start.labels > 0].astype(str)) - {""}
    tool = rows.tool.astype(str)
    new = attack & (tool != "") & ~np.isin(tool, sorted(known))
    recall, fpr = _mean(alerting[attack]), _mean(alerting[~attack])
    found: dict[str, float | None] = {
        "accuracy": float(m.accuracy(confusion)),
        "macro_f1": float(m.macro_f1(confusion)),
        "detection_rate": _mean(predicted[attack] > 0),
        "detection_new_tools": _mean(predicted[new] > 0),
        "false_positive_rate": _mean(predicted[~attack] > 0),
        "alert_recall": recall,
        "alert_false_positive_rate": fpr,
    }
    for point in m.PREVALENCES:
        name = f"precision_at_prevalence_{point}"
        if recall is None or fpr is None:
            found[name] = None
            continue
        rate = fpr or min(1.0, 3 / int((~attack).sum()))  # none among n: at most 3/n at 95 %, as in `evaluate`
        found[name] = float(m.precision_at_prevalence(recall, rate, float(point)))
    return found


def _mean(marks: npt.NDArray[Any]) -> float | None:
    return float(marks.mean()) if len(marks) else None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
