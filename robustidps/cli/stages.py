"""Commands about stages: promote, roll back, and what was decided."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry
from robustidps.cli._options import EvadedFile, Json, Name, Reason, RuleSetName
from robustidps.errors import RefusedError, RobustIDPSError

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry


@app.command(rich_help_panel="Stages")
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="the version to move")],
    to: Annotated[Literal["Staging", "Production"], typer.Option("--to", help="how far")] = "Production",
    rules: RuleSetName = None,
    on: Annotated[Path | None, typer.Option("--on", help="labelled traffic (Parquet) to judge on")] = None,
    evaded: EvadedFile = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Ask the rules whether a version may move up, and move it if it may. Exit code 4 when it may not."""
    from robustidps.judging import promote as move
    from robustidps.pages import show_outcomes
    from robustidps.progress import current
    from robustidps.traffic.trafficset import TrafficSet

    with console.bars(not as_json):
        held_out = TrafficSet.read(on) if on else None
        altered = TrafficSet.read(evaded) if evaded else None
        outcomes = move(
            open_registry(),
            name,
            version,
            to,
            rules=rules,
            held_out=held_out,
            evaded=altered,
            reason=reason,
            progress=current(),
        )
    console.emit_json([o.as_dict() for o in outcomes]) if as_json else show_outcomes(name, version, outcomes)
    if not outcomes[-1].moved:
        raise typer.Exit(RefusedError.exit_code)


@app.command(rich_help_panel="Stages")
def rollback(name: Name, reason: Reason = "", as_json: Json = False) -> None:
    """Put the retained previous version back into production. One commit, offline; then MLflow's aliases follow."""
    registry = open_registry()
    decision = registry.rollback(name, reason=reason)
    if as_json:
        console.emit_json(decision.as_dict())
    else:
        console.line(name, f"{decision.from_version} -> {decision.version} (Production)", "green")
    sys.stdout.flush()
    _let_mlflow_follow(registry, name)


def _let_mlflow_follow(registry: ModelRegistry, name: str) -> None:
    """Brings MLflow's picture in line with a move that stands already: whatever hinders it is a remark, no failure."""
    from importlib.util import find_spec

    if find_spec("mlflow") is None:
        return
    try:
        registry.ensure_projected(name)
    except (RobustIDPSError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        console.remark(f"the rollback stands; MLflow's aliases follow later (robustidps registry repair): {why}")


@app.command(rich_help_panel="Stages")
def history(
    name: Annotated[str | None, typer.Argument(help="one model; default: all")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="check hashes and signatures of the whole ledger")] = False,
    as_json: Json = False,
) -> None:
    """What was decided about a model, when, by whom and why; `--verify` finds any edit."""
    from robustidps import pages

    registry = open_registry()
    if verify:
        report = registry.verify(name)
        console.emit_json(report.as_dict()) if as_json else console.line("ledger", str(report), "green")
        return
    content = pages.history(registry, name)
    console.emit_json(content.rows) if as_json else content.show()
