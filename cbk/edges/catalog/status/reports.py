"""What the catalog tells a person: counts for `status`, and every version for `ls`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.backup.link_deadlines import needs_another_link
from cbk.edges.catalog.database.database import BATCH, Database, begins_with, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import LOST, declined, files, versions
from cbk.edges.catalog.intake.intake import name_digest
from cbk.edges.catalog.status.version_counts import VersionCount, total_of, version_counts_in
from cbk.model import DeclinedRow, Proof, Version, VersionState
from cbk.rules.status.glob import compile_pattern, literal_start

VERSIONS_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How things stand, counted. `by_state` counts the newest version of each file that is not deleted; sizes are in bytes.

    `oldest_by_state` is when the first of those that are not stored was first seen; `deleted_files` are those whose delete waits
    for the end of its grace. `declined_files` are those of which the kit knows nothing but rows that it declined; `gone_files` have
    a copy and no row any more, though nobody deleted them.
    """

    by_state: dict[VersionState, int]
    oldest_by_state: dict[VersionState, datetime]
    declined_rows: int
    declined_files: int
    gone_files: int
    copies: int
    size: int
    stored_size: int
    oldest_unprotected_at: datetime | None
    newest_stored_seen_at: datetime | None
    oldest_declined_at: datetime | None
    deleted_files: int
    now: datetime
    # Of the protected files, how many are proved by less than a SHA-256.
    weaker: dict[Proof, int] = field(default_factory=dict)

    @property
    def by_proof(self) -> dict[Proof, int]:
        """The protected files by what proves that their copies are the application's bytes."""
        md5, first_seen = self.weaker.get(Proof.MD5, 0), self.weaker.get(Proof.FIRST_SEEN, 0)
        return {Proof.SHA256: self.protected - md5 - first_seen, Proof.MD5: md5, Proof.FIRST_SEEN: first_seen}

    @property
    def proved(self) -> int:
        """Files whose copies are proved to be the application's bytes: not those that are here as they were first seen."""
        return self.protected - self.weaker.get(Proof.FIRST_SEEN, 0)

    @property
    def files(self) -> int:
        """Files that the application's rows speak of."""
        return sum(self.by_state.values()) + self.declined_files

    @property
    def protected(self) -> int:
        """Files whose newest version is stored."""
        return self.by_state.get(VersionState.STORED, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCounts:
    """How one bucket stands: as `Counts`, but for its files alone."""

    bucket: str
    files: int
    protected: int
    copies: int
    size: int
    stored_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected:
    """Newest versions that are not stored, by state and reason: how many, and a few of them."""

    state: VersionState
    reason: str
    count: int
    examples: list[str] = field(default_factory=list)


# Files that have a copy and no row, though no delete covers it, and of which no person has said that this is right.
GONE = (
    versions.c.live.is_(False),
    versions.c.deleted.is_(False),
    versions.c.newest.is_(True),
    files.c.gone_accepted.is_(False),
)


class Report:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> Counts:
        """The counts at this moment, from one transaction."""
        with self._database.reading() as connection:
            counted = version_counts_in(connection)
            waiting = _unprotected_in(connection)
            stored = [count for count in counted if count.state is VersionState.STORED]
            by_state = {state: number for state, number, _ in waiting}
            protected = total_of(count for count in counted if count.is_protected)
            weaker = {Proof(proof): number for proof, number in connection.execute(_weaker())}
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            oldest = {state: first_seen_at for state, _, first_seen_at in waiting}
            return Counts(
                declined_files=connection.scalar(_declined_files()) or 0,
                gone_files=total_of(count for count in counted if count.is_gone),
                by_state=by_state | ({VersionState.STORED: protected} if protected else {}),
                oldest_by_state=oldest,
                declined_rows=connection.scalar(sa.select(sa.func.count()).select_from(declined)) or 0,
                copies=total_of(stored),
                size=sum(count.size for count in stored),
                stored_size=sum(count.stored_size for count in stored),
                oldest_unprotected_at=min(oldest.values(), default=None),
                newest_stored_seen_at=connection.scalar(_newest_stored_seen_at()),
                oldest_declined_at=connection.scalar(sa.select(sa.func.min(declined.c.first_seen_at))),
                deleted_files=total_of(count for count in counted if _waits_for_grace(count)),
                now=now,
                weaker=weaker,
            )

    def gone_and_live(self) -> tuple[int, int]:
        """How many files have a copy and no row any more, though nobody deleted them, and how many have rows."""
        with self._database.reading() as connection:
            counted = version_counts_in(connection)
        gone = total_of(count for count in counted if count.is_gone)
        return gone, total_of(count for count in counted if count.newest and count.live)

    def accept_gone(self) -> int:
        """A person says that files without rows are as they should be: their copies stay, and nobody is told of them any more."""
        lost = sa.select(versions.c.file_id).select_from(versions.join(files)).where(*GONE)
        with self._database.writing() as connection:
            return connection.execute(sa.update(files).where(files.c.id.in_(lost)).values(gone_accepted=True)).rowcount

    def buckets(self) -> list[BucketCounts]:
        """The same by bucket, in the order of their names."""
        by_bucket: dict[str, list[VersionCount]] = defaultdict(list)
        with self._database.reading() as connection:
            for count in version_counts_in(connection):
                by_bucket[count.bucket].append(count)
        return [_bucket_counts(bucket, counts) for bucket, counts in sorted(by_bucket.items())]

    def unprotected(self, *, groups: int = 20, examples: int = 3) -> list[Unprotected]:
        """Why files are not protected, the largest group first, at most `groups` of them."""
        waits = [versions.c.newest.is_(True), versions.c.deleted.is_(False), _in_any_state_but(VersionState.STORED)]
        grouped = (
            sa.select(versions.c.state, versions.c.reason, sa.func.count().label("number"))
            .where(*waits)
            .group_by(versions.c.state, versions.c.reason)
            .order_by(sa.desc("number"))
            .limit(groups)
        )
        found = []
        with self._database.reading() as connection:
            for state, reason, number in connection.execute(grouped).all():
                some = (
                    select_versions()
                    .where(*waits, versions.c.state == state, versions.c.reason == reason)
                    .order_by(versions.c.id)
                    .limit(examples)
                )
                labels = [version_of(row).label for row in connection.execute(some)]
                found.append(Unprotected(state=VersionState(state), reason=reason, count=number, examples=labels))
        return found

    def oldest_unprotected(self, limit: int) -> list[Version]:
        """The newest versions that are not stored, those first whose rows were seen first."""
        waits = (versions.c.newest.is_(True), versions.c.deleted.is_(False), _in_any_state_but(VersionState.STORED))
        query = select_versions().where(*waits).order_by(versions.c.first_seen_at, versions.c.id).limit(limit)
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def without_copy(self, limit: int) -> list[Version]:
        """Some of the versions that had a copy once, have none now, and that nobody is at."""
        idle = sa.or_(versions.c.holder.is_(None), versions.c.lease_until <= self._database.now_sql)
        query = select_versions().where(LOST, versions.c.deleted.is_(False), idle).order_by(versions.c.first_seen_at).limit(limit)
        with self._database.reading() as connection:
            return [version_of(row) for row in connection.execute(query)]

    def at_work(self, limit: int) -> list[tuple[str, list[Version]]]:
        """Who holds claims that have not run out, and on which versions: of `limit` of these, by the holders' names."""
        claimed = (versions.c.holder.is_not(None), versions.c.lease_until > self._database.now_sql)
        query = select_versions().add_columns(versions.c.holder).where(*claimed).order_by(versions.c.holder, versions.c.id)
        found: dict[str, list[Version]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query.limit(limit)):
                found.setdefault(row.holder, []).append(version_of(row))
        return list(found.items())

    def version(self, version_id: int) -> Version | None:
        """The version of this id."""
        with self._database.reading() as connection:
            row = connection.execute(select_versions().where(versions.c.id == version_id)).one_or_none()
        return version_of(row) if row else None

    def sha256_of(self, version_ids: Iterable[int]) -> dict[int, str]:
        """The SHA-256 of each of these versions."""
        found: dict[int, str] = {}
        with self._database.reading() as connection:
            for batch in in_batches(sorted(version_ids)):
                query = sa.select(versions.c.id, versions.c.sha256).where(versions.c.id.in_(batch))
                found.update({row.id: row.sha256 for row in connection.execute(query)})
        return found

    def newest_of(self, file_id: int) -> Version | None:
        """The newest version of the file of this id."""
        order = (versions.c.newest.desc(), versions.c.number.desc(), versions.c.id.desc())
        query = select_versions().where(versions.c.file_id == file_id).order_by(*order).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return version_of(row) if row else None

    def versions(
        self,
        *,
        storage: str | None = None,
        bucket: str | None = None,
        key: str | None = None,
        prefix: str | None = None,
        pattern: str | None = None,
        state: VersionState | None = None,
        newest: bool | None = None,
        deleted: bool | None = None,
        refresh: bool = False,
        gone: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Version]:
        """All versions, in the order in which they were first seen, page by page: memory stays flat.

        What is not None narrows them down: to keys that begin with `prefix`, to those that match `pattern` (`rules.patterns`), to
        the newest of each file or the others, to those that a delete covers or the others, to those that wait for another link
        (`refresh`), to those that have a copy and no row (`gone`), and to those that were stored
        at `since` or later and before `until`.
        """
        values = {
            files.c.storage: storage,
            files.c.bucket: bucket,
            files.c.key: key,
            versions.c.state: state and state.value,
            versions.c.newest: newest,
            versions.c.deleted: deleted,
        }
        query = select_versions().where(*(column == value for column, value in values.items() if value is not None))
        query = query.where(*(begins_with(files.c.key, start) for start in _starts(prefix, pattern)))
        if refresh:
            query = query.where(needs_another_link())
        if gone:
            query = query.where(*GONE)
        if since is not None:
            query = query.where(versions.c.stored_at >= since)
        if until is not None:
            query = query.where(versions.c.stored_at < until)
        matches = compile_pattern(pattern or "*").match
        last = 0
        while True:
            with self._database.reading() as connection:
                following = query.where(versions.c.id > last).order_by(versions.c.id).limit(VERSIONS_PAGE)
                page = [version_of(row) for row in connection.execute(following)]
            yield from (version for version in page if matches(version.key))
            if len(page) < VERSIONS_PAGE:
                return
            last = page[-1].id

    def pages_of_key(self, key: str, *, storage: str | None = None) -> Iterator[list[Version]]:
        """The versions of the file `key`, in `storage` or in each, newest first: a page of at most `BATCH` at a time."""
        query = select_versions().where(files.c.key == key)
        if storage is not None:
            query = query.where(files.c.name_digest == name_digest(storage, key))
        query = query.order_by(versions.c.file_id, versions.c.number.desc()).limit(BATCH)
        page: list[Version] = []
        while True:
            following = query
            if page:
                file_id, number = versions.c.file_id, versions.c.number
                older = (file_id == page[-1].file_id) & (number < page[-1].number)
                following = query.where((file_id > page[-1].file_id) | older)
            with self._database.reading() as connection:
                page = [version_of(row) for row in connection.execute(following)]
            if page:
                yield page
            if len(page) < BATCH:
                return

    def declined_rows(
        self, *, storage: str | None = None, key: str | None = None, prefix: str | None = None, pattern: str | None = None
    ) -> Iterator[DeclinedRow]:
        """Rows that cannot become a version, page by page; what is not None narrows them down, as in `versions`."""
        values = {declined.c.storage: storage, declined.c.key: key}
        query = sa.select(declined).where(*(column == value for column, value in values.items() if value is not None))
        query = query.where(*(begins_with(declined.c.key, start) for start in _starts(prefix, pattern)))
        matches = compile_pattern(pattern or "*").match
        last = ""
        while True:
            with self._database.reading() as connection:
                following = query.where(declined.c.source_id > last).order_by(declined.c.source_id).limit(VERSIONS_PAGE)
                page = connection.execute(following).all()
            for row in page:
                if matches(row.key):
                    yield DeclinedRow(
                        source_id=row.source_id, storage=row.storage, key=row.key, version=row.version, reason=row.reason
                    )
            if len(page) < VERSIONS_PAGE:
                return
            last = page[-1].source_id


def _unprotected_in(connection: sa.Connection) -> list[tuple[VersionState, int, datetime]]:
    """Of the newest versions that are not stored: their states, how many they are, and when the first of them was seen.

    Counted one by one, by an index: what is not protected is never a matter of sums that are kept.
    """
    waits = (versions.c.newest.is_(True), versions.c.deleted.is_(False), _in_any_state_but(VersionState.STORED))
    query = sa.select(versions.c.state, sa.func.count(), sa.func.min(versions.c.first_seen_at)).where(*waits)
    return [(VersionState(state), number, first) for state, number, first in connection.execute(query.group_by(versions.c.state))]


def _newest_stored_seen_at() -> sa.Select[Any]:
    protected = (versions.c.newest.is_(True), versions.c.deleted.is_(False), versions.c.state == VersionState.STORED.value)
    return sa.select(sa.func.max(versions.c.first_seen_at)).where(*protected)


def _waits_for_grace(count: VersionCount) -> bool:
    return count.newest and count.deleted and count.state is not VersionState.PRUNED


def _bucket_counts(bucket: str, counts: list[VersionCount]) -> BucketCounts:
    stored = [count for count in counts if count.state is VersionState.STORED]
    return BucketCounts(
        bucket=bucket,
        files=total_of(count for count in counts if count.is_wanted),
        protected=total_of(count for count in counts if count.is_protected),
        copies=total_of(stored),
        size=sum(count.size for count in stored),
        stored_size=sum(count.stored_size for count in stored),
    )


def _declined_files() -> sa.Select[Any]:
    """How many files there are that only declined rows speak of; a row whose name makes no sense stands for one."""
    counted = sa.exists().where(
        versions.c.file_id == declined.c.file_id, versions.c.newest.is_(True), versions.c.deleted.is_(False)
    )
    unnamed = sa.case((declined.c.key == "", declined.c.source_id), else_="")
    names = sa.select(declined.c.storage, declined.c.key, unnamed).where(~counted).distinct().subquery()
    return sa.select(sa.func.count()).select_from(names)


def _weaker() -> sa.Select[Any]:
    """How many protected files are proved by an MD5, and how many by nothing. By the index that holds no others."""
    # As it stands in the condition of the index: a plan is made before values are known.
    proofs = [sa.literal(proof.value, literal_execute=True) for proof in (Proof.MD5, Proof.FIRST_SEEN)]
    protected = (versions.c.newest.is_(True), versions.c.deleted.is_(False), versions.c.state == VersionState.STORED.value)
    counted = sa.select(versions.c.proof, sa.func.count()).where(versions.c.proof.in_(proofs), *protected)
    return counted.group_by(versions.c.proof)


def _in_any_state_but(state: VersionState) -> sa.ColumnElement[bool]:
    """By the states that are left: an index is looked into for each of them, where "not this one" is a look through all of it."""
    return versions.c.state.in_([other.value for other in VersionState if other is not state])


def _starts(prefix: str | None, pattern: str | None) -> list[str]:
    """What a key has to begin with, as far as the database can tell."""
    return [start for start in (prefix, literal_start(pattern) if pattern else None) if start]
