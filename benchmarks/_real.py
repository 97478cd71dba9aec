"""Real captures as a judge of models that were trained on simulated traffic alone; shared by several benchmarks.

The captures lie beside the checkout (`../shared/data/captures`, with `labels.csv`) and are no part of the project:
where they are missing, a benchmark says so in place of its figures.

They are cut into two named parts, by name alone: the `development` half may be looked at while the simulator is worked
on, the `held-back` half is for the tables of the finished benchmark. Which capture is where is listed in
data/captures.md.

What a model is asked: recall per attack class that occurs, and how many false alerts each benign application raises.
Flows of one application are anything but independent, so an application counts once, however long its capture is, and
intervals draw families of applications (`tls_...`, `quic_...`), not flows.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._pages import ROOT, table
from robustidps.decisions import decide
from robustidps.errors import RobustIDPSError
from robustidps.evaluation.bootstrap import interval
from robustidps.evaluation.report import Interval
from robustidps.progress import Progress, silent
from robustidps.traffic.capture import extract_many
from robustidps.traffic.flow64 import FLOW64

CAPTURES = ROOT.parent / "shared" / "data" / "captures"
PARTS = ("development", "held-back")
MISSING = (
    "Trained on simulated, tested on real captures: not measured, there are no captures at `../shared/data/captures`."
)
RESAMPLES = 2000

Array = npt.NDArray[Any]
Probabilities = Callable[[npt.NDArray[np.float32]], Array]


def family(name: str) -> str:
    """The first word of letters in a capture's name, small: `tls` for `benign/tls_esni.pcap`."""
    stem = Path(name).stem.lower()
    found = re.search("[a-z]+", stem)
    return found[0] if found else stem


def part_of(name: str) -> str:
    """The half that a capture belongs to: by the first bit of SHA-256 over its family, for an attack over its name.

    Benign captures of one family stay together, so that the held-back half has protocols that the other has not.

    Args:
        name: path within the folder of captures (`benign/tls_esni.pcap`).
    """
    key = Path(name).stem.lower() if name.startswith("attack/") else family(name)
    return PARTS[hashlib.sha256(key.encode()).digest()[0] >> 7]


@dataclass(frozen=True)
class RealCapture:
    """One capture. kind: `benign`, `attack` or `hostile`; label: of the whole capture, "" where it has none;
    features: float32 [N, 64]; error: what was wrong with it, else None."""

    name: str
    kind: str
    label: str
    features: npt.NDArray[np.float32]
    error: RobustIDPSError | None = None

    @property
    def part(self) -> str:
        return part_of(self.name)


def real_captures(folder: Path = CAPTURES, *, progress: Progress = silent) -> list[RealCapture]:
    """Every capture under `folder` through the flow extractor, by name; none where there is no such folder."""
    if not (folder / "labels.csv").is_file():
        return []
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["capture"]: row["label"] for row in csv.DictReader(file)}
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".pcap", ".pcapng"))
    read = []
    for done, (path, found) in enumerate(extract_many(paths, truncated="use")):
        progress("reading real captures", done, len(paths), unit="captures")
        name = path.relative_to(folder).as_posix()
        failed = isinstance(found, RobustIDPSError)
        features = np.empty((0, FLOW64.input_dim), np.float32) if failed else found.features
        read.append(RealCapture(name, name.split("/")[0], labels.get(name, ""), features, found if failed else None))
    return read


@dataclass(frozen=True)
class Outcome:
    """What one model makes of some captures.

    alerting: mean over benign applications of the share of their flows that raise an alert; called: likewise of those
    called an attack; silent: share of applications that raise none. recall: by class, (share of the flows given that
    class, flows, captures); found: by label (also one that is no class of flow64), the share called any attack.
    """

    applications: int
    flows: int
    alerting: Interval
    called: Interval
    silent: Interval
    recall: dict[str, tuple[float, int, int]]
    found: dict[str, tuple[float, int, int]]


