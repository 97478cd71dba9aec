"""Commands for signed updates: trust a registry, see what is on offer, take it; what it is judged on."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, open_registry, ready_flows
from robustidps.cli._options import Json, Name, RuleSetName
from robustidps.errors import ConflictError, InputError, RefusedError, UnavailableError
from robustidps.progress import current

if TYPE_CHECKING:
    from robustidps.updates.offers import Update

updates_app = typer.Typer(
    no_args_is_help=True, help="Signed updates: trust a registry, look what is on offer, take it (docs/updates.md)."
)
app.add_typer(updates_app, name="updates", rich_help_panel="Updates")

Models = Annotated[list[str] | None, typer.Argument(help="registered models; default: all")]
_COLOURS = {"activated": "green", "staged": "yellow", "available": "yellow", "held": "yellow", "refused": "red"}


@updates_app.command()
def trust(
    root: Annotated[Path | None, typer.Argument(help="the registry's root.json, which came another way")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="what the publisher says its fingerprint is; another one is refused")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="take it in place of the root that is pinned")] = False,
    forget_time: Annotated[
        bool, typer.Option("--forget-time", help="forget the last trusted time, after a clock that was ahead")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pin the root that all updates are verified against; without a file, show which is pinned."""
    from robustidps.updates.client import ROOT_BYTES, RemoteRegistry

    settings = current_settings()
    remote = RemoteRegistry(settings.home, settings.remote_registry_url)
    if forget_time:
        remote.forget_time()
    if root is not None:
        try:
            with root.open("rb") as file:
                content = file.read(ROOT_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"can't be read: {error.strerror}", where=root, remedy="name the root.json that the publisher gave you"
            ) from None
        remote.trust(content, fingerprint=fingerprint, replace=replace, where=root)
    pinned = remote.fingerprint(fingerprint)
    if as_json:
        console.emit_json({"fingerprint": pinned, "mirrors": list(settings.remote_registry_url)})
        return
    console.line("pinned root", pinned)
    console.remark("compare it with what the publisher tells you another way")


@updates_app.command("check")
def check_(
    models: Models = None,
    all_: Annotated[bool, typer.Option("--all", help="every version on offer, and why it is left alone")] = False,
    as_json: Json = False,
) -> None:
    """Which updates are on offer. Downloads no model."""
    from robustidps.updates import installing, offers

    registry = open_registry()
    remote = installing.open_remote(registry.settings)
    with console.bars(not as_json):
        look = offers.survey if all_ else offers.check
        found = look(registry, remote, models or None, progress=current())
    if as_json:
        console.emit_json([update.as_dict() for update in found])
        return
    for update in found:
        _show(update)
    if not found:
        console.remark("nothing newer than what is here")


def _show(update: Update) -> None:
    if update.why_not is not None:
        console.line(f"{update.name} {update.new_version}", update.why_not)
        return
    console.line(str(update), "waits in Staging" if update.waiting else "", "yellow" if update.waiting else "green")


@updates_app.command()
def install(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="default: the newest that nothing speaks against")] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="go on to Production, if the rules let it; else it waits in Staging")
    ] = False,
    rules: RuleSetName = None,
    as_json: Json = False,
) -> None:
    """Download a version, verify it, measure it here, and put it into Staging. Exit code 4 when the rules say no."""
    from robustidps.updates import installing, offers

    registry = open_registry()
    remote = installing.open_remote(registry.settings)
    with console.bars(not as_json):
        if version is None:
            newest = offers.check(registry, remote, [name], progress=current())
            if not newest:
                raise ConflictError("nothing newer is on offer", where=name, remedy="robustidps updates check --all")
            version = newest[0].new_version
        outcome = installing.install(
            registry, remote, name, version, auto_activate=activate, rules=rules, progress=current()
        )
    if as_json:
        console.emit_json(outcome.as_dict())
        return
    _tell(outcome.as_dict())


@updates_app.command()
def run(models: Models = None, rules: RuleSetName = None, as_json: Json = False) -> None:
    """One round of the updater, without Prefect unless its server is up. Exit code 4 when something was refused."""
    from robustidps.system.record import address_of
    from robustidps.updates import installing

    registry = open_registry()
    remote = installing.open_remote(registry.settings)
    found: list[dict[str, Any]]
    with console.bars(not as_json):
        if os.environ.get("PREFECT_API_URL") or address_of(registry.settings, "prefect"):
            ready_flows()  # its page shows what the command line starts
            from robustidps.flows.auto_update import auto_update

            found = list(auto_update(models=models or None, rules=rules).values())
        else:
            outcomes = installing.run(registry, remote, models or None, rules=rules, progress=current())
            found = [outcome.as_dict() for outcome in outcomes]
    if as_json:
        console.emit_json({outcome["name"]: outcome for outcome in found})
    else:
        for outcome in found:
            _tell(outcome)
        if not found:
            console.remark("no model is registered")
    if any(outcome["outcome"] == "refused" for outcome in found):
        raise typer.Exit(RefusedError.exit_code)
    if any(outcome["outcome"] == "failed" for outcome in found):
        raise typer.Exit(UnavailableError.exit_code)


def _tell(outcome: dict[str, Any]) -> None:
    kind = outcome["outcome"]
    about = outcome["name"] if outcome["version"] is None else f"{outcome['name']} {outcome['version']}"
    said = {"none": "nothing newer is on offer", "activated": "is in Production", "staged": "is in Staging"}
    here = f", {outcome['measured']} accuracy as measured here" if outcome["measured"] else ""
    console.line(about, said.get(kind, kind) + here, _COLOURS.get(kind, ""))
    for reason in outcome["reasons"]:
        console.line("", reason)


@updates_app.command()
def pin(
    name: Name,
    traffic: Annotated[Path, typer.Argument(help="labelled flows (Parquet, as `robustidps data` writes them)")],
    evaded: Annotated[Path | None, typer.Option("--evaded", help="attacks altered to evade (`data evade`)")] = None,
    dataset: Annotated[str | None, typer.Option(help="what to call it in reports")] = None,
    as_json: Json = False,
) -> None:
    """Pin labelled traffic of yours: what updates of a model are measured on."""
    from robustidps.updates import evidence

    pinned = evidence.pin(open_registry(), name, traffic, evaded=evaded, dataset=dataset)
    if as_json:
        console.emit_json(asdict(pinned))
    else:
        console.line(name, f"updates are measured on {pinned.dataset}: {pinned.rows:,} flows, {pinned.digest[:12]}")


@updates_app.command()
def unpin(name: Name, as_json: Json = False) -> None:
    """Let updates of a model be measured on what the version in production was judged on, as if nothing were pinned."""
    from robustidps.updates import evidence

    was_pinned = evidence.unpin(open_registry(), name)
    if as_json:
        console.emit_json({"model": name, "was_pinned": was_pinned})
    else:
        console.line(name, "nothing is pinned any more" if was_pinned else "nothing was pinned")
