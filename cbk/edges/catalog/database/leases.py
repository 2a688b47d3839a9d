"""Work that only one worker does at a time, and single facts."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import facts, leases


class Leases:
    """Named leases, for `holder`. One ends by itself when its holder falls silent."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    def for_one(self) -> Leases:
        """The leases of one piece of work: another one of the same process is a holder of its own."""
        return Leases(self._database, f"{self._holder}-{uuid4().hex[:8]}")

    def acquire(self, name: str, duration: timedelta) -> bool:
        """Take the lease, or renew it where it is ours; False where another holder has it."""
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                # No lease lasts longer than its duration: one that seems to was taken while a clock was ahead.
                ours = sa.or_(leases.c.holder == self._holder, leases.c.until <= now, leases.c.until > now + duration)
                values = {"holder": self._holder, "until": now + duration}
                if connection.execute(sa.update(leases).where(leases.c.name == name, ours).values(**values)).rowcount:
                    return True
                if connection.scalar(sa.select(leases.c.name).where(leases.c.name == name)):
                    return False
                connection.execute(sa.insert(leases).values(name=name, **values))
        except IntegrityError:
            return False  # another worker made the same lease in this instant
        return True

    def is_held(self, name: str) -> bool:
        """Whether anybody has this lease now."""
        with self._database.reading() as connection:
            mine = (leases.c.name == name, leases.c.until > self._database.now_sql)
            return connection.scalar(sa.select(leases.c.name).where(*mine)) is not None

    def release(self, name: str) -> None:
        """Give the lease back, if it is ours."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == self._holder))


class Facts:
    """Single facts by name."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = postgresql.insert if database.engine.dialect.name == "postgresql" else sqlite.insert

    def get(self, name: str) -> str | None:
        """The fact's value, None where it is not known."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(facts.c.value).where(facts.c.name == name))

    def all(self) -> dict[str, str]:
        """All facts."""
        with self._database.reading() as connection:
            return {row.name: row.value for row in connection.execute(sa.select(facts.c.name, facts.c.value))}

    def set(self, **values: str | None) -> None:
        """Note facts; None forgets one. Of two who note the same fact at once, the later one counts."""
        with self._database.writing() as connection:
            gone = [name for name, value in values.items() if value is None]
            connection.execute(sa.delete(facts).where(facts.c.name.in_(gone)))
            # In one order, so that two who note the same facts at once do not wait for each other for ever.
            added = [{"name": name, "value": value} for name, value in sorted(values.items()) if value is not None]
            if added:
                statement = self._insert(facts)
                newer = statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value})
                connection.execute(newer, added)
