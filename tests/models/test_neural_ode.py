"""The neural ODE: its solver against dopri5, its export against itself, and training that can be repeated."""

import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from robustidps.errors import BundleError, ConfigError, DatasetError
from robustidps.families import Standardised, TrainingContext, family_settings, get_family
from robustidps.models.neural_ode import (
    NeuralODE,
    NeuralODESettings,
    TrainedNeuralODE,
    _quantile_bins,
    load_native,
    runge_kutta_4,
)

torch = pytest.importorskip("torch")
CLASSES, INPUTS = 4, 12


def rows(n: int, seed: int = 0, classes: tuple[int, ...] = (0, 1, 2, 3)) -> Standardised:
    """Classes that lie on rings, so that no straight line separates them."""
    r = np.random.default_rng(seed)
    y = r.choice(classes, n)
    x = r.normal(size=(n, INPUTS)).astype(np.float32) * 0.5
    angle = r.uniform(0, 2 * np.pi, n)
    x[:, 0] += (y + 0.5) * np.cos(angle)
    x[:, 1] += (y + 0.5) * np.sin(angle)
    return Standardised(x, y.astype(np.int64))


@dataclass
class Epochs:
    seen: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)

    def __call__(self, number: int, total: int, metrics: dict[str, float]) -> None:
        self.seen.append((number, total, metrics))


def context(weights: list[float] | None = None, epochs: Epochs | None = None, threads: int = 1) -> TrainingContext:
    w = np.ones(CLASSES, np.float32) if weights is None else np.array(weights, np.float32)
    return TrainingContext(CLASSES, w, threads, epochs or Epochs())


def train(train_rows=None, validation=None, ctx=None, **settings) -> TrainedNeuralODE:
    chosen = NeuralODESettings(**({"hidden": 16, "width": 16, "epochs": 3, "batch_size": 128} | settings))
    return NeuralODE().train(chosen, train_rows or rows(800), validation or rows(300, 1), ctx or context())


@pytest.fixture(scope="module")
def model() -> TrainedNeuralODE:
    return train(rows(3000), epochs=15)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("export")
    model.export_onnx(folder / "logits.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return folder, onnxruntime.InferenceSession(str(folder / "logits.onnx"), options)


def test_the_family_is_found_and_imports_no_torch():
    assert isinstance(get_family("neural_ode"), NeuralODE)
    code = "import sys, robustidps.models.neural_ode as m; m.NeuralODESettings(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_it_learns_what_no_linear_model_can(model):
    held_out = rows(1000, 2)
    accuracy = (model.logits(held_out.x).argmax(1) == held_out.y).mean()
    design = np.c_[rows(3000).x, np.ones(3000)]
    linear, *_ = np.linalg.lstsq(design, np.eye(CLASSES)[rows(3000).y], rcond=None)
    straight = ((np.c_[held_out.x, np.ones(1000)] @ linear).argmax(1) == held_out.y).mean()
    assert straight < 0.45 < 0.6 < accuracy


@pytest.mark.parametrize("t1", [1.0, 3.0])
def test_runge_kutta_agrees_with_dopri5(t1):
    odeint = pytest.importorskip("torchdiffeq").odeint
    trained = train(rows(1500), epochs=8, t1=t1, steps=int(8 * t1))
    x, network = rows(200, 3).x, trained.network
    with torch.no_grad():
        times = torch.tensor([0.0, t1])
        h = odeint(network.f, network.encode(torch.from_numpy(x)), times, rtol=1e-7, atol=1e-9, method="dopri5")[-1]
        oracle = network.decoder(h).numpy()
    assert np.abs(oracle - trained.logits(x)).max() < 1e-3
    h0 = network.encode(torch.from_numpy(x)).detach().numpy()
    assert np.abs(h.numpy() - h0).max() > 0.1  # the state does move, so agreement means something


def test_runge_kutta_is_of_order_four():
    """dh/dt = h cos t has the solution exp(sin t): twice the steps, a sixteenth of the error."""

    def error(steps: int) -> float:
        return abs(runge_kutta_4(lambda t, h: h * np.cos(t), 1.0, 2.0, steps) - np.exp(np.sin(2.0)))

    assert 12 < error(8) / error(16) < 20


def test_more_steps_in_serving_than_in_training_change_little(model):
    coarse = TrainedNeuralODE(model.network, model.settings)
    x, steps = rows(500, 4).x, model.network.steps
    fine = model.logits(x)
    model.network.steps = model.network.training_steps
    try:
        assert np.abs(coarse.logits(x) - fine).max() < 0.02
    finally:
        model.network.steps = steps


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_exported_model_says_what_the_native_one_says(model, exported, batch):
    x = rows(batch, 5).x
    (logits,) = exported[1].run(["logits"], {"x": x})
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, model.logits(x), atol=1e-5)


