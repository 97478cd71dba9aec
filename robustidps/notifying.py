"""Tells people what was decided: refusals, rollbacks, alarms, withdrawals, updates turned away, approvals wanted.

    channels   what the settings name: a webhook, e-mail
    deliver    sends each channel what it hasn't had yet

Messages are made from the signed ledger and from nothing else, so they can be sent at any later time, by any process,
and none is lost: a channel's place in the ledger is kept in the table `notified` and moves on only after a message was
taken. A crash in between sends that one again. Decisions never wait for this: nothing here is called by who decides.

A channel that fails is left alone for a while, longer each time; the others go on. A new one, or one whose address
changes, begins at the present end of the ledger.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import SecretStr

from robustidps.errors import ConfigError, ConflictError, UnavailableError, printable
from robustidps.registry import state
from robustidps.registry.ledger import Decision
from robustidps.registry.stages import TURNED_AWAY
from robustidps.settings import Settings
from robustidps.workers import is_loopback

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["Channel", "Delivered", "Message", "channels", "deliver", "message", "signature", "try_out"]

SILENCE_S = 10.0  # one step of a delivery
WHOLE_S = 20.0  # all of it
RETRY_FIRST_S, RETRY_MOST_S = 15.0, 3600.0
KINDS = {
    "refuse": "refusal",
    "rollback": "rollback",
    "alarm": "alarm",
    "withdraw": "withdrawal",
    "freeze": "freeze",
    "thaw": "thaw",
    TURNED_AWAY: "update_turned_away",
}
"""Decisions that people are told of, and what that is called."""


@dataclass(frozen=True)
class Message:
    """What is said about one decision. seq: its row in the ledger; together with `hash` it names the message."""

    kind: str
    seq: int
    hash: str
    time: datetime
    subject: str
    text: str
    facts: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.seq}-{self.hash[:16]}"


class Channel(Protocol):
    """A way to people. `name` stays the same as long as the address does."""

    name: str
    where: str

    def send(self, message: Message) -> None:
        """Raises UnavailableError where it wasn't taken."""


@dataclass(frozen=True)
class Delivered:
    """What one call did: messages sent by channel, and what went wrong by channel."""

    sent: dict[str, int]
    failed: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {"sent": self.sent, "failed": self.failed}


def message(decision: Decision) -> Message | None:
    """What people are told about a decision; None where it is nothing to tell."""
    kind = KINDS.get(decision.action)
    if kind is None:
        return None
    part = decision.evidence.get("approval")
    part = part if isinstance(part, dict) else {}
    if decision.action == "refuse" and "waits_for" in part:
        return None  # they were told when it was asked for
    wanted = part.get("opens")
    if decision.action == "refuse" and wanted:
        kind = "approval_wanted"
    version = decision.version or "?"
    said = {
        "refusal": f"{decision.model} {version} was refused for {decision.to_stage}",
        "approval_wanted": f"{decision.model} {version} waits for approval for {decision.to_stage}",
        "rollback": f"{decision.model} was rolled back from {decision.from_version} to {version}",
        "alarm": f"alarm about {decision.model} {version}",
        "withdrawal": f"{decision.model} {version} was withdrawn",
        "freeze": f"{decision.model} is frozen",
        "thaw": f"{decision.model} is no longer frozen",
        "update_turned_away": f"an update of {decision.model} to {version} was turned away"
        if decision.version
        else f"updates of {decision.model}: the remote registry was turned away",
    }[kind]
    subject = printable(said, 150)
    lines = [subject, "", f"by {printable(decision.actor, 200)} ({printable(decision.actor_source, 64)})"]
    lines += [f"at {decision.time:%Y-%m-%d %H:%M:%S} UTC, ledger row {decision.seq}"]
    lines += [""] + [f"- {printable(reason, 500)}" for reason in decision.reasons[:20]]
    if kind == "approval_wanted":
        known = printable(wanted, 32)
        lines += ["", f"until {printable(part.get('expires_at'), 40)}; somebody who has not asked for it:"]
        lines += [f"    robustidps approvals {known}", f"    robustidps approve {known} --reason '...'"]
    facts: dict[str, Any] = {
        "id": f"{decision.seq}-{decision.hash[:16]}",
        "kind": kind,
        "model": decision.model,
        "version": decision.version,
        "stage": decision.to_stage,
        "actor": printable(decision.actor, 200),
        "actor_source": printable(decision.actor_source, 64),
        "time": decision.time.isoformat(),
        "reasons": [printable(reason, 500) for reason in decision.reasons[:20]],
        "ledger_row": decision.seq,
        "approval": wanted,
    }
    text = "\n".join(lines)
    facts["text"] = text  # what chat systems show
    return Message(kind, decision.seq, decision.hash, decision.time, subject, text, facts)


