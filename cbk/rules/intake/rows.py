"""Does a row make sense? Every value in it is hostile input, of whatever type the application's database gives.

A row is accepted whole or declined by name: the reason says which column is wrong, what is expected and, shortened, what is there.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from decimal import Decimal

from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.intake.layout import object_key

ID_MAX_CHARACTERS = 255
STORAGE_MAX_BYTES = 255
KEY_MAX_BYTES = 4096
CONTENT_TYPE_MAX_CHARACTERS = 255
VERSION_MAX = 2**63 - 1  # what every SQL database keeps in a BIGINT

_SHOWN_CHARACTERS = 40
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
_MD5_HEX = re.compile(r"md5:([0-9a-f]{32})", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Declined(Exception):
    """One column is wrong; the message is the reason."""


def read_row(row: SourceRow) -> AcceptedRow | DeclinedRow:
    """What a row says, or why it cannot become a version. Raises nothing, whatever is in the row."""
    try:
        sha256, md5 = _hashes(row.hash)
        return AcceptedRow(
            source_id=_source_id(row.id),
            storage=_storage(row.storage),
            key=_key(row.path, row.name),
            number=_number(row.version),
            sha256=sha256,
            md5=md5,
            link=_text("SignedDownloadUrl", row.link, shown=False),
            content_type=_content_type(row.content_type),
        )
    except _Declined as declined:
        return DeclinedRow(
            source_id=row.id[:ID_MAX_CHARACTERS],
            reason=str(declined),
            storage=_shown_text(row.storage),
            key=_shown_key(row),
            version=_shown_text(row.version),
        )


def name_of(row: SourceRow) -> tuple[str, str] | None:
    """The (storage, key) that a row speaks of, also where it is declined for another reason. None where that makes no sense."""
    try:
        return _storage(row.storage), _key(row.path, row.name)
    except _Declined:
        return None


def number_of(row: SourceRow) -> int | None:
    """The Version that a row speaks of, also where it is declined for another reason. None where that makes no sense."""
    try:
        return _number(row.version)
    except _Declined:
        return None


def _source_id(value: str) -> str:
    if len(value) > ID_MAX_CHARACTERS:
        raise _Declined(f"Id is longer than {ID_MAX_CHARACTERS} characters")
    return value


def _text(column: str, value: object, *, shown: bool = True) -> str:
    if isinstance(value, str) and value:
        return value
    if value is None or isinstance(value, str):
        raise _Declined(f"{column} is empty")
    found = f": {_shown(value)}" if shown else ""
    raise _Declined(f"{column} is not text{found}")


def _storage(value: object) -> str:
    storage = _text("Storage", value)
    if _byte_length(storage) > STORAGE_MAX_BYTES:
        raise _Declined(f"Storage is longer than {STORAGE_MAX_BYTES} bytes: {_shown(storage)}")
    return storage


def _key(path: object, name: object) -> str:
    folder = "" if path is None or path == "" else _text("Path", path)
    name = _text("Name", name)
    key = object_key(folder, name)
    if not key:
        raise _Declined(f"Name has nothing but a slash: {_shown(name)}")
    if _byte_length(key) > KEY_MAX_BYTES:
        raise _Declined(f"Path and Name are longer than {KEY_MAX_BYTES} bytes together: {_shown(key)}")
    return key


def _number(value: object) -> int:
    number = _whole_number(value)
    if number is not None and 0 <= number <= VERSION_MAX:
        return number
    raise _Declined(f"Version is not a whole number from 0 to {VERSION_MAX}: {_shown(value)}")


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    exact = Decimal(value) if isinstance(value, (float, Decimal)) else Decimal("NaN")
    return int(exact) if exact.is_finite() and abs(exact) <= VERSION_MAX and exact == int(exact) else None


def _hashes(value: object) -> tuple[str, str]:
    """The SHA-256 or the MD5, in lower-case hex digits, that `Hash` stands for in one of the accepted spellings; "" for the other.

    Both are "" where it is NULL: the application has none.
    """
    if value is None:
        return "", ""
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value) == 32:
        return bytes(value).hex(), ""
    if isinstance(value, str):
        text = value.strip()  # a CHAR column pads with spaces
        if match := _HEX.fullmatch(text):
            return match[1].lower(), ""
        if match := _MD5_HEX.fullmatch(text):
            return "", match[1].lower()
        if len(text) == 44 and (digest := _from_base64(text, 32)):
            return digest.hex(), ""
        # As Rails' Active Storage and Azure's Content-MD5 write it.
        bare = text[4:] if text[:4].lower() == "md5:" else text
        if len(bare) == 24 and (digest := _from_base64(bare, 16)):
            return "", digest.hex()
    raise _Declined(
        "Hash is not a SHA-256 (64 hex digits, sha256:<hex>, or base64), nor an MD5 (md5:<32 hex digits>, or base64): "
        f"{_shown(value)}"
    )


def _from_base64(text: str, size: int) -> bytes | None:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == size else None


def _content_type(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return _CONTROL.sub("", value).strip()[:CONTENT_TYPE_MAX_CHARACTERS] or None


def _shown_key(row: SourceRow) -> str:
    if isinstance(row.name, str) and (row.path is None or isinstance(row.path, str)):
        return _shown_text(object_key(row.path or "", row.name), limit=CONTENT_TYPE_MAX_CHARACTERS)
    return _shown_text(row.name)


def _shown(value: object) -> str:
    """A foreign value as it may stand in a reason: one short line, quoted where it is text."""
    if value is None:
        return "NULL"
    text = _shown_text(value)
    return f"'{text}'" if isinstance(value, str) else text


def _shown_text(value: object, *, limit: int = _SHOWN_CHARACTERS) -> str:
    """`value`, printable and shortened. Of what looks like a link nothing but its scheme is left: it may be a signed one."""
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else _plain(value)
    scheme, separator, _ = text.partition("://")
    text = f"{scheme[-10:]}://…" if separator else text
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _plain(value: object) -> str:
    if isinstance(value, (bool, int, float, Decimal)):
        with contextlib.suppress(ValueError):  # an int of more digits than Python prints
            return str(value)
    return f"a value of type {type(value).__name__}"


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
