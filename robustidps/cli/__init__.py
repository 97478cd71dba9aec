"""The command line: parse, call the library or a flow, print. Nothing heavy is imported before a command needs it.

A module holds the commands of one panel of `robustidps --help`; importing it joins them to the application.

Exit codes: 0 done; 1 a defect of ours; 2 a wrong command line; 3 bad input; 4 the rules said no; 5 not what it claims
to be; 6 unavailable or missing; 7 somebody else was first; 130 interrupted; 128 + n ended by signal n.
"""

# ruff: noqa: I001 - the commands' modules are imported in the order of the help's panels

from __future__ import annotations

import os
import signal
import sys

from robustidps import console
from robustidps.cli._app import app
from robustidps.errors import RobustIDPSError
from robustidps.cli import start, models, export, stages, approvals, updates, publishing, monitoring  # noqa: F401
from robustidps.cli import watching, traffic, data, system, registry, backup, notices, upkeep, installation  # noqa: F401

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: runs the command line and turns our errors into one message and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # ended from outside: what was started ends too
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        app(standalone_mode=True)
    except RobustIDPSError as error:
        if "--debug" in sys.argv or os.environ.get("ROBUSTIDPS_DEBUG", "").lower() in ("1", "true"):
            raise
        console.fail(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        console.remark("interrupted")
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 130:  # typer has turned a Ctrl-C into this, and says nothing
            console.remark("interrupted")
        raise
