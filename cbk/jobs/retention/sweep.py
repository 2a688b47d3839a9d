"""The part of a poll that lets things go: what was deleted or replaced, after its grace, unless something keeps it."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from cbk.errors import ArchiveError, DiskFull
from cbk.jobs.context import Context, Publisher
from cbk.jobs.copies import remove_bytes
from cbk.jobs.retention.deletes import record_deletes, resolve
from cbk.jobs.retention.journal import write_journal
from cbk.jobs.retention.prune import LOOK_AGAIN_MAX, MAX_COUNTDOWN, patience
from cbk.rules.retention.brake import SLOTS_PER_WINDOW, continues, find_burst, limit_of
from cbk.rules.retention.retention import is_replaced

RECHECK_DELETES = 500
OLDER_COPIES = 1000
LEFTOVERS = 1000
# A brake is joined by what a burst still brings within so many polls.
JOINING_POLLS = 3


def recheck_removals(context: Context) -> None:
    """Look at open deletes again, give replaced copies their grace, and pull the brake where too much comes due at once."""
    context.catalog.removals.clamp_future_times(
        context.settings.grace_period, max(MAX_COUNTDOWN + patience(context.settings), LOOK_AGAIN_MAX)
    )
    _recheck_deletes(context)
    _schedule_replaced(context)
    pull_brake(context)


def send_due(context: Context, publisher: Publisher) -> int:
    """Send what comes due soon and what was lost on the way; returns how many. Raises BrokerUnavailable."""
    removals, settings = context.catalog.removals, context.settings
    room = settings.dispatch_window - removals.armed()
    if room <= 0:
        return 0
    planned = removals.arm(room, max_countdown=MAX_COUNTDOWN, patience=patience(settings))
    if planned:
        try:
            publisher.send_prunes(planned, context.catalog.database.now())
        except BaseException:
            removals.disarm(each.removal.id for each in planned)
            raise
    return len(planned)


def purge_leftovers(context: Context, *, clock_is_trusted: bool) -> None:
    """Remove the bytes that a worker left when it died after recording, and those whose time in the trash is over.

    Raises what the disk said of one that could not be removed, after all the others.
    """
    removals = context.catalog.removals
    problem: ArchiveError | None = None
    for version in removals.leftovers(LEFTOVERS):
        try:
            remove_bytes(context, version)
        except ArchiveError as error:  # one that cannot be removed keeps none of the others
            problem = error
    if clock_is_trusted:
        for version in removals.in_trash(over=True):
            if version.trash_name is not None:
                context.archive.empty_trash(version.trash_name)
            removals.out_of_trash(version)
    # A full disk says so elsewhere; what is pruned makes room for the journal of a later poll.
    with suppress(DiskFull):
        write_journal(context)
    if problem is not None:
        raise problem


def _recheck_deletes(context: Context) -> None:
    """A delete whose row is gone was taken back; one whose row names another file begins anew."""
    removals = context.catalog.removals
    listed = [removal for removal in removals.next_to_check(RECHECK_DELETES) if removal.delete_id is not None]
    if not listed:
        return
    rows = context.source.delete_rows([removal.delete_id or "" for removal in listed])
    unresolved = []
    for removal in listed:
        row = rows.get(removal.delete_id or "")
        if row is None:
            removals.withdraw(removal.id, outcome="taken back", reason="its delete-log row is gone", if_open=True)
        elif row.file_id != removal.row_id:
            record_deletes(context, [row])
        elif removal.file_id is None:
            unresolved.append(removal)
    if unresolved:
        resolve(context, unresolved)


def _schedule_replaced(context: Context) -> None:
    files = context.catalog.work.versions_of_files(context.catalog.removals.files_with_older_copies(OLDER_COPIES))
    replaced = [
        version
        for versions in files.values()
        for version in versions
        if is_replaced(version, versions, context.settings.keep_versions)
    ]
    if replaced:
        context.catalog.removals.schedule(replaced, context.settings.grace_period)


def pull_brake(context: Context) -> None:
    """Pull the brake where more comes due within its window than is let go without a person's word."""
    brakes, settings = context.catalog.brakes, context.settings
    slot = max(settings.brake_window / SLOTS_PER_WINDOW, timedelta(milliseconds=1))
    recent, slots = brakes.newcomers(settings.poll_interval * JOINING_POLLS), brakes.count_by_slot(slot)
    if recent is None and sum(slots.values()) <= settings.brake_files:
        return  # below any limit: nobody needs to count what is stored
    stored = brakes.stored_files()
    limit = limit_of(stored_files=stored, files=settings.brake_files, share=settings.brake_share)
    if recent is not None and continues(recent[1], limit=limit):
        brakes.join(recent[0])
        slots = brakes.count_by_slot(slot)
    burst = find_burst(slots, limit=limit)
    if burst:
        brakes.pull(burst, slot, stored_files=stored)
