"""Where labels come from in an ageing study: a desk that sells them, so many a day, and delivers after a delay.

A label costs an analyst's time and is not there at once, and a study that forgets either flatters every policy that
retrains. Whoever is handed a desk can see traffic up to today without labels, campaigns and tools, and the rows whose
labels it has bought and waited for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["LabelDesk"]

Rows = npt.NDArray[np.int64]


class LabelDesk:
    """Sells the labels of `traffic`. Rows are known by their number in it.

    Args:
        traffic: N labelled rows. day: int [N], the day each lies on.
        delay_days: a label bought on day d is delivered at the end of day d + delay_days.
        budget: labels that may be bought on each day; a day that isn't in it has none. What isn't spent is lost.
    """

    def __init__(self, traffic: TrafficSet, day: Rows, *, delay_days: int, budget: dict[int, int]) -> None:
        self._traffic = traffic
        self._hidden = replace(
            traffic,
            labels=np.full(len(traffic), UNLABELLED, np.int16),
            campaign=np.full(len(traffic), "", object),
            tool=np.full(len(traffic), "", object),
            provenance={},
        )
        self._day = day
        self._budget = dict(budget)
        self.delay_days = delay_days
        self._bought_on = np.full(len(traffic), -1, np.int64)
        self._at_random = np.zeros(len(traffic), bool)
        self.today = 0
        self.spent: dict[int, int] = {}

    def left(self) -> int:
        """Labels that can still be bought today."""
        return self._budget.get(self.today, 0) - self.spent.get(self.today, 0)

    def rows(self, first: int, last: int) -> Rows:
        """Numbers of the rows of days `first` to `last`, both included, as far as they have happened."""
        return np.flatnonzero((self._day >= first) & (self._day <= min(last, self.today)))

    def on_offer(self, first: int, last: int) -> Rows:
        """Those of `rows` whose labels nobody has bought yet."""
        rows = self.rows(first, last)
        return rows[self._bought_on[rows] < 0]

    def show(self, rows: Rows) -> TrafficSet:
        """Rows that have happened, without what only a label tells: class, campaign, tool."""
        if len(rows) and self._day[rows].max() > self.today:
            raise ValueError("a row of a day to come was asked for")
        return self._hidden.select(rows)

    def buy(self, rows: Rows, *, at_random: bool) -> None:
        """Buys the labels of `rows`. at_random: whether they were drawn evenly from all on offer, so that figures
        on them speak for the traffic; recorded with them."""
        rows = np.asarray(rows, np.int64)
        if len(rows) > self.left():
            raise ValueError(f"{len(rows)} labels asked for, {self.left()} can be bought today")
        if len(rows) != len(np.unique(rows)) or (self._bought_on[rows] >= 0).any():
            raise ValueError("a label was asked for twice")
        if len(rows) and self._day[rows].max() > self.today:
            raise ValueError("the label of a day to come was asked for")
        self._bought_on[rows] = self.today
        self._at_random[rows] = at_random
        self.spent[self.today] = self.spent.get(self.today, 0) + len(rows)

    def delivered(self) -> Rows:
        """Numbers of the rows whose labels have arrived by the end of today, in order of time."""
        return np.flatnonzero((self._bought_on >= 0) & (self._bought_on + self.delay_days <= self.today))

    def bought_on(self, rows: Rows) -> Rows:
        """The day on which each label was bought, -1 where it wasn't."""
        return self._bought_on[rows]

    def at_random(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Whether each label was bought at random."""
        return self._at_random[rows]

    def read(self, rows: Rows) -> TrafficSet:
        """Rows with their labels, campaigns and tools; all must have been delivered."""
        bought = self._bought_on[rows]
        if (bought < 0).any() or (bought + self.delay_days > self.today).any():
            raise ValueError("a label was asked for that hasn't been delivered")
        return self._traffic.select(rows)
