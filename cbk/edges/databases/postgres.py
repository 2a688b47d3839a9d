"""Connections to PostgreSQL: what any of them needs, whatever the server, the database or the role is set to.

They wait for an answer for so long and no longer. Timeouts that the server keeps, and those of TCP, need the other end to be
reached or to be gone. Where something in between takes what is sent, and passes nothing on, only the clock on this side helps.

They speak UTF-8. A database in SQL_ASCII takes any bytes for text and checks none, so what it gives back may be no UTF-8.
"""

from __future__ import annotations

from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import adapt, errors, pq

# psycopg gives bytes for every text of a SQL_ASCII database unless it is told how to read it.
ENCODING = {"client_encoding": "utf8"}
_TEXT_TYPES = (0, "text", "varchar", "bpchar", "name")  # 0: a type that psycopg does not know


class RawText(bytes):
    """A text that is no UTF-8: bytes to who reads it, and a text to the database when it is sent back."""

    __slots__ = ()


class _RawTextDumper(adapt.Dumper):
    oid = 0  # the server takes it for whatever it is compared with
    format = pq.Format.TEXT

    def dump(self, obj: RawText) -> bytes:
        return bytes(obj)


class _LenientLoader(adapt.Loader):
    format = pq.Format.TEXT

    def load(self, data: Any) -> str | RawText:
        return text_or_raw(bytes(data))


def text_or_raw(raw: bytes) -> str | RawText:
    """The text that `raw` is in UTF-8; where it is none, the bytes, so that one value is odd and not a whole answer lost."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return RawText(raw)


def keep_odd_text(engine: sa.Engine) -> sa.Engine:
    """Have the engine's connections read text that is no UTF-8 as RawText: a SQL_ASCII database may hold it. Gives the engine."""

    @sa.event.listens_for(engine, "connect")
    def _adapt(connection: psycopg.Connection[Any], _record: Any) -> None:
        connection.adapters.register_dumper(RawText, _RawTextDumper)
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # In UTF-8 the server itself refuses whatever is none. What is sent stays UTF-8.
            connection.execute("SET client_encoding TO 'SQL_ASCII'")
            connection.commit()
            for name in _TEXT_TYPES:
                connection.adapters.register_loader(name, _LenientLoader)

    return engine


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
