"""Putting into the catalog what the disk says: copies that it does not know, holds, and removals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import covers, files, holds, removals, rows, versions
from cbk.edges.catalog.database.transitions import mark_newest, refresh_versions
from cbk.edges.catalog.intake.intake import name_digest, place_digest
from cbk.edges.catalog.intake.rows import DELETES_STREAM, count_rows, number_in
from cbk.edges.catalog.retention.removals import IN_FORCE
from cbk.errors import CatalogUnavailable
from cbk.model import Hold, RemovalKind, Version, VersionState
from cbk.rules.admin.rebuild import KnownFile, RebuildPlan
from cbk.rules.intake.intake import FileName
from cbk.rules.intake.layout import copy_location, former_keys, location_of, names_file, place_key
from cbk.rules.retention.journal import JournalRemoval


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
                    sa.select(files.c.place, versions.c.number, versions.c.variant)
                    .join_from(files, versions)
                    .where(files.c.place_digest.in_(batch))
                )
                known.update(copy_location(row.place, row.number, row.variant) for row in connection.execute(query))
        return known & wanted

    def without_copy(self, locations: Iterable[str]) -> list[Version]:
        """The versions of these locations that count for none in the catalog, and that nobody has pruned."""
        wanted = set(locations)
        digests = {place_digest(place_key(location.rpartition("/")[0])) for location in wanted}
        uncounted = versions.c.state.not_in([VersionState.STORED.value, VersionState.PRUNED.value])
        found: list[Version] = []
        with self._database.reading() as connection:
            for batch in in_batches(sorted(digests)):
                query = select_versions().where(files.c.place_digest.in_(batch), uncounted)
                found += [version for row in connection.execute(query) if location_of(version := version_of(row)) in wanted]
        return found

    def known_files(self, names: Iterable[FileName]) -> dict[FileName, KnownFile]:
        """Those of these files that the catalog knows."""
        digests = {name_digest(*name): name for name in names}
        found: dict[FileName, tuple[str, set[tuple[int, str]]]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                query = (
                    sa.select(files.c.name_digest, files.c.place, versions.c.number, versions.c.sha256)
                    .join_from(files, versions, isouter=True)
                    .where(files.c.name_digest.in_(batch))
                )
                for row in connection.execute(query):
                    _, known = found.setdefault(digests[row.name_digest], (row.place, set()))
                    if row.number is not None:
                        known.add((row.number, row.sha256))
        return {name: KnownFile(place=place, versions=known) for name, (place, known) in found.items()}

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
                            "md5": copy.found.header.md5,
                            "proof": copy.found.header.proof.value,
                            "variant": copy.variant,
                            # Its rows are read next.
                            "live": False,
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
                ids = _file_ids(connection, {(storage, each) for storage, key in named for each in (key, *former_keys(key))})
                for entry in batch:
                    file_id = _file_of(connection, entry, ids)
                    if entry.kind is RemovalKind.REPLACED:
                        added += _add_replaced(connection, entry, file_id)
                    else:
                        added += _add_deleted(self._database, connection, entry, file_id)
        return added


def _file_ids(connection: sa.Connection, names: Iterable[FileName]) -> dict[FileName, int]:
    digests = {name_digest(*name): name for name in names}
    ids: dict[FileName, int] = {}
    for batch in in_batches(list(digests)):
        query = sa.select(files.c.id, files.c.name_digest).where(files.c.name_digest.in_(batch))
        ids.update({digests[row.name_digest]: row.id for row in connection.execute(query)})
    return ids


def _file_of(connection: sa.Connection, entry: JournalRemoval, ids: Mapping[FileName, int]) -> int | None:
    """The file of a removal; it may have had another key when its copies were written, or when the journal was."""
    if entry.storage is None or entry.key is None:
        return None
    for key in (entry.key, *former_keys(entry.key)):
        if (entry.storage, key) in ids:
            return ids[entry.storage, key]
    for source_id, number, sha256 in entry.covers:
        query = sa.select(versions.c.file_id, files.c.key).join_from(rows, versions, rows.c.version_id == versions.c.id).join(files)
        brought = (rows.c.source_id == source_id, versions.c.number == number, versions.c.sha256 == sha256)
        for row in connection.execute(query.where(*brought, files.c.storage == entry.storage)):
            if names_file(entry.key, row.key):
                return int(row.file_id)
    return None


def _add_deleted(database: Database, connection: sa.Connection, entry: JournalRemoval, file_id: int | None) -> bool:
    known = sa.select(removals.c.id).where(removals.c.delete_id == entry.delete_id)
    if entry.delete_id is None or connection.scalar(known) is not None:
        return False
    values = _values(entry) | {"delete_id": entry.delete_id, "row_id": entry.row_id, "deleted_at": entry.deleted_at}
    inserted = connection.execute(sa.insert(removals).values(**values, file_id=file_id, through=entry.through)).inserted_primary_key
    assert inserted is not None
    count_rows(connection, DELETES_STREAM, 1, number_in(entry.delete_id))
    if file_id is None or entry.outcome not in IN_FORCE:
        return True
    touched = set()
    for source_id, number, sha256 in entry.covers:
        version_id = _version_of(connection, file_id, number, sha256)
        if version_id is not None:
            row_id = _entry_of(database, connection, source_id=source_id, version_id=version_id, file_id=file_id, number=number)
            connection.execute(sa.insert(covers).values(removal_id=inserted[0], row_id=row_id))
            touched.add(version_id)
    refresh_versions(database, connection, touched)
    return True


def _version_of(connection: sa.Connection, file_id: int, number: int, sha256: str) -> int | None:
    """The version that the journal names. One whose row has no SHA-256 may have got it since, or have lost it with its copy."""
    query = sa.select(versions.c.sha256, versions.c.id).where(versions.c.file_id == file_id, versions.c.number == number)
    known = {row.sha256: row.id for row in connection.execute(query)}
    only = next(iter(known.values()), None) if len(known) == 1 and not sha256 else None
    return known.get(sha256, known.get("", only))


def _entry_of(database: Database, connection: sa.Connection, *, source_id: str, version_id: int, file_id: int, number: int) -> int:
    """The entry of a row that brought this version; one that is gone by now is noted as such."""
    same = sa.select(rows.c.id).where(rows.c.source_id == source_id, rows.c.version_id == version_id)
    known: int | None = connection.scalar(same.order_by(rows.c.id).limit(1))
    if known is not None:
        return known
    now = database.now_sql
    values = {"source_id": source_id, "version_id": version_id, "file_id": file_id, "number": number, "poll": 0}
    inserted = connection.execute(sa.insert(rows).values(**values, first_seen_at=now, gone_at=now)).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def _add_replaced(connection: sa.Connection, entry: JournalRemoval, file_id: int | None) -> bool:
    """Where the catalog has that version, and no removal of its own for it."""
    ours = [versions.c.file_id == file_id, versions.c.number == entry.number, versions.c.scheduled.is_(False)]
    if entry.sha256 is not None:
        ours.append(versions.c.sha256 == entry.sha256)
    version_id = connection.scalar(sa.select(versions.c.id).where(*ours).order_by(versions.c.id).limit(1))
    if version_id is None or not entry.open:
        return False
    connection.execute(sa.insert(removals).values(**_values(entry), file_id=file_id, version_id=version_id))
    connection.execute(sa.update(versions).where(versions.c.id == version_id).values(scheduled=True))
    return True


def _values(entry: JournalRemoval) -> dict[str, Any]:
    return {
        "kind": entry.kind.value,
        "first_seen_at": entry.first_seen_at,
        "due_at": entry.due_at,
        "open": entry.open,
        "outcome": entry.outcome,
    }
