"""Removals with their grace, holds, brakes; marks for both of the application's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Identity = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add what prune needs."""
    _add_to_versions()
    _give_marks_a_stream()
    op.create_table(
        "brakes",
        sa.Column("id", Identity, nullable=False),
        sa.Column("pulled_at", sa.BigInteger, nullable=False),
        sa.Column("joined_at", sa.BigInteger, nullable=False),
        sa.Column("stored_files", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decided_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_brakes"),
    )
    _create_removals()
    op.create_table(
        "holds",
        sa.Column("id", Identity, nullable=False),
        sa.Column("storage", sa.Text),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("is_prefix", sa.Boolean, nullable=False),
        sa.Column("until", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
    )


def _add_to_versions() -> None:
    for name in ("deleted", "scheduled", "leftover"):
        op.add_column("versions", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("versions", sa.Column("pruned_at", sa.BigInteger))
    op.add_column("versions", sa.Column("trash_name", sa.Text))
    op.add_column("versions", sa.Column("trash_until", sa.BigInteger))
    op.drop_index("ix_versions_newest_state", "versions")
    op.create_index("ix_versions_newest_state", "versions", ["newest", "deleted", "state"])
    columns = sa.table(
        "versions", sa.column("state"), *(sa.column(name, sa.Boolean) for name in ("newest", "scheduled", "leftover"))
    )
    stored = columns.c.state == "stored"
    _create_partial_index(
        "ix_versions_older", "versions", "checked_at", stored & columns.c.newest.is_(False) & columns.c.scheduled.is_(False)
    )
    _create_partial_index("ix_versions_verified", "versions", "verified_at", stored)
    _create_partial_index("ix_versions_leftover", "versions", "id", columns.c.leftover.is_(True))
    _create_partial_index("ix_versions_trash", "versions", "trash_until", sa.column("trash_until").is_not(None))


def _create_partial_index(name: str, table: str, column: str, where: sa.ColumnElement[bool]) -> None:
    op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)


def _give_marks_a_stream() -> None:
    op.rename_table("marks", "marks_before")
    op.create_table(
        "marks",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("highest_id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "highest_id", name="pk_marks_of_streams"),
    )
    op.execute("INSERT INTO marks (stream, highest_id, seen_at) SELECT 'files', highest_id, seen_at FROM marks_before")
    op.drop_table("marks_before")


def _create_removals() -> None:
    op.create_table(
        "removals",
        sa.Column("id", Identity, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("delete_id", sa.Text),
        sa.Column("row_id", sa.Text),
        sa.Column("file_id", Identity),
        sa.Column("version_id", Identity),
        sa.Column("through", sa.BigInteger),
        sa.Column("rows_through", sa.BigInteger),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("armed_until", sa.BigInteger),
        sa.Column("checked_at", sa.BigInteger),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False, server_default=""),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("brake_id", Identity),
        sa.Column("closed_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_removals"),
        sa.UniqueConstraint("delete_id", name="uq_removals_delete_id"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_removals_file_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_removals_version_id"),
        sa.ForeignKeyConstraint(["brake_id"], ["brakes.id"], name="fk_removals_brake_id"),
    )
    for column in ("file_id", "version_id", "row_id", "brake_id"):
        op.create_index(f"ix_removals_{column}", "removals", [column])
    is_open = sa.column("open", sa.Boolean).is_(True)
    _create_partial_index("ix_removals_due", "removals", "due_at", is_open)
    _create_partial_index("ix_removals_checked", "removals", "checked_at", is_open)
