"""Commands that take traffic in: captures to flows, flows to verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry
from robustidps.cli._options import (
    Json,
    Label,
    Labels,
    LabelsShift,
    LabelsTimezone,
    LabelsTolerance,
    LabelWords,
    Truncated,
    beside,
)
from robustidps.errors import ConfigError


@app.command(rich_help_panel="Traffic")
def ingest(
    capture: Annotated[Path, typer.Argument(help="a .pcap or .pcapng file; with --labels also a folder of them")],
    out: Annotated[Path | None, typer.Option("--out", help="Parquet file; default: beside the capture")] = None,
    truncated: Truncated = "refuse",
    labels: Labels = None,
    label: Label = None,
    unmatched: Annotated[
        Literal["unlabelled", "benign"], typer.Option("--unmatched", help="what flows without a label are")
    ] = "unlabelled",
    max_unmatched: Annotated[
        float, typer.Option("--max-unmatched", help="error when a larger share of the labels meets no flow, or clashes")
    ] = 0.5,
    label_words: LabelWords = None,
    labels_timezone: LabelsTimezone = "UTC",
    labels_shift: LabelsShift = 0.0,
    labels_tolerance: LabelsTolerance = 1.0,
    max_bytes: Annotated[int | None, typer.Option(help="refuse a larger capture")] = None,
    max_flows: Annotated[int | None, typer.Option(help="end after this many flows")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="end extraction after this time")] = None,
    max_memory: Annotated[int | None, typer.Option(help="bytes of memory that extraction may use")] = None,
    as_json: Json = False,
) -> None:
    """Turn a packet capture, or a folder of labelled ones, into flows (Parquet, schema flow64)."""
    from robustidps.progress import current
    from robustidps.settings import exists
    from robustidps.traffic.capture import Limits
    from robustidps.traffic.capture import ingest as read
    from robustidps.traffic.labelling import LabelOptions, labelled_capture, labelled_captures

    chosen: dict[str, Any] = {
        "bytes": max_bytes,
        "flows": max_flows,
        "seconds": max_seconds,
        "memory_bytes": max_memory,
    }
    limits = Limits(**{k: v for k, v in chosen.items() if v is not None})
    options = LabelOptions(
        label_words, unmatched, max_unmatched, labels_timezone, labels_shift * 3600.0, labels_tolerance
    )
    if labels is None and options != LabelOptions(words=label_words if label is not None else None):
        raise ConfigError("options about labels were given, and no label file", remedy="name it with --labels FILE")
    if labels and label is not None:
        raise ConfigError("--label and --labels exclude each other", remedy="give one of them")
    target = beside(capture, out, labels)
    how: dict[str, Any] = {"limits": limits, "truncated": truncated}
    report = None
    with console.bars(not as_json):
        how["progress"] = current()
        if labels and exists(capture) and capture.is_dir():
            traffic, report = labelled_captures(capture, labels, options=options, **how)
        elif labels or label is not None:
            traffic, report = labelled_capture(capture, labels, label=label, options=options, **how)
        else:
            traffic = read(capture, **how)
        traffic.write(target)
    facts = {"flows": len(traffic), "file": str(target), "digest": traffic.digest}
    if as_json:
        found = {"labels": report.to_dict(), "captures": traffic.provenance["captures"]} if report else {}
        console.emit_json(facts | (found or {"capture": traffic.provenance}))
        return
    console.line(capture.name, f"{len(traffic):,} flows -> {target}")
    for text in report.lines() if report else ():
        console.remark(text)


@app.command(rich_help_panel="Traffic")
def score(
    traffic: Annotated[Path, typer.Argument(help="a capture, or a Parquet file from `ingest`")],
    model: Annotated[str, typer.Option("--model", help="NAME or NAME@VERSION")] = "neural_ode@production",
    out: Annotated[Path | None, typer.Option("--out", help="a row per flow, as .parquet or .csv")] = None,
    truncated: Truncated = "refuse",
    as_json: Json = False,
) -> None:
    """Score a capture or flows with the production model."""
    from robustidps import pages
    from robustidps.comparing import resolve
    from robustidps.progress import current
    from robustidps.scoring import read_traffic
    from robustidps.scoring import score as judge_flows

    bundle = resolve(open_registry(), model)
    with console.bars(not as_json):
        flows = read_traffic(traffic, truncated=truncated, progress=current())
        scores = judge_flows(bundle, flows)
        if out:
            scores.write(out)
    meta = bundle.metadata
    facts = {"model": meta.name, "version": meta.version, "flows": len(flows), "verdicts": scores.counts()}
    if as_json:
        console.emit_json(facts | {"file": str(out) if out else None})
    else:
        console.line(f"{meta.name} {meta.version}", pages.verdict_line(scores))
        if out:
            console.remark(f"a row per flow: {out}")
