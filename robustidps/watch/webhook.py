"""MLflow's webhooks: whether one is credible, and how MLflow is told to send them here.

MLflow signs a delivery with HMAC-SHA256 over `ID.TIMESTAMP.BODY` (`mlflow/webhooks/delivery.py`). The secret is a file
of ours that only its owner can read; MLflow keeps a copy, encrypted. Credible is what bears a signature of that secret,
a time within `WINDOW_S` of now, and an id that hasn't come before. What of that fails is never said to the sender.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from robustidps.errors import IntegrityError, NotFoundError
from robustidps.registry import state
from robustidps.registry.keys import write_atomically
from robustidps.settings import Settings, writable

if TYPE_CHECKING:
    from robustidps.registry.tracking import Tracking

__all__ = [
    "EVENTS",
    "Unbelievable",
    "check",
    "prune",
    "register",
    "remember",
    "secret_of",
    "server_environment",
    "sign",
]

WINDOW_S = 300
"""How far a delivery's time may be from ours, either way: MLflow tries again for some minutes."""
EVENTS = (
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
)
"""All that MLflow sends about registered models; it sends nothing for stages, renaming and deleting."""


class Unbelievable(Exception):
    """A delivery that isn't credible; the text is for our log."""


def secret_of(settings: Settings, name: str = "webhook") -> str:
    """The secret `HOME/keys/NAME.secret`, made on first use.

    Raises:
        IntegrityError: others can read the file. StorageError: it can't be written.
    """
    file = settings.folder("keys") / f"{name}.secret"
    if not file.exists():
        write_atomically(file, base64.urlsafe_b64encode(secrets.token_bytes(32)), mode=0o600, replace=False)
    try:
        return _private(file)
    except FileNotFoundError:
        raise NotFoundError("the secret was just taken away", where=file, remedy="try again") from None


def _private(file: Path) -> str:
    with writable(file), os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise IntegrityError(
                "the secret can be read or changed by others than its owner",
                where=file,
                remedy="delete it: it is made anew",
            )
        return opened.read(1024).decode("ascii", "strict").strip()


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """The signature that MLflow gives a delivery."""
    content = f"{delivery}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), content, "sha256")).decode()


def check(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> str:
    """The id of a delivery whose signature and time are right; whether it has come before is for `remember`.

    Args:
        headers: names in lower case. now: seconds since 1970 UTC.

    Raises:
        Unbelievable: says why.
    """
    delivery, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    given = headers.get("x-mlflow-signature", "")
    if not 8 <= len(delivery) <= 200 or not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise Unbelievable("without an id or a time")
    if not hmac.compare_digest(given.encode(), sign(secret, delivery, timestamp, body).encode()):
        raise Unbelievable("with a signature that isn't ours")
    if abs(now - int(timestamp)) > WINDOW_S:
        raise Unbelievable(f"{abs(now - int(timestamp)):.0f} s away from now")
    return delivery


def remember(store: state.StateStore, delivery: str) -> bool:
    """Whether this delivery is new; from now on it isn't. Raises what `StateStore.write` raises."""
    seen = state.webhook_seen
    with store.write() as connection:
        if connection.execute(sa.select(seen.c.delivery_id).where(seen.c.delivery_id == delivery)).first():
            return False
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        connection.execute(sa.insert(seen).values(delivery_id=delivery, received_at=now))
    return True


def prune(store: state.StateStore, *, now: datetime | None = None, requests_days: int = 90) -> int:
    """Forgets deliveries that are too old to be taken anyway, and who asked for what long ago; how many rows."""
    now = now or datetime.now(UTC)
    seen, asked = state.webhook_seen, state.mlflow_request
    deliveries = (now - timedelta(seconds=4 * WINDOW_S)).isoformat(timespec="milliseconds")
    requests = (now - timedelta(days=requests_days)).isoformat(timespec="milliseconds")
    with store.write() as connection:
        gone = connection.execute(sa.delete(seen).where(seen.c.received_at < deliveries)).rowcount
        return gone + connection.execute(sa.delete(asked).where(asked.c.time < requests)).rowcount


@dataclass(frozen=True)
class Registered:
    """changed: whether MLflow had to be told something new."""

    id: str
    changed: bool


def register(tracking: Tracking, name: str, url: str, secret: str, *, known: str | None = None) -> Registered:
    """Makes sure that MLflow sends `EVENTS` to `url`, signed with `secret`; can be called again and again.

    Args:
        name: of the webhook; one that bears it is ours and is brought in line.
        known: the id that an earlier call of this process gave: then the secret is known there, and isn't sent again.

    Raises:
        RegistryUnavailableError: MLflow doesn't answer or doesn't take it (its settings: docs/stages.md).
    """
    events: list[Any] = [*EVENTS]
    with tracking.errors():
        client = tracking.client
        mine, token = [], None
        while True:
            page = client.list_webhooks(max_results=100, page_token=token)
            mine += [w for w in page if w.name == name]
            token = page.token
            if not token:
                break
        for extra in mine[1:]:
            client.delete_webhook(extra.webhook_id)
        if not mine:
            made = client.create_webhook(
                name, url, events, description="RobustIDPS: look at the registry now", secret=secret
            )
            return Registered(str(made.webhook_id), True)
        (found,) = mine[:1]
        same = found.url == url and {str(e) for e in found.events} == set(EVENTS) and str(found.status) == "ACTIVE"
        if same and known == found.webhook_id:
            return Registered(known, False)
        client.update_webhook(found.webhook_id, url=url, events=events, secret=secret, status="ACTIVE")
        return Registered(str(found.webhook_id), True)


def server_environment(settings: Settings) -> dict[str, str]:
    """What an MLflow server on this machine needs in its environment to deliver webhooks on loopback.

    A key of its own, so that secrets of webhooks can still be read after a restart, and leave to call plain `http` and
    addresses of this machine. The latter turns off MLflow's protection against requests to inner hosts: only for a
    server that listens on loopback itself, among people who may use this machine anyway.
    """
    key = secret_of(settings, "mlflow-webhooks")
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
        raise IntegrityError(
            "is not a key",
            where=settings.home / "keys" / "mlflow-webhooks.secret",
            remedy="remove it: a new one is made, webhooks too",
        )
    return {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key,
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",  # seconds; a webhook made now is to hear of the next minute's moves
    }
