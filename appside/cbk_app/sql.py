"""One way to speak SQL through what the application has open: a SQLAlchemy connection or session, a DB-API connection, or Django's.

    database = open_session(connection)
    database.run('SELECT "Id" FROM "ObjectStorageFiles" WHERE "Name" = ?', ["a.png"])

Statements are written with `"names"` and `?`, and are translated for the database at hand. Everything happens in the caller's
transaction; nothing is committed here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import orm

from cbk_app.errors import AppUsageError

Rows = list[tuple[Any, ...]]

_PLACEHOLDERS = {"qmark": "?", "format": "%s", "pyformat": "%s"}
_KINDS = {"sqlite3": "sqlite", "psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mysql", "MySQLdb": "mysql"}
_KINDS |= {"mariadb": "mysql", "mysql": "mysql"}


class Session(Protocol):
    """An open transaction of the application's; `kind` is postgresql, mysql or sqlite."""

    kind: str

    def run(self, statement: str, parameters: Sequence[object] = ()) -> Rows:
        """Run one statement and return its rows, an empty list if it has none."""

    def insert(self, statement: str, parameters: Sequence[object]) -> int | None:
        """Run an INSERT of one row and return the row's Id; None if it inserted nothing."""

    def change(self, statement: str, parameters: Sequence[object]) -> int:
        """Run one statement and return how many rows it changed."""

    def attempt(self) -> AbstractContextManager[None]:
        """A context: what fails inside leaves the transaction as it was before, and alive."""

    def is_conflict(self, error: Exception) -> bool:
        """Whether that error says that a UNIQUE constraint would have been broken."""


def open_session(connection: Any) -> Session:
    """The session of whatever the application has open. Raise AppUsageError for what cannot be spoken to."""
    if isinstance(connection, orm.Session):
        connection = connection.connection()
    if isinstance(connection, sqlalchemy.Connection):
        return _SqlAlchemySession(connection)
    if type(connection).__module__.startswith("django.") and hasattr(connection, "vendor"):  # or Django's proxy for one
        return _DjangoSession(connection)
    return _DbApiSession(connection)


class _SqlAlchemySession:
    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection
        self.kind = _kind(connection.dialect.name)
        self._placeholder = _placeholder(connection.dialect.paramstyle)

    def run(self, statement: str, parameters: Sequence[object] = ()) -> Rows:
        result = self._connection.exec_driver_sql(_translated(statement, self.kind, self._placeholder), tuple(parameters))
        return [tuple(row) for row in result] if result.returns_rows else []

    def insert(self, statement: str, parameters: Sequence[object]) -> int | None:
        statement = _translated(_returning(statement, self.kind), self.kind, self._placeholder)
        result = self._connection.exec_driver_sql(statement, tuple(parameters))
        if result.returns_rows:
            return _first_id([tuple(row) for row in result])
        return int(result.lastrowid) if result.rowcount else None

    def change(self, statement: str, parameters: Sequence[object]) -> int:
        statement = _translated(statement, self.kind, self._placeholder)
        return int(self._connection.exec_driver_sql(statement, tuple(parameters)).rowcount)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        # SQLite undoes no more than the statement that failed; and its driver ends the transaction with the outermost savepoint.
        if self.kind == "sqlite" or _is_autocommit(self._connection.connection.driver_connection):
            yield
            return
        with self._connection.begin_nested():
            yield

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, sqlalchemy.exc.IntegrityError)


class _DbApiSession:
    """A connection of PEP 249. Its module says how parameters are written, and what its errors are called."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        name = type(connection).__module__.partition(".")[0]
        module = sys.modules[name]
        if name not in _KINDS or not hasattr(module, "paramstyle"):
            raise AppUsageError(
                f"cannot write rows through a {type(connection).__module__}.{type(connection).__qualname__}",
                hint="hand over a SQLAlchemy connection or session, Django's connection, or one of a database driver",
            )
        self.kind = _KINDS[name]
        self._placeholder = _placeholder(module.paramstyle)

    def run(self, statement: str, parameters: Sequence[object] = ()) -> Rows:
        cursor = self._connection.cursor()
        try:
            cursor.execute(_translated(statement, self.kind, self._placeholder), tuple(parameters))
            return [_plain_row(row) for row in cursor.fetchall()] if cursor.description else []
        finally:
            cursor.close()

    def insert(self, statement: str, parameters: Sequence[object]) -> int | None:
        cursor = self._connection.cursor()
        try:
            cursor.execute(_translated(_returning(statement, self.kind), self.kind, self._placeholder), tuple(parameters))
            if cursor.description:
                return _first_id([_plain_row(row) for row in cursor.fetchall()])
            return int(cursor.lastrowid) if cursor.rowcount else None
        finally:
            cursor.close()

    def change(self, statement: str, parameters: Sequence[object]) -> int:
        cursor = self._connection.cursor()
        try:
            cursor.execute(_translated(statement, self.kind, self._placeholder), tuple(parameters))
            return int(cursor.rowcount)
        finally:
            cursor.close()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        if self.kind == "sqlite" or _is_autocommit(self._connection):  # as above
            yield
            return
        self.run("SAVEPOINT cbk_attempt")
        try:
            yield
        except BaseException:
            self.run("ROLLBACK TO SAVEPOINT cbk_attempt")
            raise
        self.run("RELEASE SAVEPOINT cbk_attempt")

    def is_conflict(self, error: Exception) -> bool:
        return any(cls.__name__ == "IntegrityError" for cls in type(error).__mro__)


class _DjangoSession(_DbApiSession):
    """Django's own connection: its cursor takes `%s` for every database."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.kind = _kind(connection.vendor)
        self._placeholder = "%s"

    @contextmanager
    def attempt(self) -> Iterator[None]:
        from django.db import transaction  # noqa: PLC0415 - only where Django is

        with transaction.atomic(using=self._connection.alias):
            yield


def _is_autocommit(connection: Any) -> bool:
    """Whether there is no transaction that a failed statement could end: each is one by itself."""
    value = getattr(connection, "autocommit", False)
    return bool(connection.get_autocommit()) if callable(value) else bool(value)


def _kind(name: str) -> str:
    kind = "mysql" if name == "mariadb" else name
    if kind not in {"postgresql", "mysql", "sqlite"}:
        raise AppUsageError(f"no rows can be written to a database of the kind {name!r}", hint="PostgreSQL, MySQL or SQLite")
    return kind


def _placeholder(style: str) -> str:
    # SQLAlchemy's own style for psycopg is pyformat; positional parameters are understood there as well.
    return _PLACEHOLDERS.get(style, "%s")


def _translated(statement: str, kind: str, placeholder: str) -> str:
    if placeholder == "%s":
        statement = statement.replace("%", "%%")
    statement = statement.replace("?", placeholder)
    return re.sub(r'"(\w+)"', r"`\1`", statement) if kind == "mysql" else statement


def _returning(statement: str, kind: str) -> str:
    return statement if kind == "mysql" else f'{statement} RETURNING "Id"'


def _first_id(rows: Rows) -> int | None:
    return int(rows[0][0]) if rows else None


def _plain_row(row: Any) -> tuple[Any, ...]:
    return tuple(row.values()) if isinstance(row, dict) else tuple(row)
