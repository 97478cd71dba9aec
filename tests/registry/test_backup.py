"""`backup` and `restore`: all of it comes back elsewhere and works on; what is no good backup does nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from robustidps import judging
from robustidps.backup import read_manifest, restore, save
from robustidps.errors import (
    InputError,
    IntegrityError,
    LedgerError,
    NotFoundError,
    RefusedError,
    RobustIDPSError,
    StorageError,
    UnavailableError,
)
from robustidps.judging import gather
from robustidps.registry import steps
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.linear import toy_traffic
from robustidps.testing.registry import APPROVE
from robustidps.testing.remote import MemoryRemote
from robustidps.updates import evidence


@pytest.fixture(scope="module")
def first(tmp_path_factory, mlflow_template, bundles) -> ModelRegistry:
    """An installation: two versions judged on traffic that lies outside its home, own rules, a setting."""
    folder = tmp_path_factory.mktemp("first")
    home = folder / "home"
    (home / "configs" / "promotion").mkdir(parents=True)
    shutil.copy(mlflow_template, home / "mlflow.db")
    (home / "configs" / "promotion" / "mine.yaml").write_text("rules: []\n")
    (home / "settings.yaml").write_text("author: someone\ndask: local\n")
    registry = ModelRegistry(settings=Settings(home=home))
    held_out = toy_traffic(200, 7)
    held_out.write(folder / "held_out.parquet")
    recorded = {"path": str(folder / "held_out.parquet"), "digest": held_out.digest, "dataset": "toy"}
    for version in ("1.0.0", "1.1.0"):
        registry.register_model("toy", version, bundles[version], held_out=recorded, history=[{"loss": 0.5}])
        registry.transition("toy", version, "Production", verdict=APPROVE)
    registry.turn_away("elsewhere", "2.0.0", reasons=["offered, and refused"])
    registry.turn_away("toy", None, reasons=["offered, and refused"])
    return registry


@pytest.fixture(scope="module")
def saved(first, tmp_path_factory) -> Path:
    return save(first, tmp_path_factory.mktemp("saved") / "backup.tar.gz").path


@pytest.fixture
def empty(tmp_path, mlflow_template) -> Settings:
    """Settings of an empty installation elsewhere, MLflow's tables made (which takes seconds)."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    return Settings(home=home)


def untouched(settings: Settings) -> bool:
    """Whether nothing of a restore is left in a home."""
    left = {p.name for p in settings.home.iterdir()} - {"mlflow.db", "state.db", "locks", "logs"}
    return not {name for name in left if not name.startswith(("state.db-", "mlflow.db-"))}


def test_a_restored_home_has_all_of_it_and_works_where_the_first_one_is_gone(first, saved, empty, tmp_path):
    moved = Path(shutil.copytree(first.settings.home.parent, tmp_path / "kept"))
    away = first.settings.home.parent.rename(tmp_path / "away")
    try:
        restore(saved, empty)
        registry = ModelRegistry(settings=empty)
        report = registry.verify(artifacts=True)
        assert report.records == 7 and len(report.keys) == 2  # the former key's, and this one's
        entry = registry.history("toy")[-1]
        assert entry.action == "restore" and entry.evidence["ledger_hash"] == registry.history("toy")[-2].hash
        assert registry.load_model("toy", "production").version == "1.1.0"
        case = gather(registry, "toy", "1.1.0")  # the held-out traffic is found by its digest
        assert case.candidate.evaluation is not None and case.candidate.evaluation.rows == 200
        client = registry.tracking.client
        run = client.get_run(registry.version("toy", "1.0.0").run_id)
        assert run.info.artifact_uri.startswith((empty.home / "artifacts").as_uri())
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(0, 0.5)]
        assert registry.tracking.aliases("toy", ("production", "previous")) == {"production": "2", "previous": "1"}
        assert (empty.home / "configs" / "promotion" / "mine.yaml").read_text() == "rules: []\n"
        assert (empty.home / "settings.yaml").read_text() == "author: someone\n"  # addresses stay behind
        assert registry.rollback("toy").version == "1.0.0"
        assert registry.register_model("toy", "1.2.0", _bundle(tmp_path)).mlflow_version == 3
        registry.verify()
        witness = json.loads((empty.home / "keys" / "ledger.witness.json").read_text())
        assert witness["seq"] == registry.history()[-1].seq == 9
    finally:
        away.rename(first.settings.home.parent)
        shutil.rmtree(moved)


