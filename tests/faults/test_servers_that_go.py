"""A server is killed or restarted under us: MLflow in the middle of a training, PostgreSQL between two moves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from robustidps.errors import RobustIDPSError, UnavailableError
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.system.supervisor import claimed_port
from robustidps.testing.registry import APPROVE, MemoryTracking
from tests.faults.conftest import TRAIN, at, sound, trained

pytestmark = [pytest.mark.real, pytest.mark.long]


class MLflow:
    """A real MLflow server on a port that it keeps over restarts."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.url = folder, port, f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(400):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.3)
        pytest.fail("MLflow doesn't answer")

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    with claimed_port(5055) as port:
        server = MLflow(tmp_path_factory.mktemp("mlflow"), port)
        server.start()
        yield server
        server.kill()


@pytest.mark.timeout(600)
@pytest.mark.fault("MLflow killed (SIGKILL) while a training is at work", "a clear error; the next training is whole")
@pytest.mark.parametrize("while_at", ["training", "Evidently's report", "registering"])
def test_mlflow_is_killed_in_the_middle_of_a_training(mlflow, install, toy_file, while_at):
    install = at(install.home, ROBUSTIDPS_MLFLOW_TRACKING_URI=mlflow.url)
    process = install.start(*TRAIN[:-1], "--dataset", toy_file)
    told = []
    assert process.stderr is not None
    for line in process.stderr:
        told.append(line)
        if while_at in line:
            mlflow.kill()
            break
    else:
        pytest.fail(f"it never said {while_at!r}: {''.join(told)[-2000:]}")
    _, err = process.communicate(timeout=280)
    assert process.returncode == 6 and "Traceback" not in err, err[-3000:]
    assert "MLflow" in err, err
    registry = install.registry()
    assert not [v for m in registry.models() for v in registry.versions(m.name) if v.status != "reserved"]
    mlflow.start()
    done = trained(install, toy_file, "--promote-to", "Staging")
    registry = sound(install)
    assert registry.version("toy", done["version"]).status == "registered"
    assert registry.assignment("toy").staging == done["version"]


@pytest.mark.fault("PostgreSQL restarted between two moves, and during one", "the move is done or not begun")
def test_postgresql_is_restarted(postgresql, database, bundles, tmp_path):
    settings = Settings(home=tmp_path / "home", database_url=database())
    registry = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    for version, bundle in bundles.items():
        registry.register_model("toy", version, bundle)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    cut(postgresql)
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)  # finds its old connection gone, takes another

    from robustidps.registry import steps

    steps.hook = lambda name: cut(postgresql) if name == "promote.assigned" else None
    try:
        with pytest.raises(RobustIDPSError) as caught:
            registry.transition("toy", "1.2.0", "Production", verdict=APPROVE)
    finally:
        steps.hook = lambda name: None
    assert isinstance(caught.value, UnavailableError), caught.value
    assert registry.assignment("toy").production == "1.1.0" and registry.verify().ok
    registry.transition("toy", "1.2.0", "Production", verdict=APPROVE)
    assert registry.assignment("toy").production == "1.2.0" and registry.verify().ok
    registry.store.close()


def cut(postgresql) -> None:
    """What a restart is to a client: every connection ends at once."""
    postgresql.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND backend_type = 'client backend';"
    )
