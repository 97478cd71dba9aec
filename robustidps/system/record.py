"""HOME/run: one supervisor a home, and a record of what it runs.

`up.lock` is held while a system is up and ends with its holder. `up.json` says who holds it and what runs where; it is
rewritten whole at each change and stays afterwards, so that the next start finds its ports again and ends what a killed
one may have left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.errors import ConflictError
from robustidps.settings import Settings, writable, write_whole
from robustidps.system.processes import end_marked, is_alive, marked

__all__ = ["Record", "ServiceRecord", "address_of", "clear_leftovers", "holding", "read", "supervisor_of", "write"]

State = Literal["waiting", "starting", "up", "not answering", "restarting", "ended"]


class ServiceRecord(BaseModel):
    """One service as last seen."""

    model_config = ConfigDict(extra="ignore")

    name: str
    title: str
    what: str
    url: str
    port: int
    pid: int | None = None
    state: State = "waiting"
    since: datetime | None = Field(default=None, description="when it came into this state")
    restarts: int = 0
    last_end: str | None = Field(default=None, description="how it ended last, where it did")
    log: str


class Record(BaseModel):
    """One system, running or gone."""

    model_config = ConfigDict(extra="ignore")

    mark: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    pid: int
    born: int
    began: datetime
    state: Literal["starting", "up", "ending", "ended"] = "starting"
    ports: dict[str, int] = Field(default_factory=dict)
    services: list[ServiceRecord] = Field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """Whether its supervisor still lives."""
        return self.state != "ended" and is_alive(self.pid, self.born)


def _file(settings: Settings) -> Path:
    return settings.home / "run" / "up.json"


def read(settings: Settings) -> Record | None:
    """The record of this home's last system; None where there was none, or it can't be read."""
    try:
        return Record.model_validate(json.loads(_file(settings).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


def write(settings: Settings, record: Record) -> None:
    """Raises StorageError."""
    write_whole(_file(settings), record.model_dump_json(indent=1))


def supervisor_of(settings: Settings) -> Record | None:
    """The record of the system that is up for this home, or None."""
    record = read(settings)
    return record if record and record.is_running else None


def address_of(settings: Settings, service: str) -> str | None:
    """Where a service of the system that is up for this home answers; None where it isn't up."""
    record = supervisor_of(settings)
    found = (s for s in record.services if s.name == service and s.state == "up") if record else iter(())
    return next((s.url for s in found), None)


@contextmanager
def holding(settings: Settings, patience_s: float = 2.0) -> Iterator[None]:
    """Holds this home's system for a block; `patience_s` outlasts a `down` that looks for leftovers.

    Raises:
        ConflictError: one is up; says who and where. StorageError.
    """
    lock = FileLock(settings.folder("run") / "up.lock", timeout=patience_s)
    with writable(Path(lock.lock_file)):
        try:
            lock.acquire()
        except Timeout:
            raise ConflictError(
                _who(read(settings)), where=settings.home, remedy="robustidps status, or robustidps down"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _who(record: Record | None) -> str:
    if record is None:
        return "a system is being started for this home"
    there = ", ".join(f"{s.title} {s.url}" for s in record.services)
    return f"is up already since {record.began:%Y-%m-%d %H:%M} UTC (process {record.pid}): {there or 'starting'}"


def clear_leftovers(settings: Settings) -> int:
    """Ends what a killed system left running; how many processes. Call it while `holding`."""
    record = read(settings)
    left = marked(record.mark) if record else []
    if record and left:
        end_marked(record.mark)
    return len(left)


def new_mark() -> str:
    """A mark that no other system has."""
    return os.urandom(16).hex()


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