def outcome(
    captures: Sequence[RealCapture], probabilities: Probabilities, thresholds: dict[str, float] | None = None
) -> Outcome:
    """Asks a model about captures. Without thresholds, a flow raises an alert when an attack is its likeliest class."""
    asked = [c for c in captures if len(c.features) and c.kind in ("benign", "attack")]
    p = np.asarray(probabilities(np.concatenate([c.features for c in asked])))
    top = p.argmax(1)
    alert = top > 0 if thresholds is None else decide(p, thresholds, FLOW64) > 0
    ends = np.cumsum([len(c.features) for c in asked])
    spans = [slice(e - len(c.features), e) for c, e in zip(asked, ends.tolist(), strict=True)]
    benign = [(c, s) for c, s in zip(asked, spans, strict=True) if c.kind == "benign"]
    alerting = np.array([alert[s].mean() for _, s in benign])
    called = np.array([np.mean(top[s] > 0) for _, s in benign])
    families = [family(c.name) for c, _ in benign]
    by_label: dict[str, list[Array]] = {}
    for c, s in zip(asked, spans, strict=True):
        if c.kind == "attack" and c.label:
            by_label.setdefault(c.label, []).append(top[s])
    recall, found = {}, {}
    for label, tops in sorted(by_label.items()):
        every = np.concatenate(tops)
        found[label] = (float(np.mean(every > 0)), len(every), len(tops))
        if label in FLOW64.classes:
            recall[label] = (float(np.mean(every == FLOW64.classes.index(label))), len(every), len(tops))
    return Outcome(
        applications=len(benign),
        flows=sum(len(c.features) for c, _ in benign),
        alerting=mean_over_families(alerting, families),
        called=mean_over_families(called, families),
        silent=mean_over_families((alerting == 0).astype(float), families),
        recall=recall,
        found=found,
    )


def mean_over_families(values: Array, families: Sequence[str]) -> Interval:
    """The mean of one value an application, with its 95 % interval over families of applications."""
    if not len(values):
        return Interval(value=None)
    names, code = np.unique(np.asarray(families), return_inverse=True)
    n = len(names)
    sums, counts = np.bincount(code, values, n), np.bincount(code, minlength=n)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return interval(float(values.mean()), weights @ sums / (weights @ counts), n)


def transfer(
    captures: Sequence[RealCapture], models: dict[str, list[tuple[Probabilities, dict[str, float] | None]]]
) -> str:
    """The rows *trained on simulated, tested on real captures* of a table, both halves apart, in Markdown.

    Args:
        models: by the name of a column, one or several trained models (seeds) with their thresholds, if any.
    """
    if not captures:
        return MISSING
    rows = []
    for part in PARTS:
        mine = [c for c in captures if c.part == part]
        results = {name: [outcome(mine, *model) for model in seeds] for name, seeds in models.items()}
        first = next(iter(results.values()))[0]
        title = f"{part}: "
        for what, attribute in (
            ("false alerts, mean share of an application's flows", "alerting"),
            ("called an attack, mean share of an application's flows", "called"),
            ("applications without any false alert", "silent"),
        ):
            rows.append([title + what, *(_shown([getattr(o, attribute) for o in r]) for r in results.values())])
        for label, (_, flows, count) in first.recall.items():
            what = f"recall {label} ({flows:,} flows, {count} {'capture' if count == 1 else 'captures'})"
            rows.append(
                [title + what, *(_shown([Interval(value=o.recall[label][0]) for o in r]) for r in results.values())]
            )
    counts = [[c for c in captures if c.part == part and c.kind == "benign"] for part in PARTS]
    sizes = " and ".join(
        f"{len(c)} benign applications with {sum(len(x.features) for x in c):,} flows ({part})"
        for part, c in zip(PARTS, counts, strict=True)
    )
    return "\n\n".join(
        [
            f"**Trained on simulated, tested on real captures:** {sizes}.",
            table(["half of the captures", *models], rows),
            "Brackets: 95 % interval over families of applications; parentheses: lowest to highest of the seeds. "
            "An application counts once, however many flows it has.",
        ]
    )


def _shown(values: list[Interval]) -> str:
    known = [v.value for v in values if v.value is not None]
    if not known:
        return "-"
    if len(values) > 1:
        return f"{np.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})"
    one = values[0]
    return f"{one.value:.3f}" + ("" if one.low is None else f" [{one.low:.3f}, {one.high:.3f}]")
