"""The watcher at work beside one real MLflow server with accounts: webhooks, polling, who asked, and the MLflow UI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from robustidps.errors import UnavailableError
from robustidps.judging import promote
from robustidps.registry import state
from robustidps.registry.ledger import Decision
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.system.supervisor import claimed_port
from robustidps.testing.judged import judged_bundles, register_judged
from robustidps.testing.mlflow_pages import open_browser, set_alias, show_version
from robustidps.testing.mlflow_server import MlflowServer, mlflow_server
from robustidps.watch import webhook
from tests.conftest import missing_part

pytestmark = pytest.mark.long


@dataclass
class Site:
    registry: ModelRegistry
    server: MlflowServer
    watcher: subprocess.Popen
    url: str
    log: Path

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
            return json.load(answer)

    def client(self, user: str = "admin", password: str = ""):
        from mlflow import MlflowClient

        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password or self.server.password
        return MlflowClient(self.server.url)

    def decided(self, action: Callable[[], object], within_s: float = 120.0) -> Decision:
        """What is decided once `action` is done, with MLflow in line."""
        before = len(self.registry.history("toy"))
        action()
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            found = self.registry.history("toy")[before:]
            if found and self.in_line():
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"nothing was decided; {self.health()}; {self.log.read_text()[-2000:]}")

    def in_line(self) -> bool:
        """Whether MLflow shows all that was decided."""
        assigned = state.assignment.c
        query = sa.select(assigned.answered).where(
            assigned.model == "toy", assigned.applied_generation == assigned.generation
        )
        with self.registry.store.read() as connection:
            return connection.execute(query).scalar() == self.registry.history("toy")[-1].seq


@pytest.fixture(scope="module")
def site(tmp_path_factory, mlflow_template):
    home = tmp_path_factory.mktemp("site") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    local = Settings(home=home)
    before = dict(os.environ)
    try:
        with mlflow_server(local, accounts=True) as server, use_settings(server.settings(local)) as settings:
            os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": server.password}
            registry = ModelRegistry(settings=settings)
            register_judged(registry, judged_bundles(home / "made"))
            promote(registry, "toy", "1.0.0")
            with claimed_port(0) as port:
                command = [sys.executable, "-m", "robustidps", "watch", "--every", "3", "--port", str(port)]
                env = os.environ | {"ROBUSTIDPS_HOME": str(home), "ROBUSTIDPS_MLFLOW_TRACKING_URI": server.url}
                log = home / "logs" / "watch.log"
                with log.open("wb") as sink:
                    watcher = subprocess.Popen(command, stdout=sink, stderr=sink, env=env, start_new_session=True)
                made = Site(registry, server, watcher, f"http://127.0.0.1:{port}", log)
                try:
                    wait_until_told(made)
                    yield made
                finally:
                    watcher.kill()
                    watcher.wait()
    finally:
        os.environ.clear()
        os.environ.update(before)


def wait_until_told(site: Site) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends and site.watcher.poll() is None:
        try:
            if site.health()["webhook"].startswith("MLflow tells"):
                return
        except urllib.error.URLError:
            pass
        time.sleep(0.2)
    raise AssertionError(site.log.read_text())


def posted(site: Site, headers: dict[str, str], body: bytes) -> int:
    request = urllib.request.Request(f"{site.url}/mlflow", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def signed(site: Site, body: bytes, delivery: str, age_s: float = 0.0) -> dict[str, str]:
    at = str(int(time.time() - age_s))
    signature = webhook.sign(webhook.secret_of(site.registry.settings), delivery, at, body)
    return {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": at, "X-MLflow-Signature": signature}


def test_an_alias_moved_by_a_known_account_is_answered_by_webhook_under_that_name(site):
    site.client().create_registered_model("not-ours")  # so that somebody's webhooks come too
    admin = site.client()
    hints = site.health()["hints"]
    decision = site.decided(lambda: admin.set_registered_model_alias("toy", "production", "3"))
    assert (decision.action, decision.version, decision.verdict) == ("refuse", "1.2.0", "reject")
    assert (decision.actor, decision.actor_source) == ("admin", "mlflow")
    ends = time.monotonic() + 60
    while site.health()["put back"] != 1 and time.monotonic() < ends:
        time.sleep(0.05)
    assert site.health()["hints"] > hints and site.health()["put back"] == 1
    tags = admin.get_model_version("toy", "3").tags
    assert "put back" in tags["robustidps.answer"] and "accuracy" in tags["robustidps.answer"]


@pytest.mark.fault("a webhook that never comes (stages send none)", "found by looking")
def test_the_stage_dropdown_which_sends_no_webhook_is_found_by_looking(site):
    client = site.client()
    decision = site.decided(lambda: client.transition_model_version_stage("toy", "2", "Staging"))
    assert (decision.action, decision.version, decision.to_stage, decision.actor) == (
        "promote",
        "1.1.0",
        "Staging",
        "admin",
    )
    assert str(client.get_model_version_by_alias("toy", "staging").version) == "2"


def test_a_deleted_version_is_made_again(site):
    client = site.client()
    if site.registry.assignment("toy").staging != "1.1.0":  # whether or not another test has put it there
        site.decided(lambda: client.set_registered_model_alias("toy", "staging", "2"))
    decision = site.decided(lambda: client.delete_model_version("toy", "2"))
    assert (decision.action, decision.version, decision.actor) == ("restore", "1.1.0", "admin")
    number = str(site.registry.version("toy", "1.1.0").mlflow_version)
    made = client.get_model_version("toy", number)
    assert made.tags["robustidps.version"] == "1.1.0" and made.current_stage == "Staging"
    shutil.rmtree(site.registry.cache.path(site.registry.version("toy", "1.1.0").digest))
    assert site.registry.load_model("toy", "1.1.0").version == "1.1.0"


def test_a_renamed_model_is_named_back(site):
    client = site.client()
    decision = site.decided(lambda: client.rename_registered_model("toy", "mine"))
    assert (decision.action, decision.evidence["request"]["kind"], decision.actor) == ("refuse", "renamed", "admin")


def test_an_account_without_the_right_gets_nowhere_and_isnt_recorded(site):
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    site.client()
    AuthServiceClient(site.server.url).create_user("mallory", "a long password")
    before = len(site.registry.history("toy"))
    mallory = site.client("mallory", "a long password")
    with pytest.raises(MlflowException, match=r"(?i)permission"):
        mallory.set_registered_model_alias("toy", "production", "3")
    site.client()
    with site.registry.store.read() as connection:
        asked = state.mlflow_request.c
        assert not connection.execute(sa.select(asked.id).where(asked.actor == "mallory")).all()
    assert len(site.registry.history("toy")) == before


@pytest.mark.fault("a webhook that is forged, altered or old", "refused, leaves nothing")
def test_forged_doubled_stale_and_too_big_webhooks_are_refused(site):
    body = json.dumps({"data": {"name": "toy"}}).encode()
    good = signed(site, body, "delivery-of-a-test")
    assert posted(site, good | {"X-MLflow-Signature": "v1,AAAA"}, body) == 401
    assert posted(site, good, body) == 202
    assert posted(site, good, body) == 200
    assert posted(site, signed(site, body, "a-stale-delivery", age_s=3600), body) == 401
    assert posted(site, {}, body) == 401
    assert posted(site, signed(site, b"x" * 70_000, "a-big-delivery"), b"x" * 70_000) == 413
    said = site.log.read_text()
    assert "webhook refused: with a signature that isn't ours" in said
    assert webhook.secret_of(site.registry.settings) not in said and site.server.password not in said


@pytest.mark.real
def test_a_person_moves_production_in_the_mlflow_ui_to_a_good_version_and_to_a_bad_one(site):
    site.client()
    good = str(site.registry.version("toy", "1.1.0").mlflow_version)
    try:
        with open_browser("admin", site.server.password) as page:
            kept = site.decided(lambda: set_alias(page, site.server.url, "toy", good, "production"))
            assert (kept.action, kept.version, kept.to_stage, kept.actor) == ("promote", "1.1.0", "Production", "admin")
            back = site.decided(lambda: set_alias(page, site.server.url, "toy", "3", "production"))
            assert (back.action, back.version, back.verdict) == ("refuse", "1.2.0", "reject")
            show_version(page, site.server.url, "toy", "3")
            assert page.get_by_text("put back").first.is_visible()
    except UnavailableError as error:
        missing_part(str(error))
    assert site.registry.assignment("toy").production == "1.1.0"
    site.registry.verify()


def test_told_to_end_it_ends_cleanly(site):
    site.watcher.send_signal(signal.SIGTERM)
    assert site.watcher.wait(60) == 128 + signal.SIGTERM
    assert "Traceback" not in site.log.read_text()
