"""Every installed family passes the conformance suite, and the suite notices a family that doesn't deserve to."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.calibration import softmax
from robustidps.errors import BundleError
from robustidps.families import FamilySettings, discover
from robustidps.testing import CHECKS, Trial, check_family
from robustidps.testing.linear import Linear, TrainedLinear
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

FAMILIES = discover()
QUICK = {"epochs": 12, "steps": 3, "training_steps": 2}
"""Settings that make training quick, taken where a family has them."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FAMILIES])
def trial(request, tmp_path_factory):
    info = FAMILIES[request.param]
    if info.problem:
        pytest.skip(f"family {request.param}: {info.problem}")
    overrides = {key: value for key, value in QUICK.items() if key in info.family.settings.model_fields}
    return Trial(info.family, tmp_path_factory.mktemp(info.name), overrides=overrides)


@pytest.mark.parametrize("check", CHECKS)
def test_an_installed_family_conforms(trial, check):
    CHECKS[check](trial)


def test_the_smallest_family_passes_the_whole_suite(tmp_path):
    check_family(Linear(), folder=tmp_path)
    assert not list(tmp_path.iterdir())


# --- families with one defect each; the check that is named for it must be the one that fails


class NoDescription(FamilySettings):
    epochs: int = 40
    learning_rate: float = 0.5


class Undocumented(Linear):
    settings = NoDescription


class Boastful(Linear):
    capabilities = frozenset({"telepathic"})


class Heavy(Linear):
    requires = ("json",)  # stands for a framework: it is loaded as soon as the module is


class Stubborn(Linear):
    def train(self, settings, train, validation, context):
        trained = super().train(settings, train, validation, context)
        return TrainedLinear(trained.weights * 0, trained.biases * 0 + [5, 0, 0, 0])


class Meddling(Linear):
    def train(self, settings, train, validation, context):
        train.x[:] *= 1.0001
        return super().train(settings, train, validation, context)


def returning(trained_class):
    """A family whose trained model is of another class."""

    class Family(Linear):
        def train(self, settings, train, validation, context):
            trained = super().train(settings, train, validation, context)
            return trained_class(trained.weights, trained.biases)

    return Family


class Double(TrainedLinear):
    def logits(self, x):
        return super().logits(x).astype(np.float64)


class Probable(TrainedLinear):
    def logits(self, x):
        return softmax(super().logits(x))


class BatchNormalised(TrainedLinear):
    def logits(self, x):
        return super().logits(x - x.mean(axis=0))


class Dreamy(Linear):
    def train(self, settings, train, validation, context):
        settings = settings.model_copy(update={"seed": int(np.random.default_rng().integers(2**31))})
        return super().train(settings, train, validation, context)


class Silent(Linear):
    def train(self, settings, train, validation, context):
        return super().train(settings, train, validation, type(context)(context.n_classes, context.class_weights))


class Unstoppable(Linear):
    def train(self, settings, train, validation, context):
        def deaf(number, total, metrics):
            try:
                context.epoch(number, total, metrics)
            except Exception:  # noqa: BLE001 - that is the defect
                return

        made = type(context)(context.n_classes, context.class_weights, epoch=deaf)
        return super().train(settings, train, validation, made)


class Narrow(Linear):
    def train(self, settings, train, validation, context):
        trained = super().train(settings, train, validation, context)
        width = max(int(train.y.max()) + 1, 1)
        if width < 3:
            return TrainedLinear(trained.weights[:, :width], trained.biases[:width])
        return trained


class Misexported(TrainedLinear):
    def export_onnx(self, path):
        TrainedLinear(self.weights * np.float32(1.001), self.biases).export_onnx(path)


class Scattered(TrainedLinear):
    def export_onnx(self, path):
        super().export_onnx(path)
        path.with_suffix(".data").write_bytes(b"weights")


class Pickled(TrainedLinear):
    def save_native(self, folder):
        (folder / "model.pt").write_bytes(b"\x80\x04K\x01.")


class Forgetful(TrainedLinear):
    def save_native(self, folder):
        return


DEFECTS = {
    "says_what_it_is": [Undocumented, Boastful],
    "imports_no_framework": [Heavy],
    "learns": [Stubborn, Meddling],
    "gives_logits": [returning(Double), returning(BatchNormalised), returning(Probable)],
    "repeats_itself": [Dreamy],
    "reports_progress": [Silent],
    "can_be_cancelled": [Unstoppable],
    "survives_a_single_class": [Narrow],
    "exports_what_it_computes": [returning(Misexported), returning(Scattered)],
    "saves_data_alone": [returning(Pickled), returning(Forgetful)],
    "makes_a_bundle": [returning(Misexported), returning(Pickled)],
}


def test_every_check_is_proven_able_to_fail():
    assert set(DEFECTS) == set(CHECKS)


@pytest.mark.parametrize(("check", "family"), [(c, f) for c, families in DEFECTS.items() for f in families])
def test_a_defect_is_noticed(check, family, tmp_path, monkeypatch):
    if check == "imports_no_framework":  # in a subprocess: the module has to be one that can be imported there
        monkeypatch.setattr(family, "__module__", "robustidps.testing.linear")
    with pytest.raises((AssertionError, BundleError)) as caught:
        CHECKS[check](Trial(family(), tmp_path))
    assert str(caught.value)


def test_a_family_may_be_tried_on_traffic_of_its_own():
    schema = TrafficSchema(name="own", features=(Feature(name="a"), Feature(name="b")), classes=("Benign", "Attack"))
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    check_family(Linear(), traffic=TrafficSet.build(schema, x, (x[:, 0] > 0.3).astype(np.int16)))
