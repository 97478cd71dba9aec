"""The application that commands join, its global options, and what each command works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustidps import __version__, console

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry
    from robustidps.settings import Settings

app = typer.Typer(
    name="robustidps",
    help="Keeps intrusion-detection models fresh and safe: train, judge, promote by rules, serve, roll back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets and captures: list, fetch, describe, simulate.")
export_app = typer.Typer(no_args_is_help=True, help="Registered models for other hardware.")
registry_app = typer.Typer(no_args_is_help=True, help="The registry's upkeep.")
app.add_typer(export_app, name="export", rich_help_panel="Models")
app.add_typer(data_app, name="data", rich_help_panel="Traffic")
app.add_typer(registry_app, name="registry", rich_help_panel="Installation")


@app.callback()
def _options(
    home: Annotated[Path | None, typer.Option("--home", help="folder everything lies under (ROBUSTIDPS_HOME)")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks and logs")] = False,
    version: Annotated[bool, typer.Option("--version", help="print the version and end", is_eager=True)] = False,
) -> None:
    if version:
        console.out.print(f"robustidps {__version__}")
        raise typer.Exit
    given.update({k: v for k, v in {"home": home, "debug": debug or None}.items() if v is not None})
    if given:
        current_settings()  # in force before anything looks into HOME/configs


given: dict[str, Any] = {}
"""Settings given as options of the command line."""


def by_default(**settings: Any) -> None:
    """Settings of this command, where the command line gave none."""
    for key, value in settings.items():
        given.setdefault(key, value)


def current_settings() -> Settings:
    from robustidps.settings import configure

    return configure(**given)


def open_registry() -> ModelRegistry:
    from robustidps.registry.registry import ModelRegistry

    return ModelRegistry(settings=current_settings())


def ready_flows() -> None:
    """Readies Prefect before any flow is imported."""
    from robustidps.flows import embedded

    embedded(current_settings())
