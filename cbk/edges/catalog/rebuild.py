"""Putting into the catalog what the disk says: copies that it does not know, holds, and removals."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database import Database, in_batches
from cbk.edges.catalog.intake import mark_newest, name_digest, place_digest
from cbk.edges.catalog.schema import files, holds, removals, versions
from cbk.errors import CatalogUnavailable
from cbk.model import Hold, RemovalKind, VersionState
from cbk.rules.admin.rebuild import KnownFile, RebuildPlan
from cbk.rules.intake.intake import FileName
from cbk.rules.intake.layout import copy_location, place_key
from cbk.rules.retention.journal import JournalRemoval

# How a delete ended, or that it has not: what it covers is deleted all the same.
_IN_FORCE = ("", "done")


class Rebuilding:
    """Adds what is missing; what is known is never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Copies

    def known_locations(self, locations: Iterable[str]) -> set[str]:
        """Of these locations, those that are a version's which the catalog knows, in whatever state."""
        wanted = set(locations)
        digests = {place_digest(place_key(location.rpartition("/")[0])) for location in wanted}
        known: set[str] = set()
        with self._database.reading() as connection:
            for batch in in_batches(sorted(digests)):
                query = (
                    sa.select(files.c.place, versions.c.number).join_from(files, versions).where(files.c.place_digest.in_(batch))
                )
                known.update(copy_location(row.place, row.number) for row in connection.execute(query))
        return known & wanted

    def known_files(self, names: Iterable[FileName]) -> dict[FileName, KnownFile]:
        """Those of these files that the catalog knows."""
        digests = {name_digest(*name): name for name in names}
        found: dict[FileName, tuple[str, set[int]]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                query = (
                    sa.select(files.c.name_digest, files.c.place, versions.c.number)
                    .join_from(files, versions, isouter=True)
                    .where(files.c.name_digest.in_(batch))
                )
                for row in connection.execute(query):
                    found.setdefault(digests[row.name_digest], (row.place, set()))[1].add(row.number)
        return {name: KnownFile(place=place, numbers=numbers) for name, (place, numbers) in found.items()}

    def owners(self, place_keys: Iterable[str]) -> dict[str, FileName]:
        """Whose these places are, by place key, as far as they are anybody's."""
        digests = {place_digest(key): key for key in place_keys}
        found: dict[str, FileName] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                query = sa.select(files.c.place_digest, files.c.storage, files.c.key).where(files.c.place_digest.in_(batch))
                found.update({digests[row.place_digest]: (row.storage, row.key) for row in connection.execute(query)})
        return found

    def add(self, plan: RebuildPlan) -> None:
        """Add files and stored versions, in one transaction.

        What was not verified has no `verified_at`, so that a scrub reads it first. Raises CatalogUnavailable where another process
        added the same file in between: plan again.
        """
        if not plan.copies:
            return
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                if plan.files:
                    connection.execute(
                        sa.insert(files),
                        [
                            {
                                "storage": file.storage,
                                "key": file.key,
                                "bucket": file.bucket,
                                "place": file.place,
                                "name_digest": name_digest(file.storage, file.key),
                                "place_digest": place_digest(file.place_key),
                            }
                            for file in plan.files
                        ],
                    )
                ids = _file_ids(connection, {copy.file_name for copy in plan.copies})
                connection.execute(
                    sa.insert(versions),
                    [
                        {
                            "file_id": ids[copy.file_name],
                            "number": copy.row.number,
                            "source_id": copy.row.source_id,
                            "sha256": copy.row.sha256,
                            "content_type": copy.row.content_type,
                            "state": VersionState.STORED.value,
                            "newest": False,
                            "size": copy.found.header.size,
                            "stored_size": copy.found.stored_size,
                            "stored_sha256": copy.found.stored_sha256,
                            # A clock that was ahead when the copy was written must not make a file that nobody has seen yet.
                            "first_seen_at": min(copy.found.stored_at, now),
                            "stored_at": copy.found.stored_at,
                            "verified_at": now if copy.found.stored_sha256 else None,
                        }
                        for copy in plan.copies
                    ],
                )
                for batch in in_batches(sorted(set(ids.values()))):
                    mark_newest(connection, batch)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process took in the same files at the same time") from error

    # What the journal says

    def add_holds(self, kept: Iterable[Hold]) -> int:
        """Add the holds that are not there; returns how many."""
        added = 0
        with self._database.writing() as connection:
            for hold in kept:
                same = sa.select(holds.c.id).where(
                    holds.c.key == hold.key,
                    holds.c.is_prefix.is_(hold.is_prefix),
                    holds.c.storage.is_not_distinct_from(hold.storage),
                )
                if connection.scalar(same) is None:
                    values = {"storage": hold.storage, "key": hold.key, "is_prefix": hold.is_prefix, "until": hold.until}
                    created_at = hold.created_at or self._database.now_sql
                    connection.execute(sa.insert(holds).values(**values, reason=hold.reason, created_at=created_at))
                    added += 1
        return added

    def add_removals(self, journalled: Iterable[JournalRemoval]) -> int:
        """Add the removals that are not there, as they were, and mark what they cover; returns how many."""
        added = 0
        with self._database.writing() as connection:
            for batch in in_batches(list(journalled)):
                named = {(entry.storage, entry.key) for entry in batch if entry.storage is not None and entry.key is not None}
                ids = _file_ids(connection, named)
                for entry in batch:
                    file_id = ids.get((entry.storage or "", entry.key or ""))
                    if entry.kind is RemovalKind.REPLACED:
                        added += _add_replaced(connection, entry, file_id)
                    else:
                        added += _add_deleted(connection, entry, file_id)
        return added


def _file_ids(connection: sa.Connection, names: Iterable[FileName]) -> dict[FileName, int]:
    digests = {name_digest(*name): name for name in names}
    ids: dict[FileName, int] = {}
    for batch in in_batches(list(digests)):
        query = sa.select(files.c.id, files.c.name_digest).where(files.c.name_digest.in_(batch))
        ids.update({digests[row.name_digest]: row.id for row in connection.execute(query)})
    return ids


def _add_deleted(connection: sa.Connection, entry: JournalRemoval, file_id: int | None) -> bool:
    known = sa.select(removals.c.id).where(removals.c.delete_id == entry.delete_id)
    if entry.delete_id is None or connection.scalar(known) is not None:
        return False
    connection.execute(sa.insert(removals).values(**_values(entry), file_id=file_id, through=entry.through))
    if entry.outcome in _IN_FORCE and file_id is not None and entry.through is not None:
        covered = (versions.c.file_id == file_id, versions.c.number <= entry.through)
        connection.execute(sa.update(versions).where(*covered).values(deleted=True))
    return True


def _add_replaced(connection: sa.Connection, entry: JournalRemoval, file_id: int | None) -> bool:
    """Where the catalog has that version, and no removal of its own for it."""
    ours = (versions.c.file_id == file_id, versions.c.number == entry.number, versions.c.scheduled.is_(False))
    version_id = connection.scalar(sa.select(versions.c.id).where(*ours))
    if version_id is None or not entry.open:
        return False
    connection.execute(sa.insert(removals).values(**_values(entry), file_id=file_id, version_id=version_id))
    connection.execute(sa.update(versions).where(versions.c.id == version_id).values(scheduled=True))
    return True


def _values(entry: JournalRemoval) -> dict[str, Any]:
    return {
        "kind": entry.kind.value,
        "delete_id": entry.delete_id,
        "row_id": entry.row_id,
        "rows_through": entry.rows_through,
        "first_seen_at": entry.first_seen_at,
        "due_at": entry.due_at,
        "open": entry.open,
        "outcome": entry.outcome,
    }
