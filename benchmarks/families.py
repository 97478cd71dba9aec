"""Every family on the same rows: NSL-KDD by its official split, and simulated days that training hasn't seen.

    python -m benchmarks families [--on nsl_kdd simulated] [--seeds 3] [--only FAMILY ...] [--keep FOLDER] [--write]

Each family is trained with the settings in `configs/families/`, which were chosen on validation rows, and becomes a
bundle as `robustidps train` makes it; the bundle is judged. The test parts are read once per table, to fill it. With
`--keep FOLDER` bundles and figures stay there, and a run that was ended goes on from them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._models import spread
from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._splits import split_of
from benchmarks._timing import BATCHES, timed
from robustidps.bundle import open_bundle
from robustidps.errors import RobustIDPSError
from robustidps.evaluation.evaluate import evaluate
from robustidps.evaluation.report import Evaluation
from robustidps.families import discover, family_settings, get_family
from robustidps.preprocessing import Preprocessing
from robustidps.traffic.loaders import load
from robustidps.traffic.splits import Split, shuffled_split
from robustidps.training import train_bundle
from robustidps.unified import FAMILY as UNIFIED
from robustidps.unified import unify

MINUTES = 60
HEADLINE = ("accuracy", "macro_f1", "false_positive_rate")
TWENTY_PERCENT = 25_192
"""Rows of KDDTrain+_20Percent, which are the first ones of KDDTrain+."""

SETS = {"nsl_kdd": "NSL-KDD, official split", "simulated": "Simulated traffic, six held-out days"}

PUBLISHED = [
    [
        "spiking: NeuroIDS v4, KDDTest+, five classes",
        "accuracy 0.734, recall R2L 0.34, U2R 0.69",
        "its README: github.com/SephDavis/NeuroIDS (U2R counted as 67 rows)",
    ],
    [
        "quantum: 4-qubit classifier, attack or not, held-out part of the 20 % file",
        "accuracy 0.88",
        "arXiv:2606.21715",
    ],
    [
        "recurrent: RNN-IDS, KDDTest+, five classes",
        "accuracy 0.813",
        "Yin et al., IEEE Access 5, 2017, doi:10.1109/ACCESS.2017.2762418",
    ],
]


@dataclass(frozen=True)
class Trained:
    """A bundle, what it said of the test part, and how long it took to make."""

    folder: Path
    seconds: float
    evaluation: Evaluation
    binary: float
    """Share of rows told right as attack or not, by the most probable class."""

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--on", nargs="*", choices=list(SETS), default=list(SETS), help="data sets; each has its own section"
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / "../shared/data/nsl_kdd", help="folder of KDDTrain+")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each family")
    parser.add_argument("--only", nargs="*", metavar="FAMILY", help="these families alone")
    parser.add_argument("--rows", type=int, help="train on this many rows at most, for a quick look")
    parser.add_argument("--keep", type=Path, help="folder that keeps bundles and figures for another run")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args(words)
    if arguments.write and (arguments.only or arguments.rows or arguments.seeds < 2):
        parser.error("--write is for the page's own figures: every family, all rows, two seeds or more")
    names, seeds = arguments.only or available(), range(arguments.seeds)
    with tempfile.TemporaryDirectory() as passing:
        keep = arguments.keep or Path(passing)
        for name, title, split in splits(arguments.data_dir, arguments.on):
            if arguments.rows:
                split = replace(split, train=split.train.select(sampled(len(split.train), arguments.rows)))
            found = {family: [trained(family, seed, split, title, keep) for seed in seeds] for family in names}
            if len(names) > 1:
                found[UNIFIED] = [united(found, names, seed, split, title, keep) for seed in seeds]
            sections = [report(found, split)]
            if name == "nsl_kdd":
                sections.append(table(["published", "figure", "source"], PUBLISHED))
                if "quantum" in names:
                    sections.append(twenty_percent(arguments.data_dir, seeds, keep, arguments.rows))
            text = "\n\n".join([*sections, circumstances(f"python -m benchmarks families --on {name} --write")])
            print(f"## {title}\n\n{text}\n")
            if arguments.write:
                print(f"wrote {write_section('results.md', f'families_{name}', text)}")
    return 0


def available() -> list[str]:
    """Our own families whose frameworks are installed; the others are named on standard error."""
    names = []
    for name, info in discover().items():
        if info.distribution != "robustidps":
            continue
        if info.problem:
            print(f"{name} is left out: {info.problem}", file=sys.stderr)
        else:
            names.append(name)
    return names


def splits(nsl_kdd: Path, names: Sequence[str]) -> Iterator[tuple[str, str, Split]]:
    """Name, title and split of each data set; one whose files aren't there is named on standard error."""
    for name in names:
        try:
            split = split_of(name.replace("_", "-"), data_dir=nsl_kdd if name == "nsl_kdd" else None)
        except RobustIDPSError as error:
            print(f"{SETS[name]} is left out: {error}", file=sys.stderr)
        else:
            yield name, SETS[name], split


