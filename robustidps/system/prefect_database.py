"""Asks Prefect's database before Prefect does, whose own words on one that doesn't answer are a traceback."""

from __future__ import annotations

import importlib.util
import re

import sqlalchemy as sa

from robustidps.errors import ConfigError, MissingExtraError, UnavailableError, printable, without_passwords
from robustidps.registry.state import StateStore
from robustidps.settings import Settings

__all__ = ["check_database"]


def check_database(settings: Settings) -> str:
    """Where Prefect's database is, as it may be shown, once it has answered; `settings.prefect_url` names one.

    Raises:
        UnavailableError: it doesn't answer, lacks what Prefect's tables need, or a driver isn't installed.
        ConfigError: its address is none.
    """
    if importlib.util.find_spec("asyncpg") is None:
        raise MissingExtraError("asyncpg", "postgresql")
    # By our own driver, which tells more in fewer words.
    address = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", str(settings.prefect_database_url))
    address = re.sub(r"([?&])ssl=", r"\1sslmode=", address)
    try:
        store = StateStore(address, settings.home / "locks")
        engine = store.engine
    except ConfigError as error:
        raise ConfigError(error.problem, where="prefect_database_url", remedy=error.remedy) from None
    try:
        with engine.connect() as connection:
            known = connection.scalar(sa.text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"))
    except sa.exc.SQLAlchemyError as error:
        said = printable(without_passwords(str(error).splitlines()[0]), 300)
        raise UnavailableError(
            f"Prefect's database doesn't answer: {said}", where=store.where, remedy="check prefect_database_url"
        ) from None
    finally:
        store.close()
    if not known:
        raise UnavailableError(
            "this PostgreSQL lacks the extension pg_trgm, which Prefect's tables need",
            where=store.where,
            remedy="install PostgreSQL's contrib modules on its machine",
        )
    return store.where
