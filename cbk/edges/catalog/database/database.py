"""The open catalog that its parts share: transactions, the clock, and how a row becomes a `Version`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.connection import catalog_errors, now_in
from cbk.edges.catalog.database.schema import AnyText, files, versions
from cbk.model import Proof, Version, VersionState

# Bound parameters of one statement: SQLite allows 32,766 since 3.32.
BATCH = 500


class Database:
    """Transactions on the catalog; every driver error leaves as a CatalogError."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        # SQLite lets one writer in at a time and makes the others sleep and try again: threads of one process queue here instead.
        self._turn: AbstractContextManager[object] = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @property
    def now_sql(self) -> sa.ColumnElement[Any]:
        """The catalog's clock inside a statement."""
        return now_in(self.engine)

    def later_sql(self, delay: timedelta) -> sa.ColumnElement[Any]:
        """The catalog's clock, `delay` from now, inside a statement."""
        return now_in(self.engine, delay)

    def now(self) -> datetime:
        """The catalog's clock."""
        with self.reading() as connection:
            now = connection.scalar(sa.select(self.now_sql))
        assert isinstance(now, datetime)
        return now

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; committed at the end, rolled back on an error.

        `durable`: what it records survives a power cut, so that bytes may go. Other records are mended from the disk.
        """
        with (
            catalog_errors(),
            self._turn,
            self.engine.connect().execution_options(durable=durable) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads; in SQLite it waits for no writer."""
        with catalog_errors(), self.engine.connect().execution_options(reading=True) as connection:
            yield connection


VERSION_COLUMNS = (
    versions.c.id,
    versions.c.file_id,
    versions.c.source_id,
    files.c.storage,
    files.c.key,
    files.c.bucket,
    files.c.place,
    versions.c.number,
    versions.c.sha256,
    versions.c.state,
    versions.c.reason,
    versions.c.attempts,
    versions.c.fence,
    versions.c.content_type,
    versions.c.size,
    versions.c.stored_size,
    versions.c.stored_sha256,
    versions.c.first_seen_at,
    versions.c.stored_at,
    versions.c.verified_at,
    versions.c.due_at,
    versions.c.link_expires_at,
    versions.c.variant,
    versions.c.md5,
    versions.c.proof,
    versions.c.live,
    versions.c.newest,
    versions.c.deleted,
    sa.case((versions.c.holder.is_not(None), versions.c.lease_until)).label("claimed_until"),
    versions.c.pruned_at,
    versions.c.trash_name,
    versions.c.trash_until,
)

_VERSION_FIELDS = tuple(column.name for column in VERSION_COLUMNS)


def select_versions() -> sa.Select[Any]:
    """Versions with their files' names: what `version_of` reads."""
    return sa.select(*VERSION_COLUMNS).join_from(versions, files)


def version_of(row: Any) -> Version:
    """A `Version` from a row of `select_versions`."""
    # The columns of `select_versions` come first and in this order; by position is several times quicker than by name.
    values = dict(zip(_VERSION_FIELDS, row, strict=False))
    values["state"] = VersionState(values["state"])
    values["proof"] = Proof(values["proof"])
    return Version(**values)


def begins_with(column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    """Whether the column begins with `text`, to the letter: LIKE will not do, since SQLite's takes "Cars/" for "cars/"."""
    start = sa.literal(text, AnyText)
    return sa.func.substr(column, 1, sa.func.length(start), type_=AnyText) == start


def in_batches(items: list[Any]) -> Iterator[list[Any]]:
    """The items in lists of at most `BATCH`."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
