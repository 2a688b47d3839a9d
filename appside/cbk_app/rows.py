"""The application's rows as they are, read in pages of keys: which objects have one, and which were deleted since.

For the commands, which open the database by themselves; `recorder` writes in the application's transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, create_engine, inspect, null, or_, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from cbk_app.contract import key_spellings, object_key
from cbk_app.errors import AppError, AppUsageError
from cbk_app.schema import DELETE_LOG, FILES

# Fewer parameters than any database allows in a statement (SQLite: 32,766; PostgreSQL: 65,535).
_PARAMETERS = 12_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRow:
    """The newest row of an object. `deleted` says whether a delete covers it; the dates are None if the tables have none."""

    id: int
    version: int
    hash: str | None
    created_at: datetime | None
    deleted: bool
    deleted_at: datetime | None


class RowReader:
    """Reads rows through one connection. Raise AppError if the tables are not there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        inspector = inspect(connection)
        try:
            self._dated = "CreatedAt" in {column["name"] for column in inspector.get_columns(FILES.name)}
            self._log_dated = "DeletedAt" in {column["name"] for column in inspector.get_columns(DELETE_LOG.name)}
        except NoSuchTableError as missing:
            raise AppError(f'the database has no table "{missing}"', hint="`cbk-app schema` prints both tables") from missing

    def newest(self, storage: str, keys: Sequence[str]) -> dict[str, KnownRow]:
        """The newest row of each of these objects that has any."""
        wanted = set(keys)
        found: dict[str, list[tuple[int, int, str | None, datetime | None]]] = defaultdict(list)
        for names, paths in _questions(keys):
            of_path = or_(FILES.c.Path.in_(paths), FILES.c.Path.is_(None))
            where = (FILES.c.Storage == storage, FILES.c.Name.in_(names), of_path)
            created = FILES.c.CreatedAt if self._dated else null()
            columns = (FILES.c.Id, FILES.c.Path, FILES.c.Name, FILES.c.Version, FILES.c.Hash, created)
            for row_id, path, name, version, hash_, created_at in self._connection.execute(select(*columns).where(*where)):
                key = object_key(path, name)
                if key in wanted:
                    found[key].append((row_id, version, hash_, _in_utc(created_at)))
        deletes = self._deletes({row[0]: (row[1], key) for key, rows in found.items() for row in rows})
        return {key: _newest(rows, deletes.get(key)) for key, rows in found.items()}

    def _deletes(self, rows: dict[int, tuple[int, str]]) -> dict[str, tuple[int, datetime | None]]:
        """The highest version of each key that the delete log covers, and when that was written."""
        covered: dict[str, tuple[int, datetime | None]] = {}
        deleted = DELETE_LOG.c.DeletedAt if self._log_dated else null()
        ids = list(rows)
        for at in range(0, len(ids), _PARAMETERS):
            statement = select(DELETE_LOG.c.FileId, deleted).where(DELETE_LOG.c.FileId.in_(ids[at : at + _PARAMETERS]))
            for file_id, deleted_at in self._connection.execute(statement):
                version, key = rows[file_id]
                covered[key] = max(covered.get(key, (-1, None)), (version, _in_utc(deleted_at)), key=lambda each: each[0])
        return covered


def open_database(url: str) -> Engine:
    """The application's database. Raise AppUsageError for an address that is none, or without its driver."""
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise AppUsageError("the address of the database is none", hint="postgresql+psycopg://user@host/database") from error
    except ModuleNotFoundError as error:
        raise AppUsageError(f"the database's driver {error.name} is not installed", hint=f"pip install {error.name}") from error


def describe(error: SQLAlchemyError) -> AppError:
    """What a database's error means to a person; its address is not repeated."""
    return AppError(f"the database refused or did not answer: {type(error).__name__}", hint="address, user and rights")


def _questions(keys: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The spellings of Names and Paths, for as many keys at once as a statement has parameters for."""
    names: set[str] = set()
    paths: set[str] = set()
    for key in keys:
        more_names, more_paths = key_spellings(key)
        names.update(more_names)
        paths.update(more_paths)
        if len(names) + len(paths) > _PARAMETERS:
            yield list(names), list(paths)
            names, paths = set(), set()
    if names:
        yield list(names), list(paths)


def _newest(rows: Iterable[tuple[int, int, str | None, datetime | None]], delete: tuple[int, datetime | None] | None) -> KnownRow:
    row_id, version, hash_, created_at = max(rows, key=lambda row: (row[1], row[0]))
    deleted = delete is not None and delete[0] >= version
    deleted_at = delete[1] if deleted and delete is not None else None
    return KnownRow(id=row_id, version=version, hash=hash_, created_at=created_at, deleted=deleted, deleted_at=deleted_at)


def _in_utc(value: datetime | None) -> datetime | None:
    """What the database fills in is in UTC if it says nothing of a zone, as SQLite's CURRENT_TIMESTAMP is."""
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
