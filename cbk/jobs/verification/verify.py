"""Read stored copies again, and have the bad ones replaced.

A bad copy is first taken out of the record, then put aside with what is known about it, then fetched again by the next dispatch:
out, it is record before bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from random import random
from time import monotonic

from cbk.edges.catalog import Scope
from cbk.errors import ArchiveError, CopyMissing, DiskFailed, RootMissing, UsageError
from cbk.jobs.context import Context
from cbk.jobs.verification.reader import CheckResult, OnRead, Reads, Stopped, look_at
from cbk.model import Claim, Summary, Version, Written
from cbk.rules.intake.layout import location_of, object_key
from cbk.rules.verification import BAD_IN_A_ROW_LIMIT, FLAKY_LIMIT, NONE_GOOD_LIMIT, CopyFinding, reason_of, sample_size, sampled

# Keeps an SSD busy, and leaves room for the backups beside it.
READERS = 2
# Good copies are recorded together: so many, or those of so many seconds.
TOGETHER = 200
TOGETHER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A copy that is bad: what is wrong with it, where its bytes were put (None: nowhere), and whether it is fetched again."""

    version: Version
    finding: CopyFinding
    message: str
    quarantined: str | None = None
    again: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """For a line of output or of a log."""
        return {
            "finding": self.finding.value,
            "storage": self.version.storage,
            "key": self.version.key,
            "version": self.version.number,
            "location": location_of(self.version),
            "message": self.message,
            "quarantined": self.quarantined,
            "again": self.again,
        }


