"""Dumps of databases, and their versions."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0005"
branch_labels = None
depends_on = None

_IDENTITY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Two tables of their own: a dump is no row of the application's."""
    op.create_table(
        "dumps",
        sa.Column("id", _IDENTITY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("place_digest", sa.LargeBinary, nullable=False),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("done_slot", sa.BigInteger),
        sa.Column("tried_at", sa.BigInteger),
        sa.Column("retry_at", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.Column("hint", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_dumps"),
        sa.UniqueConstraint("name", name="uq_dumps_name"),
        sa.UniqueConstraint("place_digest", name="uq_dumps_place_digest"),
    )
    op.create_table(
        "dump_versions",
        sa.Column("id", _IDENTITY, nullable=False),
        sa.Column("dump_id", _IDENTITY, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("slot", sa.BigInteger, nullable=False),
        sa.Column("taken_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("server_version", sa.Text, nullable=False, server_default=""),
        sa.Column("tool_version", sa.Text, nullable=False, server_default=""),
        sa.Column("rows", sa.Text),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("stored_size", sa.BigInteger, nullable=False),
        sa.Column("stored_sha256", sa.LargeBinary),
        sa.Column("roles_sha256", sa.LargeBinary),
        sa.Column("verified_at", sa.BigInteger),
        sa.Column("drilled_at", sa.BigInteger),
        sa.Column("drill_problem", sa.Text),
        sa.Column("unkept_since", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("reasons", sa.Text, nullable=False, server_default=""),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("pruned_at", sa.BigInteger),
        sa.Column("leftover", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_dump_versions"),
        sa.ForeignKeyConstraint(["dump_id"], ["dumps.id"], name="fk_dump_versions_dump_id"),
        sa.UniqueConstraint("dump_id", "number", name="uq_dump_versions_dump_id_number"),
    )
    stored = sa.text("state = 'stored'")
    op.create_index("ix_dump_versions_verified", "dump_versions", ["verified_at"], sqlite_where=stored, postgresql_where=stored)
