"""How things stood over time."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import Instant, samples
from cbk.rules.status.samples import COARSE, FINE_FOR, KEPT_FOR, Sample


class Samples:
    """One row per sample, fewer of them the older they are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_at(self) -> datetime | None:
        """When the last one was noted."""
        with self._database.reading() as connection:
            found: datetime | None = connection.scalar(sa.select(sa.func.max(samples.c.at)))
        return found

    def since(self, instant: datetime) -> list[Sample]:
        """The samples from `instant` on, oldest first."""
        query = sa.select(samples).where(samples.c.at >= instant).order_by(samples.c.at)
        with self._database.reading() as connection:
            return [
                Sample(**{**row._mapping, "lag": timedelta(seconds=row.lag)})  # noqa: SLF001 - SQLAlchemy's documented name
                for row in connection.execute(query)
            ]

    def note(self, sample: Sample) -> None:
        """Add one, thin those that are old, and drop those that are very old or that a clock has dated which was ahead."""
        values = {column.name: getattr(sample, column.name) for column in samples.columns}
        with self._database.writing() as connection:
            connection.execute(sa.delete(samples).where(samples.c.at >= sample.at))
            connection.execute(sa.insert(samples).values(**values | {"lag": round(sample.lag.total_seconds())}))
            connection.execute(sa.delete(samples).where(samples.c.at < sample.at - KEPT_FOR))
            is_old = samples.c.at < sample.at - FINE_FOR
            slot = sa.type_coerce(samples.c.at, sa.BigInteger) // (COARSE // timedelta(milliseconds=1))
            first = sa.type_coerce(sa.func.min(samples.c.at), Instant)
            kept = sa.select(first).where(is_old).group_by(slot)
            connection.execute(sa.delete(samples).where(is_old, samples.c.at.not_in(kept)))