def _bundle(folder: Path) -> Path:
    from robustidps.testing.linear import toy_bundle

    return toy_bundle(folder / "new", version="1.2.0", seed=5).path


def test_a_restored_home_can_be_saved_and_restored_again(saved, empty, tmp_path, mlflow_template):
    restore(saved, empty)
    again = save(ModelRegistry(settings=empty), tmp_path / "again.tar.gz", with_key=True)
    assert again.manifest.missing == []
    third = Settings(home=tmp_path / "third")
    third.home.mkdir()
    shutil.copy(mlflow_template, third.home / "mlflow.db")
    restore(again.path, third, key_id=again.manifest.key_id)
    registry = ModelRegistry(settings=third)
    assert registry.verify(artifacts=True).records == 8
    assert registry.ledger.key.key_id == ModelRegistry(settings=empty).ledger.key.key_id


def test_the_former_key_signs_nothing_new_after_a_restore(first, saved, empty):
    """Whoever still holds the first installation's key can't write into the second one's ledger."""
    restore(saved, empty)
    for name in ("installation.pem", "installation.pub"):
        shutil.copy(empty.home / "keys" / name, empty.home / f"{name}.own")
        shutil.copy(first.settings.home / "keys" / name, empty.home / "keys" / name)
    own = (empty.home / "installation.pub.own").read_bytes()
    with pytest.raises(LedgerError, match="not this installation's"):
        ModelRegistry(settings=empty).rollback("toy")
    (empty.home / "keys" / "installation.pub").write_bytes(own)
    ModelRegistry(settings=empty).verify()


def test_no_private_key_is_saved_unless_asked_for(first, saved, tmp_path):
    pem = (first.settings.home / "keys" / "installation.pem").read_bytes()
    assert saved.stat().st_mode & 0o077 == 0
    assert pem not in gzip.decompress(saved.read_bytes()) and not read_manifest(saved).private_key
    with_key = save(first, tmp_path / "whole.tar.gz", with_key=True).path
    assert pem in gzip.decompress(with_key.read_bytes())


def test_no_address_and_no_password_of_the_settings_is_saved(first, tmp_path):
    file = first.settings.home / "settings.yaml"
    before = file.read_text()
    try:
        file.write_text(before + "prefect_database_url: postgresql://u:planted@h/d\nartifacts_uri: s3://planted/x\n")
        content = gzip.decompress(save(first, tmp_path / "b.tar.gz").path.read_bytes())
    finally:
        file.write_text(before)
    assert b"planted" not in content and b"author: someone" in content


def test_what_is_missing_is_told_and_a_bundle_that_mlflow_lost_comes_from_the_cache(saved, empty, tmp_path):
    restore(saved, empty)
    registry = ModelRegistry(settings=empty)
    digest = registry.version("toy", "1.0.0").held_out["digest"]
    (empty.home / "traffic" / "kept" / f"{digest}.parquet").write_bytes(b"other rows")
    shutil.rmtree(empty.home / "artifacts" / "toy" / str(registry.version("toy", "1.1.0").run_id))
    again = save(registry, tmp_path / "again.tar.gz")
    assert [text.split(":")[0] for text in again.manifest.missing] == ["traffic of toy 1.0.0"]


