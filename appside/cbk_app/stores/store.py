"""What every store can do, and what it says of an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as a listing shows it. `checksums` says whether the store may know its SHA-256 (it costs a question to learn)."""

    key: str
    size: int
    etag: str
    modified: datetime
    checksums: bool = False


class Store(Protocol):
    """A bucket or container. Every method raises StoreError if the service does not answer or refuses."""

    name: str

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose key begins with `prefix`, the newest version of each, page by page."""

    def sha256(self, found: StoredObject) -> str | None:
        """The SHA-256 that the store itself keeps of the whole object, in hex; None if it keeps none."""

    def read(self, found: StoredObject) -> Iterator[bytes]:
        """The object's bytes as they are stored. Raise ObjectGone if it is not there any more, or is another one by now."""

    def put(self, key: str, content: BinaryIO, content_type: str) -> None:
        """Store an object, in place of what is there."""

    def sign(self, key: str, seconds: int) -> str:
        """A link that gives out the object for so many seconds."""
