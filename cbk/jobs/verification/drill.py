"""A restore test: some files are restored to scratch, compared and timed, for a verdict with a date."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from cbk.edges.destinations import FolderDestination
from cbk.edges.filesystem.scratch import free_bytes, scratch_folder, scratch_place
from cbk.errors import ArchiveError, DestinationError, DestinationUnavailable, RootMissing
from cbk.jobs.context import Context
from cbk.jobs.verification.pacer import Pacer, Pause, alone
from cbk.jobs.verification.reader import OnRead, Stopped
from cbk.jobs.verification.verify import Task, verify
from cbk.model import RestoreItem, Summary, Version
from cbk.rules.intake.layout import location_of, restore_path
from cbk.rules.text.display import counted
from cbk.rules.verification import drill_is_due, restore_seconds

DRILL_LEASE = "drill"
DRILL_FACT = "drill.last"
# So many files at random, so many of the newest and so many of the largest.
DRILL_FILES = 5
# How many failures are remembered by name.
REMEMBERED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillFailure:
    """A file that could not be restored, and why."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """The verdict: how many files of how many bytes were restored in how many seconds, and which of them failed.

    `estimate_seconds` is how long all that could be restored would take, `all_files` of `all_size` bytes; None where nothing was
    restored. `reason` says why the drill could not be held at all.
    """

    at: datetime
    files: int = 0
    size: int = 0
    seconds: float = 0.0
    failed: int = 0
    failures: list[DrillFailure] = field(default_factory=list)
    all_files: int = 0
    all_size: int = 0
    estimate_seconds: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether every file was restored with the right bytes."""
        return not self.failed and not self.reason

    @property
    def bytes_per_second(self) -> float:
        """Of the files that were restored."""
        return self.size / self.seconds if self.seconds else 0.0

    @property
    def problem(self) -> str | None:
        """Why it did not pass, in one line; None where it did."""
        if self.passed:
            return None
        return (
            self.reason
            or f"{self.failed} of {counted(self.files, 'file')}, such as {self.failures[0].label}: {self.failures[0].reason}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "at": self.at.isoformat(),
            "passed": self.passed,
            "files": self.files,
            "bytes": self.size,
            "seconds": round(self.seconds, 3),
            "bytes_per_second": round(self.bytes_per_second),
            "all_files": self.all_files,
            "all_bytes": self.all_size,
            "estimate_seconds": None if self.estimate_seconds is None else round(self.estimate_seconds),
            "failed": self.failed,
            "failures": [{"file": failure.label, "reason": failure.reason} for failure in self.failures],
            "reason": self.reason,
        }


