"""Judges a registered version and moves it, or records the refusal; the analysts' entry in the Prefect UI.

Where nothing is missing but a person's approval the run pauses, and Prefect's UI shows the evidence with a form. The
open-source server doesn't know who fills it in: it has one password for all, or none. So by default the form can
refuse, and approving is for the command line (`robustidps approve`), which wakes the run. The setting
`approval_by_prefect_form` names the people who alone hold that password; then the form can approve too, in their name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from prefect import flow
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from pydantic import Field

from robustidps import approving
from robustidps.errors import ConflictError, RefusedError, UnavailableError
from robustidps.flows.forms import RuleSetName
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, get_settings
from robustidps.tasks.registry import promote_version

__all__ = ["promote", "wake"]

LOOK_AGAIN = "look again"
POLL_S = 5
SOURCE = "prefect-form"


class Refusable(RunInput):
    """The form where it isn't known who fills it in."""

    decision: Literal["look again", "refuse"] = Field(
        description="to approve: robustidps approve, with the id above; then this run goes on by itself"
    )
    reason: str = Field(default="", max_length=1000, description="why; kept in the ledger")


class Answerable(RunInput):
    """The form where its password names the people who have it."""

    decision: Literal["look again", "refuse", "approve"]
    reason: str = Field(default="", max_length=1000, description="why; kept in the ledger")


@flow(name="promote", persist_result=True, result_serializer="json", validate_parameters=True)
def promote(
    name: str, version: str, stage: Literal["Staging", "Production"] = "Production", rules: RuleSetName | None = None
) -> list[dict[str, Any]]:
    """Asks the rules for each stage up to `stage`. A refusal is a result: the last outcome has `moved: false`.

    Where the rules ask for a person, the run pauses until one has answered or the time is over.

    Args:
        name: Registered model.
        version: The version to move.
        stage: How far.
        rules: Rule set in configs/promotion; default is the version's own.
    """
    outcomes: list[dict[str, Any]] = promote_version(name, version, stage, rules)
    if outcomes[-1]["approval"] is None:
        return outcomes
    registry = ModelRegistry(settings=get_settings())
    request = approving.find(registry, outcomes[-1]["approval"]["id"])
    approving.attach(registry, request, str(flow_run.id))
    if _answered(registry, request).status == "approved":
        outcomes = outcomes[:-1] + promote_version(name, version, stage, rules)
    return outcomes


def _answered(registry: ModelRegistry, request: approving.Request) -> approving.Request:
    """Pauses until the request is answered, here or on the command line, or has lapsed."""
    people = form_people(registry.settings)
    note = ""
    while request.status == "waiting":
        left = int((request.expires_at - datetime.now(UTC)).total_seconds()) + 1
        try:
            said: Any = pause_flow_run(
                wait_for_input=_form(registry, request, people, note), timeout=max(left, 1), poll_interval=POLL_S
            )
        except FlowPauseTimeout:
            approving.settle(registry, request.model)
            return approving.find(registry, request.id)
        note = _taken(registry, request, said, people)
        approving.settle(registry, request.model)
        request = approving.find(registry, request.id)
    return request


def _form(registry: ModelRegistry, request: approving.Request, people: tuple[str, ...], note: str) -> type[RunInput]:
    text = approving.markdown(request, approving.links(registry, request))
    text += f"\nAt a terminal: `robustidps approve {request.id} --reason '...'`, or `refuse`; this run notices.\n"
    if people:
        text += f"\nAn answer in this form is taken as one of {', '.join(people)}.\n"
    text = f"**{note}**\n\n{text}" if note else text
    return (Answerable if people else Refusable).with_initial_data(description=text)


def _taken(registry: ModelRegistry, request: approving.Request, said: Any, people: tuple[str, ...]) -> str:
    """Puts the form's answer on record; gives what the next form has to say, if it wasn't taken."""
    if said.decision == LOOK_AGAIN:
        return ""
    approve = said.decision == "approve"
    if not said.reason.strip():
        return "Not taken: an answer needs a reason."
    who: dict[str, Any] = {"actor": "somebody at Prefect's form", "actor_source": "unverified"}
    if people:
        who = {"actor": " or ".join(people), "actor_source": SOURCE, "one_of": people}
    try:
        approving.answer(registry, request, approve, reason=said.reason, **who)
    except (RefusedError, ConflictError) as error:
        return f"Not taken: {error}"
    return ""


def form_people(settings: Settings) -> tuple[str, ...]:
    """Who may have filled in the form: those that the setting names, if the server lets in nobody without the password.
    Empty where that isn't sure."""
    if not settings.approval_by_prefect_form or not PREFECT_API_AUTH_STRING.value():
        return ()
    address = PREFECT_API_URL.value()
    if not address:
        return ()
    import httpx

    try:
        without = httpx.get(f"{address}/admin/version", timeout=10)
    except httpx.HTTPError:
        return ()
    return settings.approval_by_prefect_form if without.status_code in (401, 403) else ()


def wake(flow_run_id: str) -> None:
    """Lets a run that is paused for an approval look again. Raises UnavailableError."""
    import httpx

    try:
        resume_flow_run(UUID(flow_run_id), run_input={"decision": LOOK_AGAIN})
    except NotPausedError:
        raise UnavailableError("it isn't paused any more", where=f"Prefect run {flow_run_id}") from None
    except (ObjectNotFound, FlowPauseTimeout, RuntimeError, httpx.HTTPError) as error:
        raise UnavailableError(f"Prefect: {error}", where=f"Prefect run {flow_run_id}") from None
