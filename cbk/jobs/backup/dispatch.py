"""Send due versions to the workers, in a bounded window."""

from __future__ import annotations

from cbk.errors import CbkError
from cbk.jobs.backup.disk_space import fetch_blocker
from cbk.jobs.context import Context, Publisher
from cbk.rules.backup.batches import share_out


def dispatch(context: Context, publisher: Publisher, *, at_most: int | None = None) -> int:
    """Send as many due versions as the window has room for; returns how many. Raises ArchiveError, BrokerUnavailable.

    Many workers at once may look at the same room: one sends `at_most` as many as it has made room for itself.
    A version whose lease ran out in silence is sent again, unless its message still waits in the queue. Nothing is sent while
    nothing new is to be fetched (`jobs.room`).
    """
    work, settings = context.catalog.work, context.settings
    context.require_disk()
    silent = work.silent(settings.dispatch_window)
    if silent:
        waiting = publisher.waiting_backups()
        work.extend_dispatched([source_id for source_id in silent if source_id in waiting], settings.lease)
    in_flight = work.in_flight()
    room = settings.dispatch_window - in_flight
    if room <= 0 or fetch_blocker(context) is not None:
        return 0
    versions = work.dispatch(room if at_most is None else min(room, at_most), settings.lease)
    if versions:
        try:
            publisher.send_backups(share_out(versions, in_flight=in_flight))
        except CbkError:
            work.undo_dispatch(version.id for version in versions)
            raise
    return len(versions)
