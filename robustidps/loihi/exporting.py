"""From a registered version to the report: read, quantised, simulated three ways, compared, written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustidps.errors import ConfigError, DatasetError, NotFoundError, SchemaError
from robustidps.loihi import gate, parity, plots, resources
from robustidps.loihi.emulator import Emulation, emulate
from robustidps.loihi.quantising import Quantised, calibrate
from robustidps.loihi.report import LoihiReport, QuantisedLayer, markdown
from robustidps.loihi.runner import Simulation, installed, simulate
from robustidps.loihi.subject import Subject, encode, subject_of
from robustidps.progress import Progress, silent
from robustidps.settings import Settings, write_whole

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["CALIBRATION_ROWS", "RASTER", "ROWS", "export", "export_version"]

ROWS = 2000
CALIBRATION_ROWS = 500
RASTER = 4
"""Flows of which every spike is kept and drawn."""


def export_version(
    registry: ModelRegistry,
    name: str,
    version: str | None = None,
    *,
    rows: int = ROWS,
    on: Path | None = None,
    calibrate_on: Path | None = None,
    out: Path | None = None,
    limit_s: float = 1800.0,
    progress: Progress = silent,
) -> tuple[LoihiReport, list[Path]]:
    """`export` of a registered version.

    Args:
        version: a number, or `production`, `staging`, `latest`; default: the newest that is registered.
        rows: how many are simulated, drawn at random (seed 0) from the held-out ones.
        on: labelled traffic (Parquet); default: what the version was held out from.
        calibrate_on: what it was trained on; default: where training has left that in the home folder.
        out: folder for the report; default: in the home folder.

    Raises:
        NotFoundError: no such version, or traffic that isn't there any more.
        What `export` and `subject_of` raise.
    """
    from robustidps.judging import read_held_out
    from robustidps.traffic.trafficset import TrafficSet

    installed(registry.settings)  # before anything slow
    if version is None:
        there = [r.version for r in registry.versions(name) if r.status == "registered"]
        version = there[-1] if there else "latest"
    record = registry.resolve(name, version)
    subject = subject_of(registry.bundle(name, record.version))
    where = f"{name} {record.version}"
    if on is not None:
        traffic, dataset = TrafficSet.read(on), on.name
    else:
        traffic = read_held_out(record.held_out, where, home=registry.settings.home)
        dataset = str((record.held_out or {}).get("dataset", "held-out traffic"))
    training = TrafficSet.read(calibrate_on) if calibrate_on else _trained_on(registry.settings, subject, where)
    folder = out or registry.settings.folder("reports", name, record.version) / "loihi"
    return export(
        registry.settings,
        subject,
        training,
        traffic,
        dataset=dataset,
        rows=rows,
        out=folder,
        limit_s=limit_s,
        progress=progress,
    )


def _trained_on(settings: Settings, subject: Subject, where: str) -> TrafficSet:
    """The traffic that training has left in the home folder (`tasks/references.py:store`)."""
    from robustidps.traffic.trafficset import TrafficSet

    facts = subject.bundle.metadata.training
    digest = facts.data_digest if facts else ""
    path = settings.home / "traffic" / f"train-{digest[:16]}.parquet"
    remedy = "name it: --calibrate-on FILE.parquet"
    if not digest or not path.is_file():
        raise NotFoundError("the traffic it was trained on isn't here", where=where, remedy=remedy)
    traffic = TrafficSet.read(path)
    if traffic.digest != digest:
        raise NotFoundError("isn't what it was trained on any more", where=path, remedy=remedy)
    return traffic


def export(
    settings: Settings,
    subject: Subject,
    training: TrafficSet,
    held_out: TrafficSet,
    *,
    dataset: str,
    out: Path,
    rows: int = ROWS,
    limit_s: float = 1800.0,
    progress: Progress = silent,
) -> tuple[LoihiReport, list[Path]]:
    """Simulates `subject` on held-out rows and writes `report.json`, `report.md`, `model.nir`, `integers.npz` and the
    pictures into `out`; gives the report and the files, the Markdown first.

    Args:
        training: what the quantising is calibrated on, or a part of it.
        limit_s: for each of the two simulations.

    Raises:
        ConfigError: no row wanted. DatasetError: no rows. SchemaError: traffic of another schema.
        RefusedError: the network fits no chip; names the layer.
        UnavailableError: no Loihi environment, or the time is over. BundleError, ModelValidationError: see `simulate`.
        StorageError: `out` can't be written to.
    """
    if rows < 1:
        raise ConfigError(f"{rows} rows", where="--rows", remedy="give a number above zero")
    if not len(held_out):
        raise DatasetError("holds no row", where=dataset)
    for part in (training, held_out):
        if part.schema.digest != subject.bundle.schema.digest:
            raise SchemaError(f"the model reads {subject.bundle.schema.name}, the traffic is {part.schema.name}")
    versions = installed(settings)
    network = subject.network
    on_chip = resources.placements(network)
    judged, sample = _some(held_out, rows), _some(training, CALIBRATION_ROWS)

    progress("reading traffic", 0, None)
    x, known = subject.standardised(judged), subject.standardised(sample)
    learnt = subject.reference(known)
    quantised = calibrate(network, known, learnt.classes, learnt.counts, progress)
    reference, emulation, floating, fixed, data, cut = _simulate(settings, subject, quantised, x, limit_s, progress)
    progress("comparing", 0, None)
    counted = resources.operations(network, data, fixed)
    estimate = resources.running(network, counted, on_chip)
    meta = subject.bundle.metadata
    report = LoihiReport(
        model=meta.name,
        version=meta.version,
        bundle_digest=subject.bundle.digest,
        nir_sha256=hashlib.sha256(subject.nir.read_bytes()).hexdigest(),
        sizes=[network.layers[0].weights.shape[1], *(len(layer.weights) for layer in network.layers)],
        steps=network.steps,
        coding=network.coding,
        dataset=dataset,
        data_digest=held_out.digest,
        rows=len(judged),
        rows_available=len(held_out),
        calibration_digest=training.digest,
        calibration_rows=len(sample),
        software={name: str(versions[name]) for name in ("lava-nc", "nir", "numpy", "python")},
        deployed_classes_differing=int(
            (subject.bundle.probabilities(judged.features).argmax(axis=1) != reference.classes).sum()
        ),
        floating=parity.float_parity(network, data, reference, floating),
        emulator=parity.fixed_parity(emulation.simulation, fixed),
        cost=parity.cost(judged, floating, fixed),
        layers=_layers(quantised, network, emulation),
        inputs_cut=cut,
        operations=counted,
        on_chip=on_chip,
        running=estimate,
        claims=resources.claims(estimate, resources.dense_latency_ms(network)),
    )
    trained_on = meta.training.data_digest if meta.training else None
    report = report.model_copy(update={"requirements": gate.requirements(report, trained_on=trained_on)})
    return report, _write(report, subject, quantised, fixed, _titles(judged, fixed), out)


def _some(traffic: TrafficSet, rows: int) -> TrafficSet:
    """At most so many rows, drawn at random, in their order."""
    if len(traffic) <= rows:
        return traffic
    return traffic.select(np.sort(np.random.default_rng(0).choice(len(traffic), rows, replace=False)))


def _simulate(
    settings: Settings, subject: Subject, quantised: Quantised, x: Any, limit_s: float, progress: Progress
) -> tuple[Simulation, Emulation, Simulation, Simulation, Any, int]:
    network = subject.network
    data = encode(network, x)
    whole, cut = quantised.inputs(network, x)
    how: dict[str, Any] = {"raster": min(RASTER, len(x)), "limit_s": limit_s, "progress": progress}
    floating = simulate(settings, subject.nir, data, **how)
    fixed = simulate(settings, subject.nir, whole, integers=quantised.arrays(), **how)
    return subject.reference(x), emulate(quantised, whole, RASTER), floating, fixed, data, cut


def _layers(quantised: Quantised, network: Any, emulation: Emulation) -> list[QuantisedLayer]:
    return [
        QuantisedLayer(
            neurons=len(whole.weights),
            scale=whole.threshold / layer.threshold,
            threshold=whole.threshold,
            share=share,
            cut=whole.cut,
            overflowed=emulation.overflowed[k],
            saturated=emulation.saturated[k],
        )
        for k, (whole, layer, share) in enumerate(zip(quantised.layers, network.layers, quantised.shares, strict=True))
    ]


def _titles(traffic: TrafficSet, fixed: Simulation) -> list[str]:
    names = traffic.schema.classes
    found = []
    for row in range(len(fixed.rasters[0])):
        label = int(traffic.labels[row])
        found.append(f"{names[label] if label >= 0 else 'unlabelled'}, taken for {names[fixed.classes[row]]}")
    return found


def _write(
    report: LoihiReport, subject: Subject, quantised: Quantised, fixed: Simulation, titles: list[str], out: Path
) -> list[Path]:
    import io

    arrays = io.BytesIO()
    content: dict[str, Any] = quantised.arrays()
    np.savez(arrays, **content)
    pictures = plots.draw(report, fixed, titles, out)
    return [
        write_whole(out / "report.md", markdown(report)),
        write_whole(out / "report.json", report.model_dump_json(indent=2)),
        write_whole(out / "model.nir", subject.nir.read_bytes()),
        write_whole(out / "integers.npz", arrays.getvalue()),
        *pictures,
    ]
