"""The services of the local system, one entry each.

An entry says how the service is started once all ports are known, the path that answers 200 while it is well, and which
services must be well before it starts. To add one is to add an entry, if its command stays in the foreground, binds
127.0.0.1 and ends on SIGTERM; `robustidps up`, `status`, the restarts and the ports follow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from robustidps.settings import Settings
from robustidps.system.prefect_api import POOL, give_up
from robustidps.watch.webhook import server_environment

__all__ = ["HOST", "Ports", "Service", "common_environment", "prefect_environment", "services"]

HOST = "127.0.0.1"
Ports = Mapping[str, int]
"""The port of each service by name."""


@dataclass(frozen=True)
class Service:
    """One service.

    name: short; its port's name in settings and options, and its log's.
    title, what: for people: what it is called, what it is for.
    port: the one it has where nothing else is said and nobody else listens there.
    health: path that answers 200 while it is well.
    command: words to start it, given every service's port. Every user of the machine can read them: no secret.
    environment: variables beside those that all have.
    after: services that must be well before it is started.
    page: whether there is something to look at at its address.
    grace_s: seconds it is given to end by itself.
    afterwards: called once it has ended with the system, while what it came after still runs; what was done, a sentence
        each. Takes seconds at most. Raises RobustIDPSError.
    """

    name: str
    title: str
    what: str
    port: int
    health: str
    command: Callable[[Ports], list[str]]
    environment: Callable[[Ports], dict[str, str]] = field(default=lambda ports: {})
    after: tuple[str, ...] = ()
    page: bool = True
    grace_s: float = 10.0
    afterwards: Callable[[Ports], list[str]] = field(default=lambda ports: [])


def services(settings: Settings) -> list[Service]:
    """All that run here, in the order in which they are started; ended in the opposite order."""
    python = [sys.executable, "-m"]
    listed = [
        Service(
            name="mlflow",
            title="MLflow",
            what="models, versions, runs and figures",
            port=5000,
            health="/health",
            command=lambda ports: [
                *(*python, "mlflow", "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1"),
                *("--artifacts-destination", settings.artifacts_uri or str(settings.folder("artifacts"))),
                *("--allowed-hosts", _hosts(ports["mlflow"]), "--uvicorn-opts", "--log-level warning"),
            ],
            environment=lambda ports: _mlflow_environment(settings),
        ),
        Service(
            name="prefect",
            title="Prefect",
            what="what runs, forms to start it, schedules",
            port=4200,
            health="/api/health",
            command=lambda ports: [*python, "robustidps.flows.server", "--port", str(ports["prefect"])],
        ),
        Service(
            name="worker",
            title="worker",
            what="runs what is scheduled or started in Prefect",
            port=4201,
            health="/health",
            command=lambda ports: [*python, "robustidps.flows.worker"],
            environment=lambda ports: {
                "PREFECT_WORKER_WEBSERVER_HOST": HOST,
                "PREFECT_WORKER_WEBSERVER_PORT": str(ports["worker"]),
                "PREFECT_WORKER_QUERY_SECONDS": "5",
            },
            after=("prefect",),
            page=False,
            grace_s=20.0,  # a flow that is told to end gives back what it has reserved
            afterwards=lambda ports: [
                f"run {name} was under way: crashed"
                for name in give_up(f"http://{HOST}:{ports['prefect']}", POOL, within_s=8.0)
            ],
        ),
    ]
    listed += [
        Service(
            name="watch",
            title="watcher",
            what="answers what people change in MLflow; tells people what was decided",
            port=5020,
            health="/health",
            command=lambda ports: [*python, "robustidps", "watch", "--port", str(ports["watch"])],
            # Through the server, which delivers webhooks; what runs beside it works on the same database.
            environment=lambda ports: (
                {"ROBUSTIDPS_MLFLOW_TRACKING_URI": f"http://{HOST}:{ports['mlflow']}"} if "mlflow" in ports else {}
            ),
            after=("mlflow",) if settings.tracking_is_embedded else (),
            page=False,
            grace_s=30.0,  # a decision that is being taken
        ),
        Service(
            name="reports",
            title="reports",
            what="drift over time, and the page of each window",
            port=4300,
            health="/health",
            command=lambda ports: [*python, "robustidps", "reports", "serve", "--port", str(ports["reports"])],
        ),
    ]
    if not settings.tracking_is_embedded:  # MLflow runs elsewhere
        return [s for s in listed if s.name != "mlflow"]
    return listed


def common_environment(settings: Settings, ports: Ports) -> dict[str, str]:
    """What every service finds in its environment beside what `up` itself was given."""
    api = f"http://{HOST}:{ports['prefect']}/api" if "prefect" in ports else ""
    return (
        prefect_environment(settings)
        | {"ROBUSTIDPS_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
        | {name: _never_by_proxy(os.environ.get(name, "")) for name in ("no_proxy", "NO_PROXY")}
        | ({"PREFECT_API_URL": api, "PREFECT_UI_API_URL": api} if api else {})
        | ({"ROBUSTIDPS_REPORTS_URL": f"http://{HOST}:{ports['reports']}"} if "reports" in ports else {})
    )


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Prefect in this home. Console output is the command line's; flow and task logs still go to Prefect's database.
    Results are JSON, never pickles. No telemetry leaves the machine."""
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": settings.prefect_url} if settings.prefect_url else {}
    return database | {
        "PREFECT_HOME": str(settings.folder("prefect")),
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.folder("prefect", "results")),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if settings.debug else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }


def _never_by_proxy(given: str) -> str:
    return ",".join(filter(None, (given, HOST, "localhost")))


def _hosts(port: int) -> str:
    """Host headers that are answered; a page from elsewhere whose name is made to lead here sends another."""
    return ",".join(f"{name}:{port}" for name in (HOST, "localhost"))


def _mlflow_environment(settings: Settings) -> dict[str, str]:
    return server_environment(settings) | {
        # Not on the command line, which every user of the machine can read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # several processes that nothing of ours uses
    }
