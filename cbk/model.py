"""What travels through the kit: plain values, without any outside world.

Words: a *row* is what the application wrote; a *file* is (storage, key); a *version* is one row's content of a file; a *copy* is
the verified gzip of a version on our disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class VersionState(StrEnum):
    """Where a version stands. What each means to a person is in docs/glossary.md."""

    PENDING = "pending"
    STORED = "stored"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    MISSING = "missing"
    MISMATCH = "mismatch"
    DECLINED = "declined"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One row of "ObjectStorageFiles" as it was read: untrusted, unparsed, `None` where the column is NULL or absent.

    `id` is the row's Id as text. The link is a secret: it is never shown, logged or stored.
    """

    id: str
    storage: object
    path: object
    name: object
    version: object
    hash: object
    link: object = field(repr=False)
    content_type: object = None
    created_at: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRow:
    """One row of "ObjectStorageDeleteLog": `id` (or, in a log without Id, `file_id`) as text."""

    id: str
    file_id: str
    deleted_at: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRow:
    """A row that makes sense: `key` is Path + Name without outer slashes, `sha256` is 64 lower-case hex digits."""

    source_id: str
    storage: str
    key: str
    number: int
    sha256: str
    link: str = field(repr=False)
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclinedRow:
    """A row that cannot become a version, with the reason that a person reads.

    `storage`, `key` and `version` are what could be made out, shortened and printable.
    """

    source_id: str
    reason: str
    storage: str = ""
    key: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyHeader:
    """What a copy says about itself in its gzip header (RFC 1952 FEXTRA), enough to rebuild the catalog from the disk.

    `path` ends in "/" unless it is empty; path + name is the key. `size` counts the object's bytes, before compression.
    """

    storage: str
    path: str
    name: str
    version: int
    sha256: str
    size: int
    content_type: str | None = None
    source_id: str | None = None

    @property
    def key(self) -> str:
        """The object key, as in `AcceptedRow.key`."""
        return self.path + self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A copy as it was written and read back: `size` of the object and `stored_size` on disk in bytes, both hashes in hex.

    `stored_sha256` is the hash of the gzip file itself: it lets a copy be checked without inflating it.
    """

    sha256: str
    size: int
    stored_size: int
    stored_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A download that came in whole: `size` in bytes, and what the origin said about it."""

    size: int
    content_type: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version as the catalog knows it. `id` is the catalog's own; `source_id` is the row's."""

    id: int
    file_id: int
    source_id: str
    storage: str
    key: str
    bucket: str
    place: str
    number: int
    sha256: str
    state: VersionState
    reason: str
    attempts: int = 0
    fence: int = 0
    content_type: str | None = None
    size: int | None = None
    stored_size: int | None = None
    stored_sha256: str | None = None
    first_seen_at: datetime | None = None
    stored_at: datetime | None = None
    verified_at: datetime | None = None
    due_at: datetime | None = None
    link_expires_at: datetime | None = None

    @property
    def label(self) -> str:
        """What a person calls this version in Flower and in logs."""
        return f"{self.storage}/{self.key} v{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a version until its lease ends. `fence` grows with each claim: an older one may record nothing."""

    version: Version
    fence: int
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The facts of one finished unit of work, for its log line: an outcome and a few fields."""

    outcome: str
    facts: Mapping[str, object] = field(default_factory=dict)
