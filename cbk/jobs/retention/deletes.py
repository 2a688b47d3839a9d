"""Take in rows of the delete log: which file each names, and which of its versions the delete covers."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from cbk.edges.catalog import NewDelete
from cbk.jobs.context import Context
from cbk.jobs.intake.rows import record_rows
from cbk.model import AcceptedRow, DeleteRow, Removal, SourceRow, Version
from cbk.rules.intake.rows import name_of, read_row
from cbk.rules.retention.retention import covered_through

# How a removal ended where the same row of the delete log, found again, is a new delete.
_OVER_FOR_NOW = frozenset({"taken back", "unknown"})


def new_deletes(context: Context, rows: Sequence[DeleteRow]) -> list[DeleteRow]:
    """Those of these rows that say something new: unknown, changed to name another file, or back after they were gone."""
    known = context.catalog.removals.known([row.id for row in rows])
    return [row for row in rows if _is_new(row, known.get(row.id))]


def _is_new(row: DeleteRow, known: Removal | None) -> bool:
    return known is None or known.row_id != row.file_id or known.outcome in _OVER_FOR_NOW


def record_deletes(context: Context, rows: Sequence[DeleteRow]) -> int:
    """Note the new ones of these rows, whose grace runs from now; returns how many.

    Every version is to be taken in that was there when the rows were read: one that is seen later counts as a re-creation.
    """
    fresh = new_deletes(context, rows)
    if not fresh:
        return 0
    named = _versions_of_rows(context, [row.file_id for row in fresh])
    through = _covered(context, fresh, named)
    deletes = [
        NewDelete(
            delete_id=row.id,
            row_id=row.file_id,
            file_id=named[row.file_id].file_id if row.file_id in named else None,
            through=through.get(row.id),
        )
        for row in fresh
    ]
    rows_through = context.catalog.intake.highest_id("files") if context.source.ids_are_ordered() else None
    context.catalog.removals.record(deletes, context.settings.grace_period, rows_through)
    context.catalog.intake.clear_declined([row.file_id for row in fresh])
    return len(fresh)


def resolve(context: Context, removals: Sequence[Removal]) -> int:
    """Find the files of deletes whose rows were not known when they were first seen; returns for how many that worked."""
    named = _versions_of_rows(context, [removal.row_id for removal in removals if removal.row_id])
    found = [(removal, named[removal.row_id]) for removal in removals if removal.row_id in named]
    for removal, version in found:
        known = context.catalog.work.versions_of_file(version.file_id)
        seen_before = [other.number for other in known if other.first_seen_at and other.first_seen_at <= removal.first_seen_at]
        context.catalog.removals.resolve(removal.id, file_id=version.file_id, through=max([version.number, *seen_before]))
    return len(found)


def _versions_of_rows(context: Context, row_ids: list[str]) -> dict[str, Version]:
    """The version of each of these rows; rows that no poll has seen are taken in first."""
    named = context.catalog.work.versions_of_rows(row_ids)
    unseen = [row_id for row_id in row_ids if row_id and row_id not in named]
    rows = list(context.source.rows(unseen).values()) if unseen else []
    if rows:
        record_rows(context, rows)
        named |= context.catalog.work.versions_of_rows([row.id for row in rows])
    others = ((row.id, _version_it_speaks_of(context, row)) for row in rows if row.id not in named)
    return named | {row_id: version for row_id, version in others if version is not None}


def _version_it_speaks_of(context: Context, row: SourceRow) -> Version | None:
    """For a row that brought no version, because it repeats one or was declined: its file counts all the same."""
    name, accepted = name_of(row), read_row(row)
    known = context.catalog.work.versions_named(*name) if name else []
    number = accepted.number if isinstance(accepted, AcceptedRow) else None
    return next((version for version in known if version.number == number), max(known, key=attrgetter("number"), default=None))


def _covered(context: Context, deletes: Sequence[DeleteRow], named: dict[str, Version]) -> dict[str, int]:
    """How far each delete goes, by its Id. Dates of creation are asked for only where they can matter."""
    files = context.catalog.work.versions_of_files({version.file_id for version in named.values()})
    dated = [row for row in deletes if row.deleted_at is not None and row.file_id in named]
    higher = [
        version.source_id
        for row in dated
        for version in files[named[row.file_id].file_id]
        if version.number > named[row.file_id].number
    ]
    created = {row_id: row.created_at for row_id, row in context.source.rows(sorted(set(higher))).items()} if higher else {}
    return {
        row.id: covered_through(
            named[row.file_id].number,
            {version.number: created.get(version.source_id) for version in files[named[row.file_id].file_id]},
            row.deleted_at,
        )
        for row in deletes
        if row.file_id in named
    }
