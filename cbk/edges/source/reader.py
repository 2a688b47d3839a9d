"""The questions that the kit asks the application's database."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, or_, select

from cbk.edges.databases.tls import line_arguments
from cbk.edges.source.doubts import SourceDoubt, duplicates, unreadable_rows
from cbk.edges.source.engine import Timeouts, open_engine, read_url
from cbk.edges.source.errors import source_errors
from cbk.edges.source.file_ids import file_ids_of
from cbk.edges.source.fingerprint import Fingerprint, fingerprint_of, sum_of
from cbk.edges.source.ids import IdKind, is_sql_text
from cbk.edges.source.privileges import may_write
from cbk.edges.source.tables import (
    FILES_OPTIONAL,
    FILES_REQUIRED,
    Tables,
    TableShape,
    read_tables,
)
from cbk.errors import SourceSchemaError
from cbk.model import DeleteRow, SourceRow
from cbk.rules.intake.layout import object_key
from cbk.rules.intake.rows import KEY_MAX_BYTES
from cbk.rules.text.database_url import DatabaseTls

logger = logging.getLogger(__name__)

_IDS_PER_QUESTION = 500
_EQUALS_AT_MOST = 1000
_SQLITE_KINDS = {"integer": IdKind.INTEGER, "blob": IdKind.BINARY, "text": IdKind.TEXT}
_NamedRow = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What there is, for `cbk doctor`.

    `missing_optional` names columns as `table.column`; `id_kind` is integer, uuid, binary, text or other; `deletes_keyed_by`
    is the column that names a row of the delete log; `may_write` is whether our user could change the tables, None if that
    cannot be known.
    """

    database: str
    files_columns: tuple[str, ...]
    deletes_columns: tuple[str, ...]
    missing_optional: tuple[str, ...]
    id_kind: str
    deletes_keyed_by: str
    may_write: bool | None


@dataclass(slots=True)
class _Opened:
    """What one process has open; a forked child opens its own."""

    process: int
    engine: Engine
    tables: Tables | None = None


