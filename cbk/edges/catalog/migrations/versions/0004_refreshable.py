"""An index of what a fresh link may help, so that a poll does not look through the history for it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it."""
    refreshable = sa.text("state IN ('expired', 'missing', 'failed', 'declined')")
    op.create_index("ix_versions_refreshable", "versions", ["checked_at"], sqlite_where=refreshable, postgresql_where=refreshable)