def channels(settings: Settings) -> list[Channel]:
    """The channels that the settings name. Raises ConfigError where one is named by halves."""
    found: list[Channel] = []
    if settings.notify_webhook_url is not None:
        secret = _secret(settings, "notify_webhook_secret")
        if secret is None:
            raise ConfigError(
                "a webhook needs a secret to sign with",
                where="notify_webhook_url",
                remedy="set ROBUSTIDPS_NOTIFY_WEBHOOK_SECRET, or notify_webhook_secret_file",
            )
        found.append(Webhook(settings.notify_webhook_url, secret))
    if settings.notify_smtp_host is not None:
        if not settings.notify_mail_from or not settings.notify_mail_to:
            raise ConfigError("mail needs a sender and recipients", where="notify_mail_from, notify_mail_to")
        found.append(Mail(settings, _secret(settings, "notify_smtp_password")))
    return found


def _secret(settings: Settings, key: str) -> SecretStr | None:
    given: SecretStr | None = getattr(settings, key)
    file: Path | None = getattr(settings, f"{key}_file")
    if given is not None or file is None:
        return given
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read: {type(error).__name__}", where=f"{key}_file {file}") from None
    if not text:
        raise ConfigError("is empty", where=f"{key}_file {file}")
    return SecretStr(text)


def deliver(registry: ModelRegistry, *, through: list[Channel] | None = None, patient: bool = False) -> Delivered:
    """Sends each channel, in order, what it hasn't had yet.

    Args:
        through: channels; default: those of the registry's settings.
        patient: leave alone a channel that has failed until its time to be tried again has come.

    Raises:
        LedgerError: a record was edited: nothing is told from it. ConfigError.
    """
    sent: dict[str, int] = {}
    failed: dict[str, str] = {}
    for channel in channels(registry.settings) if through is None else through:
        try:
            with registry.store.lock(f"notify-{channel.name}", timeout_s=0.2):
                count, problem = _serve(registry, channel, patient)
        except ConflictError:
            continue  # another process serves it
        sent[channel.name] = count
        if problem:
            failed[channel.name] = problem
    return Delivered(sent, failed)


def _serve(registry: ModelRegistry, channel: Channel, patient: bool) -> tuple[int, str | None]:
    row = _place(registry, channel.name)
    now = datetime.now(UTC)
    if patient and row["retry_at"] and datetime.fromisoformat(row["retry_at"]) > now:
        return 0, f"{channel.where}: failed {row['failures']} times, next try at {row['retry_at']}"
    with registry.store.read() as connection:
        due = registry.ledger.checked_after(connection, row["seq"])
    count = 0
    for decision in due:
        told = message(decision)
        if told is not None:
            try:
                channel.send(told)
            except UnavailableError as error:
                failures = row["failures"] + 1 if count == 0 else 1
                wait = min(RETRY_FIRST_S * 2.0 ** min(failures - 1, 20), RETRY_MOST_S)
                again = (datetime.now(UTC) + timedelta(seconds=wait)).isoformat(timespec="seconds")
                _note(registry, channel.name, failures=failures, retry_at=again)
                return count, str(error)
            count += 1
        # Each for itself: what was sent before a crash is not sent again.
        if told is not None or decision is due[-1]:
            _note(registry, channel.name, seq=decision.seq, failures=0, retry_at=None)
    return count, None


def _place(registry: ModelRegistry, name: str) -> dict[str, Any]:
    """Where a channel stands; a new one stands at the present end."""
    query = sa.select(state.notified).where(state.notified.c.channel == name)
    with registry.store.write() as connection:
        row = connection.execute(query).mappings().first()
        if row is None:
            end = connection.execute(sa.select(sa.func.max(state.decision.c.seq))).scalar() or 0
            values = {"channel": name, "seq": end, "at": _now(), "failures": 0, "retry_at": None}
            connection.execute(sa.insert(state.notified).values(**values))
            return values
        return dict(row)


def _note(registry: ModelRegistry, name: str, **values: Any) -> None:
    with registry.store.write() as connection:
        update = sa.update(state.notified).where(state.notified.c.channel == name)
        connection.execute(update.values(at=_now(), **values))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def try_out(through: list[Channel]) -> Delivered:
    """Sends a message of no consequence through each channel."""
    now = datetime.now(UTC)
    text = "A test of this channel by robustidps notify --test."
    facts = {"id": "0-test", "kind": "test", "time": now.isoformat(), "text": text}
    told = Message("test", 0, "test", now, "test", text, facts)
    sent: dict[str, int] = {}
    failed: dict[str, str] = {}
    for channel in through:
        try:
            channel.send(told)
            sent[channel.name] = 1
        except UnavailableError as error:
            sent[channel.name], failed[channel.name] = 0, str(error)
    return Delivered(sent, failed)


# --- webhook


