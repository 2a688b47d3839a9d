"""Connections to PostgreSQL that wait for an answer for so long and no longer.

Timeouts that the server keeps, and those of TCP, need the other end to be reached or to be gone. Where something in between takes
what is sent, and passes nothing on, only the clock on this side helps.
"""

from __future__ import annotations

from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors


class _Impatient(psycopg.Connection[Any]):
    patience_seconds: float

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for what `gen` waits for. Raises OperationalError, with the connection closed, once patience is at its end."""
        try:
            return super().wait(gen, *args, **{"timeout": self.patience_seconds} | kwargs)
        except errors._WaitTimeout:  # noqa: SLF001 - psycopg's documentation asks to convert it, and gives it no other name
            self.close()
            raise psycopg.OperationalError(f"no answer within {self.patience_seconds:g} s") from None


def limit_waiting(engine: sa.Engine, seconds: float) -> sa.Engine:
    """Have the engine's connections wait for each answer for so long at the most; gives the engine."""

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        connection = _Impatient.connect(*arguments, **options)
        connection.patience_seconds = seconds
        return connection

    return engine
