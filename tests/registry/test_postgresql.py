"""The state store and ledger on a real PostgreSQL: the same promises as on SQLite."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from robustidps.errors import ConflictError, IntegrityError, LedgerError, UnavailableError
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.registry import APPROVE, MemoryTracking

pytestmark = [pytest.mark.real, pytest.mark.postgresql]


@pytest.fixture
def url(database):
    return database()


def on(url: str, home: Path) -> ModelRegistry:
    settings = Settings(home=home, database_url=url)
    return ModelRegistry(settings=settings, tracking=MemoryTracking(settings))


@pytest.fixture
def registry(url, tmp_path, bundles):
    registry = on(url, tmp_path / "home")
    for version in ("1.0.0", "1.1.0"):
        registry.register_model("toy", version, bundles[version])
    yield registry
    registry.store.close()


def test_versions_stages_rollback_and_ledger_work_as_on_sqlite(registry):
    for version in ("1.0.0", "1.1.0"):
        registry.transition("toy", version, "Production", verdict=APPROVE, evidence={"accuracy": 0.98, "none": None})
    assert registry.rollback("toy", reason="slow").version == "1.0.0"
    assert registry.load_model("toy", "production").version == "1.0.0"
    assert registry.verify().records == 5
    assert registry.ensure_projected() and registry.tracking.memory.aliases["toy"] == {"production": "1"}


@pytest.mark.parametrize(
    "statement", ["UPDATE decision SET actor = 'nobody'", "DELETE FROM decision", "TRUNCATE decision"]
)
def test_the_database_itself_refuses_to_change_the_ledger(registry, statement):
    with pytest.raises(IntegrityError, match="only ever added to"), registry.store.write() as connection:
        connection.execute(sa.text(statement))
    assert registry.verify().ok


def test_an_edit_behind_the_triggers_is_found_and_the_row_named(registry):
    with registry.store.write() as connection:
        connection.execute(sa.text("ALTER TABLE decision DISABLE TRIGGER ALL"))
        connection.execute(sa.text("UPDATE decision SET actor = 'nobody' WHERE seq = 2"))
    with pytest.raises(LedgerError, match="ledger row 2"):
        registry.verify()


def test_of_two_that_move_a_model_at_once_one_does(registry, url):
    outcomes, gate = [], threading.Barrier(2)

    def move(version):
        mine = on(url, registry.settings.home)
        gate.wait()
        try:
            mine.transition("toy", version, "Production", verdict=APPROVE, expected_generation=0, project=False)
            outcomes.append(version)
        except ConflictError as error:
            outcomes.append(error)
        finally:
            mine.store.close()

    threads = [threading.Thread(target=move, args=(v,)) for v in ("1.0.0", "1.1.0")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(o, str) for o in outcomes) == [False, True]
    assert registry.verify().ok and registry.assignment("toy").generation == 1


def test_a_database_that_does_not_answer_is_a_clear_error_without_its_password(tmp_path):
    registry = on("postgresql://user:secret@127.0.0.1:1/db", tmp_path / "home")
    with pytest.raises(UnavailableError, match="doesn't answer") as caught:
        registry.models()
    assert "secret" not in str(caught.value)
