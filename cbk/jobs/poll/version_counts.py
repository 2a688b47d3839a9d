"""Keep the catalog's counts short, and compare them with what they count once a day."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from cbk.jobs.context import Context

AUDIT_EVERY = timedelta(days=1)

_AUDITED_AT = "version_counts.audited_at"

logger = logging.getLogger(__name__)


def keep_version_counts(context: Context) -> None:
    """Sum up the counts, and mend them where they are wrong. Raises CatalogError."""
    context.catalog.version_counts.fold()
    value, now = context.catalog.facts.get(_AUDITED_AT), context.catalog.now()
    audited_at = datetime.fromisoformat(value) if value else None
    # A last time that lies in the future is none: the clock was wrong.
    if audited_at is not None and audited_at <= now < audited_at + AUDIT_EVERY:
        return
    # Noted before: where it takes longer than this poll's lease, the next poll is not to begin another one beside it.
    context.catalog.facts.set(**{_AUDITED_AT: now.isoformat()})
    if context.catalog.version_counts.audit():
        logger.warning("the catalog's counts were wrong, and are counted anew")
