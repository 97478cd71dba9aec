"""From a training and a validation set to a bundle: what surrounds a family's own `train`, the same for all families.

    train      -> preprocessing (fitted on training rows alone) -> class weights -> family.train
    validation -> early stopping, temperature, alert thresholds, the `val_*` figures, rows for the parity gate
    both       -> reference profile (training rows), metadata -> robustidps.bundle.write_bundle

Nothing is written before the bundle is complete and its ONNX agrees with the trained model; a training that is
cancelled or fails leaves nothing behind. The test set never comes near this module.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood, softmax
from robustidps.decisions import decide, fit_thresholds
from robustidps.errors import ConfigError, DatasetError, ModelValidationError, SchemaError, VersionExistsError
from robustidps.evaluation.metrics import accuracy, confusion_matrix, false_positive_rate, macro_f1
from robustidps.families import (
    FamilySettings,
    MeasuredModel,
    ModelFamily,
    Standardised,
    TrainedModel,
    TrainingContext,
)
from robustidps.guarded import guarded_train
from robustidps.preprocessing import Preprocessing
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import MAX_TOOLS, ModelMetadata, TrainingFacts, check_version
from robustidps.settings import check_name
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = [
    "ALERT_BUDGET",
    "PARITY_ROWS",
    "Calibration",
    "Fitted",
    "TrainingResult",
    "calibrate",
    "class_weights",
    "even_sample",
    "fit",
    "train_bundle",
    "training_facts",
]

ALERT_BUDGET = 1e-3
"""False alerts per benign flow that thresholds are fitted to."""

PARITY_ROWS = 2000
"""Validation rows that the parity gate is tried on, drawn evenly over classes as far as they go."""

WEIGHT_LIMIT = 10.0
"""No class counts more than this many times, and none less than a tenth of, what it would count unweighted."""

Epoch = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """A trained model with everything the library learnt around it, before it becomes a bundle.

    metrics: the figures on validation rows, each name beginning with `val_`, and those that the model gives of itself.
    history: one entry an epoch: {"epoch": 1, "train_loss": .., "val_loss": .., ..}.
    """

    schema: TrafficSchema
    preprocessing: Preprocessing
    trained: TrainedModel
    temperature: float
    thresholds: dict[str, float]
    metrics: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)

    def probabilities(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Raw [N, F] to calibrated probabilities float32 [N, C], by the native model."""
        return softmax(self.trained.logits(self.preprocessing.transform(x)), self.temperature)


@dataclass(frozen=True)
class TrainingResult:
    """A bundle on disk, and the curves of its training (see `Fitted.history`)."""

    bundle: Bundle
    history: list[dict[str, float]]


def train_bundle(
    family: ModelFamily,
    settings: FamilySettings,
    train: TrafficSet,
    validation: TrafficSet,
    *,
    name: str,
    version: str,
    out: Path,
    author: str = "unknown",
    description: str = "",
    dataset: str | None = None,
    split: str = "",
    held_out: Iterable[str] = (),
    alert_budget: float = ALERT_BUDGET,
    threads: int = 1,
    progress: Progress = silent,
    on_epoch: Epoch | None = None,
) -> TrainingResult:
    """Trains a model and writes its bundle.

    Args:
        train, validation: labelled traffic of one schema; split so that they share no flow and no campaign.
        name, version: of the registered model that this is to be.
        out: the bundle's folder, which must not be there yet.
        dataset, split: recorded in the metadata, as words; `dataset` is the schema's name where none is given.
        held_out: what was kept out of `train` and `validation` on purpose (`HoldOut.words()`), recorded too.
        alert_budget: false alerts per benign flow that the thresholds are fitted to.
        threads: CPU threads for training.
        on_epoch: called after each epoch with (number from 1, total, metrics); may raise to cancel.

    Raises:
        DatasetError: no rows, rows without a label, a single class, or no benign validation row.
        SchemaError: the sets differ in schema, or a value breaks it.
        ConfigError: settings or a budget that can't work.
        ModelValidationError: the family gave something that isn't a model of this schema.
        VersionExistsError: `out` is there already.
        ParityError: the exported model disagrees with the trained one; nothing is written.
        StorageError: the disk is full or the folder read-only; nothing is left there.
    """
    check_name(name)
    check_version(version)
    if out.exists():
        raise VersionExistsError("is there already", where=out, remedy="choose another folder or version")
    fitted = fit(
        family,
        settings,
        train,
        validation,
        alert_budget=alert_budget,
        threads=threads,
        progress=progress,
        on_epoch=on_epoch,
        name=name,
        version=version,
    )
    progress("describing training traffic", 0, None)
    from robustidps.evaluation.reference import profile

    reference = profile(train, fitted.probabilities(train.features))
    metadata = ModelMetadata(
        name=name,
        version=version,
        model_type=family.model_type,
        framework=family.framework,
        input_dim=train.schema.input_dim,
        output_dim=train.schema.output_dim,
        performance_metrics=fitted.metrics,
        requirements=requirements(family),
        author=author,
        description=description,
        family=family.name,
        schema_digest=train.schema.digest,
        training=training_facts(
            train,
            validation,
            dataset=dataset,
            split=split,
            seed=settings.seed,
            settings=settings.model_dump(mode="json"),
            held_out=held_out,
        ),
        temperature=fitted.temperature,
        thresholds=fitted.thresholds,
        alert_budget=alert_budget,
    )
    progress("writing bundle", 0, None)
    from robustidps.bundle import write_bundle

    bundle = write_bundle(
        out,
        metadata=metadata,
        schema=train.schema,
        trained=fitted.trained,
        preprocessing=fitted.preprocessing,
        temperature=fitted.temperature,
        rows=even_sample(validation, PARITY_ROWS, settings.seed),
        reference=reference,
    )
    progress("writing bundle", 1, 1)
    return TrainingResult(bundle, fitted.history)


