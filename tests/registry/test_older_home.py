"""A home that an earlier release left: state store and MLflow's database are brought up to date, nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from robustidps.errors import RegistryUnavailableError
from robustidps.registry import state
from robustidps.registry.preparing import prepare
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.registry import APPROVE, memory_registry

OLD_TABLES = ("version", "assignment", "decision", "ledger_head")


def at_revision(store: state.StateStore, revision: str) -> None:
    """Makes the tables of an earlier release in an empty store."""
    config = Config()
    config.set_main_option("script_location", str(state.MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    with store._begin(write=True) as connection:
        upgrade = lambda at, context: script._upgrade_revs(revision, at)  # noqa: E731
        with EnvironmentContext(config, script, fn=upgrade, destination_rev=revision) as environment:
            environment.configure(connection=connection, version_table=state.REVISION_TABLE)
            environment.run_migrations()


@pytest.fixture
def older(stocked, tmp_path) -> ModelRegistry:
    """A home at revision 0001, with versions, moves and a ledger that was signed then."""
    for version in ("1.0.0", "1.1.0"):
        stocked.transition("toy", version, "Production", verdict=APPROVE)
    home = tmp_path / "older"
    home.mkdir()
    shutil.copytree(stocked.settings.home / "keys", home / "keys")
    shutil.copytree(stocked.settings.home / "cache", home / "cache")
    registry = memory_registry(home)
    at_revision(registry.store, "0001")
    with stocked.store.read() as source, registry.store._begin(write=True) as target:
        for name in OLD_TABLES:
            table = getattr(state, name)
            rows = [dict(r) for r in source.execute(sa.select(table)).mappings()]
            there = {column["name"] for column in sa.inspect(target).get_columns(name)}
            old = sa.table(name, *[sa.column(column) for column in there])
            target.execute(sa.insert(old), [{k: v for k, v in row.items() if k in there} for row in rows])
    registry.tracking.memory = stocked.tracking.memory
    return registry


def test_an_older_state_store_is_brought_up_to_date_when_it_is_opened_and_its_ledger_verifies(older):
    assert older.store.revision() == "0001"
    assert older.verify().records == 6
    assert older.store.revision() == state.REVISION
    assert older.rollback("toy").version == "1.0.0"
    older.record("toy", "1.0.0", "review", reasons=["looked at"])
    assert older.verify().records == 8
    with older.store.read() as connection:
        assert connection.execute(sa.select(state.approval)).all() == []  # a table of the newer revision


def test_prepare_keeps_a_copy_of_the_older_store(older):
    done = prepare(older)
    copy = older.settings.home / "state.db.at-0001"
    assert str(copy) in done[0] and copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM decision").fetchone() == (6,)
        assert connection.execute("SELECT version_num FROM robustidps_revision").fetchone() == ("0001",)
    assert prepare(older) == []


def test_an_older_mlflow_is_told_and_brought_up_to_date_after_a_copy(bundles, tmp_path):
    from alembic import command
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    settings = Settings(home=tmp_path)
    engine = sa.create_engine(settings.tracking_uri)
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(settings.tracking_uri)
    newest = ScriptDirectory.from_config(config).get_revision("head")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, newest.down_revision)
    engine.dispose()
    registry = ModelRegistry(settings=settings)
    with pytest.raises(RegistryUnavailableError, match="registry prepare"):
        registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    done = prepare(ModelRegistry(settings=settings))
    assert newest.revision in done[-1]
    assert (tmp_path / f"mlflow.db.at-{newest.down_revision}").exists()
    registry = ModelRegistry(settings=settings)
    registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    registry.verify(artifacts=True)
