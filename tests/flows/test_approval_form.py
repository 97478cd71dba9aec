"""The flow `promote` waits for a person: the form in Prefect's UI, the command line that wakes it, and who is believed.

A real Prefect server with its one password; what the form of the UI posts is posted here with Prefect's client.
"""

from __future__ import annotations

import contextvars
import json
import os
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from robustidps import approving
from robustidps.cli import approvals as commands
from robustidps.flows import promote as flow
from robustidps.registry.records import os_user
from robustidps.settings import Settings, use_settings
from robustidps.system.supervisor import claimed_port
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.registry import memory_registry
from robustidps.testing.servers import started
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle

pytestmark = pytest.mark.long

PASSWORD = "admin:form-password"  # noqa: S105
RULES = """
name: asked
evidence: {min_rows: 100, min_blocks: 5}
rules:
  - {kind: threshold, metric: accuracy, min: 0.6}
  - {kind: schema_compatible}
  - {kind: rollback_available, stages: [Production]}
  - {kind: approval, within_hours: HOURS}
left_out:
  gain: the toy versions are alike, and this test is not about it
  recall_floor: the toy model is linear, and this test is not about it
  false_positive_ceiling: the toy model is linear, and this test is not about it
  latency: not what these tests are about
  stability: not what these tests are about
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Prefect's server with its password, and this process as its client."""
    folder = tmp_path_factory.mktemp("prefect-server")
    with claimed_port(4287) as port:
        url = f"http://127.0.0.1:{port}/api"
        env = os.environ | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_API_AUTH_STRING": PASSWORD}
        env |= {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with (
            started(words, f"{url}/health", env, folder / "log"),
            temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: PASSWORD}),
        ):
            yield SimpleNamespace(url=url)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "1.0.0"
    train, validation = toy_traffic(900, seed=3), toy_traffic(400, seed=4)
    validation = replace(validation, time=validation.time + 86_400)
    settings = LinearSettings(seed=0, epochs=150, learning_rate=0.5)
    train_bundle(Linear(), settings, train, validation, name="toy", version="1.0.0", out=folder)
    return folder


@pytest.fixture
def installation(tmp_path, bundle, monkeypatch):
    """Makes a registry with one good version whose rules ask for a person, and settings as given."""
    monkeypatch.setattr(flow, "POLL_S", 0.3)

    def make(hours: float = 1.0, **settings):
        made = memory_registry(tmp_path / "home")
        made.settings = Settings(home=tmp_path / "home", **settings)
        (made.settings.folder("configs", "promotion") / "asked.yaml").write_text(RULES.replace("HOURS", str(hours)))
        held_out = toy_traffic(600, seed=9)
        held_out = replace(held_out, time=held_out.time + 5 * 86_400)
        path = held_out.write(made.settings.folder("traffic") / "held-out.parquet")
        facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "asked"}
        made.register_model("toy", "1.0.0", bundle, held_out=facts)
        for module in ("robustidps.tasks.registry", "robustidps.flows.promote"):
            monkeypatch.setattr(f"{module}.ModelRegistry", lambda **unused: made)
        monkeypatch.setattr(commands, "open_registry", lambda: made)
        monkeypatch.setattr(commands, "ready_flows", lambda: None)
        return made

    return make


class Run:
    """The flow in a thread of its own, until it ends."""

    def __init__(self, registry) -> None:
        self.registry, self.result, self.error = registry, None, None
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with use_settings(self.registry.settings):
                self.result = flow.promote("toy", "1.0.0")
        except BaseException as error:  # noqa: BLE001 - raised again by `ended`
            self.error = error

    def paused(self, times: int = 1) -> SimpleNamespace:
        """Waits for the form to be there for the so-many-th time; gives run, request, and the form's texts."""
        with get_client(sync_client=True) as client:
            for _ in range(900):
                found = approving.waiting(self.registry)
                if found and found[0].flow_run_id:
                    run = client.read_flow_run(found[0].flow_run_id)
                    details = run.state.state_details
                    if run.state.is_paused() and details.pause_key == str(times):
                        keys = details.run_input_keyset
                        values = {}
                        for part in ("description", "schema"):
                            answer = client._client.get(f"/flow_runs/{run.id}/input/{keys[part]}")
                            values[part] = answer.json() if answer.status_code == 200 else None
                        if None not in values.values():
                            return SimpleNamespace(run=run, request=found[0], **values)
                assert self.thread.is_alive() or self.result, self.error
                time.sleep(0.2)
        raise AssertionError("the run did not pause")

    def ended(self) -> list:
        self.thread.join(240)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error
        return [(o["stage"], o["moved"]) for o in self.result]


