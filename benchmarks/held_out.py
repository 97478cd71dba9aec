"""Held out for real: attack tools, benign services and days that training never saw, apart from those it did.

    python -m benchmarks held_out [--seeds 3] [--write]      the tables on `simulated-held-out`
    python -m benchmarks held_out --select [--write]         what its promotion rules were set by

The first table is `robustidps train --dataset simulated-held-out`; its test part is looked at once. The second leaves
every tool and every service out once, for LightGBM: fold k has the k-th tool of each attack class, and every so many-th
service, out of training. `--select` does that within the training days, without the tools, services and days that the
data set holds out, so that thresholds are chosen on attacks nobody trained on that aren't the test's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._models import boosted_tree, neural_ode, side_by_side, spread
from benchmarks._pages import circumstances, table, write_section
from robustidps.evaluation.evaluate import Predictions
from robustidps.evaluation.report import Evaluation
from robustidps.judging import rule_set
from robustidps.rules import Case, Evidence
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset
from robustidps.traffic.simulator.catalogue import APPLICATIONS, TOOLS
from robustidps.traffic.splits import Split, temporal_split
from robustidps.traffic.trafficset import TrafficSet

MINUTES = 4
DATASET = "simulated-held-out"
TOLD_APART = (
    "recall_seen_tools",
    "recall_unseen_tools",
    "detection_seen_tools",
    "detection_unseen_tools",
    "alert_recall_seen_tools",
    "alert_recall_unseen_tools",
    "false_positive_rate_seen_services",
    "false_positive_rate_unseen_services",
    "alert_false_positive_rate_seen_services",
    "alert_false_positive_rate_unseen_services",
)
WHAT = ("right class", "any attack", "alert")
Figures = tuple[float, float, float]
"""Of one tool's or service's rows, the shares that `WHAT` names."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks held_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the neural ODE")
    parser.add_argument("--folder", type=Path, help="keep simulated captures here; default: nowhere")
    parser.add_argument("--select", action="store_true", help="judge within the training days instead")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = load_dataset(DATASET, folder=arguments.folder or Path(folder))
    text = selection(parts["all"]) if arguments.select else comparison(parts["all"], arguments.seeds)
    text += "\n\n" + circumstances(f"python -m benchmarks held_out{' --select' * arguments.select} --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'held_out_rules' if arguments.select else 'held_out', text)}")
    return 0


# --- The tables


def comparison(traffic: TrafficSet, seeds: int) -> str:
    split = split_dataset({"all": traffic}, dataset_config(DATASET))
    ours = []
    for seed in range(seeds):
        ours.append(neural_ode(split, seed).judged(split.test, DATASET))
        print(f"neural_ode, seed {seed}: trained", file=sys.stderr, flush=True)
    tree = boosted_tree(split).judged(split.test, DATASET)
    held = split.report.held_out
    return "\n\n".join(
        [
            table(
                [f"{len(split.test):,} held-out flows", f"neural_ode, {seeds} seeds", "seed 0", "LightGBM, balanced"],
                side_by_side(TOLD_APART, [e for e, _ in ours], tree[0]),
            ),
            "Mean (lowest to highest) over seeds; then one model each with its 95 % interval, resampled by "
            f"{tree[0].blocks} ({tree[0].n_blocks} of them). Trained on {len(split.train):,} flows of "
            f"{split.report.parts['train']['first'][:10]} to {split.report.parts['train']['last'][:10]}.",
            by_name(split, [p for _, p in ours], tree[1]),
            "neural_ode: mean over seeds. Flows that equal a training flow in all features are not in the test "
            f"({sum(counts['duplicates'] for counts in held.values()):,} of what is held out): what would be "
            "recognised word for word isn't counted.",
            by_rules(ours[0][0]),
            once_each(leave_each_out(traffic)),
        ]
    )


def by_rules(evaluation: Evaluation) -> str:
    """What the data set's promotion rules that need no champion say about one model."""
    evidence = Evidence(model=DATASET, version="0.0.0", schema_digest="", bundle_digest="", evaluation=evaluation)
    broken: list[str] = []
    asked = 0
    for rule in rule_set(dataset_config(DATASET).rules).rules:
        if rule.kind in ("threshold", "false_positive_ceiling"):
            result = rule.judge(Case(evidence, None, {}))
            asked += 1
            broken += [] if result.passed else [result.text]
    verdict = f"Its promotion rules would refuse seed 0: {'; '.join(broken)}." if broken else "Seed 0 passes its rules."
    return f"{verdict} ({asked - len(broken)} of {asked} bounds kept; they were set before this table was printed.)"


def by_name(split: Split, ours: list[Predictions], tree: Predictions) -> str:
    """Two tables: attack tools that were held out, and benign services."""
    test = split.test
    shown = ["class", "flows", *(f"{who}: {what}" for who in ("ODE", "LightGBM") for what in WHAT)]
    rows: dict[str, list[list[str]]] = {"tool": [], "service": []}
    for word in split.report.held_out:
        kind, _, name = word.partition("=")
        labels = test.labels[test.tool.astype(str) == name]
        if kind in rows and len(labels):
            label = test.schema.classes[int(np.bincount(labels).argmax())]
            figures = [np.mean([of_tool(p, test, name) for p in who], axis=0) for who in (ours, [tree])]
            rows[kind].append([name, label, f"{len(labels):,}", *(f"{v:.2f}" for figure in figures for v in figure)])
    rows["tool"].sort(key=lambda row: test.schema.classes.index(row[1]))
    return "\n\n".join(table([f"{kind} never trained on", *shown], rows[kind]) for kind in rows)


