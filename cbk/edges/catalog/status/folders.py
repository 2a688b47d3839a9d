"""Looking into buckets and folders: a page of names at a time, whatever there is below them.

Object storage knows no folders: one is what keys have in common up to a slash. A folder is listed by jumping in the index from one
name to the next, and past all that a subfolder holds, so that a folder of two subfolders with a million files each costs two jumps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import KEY_HEAD_CHARACTERS, AnyText, files, versions
from cbk.model import Version

# Keys read at a time: a folder of files alone needs few reads, a jump past a subfolder wastes few keys.
ENTRIES_PER_QUERY = 50
# What follows "/" where text is compared byte by byte: no key of a folder comes after its name with this instead of the slash.
_AFTER_SLASH = chr(ord("/") + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a listing goes on: with the file of this key that has a higher id, or else with the next key."""

    key: str
    file_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """A subfolder, whose `name` ends in "/", or a file. `newest` is a file's newest version."""

    name: str
    file_id: int | None = None
    newest: Version | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderListing:
    """A page of a folder, and where the next one begins; None: this is the last."""

    entries: list[FolderEntry]
    following: Place | None


class Folders:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look_into(self, bucket: str, folder: str, *, start: Place | None = None, limit: int = 200) -> FolderListing:
        """At most `limit` entries of a folder (empty, or ending in "/"), byte by byte in order, from `start` on."""
        place = start if start is not None and start.key >= folder else Place(key=folder)
        found: list[FolderEntry] = []
        with self._database.reading() as connection:
            for entry, here in self._entries(connection, bucket, folder, place):
                if len(found) == limit:
                    return FolderListing(entries=self._with_versions(connection, found), following=here)
                found.append(entry)
            return FolderListing(entries=self._with_versions(connection, found), following=None)

    def _entries(self, connection: sa.Connection, bucket: str, folder: str, place: Place) -> Iterator[tuple[FolderEntry, Place]]:
        """Each entry with the place at which it is found again."""
        while True:
            rows = connection.execute(self._from(bucket, place)).all()
            inside = ""
            for row in rows:
                if not row.key.startswith(folder):
                    return
                if inside and row.key.startswith(inside):
                    continue
                name, slash, _ = row.key[len(folder) :].partition("/")
                inside = folder + name + slash if slash else ""
                entry = FolderEntry(name=name + slash, file_id=None if slash else row.id)
                yield entry, Place(key=inside) if slash else Place(key=row.key, file_id=row.id - 1)
                place = Place(key=inside[:-1] + _AFTER_SLASH) if slash else Place(key=row.key, file_id=row.id)
            if len(rows) < ENTRIES_PER_QUERY:
                return

    def _from(self, bucket: str, place: Place) -> sa.Select[Any]:
        key: sa.ColumnElement[str] = files.c.key
        start = sa.literal(place.key, AnyText)
        query = sa.select(files.c.id, files.c.key).where(files.c.bucket == bucket).limit(ENTRIES_PER_QUERY)
        if self._database.engine.dialect.name != "postgresql":
            here = (key > start) | (files.c.id > place.file_id)
            return query.where(key >= start, here).order_by(key, files.c.id)
        head = sa.func.substr(key, 1, KEY_HEAD_CHARACTERS, type_=AnyText).collate("C")
        key = key.collate("C")
        here = (key > start) | ((key == start) & (files.c.id > place.file_id))
        start_head = sa.func.substr(start, 1, KEY_HEAD_CHARACTERS, type_=AnyText)
        return query.where(head >= start_head, here).order_by(head, key, files.c.id)

    def _with_versions(self, connection: sa.Connection, entries: list[FolderEntry]) -> list[FolderEntry]:
        newest: dict[int, Version] = {}
        for batch in in_batches([entry.file_id for entry in entries if entry.file_id is not None]):
            query = select_versions().where(versions.c.file_id.in_(batch), versions.c.newest.is_(True))
            newest.update({row.file_id: version_of(row) for row in connection.execute(query)})
        return [
            entry
            if entry.file_id is None
            else FolderEntry(name=entry.name, file_id=entry.file_id, newest=newest.get(entry.file_id))
            for entry in entries
        ]
