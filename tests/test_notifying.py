"""Messages about decisions over a real mail server and a real web server: in order, signed, at least once, never in the
way, and none to where they shouldn't go."""

from __future__ import annotations

import email
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from pydantic import SecretStr

from robustidps import cli, console, notifying
from robustidps.cli import _app
from robustidps.errors import ConfigError, LedgerError, UnavailableError
from robustidps.notifying import channels, deliver, message, signature
from robustidps.registry import state
from robustidps.settings import Settings
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE, REFUSE, memory_registry

SECRET = "webhook-secret-of-the-test"  # noqa: S105


class Inbox:
    """A web server on loopback that remembers what was posted, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes, str]] = []
        self.answer: int | str = 200
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.got.append((dict(self.headers), body, self.path))
                if inbox.answer == "drip":
                    for _ in range(100):
                        self.wfile.write(b"HTTP/1.1 200 O")
                        self.wfile.flush()
                        time.sleep(0.2)
                elif isinstance(inbox.answer, str):
                    self.send_response(307)
                    self.send_header("Location", inbox.answer)
                    self.end_headers()
                else:
                    self.send_response(inbox.answer)
                    self.end_headers()

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=sesame"

    @property
    def kinds(self) -> list[str]:
        return [json.loads(body)["kind"] for _, body, _ in self.got]


@pytest.fixture
def inbox():
    made = Inbox()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Letters:
    def __init__(self) -> None:
        self.got: list[email.message.Message] = []
        self.users: list[str] = []
        self.refuse = False

    async def handle_DATA(self, server, session, envelope) -> str:
        if self.refuse:
            return "451 come back later, dear webhook-secret-of-the-test"
        self.got.append(email.message_from_bytes(envelope.content))
        return "250 OK"

    def authenticated(self, server, session, envelope, mechanism, data) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == b"mail-password", handled=False)


@pytest.fixture
def letters():
    made = Letters()
    server = Controller(
        made,
        hostname="127.0.0.1",
        port=0,
        authenticator=made.authenticated,
        auth_require_tls=False,
        auth_required=False,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    server.start()
    made.port = server.port
    yield made
    server.stop()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {v: toy_bundle(folder / v, version=v, seed=i).path for i, v in enumerate(("1.0.0", "1.1.0"))}


@pytest.fixture
def registry(tmp_path, bundles):
    made = memory_registry(tmp_path / "home")
    for version, path in bundles.items():
        made.register_model("toy", version, path)
    return made


def told(registry, **settings) -> list[notifying.Channel]:
    return channels(Settings(home=registry.settings.home, **settings))


def hook(inbox) -> dict:
    return {"notify_webhook_url": inbox.url, "notify_webhook_secret": SECRET}


def mail(letters, **more) -> dict:
    fields = {"notify_smtp_host": "127.0.0.1", "notify_smtp_port": letters.port, "notify_smtp_starttls": False}
    return fields | {"notify_mail_from": "ids@example.org", "notify_mail_to": "ann@example.org ben@example.org"} | more


def a_day(registry) -> None:
    """A refusal, two promotions, a rollback, an alarm, a withdrawal."""
    registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    registry.rollback("toy", reason="misses the floods")
    registry.record("toy", "1.0.0", "alarm", reasons=["3 of the last 5 windows drifted"])
    registry.withdraw("toy", "1.1.0", reason="bad labels")


THAT_DAY = ["refusal", "rollback", "alarm", "withdrawal"]


def test_decisions_arrive_in_order_and_once_by_both_ways(registry, inbox, letters):
    through = told(registry, **hook(inbox), **mail(letters))
    assert deliver(registry, through=through).sent == {c.name: 0 for c in through}  # begins at the present end
    a_day(registry)
    done = deliver(registry, through=through)
    assert done.failed == {} and set(done.sent.values()) == {4}
    assert inbox.kinds == THAT_DAY
    subjects = [letter["Subject"].replace("\n", "") for letter in letters.got]
    assert subjects[0] == "[RobustIDPS] toy 1.0.0 was refused for Production"
    assert subjects[1] == "[RobustIDPS] toy was rolled back from 1.1.0 to 1.0.0"
    assert letters.got[1]["To"] == "ann@example.org, ben@example.org"
    assert "misses the floods" in letters.got[1].get_payload()
    assert set(deliver(registry, through=through).sent.values()) == {0} and len(inbox.got) == 4


def test_a_receiver_can_check_who_sent_it_and_tell_a_repeat(registry, inbox):
    through = told(registry, **hook(inbox))
    deliver(registry, through=through)
    a_day(registry)
    deliver(registry, through=through)
    for headers, body, path in inbox.got:
        assert path == "/hook?token=sesame"
        delivery, stamp = headers["X-RobustIDPS-Delivery"], headers["X-RobustIDPS-Timestamp"]
        assert headers["X-RobustIDPS-Signature"] == signature(SECRET, delivery, stamp, body)
        mac = hmac.new(SECRET.encode(), f"{delivery}.{stamp}.".encode() + body, "sha256").hexdigest()
        assert headers["X-RobustIDPS-Signature"] == f"v1={mac}"
        assert abs(int(stamp) - time.time()) < 60 and SECRET.encode() not in body
    assert len({headers["X-RobustIDPS-Delivery"] for headers, _, _ in inbox.got}) == 4


def test_what_a_channel_did_not_take_is_sent_again_in_order_when_it_is_back(registry, inbox, letters):
    through = told(registry, **hook(inbox), **mail(letters))
    deliver(registry, through=through)
    inbox.answer, letters.refuse = 503, True
    a_day(registry)  # decisions are taken as ever
    done = deliver(registry, through=through)
    assert len(done.failed) == 2 and set(done.sent.values()) == {0}
    assert "503" in done.failed[through[0].name] and "451" in done.failed[through[1].name]
    assert SECRET not in str(done.failed) and "sesame" not in str(done.failed)
    inbox.answer = 200
    done = deliver(registry, through=through)
    assert done.sent == {through[0].name: 4, through[1].name: 0}
    letters.refuse = False
    assert deliver(registry, through=through).sent[through[1].name] == 4
    assert inbox.kinds == [THAT_DAY[0], *THAT_DAY]


def test_a_channel_that_fails_is_left_alone_for_longer_each_time(registry, inbox, monkeypatch):
    through = told(registry, **hook(inbox))
    deliver(registry, through=through)
    inbox.answer = 500
    registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE)
    waits = []
    for _ in range(4):
        deliver(registry, through=through)
        with registry.store.read() as connection:
            row = connection.execute(sa.select(state.notified)).mappings().one()
        waits.append((datetime.fromisoformat(row["retry_at"]) - datetime.now(UTC)).total_seconds())
    assert [round(wait / 15) for wait in waits] == [1, 2, 4, 8]
    assert "next try at" in deliver(registry, through=through, patient=True).failed[through[0].name]
    assert len(inbox.got) == 4
    inbox.answer = 200

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(notifying, "datetime", Later)
    assert deliver(registry, through=through, patient=True).failed == {}


def test_a_process_that_is_killed_after_sending_sends_that_one_again_and_no_other(registry, inbox, monkeypatch):
    through = told(registry, **hook(inbox))
    deliver(registry, through=through)
    a_day(registry)
    noted = notifying._note

    def killed(registry, name, **values):
        if len(inbox.got) == 2:
            raise KeyboardInterrupt
        noted(registry, name, **values)

    monkeypatch.setattr(notifying, "_note", killed)
    with pytest.raises(KeyboardInterrupt):
        deliver(registry, through=through)
    monkeypatch.setattr(notifying, "_note", noted)
    deliver(registry, through=through)
    assert inbox.kinds == ["refusal", "rollback", "rollback", "alarm", "withdrawal"]


def test_two_processes_at_once_do_not_send_twice(registry, inbox):
    through = told(registry, **hook(inbox))
    deliver(registry, through=through)
    a_day(registry)
    with registry.store.lock(f"notify-{through[0].name}"):
        assert deliver(memory_registry(registry.settings.home), through=through).sent == {}
    assert deliver(registry, through=through).sent == {through[0].name: 4}


def test_a_webhook_that_redirects_drips_or_is_not_there_fails_in_time(registry, inbox, monkeypatch):
    (channel,) = told(registry, **hook(inbox))
    test = message(registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE))
    other = Inbox()
    inbox.answer = other.url
    with pytest.raises(UnavailableError, match="redirects, which is not followed"):
        channel.send(test)
    assert other.got == []
    monkeypatch.setattr(notifying, "WHOLE_S", 1.0)
    inbox.answer = "drip"
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="took longer than 1 s"):
        channel.send(test)
    assert time.monotonic() - began < 10
    other.server.shutdown()
    other.server.server_close()
    (gone,) = told(registry, notify_webhook_url=other.url, notify_webhook_secret=SECRET)
    with pytest.raises(UnavailableError, match="was not reached"):
        gone.send(test)


@pytest.mark.parametrize(
    "url", ["http://example.org/hook", "ftp://127.0.0.1/", "file:///etc/passwd", "https://u:p@example.org/", "https://"]
)
def test_a_webhook_goes_nowhere_in_the_clear(home, url):
    with pytest.raises(ConfigError) as error:
        channels(Settings(home=home, notify_webhook_url=url, notify_webhook_secret=SECRET))
    assert "u:p" not in str(error.value)


def test_channels_named_by_halves_are_refused(home):
    for settings in (
        {"notify_webhook_url": "https://example.org/"},
        {"notify_smtp_host": "mail.example.org"},
        {"notify_smtp_host": "mail.example.org", "notify_smtp_starttls": False}
        | {"notify_mail_from": "a@example.org", "notify_mail_to": "b@example.org"},
        {"notify_smtp_host": "m", "notify_mail_from": "a@b\r\nBcc: x@y", "notify_mail_to": "b@example.org"},
        {"notify_smtp_host": "m", "notify_mail_from": "a@example.org", "notify_mail_to": ("b@x, c@y",)},
        {"notify_smtp_host": "m", "notify_mail_from": "a@b", "notify_mail_to": "b@c", "notify_smtp_user": "u"},
        {"notify_webhook_url": "https://example.org/", "notify_webhook_secret_file": home / "nowhere"},
    ):
        with pytest.raises(ConfigError):
            channels(Settings(home=home, **settings))


def test_mail_logs_in_with_a_password_from_a_file_and_insists_on_tls(registry, letters, tmp_path):
    (tmp_path / "password").write_text("mail-password\n")
    more = {"notify_smtp_user": "ids", "notify_smtp_password_file": tmp_path / "password"}
    (channel,) = told(registry, **mail(letters, **more))
    assert notifying.try_out([channel]).failed == {} and letters.users == ["ids"]
    (tmp_path / "password").write_text("another")
    (wrong,) = told(registry, **mail(letters, **more))
    failed = notifying.try_out([wrong]).failed[wrong.name]
    assert "SMTPAuthenticationError 535" in failed and "another" not in failed
    (strict,) = told(registry, **mail(letters, notify_smtp_starttls=True))
    assert "SMTPNotSupportedError" in notifying.try_out([strict]).failed[strict.name]
    assert len(letters.got) == 1


def test_texts_of_others_reach_no_header_and_no_terminal(registry, letters, inbox):
    through = told(registry, **hook(inbox), **mail(letters))
    deliver(registry, through=through)
    evil = "x\r\nBcc: eve@example.org\r\n\r\n\x1b[2J\u202egnp"
    registry.withdraw("toy", "1.0.0", reason=evil, actor=evil, actor_source=evil)
    deliver(registry, through=through)
    (letter,) = letters.got
    assert letter["Bcc"] is None and "\x1b" not in letter.get_payload() and "\u202e" not in letter.get_payload()
    assert "\\u001b" not in inbox.got[0][1].decode() and "\\u202e" not in inbox.got[0][1].decode()


def test_nothing_is_told_from_an_edited_ledger(registry, inbox):
    through = told(registry, **hook(inbox))
    deliver(registry, through=through)
    a_day(registry)
    with registry.store.write() as connection:
        connection.execute(sa.text("DROP TRIGGER decision_no_update"))
        connection.execute(sa.text("UPDATE decision SET reasons = '[\"all is well\"]' WHERE action = 'alarm'"))
    with pytest.raises(LedgerError, match="was changed"):
        deliver(registry, through=through)
    assert inbox.got == []


def test_a_wanted_approval_is_told_once_with_what_to_do(registry):
    opened = {"opens": "1a2b3c4d", "expires_at": "2026-03-05T12:00:00+00:00"}
    first = registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE, evidence={"approval": opened})
    again = {"waits_for": "1a2b3c4d"}
    second = registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE, evidence={"approval": again})
    said = message(first)
    assert said.kind == "approval_wanted" and "robustidps approve 1a2b3c4d" in said.text
    assert message(second) is None
    assert message(registry.transition("toy", "1.0.0", "Staging", verdict=APPROVE)) is None


def test_the_command_sends_tests_and_says_what_failed(registry, inbox, monkeypatch, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", "--home", str(registry.settings.home), "notify", *words])
        monkeypatch.setattr(_app, "given", {})
        for shown in (console.out, console.err):
            monkeypatch.setattr(shown, "width", 200)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, _, err = run()
    assert code == 3 and "no channel is set" in err
    monkeypatch.setenv("ROBUSTIDPS_NOTIFY_WEBHOOK_URL", inbox.url)
    monkeypatch.setenv("ROBUSTIDPS_NOTIFY_WEBHOOK_SECRET", SECRET)
    code, out, _ = run("--test")
    assert code == 0 and "1 sent (webhook at 127.0.0.1)" in out and inbox.kinds == ["test"]
    assert run("--json")[0] == 0
    registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE)
    inbox.answer = 503
    code, out, err = run()
    assert code == 6 and "503" in out and "sesame" not in out + err
    inbox.answer = 200
    code, out, _ = run("--json")
    assert code == 0 and list(json.loads(out)["sent"].values()) == [1]


def test_the_command_goes_on_until_it_is_ended(registry, inbox):
    env = os.environ | {"ROBUSTIDPS_NOTIFY_WEBHOOK_URL": inbox.url, "ROBUSTIDPS_NOTIFY_WEBHOOK_SECRET": SECRET}
    words = [sys.executable, "-m", "robustidps", "--home", str(registry.settings.home), "notify", "--every", "1"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE)
    try:
        query = sa.select(sa.func.count()).select_from(state.notified)
        for _ in range(300):
            with registry.store.read() as connection:
                if connection.execute(query).scalar():
                    break
            time.sleep(0.1)
        registry.record_refusal("toy", "1.0.0", "Production", verdict=REFUSE)
        for _ in range(300):
            if inbox.got:
                break
            time.sleep(0.1)
        assert inbox.kinds == ["refusal"]
    finally:
        process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert b"sesame" not in process.stderr.read()


def test_secrets_are_in_no_repr_and_no_error(home, monkeypatch):
    settings = Settings(
        home=home,
        database_url="postgresql://u:hunter2@db/x",
        mlflow_tracking_uri="http://u:hunter2@mlflow/",
        notify_webhook_url="https://example.org/hunter2",
        notify_webhook_secret=SecretStr("hunter2"),
        notify_smtp_password=SecretStr("hunter2"),
    )
    assert "hunter2" not in repr(settings) and "hunter2" not in str(settings)
    for channel in channels(settings):
        assert "hunter2" not in repr(channel) and "hunter2" not in channel.name + channel.where
