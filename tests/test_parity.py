"""The parity gate lets rounding through and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.bundle.parity import ParityReport, compare, demand_parity
from robustidps.errors import ParityError


def native(rows: int) -> np.ndarray:
    p = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], rows)
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def indices(rows: int) -> np.ndarray:
    """Raw rows that are their own number, so that a fake graph can look its answer up."""
    return np.arange(rows, dtype=np.float32)[:, None]


def graph(answers: np.ndarray, seen: list | None = None):
    def predict(x, batch):
        if seen is not None:
            seen.append((len(x), batch))
        return answers[x[:, 0].astype(int)]

    return predict


def test_equal_answers_agree_at_every_batch_size():
    seen: list = []
    report, difference = demand_parity(native(2500), graph(native(2500), seen), indices(2500), "here")
    assert report.agrees and report.max_difference == 0 and not difference.any()
    assert seen == [(50, 1), (70, 7), (2500, 1000)]


def test_few_rows_are_repeated_to_fill_a_batch():
    seen: list = []
    demand_parity(native(3), graph(native(3), seen), indices(3), "here")
    assert seen == [(3, 1), (7, 7), (1000, 1000)]


def test_one_row_in_a_thousand_may_be_off_and_no_more():
    p = native(2000)
    off = p.copy()
    clear = np.flatnonzero(np.sort(p, axis=1)[:, -1] > 0.9)[:3]
    off[clear[:2]] -= np.float32(1e-3)
    assert compare(p, graph(off), indices(2000))[0].agrees
    off[clear[2]] -= np.float32(1e-3)
    with pytest.raises(ParityError, match=rf"99.85% of 2000 rows .* worst is row ({'|'.join(map(str, clear))})"):
        demand_parity(p, graph(off), indices(2000), "here")


def test_another_class_is_tolerated_only_where_the_model_cannot_tell():
    p = np.tile(np.array([[0.6, 0.4, 0.0]], np.float32), (2000, 1))
    p[7] = [0.4999, 0.5001, 0]
    flipped = p.copy()
    flipped[7] = [0.5002, 0.4998, 0]
    report, _ = compare(p, graph(flipped), indices(2000))
    assert (report.differing_classes, report.excused, report.agrees) == (1, 1, True)
    flipped[8] = [0.49, 0.51, 0]  # off by 0.11, where the margin was 0.2
    report, _ = compare(p, graph(flipped), indices(2000))
    assert (report.differing_classes, report.excused, report.agrees) == (2, 1, False)


def test_a_graph_that_is_wrong_for_one_batch_size_alone_is_refused():
    p = native(500)

    def predict(x, batch):
        return p[x[:, 0].astype(int)] if batch != 7 else np.roll(p[x[:, 0].astype(int)], 1, axis=1)

    with pytest.raises(ParityError):
        demand_parity(p, predict, indices(500), "here")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_never_agrees(value):
    p = native(20_000)
    broken = p.copy()
    broken[5, 1] = value
    for one, other in ((p, broken), (broken, p), (broken, broken)):
        report, difference = compare(one, graph(other), indices(20_000))
        assert not report.agrees and difference[5] == np.inf


def test_no_rows_prove_nothing():
    with pytest.raises(ParityError, match="no row"):
        demand_parity(native(0), graph(native(0)), indices(0), "here")


def test_another_number_of_classes_is_refused():
    with pytest.raises(ParityError, match="columns"):
        demand_parity(native(10), graph(native(10)[:, :2]), indices(10), "here")


def test_a_report_survives_json():
    report, _ = compare(native(10), graph(native(10) + 1e-3), indices(10))
    assert ParityReport.model_validate_json(report.model_dump_json()) == report
