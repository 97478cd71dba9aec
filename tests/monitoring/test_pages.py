"""A window's pages and the index: what they say, that they phone nobody, that nothing planted in them runs, and
that old ones go."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustidps import cli, retention
from robustidps.cli import _app
from robustidps.evaluation.reference import profile
from robustidps.monitoring.index import write_index
from robustidps.monitoring.reports import evidently_report, keep_snapshot, write_page
from robustidps.monitoring.reviews import review
from robustidps.monitoring.window import Range
from robustidps.monitoring.windows import Case, DriftWindow, Measured, look, reviews_of, windows
from robustidps.registry.registry import ModelRegistry
from robustidps.retention import collect
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet
from tests.conftest import missing_part
from tests.monitoring.conftest import DAY, day

EVIL = "</script><script>window.pwned=1</script><img src=/pwned onerror='window.pwned=2'>"


def test_the_page_says_what_moved_from_what_and_why_no_alarm_is_raised(registry, watch):
    rows = [watch(i, moved=1.5).window for i in range(3)]
    given = review(registry, rows[-1], "expected", reason="the new office")
    quiet = watch(3, moved=1.5).window
    page = write_page(registry, quiet, None)[0].read_text()
    assert "No alarm is raised: expected: it is like window" in page
    assert re.search(r">skew</th><td[^>]*><strong>reference</strong>", page)
    assert "<script" not in page and 'http-equiv="Content-Security-Policy"' in page
    said = write_page(registry, rows[-1], given)
    assert "the new office" in said[0].read_text()
    content = json.loads(said[1].read_text())
    assert content["review"]["as"] == "expected" and content["figures"]["rows"] == 2_000


def test_the_index_has_a_link_a_window_and_a_mark_a_review(registry, watch):
    rows = [watch(i, moved=1.5).window for i in range(3)]
    for row in rows:
        write_page(registry, row)
    review(registry, rows[0], "incident", reason="guests")
    page = write_index(registry).read_text()
    for row in rows:
        assert page.count(f'href="drift/toy/{row.id}/drift.html"') >= 2  # in the picture and in the table
    assert "<title>incident: guests</title>I</text>" in page
    assert page.count('class="dot reference alarm"') == 1 and "<script" not in page


def test_an_index_without_a_window_says_what_to_do(registry):
    assert "robustidps monitor MODEL --traffic FOLDER" in write_index(registry).read_text()


@pytest.fixture
def offline(monkeypatch):
    """Fails whatever would leave this machine."""
    tried = []

    def refuse(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            tried.append(address)
            raise OSError("no network")
        return connect(self, address, *rest)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: tried.append(a) or [])
    return tried


def planted_schema() -> TrafficSchema:
    """A schema that says EVIL wherever it can; names beyond what schemas allow are put in past their checks."""
    features = [
        Feature.model_construct(**{**f.model_dump(), "name": f"{f.name} {EVIL}", "vocabulary": f.vocabulary})
        for f in TOY.features
    ]
    features[2] = Feature.model_construct(**{**features[2].model_dump(), "vocabulary": ("tcp", EVIL, f"{EVIL}2")})
    classes = ("Benign", f"Flood {EVIL}", "Scan", "Never-Seen")
    return TrafficSchema.model_construct(name="toy", features=tuple(features), classes=classes)


@pytest.fixture
def planted(registry, watch, offline) -> str:
    """A home whose pages have EVIL in every string that is shown; the name of the window."""
    row = [watch(i, moved=1.5).window for i in range(3)][-1]
    case = Case.of(registry, "toy")
    file = day(2, moved=1.5, labelled=True).write(registry.settings.home / "x.parquet")
    figures = look(case, [file], Range()).figures
    schema = planted_schema()
    names = dict(zip(TOY.feature_names, schema.feature_names, strict=True))
    classes = dict(zip(TOY.classes, schema.classes, strict=True))

    def told(value):
        """Every name of a column or class in figures, replaced."""
        if isinstance(value, dict):
            return {names.get(k, classes.get(k, k)): told(v) for k, v in value.items()}
        if isinstance(value, list):
            return [told(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    more = {"measured": told(figures.model_dump(mode="json")), "reasons": [EVIL], "notes": [EVIL], "anchor": EVIL}
    evil = replace(row, version=EVIL, figures={**row.figures, **more, "silenced": EVIL})
    given = replace(review(registry, row, "incident", reason=EVIL, actor=EVIL), reason=EVIL, actor=EVIL)
    traffic = TrafficSet.build(schema, toy_traffic(400, 1).features)
    traffic.features[::7, 2] = 2
    fake = replace(case, reference=case.reference.model_copy(update={"classes": list(schema.classes)}))
    fake = replace(fake, bundle=type("Planted", (), {"schema": schema, "metadata": case.bundle.metadata})())
    said = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    summary = evidently_report(registry, fake, row, Measured(figures, traffic, said))
    assert "is not here; 400 rows were drawn from its profile" in summary.notes[0]
    write_page(registry, evil, given)
    assert reviews_of(registry, "toy")[row.id].reason.startswith("</script>")
    write_index(registry)
    assert windows(registry, "toy")[-1].id == row.id and profile(day(0))["rows"] == 2_000
    assert offline == []  # Evidently's report and workspace were made, and nobody was phoned
    return row.id


def test_no_markup_reaches_a_page_or_evidentlys_workspace(registry, planted):
    reports = registry.settings.home / "reports"
    for file in reports.rglob("*"):
        if file.is_file() and file.suffix != ".json":
            assert b"<script>window" not in file.read_bytes() and b"<img src=/pwned" not in file.read_bytes(), file
        elif file.is_file() and "evidently" in file.parts:
            assert b"<script>" not in file.read_bytes(), file


@pytest.mark.real
def test_in_a_browser_nothing_planted_runs_and_evidently_still_draws(registry, planted):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing_part("no chromium on this machine")
    command = [sys.executable, "-m", "robustidps", "reports", "serve", "--port", "0"]
    env = os.environ | {"ROBUSTIDPS_HOME": str(registry.settings.home)}
    server = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        base = re.search(r"http://127\.0\.0\.1:\d+", server.stderr.readline())[0]
        with playwright.sync_playwright() as run:
            browser = run.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            asked, dialogs = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
            folder = f"{base}/drift/toy/{planted}"
            for address in (
                f"{base}/index.html",
                f"{folder}/drift.html",
                f"{folder}/evidently.html",
                f"{folder}/drift.json",
            ):
                page.goto(address, wait_until="load")
                page.wait_for_timeout(500)
                assert page.evaluate("typeof window.pwned") == "undefined", address
                assert page.locator("img[src='/pwned']").count() == 0, address
            page.goto(f"{folder}/drift.html")
            assert "<img src=/pwned" in page.inner_text("body")  # shown, as the word that it is
            page.goto(f"{folder}/evidently.html", wait_until="load")
            page.wait_for_selector("text=Drift is detected for", timeout=20_000)  # its script has drawn
            sent = page.evaluate("fetch('/health').then(() => 'sent', () => 'refused')")
            assert sent == "refused" and page.evaluate("window.origin") == "null"
            page.goto(f"{base}/index.html")
            page.locator(f"svg a[href*='{planted}']").first.click()
            page.wait_for_url("**/drift.html")
            assert dialogs == [] and {url.split("/", 3)[2] for url in asked} == {base.split("/")[2]}
            assert not any("pwned" in url for url in asked)
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


def reported(registry: ModelRegistry) -> set[str]:
    return {p.name for p in (registry.settings.home / "reports" / "drift" / "toy").iterdir() if any(p.iterdir())}


def dangling(registry: ModelRegistry) -> list[str]:
    index = registry.settings.home / "reports" / "index.html"
    return [to for to in re.findall(r'href="([^"#]+)"', index.read_text()) if not (index.parent / to).is_file()]


def snapshots(registry: ModelRegistry, model: str) -> set[str]:
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(registry.settings.home / "reports" / "evidently"))
    (project,) = workspace.search_project(model)
    return {workspace.get_run(project.id, run).name for run in workspace.list_runs(project.id)}


def shown(registry: ModelRegistry, window: str, monkeypatch, capsys) -> str:
    """What `robustidps drift show` prints."""
    monkeypatch.setattr("robustidps.cli.monitoring.open_registry", lambda: registry)
    monkeypatch.setattr(_app, "given", {})
    monkeypatch.setattr("sys.argv", ["robustidps", "drift", "show", "toy", window])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    return said.out + said.err


@pytest.fixture
def looked(registry, watch) -> list[DriftWindow]:
    """Ten windows with pages: 0 and 1 steady, 2 reviewed, 3 steady, 4 to 6 drifted (6 an alarm in the ledger), 7 steady
    as the traffic before, 8 and 9 drifted: an alarm that stands from 9 on, told already when it began at 6."""
    for number in range(10):
        watch(number, moved=1.5 if number in (4, 5, 6, 8, 9) else 0.0)
        if number == 2:
            review(registry, windows(registry, "toy")[2], "expected", reason="the new office")
    found = windows(registry, "toy")
    for row in found:
        write_page(registry, row)
    write_index(registry)
    return found


@pytest.fixture
def snapshot():
    import pandas as pd
    from evidently import Dataset, Report
    from evidently.metrics import RowCount

    frame = Dataset.from_pandas(pd.DataFrame({"x": np.arange(3)}))
    return Report([RowCount()]).run(frame, None)


def later(monkeypatch, days: float) -> None:
    clock = time.time() + days * DAY
    monkeypatch.setattr(retention.time, "time", lambda: clock)


def test_old_reports_go_and_what_the_ledger_an_alarm_or_mlflow_refers_to_stays(registry, looked, monkeypatch, capsys):
    ids = [row.id for row in looked]
    assert [row.alarm for row in looked] == [False] * 6 + [True, False, True, True]
    assert not collect(registry).items and reported(registry) == set(ids)
    later(monkeypatch, 100)
    index = registry.settings.home / "reports" / "index.html"
    before = index.read_bytes()
    asked = [item for item in collect(registry, dry_run=True).items if item.kind == "drift report"]
    assert reported(registry) == set(ids) and index.read_bytes() == before
    done = [item for item in collect(registry).items if item.kind == "drift report"]
    assert asked == done and all(item.bytes > 1000 for item in done)
    assert reported(registry) == {ids[i] for i in (2, 6, 8, 9)}
    assert dangling(registry) == []
    assert index.read_text().count("its report is no longer kept") == 6
    assert len(windows(registry, "toy")) == 10  # what was measured stays on record
    said = shown(registry, ids[0], monkeypatch, capsys)
    assert "no longer kept" in said and "drift.html" not in said
    write_page(registry, looked[0])
    write_index(registry)
    assert f"{ids[0]}/drift.html" in index.read_text()


def test_a_gc_that_is_killed_after_a_report_has_the_next_one_mend_the_index(registry, looked, monkeypatch):
    later(monkeypatch, 100)

    def die(path: Path, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(retention.shutil, "rmtree", die)
        collect(registry)
    assert dangling(registry)
    collect(registry)
    assert dangling(registry) == []
    assert not list((registry.settings.home / "reports").rglob(".gc-*"))


def test_snapshots_in_the_workspace_go_with_their_windows_and_somebody_elses_stay(
    registry, looked, snapshot, monkeypatch
):
    home, ids = registry.settings.home, [row.id for row in looked]
    for row in (looked[0], looked[2], looked[9]):
        keep_snapshot(home, row, snapshot)
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(home / "reports" / "evidently"))
    workspace.add_run(workspace.search_project("toy")[0].id, snapshot, name="by hand")
    workspace.add_run(workspace.create_project("mine").id, snapshot, name=ids[0])
    assert not collect(registry).items
    later(monkeypatch, 100)
    gone = [item for item in collect(registry).items if item.kind == "drift snapshot"]
    assert len(gone) == 1 and gone[0].why.startswith(ids[0])
    assert snapshots(registry, "toy") == {ids[2], ids[9], "by hand"}
    assert snapshots(registry, "mine") == {ids[0]}