@pytest.mark.parametrize("settings", [{"width": 40}, {"width": 32}, {"bins": 0}, {"t1": 2.0, "steps": 5}])
def test_both_forms_of_the_equation_export_the_same_answer(settings, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = train(epochs=2, **settings)
    model.export_onnx(tmp_path / "logits.onnx")
    x = rows(50, 5).x
    (logits,) = onnxruntime.InferenceSession(str(tmp_path / "logits.onnx")).run(["logits"], {"x": x})
    np.testing.assert_allclose(logits, model.logits(x), atol=1e-5)


def test_the_export_is_one_file_with_the_promised_names(exported):
    folder, session = exported
    assert [p.name for p in folder.iterdir()] == ["logits.onnx"]
    (x,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (x.name, logits.name) == ("x", "logits")
    assert x.shape[1] == INPUTS and logits.shape[1] == CLASSES and not isinstance(x.shape[0], int)


def test_the_native_artefact_gives_the_same_model_back(model, tmp_path):
    model.save_native(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "config.json"}
    x = rows(100, 6).x
    assert (load_native(tmp_path).logits(x) == model.logits(x)).all()


@pytest.mark.parametrize("damage", ["missing", "cut", "other sizes", "unknown key"])
def test_a_damaged_native_artefact_is_refused(model, tmp_path, damage):
    model.save_native(tmp_path)
    weights, config = tmp_path / "weights.safetensors", tmp_path / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other sizes":
        config.write_text(config.read_text().replace('"hidden": 16', '"hidden": 17'))
    else:
        config.write_text(config.read_text().replace('"hidden"', '"hiden"'))
    with pytest.raises(BundleError):
        load_native(tmp_path)


def weights_of(trained: TrainedNeuralODE) -> np.ndarray:
    return np.concatenate([v.numpy().ravel() for v in trained.network.state_dict().values()])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    options = {"dropout": 0.1, "noise": 0.1}
    first, again, other = (weights_of(train(seed=seed, **options)) for seed in (3, 3, 4))
    assert (first == again).all() and not (first == other).all()


def test_the_callers_random_state_and_threads_are_left_alone():
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    train(epochs=1, ctx=context(threads=threads + 1))
    assert (torch.rand(3) == expected).all() and torch.get_num_threads() == threads


def test_every_epoch_is_told_and_the_best_one_is_kept():
    epochs, validation = Epochs(), rows(300, 1)
    trained = train(rows(1000), validation, context(epochs=epochs), epochs=12, patience=3, learning_rate=0.05)
    numbers = [n for n, _, _ in epochs.seen]
    assert numbers == list(range(1, len(numbers) + 1)) and {t for _, t, _ in epochs.seen} == {12}
    assert all({"train_loss", "val_loss", "val_macro_f1"} <= set(m) for _, _, m in epochs.seen)
    predicted = trained.logits(validation.x).argmax(1)
    f1 = [
        2 * ((predicted == c) & (validation.y == c)).sum() / ((predicted == c).sum() + (validation.y == c).sum())
        for c in range(CLASSES)
    ]
    # Served with 8 steps, chosen with the same 8 on validation rows.
    assert np.mean(f1) == pytest.approx(max(m["val_macro_f1"] for _, _, m in epochs.seen), abs=1e-6)


def test_training_stops_when_validation_no_longer_improves():
    epochs = Epochs()
    noise = Standardised(rows(300, 7).x, np.random.default_rng(8).integers(0, 4, 300))
    train(rows(400), noise, context(epochs=epochs), epochs=200, patience=2, stop_on="loss")
    assert len(epochs.seen) < 60


def test_classes_without_rows_and_batches_of_one_class_do_no_harm():
    one_at_a_time = rows(400, classes=(0, 2))
    order = np.argsort(one_at_a_time.y, kind="stable")
    trained = train(
        Standardised(one_at_a_time.x[order], one_at_a_time.y[order]),
        rows(200, 1),  # classes 1 and 3 appear in validation alone
        context(weights=[1, 0, 1, 0]),
        batch_size=1 + 64,
    )
    logits = trained.logits(rows(100, 2).x)
    assert logits.shape == (100, CLASSES) and np.isfinite(logits).all()
    single = train(rows(30, classes=(2,)), rows(10, 1, classes=(3,)), context(weights=[0, 0, 1, 0]), batch_size=1)
    assert np.isfinite(single.logits(rows(5).x)).all()


def test_an_exception_in_the_callback_ends_training():
    class Stop(Exception): ...

    def cancel(number, total, metrics):
        raise Stop

    with pytest.raises(Stop):
        train(ctx=TrainingContext(CLASSES, np.ones(CLASSES, np.float32), 1, cancel))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden", 0),
        ("steps", 0),
        ("t1", -1.0),
        ("learning_rate", 0.0),
        ("dropout", 1.0),
        ("hiden", 3),
        ("epochs", "x"),
    ],
)
def test_a_bad_setting_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        family_settings(NeuralODE(), {key: value})