def once_each(once: dict[str, Figures]) -> str:
    """What `leave_each_out` found, by class."""
    rows = []
    for label, names in TOOLS.items():
        tools = sorted((t for t in names if t in once), key=lambda t: once[t][1])
        if tools:
            means = np.mean([once[t] for t in tools], axis=0)
            rows.append([label, *(f"{v:.2f}" for v in means), ", ".join(f"{t} {once[t][1]:.2f}" for t in tools)])
    services = sorted((s for s in APPLICATIONS if s in once), key=lambda s: -once[s][2])
    return "\n\n".join(
        [
            "**Each tool and each service left out once, LightGBM**, days as in `simulated`; in each training one tool "
            "of every class and some of the services are missing.",
            table(["class, mean over its tools", *WHAT, "each tool, share taken for any attack"], rows),
            "Benign services by the share of their flows that raises an alert when training had none of them: "
            + ", ".join(f"{s} {once[s][2]:.3f}" for s in services)
            + ".",
        ]
    )


def of_tool(predictions: Predictions, test: TrafficSet, name: str) -> Figures:
    rows = test.tool.astype(str) == name
    top, y = predictions.predicted[rows], test.labels[rows]
    return float(np.mean(top == y)), float(np.mean(top > 0)), float(np.mean(predictions.alerts[rows] > 0))


# --- Each name left out once


def folds(traffic: TrafficSet) -> Iterator[HoldOut]:
    """As many as the largest class has tools: the k-th tool of each class that `traffic` has, every so many-th service.

    A class whose only tool it would be keeps it.
    """
    there = set(traffic.tool.astype(str).tolist())
    classes = [[t for t in tools if t in there] for tools in TOOLS.values()]
    services = [s for s in APPLICATIONS if s in there]
    n = max(len(tools) for tools in classes)
    for k in range(n):
        yield HoldOut(tools=tuple(tools[k] for tools in classes if 1 < len(tools) > k), services=tuple(services[k::n]))


def leave_each_out(traffic: TrafficSet) -> dict[str, Figures]:
    """Figures of every tool and service from the one model that was trained without it; split as `simulated` is."""
    found = {}
    for number, held in enumerate(folds(traffic)):
        split = split_dataset({"all": traffic}, dataset_config("simulated"), hold_out=held)
        predictions = boosted_tree(split).judged(split.test, DATASET, resamples=1)[1]
        names = set(split.test.tool.astype(str).tolist())
        found |= {n: of_tool(predictions, split.test, n) for n in (*held.tools, *held.services) if n in names}
        print(f"fold {number + 1}: {', '.join(held.words())}", file=sys.stderr, flush=True)
    return found


# --- What the rules were set by


def selection(traffic: TrafficSet) -> str:
    """Folds over what the training and validation days have once everything that the data set holds out is gone."""
    config = dataset_config(DATASET)
    held = np.any(list(config.hold_out.masks(traffic).values()), axis=0)
    whole = split_dataset({"all": traffic}, config)
    open_ = traffic.select(~held & (traffic.time <= whole.validation.time.max()))
    figures: dict[str, list[Evaluation]] = {"neural_ode": [], "LightGBM": []}
    for number, out in enumerate(folds(open_)):
        split = _early(open_, out)
        figures["neural_ode"].append(neural_ode(split, 0).judged(split.test, DATASET, resamples=1)[0])
        figures["LightGBM"].append(boosted_tree(split).judged(split.test, DATASET, resamples=1)[0])
        print(f"fold {number + 1} of the training days", file=sys.stderr, flush=True)
    names = ("accuracy", "macro_f1", "false_positive_rate", *TOLD_APART)
    rows = [[name, *(spread([e.metric(name) for e in found]) for found in figures.values())] for name in names]
    lowest = [
        spread([min(c.recall.value for c in e.classes.values() if c.recall.value is not None) for e in found])
        for found in figures.values()
    ]
    rows.append(["lowest recall of a class", *lowest])
    last = open_.time.max()
    return "\n\n".join(
        [
            table([f"{len(figures['neural_ode'])} folds within the training days", *figures], rows),
            f"Mean (lowest to highest) over folds. Only traffic up to {np.datetime64(int(last), 's').astype('M8[D]')}, "
            "without the tools and services that the data set holds out. Each fold holds out another tool of every "
            "class and some of the other services, and the last of these days.",
        ]
    )


def _early(traffic: TrafficSet, out: HoldOut) -> Split:
    """The last day judges, the one before it validates, the rest trains."""
    day: npt.NDArray[np.float64] = np.unique(np.floor(traffic.time / 86_400)) * 86_400
    return temporal_split(traffic, at=(float(day[-2]), float(day[-1])), hold_out=out)


if __name__ == "__main__":
    raise SystemExit(main())
