"""Whether a dump can be taken from here: asked before a byte is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from cbk.edges.dump.mysql import Client, write_options
from cbk.edges.dump.postgresql import postgres_source
from cbk.edges.dump.process import Tick, run
from cbk.edges.dump.tools import find, find_postgres
from cbk.errors import DumpRefused
from cbk.rules.dump.spec import DumpKind, DumpSpec

ANSWER_SECONDS = 30.0


def check_source(spec: DumpSpec, *, tick: Tick, scratch: Path) -> str:
    """What would be asked with what, where all is here that the dump needs. `scratch` is an empty folder of our own.

    A database is reached for it; who is asked over SSH is not: all that the key may do there is to give a dump. Raises DumpError,
    ToolMissing.
    """
    if spec.ssh:
        return _check_ssh(spec)
    if spec.command:
        return f"asks {find(spec.command[0])}"
    checks = {DumpKind.SQLITE: _check_sqlite, DumpKind.MYSQL: _check_mysql}
    return checks.get(spec.kind, _check_postgres)(spec, tick, scratch)


def check_drill(kind: DumpKind) -> None:
    """Raise ToolMissing where this machine has no server that a dump of this kind could be restored into for a test."""
    if kind is DumpKind.POSTGRESQL:
        find_postgres("initdb")
        find_postgres("pg_restore")
    elif kind is DumpKind.MYSQL:
        find("mariadbd", "mysqld")


def _check_ssh(spec: DumpSpec) -> str:
    find("ssh")
    if spec.ssh_key and not os.access(spec.ssh_key, os.R_OK):
        raise DumpRefused(f"the key {spec.ssh_key} cannot be read", hint="is it there, and does it belong to the workers' user?")
    return f"asks {spec.ssh} over ssh, with the first dump"


def _check_sqlite(spec: DumpSpec, _tick: Tick, _scratch: Path) -> str:
    path = Path(spec.sqlite_path)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=ANSWER_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        hint = "is the path in the dump's url right, and may this user read it and its folder?"
        raise DumpRefused(f"{path} cannot be read as a SQLite database: {error}", hint=hint) from error
    return f"reads {path}"


def _check_mysql(spec: DumpSpec, tick: Tick, scratch: Path) -> str:
    tool = find("mariadb-dump", "mysqldump")
    client = Client(find("mariadb", "mysql"), [write_options(spec.place, scratch), unquote(spec.place.path.strip("/"))])
    asked = client.program("--batch", "--skip-column-names", "--execute=SELECT VERSION()")
    version = run(asked, tick=tick, timeout_seconds=ANSWER_SECONDS).strip()
    return f"{Path(tool).name} reaches the server {version}"


def _check_postgres(spec: DumpSpec, tick: Tick, _scratch: Path) -> str:
    with postgres_source(spec, tick=tick) as source:
        _, version = find_postgres("pg_dump")
        return f"pg_dump {version} reaches the server, which is PostgreSQL {source.server_version}"
