"""Accuracy against estimated energy on Loihi: sizes, steps, coding and rate penalty of the spiking family.

    python -m benchmarks loihi_energy [--seeds 3] [--keep FOLDER] [--write]

Simulated traffic. Which model is chosen is settled on validation: models train on the training days but the last, which
says when to stop, and the validation day judges them. One seed of a coarse grid gives a front; what lies on it and
takes no more than the default is trained with further seeds. Chosen is the cheapest whose accuracy isn't lower than the
default's: the 95 % interval of the difference (campaigns resampled, mean over seeds) reaches 0, and doesn't reach
below -MARGIN, so that want of rows can't pass for equality. That model and the default are then trained as `robustidps
train` does it, and these alone are asked about the test part, once.

Accuracy is of the integer arithmetic (`robustidps/loihi/emulator.py`, which equals Lava's fixed point to the last
spike); operations are counted in the same run, and energy is what `robustidps/loihi/resources.py` makes of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks.spiking import Parts
from robustidps.evaluation.bootstrap import blocks_of, fold, interval
from robustidps.evaluation.metrics import macro_f1
from robustidps.evaluation.report import Interval
from robustidps.families import family_settings, get_family
from robustidps.loihi import resources
from robustidps.loihi.emulator import emulate
from robustidps.loihi.exporting import CALIBRATION_ROWS
from robustidps.loihi.quantising import calibrate
from robustidps.traffic.prepare import starve
from robustidps.traffic.splits import Split
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import fit

MINUTES = 16
RESAMPLES = 1000
MARGIN = 0.01
AIM = 3.0
"""uJ an inference; the lower end of what was published."""
PUBLISHED_ACCURACY, PUBLISHED_ENERGY = 0.94, (3.0, 6.0)
PUBLISHED = "published: 94 % at 3 to 6 uJ,\nmeasured on Loihi, other traffic\n(Islam et al., MWSCAS 2025)"


@dataclass(frozen=True)
class Config:
    """What a model is told; the rest is the family's own."""

    hidden: tuple[int, ...]
    steps: int
    coding: str = "direct"
    rate_penalty: float = 1.0

    @property
    def name(self) -> str:
        words = f"{self.coding} {'-'.join(map(str, self.hidden))}, T = {self.steps}"
        return words if self.rate_penalty == 1 else f"{words}, penalty {self.rate_penalty:g}"


DEFAULT = Config((256, 256), 25)
GRID = (
    DEFAULT,
    Config((256, 256), 8),
    *(Config((128, 128), t) for t in (12, 8, 5, 3)),
    *(Config((64, 64), t) for t in (12, 8, 5, 3)),
    *(Config((48, 32), t) for t in (8, 5)),
    *(Config((64, 64), 8, rate_penalty=p) for p in (0.0, 10.0)),
    Config((128, 128), 5, rate_penalty=10.0),
    Config((128, 128), 25, "latency"),
    Config((64, 64), 12, "latency"),
)


@dataclass(frozen=True, eq=False)
class Run:
    """A model on the rows that judge it. floating, fixed: classes [N]. energy, first: uJ an inference, of all and of
    the first layer's synaptic operations. zeros: share of inputs that are 0 in integers. cores: by chip, None where it
    doesn't fit."""

    floating: npt.NDArray[np.int64]
    fixed: npt.NDArray[np.int64]
    energy: float
    first: float
    zeros: float
    cores: dict[str, int | None]

    def accuracy(self, labels: npt.NDArray[Any]) -> float:
        return float((self.fixed == labels).mean())


