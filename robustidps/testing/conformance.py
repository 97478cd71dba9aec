"""The conformance suite: what the library relies on in a family, each as a function that fails with a sentence.

    for name, check in CHECKS.items():      # or check_family(MyFamily()), which runs them all
        check(Trial(MyFamily(), folder))

A `Trial` holds a family, small traffic and what is trained on it once; the checks go through the protocol in
`robustidps.families` alone, so built-in families and plugins are held to the same.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps import bundle
from robustidps.bundle import files, parity
from robustidps.bundle.graph import compose_bytes
from robustidps.bundle.session import Session
from robustidps.calibration import softmax
from robustidps.evaluation.reference import profile
from robustidps.families import FamilySettings, ModelFamily, Standardised, TrainedModel, TrainingContext
from robustidps.guarded import looks_like_probabilities
from robustidps.preprocessing import Preprocessing
from robustidps.registry.metadata import ModelMetadata
from robustidps.settings import check_name
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["CHECKS", "Trial", "check_family"]

CAPABILITIES = frozenset({"calibrated", "deterministic", "spiking", "quantum"})

Floats = npt.NDArray[np.float32]


class Trial:
    """A family on trial.

    Args:
        family: the family.
        folder: an empty folder to write to.
        overrides: settings that make training quick, e.g. `{"epochs": 5}`; the defaults otherwise.
        traffic: labelled rows to train on; by default `toy_traffic`, which has every kind of feature.
    """

    def __init__(
        self,
        family: ModelFamily,
        folder: Path,
        *,
        overrides: dict[str, Any] | None = None,
        traffic: TrafficSet | None = None,
    ) -> None:
        self.family = family
        self.folder = folder
        self.settings: FamilySettings = family.settings.model_validate(overrides or {})
        self.traffic = toy_traffic() if traffic is None else traffic
        self.schema = self.traffic.schema
        cut = int(0.8 * len(self.traffic))
        parts = self.traffic.select(slice(0, cut)), self.traffic.select(slice(cut, None))
        self.preprocessing = Preprocessing.fit(self.schema, parts[0].features)
        self.train, self.validation = (self._standardise(part) for part in parts)
        self.epochs: list[tuple[int, int, dict[str, float]]] = []

    def _standardise(self, part: TrafficSet) -> Standardised:
        return Standardised(self.preprocessing.transform(part.features), part.labels.astype(np.int64))

    def context(self, rows: Standardised, **more: Any) -> TrainingContext:
        """A context for training on `rows`: balanced weights, mean 1 over the rows, as `robustidps.training` gives."""
        counts = np.bincount(rows.y, minlength=self.schema.output_dim)
        weights = np.where(counts > 0, len(rows) / np.maximum(counts, 1) / np.count_nonzero(counts), 0)
        return TrainingContext(self.schema.output_dim, weights.astype(np.float32), **more)

    @cached_property
    def trained(self) -> TrainedModel:
        """Trained once; `epochs` holds what was reported meanwhile."""

        def epoch(number: int, total: int, metrics: dict[str, float]) -> None:
            self.epochs.append((number, total, dict(metrics)))

        return self.family.train(self.settings, self.train, self.validation, self.context(self.train, epoch=epoch))

    @cached_property
    def exported(self) -> Path:
        """The family's graph, exported once: some frameworks take many seconds for it."""
        path = self.folder / "logits.onnx"
        self.trained.export_onnx(path)
        return path


class _ExportedAlready:
    """A trained model whose export is a copy of the trial's."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.logits = trial.trained.logits
        self.save_native = trial.trained.save_native

    def export_onnx(self, path: Path) -> None:
        shutil.copy(self.trial.exported, path)


def check_family(
    family: ModelFamily,
    *,
    overrides: dict[str, Any] | None = None,
    traffic: TrafficSet | None = None,
    folder: Path | None = None,
) -> None:
    """Runs every check; arguments as for `Trial`.

    Raises:
        AssertionError: names the check and what doesn't hold.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        trial = Trial(family, Path(place), overrides=overrides, traffic=traffic)
        for name, check in CHECKS.items():
            try:
                check(trial)
            except AssertionError as error:
                raise AssertionError(f"{family.name}: {name}: {error}") from None


def says_what_it_is(trial: Trial) -> None:
    family = trial.family
    _demand(isinstance(family, ModelFamily), "lacks something of the ModelFamily protocol")
    check_name(family.name, "family name")
    for key in ("description", "framework", "model_type", "extra"):
        _demand(bool(str(getattr(family, key)).strip()), f"{key} is empty")
    _demand(isinstance(family.requires, tuple), "requires isn't a tuple of module names")
    unknown = set(family.capabilities) - CAPABILITIES
    _demand(not unknown, f"unknown capabilities {sorted(unknown)}")
    _demand(issubclass(family.settings, FamilySettings), "settings isn't a subclass of FamilySettings")
    _demand(family.settings.model_config.get("extra") == "forbid", "settings takes unknown keys")
    for name, field in family.settings.model_fields.items():
        _demand(bool(field.description), f"setting {name!r} has no description")


