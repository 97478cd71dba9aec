"""Spiking: the exported graph and a training step against snnTorch's own loop; how the settings were chosen.

    python -m benchmarks spiking [--write]             speed
    python -m benchmarks spiking --select [--write]    direct against latency coding, and the other settings

The peer is the network as snnTorch's tutorials write it: a module for each layer's neurons, a Python loop over the
steps. All are timed in turns within one run, on one thread, in seconds of CPU time, which other work on the machine
disturbs least; the ratio is what to look at. The ONNX figure is of the family's own graph (standardised features to
spike counts).

`--select` trains on NSL-KDD's training file and on the training days of simulated traffic, and judges on validation
rows of each that neither trained a model nor decided when to stop it. No test part is touched.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks._timing import BATCHES, opened, own_graph, timed
from robustidps.evaluation.bootstrap import blocks_of, fold
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import Standardised, TrainingContext, family_settings, get_family
from robustidps.traffic.loaders import load
from robustidps.traffic.splits import shuffled_split
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import even_sample, fit

MINUTES = 2
FEATURES, CLASSES = 64, 13
CODINGS = ("direct", "latency")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks spiking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing per batch size and peer")
    parser.add_argument("--select", action="store_true", help="compare codings and settings instead, on validation")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "../shared/data/nsl_kdd", help="folder of KDDTrain+")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    text = selection(arguments.data_dir) if arguments.select else speed(arguments.seconds)
    print(text)
    if arguments.write:
        section = "spiking_selection" if arguments.select else "spiking"
        print(f"wrote {write_section('results.md', section, text)}")
    return 0


# --- Speed


def plain_snntorch(network: Any) -> Any:
    """The same weights in a module as in snnTorch's tutorials; gives spikes [T, N, neurons] of every layer."""
    import snntorch as snn
    import torch
    from snntorch import spikegen

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(fc.in_features, fc.out_features) for fc in network.layers)
            self.lif1, self.lif2, self.lif3 = (snn.Leaky(beta=network.beta, reset_mechanism="zero") for _ in range(3))
            for mine, other in zip((self.fc1, self.fc2, self.fc3), network.layers, strict=True):
                mine.load_state_dict(other.state_dict())

        def forward(self, x: Any) -> list[Any]:
            mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
            recorded: tuple[list[Any], ...] = ([], [], [])
            value = x
            if network.coding == "latency":
                share = (torch.cat([x, -x], dim=1) / network.span).clamp(0, 1)
                options = {"threshold": 1e-9, "clip": True, "linear": True, "normalize": True}
                code = spikegen.latency(share, num_steps=network.steps, **options)
            for step in range(network.steps):
                if network.coding == "latency":
                    value = code[step]
                spk1, mem1 = self.lif1(self.fc1(value), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
                for record, spikes in zip(recorded, (spk1, spk2, spk3), strict=True):
                    record.append(spikes)
            return [torch.stack(record, dim=0) for record in recorded]

    return Plain()


def speed(seconds: float) -> str:
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(max(BATCHES), FEATURES)).astype(np.float32)
    y = (x[:, :CLASSES] + 0.5 * rng.normal(size=(len(x), CLASSES))).argmax(axis=1).astype(np.int64)
    data = Standardised(x, y)
    answering, training, same = [], [], []
    for coding in CODINGS:
        family = get_family("spiking")
        settings = family_settings(family, {"epochs": 3, "coding": coding})
        model: Any = family.train(settings, data, data, TrainingContext(CLASSES, np.ones(CLASSES, np.float32)))
        lines, words = inference(model, x, seconds)
        answering += lines
        same.append(words)
        for batch in sorted({64, settings.batch_size}):  # type: ignore[attr-defined]
            lines, words = step(model, x[:batch], y[:batch], seconds)
            training += lines
            same.append(words)
    return "\n\n".join(
        [
            table(["inference", "median ms", "rows/s", "times ONNX Runtime's time"], answering),
            table(["training step", "median ms", "rows/s", "times our time"], training),
            f"A network of {FEATURES}-256-256-{CLASSES}, 25 steps. *Products alone*: only the layers' matrix products "
            "(first layer of direct coding once), as one ONNX graph; no way of counting spikes that goes through "
            "dense float32 matrices is faster. A training step is forward, cross-entropy of spike counts plus the "
            "penalty on firing rates, backward, and AdamW, of which the peer does the same. " + " ".join(same),
            circumstances("python -m benchmarks spiking --write")
            + " One thread, CPU time. Absolute times are of that machine.",
        ]
    )


