"""Takes signed updates: check -> download -> verify -> validate -> decide -> stage -> activate, all of it on record.

The steps of one model are one Prefect transaction under a lock: where one breaks, those before it are undone. Two runs
never overlap: a lock keeps them apart with or without a server, and on a server a concurrency limit of one for each
model does too. A run that was killed is undone or gone on from by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.settings import PREFECT_API_URL
from prefect.transactions import transaction

from robustidps.errors import ConflictError, UnavailableError
from robustidps.flows.forms import RuleSetName
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.updates import (
    activate_update,
    check_updates,
    download_update,
    stage_update,
    validate_update,
    verify_update,
)
from robustidps.updates import installing
from robustidps.updates.offers import Update, asked_about

__all__ = ["auto_update"]

ANSWER_S = 60
"""How long Prefect's server may take to say whether another run of the same model is at it."""


@flow(name="auto_update", persist_result=True, result_serializer="json", validate_parameters=True)
def auto_update(models: list[str] | None = None, rules: RuleSetName | None = None) -> dict[str, Any]:
    """Looks for signed updates and takes what the rules let in. A refusal is a result, not a failure.

    Without `remote_registry_url` there is nothing to do; with `enable_auto_update` off it only says what there is.

    Args:
        models: Registered models; default is all.
        rules: Rule set in configs/promotion; default is updates_rules of the settings, else auto_update.

    Returns:
        By model: `outcome`, `version`, `current`, `reasons`, `measured`.

    Raises:
        UpdateError: the remote registry can't be trusted. UnavailableError: it, or MLflow, doesn't answer.
        RobustIDPSError: something here is broken; of several models the first, once all had their turn.
    """
    settings = get_settings()
    registry = ModelRegistry(settings=settings)
    if not settings.remote_registry_url:
        get_run_logger().info("no remote_registry_url is set: there is nothing to look for")
        return {}
    installing.settle(registry)
    wanted = asked_about(registry, models)
    updates = [Update.of(content) for content in check_updates(wanted)]
    outcomes, failed = installing.each(registry, wanted, updates, lambda update: _take(registry, update, rules))
    for outcome in outcomes:
        about = f"{outcome.name} {outcome.version or ''}".strip()
        get_run_logger().info("%s: %s %s", about, outcome.outcome, "; ".join(outcome.reasons))
    if failed:
        raise failed[0]
    return {outcome.name: outcome.as_dict() for outcome in outcomes}


def _take(registry: ModelRegistry, update: Update, rules: str | None) -> installing.Outcome:
    content = update.as_dict()
    facts: dict[str, Any] = {"version": update.new_version, "current": update.current_version}
    with _alone(update.name), installing.working_on(registry, update.name) as folder, transaction() as whole:
        whole.set("update", content)
        if update.waiting:
            judged = validate_update(content, None, rules)
        else:
            archive = download_update(content, str(folder))
            admitted = verify_update(content, archive, str(folder))
            judged = validate_update(content, admitted, rules)
            judged = stage_update(content, admitted, judged)
        answer = activate_update(content, judged)
    outcome = "activated" if answer["activated"] else "staged"
    reasons = () if answer["activated"] else (str(answer["reason"]),)
    return installing.Outcome(update.name, outcome, reasons=reasons, measured=judged["measured"], **facts)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """A global concurrency limit of one for this model, where there is a server that outlives this run.

    Raises:
        ConflictError: another run has it. UnavailableError: the server doesn't answer.
    """
    if not PREFECT_API_URL.value():
        yield  # the lock in `working_on` is enough on one machine
        return
    limit = f"auto-update-{name}"
    try:
        with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit, limit=1))
    except (httpx.HTTPError, PrefectException) as error:
        raise UnavailableError(f"Prefect's server: {error}", where=limit) from None
    with ExitStack() as held:
        try:  # what is raised in the block is none of this
            slot = concurrency(limit, occupy=1, timeout_seconds=ANSWER_S, max_retries=0, strict=True)
            held.enter_context(slot)
        except TimeoutError:
            raise UnavailableError(
                f"Prefect's server said nothing for {ANSWER_S} s", where=limit, remedy="see `robustidps status`"
            ) from None
        except ConcurrencySlotAcquisitionError as error:
            if not _is_taken(error.__cause__):
                raise UnavailableError(f"Prefect's server: {error}", where=limit) from None
            raise ConflictError("another run is at it", where=name, remedy="the next one comes by itself") from None
        yield


def _is_taken(cause: BaseException | None) -> bool:
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED
