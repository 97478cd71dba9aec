"""Pictures are drawn, the same each time, and leave Matplotlib's global state alone."""

from __future__ import annotations

import sys
from hashlib import sha256

import numpy as np
import pytest

from robustidps.errors import SchemaError
from robustidps.evaluation.base_rates import base_rates
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.plots import draw

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def drawn(make, traffic, tmp_path_factory):
    e, p = evaluate(make.bundle(), traffic, dataset="made up $5 $x", timing=False, resamples=50)
    return e, p, draw(e, p, traffic, tmp_path_factory.mktemp("plots"))


def test_four_pictures_are_drawn(drawn):
    assert [p.name for p in drawn[2]] == [
        "confusion_matrix.png", "precision_recall.png", "reliability.png", "stability.png"
    ]  # fmt: skip
    for path in drawn[2]:
        assert path.read_bytes().startswith(PNG) and path.stat().st_size > 8000
    assert not list(drawn[2][0].parent.glob("*.part"))


def test_the_same_evaluation_gives_the_same_bytes(drawn, traffic, tmp_path):
    e, p, before = drawn
    again = draw(e, p, traffic, tmp_path)
    assert [sha256(a.read_bytes()).digest() for a in again] == [sha256(b.read_bytes()).digest() for b in before]


def test_pyplot_is_never_touched(drawn):
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_without_time_there_is_no_picture_of_stability(bundle, make, tmp_path):
    traffic = make.traffic([[1.0, 0, 0]] * 5, [0, 0, 0, 1, 1])  # no row of Scan, none predicted
    e, p = evaluate(bundle, traffic, dataset="d", timing=False)
    assert len(draw(e, p, traffic, tmp_path)) == 3


def test_base_rates_are_drawn_where_they_are_known(drawn, bundle, make, traffic, tmp_path):
    e, p, _ = drawn
    assert draw(e, p, traffic, tmp_path, base_rates(e, 48))[-1].name == "base_rates.png"
    benign = make.traffic([[1.0, 0, 0]] * 5, [0] * 5)
    e, p = evaluate(bundle, benign, dataset="d", timing=False)
    assert "base_rates.png" not in {f.name for f in draw(e, p, benign, tmp_path, base_rates(e, 48))}


def test_predictions_of_other_rows_are_refused(drawn, traffic, tmp_path):
    with pytest.raises(SchemaError):
        draw(drawn[0], drawn[1], traffic.select(np.arange(5)), tmp_path)
