"""What proves a version's bytes: hashes that its rows have, and what they do not."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add MD5 and strength of proof to versions, and what each row's Hash said to rows. What is there has its SHA-256."""
    # None of them makes a table anew: a constant default is no more than a note.
    op.add_column("versions", sa.Column("md5", sa.LargeBinary))
    op.add_column("versions", sa.Column("proof", sa.Text, nullable=False, server_default="sha256"))
    op.add_column("rows", sa.Column("claim", sa.Text))
    weaker = sa.column("proof").in_([sa.literal_column("'md5'"), sa.literal_column("'first_seen'")])
    columns = ["proof", "newest", "deleted", "state"]
    op.create_index("ix_versions_weaker", "versions", columns, sqlite_where=weaker, postgresql_where=weaker)
