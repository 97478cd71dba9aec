"""`monitor`, `drift` and `retrain` as people run them: from traffic in a folder to a candidate that rules judged."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from robustidps.settings import Settings, use_settings
from tests.flows.conftest import DAY, TOY_RULES, Command, toy_traffic

pytestmark = pytest.mark.long


def later(number: int, *, moved: float = 0.0, rows: int = 1_500, days: int = 1, seed: int = 50):
    """Labelled traffic after what the model was trained and judged on."""
    traffic = toy_traffic(rows, days, seed + number)
    x = traffic.features.copy()
    x[:, 24:44] += moved
    start = (number + 11) * DAY
    names = np.array([f"{c}+{number}" for c in traffic.campaign], dtype=object)
    return replace(traffic, features=x, time=traffic.time + start, campaign=names)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation of this module's own: versions are promoted, and made, in the others'."""
    home = tmp_path_factory.mktemp("house")
    rules = home / "configs" / "promotion" / "toy.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(TOY_RULES)
    return home


@pytest.fixture(scope="module")
def run(command: Command, house: Path, toy: Path) -> Command:
    """`command` in that installation, with `toy` 1.0.0 in production."""
    words = ["train", "neural_ode", "--dataset", toy, "--name", "toy", "--rules", "toy", "--set", "epochs=4"]
    done = command(*words, "--promote-to", "Production", home=house)
    assert done.returncode == 0, done.stderr
    return partial(command, home=house)


@pytest.fixture(scope="module")
def looked(run: Command, house: Path) -> dict:
    """Three days of traffic, each looked at: a steady one, then two that moved; two of three are an alarm here."""
    incoming = house / "incoming" / "toy"
    drift = house / "configs" / "drift.yaml"
    drift.write_text("sample: 300\nwindows: {k: 2, n: 3, evidently: drifted}\n")
    outcomes = []
    for number, moved in enumerate((0.0, 3.0, 3.0)):
        later(number, moved=moved).write(incoming / f"day{number}.parquet")
        done = run("monitor", "--json")
        assert done.returncode == 0, done.stderr
        outcomes.append(json.loads(done.stdout))
    return {"outcomes": outcomes, "incoming": incoming}


def test_windows_are_recorded_and_the_second_that_moved_is_an_alarm(looked, run: Command):
    windows = [o["models"]["toy"]["windows"][0] for o in looked["outcomes"]]
    assert [w["status"] for w in windows] == ["steady", "drifted", "alarm"]
    assert looked["outcomes"][-1]["models"]["toy"]["told"] == [windows[-1]["window"]]  # the event was sent, once
    listed = json.loads(run("drift", "list", "toy", "--json").stdout)
    assert [w["id"] for w in listed] == [w["window"] for w in windows]
    history = json.loads(run("history", "toy", "--json").stdout)
    assert [h["decision"] for h in history].count("alarm") == 1
    assert run("history", "--verify").returncode == 0


def test_each_window_has_its_pages_and_the_index_leads_to_them(looked, house: Path):
    index = Path(looked["outcomes"][-1]["index"]).read_text()
    for outcome in looked["outcomes"]:
        window = outcome["models"]["toy"]["windows"][0]
        folder = Path(window["page"]).parent
        assert folder == house / "reports" / "drift" / "toy" / window["window"]
        there = {p.name for p in folder.iterdir()}
        assert {"drift.html", "drift.json"} <= there
        assert f"drift/toy/{window['window']}/drift.html" in index and window["address"].endswith("/drift.html")
        assert ("evidently.html" in there) == (window["status"] != "steady")
    summary = json.loads((folder / "evidently-summary.json").read_text())
    assert "the traffic 1.0.0 was trained on" in summary["notes"][0]  # it is there, so nothing is drawn
    assert "<script" not in index


def test_evidentlys_workspace_has_a_project_with_a_snapshot_a_window(looked, house: Path):
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(house / "reports" / "evidently"))
    (project,) = [p for p in workspace.list_projects() if p.name == "toy"]
    assert len(workspace.list_runs(project.id)) == 2


