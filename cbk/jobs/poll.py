"""Poll the application's tables: take in new rows and deletes, look again at what a fresh link may help, send what is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

from cbk.edges.catalog import Leases
from cbk.errors import CbkError, ClockDistrusted, LeaseLost
from cbk.jobs import retention
from cbk.jobs.clock import note_clock
from cbk.jobs.deletes import new_deletes, take_deletes
from cbk.jobs.dispatch import dispatch
from cbk.jobs.intake import settle_files, take_in
from cbk.jobs.kit import Courier, Kit
from cbk.jobs.prune import HOP
from cbk.jobs.samples import note_sample
from cbk.jobs.stream import Stream
from cbk.model import AcceptedRow, DeleteRow, SourceRow, Summary
from cbk.rules.deadlines import horizon
from cbk.rules.health import CLOCK_HINT
from cbk.rules.links import link_digest, link_expires_at
from cbk.rules.outcome import is_worth_another_try
from cbk.rules.rows import read_row

LEASE = "poll"
RECHECK_ROWS = 500
TOP_UP_SECONDS = 1.0
# Files looked at in each poll that wait for a decision which a worker may have died before.
UNSETTLED_FILES = 1000
# No rule puts a version off for longer: twice the longest delay or what an origin may ask for, and some.
FARTHEST = timedelta(days=3)
# The part of the poll interval for which a poll stays to keep the window full while there is a backlog.
STAY = 0.8

_COUNTED = ("read", "new", "declined", "deletes", "sent", "prunes")

Pause = Callable[[float], bool]


@dataclass(slots=True)
class _Poll:
    kit: Kit
    courier: Courier
    leases: Leases
    read: int = 0
    new: int = 0
    declined: int = 0
    deletes: int = 0
    sent: int = 0
    prunes: int = 0
    # What comes due is sent once the brake has looked at it.
    may_prune: bool = False
    dispatched_at: float = field(default=float("-inf"))

    def take(self, rows: list[SourceRow]) -> None:
        taken = take_in(self.kit, rows)
        self.read += len(rows)
        self.new += taken.new
        self.declined += len(taken.declined)

    def breathe(self) -> None:
        """Between pages: keep the lease, and keep the workers busy."""
        if not self.leases.acquire(LEASE, self.kit.settings.lease):
            raise LeaseLost("another poll has taken over")
        if monotonic() - self.dispatched_at >= TOP_UP_SECONDS:
            self.sent += dispatch(self.kit, self.courier)
            if self.may_prune:
                self.prunes += retention.send_due(self.kit, self.courier)
            self.dispatched_at = monotonic()


def poll(kit: Kit, courier: Courier, *, pause: Pause) -> Summary:
    """One poll. `pause(seconds)` waits and says whether the worker is to stop.

    Only one poll works at a time; a second one returns at once. What a poll that dies half-way leaves undone, the next one does.
    Raises SourceError, CatalogError, RootMissing or BrokerUnavailable, after noting the problem for `status`.
    """
    started = monotonic()
    leases = kit.catalog.leases.for_one()
    if not leases.acquire(LEASE, kit.settings.lease):
        return Summary(outcome="skipped", facts={"reason": "another poll is at work"})
    run = _Poll(kit, courier, leases)
    files = _files_of(run)
    try:
        kit.catalog.work.forget_future(kit.settings.lease, FARTHEST)
        files.take_in_new()
        _recheck(run)
        files.reconcile()
        settle_files(kit, kit.catalog.work.unsettled_files(UNSETTLED_FILES))
        clock_problem = _let_go(run, files)
        run.dispatched_at = float("-inf")
        run.breathe()
        _sweep(kit)
        retention.finish(kit, clock_is_trusted=clock_problem is None)
        kit.catalog.facts.set(**{"poll.finished_at": kit.catalog.database.now().isoformat(), "poll.problem": None})
        note_sample(kit)
        _stay(run, until=started + kit.settings.poll_interval.total_seconds() * STAY, pause=pause)
    except LeaseLost:
        raise
    except CbkError as error:
        kit.catalog.facts.set(**{"poll.problem": error.message})
        raise
    except Exception as error:
        kit.catalog.facts.set(**{"poll.problem": f"unexpected {type(error).__name__}; the worker's log has the traceback"})
        raise
    finally:
        leases.release(LEASE)
    return Summary(outcome="polled", facts={name: getattr(run, name) for name in _COUNTED})


def _files_of(run: _Poll) -> Stream[SourceRow]:
    source = run.kit.source
    return Stream(
        name="files",
        kit=run.kit,
        is_ordered=source.ids_are_ordered,
        rows_after=source.rows_after,
        sum_between=source.sum_between,
        take=run.take,
        breathe=run.breathe,
    )


def _let_go(run: _Poll, files: Stream[SourceRow]) -> str | None:
    """Look at what is to go, while the clock can be trusted; else gives why it cannot be."""
    try:
        _require_clock(run.kit)
        _take_deletes(run, files)
        retention.tend(run.kit)
    except ClockDistrusted as error:
        return error.message
    run.may_prune = True
    return None


def _require_clock(kit: Kit) -> None:
    problem = note_clock(kit)
    if problem is not None:
        raise ClockDistrusted(problem, hint=CLOCK_HINT)


def _take_deletes(run: _Poll, files: Stream[SourceRow]) -> None:
    source = run.kit.source

    def take(rows: list[DeleteRow]) -> None:
        if new_deletes(run.kit, rows):
            # A version that was written before its file was deleted must be known before the delete is: it is covered then.
            files.take_in_new()
            # That may have taken long. A grace that began by a wrong clock could end too early by the right one.
            _require_clock(run.kit)
            run.deletes += take_deletes(run.kit, rows)

    deletes = Stream(
        name="deletes",
        kit=run.kit,
        is_ordered=source.deletes_are_ordered,
        rows_after=source.deletes_after,
        sum_between=source.deletes_sum_between,
        take=take,
        breathe=run.breathe,
    )
    deletes.take_in_new()
    deletes.reconcile()


def _recheck(run: _Poll) -> None:
    """Read again the rows of what a fresh link, or a mended row, can help."""
    catalog, source = run.kit.catalog, run.kit.source
    declined = catalog.intake.declined_ids(RECHECK_ROWS)
    if declined:
        taken = take_in(run.kit, list(source.rows(declined).values()))
        catalog.intake.forgive(set(declined) - taken.declined)
    candidates = catalog.work.refreshable(RECHECK_ROWS)
    # The application may have signed anew what is about to die in the backlog.
    candidates += catalog.links.dying(RECHECK_ROWS, horizon(run.kit.settings.poll_interval, run.kit.settings.lease))
    if not candidates:
        return
    rows = source.rows([version.source_id for version, _ in candidates])
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


def _sweep(kit: Kit) -> None:
    """Remove the files in arrival of workers that died."""

    def alive(name: str) -> bool:
        version_id, _, fence = name.removesuffix(".part").partition("-")
        return version_id.isdigit() and fence.isdigit() and kit.catalog.work.is_alive(int(version_id), int(fence))

    kit.require_disk()
    kit.archive.sweep(alive)


def _stay(run: _Poll, *, until: float, pause: Pause) -> None:
    """While more is due than the window holds, keep it full."""
    while _more_is_due(run) and monotonic() + TOP_UP_SECONDS < until:
        if pause(TOP_UP_SECONDS):
            return
        run.breathe()


def _more_is_due(run: _Poll) -> bool:
    return run.kit.catalog.work.has_backlog() or (run.may_prune and run.kit.catalog.removals.waits_to_be_sent(HOP))
