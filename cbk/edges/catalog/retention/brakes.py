"""Brakes: removals that wait for a person's word, and the counts that pull them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import EPOCH, brakes, covers, facts, removals, rows, samples, versions
from cbk.edges.catalog.retention.removals import close, hold_back
from cbk.edges.catalog.status.version_counts import total_of, version_counts_in
from cbk.model import Brake, BrakeState, RemovalKind, RemovalOutcome, VersionState
from cbk.rules.retention.brake import Allowance, WindowStart

# What a brake may hold: a removal that no brake was pulled on, of a file that the kit knows. Others would remove nothing.
# Asked by `coalesce`: asked for NULL, SQLite would take the indexes of these columns, and read all of the past in them.
_FREE = (
    removals.c.open.is_(True),
    sa.func.coalesce(removals.c.brake_id, 0) == 0,
    sa.func.coalesce(removals.c.file_id, 0) != 0,
)
# As it stands in the condition of an index: a plan is made before values are known.
_STORED = versions.c.state == sa.literal("stored", literal_execute=True)
_BEGAN = "brake.began"


class Brakes:
    """Brakes, and the counts that pull them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Counting

    def count_by_slot(self, slot: timedelta) -> dict[int, int]:
        """How many removals that a brake may hold come due in each slot of this length, by its number since 1970."""
        length = slot // timedelta(milliseconds=1)
        # Whole division of integers, the same in both databases.
        number = sa.type_coerce(removals.c.due_at, sa.BigInteger).op("/", return_type=sa.BigInteger())(
            sa.literal_column(str(length))
        )
        query = (
            sa.select(number.label("slot"), sa.func.count()).where(*_FREE, removals.c.due_at.is_not(None)).group_by(sa.text("slot"))
        )
        with self._database.reading() as connection:
            return {int(found): count for found, count in connection.execute(query)}

    def fingerprint(self) -> tuple[int, int]:
        """Changes when a removal that a brake may hold comes or goes: how many there are, and the last of all removals."""
        with self._database.reading() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(removals).where(*_FREE)) or 0
            return count, connection.scalar(sa.select(sa.func.max(removals.c.id))) or 0

    def window_start(self, since: datetime) -> WindowStart:
        """What was here at `since`, or where that is before the kit's time, when a first removal was noted."""
        earlier = sa.select(samples.c.at, samples.c.copies).where(samples.c.at <= since).order_by(samples.c.at.desc()).limit(1)
        began = sa.select(facts.c.value).where(facts.c.name == _BEGAN)
        with self._database.writing() as connection:
            sample = connection.execute(earlier).first()
            if sample is not None:
                return WindowStart(at=since, copies=sample.copies)
            noted = connection.scalar(began)
            if noted is None:
                # Copies that are to go are here still.
                copies = _copies_in(connection)
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                noted = json.dumps([now.isoformat(), copies])
                connection.execute(sa.insert(facts).values(name=_BEGAN, value=noted))
            at, copies = json.loads(noted)
            return WindowStart(at=datetime.fromisoformat(at), copies=copies)

    def used(self, start: WindowStart, since: datetime) -> int:
        """How many copies that were here at the start of the window were removed since, without a person.

        One that is here again counts as well: who writes its row anew must get nothing back.
        """
        again = sa.and_(versions.c.stored_at > versions.c.pruned_at, versions.c.first_seen_at <= start.at)
        gone = (versions.c.pruned_at > since, (versions.c.stored_at <= start.at) | again, versions.c.approved.is_(False))
        with self._database.reading() as connection:
            return (
                connection.scalar(sa.select(sa.func.count()).select_from(versions).where(versions.c.pruned_at.is_not(None), *gone))
                or 0
            )

    def waiting(self, start: WindowStart, since: datetime) -> int:
        """How many such copies are covered by removals that nothing holds."""
        replaced = sa.select(removals.c.version_id).where(*_FREE, removals.c.kind == RemovalKind.REPLACED.value)
        deleted = (
            sa.select(rows.c.version_id)
            .select_from(removals)
            .join(covers, covers.c.removal_id == removals.c.id)
            .join(rows, rows.c.id == covers.c.row_id)
            .where(*_FREE, rows.c.version_id.is_not(None))
        )
        ours = sa.union(replaced, deleted).subquery()
        query = sa.select(sa.func.count()).select_from(versions).join(ours, ours.c.version_id == versions.c.id)
        # Pruned before the window, and here again since: no younger for that.
        again = sa.and_(versions.c.pruned_at <= since, versions.c.first_seen_at <= start.at)
        with self._database.reading() as connection:
            return connection.scalar(query.where(_STORED, (versions.c.stored_at <= start.at) | again)) or 0

    def stored_copies(self) -> int:
        """How many copies there are."""
        with self._database.reading() as connection:
            return total_of(count for count in version_counts_in(connection) if count.state is VersionState.STORED)

    # Pulling

    def pull(self, slots: Iterable[int] | None, slot: timedelta, *, counted: int, reason: str) -> int | None:
        """Hold the removals that come due in these slots (None: all of them); the brake's number, None if there are none."""
        with self._database.writing() as connection:
            query = sa.select(removals.c.id).where(*_FREE, removals.c.due_at.is_not(None))
            if slots is None:
                ids = list(connection.scalars(query))
            else:
                due = [
                    (removals.c.due_at >= _start(number, slot), removals.c.due_at < _start(number + 1, slot)) for number in slots
                ]
                ids = [removal_id for each in due for removal_id in connection.scalars(query.where(*each))]
            return hold_back(self._database, connection, ids, reason, counted=counted) if ids else None

    def all(self, state: BrakeState | None = None) -> list[Brake]:
        """Brakes, oldest first; `removals` counts those that it holds, or has held or let go."""
        count = sa.select(sa.func.count()).where(removals.c.brake_id == brakes.c.id).scalar_subquery()
        query = sa.select(brakes, count.label("removals")).order_by(brakes.c.id)
        if state is not None:
            query = query.where(brakes.c.state == state.value)
        with self._database.reading() as connection:
            return [
                Brake(
                    id=row.id,
                    pulled_at=row.pulled_at,
                    removals=row.removals,
                    stored_files=row.stored_files,
                    state=BrakeState(row.state),
                    reason=row.reason,
                    decided_at=row.decided_at,
                )
                for row in connection.execute(query)
            ]

    def decide(self, brake_id: int, *, approve: bool) -> set[int] | None:
        """A person's word: let the removals go when they are due, or keep what they are about.

        Returns the files in which another version may be wanted now; None where no such brake is held.
        """
        state = BrakeState.APPROVED if approve else BrakeState.REJECTED
        with self._database.writing() as connection:
            held = sa.update(brakes).where(brakes.c.id == brake_id, brakes.c.state == BrakeState.HELD.value)
            if not connection.execute(held.values(state=state.value, decided_at=self._database.now_sql)).rowcount:
                return None
            ours = sa.select(removals.c.id).where(removals.c.brake_id == brake_id, removals.c.open.is_(True))
            if not approve:
                reason = "a person said that it is to be kept"
                return close(self._database, connection, list(connection.scalars(ours)), RemovalOutcome.REJECTED, reason)
        return set()

    def note_allowance(self, allowance: Allowance) -> None:
        """What `status` tells of the window."""
        value = json.dumps([allowance.used, allowance.waiting, allowance.allowed, allowance.since.isoformat()])
        with self._database.writing() as connection:
            if not connection.execute(sa.update(facts).where(facts.c.name == "brake.allowance").values(value=value)).rowcount:
                connection.execute(sa.insert(facts).values(name="brake.allowance", value=value))

    def allowance(self) -> Allowance | None:
        """As it was last noted."""
        with self._database.reading() as connection:
            value = connection.scalar(sa.select(facts.c.value).where(facts.c.name == "brake.allowance"))
        if value is None:
            return None
        used, waiting, allowed, since = json.loads(value)
        return Allowance(used=used, waiting=waiting, allowed=allowed, since=datetime.fromisoformat(since))


def _copies_in(connection: sa.Connection) -> int:
    # With a sum, so that the index of the sizes of copies is the shortest way, which has nothing of what was pruned.
    copies, _ = connection.execute(sa.select(sa.func.count(), sa.func.sum(versions.c.stored_size)).where(_STORED)).one()
    return int(copies)


def _start(slot_number: int, slot: timedelta) -> datetime:
    return EPOCH + slot_number * (slot // timedelta(milliseconds=1)) * timedelta(milliseconds=1)
