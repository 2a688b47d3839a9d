"""From one revision of the tables to another, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.connection import catalog_errors
from cbk.errors import CatalogUnavailable

MIGRATIONS = Path(__file__).parents[1] / "migrations"


def migrate(connection: sa.Connection, revision: str) -> None:
    """Bring the tables up to `revision`, or to "head", the newest one of this release, within a transaction that is open."""
    # Seven megabytes that a worker never needs.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@contextmanager
def migrating(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction in which `migrate` may be called; rolled back on an error. Raises CatalogUnavailable."""
    # SQLite alters a table by making it anew, which leaves references to it in the air for a moment.
    with catalog_errors(), engine.connect() as connection, _without_foreign_keys(connection), connection.begin():
        yield connection


@contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")  # outside of a transaction, or it does nothing
    try:
        yield
        broken = driver.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise CatalogUnavailable(f"the catalog has {len(broken)} broken references after its migration")
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def revision_of(engine: sa.Engine) -> str | None:
    """Which migration the tables are at; None if there are none yet. Raises CatalogUnavailable."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as in `migrate`

    with catalog_errors(), engine.connect().execution_options(reading=True) as connection:
        return MigrationContext.configure(connection).get_current_revision()


@cache
def newest_revision() -> str | None:
    """The newest migration of this release; to find it, all of them are loaded."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as in `migrate`

    return ScriptDirectory(str(MIGRATIONS)).get_current_head()
