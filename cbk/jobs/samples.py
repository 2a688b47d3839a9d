"""Note now and then how things stand, so that a page can show how they went."""

from __future__ import annotations

from datetime import timedelta

from cbk.jobs.kit import Kit
from cbk.rules.samples import Sample, is_due


def note_sample(kit: Kit) -> bool:
    """Note how things stand, where the last note is old enough; whether it was noted. Raises CatalogError or ArchiveError."""
    if not is_due(kit.catalog.samples.last_at(), kit.catalog.database.now()):
        return False
    counts, room = kit.catalog.report.counts(), kit.archive.usage()
    oldest = counts.oldest_unprotected_at
    kit.catalog.samples.note(
        Sample(
            at=counts.now,
            files=counts.files,
            protected=counts.protected,
            lag=max(counts.now - oldest, timedelta(0)) if oldest else timedelta(0),
            copies=counts.copies,
            size=counts.size,
            stored_size=counts.stored_size,
            free=room.free,
            total=room.total,
        )
    )
    return True
