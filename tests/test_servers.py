"""`robustidps ui`: both servers answer on loopback, and end with everything they started."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from robustidps.servers import claimed_port, running
from robustidps.settings import Settings


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with claimed_port(port) as found:
            assert found != port


def test_two_that_start_at_once_get_different_ports():
    with claimed_port(0) as first, claimed_port(first) as second:
        assert first != second
    with claimed_port(first) as again:
        assert again == first


@pytest.mark.timeout(240)
def test_both_pages_answer_on_loopback_and_end_together(tmp_path):
    with running(Settings(home=tmp_path / "home")) as servers:
        assert [s.name for s in servers] == ["MLflow", "Prefect"]
        for server in servers:
            assert urlsplit(server.url).hostname == "127.0.0.1"
            with urllib.request.urlopen(server.url, timeout=20) as answer:
                assert answer.status == 200
            command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
            assert b"mlflow.db" not in command  # an address may hold a password
    for server in servers:
        assert not server.alive
        with socket.socket() as nobody:
            assert nobody.connect_ex(("127.0.0.1", urlsplit(server.url).port)) != 0
