"""Copies that are read again: which of them, longest unread first; that they were good, or that they no longer count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, select_versions, version_of
from cbk.edges.catalog.database.schema import AnyText, Hex, Instant, facts, files, versions
from cbk.edges.catalog.database.transitions import out_of_use
from cbk.edges.catalog.status.version_counts import total_of, version_counts_in
from cbk.model import Claim, Version, VersionState, Written
from cbk.rules.lifecycle import StateEvent
from cbk.rules.verification import Batch

COPIES_PAGE = 500
# How many of the copies that were found bad are remembered by name.
REMEMBERED = 20

_FOUND = "verify.found"
_IS_STORED = versions.c.state == VersionState.STORED.value
# The same as it stands in the condition of its index, for reading: a plan is made before values are known.
_READ_STORED = versions.c.state == sa.literal(VersionState.STORED.value, literal_execute=True)
_LIVE = (_IS_STORED, versions.c.newest.is_(True), versions.c.deleted.is_(False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which copies: of a storage, of one key, of keys that begin like `prefix`, last verified before an instant (None: all)."""

    storage: str | None = None
    key: str | None = None
    prefix: str | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How verification stands: `overdue` copies were last verified before the instant that was asked for.

    `found` counts the copies that were ever found bad; `latest` are the last of them, oldest first, as `note_found` took them.
    """

    oldest_at: datetime | None
    overdue: int
    found: int
    latest: list[dict[str, Any]]


class Verification:
    """Stored copies on their way through verification. `holder` names this process in claims."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    # What is to be read

    def total(self, scope: Scope) -> tuple[int, int]:
        """How many copies there are, and their bytes on the disk."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(versions.c.stored_size), 0)).select_from(versions)
        if scope.storage is not None or scope.key is not None or scope.prefix is not None:
            query = query.join(files)
        with self._database.reading() as connection:
            copies, size = connection.execute(query.where(*self._conditions(scope))).one()
        return copies, int(size)

    def batches(self, width: timedelta) -> list[Batch]:
        """All copies, longest unread first, those together that were read within the same `width` of time."""
        now = self._database.now_sql
        read_at = sa.case((versions.c.verified_at <= now, sa.type_coerce(versions.c.verified_at, sa.BigInteger)))
        batch = (read_at // max(width // timedelta(milliseconds=1), 1)).label("batch")
        first = sa.type_coerce(sa.func.min(read_at), Instant)
        query = sa.select(batch, first, sa.func.sum(versions.c.stored_size)).where(_READ_STORED).group_by(batch)
        with self._database.reading() as connection:
            found = [Batch(read_at=read_at, size=int(size or 0)) for _, read_at, size in connection.execute(query)]
        return sorted(found, key=lambda batch: (batch.read_at is not None, batch.read_at))

    def copies(self, scope: Scope) -> Iterator[Version]:
        """The copies, longest unread first, page by page; those that are verified from now on do not come again."""
        now = self._database.now()
        chosen = select_versions().where(*self._conditions(scope)).limit(COPIES_PAGE)
        # Never verified, or, by a clock that was once ahead, only in the future.
        unread = chosen.where(sa.or_(versions.c.verified_at.is_(None), versions.c.verified_at > now)).order_by(versions.c.id)
        read = chosen.where(versions.c.verified_at <= now).order_by(versions.c.verified_at, versions.c.id)
        yield from self._pages(unread, lambda last: versions.c.id > last.id)
        yield from self._pages(read, _comes_after)

    def sample(self, limit: int) -> tuple[list[Version], list[Version]]:
        """Of what a restore would bring back: up to `limit` at random; and of the `limit` newest and largest, the others."""
        live = select_versions().where(*_LIVE).limit(limit)
        with self._database.reading() as connection:
            chance, newest, largest = (
                {row.id: version_of(row) for row in connection.execute(live.order_by(order))}
                for order in (sa.func.random(), versions.c.stored_at.desc(), versions.c.size.desc())
            )
        others = newest | largest
        return list(chance.values()), [others[version_id] for version_id in others if version_id not in chance]

    def restorable(self) -> tuple[int, int]:
        """How many files a restore would bring back, and their bytes."""
        with self._database.reading() as connection:
            protected = [count for count in version_counts_in(connection) if count.is_protected]
        return total_of(protected), sum(count.size for count in protected)

    # What was found

    def record_good(self, good: Iterable[tuple[Version, Written]]) -> None:
        """These copies were read and are good. One that was pruned or stored anew meanwhile is left as it is."""
        statement = (
            sa.update(versions)
            .where(
                versions.c.id == sa.bindparam("of_id"),
                _IS_STORED,
                versions.c.stored_at.is_not_distinct_from(sa.bindparam("of_stored_at", type_=Instant)),
            )
            .values(
                verified_at=self._database.now_sql,
                stored_size=sa.bindparam("is_size"),
                stored_sha256=sa.bindparam("is_sha256", type_=Hex),
            )
        )
        rows = [
            {
                "of_id": version.id,
                "of_stored_at": version.stored_at,
                "is_size": written.stored_size,
                "is_sha256": written.stored_sha256,
            }
            for version, written in good
        ]
        if rows:
            with self._database.writing() as connection:
                connection.execute(statement, rows)

    def is_as_it_was(self, version: Version) -> bool:
        """Whether the copy still counts, and is the one that `version` speaks of."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(versions.c.id).where(*self._as_it_was(version))) is not None

    def claim_bad(self, version: Version, lease: timedelta, *, reason: str) -> Claim | None:
        """The copy no longer counts, and is to be fetched again; None where it was pruned or stored anew meanwhile.

        The claim keeps every backup away until the bytes are put aside: then `Work.give_back` it. One that is left behind ends with
        its lease.
        """
        claim = {"attempts": 1, "holder": self._holder, "lease_until": self._database.later_sql(lease)}
        # Its bytes go next: a power cut must not bring back a record that counts on them.
        with self._database.writing(durable=True) as connection:
            ours = self._as_it_was(version)
            if not out_of_use(self._database, connection, *ours, event=StateEvent.FOUND_BAD, reason=reason, **claim):
                return None
            row = connection.execute(select_versions().where(versions.c.id == version.id)).one()
        claimed = version_of(row)
        return Claim(version=claimed, fence=claimed.fence, holder=self._holder)

    def note_found(self, finding: dict[str, Any]) -> None:
        """Remember a copy that was found bad, for `standing`; `finding` is whatever JSON can say."""
        kept = sa.select(facts.c.value).where(facts.c.name == _FOUND).with_for_update()
        with self._database.writing() as connection:
            number, latest = _found_in(connection.scalar(kept))
            value = json.dumps([number + 1, [*latest, finding][-REMEMBERED:]])
            if not connection.execute(sa.update(facts).where(facts.c.name == _FOUND).values(value=value)).rowcount:
                connection.execute(sa.insert(facts).values(name=_FOUND, value=value))

    def standing(self, before: datetime) -> Standing:
        """How verification stands; copies last verified before that instant are overdue.

        One that a rebuild found was verified at the latest when it was written.
        """
        unread = sa.and_(versions.c.verified_at.is_(None), sa.or_(versions.c.stored_at.is_(None), versions.c.stored_at < before))
        with self._database.reading() as connection:
            number, latest = _found_in(connection.scalar(sa.select(facts.c.value).where(facts.c.name == _FOUND)))
            return Standing(
                oldest_at=connection.scalar(sa.select(sa.func.min(versions.c.verified_at)).where(_READ_STORED)),
                # Two counts: for "or", SQLite would go through all copies.
                overdue=sum(
                    connection.scalar(sa.select(sa.func.count()).select_from(versions).where(_READ_STORED, overdue)) or 0
                    for overdue in (versions.c.verified_at < before, unread)
                ),
                found=number,
                latest=latest,
            )

    def _conditions(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        conditions = [_READ_STORED]
        if scope.storage is not None:
            conditions.append(files.c.storage == scope.storage)
        if scope.key is not None:
            conditions.append(files.c.key == scope.key)
        if scope.prefix is not None:
            # Not LIKE, which in SQLite takes "a" for "A".
            prefix = sa.literal(scope.prefix, AnyText)
            conditions.append(sa.func.substr(files.c.key, 1, sa.func.length(prefix)) == prefix)
        if scope.before is not None:
            conditions.append(sa.or_(versions.c.verified_at < scope.before, versions.c.verified_at.is_(None)))
        return conditions

    def _pages(self, query: sa.Select[Any], after: Any) -> Iterator[Version]:
        page_query = query
        while True:
            with self._database.reading() as connection:
                page = [version_of(row) for row in connection.execute(page_query)]
            yield from page
            if len(page) < COPIES_PAGE:
                return
            page_query = query.where(after(page[-1]))

    def _as_it_was(self, version: Version) -> list[sa.ColumnElement[bool]]:
        return [versions.c.id == version.id, _IS_STORED, versions.c.stored_at.is_not_distinct_from(version.stored_at)]


def _comes_after(last: Version) -> sa.ColumnElement[bool]:
    """Later in the order (verified_at, id), said so that the index on verified_at is used."""
    same = sa.and_(versions.c.verified_at == last.verified_at, versions.c.id > last.id)
    return sa.and_(versions.c.verified_at >= last.verified_at, sa.or_(versions.c.verified_at > last.verified_at, same))


def _found_in(value: str | None) -> tuple[int, list[dict[str, Any]]]:
    number, latest = json.loads(value) if value else (0, [])
    return number, latest
