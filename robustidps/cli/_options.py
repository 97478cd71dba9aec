"""Options and arguments that several commands take, and how their values are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustidps.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Reason = Annotated[str, typer.Option("--reason", help="kept in the ledger")]
Until = Annotated[
    str | None, typer.Option("--until", help="when it ends by itself, e.g. 2026-12-31 or 2026-12-31T18:00")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="a public data set's folder, archive or file")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="schema file of a table of yours (docs/data.md)")]
RuleSetName = Annotated[str | None, typer.Option("--rules", help="rule set in configs/promotion")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="CSV of what the traffic is: by flow, or by capture (docs/data.md)")
]
Label = Annotated[str | None, typer.Option("--label", help="the class of the whole capture")]
LabelWords = Annotated[Path | None, typer.Option("--label-words", help="YAML: class to the words that stand for it")]
LabelsTimezone = Annotated[
    str, typer.Option("--labels-timezone", help="of label times without one: UTC, -03:00 or America/Halifax")
]
LabelsShift = Annotated[
    float, typer.Option("--labels-shift", help="hours added to all label times, for a clock that was wrong")
]
LabelsTolerance = Annotated[
    float, typer.Option("--labels-tolerance", help="seconds that a flow may begin outside a label's time")
]
EvadedFile = Annotated[
    Path | None,
    typer.Option("--evaded", help="attacks altered to evade (`data evade`); default: those recorded with the version"),
]
Truncated = Annotated[
    Literal["refuse", "use"],
    typer.Option("--truncated", help="a capture that is cut off: refuse it, or use its whole part"),
]
Name = Annotated[str, typer.Argument(help="registered model")]
NewVersion = Annotated[str | None, typer.Option("--version", help="semantic version; default: the next minor one")]
Breaking = Annotated[bool, typer.Option("--breaking", help="take the next major number")]
Description = Annotated[str, typer.Option(help="a sentence that is kept with the version")]
Split = Annotated[
    Literal["temporal", "official", "captures", "shuffled"] | None,
    typer.Option(help="how traffic is held out; default: the data set's way"),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option("--hold-out", help="not trained on: tool=NAME, service=NAME or day=YYYY-MM-DD; may be repeated"),
]
PromoteTo = Annotated[
    Literal["Staging", "Production"] | None, typer.Option(help="ask the rules for this stage afterwards")
]


def overrides_of(pairs: list[str]) -> dict[str, Any]:
    """`--set key=value` options as a mapping; values are read as YAML, so that 3 is a number and true a truth."""
    from robustidps.settings import parse_yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{pair!r} is not of the form key=value", where="--set")
        found[key.strip()] = parse_yaml(value, f"--set {key.strip()}")
    return found


def overrides_by_family(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """`--set FAMILY.key=value` options as a mapping for each family."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in overrides_of(pairs).items():
        family, dot, key = name.partition(".")
        if not dot or not family or not key:
            raise ConfigError(f"{name!r} names no family", where="--set", remedy="write it as FAMILY.key=value")
        found.setdefault(family, {})[key] = value
    return found


def beside(capture: Path, out: Path | None, labels: Path | None) -> Path:
    """Where the flows of a capture, or of a folder of them, go; never over what they are made from."""
    from robustidps.settings import exists
    from robustidps.traffic.capture import CAPTURE_SUFFIXES

    folder = exists(capture) and capture.is_dir()
    whole = Path(os.path.realpath(capture)) if folder else capture
    target = out or whole.parent / f"{whole.name if folder else whole.stem}.parquet"
    for what, path in (("the capture itself", capture), ("the label file", labels)):
        if path and os.path.realpath(target) == os.path.realpath(path):
            raise ConfigError(f"is {what}", where=f"--out {target}", remedy="name another file")
    if folder and target.suffix.lower() in CAPTURE_SUFFIXES:
        raise ConfigError("ends as a capture does", where=f"--out {target}", remedy="end it in .parquet")
    return target
