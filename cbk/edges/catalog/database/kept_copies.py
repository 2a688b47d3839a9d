"""Copies of the whole catalog, each as it was at a revision of its tables: kept before a migration, and put back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.connection import catalog_errors
from cbk.edges.catalog.database.migration import migrate, migrating, newest_revision
from cbk.edges.catalog.database.schema import metadata
from cbk.errors import CatalogUnavailable

# Beside those of this release: Alembic's own, and those that a migration removes.
_OTHER_TABLES = ("alembic_version", "marks")
_SCHEMA_PREFIX = "cbk_at_"
_PATIENCE_MS = 30_000


class KeptCopies:
    """The copies of the catalog that `engine` reaches: files beside that of SQLite, schemas of their own in PostgreSQL's database.

    Every method raises CatalogUnavailable if the database or its disk refuses.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_shared = engine.dialect.name != "sqlite"
        self._file = Path(engine.url.database or "")

    def place(self, revision: str) -> str:
        """Where the copy at this revision is, in words."""
        if self._is_shared:
            return f"the schema {_SCHEMA_PREFIX}{revision} of the catalog's database"
        return str(self._copy(revision))

    def revisions(self) -> list[str]:
        """The revisions of which there is a copy, in order."""
        if self._is_shared:
            with catalog_errors(), self._engine.connect() as connection:
                names = sa.inspect(connection).get_schema_names()
            return sorted(name.removeprefix(_SCHEMA_PREFIX) for name in names if name.startswith(_SCHEMA_PREFIX))
        beside = self._file.parent.glob(f"{self._file.name}.*")
        return sorted(copy.suffix[1:] for copy in beside if copy.suffix[1:].isdigit())

    def keep(self, revision: str) -> None:
        """Keep the catalog as it is, at this revision; in the place of a former copy only once all of it is there."""
        if not self._is_shared:
            self._save_as(self._copy(revision))
            return
        name = f"{_SCHEMA_PREFIX}{revision}"
        with migrating(self._engine) as connection:
            _drop_schema(connection, name)
            connection.execute(sa.schema.CreateSchema(name))
            for table in _tables(connection):
                source = connection.dialect.identifier_preparer.format_table(table)
                connection.exec_driver_sql(f'CREATE TABLE "{name}"."{table.name}" AS TABLE {source}')

    def put_back(self, revision: str) -> None:
        """Make the catalog what the copy at this revision is, in one transaction. Nothing else may use it meanwhile."""
        if not self._is_shared:
            with catalog_errors(), self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                try:
                    with closing(sqlite3.connect(f"{self._copy(revision).absolute().as_uri()}?mode=ro", uri=True)) as copy:
                        copy.backup(driver)
                except sqlite3.Error as error:
                    raise CatalogUnavailable(f"{self._copy(revision)} could not be put back: {error}") from None
            self._engine.dispose()
            return
        with migrating(self._engine) as connection:
            tables = _tables(connection)
            functions = _functions_of(connection, tables)
            for table in reversed(tables):
                table.drop(connection)
            for function in functions:
                connection.exec_driver_sql(f"DROP FUNCTION {function}")
            migrate(connection, revision)
            _fill(connection, f"{_SCHEMA_PREFIX}{revision}")

    def try_migration(self) -> None:
        """Migrate as this release would, and take it back: a copy of SQLite's file, or a transaction that is rolled back.

        Raises what the migration raises.
        """
        if self._is_shared:
            with catalog_errors(), self._engine.connect() as connection, connection.begin() as transaction:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_PATIENCE_MS}")
                migrate(connection, "head")
                transaction.rollback()
            return
        trial = self._file.with_name(f"{self._file.name}.trial")
        self._save_as(trial)
        engine = sa.create_engine(f"sqlite:///{trial}", hide_parameters=True)
        try:
            with migrating(engine) as connection:
                migrate(connection, newest_revision() or "head")
        finally:
            engine.dispose()
            for suffix in ("", "-wal", "-shm", "-journal"):
                trial.with_name(f"{trial.name}{suffix}").unlink(missing_ok=True)

    def _copy(self, revision: str) -> Path:
        return self._file.with_name(f"{self._file.name}.{revision}")

    def _save_as(self, copy: Path) -> None:
        """Copy SQLite's file, whoever writes to it meanwhile."""
        draft = copy.with_name(f"{copy.name}.new")
        with catalog_errors(), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                draft.unlink(missing_ok=True)
                with closing(sqlite3.connect(draft)) as target:
                    driver.backup(target)
                draft.replace(copy)
            except (OSError, sqlite3.Error) as error:
                raise CatalogUnavailable(
                    f"no copy of the catalog could be made in {copy}: {error}", hint="is there room?"
                ) from error


def _tables(connection: sa.Connection, schema: str | None = None) -> list[sa.Table]:
    """The kit's tables that are there, each after those that it refers to. Others may be in the same schema, and are not ours."""
    found = sa.MetaData(schema=schema)
    ours = {*metadata.tables, *_OTHER_TABLES}
    found.reflect(connection, only=lambda name, _found: name in ours)
    return found.sorted_tables


def _functions_of(connection: sa.Connection, tables: list[sa.Table]) -> list[str]:
    """What the triggers on these tables call, as PostgreSQL names it."""
    query = sa.text(
        "SELECT DISTINCT tgfoid::regprocedure::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
        "WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace AND relname = ANY(:names)"
    )
    return list(connection.scalars(query, {"names": [table.name for table in tables]}))


def _drop_schema(connection: sa.Connection, name: str) -> None:
    if sa.inspect(connection).has_schema(name):
        connection.execute(sa.schema.DropSchema(name, cascade=True))


def _fill(connection: sa.Connection, schema: str) -> None:
    """Fill fresh tables from those of `schema`, and let their sequences count on from there."""
    kept = {table.name: table for table in _tables(connection, schema)}
    tables = [table for table in _tables(connection) if table.name in kept]
    for table in tables:  # what they would do is in the copy
        connection.exec_driver_sql(f'ALTER TABLE "{table.name}" DISABLE TRIGGER USER')
    for table in tables:
        connection.execute(table.delete())  # what the migration itself writes, such as its revision
        names = [column.name for column in kept[table.name].columns]
        connection.execute(table.insert().from_select(names, sa.select(*kept[table.name].columns)))
        for column in table.columns:
            _count_on(connection, table, column)
    for table in tables:
        connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ENABLE TRIGGER USER')


def _count_on(connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> None:
    named = connection.dialect.identifier_preparer.format_table(table)
    sequence = connection.scalar(sa.text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": named, "column": column.name})
    if sequence is not None:
        highest = sa.select(sa.func.max(column)).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, sa.func.coalesce(highest, 1), highest.is_not(None))))
