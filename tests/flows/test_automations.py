"""From an alarm to a retraining by itself: a real Prefect server, our automation, a process that serves `retrain`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.system.supervisor import claimed_port
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE
from tests.monitoring.conftest import day

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(900)]

SERVE = """
from robustidps.flows import embedded
from robustidps.settings import get_settings
embedded(get_settings())
from robustidps.flows.retrain import retrain
retrain.serve(name="retrain")
"""
AUTOMATE = """
import asyncio, time
from prefect import get_client
from robustidps.flows.automations import ensure_automations

async def found():
    async with get_client() as client:
        return [d.id for d in await client.read_deployments() if d.name == "retrain"]

for _ in range(240):
    ids = asyncio.run(found())
    if ids:
        break
    time.sleep(0.5)
first, second = ensure_automations(ids[0]), ensure_automations(ids[0])
assert first == second, "the automation was made twice"
"""
RUNS = """
import asyncio, json
from prefect import get_client

async def runs():
    async with get_client() as client:
        found = await client.read_flow_runs()
        print(json.dumps([[r.parameters, r.state.type.value] for r in found if r.deployment_id]))

asyncio.run(runs())
"""


def test_an_alarm_starts_a_retraining_which_finds_no_labels_and_says_so(tmp_path: Path):
    home = tmp_path / "home"
    registry = ModelRegistry(settings=Settings(home=home))
    registry.register_model("toy", "1.0.0", toy_bundle(tmp_path / "b", rows=4_000).path)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    (home / "configs").mkdir()
    (home / "configs" / "drift.yaml").write_text("windows: {k: 1, n: 1, evidently: never}\n")
    day(0, moved=2.0).write(home / "incoming" / "day.parquet")
    processes = []
    with claimed_port(4291) as port:
        env = os.environ | {
            "ROBUSTIDPS_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

        def run(code: str) -> str:
            done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            return done.stdout

        def start(*words: str) -> None:
            log = (tmp_path / f"{len(processes)}.log").open("wb")
            processes.append(
                subprocess.Popen([sys.executable, *words], env=env, stdout=log, stderr=log, start_new_session=True)
            )

        try:
            start("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
            _answering(f"http://127.0.0.1:{port}/api/health")
            start("-c", SERVE)
            run(AUTOMATE)
            done = subprocess.run(
                [sys.executable, "-m", "robustidps", "monitor", "toy", "--json"],
                env=env,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            window = json.loads(done.stdout)["models"]["toy"]["windows"][0]
            assert window["status"] == "alarm"
            runs = []
            for _ in range(240):
                runs = json.loads(run(RUNS).strip().splitlines()[-1])
                if runs and runs[0][1] in ("COMPLETED", "FAILED", "CRASHED"):
                    break
                time.sleep(1)
            assert runs == [[{"model": "toy", "window": window["window"]}, "COMPLETED"]], runs
        finally:
            for process in reversed(processes):
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    last = registry.history("toy")[-1]
    assert (last.action, last.verdict) == ("retrain", "hold") and "no source of labels" in last.reasons[0]


def _answering(url: str) -> None:
    for _ in range(360):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("Prefect's server didn't start")