class Source:
    """The application's database, read-only. Nothing is opened before the first question; may be shared between threads.

    Ids come in and go out as text; a text that cannot be an Id is one that is not there. Every question raises SourceUnavailable
    where the database is away, refuses us or is slow (a retry may help), SourceSchemaError where its tables are not the contract's,
    and SettingsError where the driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        statement_timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
        tls: DatabaseTls | None = None,
    ) -> None:
        self._url = read_url(url)
        self._line = line_arguments(url, tls or DatabaseTls())
        self._timeouts = Timeouts(connect=connect_timeout_seconds, statement=statement_timeout_seconds)
        self._opened: _Opened | None = None

    def close(self) -> None:
        """Close the connections. A later question opens new ones."""
        opened, self._opened = self._opened, None
        if opened is not None and opened.process == os.getpid():
            opened.engine.dispose()

    def check(self) -> SourceReport:
        """Look at the tables anew, read one row of each, and say what there is."""
        self._forget_tables()
        with self._session() as (connection, tables):
            for shape in (tables.files, tables.deletes):
                connection.execute(shape.select(*shape.columns).limit(1)).all()
            return SourceReport(
                database=self._url.get_backend_name(),
                files_columns=tuple(tables.files.columns),
                deletes_columns=tuple(tables.deletes.columns),
                missing_optional=tables.missing_optional,
                id_kind=str(_kept_kind(connection, tables.files)),
                deletes_keyed_by=tables.deletes.key,
                may_write=may_write(connection),
            )

    def ids_are_ordered(self) -> bool:
        """Whether the Ids of the files table are numbers, so that later rows have higher ones."""
        with self._session() as (connection, tables):
            return _kept_kind(connection, tables.files) is IdKind.INTEGER

    def deletes_are_ordered(self) -> bool:
        """Whether the delete log has an Id of its own that is a number; a log that is keyed by `FileId` is in no order of time."""
        with self._session() as (connection, tables):
            return tables.deletes.key == "Id" and _kept_kind(connection, tables.deletes) is IdKind.INTEGER

    def fingerprint(self) -> Fingerprint:
        """What the files table amounts to now."""
        with self._session() as (connection, tables):
            return fingerprint_of(connection, tables.files)

    def deletes_fingerprint(self) -> Fingerprint:
        """The same of the delete log."""
        with self._session() as (connection, tables):
            return fingerprint_of(connection, tables.deletes)

    def unreadable(self) -> list[SourceDoubt]:
        """Why rows may be there that are not read, as far as that can be told at the cost of a poll's few questions."""
        with self._session() as (connection, tables):
            return list(unreadable_rows(connection, tables))

    def duplicates(self) -> list[SourceDoubt]:
        """Ids that are not unique. To be asked once in a full read: of a view, or a table without a key, it reads every Id."""
        with self._session() as (connection, tables):
            return list(duplicates(connection, tables))

    def existing(self, ids: Collection[str]) -> set[str]:
        """Those of these Ids of the files table that are there now."""
        with self._session() as (connection, tables):
            return _existing(connection, tables.files, ids)

    def existing_deletes(self, ids: Collection[str]) -> set[str]:
        """The same of the delete log."""
        with self._session() as (connection, tables):
            return _existing(connection, tables.deletes, ids)

    def latest_id(self) -> str | None:
        """The highest Id of the files table, None where it has no rows."""
        with self._session() as (connection, tables):
            key = tables.files.column("Id")
            highest = tables.files.select("Id").order_by(None).order_by(key.desc()).limit(1)
            value = connection.execute(highest).scalar()
            return None if value is None else tables.files.ids["Id"].to_text(value)

    def rows_after(self, last_id: str | int | None, limit: int) -> list[SourceRow]:
        """The next rows in the order of their Ids: those after `last_id`, from the first where that is None.

        They are `limit` rows, or fewer where there are no more; more only if the database takes further Ids for equal to the last.
        """
        with self._session() as (connection, tables):
            return [_source_row(*row) for row in self._page(connection, tables.files, _select_files(tables), last_id, limit)]

    def newest_rows(self, limit: int, through: str | int) -> list[SourceRow]:
        """The rows with the highest Ids up to and with `through`, in their order. Where Ids are numbers."""
        with self._session() as (connection, tables):
            return [_source_row(*row) for row in self._newest(connection, tables.files, _select_files(tables), limit, through)]

    def sum_between(self, low: str | int | None, high: str | int) -> tuple[int, int]:
        """How many rows there are after `low` (from the first where that is None) up to and with `high`, and the sum of their Ids.

        Both together tell whether a row came or went, where Ids are numbers.
        """
        with self._session() as (connection, tables):
            return _sum_between(connection, tables.files, low, high)

    def deletes_sum_between(self, low: str | int | None, high: str | int) -> tuple[int, int]:
        """The same of the delete log."""
        with self._session() as (connection, tables):
            return _sum_between(connection, tables.deletes, low, high)

    def rows(self, ids: Sequence[str | int]) -> dict[str, SourceRow]:
        """Those rows of `ids` that are there, by Id."""
        found: dict[str, SourceRow] = {}
        with self._session() as (connection, tables):
            asked = _spelled_as_kept(tables.files, ids)
            for statement in _of(_select_files(tables), tables.files, "Id", ids):
                named = self._named(connection, tables.files, statement)
                found |= {row_id: _source_row(row_id, row) for row_id, row in named if row_id in asked}
        return found

    def row(self, row_id: str | int) -> SourceRow | None:
        """The row with this Id."""
        return next(iter(self.rows([row_id]).values()), None)

    def rows_of_key(self, storage: str, key: str) -> list[SourceRow]:
        """All rows of the file (storage, key), in the order of their Ids, wherever their Path ends and their Name begins."""
        key = object_key("", key)
        if not is_sql_text(key) or len(key.encode()) > KEY_MAX_BYTES:
            return []
        names, paths = _spellings(key)
        with self._session() as (connection, tables):
            path = tables.files.column("Path")
            statement = _select_files(tables).where(tables.files.column("Name").in_(names), or_(path.in_(paths), path.is_(None)))
            rows = [_source_row(*row) for row in self._named(connection, tables.files, statement)]
        return [row for row in rows if row.storage == storage and _key_of(row) == key]

    def deletes_after(self, last_id: str | int | None, limit: int) -> list[DeleteRow]:
        """The next rows of the delete log in the order of their Ids, as `rows_after`."""
        with self._session() as (connection, tables):
            page = self._page(connection, tables.deletes, _select_deletes(tables), last_id, limit)
            return _delete_rows(connection, tables, page)

    def newest_deletes(self, limit: int, through: str | int) -> list[DeleteRow]:
        """The same of the delete log."""
        with self._session() as (connection, tables):
            newest = self._newest(connection, tables.deletes, _select_deletes(tables), limit, through)
            return _delete_rows(connection, tables, newest)

    def delete_row(self, delete_id: str | int) -> DeleteRow | None:
        """The row of the delete log with this Id (this FileId, in a log without Id)."""
        return next(iter(self.delete_rows([delete_id]).values()), None)

    def delete_rows(self, delete_ids: Sequence[str | int]) -> dict[str, DeleteRow]:
        """Those of these rows of the delete log that are there, by Id."""
        with self._session() as (connection, tables):
            asked = _spelled_as_kept(tables.deletes, delete_ids)
            found = self._deletes_of(connection, tables, tables.deletes.key, delete_ids)
            return {row.id: row for row in found if row.id in asked}

    def deletes_of(self, file_ids: Sequence[str | int]) -> list[DeleteRow]:
        """The rows of the delete log that name one of these rows of the files table, spelled as there."""
        with self._session() as (connection, tables):
            return self._deletes_of(connection, tables, "FileId", file_ids)

    @contextmanager
    def _session(self) -> Iterator[tuple[Connection, Tables]]:
        opened = self._open()
        try:
            with source_errors(self._url, statement_seconds=self._timeouts.statement), opened.engine.connect() as connection:
                opened.tables = tables = opened.tables or read_tables(connection)
                yield connection, tables
        except SourceSchemaError:
            opened.tables = None  # they may have changed under us: look again next time
            raise

    def _open(self) -> _Opened:
        opened = self._opened
        if (
            opened is None or opened.process != os.getpid()
        ):  # what a parent opened is its own: two processes on one socket mix answers
            self._opened = opened = _Opened(os.getpid(), open_engine(self._url, self._timeouts, self._line))
        return opened

    def _forget_tables(self) -> None:
        if self._opened is not None:
            self._opened.tables = None

    def _deletes_of(self, connection: Connection, tables: Tables, column: str, ids: Sequence[str | int]) -> list[DeleteRow]:
        named: list[_NamedRow] = []
        for statement in _of(_select_deletes(tables), tables.deletes, column, ids):
            named += self._named(connection, tables.deletes, statement)
        return _delete_rows(connection, tables, named)

    def _page(
        self, connection: Connection, shape: TableShape, statement: Select[Any], last_id: str | int | None, limit: int
    ) -> list[_NamedRow]:
        """`limit` rows after `last_id`, fewer only where there are no more: who reads on takes a short page for the last one.

        All that are equal to the last one to the database (in capitals or not, say) are on its page: the next begins after them.
        """
        page: list[_NamedRow] = []
        after = None if last_id is None else shape.ids[shape.key].from_text(last_id)
        if last_id is not None and after is None:
            return page
        while True:
            rows = connection.execute(_after(statement, shape, after).limit(limit)).all()
            is_full = len(rows) == limit
            if is_full and not shape.is_unique:
                rows = _with_equals(connection, shape, statement, rows)
            page += self._name(shape, rows)
            if not is_full or len(page) >= limit:
                return page
            after = rows[-1][0]

    def _newest(
        self, connection: Connection, shape: TableShape, statement: Select[Any], limit: int, through: str | int
    ) -> list[_NamedRow]:
        below = statement.where(shape.column(shape.key).is_not(None), _is_up_to(shape, through))
        newest = below.order_by(None).order_by(shape.column(shape.key).desc()).limit(limit)
        return self._named(connection, shape, newest)[::-1]

    def _named(self, connection: Connection, shape: TableShape, statement: Select[Any]) -> list[_NamedRow]:
        return self._name(shape, connection.execute(statement).all())

    def _name(self, shape: TableShape, rows: Sequence[Sequence[Any]]) -> list[_NamedRow]:
        """Each row with its Id, which is its first column, as text. One that cannot be asked for must not block the others."""
        ids = shape.ids[shape.key]
        named = [(row_id, row) for row in rows if (row_id := ids.to_text(row[0])) is not None]
        if len(named) < len(rows):
            logger.warning("left out %d rows of %s: their Id is not of kind %s", len(rows) - len(named), shape.name, ids.kind)
        return named


