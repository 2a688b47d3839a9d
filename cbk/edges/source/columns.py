"""What the database says of a table's columns, to who may SELECT from it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Float, Numeric, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.mysql.base import ischema_names
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import NullType, TypeEngine

# SQLAlchemy asks SHOW CREATE TABLE, and of a view MySQL shows that only to who has SHOW VIEW.
_MYSQL_COLUMNS = text(
    "SELECT column_name AS name, data_type AS type, numeric_scale AS scale, is_nullable AS nullable FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = :table ORDER BY ordinal_position"
)
_MYSQL_UNIQUE = text(
    "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = :table"
    " GROUP BY index_name HAVING MAX(non_unique) = 0 AND COUNT(*) = 1 AND MAX(column_name) = :column"
)
_SQLITE_COLUMNS = text("SELECT name, type FROM pragma_table_info(:table)")
_HAS_CHILDREN = text("SELECT relhassubclass AND relkind = 'r' FROM pg_class WHERE oid = to_regclass(:table)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundColumn:
    """One column: its type, a domain's being what it is made of, and whether it may be NULL."""

    type: TypeEngine[Any]
    is_nullable: bool


def columns_of(connection: Connection, table: str) -> dict[str, FoundColumn]:
    """The columns of a table or view by name; none if there is no such table, or none of it may be read."""
    if connection.dialect.name in {"mysql", "mariadb"}:
        return {
            column.name: FoundColumn(type=_mysql_type(column.type, column.scale), is_nullable=column.nullable == "YES")
            for column in connection.execute(_MYSQL_COLUMNS, {"table": table})
        }
    try:
        return {
            column["name"]: FoundColumn(type=_without_domain(column["type"]), is_nullable=column["nullable"])
            for column in inspect(connection).get_columns(table)
        }
    except NoSuchTableError:
        return {}


def sqlite_declarations(connection: Connection, table: str) -> dict[str, str]:
    """The types of SQLite's columns as they were declared; '' for a column without any."""
    return {column.name: column.type or "" for column in connection.execute(_SQLITE_COLUMNS, {"table": table})}


def is_unique(connection: Connection, table: str, column: str) -> bool:
    """Whether the database lets no two rows have the same value; it vouches for none of a view's."""
    if connection.dialect.name in {"mysql", "mariadb"}:
        return connection.execute(_MYSQL_UNIQUE, {"table": table, "column": column}).first() is not None
    if connection.dialect.name == "postgresql" and connection.execute(_HAS_CHILDREN, {"table": f'"{table}"'}).scalar():
        return False  # no index of a table reaches those that inherit from it
    inspector, alone = inspect(connection), [column]
    return (
        inspector.get_pk_constraint(table)["constrained_columns"] == alone
        or any(constraint["column_names"] == alone for constraint in inspector.get_unique_constraints(table))
        or any(
            index["unique"] and index["column_names"] == alone and not _is_partial(index.get("dialect_options") or {})
            for index in inspector.get_indexes(table)
        )
    )


def _is_partial(options: Mapping[str, Any]) -> bool:
    return any(name.endswith("_where") for name in options)


def _without_domain(column_type: TypeEngine[Any]) -> TypeEngine[Any]:
    while isinstance(column_type, postgresql.DOMAIN):  # of a domain, maybe
        column_type = column_type.data_type
    return column_type


def _mysql_type(name: str, scale: int | None) -> TypeEngine[Any]:
    found: type[TypeEngine[Any]] = ischema_names.get(name.lower(), NullType)
    return Numeric(scale=scale) if issubclass(found, Numeric) and not issubclass(found, Float) else found()
