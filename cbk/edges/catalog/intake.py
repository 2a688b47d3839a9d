"""Taking in rows: what is known of them, and writing what a plan adds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database import Database, in_batches
from cbk.edges.catalog.removals import cover_late_versions
from cbk.edges.catalog.schema import declined, dumps, files, marks, removals, versions
from cbk.errors import CatalogUnavailable
from cbk.model import DeclinedRow, VersionState
from cbk.rules.intake.intake import FileName, IntakePlan, KnownVersion
from cbk.rules.intake.rows import ID_MAX_CHARACTERS


def name_digest(storage: str, key: str) -> str:
    """The SHA-256, in hex, that a file is unique by."""
    return _digest(f"{storage}\0{key}")


def place_digest(key_of_place: str) -> str:
    """The SHA-256, in hex, that a place is unique by, from its `layout.place_key`."""
    return _digest(key_of_place)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Intake:
    """Files and versions on their way into the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known_rows(self, source_ids: Iterable[str]) -> set[tuple[str, str, str, int, str]]:
        """What rows with these ids have brought so far: (id, storage, key, number, sha256). A row changed in place brings more."""
        known: set[tuple[str, str, str, int, str]] = set()
        with self._database.reading() as connection:
            for batch in in_batches(list(source_ids)):
                query = (
                    sa.select(versions.c.source_id, files.c.storage, files.c.key, versions.c.number, versions.c.sha256)
                    .join_from(versions, files)
                    .where(versions.c.source_id.in_(batch))
                )
                known.update(tuple(row) for row in connection.execute(query))
        return known

    def known_versions(self, names: Iterable[FileName]) -> dict[FileName, dict[int, KnownVersion]]:
        """The versions, by number, of those of these files that are known."""
        digests = {name_digest(*name): name for name in names}
        known: dict[FileName, dict[int, KnownVersion]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                query = (
                    sa.select(files.c.name_digest, versions.c.number, versions.c.source_id, versions.c.sha256)
                    .join_from(files, versions, isouter=True)
                    .where(files.c.name_digest.in_(batch))
                )
                for row in connection.execute(query):
                    numbers = known.setdefault(digests[row.name_digest], {})
                    if row.number is not None:
                        numbers[row.number] = KnownVersion(source_id=row.source_id, sha256=row.sha256)
        return known

    def occupied_places(self, place_keys: Iterable[str]) -> set[str]:
        """Of these place keys, those that are a file's or a dump's already."""
        digests = {place_digest(place): place for place in place_keys}
        taken: set[str] = set()
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                for table in (files, dumps):
                    query = sa.select(table.c.place_digest).where(table.c.place_digest.in_(batch))
                    taken.update(digests[digest] for digest in connection.scalars(query))
        return taken

    def write(self, plan: IntakePlan, refused: Iterable[DeclinedRow] = (), *, grace: timedelta) -> list[int]:
        """Write what the plan adds, in one transaction; return the ids of the files that now have several versions.

        A version that a delete covers already, because its row committed late, is deleted too: `grace` from now.

        The only version of a file is due at once. Files of several versions need `rules.wanted` to say which of them is.
        Raises CatalogUnavailable where another process added the same file in between: gather and plan again.
        """
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                ids = self._write_files(connection, plan)
                several = self._write_versions(connection, plan, ids, now)
                cover_late_versions(connection, several, now, grace)
                self._write_declined(connection, [*plan.declined, *refused], now)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process took in the same rows at the same time") from error
        return several

    def _write_files(self, connection: sa.Connection, plan: IntakePlan) -> Mapping[FileName, int]:
        added = [
            {
                "storage": file.storage,
                "key": file.key,
                "bucket": file.bucket,
                "place": file.place,
                "name_digest": name_digest(file.storage, file.key),
                "place_digest": place_digest(file.place_key),
            }
            for file in plan.files
        ]
        if added:
            connection.execute(sa.insert(files), added)
        digests = {name_digest(version.storage, version.key): (version.storage, version.key) for version in plan.versions}
        ids: dict[FileName, int] = {}
        for batch in in_batches(list(digests)):
            query = sa.select(files.c.id, files.c.name_digest).where(files.c.name_digest.in_(batch))
            ids.update({digests[row.name_digest]: row.id for row in connection.execute(query)})
        return ids

    def _write_versions(self, connection: sa.Connection, plan: IntakePlan, ids: Mapping[FileName, int], now: datetime) -> list[int]:
        if not plan.versions:
            return []
        # Two intakes that each add a version to one file would both call theirs the newest: the second one waits here.
        locked = sa.select(files.c.id).order_by(files.c.id).with_for_update()
        for batch in in_batches(sorted(set(ids.values()))):
            connection.execute(locked.where(files.c.id.in_(batch)))
        fresh = {(file.storage, file.key) for file in plan.files}
        counts: dict[FileName, int] = {}
        for version in plan.versions:
            name = (version.storage, version.key)
            counts[name] = counts.get(name, 0) + 1
        alone = {name for name, count in counts.items() if count == 1 and name in fresh}
        connection.execute(
            sa.insert(versions),
            [
                {
                    "file_id": ids[version.storage, version.key],
                    "number": version.number,
                    "source_id": version.source_id,
                    "sha256": version.sha256,
                    "content_type": version.content_type,
                    "state": VersionState.PENDING.value,
                    "reason": "waits to be fetched" if (version.storage, version.key) in alone else "",
                    "newest": (version.storage, version.key) in alone,
                    "link_digest": version.link_digest,
                    "link_expires_at": version.link_expires_at,
                    "due_at": now if (version.storage, version.key) in alone else None,
                    "first_seen_at": now,
                }
                for version in plan.versions
            ],
        )
        several = sorted(ids[name] for name in counts if name not in alone)
        for batch in in_batches(several):
            mark_newest(connection, batch)
        return several

    def _write_declined(self, connection: sa.Connection, rows: list[DeclinedRow], now: datetime) -> None:
        for batch in in_batches(rows):
            # A row whose file was deleted need not be mended any more.
            deleted = set(connection.scalars(_deleted_rows([row.source_id for row in batch])))
            wanting = {row.source_id: row for row in batch if row.source_id not in deleted}
            query = sa.select(declined.c.source_id, declined.c.first_seen_at).where(declined.c.source_id.in_(wanting))
            first_seen = {row.source_id: row.first_seen_at for row in connection.execute(query)}
            connection.execute(sa.delete(declined).where(declined.c.source_id.in_([row.source_id for row in batch])))
            if wanting:
                connection.execute(
                    sa.insert(declined),
                    [
                        {
                            "source_id": row.source_id,
                            "storage": row.storage,
                            "key": row.key,
                            "version": row.version,
                            "reason": row.reason,
                            "first_seen_at": first_seen.get(row.source_id, now),
                            "checked_at": now,
                        }
                        for row in wanting.values()
                    ],
                )

    def declined_ids(self, limit: int) -> list[str]:
        """Ids of declined rows that can be read again, longest unchecked first. An overlong Id was shortened: it names no row."""
        whole = sa.func.length(declined.c.source_id) < ID_MAX_CHARACTERS
        query = sa.select(declined.c.source_id).where(whole).order_by(declined.c.checked_at).limit(limit)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def clear_declined(self, source_ids: Iterable[str]) -> None:
        """Forget that these rows were declined: they are gone, or make sense now."""
        with self._database.writing() as connection:
            for batch in in_batches(list(source_ids)):
                connection.execute(sa.delete(declined).where(declined.c.source_id.in_(batch)))

    def settled_id(self, stream: str, settle: timedelta) -> int | None:
        """The highest Id of "files" or "deletes" that was seen at least `settle` ago: rows up to it are taken in for good.

        None: nothing is yet.
        """
        with self._database.reading() as connection:
            now = connection.scalar(sa.select(self._database.now_sql))
            assert isinstance(now, datetime)
            settled = sa.select(sa.func.max(marks.c.highest_id)).where(marks.c.stream == stream, marks.c.seen_at <= now - settle)
            highest: int | None = connection.scalar(settled)
            return highest

    def highest_id(self, stream: str) -> int | None:
        """The highest Id that was ever seen."""
        with self._database.reading() as connection:
            highest: int | None = connection.scalar(sa.select(sa.func.max(marks.c.highest_id)).where(marks.c.stream == stream))
            return highest

    def mark(self, stream: str, highest_id: int) -> None:
        """Note that all rows up to this Id that were visible now are taken in. Only a higher Id than before is news."""
        ours = marks.c.stream == stream
        with self._database.writing() as connection:
            known = connection.scalar(sa.select(sa.func.max(marks.c.highest_id)).where(ours))
            # A clock that was once ahead must not make rows look settled, or never settle.
            ahead = marks.c.seen_at > self._database.now_sql
            connection.execute(sa.delete(marks).where(ours, ahead, marks.c.highest_id < (known or 0)))
            if known is None or highest_id > known:
                connection.execute(sa.insert(marks).values(stream=stream, highest_id=highest_id, seen_at=self._database.now_sql))

    def drop_marks_below(self, stream: str, highest_id: int) -> None:
        """Forget marks that no poll can need any more."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(marks).where(marks.c.stream == stream, marks.c.highest_id < highest_id))


def _deleted_rows(source_ids: list[str]) -> sa.Select[Any]:
    return sa.select(removals.c.row_id).where(removals.c.row_id.in_(source_ids), removals.c.outcome.in_(("", "done", "unknown")))


def mark_newest(connection: sa.Connection, file_ids: list[int]) -> None:
    """Note which version of each of these files (at most a batch) has the highest number, in the caller's transaction."""
    other = versions.alias()
    highest = sa.select(sa.func.max(other.c.number)).where(other.c.file_id == versions.c.file_id).scalar_subquery()
    connection.execute(sa.update(versions).where(versions.c.file_id.in_(file_ids)).values(newest=versions.c.number == highest))
