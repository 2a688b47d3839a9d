"""Indexes by which a poll and `status` need not look through the history."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What a fresh link may help; what is counted by state, with its oldest and newest; the sizes of copies."""
    refreshable = sa.text("state IN ('expired', 'missing', 'failed', 'declined')")
    op.create_index("ix_versions_refreshable", "versions", ["checked_at"], sqlite_where=refreshable, postgresql_where=refreshable)
    op.drop_index("ix_versions_newest_state", "versions")
    op.create_index("ix_versions_newest_state", "versions", ["newest", "deleted", "state", "first_seen_at"])
    stored = sa.text("state = 'stored'")
    op.create_index("ix_versions_sizes", "versions", ["size", "stored_size"], sqlite_where=stored, postgresql_where=stored)
