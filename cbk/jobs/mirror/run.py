"""One pass of a mirror: what it lacks goes there, what was pruned long ago goes from there, a slice of the rest is verified.

    settings ([mirrors.NAME]) -> the places that can be reached -> ledger (which disk, what is missing)
    -> repair: versions that have lost their copy here, and whose link is dead, get it back from there
    -> send: in batches; the ledger records what arrived, after it was flushed and compared. Bytes before record.
    -> verify a slice; what is bad counts no more, and the next batch replaces it
    -> remove what was pruned, after the mirror's own grace, under the brake. Record before bytes.
    -> count, for `status`

Whatever is killed at any moment, the next pass goes on: what arrived without a record is compared, and
recorded then. Nothing lists a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from time import monotonic

from cbk.edges import host
from cbk.edges.archive.disk_tools import mirror_tools
from cbk.edges.catalog import Leases
from cbk.edges.mirror import Rclone
from cbk.errors import LeaseLost, MirrorError, UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.upkeep import verify_dumps
from cbk.jobs.mirror.places import FolderPlace, Marker, MirrorPlace
from cbk.jobs.mirror.remote import RemotePlace
from cbk.jobs.mirror.repair import repair, repair_dumps
from cbk.jobs.retention.clock_guard import note_clock
from cbk.jobs.verification.pacer import SHORTEST_PAUSE_SECONDS, Pause, alone
from cbk.jobs.verification.reader import Stopped
from cbk.jobs.verification.verify import Task, verify
from cbk.model import Hold, Summary
from cbk.rules.backup.bandwidth import Timetable
from cbk.rules.mirror import (
    CopyHere,
    MirrorCopy,
    MirrorDisk,
    decide_mirror_removal,
    dump_version_of,
    refuse_place,
    removals_allowed,
    verify_quota,
)
from cbk.rules.retention.journal import JOURNAL_NAME
from cbk.rules.retention.retention import Remove
from cbk.settings import Mirror

# Copies that travel together: after each batch the ledger knows what arrived.
BATCH_COPIES = 200
BATCH_BYTES = 256 * 1024 * 1024
# rclone takes a moment to start, and confirms each batch.
REMOTE_BATCH_COPIES = 1000
REMOVE_TOGETHER = 500
# What is wrong with single copies is told by name up to so many.
TOLD_AT_MOST = 20

OnProgress = Callable[[int, int], None]
FOUND_BY = "cbk.mirror"


@dataclass(slots=True, kw_only=True)
class PassResult:
    """What one pass did at one place, in numbers; `problems` are what was in the way of single copies."""

    disk: str = ""
    sent: int = 0
    size: int = 0
    verified: int = 0
    bad: int = 0
    repaired: int = 0
    removed: int = 0
    kept: int = 0
    braked: int = 0
    missing: int = 0
    problems: list[str] = field(default_factory=list)

    def tell(self, problem: str) -> None:
        """Remember a problem by name, or, of many, that there are more."""
        if len(self.problems) < TOLD_AT_MOST:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A pass over a mirror: what was done at each place.

    `away` says why other places could not be used, and `failed` what broke off the work at one; `skipped`: another pass is at work.
    """

    mirror: str
    done: list[PassResult]
    away: list[str]
    failed: list[str] = field(default_factory=list)
    skipped: bool = False
    stopped: bool = False

    @property
    def summary(self) -> Summary:
        """For a log line."""
        if self.skipped:
            return Summary(outcome="skipped", facts={"mirror": self.mirror, "reason": "another pass is at work"})
        facts: dict[str, object] = {"mirror": self.mirror}
        for name in ("sent", "size", "verified", "bad", "repaired", "removed", "missing"):
            facts[name] = sum(getattr(each, name) for each in self.done)
        if self.away or self.failed:
            facts["reason"] = "; ".join([*self.failed, *self.away])
        outcome = "stopped" if self.stopped else "broken off" if self.failed else "mirrored" if self.done else "away"
        return Summary(outcome=outcome, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorWork:
    """What a pass would do on a disk: copies to send and their bytes, and copies to remove, if no brake holds them."""

    disk: str
    copies: int
    size: int
    removals: int


def find_work(context: Context, name: str) -> list[MirrorWork]:
    """What a pass would do on each disk that the ledger knows. Raises UsageError, CatalogError."""
    mirror, ledger = mirror_of(context, name), context.catalog.mirrors
    now, holds = context.catalog.database.now(), context.catalog.holds.all()
    found = []
    for disk in ledger.disks(name):
        copies, size = ledger.missing(disk.id)
        going = [] if mirror.append_only else _decided(ledger.gone(disk.id, now - mirror.grace), holds, now, mirror.grace)
        found.append(MirrorWork(disk=disk.label, copies=copies, size=size, removals=len(going)))
    return found


def _decided(due: Iterable[MirrorCopy], holds: Sequence[Hold], now: datetime, grace: timedelta) -> list[MirrorCopy]:
    """Those that go."""
    return [
        copy
        for copy in due
        if isinstance(decide_mirror_removal(copy, holds=holds, now=now, grace=grace, append_only=False), Remove)
    ]


def lease_of(name: str) -> str:
    """The lease that lets one pass of a mirror work at a time."""
    return f"mirror.{name}"


def mirror_of(context: Context, name: str) -> Mirror:
    """The mirror as it is set. Raises UsageError where there is none of that name."""
    found = context.settings.mirrors.get(name)
    if found is None:
        names = ", ".join(sorted(context.settings.mirrors)) or "none"
        raise UsageError(f"there is no mirror {name!r}", hint=f"CBK_MIRRORS names: {names}")
    return found


def places_of(context: Context, mirror: Mirror) -> list[MirrorPlace]:
    """Its places, from this backup disk. Nothing is reached yet."""
    if not mirror.remote:
        return [FolderPlace(folder, context.archive) for folder in mirror.folders]
    timetable = Timetable.parse(mirror.bandwidth)
    remote = RemotePlace(
        Rclone(mirror.remote, config=mirror.config, transfers=mirror.transfers),
        context.archive,
        staging=context.archive.root / ".cbk",
        bandwidth=lambda: timetable.limit_at(host.now().astimezone()) if timetable.limits else None,
        read_back=max(int(mirror.read_back * (mirror.every / timedelta(days=1))), 1),
    )
    return [remote]


def run_pass(
    context: Context,
    name: str,
    *,
    pause: Pause,
    prepare: bool = False,
    by_person: bool = False,
    on_progress: OnProgress = lambda _copies, _bytes: None,
) -> Passed:
    """One pass over all places of the mirror that can be reached. `pause(seconds)` waits, and says whether to stop.

    `prepare`: a person says that a place that is no disk of the mirror yet is to be one; `by_person`: a person asked for the pass.
    What keeps a place from being used is noted for `status`. Raises UsageError, MirrorError where no place could be used at all,
    CatalogError, RootMissing.
    """
    mirror = mirror_of(context, name)
    context.require_disk()
    with alone(context, lease_of(name)) as leases:
        if leases is None:
            return Passed(mirror=name, done=[], away=[], skipped=True)
        lease, bandwidth = context.settings.lease, mirror.bandwidth
        keeper = _Keeper(name, leases, lease, pause=pause, bandwidth=bandwidth, on_progress=on_progress)
        passed = Passed(mirror=name, done=[], away=[])
        errors: list[MirrorError] = []
        for place in places_of(context, mirror):
            try:
                disk = _find_disk(context, name, place, prepare=prepare, by_person=by_person)
            except MirrorError as error:
                errors.append(error)
                passed.away.append(error.message)
                continue
            done = PassResult(disk=disk.label)
            passed.done.append(done)
            try:
                _Pass(context, mirror, place, disk, keeper=keeper, done=done).run()
            except Stopped:
                passed = replace(passed, stopped=True)
                break
            except MirrorError as error:
                passed.failed.append(error.message)
        _note_end(context, name, passed)
        if errors and not passed.done:
            raise errors[0]
        return passed


def _note_end(context: Context, name: str, passed: Passed) -> None:
    """For `status`: what broke a pass off, or that no place could be used. That one of several disks is away is as it should be.

    What is new since is missing on a disk that is away: it is counted by the ledger.
    """
    here = {done.disk for done in passed.done}
    for disk in context.catalog.mirrors.disks(name):
        if disk.label not in here:
            context.catalog.mirrors.count(disk.id)
    problem = next(iter([*passed.failed, *([] if passed.done else passed.away)]), None)
    now = context.catalog.database.now().isoformat()
    context.catalog.facts.set(**{f"mirror.{name}.problem": problem, f"mirror.{name}.passed_at": now})


def _find_disk(context: Context, name: str, place: MirrorPlace, *, prepare: bool, by_person: bool) -> MirrorDisk:
    """The ledger's disk that is at a place. Raises MirrorError where there is none, and none is to be made."""
    ledger = context.catalog.mirrors
    known = ledger.disks(name)
    marker = place.marker()
    found = next((disk for disk in known if marker is not None and disk.identity == marker.identity), None)
    if found is not None:
        ledger.note_seen(found.id)
        return found
    reason = refuse_place(
        name=name,
        known=known,
        marker=marker.mirror if marker else None,
        is_empty=marker is None and place.is_empty(),
        by_person=prepare or (by_person and not known),
        is_mount=place.is_mount(),
    )
    if reason is not None:
        hint = f"where it is to be a disk of this mirror, `cbk mirror {name} --init`"
        raise MirrorError(f"{place.where}: {reason}", hint=hint)
    prepared: Marker = marker or place.prepare(name)
    added = ledger.add_disk(name, prepared.identity)
    ledger.note_seen(added.id)
    return added


class _Keeper:
    """Keeps the lease of a pass, and the bytes per second; counts what was done."""

    def __init__(
        self, name: str, leases: Leases, lease: timedelta, *, pause: Pause, bandwidth: str, on_progress: OnProgress
    ) -> None:
        self._name = lease_of(name)
        self._acquire = leases.acquire
        self._lease = lease
        self._renewed_at = monotonic()
        self._pause = pause
        self._timetable = Timetable.parse(bandwidth)
        self._on_progress = on_progress
        self._free_at = 0.0

    def tick(self) -> None:
        """Raises Stopped where the pass is to stop, LeaseLost where another one has taken over."""
        third = self._lease.total_seconds() / 3
        if monotonic() - self._renewed_at > third:
            if not self._acquire(self._name, self._lease):
                raise LeaseLost("another pass of this mirror has taken over")
            self._renewed_at = monotonic()
        if self._pause(0.0):
            raise Stopped

    def bytes(self, count: int) -> None:
        """So many bytes more went."""
        self._on_progress(0, count)

    def paced_bytes(self, count: int) -> None:
        """As `bytes`, and waits as the limit demands that is in force now."""
        self.bytes(count)
        rate = self._timetable.limit_at(host.now().astimezone()) if self._timetable.limits else None
        if not rate:
            self.tick()
            return
        self._free_at = max(self._free_at, monotonic()) + count / rate
        while (ahead := self._free_at - monotonic()) >= SHORTEST_PAUSE_SECONDS:
            self.tick()
            if self._pause(min(ahead, self._lease.total_seconds() / 3)):
                raise Stopped

    def copies(self, count: int) -> None:
        """So many copies more are done."""
        self._on_progress(count, 0)


class _Pass:
    """A pass at one place, which has the ledger's `disk`."""

    def __init__(
        self, context: Context, mirror: Mirror, place: MirrorPlace, disk: MirrorDisk, *, keeper: _Keeper, done: PassResult
    ) -> None:
        self._context = context
        self._ledger = context.catalog.mirrors
        self._mirror = mirror
        self._place = place
        self._disk = disk
        self._keeper = keeper
        self._on_bytes = keeper.bytes if place.is_remote else keeper.paced_bytes
        self._done = done

    def run(self) -> None:
        """All of it. What was done counts, also where the place stops answering on the way."""
        context, done = self._context, self._done
        try:
            self._place.tidy()
            self._ledger.note_gone(self._disk.id)
            self._finish_removals()
            done.repaired = repair(context, self._place, self._disk, tick=self._keeper.tick, on_bytes=self._on_bytes)
            done.repaired += repair_dumps(context, self._place, self._disk, tick=self._keeper.tick, on_bytes=self._on_bytes)
            self._write_notes()
            self._send(self._ledger.to_send(self._disk.id))
            self._verify()
            self._remove()
        finally:
            done.missing = self._ledger.count(self._disk.id, braked=done.braked).missing

    # ---- in ------------------------------------------------------------------------------------------------------------------

    def _send(self, copies: Iterable[CopyHere]) -> None:
        for batch in _batches(copies, REMOTE_BATCH_COPIES if self._place.is_remote else BATCH_COPIES):
            self._keeper.tick()
            bad = self._ledger.bad_ones(self._disk.id, [copy.id for copy in batch])
            # What is replaced stays at its path there.
            sending = [replace(copy, there=bad.get(copy.id, "")) for copy in batch]
            sent = self._place.send(sending, bad.keys(), tick=self._keeper.tick, on_bytes=self._on_bytes)
            self._ledger.record(self._disk.id, sent.arrived)
            self._done.sent += len(sent.arrived)
            self._done.size += sum(each.stored_size for each in sent.arrived)
            self._keeper.copies(len(batch))
            for copy, problem in sent.problems:
                self._done.tell(f"{copy.label}: {problem}")
            if sent.doubted:
                self._verify_here(sent.doubted)

    def _verify_here(self, copies: list[CopyHere]) -> None:
        """A copy that does not arrive as it should may be bad here: then it counts no more, and is fetched again, or repaired."""
        versions = [copy.version for copy in copies if copy.version is not None]
        if versions:
            verify(self._context, Task(copies=len(versions), size=0, versions=versions), by=FOUND_BY, readers=1)
        of_dumps = {dump_version_of(copy.id)[0] for copy in copies if copy.version is None}
        if of_dumps:
            verify_dumps(self._context, only=of_dumps, tick=self._keeper.tick)

    def _write_notes(self) -> None:
        """What a person needs who has nothing but this place, and the journal: holds and graces come back with it."""
        journal = self._context.archive.read_note(JOURNAL_NAME)
        notes = mirror_tools(self._place.where) | ({JOURNAL_NAME: journal} if journal is not None else {})
        for name, content in notes.items():
            fact, digest = f"mirror.{self._disk.identity}.{name}", sha256(content).hexdigest()
            if self._context.catalog.facts.get(fact) != digest:
                self._place.write_note(name, content)
                self._context.catalog.facts.set(**{fact: digest})

    # ---- there ---------------------------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        quota = verify_quota(self._disk.held, every=self._mirror.every, verify_every=self._mirror.verify_every)
        # The last ones that were sent were compared just now, and are the last to come.
        copies = self._ledger.to_verify(self._disk.id, quota) if quota else []
        good: list[int] = []
        bad: list[MirrorCopy] = []
        for copy, problem in self._place.look(copies, tick=self._keeper.tick, on_bytes=self._on_bytes):
            if problem:
                bad.append(copy)
                self._ledger.note_bad(self._disk.id, copy.version_id, problem)
                self._done.tell(f"{copy.location}: {problem}")
            else:
                good.append(copy.version_id)
            if len(good) >= BATCH_COPIES:
                self._ledger.note_verified(self._disk.id, good)
                good.clear()
            self._done.verified += 1
        self._ledger.note_verified(self._disk.id, good)
        self._done.bad = len(bad)
        if bad:
            self._send(self._ledger.to_send(self._disk.id))

    # ---- out -----------------------------------------------------------------------------------------------------------------

    def _remove(self) -> None:
        """What was pruned here, after its grace there. A clock that cannot be trusted removes nothing."""
        context, mirror = self._context, self._mirror
        now = context.catalog.database.now()
        due = self._ledger.gone(self._disk.id, now - mirror.grace)
        if not due or mirror.append_only:
            return
        problem = note_clock(context)
        if problem is not None:
            self._done.tell(f"nothing is removed: {problem}")
            return
        going = _decided(due, context.catalog.holds.all(), now, mirror.grace)
        self._done.kept = len(due) - len(going)
        self._remove_some(self._allowed(going, now))

    def _allowed(self, going: list[MirrorCopy], now: datetime) -> list[MirrorCopy]:
        """Those that may go without a person, or that a person let go: many at once all wait."""
        settings = self._context.settings
        held, removed = self._ledger.removed_within(self._disk.id, now - settings.brake_window)
        allowed = removals_allowed(held_then=held, removed=removed, share=settings.brake_share, at_least=settings.brake_files)
        waiting = [copy for copy in going if not copy.approved]
        if len(waiting) <= allowed:
            return going
        self._done.braked = len(waiting)
        return [copy for copy in going if copy.approved]

    def _remove_some(self, copies: list[MirrorCopy]) -> None:
        for start in range(0, len(copies), REMOVE_TOGETHER):
            self._keeper.tick()
            some = self._ledger.record_removed(self._disk.id, copies[start : start + REMOVE_TOGETHER])
            self._remove_bytes(some)
            self._done.removed += len(some)

    def _finish_removals(self) -> None:
        """What a pass that was killed recorded as removed, and left there."""
        self._remove_bytes(self._ledger.leftovers(self._disk.id))

    def _remove_bytes(self, copies: list[MirrorCopy]) -> None:
        if copies:
            self._place.remove([copy.location for copy in copies], tick=self._keeper.tick)
        before = self._context.catalog.database.now() - self._context.settings.brake_window
        self._ledger.forget(self._disk.id, [copy.version_id for copy in copies], before=before)


def _batches(copies: Iterable[CopyHere], count: int) -> Iterator[list[CopyHere]]:
    batch: list[CopyHere] = []
    size = 0
    for copy in copies:
        batch.append(copy)
        size += copy.stored_size
        if len(batch) >= count or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