def fit(
    family: ModelFamily,
    settings: FamilySettings,
    train: TrafficSet,
    validation: TrafficSet,
    *,
    alert_budget: float = ALERT_BUDGET,
    threads: int = 1,
    progress: Progress = silent,
    on_epoch: Epoch | None = None,
    name: str = "",
    version: str = "",
) -> Fitted:
    """All of training but the bundle; writes nothing. Arguments and errors as for `train_bundle`."""
    _demand_trainable(train, validation)
    if not 0 <= alert_budget <= 1:
        raise ConfigError(f"{alert_budget} is not a share of benign flows", where="alert_budget", remedy="use 0 to 1")
    progress("fitting preprocessing", 0, None)
    preprocessing = Preprocessing.fit(train.schema, train.features)
    history: list[dict[str, float]] = []

    def epoch(number: int, total: int, metrics: dict[str, float]) -> None:
        history.append({"epoch": float(number), **metrics})
        macro_f1 = metrics.get("val_macro_f1")
        note = f"val F1 {macro_f1:.3f}" if macro_f1 is not None else ""
        progress(f"training {family.name}", number, total, unit="epochs", note=note)
        if on_epoch is not None:
            on_epoch(number, total, metrics)

    context = TrainingContext(
        n_classes=train.schema.output_dim,
        class_weights=class_weights(train.labels, train.schema.output_dim),
        threads=threads,
        epoch=epoch,
        name=name,
        version=version,
        schema_digest=train.schema.digest,
    )
    rows = [
        Standardised(preprocessing.transform(part.features), part.labels.astype(np.int64))
        for part in (train, validation)
    ]
    trained = guarded_train(family, settings, rows[0], rows[1], context)
    progress("calibrating", 0, None)
    logits = np.asarray(trained.logits(rows[1].x))
    if logits.shape != (len(validation), train.schema.output_dim) or not np.isfinite(logits).all():
        raise ModelValidationError(
            f"its logits have shape {logits.shape} (expected {(len(validation), train.schema.output_dim)}) "
            "or aren't finite",
            where=f"family {family.name}",
            remedy="lower the learning rate; for a plugin, run robustidps.testing on it",
        )
    progress("measuring", 0, None)
    own = _own_figures(family, trained, rows[1].x)
    found = calibrate(logits, validation, alert_budget)
    return Fitted(
        train.schema, preprocessing, trained, found.temperature, found.thresholds, own | found.metrics, history
    )


@dataclass(frozen=True)
class Calibration:
    """What validation rows say of logits: temperature, alert threshold per attack class, and the `val_*` figures."""

    temperature: float
    thresholds: dict[str, float]
    metrics: dict[str, float]


def calibrate(logits: npt.NDArray[Any], validation: TrafficSet, alert_budget: float) -> Calibration:
    """Fits temperature and thresholds to the logits [N, C] of labelled validation rows. Raises DatasetError."""
    temperature = fit_temperature(logits, validation.labels)
    probabilities = softmax(logits, temperature)
    thresholds = fit_thresholds(probabilities, validation.labels, validation.schema, alert_budget)
    metrics = _validation_figures(logits, probabilities, thresholds, temperature, validation)
    return Calibration(temperature, thresholds, metrics)


def class_weights(
    labels: npt.ArrayLike, n_classes: int, limit: float = WEIGHT_LIMIT, power: float = 0.25
) -> npt.NDArray[np.float32]:
    """How much each class's rows count in training: balanced in part, clipped, mean 1 over the rows.

    A class with n of N rows, K classes having any, gets (N / (K n)) ** power, cut to [1/limit, limit], then all are
    scaled so that the mean over rows is 1. `power` 1 would be scikit-learn's "balanced", 0 no weighting. A little
    keeps rare attacks from being ignored without charging benign traffic for it in false alarms.

    Returns:
        float32 [n_classes]; 0 for a class without rows.
    """
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=n_classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(n_classes)
    weights[present] = np.clip((counts.sum() / (present.sum() * counts[present])) ** power, 1 / limit, limit)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def requirements(family: ModelFamily) -> list[str]:
    """What training used, as pip would install it: `name==version` for each module the family requires."""
    providers: Mapping[str, list[str]] = {}
    found = []
    for module in family.requires:
        try:
            name, version = module, importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            providers = providers or importlib.metadata.packages_distributions()
            if module not in providers:
                continue
            name = providers[module][0]
            version = importlib.metadata.version(name)
        found.append(f"{name}=={version.partition('+')[0]}")  # a local build's +cpu is on no index
    return sorted(found)


