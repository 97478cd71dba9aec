"""What the published upgrade guide claims, held against what is measured here, claim by claim.

    python -m benchmarks claims [--nsl-kdd ../shared/data/nsl_kdd] [--seeds 3] [--keep FOLDER] [--write]

The guide names figures without saying on which traffic, machine or chip they were measured. Each is asked of the
family it is made for, on simulated held-out days and, where its files are there, on NSL-KDD's official test file. A
share is *confirmed* where the whole 95 % interval meets it, *refuted* where none of it does, and *open* in between. A
claim about a family that isn't installed, or a chip that isn't here, is *not measurable here*. Trainings are those of
`benchmarks families`; with `--keep FOLDER` the two share them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks.families import trained
from robustidps.bundle import open_bundle
from robustidps.errors import RobustIDPSError
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.report import Evaluation, Interval
from robustidps.families import discover
from robustidps.traffic.splits import Split

MINUTES = 6
Verdict = Literal["confirmed", "refuted", "open", "not measurable here"]
PLAIN = "neural_ode"
"""What stands for the guide's "traditional deep network" where a claim is about being faster than one."""


@dataclass(frozen=True)
class Claim:
    """One sentence of the guide. metric: as in `docs/evaluation.md`, or None for what no program can measure here.

    speedup: the claim is about being so many times faster than `PLAIN`, at one row a call.
    """

    text: str
    family: str
    metric: str | None = None
    least: float | None = None
    most: float | None = None
    speedup: float | None = None
    why_not: str = ""


CLAIMS = (
    Claim("neural ODE 2.1.0: accuracy 0.987", "neural_ode", "accuracy", least=0.987),
    Claim("neural ODE 2.1.0: F1 0.983", "neural_ode", "macro_f1", least=0.983),
    Claim("neural ODE 2.1.0: false-positive rate 0.015", "neural_ode", "false_positive_rate", most=0.015),
    Claim("neural ODE 2.1.0: latency 42 ms", "neural_ode", "latency_p99_ms", most=42.0),
    Claim("neural ODE 2.1.0: 15,000 events/s", "neural_ode", "throughput_rows_per_second", least=15_000.0),
    Claim("quantum 1.0.0: accuracy 0.992", "quantum", "accuracy", least=0.992),
    Claim("quantum 1.0.0: F1 0.989", "quantum", "macro_f1", least=0.989),
    Claim("quantum 1.0.0: false-positive rate 0.009", "quantum", "false_positive_rate", most=0.009),
    Claim("spiking: latency under 1 ms", "spiking", "latency_p99_ms", most=1.0),
    Claim("spiking: 100 times lower latency", "spiking", "latency_p50_ms", speedup=100.0),
    Claim(
        "spiking on Loihi: under 30 mW",
        "spiking",
        why_not="needs the chip and a power meter; `export loihi` estimates it",
    ),
    Claim("spiking: 1000 times less energy", "spiking", why_not="needs the chip, and a power meter on both machines"),
)
TIMED = frozenset(("latency_p50_ms", "latency_p99_ms", "throughput_rows_per_second"))


