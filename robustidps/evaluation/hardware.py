"""A registered version with its circuit run on hardware or on a simulated device, beside itself without noise.

Everything but the circuit is the bundle's: its graph standardises the rows, its native weights (read from verified
bytes) give angles before the circuit and logits behind it, and temperature and alert thresholds follow as they do in
service. Both answers are judged by `evaluate` on the same rows, and `paired` says what the device costs. Which devices
there are is the family's business (`robustidps.families.RunnableModel`).
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from robustidps.calibration import softmax
from robustidps.errors import ConfigError, DatasetError
from robustidps.evaluation.bootstrap import blocks_of, fold, interval
from robustidps.evaluation.evaluate import evaluate, paired
from robustidps.evaluation.report import Evaluation, Interval, PairedDifference
from robustidps.families import Run, RunnableModel, Target, discover, get_family
from robustidps.progress import Progress, silent
from robustidps.settings import write_whole
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.registry.registry import ModelRegistry

__all__ = ["DEFAULT_ROWS", "HardwareEvaluation", "evaluate_on_hardware", "sample"]

DEFAULT_ROWS = 256
"""Rows that are run where nobody says how many: hardware is paid for by them."""


class HardwareEvaluation(BaseModel):
    """What came of it. `on_device` and `noiseless` are of the same rows; `differences` are the first minus the second.

    facts: of the run: `backend` or `device`, `qubits`, `depth`, `shots`, `seed`, `job` and what else the family tells.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    model: str
    version: str
    time: datetime
    target: str = Field(description="name of the backend or device")
    facts: dict[str, Any]
    rows: int
    rows_there: int = Field(description="labelled rows that they were drawn from, uniformly")
    seed: int = Field(description="of the draw")
    on_device: Evaluation
    noiseless: Evaluation
    differences: list[PairedDifference]
    agreement: Interval = Field(description="share of rows whose most probable class is the same")
    measured_error: float = Field(description="root mean square of measured minus exact expectations")

    def metrics(self) -> dict[str, float]:
        """Figures for MLflow, those without a value left out."""
        figures = {name: value.value for name, value in self.on_device.headline.items()}
        figures |= {f"noiseless_{name}": value.value for name, value in self.noiseless.headline.items()}
        figures |= {f"difference_{d.metric}": d.difference.value for d in self.differences}
        figures |= {f"recall.{label}": figure.recall.value for label, figure in self.on_device.classes.items()}
        figures |= {"agreement": self.agreement.value, "measured_error": self.measured_error, "rows": float(self.rows)}
        for name, value in (("accuracy", self.on_device.headline["accuracy"]), ("agreement", self.agreement)):
            figures |= {f"{name}_low": value.low, f"{name}_high": value.high}
        figures |= {k: float(v) for k, v in self.facts.items() if isinstance(v, (int, float))}
        return {name: value for name, value in figures.items() if value is not None}


def evaluate_on_hardware(
    registry: ModelRegistry,
    name: str,
    which: str = "production",
    target: Target | None = None,
    *,
    rows: int = DEFAULT_ROWS,
    on: Path | None = None,
    progress: Progress = silent,
) -> tuple[HardwareEvaluation, Path]:
    """Runs a version's circuit on `target` and judges what comes of it; written to a file, then logged to MLflow.

    Args:
        which: a version, or `production`, `staging`, `latest`.
        target: where; default: the device that the version's settings name.
        rows: labelled rows to run, drawn uniformly by `target.seed`; all where there are fewer.
        on: labelled traffic to draw from; default: what the version was held out from.

    Returns:
        The evaluation, and the file it was written to, under HOME/reports.

    Raises:
        ConfigError: a version without a circuit, no such device or backend, one too small, no account.
        MissingExtraError: what the device needs isn't installed. UnavailableError: the device or the job failed.
        And what `robustidps.comparing.evaluate_version` raises.
    """
    from robustidps.bundle import verified_native
    from robustidps.comparing import held_out_of, resolve

    if rows < 1:
        raise ConfigError(f"{rows} rows can't be run", where="--rows", remedy="use 1 or more")
    bundle = resolve(registry, f"{name}@{which}")
    meta = bundle.metadata
    load = _loader(bundle)
    with verified_native(bundle.path, bundle.digest) as native:
        model = load(native)
    if not isinstance(model, RunnableModel):
        raise _no_circuit(bundle)
    target = model.check_target(target or Target())
    registry.tracking.ping()  # a run that is paid for had better have somewhere to be recorded
    traffic, dataset = held_out_of(registry, bundle, on)
    chosen = sample(traffic, rows, target.seed)
    noiseless = bundle.probabilities(chosen.features)
    run = model.run_on(target, bundle.standardised(chosen.features), progress)
    report = judged(bundle, chosen, dataset, noiseless, run, target, int(traffic.labelled.sum()), progress)
    folder = registry.settings.folder("reports", meta.name, meta.version)
    word = re.sub(r"[^A-Za-z0-9_.-]", "_", report.target)
    file = f"hardware-{word}-{report.time:%Y%m%dT%H%M%S}.json"
    text = report.model_dump_json(indent=2)
    written = write_whole(folder / file, text)
    registry.log_report(meta.name, meta.version, f"hardware/{word}", report.metrics(), [written])
    return report, written


