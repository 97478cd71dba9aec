"""When a model is renewed, and with which labels. A policy sees the world through its desk alone.

frozen    trained once; its whole budget of labels goes into the first weeks
weekly    retrained every seven days on all labels so far, bought at random; always replaces
daily     the same every day
loop      the product's: labels bought partly at random, partly where the model is uncertain; drift against the
          model's reference profile, or a decline on labels bought at random, calls for a challenger; the challenger
          replaces the champion when the promotion rules find it not worse on rows that neither was trained on
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robustidps.evaluation.ageing.labels import LabelDesk
from robustidps.evaluation.ageing.learner import Learner, Model, hold_out
from robustidps.evaluation.ageing.settings import LoopSettings
from robustidps.evaluation.evaluate import Predictions, evaluate, paired
from robustidps.evaluation.reference import drift_against_profile, profile, read_profile
from robustidps.promotion import Evidence, RuleSet, decide
from robustidps.traffic.splits import identical_rows
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["POLICIES", "Calendar", "Daily", "Event", "Frozen", "Loop", "Policy", "Weekly"]

Rows = npt.NDArray[np.int64]

LEAST_TO_TELL = 50
"""New labels without which a decline in accuracy isn't asked about."""


@dataclass(frozen=True)
class Event:
    """What a policy did at the end of a day. kind: `trained`, `promoted`, `refused` or `held`; why: a sentence."""

    day: int
    kind: str
    why: str = ""


@dataclass
class Policy:
    """What all policies share: a desk, a learner, a standing model, and a record of what was done.

    judging_s: seconds spent on watching for drift and on asking the rules. waited: days on which a challenger was
        called for and there were too few labels to judge it.
    """

    desk: LabelDesk
    learner: Learner
    rng: np.random.Generator
    rules: RuleSet
    options: LoopSettings
    model: Model = field(init=False)
    events: list[Event] = field(default_factory=list, init=False)
    judging_s: float = field(default=0.0, init=False)
    waited: int = field(default=0, init=False)
    name: ClassVar[str] = ""
    text: ClassVar[str] = ""
    spends_at_start: ClassVar[bool] = False
    """Whether the whole budget is spent on the first weeks."""

    def begin(self) -> None:
        """Trains the first model on the labels of the first weeks; the desk has delivered them."""
        rows = self.desk.delivered()
        self.model = self._train(rows)

    def end_of_day(self, said: Predictions | None) -> None:
        """Buys today's labels; may put another model in place.

        Args:
            said: what the standing model said about today's rows; None on a day without any.
        """

    def _train(self, rows: Rows) -> Model:
        model = self.learner.train(self.desk.read(rows), rows, self.desk.today, self.desk.at_random(rows))
        self.events.append(Event(self.desk.today, "trained", f"on {len(rows)} labels"))
        return model

    def _buy_at_random(self, count: int) -> None:
        today = self.desk.today
        offer = self.desk.on_offer(today, today)
        count = min(count, len(offer), self.desk.left())
        self.desk.buy(self.rng.choice(offer, count, replace=False), at_random=True)


class Frozen(Policy):
    """Trained once, on as many labels as the others buy in all, or as the first weeks have."""

    name = "frozen"
    text = "frozen"
    spends_at_start = True


class Calendar(Policy):
    """Retrained every `every` days on all labels delivered so far, bought at random; the new model always replaces."""

    every: ClassVar[int] = 1

    def end_of_day(self, said: Predictions | None) -> None:
        self._buy_at_random(self.desk.left())
        if self.desk.today - self.model.day >= self.every:
            self.model = self._train(self.desk.delivered())


class Daily(Calendar):
    name = "daily"
    text = "retrained daily"
    every = 1


class Weekly(Calendar):
    name = "weekly"
    text = "retrained weekly"
    every = 7


