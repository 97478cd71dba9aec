"""The state store: a few tables of our own on SQLite or PostgreSQL, the authority on versions, stages and decisions.

    version      every model version: reserved before it is trained, registered with its digest, or withdrawn
    assignment   per model: what is in Production, Staging and previous, and a generation that each move raises
    decision     the ledger, only ever added to (`ledger.py`); triggers refuse UPDATE and DELETE
    ledger_head  the signed end of the ledger
    approval     persons who were asked before a promotion, and what they said
    drift_window windows of traffic that were compared with what a version was trained on
    mlflow_request, webhook_seen   who asked for what in MLflow; hints that have come already
    notified     up to which decision each channel of notifications has been served

`write()` is one transaction that excludes other writers (BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL),
`read()` sees one consistent state. What the database says when it can't is turned into our errors: a full
disk or read-only folder, a damaged file, a store written by a newer release.

Tables are made and brought up to date by Alembic when a store is opened; Alembic is imported only if there is anything
to do.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from robustidps.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    RobustIDPSError,
    StorageError,
    UnavailableError,
    printable,
    without_passwords,
)
from robustidps.settings import writable

__all__ = [
    "REVISION",
    "StateStore",
    "approval",
    "assignment",
    "decision",
    "drift_window",
    "ledger_head",
    "mlflow_request",
    "notified",
    "version",
    "webhook_seen",
]

REVISION = "0002"
REVISION_TABLE = "robustidps_revision"
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 15.0

# The columns as queries see them. What else holds (keys, checks, triggers) is in `migrations/versions`.
_metadata = sa.MetaData()
version = sa.Table(
    "version",
    _metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("version", sa.String, primary_key=True),
    sa.Column("status", sa.String),
    sa.Column("digest", sa.String),
    sa.Column("mlflow_version", sa.Integer),
    sa.Column("run_id", sa.String),
    sa.Column("held_out", sa.Text),
    sa.Column("author", sa.String),
    sa.Column("created_at", sa.String),
)
assignment = sa.Table(
    "assignment",
    _metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("generation", sa.Integer),
    sa.Column("applied_generation", sa.Integer),
    sa.Column("production", sa.String),
    sa.Column("previous", sa.String),
    sa.Column("staging", sa.String),
    sa.Column("pinned_by", sa.String),
    sa.Column("pin_reason", sa.Text),
    sa.Column("pinned_until", sa.String),
    sa.Column("answered", sa.Integer),
)
decision = sa.Table(
    "decision",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", sa.String),
    sa.Column("model", sa.String),
    sa.Column("version", sa.String),
    sa.Column("action", sa.String),
    sa.Column("from_stage", sa.String),
    sa.Column("to_stage", sa.String),
    sa.Column("from_version", sa.String),
    sa.Column("actor", sa.String),
    sa.Column("actor_source", sa.String),
    sa.Column("rule_set", sa.String),
    sa.Column("verdict", sa.String),
    sa.Column("reasons", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("bundle_digest", sa.String),
    sa.Column("generation", sa.Integer),
    sa.Column("standing", sa.Text),
    sa.Column("previous_hash", sa.String),
    sa.Column("hash", sa.String),
    sa.Column("key_id", sa.String),
    sa.Column("signature", sa.String),
)
ledger_head = sa.Table(
    "ledger_head",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer),
    sa.Column("hash", sa.String),
    sa.Column("key_id", sa.String),
    sa.Column("signature", sa.String),
)
approval = sa.Table(
    "approval",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("model", sa.String),
    sa.Column("version", sa.String),
    sa.Column("stage", sa.String),
    sa.Column("bundle_digest", sa.String),
    sa.Column("rule_set", sa.String),
    sa.Column("status", sa.String),
    sa.Column("requested_by", sa.String),
    sa.Column("requested_source", sa.String),
    sa.Column("requested_at", sa.String),
    sa.Column("expires_at", sa.String),
    sa.Column("evidence", sa.Text),
    sa.Column("flow_run_id", sa.String),
    sa.Column("decided_by", sa.String),
    sa.Column("decided_source", sa.String),
    sa.Column("decided_at", sa.String),
    sa.Column("reason", sa.Text),
)
drift_window = sa.Table(
    "drift_window",
    _metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("version", sa.String),
    sa.Column("began", sa.String),
    sa.Column("ended", sa.String),
    sa.Column("rows", sa.Integer),
    sa.Column("digest", sa.String),
    sa.Column("drifted", sa.Boolean),
    sa.Column("alarm", sa.Boolean),
    sa.Column("figures", sa.Text),
    sa.Column("report", sa.String),
    sa.Column("created_at", sa.String),
)
mlflow_request = sa.Table(
    "mlflow_request",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("time", sa.String),
    sa.Column("model", sa.String),
    sa.Column("mlflow_version", sa.String),
    sa.Column("kind", sa.String),
    sa.Column("detail", sa.String),
    sa.Column("actor", sa.String),
)
webhook_seen = sa.Table(
    "webhook_seen",
    _metadata,
    sa.Column("delivery_id", sa.String, primary_key=True),
    sa.Column("received_at", sa.String),
)
notified = sa.Table(
    "notified",
    _metadata,
    sa.Column("channel", sa.String, primary_key=True),
    sa.Column("seq", sa.Integer),
    sa.Column("at", sa.String),
    sa.Column("failures", sa.Integer),
    sa.Column("retry_at", sa.String),
)


@dataclass
class StateStore:
    """One state store; opened, and brought up to date, on first use.

    Args:
        url: a SQLAlchemy URL of SQLite or PostgreSQL.
        locks: folder of the lock files for work that must not run twice at once on this machine.
    """

    url: str
    locks: Path
    _engine: Engine | None = field(default=None, init=False, repr=False)
    _checked: bool = field(default=False, init=False, repr=False)

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    @property
    def where(self) -> str:
        """The store's address as it may be shown: without a password."""
        try:
            url = sa.make_url(self.url)
        except (sa.exc.ArgumentError, ValueError):
            return "database_url"
        if url.get_backend_name() == "sqlite":
            return str(url.database)
        return without_passwords(url.render_as_string(hide_password=True))

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = _make_engine(self.url)
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view.

        Raises:
            StorageError, IntegrityError, UnavailableError: the store can't be read, is damaged or too new.
        """
        self._open()
        with self._translated(), self._begin(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that excludes other writers: committed at the end of the block, undone by any exception.

        Raises:
            StorageError: full disk, read-only folder.
            ConflictError: another process held the store for too long.
            IntegrityError, UnavailableError: the store is damaged, too new or not reachable.
        """
        self._open()
        with self._translated(), self._begin(write=True) as connection:
            yield connection

    @contextmanager
    def lock(self, name: str, *, timeout_s: float = 120.0) -> Iterator[None]:
        """Mutual exclusion that ends with the process: a lock file, and on PostgreSQL an advisory lock as well.

        Raises:
            ConflictError: another process held it all the time.
        """
        with writable(self.locks):
            self.locks.mkdir(parents=True, exist_ok=True)
            file = FileLock(self.locks / f"{name}.lock", timeout=timeout_s)
            try:
                file.acquire()
            except Timeout:
                raise ConflictError(
                    f"another process has been at it for {timeout_s:g} s",
                    where=file.lock_file,
                    remedy="try again later",
                ) from None
        try:
            with self._advisory_lock(name, timeout_s):
                yield
        finally:
            file.release()

    def revision(self) -> str | None:
        """The revision that the store is at before anything is done to it; None where there is none yet."""
        with self._translated():
            return self._revision()

    def file(self) -> Path | None:
        """The file of an SQLite store."""
        return self._file()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def _advisory_lock(self, name: str, timeout_s: float) -> Iterator[None]:
        if self.dialect != "postgresql":
            yield
            return
        with self._translated(), self.engine.connect() as connection:
            connection.execute(sa.text(f"SET lock_timeout = '{int(timeout_s * 1000)}ms'"))
            connection.execute(sa.text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": f"robustidps {name}"})
            connection.commit()  # the lock belongs to the session, not to the transaction
            try:
                yield
            finally:
                connection.execute(
                    sa.text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": f"robustidps {name}"}
                )

    @contextmanager
    def _begin(self, *, write: bool) -> Iterator[Connection]:
        connection = self.engine.connect().execution_options(robustidps_write=write)
        with connection, connection.begin():
            if self.dialect == "postgresql" and write:
                # What BEGIN IMMEDIATE is to SQLite. Taken before anything is read, so that each later statement sees
                # all that the writer before has committed.
                connection.execute(sa.text(f"SET LOCAL lock_timeout = '{int(BUSY_TIMEOUT_S * 1000)}ms'"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('robustidps: one writer'))"))
            elif self.dialect == "postgresql":
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            yield connection

    def _open(self) -> None:
        if self._checked:
            return
        assert self.engine  # noqa: S101 - an address that is none is refused here
        file = self._file()
        if file is not None:
            try:
                with writable(file):
                    file.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise StorageError("is a file where a folder should be", where=file.parent) from None
        with self._translated():
            if self._revision() != REVISION:
                with self.lock("state"):
                    self._upgrade()
        self._checked = True

    def _file(self) -> Path | None:
        url = sa.make_url(self.url)
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    def _disk_full(self) -> bool:
        file = self._file()
        return file is not None and shutil.disk_usage(file.parent).free < 1 << 20

    def _revision(self) -> str | None:
        file = self._file()
        if file is not None and not file.exists():
            return None
        with self._begin(write=False) as connection:
            return _revision_of(connection)

    def _upgrade(self) -> None:
        import logging

        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        script = ScriptDirectory.from_config(config)
        with self._begin(write=True) as connection:
            current = _revision_of(connection)
            known = {revision.revision for revision in script.walk_revisions()}
            if current is not None and current not in known:
                raise UnavailableError(
                    f"the state store is at revision {printable(current, 40)}; this release knows up to {REVISION}",
                    where=self.where,
                    remedy="upgrade robustidps to the release that wrote it",
                )

            def upgrade(revision: Any, context: Any) -> Any:
                return script._upgrade_revs("head", revision)

            with EnvironmentContext(config, script, fn=upgrade, destination_rev="head") as environment:
                environment.configure(connection=connection, version_table=REVISION_TABLE)
                environment.run_migrations()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RobustIDPSError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise self._translate(error) from error
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> RobustIDPSError:
        cause = getattr(error, "orig", None) or error
        text = without_passwords(str(cause).strip()) or type(cause).__name__
        low = text.lower()
        if "malformed" in low or "not a database" in low or "file is encrypted" in low or "corrupt" in low:
            return IntegrityError(
                f"the state store is damaged: {text}", where=self.where, remedy="restore it from a backup"
            )
        if "locked" in low or "lock timeout" in low:
            return ConflictError("another process holds the state store", where=self.where, remedy="try again")
        if "disk is full" in low or ("disk i/o error" in low and self._disk_full()):  # not even WAL's index fits
            return StorageError(
                "can't be written: the disk is full", where=self.where, remedy="free space, then try again"
            )
        if any(sign in low for sign in ("readonly", "read-only", "unable to open", "disk i/o error")):
            return StorageError(f"can't be written: {text}", where=self.where, remedy="check the folder's permissions")
        if "only ever added to" in low:
            return IntegrityError("the decision ledger is only ever added to", where=self.where)
        if isinstance(error, sa.exc.IntegrityError):
            return ConflictError(f"somebody else was first: {text.splitlines()[0]}", where=self.where)
        if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) and self._file() is None:
            return UnavailableError(f"the state store doesn't answer: {text.splitlines()[0]}", where=self.where)
        return IntegrityError(
            f"the state store is not as it should be: {text.splitlines()[0]}",
            where=self.where,
            remedy="restore it from a backup",
        )


def _revision_of(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(REVISION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {REVISION_TABLE}")).scalar()  # noqa: S608 - ours
    return None if found is None else str(found)


def _make_engine(url: str) -> Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ConfigError(
            "is not a database address", where="database_url", remedy="sqlite:///FILE or postgresql+psycopg://..."
        ) from None
    backend = parsed.get_backend_name()
    try:
        if backend == "postgresql":
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(parsed, pool_pre_ping=True)
        if backend != "sqlite":
            raise ConfigError(f"{backend} is not supported", where="database_url", remedy="use SQLite or PostgreSQL")
        # One connection per use: nothing is shared between threads, and nothing is left open in a forked process.
        engine = sa.create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})
    except sa.exc.NoSuchModuleError:
        raise ConfigError(
            f"the driver {printable(parsed.drivername, 40)} is not known",
            where="database_url",
            remedy="postgresql+psycopg://...",
        ) from None
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{error.name} is not installed", where="database_url", remedy="pip install 'robustidps[postgresql]'"
        ) from None
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    cursor = connection.cursor()
    # In this order: the first statements take no lock, WAL needs the file to be writable.
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("robustidps_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