def sampled(rows: int, most: int) -> Any:
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


# --- Training and judging


def trained(name: str, seed: int, split: Split, dataset: str, keep: Path) -> Trained:
    family = get_family(name)
    settings = family_settings(family, {"seed": seed})
    place = keep / place_of(name, seed, split, settings.model_dump(mode="json"))

    def make(folder: Path) -> None:
        train_bundle(family, settings, split.train, split.validation, name=name, version=f"1.0.{seed}", out=folder)

    return judged(place, make, split, dataset)


def united(
    found: dict[str, list[Trained]], names: list[str], seed: int, split: Split, dataset: str, keep: Path
) -> Trained:
    """The weighted mean of one bundle a family."""
    members = [open_bundle(found[name][seed].folder) for name in names]
    place = keep / place_of(UNIFIED, seed, split, [member.digest for member in members])

    def make(folder: Path) -> None:
        unify(members, split.train, split.validation, name=UNIFIED, version=f"1.0.{seed}", out=folder)

    try:
        return judged(place, make, split, dataset)
    finally:
        for member in members:
            member.close()


def place_of(name: str, seed: int, split: Split, what: Any) -> str:
    told = json.dumps([what, split.train.digest, split.validation.digest, split.test.digest], sort_keys=True)
    return f"{name}-{seed}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def judged(place: Path, make: Any, split: Split, dataset: str) -> Trained:
    bundle_folder, notes = place / "bundle", place / "figures.json"
    if notes.exists():
        told = json.loads(notes.read_text(encoding="utf-8"))
        return Trained(bundle_folder, told["seconds"], Evaluation.model_validate(told["evaluation"]), told["binary"])
    place.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    make(bundle_folder)
    seconds = time.perf_counter() - started
    with open_bundle(bundle_folder) as bundle:
        evaluation, said = evaluate(bundle, split.test, dataset=dataset, timing=False)
    binary = float(((said.predicted > 0) == (split.test.labels > 0))[split.test.labelled].mean())
    print(
        f"{dataset}: {place.name.rpartition('-')[0]}: {seconds:.0f} s, accuracy {evaluation.metric('accuracy'):.3f}, "
        f"macro-F1 {evaluation.metric('macro_f1'):.3f}",
        file=sys.stderr,
        flush=True,
    )
    told = {"seconds": seconds, "binary": binary, "evaluation": evaluation.model_dump(mode="json")}
    notes.write_text(json.dumps(told), encoding="utf-8")
    return Trained(bundle_folder, seconds, evaluation, binary)


# --- The tables


