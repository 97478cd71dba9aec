"""Where the tasks of a flow run side by side: threads, processes of this machine, or a Dask cluster elsewhere.

Threads are Prefect's concurrent task runner; processes and clusters are Dask's, through prefect-dask. Progress comes
back over Dask's own event topics, and a request to stop goes out as a file in the home folder, which all can see.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from robustidps.errors import ConfigError, MissingExtraError, UnavailableError
from robustidps.progress import Progress, branch, current
from robustidps.settings import Settings
from robustidps.workers import LOCAL, OFF, at_once, demand_shared

__all__ = ["Stopped", "runner", "telling"]

HOST = "127.0.0.1"
_TELL_EVERY_S = 0.5


class Stopped(Exception):
    """What progress that `telling` gave raises once its stop file is there: no failure, the whole is interrupted."""


@contextmanager
def runner(
    where: str, settings: Settings, *, topic: str, workers: int | None = None, most: int = 1
) -> Iterator[TaskRunner[Any]]:
    """A task runner for a block within a flow; what it started ends with the block.

    Args:
        where: as the setting `dask` has it.
        topic: what `telling` was given, where progress is to be shown.
        workers: how many threads or processes; default: as many as the machine has room for. A cluster that runs
            already has its own number.
        most: how many pieces of work there are.

    Raises:
        MissingExtraError: Dask isn't installed. UnavailableError: no scheduler answers.
        ConfigError: a scheduler on another machine, with databases or a Prefect server that are for one machine.
    """
    if where == OFF:
        threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=at_once(most, workers))
        with threads:
            yield threads
        return
    try:
        from prefect_dask import DaskTaskRunner
    except ModuleNotFoundError:
        raise MissingExtraError("Dask", "dask") from None
    import dask

    if where != LOCAL:
        demand_shared(where, settings, PREFECT_API_URL.value())
    with ExitStack() as stack:
        if where == LOCAL:
            # A worker that is killed (out of memory, mostly) fails its task; trained anew it would be killed again.
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
            stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "60s"}))  # a busy machine
            for part in ("scheduler", "worker"):  # their pages know no certificates
                stack.enter_context(dask.config.set({f"distributed.{part}.http.routes": []}))
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="robustidps-dask-"))
            dask_runner = DaskTaskRunner(cluster_kwargs=_cluster(workers, most, scratch))
        else:
            dask_runner = DaskTaskRunner(address=where)
        # Workers report to the Prefect server of this process, where it has started one of its own.
        flow_run = FlowRunContext.get()
        if flow_run is not None:
            stack.enter_context(temporary_settings({PREFECT_API_URL: str(flow_run.client.api_url)}))
        stack.enter_context(dask_runner)
        try:
            client = dask_runner.client
        except OSError as error:
            raise UnavailableError(
                f"no Dask scheduler answers: {error}", where=where, remedy="start one (docs/families.md#side-by-side)"
            ) from None
        client.subscribe_topic(topic, _Relay(current()))
        yield dask_runner


def _cluster(workers: int | None, most: int, scratch: str) -> dict[str, Any]:
    """A LocalCluster of processes with a thread each, reached over loopback by who holds this run's certificate."""
    from distributed.security import Security
    from distributed.system import MEMORY_LIMIT

    return {
        "n_workers": at_once(most, workers, memory=MEMORY_LIMIT),
        "threads_per_worker": 1,
        "processes": True,
        "host": HOST,
        "protocol": "tls://",
        "security": Security.temporary(),
        "dashboard_address": f"{HOST}:0",
        "scheduler_kwargs": {"dashboard": False},
        "memory_limit": 0,  # nothing to spill: what tasks hold is theirs
        "local_directory": scratch,
        "silence_logs": logging.CRITICAL,
    }


class _Relay:
    """Shows what workers tell of their progress, each family's on a branch of its own."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.branches: dict[str, Progress] = {}

    def __call__(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        name = told["name"]
        if name not in self.branches:
            self.branches[name] = branch(self.progress, name)
        self.branches[name](told["stage"], told["done"], told["total"], unit=told["unit"], note=told["note"])


def telling(name: str, topic: str, stop: Path) -> Progress:
    """Progress of the piece of work `name`, wherever it runs: shown by who waits for it, and ended by the file `stop`.

    Raises:
        ConfigError: a Dask worker with several threads; they would share one torch, one TensorFlow, one home.
    """
    worker = _dask_worker()
    if worker is not None and worker.state.nthreads > 1:
        raise ConfigError(
            f"runs {worker.state.nthreads} tasks at once in one process",
            where=f"Dask worker {worker.address}",
            remedy="start workers with --nthreads 1, and several with --nworkers N",
        )
    shown = branch(current(), name) if worker is None else _sent(worker, topic, name)

    def tell(stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
        if stop.exists():
            raise Stopped
        shown(stage, done, total, unit=unit, note=note)

    return tell


def _dask_worker() -> Any:
    """The Dask worker that this thread works for, or None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _sent(worker: Any, topic: str, name: str) -> Callable[..., None]:
    last, told = "", 0.0

    def send(stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
        nonlocal last, told
        now = time.monotonic()
        if stage == last and done != total and now - told < _TELL_EVERY_S:
            return
        last, told = stage, now
        facts = {"name": name, "stage": stage, "done": float(done), "total": None if total is None else float(total)}
        worker.log_event(topic, facts | {"unit": unit, "note": note})

    return send
