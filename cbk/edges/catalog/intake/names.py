"""What files are called, where that changes: earlier releases took some keys for another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches
from cbk.edges.catalog.database.schema import files, holds
from cbk.edges.catalog.intake.intake import name_digest
from cbk.edges.catalog.retention.holds import holds_in
from cbk.errors import CatalogUnavailable
from cbk.model import Hold
from cbk.rules.intake.intake import FileName


class FileNames:
    """Files by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def files_named(self, names: Iterable[FileName]) -> dict[FileName, int]:
        """The ids of those of these files that are known."""
        digests = {name_digest(*name): name for name in names}
        found: dict[FileName, int] = {}
        with self._database.reading() as connection:
            for batch in in_batches(sorted(digests)):
                query = sa.select(files.c.id, files.c.name_digest).where(files.c.name_digest.in_(batch))
                found.update({digests[row.name_digest]: row.id for row in connection.execute(query)})
        return found

    def rename(self, renamed: Mapping[FileName, str]) -> None:
        """Give each of these files another key. Its place stays, and so do its versions, removals and whatever holds it.

        Raises CatalogUnavailable where another process has added a file of the new name in between.
        """
        try:
            with self._database.writing() as connection:
                placed = holds_in(connection)
                for (storage, key), new_key in sorted(renamed.items()):
                    ours = files.c.name_digest == name_digest(storage, key)
                    values = {"key": new_key, "name_digest": name_digest(storage, new_key)}
                    connection.execute(sa.update(files).where(ours).values(**values))
                    for hold in _wanting(placed, storage, key, new_key):
                        same = {"storage": hold.storage, "key": hold.key, "is_prefix": hold.is_prefix, "until": hold.until}
                        created_at = hold.created_at or self._database.now_sql
                        connection.execute(sa.insert(holds).values(**same, reason=hold.reason, created_at=created_at))
                        placed.append(hold)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process took in a file of the same name at the same time") from error


def _wanting(placed: Iterable[Hold], storage: str, key: str, new_key: str) -> list[Hold]:
    """The holds without which what kept the file would not keep it any more under its new key."""
    ours = [hold for hold in placed if hold.storage in {None, storage}]
    wanting: list[Hold] = []
    for hold in ours:
        if not _names(hold, key) or _names(hold, new_key):
            continue
        # What follows the beginning of the key is the same in both.
        again = replace(hold, key=new_key[: len(new_key) - (len(key) - len(hold.key))])
        has_it = any(
            (each.key, each.is_prefix, each.storage, each.until) == (again.key, again.is_prefix, again.storage, again.until)
            for each in (*ours, *wanting)
        )
        if not has_it:
            wanting.append(again)
    return wanting


def _names(hold: Hold, key: str) -> bool:
    return key.startswith(hold.key) if hold.is_prefix else key == hold.key
