"""One installation, and one small data set, for all tests of flows and commands in this folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from robustidps import cli, console, settings
from robustidps.cli import _app
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.trafficset import TrafficSet


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]

DAY = 86_400.0
TOY_RULES = """
name: toy
evidence: {min_rows: 200, min_blocks: 5}
rules:
  - {kind: threshold, metric: accuracy, min: 0.9}
  - {kind: gain, metric: accuracy, margin: -0.02}
  - {kind: schema_compatible}
  - {kind: rollback_available, stages: [Production]}
left_out:
  recall_floor: three classes of thirteen occur in the toy traffic
  false_positive_ceiling: the toy model is trained for four epochs
  latency: not what these tests are about
  stability: not what these tests are about
"""
START = 1_767_571_200.0  # 2026-01-05 UTC


def toy_traffic(rows: int = 3_000, days: int = 10, seed: int = 0) -> TrafficSet:
    """Three classes of flow64 that a few features tell apart, over `days`, in campaigns of a class and day."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 4], rows, p=[0.7, 0.15, 0.15])
    x = np.abs(rng.normal(3, 1, (rows, FLOW64.input_dim)))
    for column in range(12, 24):
        x[:, column] += 4.0 * labels
    categorical = [i for i, f in enumerate(FLOW64.features) if f.kind == "categorical"]
    x[:, categorical] = 1
    time = np.sort(START + rng.uniform(0, days * DAY, rows))
    day = ((time - START) // DAY).astype(int)
    campaign = [f"{FLOW64.classes[c]}-{d}" for c, d in zip(labels, day, strict=True)]
    return TrafficSet.build(FLOW64, x, labels, time=time, source="toy", campaign=campaign, tool="toy")


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder that the tests of this folder share."""
    home = tmp_path_factory.mktemp("home")
    rules = home / "configs" / "promotion" / "toy.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(TOY_RULES)
    return home


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set, as a file that `robustidps train --dataset` takes."""
    return toy_traffic().write(tmp_path_factory.mktemp("toy") / "toy.parquet")


@pytest.fixture(scope="session")
def command(installation: Path) -> Command:
    """Runs `robustidps ...` in this process: the same code, without importing the frameworks anew each time."""

    def run(*words: object, home: Path = installation, **env: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr("sys.argv", ["robustidps", *map(str, words)])
            for key, value in {"ROBUSTIDPS_HOME": str(home), **env}.items():
                patch.setenv(key, value)
            for shown in (console.out, console.err):  # COLUMNS counts only for consoles that are made afterwards
                patch.setattr(shown, "width", 200)
            patch.setattr(_app, "given", {})
            patch.setattr(settings, "_current", None)  # as in a new process
            with pytest.raises(SystemExit) as end:
                cli.main()
        return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def trained(command: Command, toy: Path) -> dict:
    """What `robustidps train ... --json` printed for a first version, promoted to Production."""
    done = command(
        "train", "neural_ode", "--dataset", toy, "--name", "toy", "--rules", "toy", "--set", "epochs=4",
        "--promote-to", "Production", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
