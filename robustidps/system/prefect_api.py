"""What a Prefect server knows of deployments and runs, over its REST API.

`robustidps status` and `down` are to answer at once and where Prefect isn't installed; importing Prefect takes seconds.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from robustidps.errors import UnavailableError, printable

__all__ = ["POOL", "Scheduled", "give_up", "scheduled"]

POOL = "robustidps"
"""The work pool of the local system."""

BUSY, BUSY_TRIES = 503, 5
"""What Prefect's server answers while its SQLite is locked by somebody else, and how often it is asked again."""

_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Scheduled:
    """A deployment: when it runs by itself, and when next. `schedule` is None where it is only started by hand."""

    name: str
    what: str
    schedule: str | None
    is_paused: bool
    next_run: datetime | None


def scheduled(url: str) -> list[Scheduled]:
    """All deployments of the server at `url` (its address, without /api): those with a next run first, in order.

    Raises:
        UnavailableError: it doesn't answer, or not as expected.
    """
    try:
        deployments = _asked(url, "deployments/filter", {"limit": 200})
        runs = _asked(
            url,
            "flow_runs/filter",
            {
                "limit": 200,
                "sort": "EXPECTED_START_TIME_ASC",
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"is_null_": False}},
            },
        )
        first: dict[str, datetime] = {}
        for run in runs:
            if run["expected_start_time"]:
                first.setdefault(run["deployment_id"], datetime.fromisoformat(run["expected_start_time"]))
        found = [
            Scheduled(
                name=d["name"],
                what=(d["description"] or "").strip().partition("\n")[0],
                schedule="; ".join(filter(None, (_words(s) for s in d["schedules"]))) or None,
                is_paused=bool(d["paused"]) or bool(d["schedules"] and not any(s["active"] for s in d["schedules"])),
                next_run=first.get(d["id"]),
            )
            for d in deployments
        ]
    except _FAILURES as error:
        raise UnavailableError(f"Prefect's schedules can't be read: {error}", where=url) from None
    return sorted(found, key=lambda s: (s.next_run is None, s.next_run.timestamp() if s.next_run else 0, s.name))


def give_up(url: str, pool: str, within_s: float) -> list[str]:
    """Marks runs of `pool` as crashed that nobody runs any more, so that they hold no place in a limit; their names.

    Only for a pool with one worker, while that doesn't run: whatever the server believes to be under way then was lost.
    Runs that are suspended have no process, and stay.

    Args:
        url: the server's address, without /api.
        within_s: how long it may take in all; what was not reached then is left.

    Raises:
        UnavailableError: the server doesn't answer, or not as expected.
    """
    deadline = time.monotonic() + within_s
    state = {"type": "CRASHED", "name": "Crashed", "message": "its worker ended"}
    under_way = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}}
    lost = []
    try:
        wanted = {"flow_runs": under_way, "work_pools": {"name": {"any_": [pool]}}}
        for run in _asked(url, "flow_runs/filter", wanted, deadline):
            if run["state"]["name"] != "Suspended":
                _sent(url, f"flow_runs/{run['id']}/set_state", {"state": state, "force": True}, deadline)
                lost.append(printable(run["name"], 100))
    except _FAILURES as error:
        raise UnavailableError(f"runs under way can't be given up: {error}", where=url) from None
    return lost


def _words(entry: dict[str, Any]) -> str:
    """A schedule in words: the cron line, the interval in seconds, or the recurrence rule."""
    schedule = entry["schedule"]
    text = schedule.get("cron") or schedule.get("rrule") or f"every {schedule.get('interval', 0):.0f} s"
    zone = schedule.get("timezone")
    return f"{text} {zone}" if zone else str(text)


def _asked(url: str, path: str, body: dict[str, Any], deadline: float = math.inf) -> list[dict[str, Any]]:
    content = _sent(url, path, body, deadline)
    if not isinstance(content, list):
        raise ValueError("an unexpected answer")
    return content


def _sent(url: str, path: str, body: dict[str, Any], deadline: float) -> Any:
    """What the server answers; `deadline` is of the monotonic clock. With the server's password, where there is one."""
    headers = {"Content-Type": "application/json"}
    if password := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    request = urllib.request.Request(  # noqa: S310 - our own server's address
        f"{url}/api/{path}", json.dumps(body).encode(), headers, method="POST"
    )
    for attempt in range(1, BUSY_TRIES + 1):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            with _direct.open(request, timeout=min(10, left)) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            if refused.code != BUSY or attempt == BUSY_TRIES:
                raise
            time.sleep(min(1, max(0, left)))
    raise TimeoutError("no answer in time")