def test_mlflow_shows_figures_over_time_and_a_tag_that_leads_to_the_report(looked, house: Path):
    from robustidps.registry.registry import ModelRegistry

    with use_settings(Settings(home=house)) as settings:
        registry = ModelRegistry(settings=settings)
        record = registry.version("toy", "1.0.0")
        client = registry.tracking.client
        curve = client.get_metric_history(record.run_id, "traffic/share_moved")
        assert [p.step for p in curve] == [1, 2, 3] and curve[0].value < curve[-1].value
        tags = client.get_model_version("toy", str(record.mlflow_version)).tags
    last = looked["outcomes"][-1]["models"]["toy"]["windows"][0]
    assert tags["robustidps.drift_report"] == last["address"] and tags["robustidps.traffic"].startswith("alarm")


def test_looking_again_finds_nothing_new(looked, run: Command):
    done = run("monitor", "toy")
    assert done.returncode == 0 and "nothing new" in done.stdout
    assert len(json.loads(run("drift", "list", "toy", "--json").stdout)) == 3


def test_a_review_is_on_the_page_and_in_the_list(looked, run: Command):
    done = run("drift", "review", "toy", "latest", "--as", "incident", "--reason", "guests <i>scanning</i>")
    assert done.returncode == 0, done.stderr
    assert "guests <i>scanning</i>" in run("drift", "show", "toy").stdout
    page = Path(looked["outcomes"][-1]["models"]["toy"]["windows"][0]["page"]).read_text()
    assert "guests &lt;i&gt;scanning" in page
    wrong = run("drift", "review", "toy", "latest", "--as", "ignore", "--reason", "x")
    assert wrong.returncode == 3 and "--until" in wrong.stderr
    assert run("drift", "show", "toy", "20260101T000000Z-00000000").returncode == 3


def test_without_a_named_source_nothing_is_trained_and_the_ledger_says_so(looked, run: Command):
    done = run("retrain", "toy", "latest")
    assert done.returncode == 4 and "no source of labels is named" in done.stdout
    last = json.loads(run("history", "toy", "--json").stdout)[-1]
    assert (last["decision"], last["verdict"]) == ("retrain", "hold")


def test_a_window_without_an_alarm_is_no_reason_to_train(looked, run: Command):
    first = looked["outcomes"][0]["models"]["toy"]["windows"][0]["window"]
    done = run("retrain", "toy", first)
    assert done.returncode == 4 and "no alarm of this window is on record" in done.stderr


def test_with_labels_a_candidate_is_trained_judged_and_not_twice_in_a_week(looked, run: Command, house: Path):
    folder = house / "labels"
    later(4, moved=3.0, rows=6_000, days=10).write(folder / "soc.parquet")
    config = house / "configs" / "retraining" / "toy.yaml"
    config.parent.mkdir()
    config.write_text(f"sources: [{{name: soc, folder: {folder}}}]\nquarantine_days: 0\noverrides: {{epochs: 3}}\n")
    done = run("retrain", "toy", "latest", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["trained"], done.stderr
    assert result["version"] == "1.1.0" and [p["stage"] for p in result["promotion"]] == ["Staging"]
    history = json.loads(run("history", "toy", "--json").stdout)
    made = [(h["decision"], h["verdict"]) for h in history]
    assert ("retrain", "started") in made
    assert json.loads(run("models", "--json").stdout)[0]["production"] == "1.0.0"  # because of drift alone: nothing
    again = run("retrain", "toy", "latest")
    assert again.returncode == 4 and "at most once in 7 days" in again.stdout


def test_a_model_that_is_not_in_production_and_an_empty_folder_are_told_plainly(looked, run: Command, tmp_path: Path):
    for words in (("monitor", "nobody", "--traffic", tmp_path), ("monitor", "toy", "--traffic", tmp_path)):
        done = run(*words)
        assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert run("monitor", "toy", "--traffic", tmp_path, "--since", "yesterday").returncode == 3
