"""What is to go and when: deletes that were seen, and copies that were replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, begins_with, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import brakes, covers, files, removals, rows, versions
from cbk.edges.catalog.database.transitions import FREE, move, refresh_versions
from cbk.edges.catalog.intake.rows import DELETES_STREAM, count_rows, number_in, uncover
from cbk.edges.catalog.retention.holds import holds_in
from cbk.errors import CatalogUnavailable
from cbk.model import BrakeState, Hold, Removal, RemovalKind, RemovalOutcome, Version
from cbk.rules.lifecycle import REMOVAL_OUTCOMES, StateEvent
from cbk.rules.retention.coverage import Coverage

REMOVALS_PAGE = 1000
# So many numbers of removals are one segment of the journal, which is written as a whole.
JOURNAL_SEGMENT = 250
IN_FORCE = tuple(outcome.value for outcome in RemovalOutcome if outcome.in_force)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelete:
    """A row of the delete log that was not known; `coverage` is None where it names no row that the kit knows."""

    delete_id: str
    row_id: str
    deleted_at: str | None = None
    coverage: Coverage | None = None
    file_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `carry_out` is to do: versions that go, each with its reason; and, where something stays, why and when to look again.

    `outcome` is how the removal ends where nothing stays.
    """

    gone: dict[int, str] = field(default_factory=dict)
    kept: str = ""
    look_again_at: datetime | None = None
    outcome: RemovalOutcome = RemovalOutcome.DONE


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


# Those whose grace runs or is over, of files that the kit knows.
_WAITS = sa.and_(removals.c.open.is_(True), removals.c.due_at.is_not(None), removals.c.file_id.is_not(None))
_TAKEN_BACK = sa.and_(
    removals.c.outcome == RemovalOutcome.REJECTED.value,
    removals.c.kind == RemovalKind.DELETED.value,
    removals.c.delete_id.is_not(None),
)
BRAKED = sa.exists().where(brakes.c.id == removals.c.brake_id, brakes.c.state == BrakeState.HELD.value)
_COLUMNS = (*(column for column in removals.c if column.name in Removal.__dataclass_fields__), BRAKED.label("braked"))


def removal_of(row: Any) -> Removal:
    """A `Removal` from a row of `select_removals`."""
    values = {column.name: row._mapping[column] for column in _COLUMNS}  # noqa: SLF001 - SQLAlchemy's documented name
    return Removal(**values | {"kind": RemovalKind(values["kind"]), "outcome": RemovalOutcome(values["outcome"])})


def select_removals() -> sa.Select[Any]:
    """Removals: what `removal_of` reads."""
    return sa.select(*_COLUMNS)


def with_covered(connection: sa.Connection, listed: Sequence[Removal]) -> list[Removal]:
    """These removals with the versions that each is about."""
    covered: dict[int, set[int]] = defaultdict(set)
    for batch in in_batches([removal.id for removal in listed]):
        query = sa.select(covers.c.removal_id, rows.c.version_id).join_from(covers, rows)
        for row in connection.execute(query.where(covers.c.removal_id.in_(batch), rows.c.version_id.is_not(None))):
            covered[row.removal_id].add(row.version_id)
    for removal in listed:
        if removal.version_id is not None:
            covered[removal.id].add(removal.version_id)
    return [replace(removal, covered=frozenset(covered[removal.id])) for removal in listed]


