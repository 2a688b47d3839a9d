"""PostgreSQL by URL: pg_dump reads in a snapshot that a connection of ours holds open, and counts the rows in, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg import sql

from cbk.edges.dump.process import Meaning, Program, Tick, beside, find_meaning
from cbk.edges.dump.source import ProgramSource
from cbk.edges.dump.tools import find_postgres
from cbk.errors import DumpBroken, DumpError, DumpRefused, DumpUnavailable, ToolTooOld
from cbk.rules.dump.spec import DumpSpec

CONNECT_SECONDS = 10
_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
    ORDER BY 1, 2
"""


@contextmanager
def postgres_source(spec: DumpSpec, *, tick: Tick) -> Iterator[PostgresSource]:
    """The dump of a database by its URL. Raises DumpRefused, DumpUnavailable, ToolTooOld or ToolMissing before any byte."""
    url, password = split_password(spec.url)
    tool, tool_version = find_postgres("pg_dump")
    with _connect(url, password, tick) as connection:
        server_version = connection.info.server_version // 10_000
        if server_version > tool_version:
            raise ToolTooOld(
                f"the server is PostgreSQL {server_version}, and pg_dump here is {tool_version}",
                hint=f"install postgresql-client-{server_version} (apt.postgresql.org has it for Debian)",
            )
        try:
            snapshot = _export_snapshot(connection)
        except psycopg.Error as error:
            raise explain_postgres(str(error)) or DumpBroken(f"no snapshot could be taken: {_first_line(error)}") from error
        environment = libpq_environment(password)
        dump = Program(
            name="pg_dump",
            arguments=[tool, "--format=custom", "--compress=0", "--no-password", f"--snapshot={snapshot}", f"--dbname={url}"],
            environment=environment,
            explain=explain_postgres,
        )
        roles = _roles_program(url, environment, connection) if spec.roles else None
        yield PostgresSource(spec, dump, tick, roles=roles, connection=connection)


class PostgresSource(ProgramSource):
    """What pg_dump writes, and the rows of its snapshot."""

    def __init__(
        self, spec: DumpSpec, program: Program, tick: Tick, *, roles: Program | None, connection: psycopg.Connection
    ) -> None:
        super().__init__(spec, program, tick, roles=roles)
        self._connection = connection
        self._tick = tick

    @property
    def server_version(self) -> int:
        """The server's release, such as 17."""
        return self._connection.info.server_version // 10_000

    def rows(self) -> dict[str, int] | None:
        """Of the snapshot."""
        return beside(lambda: count_rows(self._connection), self._tick, cancel=self._connection.cancel)


def count_rows(connection: psycopg.Connection) -> dict[str, int]:
    """Rows of each table by name, with its schema. Raises DumpError."""
    try:
        tables = connection.execute(_TABLES).fetchall()
        return {f"{schema}.{table}": _count(connection, schema, table) for schema, table in tables}
    except psycopg.Error as error:
        raise explain_postgres(str(error)) or DumpBroken(f"rows could not be counted: {_first_line(error)}") from error


def _count(connection: psycopg.Connection, schema: str, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, table))).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _connect(url: str, password: str | None, tick: Tick) -> Iterator[psycopg.Connection]:
    # What the URL says of waiting comes first.
    options: dict[str, Any] = {"application_name": "cbk-dump", "keepalives_idle": 60} | ({"password": password} if password else {})
    if "connect_timeout" not in url:
        options["connect_timeout"] = CONNECT_SECONDS
    try:
        connection = beside(lambda: psycopg.connect(url, **options), tick)
    except psycopg.Error as error:
        raise explain_postgres(str(error)) or DumpUnavailable(f"the database cannot be reached: {_first_line(error)}") from error
    with connection:
        yield connection
        connection.rollback()


def _export_snapshot(connection: psycopg.Connection) -> str:
    # The transaction waits for as long as the dump takes, and no row may be left out in silence.
    connection.execute("SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET row_security = off")
    connection.commit()
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def _roles_program(url: str, environment: dict[str, str], connection: psycopg.Connection) -> Program:
    """Whoever is no superuser may not read the passwords' hashes, and keeps the users without them."""
    tool, _ = find_postgres("pg_dumpall")
    rights = [] if connection.info.parameter_status("is_superuser") == "on" else ["--no-role-passwords"]
    arguments = [tool, "--globals-only", "--no-password", *rights, f"--dbname={url}"]
    return Program(name="pg_dumpall", arguments=arguments, environment=environment, explain=explain_postgres)


def split_password(url: str) -> tuple[str, str | None]:
    """A libpq URL without its password, which others could read from a program's arguments, and the password."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    user = f"{quote(unquote(parts.username), safe='')}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    plain = parts._replace(scheme="postgresql", netloc=f"{user}{host}{port}").geturl()
    return plain, unquote(parts.password) if parts.password else None


def libpq_environment(password: str | None) -> dict[str, str]:
    """What libpq reads: the password, and no file of the user's that would change what a dump is."""
    found = {"PGCONNECT_TIMEOUT": str(CONNECT_SECONDS), "PGAPPNAME": "cbk-dump", "PGOPTIONS": "-c statement_timeout=0"}
    return found | ({"PGPASSWORD": password} if password else {})


_MEANINGS = (
    Meaning(
        texts=("server version mismatch",),
        error=ToolTooOld,
        sentence="the server is of a newer release than pg_dump here",
        hint="install the client of the server's release",
    ),
    Meaning(
        texts=("password authentication failed", "no password supplied", "no pg_hba.conf entry", "peer authentication failed"),
        error=DumpRefused,
        sentence="the server refuses the login",
        hint="check user and password in the dump's url, and the server's pg_hba.conf",
    ),
    Meaning(
        texts=("row-level security",),
        error=DumpRefused,
        sentence="the user may not read every row",
        hint="let it bypass row-level security: ALTER ROLE ... BYPASSRLS",
    ),
    Meaning(
        texts=("permission denied for",),
        error=DumpRefused,
        sentence="the user may not read all of it",
        hint="GRANT pg_read_all_data TO the dump's user (from PostgreSQL 14 on)",
    ),
    Meaning(
        texts=(
            "connection refused",
            "could not translate host",
            "timeout expired",
            "no route to host",
            "starting up",
            "too many clients",
        ),
        error=DumpUnavailable,
        sentence="the database cannot be reached",
    ),
    Meaning(
        texts=('" does not exist',),
        error=DumpRefused,
        sentence="the server knows no such database or user",
    ),
)


def explain_postgres(said: str) -> DumpError | None:
    """What the server or its tools mean, in one sentence; None where that is not known."""
    return find_meaning(said, _MEANINGS, _last_error(said))


_MARKS = ("FATAL", "ERROR", "error:", "failed:")


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line for line in lines if any(mark in line for mark in _MARKS)] or lines
    return marked[-1].rpartition("FATAL: ")[2].rpartition("error: ")[2].strip()[:300] if marked else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