@dataclass(frozen=True)
class Candidate:
    """A model over seeds: uJ, and accuracy less the default's."""

    config: Config
    energy: float
    difference: Interval


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks loihi_energy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each candidate")
    parser.add_argument("--epochs", type=int, help="of every training, for a quick look; default: the family's")
    parser.add_argument("--keep", type=Path, help="folder that keeps what models said for another run")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/neuromorphic.md, draw")
    arguments = parser.parse_args(words)
    if arguments.write and (arguments.epochs or arguments.seeds < 2):
        parser.error("--write is for the page's own figures: the family's epochs, two seeds or more")
    with tempfile.TemporaryDirectory() as passing:
        keep, folder = arguments.keep or Path(passing) / "kept", Path(passing) / "traffic"
        keep.mkdir(parents=True, exist_ok=True)
        study = Study(split_of("simulated", folder), keep, arguments.seeds, arguments.epochs)
        text, figure = study.report()
    print(text)
    if arguments.write:
        from robustidps.evaluation.plots import save_figure

        print(f"drawn: {save_figure(figure, ROOT / 'docs/images/loihi_energy.png')}")
        print(f"written: {write_section('neuromorphic.md', 'loihi_energy', text)}")
    return 0


# --- The pure parts


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (energy, accuracy) no other beats: none is cheaper and as accurate, or as cheap and more accurate.

    By rising energy; of equal points the first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    found: list[int] = []
    for i in order:
        if not found or points[i][1] > points[found[-1]][1]:
            found.append(i)
    return found


def holds(difference: Interval) -> bool:
    """Whether an accuracy isn't lower: the interval reaches 0, and a loss of `MARGIN` or more is outside it."""
    if difference.low is None or difference.high is None:
        return False
    return difference.high >= 0 and difference.low > -MARGIN


def choose(candidates: Sequence[Candidate], default: Config) -> Config:
    """The cheapest that holds; the default where none does."""
    able = [c for c in candidates if c.config != default and holds(c.difference)]
    return min(able, key=lambda c: c.energy).config if able else default


def difference(judge: TrafficSet, mine: Sequence[Run], other: Sequence[Run]) -> Interval:
    """Accuracy in fixed point, mine less the other's: mean over seeds, campaigns resampled, the same for both."""
    return _accuracy(judge, [r.fixed for r in mine], [r.fixed for r in other])


def _accuracy(judge: TrafficSet, mine: Sequence[Any], other: Sequence[Any] = ()) -> Interval:
    """Mean accuracy over models [S] of N classes each, less that of the others."""
    hits = [sum((p == judge.labels).astype(np.int64) for p in models) for models in (mine, other) if models]
    folded = fold(hits, blocks_of(judge))
    worth = folded.patterns[:, 0] / len(mine)
    if other:
        worth = worth - folded.patterns[:, 1] / len(other)
    value, draws = (w @ worth / w.sum(axis=1) for w in (folded.totals, folded.resample(RESAMPLES, 0)))
    return interval(float(value[0]), draws, folded.blocks.n)


def _macro_f1(judge: TrafficSet, models: Sequence[Any]) -> Interval:
    """Mean macro-F1 over models."""
    c = judge.schema.output_dim
    values, draws = [], []
    for predicted in models:
        folded = fold([judge.labels, predicted], blocks_of(judge))
        cells = np.eye(c * c)[folded.patterns[:, 0] * c + folded.patterns[:, 1]]
        # One seed, so all models get the same draws of campaigns.
        value, drawn = (macro_f1((w @ cells).reshape(-1, c, c)) for w in (folded.totals, folded.resample(RESAMPLES, 0)))
        values.append(float(value[0]))
        draws.append(drawn)
    return interval(float(np.mean(values)), np.mean(draws, axis=0), blocks_of(judge).n)


# --- Training and counting


def run(config: Config, seed: int, parts: Parts, epochs: int | None = None) -> Run:
    family = get_family("spiking")
    more = {"epochs": epochs} if epochs else {}
    fitted = fit(family, family_settings(family, asdict(config) | {"seed": seed} | more), parts.train, parts.stop)
    trained: Any = fitted.trained
    network, standard = trained.arrays, fitted.preprocessing.transform
    known, x = standard(starve(parts.train, CALIBRATION_ROWS, 0).features), standard(parts.judge.features)
    counts = trained.spikes(known)[-1]
    quantised = calibrate(network, known, counts.argmax(axis=1), counts)
    data, _ = quantised.inputs(network, x)
    simulation = emulate(quantised, data).simulation
    counted = resources.operations(network, data, simulation)
    on_chip = resources.placements(network)
    each = resources.CONSTANTS["Loihi 1"]["energy of a synaptic operation"].value
    return Run(
        floating=trained.logits(x).argmax(axis=1).astype(np.int64),
        fixed=simulation.classes,
        energy=resources.running(network, counted, on_chip).energy_uj,
        first=counted.synaptic[0] * each / 1e6,
        zeros=float((data == 0).mean()) if config.coding == "direct" else 0.0,
        cores={chip.chip: chip.cores for chip in on_chip},
    )


