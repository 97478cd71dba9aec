"""Blocks are drawn whole, patterns lose nothing, and intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustidps.evaluation.bootstrap import Blocks, blocks_of, fold, interval


def spread(kind: str, n_blocks: int, per_block: int, seed: int) -> tuple[float, float]:
    """Width of the interval of a mean, where blocks agree within themselves entirely; and the mean."""
    hits = np.repeat(np.random.default_rng(seed).integers(0, 2, n_blocks), per_block)
    n = len(hits)
    code = np.repeat(np.arange(n_blocks), per_block) if kind == "campaign" else np.arange(n)
    folded = fold([hits], Blocks(code, n_blocks if kind == "campaign" else n, kind))
    draws = folded.resample(2000, 0)
    shares = draws[:, folded.patterns[:, 0] == 1].sum(axis=1) / draws.sum(axis=1)
    entry = interval(hits.mean(), shares, 100)
    return entry.high - entry.low, hits.mean()


def test_rows_of_one_campaign_do_not_count_as_independent():
    width, mean = spread("campaign", 100, 50, seed=3)
    assert width == pytest.approx(2 * 1.96 * np.sqrt(mean * (1 - mean) / 100), rel=0.1)  # 100 observations, not 5000


def test_single_rows_are_resampled_as_rows():
    width, mean = spread("row", 400, 1, seed=3)
    assert width == pytest.approx(2 * 1.96 * np.sqrt(mean * (1 - mean) / 400), rel=0.1)


def test_95_percent_intervals_hold_the_truth_about_95_times_in_100():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        rates = rng.beta(8, 2, 60)  # campaigns differ; the mean rate is 0.8
        hits = (rng.random((60, 20)) < rates[:, None]).ravel().astype(int)
        folded = fold([hits], Blocks(np.repeat(np.arange(60), 20), 60, "campaign"))
        draws = folded.resample(400, 1)
        shares = draws[:, -1] / draws.sum(axis=1)
        entry = interval(hits.mean(), shares, 60)
        held += entry.low <= 0.8 <= entry.high
    assert 180 <= held <= 200


columns = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=80)


@given(columns)
def test_folding_keeps_every_row_in_its_block(rows):
    a, b, block = np.array(rows).T
    folded = fold([a, b], Blocks(block, 7, "campaign"))
    for i, (x, y) in enumerate(folded.patterns):
        for k in range(7):
            assert folded.table[k, i] == ((a == x) & (b == y) & (block == k)).sum()
    assert folded.totals.sum() == len(rows)


def test_equal_seeds_give_equal_resamples_and_others_do_not():
    folded = fold([np.arange(40) % 3], Blocks(np.arange(40) // 4, 10, "campaign"))
    np.testing.assert_array_equal(folded.resample(50, 5), folded.resample(50, 5))
    assert (folded.resample(50, 5) != folded.resample(50, 6)).any()
    assert (folded.resample(50, 5).sum(axis=1) == 40).all()  # blocks of equal size


def test_chunks_of_resamples_join_up(monkeypatch):
    import robustidps.evaluation.bootstrap as b

    monkeypatch.setattr(b, "_CHUNK", 25)
    folded = fold([np.arange(40) % 3], Blocks(np.arange(40) // 4, 10, "campaign"))
    draws = folded.resample(7, 0)
    assert draws.shape == (7, 3) and (draws.sum(axis=1) == 40).all()


def test_too_few_blocks_give_no_interval():
    assert interval(0.5, np.full(100, 0.5), 4).low is None
    assert interval(0.5, np.full(100, 0.5), 5).low == 0.5
    assert interval(np.nan, np.full(100, 0.5), 50).value is None
    mostly_undefined = np.r_[np.full(60, np.nan), np.full(40, 0.5)]
    assert interval(0.5, mostly_undefined, 50).low is None


def test_blocks_are_campaigns_else_days_else_rows(make):
    p, y = np.full((6, 3), 1 / 3), [0, 0, 1, 1, 2, 2]
    time = np.array([0, 1, 2, 86_400, 86_401, 3 * 86_400.0])
    assert blocks_of(make.traffic(p, y, campaign="one")).n == 1
    days = blocks_of(make.traffic(p, y, time=time))
    assert (days.kind, days.n) == ("day", 3) and "days were resampled" in days.notes[0]
    rows = blocks_of(make.traffic(p, y))
    assert (rows.kind, rows.n) == ("row", 6) and "too narrow" in rows.notes[0]


def test_rows_without_a_campaign_are_grouped_by_day(make):
    campaign = np.array(["a", "a", "", "", "", "b"], dtype=object)
    time = np.array([0, 1, 2, 86_400, 86_401, 3 * 86_400.0])
    blocks = blocks_of(make.traffic(np.full((6, 3), 1 / 3), [0] * 6, time=time, campaign=campaign))
    assert (blocks.kind, blocks.n) == ("campaign", 4)
    assert blocks.code[3] == blocks.code[4] != blocks.code[2]
    assert "3 rows belong to no campaign" in blocks.notes[0]
