"""Several families side by side, as a user runs them: threads, real worker processes, and a Dask cluster elsewhere.

Whatever needs Dask runs in processes of its own: its wire format is pickle, and nothing is unpickled in this one.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from robustidps.errors import ConfigError
from robustidps.flows import runners
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from tests.flows.conftest import TOY_RULES, toy_traffic

pytestmark = pytest.mark.timeout(600)

SMALL = ("--set", "boosted_trees.rounds=5", "--set", "quantum.epochs=1")
ENDLESS = ("--set", "boosted_trees.rounds=5000", "--set", "boosted_trees.patience=5000")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_traffic(rows=900).write(tmp_path_factory.mktemp("small") / "small.parquet")


@pytest.fixture
def own_home(tmp_path: Path) -> Path:
    """A home that nothing was made in yet."""
    rules = tmp_path / "home" / "configs" / "promotion" / "toy.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(TOY_RULES)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server, for runs that needn't show that they can start one."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start(timeout=180)
    yield server.api_url
    server.stop()


def begin(home: Path, *words: object, **env: str) -> subprocess.Popen[str]:
    """`robustidps train-all ...` in a session of its own, as a shell starts it."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTIDPS_", "PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "robustidps", "--home", str(home), "train-all", *map(str, words), "--rules", "toy"]
    return subprocess.Popen(
        command,
        env=base | {"OMP_NUM_THREADS": "1", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's job in the background ignores Ctrl-C, and so would all that is started from it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def left_of(session: int, grace_s: float = 15.0) -> list[psutil.Process]:
    """What still runs in a session; helpers that end with their parent get a moment to notice."""
    until = time.monotonic() + grace_s
    while (found := _of_session(session)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def test_threads_train_and_register_and_the_table_is_an_artefact(command, own_home: Path, small: Path) -> None:
    done = command(
        "train-all", "boosted_trees", "quantum", "--dataset", small, "--rules", "toy", *SMALL, home=own_home
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    registry = ModelRegistry(settings=Settings(home=own_home))
    assert [(m.name, m.versions) for m in registry.models()] == [("boosted_trees-small", 1), ("quantum-small", 1)]
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        (shown,) = database.execute("select data from artifact where key = 'families'").fetchone()
    for row in ("boosted_trees-small 1.0.0", "quantum-small 1.0.0"):
        assert f"| {row} | " in shown and row in done.stdout
    assert "robustidps compare boosted_trees-small@1.0.0 quantum-small@1.0.0" in done.stderr


def test_without_dask_the_extra_is_named_and_no_number_is_kept(
    command, own_home: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    words = ("boosted_trees", "--dataset", small, "--rules", "toy")
    done = command("train-all", *words, home=own_home, ROBUSTIDPS_DASK="local")
    assert done.returncode == 6 and "robustidps[dask]" in done.stderr and "Traceback" not in done.stderr
    assert not ModelRegistry(settings=Settings(home=own_home)).models()


def test_a_worker_with_several_threads_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=2), address="tcp://127.0.0.1:1")
    monkeypatch.setattr(runners, "_dask_worker", lambda: worker)
    with pytest.raises(ConfigError, match="--nthreads 1"):
        runners.telling("quantum", "topic", tmp_path / "stop")


@pytest.mark.long
def test_worker_processes_train_register_and_promote_and_one_that_fails_stops_no_other(
    own_home: Path, small: Path
) -> None:
    running = begin(
        own_home, "boosted_trees", "quantum", "spiking", "--dataset", small, *SMALL, "--set", "spiking.epocs=1",
        "--dask", "local", "--workers", 2, "--promote-to", "Staging", "--json",
    )  # fmt: skip
    out, err = running.communicate(timeout=500)
    assert running.returncode == 3, err  # that of the setting that there isn't
    result = json.loads(out)
    trees, quantum, spiking = (result["families"][f] for f in ("boosted_trees", "quantum", "spiking"))
    assert len({running.pid, trees["process"], quantum["process"]}) == 3
    assert trees["promotion"][-1]["moved"] and not quantum["promotion"][-1]["moved"]
    assert spiking["outcome"] == "failed" and "epocs" in spiking["error"]["problem"]
    assert not left_of(running.pid)

    registry = ModelRegistry(settings=Settings(home=own_home))
    assert [(m.name, m.versions) for m in registry.models()] == [("boosted_trees-small", 1), ("quantum-small", 1)]
    assert registry.verify().ok and registry.bundle("quantum-small", "1.0.0").digest == quantum["digest"]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A Dask scheduler with a worker that knows nothing of any home folder, as somebody else starts them."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTIDPS_", "PREFECT_", "MLFLOW_"))}
    file, log = tmp_path / "scheduler.json", (tmp_path / "dask.log").open("w")
    dask = [sys.executable, "-m", "dask"]
    commands = [
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        [*dask, "worker", "--scheduler-file", str(file), "--host", "127.0.0.1", "--nworkers", "1", "--nthreads", "1",
         "--no-dashboard", "--local-directory", str(tmp_path)],
    ]  # fmt: skip
    with log:
        started = [subprocess.Popen(c, stdout=log, stderr=log, env=env, start_new_session=True) for c in commands]
        try:
            deadline = time.monotonic() + 120
            while not file.is_file() or not file.read_text():
                assert time.monotonic() < deadline, (tmp_path / "dask.log").read_text()
                time.sleep(0.2)
            yield json.loads(file.read_text())["address"]
        finally:
            for process in reversed(started):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.long
def test_a_cluster_elsewhere_trains_in_a_new_home_and_tells_how_far_it_is(
    own_home: Path, small: Path, scheduler: str, prefect_server: str
) -> None:
    words = ("boosted_trees", "--dataset", small, "--set", "boosted_trees.rounds=5", "--dask", scheduler)
    running = begin(own_home, *words, PREFECT_API_URL=prefect_server)
    _, err = running.communicate(timeout=500)
    assert running.returncode == 0, err
    assert "boosted_trees: training boosted_trees" in err, "progress comes back from the workers"
    registry = ModelRegistry(settings=Settings(home=own_home))
    (version,) = registry.versions("boosted_trees-small")
    assert (version.version, version.status) == ("1.0.0", "registered") and registry.verify().ok


def until(running: subprocess.Popen[str], words: str) -> None:
    """Reads what a command tells of its progress, up to a line with `words` in it."""
    assert running.stderr is not None
    told = []
    for line in running.stderr:
        told.append(line)
        if words in line:
            return
    raise AssertionError(f"ended before: {told}")


@pytest.mark.parametrize(
    ("place", "number", "code"),
    [pytest.param("local", signal.SIGTERM, 143, marks=pytest.mark.long), ("off", signal.SIGINT, 130)],
)
def test_what_is_interrupted_leaves_no_process_and_no_number_behind(
    own_home: Path, small: Path, prefect_server: str, place: str, number: int, code: int
) -> None:
    running = begin(
        own_home, "boosted_trees", "--dataset", small, *ENDLESS, "--dask", place, PREFECT_API_URL=prefect_server
    )
    until(running, "boosted_trees: training")
    if number == signal.SIGINT:  # as a terminal's Ctrl-C: to all of them
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, err = running.communicate(timeout=120)
    assert running.returncode == code and "Traceback" not in err, err
    deadline = time.monotonic() + 30
    while left_of(running.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_of(running.pid)
    assert not ModelRegistry(settings=Settings(home=own_home)).models()
    assert not list((own_home / "locks").glob("*.stop")) and not list((own_home / "runs").glob("*/*"))
