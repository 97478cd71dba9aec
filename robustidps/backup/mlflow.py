"""MLflow's rows: what our registry needs of its database, read and written table by table.

MLflow has no way of moving an installation, and its API can't set run ids, times or version numbers. So rows are
copied, between databases of the same schema revision only, columns as SQLAlchemy reads them from the database itself.
Artefact addresses are the one thing in them that says where an installation lies; they are written anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from robustidps.errors import IntegrityError, RefusedError, UnavailableError
from robustidps.registry.tracking import BUNDLE_FOLDER, Tracking

__all__ = ["TABLES", "clear", "database", "dump", "left_out", "load", "require_empty", "revision"]

# In an order in which each row's parents come first.
TABLES = (
    *("experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics"),
    *("datasets", "inputs", "input_tags"),
    *("registered_models", "registered_model_tags", "model_versions", "model_version_tags"),
    "registered_model_aliases",
)


@contextmanager
def database(tracking: Tracking, *, write: bool = False) -> Iterator[Connection]:
    """MLflow's database in one transaction, brought into being if it is ours and missing.

    Raises:
        UnavailableError: MLflow is a server whose database isn't named. RegistryUnavailableError: it doesn't answer.
    """
    settings = tracking.settings
    tracking.ping()  # makes the tables of an embedded one
    url = settings.tracking_uri if settings.tracking_is_embedded else settings.mlflow_database_url
    if url is None:
        raise UnavailableError(
            "MLflow is a server, and its rows are copied from its database",
            where="mlflow_database_url",
            remedy="set ROBUSTIDPS_MLFLOW_DATABASE_URL to that server's --backend-store-uri",
        )
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    with tracking.errors():
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
            begin = "BEGIN IMMEDIATE" if write else "BEGIN"
            sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        elif not write:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.begin() as connection:
            yield connection


def revision(connection: Connection) -> str:
    return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar())


def dump(connection: Connection) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each table's name and rows."""
    for table in _tables(connection):
        yield table.name, [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def left_out(connection: Connection) -> list[str]:
    """Other tables of MLflow's that hold something, with their number of rows."""
    ours = {*TABLES, "alembic_version"}
    found = []
    for name in sorted(set(sa.inspect(connection).get_table_names()) - ours):
        rows = connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar()
        if rows:
            found.append(f"MLflow's {name} ({rows} rows)")
    return found


def require_empty(connection: Connection, where: str) -> None:
    """Raises RefusedError where there are runs, models or experiments besides MLflow's first, empty one."""
    for table in _tables(connection):
        query = sa.select(sa.func.count()).select_from(table)
        if table.name == "experiments":
            query = query.where(table.c.experiment_id != 0)
        if table.name in ("experiments", "runs", "registered_models") and connection.execute(query).scalar():
            raise RefusedError(f"MLflow has {table.name} already", where=where, remedy="restore into an empty one")


def clear(connection: Connection) -> None:
    """Removes every row of `TABLES`. MLflow makes its first experiment anew when it finds none."""
    for table in reversed(_tables(connection)):
        connection.execute(sa.delete(table))


def load(connection: Connection, rows_of: Callable[[str], Iterable[dict[str, Any]]], tracking: Tracking) -> None:
    """Writes the rows of each table; artefacts are to lie where the settings say.

    Raises:
        IntegrityError: a row has a column that the table hasn't.
    """
    clear(connection)
    locations: dict[str, str] = {}
    artifacts: dict[str, str] = {}
    for table in _tables(connection):
        rows = []
        for row in rows_of(table.name):
            if set(row) - set(table.columns.keys()):
                raise IntegrityError("has columns that this MLflow's table hasn't", where=f"MLflow's {table.name}")
            rows.append(_placed(table.name, row, locations, artifacts, tracking))
        for start in range(0, len(rows), 1000):
            connection.execute(sa.insert(table), rows[start : start + 1000])
        if table.name == "experiments" and connection.dialect.name == "postgresql":
            connection.execute(
                sa.text(
                    "SELECT setval(pg_get_serial_sequence('experiments', 'experiment_id'), "
                    "(SELECT MAX(experiment_id) + 1 FROM experiments), false)"
                )
            )


def _placed(
    table: str, row: dict[str, Any], locations: dict[str, str], artifacts: dict[str, str], tracking: Tracking
) -> dict[str, Any]:
    """A row with its artefact address written anew; experiments come first, then runs, then versions."""
    if table == "experiments":
        number = str(row["experiment_id"])
        locations[number] = tracking.location(str(row["name"])) or f"mlflow-artifacts:/{number}"
        return row | {"artifact_location": locations[number]}
    if table == "runs":
        run_id = str(row["run_uuid"])
        artifacts[run_id] = f"{locations[str(row['experiment_id'])]}/{run_id}/artifacts"
        return row | {"artifact_uri": artifacts[run_id]}
    if table == "model_versions" and row.get("run_id") in artifacts:
        return row | {"storage_location": f"{artifacts[row['run_id']]}/{BUNDLE_FOLDER}"}
    return row


def _tables(connection: Connection) -> list[sa.Table]:
    metadata = sa.MetaData()
    metadata.reflect(connection, only=list(TABLES))
    return [metadata.tables[name] for name in TABLES]


def as_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as JSON, one a line."""
    return b"".join(json.dumps(row, sort_keys=True).encode() + b"\n" for row in rows)
