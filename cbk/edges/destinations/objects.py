"""What all object storage has in common: which object a file becomes, of what type, in which pieces, and with the right bytes."""

from __future__ import annotations

import hashlib
import http.client
import mimetypes
import re
import threading
from collections.abc import Iterable, Iterator

from cbk.errors import CopyCorrupt, DestinationError, UsageError
from cbk.model import RestoreItem

MIB = 1024 * 1024
PART_BYTES = 8 * MIB  # a thread holds two of them at a time; what is not larger goes up in one request
BUCKET = "{bucket}"

_MOST_HEADERS = 4096  # 8 KB of metadata are fewer

_MISTAKEN = ((re.compile("/{2,}"), "/"), (re.compile("^/+"), ""), (re.compile(r"\\"), "/"), (re.compile(r"\.+(?=/|$)"), ""))
_CONTENT_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]*[\x21-\x7e]")  # anything else is no header
_UNKNOWN_TYPE = "application/octet-stream"
PROPERTIES_HINT = "restore it with --no-properties, and set them by hand"
_HEADERS = {
    "content_encoding": "Content-Encoding",
    "content_disposition": "Content-Disposition",
    "content_language": "Content-Language",
    "cache_control": "Cache-Control",
}
_RENAME_HINT = "restore it to a folder, and send it under another name"


def allow_many_headers() -> None:
    """Let the SDKs read what is said of an object of many metadata: Python's client, below them, gives up at 100 fields."""
    http.client._MAXHEADERS = max(_MOST_HEADERS, http.client._MAXHEADERS)  # type: ignore[attr-defined]  # noqa: SLF001


def parse_address(url: str, scheme: str, *wanted: str) -> tuple[str, ...]:
    """The parts of `<scheme>://WANTED/.../PREFIX` as they are, nothing in them is encoded; the prefix comes last and may be empty.

    Raises UsageError, which does not repeat the address: somebody may have put a secret into it.
    """
    parts = url.removeprefix(f"{scheme}://").split("/", len(wanted))
    named, prefix = parts[: len(wanted)], "".join(parts[len(wanted) :])
    if not url.startswith(f"{scheme}://") or len(named) < len(wanted) or not all(named) or "?" in url or "@" in named[0]:
        shape = f"{scheme}://{'/'.join(wanted)}"
        hint = f"write {shape} or {shape}/PREFIX; credentials come from the environment alone"
        raise UsageError("the address of the object storage is not understood", hint=hint)
    return (*named, prefix)


def likely_mistaken(key: str) -> tuple[str, ...]:
    """The other keys that a target may take `key` for; none of an ordinary key.

    SeaweedFS makes one slash of several, drops one in front, and takes a backslash for one; Azure drops dots at a segment's end.
    """
    found = [key]
    for pattern, instead in _MISTAKEN:
        found += [pattern.sub(instead, each) for each in found]
    return tuple(dict.fromkeys(each for each in found if each not in {"", key}))


def is_odd(key: str) -> bool:
    """Whether a target may take this key for another one, or for a folder's that holds nothing."""
    return key.endswith("/") or bool(likely_mistaken(key))


def name_note(key: str) -> str:
    """What is noted with an object that may be taken for another: which key it was written under."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def mistaken(key: str, other: str) -> DestinationError:
    """Two keys are one to the target."""
    hint = "restore it to a folder, or to a service that keeps the two apart, such as AWS"
    return DestinationError(f"the endpoint takes its name for another: {key!r} and {other!r} are one object there", hint=hint)


class Naming:
    """Which object a file becomes: in `container`, named `prefix` and the file's own key, so that the application finds it there.

    `{bucket}` in either stands for the file's bucket. Without it, one place takes the files of one bucket only: those of a second
    one could have the same keys. For any number of threads.
    """

    def __init__(self, container: str, prefix: str) -> None:
        self._container = container
        self._prefix = prefix.strip("/")
        self._takes_all = BUCKET in container + prefix
        self._bucket: str | None = None
        self._lock = threading.Lock()

    def object_of(self, item: RestoreItem) -> tuple[str, str]:
        """The container and the object's name for a file. Raises DestinationError where it cannot have its name there."""
        self._require_bucket(item.bucket)
        prefix = self._prefix.replace(BUCKET, item.bucket)
        name = f"{prefix}/{item.key}" if prefix else item.key
        if not {".", ".."}.isdisjoint(name.split("/")):
            raise DestinationError('its key has "." or ".." between slashes, which servers take for a path', hint=_RENAME_HINT)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DestinationError("its key is no Unicode text, and object storage takes no other", hint=_RENAME_HINT) from None
        return self._container.replace(BUCKET, item.bucket), name

    def _require_bucket(self, bucket: str) -> None:
        if self._takes_all:
            return
        with self._lock:
            self._bucket = self._bucket or bucket
        if bucket != self._bucket:
            hint = f"write {BUCKET} into the address, such as s3://new-bucket/{BUCKET}, or restore one --storage at a time"
            raise DestinationError(f"it belongs to bucket {bucket}, and this place is being filled with {self._bucket}", hint=hint)


def content_type(item: RestoreItem) -> str:
    """The type that the row gave, else the one that the object had, else what the name suggests, else that of bytes."""
    for known in (item.content_type, item.properties.content_type if item.properties else None):
        if known and _CONTENT_TYPE.fullmatch(known):
            return known
    guessed, encoding = mimetypes.guess_type(item.key.rpartition("/")[2])
    if encoding is None:
        return guessed or _UNKNOWN_TYPE
    # The name tells the type of what is inside.
    return "application/gzip" if encoding == "gzip" else _UNKNOWN_TYPE


def headers_of(item: RestoreItem, service: str) -> dict[str, str]:
    """The object's headers besides its type, by the names that `ObjectProperties` has.

    Raises DestinationError where one is no ASCII: no service takes it.
    """
    found = {name: getattr(item.properties, name, None) for name in _HEADERS}
    for name, value in found.items():
        if value is not None and not value.isascii():
            raise DestinationError(f"its {_HEADERS[name]} is not ASCII, and {service} takes no other", hint=PROPERTIES_HINT)
    return {name: value for name, value in found.items() if value is not None}


def part_bytes(size: int, *, most_parts: int, at_least: int) -> int:
    """How large the parts of an object of `size` bytes are, so that there are not too many: whole MiB above `at_least`."""
    needed = -(-size // most_parts)
    return at_least if needed <= at_least else -(-needed // MIB) * MIB


def in_parts(chunks: Iterable[bytes], size: int) -> Iterator[bytearray]:
    """The same bytes in pieces of `size`, the last one shorter; none where there are no bytes."""
    part = bytearray()
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            taken = rest[: size - len(part)]
            part += taken
            rest = rest[len(taken) :]
            if len(part) == size:
                yield part
                part = bytearray()
    if part:
        yield part


def verified(item: RestoreItem, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks. Raises CopyCorrupt in the end unless they were the bytes of that very version: only then may they count."""
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > item.size:
            break
        digest.update(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (item.size, item.sha256):
        raise CopyCorrupt(f"{item.location} is not the copy of these {item.size} bytes with SHA-256 {item.sha256}")
