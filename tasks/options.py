"""What our tasks share: how results are kept and what is tried again.

Tags are on the deployments (`deployments/prefect.yaml`), not on tasks: Prefect asks its server for a concurrency slot
for every tag of a task before it starts, and with the embedded server that request was seen to hang for a minute.
"""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE
from prefect.client.schemas.objects import TaskRun
from prefect.states import State

from robustidps.errors import RobustIDPSError, UnavailableError

__all__ = ["CACHED", "PLAIN", "RETRIED"]

PLAIN: dict[str, Any] = {"persist_result": True, "result_serializer": "json", "cache_policy": NO_CACHE}
"""Results are JSON on disk (never Prefect's default, pickle), and the task runs every time."""

CACHED: dict[str, Any] = PLAIN | {"cache_policy": INPUTS + TASK_SOURCE}
"""The same inputs and source give the stored result; its files are checked before they are used."""


async def _may_pass(task: Any, run: TaskRun, state: State) -> bool:
    """Whether trying again can help: an outage may pass; bad input, refusals and broken trust stay what they are."""
    try:
        await state.result(raise_on_failure=True)
    except RobustIDPSError as error:
        return isinstance(error, UnavailableError)
    except Exception:  # noqa: BLE001 - whatever it was, it is reported by the task itself; here only the kind matters
        return False
    return False


RETRIED: dict[str, Any] = PLAIN | {"retries": 3, "retry_delay_seconds": [1, 4, 10], "retry_condition_fn": _may_pass}
"""For tasks that talk to something that can be away for a while."""
