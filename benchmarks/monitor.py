"""`monitor` on a large window: seconds, memory, and how much faster than Evidently on the same rows.

    python -m benchmarks monitor [--rows 1000000] [--evidently-rows 1000000] [--families flax_mlp neural_ode] [--write]

A window of random flows (64 features, lognormal) is written as Parquet, and looked at in a process of its own: read,
counted in the bins of two profiles, scored with a model of the family, digested, judged, put on record, and its page
written. Its peak memory is the process's. Then, apart, Evidently's page of a sample, as `monitor` makes it.

Evidently is timed on the very same rows, its imports and the reading included, as ours are: its drift report of all
columns against as many rows of reference, once with the measures that it chooses itself for so many rows (Wasserstein
distance, Jensen-Shannon for words) and once with ours (PSI). Where that would take very long, fewer rows can be given;
both are then timed on those.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section

MINUTES = 15
FAMILIES = ("linear", "flax_mlp", "keras_mlp", "neural_ode", "boosted_trees")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks monitor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="flows of the window")
    parser.add_argument("--evidently-rows", type=int, default=1_000_000, help="flows that both are timed on; 0: none")
    parser.add_argument("--families", nargs="*", default=["flax_mlp", "neural_ode"], choices=FAMILIES)
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.folder, arguments.rows, arguments.families[0])))
        return 0
    with tempfile.TemporaryDirectory(prefix="robustidps-monitor-") as name:
        folder = Path(name)
        lines, compared = [], []
        for family in arguments.families:
            home = folder / family
            _apart("prepare", home, arguments.rows, family)
            found = _apart("monitor", home, arguments.rows, family)
            lines.append(_line(family, arguments.rows, found))
            print(lines[-1], file=sys.stderr, flush=True)
        if arguments.evidently_rows:
            home, family, rows = folder / "peer", arguments.families[0], arguments.evidently_rows
            _apart("prepare", home, rows, family)
            ours = _apart("monitor", home, rows, family)
            for measure, part in (("the measures it chooses itself", "evidently"), ("PSI", "evidently-psi")):
                theirs = _apart(part, home, rows, family)
                compared.append(_compared(measure, theirs, ours))
                print(compared[-1], file=sys.stderr, flush=True)
            lines.append(_line(f"{family}, beside Evidently", rows, ours))
    header = ["model", "flows", "seconds", "processor seconds", "peak memory, MB", "Evidently's sample, s more"]
    text = table(header, lines)
    if compared:
        columns = ["Evidently's report with", "seconds", "processor seconds", "peak memory, MB", "`monitor` is as fast"]
        text += f"\n\nOn the same {arguments.evidently_rows:,} flows, scoring included on our side:\n\n"
        text += table(columns, compared)
    load = os.getloadavg()[1]
    text += (
        f"\n\n{circumstances('python -m benchmarks monitor --write')} The machine's load was {load:.1f} at the end: "
        "where it is above the number of cores, wall-clock seconds are longer than on a quiet one."
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'monitor', text)}")
    return 0


def _line(name: str, rows: int, found: dict) -> list[str]:
    seconds = [f"{found[key]:.1f}" for key in ("seconds", "processor")]
    return [name, f"{rows:,}", *seconds, f"{found['memory']:,.0f}", f"{found['sample']:.1f}"]


def _compared(measure: str, theirs: dict, ours: dict) -> list[str]:
    figures = [f"{theirs['seconds']:.0f}", f"{theirs['processor']:.0f}", f"{theirs['memory']:,.0f}"]
    return [measure, *figures, f"{theirs['seconds'] / ours['seconds']:.0f} times"]


def _apart(part: str, folder: Path, rows: int, family: str) -> dict:
    """One part in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks", "monitor", "--part", part, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--rows", str(rows), "--families", family], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def flows(rows: int, seed: int, moved: float = 0.0):
    """Labelled flow64 traffic of an hour; classes are shifts of some columns, so that a model learns something."""
    from robustidps.traffic.flow64 import FLOW64
    from robustidps.traffic.trafficset import TrafficSet

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 13, rows).astype(np.int16)
    x = np.empty((rows, FLOW64.input_dim), np.float32)
    for i, feature in enumerate(FLOW64.features):
        if feature.kind == "categorical":
            x[:, i] = rng.integers(0, len(feature.vocabulary) + 1, rows)
        else:
            x[:, i] = rng.lognormal(3 + moved * (i % 4 == 0), 1.5, rows) * (1 + labels * (i % 13 == labels))
    time_ = 1_767_571_200.0 + seed * 3_600 + np.sort(rng.uniform(0, 3_600, rows))
    campaign = np.array([f"{hour}" for hour in range(60)], dtype=object)[(np.arange(rows) * 60) // max(rows, 1)]
    return TrafficSet.build(FLOW64, x, labels, time=time_, campaign=campaign, source="bench", tool="bench")


def prepare(home: Path, rows: int, family: str) -> dict:
    """An installation with a first version and another one in production, and the window."""
    from robustidps.families import family_settings, get_family
    from robustidps.settings import Settings, use_settings
    from robustidps.testing.linear import Linear
    from robustidps.testing.registry import APPROVE
    from robustidps.training import train_bundle

    with use_settings(Settings(home=home)):
        registry = _registry(home)
        made = Linear() if family == "linear" else get_family(family)
        settings = family_settings(made, {"epochs": 1} if "epochs" in made.settings.model_fields else {})
        for seed, version in enumerate(("1.0.0", "2.0.0")):
            train, validation = flows(20_000, seed), flows(5_000, seed + 10)
            train_bundle(
                made,
                settings,
                train,
                validation,
                out=home / "made" / version,
                name="bench",
                version=version,
                dataset="bench",
                split="",
            )
            registry.register_model("bench", version, home / "made" / version)
            registry.transition("bench", version, "Production", verdict=APPROVE)
            if seed:
                train.write(home / "traffic" / f"train-{train.digest[:16]}.parquet")
        flows(rows, 100, moved=1.5).write(home / "incoming" / "window.parquet")
    return {}


def _registry(home: Path):
    """MLflow in memory, so that its speed is no part of this; its versions are found again in the state store."""
    from robustidps.testing.registry import memory_registry

    return memory_registry(home)


def look(home: Path, rows: int, family: str) -> dict:
    """All that `monitor` does with a window but MLflow and Prefect; the process is fresh, imports are counted."""
    began, began_processor = time.perf_counter(), time.process_time()
    from robustidps.monitoring.index import write_index
    from robustidps.monitoring.reports import evidently_report, write_page
    from robustidps.monitoring.windows import Case, enter, look, next_windows
    from robustidps.settings import Settings, use_settings

    with use_settings(Settings(home=home)):
        registry = _registry(home)
        files, ranges = next_windows(registry, "bench", home / "incoming", folder=home / "traffic")
        case = Case.of(registry, "bench")
        found = look(case, files, ranges[0])
        assert found is not None and found.figures.rows == rows and found.figures.anchor is not None
        entered = enter(registry, case, found.figures, now=datetime.now(UTC))
        assert entered.window.drifted
        write_page(registry, entered.window)
        write_index(registry)
        seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
        memory = _peak()
        began = time.perf_counter()
        evidently_report(registry, case, entered.window, found)
        sample = time.perf_counter() - began
    return {"seconds": seconds, "processor": processor, "memory": memory, "sample": sample}


def peer(home: Path, rows: int, method: str | None) -> dict:
    """Evidently's report on the same rows, its imports and reading the file included, against as many of reference."""
    reference = flows(rows, 1)
    began, began_processor = time.perf_counter(), time.process_time()
    import warnings

    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    from robustidps.traffic.flow64 import FLOW64

    before = pd.DataFrame(reference.features, columns=FLOW64.feature_names)
    current = pd.read_parquet(home / "incoming" / "window.parquet", columns=FLOW64.feature_names)
    words = [f.name for f in FLOW64.features if f.kind == "categorical"]
    numeric = [f.name for f in FLOW64.features if f.kind != "categorical"]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        then, now = (Dataset.from_pandas(f, data_definition=definition) for f in (before, current))
        preset = DataDriftPreset(columns=numeric + words, num_method=method, cat_method=method, include_tests=False)
        made = Report([preset]).run(current_data=now, reference_data=then).dict()
    seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
    assert len(made["metrics"]) > len(numeric)
    return {"seconds": seconds, "processor": processor, "memory": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


PARTS = {
    "prepare": prepare,
    "monitor": look,
    "evidently": lambda home, rows, family: peer(home, rows, None),
    "evidently-psi": lambda home, rows, family: peer(home, rows, "psi"),
}


if __name__ == "__main__":
    raise SystemExit(main())
