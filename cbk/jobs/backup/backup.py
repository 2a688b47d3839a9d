"""Back up versions: claim them, fetch them, verify them, put them on the disk, record them. Bytes before record.

Several that were sent together are fetched one after the other and stored together: each step of storing is done for all of them
before the next, so that the disk and the catalog wait once for all. One of them that fails takes nothing with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import random
from threading import BoundedSemaphore
from typing import Self

from cbk.edges.archive.archive import IncomingCopy, Publication
from cbk.edges.catalog import LeaseRenewer, uptime
from cbk.errors import (
    ArchiveError,
    Busy,
    CatalogError,
    CatalogUnavailable,
    CbkError,
    CopyExists,
    LeaseLost,
    RootMissing,
    SourceError,
)
from cbk.jobs.backup.disk_space import fetch_blocker, note_disk
from cbk.jobs.backup.dispatch import dispatch
from cbk.jobs.backup.object import ObjectDownload, adopt
from cbk.jobs.context import Context, Publisher, downloads
from cbk.jobs.copies import remove_bytes
from cbk.jobs.intake.rows import record_rows, settle_files
from cbk.jobs.status.workers import note_at_work
from cbk.model import Claim, SourceRow, Summary, Version, Written
from cbk.rules.backup.hashes import Hashes
from cbk.rules.backup.retry import FetchOutcome, after_failure, decide_fetch
from cbk.rules.intake.layout import UNKNOWN_VARIANT, copy_location, variant_of
from cbk.rules.intake.rows import read_row

# A piece of work that was given back because a part of the kit is away is tried again after this, not at once.
GIVE_BACK = timedelta(seconds=30)
# What is ready is stored once it is so large, or once the oldest of it has waited so long for a download that goes on.
STORE_BYTES = 16 * 1024 * 1024
STORE_AFTER_SECONDS = 1.0
# A download that is larger is no reason for the others of its batch to wait, nor is a batch that takes longer, being from far away:
# what was not begun goes back, to other workers, and in smaller batches once little is left.
LARGE_BYTES = 8 * 1024 * 1024
BATCH_SECONDS = 2.0
# How long a thread waits for a free download while it has nothing in hand, and while it holds versions that others could fetch.
SLOT_SECONDS = 15.0
SLOT_AGAIN_SECONDS = 1.0
# Whether anything new may be fetched is asked before a batch, and this often within it.
ASK_SECONDS = 0.25

# A part of the kit is away: that is no failure of any version.
_UNAVAILABLE_ERRORS = (SourceError, CatalogError, RootMissing)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFailure:
    """What went wrong with a version. It is recorded, with the time of the next try, unless another worker has taken over."""

    version: Version
    error: Exception


@dataclass(slots=True)
class Done:
    """What became of each piece of work, in no order.

    `ended_by` is what ended the whole before its time, such as a part of the kit that is away: what was not stored was given back.
    """

    summaries: list[Summary] = field(default_factory=list)
    failures: list[BackupFailure] = field(default_factory=list)
    ended_by: Exception | None = None

    def raise_first(self) -> None:
        """Raise what went wrong first, if anything did."""
        for error in (*(failure.error for failure in self.failures), self.ended_by):
            if error is not None:
                raise error


@dataclass(slots=True, kw_only=True)
class _Ready:
    """A copy that is to be stored: a part in arrival, or None where it lies in its place already."""

    claim: Claim
    part: IncomingCopy | None = None
    written: Written | None = None
    keep: ExitStack = field(default_factory=ExitStack)

    @property
    def location(self) -> str:
        """Where the copy belongs, which was read back."""
        version = self.claim.version
        unnamed = self.written is not None and version.variant == UNKNOWN_VARIANT
        variant = variant_of(self.written.sha256) if self.written is not None and unnamed else version.variant
        return copy_location(version.place, version.number, variant)


def back_up(context: Context, source_id: str) -> Summary:
    """Store the version of this row. Doubled, late and stray messages return quietly.

    Raises what went wrong, after recording what became of the version and when it is tried again, or after giving it back where a
    part of the kit is away; LeaseLost where another worker has taken it over, with nothing recorded; Busy as `back_up_together`.
    """
    done = back_up_together(context, [source_id])
    done.raise_first()
    return done.summaries[0]


def back_up_together(context: Context, source_ids: Sequence[str], publisher: Publisher | None = None) -> Done:
    """Store the versions of these rows. While nothing new is to be fetched (`jobs.room`), nothing is claimed.

    What turns out to be other workers' matter is sent to them by `publisher`; where there is none, or it fails, by the next poll.
    Raises Busy, with nothing done, where this process has as many downloads as it may have, and none of them ends soon;
    CatalogError, RootMissing or ArchiveError where it cannot be told whether anything is to be fetched.
    """
    context.require_disk()
    # First of all: what is claimed and read is worked on soon, and what waits for a download is anybody's.
    with _Slot(context.slots) as slot:
        if not slot.acquire(SLOT_SECONDS):
            context.catalog.work.extend_dispatched(
                source_ids, context.settings.lease
            )  # their message is in hand: nobody need send another
            raise Busy(f"all {downloads(context.settings)} downloads of this worker are under way")
        note_disk(context)
        reason = fetch_blocker(context)
        if reason is not None:  # their dispatch runs out, and they are sent again once nothing is in the way
            put_off = [Summary(outcome="put off", facts={"row": source_id, "reason": reason}) for source_id in source_ids]
            return Done(put_off)
        slot.release()  # others download while this one claims and reads
        done = Done()
        _Batch(context, context.catalog.work.claim(source_ids, context.settings.lease), slot, done, publisher).run(source_ids)
        return done


def sum_up(done: Done) -> Summary:
    """One line for a batch: how often each outcome came, and how many bytes were stored."""
    outcomes = Counter(summary.outcome for summary in done.summaries)
    outcomes["failed"] = len(done.failures)
    facts = {outcome.replace(" ", "_"): count for outcome, count in sorted(outcomes.items()) if count}
    size = sum(size for summary in done.summaries if isinstance(size := summary.facts.get("size", 0), int))
    return Summary(outcome="backed up", facts=facts | {"size": size})


class _Slot:
    """One of the downloads that a process may have at a time, or none for the time being; none at the end of the block."""

    def __init__(self, slots: BoundedSemaphore) -> None:
        self._slots = slots
        self._is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, seconds: float) -> bool:
        """Whether it is there now, after waiting for so long at the most."""
        self._is_taken = self._is_taken or self._slots.acquire(timeout=seconds)
        return self._is_taken

    def release(self) -> None:
        """Leave it to others."""
        if self._is_taken:
            self._is_taken = False
            self._slots.release()


class _Batch:
    """The versions of one message, under one worker's claims, to be fetched while `slot` is taken."""

    def __init__(self, context: Context, claims: Iterable[Claim], slot: _Slot, done: Done, publisher: Publisher | None) -> None:
        self._context = context
        self._publisher = publisher
        self._waiting = deque(claims)
        self._lease_renewer = LeaseRenewer(context.catalog.work, self._waiting, context.settings.lease)
        self._ready: list[_Ready] = []
        self._ready_since = 0.0
        self._began = self._asked_at = uptime()
        self._slot = slot
        self._keeps_slot = False
        self._done = done

    def run(self, source_ids: Sequence[str]) -> None:
        """All of it: the rows that were claimed, and what is to say of the others. What ends it early is in `done`."""
        try:
            self._claim_others(set(source_ids) - {claim.version.source_id for claim in self._waiting})
            if self._waiting:
                note_at_work(self._context)
            self._work(self._context.source.rows([claim.version.source_id for claim in self._waiting]) if self._waiting else {})
        except Exception as error:  # noqa: BLE001 - it is told by whoever asked for the work
            self._done.ended_by = error
            reason = error.message if isinstance(error, CbkError) else f"unexpected {type(error).__name__}"
            delay = min(GIVE_BACK, self._context.settings.poll_interval)
            self._context.catalog.work.give_back(self._lease_renewer.held, delay, reason=f"tried again soon: {reason}")
        finally:
            for item in self._ready:
                item.keep.close()

    def _claim_others(self, source_ids: set[str]) -> None:
        """Say why there was nothing to claim; rows that no poll has seen yet are taken in first."""
        context, done = self._context, self._done
        known = context.catalog.work.versions_of_rows(source_ids) if source_ids else {}
        done.summaries += [_nothing_to_do(version) for version in known.values()]
        unseen = source_ids - known.keys()
        if not unseen:
            return
        rows = context.source.rows(sorted(unseen))
        done.summaries += [_no_work(source_id, "there is no such row") for source_id in unseen - rows.keys()]
        record_rows(context, list(rows.values()))
        claims = context.catalog.work.claim(rows, context.settings.lease)
        self._lease_renewer.add(claims)
        self._waiting += claims
        for source_id in rows.keys() - {claim.version.source_id for claim in claims}:
            done.summaries.append(_no_work(source_id, "its version is known from another row, or not wanted now"))

    def _work(self, rows: Mapping[str, SourceRow]) -> None:
        self._began = uptime()
        while self._waiting:
            if not self._slot.acquire(SLOT_AGAIN_SECONDS):  # it was left to others while something was claimed or stored
                self._give_back_waiting()
                continue
            claim = self._waiting.popleft()
            self._keeps_slot = True
            with self._answering(claim):
                self._lease_renewer.tick(claim)
                self._begin(claim, rows.get(claim.version.source_id))
            self._keeps_slot = False
            if sum(item.part.bytes_in for item in self._ready if item.part) >= STORE_BYTES:
                self._store()
            self._store_if_old()
            if self._waiting and (self._takes_long() or self._may_not_go_on()):
                self._give_back_waiting()
        self._store()

    # ---- fetching ------------------------------------------------------------------------------------------------------------

    def _begin(self, claim: Claim, row: SourceRow | None) -> None:
        version = claim.version
        decision = decide_fetch(version, read_row(row) if row else None)
        if isinstance(decision, FetchOutcome):
            self._context.catalog.work.record_outcome(claim, decision)
            self._lease_renewer.drop(claim)
            settle_files(self._context, [version.file_id])
            self._done.summaries.append(_summary(decision.state.value, version, reason=decision.reason))
            return
        tick = partial(self._tick, claim)
        written = adopt(self._context, version, tick)
        item = _Ready(claim=claim, written=written)
        came = Hashes(sha256=written.sha256, md5=written.md5) if written is not None else Hashes()
        if written is None:
            with item.keep as undo:
                download = ObjectDownload(self._context, claim, decision.row, undo, tick)
                item.part, came = download.run(), download.came
                item.keep = undo.pop_all()
        if not version.sha256 and self._context.catalog.pins.merge_with_twin(claim, came):
            item.keep.close()
            self._lease_renewer.drop(claim)
            settle_files(self._context, [version.file_id])
            self._done.summaries.append(_summary("known already", version, sha256=came.sha256))
            return
        if not self._ready:
            self._ready_since = uptime()
        self._ready.append(item)

    def _tick(self, claim: Claim, bytes_so_far: int = 0) -> None:
        """Called with each chunk. Raises LeaseLost; or CatalogError or RootMissing from storing others."""
        self._lease_renewer.tick(claim)
        self._store_if_old()
        if self._waiting and (bytes_so_far >= LARGE_BYTES or self._takes_long()):
            self._give_back_waiting()

    def _takes_long(self) -> bool:
        return uptime() - self._began >= BATCH_SECONDS

    def _may_not_go_on(self) -> bool:
        if uptime() - self._asked_at < ASK_SECONDS:
            return False
        self._asked_at = uptime()
        return fetch_blocker(self._context) is not None

    def _store_if_old(self) -> None:
        if self._ready and uptime() - self._ready_since >= STORE_AFTER_SECONDS:
            self._store()

    def _give_back_waiting(self) -> None:
        """The others are for whoever is free. Where the catalog is away now, they wait on, and this is asked for again."""
        with suppress(CatalogUnavailable):
            self._context.catalog.work.give_back(self._waiting, timedelta(0))
            for other in self._waiting:
                self._lease_renewer.drop(other)
            count = len(self._waiting)
            self._waiting.clear()
            if self._publisher is not None:
                with suppress(CbkError):  # the next poll sends them, and says why if it cannot
                    dispatch(self._context, self._publisher, at_most=count)

    # ---- storing -------------------------------------------------------------------------------------------------------------

    def _store(self) -> None:
        """Store what is ready, step by step, each for all. Others may download meanwhile, unless this one is at it."""
        if not self._keeps_slot:
            self._slot.release()
        items, self._ready = self._ready, []
        try:
            self._context.archive.flush([item.part for item in items if item.part is not None])
            left = self._each(items, self._flush)
            left = self._each(left, self._read_back)
            self._record(self._publish(left))
        finally:
            for item in items:
                item.keep.close()

    def _each(self, items: Iterable[_Ready], step: Callable[[_Ready], None]) -> list[_Ready]:
        """Those for which the step did not fail."""
        left = []
        for item in items:
            with self._answering(item.claim):
                step(item)
                left.append(item)
        return left

    def _flush(self, item: _Ready) -> None:
        if item.part is not None:
            self._lease_renewer.tick(item.claim)
            item.part.flush()

    def _read_back(self, item: _Ready) -> None:
        if item.part is not None:
            item.written = item.part.read_back(tick=partial(self._lease_renewer.tick, item.claim))

    def _publish(self, items: Sequence[_Ready]) -> list[_Ready]:
        put: list[_Ready] = []
        try:
            with self._context.archive.publishing() as publication:
                put += self._each(items, partial(self._put, publication))
        except RootMissing:
            raise
        except ArchiveError as error:
            for item in items:
                if self._lease_renewer.holds(item.claim):
                    self._fail(item.claim, error)
            return []
        return put

    def _put(self, publication: Publication, item: _Ready) -> None:
        # A worker that slept through its lease stops here; should it fall asleep right after, the name is not overwritten.
        self._lease_renewer.tick(item.claim)
        if item.part is None:
            return
        try:
            publication.put(item.part, item.location)
        except CopyExists:
            # Another worker was first with the same version: its copy counts, if it is good.
            tick = partial(self._lease_renewer.tick, item.claim)
            sha256 = item.written.sha256 if item.written is not None else item.claim.version.sha256
            item.written = self._context.archive.adopt(item.location, sha256=sha256, tick=tick)

    def _record(self, items: Sequence[_Ready]) -> None:
        written = {item.claim.version.id: item.written for item in items if item.written is not None}
        lost = self._context.catalog.work.record_stored((item.claim, written[item.claim.version.id]) for item in items)
        for claim in lost:
            with self._answering(claim):
                # It slept through the lease. Where the version was pruned meanwhile, nobody else knows of these bytes.
                if self._context.catalog.pruned_copies.note_leftover(claim.version.id):
                    remove_bytes(self._context, claim.version)
                raise LeaseLost(f"another worker holds {claim.version.label} now")
        gone = {claim.version.id for claim in lost}
        stored = [item for item in items if item.claim.version.id not in gone]
        for item in stored:
            self._lease_renewer.drop(item.claim)
            version, copy = item.claim.version, written[item.claim.version.id]
            outcome = "adopted" if item.part is None else "stored"
            self._done.summaries.append(_summary(outcome, version, size=copy.size, stored_size=copy.stored_size))
        settle_files(self._context, self._context.catalog.work.with_siblings({item.claim.version.file_id for item in stored}))

    # ---- failing -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self, claim: Claim) -> Iterator[None]:
        """What goes wrong in here is this version's matter and is recorded; the others go on."""
        try:
            yield
        except _UNAVAILABLE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - a bug, ours or a library's, must not come back with each lease
            self._fail(claim, error)

    def _fail(self, claim: Claim, error: Exception) -> None:
        self._done.failures.append(BackupFailure(version=claim.version, error=error))
        if not isinstance(error, LeaseLost):
            with suppress(LeaseLost):  # then it is another worker's, who records what becomes of it
                self._record_failure(claim, _as_kit_error(error))
        self._lease_renewer.drop(claim)

    def _record_failure(self, claim: Claim, error: CbkError) -> None:
        context, version = self._context, claim.version
        siblings = [other for other in context.catalog.work.versions_of_file(version.file_id) if other.id != version.id]
        outcome = after_failure(
            version,
            error,
            siblings=siblings,
            now=context.catalog.database.now(),
            base=context.settings.poll_interval,
            jitter=random(),  # noqa: S311 - spreads retries
        )
        context.catalog.work.record_outcome(claim, outcome)
        if siblings:
            settle_files(context, [version.file_id])


def _as_kit_error(error: Exception) -> CbkError:
    if isinstance(error, CbkError):
        return error
    return CbkError(f"unexpected {type(error).__name__}", hint="the worker's log has the traceback")


def _nothing_to_do(version: Version) -> Summary:
    reason = "another worker is at it, or it is not due yet" if version.due_at else version.reason or "it is stored"
    return Summary(outcome="nothing to do", facts={"version": version.label, "state": version.state.value, "reason": reason})


def _no_work(source_id: str, reason: str) -> Summary:
    return Summary(outcome="nothing to do", facts={"row": source_id, "reason": reason})


def _summary(outcome: str, version: Version, **facts: object) -> Summary:
    named = {"storage": version.storage, "key": version.key, "version": version.number, "row": version.source_id}
    return Summary(outcome=outcome, facts=named | facts)