class Study:
    """Runs that are made when they are first asked for, and kept."""

    def __init__(self, split: Split, keep: Path, seeds: int, epochs: int | None) -> None:
        self.split, self.keep, self.seeds, self.epochs = split, keep, seeds, epochs
        days = np.floor(split.train.time / 86_400)
        last = days == days.max()
        self.parts = {
            "validation": Parts(split.train.select(~last), split.train.select(last), split.validation),
            "test": Parts(split.train, split.validation, split.test),
        }

    def run(self, config: Config, seed: int, on: str) -> Run:
        said = config.name.replace(", ", "_").replace(" ", "")
        file = self.keep / f"{on}_{said}_{seed}_{self.epochs or 'all'}.npz"
        if not file.exists():
            begun = time.process_time()
            made = run(config, seed, self.parts[on], self.epochs)
            shown = "" if on == "test" else f", {made.accuracy(self.parts[on].judge.labels):.4f}, {made.energy:.2f} uJ"
            taken = f"{time.process_time() - begun:.0f} s of CPU"
            print(f"{on}, {config.name}, seed {seed}: {taken}{shown}", file=sys.stderr, flush=True)
            figures = {"energy": made.energy, "first": made.first, "zeros": made.zeros, "cores": made.cores}
            np.savez(file, floating=made.floating, fixed=made.fixed, figures=json.dumps(figures))
        with np.load(file, allow_pickle=False) as found:
            return Run(found["floating"], found["fixed"], **json.loads(str(found["figures"])))

    def over_seeds(self, config: Config, on: str) -> list[Run]:
        return [self.run(config, seed, on) for seed in range(self.seeds)]

    def report(self) -> tuple[str, Any]:
        judge = self.parts["validation"].judge
        grid = {config: self.run(config, 0, "validation") for config in GRID}
        points = [(r.energy, r.accuracy(judge.labels)) for r in grid.values()]
        on_front = {GRID[i] for i in front(points)}
        finalists = [c for c in GRID if c == DEFAULT or (c in on_front and grid[c].energy < grid[DEFAULT].energy)]
        again = {c: self.over_seeds(c, "validation") for c in finalists}
        candidates = [
            Candidate(c, _mean([r.energy for r in runs]), difference(judge, runs, again[DEFAULT]))
            for c, runs in again.items()
        ]
        chosen = choose(candidates, DEFAULT)
        tested = {c: self.over_seeds(c, "test") for c in dict.fromkeys((DEFAULT, chosen))}
        sections = [
            "![Accuracy on validation against estimated energy, with the published point](images/loihi_energy.png)",
            grid_table(grid, judge, on_front),
            candidate_table(candidates, again, judge, chosen),
            test_table(tested, self.parts["test"].judge, chosen),
            how_to_train(chosen),
            circumstances("python -m benchmarks loihi_energy --write"),
        ]
        return "\n\n".join(sections), picture(grid, again, judge, chosen)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


# --- Tables and words


def grid_table(grid: dict[Config, Run], judge: TrafficSet, on_front: set[Config]) -> str:
    rows = [
        [
            config.name,
            f"{r.energy:.2f}",
            f"{r.first / r.energy:.0%}",
            f"{r.accuracy(judge.labels):.3f}",
            f"{(r.floating == judge.labels).mean():.3f}",
            "yes" if config in on_front else "",
        ]
        for config, r in sorted(grid.items(), key=lambda item: -item[1].energy)
    ]
    header = ["validation, one seed", "uJ", "of it first layer", "accuracy, fixed point", "floating point", "front"]
    low, high = (f([r.zeros for c, r in grid.items() if c.coding == "direct"]) for f in (min, max))
    return (
        table(header, rows)
        + f"\n\n{len(judge):,} flows of the validation day. *First layer*: its synaptic operations' share of the "
        "energy. A graded input is counted once for every neuron of the first layer at every step, also where it is "
        f"0; that is so for {_between(low, high)} of them, which a chip needn't send."
    )


