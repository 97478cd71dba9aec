"""Commands about this installation."""

from __future__ import annotations

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings
from robustidps.cli._options import Json


@app.command(rich_help_panel="Installation")
def doctor(as_json: Json = False) -> None:
    """What is installed, reachable and writable, and what to do about the rest. Exit code 6 if something fails."""
    from dataclasses import asdict

    from robustidps.doctor import examine

    findings = list(examine(current_settings()))
    if as_json:
        console.emit_json([asdict(f) for f in findings])
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in findings:
            console.line(f"{f.status:<4}  {f.what}", f.text + (f": {f.remedy}" if f.remedy else ""), colours[f.status])
    if any(f.status == "fail" for f in findings):
        raise typer.Exit(6)
