"""The one writer of a version's state, and of what follows from its rows: whether it is live, deleted, and its file's newest.

Which event moves which state to which is in `rules/lifecycle.py`; an event that finds a version in another state changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches
from cbk.edges.catalog.database.schema import covers, files, rows, versions
from cbk.model import VersionState
from cbk.rules.intake.layout import variant_of
from cbk.rules.lifecycle import LIFECYCLE, StateEvent

# What nobody is at, and nobody was sent for.
FREE: dict[str, Any] = {"lease_until": None, "holder": None}


def move(
    connection: sa.Connection, event: StateEvent, *where: sa.ColumnElement[bool], to: VersionState | None = None, **values: Any
) -> int:
    """Move the versions that match `where` as `event` has it, and set `values`; returns how many moved.

    `to` is needed only for an event with several targets. Versions in a state that the event does not move stay as they are.
    """
    result = connection.execute(moved(event, *where, to=to, **values))
    return result.rowcount


def moved(event: StateEvent, *where: sa.ColumnElement[bool], to: VersionState | None = None, **values: Any) -> sa.Update:
    """The statement of `move`."""
    transition = LIFECYCLE[event]
    target = to if to is not None else next(iter(transition.targets))
    assert target in transition.targets, (event, target)
    # No IN: its list is written into each statement, so that one cannot be run for many versions at once.
    sources = sa.or_(*(versions.c.state == state.value for state in VersionState if state in transition.sources))
    return sa.update(versions).where(*where, sources).values(state=target.value, **values)


def refresh_versions(
    database: Database, connection: sa.Connection, version_ids: Iterable[int], *, brought_again: bool = False
) -> set[int]:
    """Say of these versions anew whether they are live, or deleted, by their rows, and do what follows from that.

    `brought_again`: another row has just brought each of them, so that what could not be fetched is tried again. Returns the files
    in which another version may be wanted now. In the caller's transaction.
    """
    changed: set[int] = set()
    for batch in in_batches(sorted(set(version_ids))):
        before = _stand(connection, batch)
        connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(live=_is_live(), deleted=_is_deleted()))
        live_rows = _live_rows(connection, batch)
        stood = {row.id: row for row in before}
        for row in _stand(connection, batch):
            was = stood[row.id]
            news = brought_again or not was.live
            _follow(database, connection, row, news=news, live_rows=live_rows.get(row.id, []))
        changed |= {row.file_id for row in before}
    mark_newest(connection, changed)
    for batch in in_batches(sorted(changed)):
        # A file that has rows again may lose them again.
        accepted = (files.c.id.in_(batch), files.c.gone_accepted.is_(True))
        lives = sa.exists().where(versions.c.file_id == files.c.id, versions.c.live.is_(True))
        connection.execute(sa.update(files).where(*accepted, lives).values(gone_accepted=False))
    return changed


def mark_newest(connection: sa.Connection, file_ids: Iterable[int]) -> None:
    """Note which version of each of these files is its newest: the highest live one; where none is live, one that has a copy and
    is not deleted; else the highest deleted one. A file of which nothing but vanished rows was ever seen has none.
    """
    for batch in in_batches(sorted(set(file_ids))):
        gone = versions.c.live.is_(False) & versions.c.deleted.is_(False)
        kept = sa.case((gone & (versions.c.state == VersionState.STORED.value), 1), else_=0)
        counts = versions.c.live.is_(True) | versions.c.deleted.is_(True) | (versions.c.state == VersionState.STORED.value)
        rank = sa.func.row_number().over(
            partition_by=versions.c.file_id,
            order_by=(versions.c.live.desc(), kept.desc(), versions.c.number.desc(), versions.c.id.desc()),
        )
        ranked = sa.select(versions.c.id, rank.label("rank")).where(versions.c.file_id.in_(batch), counts).subquery()
        highest = list(connection.scalars(sa.select(ranked.c.id).where(ranked.c.rank == 1)))
        # Asked by `coalesce`: SQLite would take an index that begins with the flag, and read all of the past.
        is_newest, is_kept = (sa.func.coalesce(flag, sa.false()).is_(True) for flag in (versions.c.newest, versions.c.kept))
        ours = sa.update(versions).where(versions.c.file_id.in_(batch))
        connection.execute(ours.where(is_newest, versions.c.id.not_in(highest)).values(newest=False))
        connection.execute(sa.update(versions).where(versions.c.id.in_(highest), ~is_newest).values(newest=True))
        connection.execute(ours.where(is_kept).values(kept=False))


def out_of_use(
    database: Database, connection: sa.Connection, *where: sa.ColumnElement[bool], event: StateEvent, **values: Any
) -> int:
    """Copies that count no more and are to be fetched again; whoever holds an older claim may record nothing. Returns how many.

    Record before bytes: the transaction has to be durable before a copy moves.
    """
    again: dict[str, Any] = {"due_at": database.now_sql, "fence": versions.c.fence + 1, "leftover": False}
    return move(connection, event, *where, **again | values)


def _stand(connection: sa.Connection, ids: list[int]) -> list[Any]:
    columns = (
        versions.c.id,
        versions.c.file_id,
        versions.c.number,
        versions.c.sha256,
        versions.c.variant,
        versions.c.source_id,
        versions.c.state,
        versions.c.live,
        versions.c.deleted,
    )
    return list(connection.execute(sa.select(*columns).where(versions.c.id.in_(ids)).order_by(versions.c.id).with_for_update()))


def _covered() -> sa.ColumnElement[bool]:
    return sa.exists().where(covers.c.row_id == rows.c.id)


def _is_live() -> sa.ColumnElement[bool]:
    return sa.exists().where(rows.c.version_id == versions.c.id, rows.c.gone_at.is_(None), ~_covered())


def _is_deleted() -> sa.ColumnElement[bool]:
    ours = rows.c.version_id == versions.c.id
    return sa.exists().where(ours, _covered()) & ~sa.exists().where(ours, ~_covered())


def _live_rows(connection: sa.Connection, ids: list[int]) -> Mapping[int, list[str]]:
    """The Ids of the live rows of each version, the one that was seen last in the end."""
    query = sa.select(rows.c.version_id, rows.c.source_id).where(rows.c.version_id.in_(ids), rows.c.gone_at.is_(None), ~_covered())
    found: dict[int, list[str]] = defaultdict(list)
    for version_id, source_id in connection.execute(query.order_by(rows.c.id)):
        found[version_id].append(source_id)
    return found


def _follow(database: Database, connection: sa.Connection, row: Any, *, news: bool, live_rows: list[str]) -> None:
    ours = versions.c.id == row.id
    now = database.now_sql
    if not row.live:
        if not row.deleted:
            # Nothing can be fetched by a row that is not there. What has a copy keeps it.
            move(connection, StateEvent.ROW_GONE, ours, reason="its row is gone from the application's table", due_at=None)
        return
    again: dict[str, Any] = {"attempts": 0, "due_at": now}
    if row.source_id not in live_rows:
        connection.execute(sa.update(versions).where(ours).values(source_id=live_rows[-1], link_digest="", link_expires_at=None))
        # Its message named another row.
        connection.execute(sa.update(versions).where(ours, versions.c.holder.is_(None)).values(lease_until=None))
        news = True
    if news:
        move(connection, StateEvent.ROW_CHANGED, ours, reason="another row brings it", **again)


def create_again(database: Database, connection: sa.Connection, version_ids: Iterable[int], reason: str) -> None:
    """Pruned versions that are wanted again. Bytes that were about to go stay: the backup finds them.

    When they were pruned stays as well: the brake counts that, whatever comes later.
    """
    for version_id in sorted(version_ids):
        ours = versions.c.id == version_id
        row = connection.execute(sa.select(versions).where(ours).with_for_update()).one()
        values: dict[str, Any] = {"variant": free_variant(connection, row), "leftover": False, "attempts": 0}
        move(connection, StateEvent.CREATED_AGAIN, ours, reason=reason, due_at=database.now_sql, **values)


def free_variant(connection: sa.Connection, row: Any) -> str:
    """What the name of a version's copy ends in from now on: another version of the same number may have its name meanwhile."""
    other = (
        versions.c.file_id == row.file_id,
        versions.c.number == row.number,
        versions.c.id != row.id,
        versions.c.variant == row.variant,
        versions.c.state != VersionState.PRUNED.value,
    )
    taken = connection.scalar(sa.select(versions.c.id).where(*other).limit(1)) is not None
    variant: str = variant_of(row.sha256) if taken else row.variant
    return variant
