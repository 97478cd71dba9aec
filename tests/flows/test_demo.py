"""`robustidps demo` as `make demo` runs it: a process of its own, nothing set but the home, all parts real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings


@pytest.mark.timeout(900)
def test_the_demo_promotes_a_good_model_refuses_a_starved_one_and_scores_a_capture(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTIDPS_", "PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "robustidps", "demo", "--json"],
        env=environment | {"ROBUSTIDPS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["production"], summary["refused"]) == ("1.0.0", "1.1.0")
    assert any("accuracy" in reason and "0.95" in reason for reason in summary["reasons"])
    assert set(summary["others"]) == {"boosted_trees", "spiking", "quantum", "unified"}
    assert min(summary["others"][name] for name in ("boosted_trees", "unified")) > 0.8
    assert summary["elsewhere"]["fake_manila"]["agreement"] > 0.5
    on_chip = summary["elsewhere"]["loihi"]
    assert "make loihi" in on_chip.get("unavailable", "") or on_chip["emulator_spikes_differing"] == 0
    scored = summary["scored"]
    assert summary["window"]["rows"] == sum(scored.values()) and summary["backup"]["records"] > 10
    assert scored["Benign"] > sum(scored.values()) / 2 and len(scored) > 3
    assert "attack flows raise an alert" in summary["labelled"]
    assert summary["updated"]["outcome"] == "activated" and summary["updated"]["measured"].startswith("+")
    assert {"confusion_matrix.png", "evasion.png", "drift.html"} <= {
        Path(f).name for f in summary["files"] if Path(f).is_file()
    }
    assert Path(summary["page"]).name == "evaluation.html" and Path(summary["page"]).is_file()
    registry = ModelRegistry(settings=Settings(home=tmp_path / "demo"))
    assert registry.verify().ok
    record = registry.resolve("neural_ode", "1.0.0")
    assert record.held_out and Path(record.held_out["evaded"]["path"]).is_file()
    promoted = next(d for d in registry.history("neural_ode") if d.action == "promote")
    figures = promoted.evidence["candidate"]["metrics"]
    assert 0.05 <= figures["recall_under_evasion"] <= figures["detection_under.unchanged"] <= 1
    assert promoted.evidence["candidate"]["evaded_digest"] == record.held_out["evaded"]["digest"]
    decisions = [(d.action, d.version, d.to_stage) for d in registry.history("neural_ode")]
    assert ("promote", "1.0.0", "Production") in decisions and decisions[-1] == ("refuse", "1.1.0", "Staging")
