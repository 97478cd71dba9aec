"""N x N: trained on one data set and tested on another, attack or not, on the features that both have.

    python -m benchmarks crossing [--data NAME=FOLDER ...] [--captures FOLDER] [--write]

Every pair is brought to its common features (`robustidps.traffic.common`), each set is split its own honest way, and a
boosted tree and the neural ODE are trained on the one's training part and asked about the other's test part. Thresholds
don't travel, so the figures are of the ranking (area under the ROC curve, recall at the threshold that one in a hundred
benign flows of the *tested* set lies above) beside the balanced accuracy of the most probable class, which is what
would be seen. `--data` adds a public set by its name in `configs/training`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._models import Stand, boosted_tree, neural_ode
from benchmarks._pages import ROOT, circumstances, table, write_section
from robustidps.errors import RobustIDPSError, SchemaError
from robustidps.evaluation.bootstrap import blocks_of, fold, interval
from robustidps.evaluation.metrics import roc_auc
from robustidps.evaluation.report import Interval
from robustidps.settings import known_configs
from robustidps.traffic.common import CLASSES, Common, mapping_of
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset, starve
from robustidps.traffic.splits import Split, group_split
from robustidps.traffic.trafficset import TrafficSet

MINUTES = 4
TRAIN_ROWS, TEST_ROWS, EPOCHS, RESAMPLES = 8_000, 20_000, 15, 300
Parts = dict[str, TrafficSet]


@dataclass(frozen=True)
class Source:
    """A data set: its parts as loaded, and how they are split once they are projected. spare: large enough that others
    are tested on its test part alone; of a small one nothing was trained on, so they are tested on all of it."""

    name: str
    parts: Parts
    cut: Callable[[Parts], Split]
    spare: bool = True

    @property
    def schema(self) -> Any:
        return next(iter(self.parts.values())).schema

    def split(self, common: Common) -> Split:
        return self.cut({name: common.project(part) for name, part in self.parts.items()})

    def asked_of_others(self, common: Common) -> TrafficSet:
        whole = None if self.spare else TrafficSet.concat([common.project(p) for p in self.parts.values()])
        return starve(self.split(common).test if whole is None else whole.select(whole.labelled), TEST_ROWS, 0)


@dataclass(frozen=True)
class Cell:
    """One pair and one kind of model."""

    auc: Interval
    recall: Interval
    balanced: float


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks crossing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help="files of a public set")
    parser.add_argument(
        "--captures", type=Path, default=ROOT / "../shared/data/captures", help="folder with labels.csv"
    )
    parser.add_argument("--folder", type=Path, help="keep simulated captures here; default: nowhere")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md and its picture")
    arguments = parser.parse_args()
    given = {name: Path(folder) for name, _, folder in (word.partition("=") for word in arguments.data)}
    if wrong := [name for name in given if name not in _public()]:
        parser.error(f"--data: no public set {', '.join(wrong)}; known: {', '.join(_public())}")
    with tempfile.TemporaryDirectory() as folder:
        found, absent = sources(given, arguments.captures, arguments.folder or Path(folder))
    if not found:
        print("benchmarks crossing: no data set is there")
        return 1
    results = cross(found)
    text = report(found, absent, results) + "\n\n" + circumstances("python -m benchmarks crossing --write")
    print(text)
    if arguments.write:
        from robustidps.evaluation.plots import save_figure

        print(f"drawn: {save_figure(picture([s.name for s in found], results), ROOT / 'docs/images/crossing.png')}")
        print(f"written: {write_section('results.md', 'crossing', text)}")
    return 0


# --- The sets


def sources(given: dict[str, Path], captures: Path, folder: Path) -> tuple[list[Source], dict[str, str]]:
    """The sets whose files are there, and why each other one is absent."""
    found, absent = [], {}
    loaders: dict[str, Callable[[], Source]] = {
        "simulated": lambda: _named("simulated", folder, None),
        "real captures": lambda: _captures(captures),
    }
    loaders |= {name: lambda n=name: _named(n, folder, given.get(n) or _beside(n)) for name in _public()}  # type: ignore[misc]
    for name, load in loaders.items():
        try:
            found.append(load())
            mapping_of(found[-1].schema)
        except (RobustIDPSError, OSError) as error:
            absent[name] = f"{error}" if name in given else f"add it with `--data {name}=FOLDER`"
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return found, absent


def _public() -> list[str]:
    return [name for name in known_configs("training") if dataset_config(name).source == "loader"]


def _beside(name: str) -> Path | None:
    """Where the set's files lie beside the checkout, if they do."""
    folder = ROOT / "../shared/data" / (dataset_config(name).loader or name)
    return folder if folder.is_dir() else None