def imports_no_framework(trial: Trial) -> None:
    module = type(trial.family).__module__
    heavy = [m for m in trial.family.requires if m not in ("numpy", "onnx")]
    code = (
        f"import sys, importlib; importlib.import_module({module!r}); print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    _demand(done.returncode == 0, f"its module can't be imported alone: {done.stderr[-300:]}")
    _demand(done.stdout.strip() == "[]", f"importing its module imports {done.stdout.strip()}")


def learns(trial: Trial) -> None:
    before = trial.train.x.copy(), trial.train.y.copy()
    right = (trial.trained.logits(trial.train.x).argmax(axis=1) == trial.train.y).mean()
    majority = np.bincount(trial.train.y).max() / len(trial.train)
    _demand(
        right > majority, f"accuracy {right:.2f} on its own training rows; always saying one class gives {majority:.2f}"
    )
    same = np.array_equal(before[0], trial.train.x) and np.array_equal(before[1], trial.train.y)
    _demand(same, "training or prediction changed the rows it was given")


def gives_logits(trial: Trial) -> None:
    x, c = trial.train.x, trial.schema.output_dim
    whole = trial.trained.logits(x)
    _demand(whole.shape == (len(x), c), f"logits have shape {whole.shape}, not {(len(x), c)}")
    _demand(whole.dtype == np.float32, f"logits are {whole.dtype}, not float32")
    _demand(bool(np.isfinite(whole).all()), "a logit isn't finite")
    _demand(not looks_like_probabilities(whole), "its logits all lie between 0 and 1: give logarithms of probabilities")
    for batch in (1, 7):
        part = softmax(trial.trained.logits(x[:batch])) - softmax(whole[:batch])
        _demand(float(np.abs(part).max()) < 1e-4, f"a row's logits depend on the others in its batch (of {batch})")


def repeats_itself(trial: Trial) -> None:
    if "deterministic" not in trial.family.capabilities:
        return
    again = trial.family.train(trial.settings, trial.train, trial.validation, trial.context(trial.train))
    gap = float(np.abs(again.logits(trial.train.x) - trial.trained.logits(trial.train.x)).max())
    _demand(gap <= 1e-6, f"the same seed gave logits that differ by {gap:.3g}")


def reports_progress(trial: Trial) -> None:
    _ = trial.trained
    _demand(bool(trial.epochs), "context.epoch was never called")
    numbers = [number for number, _, _ in trial.epochs]
    _demand(numbers == list(range(1, len(numbers) + 1)), f"epochs are numbered {numbers[:5]}.., not 1, 2, 3..")
    _demand(all(number <= total for number, total, _ in trial.epochs), "more epochs than it announced")
    values = [value for _, _, metrics in trial.epochs for value in metrics.values()]
    _demand(bool(np.isfinite(values).all()), "a reported metric isn't finite")


class _Cancelled(Exception):
    pass


def can_be_cancelled(trial: Trial) -> None:
    def cancel(number: int, total: int, metrics: dict[str, float]) -> None:
        raise _Cancelled

    try:
        trial.family.train(trial.settings, trial.train, trial.validation, trial.context(trial.train, epoch=cancel))
    except _Cancelled:
        return
    raise AssertionError("what context.epoch raises doesn't end training")


def survives_a_single_class(trial: Trial) -> None:
    def benign(rows: Standardised) -> Standardised:
        return Standardised(rows.x[rows.y == 0][:64], rows.y[rows.y == 0][:64])

    rows = benign(trial.train)
    logits = trial.family.train(trial.settings, rows, benign(trial.validation), trial.context(rows)).logits(rows.x)
    _demand(logits.shape == (len(rows), trial.schema.output_dim), f"logits of one class have shape {logits.shape}")
    _demand(bool(np.isfinite(logits).all()), "with rows of one class alone, a logit isn't finite")


def exports_what_it_computes(trial: Trial) -> None:
    beside = {path.name for path in trial.exported.parent.iterdir()} - {trial.exported.name, "native", "bundle"}
    _demand(not beside, f"export_onnx wrote more than one file: {sorted(beside)}")
    session = Session(compose_bytes(trial.exported, trial.preprocessing, 1.5), trial.family.name)
    x = trial.traffic.features
    native = softmax(trial.trained.logits(trial.preprocessing.transform(x)), 1.5)
    parity.demand_parity(native, session.run, x, trial.family.name)


def saves_data_alone(trial: Trial) -> None:
    folder = trial.folder / "native"
    folder.mkdir()
    trial.trained.save_native(folder)
    _demand(any(folder.iterdir()), "save_native wrote nothing")
    files.check_native(folder)


def makes_a_bundle(trial: Trial) -> None:
    metadata = ModelMetadata(
        name=trial.family.name,
        version="1.0.0",
        model_type=trial.family.model_type,
        framework=trial.family.framework,
        input_dim=trial.schema.input_dim,
        output_dim=trial.schema.output_dim,
        family=trial.family.name,
    )
    place = trial.folder / "bundle"
    written = bundle.write_bundle(
        place,
        metadata=metadata,
        schema=trial.schema,
        trained=_ExportedAlready(trial),
        preprocessing=trial.preprocessing,
        temperature=1.0,
        rows=trial.traffic,
        reference=profile(trial.traffic),
    )
    with bundle.open_bundle(place, expected_digest=written.digest) as opened:
        p = opened.probabilities(trial.traffic.features)
        _demand(float(np.abs(p.sum(axis=1) - 1).max()) < 1e-5, "probabilities don't add up to 1")


CHECKS: dict[str, Callable[[Trial], None]] = {
    check.__name__: check
    for check in (
        says_what_it_is,
        imports_no_framework,
        learns,
        gives_logits,
        repeats_itself,
        reports_progress,
        can_be_cancelled,
        survives_a_single_class,
        exports_what_it_computes,
        saves_data_alone,
        makes_a_bundle,
    )
}
"""Name -> check. Each may be run alone on a fresh `Trial`."""


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
