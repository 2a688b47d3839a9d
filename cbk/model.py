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


class Proof(StrEnum):
    """What tells that the bytes of a copy are the application's: its row's SHA-256, its row's MD5, or no more than that they
    came first. Every copy has a SHA-256 of its own, whatever its row has.
    """

    SHA256 = "sha256"
    MD5 = "md5"
    FIRST_SEEN = "first_seen"

    @property
    def strength(self) -> int:
        """The higher, the more it proves."""
        return _STRENGTHS.index(self)


_STRENGTHS = (Proof.FIRST_SEEN, Proof.MD5, Proof.SHA256)


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
    """A row that makes sense: `key` is Path + Name as `object_key` has it.

    Of `sha256` (64 lower-case hex digits) and `md5` (32) one is known at the most; the other, or both, are "".
    """

    source_id: str
    storage: str
    key: str
    number: int
    sha256: str
    link: str = field(repr=False)
    md5: str = ""
    content_type: str | None = None

    @property
    def hash(self) -> str:
        """What its Hash says, in one spelling: hex digits, after `md5:` where they are an MD5; "" where it is NULL."""
        return self.sha256 or (f"md5:{self.md5}" if self.md5 else "")


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
class RowEntry:
    """What a row of the source said when it was last read. Another file, Version or Hash under a known Id is another row.

    `id` is the catalog's own: it says in which order the kit saw rows. `poll` numbers the poll that saw it first. `version_id`,
    `file_id` and `number` are None as far as the row makes no sense. `present` is whether it is still there.
    """

    id: int
    source_id: str
    file_id: int | None
    version_id: int | None
    number: int | None
    poll: int
    present: bool = True
    created_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectProperties:
    """What an object is besides its bytes, as its origin's answer said it; `metadata` are the user's own, as (name, value)."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None
    expires: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


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
    properties: ObjectProperties | None = None
    # How the bytes were proved when they came, and their MD5 in hex where it was computed.
    proof: Proof = Proof.SHA256
    md5: str = ""

    @property
    def key(self) -> str:
        """The object key, as in `AcceptedRow.key`."""
        return self.path + self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A copy as it was written and read back: `size` of the object and `stored_size` on disk in bytes, both hashes in hex.

    `stored_sha256` is the hash of the gzip file itself: it lets a copy be checked without inflating it. `stored_at` is when its
    last byte was written, as the file itself says, in whole milliseconds: a catalog that is rebuilt from the disk says the same.
    `md5` is that of the object, where its header says it.
    """

    sha256: str
    size: int
    stored_size: int
    stored_sha256: str
    stored_at: datetime | None = None
    md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A download that came in whole: `size` in bytes, and what the origin said about it.

    `sha256` is known where a content coding (gzip, say) leaves open whether these are the object's bytes: where it came in
    one, which may have been put on it on the way, and where one was taken off, perhaps.
    """

    size: int
    content_type: str | None = None
    etag: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version as the catalog knows it. `id` is the catalog's own; `source_id` is the row's.

    `sha256` is "" as long as neither its rows nor a copy have told it; `md5` likewise. `proof` is what its rows prove of its bytes.
    """

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
    # What tells the name of its copy from that of another version of the same number; "" in the normal case.
    variant: str = ""
    md5: str = ""
    proof: Proof = Proof.SHA256
    # Whether a row of it is there that no delete covers; whether deletes cover all of its rows.
    live: bool = True
    newest: bool = True
    deleted: bool = False
    # Until when a worker may be at it; None where none is.
    claimed_until: datetime | None = None
    pruned_at: datetime | None = None
    trash_name: str | None = None
    trash_until: datetime | None = None

    @property
    def label(self) -> str:
        """What a person calls this version in Flower and in logs."""
        return f"{self.storage}/{self.key} v{self.number}"


class RemovalKind(StrEnum):
    """Why something is to go: its file was deleted, or newer versions have replaced it."""

    DELETED = "deleted"
    REPLACED = "replaced"


class RemovalOutcome(StrEnum):
    """How a removal ended, or that it has not."""

    OPEN = ""
    DONE = "done"
    # Its delete-log row is gone, or is another one now.
    TAKEN_BACK = "taken back"
    # A person said that what it covers is to be kept.
    REJECTED = "rejected"
    # All that it covers is live by other rows.
    RECREATED = "re-created"

    @property
    def in_force(self) -> bool:
        """Whether what it covers is deleted."""
        return self in {RemovalOutcome.OPEN, RemovalOutcome.DONE, RemovalOutcome.RECREATED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is to go at `due_at`, unless something keeps it: versions whose rows a delete covers, or one that was replaced.

    `delete_id` and `row_id` are the delete-log row's Id and its FileId; `through` is the version that it names, `keeps_newer` the
    highest live one above that, which it does not cover. `file_id` and `due_at` are None where no row that the kit knows is meant.
    `poll` numbers the poll that noted it. `covered` are the ids of the versions that it is about, where they were asked for.
    `braked` is whether a brake holds it. `beside` are other open deletes that cover rows of these versions, with the version's id.
    """

    id: int
    kind: RemovalKind
    first_seen_at: datetime
    due_at: datetime | None = None
    delete_id: str | None = None
    row_id: str | None = None
    deleted_at: str | None = None
    file_id: int | None = None
    version_id: int | None = None
    through: int | None = None
    keeps_newer: int | None = None
    poll: int = 0
    reason: str = ""
    open: bool = True
    outcome: RemovalOutcome = RemovalOutcome.OPEN
    closed_at: datetime | None = None
    brake_id: int | None = None
    braked: bool = False
    covered: frozenset[int] = frozenset()
    beside: tuple[tuple[int, Removal], ...] = ()

    def covers(self, version: Version) -> bool:
        """Whether this removal is about that version."""
        return version.id in self.covered


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a person wants kept: the file `key`, or all whose key begins with it; in `storage`, or in every one (None)."""

    id: int
    key: str
    is_prefix: bool
    storage: str | None = None
    until: datetime | None = None
    reason: str = ""
    created_at: datetime | None = None

    def covers(self, storage: str, key: str, now: datetime) -> bool:
        """Whether it keeps this file now."""
        named = key.startswith(self.key) if self.is_prefix else key == self.key
        return named and self.storage in {None, storage} and (self.until is None or now < self.until)


class BrakeState(StrEnum):
    """Whether a brake holds, and what became of it; one that has nothing left to hold has ended."""

    HELD = "held"
    APPROVED = "approved"
    REJECTED = "rejected"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """Removals that wait for a person's word, and why: a mass deletion, or deletes of which it is not known what they mean."""

    id: int
    pulled_at: datetime
    removals: int
    stored_files: int
    state: BrakeState
    reason: str = ""
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreItem:
    """A version that is to be restored from its copy at `location` to `path`, `<bucket>/<key>` made safe, below the target.

    `content_type` is what its row said; `properties` are those of the object that it was, where they are known and wanted.
    """

    storage: str
    bucket: str
    key: str
    number: int
    sha256: str
    size: int
    location: str
    path: str
    content_type: str | None = None
    properties: ObjectProperties | None = None


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
