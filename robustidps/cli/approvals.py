"""Commands for the person before a stage: what waits for one, approve, refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustidps import console
from robustidps.cli._app import app, open_registry, ready_flows
from robustidps.cli._options import Json
from robustidps.errors import RobustIDPSError

if TYPE_CHECKING:
    from robustidps.approving import Request

Wanted = Annotated[str, typer.Argument(metavar="RUN_OR_ID", help="the request's id, or the paused Prefect run's")]
Why = Annotated[str, typer.Option("--reason", help="why; kept in the ledger")]


@app.command(rich_help_panel="Stages")
def approvals(
    show: Annotated[str | None, typer.Argument(metavar="[RUN_OR_ID]", help="show this one, with its evidence")] = None,
    as_json: Json = False,
) -> None:
    """The requests that wait for a person; with an id, what that person decides on."""
    from robustidps import approving

    registry = open_registry()
    approving.settle(registry)
    if show is not None:
        request = approving.find(registry, show)
        if as_json:
            console.emit_json(request.as_dict())
        else:
            console.out.print(approving.markdown(request, approving.links(registry, request)), markup=False)
        return
    found = approving.waiting(registry)
    if as_json:
        console.emit_json([request.as_dict() for request in found])
        return
    if not found:
        console.remark("nothing waits for approval")
        return
    rows = [
        (r.id, r.model, r.version, r.stage, " / ".join(r.requested_by), f"{r.expires_at:%Y-%m-%d %H:%M}") for r in found
    ]
    console.table("", ("request", "model", "version", "to", "asked for by", "until (UTC)"), rows)


@app.command(rich_help_panel="Stages")
def approve(wanted: Wanted, reason: Why, as_json: Json = False) -> None:
    """Approve a request as the person at this terminal: somebody else than who asked. A paused run goes on."""
    _answer(wanted, True, reason, as_json)


@app.command(rich_help_panel="Stages")
def refuse(wanted: Wanted, reason: Why, as_json: Json = False) -> None:
    """Refuse a request. A paused run ends with the refusal."""
    _answer(wanted, False, reason, as_json)


def _answer(wanted: str, approved: bool, reason: str, as_json: bool) -> None:
    from robustidps import approving

    registry = open_registry()
    request = approving.answer(registry, approving.find(registry, wanted), approved, reason=reason)
    woken = _woken(request)
    if as_json:
        console.emit_json(request.as_dict() | {"run_woken": woken})
        return
    said = "approved" if approved else "refused"
    missing = request.people - len(request.approved_by)
    more = f"; {missing} more approval{'s' if missing > 1 else ''} wanted" if request.status == "waiting" else ""
    about = f"{request.model} {request.version}"
    console.line(about, f"{said} for {request.stage}{more}", "green" if approved else "red")
    if request.status == "approved" and not woken:
        console.remark(f"it moves with: robustidps promote {about} --to {request.stage} --rules {request.rule_set}")


def _woken(request: Request) -> bool:
    """Wakes the run that is paused for this; the answer stands whether that works or not."""
    if request.flow_run_id is None:
        return False
    ready_flows()
    from robustidps.flows.promote import wake

    try:
        wake(request.flow_run_id)
    except RobustIDPSError as error:
        console.remark(f"the answer stands, but the paused run was not woken: {error}")
        return False
    return True
