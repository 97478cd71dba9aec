"""`robustidps ui`: both servers answer on loopback, and end with everything they started."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from robustidps.servers import free_port, running
from robustidps.settings import Settings


def test_a_taken_port_is_passed_over():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


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
        with pytest.raises(ProcessLookupError):
            os.killpg(server.process.pid, 0)
