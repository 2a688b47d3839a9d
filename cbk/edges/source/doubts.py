"""What of the application's tables this user may not be reading: "what cannot be read is not nothing" (DESIGN section 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from cbk.edges.source.tables import DELETES_TABLE, FILES_TABLE, Tables, TableShape


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDoubt:
    """A reason why rows may be there that are not read: `kind` for a program, `message` and `hint` for a person.

    `kind` is row-security, no-id, odd-id or duplicate-id.
    """

    kind: str
    message: str
    hint: str


_OWN_ID = 'give each row an "Id" of its own, and make the column the primary key'

# Follows views to the tables that they read, each with the role by whose rights it is read: the view's owner, or who asks where the
# view is `security_invoker`. A policy hides nothing only if it says `true`; whatever else it says cannot be judged here.
_HIDDEN = text("""
WITH RECURSIVE reads(named, relation, role) AS (
    SELECT name, to_regclass('"' || name || '"')::oid, (SELECT oid FROM pg_roles WHERE rolname = current_user)
    FROM unnest(CAST(:tables AS text[])) AS names(name)
  UNION
    SELECT reads.named, used.refobjid,
           CASE WHEN lower(reads_view.reloptions::text) ~ 'security_invoker=(true|on|yes|1)[,}]' THEN reads.role
                ELSE reads_view.relowner END
    FROM reads
    JOIN pg_class AS reads_view ON reads_view.oid = reads.relation AND reads_view.relkind = 'v'
    JOIN pg_rewrite AS rule ON rule.ev_class = reads_view.oid
    JOIN pg_depend AS used ON used.classid = 'pg_rewrite'::regclass AND used.objid = rule.oid
        AND used.refclassid = 'pg_class'::regclass AND used.refobjid <> reads_view.oid
)
SELECT DISTINCT reads.named, subject.relname, role.rolname
FROM reads
JOIN pg_class AS subject ON subject.oid = reads.relation AND subject.relrowsecurity
JOIN pg_roles AS role ON role.oid = reads.role AND NOT role.rolsuper AND NOT role.rolbypassrls
CROSS JOIN LATERAL (
    SELECT bool_or(polpermissive AND pg_get_expr(polqual, polrelid) = 'true') AS shows_all,
           bool_or(NOT polpermissive AND pg_get_expr(polqual, polrelid) <> 'true') AS restricts
    FROM pg_policy
    WHERE polrelid = subject.oid AND polcmd IN ('*', 'r')
      AND EXISTS (SELECT FROM unnest(polroles) AS allowed(oid)
                  WHERE CASE WHEN allowed.oid = 0 THEN true ELSE pg_has_role(role.oid, allowed.oid, 'USAGE') END)
) AS policies
WHERE NOT (pg_has_role(role.oid, subject.relowner, 'USAGE') AND NOT subject.relforcerowsecurity)
  AND (policies.shows_all IS NOT TRUE OR policies.restricts IS TRUE)
ORDER BY 1, 2, 3
""")


def unreadable_rows(connection: Connection, tables: Tables) -> Iterator[SourceDoubt]:
    """What hides rows from us, and rows that no page has. Costs a question to the catalog, and one for each Id that may be NULL."""
    if connection.dialect.name == "postgresql":
        for named, table, role in connection.execute(_HIDDEN, {"tables": [FILES_TABLE, DELETES_TABLE]}):
            yield _row_security(named, table, role)
    for shape in (tables.files, tables.deletes):
        yield from _without_id(connection, shape)


def duplicates(connection: Connection, tables: Tables) -> Iterator[SourceDoubt]:
    """Ids that several rows of a table share, where no constraint rules that out. Reads every Id of such a table."""
    for shape in (tables.files, tables.deletes):
        if shape.is_unique or shape.key != "Id":  # a log without Id may well name a file twice
            continue
        key = shape.column(shape.key)
        shared = select(key.label("id")).where(key.is_not(None)).group_by(key).having(func.count() > 1).subquery()
        count = connection.execute(select(func.count()).select_from(shared)).scalar_one()
        if count:
            yield SourceDoubt(
                kind="duplicate-id",
                message=f'several rows of "{shape.name}" have the same Id: {count} {"Id" if count == 1 else "Ids"}',
                hint=_OWN_ID,
            )


def _row_security(named: str, table: str, role: str) -> SourceDoubt:
    of = f'"{named}"' if table == named else f'"{table}", which "{named}" shows,'
    return SourceDoubt(
        kind="row-security",
        message=f"row-level security hides rows of {of} from {role}",
        hint=f'CREATE POLICY cbk_reads_all ON "{table}" FOR SELECT TO "{role}" USING (true)',
    )


def _without_id(connection: Connection, shape: TableShape) -> Iterator[SourceDoubt]:
    key = shape.column(shape.key)
    odd = shape.ids[shape.key].unaddressable(key)
    conditions = {"no-id": key.is_(None) if shape.may_lack_ids else None, "odd-id": odd}
    for kind, condition in conditions.items():
        if condition is None:
            continue
        count = connection.execute(select(func.count()).select_from(shape.clause).where(condition)).scalar_one()
        if count:
            what = "NULL" if kind == "no-id" else "no whole number"
            yield SourceDoubt(
                kind=kind,
                message=f'{count} {"row" if count == 1 else "rows"} of "{shape.name}" cannot be read: "{shape.key}" is {what}',
                hint=_OWN_ID,
            )
