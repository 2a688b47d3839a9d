"""Ids as text: the kit keeps every Id as text, the database compares them as what they are.

`Ids` is for PostgreSQL, MySQL and MariaDB, where the type of a column binds every value. SQLite's are in `sqlite_ids`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BINARY,
    CHAR,
    VARBINARY,
    ColumnElement,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Text,
    Uuid,
    cast,
    func,
    literal,
    or_,
    type_coerce,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine, UserDefinedType

from cbk.edges.databases.postgres import RawText

# A text that is no UTF-8 is written so; a text that reads like that has "text:" in front.
_RAW = re.compile(r"bytes:((?:[0-9a-f]{2})+)")
_LIKE_RAW = re.compile(r"(?:text:)*bytes:(?:[0-9a-f]{2})+")
_INTEGER = re.compile(r"-?[0-9]{1,65}")
_BIGINT = (-(2**63), 2**63 - 1)
_MYSQL_BIGINT = (-(2**63), 2**64 - 1)
_DECIMAL = (1 - 10**65, 10**65 - 1)  # what MySQL's DECIMAL holds; PostgreSQL's numeric holds more


class AsItIs(UserDefinedType[Any]):
    """What a driver makes of a Python value and gives back of a column, with nothing added: no cast that a value may not fit."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """No column is ever made of it. Raises NotImplementedError."""
        raise NotImplementedError


class IdKind(StrEnum):
    """What an Id is in the database; `OTHER` is compared as the text that the database prints."""

    INTEGER = "integer"
    UUID = "uuid"
    BINARY = "binary"
    TEXT = "text"
    OTHER = "other"

    @classmethod
    def of(cls, column_type: TypeEngine[Any]) -> IdKind:
        """The kind that a column of this type holds."""
        kinds: tuple[tuple[IdKind, tuple[type[TypeEngine[Any]], ...]], ...] = (
            (cls.OTHER, (Float, Enum, postgresql.CITEXT)),
            (cls.INTEGER, (Integer, Numeric)),
            (cls.UUID, (Uuid,)),
            (cls.BINARY, (LargeBinary, BINARY, VARBINARY)),
            (cls.TEXT, (String,)),
        )
        return next((kind for kind, types in kinds if isinstance(column_type, types)), cls.OTHER)


@dataclass(frozen=True, slots=True)
class Ids:
    """The Ids of one column. `to_text` and `from_text` are each other's inverse.

    `bounds` are the lowest and the highest integer; `may_be_odd`: numbers may have a fraction, or be none; `is_padded`: spaces at
    the end mean nothing; `is_bits`: a number to us, and bytes to the driver.
    """

    kind: IdKind
    dialect: str = "postgresql"
    bounds: tuple[int, int] = _BIGINT
    may_be_odd: bool = False
    is_padded: bool = False
    is_bits: bool = False

    @classmethod
    def of(cls, column_type: TypeEngine[Any], dialect: str) -> Ids:
        """The Ids of a column of this type."""
        is_postgresql = dialect == "postgresql"
        if isinstance(column_type, mysql.BIT):
            return cls(IdKind.INTEGER, dialect, _MYSQL_BIGINT, is_bits=True)
        bigint = _BIGINT if is_postgresql else _MYSQL_BIGINT
        return cls(
            kind=IdKind.of(column_type),
            dialect=dialect,
            bounds=bigint if isinstance(column_type, Integer) else _DECIMAL,
            may_be_odd=isinstance(column_type, Numeric) and (is_postgresql or column_type.scale != 0),
            is_padded=is_postgresql and isinstance(column_type, CHAR),
        )

    @property
    def compares_as_itself(self) -> bool:
        """Whether what is unique in the column is unique here: as text, two values may be equal (in capitals or not, say)."""
        return self.kind is not IdKind.OTHER

    def column(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is read, compared and ordered by."""
        if self.kind is IdKind.OTHER:
            as_text = cast(column, Text)
            return type_coerce(as_text.collate("C") if self.dialect == "postgresql" else as_text, AsItIs())
        number = cast(column, mysql.BIGINT(unsigned=True)) if self.is_bits else column
        return type_coerce(number, AsItIs())

    def bind(self, value: Any) -> ColumnElement[Any]:
        """A value of `from_text`, or one that was read, as a parameter."""
        if isinstance(value, UUID) and self.dialect != "postgresql":
            value = str(value)
        return literal(value, AsItIs())

    def unaddressable(self, key: ColumnElement[Any]) -> ColumnElement[bool] | None:
        """The condition that a row cannot be asked for by its Id; None where that holds for none but NULL."""
        if not self.may_be_odd or self.kind is not IdKind.INTEGER:
            return None
        has_fraction = key != func.floor(key)
        if self.dialect != "postgresql":
            return has_fraction
        return or_(has_fraction, cast(key, Text).in_(["NaN", "Infinity", "-Infinity"]))

    def to_text(self, value: object) -> str | None:
        """An Id as text; None for NULL, and for a number that is not whole."""
        match value:
            case None:
                return None
            case RawText():
                return f"bytes:{value.hex()}"
            case bytes():
                return value.hex()
            case Decimal():
                number = whole_number(value)
                return None if number is None else str(number)
            case _:
                return self._written(str(value))

    def _written(self, text: str) -> str:
        if self.kind is IdKind.UUID:  # MariaDB's is a text to its driver
            return str(UUID(text))
        text = text.rstrip(" ") if self.is_padded else text
        return f"text:{text}" if _LIKE_RAW.fullmatch(text) else text

    def from_text(self, text: str | int) -> Any | None:
        """The value that `text` stands for; None where no Id of this kind is written like that."""
        text = str(text)
        try:
            match self.kind:
                case IdKind.INTEGER:
                    number = int(text) if _INTEGER.fullmatch(text) else None
                    return number if number is not None and self.bounds[0] <= number <= self.bounds[1] else None
                case IdKind.UUID:
                    return UUID(text)
                case IdKind.BINARY:
                    return bytes.fromhex(text)
                case _:
                    return self._text(text)
        except ValueError:
            return None

    def _text(self, text: str) -> str | RawText | None:
        if raw := _RAW.fullmatch(text):
            return RawText(bytes.fromhex(raw[1]))
        if _LIKE_RAW.fullmatch(text):
            text = text.removeprefix("text:")
        return text if is_unicode(text) and ("\0" not in text or self.dialect != "postgresql") else None


def whole_number(value: Decimal | float) -> int | None:
    """The integer that a number is, None for one with a fraction, an infinite one, and for none (NaN)."""
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if number == value else None


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can say `text`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_sql_text(text: str) -> bool:
    """Whether every database takes `text` as a parameter: no NUL, and nothing that UTF-8 cannot say."""
    return "\0" not in text and is_unicode(text)
