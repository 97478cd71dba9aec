"""Starts MLflow's and Prefect's own servers on loopback, and ends them again with everything they started.

Both start helpers of their own, so each gets a process group, and the group is ended, not the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from robustidps.errors import UnavailableError
from robustidps.progress import Progress, silent
from robustidps.settings import Settings

__all__ = ["Server", "claimed_port", "running"]

HOST = "127.0.0.1"


@dataclass
class Server:
    """One server process and where it answers."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, grace_s: float = 10.0) -> None:
        """Ends the whole process group: asks first, insists after `grace_s` seconds."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def claimed_port(preferred: int) -> Iterator[int]:
    """`preferred` if nothing listens there on loopback, else one that the system picks.

    Servers take seconds until they listen. For the length of the block no other `claimed_port` on this machine gives
    the same number: the claim is a name in Linux's abstract socket space, which is no file and ends with its process.
    """
    for port in (preferred, *[0] * 20):
        with socket.socket() as probe, socket.socket(socket.AF_UNIX) as claim:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                found = int(probe.getsockname()[1])
                claim.bind(f"\0robustidps port {found}")
            except OSError:
                continue
            probe.close()
            yield found
            return
    raise UnavailableError("no free port on loopback")


@contextmanager
def running(settings: Settings, *, timeout_s: float = 120.0, progress: Progress = silent) -> Iterator[list[Server]]:
    """MLflow and Prefect, up and answering, for as long as the block lasts.

    Raises:
        UnavailableError: one ended or didn't answer within `timeout_s`; its log is named.
    """
    logs = settings.folder("logs")
    artifacts = settings.folder("artifacts")
    with claimed_port(5000) as mlflow_port, claimed_port(4200) as prefect_port:
        yield from _running(settings, logs, artifacts, mlflow_port, prefect_port, timeout_s, progress)


def _running(
    settings: Settings,
    logs: Path,
    artifacts: Path,
    mlflow_port: int,
    prefect_port: int,
    timeout_s: float,
    progress: Progress,
) -> Iterator[list[Server]]:
    base = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    # Not on the command line, which every user of the machine can read: it may hold a password.
    mlflow_env = base | {"MLFLOW_BACKEND_STORE_URI": settings.tracking_uri}
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--artifacts-destination", settings.artifacts_uri or str(artifacts)]
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)]
    prefect_env = base | {
        "PREFECT_HOME": str(settings.folder("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://{HOST}:{prefect_port}/api",
        "PREFECT_UI_API_URL": f"http://{HOST}:{prefect_port}/api",
    }
    if settings.prefect_url:
        prefect_env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = settings.prefect_url
    servers: list[Server] = []
    try:
        if settings.tracking_is_embedded:
            servers.append(_start("MLflow", mlflow, f"http://{HOST}:{mlflow_port}", mlflow_env, logs))
        servers.append(_start("Prefect", prefect, f"http://{HOST}:{prefect_port}", prefect_env, logs))
        for server in servers:
            _wait(server, timeout_s, progress)
        yield servers
    finally:
        for server in servers:
            server.stop()


def _start(name: str, command: list[str], url: str, env: dict[str, str], logs: Path) -> Server:
    log = logs / f"{name.lower()}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=env, start_new_session=True
        )
    return Server(name, url, process, log)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait(server: Server, timeout_s: float, progress: Progress) -> None:
    path = {"MLflow": "/health", "Prefect": "/api/health"}[server.name]
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        progress(f"starting {server.name}", time.monotonic() - began, None, unit="s")
        if not server.alive:
            break
        if _answers(server.url + path):
            return
        time.sleep(0.3)
    tail = server.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise UnavailableError(f"{server.name} didn't start: {tail[0]}", where=server.log, remedy="see that log")
