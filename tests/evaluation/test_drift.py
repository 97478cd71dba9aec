"""Drift is named column by column, sampled openly, and no word from the traffic can run in the page."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest

from robustidps.errors import ConfigError, DatasetError, SchemaError
from robustidps.evaluation.drift import DriftSettings, DriftSummary, drift_report, tokens
from robustidps.settings import load_yaml
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

EVIL = "</script><script>window.pwned=1</script>"
FEATURES = (
    Feature(name="steady"),
    Feature(name="moved", transform="log"),
    Feature(name="constant"),
    Feature(name="gappy", missing="zero"),
    Feature(name="gone", missing="zero"),
    Feature(name="service", kind="categorical", transform="onehot", vocabulary=("http", EVIL, EVIL + "2", "other")),
)
# Class names are checked when a schema is made; what checks nothing must hold all the same.
SCHEMA = TrafficSchema.model_construct(name="small", features=FEATURES, classes=("Benign", EVIL))


def rows(n: int, seed: int, moved: float = 0.0, gone: bool = False) -> TrafficSet:
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 6), np.float32)
    x[:, 0] = rng.normal(size=n)
    x[:, 1] = rng.lognormal(3 + moved, 1, n)
    x[:, 2] = 4
    x[:, 3] = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
    x[:, 4] = np.nan if gone else rng.normal(size=n)
    x[:, 5] = np.where(rng.random(n) < 0.05, np.nan, rng.integers(0, 5, n))
    return TrafficSet.build(SCHEMA, x, rng.integers(0, 2, n), tool=EVIL, source=EVIL, campaign=EVIL)


def say(n: int, attack: float) -> np.ndarray:
    p = np.where(np.arange(n) < attack * n, 0.9, 0.1).astype(np.float32)
    return np.stack([1 - p, p], axis=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[DriftSummary, dict[str, str]]:
    folder = tmp_path_factory.mktemp("drift")
    settings = DriftSettings(sample=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Evidently's own must not reach the terminal
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        summary = drift_report(
            rows(1500, 0),
            rows(1000, 1, moved=1.0, gone=True),
            folder,
            reference_probabilities=say(1500, 0.1),
            current_probabilities=say(1000, 0.5),
            settings=settings,
        )
    return summary, {p.name: p.read_text() for p in folder.iterdir()}


def test_what_moved_is_named_and_nothing_else(found):
    summary, _ = found
    assert {c.column: c.reason for c in summary.columns if c.drifted} == {"moved": "distance", "gone": "missing values"}
    assert summary.drifted_share == pytest.approx(2 / 6)
    by_name = {c.column: c for c in summary.columns}
    assert by_name["moved"].value == pytest.approx(1.0, abs=0.25)  # a shift of one standard deviation, in logarithms
    assert by_name["constant"].value == 0
    assert by_name["gone"].value is None and by_name["gone"].missing_current == 1
    assert by_name["moved"].psi > 0.2 > by_name["steady"].psi


def test_the_share_is_counted_from_values_methods_and_thresholds_that_are_all_named(found):
    summary, files = found
    for column in summary.columns:
        assert column.method == ("jensenshannon" if column.column == "service" else "wasserstein")
        assert column.threshold == 0.1
        over = column.value is not None and column.value >= column.threshold
        gap = abs(column.missing_current - column.missing_reference) >= summary.settings.missing_threshold
        assert column.drifted == (over or gap)
    raw = {m["config"]["column"]: m for m in json.loads(files["evidently.json"]) if "column" in m["config"]}
    assert raw["moved"]["value"] == pytest.approx(next(c.value for c in summary.columns if c.column == "moved"))
    assert raw["moved"]["config"]["method"] == "wasserstein"


def test_predictions_that_moved_are_drift_too(found):
    prediction = found[0].prediction
    assert prediction.drifted and prediction.psi > 0.2
    assert prediction.reference["Benign"] == 0.9 and prediction.current["Benign"] == 0.5
    # sqrt of the mean divergence of (0.9, 0.1) and (0.5, 0.5) from (0.7, 0.3), in nats
    half = 0.9 * np.log(0.9 / 0.7) + 0.1 * np.log(0.1 / 0.3) + 0.5 * np.log(0.5 / 0.7) + 0.5 * np.log(0.5 / 0.3)
    assert prediction.jensen_shannon == pytest.approx(np.sqrt(half / 2), abs=1e-6)


def test_no_word_from_the_traffic_reaches_the_page(found):
    _, files = found
    page = files["drift.html"]
    assert EVIL not in page and "pwned" in page  # its letters do, its brackets don't
    assert "<script>window.pwned" not in page and "</script><script>w" not in page
    assert not re.search(r"[<\\]/?script[^>]*>\s*window\.pwned", page)
    assert "<script>window" not in files["evidently.json"]


def test_the_page_may_load_and_send_nothing(found):
    page = found[1]["drift.html"]
    assert "default-src &#x27;none&#x27;" in page and page.index("Content-Security-Policy") < page.index("<script")
    assert not re.search(r"<(?:script|img|iframe)[^>]+src\s*=\s*[\"']http", page)
    assert not re.search(r"<link[^>]+href\s*=\s*[\"']http", page)


def test_a_sample_is_called_a_sample(found):
    summary, files = found
    assert (summary.reference_sampled, summary.current_sampled, summary.sampled) == (1000, None, True)
    assert "<title>Drift report, sampled" in files["drift.html"]
    for text in (files["drift.html"], " ".join(summary.notes)):
        assert "a random sample of 1,000 of 1,500 rows (seed 0)" in text and "all 1,000 rows" in text
    assert DriftSummary.model_validate_json(files["drift.json"]) == summary
    assert "2 of 6 columns drifted" in summary.headline


def test_too_few_rows_and_foreign_schemas_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="current: 99 rows of current traffic are too few"):
        drift_report(rows(200, 0), rows(99, 1), tmp_path)
    other = TrafficSchema(name="other", features=FEATURES[:1], classes=("Benign", "Flood"))
    with pytest.raises(SchemaError):
        drift_report(rows(200, 0), TrafficSet.build(other, np.zeros((200, 1))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tokens_are_safe_and_differ():
    words = ["http", EVIL, EVIL.replace("<", ">"), "http [1]", "", "", "a" * 99, "a" * 98, "größe"]
    safe = tokens(words)
    assert len(set(safe)) == len(words) and safe[0] == "http"
    assert all(re.fullmatch(r"[A-Za-z0-9 _.:/+()\[\]-]+", t) for t in safe)


def test_the_committed_settings_are_the_defaults_and_typos_are_refused(tmp_path):
    assert DriftSettings.load() == DriftSettings()
    (tmp_path / "drift.yaml").write_text("numeric_treshold: 0.1\n")
    with pytest.raises(ConfigError, match="numeric_treshold"):
        load_yaml(tmp_path / "drift.yaml", DriftSettings)
