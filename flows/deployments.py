"""Puts the flows on a Prefect server: what runs there, when, how often at once, with which form.

The list is `deployments/prefect.yaml`. A work pool says how runs are started: as processes of a worker's machine, as
Docker containers or as Kubernetes jobs, from `deployments/pools/KIND.json`; a pool that is there already stays as it
is, since somebody may have fitted it to their site. What a person has paused stays paused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, VersionInfo
from prefect.deployments.runner import DeploymentApplyError, EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, ConfigDict, Field

import robustidps
from robustidps import __version__
from robustidps.errors import ConfigError, ConflictError, NotFoundError, UnavailableError
from robustidps.flows.automations import ensure_automations
from robustidps.progress import Progress, silent
from robustidps.settings import check_name, load_yaml
from robustidps.system.prefect_api import POOL

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["TRAINING_QUEUE", "Deployed", "PoolKind", "declared", "deploy", "server_client"]

TRAINING_QUEUE = "training"
"""Trainings wait for each other here: one at a time, whichever flow it is."""

PoolKind = Literal["process", "docker", "kubernetes"]
_SYSTEM = Path(robustidps.__file__).parent / "system"
_OFF = ".off"
"""Ends the version of a deployment whose schedules we have turned off; what a person turned off has another."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkPool(_Closed):
    """Where runs of a deployment go."""

    name: str
    work_queue_name: str | None = None


class CronSchedule(_Closed):
    """A time-table; `slug` is its name within the deployment."""

    slug: str
    cron: str
    timezone: str = "UTC"


class Limit(_Closed):
    """How many runs at once, and what becomes of one more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class Declared(_Closed):
    """One entry of prefect.yaml."""

    name: str
    description: str
    entrypoint: str
    tags: list[str] = Field(default_factory=list)
    work_pool: WorkPool
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: list[CronSchedule] = Field(default_factory=list)
    concurrency_limit: Limit

    def flow(self) -> Flow[..., Any]:
        module, _, name = self.entrypoint.rpartition(".")
        found: Flow[..., Any] = getattr(importlib.import_module(module), name)
        return found


class _File(_Closed):
    name: str
    pull: list[dict[str, Any]]
    deployments: list[Declared]


class Deployed(BaseModel):
    """What became of one deployment. outcome: new, changed, or unchanged, where it was left alone."""

    name: str
    flow: str
    outcome: Literal["new", "changed", "unchanged"]
    schedule: list[str]
    off: bool = Field(description="it has a schedule that is turned off")


def declared() -> list[Declared]:
    """The entries of prefect.yaml. Raises ConfigError."""
    return load_yaml(_SYSTEM / "prefect.yaml", _File).deployments


def template(kind: PoolKind) -> dict[str, Any]:
    """The base job template of a new work pool of this kind."""
    content: dict[str, Any] = json.loads((_SYSTEM / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    return content


def deploy(
    *,
    pool: str = POOL,
    kind: PoolKind = "process",
    image: str | None = None,
    only: Collection[str] = (),
    off: Collection[str] = (),
    only_changed: bool = False,
    progress: Progress = silent,
) -> list[Deployed]:
    """Puts all flows on the server at PREFECT_API_URL, into the work pool `pool`, which is made if missing; and the
    automation that starts `retrain` after an alarm.

    Args:
        image: what containers and jobs are started from; only for those kinds, and needed there.
        only: deployments by name; default all.
        off: deployments whose schedules are not to run here.
        only_changed: leave those alone that this release has put there before, so that what people changed stays.

    Raises:
        ConfigError: no server named, an image missing or out of place. NotFoundError: no such deployment.
        ConflictError: the pool is of another kind. UnavailableError: the server doesn't answer, or refuses.
    """
    check_name(pool, "work pool name")
    if (image is None) != (kind == "process"):
        problem = "a process pool takes no image" if image else f"a {kind} pool needs an image"
        raise ConfigError(problem, where="--image", remedy="name the image that RobustIDPS is installed in")
    entries = declared()
    unknown = sorted(set(only) - {e.name for e in entries})
    if unknown:
        known = ", ".join(e.name for e in entries)
        raise NotFoundError(f"no deployment {unknown[0]!r}", where="--only", remedy=f"known: {known}")
    chosen = [e for e in entries if not only or e.name in only]
    with server_client() as client:
        _ready_pool(client, pool, kind)
        done = []
        for number, entry in enumerate(chosen):
            progress("deploying", number, len(chosen), note=entry.name)
            done.append(_put(client, entry, pool, image, entry.name in off, only_changed))
        progress("deploying", len(chosen), len(chosen))
        if any(entry.name == "retrain" for entry in chosen):
            ensure_automations(client.read_deployment_by_name("retrain/retrain").id)
    return done


@contextmanager
def server_client() -> Iterator[SyncPrefectClient]:
    """A client of the server at PREFECT_API_URL; what it raises becomes an error of ours.

    Raises:
        ConfigError: no server is named. UnavailableError: it doesn't answer, or refuses.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigError(
            "no Prefect server is named", where="PREFECT_API_URL", remedy="set it, or start one: robustidps up"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException, DeploymentApplyError) as error:
        text = f"Prefect's server: {error}" if str(error) else f"Prefect's server: {type(error).__name__}"
        raise UnavailableError(text, where=url, remedy="is it up, and PREFECT_API_URL right?") from None


