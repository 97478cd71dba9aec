"""The main job as a user meets it: commands in, exit codes, files and a ledger out. Real MLflow, Prefect and ONNX."""

from __future__ import annotations

import html
import json
import os
import sqlite3
from pathlib import Path

import pytest

from robustidps.traffic.trafficset import TrafficSet

pytestmark = pytest.mark.timeout(600)


def test_training_registers_judges_and_promotes(trained: dict, installation: Path) -> None:
    assert trained["version"] == "1.0.0"
    assert [o["stage"] for o in trained["promotion"]] == ["Staging", "Production"]
    assert all(o["moved"] for o in trained["promotion"])
    suffixes = {Path(f).suffix for f in trained["files"]}
    assert {".png", ".html", ".json"} <= suffixes and all(Path(f).stat().st_size for f in trained["files"])


def test_mlflow_holds_curves_figures_pictures_and_the_command_that_repeats_it(
    trained: dict, installation: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{installation / 'mlflow.db'}")
    version = client.get_model_version_by_alias("toy", "production")
    run = client.get_run(version.run_id)
    assert len(client.get_metric_history(version.run_id, "val_macro_f1")) >= 4
    assert run.data.metrics["held_out/accuracy"] == pytest.approx(
        trained["evaluation"]["headline"]["accuracy"]["value"]
    )
    assert run.data.tags["robustidps.repeat"].startswith("robustidps train neural_ode --dataset")
    names = {f.path for f in client.list_artifacts(version.run_id, "evaluation")}
    assert {"evaluation/confusion_matrix.png", "evaluation/drift.html", "evaluation/evaluation.html"} <= names


def test_the_evaluation_page_tells_the_split_the_drift_and_what_alerts_come_to(trained: dict) -> None:
    page = Path(trained["page"]).read_text(encoding="utf-8")
    for line in trained["split"]["text"].splitlines():
        assert html.escape(line.strip()) in page
    assert trained["drift"]["headline"] in html.unescape(page) and 'href="drift.html"' in page
    assert trained["digest"] in page and page.count("data:image/png;base64,") == 5
    assert "1\N{NO-BREAK SPACE}in\N{NO-BREAK SPACE}1,000,000" in page


def test_prefect_kept_results_as_json_and_made_artefacts(trained: dict) -> None:
    results = [p for p in Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"]).rglob("*") if p.is_file()]
    assert results and all(isinstance(json.loads(p.read_text()), (dict, list, str)) for p in results)
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        keys = {row[0] for row in database.execute("select key from artifact where key is not null")}
        states = dict(database.execute("select flow.name, state_type from flow_run join flow on flow.id = flow_id"))
        (shown,) = database.execute("select data from artifact where key = 'toy-evaluation'").fetchone()
    assert {"toy-evaluation", "toy-evaluation-classes", "toy-page", "toy-drift", "toy-promotion"} <= keys
    assert "base rates: alerts a day" in shown and "| 1e-6 |" in shown
    assert states["train"] == "COMPLETED"


def test_a_starved_candidate_is_refused_with_rule_figure_and_threshold(trained: dict, command, toy: Path) -> None:
    done = command(
        "train", "neural_ode", "--dataset", toy, "--name", "toy", "--rules", "toy", "--set", "epochs=1",
        "--limit-rows", 120, "--promote-to", "Production", "--json",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    outcome = json.loads(done.stdout)["promotion"][-1]
    assert not outcome["moved"] and outcome["stage"] == "Staging"
    assert any("accuracy" in reason and "0.9" in reason for reason in outcome["verdict"]["reasons"])
    stages = {row["version"]: row["stage"] for row in json.loads(command("models", "toy", "--json").stdout)}
    assert stages == {"1.0.0": "Production", "1.1.0": "None"}


def test_a_third_version_replaces_the_first_and_a_rollback_brings_it_back(trained: dict, command, toy: Path) -> None:
    done = command(
        "train", "neural_ode", "--dataset", toy, "--name", "toy", "--rules", "toy", "--set", "epochs=4",
        "--set", "seed=7", "--version", "2.0.0", "--promote-to", "Production", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compared = command("compare", "toy@2.0.0", "toy@1.0.0", "--json")
    assert compared.returncode == 0, compared.stderr
    content = json.loads(compared.stdout)
    assert Path(content["picture"]).read_bytes().startswith(b"\x89PNG")
    assert {"accuracy", "macro_f1"} <= {d["metric"] for d in content["differences"]}
    back = command("rollback", "toy", "--reason", "ticket 4711")
    assert back.returncode == 0 and "2.0.0 -> 1.0.0" in back.stdout
    log = json.loads(command("history", "toy", "--json").stdout)
    assert [(d["decision"], d["version"]) for d in log][-1] == ("rollback", "1.0.0")
    assert "ticket 4711" in log[-1]["why"][0]
    assert command("history", "--verify").returncode == 0
    again = command("rollback", "toy")
    assert again.returncode == 4 and "no previous version" in again.stderr
    assert command("registry", "repair").returncode == 0


def test_an_edited_ledger_row_is_named_and_nothing_is_served_from_it(
    trained: dict, command, installation: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "home"
    shutil.copytree(installation, copy, ignore=shutil.ignore_patterns("prefect", "mlflow.db", "artifacts"))
    with sqlite3.connect(copy / "state.db") as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f"drop trigger {name}")
        database.execute("update decision set actor = 'somebody else' where action = 'promote'")
    done = command("history", "--verify", home=copy)
    assert done.returncode == 5 and "ledger row" in done.stderr and "Traceback" not in done.stderr
    scored = command("score", tmp_path / "none.pcap", "--model", "toy", home=copy)
    assert scored.returncode == 5, scored.stderr


def test_scoring_writes_a_row_per_flow_without_mlflow_or_prefect(
    trained: dict, command, toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    done = command(
        "score", toy, "--model", "toy@production", "--out", out, "--json", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert done.returncode == 0, done.stderr
    rows = TrafficSet.read(toy)
    assert sum(json.loads(done.stdout)["verdicts"].values()) == len(rows)
    assert len(out.read_text().splitlines()) == len(rows) + 1


def test_evaluating_anew_gives_the_same_figures(trained: dict, command) -> None:
    done = command("evaluate", "toy", "1.0.0", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["headline"]["accuracy"] == trained["evaluation"]["headline"]["accuracy"]
    assert len(content["base_rates"]["rows"]) == 15
    page = Path(content["files"][0])
    assert page.name == "evaluation.html" and 'href="../drift.html"' in page.read_text(encoding="utf-8")


def test_evaluating_anew_prints_the_base_rates_and_where_the_page_lies(
    trained: dict, command, toy: Path, tmp_path: Path
) -> None:
    done = command("evaluate", "toy", "--on", toy, "--out", tmp_path, ROBUSTIDPS_ALERTS_PER_ANALYST="20")
    assert done.returncode == 0, done.stderr
    assert "20 alerts each" in done.stdout and (tmp_path / "evaluation.html").as_uri() in done.stdout
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert "drift.html" not in page and "temporal split" not in page  # those are of other traffic


def test_registered_versions_are_unified_judged_and_registered_as_one(trained: dict, command, toy: Path) -> None:
    base = ("--dataset", toy, "--rules", "toy", "--json")
    done = command("train", "neural_ode", "--name", "second", "--set", "epochs=2", "--set", "seed=5", *base)
    assert done.returncode == 0, done.stderr
    done = command("unify", "toy@1.0.0", "second@1.0.0", "--name", "both", "--promote-to", "Production", *base)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    members = result["settings"]["members"]
    assert (members[0]["model"], members[0]["digest"]) == ("toy", trained["digest"])
    assert sum(m["weight"] for m in members) == pytest.approx(1, abs=1e-5) and result["promotion"][-1]["moved"]
    for words in (["toy@1.0.0"], ["toy@1.0.0", "toy@1.0.0"], ["toy@1.0.0", "toy@77.0.0"]):
        refused = command("unify", *words, *base)
        assert refused.returncode == 3 and "Traceback" not in refused.stderr
    assert "unified-toy" not in {row["model"] for row in json.loads(command("models", "--json").stdout)}


def test_a_taken_version_is_refused_before_any_training(trained: dict, command, toy: Path) -> None:
    done = command("train", "neural_ode", "--dataset", toy, "--name", "toy", "--version", "1.0.0")
    assert done.returncode == 7 and "exists already" in done.stderr and "Traceback" not in done.stderr


def test_mlflow_that_is_away_fails_clearly_and_frees_the_number(command, toy: Path, installation: Path) -> None:
    away = {"ROBUSTIDPS_MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = command(
        "train", "neural_ode", "--dataset", toy, "--name", "away", "--set", "epochs=1", "--limit-rows", 200, **away
    )
    assert done.returncode == 6 and "Traceback" not in done.stderr
    assert "away" not in {row["model"] for row in json.loads(command("models", "--json").stdout)}
