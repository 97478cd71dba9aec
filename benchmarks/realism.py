"""Realism: how far simulated flows are from real ones, feature by feature, and whether a classifier tells them apart.

    python -m benchmarks realism            the development half of the real captures
    python -m benchmarks realism --write    both halves, into docs/simulator.md, with a picture

Simulated: the default two weeks, benign flows as they come. Real: benign captures, every application counted the same
(its flows share one weight). The section is named for the simulator's version, so that an earlier version's stays in
the page beside it.

    distance   first Wasserstein distance of a feature, on its schema's scale, in standard deviations of the real flows
    KS         largest difference between the two distribution functions
    AUC        LightGBM that tells real from simulated, cross-validated over families of applications and over days'
               campaigns; 0.5: it can't, 1: always
    nearer     share of real flows to which some simulated flow lies nearer than any flow of another family of real
               applications (in standardised features, as many simulated flows as `SAMPLE` says)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._models import boosted_tree, neural_ode
from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._real import MISSING, PARTS, RealCapture, family, real_captures, transfer
from robustidps.evaluation.bootstrap import interval
from robustidps.preprocessing import Preprocessing
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset
from robustidps.traffic.simulator import SIMULATOR_VERSION
from robustidps.traffic.trafficset import TrafficSet

MINUTES = 3
SAMPLE = 4000
"""Simulated flows that are compared, drawn at random: the figures would move with their number."""
RESAMPLES = 300
NUMERIC = [i for i, f in enumerate(FLOW64.features) if f.kind != "categorical"]
SHOWN = (
    "bidirectional_duration_ms",
    "bidirectional_packets",
    "bidirectional_bytes",
    "bidirectional_mean_ps",
    "bidirectional_max_ps",
    "bidirectional_mean_piat_ms",
    "down_byte_share",
    "bytes_per_second",
)

Array = npt.NDArray[Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks realism", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="both halves, into the section of docs/simulator.md")
    arguments = parser.parse_args()
    captures = real_captures()
    if not captures:
        print(MISSING)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        parts = load_dataset("simulated", folder=Path(folder))
    parts_shown = PARTS if arguments.write else PARTS[:1]
    text = report(captures, parts["all"], parts_shown)
    if arguments.write:
        split = split_dataset(parts, dataset_config("simulated"))
        models = {"neural_ode, seed 0": [neural_ode(split, 0).pair], "LightGBM, balanced": [boosted_tree(split).pair]}
        text += "\n\n" + transfer(captures, models)
        draw(captures, parts["all"], ROOT / "docs" / "images" / "realism.png")
    text += "\n\n" + circumstances("python -m benchmarks realism --write")
    print(text)
    if arguments.write:
        section = f"realism_{SIMULATOR_VERSION}"
        print(f"written: {write_section('simulator.md', section, text)}", file=sys.stderr)
    return 0


def report(captures: Sequence[RealCapture], simulated: TrafficSet, parts: Sequence[str]) -> str:
    """Distances of the halves named in `parts`, in Markdown."""
    benign = np.flatnonzero(simulated.labels == 0)
    chosen = np.random.default_rng(0).choice(benign, min(SAMPLE, len(benign)), replace=False)
    sim = simulated.features[chosen]
    campaigns = simulated.campaign[chosen].astype(str)
    summary: list[list[str]] = [
        ["mean distance over the features"],
        ["mean KS"],
        ["AUC, real or simulated"],
        ["nearer"],
    ]
    features: dict[str, list[str]] = {FLOW64.features[i].name: [] for i in NUMERIC}
    attacks: list[list[str]] = []
    for part in parts:
        mine = [c for c in captures if c.part == part and c.kind == "benign" and len(c.features)]
        real = Real(mine)
        distance, ks = distances(real, sim)
        for line, of in zip(summary, (distance, ks), strict=False):
            line.append(format(interval(float(of[0].mean()), of[1:].mean(1), real.n), ".3f"))
        summary[2].append(f"{auc(real, sim, campaigns):.3f}")
        summary[3].append(f"{nearer(real, sim):.3f}")
        for k, i in enumerate(NUMERIC):
            each = interval(float(distance[0, k]), distance[1:, k], real.n)
            features[FLOW64.features[i].name] += [format(each, ".2f"), f"{ks[0, k]:.2f}"]
        attacks += attack_rows([c for c in captures if c.part == part and c.kind == "attack"], simulated, part)
    first = {name: float(cells[0].split()[0]) for name, cells in features.items()}
    farthest = sorted(features, key=lambda name: -first[name])
    heads = [f"{part}, {what}" for part in parts for what in ("distance", "KS")]
    return "\n\n".join(
        [
            f"**Simulator {SIMULATOR_VERSION}, benign flows against real ones** ({len(sim):,} simulated flows).",
            table(["", *parts], summary),
            "Every feature, the farthest of the development half first:",
            table(["feature", *heads], [[name, *features[name]] for name in farthest]),
            "Attack classes that occur. `KS` is the mean over the features against simulated flows of the class; "
            "`nearest` the share of the real flows whose nearest simulated flow, of all classes, is of theirs.",
            table(["class", "half", "captures", "flows", "KS", "nearest"], attacks),
        ]
    )


class Real:
    """Benign captures as flows with weights. x: float32 [N, 64]; weight: [N], an application's flows share 1;
    code: [N], family of applications, 0..n-1."""

    def __init__(self, captures: Sequence[RealCapture]) -> None:
        self.x = np.concatenate([c.features for c in captures])
        self.weight = np.concatenate([np.full(len(c.features), 1 / len(c.features)) for c in captures])
        names = np.concatenate([np.full(len(c.features), family(c.name)) for c in captures])
        families, self.code = np.unique(names, return_inverse=True)
        self.n = len(families)


def scaled(x: Array) -> Array:
    """Numeric columns on their schema's scale: logarithm where it says so. float64 [N, 63]."""
    values = x[:, NUMERIC].astype(np.float64)
    log = np.array([FLOW64.features[i].transform == "log" for i in NUMERIC])
    values[:, log] = np.log1p(values[:, log])
    return values


