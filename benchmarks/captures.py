"""Real captures, ingested and scored by a model that was trained on simulated traffic alone.

    make demo
    python -m benchmarks captures [--home .robustidps/demo] [--captures ../shared/data/captures] [--write]

`--captures` is a folder with `labels.csv` (columns `capture`, `label`) and the captures it names. Benign captures give
false alarms per application, attack captures recall per capture, hostile ones have to end in a clear error or in flows.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from robustidps.bundle import Bundle
from robustidps.comparing import resolve
from robustidps.errors import RobustIDPSError
from robustidps.registry.registry import ModelRegistry
from robustidps.scoring import score
from robustidps.settings import make_settings
from robustidps.traffic.capture import extract_many
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.trafficset import TrafficSet

MINUTES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks captures", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".robustidps/demo"), help="installation with the model")
    parser.add_argument("--model", default="neural_ode@production", help="NAME or NAME@VERSION")
    parser.add_argument("--captures", type=Path, default=Path("../shared/data/captures"), help="folder with labels.csv")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    try:
        bundle = resolve(ModelRegistry(settings=make_settings(home=arguments.home)), arguments.model)
        text = report(bundle, arguments.captures)
    except (RobustIDPSError, OSError) as error:
        print(f"benchmarks captures: {error}")
        return 1
    text += "\n\n" + circumstances("python -m benchmarks captures --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'captures', text)}")
    return 0


def report(bundle: Bundle, folder: Path) -> str:
    """Scores every capture under `folder` and says what came of it, in Markdown."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["capture"]: row["label"] for row in csv.DictReader(file)}
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".pcap", ".pcapng"))
    ended: Counter[tuple[str, str]] = Counter()
    benign: list[tuple[str, int, int, int]] = []
    attacks: list[list[str]] = []
    for path, found in extract_many(paths, truncated="use"):
        name = path.relative_to(folder).as_posix()
        kind = name.split("/")[0]
        if isinstance(found, RobustIDPSError):
            ended[kind, "clear error"] += 1
            continue
        ended[kind, "scored" if len(found) else "no flow"] += 1
        scores = score(bundle, TrafficSet.build(FLOW64, found.features, time=found.first_seen, source=name))
        raised, top = int((scores.alerts > 0).sum()), scores.probabilities.argmax(1)
        if kind == "benign":
            benign.append((path.stem, len(found), raised, int((top > 0).sum())))
        elif kind == "attack":
            label = labels.get(name, "")
            known = label in bundle.schema.classes
            right = f"{np.mean(top == bundle.schema.classes.index(label)):.2f}" if known and len(top) else "-"
            shares = [f"{np.mean(top > 0):.2f}", f"{raised / len(top):.2f}"] if len(top) else ["-", "-"]
            attacks.append([path.stem, label or "not labelled", f"{len(found)}", right, *shares])
    flows, raised, called = (sum(row[i] for row in benign) for i in (1, 2, 3))
    silent = sum(row[2] == 0 for row in benign)
    worst = [[str(cell) for cell in row] for row in sorted(benign, key=lambda row: -row[2])[:8]]
    kinds = ("benign", "attack", "hostile")
    ends = ("scored", "no flow", "clear error")
    meta = bundle.metadata
    parts = [
        f"`{meta.name}` {meta.version}, trained on simulated traffic alone, on {len(paths)} real captures.",
        table(["captures", *ends], [[kind, *(str(ended[kind, end]) for end in ends)] for kind in kinds]),
        f"Benign: {flows:,} flows of {len(benign)} applications; {raised / flows:.3f} of them raise an alert, "
        f"{called / flows:.3f} are called an attack; {silent} of {len(benign)} applications raise none. Most alerts:",
        table(["application", "flows", "alerts", "called an attack"], worst),
        "Attacks (the label is the whole capture's; flows of an infected host are not all malicious):",
        table(["capture", "label", "flows", "recall of its class", "called any attack", "raise an alert"], attacks),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
