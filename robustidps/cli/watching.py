"""`robustidps watch`: the service that notices what people change in MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry


@app.command(rich_help_panel="Stages")
def watch(
    every: Annotated[
        float | None, typer.Option("--every", min=0.2, max=3600, help="seconds between two looks; default: watch_every")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="address to listen at")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="default: the setting watch_port")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="where MLflow reaches this service, if it isn't on this machine")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="look once, print what was answered, and end")] = False,
) -> None:
    """Answer what people change in MLflow: by webhook at once, and by looking every few seconds. Ctrl-C ends it."""
    import logging
    import sys

    from robustidps.registry.reconciler import reconcile
    from robustidps.watch.service import Watcher, serve, webhook_url

    registry = open_registry()
    settings = registry.settings
    if once:
        for finding in reconcile(registry):
            colours = {"kept": "green", "put back": "yellow", "lost": "red", "failed": "red"}
            colour = colours.get(finding.outcome.removesuffix(" again"), "")
            console.line(finding.model, str(finding), colour)
        return
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("robustidps").setLevel(logging.INFO)
    at = port or settings.watch_port
    target = webhook_url(settings.tracking_uri, host, at, url)
    watcher = Watcher(registry, every or settings.watch_every, target)
    console.line("watching", f"{registry.tracking.where}, every {watcher.interval_s:g} s")
    console.line("health", f"http://{host}:{at}/health")
    serve(watcher, host, at)