@pytest.fixture
def believing(saved, tmp_path, mlflow_template) -> ModelRegistry:
    """An installation that has pinned a root and a benchmark, was killed in a download, and has seen 1.1.0 offered."""
    home = tmp_path / "believing"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    restore(saved, Settings(home=home))
    registry = ModelRegistry(settings=Settings(home=home))
    remote = MemoryRemote()
    remote.add_family("linear")
    remote.publish()
    remote.rotate("root")
    remote.publish()
    assert remote.registry(home).offers() == []
    rows = toy_traffic(200, 11)
    evidence.pin(
        registry, "toy", rows.write(tmp_path / "rows.parquet"), evaded=toy_traffic(50, 12).write(tmp_path / "e")
    )
    for name in ("partial", "quarantine", "work"):
        (home / "updates" / name).mkdir(exist_ok=True)
        (home / "updates" / name / "planted").write_bytes(b"on its way")
    return registry


@pytest.mark.parametrize("with_key", [True, False])
def test_whom_updates_are_believed_and_what_they_are_measured_on_come_back(believing, empty, tmp_path, with_key):
    done = save(believing, tmp_path / "b.tar.gz", with_key=with_key)
    home = believing.settings.home
    assert done.manifest.missing == []
    before = evidence.pinned(believing, "toy")
    home.rename(tmp_path / "gone")
    home = tmp_path / "gone"
    restore(done.path, empty)
    there = empty.home / "updates"
    for name in ("root.json", "time.json", "trusted/timestamp.json", "trusted/root_history/2.root.json"):
        assert (there / name).read_bytes() == (home / "updates" / name).read_bytes()
    assert {p.name for p in there.iterdir()} == {"root.json", "time.json", "trusted", "benchmarks"}
    registry = ModelRegistry(settings=empty)
    if with_key:
        facts = evidence.benchmark(registry, "toy")
        assert evidence.pinned(registry, "toy") == before and facts == before.held_out
        assert judging.read_held_out(facts, "toy", home=empty.home).digest == before.digest
        assert judging.read_evaded(facts, "toy", home=empty.home) is not None
    else:  # it doesn't vanish, and isn't believed either: a person pins the rows, which came along, anew
        with pytest.raises(IntegrityError, match="not this installation's"):
            evidence.benchmark(registry, "toy")
        evidence.pin(registry, "toy", empty.home / "traffic" / "kept" / f"{before.digest}.parquet")
        assert evidence.benchmark(registry, "toy")["digest"] == before.digest


def test_a_home_that_trusts_somebody_already_is_not_restored_into(saved, empty):
    MemoryRemote().registry(empty.home)
    with pytest.raises(RefusedError, match="not empty"):
        restore(saved, empty)
    assert (empty.home / "updates" / "root.json").is_file()


# --- what isn't a good backup


def repacked(saved: Path, target: Path, change) -> Path:
    """The archive with its members changed: `change(members) -> members`, each (TarInfo, content)."""
    with tarfile.open(saved) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(target, "w:gz") as tar:
        for info, content in change(members):
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return target


def edited(name: str, old: bytes, new: bytes):
    return lambda members: [(m, c.replace(old, new) if m.name == name else c) for m, c in members]


def put_in(name: str, kind: bytes = tarfile.REGTYPE, link: str = ""):
    def change(members):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        return [(info, b"x"), *members]

    return change


