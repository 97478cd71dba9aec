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
from robustidps.system.prefect_api import POOL, give_up


def main() -> None:
    from robustidps.flows import embedded

    settings = get_settings()
    embedded(settings)
    from robustidps.flows.deployments import deploy

    try:
        for done in deploy(only_changed=True, off=_cannot_run(settings)):
            console.remark(f"{done.name}: {done.outcome}{', its schedule is off' if done.off else ''}")
        lost = give_up(os.environ["PREFECT_API_URL"].removesuffix("/api"), POOL, within_s=60.0)
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


if __name__ == "__main__":
    main()
