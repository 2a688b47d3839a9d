"""The part of a poll that lets things go: what was deleted or replaced, after its grace, unless something keeps it."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta

from cbk.errors import ArchiveError, DiskFull
from cbk.jobs.context import Context, Publisher
from cbk.jobs.copies import remove_bytes
from cbk.jobs.intake.doubts import why_nothing_goes
from cbk.jobs.intake.rows import settle_files
from cbk.jobs.intake.table_reader import reading_of
from cbk.jobs.retention.deletes import bind_deletes, record_deletes
from cbk.jobs.retention.journal import write_journal
from cbk.jobs.retention.prune import LOOK_AGAIN_MAX, MAX_COUNTDOWN, patience
from cbk.rules.retention.brake import BURST_WINDOW, SLOTS_PER_WINDOW, Allowance, allowed_of, find_burst, limit_of
from cbk.rules.retention.coverage import says_other
from cbk.rules.retention.retention import replaced_versions
from cbk.rules.status.health import describe_age
from cbk.rules.text.display import counted

RECHECK_DELETES = 500
OLDER_COPIES = 1000
LEFTOVERS = 1000
# For how many versions older copies were looked at: with another number they are looked at again.
_KEPT_FOR = "retention.keep_versions"
# What the brake was last looked at for, and when: the same removals are counted again after a while, as the window moves on.
LOOKED = "brake.looked"
LOOK_AGAIN = timedelta(hours=1)


def recheck_removals(context: Context, poll: int) -> None:
    """Look at open deletes again, give replaced copies their grace, and pull the brake where too much comes due at once."""
    context.catalog.removals.clamp_future_times(
        context.settings.grace_period, max(MAX_COUNTDOWN + patience(context.settings), LOOK_AGAIN_MAX)
    )
    _recheck_deletes(context, poll)
    _schedule_replaced(context, poll)
    pull_brake(context)


def send_due(context: Context, publisher: Publisher) -> int:
    """Send what comes due soon and what was lost on the way; returns how many. Raises BrokerUnavailable."""
    removals, settings = context.catalog.removals, context.settings
    room = settings.dispatch_window - removals.armed()
    if room <= 0 or why_nothing_goes(context) is not None:
        return 0
    read_in = reading_of(context, "files").clean_poll
    planned = removals.arm(room, max_countdown=MAX_COUNTDOWN, patience=patience(settings), read_in=read_in)
    if planned:
        try:
            publisher.send_prunes(planned, context.catalog.now())
        except BaseException:
            removals.disarm(each.removal.id for each in planned)
            raise
    return len(planned)


def purge_leftovers(context: Context, *, clock_is_trusted: bool) -> None:
    """Remove the bytes that a worker left when it died after recording, and those whose time in the trash is over.

    Raises what the disk said of one that could not be removed, after all the others.
    """
    pruned = context.catalog.pruned_copies
    problem: ArchiveError | None = None
    for version in pruned.leftovers(LEFTOVERS):
        try:
            remove_bytes(context, version)
        except ArchiveError as error:  # one that cannot be removed keeps none of the others
            problem = error
    if clock_is_trusted:
        for version in pruned.in_trash(over=True):
            if version.trash_name is not None:
                context.archive.empty_trash(version.trash_name)
            pruned.out_of_trash(version)
    # A full disk says so elsewhere; what is pruned makes room for the journal of a later poll.
    with suppress(DiskFull):
        write_journal(context)
    if problem is not None:
        raise problem


def _recheck_deletes(context: Context, poll: int) -> None:
    """A delete whose row is gone was taken back; one whose row says another thing begins anew."""
    removals = context.catalog.removals
    listed = [removal for removal in removals.next_to_check(RECHECK_DELETES) if removal.delete_id is not None]
    if not listed:
        return
    rows = context.source.delete_rows([removal.delete_id or "" for removal in listed])
    gone, unbound = [], []
    for removal in listed:
        row = rows.get(removal.delete_id or "")
        if row is None:
            gone.append(removal.id)
        elif says_other(removal, row):
            record_deletes(context, [row], poll)
        elif removal.through is None or removal.poll == 0:
            unbound.append(removal)
    if gone:
        settle_files(context, removals.forget_log_rows(gone))
    if unbound:
        bind_deletes(context, removals.without_coverage(unbound), poll)


def _schedule_replaced(context: Context, poll: int) -> None:
    settings, catalog = context.settings, context.catalog
    if catalog.facts.get(_KEPT_FOR) != str(settings.keep_versions):
        catalog.removals.look_at_kept_again()
        catalog.facts.set(**{_KEPT_FOR: str(settings.keep_versions)})
    files = catalog.work.versions_of_files(catalog.removals.files_with_older_copies(OLDER_COPIES))
    decided = [replaced_versions(versions, settings.keep_versions) for versions in files.values()]
    replaced = [version for versions, _ in decided for version in versions]
    kept = [version for _, versions in decided for version in versions]
    if replaced or kept:
        catalog.removals.schedule(replaced, kept, settings.grace_period, poll)


def pull_brake(context: Context) -> None:
    """Hold what waits where it is more than is let go without a person's word."""
    brakes, settings = context.catalog.brakes, context.settings
    now = context.catalog.now()
    waiting, last = brakes.fingerprint()
    if not waiting:
        return  # nothing that could be held
    looked = context.catalog.facts.get(LOOKED)
    if looked is not None:
        *seen, at = json.loads(looked)
        if seen == [waiting, last] and timedelta(0) <= now - datetime.fromisoformat(at) < LOOK_AGAIN:
            return
    context.catalog.facts.set(**{LOOKED: json.dumps([waiting, last, now.isoformat()])})
    since = now - settings.brake_window
    start = brakes.window_start(since)
    allowance = Allowance(
        used=brakes.used(start, since),
        waiting=brakes.waiting(start, since),
        allowed=allowed_of(start.copies, files=settings.brake_files, share=settings.brake_share),
        since=start.at,
    )
    brakes.note_allowance(allowance)
    window = min(settings.brake_window, BURST_WINDOW)
    slot = max(window / SLOTS_PER_WINDOW, timedelta(milliseconds=1))
    if allowance.is_exceeded:
        reason = (
            f"{counted(allowance.waiting, 'copy is', 'copies are')} to go, and {allowance.used} went since {allowance.since:%F}: "
            f"{settings.brake_share} % of the {start.copies} that were here then are {allowance.allowed}"
        )
        brakes.pull(None, slot, counted=start.copies, reason=reason)
        return
    slots = brakes.count_by_slot(slot)
    if sum(slots.values()) <= settings.brake_files:
        return  # below any limit: nobody needs to count what is stored
    stored = min(brakes.stored_copies(), start.copies) if start.copies else brakes.stored_copies()
    limit = limit_of(stored=stored, files=settings.brake_files, share=settings.brake_share)
    burst = find_burst(slots, limit=limit)
    if burst:
        reason = f"more than {limit} removals come due within {describe_age(window)}"
        brakes.pull(burst, slot, counted=stored, reason=reason)
