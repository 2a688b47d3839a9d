"""Ids as text: the kit keeps every Id as text, the database compares them as what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BINARY, VARBINARY, BigInteger, Integer, LargeBinary, Numeric, Text, Uuid
from sqlalchemy.types import TypeEngine

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_BIGINT = range(-(2**63), 2**63)


class IdKind(StrEnum):
    """What an Id is in the database."""

    INTEGER = "integer"
    UUID = "uuid"
    BINARY = "binary"
    TEXT = "text"

    @classmethod
    def of(cls, column_type: TypeEngine[Any]) -> IdKind:
        """The kind that a column of this type holds; what we do not know is compared as text."""
        if isinstance(column_type, Integer | Numeric):
            return cls.INTEGER
        if isinstance(column_type, Uuid):
            return cls.UUID
        return cls.BINARY if isinstance(column_type, LargeBinary | BINARY | VARBINARY) else cls.TEXT


@dataclass(frozen=True, slots=True)
class Ids:
    """The Ids of one column. `to_text` and `from_text` are each other's inverse."""

    kind: IdKind

    @property
    def sql_type(self) -> TypeEngine[Any]:
        """The type that a value of `from_text` is bound with."""
        types: dict[IdKind, TypeEngine[Any]] = {
            IdKind.INTEGER: BigInteger(),
            IdKind.UUID: Uuid(),
            IdKind.BINARY: LargeBinary(),
            IdKind.TEXT: Text(),
        }
        return types[self.kind]

    def to_text(self, value: object) -> str | None:
        """An Id as text; None for NULL, and for one that `from_text` would not give back (SQLite checks no types)."""
        if value is None:
            return None
        if isinstance(value, Decimal) and value == value.to_integral_value():
            value = int(value)
        text = value.hex() if isinstance(value, bytes) else str(value)
        return text if self.from_text(text) == value else None

    def from_text(self, text: str | int) -> object | None:
        """The value that `text` stands for; None where no Id of this kind is written like that."""
        text = str(text)
        try:
            match self.kind:
                case IdKind.INTEGER:
                    return _to_integer(text)
                case IdKind.UUID:
                    return UUID(text)
                case IdKind.BINARY:
                    return bytes.fromhex(text)
                case IdKind.TEXT:
                    return text if is_sql_text(text) else None
        except ValueError:
            return None


def is_sql_text(text: str) -> bool:
    """Whether every database takes `text` as a parameter: no NUL, and nothing that UTF-8 cannot say."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _to_integer(text: str) -> int | None:
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and number in _BIGINT else None
