"""`robustidps export`: registered models for other hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import current_settings, export_app, ready_flows
from robustidps.cli._options import Json, Name
from robustidps.errors import RefusedError


@export_app.command("loihi")
def export_loihi(
    name: Name,
    version: Annotated[
        str | None, typer.Argument(help="a version, or `production`, `staging`, `latest`; default: the newest")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="held-out flows that are simulated")] = 2000,
    on: Annotated[
        Path | None, typer.Option("--on", help="labelled traffic (Parquet); default: what it was held out from")
    ] = None,
    calibrate_on: Annotated[
        Path | None,
        typer.Option("--calibrate-on", help="what it was trained on (Parquet); default: the file training left"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the report")] = None,
    alias: Annotated[
        bool, typer.Option("--alias", help="let it take the alias `loihi` if the report meets all requirements")
    ] = False,
    limit: Annotated[float, typer.Option("--limit", min=1, help="seconds after which a simulation is ended")] = 1800.0,
    as_json: Json = False,
) -> None:
    """Simulate a spiking model on Intel's Loihi: is it the same, what does it cost, does it fit? Needs `make loihi`."""
    from robustidps.loihi.runner import installed
    from robustidps.settings import check_name

    check_name(name)
    installed(current_settings())  # before anything slow
    ready_flows()
    from robustidps.flows.export_loihi import export_loihi as flow

    with console.bars(not as_json):
        result = flow(
            name=name,
            version=version,
            rows=rows,
            on=str(on.absolute()) if on else None,
            calibrate_on=str(calibrate_on.absolute()) if calibrate_on else None,
            out=str(out.absolute()) if out else None,
            alias=alias,
            limit_s=limit,
        )
    if as_json:
        console.emit_json(result)
    else:
        from robustidps.pages import show_loihi

        show_loihi(result)
    if result["alias"] is not None and result["alias"]["verdict"] != "promote":
        raise typer.Exit(RefusedError.exit_code)