def distances(real: Real, sim: Array) -> tuple[Array, Array]:
    """Wasserstein and Kolmogorov-Smirnov distances, [1 + RESAMPLES, features]: row 0 is the sample itself, the others
    are resamples of families of applications."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(real.n, np.full(real.n, 1 / real.n), size=RESAMPLES)
    weights = np.vstack([np.ones(len(real.x)), draws[:, real.code]]) * real.weight
    weights /= weights.sum(1, keepdims=True)
    a, b = scaled(real.x), scaled(sim)
    spread = np.sqrt(np.maximum(np.average((a - np.average(a, 0, weights[0])) ** 2, 0, weights[0]), 1e-12))
    wasserstein, ks = np.empty((len(weights), a.shape[1])), np.empty((len(weights), a.shape[1]))
    for k in range(a.shape[1]):
        if spread[k] < 1e-5 and np.ptp(b[:, k]) < 1e-9:  # a flag that nobody sets
            wasserstein[:, k] = ks[:, k] = 0
            continue
        grid, at = np.unique(np.concatenate([a[:, k], b[:, k]]), return_inverse=True)
        mass = np.zeros((len(weights), len(grid)))
        np.add.at(mass.T, at[: len(a)], weights.T)
        mass -= np.bincount(at[len(a) :], minlength=len(grid)) / len(b)
        gap = np.abs(np.cumsum(mass, 1))
        wasserstein[:, k] = gap[:, :-1] @ np.diff(grid) / max(spread[k], 0.01)
        ks[:, k] = gap.max(1)
    return wasserstein, ks


def auc(real: Real, sim: Array, campaigns: Array, folds: int = 5) -> float:
    """Area under the ROC curve of a classifier that tells real from simulated, on families and campaigns it has not
    seen; both sides weigh the same."""
    import lightgbm
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    group = np.unique(campaigns, return_inverse=True)[1]
    fold = np.concatenate([_folds(rng, real.n, folds)[real.code], _folds(rng, group.max() + 1, folds)[group]])
    x, y = np.concatenate([real.x, sim]), np.r_[np.ones(len(real.x)), np.zeros(len(sim))]
    weight = np.r_[real.weight / real.weight.sum(), np.full(len(sim), 1 / len(sim))]
    score = np.empty(len(y))
    for k in range(folds):
        train = fold != k
        model = lightgbm.LGBMClassifier(n_jobs=1, random_state=0, verbose=-1, deterministic=True)
        model.fit(x[train], y[train], sample_weight=weight[train] * len(y))
        score[~train] = model.predict_proba(x[~train])[:, 1]
    return float(roc_auc_score(y, score, sample_weight=weight))


def _folds(rng: np.random.Generator, n: int, folds: int) -> Array:
    return rng.permutation(n) % folds


def nearer(real: Real, sim: Array) -> float:
    """See this module's head. Applications weigh the same."""
    from sklearn.neighbors import NearestNeighbors

    fit = Preprocessing.fit(FLOW64, np.concatenate([real.x, sim]))
    a, b = fit.transform(real.x), fit.transform(sim)
    to_sim = NearestNeighbors(n_neighbors=1).fit(b).kneighbors(a)[0][:, 0]
    own = np.sqrt(np.maximum((a**2).sum(1)[:, None] + (a**2).sum(1) - 2 * a @ a.T, 0))
    own[real.code[:, None] == real.code] = np.inf
    return float(np.average(to_sim <= own.min(1) + 1e-3, weights=real.weight))