def training_facts(
    train: TrafficSet,
    validation: TrafficSet,
    *,
    dataset: str | None,
    split: str,
    settings: dict[str, Any],
    seed: int = 0,
    held_out: Iterable[str] = (),
) -> TrainingFacts:
    """Where a version's knowledge comes from, as its metadata tell it."""
    started, ended = _time_range(train, validation)
    return TrainingFacts(
        dataset=dataset or train.schema.name,
        data_digest=train.digest,
        rows=len(train),
        time_from=started,
        time_to=ended,
        split=split,
        seed=seed,
        settings=settings,
        tools=tool_names(train, train.labels > 0),
        services=tool_names(train, train.labels == 0),
        held_out=list(held_out),
    )


def tool_names(traffic: TrafficSet, rows: npt.NDArray[np.bool_]) -> list[str]:
    """What `rows` of `traffic` call their attack tool or benign service, sorted; none where there are too many names
    for them to be that, or where they are too long."""
    found = sorted(set(traffic.tool[rows].astype(str).tolist()) - {""})
    return found if len(found) <= MAX_TOOLS and all(len(name) <= 200 for name in found) else []


def _demand_trainable(train: TrafficSet, validation: TrafficSet) -> None:
    if train.schema.digest != validation.schema.digest:
        raise SchemaError("training and validation traffic have different schemas", where=validation.schema.name)
    for part, what in ((train, "training traffic"), (validation, "validation traffic")):
        if not len(part):
            raise DatasetError("has no rows", where=what)
        unlabelled = int((~part.labelled).sum())
        if unlabelled:
            raise DatasetError(
                f"{unlabelled} of {len(part)} rows have no label", where=what, remedy="leave unlabelled rows out"
            )
    names = [name for name, count in train.class_counts().items() if count]
    if len(names) < 2:
        raise DatasetError(
            f"all rows are {names[0]!r}: there is nothing to tell apart",
            where="training traffic",
            remedy="add traffic of another class, or split it another way (--split captures)",
        )
    if not (train.labels == 0).any():
        raise DatasetError(
            f"no row is {train.schema.benign!r}", where="training traffic", remedy="add benign traffic to it"
        )


def _own_figures(family: ModelFamily, trained: TrainedModel, x: npt.NDArray[np.float32]) -> dict[str, float]:
    if not isinstance(trained, MeasuredModel):
        return {}
    figures = {str(name): float(value) for name, value in trained.figures(x).items()}
    wrong = [name for name, value in figures.items() if not np.isfinite(value)]
    if wrong:
        raise ModelValidationError(f"its figures {wrong} aren't finite", where=f"family {family.name}")
    return figures


def _validation_figures(
    logits: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float32],
    thresholds: dict[str, float],
    temperature: float,
    validation: TrafficSet,
) -> dict[str, float]:
    """Figures on the rows that stopping, temperature and thresholds were chosen on: flattering, hence `val_`."""
    y, top = validation.labels.astype(np.int64), probabilities.argmax(axis=1)
    confusion = confusion_matrix(y, top, validation.schema.output_dim)
    alerts = decide(probabilities, thresholds, validation.schema) > 0
    benign = y == 0
    figures = {
        "val_accuracy": accuracy(confusion),
        "val_macro_f1": macro_f1(confusion),
        "val_fpr": false_positive_rate(confusion),
        "val_false_alert_rate": np.mean(alerts[benign]),
        "val_ece": expected_calibration_error(probabilities, y),
        "val_nll": negative_log_likelihood(logits, y, temperature),
    }
    if not benign.all():
        figures["val_alert_recall"] = np.mean(alerts[~benign])
    return {name: float(value) for name, value in figures.items()}


def even_sample(traffic: TrafficSet, most: int, seed: int) -> TrafficSet:
    """At most `most` rows, as evenly over classes as they go, in random order."""
    if len(traffic) <= most:
        return traffic
    order = np.random.default_rng(seed).permutation(len(traffic))
    labels = traffic.labels[order]
    turn = np.empty(len(order), np.int64)  # a row's number within its class: the first of every class come first
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return traffic.select(order[np.argsort(turn, kind="stable")[:most]])


def _time_range(*parts: TrafficSet) -> tuple[float | None, float | None]:
    if not all(part.has_time for part in parts):
        return None, None
    return min(float(p.time.min()) for p in parts), max(float(p.time.max()) for p in parts)
