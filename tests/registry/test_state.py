"""The state store against damaged, strange and unwritable databases, and against others who write at the same time."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing

import pytest
import sqlalchemy as sa

from robustidps.errors import ConfigError, ConflictError, IntegrityError, StorageError, UnavailableError
from robustidps.registry import state
from robustidps.registry.state import REVISION, StateStore
from robustidps.testing.registry import APPROVE, memory_registry


@pytest.fixture
def store(tmp_path) -> StateStore:
    return StateStore(f"sqlite:///{tmp_path / 'state.db'}", tmp_path / "locks")


def test_a_new_store_has_the_tables_that_queries_know(store):
    with store.read() as connection:
        seen = sa.inspect(connection)
        for table in (state.version, state.assignment, state.decision, state.ledger_head):
            assert [c["name"] for c in seen.get_columns(table.name)] == [c.name for c in table.columns]
        assert connection.execute(sa.text("SELECT version_num FROM robustidps_revision")).scalar() == REVISION
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_write_is_whole_or_not_at_all(store):
    row = {"model": "toy", "status": "reserved", "author": "a", "created_at": "now"}
    with pytest.raises(ZeroDivisionError), store.write() as connection:
        connection.execute(sa.insert(state.version).values(version="1.0.0", **row))
        raise ZeroDivisionError
    with store.read() as connection:
        assert connection.execute(sa.select(state.version)).all() == []


def test_an_assignment_can_not_name_a_version_that_is_not_there(store):
    with pytest.raises(ConflictError), store.write() as connection:
        values = {"model": "toy", "generation": 1, "applied_generation": 0, "production": "1.0.0"}
        connection.execute(sa.insert(state.assignment).values(**values))


def test_a_damaged_database_is_an_integrity_error_with_a_remedy(store, tmp_path):
    (tmp_path / "state.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(IntegrityError, match="damaged") as caught, store.read():
        pass
    assert "backup" in caught.value.remedy and "state.db" in str(caught.value)


def test_a_database_damaged_in_the_middle_is_an_integrity_error(stocked):
    file = stocked.settings.home / "state.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    file.write_bytes(bytes(content))
    with pytest.raises(IntegrityError):
        memory_registry(stocked.settings.home).verify()


def test_a_store_of_a_newer_release_is_left_alone(store, tmp_path):
    with store.read():
        pass
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE robustidps_revision SET version_num = '0999'")
    with pytest.raises(UnavailableError, match="revision 0999") as caught, StateStore(store.url, store.locks).write():
        pass
    assert "upgrade" in caught.value.remedy


def test_another_programs_database_is_not_taken_over(store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("CREATE TABLE version (id INTEGER)")
    with pytest.raises(IntegrityError), store.read():
        pass
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "oracle://u:secret@host/db"])
def test_an_address_that_is_no_database_of_ours_is_refused(tmp_path, url):
    with pytest.raises(ConfigError) as caught, StateStore(url, tmp_path).read():
        pass
    assert "secret" not in str(caught.value)


def test_a_read_only_folder_is_a_storage_error(stocked, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    stocked.settings.home.chmod(0o555)
    try:
        with pytest.raises(StorageError):
            stocked.transition("toy", "1.0.0", "Staging", verdict=APPROVE)
    finally:
        stocked.settings.home.chmod(0o755)


def test_a_home_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StorageError):
        memory_registry(tmp_path / "home").models()


def test_what_sqlite_says_about_full_and_read_only_disks_is_a_storage_error(store):
    for text in ("database or disk is full", "attempt to write a readonly database", "unable to open database file"):
        error = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError(text))
        with pytest.raises(StorageError), store._translated():
            raise error


def test_a_full_disk_leaves_the_state_as_it_was(stocked):
    """A limit on the size of files stands in for the full disk: SQLite sees the same failed write."""
    script = f"""
        import pathlib, resource, signal
        from robustidps.errors import StorageError
        from robustidps.testing.registry import APPROVE, memory_registry
        registry = memory_registry(pathlib.Path({str(stocked.settings.home)!r}))
        registry.history("toy"); registry.ledger.key.key_id
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            big = {{"x": "y" * 200_000}}
            registry.transition("toy", "1.0.0", "Staging", verdict=APPROVE, evidence=big, project=False)
        except StorageError as error:
            print("refused:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused:"), done.stdout + done.stderr
    assert stocked.assignment("toy").generation == 0 and stocked.verify().ok
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_store_held_by_another_writer_for_long_is_a_conflict(store, monkeypatch):
    monkeypatch.setattr(state, "BUSY_TIMEOUT_S", 0.2)
    with (
        store.write(),
        pytest.raises(ConflictError, match="another process"),
        StateStore(store.url, store.locks).write(),
    ):
        pass


