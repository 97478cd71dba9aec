"""`robustidps gc` takes away planted leftovers and what is old, and nothing that is in use, retained or being made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from robustidps import cli, console, folderlocks, retention
from robustidps.cli import _app
from robustidps.errors import ConfigError, ConflictError, LedgerError, NotFoundError
from robustidps.registry import state
from robustidps.registry.registry import ModelRegistry
from robustidps.retention import Retention, collect, working
from robustidps.settings import CONFIGS, Settings, load_yaml, use_settings
from robustidps.testing.forge import reseal
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE, memory_registry
from robustidps.testing.traffic import toy_traffic
from robustidps.updates import evidence
from robustidps.updates.installing import working_on

DAY = 86_400.0
SHIPPED = load_yaml(CONFIGS / "retention.yaml", Retention)
STRICT = SHIPPED.model_copy(update={"keep_newest": 1, "keep_rollbacks": 1, "runs_days": 1, "failed_runs_days": 1})


def aged(path: Path, days: float) -> Path:
    """`path`, and all that is in it, as if last touched so long ago."""
    when = time.time() - days * DAY
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        os.utime(entry, (when, when))
    return path


def planted(path: Path, days: float, content: bytes = b"x" * 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return aged(path, days)


def planted_folder(path: Path, days: float) -> Path:
    planted(path / "file", days)
    return aged(path, days)


def whats(done: retention.Collected) -> set[str]:
    return {item.what for item in done.items}


def all_files(home: Path) -> dict[str, int]:
    skip = ("locks", "state.db")
    return {
        str(p.relative_to(home)): p.stat().st_size
        for p in sorted(home.rglob("*"))
        if p.is_file() and not str(p.relative_to(home)).startswith(skip)
    }


@pytest.fixture
def leftovers(stocked) -> dict[str, list[Path]]:
    """What killed processes leave, in each place, old and new."""
    home = stocked.settings.home
    made: dict[str, list[Path]] = {}
    for age, days in (("old", 5), ("new", 0.1)):
        made[age] = [
            planted(home / "traffic" / f"train-{'a' * 16}.parquet.{'1' * 7}{days:.0f}.part", days),
            planted_folder(home / "captures" / f".simulated-{'b' * 12}.{'2' * 7}{days:.0f}.part", days),
            planted_folder(home / "cache" / "fetch" / f"feed{days}", days),
            planted_folder(home / "cache" / "bundles" / f".{'c' * 16}.{'3' * 11}{days:.0f}", days),
            planted_folder(home / "cache" / "bundles" / (f"{days:.0f}" * 64), days),
            planted_folder(home / "runs" / "toy" / f"1.0.0-seed{days:.0f}", days),
            planted_folder(home / "runs" / "toy" / f".partial-1.0.0-seed0-{'4' * 7}{days:.0f}", days),
            planted_folder(home / "runs" / f"import-toy-x{days:.0f}", days),
            planted(home / "reports" / "toy" / "1.0.0" / f"page.html.{'5' * 7}{days:.0f}.part", days),
        ]
    made["kept"] = [
        planted(home / "captures" / "mine.pcap", 4000),
        planted(home / "captures" / "monday" / "mine.pcap", 4000),
        planted(home / "traffic" / "my-own.parquet", 4000),
        planted(home / "datasets" / "nsl_kdd" / "KDDTest+.txt", 4000),
        planted(home / "datasets" / "nsl_kdd" / "big.zip.part", 20),
        planted(home / "configs" / "promotion" / "mine.yaml", 4000),
        planted(home / "keys" / "backup.part", 4000),
    ]
    made["old"].append(planted(home / "datasets" / "nsl_kdd" / "other.zip.part", 40))
    return made


def test_leftovers_go_and_what_is_young_or_a_persons_own_stays(stocked, leftovers):
    done = collect(stocked)
    assert [p for p in leftovers["old"] if p.exists()] == []
    assert [p for p in leftovers["new"] + leftovers["kept"] if not p.exists()] == []
    assert whats(done) == {str(p.relative_to(stocked.settings.home)) for p in leftovers["old"]}
    assert done.bytes == 100 * len(leftovers["old"]) and not done.problems
    assert collect(stocked).items == []
    assert stocked.verify("toy").ok


def test_what_killed_updates_left_goes_and_what_an_update_is_at_stays(stocked):
    home, updates = stocked.settings.home, stocked.settings.home / "updates"
    stocked.reserve_version("toy", "9.0.0", digest="d" * 64)
    told = {"version": "9.0.0", "digest": "d" * 64}
    note = planted(updates / "work" / "toy" / "registering.json", 5, json.dumps(told).encode())
    gone = [
        aged(note.parent, 5),
        planted_folder(updates / "quarantine" / "abandoned", 5),
        planted_folder(updates / ".checking-x", 5),
        planted(updates / "partial" / ("a" * 64), 40),
        planted(updates / "benchmarks" / f"{'b' * 64}.parquet.{'1' * 8}.part", 5),
    ]
    kept = [
        planted(updates / "partial" / ("c" * 64), 20),
        planted(updates / "root.json", 4000),
        planted(updates / "time.json", 4000),
        planted(updates / "trusted" / "timestamp.json", 4000),
        planted_folder(updates / "quarantine" / "young", 0.1),
    ]
    held = planted_folder(updates / "quarantine" / "held", 5)
    with folderlocks.held(held):
        assert whats(collect(stocked)) == {str(path.relative_to(home)) for path in gone}
    assert [path for path in gone if path.exists()] == []
    assert [path for path in [*kept, held] if not path.exists()] == []
    with pytest.raises(NotFoundError):
        stocked.version("toy", "9.0.0")


def test_a_work_folder_that_somebody_is_at_is_left_to_them(stocked):
    folder = stocked.settings.home / "updates" / "work" / "toy"
    with working_on(stocked, "toy"):
        planted(folder / "bundle.tar", 5)
        aged(folder, 5)
        assert collect(stocked).items == [] and folder.is_dir()


def test_rows_of_a_benchmark_go_when_no_pin_names_them_and_no_version_is_judged_by_them(stocked, bundles, tmp_path):
    folder = stocked.settings.folder("updates", "benchmarks")
    rows = [toy_traffic(50, seed).write(tmp_path / f"{seed}.parquet") for seed in (1, 2, 3, 4)]
    judged = evidence.pin(stocked, "toy", rows[0])
    shutil.copytree(bundles["1.0.0"], tmp_path / "b")
    reseal(tmp_path / "b", version="2.0.0")
    stocked.register_model("toy", "2.0.0", tmp_path / "b", held_out=judged.held_out)
    former = evidence.pin(stocked, "toy", rows[1], evaded=rows[3])
    now = evidence.pin(stocked, "toy", rows[2], evaded=rows[2])
    assert collect(stocked).items == []
    aged(folder, 4000)
    loose = {Path(former.path), Path(former.evaded["path"])}
    assert whats(collect(stocked)) == {str(path.relative_to(stocked.settings.home)) for path in loose}
    left = {Path(judged.path), Path(now.path), Path(now.evaded["path"]), folder / "toy.json"}
    assert set(folder.iterdir()) == left
    aged(folder, 4000)
    (folder / "toy.json").write_text((folder / "toy.json").read_text().replace(now.digest, "0" * 64))
    done = collect(stocked)  # what an edited pin named isn't known
    assert done.items == [] and "toy.json" in done.problems[0] and set(folder.iterdir()) == left


def test_a_dry_run_says_the_same_and_takes_nothing(stocked, leftovers):
    before = all_files(stocked.settings.home)
    dry = collect(stocked, dry_run=True)
    assert all_files(stocked.settings.home) == before
    wet = collect(stocked)
    assert [i.as_dict() for i in dry.items] == [i.as_dict() for i in wet.items]
    assert sum(before.values()) - sum(all_files(stocked.settings.home).values()) == wet.bytes == dry.bytes > 0


def test_bundles_of_versions_in_a_stage_or_retained_stay_however_old(stocked):
    for version in ("1.0.0", "1.1.0"):
        stocked.transition("toy", version, "Production", verdict=APPROVE)
    bundles = stocked.settings.home / "cache" / "bundles"
    aged(bundles, 1000)
    collect(stocked, retention=STRICT)
    kept = {r.digest: r.version for r in stocked.versions("toy")}
    assert {kept[p.name] for p in bundles.iterdir()} == {"1.0.0", "1.1.0", "1.10.0"}  # and the newest
    assert stocked.rollback("toy").version == "1.0.0"
    assert stocked.load_model("toy", "1.2.0").version == "1.2.0"  # fetched again


def test_a_bundle_that_was_just_used_is_not_old(stocked):
    bundles = aged(stocked.settings.home / "cache" / "bundles", 1000)
    stocked.bundle("toy", "1.0.0")
    collect(stocked, retention=STRICT)
    assert len(list(bundles.iterdir())) == 2


def test_a_bundle_that_comes_into_use_while_it_is_taken_away_is_put_back(stocked, monkeypatch):
    aged(stocked.settings.home / "cache" / "bundles", 1000)
    second_look = retention._Sweep.second_look
    digest = stocked.version("toy", "1.0.0").digest

    def meanwhile(sweep) -> None:
        assert not stocked.cache.has(digest)
        with monkeypatch.context() as patch:  # the other process had looked just before the folder was renamed
            patch.setattr(ModelRegistry, "_kept", lambda *args: None)
            stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE)
        second_look(sweep)

    monkeypatch.setattr(retention._Sweep, "second_look", meanwhile)
    done = collect(stocked, retention=STRICT)
    assert stocked.retained("toy", "1.0.0") and not any(digest in what for what in whats(done))


def test_a_gc_that_is_killed_leaves_nothing_broken_and_the_next_finishes(stocked, leftovers, monkeypatch):
    home = stocked.settings.home
    aged(home / "cache" / "bundles", 1000)
    rmtree, calls = shutil.rmtree, []

    def die(path, **options):
        calls.append(path)
        rmtree(Path(path) / "native", ignore_errors=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(retention.shutil, "rmtree", die)
    for _ in range(12):
        try:
            collect(stocked, retention=STRICT)
        except KeyboardInterrupt:
            assert stocked.check("toy").ok
    assert len(calls) == 12  # each time it got no further than one folder
    monkeypatch.setattr(retention.shutil, "rmtree", rmtree)
    collect(stocked, retention=STRICT)
    assert list(home.rglob(".gc-*")) == []
    assert [p for p in leftovers["old"] if p.exists()] == []
    assert stocked.verify("toy").ok and stocked.load_model("toy", "1.0.0")


def test_two_at_once_are_one(stocked, leftovers):
    with stocked.store.lock("gc"), pytest.raises(ConflictError):
        collect(memory_registry(stocked.settings.home))
    assert all(p.exists() for p in leftovers["old"])


def test_many_at_once_take_each_thing_once_and_break_nothing(tmp_path):
    home = tmp_path / "home"
    registry = memory_registry(home)
    registry.register_model("toy", "1.0.0", toy_bundle(tmp_path / "bundle").path)
    for number in range(200):
        planted_folder(home / "cache" / "fetch" / f"{number}", 5)
    code = (
        "import json, sys; from robustidps.retention import collect; from robustidps.errors import ConflictError\n"
        "from robustidps.testing.registry import memory_registry; from pathlib import Path\n"
        "try: print(len(collect(memory_registry(Path(sys.argv[1]))).items))\n"
        "except ConflictError: print(0)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE) for _ in range(2)]
    counts = [int(process.communicate(timeout=60)[0]) for process in started]
    assert sum(counts) == 200 and [p.returncode for p in started] == [0, 0]
    assert list((home / "cache" / "fetch").iterdir()) == [] and registry.verify("toy").ok


def test_what_somebody_works_on_stays_however_old_it_is(stocked):
    home = stocked.settings.home
    stocked.reserve_version("toy", "2.0.0")
    run = planted_folder(home / "runs" / "toy" / "2.0.0-seed0", 40)
    with stocked.store.write() as connection:
        long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat()
        connection.execute(
            sa.update(state.version).where(state.version.c.version == "2.0.0").values(created_at=long_ago)
        )
    code = (
        "import sys, time; from pathlib import Path; from robustidps.retention import working\n"
        "from robustidps.settings import Settings\n"
        "with working(Settings(home=Path(sys.argv[1])), 'toy'): print('at work', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE)
    try:
        assert worker.stdout.readline() == b"at work\n"
        assert collect(stocked).items == [] and run.exists()
    finally:
        worker.kill()
        worker.wait()
    assert whats(collect(stocked)) == {"runs/toy/2.0.0-seed0", "toy 2.0.0"}  # the lock ended with its process
    with pytest.raises(NotFoundError):
        stocked.version("toy", "2.0.0")
    with working(stocked.settings, "toy"), working(stocked.settings, "toy"):
        pass  # several may


def test_traffic_that_a_version_is_judged_by_stays_until_it_is_withdrawn(registry, tmp_path):
    folder = registry.settings.folder("traffic")
    parts = {}
    for seed, name in enumerate(("test", "evaded", "train")):
        traffic = toy_traffic(50, seed)
        parts[name] = traffic.write(folder / f"{name}-{traffic.digest[:16]}.parquet")
    held_out = {"path": str(parts["test"]), "digest": "d", "dataset": "toy", "rules": "toy"}
    held_out |= {"evaded": {"path": str(parts["evaded"]), "digest": "e"}}
    registry.register_model("toy", "1.0.0", toy_bundle(tmp_path / "b").path, held_out=held_out)
    aged(folder, 400)
    assert whats(collect(registry)) == {str(parts["train"].relative_to(registry.settings.home))}
    registry.withdraw("toy", "1.0.0", reason="bad labels")
    collect(registry)
    assert list(folder.iterdir()) == []


def test_reports_of_versions_that_are_long_gone_go_and_others_stay(stocked):
    reports = stocked.settings.home / "reports" / "toy"
    for version in ("1.0.0", "1.1.0", "1.2.0", "0.9.0"):
        planted(reports / version / "evaluation.html", 400)
    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    aged(reports, 400)
    collect(stocked, retention=STRICT)
    assert {p.name for p in reports.iterdir()} == {"1.0.0", "0.9.0"}  # in production; of no version of ours


def test_nothing_is_taken_away_on_the_word_of_an_edited_ledger(stocked, leftovers):
    with stocked.store.write() as connection:
        connection.execute(sa.text("DROP TRIGGER decision_no_update"))
        connection.execute(sa.text("UPDATE decision SET version = '1.2.0' WHERE seq = 1"))
    with pytest.raises(LedgerError):
        collect(stocked)
    assert all(p.exists() for p in leftovers["old"])


def test_an_mlflow_that_is_away_hinders_nothing_else(stocked, leftovers):
    stocked.tracking.away = True
    done = collect(stocked)
    assert len(done.problems) == 1 and not any(p.exists() for p in leftovers["old"])


def test_runs_in_mlflow_are_marked_then_purged_and_only_ours(real, tmp_path, monkeypatch):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        real.register_model("toy", number, toy_bundle(tmp_path / number, version=number).path)
    real.transition("toy", "1.0.0", "Archived")
    real.withdraw("toy", "1.1.0", reason="bad labels")
    client = real.tracking.client
    experiment = real.tracking.experiment("toy")
    failed = real.tracking.start_run("toy", "1.3.0", {})
    real.tracking.end_run(failed, "FAILED")
    foreign = client.create_run(experiment).info.run_id
    client.set_terminated(foreign, "FAILED")
    runs = {v: real.version("toy", v).run_id for v in ("1.0.0", "1.1.0", "1.2.0")}
    assert collect(real, retention=STRICT).items == []  # all of this is young

    clock = time.time()
    monkeypatch.setattr(retention.time, "time", lambda: clock + 3 * DAY)
    assert {i.what for i in collect(real, retention=STRICT).items if i.kind == "MLflow run"} == {
        runs["1.0.0"], runs["1.1.0"], failed,
    }  # fmt: skip
    stages = {i: client.get_run(i).info.lifecycle_stage for i in (*runs.values(), failed, foreign)}
    assert [i for i, stage in stages.items() if stage == "active"] == [runs["1.2.0"], foreign]
    assert collect(real, retention=STRICT).items == []
    shutil.rmtree(real.settings.home / "cache" / "bundles")
    assert real.load_model("toy", "1.0.0")  # marked, but its artefacts are there

    monkeypatch.setattr(retention.time, "time", lambda: clock + 5 * DAY)
    purging = STRICT.model_copy(update={"purge_days": 1})
    assert [i.kind for i in collect(real, retention=purging).items] == ["MLflow runs, for good"]
    for run_id in (runs["1.1.0"], failed):
        with pytest.raises(Exception, match="not found"):
            client.get_run(run_id)
        assert not [p for p in (real.settings.home / "artifacts").rglob(f"{run_id}/**/*") if p.is_file()]
    assert real.load_model("toy", "1.0.0") and client.get_run(foreign)


def test_the_command_prints_what_and_how_much(stocked, leftovers, monkeypatch, capsys):
    monkeypatch.setattr("robustidps.cli.upkeep.open_registry", lambda: stocked)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", "gc", *words])
        monkeypatch.setattr(_app, "given", {})
        monkeypatch.setattr(console.out, "width", 200)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().out

    code, out = run("--dry-run")
    assert code == 0 and "10 things, 1 kB would be freed" in out and "unused for 5.0 days" in out
    code, out = run("--json")
    assert code == 0 and json.loads(out)["bytes"] == 1000
    stocked.tracking.away = True
    assert run()[0] == 6


def test_the_file_in_force_is_the_homes_and_has_no_unknown_key(home):
    settings = Settings(home=home)
    assert Retention.load(settings) == SHIPPED
    own = settings.folder("configs") / "retention.yaml"
    own.write_text("traffic_days: 10\n")
    assert Retention.load(settings).traffic_days == 10
    for text in ("traffic_days: 0.1\n", "leftovers_hours: 0\n", "keep_rollbacks: 0\n", "everything: 1\n"):
        own.write_text(text)
        with use_settings(settings), pytest.raises(ConfigError):
            Retention.load(settings)
