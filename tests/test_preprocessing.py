"""What preprocessing promises to networks before it and to the ONNX graph beside it."""

import json

import numpy as np
import pytest

from robustidps.errors import DatasetError, SchemaError
from robustidps.preprocessing import CLIP, Preprocessing
from robustidps.traffic.schema import Feature, TrafficSchema

SCHEMA = TrafficSchema(
    name="small",
    features=(
        Feature(name="bytes", kind="count", transform="log", missing="median"),
        Feature(name="service", kind="categorical", transform="onehot", vocabulary=("http", "ssh"), missing="zero"),
        Feature(name="skew", transform="log", missing="zero"),
        Feature(name="constant", missing="zero"),
        Feature(name="rate", kind="ratio"),
    ),
    classes=("Benign", "Attack"),
)
BYTES, SERVICE, SKEW, CONSTANT, RATE = range(5)


def rows(n: int = 500) -> np.ndarray:
    r = np.random.default_rng(0)
    columns = (r.lognormal(6, 3, n), r.integers(1, 3, n), r.normal(0, 50, n), np.full(n, 7), r.random(n))
    return np.stack(columns, axis=1).astype(np.float32)


def test_numeric_columns_have_mean_0_and_deviation_1_on_training_rows():
    z = Preprocessing.fit(SCHEMA, rows()).transform(rows())
    assert z.shape == (500, SCHEMA.standardised_dim) and z.dtype == np.float32
    numeric = z[:, [0, 1, 3]]  # bytes, skew, rate; 2 is the constant column
    np.testing.assert_allclose(numeric.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(numeric.std(axis=0), 1, atol=1e-5)


def test_the_formula_of_the_docstring_is_what_is_computed():
    x = rows()
    p = Preprocessing.fit(SCHEMA, x)
    v = x[:, BYTES].astype(np.float64)
    logged = np.log1p(v)
    expected = np.clip((logged - logged.mean()) / logged.std(), -10, 10)
    np.testing.assert_allclose(p.transform(x)[:, 0], expected, atol=1e-6)
    negative = x[:1].copy()
    negative[0, SKEW] = -20
    k = list(p.numeric).index(SKEW)
    assert p.transform(negative)[0, k] == pytest.approx((-np.log1p(20) - p.mean[k]) * p.gain[k], abs=1e-6)


def test_statistics_come_from_the_rows_fitted_to_and_no_others():
    p = Preprocessing.fit(SCHEMA, rows())
    before = p.to_dict()
    p.transform(rows() * 100)
    assert p.to_dict() == before


def test_a_constant_column_stays_0_whatever_it_becomes_later():
    p = Preprocessing.fit(SCHEMA, rows())
    later = rows(3)
    later[:, CONSTANT] = [7, 8, 1e9]
    assert (p.transform(later)[:, list(p.numeric).index(CONSTANT)] == 0).all()


def test_a_large_column_that_varies_in_its_last_digits_only_counts_as_constant():
    x = rows()
    x[:, CONSTANT] = 1e9
    x[::2, CONSTANT] = np.nextafter(np.float32(1e9), np.float32(2e9))
    p = Preprocessing.fit(SCHEMA, x)
    assert p.gain[list(p.numeric).index(CONSTANT)] == 0


def test_an_absurd_value_is_clipped():
    x = rows(2)
    x[0, RATE], x[1, RATE] = 3e38, -3e38
    k = list(Preprocessing.fit(SCHEMA, rows()).numeric).index(RATE)
    assert Preprocessing.fit(SCHEMA, rows()).transform(x)[:, k].tolist() == [CLIP, -CLIP]


@pytest.mark.parametrize(
    ("index", "expected"),
    [(0, [1, 0, 0]), (1, [0, 1, 0]), (2, [0, 0, 1]), (3, [1, 0, 0]), (-1, [1, 0, 0]), (1.5, [1, 0, 0])],
)
def test_an_index_that_is_no_word_of_the_vocabulary_means_other(index, expected):
    x = rows(1)
    x[0, SERVICE] = index
    assert Preprocessing.fit(SCHEMA, rows()).transform(x)[0, -3:].tolist() == expected


def test_a_missing_value_takes_the_training_median_or_zero():
    p = Preprocessing.fit(SCHEMA, rows())
    x = rows(1)
    filled = x.copy()
    x[0, [BYTES, SERVICE, SKEW]] = np.nan
    filled[0, [BYTES, SERVICE, SKEW]] = [np.median(rows()[:, BYTES]), 0, 0]
    assert (p.transform(x) == p.transform(filled)).all()


def test_a_missing_value_under_refuse_is_an_error_that_names_feature_and_row():
    x = rows(5)
    x[3, RATE] = np.nan
    with pytest.raises(SchemaError, match=r"rate: is missing in 1 rows \(first: row 3"):
        Preprocessing.fit(SCHEMA, rows()).transform(x)
    with pytest.raises(SchemaError, match="rate"):
        Preprocessing.fit(SCHEMA, x)


def test_a_column_with_no_value_at_all_is_filled_with_zero():
    x = rows()
    x[:, BYTES] = np.nan
    assert Preprocessing.fit(SCHEMA, x).fill[BYTES] == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinity_is_refused(value):
    x = rows(2)
    x[1, BYTES] = value
    with pytest.raises(SchemaError, match="bytes: holds an infinity"):
        Preprocessing.fit(SCHEMA, rows()).transform(x)


def test_a_wrong_width_is_refused():
    with pytest.raises(SchemaError, match="expected"):
        Preprocessing.fit(SCHEMA, rows()).transform(rows()[:, :4])


def test_nothing_can_be_fitted_to_no_rows_but_no_rows_can_be_transformed():
    with pytest.raises(DatasetError):
        Preprocessing.fit(SCHEMA, rows(0))
    assert Preprocessing.fit(SCHEMA, rows()).transform(rows(0)).shape == (0, 7)


def test_it_survives_json_exactly():
    p = Preprocessing.fit(SCHEMA, rows())
    again = Preprocessing.from_dict(json.loads(json.dumps(p.to_dict())))
    assert (again.transform(rows()) == p.transform(rows())).all()
    assert again.column_names() == ["bytes", "skew", "constant", "rate", "service=0", "service=1", "service=2"]


def test_lengths_that_do_not_fit_are_refused():
    content = Preprocessing.fit(SCHEMA, rows()).to_dict()
    with pytest.raises(SchemaError, match="lengths"):
        Preprocessing.from_dict(content | {"mean": [0.0]})
    with pytest.raises(SchemaError, match="fitted"):
        Preprocessing.from_dict({"names": ["a"]})


def test_many_rows_give_what_few_at_a_time_give():
    p = Preprocessing.fit(SCHEMA, rows())
    many = np.resize(rows(), (70_000, 5))
    assert (p.transform(many)[69_000:] == p.transform(many[69_000:])).all()
