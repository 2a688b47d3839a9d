"""What is to go and when: deletes that were seen, and copies that were replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database import Database, in_batches, select_versions, version_of
from cbk.edges.catalog.holds import holds_in
from cbk.edges.catalog.schema import brakes, files, removals, versions
from cbk.errors import CatalogUnavailable
from cbk.model import Hold, Removal, RemovalKind, Version, VersionState, Written

REMOVALS_PAGE = 1000
BRAKE_HELD = "held"
# How a removal ended, where that is the delete's own doing: what it covers is still deleted.
_IN_FORCE = ("", "done")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelete:
    """A row of the delete log that was not known; `file_id` and `through` are None where it names no file that the kit knows."""

    delete_id: str
    row_id: str
    file_id: int | None = None
    through: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `carry_out` is to do: versions that go, each with its reason; and, where something stays, why and when to look again."""

    gone: dict[int, str] = field(default_factory=dict)
    kept: str = ""
    look_again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An open removal with what a person calls it."""

    removal: Removal
    storage: str | None
    key: str | None
    number: int | None

    @property
    def label(self) -> str:
        """Such as "s3/cars/id-1/thumbnail.png"."""
        name = f"{self.storage}/{self.key}" if self.key is not None else f"row {self.removal.row_id}"
        return f"{name} v{self.number}" if self.number is not None else name


_BRAKED = sa.exists().where(brakes.c.id == removals.c.brake_id, brakes.c.state == BRAKE_HELD)
_COLUMNS = (*(column for column in removals.c if column.name in Removal.__dataclass_fields__), _BRAKED.label("braked"))


def _removal_of(row: Any) -> Removal:
    values = {column.name: row._mapping[column] for column in _COLUMNS}  # noqa: SLF001 - SQLAlchemy's documented name
    return Removal(**values | {"kind": RemovalKind(values["kind"])})


def _select() -> sa.Select[Any]:
    return sa.select(*_COLUMNS)


class Removals:
    """Every question about what is to go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Taking in

    def known(self, delete_ids: Iterable[str]) -> dict[str, Removal]:
        """Those of these rows of the delete log that were seen before, by their Id."""
        found: dict[str, Removal] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(delete_ids)):
                for row in connection.execute(_select().where(removals.c.delete_id.in_(batch))):
                    found[row.delete_id] = _removal_of(row)
        return found

    def record(self, deletes: Iterable[NewDelete], grace: timedelta, rows_through: int | None) -> None:
        """Note deletes that are seen for the first time, or again after they were over: their grace runs from now.

        Raises CatalogUnavailable where another process noted the same one in between: it is known next time.
        """
        listed = list({delete.delete_id: delete for delete in deletes}.values())
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                for batch in in_batches(listed):
                    self._record_batch(connection, batch, now, now + grace, rows_through)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process noted the same deletes at the same time") from error

    def _record_batch(
        self, connection: sa.Connection, batch: list[NewDelete], now: datetime, due_at: datetime, rows_through: int | None
    ) -> None:
        known = removals.c.delete_id.in_([delete.delete_id for delete in batch])
        before = connection.scalars(sa.select(removals.c.file_id).where(known)).all()
        connection.execute(sa.delete(removals).where(known))
        connection.execute(
            sa.insert(removals),
            [
                {
                    "kind": RemovalKind.DELETED.value,
                    "delete_id": delete.delete_id,
                    "row_id": delete.row_id,
                    "file_id": delete.file_id,
                    "through": delete.through,
                    "rows_through": rows_through,
                    "first_seen_at": now,
                    "due_at": due_at,
                    "open": True,
                }
                for delete in batch
            ],
        )
        _mark_deleted(connection, [*before, *(delete.file_id for delete in batch)])

    def resolve(self, removal_id: int, *, file_id: int, through: int) -> None:
        """The row that a delete names has become known: say which file that is."""
        with self._database.writing() as connection:
            connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(file_id=file_id, through=through))
            _mark_deleted(connection, [file_id])

    def withdraw(self, removal_id: int, *, outcome: str, reason: str, if_open: bool = False) -> None:
        """End a removal without removing anything; with `if_open`, one that was carried out meanwhile stays so."""
        ours = sa.select(removals.c.id).where(removals.c.id == removal_id).with_for_update()
        if if_open:
            ours = ours.where(removals.c.open.is_(True))
        with self._database.writing() as connection:
            close(self._database, connection, connection.scalars(ours).all(), outcome, reason)

    def next_to_check(self, limit: int) -> list[Removal]:
        """Open deletes, longest unchecked first; they count as checked now."""
        query = (
            _select()
            .where(removals.c.open.is_(True), removals.c.kind == RemovalKind.DELETED.value)
            .order_by(removals.c.checked_at.asc().nulls_first())
            .limit(limit)
        )
        with self._database.writing() as connection:
            found = [_removal_of(row) for row in connection.execute(query)]
            for batch in in_batches([removal.id for removal in found]):
                connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(checked_at=self._database.now_sql))
        return found

    def clamp_future_times(self, grace: timedelta, longest_wait: timedelta) -> None:
        """What was noted while a clock was ahead: a grace begins now, and no message is on its way for longer than any may be."""
        with self._database.writing() as connection:
            ahead = (removals.c.open.is_(True), removals.c.first_seen_at > self._database.later_sql(timedelta(minutes=1)))
            again = {"first_seen_at": self._database.now_sql, "due_at": self._database.later_sql(grace), "armed_until": None}
            connection.execute(sa.update(removals).where(*ahead).values(**again))
            far = (removals.c.open.is_(True), removals.c.armed_until > self._database.later_sql(longest_wait))
            connection.execute(sa.update(removals).where(*far).values(armed_until=None))

    def end_for_recreation(self, *, file_id: int, number: int, row_id: int) -> bool:
        """A row that was written after a delete was seen brings the same version again: the delete no longer speaks of the file.

        False where no delete does, or where the version's bytes have still to go: then it is asked again once they have.
        """
        overtaken = sa.select(removals.c.id).where(
            removals.c.kind == RemovalKind.DELETED.value,
            removals.c.file_id == file_id,
            removals.c.outcome.in_(_IN_FORCE),
            removals.c.through >= number,
            removals.c.rows_through < row_id,
        )
        ours = (versions.c.file_id == file_id, versions.c.number == number)
        again = sa.update(versions).where(*ours)
        with self._database.writing() as connection:
            ids = list(connection.scalars(overtaken))
            leaving = connection.scalar(sa.select(versions.c.leftover).where(*ours).with_for_update())
            if not ids or leaving:
                return False
            close(self._database, connection, ids, "re-created", f"row {row_id} created the file again")
            connection.execute(again.values(source_id=str(row_id)))
            pending = {"state": VersionState.PENDING.value, "reason": "created again", "attempts": 0, "pruned_at": None}
            # Where another delete was carried out that speaks of it still, it stays pruned.
            was_pruned = again.where(versions.c.state == VersionState.PRUNED.value, versions.c.deleted.is_(False))
            connection.execute(was_pruned.values(**pending, due_at=self._database.now_sql))
            return True

    # Replaced copies

    def files_with_older_copies(self, limit: int) -> list[int]:
        """Files with a stored version that is not their newest and has no removal of its own, longest unchecked first."""
        older = (versions.c.state == VersionState.STORED.value, versions.c.newest.is_(False), versions.c.scheduled.is_(False))
        query = sa.select(versions.c.id, versions.c.file_id).where(*older).order_by(versions.c.checked_at.asc().nulls_first())
        with self._database.writing() as connection:
            found = connection.execute(query.limit(limit)).all()
            for batch in in_batches([row.id for row in found]):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(checked_at=self._database.now_sql))
        return sorted({row.file_id for row in found})

    def schedule(self, replaced: Iterable[Version], grace: timedelta) -> None:
        """These copies were replaced: their grace runs from now."""
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            for version in replaced:
                marked = sa.update(versions).where(versions.c.id == version.id, versions.c.scheduled.is_(False))
                if connection.execute(marked.values(scheduled=True)).rowcount:
                    connection.execute(
                        sa.insert(removals).values(
                            kind=RemovalKind.REPLACED.value,
                            file_id=version.file_id,
                            version_id=version.id,
                            first_seen_at=now,
                            due_at=now + grace,
                            open=True,
                        )
                    )

    # Sending

    def armed(self) -> int:
        """How many messages are on their way, but for those about what something keeps: they must not keep others waiting."""
        on_its_way = (removals.c.open.is_(True), removals.c.armed_until > self._database.now_sql, removals.c.reason == "")
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(removals).where(*on_its_way)) or 0

    def arm(self, limit: int, *, max_countdown: timedelta, patience: timedelta) -> list[Planned]:
        """Take up to `limit` removals that come due within `max_countdown` and have no message on its way; each counts as sent.

        What something was found to keep comes last. It is sent again where it is still open `patience` after it came due.
        """
        now_sql = self._database.now_sql
        unarmed = sa.or_(removals.c.armed_until.is_(None), removals.c.armed_until <= now_sql)
        query = (
            _select()
            .add_columns(files.c.storage, files.c.key, versions.c.number)
            .join(files, files.c.id == removals.c.file_id, isouter=True)
            .join(versions, versions.c.id == removals.c.version_id, isouter=True)
            .where(removals.c.open.is_(True), removals.c.due_at <= self._database.later_sql(max_countdown), unarmed, ~_BRAKED)
            .order_by(removals.c.reason != "", removals.c.due_at, removals.c.id)
            .limit(limit)
        )
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(now_sql))
            assert isinstance(now, datetime)
            taken = [_planned_of(row) for row in connection.execute(query)]
            for planned in taken:
                until = max(planned.removal.due_at, now) + patience
                connection.execute(sa.update(removals).where(removals.c.id == planned.removal.id).values(armed_until=until))
        return taken

    def waits_to_be_sent(self, max_countdown: timedelta) -> bool:
        """Whether `arm` would find anything."""
        now = self._database.now_sql
        unarmed = sa.or_(removals.c.armed_until.is_(None), removals.c.armed_until <= now)
        due = (removals.c.open.is_(True), removals.c.due_at <= self._database.later_sql(max_countdown), unarmed, ~_BRAKED)
        with self._database.reading() as connection:
            return connection.scalar(sa.select(removals.c.id).where(*due).limit(1)) is not None

    def postpone(self, removal_id: int, due_at: datetime) -> None:
        """It is due later than it was thought to be, and has no message on its way."""
        with self._database.writing() as connection:
            connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(due_at=due_at, armed_until=None))

    def note_armed(self, removal_id: int, until: datetime) -> None:
        """A message is on its way."""
        with self._database.writing() as connection:
            connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(armed_until=until))

    def disarm(self, removal_ids: Iterable[int]) -> None:
        """No message is on its way: the next poll may send one."""
        with self._database.writing() as connection:
            for batch in in_batches(list(removal_ids)):
                connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(armed_until=None))

    def disarm_all(self) -> None:
        """What keeps removals back has changed: look at all that are due at the next poll."""
        with self._database.writing() as connection:
            due = (removals.c.open.is_(True), removals.c.due_at <= self._database.now_sql)
            connection.execute(sa.update(removals).where(*due).values(armed_until=None))

    # Carrying out

    def of_delete(self, delete_id: str) -> Removal | None:
        """The removal of this row of the delete log."""
        return self._one(removals.c.delete_id == delete_id)

    def of_version(self, version_id: int) -> Removal | None:
        """The open removal of this version alone."""
        return self._one(removals.c.version_id == version_id, removals.c.open.is_(True))

    def _one(self, *where: sa.ColumnElement[bool]) -> Removal | None:
        with self._database.reading() as connection:
            row = connection.execute(_select().where(*where)).first()
        return _removal_of(row) if row else None

    def carry_out(
        self, removal_id: int, judge: Callable[[Removal, list[Version], list[Hold], datetime], Verdict]
    ) -> tuple[list[Version], Verdict] | None:
        """Ask `judge` with everything that matters, unchanging meanwhile, and record what it says, durably: bytes go afterwards.

        Gives the versions whose bytes have to go, and the verdict; None where the removal is over already.
        """
        with self._database.writing(durable=True) as connection:
            # The file first, as an intake has it: two removals of one file would wait for each other for ever.
            ours = removals.c.id == removal_id
            of_file = sa.select(removals.c.file_id).where(ours).scalar_subquery()
            connection.execute(sa.select(files.c.id).where(files.c.id == of_file).with_for_update())
            connection.execute(sa.select(removals.c.id).where(ours).with_for_update())
            # Locked first and read afterwards: a brake that was pulled while this waited for the lock shows then.
            row = connection.execute(_select().where(ours)).first()
            removal = _removal_of(row) if row else None
            if removal is None or not removal.open:
                return None
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            query = select_versions().where(versions.c.file_id == removal.file_id).with_for_update(of=versions)
            listed = [version_of(version) for version in connection.execute(query)]
            verdict = judge(removal, listed, holds_in(connection), now)
            for version_id, reason in verdict.gone.items():
                self._record_pruned(connection, version_id, reason)
            if verdict.kept:
                values = {"reason": verdict.kept, "armed_until": verdict.look_again_at}
                connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(**values))
            else:
                close(self._database, connection, [removal_id], "done", "; ".join(sorted(set(verdict.gone.values()))))
            gone = [version for version in listed if version.id in verdict.gone]
        return gone, verdict

    def _record_pruned(self, connection: sa.Connection, version_id: int, reason: str) -> None:
        connection.execute(
            sa.update(versions)
            .where(versions.c.id == version_id)
            .values(
                state=VersionState.PRUNED.value,
                reason=reason,
                due_at=None,
                lease_until=None,
                holder=None,
                # A worker that slept through its lease may record nothing any more.
                fence=versions.c.fence + 1,
                leftover=True,
                pruned_at=self._database.now_sql,
            )
        )
        own = (removals.c.version_id == version_id, removals.c.open.is_(True))
        close(self._database, connection, connection.scalars(sa.select(removals.c.id).where(*own)).all(), "done", reason)

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

    # Trash

    def in_trash(self, *, file_id: int | None = None, over: bool = False, limit: int = REMOVALS_PAGE) -> list[Version]:
        """Versions whose copy lies in the trash: of one file, or (`over`) those whose time there is over."""
        query = select_versions().where(versions.c.trash_until.is_not(None)).order_by(versions.c.trash_until).limit(limit)
        if file_id is not None:
            query = query.where(versions.c.file_id == file_id)
        if over:
            query = query.where(versions.c.trash_until <= self._database.now_sql)
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def out_of_trash(self, version: Version, written: Written | None = None) -> None:
        """The copy is out of the trash: back at its place, as it was read there (`written`), or removed for good (None)."""
        values: dict[str, Any] = {"trash_name": None, "trash_until": None}
        if written is not None:
            values |= {
                "state": VersionState.STORED.value,
                "reason": "",
                "pruned_at": None,
                "size": written.size,
                "stored_size": written.stored_size,
                "stored_sha256": written.stored_sha256,
                "stored_at": written.stored_at,
                "verified_at": self._database.now_sql,
            }
        with self._database.writing() as connection:
            connection.execute(sa.update(versions).where(versions.c.id == version.id).values(**values))

    def deletes_of_file(self, file_id: int) -> list[Removal]:
        """The deletes that speak of this file now: open, or carried out."""
        ours = (removals.c.file_id == file_id, removals.c.kind == RemovalKind.DELETED.value, removals.c.outcome.in_(_IN_FORCE))
        with self._database.reading() as connection:
            return [_removal_of(row) for row in connection.execute(_select().where(*ours))]

    # Looking

    def about(self, page: list[Version]) -> list[Removal]:
        """Every removal that there ever was of these versions (at most `BATCH`) and of their files, oldest first."""
        of_version = removals.c.version_id.in_([version.id for version in page])
        of_file = removals.c.version_id.is_(None) & removals.c.file_id.in_({version.file_id for version in page})
        with self._database.reading() as connection:
            return [_removal_of(row) for row in connection.execute(_select().where(of_version | of_file).order_by(removals.c.id))]

    def planned(self, *, storage: str | None = None, prefix: str | None = None) -> Iterator[Planned]:
        """All open removals, those that are due first in front, page by page."""
        query = (
            _select()
            .add_columns(files.c.storage, files.c.key, versions.c.number)
            .join(files, files.c.id == removals.c.file_id, isouter=True)
            .join(versions, versions.c.id == removals.c.version_id, isouter=True)
            .where(removals.c.open.is_(True))
            .order_by(removals.c.due_at, removals.c.id)
            .limit(REMOVALS_PAGE)
        )
        if storage is not None:
            query = query.where(files.c.storage == storage)
        if prefix is not None:
            query = query.where(files.c.key.startswith(prefix, autoescape=True))
        page: list[Planned] = []
        while True:
            following = query
            if page:
                last = page[-1].removal
                later = sa.or_(removals.c.due_at > last.due_at, sa.and_(removals.c.due_at == last.due_at, removals.c.id > last.id))
                following = query.where(later)
            with self._database.reading() as connection:
                page = [_planned_of(row) for row in connection.execute(following)]
            yield from page
            if len(page) < REMOVALS_PAGE:
                return

    def rejected(self) -> Iterator[Planned]:
        """Deletes that a person has taken back, page by page: their rows may still be in the delete log."""
        query = (
            _select()
            .add_columns(files.c.storage, files.c.key, sa.null().label("number"))
            .join(files, files.c.id == removals.c.file_id)
            .where(removals.c.outcome == "rejected", removals.c.kind == RemovalKind.DELETED.value)
            .order_by(removals.c.id)
            .limit(REMOVALS_PAGE)
        )
        last = 0
        while True:
            with self._database.reading() as connection:
                page = [_planned_of(row) for row in connection.execute(query.where(removals.c.id > last))]
            yield from page
            if len(page) < REMOVALS_PAGE:
                return
            last = page[-1].removal.id

    def fingerprint(self) -> str:
        """Changes when an open removal or a hold does."""
        listed = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(removals.c.id), 0),
            sa.func.coalesce(sa.func.sum(sa.type_coerce(removals.c.due_at, sa.BigInteger)), 0),
            sa.func.count(removals.c.file_id),
        ).where(removals.c.open.is_(True))
        with self._database.reading() as connection:
            counted = [int(value) for value in connection.execute(listed).one()]
            return json.dumps([counted, [repr(hold) for hold in holds_in(connection)]])

    def count_open(self) -> tuple[int, int]:
        """How many removals wait, and how many of them a brake holds."""
        with self._database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(removals).where(removals.c.open.is_(True))
            return connection.scalar(query) or 0, connection.scalar(query.where(_BRAKED)) or 0

    def count_overdue(self, by: timedelta) -> int:
        """How many removals are overdue by more than `by`, with nothing known that keeps them."""
        query = (
            sa.select(sa.func.count())
            .select_from(removals)
            .where(removals.c.open.is_(True), removals.c.due_at < self._database.later_sql(-by), ~_BRAKED, removals.c.reason == "")
        )
        with self._database.reading() as connection:
            return connection.scalar(query) or 0