def _named(name: str, folder: Path, data: Path | None) -> Source:
    config = dataset_config(name)
    return Source(name, load_dataset(name, folder=folder, data_dir=data), lambda parts: split_dataset(parts, config))


def _captures(folder: Path) -> Source:
    """Real captures that are labelled as a whole; each is a campaign."""
    from robustidps.traffic.capture import extract_many

    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["capture"]: row["label"] for row in csv.DictReader(file) if row["label"]}
    binary = FLOW64.model_copy(update={"classes": CLASSES})
    parts = []
    for path, found in extract_many([folder / name for name in sorted(labels)], truncated="use"):
        if isinstance(found, RobustIDPSError):
            continue
        attack = int(labels[path.relative_to(folder).as_posix()] != CLASSES[0])
        options: dict[str, Any] = {"time": found.first_seen, "campaign": path.name, "tool": path.stem}
        parts.append(TrafficSet.build(binary, found.features, np.full(len(found), attack), **options))
    return Source(
        "real captures",
        {"all": TrafficSet.concat(parts)},
        lambda parts: group_split(parts["all"], by="campaign", train=0.5, validation=0.2),
        spare=False,
    )


# --- The crossing

KINDS: dict[str, Callable[[Split], Stand]] = {
    "LightGBM": boosted_tree,
    "neural ODE": lambda split: neural_ode(split, 0, epochs=EPOCHS),
}
Results = dict[tuple[str, str], "Pair | str"]


@dataclass(frozen=True)
class Pair:
    """A trained-on and a tested-on set. own: LightGBM trained on the tested one with the same features."""

    common: Common
    cells: dict[str, Cell]
    own: float | None


def cross(found: list[Source]) -> Results:
    """Every pair, or the sentence that says why it can't be compared."""
    results: Results = {}
    for one in found:
        for other in found:
            try:
                common = Common.between(one.schema, other.schema)
            except SchemaError as error:
                results[one.name, other.name] = error.problem
                continue
            split = _smaller(one.split(common))
            test = split.test if one is other else other.asked_of_others(common)
            cells = {kind: ask(train(split), test) for kind, train in KINDS.items()}
            own = None
            if one is not other:
                at_home = _smaller(other.split(common))
                own = ask(boosted_tree(at_home), at_home.test).auc.value
            results[one.name, other.name] = Pair(common, cells, own)
            print(f"{one.name} -> {other.name}: {len(common.names)} features, "
                  + ", ".join(f"{k} {c.auc:.3f}" for k, c in cells.items()), file=sys.stderr, flush=True)  # fmt: skip
    return results


def _smaller(split: Split) -> Split:
    """At most as many rows of each part as a benchmark has time for."""
    return Split(
        starve(split.train, TRAIN_ROWS, 0),
        starve(split.validation, TRAIN_ROWS, 0),
        starve(split.test, TEST_ROWS, 0),
        split.report,
    )


def ask(model: Stand, test: TrafficSet) -> Cell:
    evaluation, predictions = model.judged(test, "crossing", resamples=RESAMPLES)
    rates = evaluation.metric("detection_rate"), evaluation.metric("false_positive_rate")
    balanced = float("nan") if None in rates else (rates[0] + 1 - rates[1]) / 2  # type: ignore[operator]
    scores = -predictions.probabilities[:, 0].astype(np.float64)
    return Cell(area(scores, test), evaluation.headline["recall_at_fpr_1e-2"], balanced)