def report(found: dict[str, list[Trained]], split: Split) -> str:
    seeds = len(next(iter(found.values())))
    first = next(iter(found.values()))[0].evaluation

    def over(ones: list[Trained], metric: str) -> str:
        return spread([one.evaluation.metric(metric) for one in ones])

    quality = [
        [name, *(over(ones, metric) for metric in HEADLINE), spread([one.binary for one in ones])]
        for name, ones in found.items()
    ]
    bounds = [
        [name, *(format(ones[0].evaluation.headline[metric], ".3f") for metric in HEADLINE)]
        for name, ones in found.items()
    ]
    classes = [
        [label, *(over(ones, f"recall.{label}") for ones in found.values())] for label in split.test.schema.classes
    ]
    return "\n\n".join(
        [
            f"Trained on {len(split.train):,} rows, chosen on {len(split.validation):,}, tested on {first.rows:,}. "
            f"Mean (lowest to highest) of {seeds} seeds:",
            table(["family", "accuracy", "macro-F1", "false-positive rate", "attack or not, accuracy"], quality),
            f"The first seed with its 95 % interval, resampled by {first.blocks} ({first.n_blocks} of them):",
            table(["family, seed 0", "accuracy", "macro-F1", "false-positive rate"], bounds),
            f"Recall by class, mean (lowest to highest) of {seeds} seeds:",
            table(["recall", *found], classes),
            "What it costs. Training: to a bundle, on one thread, mean over seeds, while the machine did other work "
            "too. Rows a second: ONNX is the whole bundle, raw features to calibrated probabilities; native is the "
            "framework alone, standardised features to logits.",
            table(
                [
                    "seed 0",
                    "training, s",
                    "bundle, KiB",
                    *(f"{kind}, batch {batch}" for kind in ("ONNX", "native") for batch in BATCHES),
                ],
                [costs(name, ones, split) for name, ones in found.items()],
            ),
        ]
    )


def costs(name: str, ones: list[Trained], split: Split) -> list[str]:
    one = ones[0]
    peers: dict[str, Any] = {}
    cells = {}
    with open_bundle(one.folder) as bundle:
        peers["ONNX"] = bundle.probabilities, split.test.features
        if name != UNIFIED:
            native = importlib.import_module(f"robustidps.models.{name}").load_native(one.folder / "native")
            preprocessing = Preprocessing.fit(split.train.schema, split.train.features)
            peers["native"] = native.logits, preprocessing.transform(split.test.features[: max(BATCHES)])
        for batch in BATCHES:
            calls = {
                kind: partial(call, np.ascontiguousarray(np.resize(rows, (batch, rows.shape[1]))))
                for kind, (call, rows) in peers.items()
            }
            cells |= {(kind, batch): f"{batch / seconds:,.0f}" for kind, seconds in timed(calls, 1.0).items()}
    rates = [cells.get((kind, batch), "-") for kind in ("ONNX", "native") for batch in BATCHES]
    return [name, f"{np.mean([o.seconds for o in ones]):.1f}", f"{one.bytes / 1024:,.0f}", *rates]


def twenty_percent(data_dir: Path, seeds: Sequence[int], keep: Path, rows: int | None) -> str:
    """The quantum family as the published study tests its own: a random part of the 20 % file, attack or not."""
    traffic = load("nsl_kdd", data_dir, part="train").select(slice(0, TWENTY_PERCENT))
    split = shuffled_split(traffic)
    if rows:
        split = replace(split, train=split.train.select(sampled(len(split.train), rows)))
    names = [name for name in ("quantum", "boosted_trees") if name in available()]
    cells = []
    for name in names:
        ones = [trained(name, seed, split, "NSL-KDD, 20 % file", keep) for seed in seeds]
        cells.append([name, spread([one.binary for one in ones])])
    return "\n\n".join(
        [
            "As the published quantum study tests, on a random part of NSL-KDD's 20 % file:",
            table(["family", "attack or not, accuracy"], cells),
            f"The first {TWENTY_PERCENT:,} rows of KDDTrain+, {len(split.train):,} of them to train on, "
            f"{len(split.validation):,} to choose on, {len(split.test):,} to test on, drawn at random: train and test "
            "hold the same attacks from the same days, so the figure flatters and compares with that study's alone.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
