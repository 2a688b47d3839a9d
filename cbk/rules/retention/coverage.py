"""Which rows a delete covers. What it does not cover is live, and dates only ever keep more.

A row of the delete log names a row of the files table by its Id. Ids are hints: they may be given again, and a row may be changed
in place. So what is covered is a set of rows as they were read, never "the file".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation

from cbk.model import DeleteRow, Removal, RowEntry

IN_DOUBT_CHANGED = "row {row_id} became another row in the same poll that saw its delete: which of the two was meant is not known"
IN_DOUBT_DATES = "row {row_id} was created after its delete, by their dates: another row may have been meant"
IN_DOUBT_DATED_ANEW = "its delete-log row bears another date than before: row {row_id} may not have been meant"
IN_DOUBT_LATER = "row {row_id} appeared only after its delete: the Id may have been given a second time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What one delete covers.

    `named` is the row it names, `rows` the ids of the entries that it covers. `doubt` says why a person has to look before
    anything goes; "" if nobody has to. `keeps_newer` is the highest live version above the named one, None if there is none.
    """

    named: RowEntry
    rows: frozenset[int]
    doubt: str = ""
    keeps_newer: int | None = None


def says_other(removal: Removal, row: DeleteRow) -> bool:
    """Whether a row of the delete log says another thing than when the removal was noted: then it is another delete, of now.

    Its Id is a hint as well: a log that came back from a dump, or begins anew, gives it again. A date that was not noted tells
    nothing; two that cannot be compared are two.
    """
    if removal.row_id != row.file_id:
        return True
    then, now = removal.deleted_at, None if row.deleted_at is None else str(row.deleted_at)
    if then is None or then == now:
        return False
    first, second = instant_of(then), instant_of(now)
    return first is None or second is None or first != second  # one with a time zone never equals one without


def name_row(entries: Iterable[RowEntry], deleted_at: str | None, poll: int) -> RowEntry | None:
    """The row that a delete which is first seen in `poll` names, of all `entries` that were ever read under its Id.

    It is the one that is there now; if none is, the last one that was. Where that one came after the delete, by both dates, and
    since the last poll, it is the one before. None if there is none.
    """
    ordered = sorted(entries, key=lambda entry: (entry.present, entry.id), reverse=True)
    for entry in ordered:
        if not is_after(entry.created_at, deleted_at):
            return entry
        if entry.poll < poll:
            break  # an earlier poll saw it and no delete, so a delete that came before it should have been there: one date is wrong
    return next(iter(ordered), None)


def cover(
    named: RowEntry,
    *,
    under_its_id: Iterable[RowEntry],
    of_its_file: Iterable[RowEntry],
    deleted_at: str | None,
    poll: int,
    ids_are_numbers: bool,
) -> Coverage:
    """What a delete covers that was first seen in `poll` and names `named`.

    `under_its_id` are all entries that were ever read under the same Id, `of_its_file` all of the same file. The named row is
    covered, and every row of its file that is not later and has a lower Version, or the same one and is earlier.
    """
    rows = {named.id}
    newer: int | None = None
    for entry in of_its_file:
        if entry.id == named.id:
            continue
        if _covers(named, entry, deleted_at, ids_are_numbers=ids_are_numbers):
            rows.add(entry.id)
        elif entry.present and entry.number is not None and named.number is not None and entry.number > named.number:
            newer = max(newer or 0, entry.number)
    return Coverage(named=named, rows=frozenset(rows), doubt=_doubt(named, under_its_id, deleted_at, poll), keeps_newer=newer)


def cover_anew(coverage: Coverage, before: frozenset[int]) -> Coverage:
    """What a delete covers whose log row bears another date now; `before` are the entries that it covered until then.

    It may be another delete, or the same one after a database was moved to another time zone. So whatever it covers more waits
    for a person.
    """
    if coverage.doubt or coverage.rows <= before:
        return coverage
    return replace(coverage, doubt=IN_DOUBT_DATED_ANEW.format(row_id=coverage.named.source_id))


def _covers(named: RowEntry, entry: RowEntry, deleted_at: str | None, *, ids_are_numbers: bool) -> bool:
    if entry.number is None or named.number is None or entry.number > named.number:
        return False
    if is_after(entry.created_at, deleted_at) or is_after(entry.created_at, named.created_at):
        return False
    if entry.poll != named.poll:
        return entry.poll < named.poll
    if entry.number == named.number:
        return False  # two rows of one version that were first read together: which of them is later is not known
    # Read together: the lower Version was first, unless its Id says otherwise.
    if not ids_are_numbers:
        return True
    first, second = _number(entry.source_id), _number(named.source_id)
    return first is not None and second is not None and first <= second


def _doubt(named: RowEntry, under_its_id: Iterable[RowEntry], deleted_at: str | None, poll: int) -> str:
    """The Id changed its meaning, and nothing tells whether the delete was written before that or after it.

    Not even dates do: a row that is renumbered, restored or changed in place keeps the date of its creation.
    """
    if is_after(named.created_at, deleted_at):
        return IN_DOUBT_DATES.format(row_id=named.source_id)
    changed = named.poll == poll and any(entry.id < named.id for entry in under_its_id)
    return IN_DOUBT_CHANGED.format(row_id=named.source_id) if changed else ""


def is_after(one: object, other: object) -> bool:
    """Whether an instant that the application wrote is certainly later than another one; False if either cannot be read."""
    first, second = instant_of(one), instant_of(other)
    if first is None or second is None or (first.tzinfo is None) != (second.tzinfo is None):
        return False
    return first > second


def instant_of(value: object) -> datetime | None:
    """A date as the application wrote it; None if it is none (RFC 3339 and ISO 8601, as `datetime.fromisoformat` reads them)."""
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _number(source_id: str) -> Decimal | None:
    """An Id as a number, of which SQLite may have 1.5 between 1 and 2; None if it is none, as a text among numbers in SQLite."""
    try:
        number = Decimal(source_id)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
