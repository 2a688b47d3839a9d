"""Poll the application's tables: take in new rows and deletes, look again at what a fresh link may help, send what is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from time import monotonic

from cbk.edges.catalog import Leases
from cbk.errors import CbkError, ClockDistrusted, LeaseLost
from cbk.jobs.backup.disk_space import note_disk
from cbk.jobs.backup.dispatch import dispatch
from cbk.jobs.context import Context, Publisher
from cbk.jobs.copies import find_in_place
from cbk.jobs.dump.take import DUMP_LEASE, PART_PREFIX
from cbk.jobs.intake.doubts import note_doubts
from cbk.jobs.intake.inventory import compare_inventories, note_inventories
from cbk.jobs.intake.rows import POLL_NUMBER, forget_rows, poll_number, record_rows, record_rows_of, say_otherwise, settle_files
from cbk.jobs.intake.table_reader import Table, TableReader, reading_of
from cbk.jobs.mirror.call import call_mirrors
from cbk.jobs.poll.samples import note_sample
from cbk.jobs.poll.version_counts import keep_version_counts
from cbk.jobs.retention import sweep
from cbk.jobs.retention.clock_guard import note_clock
from cbk.jobs.retention.deletes import deletes_say_otherwise, new_deletes, record_deletes
from cbk.jobs.retention.prune import MAX_COUNTDOWN
from cbk.model import AcceptedRow, DeleteRow, SourceRow, Summary
from cbk.rules.backup.link_deadlines import horizon
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.backup.retry import is_worth_another_try
from cbk.rules.intake.rows import read_row
from cbk.rules.status.health import CLOCK_HINT

POLL_LEASE = "poll"
RECHECK_ROWS = 500
# So many versions without a copy are looked for in their places by each poll.
LOOKED_FOR = 200
TOP_UP_SECONDS = 1.0
# Files looked at in each poll that wait for a decision which a worker may have died before.
UNSETTLED_FILES = 1000
# No rule puts a version off for longer: twice the longest delay or what an origin may ask for, and some.
LONGEST_WAIT = timedelta(days=3)
# The part of the poll interval for which a poll stays to keep the window full while there is a backlog.
STAY = 0.8

_COUNTED = ("read", "new", "declined", "deletes", "sent", "prunes")

Pause = Callable[[float], bool]


@dataclass(slots=True)
class _Poll:
    context: Context
    publisher: Publisher
    leases: Leases
    number: int
    read: int = 0
    new: int = 0
    declined: int = 0
    deletes: int = 0
    sent: int = 0
    prunes: int = 0
    # What comes due is sent once the brake has looked at it.
    may_prune: bool = False
    dispatched_at: float = field(default=float("-inf"))

    def record(self, rows: list[SourceRow]) -> int:
        taken = record_rows(self.context, rows)
        note_inventories(self.context, rows)
        self.read += len(rows)
        self.new += taken.new
        self.declined += len(taken.declined)
        return len({row.id for row in rows})

    def record_again(self, rows: list[SourceRow]) -> None:
        """Rows that are most likely known."""
        self.new += record_rows(self.context, rows).new

    def between_pages(self) -> None:
        """Between pages: keep the lease, and keep the workers busy."""
        if not self.leases.acquire(POLL_LEASE, self.context.settings.lease):
            raise LeaseLost("another poll has taken over")
        if monotonic() - self.dispatched_at >= TOP_UP_SECONDS:
            self.sent += dispatch(self.context, self.publisher)
            if self.may_prune:
                self.prunes += sweep.send_due(self.context, self.publisher)
            self.dispatched_at = monotonic()


def poll(context: Context, publisher: Publisher, *, pause: Pause) -> Summary:
    """One poll. `pause(seconds)` waits and says whether the worker is to stop.

    Only one poll works at a time; a second one returns at once. What a poll that dies half-way leaves undone, the next one does.
    Raises SourceError, CatalogError, RootMissing or BrokerUnavailable, after noting the problem for `status`.
    """
    started = monotonic()
    leases = context.catalog.leases.for_one()
    if not leases.acquire(POLL_LEASE, context.settings.lease):
        return Summary(outcome="skipped", facts={"reason": "another poll is at work"})
    run = _Poll(context, publisher, leases, number=poll_number(context) + 1)
    try:
        context.catalog.facts.set(**{POLL_NUMBER: str(run.number)})
        note_disk(context)
        files = _files_of(run)
        context.catalog.work.clamp_future_times(context.settings.lease, LONGEST_WAIT)
        files.read_new()
        _recheck(run)
        files.read_all(needed=_wait_for_read(context, files))
        note_doubts(context)
        settle_files(context, context.catalog.work.unsettled_files(UNSETTLED_FILES))
        _find_in_place(context)
        clock_problem = _process_deletes(run, files)
        run.dispatched_at = float("-inf")
        run.between_pages()
        _sweep(context)
        sweep.purge_leftovers(context, clock_is_trusted=clock_problem is None)
        compare_inventories(context, run.between_pages)
        context.catalog.facts.set(**{"poll.finished_at": context.catalog.now().isoformat(), "poll.problem": None})
        call_mirrors(context, publisher)
        keep_version_counts(context)
        note_sample(context)
        _keep_window_full(run, until=started + context.settings.poll_interval.total_seconds() * STAY, pause=pause)
    except LeaseLost:
        raise
    except CbkError as error:
        context.catalog.facts.set(**{"poll.problem": error.message})
        raise
    except Exception as error:
        context.catalog.facts.set(**{"poll.problem": f"unexpected {type(error).__name__}; the worker's log has the traceback"})
        raise
    finally:
        leases.release(POLL_LEASE)
    return Summary(outcome="polled", facts={name: getattr(run, name) for name in _COUNTED})


def _files_of(run: _Poll) -> TableReader[SourceRow]:
    source = run.context.source
    table = Table(
        name="files",
        is_ordered=source.ids_are_ordered,
        rows_after=source.rows_after,
        newest=source.newest_rows,
        sum_between=source.sum_between,
        fingerprint=source.fingerprint,
        existing=source.existing,
        record=run.record,
        record_again=run.record_again,
        say_otherwise=partial(say_otherwise, run.context),
        known_after=run.context.catalog.rows.after,
        forget=partial(forget_rows, run.context),
    )
    return TableReader(run.context, table, run.number, run.between_pages)


def _wait_for_read(context: Context, files: TableReader[SourceRow]) -> bool:
    """Whether something comes due that was noted since every row was read last."""
    return context.catalog.removals.waits_for_read(MAX_COUNTDOWN, files.clean_poll or 0)


def _process_deletes(run: _Poll, files: TableReader[SourceRow]) -> str | None:
    """Look at what is to go, while the clock can be trusted; else gives why it cannot be."""
    try:
        _require_clock(run.context)
        if files.knows_what_is_there:
            _record_deletes(run, files)
        sweep.recheck_removals(run.context, run.number)
    except ClockDistrusted as error:
        return error.message
    run.may_prune = True
    return None


def _require_clock(context: Context) -> None:
    problem = note_clock(context)
    if problem is not None:
        raise ClockDistrusted(problem, hint=CLOCK_HINT)


def _record_deletes(run: _Poll, files: TableReader[SourceRow]) -> None:
    source = run.context.source

    def record(rows: list[DeleteRow]) -> int:
        if new_deletes(run.context, rows):
            # A version that was written before its file was deleted must be known before the delete is: it is covered then.
            files.read_new()
            # That may have taken long. A grace that began by a wrong clock could end too early by the right one.
            _require_clock(run.context)
            run.deletes += record_deletes(run.context, rows, run.number)
        return len({row.id for row in rows})

    def forget(removal_ids: list[int]) -> None:
        settle_files(run.context, run.context.catalog.removals.forget_log_rows(removal_ids))

    table = Table(
        name="deletes",
        is_ordered=source.deletes_are_ordered,
        rows_after=source.deletes_after,
        newest=source.newest_deletes,
        sum_between=source.deletes_sum_between,
        fingerprint=source.deletes_fingerprint,
        existing=source.existing_deletes,
        record=record,
        record_again=record,
        say_otherwise=partial(deletes_say_otherwise, run.context),
        known_after=run.context.catalog.removals.log_rows_after,
        forget=forget,
    )
    deletes = TableReader(run.context, table, run.number, run.between_pages)
    deletes.read_new()
    deletes.read_all(needed=False)


def _recheck(run: _Poll) -> None:
    """Read again the rows of what a fresh link, or a mended row, can help."""
    catalog = run.context.catalog
    declined = catalog.intake.declined_ids(RECHECK_ROWS)
    if declined:
        there = record_rows_of(run.context, declined)
        catalog.intake.clear_declined(set(declined) - there.keys())
    candidates = catalog.work.refreshable(RECHECK_ROWS)
    # The application may have signed anew what is about to die in the backlog.
    candidates += catalog.links.dying(RECHECK_ROWS, horizon(run.context.settings.poll_interval, run.context.settings.lease))
    if not candidates:
        return
    # A row that was mended in place is another one: it is taken in as what it is now.
    rows = record_rows_of(run.context, sorted({version.source_id for version, _ in candidates}))
    links, due = [], set()
    for version, digest in candidates:
        source_row = rows.get(version.source_id)
        row = read_row(source_row) if source_row else None
        if not isinstance(row, AcceptedRow):
            continue
        link_is_fresh = link_digest(row.link) != digest
        if is_worth_another_try(version, row, link_is_fresh=link_is_fresh):
            due.add(version.id)
        if link_is_fresh or version.id in due:
            links.append((version.id, link_digest(row.link), link_expires_at(row.link)))
    catalog.work.note_links(links, checked=[version.id for version, _ in candidates], due=due)


def _find_in_place(context: Context) -> None:
    """A copy that lies whole in its place counts, whatever the catalog believed of it: as where the disk was away for a while."""
    context.require_disk()
    found = [version.file_id for version in context.catalog.report.without_copy(LOOKED_FOR) if find_in_place(context, version)]
    settle_files(context, found)


def _sweep(context: Context) -> None:
    """Remove the files in arrival of workers that died."""
    dump_is_at_work = context.catalog.leases.is_held(DUMP_LEASE)

    def alive(name: str) -> bool:
        if name.startswith(PART_PREFIX):
            return dump_is_at_work
        version_id, _, fence = name.removesuffix(".part").partition("-")
        return version_id.isdigit() and fence.isdigit() and context.catalog.work.is_alive(int(version_id), int(fence))

    context.require_disk()
    context.archive.sweep(alive)


def _keep_window_full(run: _Poll, *, until: float, pause: Pause) -> None:
    """While more is due than the window holds, keep it full."""
    while _more_is_due(run) and monotonic() + TOP_UP_SECONDS < until:
        if pause(TOP_UP_SECONDS):
            return
        run.between_pages()


def _more_is_due(run: _Poll) -> bool:
    return run.context.catalog.work.has_backlog() or (
        run.may_prune and run.context.catalog.removals.waits_to_be_sent(MAX_COUNTDOWN, _read_in(run.context))
    )


def _read_in(context: Context) -> int:
    return reading_of(context, "files").clean_poll
