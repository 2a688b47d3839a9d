"""The ledger of the mirrors: which disks each has, and which copy is there."""

import sqlalchemy as sa
from alembic import op

from cbk.edges.catalog.database.schema import AnyText, Hex, Identity, Instant

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tables of their own, beside the versions that they speak of."""
    op.create_table(
        "mirror_disks",
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
        sa.Column("unknown", sa.BigInteger),
        sa.Column("braked", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("retired_at", Instant),
    )
    op.create_table(
        "mirror_copies",
        sa.Column("disk_id", Identity, sa.ForeignKey("mirror_disks.id"), primary_key=True, autoincrement=False),
        sa.Column("version_id", Identity, primary_key=True, autoincrement=False),
        sa.Column("sha256", Hex, nullable=False),
        sa.Column("location", AnyText, nullable=False),
        sa.Column("stored_sha256", Hex, nullable=False),
        sa.Column("stored_size", sa.BigInteger, nullable=False),
        sa.Column("copied_at", Instant, nullable=False),
        sa.Column("verified_at", Instant, nullable=False),
        sa.Column("bad", AnyText),
        sa.Column("gone_at", Instant),
        sa.Column("approved", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("removed_at", Instant),
        sa.Column("leftover", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    there = sa.text("removed_at IS NULL AND bad IS NULL")
    columns = ["disk_id", "verified_at"]
    op.create_index("ix_mirror_copies_verified", "mirror_copies", columns, sqlite_where=there, postgresql_where=there)
    for name in ("gone_at", "removed_at", "bad"):
        some = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"ix_mirror_copies_{name}", "mirror_copies", ["disk_id"], sqlite_where=some, postgresql_where=some)
    op.create_index("ix_mirror_copies_version_id", "mirror_copies", ["version_id"])
