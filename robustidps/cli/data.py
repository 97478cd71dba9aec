"""`robustidps data`: data sets and captures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import data_app
from robustidps.cli._options import (
    Json,
    Label,
    Labels,
    LabelsShift,
    LabelsTimezone,
    LabelsTolerance,
    LabelWords,
    beside,
    overrides_of,
)
from robustidps.errors import ConfigError


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Data sets that can be named, and how each is split and judged."""
    from robustidps import pages

    content = pages.datasets()
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="a public data set; default: list them")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="folder; default: datasets/NAME in the home folder")] = None,
    as_json: Json = False,
) -> None:
    """Download a public data set from its authors, or say what to do where a form stands in between (exit code 6).

    An interrupted download goes on where it ended. Without a name: which sets can be downloaded, which need a form.
    """
    from robustidps import pages
    from robustidps.progress import current
    from robustidps.traffic.fetch import fetch

    if name is None:
        if to is not None:
            raise ConfigError("needs the name of a data set", where="--to", remedy="robustidps data fetch lists them")
        content = pages.fetchable()
        console.emit_json(content.rows) if as_json else content.show()
        return
    with console.bars(not as_json):
        fetched = fetch(name, to, progress=current())
    following = pages.next_commands(fetched)
    if as_json:
        console.emit_json(fetched.to_dict() | {"next": following})
    else:
        pages.show_fetched(fetched, following)


@data_app.command("describe")
def data_describe(
    path: Annotated[Path, typer.Argument(help="a capture, a Parquet file, or a data set's file, archive or folder")],
    as_json: Json = False,
) -> None:
    """What a file or folder is: capture, traffic set, or a release of a public data set."""
    from robustidps import pages

    with console.bars(not as_json):
        content = pages.describe(path)
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("evade")
def data_evade(
    capture: Annotated[Path, typer.Argument(help="a .pcap file of Ethernet frames with attacks in it")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file for the altered attacks' flows")],
    labels: Labels = None,
    label: Label = None,
    label_words: LabelWords = None,
    labels_timezone: LabelsTimezone = "UTC",
    labels_shift: LabelsShift = 0.0,
    labels_tolerance: LabelsTolerance = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn at random")] = 0,
    as_json: Json = False,
) -> None:
    """Alter a capture's attacks so that they evade, within what protocols allow (docs/evaluation.md#evasion)."""
    from robustidps import pages
    from robustidps.traffic.labelling import LabelOptions

    if (labels is None) == (label is None):
        raise ConfigError("nobody says what is an attack", remedy="give either --labels FILE or --label CLASS")
    beside(capture, out, labels)
    options = LabelOptions(
        label_words, timezone=labels_timezone, shift_s=labels_shift * 3600.0, tolerance_s=labels_tolerance
    )
    with console.bars(not as_json):
        content = pages.evade(capture, out, labels, label, options, seed)
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("simulate")
def data_simulate(
    out: Annotated[Path, typer.Argument(help="folder for the captures and the labels")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="a knob of the simulator: key=value")] = None,
    flows: Annotated[bool, typer.Option("--flows", help="extract labelled flows as well")] = False,
    as_json: Json = False,
) -> None:
    """Simulate labelled traffic as real pcap files (docs/simulator.md lists the knobs)."""
    from robustidps import pages

    with console.bars(not as_json):
        content = pages.simulate(out, overrides_of(settings or []), flows)
    console.emit_json(content.rows) if as_json else content.show()
