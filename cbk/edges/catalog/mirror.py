"""The ledger of the mirrors: which disks each has, and which copy is there since when, verified when.

A version's copy is named by the version's id and the SHA-256 of its object: one that was pruned, and came again with other bytes,
is another copy. Copies of dumps lie in the same ledger, under numbers below zero (`dump_copy_id`); there are few of them at any
time, so that they are compared here and not by the database. Nothing here decides; `rules/mirror.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import dump_versions, dumps, files, mirror_copies, mirror_disks, versions
from cbk.edges.catalog.dump import Dumps
from cbk.model import Claim, Version, VersionState
from cbk.rules.dump.records import Dump, DumpState, DumpVersion
from cbk.rules.mirror import CopyHere, MirrorCopy, MirrorDisk, dump_here, dump_version_of, next_label, version_here

LEDGER_PAGE = 500

_STORED = versions.c.state == VersionState.STORED.value
_THERE = mirror_copies.c.removed_at.is_(None)
_GOOD = (_THERE, mirror_copies.c.bad.is_(None))
_IS_DUMP = mirror_copies.c.version_id < 0
# The dump's version that a copy is of (`dump_version_of`); of a file's copy it is one that there never is.
_DUMP_VERSION_ID = -mirror_copies.c.version_id // 2
# A version in one of these was tried at its link, which did not give it.
_LOST_STATES = (VersionState.FAILED, VersionState.EXPIRED, VersionState.MISSING, VersionState.MISMATCH, VersionState.DECLINED)
_LOST = versions.c.state.in_([sa.literal(state.value, literal_execute=True) for state in _LOST_STATES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A copy that lies on a disk of a mirror now, as it was read or compared there."""

    copy: CopyHere
    stored_sha256: str
    stored_size: int