def _between(low: float, high: float) -> str:
    return f"{low:.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"


def candidate_table(
    candidates: Sequence[Candidate], runs: dict[Config, list[Run]], judge: TrafficSet, chosen: Config
) -> str:
    rows = []
    for candidate in sorted(candidates, key=lambda c: -c.energy):
        config, models = candidate.config, runs[candidate.config]
        verdict = "default" if config == DEFAULT else "not lower" if holds(candidate.difference) else "lower, or unsure"
        rows.append(
            [
                config.name,
                f"{candidate.energy:.2f}",
                _spread([r.accuracy(judge.labels) for r in models]),
                "" if config == DEFAULT else f"{candidate.difference:+.4f}",
                verdict + (", **chosen**" if config == chosen and config != DEFAULT else ""),
            ]
        )
    seeds = len(next(iter(runs.values())))
    header = [f"validation, {seeds} seeds", "uJ", "accuracy, fixed point", "less the default's", ""]
    return (
        table(header, rows)
        + "\n\nAccuracy: mean (lowest to highest). Differences: mean over seeds with its 95 % interval, campaigns "
        f"resampled. *Not lower*: the interval reaches 0 and stays above {-MARGIN:+.2f}. Chosen is the "
        "cheapest of these."
    )


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def test_table(tested: dict[Config, list[Run]], judge: TrafficSet, chosen: Config) -> str:
    columns = list(tested.values())

    def line(name: str, cells: Sequence[str]) -> list[str]:
        return [name, *cells]

    rows = [
        line("energy, uJ", [f"{_mean([r.energy for r in runs]):.2f}" for runs in columns]),
        line("of it first layer", [f"{_mean([r.first / r.energy for r in runs]):.0%}" for runs in columns]),
        line("accuracy, fixed point", [f"{_accuracy(judge, [r.fixed for r in runs]):.4f}" for runs in columns]),
        line("accuracy, floating point", [f"{_accuracy(judge, [r.floating for r in runs]):.4f}" for runs in columns]),
        line("macro-F1, fixed point", [f"{_macro_f1(judge, [r.fixed for r in runs]):.4f}" for runs in columns]),
        line("macro-F1, floating point", [f"{_macro_f1(judge, [r.floating for r in runs]):.4f}" for runs in columns]),
        line(
            "same class in fixed and floating point",
            [f"{_mean([float((r.fixed == r.floating).mean()) for r in runs]):.4f}" for runs in columns],
        ),
        *(
            line(f"cores of {chip}", [_cores([r.cores[chip] for r in runs]) for runs in columns])
            for chip in columns[0][0].cores
        ),
    ]
    header = [f"test, {len(judge):,} flows", *(c.name + (" (default)" if c == DEFAULT else "") for c in tested)]
    words = f"Means over {len(columns[0])} seeds, with 95 % intervals; campaigns are resampled."
    return f"{table(header, rows)}\n\n{words} {verdict(tested, judge, chosen)}"


def _cores(found: Sequence[int | None]) -> str:
    return "doesn't fit" if found[0] is None else f"{found[0]}"


def verdict(tested: dict[Config, list[Run]], judge: TrafficSet, chosen: Config) -> str:
    """Whether the aim is met, in words that follow from the figures."""
    if chosen == DEFAULT:
        return f"No model that takes less holds the default's accuracy: below {AIM:g} uJ isn't reached without loss."
    gap = difference(judge, tested[chosen], tested[DEFAULT])
    energy, before = (_mean([r.energy for r in tested[c]]) for c in (chosen, DEFAULT))
    if gap.high is None or gap.low is None:
        loss = "no interval says whether accuracy is lost"
    elif gap.high < 0:
        loss = "**so a little accuracy is lost**, which validation couldn't show; the aim isn't met to the letter"
    elif gap.low > 0:
        loss = "so it is even more accurate"
    else:
        loss = "so no loss is to be seen"
    aim = "below" if energy < AIM else "**not below**"
    return (
        f"Accuracy in fixed point, chosen less default: {gap:+.4f}, {loss}. {energy:.2f} uJ are {aim} {AIM:g} uJ; "
        f"the default takes {before / energy:.1f} times as much."
    )