def test_its_settings_file_loads():
    assert isinstance(family_settings(NeuralODE(), {"seed": 7}), NeuralODESettings)


def test_training_that_diverges_says_what_to_change():
    with pytest.raises(ConfigError, match="learning_rate: training diverged"):
        bad = rows(200)
        bad.x[0, 0] = np.nan  # what an overflow looks like from inside
        train(bad)


def test_no_rows_are_refused():
    with pytest.raises(DatasetError):
        NeuralODE().train(NeuralODESettings(), rows(0), rows(10), context())


def test_bins_lie_between_quantiles_and_leave_flags_and_constants_alone():
    r = np.random.default_rng(0)
    x = np.stack(
        [r.normal(size=999), r.integers(0, 2, 999), np.zeros(999), np.r_[np.zeros(800), r.random(199)]], axis=1
    )
    columns, start, slope = _quantile_bins(x.astype(np.float32), 8)
    assert columns.tolist() == [0, 3]
    edges = np.quantile(x[:, 0], np.linspace(0, 1, 9))
    np.testing.assert_allclose(start[0], edges[:-1], atol=1e-6)
    np.testing.assert_allclose(1 / slope[0], np.diff(edges), rtol=1e-4)
    assert slope.max() <= 1 / 0.01 + 1e-3  # no slope magnifies the last digit of its input


def test_bins_may_be_switched_off():
    plain = train(bins=0)
    assert plain.network.encoder.in_features == INPUTS < train().network.encoder.in_features


def test_probabilities_mean_the_same_whatever_the_class_weights():
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.2).astype(np.int64)
    x = np.zeros((len(y), INPUTS), np.float32)  # nothing to learn but how often each class occurs
    rows = Standardised(x, y)
    weighted = context(weights=[0.5, 3.0] + [0] * (CLASSES - 2))
    model = NeuralODE().train(NeuralODESettings(epochs=12, weight_decay=0, bins=0), rows, rows, weighted)
    z = model.logits(x[:1])[0, :2].astype(np.float64)
    assert np.exp(z[1]) / np.exp(z).sum() == pytest.approx(0.2, abs=0.03)
