"""One supervisor a home; what ends is started again; nothing is left running, however the supervisor ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from robustidps.errors import ConfigError, ConflictError, IntegrityError, StorageError, UnavailableError
from robustidps.flows import embedded
from robustidps.settings import Settings, make_settings
from robustidps.system import record as records
from robustidps.system import supervisor as supervising
from robustidps.system.prefect_api import POOL, give_up, scheduled
from robustidps.system.processes import MARK, born, end_marked, marked
from robustidps.system.report import status
from robustidps.system.services import HOST, Service, common_environment, prefect_environment, services
from robustidps.system.supervisor import answers, claimed_port, running, stop
from robustidps.testing.web import serving

SMALL = Path(__file__).with_name("small_service.py")


def small(name: str, *, after: tuple[str, ...] = (), broken: Path | None = None) -> Service:
    words = [sys.executable, "-I", "-S", str(SMALL)]
    return Service(
        name=name,
        title=name.capitalize(),
        what="a test",
        port=1,  # nobody's: any free one
        health="/",
        command=lambda ports: [*words, str(ports[name]), *([str(broken)] if broken else [])],
        after=after,
        grace_s=1.0,
    )


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home")


def until(true, look=lambda: None, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it didn't come about"
        look()
        time.sleep(0.02)


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with claimed_port(port) as found:
            assert found != port


def test_two_that_start_at_once_get_different_ports():
    with claimed_port(0) as first, claimed_port(first) as second:
        assert first != second
    with claimed_port(first) as again:
        assert again == first


def test_services_start_in_order_and_end_with_their_helpers(settings):
    told: list[str] = []
    with running(settings, listed=[small("second", after=("first",)), small("first")], tell=told.append) as up:
        by_name = {s.name: s for s in up.record.services}
        assert by_name["first"].since <= by_name["second"].since
        assert all(answers(s.url) for s in up.record.services)
        assert len(marked(up.record.mark)) == 4  # two, each with a helper in a session of its own
        assert status(settings)["state"] == "up" and all(s["healthy"] for s in status(settings)["services"])
    assert marked(up.record.mark) == []
    assert not any(answers(s.url) for s in up.record.services)
    assert status(settings)["state"] == "down" and status(settings)["leftovers"] == 0


def test_once_a_service_has_ended_the_rest_of_its_work_is_done_while_what_it_needs_still_runs(settings):
    def afterwards(ports) -> list[str]:
        return [f"{name} answers: {answers(f'http://{HOST}:{ports[name]}')}" for name in ("first", "second")]

    def fails(ports) -> list[str]:
        raise UnavailableError("it is gone")

    told: list[str] = []
    second, third = (replace(small(n), afterwards=f) for n, f in (("second", afterwards), ("third", fails)))
    with running(settings, listed=[small("first"), second, third], tell=told.append) as up:
        pass
    assert told[-3:] == ["it is gone", "first answers: True", "second answers: False"]
    assert marked(up.record.mark) == []


@pytest.mark.parametrize("there", [True, False], ids=["hangs", "is gone"])
def test_a_prefect_server_that_does_not_answer_holds_up_no_end(there):
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        if there:
            silent.listen()
        with pytest.raises(UnavailableError, match="can't be given up"):
            give_up(f"http://{HOST}:{silent.getsockname()[1]}", POOL, within_s=0.5)


def test_prefects_password_is_sent_where_there_is_one_and_garbage_is_an_error_of_ours(monkeypatch):
    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            known = self.headers.get("Authorization") == f"Basic {base64.b64encode(b'admin:secret').decode()}"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b"[]" if known else b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Garbage(Server):
        def do_POST(self) -> None:
            self.wfile.write(b"no status line\r\n\r\n")

    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    with serving(Server) as address:
        assert give_up(address, POOL, within_s=60) == [] and scheduled(address) == []
        monkeypatch.delenv("PREFECT_API_AUTH_STRING")
        with pytest.raises(UnavailableError, match="401"):
            give_up(address, POOL, within_s=60)
    with serving(Garbage) as address, pytest.raises(UnavailableError, match="no status line"):
        give_up(address, POOL, within_s=60)


def test_the_next_start_has_the_same_ports(settings):
    with running(settings, listed=[small("one")]) as up:
        port = up.ports["one"]
    with running(settings, listed=[small("one")]) as up:
        assert up.ports["one"] == port
    told: list[str] = []
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen()
        with running(settings, listed=[small("one")], tell=told.append) as up:
            assert up.ports["one"] != port
        assert told == [f"port {port} is taken: One gets {up.ports['one']}"]
        with (
            pytest.raises(ConflictError, match=f"port {port} is taken"),
            running(settings, listed=[small("one")], ports={"one": port}),
        ):
            pass
    assert records.supervisor_of(settings) is None


def test_a_port_for_a_service_that_there_is_not_is_refused(settings):
    with pytest.raises(ConfigError, match="no service 'mlfow'"), running(settings, ports={"mlfow": 5001}):
        pass


def test_a_second_system_of_the_same_home_is_refused_and_says_what_is_up(settings):
    with running(settings, listed=[small("one")]) as up:
        with pytest.raises(ConflictError, match="is up already") as refused, running(settings, listed=[small("one")]):
            pass
        assert up.record.services[0].url in refused.value.problem
        assert answers(up.record.services[0].url)


@pytest.mark.fault("a service of `robustidps up` killed (SIGKILL)", "started again")
def test_what_is_killed_is_started_again_without_its_old_helper(settings):
    told: list[str] = []
    with running(settings, listed=[small("one")], tell=told.append) as up:
        first = up.record.services[0].pid
        os.kill(first, signal.SIGKILL)
        until(lambda: up.record.services[0].restarts == 1 and up.record.services[0].state == "up", up.look)
        assert up.record.services[0].pid != first
        assert len(marked(up.record.mark)) == 2
        assert "ended by signal 9" in records.read(settings).services[0].last_end
    assert told[0] == "One ended by signal 9; starting it again now" and told[-1] == "One answers again"


def test_what_ends_again_and_again_is_started_after_ever_longer_pauses(settings, tmp_path):
    broken, told = tmp_path / "broken", []
    with running(settings, listed=[small("one", broken=broken)], tell=told.append) as up:
        broken.touch()
        os.kill(up.record.services[0].pid, signal.SIGKILL)
        until(lambda: up.record.services[0].restarts == 3, up.look)
        assert [t.rpartition("again ")[2] for t in told] == ["now", "in 1 s", "in 2 s"]
        assert "exit code 1" in told[-1]
        broken.unlink()
        until(lambda: up.record.services[0].state == "up", up.look)


def test_what_hangs_is_started_again(settings, monkeypatch):
    with running(settings, listed=[small("one")]) as up:
        monkeypatch.setattr(supervising, "HUNG_S", 0.5)
        first = up.record.services[0].pid
        os.kill(first, signal.SIGSTOP)
        until(lambda: up.record.services[0].pid not in (first, None) and up.record.services[0].state == "up", up.look)
        assert "did not answer" in up.record.services[0].last_end


def test_one_that_does_not_start_ends_all_and_names_its_log(settings, tmp_path):
    (tmp_path / "broken").touch()
    listed = [small("one"), small("two", broken=tmp_path / "broken")]
    with (
        pytest.raises(UnavailableError, match="Two didn't start: can't: it is broken") as failed,
        running(settings, listed=listed),
    ):
        pass
    assert failed.value.where.endswith("logs/two.log")
    assert marked(records.read(settings).mark) == []


SUPERVISED = """
import sys, time
sys.path.insert(0, {folder!r})
from test_supervisor import small
from robustidps.settings import Settings
from robustidps.system.supervisor import running
with running(Settings(home={home!r}), listed=[small("one")]) as up:
    while True:
        up.look(); time.sleep(0.1)