def how_to_train(chosen: Config) -> str:
    settings = family_settings(get_family("spiking")).model_dump()
    changed = {
        "hidden": f"'hidden=[{','.join(map(str, chosen.hidden))}]'",
        "steps": f"steps={chosen.steps}",
        "coding": f"coding={chosen.coding}",
        "rate_penalty": f"rate_penalty={chosen.rate_penalty:g}",
    }
    words = [f"--set {text}" for key, text in changed.items() if getattr(chosen, key) != settings[key]]
    command = " ".join(["robustidps train spiking --name spiking-small", *words])
    return f"To train it and have its report:\n\n    {command}\n    robustidps export loihi spiking-small"


# --- The picture

_COLOURS = {"direct": "#0072B2", "latency": "#D55E00"}
_INK, _QUIET, _BAND = "#1b1b1b", "#6a6a6a", "#009E73"


def picture(grid: dict[Config, Run], again: dict[Config, list[Run]], judge: TrafficSet, chosen: Config) -> Any:
    """Accuracy against energy: the grid's seed as small points, finalists over seeds as large ones, and their front."""
    from robustidps.evaluation.plots import tidy_axes, titled_figure

    width, height = 8.2, 5.6
    seeds = len(next(iter(again.values())))
    subject = f"Simulated traffic, {len(judge):,} flows of the validation day; fixed point; energy is an estimate"
    figure = titled_figure("Accuracy against energy on Loihi", subject, width, height)
    axes = tidy_axes(figure.add_axes((0.75 / width, 0.6 / height, 1 - 0.95 / width, 1 - 1.45 / height)))
    axes.set_xscale("log")
    for coding, colour in _COLOURS.items():
        some = [(r.energy, r.accuracy(judge.labels)) for c, r in grid.items() if c.coding == coding]
        axes.plot(*zip(*some, strict=True), "o", color=colour, ms=4, alpha=0.45, mew=0, label=f"{coding}, one seed")
    points = {}
    for config, runs in again.items():
        values = [r.accuracy(judge.labels) for r in runs]
        points[config] = (_mean([r.energy for r in runs]), _mean(values))
        x, y = points[config]
        colour = _COLOURS[config.coding]
        axes.plot([x, x], [min(values), max(values)], "-", color=colour, lw=1.3)
        axes.plot([x], [y], "o", color=colour, ms=8, mec="white", mew=1.0)
        axes.annotate(
            config.name.removeprefix("direct ") + {DEFAULT: " (default)", chosen: " (chosen)"}.get(config, ""),
            (x, max(values)),
            xytext=(2, 7),
            textcoords="offset points",
            rotation=50,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=8,
            color=_INK,
            weight="bold" if config == chosen else "normal",
        )
    line = [list(points.values())[i] for i in front(list(points.values()))]
    axes.plot(
        [], [], "o-", color=_COLOURS["direct"], ms=8, mec="white", label=f"{seeds} seeds: mean, lowest to highest"
    )
    axes.step(*zip(*line, strict=True), where="post", color=_QUIET, lw=1, label="front of the means", zorder=1)
    axes.axvspan(*PUBLISHED_ENERGY, color=_BAND, alpha=0.10, lw=0)
    axes.plot(PUBLISHED_ENERGY, [PUBLISHED_ACCURACY] * 2, "-", color=_BAND, lw=4, solid_capstyle="butt")
    axes.annotate(
        PUBLISHED,
        (PUBLISHED_ENERGY[1], PUBLISHED_ACCURACY),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=8,
        color=_BAND,
        va="center",
    )
    axes.set_xlabel("energy, uJ an inference (logarithmic)", fontsize=8.5)
    axes.set_ylabel("accuracy", fontsize=8.5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.34 * (high - low))  # room for names
    axes.set_xlim(right=2 * max(x for x, _ in points.values()))
    ticks = [t for t in (0.2, 0.5, 1, 2, 3, 6, 10, 20) if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
