"""The command that a newcomer runs first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, by_default, current_settings, ready_flows
from robustidps.cli._options import Json
from robustidps.errors import ConfigError, RobustIDPSError

DEMO_MARKER = ".robustidps-demo"


@app.command(rich_help_panel="Start here")
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="go on in an earlier demo's folder instead of beginning anew")
    ] = False,
    as_json: Json = False,
) -> None:
    """The main job, end to end, on simulated traffic: train, judge, promote, refuse, score. Under five minutes."""
    around = Path(os.environ.get("ROBUSTIDPS_HOME", ".robustidps"))
    by_default(home=around if (around / DEMO_MARKER).exists() else around / "demo")
    _begin_anew(current_settings().home, keep)
    ready_flows()
    from robustidps.flows.demo import demo as flow

    with console.bars(not as_json):
        summary = flow(quiet=as_json)
    if as_json:
        console.emit_json(summary)
    if summary["production"] is None or summary["refused"] is None:
        raise RobustIDPSError("the demo didn't end as it should", remedy="see what was refused above")


def _begin_anew(home: Path, keep: bool) -> None:
    """Removes an earlier demo's home; it is recognised by a marker, so that no other folder is ever removed."""
    import shutil

    from robustidps.settings import writable

    marker = home / DEMO_MARKER
    if home.exists() and any(home.iterdir()):
        if not marker.exists():
            raise ConfigError("holds something that no demo made", where=home, remedy="name another folder with --home")
        if keep:
            return
        with writable(home):
            shutil.rmtree(home)
    with writable(home):
        home.mkdir(parents=True, exist_ok=True)
        marker.write_text("made by `robustidps demo`, which removes this folder when it begins anew\n")
