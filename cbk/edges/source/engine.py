"""Opening the application's database so that it cannot be written, cannot hang, and can be restarted under us."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url

from cbk.edges.databases.postgres import ENCODING, keep_odd_text, limit_waiting, text_or_raw
from cbk.errors import SettingsError
from cbk.rules.text.database_url import parse_database_url

SETTING = "CBK_SOURCE_URL"
_EXAMPLE = "such as postgresql+psycopg://cbk_reader:password@host/database"
_POOL_SIZE = 4
_RECYCLE_SECONDS = 600
_SQLITE_STEPS_BETWEEN_LOOKS_AT_THE_CLOCK = 10_000

# What values look like as text must not depend on what the server, the database or the role is set to.
_POSTGRESQL_SESSION = {
    "default_transaction_read_only": "on",
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
# Nor may a page end early, or an Id be padded. This goes first: SQLAlchemy quotes names as the mode says.
_MYSQL_FIRST = "SET SESSION sql_mode = '', time_zone = '+00:00', sql_select_limit = 18446744073709551615"
# Each server skips the comment that is the other's: MySQL counts in milliseconds, MariaDB in seconds.
_MYSQL_SESSION = (
    "SET SESSION TRANSACTION READ ONLY",
    "SET @cbk = 0 /*!50708 , SESSION max_execution_time = {milliseconds} */ /*M!100101 , SESSION max_statement_time = {seconds} */",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for a connection and for the answer to a statement, in seconds."""

    connect: float
    statement: float


def read_url(text: str) -> URL:
    """The URL of a database that we can read, with its driver; raise SettingsError without repeating the URL."""
    try:
        return make_url(parse_database_url(text).url)
    except ValueError as error:
        problem = str(error).partition(" such as")[0].rstrip(",")
        raise SettingsError([f"{SETTING}: {problem}"], hint=_EXAMPLE) from None


def open_engine(url: URL, timeouts: Timeouts, line: Mapping[str, object] | None = None) -> Engine:
    """An engine that connects when it is first used; each statement is a transaction of its own.

    `line` is what the driver takes for the line to the server. Raise SettingsError if the driver is not installed.
    """
    try:
        if url.get_backend_name() == "sqlite":
            return _open_sqlite(url, timeouts)
        opener = _open_postgresql if url.get_backend_name() == "postgresql" else _open_mysql
        return opener(url, timeouts, dict(line or {}))
    except ModuleNotFoundError as error:
        problem = f"{SETTING}: the driver {error.name} is not installed"
        raise SettingsError([problem], hint="pip install 'cloud-backup-kit[mysql]' brings the one for MySQL and MariaDB") from None


def _open_server(url: URL, timeouts: Timeouts, connect_args: dict[str, Any]) -> Engine:
    return create_engine(
        url,
        connect_args=connect_args,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        max_overflow=_POOL_SIZE,
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_SECONDS,
        pool_reset_on_return=None,  # there is no transaction to end, and the trip to the server would double every question's time
        pool_size=_POOL_SIZE,
        pool_timeout=timeouts.connect + timeouts.statement,
        pool_use_lifo=True,
    )


def _open_postgresql(url: URL, timeouts: Timeouts, line: dict[str, object]) -> Engine:
    # As start-up options, not by SET: behind a connection pooler SET would turn the application's own sessions read-only,
    # and this is refused instead.
    session = _POSTGRESQL_SESSION | {"statement_timeout": str(_milliseconds(timeouts.statement))}
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    given = url.query.get("options", "")
    arguments = (
        line
        | ENCODING
        | {
            "options": f"{given if isinstance(given, str) else ' '.join(given)} {options}".strip(),
            "connect_timeout": max(2, math.ceil(timeouts.connect)),  # libpq takes whole seconds, and 1 for 2
            "application_name": "cbk",
            "prepare_threshold": None,  # a prepared statement breaks when a column is added, and behind a connection pooler
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": _milliseconds(timeouts.connect + timeouts.statement),
        }
    )
    # The server ends a statement by itself before that, if it can be reached.
    return limit_waiting(keep_odd_text(_open_server(url, timeouts, arguments)), timeouts.connect + timeouts.statement)


def _open_mysql(url: URL, timeouts: Timeouts, line: dict[str, object]) -> Engine:
    answer = math.ceil(timeouts.connect + timeouts.statement)
    arguments = line | {
        "connect_timeout": max(1, math.ceil(timeouts.connect)),
        "read_timeout": answer,
        "write_timeout": answer,
        "charset": "utf8mb4",
        "local_infile": False,
        "init_command": _MYSQL_FIRST,
    }
    engine = _open_server(url, timeouts, arguments)
    statements = [
        statement.format(milliseconds=_milliseconds(timeouts.statement), seconds=timeouts.statement) for statement in _MYSQL_SESSION
    ]

    @event.listens_for(engine, "connect")
    def make_session_read_only(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return engine


def _open_sqlite(url: URL, timeouts: Timeouts) -> Engine:
    assert url.database is not None
    address = f"file:{quote(os.fsencode(os.path.abspath(url.database)))}?mode=ro"  # noqa: PTH100 - the name as bytes, whatever is in it

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=timeouts.connect, check_same_thread=False)
        connection.text_factory = text_or_raw  # SQLite keeps any bytes as text
        connection.execute("PRAGMA query_only = ON")
        deadline = time.monotonic() + timeouts.statement
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _SQLITE_STEPS_BETWEEN_LOOKS_AT_THE_CLOCK)
        return connection

    # Without a pool: opening costs little, a file that was put in another's place is noticed, and the deadline is one question's.
    return create_engine(
        "sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True, isolation_level="AUTOCOMMIT"
    )


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
