"""The application's two tables (DESIGN section 2.1), and the user who may read them and nothing else.

One definition serves `cbk schema` and `cbk-app schema`, which print it as SQL for each kind of database, and whoever reads or
makes the tables from Python: `FILES.metadata.create_all(engine)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from cbk_app.errors import AppUsageError

_DIALECTS: dict[str, type[Dialect]] = {
    "postgresql": postgresql.dialect,
    "mysql": mysql.dialect,
    "sqlite": sqlite.dialect,
}
DIALECTS = tuple(_DIALECTS)

_metadata = MetaData()


class _Now(FunctionElement[Any]):
    """The moment at which a row is written. MySQL's DATETIME keeps no zone, and its own clock may have any: there it is UTC."""

    inherit_cache = True


@compiles(_Now)
def _now(*_: Any, **__: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(_Now, "mysql", "mariadb")
def _now_in_mysql(*_: Any, **__: Any) -> str:
    return "(UTC_TIMESTAMP)"


def _id_column() -> Column[int]:
    number = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself in INTEGER columns only
    return Column("Id", number, Identity(), primary_key=True)


def _key_text(length: int) -> TypeEngine[str]:
    """Text that is compared byte by byte, as object keys are; MySQL ignores case and accents unless told otherwise."""
    return Text().with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


FILES = Table(
    "ObjectStorageFiles",
    _metadata,
    _id_column(),
    Column("Name", _key_text(1024), nullable=False),
    Column("Path", _key_text(1024), nullable=False),
    Column("Storage", _key_text(255), nullable=False),
    Column("Version", Integer, nullable=False),
    Column("Hash", String(71)),  # "sha256:" and 64 hex digits at most; NULL where the application has none
    Column("SignedDownloadUrl", Text, nullable=False),
    Column("ContentType", String(255)),
    Column("CreatedAt", DateTime(timezone=True), nullable=False, server_default=_Now()),
    sqlite_autoincrement=True,  # an Id is never given twice: who reads by Id would take a new row for an old one
)

DELETE_LOG = Table(
    "ObjectStorageDeleteLog",
    _metadata,
    _id_column(),
    Column("FileId", BigInteger, nullable=False),  # no foreign key: the log outlives the row that it names
    Column("DeletedAt", DateTime(timezone=True), nullable=False, server_default=_Now()),
    sqlite_autoincrement=True,
)

# Who takes a version that another transaction has taken at the same moment is told so. MySQL's indexes hold no whole key: there
# the columns' hash is unique (`_MYSQL_UNIQUE`).
_VERSIONS = Index("ObjectStorageFiles_Version", FILES.c.Name, FILES.c.Path, FILES.c.Storage, FILES.c.Version, unique=True).ddl_if(
    callable_=lambda *_, dialect, **__: bool(dialect.name != "mysql")
)
_KEYS = Index("ObjectStorageFiles_Name_Path", FILES.c.Name, FILES.c.Path, mysql_length={"Name": 255, "Path": 255}).ddl_if("mysql")
_DELETED = Index("ObjectStorageDeleteLog_FileId", DELETE_LOG.c.FileId)
_INDEXES = {
    "postgresql": (_VERSIONS, _DELETED),
    "sqlite": (_VERSIONS, _DELETED),
    "mysql": (_KEYS, _DELETED),
}
_MYSQL_UNIQUE = """ALTER TABLE `ObjectStorageFiles` ADD COLUMN `VersionHash` BINARY(32)
    GENERATED ALWAYS AS (UNHEX(SHA2(CONCAT_WS(CHAR(10), `Storage`, `Path`, `Name`, `Version`), 256))) STORED UNIQUE"""


def ddl(dialect: str) -> str:
    """Return the SQL that makes both tables and their indexes; raise AppUsageError for a database that is not in `DIALECTS`."""
    engine_dialect = _dialect(dialect)
    elements: list[ExecutableDDLElement] = [CreateTable(FILES), CreateTable(DELETE_LOG), *map(CreateIndex, _INDEXES[dialect])]
    statements = [str(element.compile(dialect=engine_dialect)).strip() for element in elements]
    statements += [_MYSQL_UNIQUE] if dialect == "mysql" else []
    return "\n\n".join(_tidy(statement) + ";" for statement in statements) + "\n"


def grants(dialect: str, user: str = "cbk_reader") -> str:
    """Return the SQL that makes a user who may read the two tables and nothing else.

    To be run in the application's database by its administrator. It runs as printed; the user can come in only once the
    administrator has set a password, for which a line stands there as a comment. Raise AppUsageError as `ddl` does.
    """
    engine_dialect = _dialect(dialect)
    quote = engine_dialect.identifier_preparer.quote_identifier
    tables = [quote(table.name) for table in (FILES, DELETE_LOG)]
    lines = {"postgresql": _postgresql_grants, "mysql": _mysql_grants, "sqlite": _sqlite_grants}[dialect]
    name = quote(user) if dialect == "postgresql" else "'" + user.replace("\\", "\\\\").replace("'", "''") + "'"
    return "\n".join(lines(name, tables)) + "\n"


def _dialect(name: str) -> Dialect:
    if name not in _DIALECTS:
        raise AppUsageError(f"no schema for a database named {name!r}", hint=f"choose one of {', '.join(DIALECTS)}")
    return _DIALECTS[name]()


def _tidy(statement: str) -> str:
    return "\n".join(line.rstrip().replace("\t", "    ") for line in statement.splitlines())


def _postgresql_grants(user: str, tables: list[str]) -> Iterator[str]:
    yield f"CREATE ROLE {user} LOGIN;"
    yield f"-- the user's password: ALTER ROLE {user} PASSWORD '...';"
    yield "-- where the tables are in another schema than public, name that one, and set it as the user's search_path"
    yield f"GRANT USAGE ON SCHEMA public TO {user};"
    yield f"GRANT SELECT ON {', '.join(tables)} TO {user};"
    yield f"ALTER ROLE {user} SET default_transaction_read_only = on;"


def _mysql_grants(user: str, tables: list[str]) -> Iterator[str]:
    yield f"CREATE USER {user}@'%' ACCOUNT LOCK;"
    yield f"-- the user's password: ALTER USER {user}@'%' IDENTIFIED BY '...' ACCOUNT UNLOCK;"
    for table in tables:
        yield f"GRANT SELECT ON {table} TO {user}@'%';"


def _sqlite_grants(_user: str, _tables: list[str]) -> Iterator[str]:
    yield "-- SQLite has no users: let the account that the kit runs as read the database's file, but not write it."
    yield "-- Where the database is in WAL mode, that account must be able to write the file's folder, or SQLite cannot read it."