OnFound = Callable[[Found], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be read: the copies, as they come; their number, and their bytes on the disk (of a sample: about), if known."""

    versions: Iterable[Version]
    copies: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How it went: copies that were read, their bytes by the catalog, the bytes that were read, and how many copies were bad."""

    stopped: bool = False
    copies: int
    size: int
    read: int
    found: int
    seconds: float

    @property
    def summary(self) -> Summary:
        """For a line of output or of a log."""
        facts = {"copies": self.copies, "bytes": self.read, "seconds": round(self.seconds, 3), "found": self.found}
        return Summary(outcome="stopped" if self.stopped else "verified", facts=facts)


def choose(
    context: Context,
    *,
    storage: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    older_than: timedelta | None = None,
    share: Fraction = Fraction(1),
) -> Task:
    """The stored copies that are asked for, longest unread first; of these, `share` at random.

    Raises UsageError where names are given that no copy has.
    """
    catalog = context.catalog
    before = catalog.database.now() - older_than if older_than is not None else None
    key, prefix = (object_key("", name) if name else None for name in (key, prefix))
    scope = Scope(storage=storage, key=key, prefix=prefix, before=before)
    copies, size = catalog.verification.total(scope)
    if not copies and before is None and (storage or key or prefix):
        raise UsageError("no stored copy is named like this", hint="`cbk ls --state stored` shows the names")
    versions = catalog.verification.copies(scope)
    if share == 1:
        return Task(copies=copies, size=size, versions=versions)
    chosen = sample_size(copies, share)
    some = sampled(versions, count=copies, size=chosen, draw=random)
    return Task(copies=chosen, size=size * chosen // max(copies, 1), versions=some)


def verify(
    context: Context,
    task: Task,
    *,
    by: str,
    quick: bool = False,
    repair: bool = True,
    readers: int = READERS,
    on_found: OnFound = lambda _found: None,
    on_read: OnRead = lambda _bytes: None,
) -> Verified:
    """Read these copies. A bad one goes to `on_found` and, with `repair`, out of the record and to be fetched again.

    `by` is who says so in the evidence. `quick` compares the bytes on the disk with those that were written, and inflates only what
    differs. `on_read` is told in the reading threads how many bytes came. Without `repair` nothing is changed, nor recorded.

    Raises RootMissing where the disk is not mounted, and DiskFailed where many copies one after the other are bad or missing, or
    readings of the same file differ: then the machine is what is bad, and nothing is recorded of them, nor moved.
    """
    context.require_disk()
    run = _Run(context, by=by, repair=repair, on_found=on_found)
    reads = Reads(on_read)
    stopped = False
    try:
        with closing(look_at(context.archive, task.versions, quick=quick, readers=readers, reads=reads)) as looks:
            for version, look in looks:
                run.handle(version, look)
    except Stopped:
        stopped = True
    finally:
        run.record_good()
    run.end()
    seconds = monotonic() - run.started
    return Verified(stopped=stopped, copies=run.copies, size=run.size, read=reads.total, found=run.found, seconds=seconds)


@dataclass(slots=True)
class _Run:
    context: Context
    by: str
    repair: bool
    on_found: OnFound
    copies: int = 0
    size: int = 0
    found: int = 0
    started: float = field(default_factory=monotonic)
    _good: list[tuple[Version, Written]] = field(default_factory=list)
    _recorded_at: float = field(default_factory=monotonic)
    flaky: int = 0
    has_seen_good: bool = False
    _doubts: list[tuple[Version, CheckResult]] = field(default_factory=list)

    def handle(self, version: Version, look: CheckResult) -> None:
        """Record what a reader saw."""
        self.copies += 1
        self.size += version.stored_size or 0
        self._note_flaky(look)
        if look.finding is not None and not look.finding.counts_still:
            self._doubt(version, look)
            return
        self.has_seen_good = True
        self.believe_doubts()
        if look.finding is not None:
            self._note(version, look, look.finding)
        elif look.written is not None:
            self._good.append((version, look.written))
            if len(self._good) >= TOGETHER or monotonic() - self._recorded_at >= TOGETHER_SECONDS:
                self.record_good()

    def record_good(self) -> None:
        """Record the good copies that are not recorded yet."""
        if self.repair:
            self.context.catalog.verification.record_good(self._good)
        self._good.clear()
        self._recorded_at = monotonic()

    def end(self) -> None:
        """What is still in doubt is believed, unless nothing at all was good. Raises DiskFailed then."""
        if not self.has_seen_good and len(self._doubts) >= NONE_GOOD_LIMIT:
            raise self._illness()
        self.believe_doubts()

    def believe_doubts(self) -> None:
        """The disk gives others, or there were few: what was bad is a finding."""
        for version, look in self._doubts:
            if look.finding is not None:
                self._note(version, look, look.finding)
        self._doubts.clear()

    def _doubt(self, version: Version, look: CheckResult) -> None:
        """Everything stays in its place while so many are bad one after the other as no chance explains."""
        self._doubts.append((version, look))
        if len(self._doubts) >= BAD_IN_A_ROW_LIMIT:
            raise self._illness()

    def _illness(self) -> DiskFailed:
        kinds = sorted({look.finding.value for _, look in self._doubts if look.finding is not None})
        return DiskFailed(
            f"{len(self._doubts)} copies one after the other are {' or '.join(kinds)}, the last one: {self._doubts[-1][1].message}",
            hint=(
                "it is the disk, its mount or the machine's memory rather than the copies, and all of them stay in their places: "
                "see the system's log (dmesg), the cable, the disk's health (smartctl)"
            ),
        )

    def _note_flaky(self, look: CheckResult) -> None:
        self.flaky += look.is_flaky
        if self.flaky >= FLAKY_LIMIT:
            raise DiskFailed(
                f"{self.flaky} copies gave different bytes when they were read twice",
                hint="it is the machine's memory, its cable or its disk, and everything stays in its place: test them (memtest86+)",
            )

    def _note(self, version: Version, look: CheckResult, finding: CopyFinding) -> None:
        found = Found(version=version, finding=finding, message=look.message)
        verification = self.context.catalog.verification
        if not verification.is_as_it_was(version):
            return  # pruned, or stored anew, while it was read
        if self.repair:
            mended = self._keep(found, look) if finding.counts_still else self._give_up(found, look)
            if mended is None:
                return
            found = mended
            named = {name: found.facts[name] for name in ("storage", "key", "version", "finding")}
            verification.note_found({"at": self._now().isoformat(), **named})
        self.found += 1
        self.on_found(found)

    def _keep(self, found: Found, look: CheckResult) -> Found:
        if look.written is not None:
            self.context.catalog.verification.record_good([(found.version, look.written)])
        return found

    def _give_up(self, found: Found, look: CheckResult) -> Found | None:
        """Record before bytes: the copy counts no more, then it is put aside, then it may be fetched. None: it did not count."""
        work, now = self.context.catalog.work, self._now()
        reason = reason_of(found.finding, now)
        claim = self.context.catalog.verification.claim_bad(found.version, self.context.settings.lease, reason=reason)
        if claim is None:
            return None
        try:
            quarantined, trouble = self._put_aside(claim, found, look, now) if found.finding.leaves_bytes else (None, "")
        finally:
            # Whoever took over a claim that was slept through goes on with it.
            work.give_back([claim], timedelta(0), reason=reason)
        message = f"{found.message}; {trouble}" if trouble else found.message
        return Found(version=found.version, finding=found.finding, message=message, quarantined=quarantined, again=True)

    def _put_aside(self, claim: Claim, found: Found, look: CheckResult, now: datetime) -> tuple[str | None, str]:
        """Where the bytes are now, and what went wrong with that: bytes that stay are put aside by the backup that follows."""
        archive, quarantined = self.context.archive, None
        if self.context.catalog.work.renew([claim], self.context.settings.lease):
            return None, "another worker has taken it over"
        try:
            quarantined = archive.quarantine(location_of(found.version), only=look.identity)
            archive.describe(quarantined, _evidence(found, look, now, self.by))
        except RootMissing:
            raise
        except CopyMissing:
            return None, "it has gone meanwhile"
        except ArchiveError as error:
            return quarantined, error.message
        return quarantined, ""

    def _now(self) -> datetime:
        return self.context.catalog.database.now()


def _evidence(found: Found, look: CheckResult, now: datetime, by: str) -> dict[str, object]:
    version = found.version
    sha256, size = look.stored or (None, None)
    named = {name: found.facts[name] for name in ("finding", "message", "location", "storage", "key", "version")}
    return {
        **named,
        "row": version.source_id,
        "found_at": now.isoformat(),
        "found_by": by,
        "expected": {
            "sha256": version.sha256,
            "size": version.size,
            "stored_sha256": version.stored_sha256,
            "stored_size": version.stored_size,
        },
        "actual": {"stored_sha256": sha256, "stored_size": size},
        "stored_at": version.stored_at.isoformat() if version.stored_at else None,
        "verified_at": version.verified_at.isoformat() if version.verified_at else None,
    }