def _sum_between(connection: Connection, shape: TableShape, low: str | int | None, high: str | int) -> tuple[int, int]:
    key, ids = shape.column(shape.key), shape.ids[shape.key]
    lowest, highest = ids.bounds
    between = [key.is_not(None), _is_up_to(shape, high)]
    if low is not None and int(low) >= lowest:
        between.append(key > ids.bind(min(int(low), highest)))
    return sum_of(connection, shape, and_(*between))


def _is_up_to(shape: TableShape, high: str | int) -> ColumnElement[bool]:
    ids = shape.ids[shape.key]
    lowest, highest = ids.bounds
    return shape.column(shape.key) <= ids.bind(max(lowest, min(int(high), highest)))


def _existing(connection: Connection, shape: TableShape, ids: Collection[str]) -> set[str]:
    kept = shape.ids[shape.key]
    there: set[str | None] = set()
    for statement in _of(shape.select(shape.key).order_by(None), shape, shape.key, ids):
        there.update(kept.to_text(value) for value in connection.execute(statement).scalars())
    return {row_id for row_id in ids if kept.to_text(kept.from_text(row_id)) in there - {None}}


def _spelled_as_kept(shape: TableShape, ids: Iterable[str | int]) -> set[str | None]:
    """Ids as rows bear them: a UUID in capitals, say, is one in small letters."""
    kept = shape.ids[shape.key]
    return {kept.to_text(kept.from_text(row_id)) for row_id in ids}


