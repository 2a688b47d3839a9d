"""The application's two tables in a real database: how their columns may be made, and the few statements that change them."""

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID

FILES, LOG = "ObjectStorageFiles", "ObjectStorageDeleteLog"


@dataclass(frozen=True)
class Shape:
    """How one application made its tables: what its Ids are, which optional columns there are.

    `ids` is `reused` (numbers; a database that can gives that of a removed newest row again), `numbers` (never again) or `uuid`.
    `hashes` is what its rows say of their bytes: `sha256`, `md5`, `first_seen` (NULL), or `mixed`: each row another.
    """

    ids: str = "numbers"
    hashes: str = "sha256"
    created_at: bool = True
    deleted_at: bool = True
    log_id: bool = True

    @property
    def has_numbers(self):
        return self.ids != "uuid"


def uuid_of(number):
    """UUIDs in no order, the same ones in each run."""
    return str(UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128))


class Database:
    """A connection of the application's. `begin` opens a second one whose transaction stays open."""

    quote = '"'
    mark = "?"
    types: ClassVar = {"reused": "INTEGER PRIMARY KEY", "numbers": "INTEGER PRIMARY KEY AUTOINCREMENT", "uuid": "TEXT PRIMARY KEY"}
    reference: ClassVar = {"reused": "INTEGER", "numbers": "INTEGER", "uuid": "TEXT"}
    date = "TEXT"
    has_late_commits = True

    def __init__(self, shape, connection):
        self.shape = shape
        self.connection = connection

    def create(self):
        q, kind = self.quote, self.types[self.shape.ids]
        created = f", {q}CreatedAt{q} {self.date}" if self.shape.created_at else ""
        deleted = f", {q}DeletedAt{q} {self.date}" if self.shape.deleted_at else ""
        log_kind = self.types["reused" if self.shape.ids == "reused" else "numbers"]
        log_id = f"{q}Id{q} {log_kind}, " if self.shape.log_id else ""
        key = "" if self.shape.log_id else " PRIMARY KEY"
        text = self.text
        self.run(
            f"CREATE TABLE {q}{FILES}{q} ({q}Id{q} {kind}, {q}Name{q} {text} NOT NULL, {q}Path{q} {text} NOT NULL,"
            f" {q}Storage{q} {text} NOT NULL, {q}Version{q} INTEGER NOT NULL, {q}Hash{q} {text},"
            f" {q}SignedDownloadUrl{q} {text} NOT NULL{created})"
        )
        self.run(f"CREATE TABLE {q}{LOG}{q} ({log_id}{q}FileId{q} {self.reference[self.shape.ids]} NOT NULL{key}{deleted})")

    text = "TEXT"

    def run(self, statement, values=()):
        cursor = self.connection.cursor()
        cursor.execute(statement.replace("?", self.mark), tuple(values))
        return cursor

    @contextmanager
    def transaction(self):
        """All of it, or nothing."""
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def insert(self, table, values):
        """Gives the new row's Id."""
        q = self.quote
        columns = ", ".join(f"{q}{name}{q}" for name in values)
        marks = ", ".join("?" * len(values))
        return self._insert(f"INSERT INTO {q}{table}{q} ({columns}) VALUES ({marks})", values)

    def _insert(self, statement, values):
        cursor = self.run(statement, values.values())
        return values.get("Id", cursor.lastrowid)

    def update(self, table, row_id, values, key="Id"):
        q = self.quote
        columns = ", ".join(f"{q}{name}{q} = ?" for name in values)
        self.run(f"UPDATE {q}{table}{q} SET {columns} WHERE {q}{key}{q} = ?", [*values.values(), row_id])

    def delete(self, table, row_id, key="Id"):
        q = self.quote
        self.run(f"DELETE FROM {q}{table}{q} WHERE {q}{key}{q} = ?", [row_id])

    def truncate(self, table):
        """Remove every row, and begin to number anew."""
        q = self.quote
        self.run(f"DELETE FROM {q}{table}{q}")
        if self.shape.ids == "numbers":
            self.run("DELETE FROM sqlite_sequence WHERE name = ?", [table])

    def number_from(self, table, highest):
        """After rows were written with Ids of their own: the next Id is the one after `highest`, as a restored dump sets it."""
        if self.shape.ids == "numbers":
            self.run("DELETE FROM sqlite_sequence WHERE name = ?", [table])
            self.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [table, highest])

    def number_anew(self, table, highest):
        """The same outside of a transaction: what a restart of InnoDB before MySQL 8.0 did after the newest rows were removed."""
        self.number_from(table, highest)

    def instant(self, at):
        return None if at is None else at.strftime("%Y-%m-%d %H:%M:%S")

    def close(self):
        self.connection.close()


