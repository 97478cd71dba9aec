"""The example plugin as a user meets it: installed, shown with the line that allows it, trained, served without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)


def test_the_example_plugin_is_refused_then_allowed_then_trained_and_serves_without_being_loaded(
    command, toy: Path, example_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(example_plugin)
    refused = command("train", "lda", "--dataset", toy)
    assert refused.returncode == 3 and "not allowed" in refused.stderr and "Traceback" not in refused.stderr
    (row,) = (r for r in json.loads(command("models", "--families", "--json").stdout) if r["family"] == "lda")
    line = row["available"].rpartition(" ")[2]
    assert line in refused.stderr.replace("\n", "")
    done = command(
        "train", "lda", "--dataset", toy, "--name", "lda", "--rules", "toy", "--set", "shrinkage=0.2", "--promote-to",
        "Production", "--json", ROBUSTIDPS_PLUGINS=line,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["evaluation"]["headline"]["accuracy"]["value"] > 0.9 and result["promotion"][-1]["moved"]
    sys.modules.pop("robustidps_lda")
    scored = command("score", toy, "--model", "lda", "--out", tmp_path / "scores.csv")
    assert scored.returncode == 0, scored.stderr
    assert "robustidps_lda" not in sys.modules
