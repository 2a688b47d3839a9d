"""Note now and then how things stand, so that a page can show how they went."""

from __future__ import annotations

from datetime import timedelta

from cbk.jobs.context import Context
from cbk.rules.status.samples import Sample, is_due


def note_sample(context: Context) -> bool:
    """Note how things stand, where the last note is old enough; whether it was noted. Raises CatalogError or ArchiveError."""
    if not is_due(context.catalog.samples.last_at(), context.catalog.database.now()):
        return False
    counts, usage = context.catalog.report.counts(), context.archive.usage()
    oldest = counts.oldest_unprotected_at
    context.catalog.samples.note(
        Sample(
            at=counts.now,
            files=counts.files,
            protected=counts.protected,
            lag=max(counts.now - oldest, timedelta(0)) if oldest else timedelta(0),
            copies=counts.copies,
            size=counts.size,
            stored_size=counts.stored_size,
            free=usage.free,
            total=usage.total,
        )
    )
    return True
