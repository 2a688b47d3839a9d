"""Names in addresses and in headers: any text that a key can hold, there and back."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote

from cbk.errors import UsageError

# RFC 8187, 3.2.1: what stands for itself.
_SAFE_CHARACTERS = "!#$&+-.^_`|~"
_NAME_MAX_CHARACTERS = 150
_RISKY = re.compile(r'[\\/:*?"<>|]')
_MOST_FIELDS = 10


def to_query(**values: object) -> str:
    """A query string of UTF-8, also for lone surrogates, which a browser sends back as it got them. None is left out."""
    fields = ((name, str(value)) for name, value in values.items() if value is not None)
    return "&".join(f"{name}={quote(value, safe='/', errors='surrogatepass')}" for name, value in fields)


def from_query(query: str) -> dict[str, str]:
    """The values of a query string; of several by one name, the last. Raises UsageError."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="surrogatepass", max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise UsageError("the address cannot be read", hint="begin at the first page") from None


def content_disposition(key: str) -> str:
    r"""The header by which a browser saves the file under its own name, whatever that is (RFC 6266).

    What is no part of a name, or could be taken for a path or turn the text around, becomes "_".

    >>> content_disposition("cars/id-1/thumbnail.png")
    'attachment; filename="thumbnail.png"; filename*=UTF-8\'\'thumbnail.png'
    """
    last = key.rpartition("/")[2]
    name = _RISKY.sub("_", "".join(character if character.isprintable() else "_" for character in last)).strip()
    if len(name) > _NAME_MAX_CHARACTERS:
        stem, dot, extension = name.rpartition(".")
        tail = dot + extension if stem and len(extension) <= 10 else ""
        name = name[: _NAME_MAX_CHARACTERS - len(tail)] + tail
    name = name if name.strip(". ") else "file"
    plain = "".join(character if character.isascii() and character != "%" else "_" for character in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_SAFE_CHARACTERS)}"
