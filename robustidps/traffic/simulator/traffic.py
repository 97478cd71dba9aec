"""Simulated traffic as a `TrafficSet`: each day's capture through the extractor that every capture goes through."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import DatasetError, MissingExtraError
from robustidps.progress import Progress, silent
from robustidps.traffic.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from robustidps.traffic.simulator.simulate import Simulation, simulate
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.traffic.labels import Truth

__all__ = ["fresh_capture", "simulated_traffic"]


def simulated_traffic(
    settings: SimulatorSettings, folder: Path, *, progress: Progress = silent, processes: int = 2
) -> TrafficSet:
    """Labelled flows of all days, by time; campaign, tool, time and source (the capture's name) are filled.

    Kept under `folder` as Parquet, named for settings, simulator and NFStream: a second call reads it.

    Args:
        processes: captures that NFStream reads at a time.

    Raises:
        StorageError: full disk, read-only folder.
        MissingExtraError: NFStream or pyarrow isn't installed.
    """
    try:
        extractor = version("nfstream")
    except PackageNotFoundError:
        raise MissingExtraError("nfstream", "traffic") from None
    kept = folder / f"traffic-{settings.digest[:16]}-nfstream-{extractor}.parquet"
    if kept.is_file():
        try:
            traffic = TrafficSet.read(kept)
            if traffic.provenance.get("digest") == settings.digest:
                return traffic
        except DatasetError:
            pass  # damaged: made anew below
    simulation = simulate(settings, folder, progress=progress)
    done, lock, stopped = [0], threading.Lock(), threading.Event()
    whole = float(sum(simulation.packets))

    def one(day: int) -> TrafficSet:
        if stopped.is_set():
            raise KeyboardInterrupt
        traffic = _labelled(simulation, day)
        with lock:
            done[0] += simulation.packets[day]
            progress("extracting flows", done[0], whole, unit="packets", note=f"day {day + 1} of {settings.days}")
        return traffic

    progress("extracting flows", 0, whole, unit="packets")
    with ThreadPoolExecutor(max(processes, 1)) as pool:
        try:
            parts = list(pool.map(one, range(settings.days)))
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    joins = [p.provenance for p in parts]
    traffic = TrafficSet.concat(parts)
    traffic.provenance.clear()
    traffic.provenance.update(
        loader="simulator",
        simulator=SIMULATOR_VERSION,
        nfstream=extractor,
        digest=settings.digest,
        settings=settings.model_dump(mode="json"),
        packets=int(whole),
        unmatched=sum(int(j["unmatched"]) for j in joins),
    )
    traffic.write(kept)
    return traffic


def _labelled(simulation: Simulation, day: int) -> TrafficSet:
    from robustidps.traffic.capture import extract
    from robustidps.traffic.flow64 import FLOW64
    from robustidps.traffic.labels import join

    capture = simulation.captures[day]
    flows = extract(capture)
    labels, campaign, tool, report = join(flows, simulation.truth(day), tolerance_s=0.01)
    return TrafficSet.build(
        FLOW64,
        flows.features,
        labels,
        time=flows.first_seen,
        source=capture.name,
        campaign=campaign,
        tool=tool,
        provenance=report.to_dict() | {"unmatched": report.unmatched + report.ambiguous},
    )


def fresh_capture(path: Path, *, seed: int, packets: int = 16_000, day: int = 20, labels: Path | None = None) -> Path:
    """One small capture, benign traffic with some attacks, of a day that no default simulation has.

    Args:
        labels: where its truth goes as a label file, a row a conversation, for `robustidps ingest --labels`;
            without it nobody is told.

    Raises:
        StorageError: full disk, read-only folder.
    """
    from robustidps.settings import writable
    from robustidps.traffic.simulator.simulate import read_truth, write_day

    settings = SimulatorSettings.make(seed=seed, packets_per_day=packets, prevalence=0.1)
    part = path.with_name(f".{path.name}.part")
    truth = part.with_suffix(".truth.npz")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_day(settings, day, part)
            if labels is not None:
                _write_labels(labels, read_truth(truth))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
            truth.unlink(missing_ok=True)
    return path


def _write_labels(path: Path, truth: Truth) -> None:
    """`truth` as a label file (docs/data.md), times in seconds since 1970."""
    import csv
    import io

    from robustidps.settings import write_whole

    columns = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "start", "end", "label", "campaign", "tool")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(getattr(truth, name).tolist() for name in columns), strict=True))
    write_whole(path, text.getvalue())
