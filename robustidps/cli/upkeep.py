"""`robustidps gc`: takes away what nobody needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry
from robustidps.cli._options import Json
from robustidps.errors import UnavailableError


@app.command(rich_help_panel="Installation")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and take nothing away")] = False,
    as_json: Json = False,
) -> None:
    """Take away leftovers of work that was cut off, and old bundles, runs, traffic and reports that nothing needs.

    Never what is in use, or what a rollback would go to. How old is old: configs/retention.yaml (docs/retention.md).
    """
    from robustidps.retention import collect

    with console.bars(not as_json):
        done = collect(open_registry(), dry_run=dry_run)
    if as_json:
        console.emit_json(done.as_dict())
    else:
        if done.items:
            rows = [(item.kind, item.what, _size(item.bytes), item.why) for item in done.items]
            console.table("", ("kind", "what", "size", "why"), rows, right=("size",))
        verb = "would be freed" if dry_run else "freed"
        console.line("gc", f"{len(done.items)} things, {_size(done.bytes)} {verb}", "green")
        for problem in done.problems:
            console.remark(f"not looked at: {problem}")
    if done.problems:
        raise typer.Exit(UnavailableError.exit_code)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
