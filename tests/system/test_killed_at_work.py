"""`up` killed, or ended, in the middle of a training: nothing is left running, the run is given up, the next one finds
room."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from robustidps.settings import Settings
from robustidps.system import record as records
from robustidps.system.processes import end_marked, marked
from tests.system.local_system import asked, ran

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def until_it_runs(settings: Settings, run: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while (state := asked(settings, f"flow_runs/{run}", method="GET")["state"])["type"] != "RUNNING":
        assert time.monotonic() < deadline and state["type"] in ("SCHEDULED", "PENDING"), state
        time.sleep(0.5)


def kept_state(settings: Settings, run: str) -> tuple[str, str]:
    """Type and message of a run's state in Prefect's database, once its server has ended."""
    with closing(sqlite3.connect(settings.home / "prefect" / "prefect.db")) as database:
        query = "SELECT type, message FROM flow_run_state WHERE flow_run_id = ? ORDER BY timestamp DESC LIMIT 1"
        return tuple(database.execute(query, [run]).fetchone())


@pytest.mark.fault("`robustidps up` killed (SIGKILL) during a training", "the run is given up, the next one runs")
def test_a_training_whose_system_is_killed_is_given_up_and_the_next_one_runs(tmp_path):
    settings = Settings(home=tmp_path / "home")
    try:
        ran(settings, "up", "--detach")
        train = asked(settings, "deployments/name/train/train", method="GET")
        start = f"deployments/{train['id']}/create_flow_run"
        first = asked(settings, start, {})["id"]
        until_it_runs(settings, first)
        second = asked(settings, start, {})["id"]
        time.sleep(12)
        assert asked(settings, f"flow_runs/{second}", method="GET")["state"]["type"] == "SCHEDULED"  # it waits
        killed = records.supervisor_of(settings)
        os.kill(killed.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while marked(killed.mark):
            assert time.monotonic() < deadline, "something is left running"
            time.sleep(0.2)
        ran(settings, "up", "--detach")
        assert records.read(settings).ports == killed.ports
        given_up = asked(settings, f"flow_runs/{first}", method="GET")["state"]
        assert (given_up["type"], given_up["message"]) == ("CRASHED", "its worker ended")
        until_it_runs(settings, second)  # the one that was killed holds no place in a limit
        ran(settings, "down")
        kind, message = kept_state(settings, second)  # by the run itself where it had the time, else by who ended it
        assert kind == "CRASHED" and message in ("its worker ended", "Execution was aborted by a termination signal.")
    finally:
        ran(settings, "down")
        record = records.read(settings)
        if record:
            end_marked(record.mark)
