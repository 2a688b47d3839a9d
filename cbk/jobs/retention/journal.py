"""The journal on the disk: holds, open removals, and deletes that a person took back.

So a lost catalog neither shortens a grace nor forgets what somebody wants kept.
"""

from __future__ import annotations

from itertools import chain

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
    removals = [
        JournalRemoval(
            kind=planned.removal.kind,
            first_seen_at=planned.removal.first_seen_at,
            due_at=planned.removal.due_at,
            delete_id=planned.removal.delete_id,
            row_id=planned.removal.row_id,
            storage=planned.storage,
            key=planned.key,
            number=planned.number,
            through=planned.removal.through,
            rows_through=planned.removal.rows_through,
            outcome=planned.removal.outcome,
            open=planned.removal.open,
        )
        for planned in chain(context.catalog.removals.planned(), context.catalog.removals.rejected())
        if planned.removal.file_id is not None  # the others keep nothing and remove nothing
    ]
    context.archive.write_note(JOURNAL_NAME, encode_journal(context.catalog.holds.all(), removals, context.catalog.database.now()))
    context.catalog.facts.set(**{_WRITTEN: fingerprint})
