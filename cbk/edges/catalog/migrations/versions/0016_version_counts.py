"""Counts of versions that the database keeps by itself, so that `status` and a poll need not go through the history.

A later migration that makes `versions` or `files` anew in SQLite loses the triggers on them: it has to make them again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None

KIND = ("bucket", "gone_accepted", "state", "newest", "deleted", "live")
AMOUNTS = ("number", "size", "stored_size")
# What a version counts under and by; its file says the first two.
COUNTED = ("state", "newest", "deleted", "live", "size", "stored_size")
WATCHED = ("file_id", *COUNTED)
COLUMNS = ", ".join((*KIND, *AMOUNTS))

SQLITE_ADD = f"""
    INSERT INTO version_counts ({COLUMNS})
    SELECT files.bucket, {{accepted}}, {{v}}.state, {{v}}.newest, {{v}}.deleted, {{v}}.live,
        {{sign}}1, {{sign}}coalesce({{v}}.size, 0), {{sign}}coalesce({{v}}.stored_size, 0)
    FROM {{tables}} WHERE {{of}}
    ON CONFLICT ({", ".join(KIND)}) DO UPDATE SET
        number = number + excluded.number, size = size + excluded.size, stored_size = stored_size + excluded.stored_size;
"""


def upgrade() -> None:
    """Add the table, count what is there, and have the database keep the counts."""
    op.create_table(
        "version_counts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("gone_accepted", sa.Boolean, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("newest", "deleted", "live")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in AMOUNTS),
        sa.PrimaryKeyConstraint("id", name="pk_version_counts"),
    )
    # Not the bare column: SQLite would go by its index, and look up each file's versions, which takes six times as long.
    op.execute(f"""
        INSERT INTO version_counts ({COLUMNS})
        SELECT files.bucket || '', files.gone_accepted, state, newest, deleted, live,
            count(*), coalesce(sum(size), 0), coalesce(sum(stored_size), 0)
        FROM versions JOIN files ON files.id = versions.file_id
        GROUP BY files.bucket || '', files.gone_accepted, state, newest, deleted, live
    """)
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("uq_version_counts_kind", "version_counts", KIND, unique=True)
        _keep_in_sqlite()
    else:
        _keep_in_postgresql()


def _keep_in_sqlite() -> None:
    def version(row: str, sign: str) -> str:
        return SQLITE_ADD.format(v=row, sign=sign, accepted="files.gone_accepted", tables="files", of=f"files.id = {row}.file_id")

    def file(row: str, sign: str) -> str:
        return SQLITE_ADD.format(
            v="versions",
            sign=sign,
            accepted=f"{row}.gone_accepted",
            tables="versions JOIN files ON files.id = versions.file_id",
            of=f"versions.file_id = {row}.id",
        )

    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in WATCHED)
    for when, body in {
        "versions_added AFTER INSERT ON versions": version("NEW", "+"),
        "versions_removed AFTER DELETE ON versions": version("OLD", "-"),
        f"versions_changed AFTER UPDATE OF {', '.join(WATCHED)} ON versions WHEN {changed}": version("OLD", "-")
        + version("NEW", "+"),
        "files_accepted AFTER UPDATE OF gone_accepted ON files WHEN OLD.gone_accepted IS NOT NEW.gone_accepted": file("OLD", "-")
        + file("NEW", "+"),
    }.items():
        op.execute(f"CREATE TRIGGER count_{when} BEGIN {body} END")


def _keep_in_postgresql() -> None:
    add = f"""
        INSERT INTO version_counts ({COLUMNS})
        SELECT files.bucket, {{accepted}}, v.state, v.newest, v.deleted, v.live,
            sum(v.sign), sum(v.sign * coalesce(v.size, 0)), sum(v.sign * coalesce(v.stored_size, 0))
        FROM ({{changes}}) v JOIN files ON files.id = v.file_id
        GROUP BY files.bucket, {{accepted}}, v.state, v.newest, v.deleted, v.live;
    """
    row = f"file_id, {', '.join(COUNTED)}"
    values = {name: f"{name}.file_id, " + ", ".join(f"{name}.{column}" for column in COUNTED) for name in ("OLD", "NEW")}
    versions_of_file = f"SELECT {row}, {{sign}} AS sign, {{accepted}} AS accepted FROM versions WHERE file_id = NEW.id"
    bodies = {
        "versions_added": add.format(accepted="files.gone_accepted", changes=f"SELECT {row}, 1 AS sign FROM added"),
        "versions_removed": add.format(accepted="files.gone_accepted", changes=f"SELECT {row}, -1 AS sign FROM removed"),
        "versions_changed": add.format(
            accepted="files.gone_accepted",
            changes=f"SELECT * FROM (VALUES ({values['OLD']}, -1), ({values['NEW']}, 1)) AS both_rows ({row}, sign)",
        ),
        "files_accepted": add.format(
            accepted="v.accepted",
            changes=versions_of_file.format(sign=-1, accepted="OLD.gone_accepted")
            + " UNION ALL "
            + versions_of_file.format(sign=1, accepted="NEW.gone_accepted"),
        ),
    }
    changed = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in WATCHED)
    times = {
        "versions_added": "AFTER INSERT ON versions REFERENCING NEW TABLE AS added FOR EACH STATEMENT",
        "versions_removed": "AFTER DELETE ON versions REFERENCING OLD TABLE AS removed FOR EACH STATEMENT",
        "versions_changed": f"AFTER UPDATE OF {', '.join(WATCHED)} ON versions FOR EACH ROW WHEN ({changed})",
        "files_accepted": "AFTER UPDATE OF gone_accepted ON files FOR EACH ROW WHEN (OLD.gone_accepted <> NEW.gone_accepted)",
    }
    for name, body in bodies.items():
        op.execute(f"CREATE FUNCTION count_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$")
        op.execute(f"CREATE TRIGGER count_{name} {times[name]} EXECUTE FUNCTION count_{name}()")
