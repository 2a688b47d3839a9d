"""Which columns the application's two tables have, and the SQL that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Enum,
    Inspector,
    Select,
    String,
    TableClause,
    Text,
    cast,
    func,
    inspect,
    null,
    select,
    type_coerce,
)
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import NullType, TypeEngine

from cbk.edges.source.ids import IdKind, Ids
from cbk.errors import SourceSchemaError
from cbk.rules.backup.links import LONGEST_LINK

FILES_TABLE = "ObjectStorageFiles"
DELETES_TABLE = "ObjectStorageDeleteLog"

# In the order of `SourceRow` and `DeleteRow`.
FILES_REQUIRED = ("Id", "Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl")
FILES_OPTIONAL = ("ContentType", "CreatedAt")
DELETES_REQUIRED = ("FileId",)
DELETES_OPTIONAL = ("Id", "DeletedAt")

# Read as the database prints them: nothing depends on a date that the application wrote, and no odd one (infinity, the year
# 20000) fails to be read.
_DATES = frozenset({"CreatedAt", "DeletedAt"})

# No longer value is accepted anywhere, so one that is cut here stays too long; a row cannot fill our memory.
TEXT_MAX_CHARACTERS = LONGEST_LINK + 1

_SQLITE_KINDS = {"integer": IdKind.INTEGER, "blob": IdKind.BINARY, "text": IdKind.TEXT}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """One table as it is: its columns with their types, the column that names a row, and what the Ids in it are.

    In `clause` every column is `"table"."name"`: alone, `"name"` is a text to SQLite where there is no such column, and no error.
    """

    clause: TableClause
    columns: Mapping[str, TypeEngine[Any]]
    key: str
    ids: Mapping[str, Ids]
    cuts_text: bool

    @property
    def name(self) -> str:
        """The table's name."""
        return self.clause.name

    def column(self, name: str) -> ColumnElement[Any]:
        """A column for a condition: an Id with its type, others as the database has them."""
        column = self.clause.c[name]
        return type_coerce(column, self.ids[name].sql_type) if name in self.ids else column

    def select(self, *names: str) -> Select[Any]:
        """Read the columns, NULL for one that is not there, in the order of the Ids. A row without an Id has no name: left out."""
        key = self.column(self.key)
        return select(*map(self._read, names)).where(key.is_not(None)).order_by(key)

    def _read(self, name: str) -> ColumnElement[Any]:
        if name not in self.columns:
            return null()
        column = self.clause.c[name]
        if name in _DATES:
            return cast(column, Text)
        is_text = isinstance(self.columns[name], String) and not isinstance(self.columns[name], Enum)
        if self.cuts_text and is_text and name not in self.ids:
            return func.substr(column, 1, TEXT_MAX_CHARACTERS, type_=NullType())
        return column


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Both tables as they are."""

    files: TableShape
    deletes: TableShape

    @property
    def missing_optional(self) -> tuple[str, ...]:
        """The optional columns that are not there, as `table.column`."""
        optional = ((self.files, FILES_OPTIONAL), (self.deletes, DELETES_OPTIONAL))
        return tuple(f"{shape.name}.{name}" for shape, names in optional for name in names if name not in shape.columns)


def read_tables(connection: Connection) -> Tables:
    """Find out which columns there are. Raise SourceSchemaError that names every table and required column that is missing."""
    inspector = inspect(connection)
    found = {FILES_TABLE: _columns(inspector, FILES_TABLE), DELETES_TABLE: _columns(inspector, DELETES_TABLE)}
    required = {FILES_TABLE: FILES_REQUIRED, DELETES_TABLE: DELETES_REQUIRED}
    missing = [
        f'table "{table}"' if not found[table] else f'column "{name}" of "{table}"'
        for table, names in required.items()
        for name in (names if found[table] else names[:1])
        if name not in found[table]
    ]
    if missing:
        hint = f"`cbk schema {connection.dialect.name}` prints the tables, and the grants without which they cannot be seen"
        raise SourceSchemaError(f"the application's database has no {', no '.join(missing)}", hint=hint)
    deletes_key = "Id" if "Id" in found[DELETES_TABLE] else "FileId"
    return Tables(
        files=_shape(connection, FILES_TABLE, found[FILES_TABLE], key="Id", id_columns={"Id"}),
        deletes=_shape(connection, DELETES_TABLE, found[DELETES_TABLE], key=deletes_key, id_columns={deletes_key, "FileId"}),
    )


def _columns(inspector: Inspector, table: str) -> dict[str, TypeEngine[Any]]:
    """The columns by name, none where there is no such table; works for a view as well."""
    try:
        return {column["name"]: column["type"] for column in inspector.get_columns(table)}
    except NoSuchTableError:
        return {}


def _shape(
    connection: Connection, table: str, columns: Mapping[str, TypeEngine[Any]], *, key: str, id_columns: Iterable[str]
) -> TableShape:
    clause = sql_table(table, *(sql_column(name, NullType()) for name in columns))
    is_sqlite = connection.dialect.name == "sqlite"
    kinds = {name: IdKind.of(columns[name]) for name in id_columns}
    if is_sqlite:
        kinds |= {name: _kept_kind(connection, clause.c[name], kind) for name, kind in kinds.items()}
    return TableShape(
        clause=clause,
        columns=columns,
        key=key,
        ids={name: Ids(kind) for name, kind in kinds.items()},
        cuts_text=not is_sqlite,  # its substr ends at a NUL, and would make another key of one that holds any
    )


def _kept_kind(connection: Connection, column: ColumnElement[Any], declared: IdKind) -> IdKind:
    """What SQLite, where a declared type binds nobody, really keeps in an Id column: the first one tells."""
    first = select(func.typeof(column)).where(column.is_not(None)).limit(1)
    return _SQLITE_KINDS.get(connection.execute(first).scalar() or "", declared)
