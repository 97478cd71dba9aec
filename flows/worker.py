"""The local system's worker: puts the deployments on its server, clears up after a killed one, then runs what comes.

`robustidps up` starts this, and starts it again where it ends. It is a worker of a process pool rather than
`prefect.serve()`: the same deployments and the same way to start runs as on a server elsewhere; schedules stay on the
server while no worker runs; pools and queues can be paused and limited in Prefect's page.

    python -m robustidps.flows.worker
"""

from __future__ import annotations

import os
import sys

from robustidps import console
from robustidps.errors import RobustIDPSError
from robustidps.settings import Settings, get_settings

__all__ = ["give_up_orphans"]


def main() -> None:
    from robustidps.flows import embedded

    settings = get_settings()
    embedded(settings)
    from robustidps.flows.deployments import POOL, deploy

    try:
        for done in deploy(only_changed=True, off=_cannot_run(settings)):
            console.remark(f"{done.name}: {done.outcome}{', its schedule is off' if done.off else ''}")
        lost = give_up_orphans(POOL)
    except RobustIDPSError as error:
        sys.exit(f"error: {error}")
    for name in lost:
        console.remark(f"run {name} was lost with its worker: crashed")
    words = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "local", "--with-healthcheck"]
    os.execv(sys.executable, [sys.executable, "-m", *words, "--install-policy", "never"])  # noqa: S606 - it takes over


def _cannot_run(settings: Settings) -> list[str]:
    """Deployments whose schedule would fail each time on this machine."""
    from robustidps.loihi.runner import installed

    try:
        installed(settings)
    except RobustIDPSError:
        return ["export-loihi"]
    return []


def give_up_orphans(pool: str) -> list[str]:
    """Marks runs of `pool` as crashed that nobody runs any more, so that they hold no place in a limit; their names.

    Only for a pool with one worker, before it starts: whatever the server believes to be under way then was lost. Runs
    that are suspended have no process, and stay.

    Raises:
        ConfigError, UnavailableError.
    """
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.states import Crashed

    from robustidps.flows.deployments import server_client

    under_way = FlowRunFilter.model_validate(
        {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}}
    )
    of_pool = WorkPoolFilter.model_validate({"name": {"any_": [pool]}})
    lost: list[str] = []
    with server_client() as client:
        for run in client.read_flow_runs(flow_run_filter=under_way, work_pool_filter=of_pool):
            if run.state is not None and run.state.name != "Suspended":
                client.set_flow_run_state(run.id, Crashed(message="its worker ended"), force=True)
                lost.append(run.name)
    return lost


if __name__ == "__main__":
    main()