def attack_rows(captures: Sequence[RealCapture], simulated: TrafficSet, part: str) -> list[list[str]]:
    """Rows of the table on attack classes."""
    from sklearn.neighbors import NearestNeighbors

    fit = Preprocessing.fit(FLOW64, simulated.features)
    index = NearestNeighbors(n_neighbors=1).fit(fit.transform(simulated.features))
    rows = []
    for label in sorted({c.label for c in captures if c.label in FLOW64.classes}):
        mine = [c for c in captures if c.label == label and len(c.features)]
        code = FLOW64.classes.index(label)
        real = Real(mine)
        _, ks = distances(real, simulated.features[simulated.labels == code])
        near = simulated.labels[index.kneighbors(fit.transform(real.x))[1][:, 0]] == code
        rows.append([label, part, f"{len(mine)}", f"{len(real.x):,}", f"{ks[0].mean():.2f}", f"{near.mean():.2f}"])
    return rows


def draw(captures: Sequence[RealCapture], simulated: TrafficSet, path: Path) -> Path:
    """Distribution functions of a few features: both halves of the real captures, and simulated benign flows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from robustidps.evaluation.plots import save_figure, tidy_axes

    figure = Figure(figsize=(11, 5.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    sim = simulated.features[simulated.labels == 0]
    lines = [("simulated", sim, np.full(len(sim), 1 / len(sim)), "#0072B2", "-")]
    for part, style in zip(PARTS, ("-", (0, (3, 1.5))), strict=True):
        real = Real([c for c in captures if c.part == part and c.kind == "benign" and len(c.features)])
        lines.append((f"real, {part} half", real.x, real.weight / real.weight.sum(), "#D55E00", style))
    for axes, name in zip(figure.subplots(2, 4, sharey=True).ravel(), SHOWN, strict=True):
        column = FLOW64.feature_names.index(name)
        tidy_axes(axes)
        for title, x, weight, colour, style in lines:
            order = np.argsort(x[:, column])
            axes.plot(x[order, column], np.cumsum(weight[order]), color=colour, linestyle=style, lw=1.4, label=title)
        if FLOW64.features[column].transform == "log":
            axes.set_xscale("symlog", linthresh=1)
        unit = FLOW64.features[column].unit
        axes.set_xlabel(name if unit == "1" else f"{name} ({unit})", fontsize=8)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"Benign flows, simulator {SIMULATOR_VERSION}: share of flows up to a value", fontsize=12)
    return save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
