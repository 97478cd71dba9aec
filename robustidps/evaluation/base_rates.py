"""What a model's alerts come to in a network: how many a day, how many of them false, and who is to look at them.

Held-out traffic is full of attacks and a network isn't, so shares of rows say little about a day's work. From two
figures that do carry over, r = `alert_recall` and f = `alert_false_positive_rate`, come for N flows a day of which a
share p are attacks:

    true alerts N p r      missed attacks N p (1 - r)      false alerts N (1 - p) f      alerts: true + false
    precision p r / (p r + (1 - p) f), Bayes' rule (Axelsson, "The base-rate fallacy and the difficulty of intrusion
    detection", ACM TISSEC 3(3), 2000)                    analysts: alerts / what one can look at in a day

Everything is worked out from an evaluation's headline, so it is there for evaluations made before this was. Intervals
are the block bootstrap's own wherever a figure depends on one rate (a count of true, missed or false alerts is a rate
times a constant) and for precision, which `evaluate` draws. The count of all alerts depends on both rates together;
its interval takes both at the same end, as if they moved as one, which makes it rather too wide than too narrow.

Where no false alert was seen among n benign rows, f is taken as 3/n, its upper bound at 95 % (Hanley and
Lippman-Hand, JAMA 249, 1983): counts are then at most, precision is at least what is given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from robustidps.evaluation.metrics import PREVALENCES
from robustidps.evaluation.report import Evaluation, Interval

__all__ = ["FLOWS_PER_DAY", "SHARES", "BaseRate", "BaseRates", "amount", "base_rates", "one_in"]

FLOWS_PER_DAY = (1_000_000, 10_000_000, 100_000_000)
SHARES = PREVALENCES[1:]
"""Prevalences that the table speaks of, by the names that metrics give them: 1e-2 to 1e-6."""


class BaseRate(BaseModel):
    """One line: a day of `flows_per_day` flows, `prevalence` of them attacks. A figure that can't be known is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flows_per_day: int
    prevalence: str = Field(description="share of flows that are attacks, as metric names write it: 1e-4")
    attacks: float = Field(description="attack flows a day")
    true_alerts: Interval
    missed: Interval = Field(description="attack flows a day that raise no alert")
    false_alerts: Interval
    alerts: Interval
    precision: Interval = Field(description="share of alerts that are attacks")
    analysts: Interval = Field(description="people needed to look at every alert")


class BaseRates(BaseModel):
    """The table, flows a day by prevalence.

    no_false_alert_among: benign rows among which no false alert was seen, and 3/n stands in for the rate; else None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alerts_per_analyst: float
    no_false_alert_among: int | None
    rows: list[BaseRate]

    def for_flows(self, flows_per_day: int) -> list[BaseRate]:
        return [row for row in self.rows if row.flows_per_day == flows_per_day]

    def count(self, figure: Interval, *, exact: bool = False) -> str:
        """A count as text: `4,690 [3,120 to 6,690]`; `≤` before it where it rests on a bound (unless `exact`)."""
        return _told(figure, "" if exact else self._sign("≤ "))

    def precision(self, row: BaseRate) -> str:
        """A line's precision as text; `≥` before it where it rests on a bound."""
        return _told(row.precision, self._sign("≥ "))

    def attacks_looked_at(self, row: BaseRate) -> str:
        """How many attacks are among the alerts that one analyst looks at in a day, given that there are that many."""
        return _told(_times(row.precision, self.alerts_per_analyst), self._sign("≥ "))

    def _sign(self, sign: str) -> str:
        return sign if self.no_false_alert_among else ""

    @property
    def notes(self) -> list[str]:
        """What has to be known to read the table."""
        told = [
            f"one analyst is taken to look at {amount(self.alerts_per_analyst)} alerts a day (alerts_per_analyst)",
            "an alert is one flow's; nothing is grouped, so a flood of a thousand flows is a thousand alerts",
            "the interval of all alerts, and so of analysts, takes both rates at the same end: too wide if anything",
        ]
        if self.no_false_alert_among:
            told += [
                f"no false alert among {self.no_false_alert_among:,} benign rows: 3/n stands in for the rate, its "
                "upper bound at 95 % if rows are independent",
                "≤ and ≥ mark what rests on that bound; the intervals of those are from recall alone",
            ]
        return told

    def compact(self) -> tuple[list[str], list[list[str]]]:
        """The table on one screen, as header and rows: counts for the smallest volume, analysts for each of them."""
        smallest, *_ = volumes = sorted({row.flows_per_day for row in self.rows})
        header = ["prevalence", "precision", "found", "missed", "false alerts", "analysts"]
        rows = []
        for row in self.for_flows(smallest):
            same = [r.analysts for v in volumes for r in self.for_flows(v) if r.prevalence == row.prevalence]
            first, *others = map(_point, same)
            rows.append(
                [
                    row.prevalence,
                    _told(_point(row.precision), self._sign("≥ ")),
                    _told(_point(row.true_alerts)),
                    _told(_point(row.missed)),
                    self.count(_point(row.false_alerts)),
                    " / ".join([self.count(first), *map(_told, others)]),
                ]
            )
        return header, rows

    @property
    def title(self) -> str:
        """What the compact table's columns mean."""
        volumes = sorted({row.flows_per_day for row in self.rows})
        return (
            f"base rates: alerts a day of {volumes[0]:,} flows; analysts at "
            f"{', '.join(f'{v // 1_000_000}M' for v in volumes)} flows, {amount(self.alerts_per_analyst)} alerts each"
        )


