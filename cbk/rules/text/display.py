"""How values look to a person and to a program."""

from __future__ import annotations

import json
from typing import Any


def as_line(item: dict[str, Any]) -> str:
    """One line of JSON with readable names, but nothing that a terminal obeys: DEL, C1 and the signs that turn a line around."""
    text = json.dumps(item, ensure_ascii=False)
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)


def as_text(value: object) -> str:
    """One line of text, with nothing in it that a terminal or a browser obeys."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def counted(count: int, one: str, many: str | None = None) -> str:
    """So many of something, with its word: `one`, or `many`, which is `one` with an s where it is not given.

    >>> counted(1, "file"), counted(2, "file"), counted(0, "copy", "copies")
    ('1 file', '2 files', '0 copies')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def as_size(count: int) -> str:
    """Bytes for people, in decimal units.

    >>> as_size(698_351_616)
    '698.4 MB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