def _ready_pool(client: SyncPrefectClient, pool: str, kind: PoolKind) -> None:
    try:
        there = client.read_work_pool(pool)
    except ObjectNotFound:
        there = client.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=template(kind)))
    if there.type != kind:
        raise ConflictError(
            f"is of type {there.type}", where=f"work pool {pool}", remedy=f"--type {there.type}, or another --pool"
        )
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(
            TRAINING_QUEUE, work_pool_name=pool, concurrency_limit=1, description="one training at a time"
        )


def _put(
    client: SyncPrefectClient, entry: Declared, pool: str, image: str | None, off: bool, only_changed: bool
) -> Deployed:
    flow = entry.flow()
    version = _version(entry, flow, image) + (_OFF if off and entry.schedules else "")
    before = _before(client, f"{flow.name}/{entry.name}")
    schedules = [f"{s.cron} {s.timezone}" for s in entry.schedules]
    if only_changed and before and before.version == version and before.work_pool_name == pool:
        runs = not before.paused and any(s.active for s in before.schedules)
        return Deployed(
            name=entry.name,
            flow=flow.name,
            outcome="unchanged",
            schedule=schedules,
            off=bool(schedules) and not runs,
        )
    # What a person turned off stays off; what we had turned off ourselves doesn't.
    by_person = before is not None and not (before.version or "").endswith(_OFF)
    asleep = {s.slug for s in before.schedules if not s.active} if before and by_person else set()
    active = {s.slug: not off and s.slug not in asleep for s in entry.schedules}
    deployment: RunnerDeployment = flow.to_deployment(  # type: ignore[assignment]
        name=entry.name,
        description=entry.description,
        tags=["robustidps", *entry.tags],
        parameters=entry.parameters,
        version=version,
        paused=bool(before and before.paused),
        concurrency_limit=ConcurrencyLimitConfig(**entry.concurrency_limit.model_dump()),
        work_pool_name=pool,
        work_queue_name=entry.work_pool.work_queue_name,
        job_variables={"image": image} if image else {},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply(
        schedules=[
            {"slug": s.slug, "schedule": {"cron": s.cron, "timezone": s.timezone}, "active": active[s.slug]}
            for s in entry.schedules
        ],
        version_info=VersionInfo(type="prefect:simple", version=version),
    )
    return Deployed(
        name=entry.name,
        flow=flow.name,
        outcome="changed" if before else "new",
        schedule=schedules,
        off=bool(schedules) and (not any(active.values()) or bool(before and before.paused)),
    )


def _before(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _version(entry: Declared, flow: Flow[..., Any], image: str | None) -> str:
    """The release and a digest of all that is put on the server."""
    content = {"entry": entry.model_dump(), "form": flow.parameters.model_dump(), "image": image}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return f"{__version__}-{digest[:12]}"