class Mirrors:
    """The disks of mirrors and the copies on them. `holder` names this process in claims."""

    def __init__(self, database: Database, holder: str, dumps: Dumps) -> None:
        self._database = database
        self._holder = holder
        self._dumps = dumps

    # ---- disks ---------------------------------------------------------------------------------------------------------------

    def disks(self, mirror: str | None = None) -> list[MirrorDisk]:
        """All disks that are in use, or those of one mirror, in the order in which they were added."""
        query = sa.select(mirror_disks).where(mirror_disks.c.retired_at.is_(None)).order_by(mirror_disks.c.id)
        if mirror is not None:
            query = query.where(mirror_disks.c.mirror == mirror)
        with self._database.reading() as connection:
            return [_disk_of(row) for row in connection.execute(query)]

    def add_disk(self, mirror: str, identity: str) -> MirrorDisk:
        """A disk of this identity is one of the mirror's from now on; a retired one is again, with what the ledger knew of it."""
        with self._database.writing() as connection:
            mine = mirror_disks.c.mirror == mirror
            labels = list(connection.scalars(sa.select(mirror_disks.c.label).where(mine)))
            now = connection.scalar(sa.select(self._database.now_sql))
            again = sa.update(mirror_disks).where(mirror_disks.c.identity == identity).values(mirror=mirror, retired_at=None)
            if not connection.execute(again).rowcount:
                values = {"mirror": mirror, "identity": identity, "label": next_label(labels), "added_at": now}
                connection.execute(sa.insert(mirror_disks).values(**values))
            return _disk_of(connection.execute(sa.select(mirror_disks).where(mirror_disks.c.identity == identity)).one())

    def retire(self, disk_id: int) -> None:
        """The disk is gone for good: nobody waits for it, and the ledger forgets what was there."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(mirror_copies).where(mirror_copies.c.disk_id == disk_id))
            values = {"retired_at": self._database.now_sql, "held": 0, "missing": 0, "counted_at": None, "completed_at": None}
            connection.execute(sa.update(mirror_disks).where(mirror_disks.c.id == disk_id).values(**values))

    def note_seen(self, disk_id: int) -> None:
        """The disk is there now."""
        with self._database.writing() as connection:
            seen = sa.update(mirror_disks).where(mirror_disks.c.id == disk_id)
            connection.execute(seen.values(seen_at=self._database.now_sql))

    def count(self, disk_id: int, *, braked: int | None = None) -> MirrorDisk:
        """Count by the ledger what is there and what is not, and note it for whoever asks how things stand.

        `braked` is how many removals wait for a person there; None: as before.
        """
        missing = sa.select(sa.func.count(), sa.func.min(versions.c.stored_at)).select_from(versions).where(*_missing_on(disk_id))
        stored = sa.select(sa.func.count()).select_from(versions).where(_STORED)
        bad = sa.select(sa.func.count()).where(mirror_copies.c.disk_id == disk_id, _THERE, mirror_copies.c.bad.is_not(None))
        of_dumps, lacking_dumps = self._dump_copies(disk_id)
        with self._database.reading() as connection:
            lacking, since = connection.execute(missing).one()
            values: dict[str, Any] = {
                "held": (connection.scalar(stored) or 0) - lacking + of_dumps - len(lacking_dumps),
                "missing": lacking + len(lacking_dumps),
                "missing_since": min((at for at in (since, *lacking_dumps.values()) if at is not None), default=None),
                "bad": connection.scalar(bad) or 0,
            }
        lacking = values["missing"]
        now = self._database.now_sql
        values |= {"counted_at": now} | ({} if lacking else {"completed_at": now}) | ({} if braked is None else {"braked": braked})
        with self._database.writing() as connection:
            connection.execute(sa.update(mirror_disks).where(mirror_disks.c.id == disk_id).values(**values))
            return _disk_of(connection.execute(sa.select(mirror_disks).where(mirror_disks.c.id == disk_id)).one())

    def note_unknown(self, disk_id: int, unknown: int) -> None:
        """Somebody looked at all that lies there: so many files are outside of the ledger."""
        with self._database.writing() as connection:
            connection.execute(sa.update(mirror_disks).where(mirror_disks.c.id == disk_id).values(unknown=unknown))

    # ---- in ------------------------------------------------------------------------------------------------------------------

    def missing(self, disk_id: int) -> tuple[int, int]:
        """How many stored copies are not on the disk, or bad there, and their bytes."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(versions.c.stored_size), 0)).select_from(versions)
        with self._database.reading() as connection:
            copies, size = connection.execute(query.where(*_missing_on(disk_id))).one()
        _, of_dumps = self._dump_copies(disk_id)
        return copies + len(of_dumps), int(size) + sum(copy.stored_size for copy in of_dumps)

    def missing_by_disk(self, mirror: str) -> dict[str, tuple[int, int]]:
        """As `missing`, for each disk of the mirror by its label."""
        return {disk.label: self.missing(disk.id) for disk in self.disks(mirror)}

    def to_send(self, disk_id: int) -> Iterator[CopyHere]:
        """The copies that are not on the disk, page by page: dumps first, which a backlog of files is not to keep waiting."""
        yield from self._dump_copies(disk_id)[1]
        last = 0
        while True:
            query = select_versions().where(*_missing_on(disk_id), versions.c.id > last).order_by(versions.c.id).limit(LEDGER_PAGE)
            with self._database.reading() as connection:
                page = [version_of(row) for row in connection.execute(query)]
            yield from map(version_here, page)
            if len(page) < LEDGER_PAGE:
                return
            last = page[-1].id

    def bad_ones(self, disk_id: int, copy_ids: Iterable[int]) -> dict[int, str]:
        """Those of these copies that were found bad on the disk, and where: they are to be replaced there, not added."""
        found: dict[int, str] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(copy_ids)):
                query = sa.select(mirror_copies.c.version_id, mirror_copies.c.location).where(
                    mirror_copies.c.disk_id == disk_id,
                    mirror_copies.c.version_id.in_(batch),
                    mirror_copies.c.bad.is_not(None),
                )
                found.update((row.version_id, row.location) for row in connection.execute(query))
        return found

    def record(self, disk_id: int, arrived: Sequence[Arrived]) -> None:
        """These copies are on the disk, whole and flushed. Bytes before record."""
        with self._database.writing() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            for batch in in_batches([each.copy.id for each in arrived]):
                ours = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.version_id.in_(batch))
                connection.execute(sa.delete(mirror_copies).where(*ours))
            values = [
                {
                    "disk_id": disk_id,
                    "version_id": each.copy.id,
                    "sha256": each.copy.sha256,
                    "location": each.copy.target,
                    "stored_sha256": each.stored_sha256,
                    "stored_size": each.stored_size,
                    "copied_at": now,
                    "verified_at": now,
                }
                for each in arrived
            ]
            if values:
                connection.execute(sa.insert(mirror_copies), values)

    # ---- there ---------------------------------------------------------------------------------------------------------------

    def to_verify(self, disk_id: int, limit: int) -> list[MirrorCopy]:
        """The copies of the disk that were verified longest ago; at most `limit`."""
        there = (mirror_copies.c.disk_id == disk_id, _THERE, mirror_copies.c.bad.is_(None))
        stored = sa.or_(_STORED, dump_versions.c.state == DumpState.STORED.value)
        query = (
            _select_copies().where(*there, stored).order_by(mirror_copies.c.verified_at, mirror_copies.c.version_id).limit(limit)
        )
        with self._database.reading() as connection:
            return [_copy_of(row) for row in connection.execute(query)]

    def note_verified(self, disk_id: int, version_ids: Iterable[int]) -> None:
        """These copies were read there, and are good."""
        self._set(disk_id, version_ids, verified_at=self._database.now_sql, bad=None)

    def note_bad(self, disk_id: int, version_id: int, reason: str) -> None:
        """The copy there is bad, or not there: it counts no more, and is replaced by the next pass."""
        self._set(disk_id, [version_id], bad=reason[:1000])

    def locations(self, disk_id: int, locations: Iterable[str]) -> set[str]:
        """Those of these locations that the ledger knows on the disk."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for batch in in_batches(list(locations)):
                query = sa.select(mirror_copies.c.location).where(mirror_copies.c.disk_id == disk_id, _THERE)
                found.update(connection.scalars(query.where(mirror_copies.c.location.in_(batch))))
        return found

    def all_copies(self, disk_id: int) -> Iterator[MirrorCopy]:
        """Everything that the ledger has of the disk, page by page."""
        last: int | None = None
        while True:
            beyond = () if last is None else (mirror_copies.c.version_id > last,)
            there = (mirror_copies.c.disk_id == disk_id, _THERE, *beyond)
            query = _select_copies().where(*there).order_by(mirror_copies.c.version_id).limit(LEDGER_PAGE)
            with self._database.reading() as connection:
                page = [_copy_of(row) for row in connection.execute(query)]
            yield from page
            if len(page) < LEDGER_PAGE:
                return
            last = page[-1].version_id

    # ---- out -----------------------------------------------------------------------------------------------------------------

    def note_gone(self, disk_id: int) -> tuple[int, int]:
        """Begin the grace of copies that are pruned here, and end that of those that are not; how many of each."""
        there = (mirror_copies.c.disk_id == disk_id, _THERE, versions.c.id == mirror_copies.c.version_id)
        is_pruned = versions.c.state == VersionState.PRUNED.value
        begun = sa.select(mirror_copies.c.version_id).where(*there, mirror_copies.c.gone_at.is_(None), is_pruned)
        ended = sa.select(mirror_copies.c.version_id).where(*there, mirror_copies.c.gone_at.is_not(None), ~is_pruned)
        with self._database.reading() as connection:
            gone, back = list(connection.scalars(begun)), list(connection.scalars(ended))
            for copy_id, gone_at, state in connection.execute(_select_dump_states(disk_id)):
                is_gone = state == DumpState.PRUNED.value
                gone += [copy_id] if is_gone and gone_at is None else []
                back += [copy_id] if not is_gone and gone_at is not None else []
        self._set(disk_id, gone, gone_at=self._database.now_sql, approved=False)
        self._set(disk_id, back, gone_at=None, approved=False)
        return len(gone), len(back)

    def gone(self, disk_id: int, before: datetime) -> list[MirrorCopy]:
        """The copies whose grace began before that instant, longest gone first."""
        query = _select_copies().where(mirror_copies.c.disk_id == disk_id, _THERE, mirror_copies.c.gone_at <= before)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(mirror_copies.c.gone_at, mirror_copies.c.version_id))
            return [_copy_of(row) for row in found]

    def removed_within(self, disk_id: int, since: datetime) -> tuple[int, int]:
        """How many copies the disk had at that instant, and how many of them went since."""
        old = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.copied_at <= since)
        went = mirror_copies.c.removed_at > since
        query = sa.select(
            sa.func.count().filter(sa.or_(_THERE, went)),
            sa.func.count().filter(went),
        ).where(*old)
        with self._database.reading() as connection:
            held, removed = connection.execute(query).one()
        return held, removed

    def approve(self, mirror: str, before: datetime) -> int:
        """A person says that what is due on the mirror's disks may go; how many copies that are."""
        disks = sa.select(mirror_disks.c.id).where(mirror_disks.c.mirror == mirror)
        due = (mirror_copies.c.disk_id.in_(disks), _THERE, mirror_copies.c.gone_at <= before)
        with self._database.writing() as connection:
            return connection.execute(sa.update(mirror_copies).where(*due).values(approved=True)).rowcount

    def record_removed(self, disk_id: int, copies: Iterable[MirrorCopy]) -> list[MirrorCopy]:
        """These copies count no more; returns those that may go still, because they are pruned here. Record before bytes."""
        wanted = {copy.version_id: copy for copy in copies}
        going: list[MirrorCopy] = []
        with self._database.writing(durable=True) as connection:
            for batch in in_batches(list(wanted)):
                pruned = sa.select(versions.c.id).where(versions.c.id.in_(batch), versions.c.state == VersionState.PRUNED.value)
                ids = list(connection.scalars(pruned.order_by(versions.c.id).with_for_update()))
                ids += _pruned_dumps(connection, batch)
                ours = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.version_id.in_(ids), _THERE)
                values = {"removed_at": self._database.now_sql, "leftover": True}
                connection.execute(sa.update(mirror_copies).where(*ours, mirror_copies.c.gone_at.is_not(None)).values(**values))
                going += [wanted[copy_id] for copy_id in ids]
        return going

    def leftovers(self, disk_id: int) -> list[MirrorCopy]:
        """Copies that count no more, and whose bytes have still to go."""
        query = _select_copies().where(mirror_copies.c.disk_id == disk_id, mirror_copies.c.leftover.is_(True))
        with self._database.reading() as connection:
            return [_copy_of(row) for row in connection.execute(query)]

    def forget(self, disk_id: int, version_ids: Iterable[int], *, before: datetime) -> None:
        """The bytes of these are gone; those that went before that instant the ledger forgets."""
        with self._database.writing() as connection:
            for batch in in_batches(list(version_ids)):
                ours = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.version_id.in_(batch), ~_THERE)
                connection.execute(sa.update(mirror_copies).where(*ours).values(leftover=False))
            old = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.removed_at < before, mirror_copies.c.leftover.is_(False))
            connection.execute(sa.delete(mirror_copies).where(*old))

    # ---- back ----------------------------------------------------------------------------------------------------------------

    def repairable(self, disk_id: int, limit: int, *, after: int = 0) -> list[MirrorCopy]:
        """Good copies on the disk of versions that are lost here, and whose own link did not help; of versions above `after`."""
        ours = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.version_id == versions.c.id, versions.c.id > after)
        good = (mirror_copies.c.sha256 == versions.c.sha256, _THERE, mirror_copies.c.bad.is_(None))
        query = _select_copies().where(*ours, *good, _LOST).order_by(versions.c.id).limit(limit)
        with self._database.reading() as connection:
            return [_copy_of(row) for row in connection.execute(query)]

    def lost_dumps(self, disk_id: int) -> list[tuple[Dump, DumpVersion, list[CopyHere]]]:
        """Dumps whose copy went bad here, and which the disk has, with their roles where they have some."""
        lost = self._dumps.found(DumpState.BAD)
        there = self._good_dumps(disk_id) if lost else {}
        found = [(dump, version, dump_here(dump, version)) for dump, version in lost]
        return [each for each in found if all(there.get(copy.id) == copy.sha256 for copy in each[2])]

    def dumps_on(self, mirror: str) -> set[int]:
        """The dumps' versions of which any disk of the mirror has a good copy, whatever became of them here."""
        return {dump_version_of(copy_id)[0] for disk in self.disks(mirror) for copy_id in self._good_dumps(disk.id)}

    def can_repair(self, disk_ids: Iterable[int]) -> set[int]:
        """Those of these disks that have a good copy of what is lost here."""
        with self._database.reading() as connection:
            files_of = {
                disk_id
                for disk_id in disk_ids
                if connection.scalar(sa.select(versions.c.id).where(*self._lost_on(disk_id)).limit(1)) is not None
            }
        return files_of | {disk_id for disk_id in disk_ids if self.lost_dumps(disk_id)}

    def claim_lost(self, version_ids: Iterable[int], lease: timedelta) -> list[Claim]:
        """Claim these versions, except those that are no longer lost, or that a worker is at. Their due time stays as it is."""
        claimed: list[Version] = []
        free = sa.or_(versions.c.holder.is_(None), versions.c.lease_until <= self._database.now_sql)
        with self._database.writing() as connection:
            for batch in in_batches(list(version_ids)):
                query = sa.select(versions.c.id).where(versions.c.id.in_(batch), _LOST, free).order_by(versions.c.id)
                ids = list(connection.scalars(query.with_for_update()))
                values = {"holder": self._holder, "fence": versions.c.fence + 1, "lease_until": self._database.later_sql(lease)}
                connection.execute(sa.update(versions).where(versions.c.id.in_(ids)).values(**values))
                claimed += [version_of(row) for row in connection.execute(select_versions().where(versions.c.id.in_(ids)))]
        return [Claim(version=version, fence=version.fence, holder=self._holder) for version in claimed]

    def release_lost(self, claims: Iterable[Claim]) -> None:
        """Leave these versions as they were; claims that are no longer ours are passed over."""
        with self._database.writing() as connection:
            for claim in sorted(claims, key=lambda claim: claim.version.id):
                ours = (versions.c.id == claim.version.id, versions.c.fence == claim.fence, versions.c.holder == claim.holder)
                connection.execute(sa.update(versions).where(*ours).values(holder=None, lease_until=None))

    def _lost_on(self, disk_id: int) -> tuple[sa.ColumnElement[bool], ...]:
        there = sa.select(mirror_copies.c.version_id).where(
            mirror_copies.c.version_id == versions.c.id,
            mirror_copies.c.disk_id == disk_id,
            mirror_copies.c.sha256 == versions.c.sha256,
            _THERE,
            mirror_copies.c.bad.is_(None),
        )
        return _LOST, there.exists()

    def _dump_copies(self, disk_id: int) -> tuple[int, dict[CopyHere, datetime]]:
        """How many copies of dumps are here, and those of them that are not on the disk, or bad there, since when."""
        here = [(copy, version) for dump, version in self._dumps.found(DumpState.STORED) for copy in dump_here(dump, version)]
        there = self._good_dumps(disk_id) if here else {}
        return len(here), {copy: version.stored_at for copy, version in here if there.get(copy.id) != copy.sha256}

    def _good_dumps(self, disk_id: int) -> dict[int, str]:
        query = sa.select(mirror_copies.c.version_id, mirror_copies.c.sha256)
        with self._database.reading() as connection:
            found = connection.execute(query.where(mirror_copies.c.disk_id == disk_id, _IS_DUMP, *_GOOD))
            return {row.version_id: row.sha256 for row in found}

    def _set(self, disk_id: int, version_ids: Iterable[int], **values: Any) -> None:
        for batch in in_batches(list(version_ids)):
            with self._database.writing() as connection:
                ours = (mirror_copies.c.disk_id == disk_id, mirror_copies.c.version_id.in_(batch), _THERE)
                connection.execute(sa.update(mirror_copies).where(*ours).values(**values))


