"""Boosted trees: what is their own beyond the conformance suite that every family passes."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.errors import BundleError, ConfigError, DatasetError
from robustidps.families import Standardised, TrainingContext, family_settings, get_family

pytest.importorskip("lightgbm")

from robustidps.models.boosted_trees import BoostedTrees, BoostedTreesSettings, load_native

CLASSES = 3


def rows(n=600, seed=0, rare=0.05):
    """Three classes, the last one rare, told apart by two columns; values are such that float32 rounds them."""
    rng = np.random.default_rng(seed)
    y = rng.choice(CLASSES, n, p=[0.6, 0.4 - rare, rare])
    x = rng.normal(size=(n, 6)) / 3
    x[:, 0] += y == 1
    x[:, 1] += y == 2
    return Standardised(x.astype(np.float32), y.astype(np.int64))


def trained(train=None, weights=None, **settings):
    train = rows() if train is None else train
    weights = np.ones(CLASSES, np.float32) if weights is None else weights
    context = TrainingContext(CLASSES, weights)
    return BoostedTrees().train(BoostedTreesSettings(rounds=20, **settings), train, rows(200, 1), context)


def test_every_threshold_is_a_float32_so_that_onnx_sends_each_row_the_same_way():
    text = trained().text
    thresholds = [v for line in text.split("\n") if line.startswith("threshold=") for v in line[10:].split()]
    values = np.array(thresholds, np.float64)
    assert len(values) > 20
    assert (values == values.astype(np.float32)).all()


def test_rounding_thresholds_down_changes_no_answer(monkeypatch):
    from robustidps.models import boosted_trees

    x = rows(2000, 5).x
    rounded = trained().logits(x)
    monkeypatch.setattr(boosted_trees, "_with_float32_thresholds", lambda text: text)
    assert np.array_equal(rounded, trained().logits(x))


def test_rows_that_lie_on_a_threshold_get_the_same_answer_from_onnx(tmp_path):
    import onnxruntime

    model = trained()
    splits = [
        (int(f), float(t))
        for block in model.text.split("Tree=")[1:]
        for f, t in zip(*(_values(block, key) for key in ("split_feature", "threshold")), strict=True)
    ]
    x = rows(len(splits), 7).x
    for row, (column, threshold) in enumerate(splits):
        x[row, column] = threshold
    model.export_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"x": x})
    assert np.abs(got - model.logits(x)).max() < 1e-5


def _values(block, key):
    return next(line for line in block.split("\n") if line.startswith(f"{key}=")).partition("=")[2].split()


def test_what_class_weights_tilt_is_taken_out_of_the_probabilities():
    weights = np.array([1, 1, 8], np.float32)
    model = trained(weights=weights)
    logits, share = model.logits(rows(4000, 3).x), 0.05

    def said(z):
        p = np.exp(z)
        return (p / p.sum(axis=1, keepdims=True))[:, 2].mean()

    assert said(logits + np.log(weights)) > 2 * share  # as LightGBM learnt it: eight times as loud
    assert said(logits) < share + 0.01


def test_a_saved_model_is_the_same_model(tmp_path):
    model = trained()
    model.save_native(tmp_path)
    x = rows(100, 9).x
    assert np.array_equal(load_native(tmp_path).logits(x), model.logits(x))


@pytest.mark.parametrize("name", ["trees.txt", "config.json"])
def test_a_damaged_file_is_refused(tmp_path, name):
    trained().save_native(tmp_path)
    (tmp_path / name).write_text("tree\nnothing of the kind\n")
    with pytest.raises(BundleError):
        load_native(tmp_path)


def test_trees_and_settings_of_different_models_are_refused(tmp_path):
    trained().save_native(tmp_path)
    text = (tmp_path / "config.json").read_text().replace('"inputs": 6', '"inputs": 7')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BundleError, match="don't fit"):
        load_native(tmp_path)


def test_training_without_rows_says_so():
    none = Standardised(np.empty((0, 6), np.float32), np.empty(0, np.int64))
    with pytest.raises(DatasetError):
        trained(train=none)


def test_it_stops_when_validation_gets_no_better():
    seen = []
    context = TrainingContext(CLASSES, np.ones(CLASSES, np.float32), epoch=lambda n, total, m: seen.append(m))
    settings = BoostedTreesSettings(rounds=500, patience=5, learning_rate=0.5)
    BoostedTrees().train(settings, rows(), rows(200, 1), context)
    assert len(seen) < 200
    assert {"train_loss", "val_loss"} <= set(seen[0])


@pytest.mark.parametrize(("key", "value"), [("leaves", 1), ("learning_rate", 0), ("rounds", 0), ("depth", 3)])
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=key):
        family_settings(get_family("boosted_trees"), {key: value})
