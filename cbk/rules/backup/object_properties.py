"""What an object is besides its bytes: which properties an origin's answer tells of, and how a copy's header keeps them.

Whoever writes objects, or a header on a disk, chooses these texts. What comes out of here has no control character, no half of a
character, and is short enough for a header, so that no target is told anything else by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

from cbk.model import ObjectProperties
from cbk.rules.backup.http_responses import Headers

# In all, counted as `_cost` does: Azure and Google keep 8 KB of metadata, S3 2 KB, and a gzip header has room for 64 KB.
PROPERTIES_MAX_BYTES = 10 * 1024
_EACH_COSTS = 8

# The answer's header field of each property, and the parameters of a signed link that make the storage say something else than it
# keeps: those of S3 and Google, and Azure's.
_FIELDS = {
    "content_type": ("content-type", "response-content-type", "rsct"),
    "content_encoding": ("content-encoding", "response-content-encoding", "rsce"),
    "content_disposition": ("content-disposition", "response-content-disposition", "rscd"),
    "content_language": ("content-language", "response-content-language", "rscl"),
    "cache_control": ("cache-control", "response-cache-control", "rscc"),
    "expires": ("expires", "response-expires", None),
}
# S3 and its relatives, Azure, Google.
_AZURE = "x-ms-meta-"
_METADATA_PREFIXES = ("x-amz-meta-", _AZURE, "x-goog-meta-")
# What this kit notes with an object that it restores.
_OWN_NOTES = frozenset({"cbk-sha256", "cbk-etag", "cbk-name", "cbk_sha256", "cbk_md5", "cbk_name"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_properties(headers: Headers, link: str, *, is_unpacked: bool = False) -> ObjectProperties | None:
    """What the answer to `link` says of its object; None if that is nothing.

    `is_unpacked`: a content coding was taken off the bytes, so that they are in none.
    """
    query = link.partition("?")[2].partition("#")[0]
    overridden = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    said = {
        name: headers.get(field)
        for name, (field, *parameters) in _FIELDS.items()
        if overridden.isdisjoint(parameter for parameter in parameters if parameter)
    }
    if is_unpacked:
        said["content_encoding"] = None
    metadata = [
        # Azure keeps the case of a name; to all others, and to the servers in between, it means nothing.
        ((headers.spelled[field] if prefix == _AZURE else field)[len(prefix) :], value)
        for field, value in headers.items()
        for prefix in _METADATA_PREFIXES
        if field.startswith(prefix)
    ]
    return _cleaned(said, metadata)


def properties_to_fields(properties: ObjectProperties) -> dict[str, Any]:
    """The same as a JSON object has it."""
    fields: dict[str, Any] = {name: value for name in _FIELDS if (value := getattr(properties, name)) is not None}
    return fields | ({"metadata": [list(pair) for pair in properties.metadata]} if properties.metadata else {})


def properties_from_fields(fields: object) -> ObjectProperties | None:
    """What a JSON object says, without what makes no sense in it; None if that is nothing. Raises nothing."""
    if not isinstance(fields, dict):
        return None
    metadata = fields.get("metadata")
    pairs = [pair for pair in metadata if isinstance(pair, list) and len(pair) == 2] if isinstance(metadata, list) else []
    return _cleaned({name: fields.get(name) for name in _FIELDS}, pairs)


def expires_at(properties: ObjectProperties) -> datetime | None:
    """The instant that Expires names, in UTC."""
    return _instant(properties.expires)


def _cleaned(said: Mapping[str, object], metadata: Iterable[Iterable[object]]) -> ObjectProperties | None:
    kept = {name: value for name, value in said.items() if _is_text(value)}
    coding = kept.get("content_encoding")
    if isinstance(coding, str):
        # How it came, and not what it is.
        codings = [part.strip() for part in coding.split(",") if part.strip().lower() not in {"", "aws-chunked", "identity"}]
        kept["content_encoding"] = ", ".join(codings) or None
    if _instant(kept.get("expires")) is None:
        kept.pop("expires", None)
    pairs = {}
    for name, value in metadata:
        if (
            isinstance(name, str)
            and _TOKEN.fullmatch(name)
            and name.lower() not in _OWN_NOTES
            and _is_text(value, may_be_empty=True)
        ):
            pairs[name] = str(value)
    room = PROPERTIES_MAX_BYTES - sum(_cost("", str(value)) for value in kept.values() if value is not None)
    while room < 0 and kept:
        room += _cost("", str(kept.popitem()[1]))
    if sum(_cost(name, value) for name, value in pairs.items()) > room:
        pairs = {}
    properties = ObjectProperties(**kept, metadata=tuple(sorted(pairs.items())))  # type: ignore[arg-type]
    return None if properties == ObjectProperties() else properties


def _is_text(value: object, *, may_be_empty: bool = False) -> bool:
    return isinstance(value, str) and (may_be_empty or bool(value)) and not _UNPRINTABLE.search(value)


def _cost(name: str, value: str) -> int:
    return len(name.encode()) + len(value.encode()) + _EACH_COSTS


def _instant(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
