"""`robustidps rollback`: the move is done and said first; MLflow's aliases follow if MLflow is there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from robustidps import cli
from robustidps.cli import stages
from robustidps.testing.registry import APPROVE


@pytest.fixture
def roll_back(stocked, monkeypatch, capsys):
    """Runs the command on a registry with 1.0.0 behind 1.1.0; gives standard output and standard error."""
    for version in ("1.0.0", "1.1.0"):
        stocked.transition("toy", version, "Production", verdict=APPROVE)
    monkeypatch.setattr(stages, "open_registry", lambda: stocked)

    def call() -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", "rollback", "toy"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        said = capsys.readouterr()
        return said.out, said.err

    return call


def test_the_aliases_follow_a_rollback(stocked, roll_back):
    out, _ = roll_back()
    assert "1.1.0 -> 1.0.0" in out
    assert stocked.tracking.memory.aliases["toy"] == {"production": "1"}
    assert stocked.assignment("toy").projected


def test_a_rollback_succeeds_while_mlflow_is_away(stocked, roll_back):
    stocked.tracking.away = True
    out, err = roll_back()
    assert "1.1.0 -> 1.0.0" in out and "the rollback stands" in err
    assert stocked.assignment("toy").production == "1.0.0" and not stocked.assignment("toy").projected


def test_a_rollback_needs_no_mlflow_to_be_installed(stocked, roll_back, monkeypatch):
    import importlib.util

    def find(name: str, *more):
        return None if name == "mlflow" else real(name, *more)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find)
    stocked.tracking.away = True
    out, err = roll_back()
    assert "1.1.0 -> 1.0.0" in out and err == ""


def test_the_command_has_committed_offline_by_the_time_mlflow_is_so_much_as_looked_for(stocked):
    for version in ("1.0.0", "1.1.0"):
        stocked.transition("toy", version, "Production", verdict=APPROVE)
    script = """
        import os, socket, sys

        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "mlflow":
                    os._exit(77)  # killed in this moment

        def no_network(*unused):
            os._exit(78)

        sys.meta_path.insert(0, Watch())
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
        sys.argv = ["robustidps", "rollback", "toy"]
        from robustidps.cli import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"ROBUSTIDPS_HOME": str(stocked.settings.home)},
        check=False,
    )
    assert done.returncode == 77, done.stderr
    assert "1.1.0 -> 1.0.0" in done.stdout
    assert stocked.resolve("toy", "production").version == "1.0.0" and stocked.verify("toy").ok
