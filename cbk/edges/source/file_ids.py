"""Which Id of the files table a FileId of the delete log means, whatever type either column has.

An application joins both tables in its own database, where '5', 5.0 and 5 may be equal, and a UUID is one in any spelling. A FileId
that means no Id is left as it is: a delete that names nothing covers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Decimal
from uuid import UUID

from cbk.edges.databases.postgres import RawText
from cbk.edges.source.ids import IdKind, Ids, whole_number
from cbk.edges.source.sqlite_ids import SqliteIds

_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}(?:\1[0-9a-f]{4}){2}\1[0-9a-f]{12}", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,65}(?:\.0{0,65})?\s*")
AnyIds = Ids | SqliteIds


def file_ids_of(
    values: Collection[object],
    log_ids: AnyIds,
    file_ids: AnyIds,
    *,
    sample: Callable[[], str | None],
    existing: Callable[[Collection[str]], Collection[str]],
) -> list[str]:
    """The Ids that these values of "FileId" mean, as text, in their order; '' for NULL.

    `sample` returns some Id of the files table (how are UUIDs spelled there?), `existing` those of some Ids that are there now.
    Both are asked only if a value may be spelled in more than one way.
    """
    texts = [_texts(value, log_ids, file_ids) for value in values]
    if any(_UUID.fullmatch(options[-1]) for options in texts) and file_ids.kind is not IdKind.UUID:
        style = sample() or ""
        texts = [[*options, spelled_like(options[-1], style)] for options in texts]
    in_doubt = {option for options in texts if len(set(options)) > 1 for option in options}
    there = set(existing(sorted(in_doubt))) if in_doubt else set()
    return [next((option for option in options if option in there), options[-1]) for options in texts]


def spelled_like(text: str, sample: str) -> str:
    """A UUID as `sample` is spelled, with or without hyphens, in capitals or not; anything else as it is.

    >>> spelled_like("1FF7F0CA-0000-4000-8000-000000000001", "a" * 32)
    '1ff7f0ca000040008000000000000001'
    """
    if not (_UUID.fullmatch(text) and _UUID.fullmatch(sample)):
        return text
    spelled = str(UUID(text)) if "-" in sample else UUID(text).hex
    return spelled.upper() if sample.isupper() else spelled


def _texts(value: object, log_ids: AnyIds, file_ids: AnyIds) -> list[str]:
    """How the files table may spell what `value` means; the last is the likeliest where none is there any more."""
    if value is None:
        return [""]
    text = _plain(value, log_ids)
    if file_ids.kind is IdKind.UUID:
        return [str(UUID(text.strip()))] if _UUID.fullmatch(text.strip()) else [text]
    number = _number(text) if file_ids.kind is IdKind.INTEGER else None
    if number is not None:
        return [number]
    if isinstance(file_ids, SqliteIds) and isinstance(value, str | int | float | bytes):
        return [file_ids.to_text(value) or text, file_ids.to_text(text) or text, text]
    return [text]


def _plain(value: object, log_ids: AnyIds) -> str:
    if isinstance(value, bytes) and not isinstance(value, RawText):
        return value.hex()
    if isinstance(value, float | Decimal):
        number = whole_number(value)
        return str(value if number is None else number)
    return value if isinstance(value, str) and isinstance(log_ids, SqliteIds) else log_ids.to_text(value) or str(value)


def _number(text: str) -> str | None:
    number = whole_number(Decimal(text.strip())) if _NUMBER.fullmatch(text) else None
    return None if number is None else str(number)
