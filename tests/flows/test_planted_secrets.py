"""One secret is planted in every place that takes one; then a version is trained, judged, refused and told about, and
things go wrong; and nowhere does any of them turn up: databases, artefacts, ledger, reports, logs, command lines.

Each place has a secret of its own, so that one that leaks says where from.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from robustidps.errors import ConfigError, without_passwords
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, make_settings, parse_yaml
from robustidps.workers import carried

pytestmark = pytest.mark.timeout(600)

MARK = "planted5ecret"
RULES = """
name: asked
evidence: {min_rows: 200, min_blocks: 5}
rules:
  - {kind: threshold, metric: accuracy, min: 0.05}
  - {kind: schema_compatible}
  - {kind: rollback_available, stages: [Production]}
  - {kind: approval}
left_out:
  gain: there is no champion here
  recall_floor: three classes of thirteen occur in the toy traffic
  false_positive_ceiling: the toy model is trained for one epoch
  latency: not what this test is about
  stability: not what this test is about
"""


def secret(place: str) -> str:
    return f"{MARK}-{place}"


@pytest.fixture(scope="module")
def postgresql():
    """An address of a real PostgreSQL with the secret for a password (this server takes any)."""
    pgserver = pytest.importorskip("pgserver")
    # Not below pytest's folder: run by root, PostgreSQL runs as a user who may not look in there.
    folder = Path(tempfile.mkdtemp(prefix="robustidps-postgresql-"))
    running = pgserver.get_server(folder)
    yield running.get_uri().replace("postgres:@", f"postgres:{secret('database')}@")
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def inbox():
    posted: list[tuple[bytes, dict]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append((self.rfile.read(int(self.headers["Content-Length"])), dict(self.headers)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{secret('webhook-path')}", posted
        server.shutdown()


class CommandLines:
    """Every command line on this machine while the block lasts, looked at five times a second."""

    def __enter__(self) -> CommandLines:
        self.seen, self._stop = set(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(file.read_bytes())
                except OSError:
                    continue  # it has ended

    def __exit__(self, *unused) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def told(command, toy, postgresql, inbox, tmp_path_factory):
    """Everything that was done: what commands said, by name; the home; the command lines of all processes."""
    home = tmp_path_factory.mktemp("planted")
    rules = home / "configs" / "promotion" / "asked.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(RULES)
    (home / "settings.yaml").write_text(
        f"notify_smtp_password: {secret('smtp')}\nnotify_smtp_user: ids\nnotify_smtp_host: localhost\n"
        "notify_smtp_port: 9\nnotify_mail_from: ids@example.org\nnotify_mail_to: [ann@example.org]\n"
    )
    (home / "settings.yaml").chmod(0o600)
    env = {
        "ROBUSTIDPS_DATABASE_URL": postgresql,
        "ROBUSTIDPS_NOTIFY_WEBHOOK_URL": inbox[0],
        "ROBUSTIDPS_NOTIFY_WEBHOOK_SECRET": secret("webhook"),
        "AWS_ACCESS_KEY_ID": secret("s3-id"),
        "AWS_SECRET_ACCESS_KEY": secret("s3"),
        "MLFLOW_TRACKING_USERNAME": "ids",
        "MLFLOW_TRACKING_PASSWORD": secret("mlflow"),
        "PREFECT_API_AUTH_STRING": secret("prefect"),
        "QISKIT_IBM_TOKEN": secret("ibm"),
        "ANTHROPIC_API_KEY": secret("llm"),
    }
    train = ("train", "neural_ode", "--dataset", toy, "--name", "toy", "--rules", "asked", "--set", "epochs=1")
    gone = "postgresql://ids:PASSWORD@127.0.0.1:9/ids".replace("PASSWORD", secret("database"))
    done = {}
    with CommandLines() as lines:
        done["notify first"] = command("notify", home=home, **env)
        done["train"] = command(*train, "--promote-to", "Production", home=home, **env)
        (wanted,) = json.loads(command("approvals", "--json", home=home, **env).stdout)
        done["promote"] = command("promote", "toy", "1.0.0", "--rules", "asked", home=home, **env)
        done["refuse"] = command("refuse", wanted["id"], "--reason", "no", home=home, **env)
        done["notify"] = command("notify", home=home, **env)
        for words in (
            ("history", "toy", "--json"),
            ("models",),
            ("doctor",),
            ("gc", "--dry-run"),
            ("registry", "repair"),
        ):
            done[" ".join(words)] = command(*words, home=home, **env)
        for what, url in {
            "a server that is gone": gone,
            "in the query": f"postgresql://ids@127.0.0.1:9/ids?password={secret('database')}&connect_timeout=2",
            "a port that is none": gone.replace(":9/", ":port/"),
            "another database": gone.replace("postgresql", "mysql"),
            "another driver": gone.replace("postgresql", "postgresql+nosuch"),
            "no address": secret("database"),
        }.items():
            for more in ((), ("--debug",)) if url in (gone, secret("database")) else ((),):
                name = f"{what} {' '.join(more)}"
                try:
                    done[name] = command(*more, "models", home=home, **env | {"ROBUSTIDPS_DATABASE_URL": url})
                except Exception as error:  # noqa: BLE001 - with --debug our errors come out as they are
                    done[name] = (1, "", _traceback(error))
        mlflow = {"ROBUSTIDPS_MLFLOW_TRACKING_URI": f"http://ids:{secret('mlflow-url')}@127.0.0.1:9"}
        done["mlflow is gone"] = command("doctor", home=home, **env | mlflow)
    return done, home, lines.seen


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


@pytest.mark.long
def test_the_commands_did_what_they_are_there_for(told, inbox):
    done, *_ = told
    codes = {name: result[0] for name, result in done.items() if "--debug" not in name}
    assert (codes.pop("notify first"), codes.pop("notify")) == (0, 6)  # mail has no server to go to
    assert (codes.pop("train"), codes.pop("promote"), codes.pop("refuse")) == (4, 4, 0)  # waits for a person
    assert {codes[n] for n in codes if n.startswith(("history", "models", "gc", "registry"))} == {0}
    broken = {n.strip(): code for n, code in codes.items() if n.strip() in ("a port that is none", "no address")}
    assert set(broken.values()) == {3} and codes["a server that is gone "] == 6
    kinds = [json.loads(body)["kind"] for body, _ in inbox[1]]
    assert kinds == ["approval_wanted", "refusal"]


@pytest.mark.long
def test_nothing_that_was_printed_or_sent_holds_a_secret(told, inbox):
    for name, result in told[0].items():
        assert MARK not in result[1] + result[2], name
    for body, headers in inbox[1]:
        assert MARK.encode() not in body and MARK not in str(headers)


@pytest.mark.long
def test_no_file_of_the_installation_holds_one(told):
    _, home, _ = told
    places = [home, Path(os.environ["PREFECT_HOME"]), Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])]
    files = [p for place in places for p in place.rglob("*") if p.is_file() and p != home / "settings.yaml"]
    assert {"mlflow.db", "prefect.db"} <= {p.name for p in files} and len(files) > 30
    assert [p for p in files if MARK.encode() in p.read_bytes()] == []
    with sqlite3.connect(home / "mlflow.db") as database:
        assert any(MARK not in row for row in database.iterdump())
        assert not any(MARK in row for row in database.iterdump())


@pytest.mark.long
def test_neither_does_the_ledger_nor_any_table_beside_it(told, postgresql):
    import sqlalchemy as sa

    _, home, _ = told
    registry = ModelRegistry(settings=Settings(home=home, database_url=postgresql))
    with registry.store.read() as connection:
        tables = sa.inspect(connection).get_table_names()
        assert {"decision", "approval", "notified", "version"} <= set(tables)
        for table in tables:
            rows = connection.execute(sa.text(f"SELECT * FROM {table}")).all()  # noqa: S608 - our own tables
            assert MARK not in str(rows), table
        assert connection.execute(sa.text("SELECT count(*) FROM decision")).scalar() >= 5
    assert MARK not in registry.store.where and MARK not in repr(registry.settings)
    registry.store.close()


@pytest.mark.long
def test_no_process_has_one_on_its_command_line(told):
    seen = told[2]
    assert any(b"prefect" in line or b"python" in line for line in seen)
    assert [line for line in seen if MARK.encode() in line] == []


# --- where secrets are handled, one by one


def test_a_wrong_setting_is_named_without_its_value(home, monkeypatch):
    for key in ("notify_webhook_url", "notify_smtp_password", "database_url", "mlflow_tracking_uri"):
        with pytest.raises(ConfigError) as error:
            make_settings(home=home, **{key: [secret(key)]})
        assert MARK not in str(error.value) and key in str(error.value)
    with pytest.raises(ConfigError) as error:
        make_settings(home=home, dask=f"tcp://me:{secret('dask')}@host:1")
    assert MARK not in str(error.value)


def test_a_settings_file_with_a_secret_that_others_can_read_is_refused(home):
    home.mkdir(parents=True)
    file = home / "settings.yaml"
    file.write_text(f"notify_smtp_password: {secret('yaml')}\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others") as error:
        make_settings(home=home)
    assert MARK not in str(error.value)
    file.chmod(0o600)
    assert make_settings(home=home).notify_smtp_password.get_secret_value() == secret("yaml")


@pytest.mark.parametrize("line", ['notify_smtp_password: "SECRET', "notify_smtp_password: SECRET: x", "- SECRET: *x"])
def test_a_settings_file_that_is_no_yaml_is_not_repeated(home, line):
    home.mkdir(parents=True)
    (home / "settings.yaml").write_text("author: me\n" + line.replace("SECRET", secret("yaml")))
    with pytest.raises(ConfigError, match="not readable as plain YAML") as error:
        Settings(home=home)
    assert MARK not in str(error.value)
    with pytest.raises(ConfigError):
        parse_yaml(line, "here")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u:p@ss/w@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u@h/x?password=p&sslmode=require", "postgresql://u@h/x?password=***&sslmode=require"),
        ("can't reach http://u:p@h:5000/#/m now", "can't reach http://u:***@h:5000/#/m now"),
        ("http://h:5000/#/models", "http://h:5000/#/models"),
        ("https://h/hook?token=p", "https://h/hook?token=***"),
    ],
)
def test_addresses_are_shown_without_passwords(url, shown):
    assert without_passwords(url) == shown


def test_settings_travel_to_workers_without_secrets_and_show_none(home):
    settings = Settings(
        home=home,
        database_url=f"postgresql://u:{secret('database')}@h/x",
        notify_smtp_password=secret("smtp"),
        notify_webhook_url=f"https://h/{secret('webhook')}",
    )
    safe = carried(settings, "tls://elsewhere:8786")
    assert secret("database") in safe["database_url"], "over TLS the worker needs it"
    assert MARK not in repr(safe) and secret("smtp") not in str(dict(safe)) and "notify_webhook_url" not in safe
    assert MARK not in str(dict(carried(settings, "tcp://elsewhere:8786")))
