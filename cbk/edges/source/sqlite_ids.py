"""SQLite's Ids as text. It checks no types: one column may hold integers, reals, texts and blobs, and each must be read and found.

They are ordered by SQLite itself: numbers, then texts, then blobs. A value is written plainly where that comes back as the
same value, else with its type in front:

    5 · a1ff · c0ffee-01          an integer, texts, and in a column that is declared BLOB: the hex of a blob
    real:1.5 · blob:a1ff          a number with a fraction, a blob
    text:5                        a text, where 5 is an integer
    bytes:62ff                    a text that is no UTF-8
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Text, cast, literal, type_coerce

from cbk.edges.databases.postgres import RawText
from cbk.edges.source.ids import AsItIs, IdKind, is_unicode, whole_number

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_BIGINT = range(-(2**63), 2**63)
_EXACT_IN_A_REAL = 2**53


@dataclass(frozen=True, slots=True)
class SqliteIds:
    """The Ids of one column, whose declared type leans towards `affinity`. `to_text` and `from_text` are each other's inverse."""

    affinity: str
    bounds: ClassVar[tuple[int, int]] = (-(2**63), 2**63 - 1)
    compares_as_itself: ClassVar[bool] = True

    @classmethod
    def of(cls, declared: str) -> SqliteIds:
        """The Ids of a column that is declared so (https://sqlite.org/datatype3.html, section 3.1)."""
        upper = declared.upper()
        affinities = (
            ("INTEGER", ("INT",)),
            ("TEXT", ("CHAR", "CLOB", "TEXT")),
            ("BLOB", ("BLOB",)),
            ("REAL", ("REAL", "FLOA", "DOUBLE")),
        )
        found = (affinity for affinity, words in affinities if any(word in upper for word in words))
        return cls(next(found, "NUMERIC" if upper else ""))

    @property
    def kind(self) -> IdKind:
        """What the declaration asks for; what is kept may be anything."""
        kinds = {"TEXT": IdKind.TEXT, "BLOB": IdKind.BINARY, "": IdKind.OTHER}
        return kinds.get(self.affinity, IdKind.INTEGER)

    def column(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is read, compared and ordered by."""
        return type_coerce(column, AsItIs())

    def bind(self, value: Any) -> ColumnElement[Any]:
        """A value of `from_text`, or one that was read, as a parameter."""
        if isinstance(value, RawText):
            return type_coerce(cast(literal(bytes(value), AsItIs()), Text), AsItIs())
        return literal(value, AsItIs())

    def unaddressable(self, _key: ColumnElement[Any]) -> ColumnElement[bool] | None:
        """Every row whose Id is not NULL can be asked for by it."""
        return None

    def to_text(self, value: object) -> str | None:
        """An Id as text; None for NULL."""
        if value is None:
            return None
        kind, written = _written(value)
        plain = self._plainly(value, written)
        return plain if plain is not None and _is_same(self.from_text(plain), value) else f"{kind}:{written}"

    def from_text(self, text: str | int) -> Any | None:
        """The value that `text` stands for; None where no Id is written like that."""
        text = str(text)
        kind, colon, rest = text.partition(":")
        try:
            if colon and kind in _READERS:
                return _READERS[kind](rest)
            if self.affinity != "TEXT" and _INTEGER.fullmatch(text) and int(text) in _BIGINT:
                return int(text)
            if self.affinity == "BLOB" and _HEX.fullmatch(text):
                return bytes.fromhex(text)
        except ValueError:
            return None
        return text if is_unicode(text) else None

    def _plainly(self, value: object, written: str) -> str | None:
        if isinstance(value, float):
            number = whole_number(value) if self.affinity == "REAL" and abs(value) < _EXACT_IN_A_REAL else None
            return None if number is None else str(number)
        return None if isinstance(value, RawText) else written


def _written(value: object) -> tuple[str, str]:
    match value:
        case RawText():
            return "bytes", value.hex()
        case bytes():
            return "blob", value.hex()
        case float():
            return "real", repr(value)
        case int():
            return "integer", str(value)
        case _:
            return "text", str(value)


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) and int(text) in _BIGINT else None


def _text(text: str) -> str | None:
    return text if is_unicode(text) else None


def _raw(text: str) -> RawText | None:
    return RawText(bytes.fromhex(text)) if _HEX.fullmatch(text) else None


def _blob(text: str) -> bytes | None:
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


_READERS: dict[str, Callable[[str], Any]] = {"integer": _integer, "real": float, "text": _text, "blob": _blob, "bytes": _raw}


def _is_same(one: object, other: object) -> bool:
    return one == other and (type(one) is type(other) or isinstance(other, float))
