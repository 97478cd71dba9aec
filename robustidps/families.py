"""What a model family is, and how built-in and third-party ones are found.

A family is a light class: importing its module imports no framework. It says what it needs (`extra`), what it can be
told (`settings`, a closed pydantic model whose field descriptions are its help), and how to train. It sees
*standardised* features alone and gives *logits*; preprocessing before and calibrated softmax behind are the library's
(`robustidps.training`), the same for all families. Families, ours and others', are found through the entry-point group
`robustidps.families`; one that fails to import is listed with its error and breaks nothing else. Other people's are
imported only where the settings allow them (`robustidps.plugins`), and only to train: scoring opens bundles alone.

    class MyFamily:                                    # satisfies ModelFamily
        name = "my_family"
        ...
        def train(self, settings, train, validation, context): return MyTrained(...)
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.errors import ConfigError, MissingExtraError, printable
from robustidps.plugins import is_ours, why_not
from robustidps.progress import Progress, silent
from robustidps.settings import check_name, config_error, config_file, get_settings, load_yaml

__all__ = [
    "GROUP",
    "FamilyInfo",
    "FamilySettings",
    "MeasuredModel",
    "ModelFamily",
    "Run",
    "RunnableModel",
    "Standardised",
    "Target",
    "TrainedModel",
    "TrainingContext",
    "choose",
    "discover",
    "family_settings",
    "get_family",
]

GROUP = "robustidps.families"
Floats = npt.NDArray[np.float32]


class FamilySettings(BaseModel):
    """What every family can be told. Subclasses add fields, each with bounds and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="seed of initial weights and of the order of batches")


@dataclass(frozen=True)
class Standardised:
    """Rows as a family sees them: x float32 [N, D] standardised, y int64 [N] class indices (all labelled)."""

    x: Floats
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class TrainingContext:
    """What training may use besides its rows.

    n_classes: C, the width of the logits, also where a class has no row.
    class_weights: float32 [C], balanced and clipped, mean 1 over the training rows; 0 for a class without rows.
    threads: CPU threads to use.
    epoch: call after each epoch with (number from 1, total, metrics such as {"train_loss": .., "val_loss": ..,
        "val_macro_f1": ..}); shows progress, logs curves, and raises to cancel.
    name, version, schema_digest: of the registered model that this is to be and of its traffic, for native artefacts
        that say whose they are; empty where nothing is registered.
    """

    n_classes: int
    class_weights: Floats
    threads: int = 1
    epoch: Callable[[int, int, dict[str, float]], None] = field(default=lambda number, total, metrics: None)
    name: str = ""
    version: str = ""
    schema_digest: str = ""


@runtime_checkable
class TrainedModel(Protocol):
    """A model that has been trained."""

    def logits(self, x: Floats) -> Floats:
        """Standardised [N, D] to logits [N, C], computed by the native framework."""

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file, no external data: `x` float32 [N, D] in, `logits` float32 [N, C] out, N dynamic."""

    def save_native(self, folder: Path) -> None:
        """Writes the framework's own artefact, pickle-free, into an existing empty folder."""


@runtime_checkable
class MeasuredModel(Protocol):
    """A trained model that has figures of its own; offering them is optional."""

    def figures(self, x: Floats) -> dict[str, float]:
        """Finite figures by name, such as firing rates or qubits, of the model or of how it treats these rows.

        `training` asks with the standardised validation rows [N, D], N >= 1, and keeps them with the version's metrics.
        """


@dataclass(frozen=True)
class Run:
    """What part of a model measured on a device or backend that isn't its own arithmetic, and what came of it.

    logits: float32 [N, C]. measured, exact: [N, n], what was measured and what it would be without noise or shots.
    facts: of the run, as plain data: `backend` or `device`, `qubits`, `depth`, `shots` (None: exact), `seed`, `job` ..
    """

    logits: Floats
    measured: npt.NDArray[np.float64]
    exact: npt.NDArray[np.float64]
    facts: dict[str, Any]


@runtime_checkable
class RunnableModel(Protocol):
    """A trained model whose circuit can run on other devices; offering it is optional (`evaluate-on-hardware`).

    Its family's module offers `load_native(folder)`, which gives one from what `save_native` wrote.
    """

    def check_target(self, target: Target) -> Target:
        """`target` as it will be used, defaults filled in; before any row is read.

        Raises:
            ConfigError: no such device or backend, one that is too small, no account. MissingExtraError.
        """

    def run_on(self, target: Target, x: Floats, progress: Progress = silent) -> Run:
        """Standardised [N, D] to logits by way of `target`.

        Raises:
            What `check_target` raises. UnavailableError: the device or the job failed.
        """


