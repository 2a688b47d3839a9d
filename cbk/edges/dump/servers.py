"""Databases that dumps are put into: a scratch server of a drill's own, or the one that a person names by URL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import psycopg

from cbk.edges.dump.mysql import Client, write_options
from cbk.edges.dump.postgresql import CONNECT_SECONDS, count_rows, explain_postgres, libpq_environment, split_password
from cbk.edges.dump.process import Program, Tick, beside, feed, last_line
from cbk.edges.dump.sqlite import check_integrity
from cbk.edges.dump.sqlite import count_rows as count_sqlite_rows
from cbk.edges.dump.tools import find, find_postgres
from cbk.errors import DrillFailed, DumpError, DumpUnavailable, UsageError
from cbk.rules.dump.spec import DumpKind, kind_of_url

RESTORE_SECONDS = 7 * 86_400.0
_IS_ROLE_ERROR = re.compile(r'ERROR: +role "[^"]*" (does not exist|already exists)')
Account = tuple[int, int] | None


class DatabaseTarget(Protocol):
    """A database that a dump is restored into. `url` is SQLAlchemy's."""

    url: str

    def restore(self, chunks: Iterable[bytes], format_: str, tick: Tick, *, roles: Iterable[bytes] | None = None) -> None:
        """Put a dump of this format into it. Raises DumpError, with what went wrong."""

    def rows(self, tick: Tick) -> dict[str, int]:
        """Rows of each table by name. Raises DumpError."""


def open_database(url: str, scratch: Path) -> DatabaseTarget:
    """The database that a person names. `scratch` is an empty folder of our own. Raises UsageError."""
    kind = kind_of_url(url)
    if kind is DumpKind.POSTGRESQL:
        return PostgresTarget(url)
    if kind is DumpKind.MYSQL:
        database = unquote(urlsplit(url).path.strip("/"))
        return MysqlTarget(url, Client(find("mariadb", "mysql"), [write_options(urlsplit(url), scratch), database]))
    if kind is DumpKind.SQLITE:
        return SqliteTarget(Path("/" + unquote(urlsplit(url).path).lstrip("/")))
    raise UsageError(
        "a dump is restored to a folder, or to a postgresql://, mysql:// or sqlite:// URL", hint="such as --to /mnt/new"
    )


class PostgresTarget:
    """A PostgreSQL database, which exists and is empty."""

    def __init__(self, url: str, *, account: Account = None) -> None:
        self._plain, self._password = split_password(url)
        self.url = url.replace(urlsplit(url).scheme, "postgresql+psycopg", 1)
        self._account = account

    def restore(self, chunks: Iterable[bytes], format_: str, tick: Tick, *, roles: Iterable[bytes] | None = None) -> None:
        """Users and rights first, where they are kept; without them everything belongs to whoever restores."""
        if roles is not None:
            self._run_sql(roles, tick)
        if format_ == "pg_dump":
            self._run_sql(chunks, tick)
            return
        tool, _ = find_postgres("pg_restore")
        owners = [] if roles is not None else ["--no-owner", "--no-privileges"]
        arguments = [tool, "--exit-on-error", "--no-tablespaces", "--no-password", *owners, f"--dbname={self._plain}"]
        feed(self._program("pg_restore", arguments), chunks, tick=tick, timeout_seconds=RESTORE_SECONDS)

    def rows(self, tick: Tick) -> dict[str, int]:
        """Rows of each table by name, with its schema."""
        try:
            with psycopg.connect(self._plain, connect_timeout=CONNECT_SECONDS, password=self._password) as connection:
                return beside(lambda: count_rows(connection), tick, cancel=connection.cancel)
        except psycopg.OperationalError as error:
            raise DumpUnavailable(f"the database cannot be reached: {last_line(str(error))}") from error

    def _run_sql(self, chunks: Iterable[bytes], tick: Tick) -> None:
        tool, _ = find_postgres("psql")
        arguments = [tool, "--no-psqlrc", "--quiet", "--no-password", "--output=/dev/null", f"--dbname={self._plain}"]
        said = feed(self._program("psql", arguments), chunks, tick=tick, timeout_seconds=RESTORE_SECONDS)
        # A user of the server that it came from may be missing, or be there already; anything else is wrong.
        errors = [line for line in said.splitlines() if "ERROR:" in line and not _IS_ROLE_ERROR.search(line)]
        if errors:
            raise DrillFailed(f"psql says: {last_line(errors[0])}")

    def _program(self, name: str, arguments: list[str]) -> Program:
        return Program(
            name=name,
            arguments=arguments,
            environment=libpq_environment(self._password),
            explain=_explain_restore,
            account=self._account,
        )


class MysqlTarget:
    """A MySQL or MariaDB database, which exists and is empty."""

    def __init__(self, url: str, client: Client) -> None:
        self.url = url.replace(urlsplit(url).scheme, "mysql+pymysql", 1)
        self._client = client

    def restore(self, chunks: Iterable[bytes], format_: str, tick: Tick, *, roles: Iterable[bytes] | None = None) -> None:  # noqa: ARG002
        """The client stops at the first error."""
        feed(self._client.program("--batch"), chunks, tick=tick, timeout_seconds=RESTORE_SECONDS)

    def rows(self, tick: Tick) -> dict[str, int]:
        """Rows of each table by name."""
        return self._client.rows(tick)


class SqliteTarget:
    """A database file, which is not there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    def restore(self, chunks: Iterable[bytes], format_: str, tick: Tick, *, roles: Iterable[bytes] | None = None) -> None:  # noqa: ARG002
        """Written, then looked through by SQLite itself."""
        try:
            with self._path.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    tick()
        except OSError as error:
            raise DrillFailed(f"{self._path} cannot be written: {(error.strerror or '').lower()}") from error
        beside(lambda: check_integrity(self._path), tick)

    def rows(self, tick: Tick) -> dict[str, int]:
        """Rows of each table by name."""
        if not self._path.exists():
            return {}
        with closing(sqlite3.connect(self._path)):
            return beside(lambda: count_sqlite_rows(self._path), tick)


def _explain_restore(said: str) -> DumpError | None:
    errors = [line for line in said.splitlines() if "error:" in line]
    for line in errors:
        if "could not execute query" in line or "could not" in line:
            return DrillFailed(f"pg_restore says: {last_line(line)}")
    return explain_postgres(said)
