"""How many versions there are of each kind, kept by the database itself in the transaction that changes them.

Triggers on `versions` and `files` do that, so that no writer can forget it, and no count has to go through the history. SQLite has
one writer, and keeps one row for each kind. In PostgreSQL writers would wait for each other at such a row: there, each adds rows of
its own, which polls sum up (`fold`). A daily look finds and mends what should never happen, that the counts are wrong (`audit`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import AnyText, files, version_counts, versions
from cbk.model import VersionState

# So many rows of changes may lie unsummed in PostgreSQL.
UNFOLDED = 1000
_TABLE_LOCKS = "LOCK TABLE files, versions, version_counts IN SHARE ROW EXCLUSIVE MODE"
_KIND = (
    version_counts.c.bucket,
    version_counts.c.gone_accepted,
    version_counts.c.state,
    version_counts.c.newest,
    version_counts.c.deleted,
    version_counts.c.live,
)
_AMOUNTS = (version_counts.c.number, version_counts.c.size, version_counts.c.stored_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCount:
    """How many versions are alike, and their bytes: of the objects, and of the copies."""

    bucket: str
    gone_accepted: bool
    state: VersionState
    newest: bool
    deleted: bool
    live: bool
    number: int
    size: int
    stored_size: int

    @property
    def is_protected(self) -> bool:
        """Whether they are the stored newest versions of files that are not deleted."""
        return self.is_wanted and self.state is VersionState.STORED

    @property
    def is_wanted(self) -> bool:
        """Whether they are the newest versions of files that are not deleted."""
        return self.newest and not self.deleted

    @property
    def is_gone(self) -> bool:
        """Whether their files have no row any more, though nobody deleted them, nor has a person said that this is right."""
        return self.is_wanted and not self.live and not self.gone_accepted


def version_counts_in(connection: sa.Connection) -> list[VersionCount]:
    """The counts, in the caller's transaction."""
    return [_count_of(row) for row in connection.execute(_summed())]


def total_of(counts: Iterable[VersionCount]) -> int:
    """How many versions these are together."""
    return sum(count.number for count in counts)


class VersionCounts:
    """The counts, and their upkeep."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[VersionCount]:
        """The counts of this moment."""
        with self._database.reading() as connection:
            return version_counts_in(connection)

    def fold(self) -> None:
        """Sum up what writers added, where that has become much."""
        if self._database.engine.dialect.name == "sqlite":
            return
        with self._database.reading() as connection:
            rows = connection.scalar(sa.select(sa.func.count()).select_from(version_counts)) or 0
        if rows > UNFOLDED:
            with self._database.writing() as connection:
                _fold(connection)

    def audit(self) -> bool:
        """Count the versions themselves, and mend the counts where they differ; whether they did.

        This goes through all versions, for about two seconds of a processor for each million.
        """
        with self._database.reading() as connection:
            if self._database.engine.dialect.name == "postgresql":
                # Both are to be read as they were at one moment.
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            if _counted(connection, _actual()) == _counted(connection, _summed()):
                return False
        with self._database.writing() as connection:
            recount(connection)
        return True


def recount(connection: sa.Connection) -> None:
    """Count anew, in the caller's transaction, which nobody else writes beside."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(_TABLE_LOCKS))
    connection.execute(sa.delete(version_counts))
    columns = [column.name for column in (*_KIND, *_AMOUNTS)]
    connection.execute(sa.insert(version_counts).from_select(columns, _actual()))


def _fold(connection: sa.Connection) -> None:
    taken = sa.delete(version_counts).returning(*_KIND, *_AMOUNTS).cte("taken")
    kind = [taken.c[column.name] for column in _KIND]
    amounts = [sa.func.sum(taken.c[column.name]) for column in _AMOUNTS]
    summed = sa.select(*kind, *amounts).group_by(*kind)
    columns = [column.name for column in (*_KIND, *_AMOUNTS)]
    connection.execute(sa.insert(version_counts).from_select(columns, summed))


def _summed() -> sa.Select[Any]:
    return sa.select(*_KIND, *(sa.func.sum(column).label(column.name) for column in _AMOUNTS)).group_by(*_KIND)


def _actual() -> sa.Select[Any]:
    # Not the bare column: SQLite would go by its index, and look up each file's versions, which takes six times as long.
    bucket = sa.type_coerce(sa.type_coerce(files.c.bucket, sa.Text) + "", AnyText).label("bucket")
    kind = (
        bucket,
        files.c.gone_accepted,
        versions.c.state,
        versions.c.newest,
        versions.c.deleted,
        versions.c.live,
    )
    sizes = (sa.func.coalesce(sa.func.sum(column), 0) for column in (versions.c.size, versions.c.stored_size))
    return sa.select(*kind, sa.func.count(), *sizes).join_from(versions, files).group_by(*kind)


def _counted(connection: sa.Connection, query: sa.Select[Any]) -> set[VersionCount]:
    return {count for count in map(_count_of, connection.execute(query)) if count.number or count.size or count.stored_size}


def _count_of(row: Any) -> VersionCount:
    bucket, gone_accepted, state, newest, deleted, live, number, size, stored_size = row
    return VersionCount(
        bucket=bucket,
        gone_accepted=gone_accepted,
        state=VersionState(state),
        newest=newest,
        deleted=deleted,
        live=live,
        number=int(number),
        size=int(size),
        stored_size=int(stored_size),
    )