"""


@pytest.fixture
def supervised(settings):
    """A supervisor in a process of its own, up; and its mark."""
    code = SUPERVISED.format(folder=str(SMALL.parent), home=str(settings.home))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        until(lambda: (r := records.read(settings)) and r.pid == process.pid and r.state == "up")
        mark = records.read(settings).mark
        yield process, mark
        process.kill()
    end_marked(mark)


@pytest.mark.fault("`robustidps up` killed (SIGKILL)", "nothing of it runs on")
def test_a_killed_supervisor_leaves_nothing_running(settings, supervised):
    process, mark = supervised
    assert len(marked(mark)) == 2
    process.kill()
    process.wait()
    until(lambda: not marked(mark))
    assert records.supervisor_of(settings) is None


def test_what_a_killed_one_left_without_a_watchdog_is_ended_by_the_next(settings, supervised):
    process, mark = supervised
    watchdogs = [p for p in _children(process.pid) if mark.encode() in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.kill(watchdogs[0], signal.SIGSTOP)  # kept from its work, as if it had been killed in the same moment
    process.kill()
    process.wait()
    try:
        assert len(marked(mark)) == 2 and status(settings)["leftovers"] == 2
        told: list[str] = []
        with running(settings, listed=[small("one")], tell=told.append):
            assert marked(mark) == []
        assert told[0] == "ended 2 processes that a killed system had left"
    finally:
        os.kill(watchdogs[0], signal.SIGKILL)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_supervisor_that_is_asked_to_end_ends_and_the_home_is_free(settings, supervised):
    process, mark = supervised
    assert "ended what was up" in _stopped(settings, process)
    assert marked(mark) == []
    assert stop(settings) == "nothing was up"


def _stopped(settings: Settings, process: subprocess.Popen) -> str:
    """`stop`, while this process, the parent, reaps what ends, as a shell does."""
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    try:
        return stop(settings)
    finally:
        reaper.join()


def test_a_number_given_out_again_is_another_process(settings):
    record = records.Record(mark="0" * 32, pid=os.getpid(), born=(born(os.getpid()) or 0) + 1, began=records.now())
    records.write(settings, record)
    assert records.supervisor_of(settings) is None
    assert stop(settings) == "nothing was up"  # and this process is still here


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mark": "../../x", "pid": 1, "born": 1}', b"\xff\xfe"])
def test_a_record_that_is_none_is_as_good_as_no_record(settings, content):
    settings.folder("run").joinpath("up.json").write_bytes(content)
    assert records.read(settings) is None
    assert status(settings)["state"] == "down"
    with running(settings, listed=[small("one")]):
        assert records.supervisor_of(settings) is not None


def test_a_home_that_can_not_be_written_to_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError), running(Settings(home=tmp_path / "file" / "home"), listed=[small("one")]):
        pass


def test_commands_report_to_the_server_that_is_up_for_their_home_only(settings, tmp_path, monkeypatch):
    for key in [*prefect_environment(settings), "PREFECT_API_URL"]:
        monkeypatch.delenv(key, raising=False)
    with running(settings, listed=[small("prefect")]) as up:
        embedded(Settings(home=tmp_path / "another"))
        assert "PREFECT_API_URL" not in os.environ
        embedded(settings)
        assert os.environ["PREFECT_API_URL"] == f"{up.url('prefect')}/api"
        for key in [*prefect_environment(settings), "PREFECT_API_URL"]:
            monkeypatch.setenv(key, "")  # so that what `embedded` has set is taken away afterwards


def test_every_service_binds_loopback_and_no_command_line_holds_an_address_of_a_database(tmp_path):
    address = "postgresql://me:secret@db/x"
    settings = Settings(
        home=tmp_path / "home", mlflow_tracking_uri=address, prefect_database_url=f"{address}?sslmode=a"
    )
    listed = services(settings)
    ports = {s.name: s.port for s in listed}
    for service in listed:
        assert "secret" not in " ".join(service.command(ports)), service.name
        assert set(service.after) <= set(ports)
    environment = common_environment(settings, ports)
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    prefect = environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert prefect == "postgresql+asyncpg://me:secret@db/x?ssl=a"  # asyncpg knows no sslmode
    mlflow = next(s for s in listed if s.name == "mlflow")
    assert mlflow.environment(ports)["MLFLOW_BACKEND_STORE_URI"].endswith("me:secret@db/x")


@pytest.mark.parametrize("address", ["sqlite:///x:secret@y", "postgresql+psycopg://me:secret@db/x", "me:secret@db"])
def test_an_address_that_prefect_could_not_use_is_refused_and_not_shown(tmp_path, address):
    with pytest.raises(ConfigError, match=r"'prefect_database_url'.*must be postgresql://") as refused:
        make_settings(home=tmp_path, prefect_database_url=address)
    assert "secret" not in str(refused.value)


def test_a_database_of_prefect_that_is_not_there_is_named_in_a_line(tmp_path):
    """What `up` shows of a service that ends is the last line that it said."""
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        port = nobody.getsockname()[1]
        address = f"postgresql://me:secret@{HOST}:{port}/x"
        environment = os.environ | {"ROBUSTIDPS_HOME": str(tmp_path), "ROBUSTIDPS_PREFECT_DATABASE_URL": address}
        line = [sys.executable, "-m", "robustidps.flows.server", "--port", "1"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and "Prefect's database doesn't answer" in said and "refused" in said
    assert "check prefect_database_url" in said and str(port) in said and "secret" not in said


def test_mlflow_elsewhere_is_not_started_here(tmp_path):
    settings = Settings(home=tmp_path / "home", mlflow_tracking_uri="https://mlflow.example.org")
    assert [s.name for s in services(settings)] == ["prefect", "worker", "watch", "reports"]


def test_the_key_of_webhooks_is_kept_for_its_owner_alone(settings):
    mlflow = services(settings)[0]
    key = mlflow.environment({})["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]
    assert Fernet(key).decrypt(Fernet(key).encrypt(b"x")) == b"x"
    assert mlflow.environment({})["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] == key
    file = settings.home / "keys" / "mlflow-webhooks.secret"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(IntegrityError, match="by others"):
        mlflow.environment({})
    file.chmod(0o600)
    file.write_bytes(b"no key")
    with pytest.raises(IntegrityError, match="is not a key"):
        mlflow.environment({})


def test_the_record_holds_no_environment(settings, monkeypatch):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "planted-secret")
    with running(settings, listed=[small("one")]) as up:
        assert f"{MARK}={up.record.mark}:one".encode() in Path(
            f"/proc/{up.record.services[0].pid}/environ"
        ).read_bytes().split(b"\0")
        assert "planted-secret" not in json.dumps(records.read(settings).model_dump(mode="json"))