def base_rates(evaluation: Evaluation, alerts_per_analyst: float) -> BaseRates:
    """The table for `evaluation`; a line's figure is None where the rate behind it is.

    Args:
        alerts_per_analyst: what one person can look at in a day (`Settings.alerts_per_analyst`), above 0.
    """
    recall = evaluation.headline.get("alert_recall", Interval(value=None))
    rate = evaluation.headline.get("alert_false_positive_rate", Interval(value=None))
    benign = next(iter(evaluation.classes.values())).support if evaluation.classes else 0
    unseen = benign if rate.value == 0 and benign else None
    if unseen:
        bound = min(1.0, 3 / unseen)
        rate = Interval(value=bound, low=bound, high=bound)
    rest = _each(lambda r: 1 - r, recall)
    missed = Interval(value=rest.value, low=rest.high, high=rest.low)
    rows = []
    for flows in FLOWS_PER_DAY:
        for name in SHARES:
            attacks = flows * float(name)
            true, false = _times(recall, attacks), _times(rate, flows - attacks)
            alerts = _each(operator.add, true, false)
            rows.append(
                BaseRate(
                    flows_per_day=flows,
                    prevalence=name,
                    attacks=attacks,
                    true_alerts=true,
                    missed=_times(missed, attacks),
                    false_alerts=Interval(value=false.value) if unseen else false,
                    alerts=alerts,
                    precision=_precision(evaluation, name),
                    analysts=_times(alerts, 1 / alerts_per_analyst),
                )
            )
    return BaseRates(alerts_per_analyst=alerts_per_analyst, no_false_alert_among=unseen, rows=rows)


def amount(value: float) -> str:
    """A figure to three significant digits: 4,690, 97.8, 0.0936."""
    if value < 100:
        return f"{value:.3g}"
    return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}"


def one_in(prevalence: str) -> str:
    """`1e-4` as `1 in 10,000`."""
    return f"1 in {round(1 / float(prevalence)):,}"


def _precision(evaluation: Evaluation, prevalence: str) -> Interval:
    """The evaluation's own figure; one that it lacks is carried over from another prevalence, interval and all."""
    known = {p: evaluation.headline.get(f"precision_at_prevalence_{p}") for p in (prevalence, *reversed(PREVALENCES))}
    for name, figure in known.items():
        if figure is not None:
            carry = partial(_carried, known=float(name), wanted=float(prevalence))
            return figure if name == prevalence else _each(carry, figure)
    return Interval(value=None)


def _carried(precision: float, known: float, wanted: float) -> float:
    """Precision at another prevalence: both are increasing functions of r/f alone, so percentiles carry over."""
    if precision >= 1:
        return 1.0
    ratio = precision / (1 - precision) * (1 - known) / known  # r/f
    return ratio * wanted / (ratio * wanted + 1 - wanted)


def _each(function: Callable[..., float], *figures: Interval) -> Interval:
    """A function of figures' values, of their low and of their high ends; None where one of them is."""
    ends = zip(*((f.value, f.low, f.high) for f in figures), strict=True)
    value, low, high = (None if None in end else function(*end) for end in ends)
    return Interval(value=value, low=low, high=high)


def _times(figure: Interval, factor: float) -> Interval:
    return _each(lambda v: v * factor, figure)


def _point(figure: Interval) -> Interval:
    return Interval(value=figure.value)


def _told(figure: Interval, sign: str = "") -> str:
    if figure.value is None:
        return "n/a"
    text = sign + amount(figure.value)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{amount(figure.low)} to {amount(figure.high)}]"
