"""Which columns the application's two tables have, and the SQL that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Enum,
    Select,
    String,
    TableClause,
    Text,
    cast,
    func,
    null,
    select,
)
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table
from sqlalchemy.types import NullType, TypeEngine

from cbk.edges.source.columns import FoundColumn, columns_of, is_unique, sqlite_declarations
from cbk.edges.source.ids import IdKind, Ids
from cbk.edges.source.sqlite_ids import SqliteIds
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """One table as it is: its columns with their types, the column that names a row, and what the Ids in it are.

    In `clause` every column is `"table"."name"`: alone, `"name"` is a text to SQLite where there is no such column, and no error.
    `is_unique`: the database vouches that no two rows have the same Id. `may_lack_ids`: it may be NULL.
    """

    clause: TableClause
    columns: Mapping[str, TypeEngine[Any]]
    key: str
    ids: Mapping[str, Ids | SqliteIds]
    cuts_text: bool
    is_unique: bool = True
    may_lack_ids: bool = False

    @property
    def name(self) -> str:
        """The table's name."""
        return self.clause.name

    @property
    def is_sqlite(self) -> bool:
        """Whether one column may hold values of several types."""
        return isinstance(self.ids[self.key], SqliteIds)

    @property
    def has_numbers(self) -> bool:
        """Whether Ids may be integers."""
        kind = self.ids[self.key].kind
        return kind is not IdKind.TEXT if self.is_sqlite else kind is IdKind.INTEGER

    def column(self, name: str) -> ColumnElement[Any]:
        """A column for a condition: an Id as its kind is compared, others as the database has them."""
        column = self.clause.c[name]
        return self.ids[name].column(column) if name in self.ids else column

    def values(self, name: str, ids: Iterable[str | int]) -> list[ColumnElement[Any]]:
        """Those of `ids` that the Id column `name` can hold, as parameters."""
        kind = self.ids[name]
        return [kind.bind(value) for value in map(kind.from_text, ids) if value is not None]

    def select(self, *names: str) -> Select[Any]:
        """Read the columns, NULL for one that is not there, in the order of the Ids. A row without an Id has no name: left out."""
        key = self.column(self.key)
        return select(*map(self._read, names)).where(key.is_not(None)).order_by(key)

    def _read(self, name: str) -> ColumnElement[Any]:
        if name not in self.columns:
            return null()
        if name in self.ids:
            return self.column(name)
        column = self.clause.c[name]
        if name in _DATES:
            return cast(column, Text)
        is_text = isinstance(self.columns[name], String) and not isinstance(self.columns[name], Enum)
        if self.cuts_text and is_text:
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
    found = {table: columns_of(connection, table) for table in (FILES_TABLE, DELETES_TABLE)}
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
    log_key = "Id" if "Id" in found[DELETES_TABLE] else "FileId"
    return Tables(
        files=_shape(connection, FILES_TABLE, found[FILES_TABLE], key="Id", id_columns=("Id",)),
        deletes=_shape(connection, DELETES_TABLE, found[DELETES_TABLE], key=log_key, id_columns=(log_key, "FileId")),
    )


def _shape(
    connection: Connection, table: str, columns: Mapping[str, FoundColumn], *, key: str, id_columns: Iterable[str]
) -> TableShape:
    dialect = connection.dialect.name
    ids: dict[str, Ids | SqliteIds]
    if dialect == "sqlite":
        declared = sqlite_declarations(connection, table)
        ids = {name: SqliteIds.of(declared.get(name, "")) for name in id_columns}
    else:
        ids = {name: Ids.of(columns[name].type, dialect) for name in id_columns}
    return TableShape(
        clause=sql_table(table, *(sql_column(name, NullType()) for name in columns)),
        columns={name: column.type for name, column in columns.items()},
        key=key,
        ids=ids,
        cuts_text=dialect != "sqlite",  # its substr ends at a NUL, and would make another key of one that holds any
        is_unique=ids[key].compares_as_itself and is_unique(connection, table, key),
        may_lack_ids=columns[key].is_nullable,
    )