def _with_beside(connection: sa.Connection, removal: Removal) -> Removal:
    """The removal with the other open deletes that cover rows of its versions."""
    query = select_removals().add_columns(rows.c.version_id.label("of_version"))
    query = query.join(covers, covers.c.removal_id == removals.c.id).join(rows, rows.c.id == covers.c.row_id)
    query = query.where(removals.c.open.is_(True), removals.c.id != removal.id).distinct()
    beside: list[tuple[int, Removal]] = []
    for batch in in_batches(sorted(removal.covered)):
        found = connection.execute(query.where(rows.c.version_id.in_(batch)))
        beside += [(row.of_version, removal_of(row)) for row in found]
    return replace(removal, beside=tuple(beside))


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
                for row in connection.execute(select_removals().where(removals.c.delete_id.in_(batch))):
                    found[row.delete_id] = removal_of(row)
        return found

    def record(self, deletes: Iterable[NewDelete], grace: timedelta, poll: int) -> set[int]:
        """Note deletes that are seen for the first time, or that say another thing now: their grace runs from now.

        One whose meaning is in doubt is held until a person has decided. Returns the files in which another version may be wanted
        now. Raises CatalogUnavailable where another process noted the same one in between: it is known next time.
        """
        listed = list({delete.delete_id: delete for delete in deletes}.values())
        changed: set[int] = set()
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                for batch in in_batches(listed):
                    changed |= self._record_batch(connection, batch, now, grace, poll)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process noted the same deletes at the same time") from error
        return changed

    def _record_batch(
        self, connection: sa.Connection, batch: list[NewDelete], now: datetime, grace: timedelta, poll: int
    ) -> set[int]:
        known = removals.c.delete_id.in_([delete.delete_id for delete in batch])
        before = connection.execute(sa.select(removals.c.id, removals.c.delete_id).where(known).with_for_update()).all()
        changed = forget_log_rows(self._database, connection, [row.id for row in before], "its delete-log row is another one now")
        connection.execute(
            sa.insert(removals),
            [
                {
                    "kind": RemovalKind.DELETED.value,
                    "delete_id": delete.delete_id,
                    "row_id": delete.row_id,
                    "deleted_at": delete.deleted_at,
                    "poll": poll,
                    "first_seen_at": now,
                    "open": True,
                }
                for delete in batch
            ],
        )
        count_rows(connection, DELETES_STREAM, len(batch), sum(number_in(delete.delete_id) for delete in batch))
        made = {row.delete_id: row.id for row in connection.execute(sa.select(removals.c.id, removals.c.delete_id).where(known))}
        bound = [(made[delete.delete_id], delete.coverage) for delete in batch if delete.coverage is not None]
        return changed | self._bind(connection, bound, now + grace)

    def bind(self, found: Iterable[tuple[int, Coverage]], *, grace: timedelta | None) -> set[int]:
        """The rows that deletes name have become known: what each covers. Its `grace` runs from now (None: as it was noted)."""
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            return self._bind(connection, list(found), None if grace is None else now + grace)

    def _bind(self, connection: sa.Connection, bound: list[tuple[int, Coverage]], due_at: datetime | None) -> set[int]:
        if not bound:
            return set()
        for removal_id, coverage in bound:
            named = coverage.named
            values: dict[str, Any] = {"file_id": named.file_id, "through": named.number, "keeps_newer": coverage.keeps_newer}
            values |= {} if due_at is None else {"due_at": due_at}
            connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(**values))
        pairs = [{"removal_id": removal_id, "row_id": row_id} for removal_id, coverage in bound for row_id in sorted(coverage.rows)]
        connection.execute(sa.insert(covers), pairs)
        in_doubt = [(removal_id, coverage.doubt) for removal_id, coverage in bound if coverage.doubt]
        if in_doubt:
            more = f" (and {len(in_doubt) - 1} more like it)" if len(in_doubt) > 1 else ""
            hold_back(self._database, connection, [removal_id for removal_id, _ in in_doubt], in_doubt[0][1] + more, counted=0)
        touched: set[int] = set()
        for batch in in_batches(sorted({row_id for _, coverage in bound for row_id in coverage.rows})):
            query = sa.select(rows.c.version_id).where(rows.c.id.in_(batch), rows.c.version_id.is_not(None))
            touched |= set(connection.scalars(query))
        return refresh_versions(self._database, connection, touched)

    def rows_covered_by(self, removal_ids: Sequence[int]) -> dict[int, frozenset[int]]:
        """The rows, by the catalog's own ids, that each of these deletes covers."""
        found: dict[int, set[int]] = {removal_id: set() for removal_id in removal_ids}
        with self._database.reading() as connection:
            for batch in in_batches(list(found)):
                for removal_id, row_id in connection.execute(sa.select(covers).where(covers.c.removal_id.in_(batch))):
                    found[removal_id].add(row_id)
        return {removal_id: frozenset(row_ids) for removal_id, row_ids in found.items()}

    def without_coverage(self, listed: Sequence[Removal]) -> list[Removal]:
        """Those of these deletes that cover no row, as far as the catalog knows."""
        with self._database.reading() as connection:
            covering: set[int] = set()
            for batch in in_batches([removal.id for removal in listed]):
                covering |= set(connection.scalars(sa.select(covers.c.removal_id).where(covers.c.removal_id.in_(batch)).distinct()))
        return [removal for removal in listed if removal.id not in covering]

    def withdraw(self, removal_id: int, *, outcome: RemovalOutcome, reason: str) -> set[int]:
        """End a removal without removing anything; what it covers is live again. Returns the files that this changes."""
        with self._database.writing() as connection:
            return close(self._database, connection, [removal_id], outcome, reason)

    def forget_log_rows(self, removal_ids: Sequence[int]) -> set[int]:
        """The delete-log rows of these removals are gone: they are taken back, also what was carried out."""
        with self._database.writing() as connection:
            return forget_log_rows(self._database, connection, removal_ids, "its delete-log row is gone")

    def log_rows_after(self, removal_id: int, limit: int) -> list[tuple[int, str]]:
        """The next delete-log rows that are there as far as is known, as (removal, Id), in the order of the removals."""
        query = sa.select(removals.c.id, removals.c.delete_id).where(removals.c.id > removal_id, removals.c.delete_id.is_not(None))
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(removals.c.id).limit(limit))
            return [(row.id, row.delete_id) for row in found]

    def next_to_check(self, limit: int) -> list[Removal]:
        """Open deletes, longest unchecked first; they count as checked now."""
        query = (
            select_removals()
            .where(removals.c.open.is_(True), removals.c.kind == RemovalKind.DELETED.value)
            .order_by(removals.c.checked_at.asc().nulls_first())
            .limit(limit)
        )
        with self._database.writing() as connection:
            found = [removal_of(row) for row in connection.execute(query)]
            for batch in in_batches([removal.id for removal in found]):
                connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(checked_at=self._database.now_sql))
        return found

    def clamp_future_times(self, grace: timedelta, longest_wait: timedelta) -> None:
        """What was noted while a clock was ahead: a grace begins now, and no message is on its way for longer than any may be."""
        with self._database.writing() as connection:
            ahead = (removals.c.open.is_(True), removals.c.first_seen_at > self._database.later_sql(timedelta(minutes=1)))
            later = sa.case((removals.c.due_at.is_not(None), self._database.later_sql(grace)), else_=None)
            again = {"first_seen_at": self._database.now_sql, "due_at": later, "armed_until": None}
            connection.execute(sa.update(removals).where(*ahead).values(**again))
            far = (removals.c.open.is_(True), removals.c.armed_until > self._database.later_sql(longest_wait))
            connection.execute(sa.update(removals).where(*far).values(armed_until=None))

    def shift(self, by: timedelta) -> None:
        """The clock was put forward by so much: what was noted before waits as much longer by the new one."""
        milliseconds = by // timedelta(milliseconds=1)
        with self._database.writing() as connection:
            for column in (removals.c.first_seen_at, removals.c.due_at):
                moved = sa.type_coerce(sa.type_coerce(column, sa.BigInteger) + milliseconds, column.type)
                connection.execute(
                    sa.update(removals).where(removals.c.open.is_(True), column.is_not(None)).values({column.name: moved})
                )
            connection.execute(sa.update(removals).where(removals.c.open.is_(True)).values(armed_until=None))

    # Replaced copies

    def files_with_older_copies(self, limit: int) -> list[int]:
        """Files with a stored version that is not their newest and about which nothing is decided, longest unchecked first."""
        older = (
            versions.c.state == "stored",
            versions.c.newest.is_(False),
            versions.c.scheduled.is_(False),
            versions.c.kept.is_(False),
            versions.c.deleted.is_(False),
        )
        query = sa.select(versions.c.id, versions.c.file_id).where(*older).order_by(versions.c.checked_at.asc().nulls_first())
        with self._database.writing() as connection:
            found = connection.execute(query.limit(limit)).all()
            for batch in in_batches([row.id for row in found]):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(checked_at=self._database.now_sql))
        return sorted({row.file_id for row in found})

    def schedule(self, replaced: Iterable[Version], kept: Iterable[Version], grace: timedelta, poll: int) -> None:
        """`replaced` copies have a grace that runs from now; `kept` ones stay until something about their file changes."""
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            for batch in in_batches([version.id for version in kept]):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(kept=True))
            for version in replaced:
                marked = sa.update(versions).where(versions.c.id == version.id, versions.c.scheduled.is_(False))
                if connection.execute(marked.values(scheduled=True)).rowcount:
                    connection.execute(
                        sa.insert(removals).values(
                            kind=RemovalKind.REPLACED.value,
                            file_id=version.file_id,
                            version_id=version.id,
                            poll=poll,
                            first_seen_at=now,
                            due_at=now + grace,
                            open=True,
                        )
                    )

    def look_at_kept_again(self) -> None:
        """CBK_KEEP_VERSIONS has changed: what stays of older copies is to be decided anew."""
        with self._database.writing() as connection:
            connection.execute(sa.update(versions).where(versions.c.kept.is_(True)).values(kept=False))

    # Sending

    def armed(self) -> int:
        """How many messages are on their way, but for those about what something keeps: they must not keep others waiting."""
        on_its_way = (removals.c.open.is_(True), removals.c.armed_until > self._database.now_sql, removals.c.reason == "")
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(removals).where(*on_its_way)) or 0

    def arm(self, limit: int, *, max_countdown: timedelta, patience: timedelta, read_in: int) -> list[Planned]:
        """Take up to `limit` removals that come due within `max_countdown` and have no message on its way; each counts as sent.

        Only those that were noted before the poll `read_in`, which read every row. What something was found to keep comes last. It
        is sent again where it is still open `patience` after it came due.
        """
        query = (
            select_removals()
            .add_columns(files.c.storage, files.c.key, versions.c.number)
            .join(files, files.c.id == removals.c.file_id, isouter=True)
            .join(versions, versions.c.id == removals.c.version_id, isouter=True)
            .where(*self._unarmed(max_countdown), removals.c.poll < read_in)
            .order_by(removals.c.reason != "", removals.c.due_at, removals.c.id)
            .limit(limit)
        )
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            taken = [planned_of(row) for row in connection.execute(query)]
            for planned in taken:
                until = max(planned.removal.due_at or now, now) + patience
                connection.execute(sa.update(removals).where(removals.c.id == planned.removal.id).values(armed_until=until))
        return taken

    def waits_to_be_sent(self, max_countdown: timedelta, read_in: int) -> bool:
        """Whether `arm` would find anything."""
        with self._database.reading() as connection:
            due = (*self._unarmed(max_countdown), removals.c.poll < read_in)
            return connection.scalar(sa.select(removals.c.id).where(*due).limit(1)) is not None

    def waits_for_read(self, within: timedelta, read_in: int) -> bool:
        """Whether something comes due within that time for which every row has to be read once more, since it was noted."""
        due = (removals.c.open.is_(True), removals.c.due_at <= self._database.later_sql(within), ~BRAKED)
        with self._database.reading() as connection:
            return connection.scalar(sa.select(removals.c.id).where(*due, removals.c.poll >= read_in).limit(1)) is not None

    def _unarmed(self, max_countdown: timedelta) -> tuple[sa.ColumnElement[bool], ...]:
        now = self._database.now_sql
        unarmed = sa.or_(removals.c.armed_until.is_(None), removals.c.armed_until <= now)
        return removals.c.open.is_(True), removals.c.due_at <= self._database.later_sql(max_countdown), unarmed, ~BRAKED

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
            row = connection.execute(select_removals().where(*where)).first()
            return with_covered(connection, [removal_of(row)])[0] if row else None

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
            row = connection.execute(select_removals().where(ours)).first()
            if row is None or not row.open:
                return None
            removal = _with_beside(connection, with_covered(connection, [removal_of(row)])[0])
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            query = select_versions().where(versions.c.file_id == removal.file_id).with_for_update(of=versions)
            listed = [version_of(version) for version in connection.execute(query)]
            verdict = judge(removal, listed, holds_in(connection), now)
            for version_id, reason in verdict.gone.items():
                self._record_pruned(connection, version_id, reason, by_person=removal.brake_id is not None)
            if verdict.kept:
                values = {"reason": verdict.kept, "armed_until": verdict.look_again_at}
                connection.execute(sa.update(removals).where(removals.c.id == removal_id).values(**values))
            else:
                reason = "; ".join(sorted(set(verdict.gone.values())))
                close(self._database, connection, [removal_id], verdict.outcome, reason)
            gone = [version for version in listed if version.id in verdict.gone]
        return gone, verdict

    def _record_pruned(self, connection: sa.Connection, version_id: int, reason: str, *, by_person: bool) -> None:
        # A worker that slept through its lease may record nothing any more.
        values: dict[str, Any] = {
            "reason": reason,
            "due_at": None,
            "fence": versions.c.fence + 1,
            "leftover": True,
            "approved": by_person,
            # One that was pruned before is as old as its row, not as the copy that came since: the brake goes by that.
            "stored_at": sa.case((versions.c.pruned_at.is_(None), versions.c.stored_at), else_=versions.c.first_seen_at),
        }
        move(connection, StateEvent.PRUNED, versions.c.id == version_id, pruned_at=self._database.now_sql, **values, **FREE)
        own = (removals.c.version_id == version_id, removals.c.open.is_(True))
        closed = list(connection.scalars(sa.select(removals.c.id).where(*own)))
        close(self._database, connection, closed, RemovalOutcome.DONE, reason)

    def covered_rows(self, listed: Sequence[Removal]) -> dict[int, list[tuple[str, int, str]]]:
        """The rows that each of these deletes covers, as (Id, Version, SHA-256): what the journal keeps of them."""
        found: dict[int, list[tuple[str, int, str]]] = defaultdict(list)
        columns = (covers.c.removal_id, rows.c.source_id, versions.c.number, versions.c.sha256)
        query = sa.select(*columns).join_from(covers, rows).join(versions, versions.c.id == rows.c.version_id)
        with self._database.reading() as connection:
            for batch in in_batches([removal.id for removal in listed]):
                for removal_id, *row in connection.execute(query.where(covers.c.removal_id.in_(batch)).order_by(rows.c.id)):
                    found[removal_id].append((row[0], row[1], row[2]))
        return found

    def deletes_of_file(self, file_id: int) -> list[Removal]:
        """The deletes that speak of this file now: open, or carried out."""
        ours = (removals.c.file_id == file_id, removals.c.kind == RemovalKind.DELETED.value, removals.c.outcome.in_(IN_FORCE))
        with self._database.reading() as connection:
            return [removal_of(row) for row in connection.execute(select_removals().where(*ours))]

    # Looking

    def about(self, page: list[Version]) -> list[Removal]:
        """Every removal that there ever was of these versions (at most `BATCH`) and of their files, oldest first."""
        of_version = removals.c.version_id.in_([version.id for version in page])
        of_file = removals.c.version_id.is_(None) & removals.c.file_id.in_({version.file_id for version in page})
        with self._database.reading() as connection:
            query = select_removals().where(of_version | of_file).order_by(removals.c.id)
            found = with_covered(connection, [removal_of(row) for row in connection.execute(query)])
        return [removal if removal.covered else _as_it_was(removal, page) for removal in found]

    def planned(self, *, storage: str | None = None, prefix: str | None = None) -> Iterator[Planned]:
        """All open removals that a row is known for, those that are due first in front, page by page."""
        query = (
            select_removals()
            .add_columns(files.c.storage, files.c.key, versions.c.number)
            .join(files, files.c.id == removals.c.file_id, isouter=True)
            .join(versions, versions.c.id == removals.c.version_id, isouter=True)
            .where(removals.c.open.is_(True), removals.c.due_at.is_not(None))
            .order_by(removals.c.due_at, removals.c.id)
            .limit(REMOVALS_PAGE)
        )
        if storage is not None:
            query = query.where(files.c.storage == storage)
        if prefix is not None:
            query = query.where(begins_with(files.c.key, prefix))
        page: list[Planned] = []
        while True:
            following = query
            if page:
                last = page[-1].removal
                later = sa.or_(removals.c.due_at > last.due_at, sa.and_(removals.c.due_at == last.due_at, removals.c.id > last.id))
                following = query.where(later)
            with self._database.reading() as connection:
                page = _with_covered(connection, [planned_of(row) for row in connection.execute(following)])
            yield from page
            if len(page) < REMOVALS_PAGE:
                return

    def unbound(self, limit: int) -> list[Removal]:
        """Open deletes that name no row that the kit knows."""
        query = select_removals().where(removals.c.open.is_(True), removals.c.due_at.is_(None)).order_by(removals.c.id).limit(limit)
        with self._database.reading() as connection:
            return [removal_of(row) for row in connection.execute(query)]

    def journalled(self, segment: int | None = None) -> Iterator[Planned]:
        """What the journal keeps, of one segment of removals or of all, page by page: those whose grace runs or is over, and the
        deletes that a person has taken back, whose rows may still be in the delete log; of files that the kit knows.
        """
        query = (
            select_removals()
            .add_columns(files.c.storage, files.c.key, versions.c.number)
            .join(files, files.c.id == removals.c.file_id)
            .join(versions, versions.c.id == removals.c.version_id, isouter=True)
            .where(_WAITS | _TAKEN_BACK)
            .order_by(removals.c.id)
            .limit(REMOVALS_PAGE)
        )
        last = 0
        if segment is not None:
            last = segment * JOURNAL_SEGMENT - 1
            query = query.where(removals.c.id < (segment + 1) * JOURNAL_SEGMENT)
        while True:
            with self._database.reading() as connection:
                page = [planned_of(row) for row in connection.execute(query.where(removals.c.id > last))]
            yield from page
            if len(page) < REMOVALS_PAGE:
                return
            last = page[-1].removal.id

    def journal_fingerprints(self) -> dict[int, str]:
        """By segment of removals: what changes if one of those does that wait there."""
        segment = (removals.c.id // JOURNAL_SEGMENT).label("segment")
        instants = [sa.type_coerce(column, sa.BigInteger) for column in (removals.c.due_at, removals.c.first_seen_at)]
        is_open = sa.case((removals.c.open.is_(True), 1), else_=0)
        sums = [sa.func.coalesce(sa.func.sum(value), 0) for value in (removals.c.id, *instants, is_open)]
        query = sa.select(segment, sa.func.count(), *sums).where(_WAITS).group_by(segment)
        with self._database.reading() as connection:
            return {int(row[0]): " ".join(str(int(value)) for value in row[1:]) for row in connection.execute(query)}

    def count_open(self) -> tuple[int, int]:
        """How many removals wait, and how many of them a brake holds."""
        with self._database.reading() as connection:
            query = (
                sa.select(sa.func.count()).select_from(removals).where(removals.c.open.is_(True), removals.c.due_at.is_not(None))
            )
            return connection.scalar(query) or 0, connection.scalar(query.where(BRAKED)) or 0

    def count_partial(self) -> int:
        """How many deletes that wait name an older version than the file's newest live one, which they keep."""
        partial = (removals.c.open.is_(True), removals.c.keeps_newer.is_not(None))
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(removals).where(*partial)) or 0

    def count_overdue(self, by: timedelta) -> int:
        """How many removals are overdue by more than `by`, with nothing known that keeps them."""
        query = (
            sa.select(sa.func.count())
            .select_from(removals)
            .where(removals.c.open.is_(True), removals.c.due_at < self._database.later_sql(-by), ~BRAKED, removals.c.reason == "")
        )
        with self._database.reading() as connection:
            return connection.scalar(query) or 0