BAD = {
    "a changed row": (edited("state/decision.jsonl", b'"recorded"', b'"promote"'), "was changed"),
    "a changed figure": (edited("mlflow/metrics.jsonl", b"0.5", b"0.9"), "mlflow/metrics"),
    "a changed rule": (edited("configs/promotion/mine.yaml", b"[]", b"[1]"), "mine.yaml"),
    "a changed manifest": (edited("manifest.json", b'"missing"', b'"Missing"'), "manifest"),
    "a manifest made to fit": (edited("manifest.json", b'"release": "', b'"release": "9'), "signature"),
    "a file removed": (lambda m: [x for x in m if x[0].name != "mlflow/runs.jsonl"], "is missing"),
    "a file put in": (put_in("configs/promotion/easy.yaml"), "was put in"),
    "no manifest": (lambda m: m[:-2], "no manifest"),
    "a file twice": (lambda m: [m[0], *m], "twice"),
    "a path that climbs out": (put_in("configs/../../x.yaml"), "no name of a backup"),
    "an absolute path": (put_in("/etc/passwd"), "no name of a backup"),
    "a link": (put_in("configs/x.yaml", tarfile.SYMTYPE, "/etc/passwd"), "link"),
    "a hard link": (put_in("configs/x.yaml", tarfile.LNKTYPE, "manifest.json"), "link"),
    "a device": (put_in("configs/x.yaml", tarfile.CHRTYPE), "device"),
    "a folder": (put_in("configs/x", tarfile.DIRTYPE), "folder"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_changed_archive_is_refused_before_anything_is_written(saved, empty, tmp_path, what):
    change, text = BAD[what]
    with pytest.raises(IntegrityError, match=text):
        restore(repacked(saved, tmp_path / "bad.tar.gz", change), empty)
    assert {p.name for p in empty.home.iterdir()} == {"mlflow.db"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_archive_is_refused(saved, empty, tmp_path, share):
    content = saved.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(IntegrityError):
        restore(tmp_path / "cut.tar.gz", empty)


def test_a_flipped_bit_anywhere_is_refused_or_harmless(saved, empty, tmp_path):
    content, whole, refused = saved.read_bytes(), read_manifest(saved), 0
    for at in range(200, len(content), len(content) // 25):
        (tmp_path / "bit.tar.gz").write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            assert read_manifest(tmp_path / "bit.tar.gz") == whole  # in the padding behind the last file
        except IntegrityError:
            refused += 1
    assert refused >= 24


def test_what_is_no_archive_another_release_or_another_key_is_told(saved, empty, tmp_path):
    (tmp_path / "x").write_bytes(b"no archive")
    for path, kind in ((tmp_path / "x", IntegrityError), (tmp_path / "y", NotFoundError), (tmp_path, InputError)):
        with pytest.raises(kind):
            restore(path, empty)
    later = edited("manifest.json", b'"format": 1', b'"format": 2')
    with pytest.raises(UnavailableError, match="format 2"):
        restore(repacked(saved, tmp_path / "later.tar.gz", later), empty)
    with pytest.raises(IntegrityError, match="signed by"):
        restore(saved, empty, key_id="ab" * 32)
    assert untouched(empty)


def test_a_target_that_is_not_empty_is_refused_and_left_alone(first, saved, empty):
    before = sorted(p.relative_to(first.settings.home) for p in first.settings.home.rglob("*") if p.suffix != ".lock")
    with pytest.raises(RefusedError, match="not empty"):
        restore(saved, first.settings)
    after = sorted(p.relative_to(first.settings.home) for p in first.settings.home.rglob("*") if p.suffix != ".lock")
    assert [p for p in after if not p.name.startswith(("state.db-", "mlflow.db-"))] == [
        p for p in before if not p.name.startswith(("state.db-", "mlflow.db-"))
    ]
    (empty.home / "traffic").mkdir()
    (empty.home / "traffic" / "mine.parquet").write_bytes(b"x")
    with pytest.raises(RefusedError, match="not empty"):
        restore(saved, empty)
    assert (empty.home / "traffic" / "mine.parquet").exists()
    (empty.home / "traffic" / "mine.parquet").unlink()
    ModelRegistry(settings=empty).tracking.ensure_model("another")
    with pytest.raises(RefusedError, match="MLflow has registered_models"):
        restore(saved, empty)


def test_a_backup_is_never_written_over_and_nothing_to_save_is_said(first, saved, empty, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(InputError, match="never written over"):
        save(first, saved)
    assert saved.read_bytes() == before
    with pytest.raises(InputError, match="nothing to save"):
        save(ModelRegistry(settings=empty), tmp_path / "none.tar.gz")
    assert not list(tmp_path.glob("none*"))


def test_an_edited_ledger_is_not_saved(saved, empty, tmp_path):
    import sqlite3

    restore(saved, empty)
    with sqlite3.connect(empty.home / "state.db") as connection:
        connection.execute("DROP TRIGGER decision_no_update")
        connection.execute("UPDATE decision SET actor = 'nobody' WHERE seq = 2")
    with pytest.raises(LedgerError, match="row 2"):
        save(ModelRegistry(settings=empty), tmp_path / "edited.tar.gz")
    assert not list(tmp_path.glob("edited*"))


# --- cut short

STEPS = ("restore.begun", "restore.extracted", "restore.rows", "restore.artefacts.1", "restore.placed",
         "restore.committed", "restore.witnessed")  # fmt: skip


SHORT = ("restore.rows", "restore.committed")


@pytest.mark.fault("a restore killed at seven points", "the same command restores it all")
@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.long) for n in STEPS])
def test_killed_in_the_middle_the_same_command_restores_it_all(saved, empty, name):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom robustidps.backup import restore\n"
        "from robustidps.registry import steps\nfrom robustidps.settings import Settings\n"
        "steps.hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == sys.argv[3] else None\n"
        "restore(Path(sys.argv[1]), Settings(home=Path(sys.argv[2])))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, saved, empty.home, name], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert restore(saved, empty).finished == (name in ("restore.committed", "restore.witnessed"))
    registry = ModelRegistry(settings=empty)
    assert registry.verify(artifacts=True).records == 7
    assert registry.rollback("toy").version == "1.0.0"
    assert not (empty.home / "restore.json").exists() and not (empty.home / "restore.part").exists()


@pytest.mark.parametrize(
    "name", [n if n == "restore.placed" else pytest.param(n, marks=pytest.mark.long) for n in STEPS[:5]]
)
def test_an_error_in_the_middle_leaves_an_empty_installation(saved, empty, monkeypatch, name):
    def fail(at: str) -> None:
        if at == name:
            raise OSError(28, "No space left on device", str(empty.home / "x"))

    monkeypatch.setattr(steps, "hook", fail)
    with pytest.raises(OSError, match="No space"):
        restore(saved, empty)
    assert untouched(empty)
    registry = ModelRegistry(settings=empty)
    assert registry.models() == [] and registry.tracking.client.search_registered_models() == []
    monkeypatch.undo()
    restore(saved, empty)
    assert registry.verify().records == 7


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes; needs root."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be had: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault("the disk full during backup and restore", "nothing half-saved, nothing half-restored")
@pytest.mark.real
def test_on_a_full_disk_nothing_is_half_saved_and_nothing_half_restored(first, saved, small_disk, empty):
    (small_disk / "ballast").write_bytes(os.urandom(2 * 2**20 - 40_000))
    with pytest.raises(StorageError, match="disk is full"):
        save(first, small_disk / "backup.tar.gz")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]
    settings = Settings(home=small_disk / "home", mlflow_tracking_uri=empty.tracking_uri)
    with pytest.raises(RobustIDPSError) as caught:
        restore(saved, settings)
    assert isinstance(caught.value, StorageError)
    assert not (small_disk / "home" / "keys").exists() and not (small_disk / "home" / "restore.part").exists()


def test_the_command_line_saves_and_restores_and_tells_the_key(first, tmp_path, mlflow_template):
    def run(*words) -> dict:
        command = [sys.executable, "-m", "robustidps", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    told = run("--home", first.settings.home, "backup", tmp_path)
    target = tmp_path / "home"
    target.mkdir()
    shutil.copy(mlflow_template, target / "mlflow.db")
    restored = run("restore", told["path"], "--to", target, "--key", told["key_id"])
    assert restored["models"] == {"toy": 2} and restored["ledger_hash"] == told["ledger_hash"]
    ModelRegistry(target).verify()
