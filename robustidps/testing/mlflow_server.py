"""A real MLflow server for tests and benchmarks, on loopback, with webhooks and, if asked for, with accounts."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from robustidps.settings import Settings
from robustidps.system.services import HOST
from robustidps.system.supervisor import claimed_port
from robustidps.testing.servers import started
from robustidps.watch.webhook import server_environment

__all__ = ["MlflowServer", "mlflow_server"]


@dataclass(frozen=True)
class MlflowServer:
    """password: of `admin`, where the server has accounts."""

    url: str
    password: str = field(default="", repr=False)

    def settings(self, like: Settings, **more: object) -> Settings:
        """Settings of an installation that uses this server."""
        return like.model_copy(update={"mlflow_tracking_uri": self.url, **more})


@contextmanager
def mlflow_server(settings: Settings, *, accounts: bool = False) -> Iterator[MlflowServer]:
    """The server on `settings`' MLflow database, up and answering for the length of the block.

    Args:
        accounts: run `robustidps-auth`: MLflow asks who somebody is, and we are told who asked for what.

    Raises:
        UnavailableError: it didn't start; its log is named.
    """
    password = secrets.token_urlsafe(16)
    env = os.environ | server_environment(settings)
    env |= {
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "ROBUSTIDPS_HOME": str(settings.home),
    }
    with claimed_port(0) as port:
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        command += ["--artifacts-destination", str(settings.folder("artifacts"))]
        if accounts:
            ini = settings.folder("mlflow-auth") / "basic_auth.ini"
            database = settings.home / "mlflow-auth" / "accounts.db"
            ini.write_text(
                "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
                f"database_uri = sqlite:///{database}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
                "auth_cache_ttl_seconds = 300\n",  # else each call costs a password hash
                encoding="utf-8",
            )
            env |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(ini),
                "MLFLOW_AUTH_ADMIN_PASSWORD": password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(16),
            }
            command += ["--app-name", "robustidps-auth"]
        url = f"http://{HOST}:{port}"
        with started(command, f"{url}/health", env, settings.folder("logs") / "mlflow.log"):
            yield MlflowServer(url, password)
