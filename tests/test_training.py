"""Training from traffic to bundle: what is learnt from which rows, what is recorded, and nothing half-made stays."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustidps.bundle import open_bundle
from robustidps.decisions import decide
from robustidps.errors import ConfigError, DatasetError, ModelValidationError, SchemaError, VersionExistsError
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import PARITY_ROWS, class_weights, even_sample, fit, train_bundle

TRAIN, VALIDATION = toy_traffic(1500, 0), toy_traffic(900, 1)


def make(out: Path, train: TrafficSet = TRAIN, validation: TrafficSet = VALIDATION, family=None, **options):
    return train_bundle(
        family or Linear(), LinearSettings(seed=3), train, validation, name="toy", version="1.2.0", out=out, **options
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("training") / "bundle",
        author="Ada",
        description="a trial",
        split="two days",
        held_out=["tool=worm"],
        dataset="toy",
    )


def test_the_bundle_opens_and_says_where_its_knowledge_comes_from(result):
    metadata = open_bundle(result.bundle.path).metadata
    assert (metadata.name, metadata.version, metadata.family, metadata.author) == ("toy", "1.2.0", "linear", "Ada")
    facts = metadata.training
    assert facts is not None
    assert facts.data_digest == TRAIN.digest and facts.rows == 1500
    assert facts.time_from == min(TRAIN.time.min(), VALIDATION.time.min())
    assert facts.time_to == max(TRAIN.time.max(), VALIDATION.time.max())
    assert (facts.dataset, facts.split, facts.seed) == ("toy", "two days", 3)
    assert facts.settings == LinearSettings(seed=3).model_dump()
    assert facts.tools == ["flood", "scan"]  # of attacks; what benign traffic is called is no tool
    assert facts.services == ["benign"]
    assert facts.held_out == ["tool=worm"]
    assert metadata.requirements == [f"numpy=={np.__version__}"]


def test_figures_on_validation_rows_say_so_by_name(result):
    figures = result.bundle.metadata.performance_metrics
    assert {"val_accuracy", "val_macro_f1", "val_fpr", "val_alert_recall", "val_ece"} <= set(figures)
    assert all(name.startswith("val_") for name in figures)
    predicted = result.bundle.probabilities(VALIDATION.features).argmax(1)
    assert figures["val_accuracy"] == pytest.approx((predicted == VALIDATION.labels).mean(), abs=2e-3)


def test_the_bundles_thresholds_keep_the_alert_budget_on_validation(tmp_path):
    bundle = make(tmp_path / "b", alert_budget=0.01).bundle
    alerts = decide(bundle.probabilities(VALIDATION.features), bundle.thresholds, TOY) > 0
    assert alerts[VALIDATION.labels == 0].mean() <= 0.01 and bundle.metadata.alert_budget == 0.01
    assert alerts[VALIDATION.labels > 0].mean() > 0.5


def test_the_temperature_is_in_the_graph(result):
    fitted = fit(Linear(), LinearSettings(seed=3), TRAIN, VALIDATION)
    assert fitted.temperature != 1
    native = fitted.probabilities(VALIDATION.features)
    np.testing.assert_allclose(result.bundle.probabilities(VALIDATION.features), native, atol=1e-5)


def test_curves_are_kept_and_told(tmp_path):
    told, stages = [], []
    result = make(
        tmp_path / "b",
        on_epoch=lambda number, total, metrics: told.append(number),
        progress=lambda stage, done, total=None, *, unit="", note="": stages.append(stage),
    )
    assert [entry["epoch"] for entry in result.history] == told == list(range(1, 41))
    assert list(dict.fromkeys(stages)) == [
        "fitting preprocessing",
        "training linear",
        "calibrating",
        "measuring",
        "describing training traffic",
        "writing bundle",
    ]


def test_preprocessing_sees_training_rows_alone():
    shifted = replace(VALIDATION, features=np.where(np.isnan(VALIDATION.features), np.nan, VALIDATION.features * 3))
    one = fit(Linear(), LinearSettings(), TRAIN, VALIDATION).preprocessing
    other = fit(Linear(), LinearSettings(), TRAIN, shifted).preprocessing
    assert one.to_dict() == other.to_dict()


def test_the_same_rows_and_seed_give_the_same_probabilities():
    first, again = (fit(Linear(), LinearSettings(seed=1), TRAIN, VALIDATION) for _ in range(2))
    assert (first.probabilities(VALIDATION.features) == again.probabilities(VALIDATION.features)).all()
    assert first.thresholds == again.thresholds and first.temperature == again.temperature


def test_class_weights_favour_rare_classes_within_bounds_and_average_one():
    labels = np.repeat([0, 1, 2], [100_000, 900, 2])
    weights = class_weights(labels, 4)
    assert weights.dtype == np.float32
    assert weights[2] >= weights[1] > weights[0] > 0 and weights[3] == 0
    assert weights[labels].mean() == pytest.approx(1, rel=1e-4)
    assert weights[2] / weights[0] <= 100
    assert class_weights(labels, 3, power=0).tolist() == [1, 1, 1]


def test_the_parity_rows_hold_every_class_however_rare():
    many = toy_traffic(9000, 2)
    rare = many.select(np.r_[np.flatnonzero(many.labels != 2), np.flatnonzero(many.labels == 2)[:3]])
    sample = even_sample(rare, PARITY_ROWS, 0)
    assert len(sample) == PARITY_ROWS and sample.class_counts()["Scan"] == 3
    assert abs(sample.class_counts()["Benign"] - sample.class_counts()["Flood"]) < 5


UNLABELLED_ROWS = replace(TRAIN, labels=np.where(np.arange(len(TRAIN)) < 5, -1, TRAIN.labels).astype(np.int16))


@pytest.mark.parametrize(
    ("train", "validation", "error", "message"),
    [
        (TRAIN.select(slice(0, 0)), VALIDATION, DatasetError, "training traffic: has no rows"),
        (TRAIN, VALIDATION.select(slice(0, 0)), DatasetError, "validation traffic: has no rows"),
        (TRAIN.select(TRAIN.labels == 0), VALIDATION, DatasetError, "all rows are 'Benign'"),
        (TRAIN.select(TRAIN.labels > 0), VALIDATION, DatasetError, "no row is 'Benign'"),
        (TRAIN, VALIDATION.select(VALIDATION.labels > 0), DatasetError, "no benign row"),
        (UNLABELLED_ROWS, VALIDATION, DatasetError, "5 of 1500 rows have no label"),
        (
            TRAIN,
            replace(VALIDATION, schema=TOY.model_copy(update={"classes": ("Benign", "A", "B", "C")})),
            SchemaError,
            "different schemas",
        ),
    ],
)
def test_traffic_that_nothing_can_be_learnt_from_is_refused_and_nothing_is_written(
    tmp_path, train, validation, error, message
):
    with pytest.raises(error, match=message):
        make(tmp_path / "b", train, validation)
    assert not list(tmp_path.iterdir())


def test_a_bad_budget_or_name_or_a_folder_that_is_there_is_refused_before_training(tmp_path):
    def never(number, total, metrics):
        raise AssertionError("trained all the same")

    with pytest.raises(ConfigError, match="alert_budget"):
        make(tmp_path / "b", alert_budget=7, on_epoch=never)
    (tmp_path / "b").mkdir()
    with pytest.raises(VersionExistsError):
        make(tmp_path / "b", on_epoch=never)


def test_a_family_that_gives_something_else_than_logits_is_named(tmp_path):
    class Narrow(Linear):
        name = "narrow"

        def train(self, settings, train, validation, context):
            trained = super().train(settings, train, validation, context)
            trained.biases, trained.weights = trained.biases[:2], trained.weights[:, :2]
            return trained

    with pytest.raises(ModelValidationError, match=r"family narrow .*expected float32 \(900, 4\)"):
        make(tmp_path / "b", family=Narrow())
    assert not list(tmp_path.iterdir())


class Measured(Linear):
    """A family whose models have a figure of their own."""

    value = 4.0

    def train(self, settings, train, validation, context):
        trained = super().train(settings, train, validation, context)
        trained.figures = lambda x: {"columns": self.value * x.shape[1], "val_accuracy": 1.0}
        return trained


def test_figures_that_a_model_gives_of_itself_are_kept_with_the_versions_own(tmp_path):
    figures = make(tmp_path / "b", family=Measured()).bundle.metadata.performance_metrics
    assert figures["columns"] == 4 * TOY.standardised_dim
    assert figures["val_accuracy"] < 1  # what the library measures can't be talked over


def test_a_figure_that_is_no_number_is_refused(tmp_path):
    class Vague(Measured):
        value = float("nan")

    with pytest.raises(ModelValidationError, match="columns"):
        make(tmp_path / "b", family=Vague())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["fitting preprocessing", "training linear", "describing training traffic"])
def test_a_training_that_is_cancelled_leaves_nothing_behind(tmp_path, stage):
    class Cancelled(Exception): ...

    def progress(now, done, total=None, *, unit="", note=""):
        if now == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        make(tmp_path / "b", progress=progress)
    assert not list(tmp_path.iterdir())


def test_a_training_that_is_killed_leaves_no_bundle(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle
def progress(stage, done, total=None, *, unit="", note=""):
    if stage == "writing bundle" or done == 20:
        os.kill(os.getpid(), signal.SIGKILL)
train_bundle(Linear(), LinearSettings(), toy_traffic(600), toy_traffic(300, 1), name="toy", version="1.0.0",
             out=Path({str(tmp_path / "b")!r}), progress=progress)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL and not list(tmp_path.iterdir())


def test_a_neural_ode_passes_through_the_same_door(tmp_path):
    pytest.importorskip("torch")
    from robustidps.families import family_settings, get_family

    family = get_family("neural_ode")
    settings = family_settings(family, {"hidden": 12, "width": 12, "epochs": 6, "steps": 2})
    out = tmp_path / "b"
    bundle = train_bundle(family, settings, TRAIN, VALIDATION, name="neural_ode", version="1.0.0", out=out).bundle
    assert bundle.metadata.performance_metrics["val_accuracy"] > 0.8
    assert {r.partition("==")[0] for r in bundle.metadata.requirements} == {"torch", "safetensors"}
    assert not any("+" in r for r in bundle.metadata.requirements)
