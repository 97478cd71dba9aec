"""Commands about stages: promote, roll back, and what was decided."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry
from robustidps.cli._options import EvadedFile, Json, Name, Reason, RuleSetName, Until
from robustidps.errors import ConfigError, RefusedError, RobustIDPSError

if TYPE_CHECKING:
    from robustidps.registry.ledger import Decision
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
    override: Annotated[
        bool, typer.Option("--override", help="whatever the rules say; needs --reason and --until, and pins it")
    ] = False,
    until: Until = None,
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
        if override:
            facts: dict[str, Any] = {"rules": rules, "held_out": held_out, "evaded": altered, "progress": current()}
            decision = _override(name, version, to, reason, until, facts)
        elif until:
            raise ConfigError("is for --override", where="--until")
        outcomes = (
            []
            if override
            else move(
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
        )
    if override:
        _show_override(decision, as_json)
        return
    console.emit_json([o.as_dict() for o in outcomes]) if as_json else show_outcomes(name, version, outcomes)
    if not outcomes[-1].moved:
        raise typer.Exit(RefusedError.exit_code)


def _override(name: str, version: str, to: str, reason: str, until: str | None, facts: dict[str, Any]) -> Decision:
    from robustidps.overriding import override
    from robustidps.registry.holds import parse_until

    if not reason or not until:
        raise ConfigError("needs a reason and an end", where="--override", remedy="--reason TEXT --until 2026-12-31")
    return override(open_registry(), name, version, to, reason=reason, until=parse_until(until), **facts)


def _show_override(decision: Decision, as_json: bool) -> None:
    if as_json:
        console.emit_json(decision.as_dict())
        return
    facts = decision.evidence["override"]
    console.line(
        "override", f"{decision.model} {decision.version} -> {decision.to_stage}, by {decision.actor}", "yellow"
    )
    console.line("the rules", f"{facts['verdict']}: {'; '.join(facts['reasons'])}", "yellow")
    if decision.to_stage == "Production":
        console.line("pinned", f"until {facts['until']}; robustidps thaw {decision.model} --reason .. ends it earlier")


@app.command(rich_help_panel="Stages")
def freeze(name: Name, reason: Reason, until: Until = None, as_json: Json = False) -> None:
    """Emergency stop: nothing of a model is promoted, by whatever way, until it is thawed. Rollback works."""
    from robustidps.registry.holds import parse_until

    registry = open_registry()
    decision = registry.freeze(name, reason=reason, until=parse_until(until) if until else None)
    console.emit_json(decision.as_dict()) if as_json else console.line(name, str(registry.frozen(name)), "yellow")


@app.command(rich_help_panel="Stages")
def thaw(name: Name, reason: Reason, as_json: Json = False) -> None:
    """End a freeze, or the pin of an override."""
    decision = open_registry().thaw(name, reason=reason)
    console.emit_json(decision.as_dict()) if as_json else console.line(name, "thawed", "green")


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