def _missing_on(disk_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Of stored versions, those whose copy the disk has not, or has a bad one of."""
    there = sa.select(mirror_copies.c.version_id).where(
        mirror_copies.c.disk_id == disk_id,
        mirror_copies.c.version_id == versions.c.id,
        mirror_copies.c.sha256 == versions.c.sha256,
        _THERE,
        mirror_copies.c.bad.is_(None),
    )
    return _STORED, ~there.exists()


def _select_copies() -> sa.Select[Any]:
    known = sa.outerjoin(mirror_copies, versions, versions.c.id == mirror_copies.c.version_id)
    whose = known.outerjoin(files, files.c.id == versions.c.file_id)
    whose = whose.outerjoin(dump_versions, dump_versions.c.id == _DUMP_VERSION_ID).outerjoin(
        dumps, dumps.c.id == dump_versions.c.dump_id
    )
    of_dump = (dumps.c.bucket, dumps.c.name, dump_versions.c.number.label("dump_number"), dump_versions.c.state.label("dump_state"))
    return sa.select(mirror_copies, files.c.storage, files.c.key, versions.c.number, versions.c.state, *of_dump).select_from(whose)


def _select_dump_states(disk_id: int) -> sa.Select[Any]:
    """Of the dumps' copies on a disk: what the ledger calls each, since when it is gone, and how the dump stands here."""
    query = sa.select(mirror_copies.c.version_id, mirror_copies.c.gone_at, dump_versions.c.state)
    of = sa.join(mirror_copies, dump_versions, dump_versions.c.id == _DUMP_VERSION_ID)
    return query.select_from(of).where(mirror_copies.c.disk_id == disk_id, _IS_DUMP, _THERE)


def _pruned_dumps(connection: sa.Connection, copy_ids: Iterable[int]) -> list[int]:
    """Those of these copies whose dump is pruned, which stays so until the transaction ends."""
    of_dumps = [copy_id for copy_id in copy_ids if copy_id < 0]
    if not of_dumps:
        return []
    mine = dump_versions.c.id.in_({dump_version_of(copy_id)[0] for copy_id in of_dumps})
    query = sa.select(dump_versions.c.id).where(mine, dump_versions.c.state == DumpState.PRUNED.value)
    pruned = set(connection.scalars(query.order_by(dump_versions.c.id).with_for_update()))
    return [copy_id for copy_id in of_dumps if dump_version_of(copy_id)[0] in pruned]


def _copy_of(row: Any) -> MirrorCopy:
    is_dump = row.version_id < 0
    states: type[VersionState | DumpState] = DumpState if is_dump else VersionState
    state = row.dump_state if is_dump else row.state
    return MirrorCopy(
        disk_id=row.disk_id,
        version_id=row.version_id,
        sha256=row.sha256,
        location=row.location,
        storage=(row.bucket if is_dump else row.storage) or "",
        key=(row.name if is_dump else row.key) or "",
        number=(row.dump_number if is_dump else row.number) or 0,
        stored_sha256=row.stored_sha256,
        stored_size=row.stored_size,
        copied_at=row.copied_at,
        verified_at=row.verified_at,
        gone_at=row.gone_at,
        approved=row.approved,
        state=states(state) if state else None,
    )


def _disk_of(row: Any) -> MirrorDisk:
    return MirrorDisk(
        id=row.id,
        mirror=row.mirror,
        identity=row.identity,
        label=row.label,
        added_at=row.added_at,
        seen_at=row.seen_at,
        completed_at=row.completed_at,
        counted_at=row.counted_at,
        held=row.held,
        missing=row.missing,
        missing_since=row.missing_since,
        bad=row.bad,
        unknown=row.unknown,
        braked=row.braked,
    )
