"""The report pages over HTTP: what may be read, by whom, and what a browser may do with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from robustidps.errors import ConfigError
from robustidps.monitoring.serving import application, policy, serve

BASE = "http://127.0.0.1:4300"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    window = folder / "drift" / "toy" / "20260105T000000Z-0a1b2c3d"
    window.mkdir(parents=True)
    (folder / "index.html").write_text("<p>index")
    for name in ("drift.html", "evidently.html", "drift.json"):
        (window / name).write_text(name)
    (folder / "toy" / "1.0.0").mkdir(parents=True)
    (folder / "toy" / "1.0.0" / "drift.html").write_text("training")
    (folder / "evidently").mkdir()
    (folder / "evidently" / "x.json").write_text("{}")
    (folder / ".hidden.html").write_text("hidden")
    (folder / "notes.py").write_text("code")
    (tmp_path / "state.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "state.html")
    (folder / "away").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.html")
    return folder


@pytest.fixture
def client(reports: Path) -> TestClient:
    return TestClient(application(reports, ["127.0.0.1:4300", "localhost:4300"]), base_url=BASE, follow_redirects=False)


WINDOW = "/drift/toy/20260105T000000Z-0a1b2c3d"


def test_pages_are_served_with_nothing_allowed_that_they_do_not_need(client):
    answer = client.get(f"{WINDOW}/drift.html")
    assert (answer.status_code, answer.text) == (200, "drift.html")
    rules = answer.headers["content-security-policy"]
    assert "default-src 'none'" in rules and "script-src" not in rules and "sandbox" in rules
    assert "allow-scripts" not in rules and "allow-same-origin" not in rules and "connect-src" not in rules
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "no-referrer"


def test_only_evidentlys_pages_may_run_script_and_they_have_no_network_either(client):
    for path in (f"{WINDOW}/evidently.html", "/toy/1.0.0/drift.html"):
        rules = client.get(path).headers["content-security-policy"]
        assert "script-src 'unsafe-inline'" in rules and "connect-src 'none'" in rules and "default-src 'none'" in rules
        assert "sandbox allow-scripts" in rules and "allow-same-origin" not in rules
    for parts in (["evidently.html"], ["toy", "evidently.html"], ["a", "b", "c", "drift.html"], ["toy", "drift.html"]):
        assert "script-src" not in policy(parts)


@pytest.mark.parametrize(
    "path",
    [
        "/../state.html",
        "/%2e%2e/state.html",
        "/drift/%2e%2e/%2e%2e/state.html",
        "/drift/..%2f..%2fstate.html",
        "//etc/passwd",
        "/drift//toy",
        "/link.html",
        "/away/state.html",
        "/pipe.html",
        "/.hidden.html",
        "/notes.py",
        "/evidently/x.json",
        "/drift",
        "/drift/",
        "/index.html/",
        "/index.html%00.json",
        "/nothing.html",
        "/drift\\toy",
        "/" + "a" * 5000 + ".html",
    ],
)
def test_what_is_no_report_is_not_there(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4300", "127.0.0.1", "127.0.0.1:80", ""])
def test_another_hosts_name_is_refused(client, host):
    answer = client.get("/index.html", headers={"host": host})
    assert answer.status_code == 421 and "index" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_pages_can_only_be_read(client, method):
    answer = client.request(method, "/index.html")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"


def test_head_gives_the_headers_alone_and_the_front_leads_to_the_index(client):
    answer = client.head("/index.html")
    assert (answer.status_code, answer.text, answer.headers["content-length"]) == (200, "", "8")
    assert client.get("/").headers["location"] == "/index.html"
    assert client.get("/health").json() == {"status": "ok"}


def test_an_address_beyond_loopback_needs_a_name(tmp_path):
    with pytest.raises(ConfigError, match="reachable from elsewhere"):
        serve(tmp_path, host="0.0.0.0", port=0)  # noqa: S104


def test_the_command_answers_and_ends_cleanly_when_it_is_told_to(reports: Path):
    env = os.environ | {"ROBUSTIDPS_HOME": str(reports.parent)}
    command = [sys.executable, "-m", "robustidps", "reports", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        for _ in range(100):
            try:
                with urllib.request.urlopen(address + "health", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
