"""SQLite by path: its own backup call makes a copy that is one moment's, whoever writes meanwhile; that is what is sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cbk.edges.dump.process import CHUNK_BYTES, Tick, beside
from cbk.errors import DrillFailed, DumpBroken, DumpError, DumpRefused
from cbk.rules.dump.spec import DumpSpec


@contextmanager
def sqlite_source(spec: DumpSpec, *, tick: Tick, scratch: Path) -> Iterator[SqliteSource]:
    """The dump of a database file. Raises DumpError."""
    yield SqliteSource(Path(spec.sqlite_path), scratch / "dump.sqlite", tick)


class SqliteSource:
    """Copies into `copy` first; what is sent, and what is counted, is that copy."""

    def __init__(self, path: Path, copy: Path, tick: Tick) -> None:
        self._path = path
        self._copy = copy
        self._tick = tick

    def chunks(self) -> Iterator[bytes]:
        """The database file as of one moment."""
        beside(self._back_up, self._tick)
        with self._copy.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                self._tick()

    def rows(self) -> dict[str, int] | None:
        """Of the copy."""
        return beside(lambda: count_rows(self._copy), self._tick)

    def roles(self) -> Iterator[bytes] | None:
        """SQLite has none."""
        return None

    def _back_up(self) -> None:
        if not self._path.is_file():
            raise DumpRefused(f"{self._path} is no file", hint="is the path in the dump's url right, and may this user read it?")
        try:
            with (
                closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as source,
                closing(sqlite3.connect(self._copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error


def count_rows(path: Path) -> dict[str, int]:
    """Rows of each table by name. Raises DumpError."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
                " AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY 1"
            ).fetchall()
            return {name: connection.execute(f"SELECT count(*) FROM {_name(name)}").fetchone()[0] for (name,) in names}  # noqa: S608
    except sqlite3.Error as error:
        raise DumpBroken(f"rows could not be counted: {error}") from error


def check_integrity(path: Path) -> None:
    """Raise DrillFailed unless SQLite finds nothing wrong with this file."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise DrillFailed(f"integrity_check says: {str(found).splitlines()[-1][:300]}")


def _explain(path: Path, error: sqlite3.Error) -> DumpError:
    text = str(error).lower()
    if "disk is full" in text or "i/o error" in text:
        return DumpBroken(
            f"{path} could not be copied: {error}", hint="is there room for a copy where temporary files go (TMPDIR)?"
        )
    if "not a database" in text or "unable to open" in text or "malformed" in text:
        return DumpRefused(f"{path} cannot be read as a SQLite database: {error}")
    return DumpBroken(f"{path} could not be copied: {error}")


def _name(table: str) -> str:
    return '"' + table.replace('"', '""') + '"'
