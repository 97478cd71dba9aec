"""The whole local system for real: MLflow, Prefect, the worker; runs by hand and by the clock; the servers' doors."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from robustidps.flows.deployments import template
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.system import record as records
from robustidps.system.processes import end_marked, marked
from tests.system.local_system import address, asked, command, ended, register_toy, write_toy_rules

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    home = tmp_path_factory.mktemp("at-work")
    write_toy_rules(home)
    return Settings(home=home)


@pytest.fixture(scope="module")
def up(settings):
    """`robustidps up` as a person starts it, in a process that gets Ctrl-C at the end; what is running."""
    log = settings.home / "said.txt"
    line = [sys.executable, "-m", "robustidps", "--home", str(settings.home), "up"]
    with log.open("w") as sink, subprocess.Popen(line, stdout=sink, stderr=sink, start_new_session=True) as process:
        try:
            while "Ctrl-C ends everything" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            record = records.read(settings)
            if record:
                end_marked(record.mark)


@pytest.fixture(scope="module")
def toy(settings, up) -> str:
    return register_toy(settings)


def test_all_are_well_on_loopback_and_say_what_runs_when(settings, up):
    done = command(settings, "status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [s["name"] for s in found["services"]] == ["mlflow", "prefect", "worker", "watch", "reports"]
    assert all(s["healthy"] and urlsplit(s["url"]).hostname == "127.0.0.1" for s in found["services"])
    runs = {r["name"]: r for r in found["runs"]}
    assert runs["train_all"]["schedule"] == "0 2 * * * UTC" and runs["train_all"]["next_run"]
    assert "train_all" in (settings.home / "said.txt").read_text()
    assert found["disk"]["used"] > 0


def test_nothing_listens_elsewhere_than_on_loopback(settings, up):
    import psutil

    pids = set(marked(records.read(settings).mark))
    listening = {
        c.laddr.ip for p in pids for c in psutil.Process(p).net_connections() if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("service", ["mlflow", "prefect"])
@pytest.mark.parametrize("header", [{"Host": "elsewhere.example"}, {"Origin": "https://elsewhere.example"}])
def test_a_page_from_elsewhere_gets_no_answer(settings, up, service, header):
    """By a name that was made to lead here (DNS rebinding), or by asking from another origin."""
    path = {"mlflow": "/api/2.0/mlflow/experiments/search", "prefect": "/api/flows/filter"}[service]
    headers = {"Content-Type": "application/json", **header}
    request = urllib.request.Request(address(settings, service) + path, b"{}", headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code in (400, 403)


def test_a_websocket_from_elsewhere_is_closed(settings, up):
    """Browsers ask nobody before they open one, and events that arrive there can start runs."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    events = address(settings, "prefect").replace("http", "ws") + "/api/events/in"
    with pytest.raises(InvalidStatus) as refused:
        connect(events, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    connect(events).close()


def test_a_second_up_of_this_home_is_refused_and_says_where_the_first_is(settings, up):
    done = command(settings, "up")
    assert done.returncode == 7 and address(settings, "mlflow") in done.stderr


def judged(settings: Settings) -> list[Any]:
    """What runs have decided: the toy's training isn't known, so the rules hold it back, and that is in the ledger."""
    return [d for d in ModelRegistry(settings=settings).history("toy") if "trained on is not known" in str(d.reasons)]


def test_a_run_started_by_hand_finishes(settings, toy):
    """As the form does it: the deployment's parameters are checked against its schema by the server."""
    deployment = asked(settings, "deployments/name/promote/promote", method="GET")
    with pytest.raises(urllib.error.HTTPError) as refused:
        parameters = {"name": toy, "version": "1.0.0", "rules": "no-such-rules"}
        asked(settings, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    assert refused.value.code in (409, 422)
    parameters = {"name": toy, "version": "1.0.0", "stage": "Staging", "rules": "toy"}
    run = asked(settings, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

    found = ended(settings, {"id": {"any_": [run["id"]]}})
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    assert [(d.version, d.to_stage) for d in judged(settings)] == [("1.0.0", "Staging")]


def test_a_run_that_the_clock_starts_finishes(settings, toy):
    deployment = asked(settings, "deployments/name/promote/promote", method="GET")
    before = len(judged(settings))
    parameters = {"name": toy, "version": "1.0.0", "stage": "Production", "rules": "toy"}
    schedule = {"schedule": {"interval": 8.0}, "active": True, "parameters": parameters}
    made = asked(settings, f"deployments/{deployment['id']}/schedules", [schedule])
    found = ended(settings, {"deployment_id": {"any_": [deployment["id"]]}, "tags": {"all_": ["auto-scheduled"]}})
    asked(settings, f"deployments/{deployment['id']}/schedules/{made[0]['id']}", method="DELETE")
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    assert len(judged(settings)) > before


def deployed(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """`robustidps deploy`, which finds the server that is up for its home."""
    return command(settings, "deploy", *words)


def test_deploying_for_containers_makes_a_pool_that_confines_them(settings, up):
    done = deployed(settings, "--pool", "boats", "--type", "docker", "--image", "robustidps:1", "--json")
    assert done.returncode == 0, done.stderr
    pool = asked(settings, "work_pools/boats", method="GET")
    assert pool["type"] == "docker" and pool["base_job_template"] == template("docker")
    queue = asked(settings, "work_pools/boats/queues/training", method="GET")
    assert queue["concurrency_limit"] == 1
    nightly = asked(settings, "deployments/name/train_all/train_all", method="GET")
    assert nightly["job_variables"] == {"image": "robustidps:1"} and nightly["work_queue_name"] == "training"
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["enforce_parameter_schema"] and nightly["entrypoint"] == "robustidps.flows.train_all.train_all"
    refused = deployed(settings, "--pool", "boats")
    assert refused.returncode == 7 and "of type docker" in refused.stderr


@pytest.mark.long
def test_what_a_person_turned_off_stays_off_when_it_is_deployed_again(settings, up):
    before = asked(settings, "deployments/name/train_all/train_all", method="GET")
    path = f"deployments/{before['id']}/schedules/{before['schedules'][0]['id']}"
    asked(settings, path, {"active": False}, method="PATCH")
    done = deployed(settings, "--pool", "jobs", "--type", "kubernetes", "--image", "robustidps:1")
    assert done.returncode == 0, done.stderr
    after = asked(settings, "deployments/name/train_all/train_all", method="GET")
    assert after["work_pool_name"] == "jobs" and [s["active"] for s in after["schedules"]] == [False]
    again = {r["name"]: r for r in json.loads(command(settings, "status", "--json").stdout)["runs"]}
    assert again["train_all"]["is_paused"]


def test_ctrl_c_ends_everything(settings, up):
    """The last of this file: it ends what the others use."""
    record = records.read(settings)
    assert len(marked(record.mark)) >= 3
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    assert marked(record.mark) == []
    for service in record.services:
        with socket.socket() as nobody:
            assert nobody.connect_ex(("127.0.0.1", service.port)) != 0
    assert command(settings, "status").returncode == 6
    assert Path(record.services[0].log).is_file()
