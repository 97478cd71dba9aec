"""What makes a webhook credible, and what the watcher does with those that aren't."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from robustidps.errors import IntegrityError
from robustidps.mlflow_app import asked
from robustidps.registry import state
from robustidps.testing.registry import memory_registry
from robustidps.watch import webhook
from robustidps.watch.periodic import Periodic
from robustidps.watch.service import Watcher, webhook_url

BODY = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": "toy"}}).encode()


def delivery(secret: str, *, body: bytes = BODY, name: str = "delivery-1", age_s: float = 0) -> dict[str, str]:
    timestamp = str(int(time.time() - age_s))
    signed = webhook.sign(secret, name, timestamp, body)
    return {"x-mlflow-delivery-id": name, "x-mlflow-timestamp": timestamp, "x-mlflow-signature": signed}


@pytest.fixture
def watcher(tmp_path) -> Watcher:
    return Watcher(memory_registry(tmp_path / "home"))


def test_the_signature_is_mlflows_own():
    from mlflow.webhooks.delivery import _generate_hmac_signature

    assert webhook.sign("s", "id", "1700000000", b"{}") == _generate_hmac_signature("s", "id", "1700000000", "{}")


@pytest.mark.fault("a webhook that comes twice", "looked at once")
def test_a_credible_one_makes_the_worker_look_and_a_doubled_one_doesnt(watcher):
    headers = delivery(watcher.secret)
    assert watcher.receive(headers, BODY) == 202 and watcher._hints == {"toy"}
    assert watcher.receive(headers, BODY) == 200 and watcher.counts["hints"] == 1


@pytest.mark.fault("a webhook that is forged, altered or old", "refused, leaves nothing")
@pytest.mark.parametrize(
    "change",
    [
        {"x-mlflow-signature": "v1,AAAA"},
        {"x-mlflow-signature": ""},
        {"x-mlflow-signature": "ü"},
        {"x-mlflow-delivery-id": "delivery-2"},
        {"x-mlflow-delivery-id": ""},
        {"x-mlflow-timestamp": "now"},
        {"x-mlflow-timestamp": "²"},
        {"x-mlflow-timestamp": "9" * 30},
    ],
)
def test_a_forged_one_is_refused_and_leaves_nothing(watcher, change):
    assert watcher.receive(delivery(watcher.secret) | change, BODY) == 401
    assert watcher.receive(delivery("another secret"), BODY) == 401
    assert watcher.receive(delivery(watcher.secret), BODY + b" ") == 401
    assert not watcher._hints
    with watcher.registry.store.read() as connection:
        assert not connection.execute(sa.select(state.webhook_seen)).all()


@pytest.mark.parametrize("age_s", [webhook.WINDOW_S + 5, -webhook.WINDOW_S - 5])
def test_one_from_another_time_is_refused(watcher, age_s):
    assert watcher.receive(delivery(watcher.secret, age_s=age_s), BODY) == 401


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": {"name": "../x"}}', b"\xff"])
def test_what_the_body_says_is_a_hint_and_a_strange_one_means_all(watcher, body):
    assert watcher.receive(delivery(watcher.secret, body=body), body) == 202 and watcher._hints == {""}


def test_old_deliveries_and_requests_are_forgotten(watcher):
    store, now = watcher.registry.store, datetime.now(UTC)
    watcher.receive(delivery(watcher.secret), BODY)
    with store.write() as connection:
        for days in (1, 100):
            at = (now - timedelta(days=days)).isoformat()
            row = {"time": at, "model": "toy", "mlflow_version": "1", "kind": "alias", "detail": "x", "actor": "a"}
            connection.execute(sa.insert(state.mlflow_request).values(**row))
    assert webhook.prune(store) == 1
    assert webhook.prune(store, now=now + timedelta(hours=1)) == 1


def test_the_secret_is_its_owners_alone(watcher):
    file = watcher.registry.settings.home / "keys" / "webhook.secret"
    assert file.stat().st_mode & 0o777 == 0o600 and watcher.secret not in repr(watcher)
    assert webhook.secret_of(watcher.registry.settings) == watcher.secret
    file.chmod(0o644)
    with pytest.raises(IntegrityError, match="others"):
        webhook.secret_of(watcher.registry.settings)


def test_periodic_work_that_fails_ends_neither_the_watch_nor_the_rest(watcher, caplog):
    done = []

    def fails(registry):
        raise ValueError("a defect")

    watcher.periodic = [Periodic("bad", 60, fails), Periodic("good", 60, lambda registry: done.append(1) or ["did it"])]
    watcher._do_periodic()
    watcher._do_periodic()  # not due again
    assert done == [1] and "bad failed" in caplog.text


def test_a_look_that_fails_is_shown_and_forgotten_once_one_succeeds(watcher):
    watcher._problem("MLflow doesn't answer")
    assert watcher.problem and watcher.health()["status"] == "ended"  # the worker was never started
    watcher.look()
    assert watcher.problem is None


@pytest.mark.parametrize(
    ("tracking", "given", "expected"),
    [
        ("sqlite:////x/mlflow.db", None, None),
        ("http://127.0.0.1:5000", None, "http://127.0.0.1:5020/mlflow"),
        ("https://mlflow.example.org", None, None),
        ("https://mlflow.example.org", "https://watch.example.org/", "https://watch.example.org/mlflow"),
    ],
)
def test_where_mlflow_is_told_to_send_them(tracking, given, expected):
    assert webhook_url(tracking, "127.0.0.1", 5020, given) == expected


@pytest.mark.parametrize(
    ("call", "facts", "expected"),
    [
        (("POST", "registered-models/alias"), {"alias": "production", "version": "2"}, ("alias", "production", "2")),
        (("DELETE", "registered-models/alias"), {"alias": "staging"}, ("alias-deleted", "staging", None)),
        (("POST", "model-versions/transition-stage"), {"version": "2", "stage": "staging"}, ("stage", "Staging", "2")),
        (("POST", "model-versions/set-tag"), {"key": "robustidps.x", "version": "2"}, ("tag", "robustidps.x", "2")),
        (("POST", "model-versions/set-tag"), {"key": "note", "version": "2"}, None),
        (("GET", "registered-models/alias"), {"alias": "production"}, None),
        (("POST", "runs/create"), {}, None),
    ],
)  # fmt: skip
def test_what_the_servers_record_says_of_a_call(call, facts, expected):
    for prefix in ("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/"):
        row = asked(call[0], prefix + call[1], {"name": "toy"} | facts)
        assert (row and (row["kind"], row["detail"], row["mlflow_version"])) == expected
    assert asked(call[0], "/api/2.0/mlflow/" + call[1], facts | {"name": "Not ours"}) is None
