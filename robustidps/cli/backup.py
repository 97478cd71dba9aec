"""Commands that save an installation and restore it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, given, open_registry
from robustidps.cli._options import Json


@app.command(rich_help_panel="Installation")
def backup(
    target: Annotated[Path, typer.Argument(help="the archive to be made, .tar.gz; or a folder for one")],
    with_key: Annotated[
        bool, typer.Option("--with-key", help="the private signing key too: who has the file can then sign decisions")
    ] = False,
    as_json: Json = False,
) -> None:
    """Save state, ledger, MLflow's database and artefacts, held-out traffic and configurations in one file."""
    from robustidps.backup import save
    from robustidps.progress import current

    with console.bars(not as_json):
        saved = save(open_registry(), target, with_key=with_key, progress=current())
    manifest = saved.manifest
    if as_json:
        plain = manifest.model_dump(exclude={"files"}) | {"path": str(saved.path), "left_out": list(saved.left_out)}
        console.emit_json(plain)
        return
    for text in (*manifest.missing, *saved.left_out):
        console.line("not saved", text, "yellow")
    size = saved.path.stat().st_size / 2**20
    console.line("saved", f"{saved.path}, {len(manifest.files)} files, {size:.1f} MiB", "green")
    console.line("signed by", manifest.key_id)
    if with_key:
        console.remark("the archive holds the private key: keep it as you would keep that")


@app.command(rich_help_panel="Installation")
def restore(
    archive: Annotated[Path, typer.Argument(help="what robustidps backup made")],
    to: Annotated[
        Path | None, typer.Option("--to", help="home folder of the new installation; default: --home")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="the key that it must be signed by (backup prints it)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty installation: this home, or the databases and bucket that the settings name."""
    from robustidps.backup import restore as into
    from robustidps.progress import current

    if to is not None:
        given["home"] = to
    with console.bars(not as_json):
        done = into(archive, current_settings(), key_id=key, progress=current())
    manifest = done.manifest
    if as_json:
        console.emit_json(manifest.model_dump(exclude={"files"}) | {"finished": done.finished})
        return
    for text in manifest.missing:
        console.line("was not saved", text, "yellow")
    models = ", ".join(f"{name} ({count})" for name, count in sorted(manifest.models.items()))
    what = "an interrupted restore was completed" if done.finished else f"the backup of {manifest.made_at}"
    console.line("restored", f"{what}: {models}", "green")
    if not manifest.private_key:
        console.remark("this installation signs with a key of its own; the former one counts up to the backup's end")
