"""Commands about this installation."""

from __future__ import annotations

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings
from robustidps.cli._options import Json
from robustidps.errors import RobustIDPSError


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


@app.command(rich_help_panel="Installation")
def ui() -> None:
    """Start the MLflow and Prefect pages on loopback and print their addresses; Ctrl-C ends both."""
    import time
    from contextlib import ExitStack

    from robustidps.progress import current
    from robustidps.servers import running

    with ExitStack() as stack:
        with console.bars():
            servers = stack.enter_context(running(current_settings(), progress=current()))
        for server in servers:
            console.line(server.name, server.url)
        console.remark("Ctrl-C ends both")
        try:
            while all(server.alive for server in servers):
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.remark("ending")
            return
        raise RobustIDPSError(f"{next(s.name for s in servers if not s.alive)} ended by itself", remedy="see HOME/logs")
