"""The desk that sells labels: a budget, a delay, and no way around either."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.evaluation.ageing import LabelDesk
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet
from tests.evaluation.ageing.conftest import DAY


@pytest.fixture
def desk(traffic: TrafficSet) -> LabelDesk:
    day = np.floor(traffic.time / DAY).astype(np.int64)
    return LabelDesk(traffic, day - day[0], delay_days=3, budget={4: 10, 5: 10})


def test_traffic_is_shown_without_what_only_a_label_tells(desk: LabelDesk) -> None:
    desk.today = 4
    shown = desk.show(desk.rows(0, 4))
    assert len(shown) == 5 * 80 and (shown.labels == UNLABELLED).all()
    assert set(shown.campaign) == set(shown.tool) == {""}


def test_a_label_comes_after_its_delay_and_not_a_day_sooner(desk: LabelDesk, traffic: TrafficSet) -> None:
    desk.today = 4
    rows = desk.rows(4, 4)[:5]
    desk.buy(rows, at_random=True)
    for today in (4, 5, 6):
        desk.today = today
        assert not len(desk.delivered())
        with pytest.raises(ValueError, match="hasn't been delivered"):
            desk.read(rows)
    desk.today = 7
    assert desk.delivered().tolist() == rows.tolist()
    assert (desk.read(rows).labels == traffic.labels[rows]).all()


def test_a_label_that_nobody_bought_can_not_be_read(desk: LabelDesk) -> None:
    desk.today = 29
    with pytest.raises(ValueError, match="hasn't been delivered"):
        desk.read(np.array([0]))


def test_a_days_budget_can_not_be_overdrawn_and_is_lost_when_unspent(desk: LabelDesk) -> None:
    desk.today = 4
    offer = desk.on_offer(4, 4)
    desk.buy(offer[:4], at_random=True)
    assert desk.left() == 6
    with pytest.raises(ValueError, match="6 can be bought today"):
        desk.buy(offer[4:11], at_random=True)
    desk.today = 5
    assert desk.left() == 10
    desk.today = 6
    assert desk.left() == 0


def test_a_label_is_sold_once(desk: LabelDesk) -> None:
    desk.today = 4
    offer = desk.on_offer(4, 4)
    desk.buy(offer[:2], at_random=True)
    assert not set(offer[:2]) & set(desk.on_offer(0, 4))
    for again in (offer[:1], offer[[3, 3]]):
        with pytest.raises(ValueError, match="twice"):
            desk.buy(again, at_random=True)


def test_days_to_come_are_neither_shown_nor_sold(desk: LabelDesk) -> None:
    desk.today = 5
    tomorrow = np.array([6 * 80])
    assert desk.rows(0, 29).max() == 6 * 80 - 1
    with pytest.raises(ValueError, match="to come"):
        desk.show(tomorrow)
    with pytest.raises(ValueError, match="to come"):
        desk.buy(tomorrow, at_random=True)