@dataclass(frozen=True)
class Measured:
    """A family on one data set: one evaluation a seed."""

    dataset: str
    evaluations: tuple[Evaluation, ...]

    def figure(self, metric: str) -> Interval:
        """Mean over seeds; its interval runs from the lowest to the highest end of the seeds' own intervals."""
        entries = [e.headline.get(metric, Interval(value=e.metric(metric))) for e in self.evaluations]
        entries = [e for e in entries if e.value is not None]
        if not entries:
            return Interval(value=None)
        values = [float(e.value) for e in entries if e.value is not None]
        lows = [e.low for e in entries if e.low is not None]
        highs = [e.high for e in entries if e.high is not None]
        low, high = (min(lows), max(highs)) if lows and highs else (min(values), max(values))
        return Interval(value=float(np.mean(values)), low=low, high=high)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks claims", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each family")
    parser.add_argument("--nsl-kdd", type=Path, default=Path("../shared/data/nsl_kdd"), help="folder with its files")
    parser.add_argument("--keep", type=Path, help="folder that keeps bundles and figures for another run")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/evaluation.md")
    arguments = parser.parse_args()
    usable = {name for name, info in discover().items() if info.problem is None}
    with tempfile.TemporaryDirectory() as folder:
        splits = {"simulated": split_of("simulated")}
        try:
            splits["NSL-KDD"] = split_of("nsl-kdd", data_dir=arguments.nsl_kdd)
        except RobustIDPSError as error:
            print(f"NSL-KDD left out: {error}")
        asked = sorted({claim.family for claim in CLAIMS} & usable | {PLAIN})
        keep = arguments.keep or Path(folder)
        found = {
            (family, name): measure(family, name, split, arguments.seeds, keep)
            for family in asked
            for name, split in splits.items()
        }
    text = report(found) + "\n\n" + circumstances("python -m benchmarks claims --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('evaluation.md', 'claims', text)}")
    return 0


def measure(family: str, dataset: str, split: Split, seeds: int, keep: Path) -> Measured:
    """Trained and judged as `benchmarks families` does; the first seed is timed."""
    ones = [trained(family, seed, split, dataset, keep) for seed in range(seeds)]
    with open_bundle(ones[0].folder) as bundle:
        timed, _ = evaluate(bundle, split.test, dataset=dataset, timing=True)
    return Measured(dataset, (timed, *(one.evaluation for one in ones[1:])))


def judge(claim: Claim, figure: Interval) -> Verdict:
    """Whether a figure with its interval bears a claim out."""
    if figure.value is None:
        return "not measurable here"
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    least = -np.inf if claim.least is None else claim.least
    most = np.inf if claim.most is None else claim.most
    if low >= least and high <= most:
        return "confirmed"
    return "refuted" if high < least or low > most else "open"


def report(found: dict[tuple[str, str], Measured]) -> str:
    """A row for each claim and data set, in Markdown."""
    datasets = list(dict.fromkeys(name for _, name in found))
    rows = []
    for claim in CLAIMS:
        if claim.metric is None:
            rows.append([claim.text, "-", claim.why_not, "not measurable here"])
            continue
        if (claim.family, datasets[0]) not in found:
            missing = f"no family {claim.family} is installed"
            rows.append([claim.text, "-", missing, "not measurable here"])
            continue
        # Times hardly depend on the traffic: one data set is enough for them.
        there = datasets[:1] if claim.metric in TIMED else datasets
        rows += [[claim.text, dataset, *_answer(claim, dataset, found)] for dataset in there]
    header = ["claim of the guide", "on", "measured here", "verdict"]
    return (
        table(header, rows)
        + "\n\nShares: mean over seeds, with the range of the seeds' 95 % intervals. Latency and throughput: ONNX "
        "Runtime on one thread of this machine; latency at one row a call (99th percentile), throughput at the best "
        "batch size. The guide names neither its traffic nor its machine, so *refuted* means: not so on this one."
    )


def _answer(claim: Claim, dataset: str, found: dict[tuple[str, str], Measured]) -> list[str]:
    assert claim.metric is not None
    figure = found[claim.family, dataset].figure(claim.metric)
    if claim.speedup is not None:
        plain = found[PLAIN, dataset].figure(claim.metric)
        if not figure.value or not plain.value:
            return ["-", "not measurable here"]
        times = plain.value / figure.value
        return [f"{times:.2f} times, against {PLAIN}", "confirmed" if times >= claim.speedup else "refuted"]
    verdict = judge(claim, figure)
    if claim.metric in TIMED:
        unit = "rows/s" if claim.metric.startswith("throughput") else "ms"
        return [f"{figure.value:,.2f} {unit}" if unit == "ms" else f"{figure.value:,.0f} {unit}", verdict]
    return [f"{figure:.3f}", verdict]


if __name__ == "__main__":
    raise SystemExit(main())