class SQLite(Database):
    """A file. A second writer would have to wait for the first: a late commit is a row that is written later with its lower Id."""

    has_late_commits = False

    def __init__(self, shape, place):
        connection = sqlite3.connect(place, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        super().__init__(shape, connection)
        self.url = f"sqlite:///{place}"


class UntypedSQLite(SQLite):
    """Tables whose Ids have no type: each row has what it likes."""

    types: ClassVar = SQLite.types | {"uuid": "PRIMARY KEY"}
    reference: ClassVar = SQLite.reference | {"uuid": ""}


class PostgreSQL(Database):
    """A database of a server; `connect` opens a connection to it."""

    mark = "%s"
    types: ClassVar = {
        "reused": "bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY",
        "numbers": "bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY",
        "uuid": "uuid PRIMARY KEY",
    }
    reference: ClassVar = {"reused": "bigint", "numbers": "bigint", "uuid": "uuid"}
    date = "timestamptz"

    def __init__(self, shape, url):
        import psycopg  # noqa: PLC0415 - needed here only

        super().__init__(shape, psycopg.connect(url.replace("+psycopg", ""), autocommit=True))
        self.url = url

    def create(self):
        for table in (LOG, FILES):
            self.run(f'DROP TABLE IF EXISTS "{table}"')
        super().create()

    def _insert(self, statement, values):
        if "Id" in values:
            self.run(statement, values.values())
            return values["Id"]
        key = '"Id"' if self.shape.log_id or FILES in statement else '"FileId"'
        return self.run(f"{statement} RETURNING {key}", values.values()).fetchone()[0]

    def truncate(self, table):
        self.run(f'TRUNCATE "{table}" RESTART IDENTITY')

    def number_from(self, table, highest):
        sequence = self.run("SELECT pg_get_serial_sequence(?, 'Id')", [f'"{table}"']).fetchone()[0]
        if sequence:
            self.run("SELECT setval(?, ?, ?)", [sequence, max(highest, 1), highest > 0])

    def instant(self, at):
        return None if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at


class MariaDB(Database):
    """A database of a server, by PyMySQL."""

    quote = "`"
    mark = "%s"
    types: ClassVar = {
        "reused": "BIGINT PRIMARY KEY AUTO_INCREMENT",
        "numbers": "BIGINT PRIMARY KEY AUTO_INCREMENT",
        "uuid": "VARCHAR(36) PRIMARY KEY",
    }
    reference: ClassVar = {"reused": "BIGINT", "numbers": "BIGINT", "uuid": "VARCHAR(36)"}
    date = "DATETIME"
    text = "VARCHAR(400) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

    def __init__(self, shape, url):
        import pymysql  # noqa: PLC0415 - needed here only
        from sqlalchemy.engine import make_url  # noqa: PLC0415

        parts = make_url(url)
        connection = pymysql.connect(
            host=parts.host, port=parts.port, user=parts.username, password=parts.password, database=parts.database, autocommit=True
        )
        super().__init__(shape, connection)
        self.url = url.replace("mysql://", "mysql+pymysql://")

    def create(self):
        for table in (LOG, FILES):
            self.run(f"DROP TABLE IF EXISTS `{table}`")
        super().create()

    def truncate(self, table):
        self.run(f"DELETE FROM `{table}`")  # TRUNCATE would end the transaction

    def number_from(self, table, highest):
        pass  # it goes on above the highest Id that it has; an ALTER TABLE would end the transaction

    def number_anew(self, table, _highest):
        self.run(f"ALTER TABLE `{table}` AUTO_INCREMENT = 1")


def earliest():
    """A date that makes no sense, but can be written."""
    return datetime(1970, 1, 2, tzinfo=UTC)


def farthest():
    """The same, far ahead."""
    return datetime(2199, 12, 31, tzinfo=UTC)
