"""Work on versions: what is due, dispatching it, claiming it with a fenced lease, and recording how it went."""

from __future__ import annotations

import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.backup.pins import pin
from cbk.edges.catalog.database.database import Database, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import REFRESHABLE, files, versions
from cbk.edges.catalog.database.transitions import FREE, create_again, move, moved, out_of_use
from cbk.edges.catalog.intake.intake import name_digest
from cbk.errors import CatalogUnavailable, LeaseLost
from cbk.model import Claim, Version, VersionState, Written
from cbk.rules.backup.retry import FetchOutcome
from cbk.rules.intake.version_selection import Transition
from cbk.rules.lifecycle import StateEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """So many versions are due and not claimed, the first of them `since` then; `at_work`: another one is claimed."""

    count: int
    since: datetime | None
    at_work: bool


class Work:
    """Versions that are to be fetched."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    # What is known

    def versions_of_rows(self, source_ids: Iterable[str]) -> dict[str, Version]:
        """The highest version that each of these rows brought, of those that brought any."""
        found: dict[str, Version] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(source_ids)):
                query = select_versions().where(versions.c.source_id.in_(batch)).order_by(versions.c.number)
                found.update({row.source_id: version_of(row) for row in connection.execute(query)})
        return found

    def versions_of_file(self, file_id: int) -> list[Version]:
        """All versions of a file."""
        return self.versions_of_files([file_id]).get(file_id, [])

    def versions_of_files(self, file_ids: Iterable[int]) -> dict[int, list[Version]]:
        """All versions of these files, by file."""
        found: dict[int, list[Version]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(file_ids)):
                for row in connection.execute(select_versions().where(versions.c.file_id.in_(batch))):
                    found.setdefault(row.file_id, []).append(version_of(row))
        return found

    def undecided_of_files(self, file_ids: Iterable[int], ranks: int) -> tuple[dict[int, list[Version]], set[int]]:
        """Of each of these files, the newest `ranks` versions, its newest copy, and all others about which something may change.

        Left out are older ones that wait or are superseded as things stand; the second value is the files of which any are. A file
        may have tens of thousands of versions.
        """
        state = versions.c.state
        newest_first = (versions.c.live.desc(), versions.c.deleted.desc(), versions.c.number.desc())
        stored = state == VersionState.STORED.value
        columns = (
            versions.c.id,
            sa.func.row_number().over(partition_by=versions.c.file_id, order_by=newest_first).label("rank"),
            sa.func.row_number().over(partition_by=(versions.c.file_id, state), order_by=newest_first).label("rank_in_state"),
            sa.func.max(sa.case((stored, 1), else_=0)).over(partition_by=versions.c.file_id).label("has_copy"),
            sa.func.count().over(partition_by=versions.c.file_id).label("total"),
        )
        over = [each.value for each in (VersionState.STORED, VersionState.DECLINED, VersionState.SUPERSEDED, VersionState.PRUNED)]
        found: dict[int, list[Version]] = {}
        totals: dict[int, int] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(file_ids)):
                ranked = sa.select(*columns).where(versions.c.file_id.in_(batch)).subquery()
                waits = (state == VersionState.PENDING.value) & versions.c.due_at.is_(None) & (versions.c.reason != "")
                open_ = state.not_in(over) & (~waits | (ranked.c.has_copy == 1))
                wanted = (ranked.c.rank <= ranks) | (stored & (ranked.c.rank_in_state == 1)) | open_
                query = select_versions().join(ranked, ranked.c.id == versions.c.id).where(wanted).add_columns(ranked.c.total)
                for row in connection.execute(query):
                    found.setdefault(row.file_id, []).append(version_of(row))
                    totals[row.file_id] = row.total
        return found, {file_id for file_id, listed in found.items() if len(listed) < totals[file_id]}

    def versions_named(self, storage: str, key: str) -> list[Version]:
        """All versions of the file (storage, key)."""
        query = select_versions().where(files.c.name_digest == name_digest(storage, key))
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def storages_of(self, key: str) -> list[str]:
        """The storages that have a file of this key."""
        with self._database.reading() as connection:
            return list(connection.scalars(sa.select(files.c.storage).where(files.c.key == key).order_by(files.c.storage)))

    # Dispatching

    def in_flight(self) -> int:
        """How many versions are dispatched or claimed under a lease that lives."""
        with self._database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(versions).where(versions.c.lease_until > self._database.now_sql)
            return connection.scalar(query) or 0

    def silent(self, limit: int) -> list[str]:
        """Row ids of versions that were dispatched, not claimed, and whose lease has run out."""
        query = (
            sa.select(versions.c.source_id)
            .where(versions.c.lease_until <= self._database.now_sql, versions.c.holder.is_(None), versions.c.due_at.is_not(None))
            .order_by(versions.c.lease_until)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def extend_dispatched(self, source_ids: Iterable[str], lease: timedelta) -> None:
        """Their messages still wait in the queue: give them another lease instead of a second message."""
        with self._database.writing() as connection:
            for batch in in_batches(list(source_ids)):
                dispatched = (versions.c.source_id.in_(batch), versions.c.lease_until.is_not(None), versions.c.holder.is_(None))
                # One that a worker is just claiming is nobody's to extend.
                ids = _lock(connection, sa.select(versions.c.id).where(*dispatched), skip_locked=True)
                later = self._database.later_sql(lease)
                connection.execute(sa.update(versions).where(versions.c.id.in_(ids)).values(lease_until=later))

    def dispatch(self, limit: int, lease: timedelta) -> list[Version]:
        """Take up to `limit` due versions under a lease, those whose links die first in front, and return them to be sent."""
        now = self._database.now_sql
        free = sa.or_(versions.c.lease_until.is_(None), versions.c.lease_until <= now)
        query = (
            sa.select(versions.c.id)
            .where(versions.c.due_at.is_not(None), versions.c.due_at <= now, free)
            .order_by(versions.c.link_expires_at.asc().nulls_last(), versions.c.id)
            .limit(limit)
        )
        if self._database.engine.dialect.name == "postgresql":
            query = query.with_for_update(skip_locked=True)
        with self._database.writing() as connection:
            ids = list(connection.scalars(query))
            taken: list[Version] = []
            for batch in in_batches(ids):
                connection.execute(
                    sa.update(versions)
                    .where(versions.c.id.in_(batch))
                    .values(lease_until=self._database.later_sql(lease), holder=None)
                )
                taken += [version_of(row) for row in connection.execute(select_versions().where(versions.c.id.in_(batch)))]
        order = {version_id: place for place, version_id in enumerate(ids)}
        return sorted(taken, key=lambda version: order[version.id])

    def has_backlog(self) -> bool:
        """Whether a version is due now and not under a lease."""
        now = self._database.now_sql
        free = sa.or_(versions.c.lease_until.is_(None), versions.c.lease_until <= now)
        query = sa.select(versions.c.id).where(versions.c.due_at.is_not(None), versions.c.due_at <= now, free).limit(1)
        with self._database.reading() as connection:
            return connection.scalar(query) is not None

    def waiting(self) -> Waiting:
        """What is due and nobody is at, dispatched or not."""
        now = self._database.now_sql
        unclaimed = sa.or_(versions.c.holder.is_(None), versions.c.lease_until <= now)
        due = sa.select(sa.func.count(), sa.func.min(versions.c.due_at)).where(versions.c.due_at <= now, unclaimed)
        claimed = sa.select(versions.c.id).where(versions.c.lease_until > now, versions.c.holder.is_not(None)).limit(1)
        with self._database.reading() as connection:
            count, since = connection.execute(due).one()
            return Waiting(count=count, since=since, at_work=connection.scalar(claimed) is not None)

    def undo_dispatch(self, version_ids: Iterable[int]) -> None:
        """Their messages could not be sent: let the next poll take them at once."""
        with self._database.writing() as connection:
            for batch in in_batches(list(version_ids)):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch), versions.c.holder.is_(None)).values(**FREE))

    # Working

    def claim(self, source_ids: Iterable[str], lease: timedelta) -> list[Claim]:
        """Claim the due versions of these rows, except those that are not due, or that another worker holds.

        A row that was changed in place has brought several versions: the latest of those that are due comes first.
        """
        now = self._database.now_sql
        free = sa.or_(versions.c.holder.is_(None), versions.c.lease_until <= now)
        order = {source_id: place for place, source_id in enumerate(source_ids)}
        claimed: list[Version] = []
        with self._database.writing() as connection:
            for batch in in_batches(list(order)):
                due = (versions.c.source_id.in_(batch), versions.c.due_at <= now, free)
                latest = list(connection.scalars(sa.select(sa.func.max(versions.c.id)).where(*due).group_by(versions.c.source_id)))
                # The conditions are asked once more: in PostgreSQL another worker may have come in between.
                latest = _lock(connection, sa.select(versions.c.id).where(versions.c.id.in_(latest), *due))
                if not latest:
                    continue
                statement = (
                    sa.update(versions)
                    .where(versions.c.id.in_(latest))
                    .values(
                        holder=self._holder,
                        fence=versions.c.fence + 1,
                        attempts=versions.c.attempts + 1,
                        lease_until=self._database.later_sql(lease),
                    )
                    .returning(versions.c.id)
                )
                ids = list(connection.scalars(statement))
                claimed += [version_of(row) for row in connection.execute(select_versions().where(versions.c.id.in_(ids)))]
        claimed.sort(key=lambda version: order[version.source_id])
        return [Claim(version=version, fence=version.fence, holder=self._holder) for version in claimed]

    def renew(self, claims: Iterable[Claim], lease: timedelta) -> list[Claim]:
        """Renew these claims, and give those that are no longer ours."""
        with self._database.writing() as connection:
            ours, lost = self._still_ours(connection, list(claims))
            for batch in in_batches([claim.version.id for claim in ours]):
                later = self._database.later_sql(lease)
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(lease_until=later))
        return lost

    def record_stored(self, done: Iterable[tuple[Claim, Written]]) -> list[Claim]:
        """These copies are on the disk, read back and flushed: they count from now on.

        Gives the claims that are no longer ours, of whose versions nothing is recorded.
        """
        by_version = {claim.version.id: (claim, written) for claim, written in done}
        with self._database.writing() as connection:
            ours, lost = self._still_ours(connection, [claim for claim, _ in by_version.values()])
            now = connection.scalar(sa.select(self._database.now_sql))
            values = [
                {
                    "of_version": claim.version.id,
                    "size": written.size,
                    "stored_size": written.stored_size,
                    "stored_sha256": written.stored_sha256,
                    "stored_at": written.stored_at or now,
                    "verified_at": now,
                }
                for claim, written in (by_version[claim.version.id] for claim in ours)
            ]
            for claim in ours:
                pin(connection, claim.version, by_version[claim.version.id][1])
            if values:
                connection.execute(_RECORD_STORED, values)
                # What stays of the older copies of these files is to be decided anew.
                for batch in in_batches(sorted({claim.version.file_id for claim in ours})):
                    kept = (versions.c.file_id.in_(batch), versions.c.kept.is_(True))
                    connection.execute(sa.update(versions).where(*kept).values(kept=False))
        return lost

    def record_outcome(self, claim: Claim, outcome: FetchOutcome) -> None:
        """The version was not stored: note its state, its reason, and when it is due again. Raises LeaseLost."""
        values = {"reason": outcome.reason[:1000], "due_at": outcome.due_at, "checked_at": self._database.now_sql}
        ours = (versions.c.id == claim.version.id, versions.c.fence == claim.fence, versions.c.holder == claim.holder)
        with self._database.writing() as connection:
            if move(connection, StateEvent.REFUSED, *ours, to=outcome.state, **values, **FREE) != 1:
                raise LeaseLost(f"another worker holds {claim.version.label} now")

    def give_back(self, claims: Iterable[Claim], delay: timedelta, *, reason: str | None = None) -> None:
        """It was not the versions' fault: due again after `delay`, and the attempt does not count. Lost claims are passed over."""
        values: dict[str, Any] = {"due_at": self._database.later_sql(delay), "attempts": versions.c.attempts - 1}
        if reason is not None:
            values["reason"] = reason[:1000]
        with self._database.writing() as connection:
            ours, _ = self._still_ours(connection, list(claims))
            for batch in in_batches([claim.version.id for claim in ours]):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(**values, **FREE))

    def is_alive(self, version_id: int, fence: int) -> bool:
        """Whether this claim may still be worked on: its file in arrival is somebody's then."""
        alive = (versions.c.fence == fence, versions.c.holder.is_not(None), versions.c.lease_until > self._database.now_sql)
        with self._database.reading() as connection:
            return connection.scalar(sa.select(versions.c.id).where(versions.c.id == version_id, *alive)) is not None

    def with_siblings(self, file_ids: Iterable[int]) -> list[int]:
        """Those of these files that have more than one version."""
        found: list[int] = []
        with self._database.reading() as connection:
            for batch in in_batches(list(file_ids)):
                query = sa.select(versions.c.file_id).where(versions.c.file_id.in_(batch)).group_by(versions.c.file_id)
                found += connection.scalars(query.having(sa.func.count() > 1))
        return found

    # Deciding again

    def apply(self, transitions: Iterable[Transition]) -> None:
        """Write what `rules.wanted` decided."""
        groups: dict[tuple[StateEvent, str, bool], list[int]] = {}
        for transition in transitions:
            groups.setdefault((transition.event, transition.reason, transition.due), []).append(transition.version_id)
        with self._database.writing() as connection:
            for (event, reason, due), ids in sorted(groups.items()):
                if event is StateEvent.CREATED_AGAIN:
                    create_again(self._database, connection, ids, reason)
                    continue
                for batch in in_batches(sorted(ids)):  # everybody locks in this order
                    ours = versions.c.id.in_(batch)
                    move(connection, event, ours, reason=reason, due_at=self._database.now_sql if due else None)
                    if not due:
                        unclaimed = (versions.c.due_at.is_(None), versions.c.holder.is_(None))
                        connection.execute(sa.update(versions).where(ours, *unclaimed).values(lease_until=None))

    def unsettled_files(self, limit: int) -> list[int]:
        """Files with a version that waits for a decision, longest unchecked first; they count as checked now.

        A worker that dies between recording one version and deciding about the others leaves such a file behind.
        """
        waiting = (versions.c.state == VersionState.PENDING.value, versions.c.due_at.is_(None), versions.c.live.is_(True))
        query = sa.select(versions.c.id, versions.c.file_id).where(*waiting).order_by(versions.c.checked_at.asc().nulls_first())
        back = (versions.c.newest.is_(True), versions.c.deleted.is_(False), versions.c.state == VersionState.PRUNED.value)
        lives_again = sa.select(versions.c.id, versions.c.file_id).where(*back, versions.c.live.is_(True)).limit(limit)
        with self._database.writing() as connection:
            found = [*connection.execute(query.limit(limit)), *connection.execute(lives_again)]
            for batch in in_batches([row.id for row in found]):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(checked_at=self._database.now_sql))
        return sorted({row.file_id for row in found})

    def clamp_future_times(self, lease: timedelta, longest_delay: timedelta) -> None:
        """Make due, and free, what a clock that was once ahead put farther off than any rule would."""
        now = self._database.now_sql
        with self._database.writing() as connection:
            far = sa.update(versions).where(versions.c.due_at > self._database.later_sql(longest_delay))
            connection.execute(far.values(due_at=now))
            held = sa.update(versions).where(versions.c.lease_until > self._database.later_sql(lease * 2))
            connection.execute(held.values(lease_until=now))

    def make_due(self, version_ids: Iterable[int], *, reason: str) -> int:
        """Fetch these versions (again) now; returns how many. A copy that is stored must have been found bad by the caller.

        What was pruned because its file is deleted stays so: no removal would speak of it any more.
        """
        stays = sa.and_(versions.c.state == VersionState.PRUNED.value, versions.c.deleted.is_(True))
        changed = 0
        # The copy is put aside by the backup that follows: no power cut may bring back a record that counts on it.
        with self._database.writing(durable=True) as connection:
            for batch in in_batches(list(version_ids)):
                ours = (versions.c.id.in_(batch), ~stays)
                changed += out_of_use(self._database, connection, *ours, event=StateEvent.RESYNCED, reason=reason, attempts=0)
        return changed

    def refreshable(self, limit: int) -> list[tuple[Version, str]]:
        """Versions that a fresh link or a mended row may help, with the digest of the link they have, longest unchecked first."""
        query = (
            select_versions()
            .add_columns(versions.c.link_digest)
            .where(REFRESHABLE, ~self._in_work())
            .order_by(versions.c.checked_at.asc().nulls_first())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [(version_of(row), row.link_digest) for row in connection.execute(query)]

    def note_links(self, links: Iterable[tuple[int, str, datetime | None]], checked: Iterable[int], due: AbstractSet[int]) -> None:
        """(id, digest, expiry) of links as they are now; versions in `due` are worth another try: now. `checked` were looked at.

        A denied version's attempts go on counting: a fresh link that is denied again is asked for ever less often.
        """
        now = self._database.now_sql
        attempts = sa.case((versions.c.state == VersionState.FAILED.value, versions.c.attempts), else_=0)
        again: dict[str, Any] = {"due_at": now, "attempts": attempts, "reason": "its row has changed"}
        with self._database.writing() as connection:
            for batch in in_batches(list(checked)):
                connection.execute(sa.update(versions).where(versions.c.id.in_(batch)).values(checked_at=now))
            for version_id, digest, expires_at in links:
                ours = (versions.c.id == version_id, ~_settled(), ~self._in_work())
                if version_id in due:
                    move(connection, StateEvent.ROW_CHANGED, *ours, **again)
                link = {"link_digest": digest, "link_expires_at": expires_at}
                connection.execute(sa.update(versions).where(*ours).values(**link))

    def _in_work(self) -> sa.ColumnElement[bool]:
        """A claim that lives: its worker read the row before us, and records what became of the link that was there then."""
        claimed = versions.c.holder.is_not(None) & (versions.c.lease_until > self._database.now_sql)
        return sa.func.coalesce(claimed, sa.false())

    def _still_ours(self, connection: sa.Connection, claims: list[Claim]) -> tuple[list[Claim], list[Claim]]:
        """The claims that are still ours, and stay so until this transaction ends, and those that are lost."""
        held: set[tuple[int, int, str]] = set()
        for batch in in_batches([claim.version.id for claim in claims]):
            query = sa.select(versions.c.id, versions.c.fence, versions.c.holder).where(versions.c.id.in_(batch))
            # In one order everywhere, or two transactions could wait for one another.
            held |= {(row.id, row.fence, row.holder) for row in connection.execute(query.order_by(versions.c.id).with_for_update())}
        ours = [claim for claim in claims if (claim.version.id, claim.fence, claim.holder) in held]
        return ours, [claim for claim in claims if (claim.version.id, claim.fence, claim.holder) not in held]


def _lock(connection: sa.Connection, query: sa.Select[tuple[int]], *, skip_locked: bool = False) -> list[int]:
    """The ids of `query`, locked until this transaction ends, in one order everywhere: or two could wait for one another."""
    return list(connection.scalars(query.order_by(versions.c.id).with_for_update(skip_locked=skip_locked)))


def _settled() -> sa.ColumnElement[bool]:
    """It was stored, or pruned, since whoever decides about it looked: that stands."""
    return versions.c.state.in_([VersionState.STORED.value, VersionState.PRUNED.value])


# Sizes, hash and instants come with each execution.
_RECORD_STORED = moved(StateEvent.COPIED, versions.c.id == sa.bindparam("of_version"), reason="", due_at=None, **FREE)


class LeaseRenewer:
    """Keeps claims alive from inside the work: `tick`, called with each chunk, renews them when a third of the lease has passed."""

    def __init__(self, work: Work, claims: Iterable[Claim], lease: timedelta) -> None:
        self._work = work
        self._held = {claim.version.id: claim for claim in claims}
        self._lease = lease
        self._renewed_at = uptime()
        self._try_at = float("-inf")

    @property
    def held(self) -> list[Claim]:
        """The claims that are not dropped."""
        return list(self._held.values())

    def tick(self, claim: Claim) -> None:
        """Raises LeaseLost where `claim` is no longer ours, CatalogUnavailable where that cannot be asked for too long."""
        now = uptime()
        if now - self._renewed_at > self._lease.total_seconds() / 3 and now >= self._try_at:
            self._renew()
        if not self.holds(claim):
            raise LeaseLost(f"another worker holds {claim.version.label} now")

    def _renew(self) -> None:
        """A catalog that is away for a moment costs no download: nobody else may have the claims before their lease is over."""
        began = uptime()
        try:
            lost = self._work.renew(self.held, self._lease)
        except CatalogUnavailable:
            if uptime() - self._renewed_at > self._lease.total_seconds() * 2 / 3:
                raise
            self._try_at = uptime() + self._lease.total_seconds() / 12
            return
        for claim in lost:
            self.drop(claim)
        self._renewed_at = began

    def add(self, claims: Iterable[Claim]) -> None:
        """Keep these alive as well."""
        self._held |= {claim.version.id: claim for claim in claims}

    def holds(self, claim: Claim) -> bool:
        """Whether it is neither dropped nor known to be lost."""
        return claim.version.id in self._held

    def drop(self, claim: Claim) -> None:
        """It is done with: nothing of it is renewed any more."""
        self._held.pop(claim.version.id, None)


def uptime() -> float:
    """Seconds that go on while the machine is suspended, where the system can say so (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