def close(database: Database, connection: sa.Connection, ids: Iterable[int], outcome: str, reason: str) -> None:
    """End these removals, in the caller's transaction: what they cover is deleted only as far as others say."""
    for batch in in_batches(list(ids)):
        values = {"open": False, "outcome": outcome, "reason": reason, "closed_at": database.now_sql, "armed_until": None}
        connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(**values))
        listed = connection.execute(sa.select(removals.c.file_id, removals.c.version_id).where(removals.c.id.in_(batch))).all()
        _mark_deleted(connection, [row.file_id for row in listed])
        if outcome != "rejected":  # what a person wants kept gets no other removal
            freed = [row.version_id for row in listed if row.version_id is not None]
            connection.execute(sa.update(versions).where(versions.c.id.in_(freed)).values(scheduled=False))


def _planned_of(row: Any) -> Planned:
    return Planned(removal=_removal_of(row), storage=row.storage, key=row.key, number=row.number)


def _in_force(version_columns: Any) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        removals.c.kind == RemovalKind.DELETED.value,
        removals.c.outcome.in_(_IN_FORCE),
        removals.c.file_id == version_columns.file_id,
        removals.c.through >= version_columns.number,
    )


def _mark_deleted(connection: sa.Connection, file_ids: Iterable[int | None]) -> None:
    """Say of every version of these files whether a delete that stands covers it."""
    for batch in in_batches(sorted({file_id for file_id in file_ids if file_id is not None})):
        connection.execute(sa.update(versions).where(versions.c.file_id.in_(batch)).values(deleted=_in_force(versions.c)))


def cover_late_versions(connection: sa.Connection, file_ids: list[int], now: datetime, grace: timedelta) -> None:
    """New versions of these files that a delete covers already are deleted too; one that was carried out has to go on."""
    _mark_deleted(connection, file_ids)
    left = sa.exists().where(
        versions.c.file_id == removals.c.file_id,
        versions.c.number <= removals.c.through,
        versions.c.state != VersionState.PRUNED.value,
    )
    for batch in in_batches(file_ids):
        done = (removals.c.file_id.in_(batch), removals.c.kind == RemovalKind.DELETED.value, removals.c.outcome == "done")
        again = {"open": True, "outcome": "", "reason": "", "due_at": now + grace, "closed_at": None, "armed_until": None}
        connection.execute(sa.update(removals).where(*done, left).values(**again))