def inference(model: Any, x: npt.NDArray[np.float32], seconds: float) -> tuple[list[list[str]], str]:
    import torch

    plain = plain_snntorch(model.network)

    def peer(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            return plain(torch.from_numpy(rows))[-1].sum(0).numpy()

    with tempfile.TemporaryDirectory() as folder:
        products_alone(Path(folder) / "products.onnx", model.arrays)
        products = opened(Path(folder) / "products.onnx")
    coding = model.settings.coding
    peers: dict[str, Callable[[npt.NDArray[np.float32]], Any]] = {
        "ONNX Runtime": own_graph(model),
        "PyTorch, ours": model.logits,
        "snnTorch's loop": peer,
        "products alone": products,
    }
    lines = []
    for batch in BATCHES:
        medians = timed({name: partial(call, x[:batch]) for name, call in peers.items()}, seconds, time.process_time)
        for name, taken in medians.items():
            ratio = f"{taken / medians['ONNX Runtime']:.2f}"
            lines.append([f"{name}, {coding}, batch {batch}", f"{taken * 1e3:.3f}", f"{batch / taken:,.0f}", ratio])
    differ = int((peers["ONNX Runtime"](x) != peer(x)).sum())
    return lines, f"Spike counts, {coding}: {differ} of {len(x) * CLASSES:,} differ between ONNX and snnTorch."


def products_alone(path: Path, network: Any) -> None:
    """The matrix products that the exported graph does, each on the network's input or on zeros made from it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, outputs = [], [], []
    for k, layer in enumerate(network.layers):
        once = k == 0 and network.coding == "direct"
        width, rows = layer.weights.shape[1], 1 if once else network.steps
        shrink = np.zeros((1, rows * width), np.float32)
        constants += [
            numpy_helper.from_array(layer.weights.astype(np.float32), f"W{k}"),
            numpy_helper.from_array(shrink, f"zeros{k}"),
            numpy_helper.from_array(np.array([-1, width], np.int64), f"shape{k}"),
        ]
        nodes += [
            helper.make_node("Mul", ["first", f"zeros{k}"], [f"wide{k}"]),
            helper.make_node("Reshape", [f"wide{k}", f"shape{k}"], [f"rows{k}"]),
            helper.make_node("Gemm", [f"rows{k}", f"W{k}"], [f"I{k}"], transB=1),
        ]
        outputs.append(helper.make_tensor_value_info(f"I{k}", TensorProto.FLOAT, None))
    constants += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("from", [0]), ("to", [1]))]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes.insert(0, helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]))
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", network.inputs])
    graph = helper.make_graph(nodes, "products", [entry], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))


def step(
    model: Any, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], seconds: float
) -> tuple[list[list[str]], str]:
    """One training step of ours and of the loop from the same weights, which the timing leaves as they are."""
    import torch

    from robustidps.models.spiking import load_native

    with tempfile.TemporaryDirectory() as folder:
        model.save_native(Path(folder))
        network = load_native(Path(folder)).network.train()
    plain = plain_snntorch(network)
    penalty, coding = model.settings.rate_penalty, model.settings.coding
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)

    def ours() -> tuple[Any, Any]:
        return network(inputs), network.rate

    def peers() -> tuple[Any, Any]:
        *hidden, last = plain(inputs)
        return last.sum(0), sum(s.sum() for s in hidden) / sum(s.numel() for s in hidden)

    def taken(forward: Callable[[], tuple[Any, Any]], optimiser: Any) -> Any:
        counts, rate = forward()
        loss = torch.nn.functional.cross_entropy(counts, labels) + penalty * rate
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return counts.detach()

    calls = {
        name: partial(taken, forward, torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0))
        for name, forward, module in (("ours", ours, network), ("snnTorch's loop", peers, plain))
    }
    counts = [call().clone() for call in calls.values()]
    theirs = [g for layer in (plain.fc1, plain.fc2, plain.fc3) for g in (layer.weight.grad, layer.bias.grad)]
    mine = [g for layer in network.layers for g in (layer.weight.grad, layer.bias.grad)]
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs, strict=True))
    differ = int((counts[0] != counts[1]).sum())
    medians = timed(calls, seconds, time.process_time)
    lines = [
        [f"{name}, {coding}, batch {len(x)}", f"{t * 1e3:.2f}", f"{len(x) / t:,.0f}", f"{t / medians['ours']:.2f}"]
        for name, t in medians.items()
    ]
    words = (
        f"Training step, {coding}, batch {len(x)}: {differ} spike counts differ, gradients by {gap:.0e} of the largest."
    )
    return lines, words


# --- Choosing settings on validation rows

TRAINING_ROWS, JUDGED_ROWS = 4000, 3000
SELECTION_EPOCHS = 10
SEEDS = 3
RESAMPLES = 1000
START: dict[str, Any] = {
    "batch_size": 256,
    "learning_rate": 0.005,
    "beta": 0.9,
    "slope": 2.0,
    "rate_penalty": 1.0,
    "epochs": SELECTION_EPOCHS,
    "weight_decay": 0.01,
    "span": 3.0,
}
"""What the family was before anything was chosen; a candidate changes one of these."""
CANDIDATES: dict[str, dict[str, Any]] = {
    "as it was": {},
    "batch_size 64": {"batch_size": 64},
    "learning_rate 0.002": {"learning_rate": 0.002},
    "learning_rate 0.01": {"learning_rate": 0.01},
    "beta 0.75": {"beta": 0.75},
    "beta 0.95": {"beta": 0.95},
    "slope 4": {"slope": 4.0},
    "slope 1": {"slope": 1.0},
    "rate_penalty 0.1": {"rate_penalty": 0.1},
    "epochs 20": {"epochs": 2 * SELECTION_EPOCHS},
}


@dataclass(frozen=True)
class Parts:
    """Rows to train on, to stop on, and to judge by."""

    train: TrafficSet
    stop: TrafficSet
    judge: TrafficSet


@dataclass(frozen=True)
class Judged:
    """A model's classes [N] on the rows to judge by, macro-F1 of these, and what it says of itself."""

    predicted: npt.NDArray[np.int64]
    macro_f1: float
    figures: dict[str, float]


def selection(folder: Path) -> str:
    data = {"NSL-KDD": nsl_kdd(folder), "simulated": simulated()}
    tried: dict[tuple[str, str], dict[str, Judged]] = {}
    for coding in CODINGS:
        for name, overrides in CANDIDATES.items():
            tried[coding, name] = {which: judged(parts, coding, overrides, 0) for which, parts in data.items()}
            _say(f"{coding}, {name}", tried[coding, name])
    best = {}
    for coding in CODINGS:
        means = {name: _mean(found) for (of, name), found in tried.items() if of == coding}
        gains = [name for name in CANDIDATES if means[name] > means["as it was"]]
        together = {
            key: value for name in sorted(gains, key=means.__getitem__) for key, value in CANDIDATES[name].items()
        }
        tried[coding, "all that gained"] = {which: judged(p, coding, together, 0) for which, p in data.items()}
        _say(f"{coding}, all that gained: {together}", tried[coding, "all that gained"])
        top = max((name for of, name in tried if of == coding), key=lambda name: _mean(tried[coding, name]))
        best[coding] = (top, together if top == "all that gained" else CANDIDATES[top])
    seeds: dict[tuple[str, str], list[Judged]] = {}
    for coding, (name, overrides) in best.items():
        for which, parts in data.items():
            more = [judged(parts, coding, overrides, seed) for seed in range(1, SEEDS)]
            seeds[coding, which] = [tried[coding, name][which], *more]
    rows = [
        [f"{name}, {coding}", *(f"{found[which].macro_f1:.3f}" for which in data), f"{_mean(found):.3f}"]
        for (coding, name), found in sorted(tried.items(), key=lambda item: -_mean(item[1]))
    ]
    return "\n\n".join(
        [
            table(["setting, one seed", *data, "mean"], rows),
            "All else as it was: "
            + ", ".join(f"{key} {value}" for key, value in START.items())
            + ". *All that gained*: every change that was better than none, at once. Differences of 0.01 are chance.",
            compared(data, best, seeds),
            f"Macro-F1 on rows that neither trained a model nor stopped its training. At most {TRAINING_ROWS:,} rows "
            f"train and {JUDGED_ROWS:,} judge, drawn as evenly over the classes as these go. NSL-KDD: parts of the "
            "training file, drawn at random but for equal rows; simulated: the days up to the last training day train, "
            "that day stops, the validation day judges. No test part is opened.",
            circumstances("python -m benchmarks spiking --select --write"),
        ]
    )


def compared(
    data: dict[str, Parts], best: dict[str, tuple[str, dict[str, Any]]], seeds: dict[tuple[str, str], list[Judged]]
) -> str:
    """Each coding at its best settings, over seeds, and the difference between them."""
    rows = []
    for which in data:
        for coding, (name, _) in best.items():
            runs = seeds[coding, which]
            rates = [
                spread([run.figures[figure] for run in runs], digits)
                for figure, digits in (("firing_rate_1", 3), ("firing_rate_2", 3), ("synaptic_operations", 0))
            ]
            rows.append([f"{which}, {coding}: {name}", spread([run.macro_f1 for run in runs], 3), *rates])
    header = [f"{SEEDS} seeds", "macro-F1", "firing rate 1", "firing rate 2", "synaptic operations a flow"]
    words = [
        f"{which} {difference_text(parts.judge, seeds['direct', which], seeds['latency', which])}"
        for which, parts in data.items()
    ]
    return (
        table(header, rows)
        + "\n\nMean (lowest to highest). Macro-F1 of latency minus direct coding, mean over seeds, 95 % interval: "
        + "; ".join(words)
        + ". The same rows are resampled for all models, by campaign where the rows have one."
    )


def difference_text(rows: TrafficSet, direct: list[Judged], latency: list[Judged]) -> str:
    folded = fold([rows.labels, *(run.predicted for run in [*direct, *latency])], blocks_of(rows))
    c = rows.schema.output_dim

    def mean_f1(counts: npt.NDArray[np.float64], columns: range) -> npt.NDArray[np.float64]:
        true, figures = folded.patterns[:, 0].astype(int), []
        for column in columns:
            cells = np.eye(c * c)[true * c + folded.patterns[:, column].astype(int)]
            figures.append(macro_f1((counts @ cells).reshape(-1, c, c)))
        return np.mean(figures, axis=0)

    n = len(direct)
    value, draws = (
        mean_f1(w, range(n + 1, 2 * n + 1)) - mean_f1(w, range(1, n + 1))
        for w in (np.atleast_2d(folded.totals), folded.resample(RESAMPLES, 0))
    )
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{value[0]:+.3f} [{low:+.3f}, {high:+.3f}]"


def spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def judged(parts: Parts, coding: str, overrides: dict[str, Any], seed: int) -> Judged:
    family = get_family("spiking")
    settings = family_settings(family, START | {"patience": 1000, "seed": seed, "coding": coding} | overrides)
    fitted = fit(family, settings, parts.train, parts.stop)
    predicted = fitted.probabilities(parts.judge.features).argmax(axis=1).astype(np.int64)
    confusion = confusion_matrix(parts.judge.labels, predicted, parts.judge.schema.output_dim)
    return Judged(predicted, float(macro_f1(confusion)), fitted.metrics)


def nsl_kdd(folder: Path) -> Parts:
    split = shuffled_split(load("nsl_kdd", folder, part="train"))
    return sampled(split.train, split.validation, split.test)


def simulated() -> Parts:
    split = split_of("simulated")
    days = np.unique(np.floor(split.train.time / 86_400)) * 86_400
    last = split.train.time >= days[-1]
    return sampled(split.train.select(~last), split.train.select(last), split.validation)


def sampled(train: TrafficSet, stop: TrafficSet, judge: TrafficSet) -> Parts:
    return Parts(
        even_sample(train, TRAINING_ROWS, 0), even_sample(stop, JUDGED_ROWS // 2, 0), even_sample(judge, JUDGED_ROWS, 0)
    )


def _mean(found: dict[str, Judged]) -> float:
    return float(np.mean([run.macro_f1 for run in found.values()]))


def _say(what: str, found: dict[str, Judged]) -> None:
    print(f"{what}: {[round(run.macro_f1, 4) for run in found.values()]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
