"""Making or bringing up to date what the settings point to: state store, MLflow's database, bucket.

The state store is brought up to date whenever it is opened; here a copy of an SQLite file is kept before. MLflow's
older database is refused until it is done here, after a copy: MLflow itself would change some on the spot. A PostgreSQL
can't be copied from here, so that somebody has to say that there is a backup.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from robustidps.errors import RefusedError
from robustidps.registry.objects import make_bucket
from robustidps.registry.registry import ModelRegistry
from robustidps.registry.state import REVISION
from robustidps.settings import writable

__all__ = ["prepare"]


def prepare(registry: ModelRegistry, *, have_backup: bool = False) -> list[str]:
    """Brings everything up to date; what was done, one sentence each.

    Args:
        have_backup: there is a backup of MLflow's PostgreSQL, so that its tables may be changed.

    Raises:
        RefusedError: MLflow's PostgreSQL is older, and nobody said that there is a backup.
        UnavailableError: something doesn't answer, or was written by a newer release.
    """
    done = []
    store = registry.store
    before = store.revision()
    if before not in (None, REVISION) and (file := store.file()) is not None:
        done.append(f"the state store at revision {before} was copied to {_copy(file, before)}")
    registry.models()
    if before != REVISION:
        done.append(f"the state store was brought from revision {before or 'none'} to {REVISION}")
    if registry.settings.tracking_is_embedded:
        done += _mlflow(registry, have_backup)
    registry.tracking.ping()
    uri = registry.settings.artifacts_uri
    if uri and uri.startswith("s3:") and make_bucket(uri):
        done.append(f"the bucket of {uri} was made")
    return done


def _mlflow(registry: ModelRegistry, have_backup: bool) -> list[str]:
    tracking = registry.tracking
    with tracking.errors():
        registry.settings.folder()
        differs = tracking.schema_differs()
        if differs is None:
            return []  # up to date, or made whole when it is first used
        from mlflow.store.db import utils

        found, newest = differs
        engine = sa.create_engine(registry.settings.tracking_uri, poolclass=sa.pool.NullPool)
        if engine.dialect.name == "sqlite":
            copy = _copy(Path(str(engine.url.database)), found)
            kept = f"; it was copied to {copy} before"
        elif not have_backup:
            raise RefusedError(
                f"MLflow's database is at {found}, this MLflow wants {newest}",
                where=tracking.where,
                remedy="save it (pg_dump), then say so: robustidps registry prepare --have-backup",
            )
        else:
            kept = ""
        utils._upgrade_db(engine)
    return [f"MLflow's database was brought from {found} to {newest}{kept}"]


def _copy(file: Path, revision: object) -> Path:
    """A whole copy of a database that may be in use, made by SQLite itself."""
    target = file.with_name(f"{file.name}.at-{revision}")
    part = target.with_name(f"{target.name}.part")
    with writable(target):
        part.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(part)) as copy,
        ):
            source.backup(copy)
        part.chmod(0o600)
        part.replace(target)
    return target