def signature(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """`v1=` and the hex HMAC-SHA256, keyed with the secret, of `DELIVERY.TIMESTAMP.` and the body; what a receiver
    computes and compares in constant time, after it has looked at how old the timestamp is."""
    signed = f"{delivery}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Webhook:
    """POSTs JSON, signed. https alone, but for loopback; a redirect is a failure, wherever it leads."""

    def __init__(self, url: SecretStr, secret: SecretStr) -> None:
        self._url, self._secret = url.get_secret_value(), secret
        try:
            parts = urlsplit(self._url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            raise ConfigError("is not an address", where="notify_webhook_url") from None
        if parts.scheme not in ("https", "http") or not self._host:
            raise ConfigError("is not an https address", where="notify_webhook_url")
        if parts.scheme == "http" and not is_loopback(self._url):
            raise ConfigError(
                "is plain http to another machine", where=f"notify_webhook_url ({self._host})", remedy="use https"
            )
        if parts.username or parts.password:
            raise ConfigError("holds a password", where="notify_webhook_url", remedy="the signature is what it is for")
        self._tls = parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.name = "webhook-" + hashlib.sha256(self._url.encode()).hexdigest()[:12]
        self.where = f"webhook at {self._host}"  # the rest of the address is often a secret

    def send(self, message: Message) -> None:
        body = json.dumps(message.facts, ensure_ascii=True).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "robustidps",
            "X-RobustIDPS-Event": message.kind,
            "X-RobustIDPS-Delivery": message.id,
            "X-RobustIDPS-Timestamp": timestamp,
            "X-RobustIDPS-Signature": signature(self._secret.get_secret_value(), message.id, timestamp, body),
        }
        if self._tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=SILENCE_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=SILENCE_S)

        def talk() -> None:
            try:
                connection.request("POST", self._path, body=body, headers=headers)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                raise UnavailableError(f"was not reached: {_kind(error)}", where=self.where) from None
            finally:
                connection.close()
            if not 200 <= status < 300:
                what = "redirects, which is not followed" if 300 <= status < 400 else "did not take it"
                raise UnavailableError(f"{what} (status {status})", where=self.where)

        _within(WHOLE_S, talk, lambda: connection.sock, self.where)


# --- mail


class Mail:
    """Sends mail through a server that the settings name: STARTTLS unless it is on loopback and told otherwise."""

    def __init__(self, settings: Settings, password: SecretStr | None) -> None:
        self._host = str(settings.notify_smtp_host)
        self._port, self._starttls = settings.notify_smtp_port, settings.notify_smtp_starttls
        self._user, self._password = settings.notify_smtp_user, password
        self._from, self._to = str(settings.notify_mail_from), settings.notify_mail_to
        for address in (self._from, *self._to):
            if printable(address) != address or address.count("@") != 1 or any(c in address for c in " ,;<>\"'"):
                raise ConfigError(f"{printable(address, 80)!r} is not a mail address", where="notify_mail_from or _to")
        if not self._starttls and not is_loopback(f"smtp://{self._host}:{self._port}"):
            raise ConfigError(
                "mail to another machine would travel in the clear",
                where="notify_smtp_starttls",
                remedy="leave it on; it can be off for a server on loopback alone",
            )
        if self._user is not None and password is None:
            raise ConfigError(
                "a user needs a password", where="notify_smtp_user", remedy="set ROBUSTIDPS_NOTIFY_SMTP_PASSWORD"
            )
        address = f"{self._host}:{self._port} {self._from} {' '.join(sorted(self._to))}"
        self.name = "mail-" + hashlib.sha256(address.encode()).hexdigest()[:12]
        self.where = f"mail through {self._host}"

    def send(self, message: Message) -> None:
        mail = EmailMessage()
        mail["Subject"] = f"[RobustIDPS] {message.subject}"
        mail["From"], mail["To"] = self._from, ", ".join(self._to)
        mail["Date"] = format_datetime(message.time)
        mail["Message-ID"] = f"<{message.id}.{self.name}@robustidps.invalid>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        clients: list[smtplib.SMTP] = []

        def talk() -> None:
            try:
                with smtplib.SMTP(self._host, self._port, timeout=SILENCE_S) as client:
                    clients.append(client)
                    if self._starttls:
                        client.starttls(context=ssl.create_default_context())
                    if self._user is not None and self._password is not None:
                        client.login(self._user, self._password.get_secret_value())
                    if refused := client.send_message(mail):
                        raise UnavailableError(f"{len(refused)} recipients were not taken", where=self.where)
            except (OSError, smtplib.SMTPException) as error:
                raise UnavailableError(f"was not taken: {_kind(error)}", where=self.where) from None

        _within(WHOLE_S, talk, lambda: clients[0].sock if clients else None, self.where)


def _within(seconds: float, talk: Callable[[], None], line: Callable[[], Any], where: str) -> None:
    """Ends a conversation that takes longer in all, however slowly the other side drips. Raises UnavailableError."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            talk()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name="notify", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        with contextlib.suppress(OSError, AttributeError):  # it has just ended by itself, or never got a line
            line().shutdown(socket.SHUT_RDWR)
        raise UnavailableError(f"took longer than {seconds:g} s", where=where)
    if raised:
        raise raised[0]


def _kind(error: Exception) -> str:
    """What went wrong, without what the other side wrote: its texts are not ours to repeat, and may repeat ours."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.smtp_code}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {printable(error.reason or type(error).__name__, 80)}"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
