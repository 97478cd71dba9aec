"""What `robustidps status` shows: health asked now, processes, ports, next runs, disk."""

from __future__ import annotations

import os
import shutil
from typing import Any

from robustidps.errors import UnavailableError
from robustidps.settings import Settings
from robustidps.system import record as records
from robustidps.system.prefect_api import scheduled
from robustidps.system.processes import marked
from robustidps.system.services import services
from robustidps.system.supervisor import answers

__all__ = ["status"]


def status(settings: Settings) -> dict[str, Any]:
    """The state of this home's system, as plain data.

    `state`: starting, up, ending or down. `services`: each with `healthy`, asked now. `runs`: deployments with their
    next runs; None where Prefect doesn't answer. `leftovers`: processes that a killed system left. `disk`: bytes.
    """
    record = records.read(settings)
    up = record is not None and record.is_running
    health = {s.name: s.health for s in services(settings)}
    listed = []
    for service in record.services if record and up else []:
        row = service.model_dump(mode="json")
        row["healthy"] = service.pid is not None and answers(service.url + health.get(service.name, "/health"))
        listed.append(row)
    prefect = next((row for row in listed if row["name"] == "prefect" and row["healthy"]), None)
    return {
        "home": str(settings.home),
        "state": record.state if record and up else "down",
        "supervisor": record.pid if record and up else None,
        "since": record.began.isoformat() if record and up else None,
        "services": listed,
        "runs": _runs(prefect["url"]) if prefect else None,
        "leftovers": 0 if up or record is None else len(marked(record.mark)),
        "disk": _disk(settings),
    }


def _runs(url: str) -> list[dict[str, Any]] | None:
    try:
        found = scheduled(url)
    except UnavailableError:
        return None
    return [vars(s) | {"next_run": s.next_run.isoformat() if s.next_run else None} for s in found]


def _disk(settings: Settings) -> dict[str, int]:
    used = 0
    for folder, _, files in os.walk(settings.home):
        for name in files:
            try:
                used += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - many files
            except OSError:  # gone meanwhile
                continue
    home = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    return {"used": used, "free": shutil.disk_usage(home).free}
