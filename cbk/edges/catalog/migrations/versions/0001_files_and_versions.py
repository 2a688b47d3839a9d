"""Files, versions, and what polling remembers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Identity = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "facts",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "marks",
        sa.Column("highest_id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("highest_id", name="pk_marks"),
    )
    op.create_table(
        "files",
        sa.Column("id", Identity, nullable=False),
        sa.Column("storage", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("name_digest", sa.LargeBinary, nullable=False),
        sa.Column("place_digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.UniqueConstraint("name_digest", name="uq_files_name_digest"),
        sa.UniqueConstraint("place_digest", name="uq_files_place_digest"),
    )
    op.create_table(
        "declined",
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("storage", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("checked_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source_id", name="pk_declined"),
    )
    _create_versions()


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", Identity, nullable=False),
        sa.Column("file_id", Identity, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("newest", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("link_digest", sa.Text, nullable=False, server_default=""),
        sa.Column("link_expires_at", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("holder", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("size", sa.BigInteger),
        sa.Column("stored_size", sa.BigInteger),
        sa.Column("stored_sha256", sa.LargeBinary),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger),
        sa.Column("verified_at", sa.BigInteger),
        sa.Column("checked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_versions_file_id"),
        sa.UniqueConstraint("file_id", "number", name="uq_versions_file_id_number"),
    )
    op.create_index("ix_versions_source_id", "versions", ["source_id"])
    op.create_index("ix_versions_newest_state", "versions", ["newest", "state"])
    waits, leased = sa.text("due_at IS NOT NULL"), sa.text("lease_until IS NOT NULL")
    op.create_index("ix_versions_due", "versions", ["link_expires_at", "due_at"], sqlite_where=waits, postgresql_where=waits)
    unsettled = sa.text("state = 'pending' AND due_at IS NULL")
    op.create_index("ix_versions_unsettled", "versions", ["checked_at"], sqlite_where=unsettled, postgresql_where=unsettled)
    op.create_index("ix_versions_lease", "versions", ["lease_until"], sqlite_where=leased, postgresql_where=leased)