def sample(traffic: TrafficSet, rows: int, seed: int) -> TrafficSet:
    """At most `rows` labelled rows, drawn uniformly without replacement, in their order. Raises DatasetError."""
    known = np.flatnonzero(traffic.labelled)
    if not len(known):
        raise DatasetError("no row has a label", remedy="evaluate on labelled traffic")
    return traffic.select(np.sort(np.random.default_rng(seed).permutation(known)[:rows]))


def judged(
    bundle: Bundle,
    rows: TrafficSet,
    dataset: str,
    noiseless: npt.NDArray[np.float32],
    run: Run,
    target: Target,
    rows_there: int,
    progress: Progress = silent,
) -> HardwareEvaluation:
    """Both answers to the same rows, judged and compared. noiseless: the bundle's own probabilities [N, C]."""
    meta = bundle.metadata
    given = softmax(run.logits, meta.temperature)

    def figures(probabilities: npt.NDArray[np.float32]) -> Any:
        answers = SimpleNamespace(
            probabilities=lambda x: probabilities, metadata=meta, schema=bundle.schema, digest=bundle.digest
        )
        return evaluate(answers, rows, dataset=dataset, timing=False, seed=target.seed, progress=progress)

    (on_device, first), (without, second) = figures(given), figures(noiseless)
    same = fold([first.predicted == second.predicted], blocks_of(rows))
    draws = same.resample(on_device.resamples, target.seed)
    alike = same.patterns[:, 0] == 1
    everything = np.ones_like(alike)
    agreement = interval(
        float(same.totals[0, alike].sum() / len(rows)),
        draws[:, alike].sum(axis=1) / draws.sum(axis=1),
        same.blocks_with(everything),
    )
    return HardwareEvaluation(
        model=meta.name,
        version=meta.version,
        time=datetime.now(UTC),
        target=str(run.facts.get("backend") or run.facts.get("device") or "device"),
        facts=run.facts,
        rows=len(rows),
        rows_there=rows_there,
        seed=target.seed,
        on_device=on_device,
        noiseless=without,
        differences=paired(first, second, rows, seed=target.seed),
        agreement=agreement,
        measured_error=float(np.sqrt(np.mean((run.measured - run.exact) ** 2))),
    )


def _loader(bundle: Bundle) -> Any:
    """`load_native` of the version's family, where it is one whose models are circuits."""
    info = discover().get(bundle.metadata.family or "")
    if info is None or info.family is None or "quantum" not in info.family.capabilities:
        raise _no_circuit(bundle)
    family = get_family(info.name)
    load = getattr(sys.modules[type(family).__module__], "load_native", None)
    if load is None:
        raise _no_circuit(bundle)
    return load


def _no_circuit(bundle: Bundle) -> ConfigError:
    meta = bundle.metadata
    return ConfigError(
        f"is of the family {meta.family or 'unknown'}, which has no circuit to run",
        where=f"{meta.name} {meta.version}",
        remedy="name a version of the family quantum (robustidps train quantum)",
    )
