"""A home's whole local system as people use it: its commands, Prefect's API, and a toy model that a run judges."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.system import record as records
from robustidps.testing.linear import toy_bundle
from robustidps.testing.traffic import toy_traffic

RULES = """
name: toy
evidence: {min_rows: 100, min_blocks: 5}
rules: [{kind: threshold, metric: accuracy, min: 0.5}]
left_out:
  gain: what is judged is a toy; these tests are about who starts the judging
  recall_floor: not what these tests are about
  false_positive_ceiling: not what these tests are about
  latency: not what these tests are about
  stability: not what these tests are about
  schema_compatible: not what these tests are about
  rollback_available: not what these tests are about
"""


def command(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "robustidps", "--home", str(settings.home), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def ran(settings: Settings, *words: str) -> str:
    """What a command that has to go well printed."""
    done = command(settings, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def address(settings: Settings, service: str) -> str:
    found = records.address_of(settings, service)
    assert found
    return found


def asked(settings: Settings, path: str, body: Any = None, method: str = "POST", **headers: str) -> Any:
    """Prefect's answer."""
    request = urllib.request.Request(
        f"{address(settings, 'prefect')}/api/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
        method=method,
    )
    for _ in range(10):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
            return json.loads(content) if content else None
        except urllib.error.HTTPError as refused:
            if refused.code != 503:  # Prefect's SQLite is locked for a moment
                raise
        time.sleep(1)
    raise AssertionError("Prefect's server stays busy")


def ended(settings: Settings, runs: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    """The first run that `runs` finds and that has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for run in asked(settings, "flow_runs/filter", {"flow_runs": runs, "sort": "EXPECTED_START_TIME_ASC"}):
            if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return run
        time.sleep(0.5)
    raise AssertionError("no run ended in time")


def write_toy_rules(home: Path) -> None:
    file = home / "configs" / "promotion" / "toy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(RULES)


def register_toy(settings: Settings) -> str:
    """A registered version, with the traffic that it is judged on."""
    folder = settings.folder("toy")
    traffic = toy_traffic(500, seed=3)
    path = traffic.write(folder / "held-out.parquet")
    recorded = {"path": str(path), "digest": traffic.digest, "dataset": "toy", "rules": "toy"}
    registry = ModelRegistry(settings=settings)
    registry.register_model("toy", "1.0.0", toy_bundle(folder / "bundle").path, held_out=recorded)
    return "toy"