def area(scores: npt.NDArray[np.float64], test: TrafficSet) -> Interval:
    """Area under the ROC curve of scores [N] for attack, its interval by the blocks that `evaluate` resamples too."""
    levels = np.unique(scores, return_inverse=True)[1]
    folded = fold([levels, test.labels > 0], blocks_of(test))
    level, attack = folded.patterns[:, 0], folded.patterns[:, 1] == 1

    def of(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        by_level = np.zeros((2, len(counts), int(levels.max()) + 1))
        for kind, rows in ((0, attack), (1, ~attack)):
            by_level[kind][:, level[rows]] = counts[:, rows]
        return roc_auc(by_level[0], by_level[1])

    few = min(folded.blocks_with(attack), folded.blocks_with(~attack))
    return interval(float(of(folded.totals)[0]), of(folded.resample(RESAMPLES, 0)), few)


# --- What is printed


def report(found: list[Source], absent: dict[str, str], results: Results) -> str:
    names = [source.name for source in found]
    grids = []
    for kind in KINDS:
        rows = [[one, *(_in_grid(results[one, other], kind) for other in names)] for one in names]
        grids.append(table([f"{kind}: trained on (rows), tested on", *names], rows))
    pairs = {key: pair for key, pair in results.items() if isinstance(pair, Pair)}
    rows = []
    for (one, other), pair in pairs.items():
        cells = pair.cells.values()
        own = f"{pair.own:.3f}" if pair.own is not None else "-"
        figures = [*(f"{c.recall:.2f}" for c in cells), *(f"{c.balanced:.2f}" for c in cells)]
        rows.append([f"{one} to {other}", str(len(pair.common.names)), *figures, own])
    header = ["trained on to tested on", "features", *(f"{kind}: recall at FPR 0.01" for kind in KINDS)]
    header += [*(f"{kind}: balanced accuracy" for kind in KINDS), "LightGBM trained there, AUC"]
    refused = [
        f"{one} and {other}: {why}" for (one, other), why in results.items() if isinstance(why, str) and one < other
    ]
    return "\n\n".join(
        [
            "![Area under the ROC curve of every pair of data sets](images/crossing.png)",
            *grids,
            "Area under the ROC curve with its 95 % interval, resampled by campaign where a set names campaigns and by "
            "row where it doesn't (NSL-KDD); none where fewer than five campaigns of a kind are there. 0.5 is chance.",
            _summary(pairs),
            table(header, rows),
            "The last column has the tested set's own model with the same features: what is missing to it is lost in "
            "the crossing, what is missing from it to 1 in having few features. Recall takes its threshold from the "
            "tested set's benign flows, which a deployment would not have; balanced accuracy takes the most probable "
            f"class as it is. At most {TRAIN_ROWS:,} rows to train on and {TEST_ROWS:,} to test, drawn at random; the "
            f"neural ODE for at most {EPOCHS} epochs, one seed. Real captures are few, so others are tested on all of "
            "them, and their own row on a split by capture.",
            *(["Can't be compared: " + "; ".join(refused) + "."] if refused else []),
            *(["Absent: " + "; ".join(f"{n} ({why})" for n, why in absent.items()) + "."] if absent else []),
        ]
    )


def _summary(pairs: dict[tuple[str, str], Pair]) -> str:
    parts = []
    for kind in KINDS:
        home, away = (
            [p.cells[kind].auc.value for (one, other), p in pairs.items() if (one == other) is same]
            for same in (True, False)
        )
        values = [float(np.mean([v for v in side if v is not None])) if side else float("nan") for side in (home, away)]
        parts.append(f"{kind} {values[0]:.3f} at home and {values[1]:.3f} away")
    return f"Mean area: {'; '.join(parts)}."


def _in_grid(pair: Pair | str, kind: str) -> str:
    return "-" if isinstance(pair, str) else f"{pair.cells[kind].auc:.2f}"


def picture(names: list[str], results: Results) -> Any:
    """A heat map a kind of model: the darker the cell, the better the ranking."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(names)
    figure = Figure(figsize=(2.6 + 2 * (0.95 * n + 0.4), 1.7 + 0.75 * n), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Trained on one data set, tested on another: area under the ROC curve", fontsize=12, weight="bold")
    for axes, kind in zip(figure.subplots(1, len(KINDS), sharey=True, squeeze=False)[0], KINDS, strict=True):
        values = np.full((n, n), np.nan)
        for i, one in enumerate(names):
            for j, other in enumerate(names):
                pair = results[one, other]
                if isinstance(pair, Pair) and pair.cells[kind].auc.value is not None:
                    values[i, j] = pair.cells[kind].auc.value
        axes.imshow(values, cmap="Blues", vmin=0.3, vmax=1.1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            shown = f"{value:.2f}" if np.isfinite(value) else "not\ncomparable"
            axes.text(j, i, shown, ha="center", va="center", color="white" if value > 0.8 else "#1b1b1b", fontsize=9)
        axes.set_title(kind, fontsize=10)
        axes.set_xticks(range(n), names, rotation=25, ha="right", fontsize=8.5)
        axes.set_yticks(range(n), names, fontsize=8.5)
        axes.set_xlabel("tested on", fontsize=9)
        axes.tick_params(length=0)
    figure.axes[0].set_ylabel("trained on", fontsize=9)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
