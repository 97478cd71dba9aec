"""Evasion: what every family and a boosted tree still find of attacks whose packets are perturbed, and at what price.

    python -m benchmarks evasion [--write]             the test days
    python -m benchmarks evasion --select [--write]    the validation day, which the floor in the rules is chosen on

The data set and its split are `robustidps train`'s own. `augmented` models were trained on as many attacks again,
of the training days, each under a perturbation drawn at random. Whether they learn the attacks or the perturbations
shows on benign conversations that are perturbed in the same ways.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._models import Stand, boosted_tree
from benchmarks._pages import circumstances, table, write_section
from benchmarks._splits import split_of
from robustidps.evaluation.evasion import UNCHANGED
from robustidps.evaluation.report import Evaluation
from robustidps.families import discover, family_settings
from robustidps.traffic.evasion import evade
from robustidps.traffic.prepare import dataset_config, evaded_dataset, starve
from robustidps.traffic.simulator import SimulatorSettings, simulate
from robustidps.traffic.splits import Split
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import fit

MINUTES = 8
DATASET = "simulated"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks evasion", description=__doc__)
    parser.add_argument("--select", action="store_true", help="several seeds on the validation day instead")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each family for --select")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = split_of(DATASET, folder)
        text = selection(split, folder, arguments.seeds) if arguments.select else results(split, folder)
    command = f"python -m benchmarks evasion{' --select' if arguments.select else ''} --write"
    text += "\n\n" + circumstances(command)
    print(text)
    if arguments.write:
        section = "evasion_selection" if arguments.select else "evasion"
        print(f"written: {write_section('results.md', section, text)}")
    return 0


def evaded(part: TrafficSet, folder: Path) -> TrafficSet:
    made = evaded_dataset(DATASET, part, folder=folder)
    if made is None:
        raise SystemExit(f"{DATASET} has no packets to perturb")
    return made


def results(split: Split, folder: Path) -> str:
    altered = evaded(split.test, folder)
    harder = augmented(split, evaded(split.train, folder))
    asked = trained(split, 0) | {f"{name}, augmented": model for name, model in trained(harder, 0).items()}
    models = {name: model.judged(split.test, DATASET, evaded=altered)[0] for name, model in asked.items()}
    benign = perturbed_benign(split.test, folder)
    calls = {name: called_attacks(model, benign) for name, model in asked.items()}
    return report(models, calls)


def perturbed_benign(held_out: TrafficSet, folder: Path) -> TrafficSet:
    """Benign conversations of the first held-out day, unchanged and perturbed as if an attacker had made them."""
    settings = SimulatorSettings.model_validate(dataset_config(DATASET).simulator)
    made = simulate(settings, folder)
    day = int((held_out.time.min() - settings.epoch) // 86_400)
    truth = made.truth(day)
    turned = np.where(truth.label == "Benign", held_out.schema.classes[1], "Benign").astype(object)
    return evade([(made.captures[day], replace(truth, label=turned))])


def called_attacks(model: Stand, rows: TrafficSet) -> dict[str, float]:
    """By perturbation, the share of these rows that the model takes for an attack."""
    found = model.probabilities(rows.features).argmax(axis=1) > 0
    return {name: float(found[rows.source == name].mean()) for name in dict.fromkeys(rows.source.tolist())}


def selection(split: Split, folder: Path, seeds: int) -> str:
    altered = evaded(split.validation, folder)
    rows = []
    for seed in range(seeds):
        for name, model in trained(split, seed, trees=seed == 0).items():  # boosted trees are the same for any seed
            e = model.judged(split.validation, DATASET, evaded=altered)[0]
            worst, alerts = e.headline["recall_under_evasion"], e.headline["alert_recall_under_evasion"]
            rows.append(
                [
                    f"{name}, seed {seed}",
                    f"{e.metric(f'detection_under.{UNCHANGED}'):.3f}",
                    f"{worst:.3f}",
                    f"{alerts:.3f}",
                ]
            )
    header = ["validation day", "detected, unchanged", "recall_under_evasion", "alert_recall_under_evasion"]
    return table(header, rows)


def augmented(split: Split, altered: TrafficSet) -> Split:
    """The split with as many perturbed attacks of the training days in training as there are attacks."""
    attacks = int((split.train.labels > 0).sum())
    more = starve(altered.select(altered.source != UNCHANGED), attacks, seed=0)
    return Split(TrafficSet.concat([split.train, more]), split.validation, split.test, split.report)


def trained(split: Split, seed: int, trees: bool = True) -> dict[str, Stand]:
    """Every family that can be trained here, and LightGBM."""
    models: dict[str, Stand] = {}
    for name, info in sorted(discover().items()):
        if info.family is not None and info.problem is None:
            fitted = fit(info.family, family_settings(info.family, {"seed": seed}), split.train, split.validation)
            models[name] = Stand.of(name, split.train, fitted.probabilities, fitted.thresholds)
    if trees:
        models["LightGBM"] = boosted_tree(split)
    return models


def report(models: dict[str, Evaluation], calls: dict[str, dict[str, float]]) -> str:
    """Detection by perturbation, by class under the worst, and what it costs the attacker, in Markdown."""
    found = {name: e.evasion for name, e in models.items() if e.evasion}
    first = next(iter(found.values()))
    header = ["detection rate", *found]
    rows = [[n, *(f"{e.perturbations[n].detection:.3f}" for e in found.values())] for n in first.perturbations]
    rows.append(["**worst for each tool**", *(f"{e.detection:.3f}" for e in found.values())])
    rows.append(["the same for alerts", *(f"{e.alert_recall:.3f}" for e in found.values())])
    for what, name in (("false-positive rate", "false_positive_rate"), ("false alerts", "alert_false_positive_rate")):
        rows.append([f"{what}, benign flows", *(f"{e.headline[name]:.4f}" for e in models.values())])
    flows = first.perturbations[UNCHANGED].flows
    text = [
        f"{flows:,} attack flows of the held-out days, each under {len(first.perturbations) - 1} perturbations. "
        "Intervals: 95 %, resampled by campaign.",
        table(header, rows),
        "Benign conversations of one held-out day, perturbed in the same ways, that are called an attack:",
        table(
            ["perturbation", *calls],
            [[n, *(f"{shares[n]:.3f}" for shares in calls.values())] for n in first.perturbations],
        ),
        "By class, unchanged and under the worst perturbation for each tool:",
        table(
            ["class", *(f"{name}{word}" for name in found for word in ("", ", worst"))],
            [
                [
                    c,
                    *(
                        f"{v:.2f}"
                        for e in found.values()
                        for v in (e.perturbations[UNCHANGED].classes[c], e.classes[c])
                    ),
                ]
                for c in first.classes
            ],
        ),
        "What the attacker pays, as multiples of what his conversations were:",
        table(
            ["perturbation", "packets he sends", "bytes he sends", "seconds"],
            [
                [name, *(f"{p.cost.get(word, 1):.2f}" for word in ("packets", "bytes", "seconds"))]
                for name, p in first.perturbations.items()
                if p.cost
            ],
        ),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    raise SystemExit(main())