@dataclass(slots=True)
class _Tally:
    """What was restored so far."""

    files: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The files of a drill: some at random, and others that are the newest or the largest."""

    chance: list[Version]
    others: list[Version]

    @property
    def versions(self) -> list[Version]:
        """All of them."""
        return [*self.chance, *self.others]

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(version.size or 0 for version in self.versions)


def plan_drill(context: Context, *, files: int = DRILL_FILES) -> Plan:
    """Choose `files` files at random, and as many of the newest and of the largest."""
    chance, others = context.catalog.verification.sample(files)
    return Plan(chance=chance, others=others)


def drill(context: Context, plan: Plan, *, scratch: Path | None = None, on_bytes: OnRead = lambda _bytes: None) -> Drill:
    """Restore these files, one after the other, to a folder in `scratch` (None: where temporary files go), and note the verdict.

    `on_bytes` is told how many bytes were restored; what it raises ends the drill, without a verdict. A copy that fails is then
    verified, and replaced if bad. Raises DestinationUnavailable where the largest file has no room, RootMissing, CatalogError.
    """
    place = require_room(context, plan, scratch=scratch)
    chance, others = _Tally(), _Tally()
    failures: list[DrillFailure] = []
    for versions, tally in ((plan.chance, chance), (plan.others, others)):
        for version in versions:
            reason = _restore(context, version, place, tally, on_bytes)
            if reason and context.catalog.verification.is_as_it_was(version):  # else it was pruned meanwhile
                verify(context, Task(copies=1, size=version.stored_size or 0, versions=[version]), by="cbk drill", readers=1)
                failures.append(DrillFailure(label=version.label, reason=reason))
    verdict = _judge(context, chance, others, failures)
    _note(context, verdict)
    return verdict


def drill_by_worker(context: Context, *, pause: Pause, if_due: bool) -> Summary:
    """A drill that nobody waits for; with `if_due` only where CBK_DRILL_EVERY has passed. People are told how it went.

    `pause(seconds)` waits and says whether the worker is to stop: then there is no verdict, and a later message has the drill held.
    """
    last = last_drill(context)
    if if_due and not drill_is_due(last.at if last else None, context.catalog.database.now(), context.settings.drill_every):
        return Summary(outcome="nothing to do", facts={"reason": "no drill is due yet"})
    plan = plan_drill(context)
    if not plan.versions:
        return Summary(outcome="nothing to do", facts={"reason": "no file is stored yet"})
    with alone(context, DRILL_LEASE) as leases:
        if leases is None:
            return Summary(outcome="skipped", facts={"reason": "another drill is at work"})
        try:
            verdict = drill(context, plan, on_bytes=Pacer(context, leases, DRILL_LEASE, pause))
        except Stopped:
            return Summary(outcome="stopped", facts={"reason": "the worker is to stop"})
        except (DestinationError, ArchiveError) as error:
            _note(context, Drill(at=context.catalog.database.now(), reason=error.message))
            raise
    if verdict.passed:  # that one failed is told by `jobs.watch`, like every problem
        were = "was" if verdict.files == 1 else "were"
        files = f"{counted(verdict.files, 'file')} of {counted(verdict.size, 'byte')}"
        restored = f"{files} {were} restored in {verdict.seconds:.1f} s and compared."
        context.notifier.notify("Cloud Backup Kit: restore drill passed", restored)
    facts = {"files": verdict.files, "bytes": verdict.size, "seconds": round(verdict.seconds, 3), "reason": verdict.problem}
    return Summary(outcome="passed" if verdict.passed else "failed", facts=facts)


def last_drill(context: Context) -> Drill | None:
    """The last verdict, None where there was none."""
    noted = context.catalog.facts.get(DRILL_FACT)
    if noted is None:
        return None
    facts = json.loads(noted)
    return Drill(
        at=datetime.fromisoformat(facts["at"]),
        files=facts["files"],
        size=facts["bytes"],
        seconds=facts["seconds"],
        failed=facts["failed"],
        failures=[DrillFailure(label=failure["file"], reason=failure["reason"]) for failure in facts["failures"]],
        all_files=facts["all_files"],
        all_size=facts["all_bytes"],
        estimate_seconds=facts["estimate_seconds"],
        reason=facts["reason"],
    )


def _note(context: Context, verdict: Drill) -> None:
    context.catalog.facts.set(**{DRILL_FACT: json.dumps(verdict.facts)})


def require_room(context: Context, plan: Plan, *, scratch: Path | None = None) -> Path:
    """Where the drill would restore to. Raises DestinationUnavailable where the largest file has no room there, RootMissing."""
    context.require_disk()
    place = scratch_place(scratch)
    largest = max((version.size or 0 for version in plan.versions), default=0)
    free = free_bytes(place)
    if free < largest:
        raise DestinationUnavailable(
            f"the largest file of the drill has {largest} bytes, and {place} has room for {free}",
            hint="name a folder with more room: --scratch, or TMPDIR where a worker holds the drill",
        )
    return place


def _restore(context: Context, version: Version, place: Path, tally: _Tally, on_bytes: OnRead) -> str:
    """Restore one file and take it away again. Why it failed, empty where it did not."""
    item = _item(version)
    with scratch_folder(place) as folder, closing(FolderDestination(folder)) as target:
        started = monotonic()
        try:
            target.write(item, _counted(context.archive.open_copy(item.location), on_bytes))
        except RootMissing:
            raise
        except ArchiveError as error:
            return error.message
        finally:
            tally.files += 1
            tally.seconds += monotonic() - started
        tally.size += item.size
        try:
            right = target.holds(item)
        except DestinationUnavailable:
            raise
        except DestinationError:  # other bytes are there than were to be restored
            right = False
        return "" if right else "what was restored are not the bytes that the catalog knows"


def _item(version: Version) -> RestoreItem:
    return RestoreItem(
        storage=version.storage,
        bucket=version.bucket,
        key=version.key,
        number=version.number,
        sha256=version.sha256,
        size=version.size or 0,
        location=location_of(version),
        path=restore_path(version.bucket, version.key, version.storage),
        content_type=version.content_type,
    )


def _counted(chunks: Iterable[bytes], on_bytes: OnRead) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def _judge(context: Context, chance: _Tally, others: _Tally, failures: list[DrillFailure]) -> Drill:
    files, size, seconds = chance.files + others.files, chance.size + others.size, chance.seconds + others.seconds
    all_files, all_size = context.catalog.verification.restorable()
    by_file, by_byte = chance.seconds / max(chance.files, 1), seconds / max(size, 1)
    return Drill(
        at=context.catalog.database.now(),
        files=files,
        size=size,
        seconds=seconds,
        failed=len(failures),
        failures=failures[:REMEMBERED],
        all_files=all_files,
        all_size=all_size,
        estimate_seconds=restore_seconds(by_file=by_file, files=all_files, by_byte=by_byte, size=all_size) if files else None,
    )
