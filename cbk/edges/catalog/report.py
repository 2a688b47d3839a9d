"""What the catalog tells a person: counts for `status`, and every version for `ls`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from cbk.edges.catalog.database import Database, select_versions, version_of
from cbk.edges.catalog.tables import declined, files, versions
from cbk.model import DeclinedRow, Version, VersionState

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How things stand, counted. `by_state` counts the newest version of each file; sizes are in bytes."""

    by_state: dict[VersionState, int]
    declined_rows: int
    copies: int
    size: int
    stored_size: int
    oldest_unprotected_at: datetime | None
    newest_stored_seen_at: datetime | None
    now: datetime

    @property
    def files(self) -> int:
        """Files that the application's rows speak of."""
        return sum(self.by_state.values())

    @property
    def protected(self) -> int:
        """Files whose newest version is stored."""
        return self.by_state.get(VersionState.STORED, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected:
    """Newest versions that are not stored, by state and reason: how many, and a few of them."""

    state: VersionState
    reason: str
    count: int
    examples: list[str] = field(default_factory=list)


class Report:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> Counts:
        """The counts at this moment, from one transaction."""
        newest = versions.c.newest.is_(True)
        stored = versions.c.state == VersionState.STORED.value
        sizes = sa.select(sa.func.count(), sa.func.sum(versions.c.size), sa.func.sum(versions.c.stored_size)).where(stored)
        with self._database.reading() as connection:
            states = connection.execute(sa.select(versions.c.state, sa.func.count()).where(newest).group_by(versions.c.state))
            by_state = {VersionState(state): count for state, count in states}
            copies, size, stored_size = connection.execute(sizes).one()
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            return Counts(
                by_state=by_state,
                declined_rows=connection.scalar(sa.select(sa.func.count()).select_from(declined)) or 0,
                copies=copies,
                size=int(size or 0),
                stored_size=int(stored_size or 0),
                oldest_unprotected_at=connection.scalar(sa.select(sa.func.min(versions.c.first_seen_at)).where(newest, ~stored)),
                newest_stored_seen_at=connection.scalar(sa.select(sa.func.max(versions.c.first_seen_at)).where(newest, stored)),
                now=now,
            )

    def unprotected(self, *, groups: int = 20, examples: int = 3) -> list[Unprotected]:
        """Why files are not protected, the largest group first, at most `groups` of them."""
        waits = [versions.c.newest.is_(True), versions.c.state != VersionState.STORED.value]
        grouped = (
            sa.select(versions.c.state, versions.c.reason, sa.func.count().label("number"))
            .where(*waits)
            .group_by(versions.c.state, versions.c.reason)
            .order_by(sa.desc("number"))
            .limit(groups)
        )
        found = []
        with self._database.reading() as connection:
            for state, reason, number in connection.execute(grouped).all():
                some = (
                    select_versions()
                    .where(*waits, versions.c.state == state, versions.c.reason == reason)
                    .order_by(versions.c.id)
                    .limit(examples)
                )
                labels = [version_of(row).label for row in connection.execute(some)]
                found.append(Unprotected(state=VersionState(state), reason=reason, count=number, examples=labels))
        return found

    def versions(
        self, *, storage: str | None = None, prefix: str | None = None, state: VersionState | None = None
    ) -> Iterator[Version]:
        """All versions, in the order in which they were first seen, page by page: memory stays flat."""
        query = select_versions().order_by(versions.c.id).limit(PAGE)
        if storage is not None:
            query = query.where(files.c.storage == storage)
        if prefix is not None:
            query = query.where(files.c.key.startswith(prefix, autoescape=True))
        if state is not None:
            query = query.where(versions.c.state == state.value)
        last = 0
        while True:
            with self._database.reading() as connection:
                page = [version_of(row) for row in connection.execute(query.where(versions.c.id > last))]
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].id

    def declined_rows(self) -> Iterator[DeclinedRow]:
        """Rows that cannot become a version."""
        last = ""
        while True:
            query = sa.select(declined).where(declined.c.source_id > last).order_by(declined.c.source_id).limit(PAGE)
            with self._database.reading() as connection:
                page = connection.execute(query).all()
            for row in page:
                yield DeclinedRow(source_id=row.source_id, storage=row.storage, key=row.key, version=row.version, reason=row.reason)
            if len(page) < PAGE:
                return
            last = page[-1].source_id
