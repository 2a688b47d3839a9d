"""Bytes of versions that are pruned in the record: those that have still to go, and those in the trash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.backup.pins import pin, twin_of
from cbk.edges.catalog.database.database import Database, select_versions, version_of
from cbk.edges.catalog.database.schema import versions
from cbk.edges.catalog.database.transitions import free_variant, move
from cbk.model import Version, VersionState, Written
from cbk.rules.lifecycle import StateEvent

_PAGE = 1000


class PrunedCopies:
    """Record before bytes: what is pruned here may still lie on the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def leftovers(self, limit: int) -> list[Version]:
        """Versions that are pruned in the record and whose bytes have still to go."""
        query = select_versions().where(versions.c.leftover.is_(True)).order_by(versions.c.id).limit(limit)
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def remove_bytes(self, version_id: int, remove: Callable[[], str | None], *, trash: timedelta) -> None:
        """Where the bytes of a version have still to go, call `remove`, which takes them off their place, and note that they are.

        `remove` gives their name in the trash, where they stay for the time `trash`, or None: they are gone. The record is locked
        meanwhile: a worker that fell asleep after it had recorded must not take bytes that count again by now.
        """
        ours = versions.c.id == version_id
        with self._database.writing() as connection:
            if not connection.scalar(sa.select(versions.c.leftover).where(ours).with_for_update()):
                return
            trash_name = remove()
            until = self._database.later_sql(trash) if trash_name else None
            connection.execute(sa.update(versions).where(ours).values(leftover=False, trash_name=trash_name, trash_until=until))

    def note_leftover(self, version_id: int) -> bool:
        """A version that is pruned has bytes after all, and they have to go; False where it is not pruned."""
        pruned = (versions.c.id == version_id, versions.c.state == VersionState.PRUNED.value)
        with self._database.writing() as connection:
            return connection.execute(sa.update(versions).where(*pruned).values(leftover=True)).rowcount == 1

    def in_trash(self, *, file_id: int | None = None, over: bool = False, limit: int = _PAGE) -> list[Version]:
        """Versions whose copy lies in the trash: of one file, or (`over`) those whose time there is over."""
        query = select_versions().where(versions.c.trash_until.is_not(None)).order_by(versions.c.trash_until).limit(limit)
        if file_id is not None:
            query = query.where(versions.c.file_id == file_id)
        if over:
            query = query.where(versions.c.trash_until <= self._database.now_sql)
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def with_free_name(self, version: Version) -> Version:
        """The version, with a name for its copy that no other version of its number has."""
        ours = versions.c.id == version.id
        with self._database.writing() as connection:
            row = connection.execute(sa.select(versions).where(ours).with_for_update()).one()
            variant = free_variant(connection, row)
            connection.execute(sa.update(versions).where(ours).values(variant=variant))
        return replace(version, variant=variant)

    def out_of_trash(self, version: Version, written: Written | None = None) -> None:
        """The copy is out of the trash: back at its place, as it was read there (`written`), or removed for good (None)."""
        ours = versions.c.id == version.id
        with self._database.writing() as connection:
            connection.execute(sa.update(versions).where(ours).values(trash_name=None, trash_until=None))
            if written is not None:
                move(connection, StateEvent.UNDELETED, ours, pruned_at=None, **self._stored(written))

    def found_whole(self, version: Version, written: Written) -> bool:
        """A copy of a version that the catalog did not count lies whole in its place, as it was read: it counts.

        False where nothing of it is wanted, or the same bytes are another version's.
        """
        with self._database.writing() as connection:
            if not version.sha256 and twin_of(connection, version, written.sha256) is not None:
                return False
            pin(connection, version, written)
            return move(connection, StateEvent.FOUND_WHOLE, versions.c.id == version.id, **self._stored(written)) == 1

    def _stored(self, written: Written) -> dict[str, Any]:
        now = self._database.now_sql
        return {
            "reason": "",
            "due_at": None,
            "size": written.size,
            "stored_size": written.stored_size,
            "stored_sha256": written.stored_sha256,
            "stored_at": written.stored_at or now,
            "verified_at": now,
        }