def test_the_form_shows_the_evidence_and_offers_no_approval_where_nobody_is_known(server, installation):
    registry = installation()
    run = Run(registry)
    form = run.paused()
    shown = json.dumps(form.description)
    assert "| accuracy | 0." in shown and "waits: approval" in shown and form.request.id in shown
    choices = form.schema["properties"]["decision"]["enum"]
    assert choices == ["look again", "refuse"]
    with pytest.raises((RuntimeError, Abort), match=r"Cannot resume|not one of"):
        resume_flow_run(form.run.id, run_input={"decision": "approve", "reason": "let me in"})
    resume_flow_run(form.run.id, run_input={"decision": "refuse", "reason": ""})
    form = run.paused(times=2)
    assert "an answer needs a reason" in json.dumps(form.description)
    resume_flow_run(form.run.id, run_input={"decision": "refuse", "reason": "not on a Friday"})
    assert run.ended() == [("Staging", True), ("Production", False)]
    last = registry.history("toy")[-1]
    assert (last.action, last.actor_source) == ("refuse", "unverified") and "not on a Friday" in last.reasons[0]


def test_the_command_line_approves_and_the_run_goes_on(server, installation, monkeypatch, capsys):
    registry = installation()
    run = Run(registry)
    form = run.paused()
    monkeypatch.setattr(approving, "person", lambda: ("ben", "login"))
    commands._answer(str(form.run.id), True, "looks right", True)
    assert json.loads(capsys.readouterr().out)["run_woken"] is True
    assert run.ended() == [("Staging", True), ("Production", True)]
    assert registry.assignment("toy").production == "1.0.0"
    assert [d.actor for d in registry.history("toy") if d.action == "approve"] == ["ben"]


def test_the_form_approves_in_the_name_of_those_who_alone_have_the_password(server, installation):
    registry = installation(approval_by_prefect_form=("ben", "cleo"))
    run = Run(registry)
    form = run.paused()
    assert "approve" in form.schema["properties"]["decision"]["enum"]
    resume_flow_run(form.run.id, run_input={"decision": "approve", "reason": "yes"})
    assert run.ended()[-1] == ("Production", True)
    said = next(d for d in registry.history("toy") if d.action == "approve")
    assert (said.actor, said.actor_source) == ("ben or cleo", "prefect-form")


def test_one_of_those_people_who_asked_for_it_cannot_approve_in_the_form(server, installation):
    registry = installation(approval_by_prefect_form=("ben", os_user()))
    run = Run(registry)
    form = run.paused()
    resume_flow_run(form.run.id, run_input={"decision": "approve", "reason": "yes"})
    form = run.paused(times=2)
    assert "asked for it and can't approve" in json.dumps(form.description)
    resume_flow_run(form.run.id, run_input={"decision": "refuse", "reason": "so be it"})
    assert run.ended()[-1] == ("Production", False)


def test_a_pause_that_runs_out_refuses(server, installation):
    registry = installation(hours=6 / 3600)
    assert Run(registry).ended() == [("Staging", True), ("Production", False)]
    last = registry.history("toy")[-1]
    assert (last.action, last.actor) == ("refuse", "nobody") and "nobody answered" in last.reasons[0]


def test_the_form_is_believed_only_behind_a_server_that_asks_for_the_password(server, tmp_path):
    named = Settings(home=tmp_path, approval_by_prefect_form=("ben",))
    assert flow.form_people(named) == ("ben",)
    assert flow.form_people(Settings(home=tmp_path)) == ()
    with temporary_settings({PREFECT_API_AUTH_STRING: None}):
        assert flow.form_people(named) == ()

    class Open(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Open) as lets_everybody_in:
        threading.Thread(target=lets_everybody_in.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{lets_everybody_in.server_port}/api"}):
            assert flow.form_people(named) == ()
        lets_everybody_in.shutdown()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert flow.form_people(named) == ()
