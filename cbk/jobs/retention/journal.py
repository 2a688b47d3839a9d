"""The journal on the disk: holds, open removals, and deletes that a person took back.

So a lost catalog neither shortens a grace nor forgets what somebody wants kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from cbk.edges.catalog import Planned
from cbk.jobs.context import Context
from cbk.rules.retention.journal import JOURNAL_NAME, JournalRemoval, encode_journal

_WRITTEN = "journal.written"


def write_journal(context: Context, *, decided: bool = False) -> None:
    """Write the journal where an open removal or a hold has changed since it was last written, or a person has just decided.

    Raises ArchiveError or CatalogError.
    """
    fingerprint = context.catalog.removals.fingerprint()
    if not decided and context.catalog.facts.get(_WRITTEN) == fingerprint:
        return
    listed = list(chain(_open(context), context.catalog.removals.rejected()))
    covered = context.catalog.removals.covered_rows([planned.removal for planned in listed])
    sha256s = context.catalog.report.sha256_of({each.removal.version_id for each in listed if each.removal.version_id is not None})
    removals = [
        JournalRemoval(
            kind=planned.removal.kind,
            first_seen_at=planned.removal.first_seen_at,
            due_at=planned.removal.due_at or planned.removal.first_seen_at,
            delete_id=planned.removal.delete_id,
            row_id=planned.removal.row_id,
            deleted_at=planned.removal.deleted_at,
            storage=planned.storage,
            key=planned.key,
            number=planned.number,
            sha256=sha256s.get(planned.removal.version_id or 0),
            through=planned.removal.through,
            covers=tuple(covered.get(planned.removal.id, ())),
            outcome=planned.removal.outcome.value,
            open=planned.removal.open,
        )
        for planned in listed
    ]
    context.archive.write_note(JOURNAL_NAME, encode_journal(context.catalog.holds.all(), removals, context.catalog.now()))
    context.catalog.facts.set(**{_WRITTEN: fingerprint})


def _open(context: Context) -> Iterator[Planned]:
    """What waits to go; a delete that names no file which the kit knows keeps nothing and removes nothing."""
    return (planned for planned in context.catalog.removals.planned() if planned.removal.file_id is not None)
