"""What the catalog knows of links: when they die, and which rows need another one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, select_versions, version_of
from cbk.edges.catalog.database.schema import EPOCH, Instant, removals, versions
from cbk.model import Version, VersionState
from cbk.rules.backup.http_responses import FRESH_LINK
from cbk.rules.backup.link_deadlines import FARTHEST_HORIZON, LAST, RATE_WINDOW, Deadlines

_MINUTE = 60_000  # milliseconds


class Links:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deadlines(self) -> Deadlines:
        """When the links of what is due die. One pass over an index, whatever is in the backlog."""
        with self._database.reading() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            dying = connection.execute(_by_minute(now)).all()
            # The index on links does not tell what was deleted: a few lines more where any link dies at all.
            unwanted = dict(map(tuple, connection.execute(_unwanted_by_minute(now)))) if dying else {}
            too_late, too_late_at = connection.execute(_tried_too_late(now)).one()
            stored, stored_last = connection.execute(_stored_since(now)).one()
        return Deadlines(
            dying=[
                (max(EPOCH + timedelta(milliseconds=row.minute * _MINUTE), now), row.number - unwanted.get(row.minute, 0))
                for row in dying
                if row.number > unwanted.get(row.minute, 0)
            ],
            waiting_since=min((row.since for row in dying), default=None),
            too_late=too_late,
            too_late_at=too_late_at,
            stored=stored or 0,
            stored_last=stored_last or 0,
        )

    def dying(self, limit: int, within: timedelta) -> list[tuple[Version, str]]:
        """Versions that are due, not deleted, and whose links die `within` that time, soonest first.

        Each comes with the digest of the link it has.
        """
        now = self._database.now_sql
        dying = (versions.c.link_expires_at > now, versions.c.link_expires_at <= self._database.later_sql(within))
        query = (
            select_versions()
            .add_columns(versions.c.link_digest)
            .where(*dying, versions.c.due_at <= now, versions.c.deleted.is_(False))
        )
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(versions.c.link_expires_at).limit(limit))
            return [(version_of(row), row.link_digest) for row in found]

    def to_refresh(self, limit: int) -> tuple[int, list[Version]]:
        """How many rows need another link, and the first of their versions."""
        count = sa.select(sa.func.count()).select_from(versions).where(needs_another_link())
        some = select_versions().where(needs_another_link()).order_by(versions.c.id).limit(limit)
        with self._database.reading() as connection:
            return connection.scalar(count) or 0, [version_of(row) for row in connection.execute(some)]


def needs_another_link() -> sa.ColumnElement[bool]:
    """Whether only the application can help: the newest version of a file that is not deleted, whose link is dead or denied."""
    # The states stand in a list of their own because an index ends with them.
    few = versions.c.state.in_([VersionState.EXPIRED.value, VersionState.FAILED.value])
    asks = (versions.c.state == VersionState.EXPIRED.value) | versions.c.reason.contains(FRESH_LINK)
    return versions.c.newest.is_(True) & versions.c.deleted.is_(False) & few & asks


def _by_minute(now: datetime) -> sa.Select[Any, Any, Any]:
    """How many links die in each minute, the dead ones in the present one, and since when the first of them has been due."""
    minute, due = _minute_of_death(now), _due_and_dying(now)
    counted = sa.select(minute, sa.func.count().label("number"), sa.func.min(versions.c.due_at).label("since"))
    return counted.where(*due).group_by(minute).order_by(minute)


def _unwanted_by_minute(now: datetime) -> sa.Select[Any, Any]:
    """How many of these are of deleted files, which wait for their grace to end and not for a link."""
    minute, due = _minute_of_death(now), _due_and_dying(now)
    waiting = sa.select(removals.c.file_id).where(removals.c.open.is_(True))
    counted = sa.select(minute, sa.func.count()).where(*due, versions.c.deleted.is_(True), versions.c.file_id.in_(waiting))
    return counted.group_by(minute)


def _minute_of_death(now: datetime) -> sa.Label[Any]:
    dies_at = sa.case((versions.c.link_expires_at < now, sa.literal(now, Instant)), else_=versions.c.link_expires_at)
    return (sa.type_coerce(dies_at, sa.BigInteger) // sa.literal_column(str(_MINUTE), sa.BigInteger)).label("minute")


def _due_and_dying(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return versions.c.due_at.is_not(None), versions.c.due_at <= now, versions.c.link_expires_at < now + FARTHEST_HORIZON


def _tried_too_late(now: datetime) -> sa.Select[Any, Any]:
    """Newest versions that failed for now, and whose next try comes when their link is dead."""
    failed = (versions.c.newest.is_(True), versions.c.deleted.is_(False), versions.c.state == VersionState.FAILED.value)
    late = (versions.c.link_expires_at > now, versions.c.due_at > versions.c.link_expires_at)
    return sa.select(sa.func.count(), sa.func.min(versions.c.link_expires_at)).where(*failed, *late)


def _stored_since(now: datetime) -> sa.Select[Any, Any]:
    """How many were stored of late. They were verified then, which has an index; SQLite takes that for a literal only."""
    stored = (versions.c.state == sa.literal_column("'stored'"), versions.c.verified_at >= now - RATE_WINDOW)
    last = sa.func.sum(sa.case((versions.c.stored_at >= now - LAST, 1), else_=0))
    return sa.select(sa.func.count(), last).where(*stored, versions.c.stored_at >= now - RATE_WINDOW)
