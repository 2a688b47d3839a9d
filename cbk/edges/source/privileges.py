"""May we write the application's tables? We should not be able to: the kit needs SELECT on them and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import Connection, text

from cbk.edges.source.tables import DELETES_TABLE, FILES_TABLE

# Of a superuser and of an owner all of this is true.
_POSTGRESQL = text(
    "SELECT bool_or(has_table_privilege(t, 'DELETE, TRUNCATE') OR has_any_column_privilege(t, 'INSERT, UPDATE'))"
    " FROM unnest(ARRAY[to_regclass(:files), to_regclass(:deletes)]) AS t"
)
_GRANT = re.compile(r"GRANT (?P<privileges>.+?) ON (?P<scope>\S.*?) TO ", re.IGNORECASE)
_WRITING = re.compile(r"\b(?:ALL|INSERT|UPDATE|DELETE|DROP|ALTER)\b", re.IGNORECASE)


def may_write(connection: Connection) -> bool | None:
    """Whether this user may change the tables; None where the database has no users, or does not say."""
    match connection.dialect.name:
        case "postgresql":
            return bool(connection.execute(_POSTGRESQL, {"files": f'"{FILES_TABLE}"', "deletes": f'"{DELETES_TABLE}"'}).scalar())
        case "mysql" | "mariadb":
            grants = [str(grant) for grant in connection.execute(text("SHOW GRANTS")).scalars()]
            return grants_allow_writing(grants, str(connection.engine.url.database or ""))
        case _:
            return None


def grants_allow_writing(grants: Iterable[str], database: str) -> bool:
    """Whether a line of MySQL's `SHOW GRANTS` allows changing our tables in `database`: at any level, or of one column.

    What a role brings is not in these lines.

    >>> grants_allow_writing(["GRANT SELECT, INSERT ON `shop`.* TO `cbk`@`%`"], "shop")
    True
    """
    return any(
        _WRITING.search(match["privileges"]) and _covers(match["scope"], database)
        for match in map(_GRANT.match, grants)
        if match is not None
    )


def _covers(scope: str, database: str) -> bool:
    schema, _, table = scope.replace("`", "").replace("\\", "").partition(".")
    return schema in {"*", database} and table.lower() in {"*", FILES_TABLE.lower(), DELETES_TABLE.lower()}
