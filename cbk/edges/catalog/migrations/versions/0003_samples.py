"""How things stood over time; an index for looking into folders."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what the page shows."""
    numbers = ("files", "protected", "lag", "copies", "size", "stored_size", "free", "total")
    op.create_table(
        "samples",
        sa.Column("at", sa.BigInteger, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in numbers),
        sa.PrimaryKeyConstraint("at", name="pk_samples"),
    )
    # Keys can be longer than an index entry may be in PostgreSQL (2,704 bytes), and are compared byte by byte.
    if op.get_context().dialect.name == "postgresql":
        op.create_index("ix_files_folder", "files", ["bucket", sa.text('substr(key, 1, 400) COLLATE "C"')])
    else:
        op.create_index("ix_files_folder", "files", ["bucket", "key"])
