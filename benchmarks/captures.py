"""Real captures, ingested and scored by a model that was trained on simulated traffic alone, both halves apart.

    make demo
    python -m benchmarks captures [--home .robustidps/demo] [--captures ../shared/data/captures] [--write]

`--captures` is a folder with `labels.csv` (columns `capture`, `label`) and the captures it names. Benign captures give
false alarms per application, attack captures recall per capture, hostile ones have to end in a clear error or in flows.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from benchmarks._real import CAPTURES, PARTS, RealCapture, real_captures, transfer
from robustidps.bundle import Bundle
from robustidps.comparing import resolve
from robustidps.decisions import decide
from robustidps.errors import InputError, RobustIDPSError
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import make_settings

MINUTES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks captures", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".robustidps/demo"), help="installation with the model")
    parser.add_argument("--model", default="neural_ode@production", help="NAME or NAME@VERSION")
    parser.add_argument("--captures", type=Path, default=CAPTURES, help="folder with labels.csv")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    try:
        bundle = resolve(ModelRegistry(settings=make_settings(home=arguments.home)), arguments.model)
        captures = real_captures(arguments.captures)
        if not captures:
            raise InputError("no captures with a labels.csv", where=arguments.captures, remedy="name a folder that has")
        text = report(bundle, captures)
    except (RobustIDPSError, OSError) as error:
        print(f"benchmarks captures: {error}")
        return 1
    text += "\n\n" + circumstances("python -m benchmarks captures --write")
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'captures', text)}")
    return 0


def report(bundle: Bundle, captures: Sequence[RealCapture]) -> str:
    """What came of every capture, in Markdown."""
    meta = bundle.metadata
    ended = Counter(
        (c.kind, "clear error" if c.error else "scored" if len(c.features) else "no flow") for c in captures
    )
    ends = ("scored", "no flow", "clear error")
    parts = [
        f"`{meta.name}` {meta.version}, trained on simulated traffic alone, on {len(captures)} real captures.",
        table(
            ["captures", *ends],
            [[kind, *(str(ended[kind, end]) for end in ends)] for kind in ("benign", "attack", "hostile")],
        ),
        transfer(captures, {f"{meta.name} {meta.version}": [(bundle.probabilities, meta.thresholds)]}),
    ]
    for part in PARTS:
        parts += _benign(bundle, [c for c in captures if c.part == part and c.kind == "benign"], part)
    parts.append("Attacks (the label is the whole capture's; flows of an infected host are not all malicious):")
    header = ["capture", "half", "label", "flows", "recall of its class", "called any attack", "raise an alert"]
    attacks = [c for c in captures if c.kind == "attack" and not c.error]
    parts.append(table(header, [_attack(bundle, c) for c in attacks]))
    return "\n\n".join(parts)


def _asked(bundle: Bundle, capture: RealCapture) -> tuple[np.ndarray, np.ndarray]:
    """Likeliest class of each flow, and whether it raises an alert."""
    if not len(capture.features):
        return np.zeros(0, int), np.zeros(0, bool)
    p = bundle.probabilities(capture.features)
    return p.argmax(1), decide(p, bundle.metadata.thresholds, bundle.schema) > 0


def _benign(bundle: Bundle, captures: Sequence[RealCapture], part: str) -> list[str]:
    rows = []
    for capture in captures:
        top, alert = _asked(bundle, capture)
        if len(top):
            rows.append((Path(capture.name).stem, len(top), int(alert.sum()), int((top > 0).sum())))
    flows, raised, called = (sum(row[i] for row in rows) for i in (1, 2, 3))
    silent = sum(row[2] == 0 for row in rows)
    worst = [[str(cell) for cell in row] for row in sorted(rows, key=lambda row: -row[2])[:8]]
    return [
        f"Benign, {part} half: {flows:,} flows of {len(rows)} applications; {raised / flows:.3f} of the flows raise an "
        f"alert, {called / flows:.3f} are called an attack; {silent} of {len(rows)} applications raise none. Most:",
        table(["application", "flows", "alerts", "called an attack"], worst),
    ]


def _attack(bundle: Bundle, capture: RealCapture) -> list[str]:
    top, alert = _asked(bundle, capture)
    classes = bundle.schema.classes
    known = capture.label in classes and len(top) > 0
    right = f"{np.mean(top == classes.index(capture.label)):.2f}" if known else "-"
    shares = [f"{np.mean(top > 0):.2f}", f"{alert.mean():.2f}"] if len(top) else ["-", "-"]
    name = Path(capture.name).stem
    return [name, capture.part, capture.label or "not labelled", f"{len(top)}", right, *shares]


if __name__ == "__main__":
    raise SystemExit(main())
