"""Take in rows of the delete log: which row of the files table each names, and which rows it covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cbk.edges.catalog import NewDelete
from cbk.jobs.context import Context
from cbk.jobs.intake.rows import record_rows_of, settle_files
from cbk.model import DeleteRow, Removal, RowEntry
from cbk.rules.retention.coverage import IN_DOUBT_LATER, Coverage, cover, cover_anew, name_row, says_other


def new_deletes(context: Context, rows: Sequence[DeleteRow]) -> list[DeleteRow]:
    """Those of these rows that say something new: unknown, or another thing than when they were noted."""
    known = context.catalog.removals.known([row.id for row in rows])
    return [row for row in rows if row.id not in known or says_other(known[row.id], row)]


def deletes_say_otherwise(context: Context, rows: Sequence[DeleteRow]) -> bool:
    """Whether one of these rows is known by its Id, and said something else when it was noted."""
    known = context.catalog.removals.known([row.id for row in rows])
    return any(row.id in known and says_other(known[row.id], row) for row in rows)


def record_deletes(context: Context, rows: Sequence[DeleteRow], poll: int) -> int:
    """Note the new ones of these rows, whose grace runs from now; returns how many.

    Every row is to be taken in that was there when the delete log was read: one that is seen later is not covered. The rows that
    are named are read once more here: what a delete means is what its Id names now.
    """
    fresh = new_deletes(context, rows)
    if not fresh:
        return 0
    names = sorted({row.file_id for row in fresh if row.file_id})
    record_rows_of(context, names)
    coverages = _coverages(context, {row.id: (row.file_id, _text(row.deleted_at)) for row in fresh}, poll)
    for delete_id, before in _covered_before(context, fresh).items():
        if delete_id in coverages:
            coverages[delete_id] = cover_anew(coverages[delete_id], before)
    deletes = [
        NewDelete(delete_id=row.id, row_id=row.file_id, deleted_at=_text(row.deleted_at), coverage=coverages.get(row.id))
        for row in fresh
    ]
    settle_files(context, context.catalog.removals.record(deletes, context.settings.grace_period, poll))
    context.catalog.intake.clear_deleted(names)
    _ask_anew(context, coverages.values(), poll)
    return len(fresh)


def _ask_anew(context: Context, coverages: Iterable[Coverage], poll: int) -> None:
    """Rows without a Hash that came in the poll that sees these deletes were taken for what is deleted now: take them in again.

    They may have been written after the delete, and then the bytes of what was deleted are not theirs.
    """
    covered = {row_id for coverage in coverages for row_id in coverage.rows}
    silent = context.catalog.rows.silent_beside(covered, poll) if covered else {}
    if silent:
        settle_files(context, context.catalog.rows.take_out(silent))
        record_rows_of(context, sorted(silent.values()))


def _covered_before(context: Context, fresh: Sequence[DeleteRow]) -> dict[str, frozenset[int]]:
    """The entries that those of these deletes covered which name the same row as before, by their Id."""
    removals = context.catalog.removals
    known = removals.known([row.id for row in fresh])
    dated_anew = {row.id: known[row.id].id for row in fresh if row.id in known and known[row.id].row_id == row.file_id}
    covered = removals.rows_covered_by(list(dated_anew.values()))
    return {delete_id: covered[removal_id] for delete_id, removal_id in dated_anew.items()}


def bind_deletes(context: Context, unbound: Sequence[Removal], poll: int) -> int:
    """Deletes that named no row that the kit knew: note what they cover where there is one now; returns for how many.

    A row that came only after its delete may have been given the Id of the one that was meant: a person has to look.
    """
    named = {str(removal.id): (removal.row_id or "", removal.deleted_at) for removal in unbound if removal.row_id}
    found = _coverages(context, named, poll)
    by_id = {str(removal.id): removal for removal in unbound}
    bound = [(by_id[name], coverage) for name, coverage in found.items()]
    catalog = context.catalog.removals
    # What an earlier release noted, or a journal, has its grace already, and means what it always has.
    before = [(removal.id, coverage) for removal, coverage in bound if removal.due_at is not None]
    since = [(removal.id, _in_doubt(coverage)) for removal, coverage in bound if removal.due_at is None]
    changed = catalog.bind(before, grace=None) | catalog.bind(since, grace=context.settings.grace_period)
    settle_files(context, changed)
    return len(bound)


def _coverages(context: Context, named: Mapping[str, tuple[str, str | None]], poll: int) -> dict[str, Coverage]:
    """What each of these deletes covers, by its own name; `named` has the row's Id and the delete's date for each."""
    rows = context.catalog.rows
    under_ids = rows.under_ids(sorted({row_id for row_id, _ in named.values()}))
    meant: dict[str, RowEntry] = {}
    for name, (row_id, deleted_at) in named.items():
        entry = name_row(under_ids.get(row_id, ()), deleted_at, poll)
        if entry is not None:
            meant[name] = entry
    of_files = rows.of_files(sorted({entry.file_id for entry in meant.values() if entry.file_id is not None}))
    ids_are_numbers = context.source.ids_are_ordered()
    return {
        name: cover(
            entry,
            under_its_id=under_ids[entry.source_id],
            of_its_file=of_files.get(entry.file_id, ()) if entry.file_id is not None else (),
            deleted_at=named[name][1],
            poll=poll,
            ids_are_numbers=ids_are_numbers,
        )
        for name, entry in meant.items()
    }


def _in_doubt(coverage: Coverage) -> Coverage:
    doubt = coverage.doubt or IN_DOUBT_LATER.format(row_id=coverage.named.source_id)
    return Coverage(named=coverage.named, rows=coverage.rows, doubt=doubt, keeps_newer=coverage.keeps_newer)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