def test_of_many_threads_that_move_a_model_at_once_one_does(stocked):
    outcomes = []

    def move(version):
        registry = memory_registry(stocked.settings.home)
        gate.wait()
        try:
            registry.transition("toy", version, "Production", verdict=APPROVE, expected_generation=0, project=False)
            outcomes.append(version)
        except ConflictError as error:
            outcomes.append(error)

    versions = ("1.0.0", "1.1.0", "1.2.0", "1.10.0")
    gate = threading.Barrier(len(versions))
    threads = [threading.Thread(target=move, args=(v,)) for v in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [o for o in outcomes if isinstance(o, str)]
    assert len(outcomes) == 4 and len(won) == 1
    assert all(f"promote of {won[0]} to Production" in str(o) for o in outcomes if not isinstance(o, str))
    assert stocked.assignment("toy").production == won[0] and stocked.verify().ok


def test_of_two_processes_that_promote_at_once_one_wins_and_the_other_is_told(stocked, tmp_path):
    script = """
        import sys, time, pathlib
        from robustidps.errors import ConflictError
        from robustidps.testing.registry import APPROVE, memory_registry
        home, version, go = sys.argv[1:]
        registry = memory_registry(pathlib.Path(home))
        generation = registry.assignment("toy").generation
        print("ready", flush=True)
        while not pathlib.Path(go).exists():
            time.sleep(0.002)
        try:
            seen = {"verdict": APPROVE, "expected_generation": generation, "project": False}
            registry.transition("toy", version, "Production", **seen)
            print("won")
        except ConflictError as error:
            print("lost:", error)
    """
    go = tmp_path / "go"
    command = [sys.executable, "-c", textwrap.dedent(script), str(stocked.settings.home)]
    started = [
        subprocess.Popen([*command, version, str(go)], stdout=subprocess.PIPE, text=True)
        for version in ("1.0.0", "1.1.0")
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    go.touch()
    said = sorted(process.communicate()[0].strip() for process in started)
    assert said[1] == "won" and said[0].startswith("lost: toy: somebody else was first: promote of"), said
    assert stocked.assignment("toy").generation == 1 and stocked.verify().ok


def test_a_store_of_the_first_release_is_brought_up_to_date_and_its_picture_drawn_once(stocked, monkeypatch):
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    from robustidps.registry.state import MIGRATIONS, REVISION_TABLE
    from robustidps.testing.registry import APPROVE

    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    old = StateStore(f"sqlite:///{stocked.settings.home / 'old.db'}", stocked.settings.home / "locks")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    with (
        old._begin(write=True) as connection,
        EnvironmentContext(
            config, script, fn=lambda revision, context: script._upgrade_revs("0001", revision), destination_rev="0001"
        ) as environment,
    ):
        environment.configure(connection=connection, version_table=REVISION_TABLE)
        environment.run_migrations()
    with stocked.store.read() as source, old._begin(write=True) as target:
        for name in ("version", "assignment", "decision", "ledger_head"):
            table = sa.Table(name, sa.MetaData(), autoload_with=target)
            query = sa.select(*(sa.column(c.name) for c in table.columns)).select_from(sa.table(name))
            target.execute(sa.insert(table), [dict(row) for row in source.execute(query).mappings()])
    stocked.store = StateStore(old.url, old.locks)
    assert stocked.assignment("toy").production == "1.0.0" and not stocked.assignment("toy").projected
    stocked.verify()
