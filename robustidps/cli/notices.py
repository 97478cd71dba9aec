"""`robustidps notify`: sends people what was decided."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry
from robustidps.cli._options import Json
from robustidps.errors import ConfigError, RobustIDPSError, UnavailableError


@app.command(rich_help_panel="Installation")
def notify(
    test: Annotated[bool, typer.Option("--test", help="send a message of no consequence through each channel")] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="go on, and look for something new every so many seconds")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell people of refusals, rollbacks, alarms, withdrawals and approvals that are wanted, by webhook and mail.

    Sends each channel what it hasn't had yet. Exit code 6 where one failed; it gets the rest next time.
    """
    from robustidps import approving, notifying

    registry = open_registry()
    through = notifying.channels(registry.settings)
    if not through:
        raise ConfigError("no channel is set", where="notify_*", remedy="docs/notifications.md")
    if test:
        done = notifying.try_out(through)
    else:
        done = notifying.Delivered({}, {})
        while True:
            try:
                approving.settle(registry)
                done = notifying.deliver(registry, through=through, patient=every is not None)
            except RobustIDPSError as error:
                if every is None or not isinstance(error, UnavailableError):
                    raise
                console.remark(str(error))  # the state store may come back
            if every is None:
                break
            for name, count in done.sent.items():
                if count:
                    console.remark(f"{name}: {count} sent")
            time.sleep(every)
    if as_json:
        console.emit_json(done.as_dict())
    else:
        for channel in through:
            if channel.name in done.failed:
                console.line(channel.name, done.failed[channel.name], "red")
            elif channel.name in done.sent:
                console.line(channel.name, f"{done.sent[channel.name]} sent ({channel.where})", "green")
            else:
                console.line(channel.name, "another process is at it")
    if done.failed:
        raise typer.Exit(UnavailableError.exit_code)