def close(database: Database, connection: sa.Connection, ids: Iterable[int], outcome: RemovalOutcome, reason: str) -> set[int]:
    """End these removals, in the caller's transaction; what they covered is live again unless the outcome is in force.

    One that has ended already ends differently only as `rules.lifecycle` allows. Returns the files that this changes.
    """
    before = [source.value for source, targets in REMOVAL_OUTCOMES.items() if outcome in targets]
    changed: set[int] = set()
    for batch in in_batches(sorted(ids)):
        ours = (removals.c.id.in_(batch), removals.c.outcome.in_(before))
        listed = connection.execute(sa.select(removals.c.id, removals.c.version_id).where(*ours).with_for_update()).all()
        closing = [row.id for row in listed]
        values = {"open": False, "outcome": outcome.value, "closed_at": database.now_sql, "armed_until": None}
        values |= {"reason": reason} if reason else {}
        connection.execute(sa.update(removals).where(removals.c.id.in_(closing)).values(**values))
        if outcome is not RemovalOutcome.REJECTED:  # what a person wants kept gets no other removal
            freed = [row.version_id for row in listed if row.version_id is not None]
            connection.execute(sa.update(versions).where(versions.c.id.in_(freed)).values(scheduled=False))
        if not outcome.in_force:
            changed |= refresh_versions(database, connection, uncover(connection, closing))
    held = brakes.c.state == BrakeState.HELD.value
    holds_something = sa.exists().where(removals.c.brake_id == brakes.c.id, removals.c.open.is_(True))
    ended = {"state": BrakeState.ENDED.value, "decided_at": database.now_sql}
    connection.execute(sa.update(brakes).where(held, ~holds_something).values(**ended))
    return changed


