"""What the buckets' inventories said."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the last inventory of each storage, and its findings."""
    op.create_table(
        "inventories",
        sa.Column("storage", sa.Text, nullable=False),
        sa.Column("version_id", sa.BigInteger),
        sa.Column("as_of", sa.BigInteger),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("objects", "unrecorded_beyond", "absent_beyond", "other_size_beyond")
        ),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("storage", name="pk_inventories"),
    )
    # Keys can be longer than an index entry may be in PostgreSQL (2,704 bytes).
    op.create_table(
        "inventory_findings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("storage", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("number", sa.BigInteger),
        sa.Column("checked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_inventory_findings"),
    )
    op.create_index("ix_inventory_findings_kind", "inventory_findings", ["kind", "storage"])
