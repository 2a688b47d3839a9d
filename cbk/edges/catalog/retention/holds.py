"""What a person wants kept, whatever the application deletes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, begins_with
from cbk.edges.catalog.database.schema import files, holds
from cbk.model import Hold


class Holds:
    """Holds by number."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: str, *, is_prefix: bool, storage: str | None, until: datetime | None, reason: str) -> Hold:
        """A new hold. The same one a second time only takes the later `until` and the new reason."""
        with self._database.writing(durable=True) as connection:
            same = (holds.c.key == key, holds.c.is_prefix.is_(is_prefix), holds.c.storage.is_not_distinct_from(storage))
            known = connection.execute(sa.select(holds).where(*same)).first()
            if known is not None:
                until = None if known.until is None or until is None else max(known.until, until)
                connection.execute(
                    sa.update(holds).where(holds.c.id == known.id).values(until=until, reason=reason or known.reason)
                )
                hold_id = known.id
            else:
                values = {"key": key, "is_prefix": is_prefix, "storage": storage, "until": until, "reason": reason}
                made = connection.execute(sa.insert(holds).values(**values, created_at=self._database.now_sql))
                assert made.inserted_primary_key is not None
                hold_id = made.inserted_primary_key[0]
            return _hold_of(connection.execute(sa.select(holds).where(holds.c.id == hold_id)).one())

    def all(self) -> list[Hold]:
        """All holds, oldest first, those that have ended as well."""
        with self._database.reading() as connection:
            return holds_in(connection)

    def release(self, hold_ids: list[int]) -> int:
        """End these holds; returns how many there were."""
        with self._database.writing(durable=True) as connection:
            return connection.execute(sa.delete(holds).where(holds.c.id.in_(hold_ids))).rowcount

    def names_a_file(self, key: str, storage: str | None) -> bool:
        """Whether the catalog knows a file of this very key."""
        query = sa.select(files.c.id).where(files.c.key == key)
        if storage is not None:
            query = query.where(files.c.storage == storage)
        with self._database.reading() as connection:
            return connection.scalar(query.limit(1)) is not None

    def files_under(self, hold: Hold) -> int:
        """How many files of the catalog it keeps."""
        named = begins_with(files.c.key, hold.key) if hold.is_prefix else files.c.key == hold.key
        query = sa.select(sa.func.count()).select_from(files).where(named)
        if hold.storage is not None:
            query = query.where(files.c.storage == hold.storage)
        with self._database.reading() as connection:
            return connection.scalar(query) or 0


def holds_in(connection: sa.Connection) -> list[Hold]:
    """All holds, in the caller's transaction."""
    return [_hold_of(row) for row in connection.execute(sa.select(holds).order_by(holds.c.id))]


def _hold_of(row: Any) -> Hold:
    return Hold(
        id=row.id,
        key=row.key,
        is_prefix=row.is_prefix,
        storage=row.storage,
        until=row.until,
        reason=row.reason,
        created_at=row.created_at,
    )
