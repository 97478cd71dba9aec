"""What the registry tells about a model, as plain records; and who acts."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import RowMapping

from robustidps.errors import printable
from robustidps.registry.stages import Stage

__all__ = ["Assignment", "ModelSummary", "VersionRecord", "acting", "os_user", "person", "verdict_parts"]

_LOGIN_UID = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1


@dataclass(frozen=True)
class VersionRecord:
    """One version of a model.

    status: `reserved` (a number taken for a training), `registered` or `withdrawn`.
    held_out: what it is to be judged on, as given to `register_model`: path, digest, dataset, rules.
    """

    model: str
    version: str
    status: str
    stage: Stage
    digest: str | None
    mlflow_version: int | None
    run_id: str | None
    held_out: dict[str, Any] | None = field(repr=False)
    author: str
    created_at: datetime

    def as_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__dataclass_fields__} | {"created_at": self.created_at.isoformat()}


@dataclass(frozen=True)
class Assignment:
    """Where a model stands. `generation` goes up with each move; MLflow shows `applied_generation`."""

    model: str
    generation: int = 0
    applied_generation: int = 0
    production: str | None = None
    previous: str | None = None
    staging: str | None = None
    pinned_by: str | None = None
    pin_reason: str | None = None
    pinned_until: str | None = None

    @property
    def projected(self) -> bool:
        return self.applied_generation >= self.generation


@dataclass(frozen=True)
class ModelSummary:
    """A model at a glance."""

    name: str
    versions: int
    newest: str | None
    assignment: Assignment

    def as_dict(self) -> dict[str, Any]:
        a = self.assignment
        roles = {"production": a.production, "previous": a.previous, "staging": a.staging, "generation": a.generation}
        return {"name": self.name, "versions": self.versions, "newest": self.newest, **roles, "projected": a.projected}


def version_record(row: RowMapping, stage: Stage) -> VersionRecord:
    values = dict(row)
    values["held_out"] = json.loads(values["held_out"]) if values["held_out"] else None
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    return VersionRecord(stage=stage, **values)


def assignment_record(row: RowMapping) -> Assignment:
    return Assignment(**{key: row[key] for key in Assignment.__dataclass_fields__})


def os_user() -> str:
    """The operating system's name for who runs this process; not taken from the environment, which anyone can set."""
    return _user_name(os.getuid())


def person() -> tuple[str, str]:
    """(who sits behind this process, how that is known): `login` where the kernel remembers who logged in before `su`
    or `sudo` made another user of them, else `os`, the user it runs as."""
    try:
        login = int(_LOGIN_UID.read_text(encoding="ascii"))
    except (OSError, ValueError):  # a kernel without auditing
        login = _NO_LOGIN
    if login in (_NO_LOGIN, os.getuid()):
        return os_user(), "os"
    return _user_name(login), "login"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def acting(actor: str | None, source: str | None) -> tuple[str, str]:
    """(actor, how the actor is known): the person at this process where nobody is named; a bare name is unverified."""
    if actor is None:
        return person()
    return printable(actor, 200), printable(source or "unverified", 64)


def verdict_parts(verdict: Any) -> tuple[str | None, tuple[str, ...]]:
    """(outcome, reasons) of a `promotion.Verdict` or a mapping."""
    if verdict is None:
        return None, ()
    get = verdict.get if isinstance(verdict, Mapping) else lambda key: getattr(verdict, key, None)
    outcome = get("outcome")
    reasons = get("reasons")
    if reasons is None:
        reasons = [getattr(result, "text", None) or str(result) for result in get("results") or ()]
    if not reasons and get("counts"):
        reasons = [get("counts")]  # "9 of 9 rules" says more in a history than nothing
    return (None if outcome is None else str(getattr(outcome, "value", outcome))), tuple(str(r) for r in reasons)