def forget_log_rows(database: Database, connection: sa.Connection, ids: Sequence[int], reason: str) -> set[int]:
    """The delete-log rows of these removals are gone, in the caller's transaction."""
    changed: set[int] = set()
    for batch in in_batches(sorted(ids)):
        query = sa.select(removals.c.delete_id).where(removals.c.id.in_(batch), removals.c.delete_id.is_not(None))
        names = list(connection.scalars(query.with_for_update()))
        changed |= close(database, connection, batch, RemovalOutcome.TAKEN_BACK, reason)
        # Its Id may be another row's one day.
        connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(delete_id=None))
        count_rows(connection, DELETES_STREAM, -len(names), -sum(number_in(name) for name in names))
    return changed


def hold_back(database: Database, connection: sa.Connection, ids: Sequence[int], reason: str, *, counted: int) -> int:
    """A brake that holds these removals until a person has decided; gives its number. In the caller's transaction."""
    values = {"pulled_at": database.now_sql, "stored_files": counted, "reason": reason, "state": BrakeState.HELD.value}
    inserted = connection.execute(sa.insert(brakes).values(**values)).inserted_primary_key
    assert inserted is not None
    brake_id: int = inserted[0]
    for batch in in_batches(list(ids)):
        connection.execute(sa.update(removals).where(removals.c.id.in_(batch)).values(brake_id=brake_id, armed_until=None))
    return brake_id


def planned_of(row: Any) -> Planned:
    """A `Planned` from a row of `select_removals` and the file's names."""
    return Planned(removal=removal_of(row), storage=row.storage, key=row.key, number=row.number)


def _with_covered(connection: sa.Connection, page: list[Planned]) -> list[Planned]:
    covered = with_covered(connection, [planned.removal for planned in page])
    return [replace(planned, removal=removal) for planned, removal in zip(page, covered, strict=True)]


def _as_it_was(removal: Removal, page: list[Version]) -> Removal:
    """A delete that ended: what it covered is not kept, but for the version that it named."""
    through = removal.through
    if through is None:
        return removal
    ids = {version.id for version in page if version.file_id == removal.file_id and version.number <= through}
    return replace(removal, covered=frozenset(ids))
