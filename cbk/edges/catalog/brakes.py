"""Brakes: too many removals at once wait for a person's word."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import sqlalchemy as sa

from cbk.edges.catalog.database import Database
from cbk.edges.catalog.removals import BRAKE_HELD, close
from cbk.edges.catalog.schema import EPOCH, brakes, removals, versions
from cbk.model import Brake, VersionState

# What a brake may hold: a removal that no brake was pulled on, of a file that the kit knows. Others would remove nothing.
# Asked by `coalesce`: asked for NULL, SQLite would take the indexes of these columns, and read all of the past in them.
_NOT_BRAKED = (
    removals.c.open.is_(True),
    sa.func.coalesce(removals.c.brake_id, 0) == 0,
    sa.func.coalesce(removals.c.file_id, 0) != 0,
)


class Brakes:
    """Brakes, and the counts that pull them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count_by_slot(self, slot: timedelta) -> dict[int, int]:
        """How many removals that a brake may hold come due in each slot of this length, by its number since 1970."""
        length = slot // timedelta(milliseconds=1)
        # Whole division of integers, the same in both databases.
        number = sa.type_coerce(removals.c.due_at, sa.BigInteger).op("/", return_type=sa.BigInteger())(
            sa.literal_column(str(length))
        )
        query = sa.select(number.label("slot"), sa.func.count()).where(*_NOT_BRAKED).group_by(sa.text("slot"))
        with self._database.reading() as connection:
            return {int(found): count for found, count in connection.execute(query)}

    def stored_files(self) -> int:
        """How many files have a verified copy of their newest version, deleted or not."""
        # Said of all columns of their index, so that what was pruned long ago costs nothing.
        either = versions.c.deleted.in_([False, True])
        stored = (versions.c.newest.is_(True), either, versions.c.state == VersionState.STORED.value)
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(versions).where(*stored)) or 0

    def pull(self, slots: Iterable[int], slot: timedelta, *, stored_files: int) -> int | None:
        """Hold the removals that come due in these slots; gives the brake's number, None where there are none any more."""
        now = self._database.now_sql
        with self._database.writing() as connection:
            made = sa.insert(brakes).values(pulled_at=now, joined_at=now, stored_files=stored_files, state=BRAKE_HELD)
            inserted = connection.execute(made).inserted_primary_key
            assert inserted is not None
            brake_id: int = inserted[0]
            held = sa.update(removals).values(brake_id=brake_id, armed_until=None)
            count = 0
            for number in slots:
                due = (removals.c.due_at >= _start(number, slot), removals.c.due_at < _start(number + 1, slot))
                count += connection.execute(held.where(*_NOT_BRAKED, *due)).rowcount
            if not count:
                connection.execute(sa.delete(brakes).where(brakes.c.id == brake_id))
                return None
        return brake_id

    def newcomers(self, patience: timedelta) -> tuple[int, int] | None:
        """The brake that was pulled or joined within `patience`, and how many removals were first seen since then."""
        recent = (brakes.c.state == BRAKE_HELD, brakes.c.joined_at >= self._database.later_sql(-patience))
        with self._database.reading() as connection:
            brake = connection.execute(sa.select(brakes).where(*recent).order_by(brakes.c.id.desc()).limit(1)).first()
            if brake is None:
                return None
            since = (*_NOT_BRAKED, removals.c.first_seen_at >= brake.joined_at)
            return brake.id, connection.scalar(sa.select(sa.func.count()).select_from(removals).where(*since)) or 0

    def join(self, brake_id: int) -> None:
        """The burst goes on: hold what was first seen since the brake was pulled or last joined."""
        with self._database.writing() as connection:
            joined_at = connection.scalar(sa.select(brakes.c.joined_at).where(brakes.c.id == brake_id))
            since = (*_NOT_BRAKED, removals.c.first_seen_at >= joined_at)
            connection.execute(sa.update(removals).where(*since).values(brake_id=brake_id, armed_until=None))
            connection.execute(sa.update(brakes).where(brakes.c.id == brake_id).values(joined_at=self._database.now_sql))

    def all(self, state: str | None = None) -> list[Brake]:
        """Brakes, oldest first; `removals` counts those that it has held or let go."""
        count = sa.select(sa.func.count()).where(removals.c.brake_id == brakes.c.id).scalar_subquery()
        query = sa.select(brakes, count.label("removals")).order_by(brakes.c.id)
        if state is not None:
            query = query.where(brakes.c.state == state)
        with self._database.reading() as connection:
            return [
                Brake(
                    id=row.id,
                    pulled_at=row.pulled_at,
                    removals=row.removals,
                    stored_files=row.stored_files,
                    state=row.state,
                    decided_at=row.decided_at,
                )
                for row in connection.execute(query)
            ]

    def decide(self, brake_id: int, *, approve: bool) -> bool:
        """A person's word: let the removals go when they are due, or keep what they are about. False where none is held so."""
        state = "approved" if approve else "rejected"
        with self._database.writing() as connection:
            held = sa.update(brakes).where(brakes.c.id == brake_id, brakes.c.state == BRAKE_HELD)
            if not connection.execute(held.values(state=state, decided_at=self._database.now_sql)).rowcount:
                return False
            ours = sa.select(removals.c.id).where(removals.c.brake_id == brake_id, removals.c.open.is_(True))
            if not approve:
                close(self._database, connection, connection.scalars(ours).all(), "rejected", "a person said that it is to be kept")
        return True


def _start(slot_number: int, slot: timedelta) -> datetime:
    return EPOCH + slot_number * (slot // timedelta(milliseconds=1)) * timedelta(milliseconds=1)
