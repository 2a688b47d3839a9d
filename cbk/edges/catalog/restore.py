"""What a restore chooses from: files with all their versions, and when they were deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import BATCH, Database, begins_with, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import files, removals, rows, versions
from cbk.edges.catalog.intake.intake import name_digest
from cbk.edges.catalog.retention.removals import IN_FORCE
from cbk.model import RemovalKind, Version, VersionState
from cbk.rules.backup.hashes import Hashes
from cbk.rules.restore import Deletion, RestoreFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHistory:
    """A file's versions, in no order, when the rows of each were first seen, by its id, and the file's deletions."""

    versions: list[Version] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    brought_at: dict[int, list[datetime]] = field(default_factory=dict)


class Selection:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_file_id(self) -> int:
        """The id of the file that was added last, 0 where there is none: `files` up to it are the same ones each time."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(files.c.id))) or 0

    def files(self, restore_filter: RestoreFilter, *, through: int) -> Iterator[FileHistory]:
        """The files with an id up to `through` that match, in the order of their ids, page by page: memory stays flat."""
        query = _named(sa.select(files.c.id), restore_filter).order_by(files.c.id).limit(BATCH)
        last = 0
        while True:
            with self._database.reading() as connection:
                page = list(connection.scalars(query.where(files.c.id > last, files.c.id <= through)))
                known = _known(connection, page)
            yield from (known[file_id] for file_id in page)
            if len(page) < BATCH:
                return
            last = page[-1]

    def file(self, file_id: int) -> FileHistory:
        """One file as it is now."""
        with self._database.reading() as connection:
            return _known(connection, [file_id])[file_id]

    def stored_hashes(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str, int], set[Hashes]]:
        """The hashes of the copies that these files (storage and key) have, by storage, key and version."""
        digests = {name_digest(*name): name for name in names}
        found: dict[tuple[str, str, int], set[Hashes]] = {}
        query = sa.select(files.c.name_digest, versions.c.number, versions.c.sha256, versions.c.md5).join_from(files, versions)
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                wanted = (files.c.name_digest.in_(batch), versions.c.state == VersionState.STORED.value)
                for row in connection.execute(query.where(*wanted)):
                    found.setdefault((*digests[row.name_digest], row.number), set()).add(Hashes(sha256=row.sha256, md5=row.md5))
        return found


def _named(query: sa.Select[Any], restore_filter: RestoreFilter) -> sa.Select[Any]:
    if restore_filter.storage is not None and restore_filter.key is not None:
        return query.where(files.c.name_digest == name_digest(restore_filter.storage, restore_filter.key))
    for column, wanted in (
        (files.c.storage, restore_filter.storage),
        (files.c.bucket, restore_filter.bucket),
        (files.c.key, restore_filter.key),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    return query if restore_filter.prefix is None else query.where(begins_with(files.c.key, restore_filter.prefix))


def _known(connection: sa.Connection, file_ids: Sequence[int]) -> dict[int, FileHistory]:
    known = {file_id: FileHistory() for file_id in file_ids}
    for row in connection.execute(select_versions().where(versions.c.file_id.in_(file_ids))):
        known[row.file_id].versions.append(version_of(row))
    brought = sa.select(rows.c.file_id, rows.c.version_id, rows.c.first_seen_at)
    for row in connection.execute(brought.where(rows.c.file_id.in_(file_ids), rows.c.version_id.is_not(None))):
        known[row.file_id].brought_at.setdefault(row.version_id, []).append(row.first_seen_at)
    ended_at = sa.case((removals.c.outcome.not_in(IN_FORCE), removals.c.closed_at)).label("ended_at")
    deleted = sa.select(removals.c.file_id, removals.c.through, removals.c.first_seen_at, ended_at).where(
        removals.c.file_id.in_(file_ids), removals.c.kind == RemovalKind.DELETED.value, removals.c.through.is_not(None)
    )
    for row in connection.execute(deleted):
        deletion = Deletion(through=row.through, seen_at=row.first_seen_at, ended_at=row.ended_at)
        known[row.file_id].deletions.append(deletion)
    return known