class Loop(Policy):
    """The product's loop; see the module's docstring and `LoopSettings`."""

    name = "loop"
    text = "our loop"

    def begin(self) -> None:
        super().begin()
        self._stand(self.model)

    def _stand(self, model: Model) -> None:
        """Puts a model in place, with the profile of recent traffic that drift is measured against."""
        started = time.perf_counter()
        self.model, self.tried = model, self.desk.today
        self.reference = read_profile(profile(self._last(self.options.reference_days)))
        self.odd: deque[bool] = deque(maxlen=self.options.windows)
        self.judging_s += time.perf_counter() - started

    def _last(self, days: int) -> TrafficSet:
        """The traffic of the last so many days, today's included."""
        return self.desk.show(self.desk.rows(self.desk.today - days + 1, self.desk.today))

    def end_of_day(self, said: Predictions | None) -> None:
        if said is not None:
            started = time.perf_counter()
            window = self._last(self.options.window_days)
            report = drift_against_profile(self.reference, window.features, threshold=self.options.psi)
            self.odd.append(report["drifted_share"] >= self.options.drifted_share)
            self.judging_s += time.perf_counter() - started
            self._buy(said.probabilities)
        if self.desk.today - self.tried >= self.options.rest_days:
            why = self._call()
            if why:
                self._challenge(why)

    def _buy(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Part at random; the rest where the two most probable classes are closest, one of each set of equal rows."""
        desk = self.desk
        budget = desk.left()
        self._buy_at_random(round(self.options.random_share * budget))
        offer = desk.on_offer(desk.today, desk.today)
        place = np.searchsorted(desk.rows(desk.today, desk.today), offer)
        top = np.sort(probabilities[place], axis=1)
        margin = top[:, -1] - top[:, -2]
        same = identical_rows(desk.show(offer).features)
        order = np.argsort(margin, kind="stable")
        _, first = np.unique(same[order], return_index=True)
        again = np.setdiff1d(np.arange(len(order)), first)  # repeats are bought only when nothing else is left
        chosen = order[np.concatenate([np.sort(first), again])][: desk.left()]
        desk.buy(np.sort(offer[chosen]), at_random=False)

    def _call(self) -> str:
        """Why a challenger is called for; empty where it isn't."""
        odd = sum(self.odd)
        if odd >= self.options.odd_windows:
            return f"drift: {odd} of the last {len(self.odd)} windows"
        decline = self._decline()
        return f"decline: {decline}" if decline else ""

    def _decline(self) -> str:
        """A sentence where the model is wrong more often on labels bought at random since it was trained than it was
        on its validation rows, by more than chance would have it; else empty."""
        rows = self._fresh()
        rows = rows[self.desk.at_random(rows) & self._is_recent(rows)]
        if len(rows) < LEAST_TO_TELL:
            return ""
        labelled = self.desk.read(rows)
        right = float(np.mean(self.model.probabilities(labelled.features).argmax(axis=1) == labelled.labels))
        expected = self.model.fitted.metrics["val_accuracy"]
        error = np.sqrt(max(expected * (1 - expected), 0.25 / len(rows)) / len(rows))
        if right >= expected - self.options.decline * error:
            return ""
        return f"accuracy {right:.3f} on {len(rows)} new labels, {expected:.3f} when validated"

    def _fresh(self) -> Rows:
        """Labels of campaigns that the standing model has no row of, newest first."""
        desk = self.desk
        rows = np.setdiff1d(desk.delivered(), self.model.rows)
        known = desk.read(self.model.rows).campaign.astype(str)
        campaign = desk.read(rows).campaign.astype(str)
        rows = rows[~np.isin(campaign, known[known != ""])]
        return rows[np.argsort(-desk.bought_on(rows), kind="stable")]

    def _is_recent(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return self.desk.bought_on(rows) > self.desk.today - self.desk.delay_days - self.options.exam_days

    def _for_exam(self) -> Rows:
        """Fresh labels to draw an exam from: the recent ones, and older ones where those would be too few."""
        rows = self._fresh()
        enough = 1.2 * self.rules.evidence.min_rows / self.options.exam_share
        at_random = self.desk.at_random(rows).astype(np.int64)
        random_before = np.cumsum(at_random) - at_random
        return rows[self._is_recent(rows) | (random_before < enough)]

    def _apart_from(self, exam: Rows) -> Rows:
        """All labels so far, without the exam's rows and without other rows of its campaigns."""
        rows = np.setdiff1d(self.desk.delivered(), exam)
        campaigns = np.unique(self.desk.read(exam).campaign.astype(str))
        return rows[~np.isin(self.desk.read(rows).campaign.astype(str), campaigns[campaigns != ""])]

    def _challenge(self, why: str) -> None:
        """Trains a challenger and asks the rules; waits while there are too few rows to judge it on."""
        desk, champion = self.desk, self.model
        fresh = self._for_exam()
        aside = hold_out(desk.read(fresh), self.options.exam_share, self.rng) if len(fresh) else np.zeros(0, bool)
        exam = fresh[aside & desk.at_random(fresh)]
        if len(exam) < self.rules.evidence.min_rows:
            self.waited += 1
            return
        self.tried = desk.today
        challenger = self._train(self._apart_from(fresh[aside]))
        started = time.perf_counter()
        held_out = desk.read(exam)
        judged = [
            evaluate(m, held_out, dataset="recent labels", resamples=1000, timing=False) for m in (challenger, champion)
        ]
        evidence = [
            Evidence(
                model="ageing",
                version=m.version,
                schema_digest=m.schema.digest,
                bundle_digest=m.digest,
                evaluation=evaluation,
                training=m.facts,
            )
            for m, (evaluation, _) in zip((challenger, champion), judged, strict=True)
        ]
        verdict = decide(evidence[0], evidence[1], paired(judged[0][1], judged[1][1], held_out), self.rules)
        self.judging_s += time.perf_counter() - started
        kind = {"promote": "promoted", "reject": "refused", "hold": "held"}[verdict.outcome]
        self.events.append(Event(desk.today, kind, "; ".join([why, *verdict.reasons])))
        if verdict.outcome == "promote":
            self._stand(challenger)


POLICIES: dict[str, type[Policy]] = {p.name: p for p in (Frozen, Weekly, Daily, Loop)}
"""By name, in the order in which pictures and tables show them."""