def _kept_kind(connection: Connection, shape: TableShape) -> IdKind:
    """What the Ids are; in SQLite, where a declared type binds nobody, the lowest and the highest one tell."""
    declared = shape.ids[shape.key].kind
    if not shape.is_sqlite:
        return declared
    key = shape.column(shape.key)
    ends = [select(func.typeof(end(key))).scalar_subquery() for end in (func.min, func.max)]  # each from an index, if alone
    lowest, highest = connection.execute(select(*ends)).one()
    if highest == "null":
        return declared
    return _SQLITE_KINDS.get(highest, IdKind.OTHER) if lowest == highest else IdKind.OTHER


def _source_row(row_id: str, row: Sequence[Any]) -> SourceRow:
    _, storage, path, name, version, digest, link, content_type, created_at = row
    return SourceRow(
        id=row_id,
        storage=storage,
        path=path,
        name=name,
        version=version,
        hash=digest,
        link=link,
        content_type=content_type,
        created_at=created_at,
    )


def _delete_rows(connection: Connection, tables: Tables, named: Sequence[_NamedRow]) -> list[DeleteRow]:
    """The rows of the log, with the Id that each FileId means in the files table."""
    files, log = tables.files, tables.deletes

    def sample() -> str | None:
        return files.ids["Id"].to_text(connection.execute(files.select("Id").order_by(None).limit(1)).scalar())

    file_ids = file_ids_of(
        [row[1] for _, row in named],
        log.ids["FileId"],
        files.ids["Id"],
        sample=sample,
        existing=lambda ids: _existing(connection, files, ids),
    )
    rows = [
        DeleteRow(id=row_id, file_id=file_id, deleted_at=row[2]) for (row_id, row), file_id in zip(named, file_ids, strict=True)
    ]
    return rows if log.key == "Id" else _last_of_each(rows)


def _last_of_each(rows: Iterable[DeleteRow]) -> list[DeleteRow]:
    """A log without Id may name a file twice: the last time counts."""
    last: dict[str, DeleteRow] = {}
    for row in rows:
        if row.id not in last or str(row.deleted_at) > str(last[row.id].deleted_at):
            last[row.id] = row
    return list(last.values())


def _select_files(tables: Tables) -> Select[Any]:
    return tables.files.select(*FILES_REQUIRED, *FILES_OPTIONAL)


def _select_deletes(tables: Tables) -> Select[Any]:
    return tables.deletes.select(tables.deletes.key, "FileId", "DeletedAt")


def _after(statement: Select[Any], shape: TableShape, value: Any) -> Select[Any]:
    """The rows after the Id `value`, from the first where that is None."""
    return statement if value is None else statement.where(shape.column(shape.key) > shape.ids[shape.key].bind(value))


def _with_equals(connection: Connection, shape: TableShape, statement: Select[Any], rows: Sequence[Any]) -> list[Any]:
    """A full page with all rows, up to more than any sound table has, whose Id equals the last one's to the database."""
    last = shape.ids[shape.key].bind(rows[-1][0])
    equals = connection.execute(statement.where(shape.column(shape.key) == last).limit(_EQUALS_AT_MOST)).all()
    ids = {(type(row[0]), row[0]) for row in equals}  # to Python a text of SQLite that is no UTF-8 equals a blob
    return [row for row in rows if (type(row[0]), row[0]) not in ids] + list(equals)


def _of(statement: Select[Any], shape: TableShape, column: str, ids: Iterable[str | int]) -> Iterator[Select[Any]]:
    """The questions for the rows whose `column` is one of `ids`."""
    values = shape.values(column, ids)
    for start in range(0, len(values), _IDS_PER_QUESTION):
        yield statement.where(shape.column(column).in_(values[start : start + _IDS_PER_QUESTION]))


def _spellings(key: str) -> tuple[list[str], list[str]]:
    """The Names and the Paths that rows of `key` may have: split at any slash, with it on either side or both, or one in front."""
    slashes = [position for position, character in enumerate(key) if character == "/"]
    names = [key, *(key[position + 1 :] for position in slashes)]
    folders = ["", *(key[:position] for position in slashes)]
    return (
        [spelling for name in names for spelling in (name, f"/{name}")],
        [spelling for folder in folders for spelling in (folder, f"{folder}/", f"/{folder}", f"/{folder}/")],
    )


def _key_of(row: SourceRow) -> str | None:
    if not isinstance(row.name, str) or not isinstance(row.path, str | None):
        return None
    return object_key(row.path or "", row.name)
