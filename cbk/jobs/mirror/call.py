"""Send for a mirror that can help: a copy is lost here, and does not wait for the next pass."""

from __future__ import annotations

from datetime import datetime, timedelta

from cbk.jobs.context import Context, Publisher

# A disk that is away cannot help, however often it is asked.
NOT_AGAIN_WITHIN = timedelta(minutes=5)


def call_mirrors(context: Context, publisher: Publisher) -> None:
    """Send a pass of each mirror that has a good copy of what is lost here. Raises CatalogError, BrokerUnavailable."""
    if not context.settings.mirrors:
        return
    ledger, facts = context.catalog.mirrors, context.catalog.facts
    mirrors = {disk.id: disk.mirror for disk in ledger.disks() if disk.mirror in context.settings.mirrors}
    names = {mirrors[disk_id] for disk_id in ledger.can_repair(mirrors)}
    now = context.catalog.database.now()
    for name in sorted(names):
        fact = f"mirror.{name}.called_at"
        called_at = facts.get(fact)
        if called_at is None or not timedelta(0) <= now - datetime.fromisoformat(called_at) < NOT_AGAIN_WITHIN:
            facts.set(**{fact: now.isoformat()})
            publisher.send_mirrors([name])
