"""Rows apart from versions: what each row said when it was last read, and which rows a delete covers.

What a catalog of an earlier release believed is taken over as it is, and the next full read mends it: each version's row counts as
there until it is found to be gone, and what open deletes cover is found out anew by the next poll, with their graces as they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Identity = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add rows and what covers them; let several versions of a file have one number, while only one of them is live."""
    _create_rows()
    _change_versions()
    _change_removals()
    op.create_table(
        "covers",
        sa.Column("removal_id", Identity, autoincrement=False, nullable=False),
        sa.Column("row_id", Identity, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("removal_id", "row_id", name="pk_covers"),
        sa.ForeignKeyConstraint(["removal_id"], ["removals.id"], name="fk_covers_removal_id"),
        sa.ForeignKeyConstraint(["row_id"], ["rows.id"], name="fk_covers_row_id"),
    )
    op.create_index("ix_covers_row_id", "covers", ["row_id"])
    op.add_column("files", sa.Column("gone_accepted", sa.Boolean, nullable=False, server_default=sa.false()))
    with op.batch_alter_table("brakes") as batch:
        batch.drop_column("joined_at")
        batch.add_column(sa.Column("reason", sa.Text, nullable=False, server_default=""))
    with op.batch_alter_table("declined") as batch:
        batch.add_column(sa.Column("file_id", Identity))
        batch.create_foreign_key("fk_declined_file_id", "files", ["file_id"], ["id"])
    op.drop_table("marks")
    _take_over()


def _create_rows() -> None:
    op.create_table(
        "rows",
        sa.Column("id", Identity, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("version_id", Identity),
        sa.Column("file_id", Identity),
        sa.Column("number", sa.BigInteger),
        sa.Column("poll", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Text),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("gone_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_rows"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_rows_version_id"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_rows_file_id"),
    )


def _change_versions() -> None:
    for name in ("ix_versions_refreshable", "ix_versions_older"):
        op.drop_index(name, "versions")
    with op.batch_alter_table("versions") as batch:
        batch.drop_constraint("uq_versions_file_id_number", type_="unique")
        batch.create_unique_constraint("uq_versions_file_id_number_sha256", ["file_id", "number", "sha256"])
        batch.add_column(sa.Column("variant", sa.Text, nullable=False, server_default=""))
        batch.add_column(sa.Column("live", sa.Boolean, nullable=False, server_default=sa.true()))
        for name in ("kept", "approved"):
            batch.add_column(sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    is_live = sa.column("live", sa.Boolean).is_(True)
    few = sa.column("state").in_([sa.literal_column(f"'{state}'") for state in ("expired", "missing", "failed", "declined")])
    _create_partial_index("ix_versions_refreshable", "versions", "checked_at", few & is_live)
    flags = [sa.column(name, sa.Boolean).is_(False) for name in ("newest", "scheduled", "kept", "deleted")]
    _create_partial_index("ix_versions_older", "versions", "checked_at", sa.and_(sa.column("state") == "stored", *flags))
    states = ("pending", "expired", "missing", "mismatch", "failed")
    lost = sa.column("stored_at").is_not(None) & sa.column("state").in_([sa.literal_column(f"'{state}'") for state in states])
    _create_partial_index("ix_versions_lost", "versions", "first_seen_at", lost)
    _create_partial_index("ix_versions_pruned", "versions", "pruned_at", sa.column("pruned_at").is_not(None))
    gone = [sa.column("live", sa.Boolean).is_(False), sa.column("deleted", sa.Boolean).is_(False)]
    _create_partial_index("ix_versions_gone", "versions", "file_id", sa.and_(*gone, sa.column("newest", sa.Boolean).is_(True)))


def _change_removals() -> None:
    with op.batch_alter_table("removals") as batch:
        batch.drop_column("rows_through")
        batch.alter_column("due_at", existing_type=sa.BigInteger, nullable=True)
        batch.add_column(sa.Column("deleted_at", sa.Text))
        batch.add_column(sa.Column("keeps_newer", sa.BigInteger))
        batch.add_column(sa.Column("poll", sa.BigInteger, nullable=False, server_default="0"))


def _create_partial_index(name: str, table: str, column: str, where: sa.ColumnElement[bool]) -> None:
    op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)


def _take_over() -> None:
    op.execute(
        "INSERT INTO rows (source_id, version_id, file_id, number, poll, first_seen_at)"
        " SELECT source_id, id, file_id, number, 0, first_seen_at FROM versions ORDER BY id"
    )
    for column in ("source_id", "version_id", "file_id"):
        op.create_index(f"ix_rows_{column}", "rows", [column])
    # Deletes that were carried out go on covering what they removed; the others are looked at anew.
    op.execute(
        "INSERT INTO covers (removal_id, row_id) SELECT removals.id, rows.id FROM removals JOIN rows"
        " ON rows.file_id = removals.file_id AND rows.number <= removals.through"
        " WHERE removals.kind = 'deleted' AND removals.outcome = 'done'"
    )
    # What was over without having removed anything may be found again in the delete log: as a new row of it.
    op.execute("UPDATE removals SET delete_id = NULL WHERE outcome IN ('taken back', 'unknown', 're-created')")
    op.execute("UPDATE removals SET outcome = 'taken back' WHERE outcome IN ('unknown', 're-created')")
    covered = "EXISTS (SELECT 1 FROM rows JOIN covers ON covers.row_id = rows.id WHERE rows.version_id = versions.id)"
    op.execute(f"UPDATE versions SET live = NOT {covered}, deleted = {covered}")  # noqa: S608 - text of this module
    op.execute("DELETE FROM facts WHERE name LIKE 'files.%' OR name LIKE 'deletes.%'")
    _count("files", "SELECT count(*) FROM rows")
    _count("deletes", "SELECT count(*) FROM removals WHERE delete_id IS NOT NULL")


def _count(table: str, query: str) -> None:
    """The counters of a table; the sum of its Ids is not known, so that the next poll reads it once more."""
    count = op.get_bind().execute(sa.text(query)).scalar() or 0
    facts = sa.table("facts", sa.column("name"), sa.column("value"))
    op.execute(facts.insert().values(name=f"{table}.counters", value=f"[{count}, 0]"))
