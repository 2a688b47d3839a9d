"""The catalog's tables, which the migrations make. Instants are integers, milliseconds since 1970 UTC; hashes are 32 raw bytes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

_ESCAPE = "\uf8ff"
_UNHOLDABLE = re.compile(f"[\0\ud800-\udfff{_ESCAPE}]")
_ESCAPED = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(sa.TypeDecorator[datetime]):
    """An aware UTC datetime, kept as milliseconds since the epoch: compares the same in every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else (value - EPOCH) // timedelta(milliseconds=1)

    def process_result_value(self, value: Any | None, dialect: Any) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else EPOCH + timedelta(milliseconds=int(value))


class Hex(sa.TypeDecorator[str]):
    """Hex digits, kept as raw bytes: half the size."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: Any | None, dialect: Any) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else bytes(value).hex()


class MaybeHex(sa.TypeDecorator[str]):
    """As `Hex`; NULL is "", which is not known."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return bytes.fromhex(value) if value else None

    def process_result_value(self, value: Any | None, dialect: Any) -> str:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return "" if value is None else bytes(value).hex()


class AnyText(sa.TypeDecorator[str]):
    """Any text. What a database cannot hold (NUL in PostgreSQL, lone surrogates anywhere) is escaped with a private-use sign."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else _UNHOLDABLE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", value)

    def process_result_value(self, value: Any | None, dialect: Any) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


# SQLite numbers rows by itself only in a column that is declared INTEGER.
Identity = sa.BigInteger().with_variant(sa.Integer, "sqlite")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Single facts: the identity of the disk, where the reconciliation stands, how the last poll ended.
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# Pieces of work that only one worker does at a time.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until", Instant, nullable=False),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("storage", AnyText, nullable=False),
    sa.Column("key", AnyText, nullable=False),
    sa.Column("bucket", AnyText, nullable=False),
    # The folder of its copies, relative to the root.
    sa.Column("place", AnyText, nullable=False),
    # Keys and places can be longer than an index entry may be in PostgreSQL (2,704 bytes): unique by their SHA-256.
    sa.Column("name_digest", Hex, nullable=False, unique=True),
    sa.Column("place_digest", Hex, nullable=False, unique=True),
    # Whether a person knows that none of its rows is there any more, though nobody deleted it.
    sa.Column("gone_accepted", sa.Boolean, nullable=False, server_default=sa.false()),
)
# For looking into folders, there is `ix_files_folder` on (bucket, key), which only the migration makes: the databases differ. In
# PostgreSQL it holds the first so many characters of the key, compared byte by byte as SQLite does by itself.
KEY_HEAD_CHARACTERS = 400

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("file_id", Identity, sa.ForeignKey("files.id"), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    # The row that it is fetched by: the last live one of `rows`.
    sa.Column("source_id", AnyText, nullable=False),
    # Its bytes' own; empty until a row or a copy has told it, of which there is one of each number at the most. Then the MD5, NULL
    # where nobody has told it and none was computed, and what the rows prove of the bytes: `model.Proof`.
    sa.Column("sha256", Hex, nullable=False),
    sa.Column("md5", MaybeHex),
    sa.Column("proof", sa.Text, nullable=False, server_default="sha256"),
    # "", or what tells its copy's name from that of another version of the same number: `layout.copy_location`.
    sa.Column("variant", sa.Text, nullable=False, server_default=""),
    sa.Column("content_type", AnyText),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", AnyText, nullable=False, server_default=""),
    # Whether a row of it is there that no delete covers.
    sa.Column("live", sa.Boolean, nullable=False, server_default=sa.true()),
    # Whether it is the highest of its file's live versions, or where none is live, of all: health is counted over these.
    sa.Column("newest", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("link_digest", sa.Text, nullable=False, server_default=""),
    sa.Column("link_expires_at", Instant),
    # When it is to be fetched; NULL: not at all as things stand.
    sa.Column("due_at", Instant),
    # Until when nobody else takes it: dispatched where `holder` is NULL, claimed where it is not.
    sa.Column("lease_until", Instant),
    sa.Column("holder", sa.Text),
    # Grows with each claim; only the claim that holds the latest may record.
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("size", sa.BigInteger),
    sa.Column("stored_size", sa.BigInteger),
    sa.Column("stored_sha256", Hex),
    sa.Column("first_seen_at", Instant, nullable=False),
    sa.Column("stored_at", Instant),
    sa.Column("verified_at", Instant),
    # When its row was last read again in the hope of a fresh link, or its place among its file's versions was last looked at.
    sa.Column("checked_at", Instant),
    # Whether deletes cover all of its rows, whose grace runs or has ended: health does not count it.
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    # Whether a removal of its own is open, because newer versions have replaced it.
    sa.Column("scheduled", sa.Boolean, nullable=False, server_default=sa.false()),
    # Whether it is one of the CBK_KEEP_VERSIONS that stay beside the newest, as was found when it was last looked at.
    sa.Column("kept", sa.Boolean, nullable=False, server_default=sa.false()),
    # Whether it is pruned in this record and its bytes have still to go: record before bytes.
    sa.Column("leftover", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("pruned_at", Instant),
    # Whether a person had approved of that.
    sa.Column("approved", sa.Boolean, nullable=False, server_default=sa.false()),
    # Where its copy lies in the trash and until when, where CBK_TRASH keeps what is pruned.
    sa.Column("trash_name", sa.Text),
    sa.Column("trash_until", Instant),
    sa.UniqueConstraint("file_id", "number", "sha256"),
    sa.Index("ix_versions_source_id", "source_id"),
    sa.Index("ix_versions_newest_state", "newest", "deleted", "state", "first_seen_at"),
)
# Partial: only work that waits is in them, so that a long history costs a poll nothing.
sa.Index(
    "ix_versions_due",
    versions.c.link_expires_at,
    versions.c.due_at,
    sqlite_where=versions.c.due_at.is_not(None),
    postgresql_where=versions.c.due_at.is_not(None),
)
sa.Index(
    "ix_versions_lease",
    versions.c.lease_until,
    sqlite_where=versions.c.lease_until.is_not(None),
    postgresql_where=versions.c.lease_until.is_not(None),
)

# What a fresh link or a mended row may help. Written into statements as it stands: a plan is made before values are known.
REFRESHABLE_STATES = ("expired", "missing", "failed", "declined")
REFRESHABLE = versions.c.state.in_([sa.literal(state, literal_execute=True) for state in REFRESHABLE_STATES]) & (
    versions.c.live.is_(True)
)
_refreshable = versions.c.state.in_(REFRESHABLE_STATES) & versions.c.live.is_(True)
sa.Index("ix_versions_refreshable", versions.c.checked_at, sqlite_where=_refreshable, postgresql_where=_refreshable)

_unsettled = (versions.c.state == "pending") & versions.c.due_at.is_(None)
sa.Index("ix_versions_unsettled", versions.c.checked_at, sqlite_where=_unsettled, postgresql_where=_unsettled)

# Older copies that nothing is decided about yet, copies in the order in which they were verified, and bytes that have to go.
_older = (
    (versions.c.state == "stored")
    & versions.c.newest.is_(False)
    & versions.c.scheduled.is_(False)
    & versions.c.kept.is_(False)
    & versions.c.deleted.is_(False)
)
sa.Index("ix_versions_older", versions.c.checked_at, sqlite_where=_older, postgresql_where=_older)
_stored = versions.c.state == "stored"
sa.Index("ix_versions_sizes", versions.c.size, versions.c.stored_size, sqlite_where=_stored, postgresql_where=_stored)
sa.Index("ix_versions_verified", versions.c.verified_at, sqlite_where=_stored, postgresql_where=_stored)
_leftover = versions.c.leftover.is_(True)
sa.Index("ix_versions_leftover", versions.c.id, sqlite_where=_leftover, postgresql_where=_leftover)
# Few where applications have a SHA-256 of each file.
_weaker = versions.c.proof.in_(("md5", "first_seen"))
_weaker_columns = (versions.c.proof, versions.c.newest, versions.c.deleted, versions.c.state)
sa.Index("ix_versions_weaker", *_weaker_columns, sqlite_where=_weaker, postgresql_where=_weaker)
_trashed = versions.c.trash_until.is_not(None)
sa.Index("ix_versions_trash", versions.c.trash_until, sqlite_where=_trashed, postgresql_where=_trashed)
# What had a copy once and has none now. Written into statements as it stands, as above.
LOST = versions.c.stored_at.is_not(None) & versions.c.state.in_(
    [sa.literal(state, literal_execute=True) for state in ("pending", "expired", "missing", "mismatch", "failed")]
)
_lost = versions.c.stored_at.is_not(None) & versions.c.state.in_(("pending", "expired", "missing", "mismatch", "failed"))
sa.Index("ix_versions_lost", versions.c.first_seen_at, sqlite_where=_lost, postgresql_where=_lost)
_pruned = versions.c.pruned_at.is_not(None)
sa.Index("ix_versions_pruned", versions.c.pruned_at, sqlite_where=_pruned, postgresql_where=_pruned)
# Files with a copy and without a row, though nobody deleted them.
_gone = (versions.c.live.is_(False)) & (versions.c.deleted.is_(False)) & versions.c.newest.is_(True)
sa.Index("ix_versions_gone", versions.c.file_id, sqlite_where=_gone, postgresql_where=_gone)

# How many versions there are of each kind: `version_counts.py`. In SQLite each kind has one row, by a unique index that only the
# migration makes; in PostgreSQL their sum counts.
version_counts = sa.Table(
    "version_counts",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("bucket", AnyText, nullable=False),
    sa.Column("gone_accepted", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("newest", sa.Boolean, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored_size", sa.BigInteger, nullable=False),
)

# What each row of the application's table said when it was last read. An Id is a hint: another (file, Version, Hash) under a known
# one is another row, and the earlier one is gone. So the ids here, not the source's, say in which order rows came.
rows = sa.Table(
    "rows",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("source_id", AnyText, nullable=False),
    # NULL where the row was declined; where its name makes sense, `file_id` and `number` say what it speaks of all the same.
    sa.Column("version_id", Identity, sa.ForeignKey("versions.id")),
    sa.Column("file_id", Identity, sa.ForeignKey("files.id")),
    sa.Column("number", sa.BigInteger),
    # What its Hash said, where it was not the SHA-256 of its version: `md5:` and hex digits, or "" for none.
    sa.Column("claim", sa.Text),
    # The number of the poll that saw it first: of two rows that one poll saw first, nobody knows which came first.
    sa.Column("poll", sa.BigInteger, nullable=False),
    sa.Column("created_at", AnyText),
    sa.Column("first_seen_at", Instant, nullable=False),
    # When it was found to be gone; NULL: it is there.
    sa.Column("gone_at", Instant),
    sa.Index("ix_rows_source_id", "source_id"),
    sa.Index("ix_rows_version_id", "version_id"),
    sa.Index("ix_rows_file_id", "file_id"),
)

# What a person has to approve: mass deletions, and deletes of which it is not known what they mean.
brakes = sa.Table(
    "brakes",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("pulled_at", Instant, nullable=False),
    # How many copies there were that it counted against; 0 where it is not about their number.
    sa.Column("stored_files", sa.BigInteger, nullable=False),
    # Why, for a person.
    sa.Column("reason", AnyText, nullable=False, server_default=""),
    # held, approved, rejected, ended
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("decided_at", Instant),
)

# What is to go when its grace has passed: the versions of a deleted file, or one version that newer ones have replaced.
removals = sa.Table(
    "removals",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    # deleted, replaced
    sa.Column("kind", sa.Text, nullable=False),
    # The Id of the delete-log row, and its FileId.
    sa.Column("delete_id", AnyText, unique=True),
    sa.Column("row_id", AnyText),
    # DeletedAt as the application wrote it.
    sa.Column("deleted_at", AnyText),
    # NULL where the row names no file that the kit knows.
    sa.Column("file_id", Identity, sa.ForeignKey("files.id")),
    sa.Column("version_id", Identity, sa.ForeignKey("versions.id")),
    # The version that it names, and the highest live one above that, which it keeps. What it covers is in `covers`.
    sa.Column("through", sa.BigInteger),
    sa.Column("keeps_newer", sa.BigInteger),
    # The number of the poll that noted it: it is carried out only if every row was read in a later one.
    sa.Column("poll", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("first_seen_at", Instant, nullable=False),
    # NULL while no row that it names is known: its grace begins when one is seen.
    sa.Column("due_at", Instant),
    # Until when a message is on its way.
    sa.Column("armed_until", Instant),
    sa.Column("checked_at", Instant),
    sa.Column("open", sa.Boolean, nullable=False),
    # How it ended: `model.RemovalOutcome`.
    sa.Column("outcome", sa.Text, nullable=False, server_default=""),
    sa.Column("reason", AnyText, nullable=False, server_default=""),
    sa.Column("brake_id", Identity, sa.ForeignKey("brakes.id")),
    sa.Column("closed_at", Instant),
    sa.Index("ix_removals_file_id", "file_id"),
    sa.Index("ix_removals_version_id", "version_id"),
    sa.Index("ix_removals_row_id", "row_id"),
    sa.Index("ix_removals_brake_id", "brake_id"),
)
_open = removals.c.open.is_(True)
sa.Index("ix_removals_due", removals.c.due_at, sqlite_where=_open, postgresql_where=_open)
sa.Index("ix_removals_checked", removals.c.checked_at, sqlite_where=_open, postgresql_where=_open)

# Which rows a delete covers, while it is in force.
covers = sa.Table(
    "covers",
    metadata,
    sa.Column("removal_id", Identity, sa.ForeignKey("removals.id"), primary_key=True, autoincrement=False),
    sa.Column("row_id", Identity, sa.ForeignKey("rows.id"), primary_key=True, autoincrement=False),
    sa.Index("ix_covers_row_id", "row_id"),
)

# What a person wants kept, whatever the application deletes.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    # NULL: in every storage.
    sa.Column("storage", AnyText),
    # A key, or where `is_prefix` the beginning of keys.
    sa.Column("key", AnyText, nullable=False),
    sa.Column("is_prefix", sa.Boolean, nullable=False),
    # NULL: until it is released.
    sa.Column("until", Instant),
    sa.Column("reason", AnyText, nullable=False, server_default=""),
    sa.Column("created_at", Instant, nullable=False),
)

# How things stood over time: rules/status/samples.py.
samples = sa.Table(
    "samples",
    metadata,
    sa.Column("at", Instant, primary_key=True, autoincrement=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("protected", sa.BigInteger, nullable=False),
    # Seconds.
    sa.Column("lag", sa.BigInteger, nullable=False),
    sa.Column("copies", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored_size", sa.BigInteger, nullable=False),
    sa.Column("free", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
)

# The last inventory of each storage: `rules/intake/inventory.py`. What is more than the findings that are kept by name is `beyond`.
inventories = sa.Table(
    "inventories",
    metadata,
    sa.Column("storage", AnyText, primary_key=True),
    # Which one was compared; NULL: none yet.
    sa.Column("version_id", sa.BigInteger),
    sa.Column("as_of", Instant),
    sa.Column("objects", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unrecorded_beyond", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("absent_beyond", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("other_size_beyond", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("problem", AnyText, nullable=False, server_default=""),
)

# Objects without rows, files without objects, objects of another size.
inventory_findings = sa.Table(
    "inventory_findings",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("storage", AnyText, nullable=False),
    # A `FindingKind`.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", AnyText, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("number", sa.BigInteger),
    # When it was last looked at again.
    sa.Column("checked_at", Instant),
    sa.Index("ix_inventory_findings_kind", "kind", "storage"),
)

# Rows that cannot become a version, until the application mends them.
declined = sa.Table(
    "declined",
    metadata,
    sa.Column("source_id", AnyText, primary_key=True),
    # The file that it speaks of, where that is known.
    sa.Column("file_id", Identity, sa.ForeignKey("files.id")),
    sa.Column("storage", AnyText, nullable=False),
    sa.Column("key", AnyText, nullable=False),
    sa.Column("version", AnyText, nullable=False),
    sa.Column("reason", AnyText, nullable=False),
    sa.Column("first_seen_at", Instant, nullable=False),
    sa.Column("checked_at", Instant, nullable=False),
)

# Dumps of databases, by the name that the settings give them.
dumps = sa.Table(
    "dumps",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("place_digest", Hex, nullable=False, unique=True),
    sa.Column("first_seen_at", Instant, nullable=False),
    # The slot of its schedule that the newest stored version is of.
    sa.Column("done_slot", Instant),
    sa.Column("tried_at", Instant),
    sa.Column("retry_at", Instant),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("problem", AnyText, nullable=False, server_default=""),
    sa.Column("hint", AnyText, nullable=False, server_default=""),
)

dump_versions = sa.Table(
    "dump_versions",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("dump_id", Identity, sa.ForeignKey("dumps.id"), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    # stored, bad, pruned
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("slot", Instant, nullable=False),
    sa.Column("taken_at", Instant, nullable=False),
    sa.Column("stored_at", Instant, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("server_version", AnyText, nullable=False, server_default=""),
    sa.Column("tool_version", AnyText, nullable=False, server_default=""),
    # JSON: rows by table; NULL where that is not known.
    sa.Column("rows", AnyText),
    sa.Column("sha256", Hex, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored_size", sa.BigInteger, nullable=False),
    sa.Column("stored_sha256", Hex),
    # Of the users and rights beside it; NULL where none are kept.
    sa.Column("roles_sha256", Hex),
    sa.Column("verified_at", Instant),
    sa.Column("drilled_at", Instant),
    # Why the last drill failed; empty where it passed.
    sa.Column("drill_problem", AnyText),
    # Since when no rule keeps it, and when its grace ends.
    sa.Column("unkept_since", Instant),
    sa.Column("due_at", Instant),
    # Why it stays, or what it waits for.
    sa.Column("reasons", AnyText, nullable=False, server_default=""),
    # Why it is bad.
    sa.Column("reason", AnyText, nullable=False, server_default=""),
    sa.Column("pruned_at", Instant),
    # Whether it is pruned in this record and its bytes have still to go: record before bytes.
    sa.Column("leftover", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("dump_id", "number"),
)
_dump_stored = dump_versions.c.state == "stored"
sa.Index("ix_dump_versions_verified", dump_versions.c.verified_at, sqlite_where=_dump_stored, postgresql_where=_dump_stored)
# The disks of each mirror, or its remote, and how they stood when that was last counted: rules/mirror.py.
mirror_disks = sa.Table(
    "mirror_disks",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("mirror", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False, unique=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("added_at", Instant, nullable=False),
    sa.Column("seen_at", Instant),
    sa.Column("completed_at", Instant),
    sa.Column("counted_at", Instant),
    sa.Column("held", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("missing", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("missing_since", Instant),
    sa.Column("bad", sa.BigInteger, nullable=False, server_default="0"),
    # Files there that the ledger does not know; NULL: nobody looked.
    sa.Column("unknown", sa.BigInteger),
    sa.Column("braked", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("retired_at", Instant),
)

# The copies on them. No foreign key to the version: what the catalog forgets, lies there all the same.
mirror_copies = sa.Table(
    "mirror_copies",
    metadata,
    sa.Column("disk_id", Identity, sa.ForeignKey("mirror_disks.id"), primary_key=True, autoincrement=False),
    sa.Column("version_id", Identity, primary_key=True, autoincrement=False),
    # Of the object; and of the gzip file that lies there, which may be another than the one here.
    sa.Column("sha256", Hex, nullable=False),
    sa.Column("location", AnyText, nullable=False),
    sa.Column("stored_sha256", Hex, nullable=False),
    sa.Column("stored_size", sa.BigInteger, nullable=False),
    sa.Column("copied_at", Instant, nullable=False),
    sa.Column("verified_at", Instant, nullable=False),
    # What is wrong with it, until it is replaced.
    sa.Column("bad", AnyText),
    # When it was first seen that its version is pruned: the mirror's own grace runs from then.
    sa.Column("gone_at", Instant),
    # Whether a person let it go, whatever the brake says.
    sa.Column("approved", sa.Boolean, nullable=False, server_default=sa.false()),
    # It counts no more; its bytes have still to go where it is a leftover. Record before bytes.
    sa.Column("removed_at", Instant),
    sa.Column("leftover", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_mirror_copies_version_id", "version_id"),
)
_there = mirror_copies.c.removed_at.is_(None) & mirror_copies.c.bad.is_(None)
sa.Index(
    "ix_mirror_copies_verified",
    mirror_copies.c.disk_id,
    mirror_copies.c.verified_at,
    sqlite_where=_there,
    postgresql_where=_there,
)
for _column in (mirror_copies.c.gone_at, mirror_copies.c.removed_at, mirror_copies.c.bad):
    _some = _column.is_not(None)
    sa.Index(f"ix_mirror_copies_{_column.name}", mirror_copies.c.disk_id, sqlite_where=_some, postgresql_where=_some)