@dataclass(frozen=True)
class Target:
    """Where a model's circuit shall run: a simulator or hardware of a vendor by its `backend` name, or a `device` of
    the family's framework; neither: the device that the model was trained with in mind.

    shots: measurements for each row; None: exact where the device can, else the device's own number.
    options: of the device, by name.
    """

    backend: str | None = None
    device: str | None = None
    shots: int | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class ModelFamily(Protocol):
    """A kind of model."""

    name: ClassVar[str]
    """Identifier, as used on the command line."""
    description: ClassVar[str]
    framework: ClassVar[str]
    """What trains it, e.g. `pytorch`."""
    model_type: ClassVar[str]
    """The guide's word for the kind of model, e.g. `pytorch`, `quantum`, `spiking`."""
    extra: ClassVar[str]
    """The extra of this package (or a plugin's) that brings the framework."""
    requires: ClassVar[tuple[str, ...]]
    """Top-level modules that must be importable to train; recorded with their versions as requirements."""
    capabilities: ClassVar[frozenset[str]]
    """Any of `calibrated`, `deterministic`, `spiking`, `quantum`."""
    settings: ClassVar[type[FamilySettings]]

    def train(
        self, settings: Any, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedModel:
        """Trains on `train`, stops early on `validation`. Deterministic by `settings.seed`.

        Threads of one process may train several families at once: keep to random states of your own, or hold a lock
        while you use one that the process shares (as `robustidps.models._torch.torch_at` does).

        Raises:
            ConfigError: settings that can't work with these sizes.
        """


@dataclass(frozen=True)
class FamilyInfo:
    """A family as found: usable when `problem` is None.

    distribution: whose it is.
    install: what to install where its framework is missing, as pip takes it.
    allow: the line of the setting `plugins` that would allow it, where that is the problem and a line can help.
    """

    name: str
    distribution: str
    family: ModelFamily | None
    problem: str | None = None
    install: str | None = None
    allow: str | None = None

    @property
    def remedy(self) -> str | None:
        """What to do about the problem, where something can be done."""
        if self.allow:
            return f"if you trust it, add to `plugins` in HOME/settings.yaml: {self.allow}"
        return f"pip install '{self.install}'" if self.problem and self.install else None


def discover() -> dict[str, FamilyInfo]:
    """All families by name; broken and unavailable ones are in it with the reason. Ours win a contested name."""
    with _finding:
        return _discover()


_finding = threading.RLock()
"""While a family is imported the process's standard output is another one: two threads would not give it back."""


def _discover() -> dict[str, FamilyInfo]:
    found: dict[str, FamilyInfo] = {}
    points = sorted(entry_points(group=GROUP), key=lambda p: (not is_ours(p), _distribution(p), p.name))
    for point in points:
        if point.name in found:
            taken = f"the name is taken by {found[point.name].distribution}"
            key = f"{point.name} ({_distribution(point)})"
            found[key] = FamilyInfo(point.name, _distribution(point), None, taken)
            continue
        found[point.name] = _inspect(point)
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _inspect(point: EntryPoint) -> FamilyInfo:
    where = _distribution(point)
    try:
        check_name(point.name, "family name")
        if not is_ours(point) and (refused := why_not(point, get_settings().plugins)):
            return FamilyInfo(point.name, where, None, refused[0], allow=refused[1])
        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not end up in our --json
            family = point.load()()
            if not isinstance(family, ModelFamily):
                return FamilyInfo(point.name, where, None, "is not a ModelFamily (see robustidps.families)")
            if family.name != point.name:
                return FamilyInfo(point.name, where, None, f"calls itself {printable(family.name)!r}")
            if not issubclass(family.settings, FamilySettings):
                return FamilyInfo(point.name, where, None, "its settings aren't FamilySettings")
            missing = [m for m in family.requires if importlib.util.find_spec(m) is None]
            install = f"{where}[{family.extra}]"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it is reported, not hidden
        return FamilyInfo(point.name, where, None, f"{type(error).__name__}: {printable(error)}")
    problem = f"{', '.join(missing)} not installed" if missing else None
    return FamilyInfo(point.name, where, family, problem, install)


def get_family(name: str) -> ModelFamily:
    """The family `name`, ready to train.

    Raises:
        ConfigError: no such family, it is broken, or a plugin that isn't allowed.
        MissingExtraError: its framework isn't installed.
    """
    found = discover()
    info = found.get(name)
    if info is None:
        raise ConfigError(f"no family {printable(name)!r}", remedy=f"known: {', '.join(sorted(found))}")
    if info.family is None:
        problem = f"family {name!r} of {info.distribution} can't be used: {info.problem}"
        raise ConfigError(problem, remedy=info.remedy)
    if info.problem:
        raise MissingExtraError(f"what family {name!r} needs", info.family.extra, info.distribution)
    return info.family


def choose(
    families: Sequence[str] | None, overrides: Mapping[str, Any]
) -> tuple[list[str], dict[str, dict[str, str | None]]]:
    """Which families to train, in order; and those that can't be, by name, with the reason and what to do about it.

    One that is named is tried, whatever it lacks.

    Raises:
        ConfigError: no such family, settings for one that isn't trained, or none to train.
    """
    found = discover()
    unknown = sorted(set(families or ()) - set(found))
    if unknown:
        raise ConfigError(f"no family {printable(unknown[0])!r}", remedy=f"known: {', '.join(sorted(found))}")
    chosen = list(dict.fromkeys(families or (name for name, info in sorted(found.items()) if info.problem is None)))
    skipped: dict[str, dict[str, str | None]] = {}
    if not families:
        skipped = {n: {"problem": i.problem, "remedy": i.remedy} for n, i in sorted(found.items()) if i.problem}
    if not chosen:
        raise ConfigError("no family can be trained here", remedy="robustidps models --families says why")
    for name in sorted(set(overrides) - set(chosen)):
        raise ConfigError(
            f"there are settings for {printable(name)!r}, which isn't trained",
            where="--set",
            remedy=f"trained are: {', '.join(chosen)}",
        )
    return chosen, skipped


def family_settings(family: ModelFamily, overrides: dict[str, Any] | None = None) -> FamilySettings:
    """Settings from `families/NAME.yaml` (HOME/configs or ours, where there is one) with `overrides` on top.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    file = config_file("families", family.name)
    base = load_yaml(file, family.settings).model_dump() if file.is_file() else {}
    try:
        return family.settings.model_validate(base | (overrides or {}))
    except ValidationError as error:
        raise config_error(error, f"settings of family {family.name}", family.settings) from None
