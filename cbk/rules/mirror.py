"""Mirrors: which place may take copies, what may go from there and when, what is read again, and what a person is told.

A mirror is a further place for copies: a folder on a disk that this machine mounts, or a remote of rclone. One mirror may have
several disks in rotation. The ledger notes of each disk which copy is there. What is not known is never removed, and never counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from cbk.model import Hold, Version, VersionState
from cbk.rules.dump.records import Dump, DumpState, DumpVersion, dump_location, roles_location
from cbk.rules.intake.layout import copy_location, location_of, variant_of
from cbk.rules.retention.retention import Decision, Keep, Remove
from cbk.rules.status.health import Kind, Problem, describe_age
from cbk.rules.text.display import counted

# A pass may be late by so many intervals, or by this time, whichever is longer.
LATE_PASSES = 3
SHORTEST_MIRROR_PATIENCE = timedelta(hours=1)
# A disk that was not seen for so many passes is away.
MISSED_PASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorDisk:
    """One disk of a mirror, or its remote, as the ledger knows it. `label` is what a person calls it: A, B ...

    `held` and `missing` count the stored copies that were there and that were not, when that was last counted (`counted_at`);
    `missing_since` is when the oldest of the missing ones was stored. `completed_at`: nothing was missing then.
    """

    id: int
    mirror: str
    identity: str
    label: str
    added_at: datetime
    seen_at: datetime | None = None
    completed_at: datetime | None = None
    counted_at: datetime | None = None
    held: int = 0
    missing: int = 0
    missing_since: datetime | None = None
    # Copies that were found bad there and are not replaced yet; files there that the ledger does not know (None: nobody looked).
    bad: int = 0
    unknown: int | None = None
    # Removals whose grace has passed, and that wait for a person.
    braked: int = 0

    @property
    def total(self) -> int:
        """How many copies should be there."""
        return self.held + self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyHere:
    """A copy on the backup disk that belongs on each mirror: of a version, of a dump, or of a dump's roles.

    `id` is what the ledger calls it (`dump_copy_id`). `stored_sha256` and `stored_size` are of its gzip file, if known.
    """

    id: int
    label: str
    location: str
    sha256: str
    stored_size: int = 0
    stored_sha256: str | None = None
    # Where it lies on the mirror, if not at the same path; and where it goes there if another file's copy has that path still.
    there: str = ""
    other: str = ""
    # The version, None where it is a dump's.
    version: Version | None = None

    @property
    def target(self) -> str:
        """Where it is to lie on the mirror."""
        return self.there or self.location

    @property
    def may_give_way(self) -> bool:
        """Whether there is another path for it than `target`."""
        return bool(self.other) and self.other != self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorCopy:
    """A copy on a disk of a mirror, by the ledger: the bytes that lie there are `stored_sha256`, those of the object `sha256`.

    `version_id` is the ledger's name for it (`dump_copy_id`). Of a dump's copy, `storage` is its bucket and `key` its name: a hold
    names them so.
    """

    disk_id: int
    version_id: int
    sha256: str
    location: str
    storage: str
    key: str
    number: int
    stored_sha256: str
    stored_size: int
    copied_at: datetime
    verified_at: datetime | None = None
    gone_at: datetime | None = None
    approved: bool = False
    # Of the version or the dump in the catalog now; None where it knows none.
    state: VersionState | DumpState | None = None

    @property
    def is_dump(self) -> bool:
        """Whether it is a dump's, or of its roles."""
        return self.version_id < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorStanding:
    """A mirror as it is set, and its disks as the ledger knows them.

    The last pass ended at `passed_at`, with `problem`, if anything.
    """

    name: str
    disks: Sequence[MirrorDisk]
    every: timedelta
    # After which a disk that was not seen is a problem.
    away: timedelta
    problem: str = ""
    passed_at: datetime | None = None

    @property
    def best(self) -> MirrorDisk | None:
        """The disk that has the most of what should be there."""
        return min(self.disks, key=lambda disk: (disk.counted_at is None, disk.missing, disk.id), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """How much of all is elsewhere: `held` of `copies` are in each of `places`; `missing_since`: the oldest one that is not."""

    places: int
    copies: int
    held: int
    missing_since: datetime | None
    counted_at: datetime | None

    def describe(self, now: datetime) -> str:
        """The line for people."""
        if self.counted_at is None:
            return "elsewhere   nothing yet"
        where = "1 place" if self.places == 1 else f"{self.places} places"
        line = f"elsewhere   {self.held:,} of {_copies(self.copies)} in {where}"
        return f"{line}, the oldest one missing since {describe_age(now - self.missing_since)}" if self.missing_since else line


# ---- what is mirrored ------------------------------------------------------------------------------------------------------------


def dump_copy_id(version_id: int, *, roles: bool = False) -> int:
    """What the ledger calls the copy of a dump's version, or of its roles.

    Copies of files have the id of their version there. Those of dumps have negative numbers, so that both lie in one ledger.
    """
    return -2 * version_id - roles


def dump_version_of(copy_id: int) -> tuple[int, bool]:
    """The dump's version that has this name in the ledger, and whether it is its roles' copy."""
    version_id, is_roles = divmod(-copy_id, 2)
    return version_id, bool(is_roles)


def version_here(version: Version) -> CopyHere:
    """The copy of a stored version."""
    return CopyHere(
        id=version.id,
        label=version.label,
        location=location_of(version),
        sha256=version.sha256,
        stored_size=version.stored_size or 0,
        stored_sha256=version.stored_sha256,
        # A file that is deleted and created again: here its copy was pruned, there it still lies for the mirror's grace.
        other=copy_location(version.place, version.number, variant_of(version.sha256)),
        version=version,
    )


def dump_here(dump: Dump, version: DumpVersion) -> list[CopyHere]:
    """The copies of a stored dump: its own, and that of its roles where there are any."""
    label = f"dump {dump.name} v{version.number}"
    copies = [
        CopyHere(
            id=dump_copy_id(version.id),
            label=label,
            location=dump_location(dump.place, version.number),
            sha256=version.sha256,
            stored_size=version.stored_size,
            stored_sha256=version.stored_sha256,
        )
    ]
    if version.roles_sha256 is not None:
        location = roles_location(dump.place, version.number)
        roles_id = dump_copy_id(version.id, roles=True)
        copies.append(CopyHere(id=roles_id, label=f"{label} (roles)", location=location, sha256=version.roles_sha256))
    return copies


# ---- which place may take copies -------------------------------------------------------------------------------------------------


def refuse_place(
    *, name: str, known: Sequence[MirrorDisk], marker: str | None, is_empty: bool, by_person: bool, is_mount: bool
) -> str | None:
    """Why a place without an identity that the ledger knows is not made a disk of the mirror `name`; None where it is.

    `marker` is the mirror that a note there names, None where there is no such note. `by_person`: a person asked for it by name.
    An empty folder may be a disk that is not mounted: nothing goes there unless a person says so, or it is a mount point.
    """
    if marker is not None and marker != name:
        return f"it belongs to the mirror {marker}"
    if by_person:
        return None
    if known:
        named = ", ".join(disk.label for disk in known)
        return f"no disk of this mirror is there (known: {named})"
    if marker is not None:
        return "it has copies already, of which the ledger knows nothing"
    if not is_empty:
        return "it is not empty, and has no note of the kit"
    return None if is_mount else "it is no mount point: is the disk plugged in?"


def next_label(taken: Iterable[str]) -> str:
    """A, B, ... Z, then D27 and so on: the first that no disk of the mirror has."""
    used = set(taken)
    letters = [chr(ord("A") + number) for number in range(26)]
    return next(label for label in (*letters, *(f"D{number}" for number in range(27, 10_000))) if label not in used)


# ---- what may go, and when -------------------------------------------------------------------------------------------------------


def decide_mirror_removal(
    copy: MirrorCopy, *, holds: Iterable[Hold], now: datetime, grace: timedelta, append_only: bool
) -> Decision:
    """Whether a copy goes from a mirror now: after its own grace, which began when the ledger saw that the version was pruned."""
    if append_only:
        return Keep(reason="the mirror is append-only")
    if copy.state not in {VersionState.PRUNED, DumpState.PRUNED}:
        return Keep(reason=f"it is {copy.state.value}, not pruned" if copy.state else "the catalog does not know it")
    if any(hold.covers(copy.storage, copy.key, now) for hold in holds):
        return Keep(reason="a hold keeps it")
    if copy.gone_at is None:
        return Keep(reason="its grace has not begun")
    due_at = copy.gone_at + grace
    if now < due_at:
        return Keep(reason=f"its grace on the mirror ends in {describe_age(due_at - now)}", until=due_at)
    return Remove(reason=f"pruned {describe_age(now - copy.gone_at)} ago")


def removals_allowed(*, held_then: int, removed: int, share: int, at_least: int) -> int:
    """How many copies may go from a disk without a person: `share` percent of those that it had at the window's beginning.

    `at_least` go in any case, and `removed` went within the window already.
    """
    return max(0, max(at_least, held_then * share // 100) - removed)


# ---- what is read again ----------------------------------------------------------------------------------------------------------


def verify_quota(held: int, *, every: timedelta, verify_every: timedelta) -> int:
    """How many copies a pass, one of each `every`, verifies so that all are within `verify_every`. 0: none is verified."""
    if not verify_every or not held:
        return 0
    return min(held, ceil(held * (every / verify_every)))


# ---- what a person is told -------------------------------------------------------------------------------------------------------


def sum_up_elsewhere(mirrors: Sequence[MirrorStanding]) -> Elsewhere | None:
    """How much is elsewhere; None where there are no mirrors. A copy counts that every mirror has: the least of them is said."""
    if not mirrors:
        return None
    best = [mirror.best for mirror in mirrors]
    known = [disk for disk in best if disk is not None and disk.counted_at is not None]
    if len(known) < len(mirrors):
        total = max((disk.total for disk in known), default=0)
        return Elsewhere(places=len(mirrors), copies=total, held=0, missing_since=None, counted_at=None)
    least = max(known, key=lambda disk: disk.missing)
    since = min((disk.missing_since for disk in known if disk.missing_since is not None), default=None)
    counted_at = min(disk.counted_at for disk in known if disk.counted_at is not None)
    return Elsewhere(places=len(mirrors), copies=least.total, held=least.held, missing_since=since, counted_at=counted_at)


def describe_disk(disk: MirrorDisk, *, away: bool, now: datetime) -> str:
    """How one disk stands: "disk B complete to Tue 24 Nov, away for 6 days"."""
    if disk.completed_at is not None and (away or not disk.missing):
        state = f"complete to {disk.completed_at:%a %d %b %H:%M}"
    else:
        state = f"{disk.held:,} of {_copies(disk.total)}" if disk.counted_at else "nothing yet"
    rest = [f"away for {describe_age(now - disk.seen_at)}"] if away and disk.seen_at else []
    rest += [f"{disk.bad:,} bad"] if disk.bad else []
    rest += [f"{counted(disk.unknown, 'file', 'files')} that the ledger does not know"] if disk.unknown else []
    return ", ".join([f"disk {disk.label} {state}", *rest])


def describe_mirrors(mirrors: Sequence[MirrorStanding], now: datetime) -> list[str]:
    """How the mirrors stand, for people: how much is elsewhere, then a line for each disk. Nothing if there are no mirrors."""
    total = sum_up_elsewhere(mirrors)
    if total is None:
        return []
    lines = [total.describe(now)]
    for mirror in mirrors:
        for disk in mirror.disks:
            away = disk.seen_at is not None and now - disk.seen_at > MISSED_PASSES * mirror.every
            lines.append(f"{mirror.name}: {describe_disk(disk, away=away, now=now)}")
        if mirror.problem or not mirror.disks:
            lines.append(f"{mirror.name}: {mirror.problem or 'no pass has been there yet'}")
    return lines


def _copies(count: int) -> str:
    return f"{count:,} {'copy' if count == 1 else 'copies'}"


def judge_mirrors(mirrors: Iterable[MirrorStanding], *, now: datetime, alert_after: timedelta) -> list[Problem]:
    """What is wrong with the mirrors, and is for a person to know."""
    return [problem for mirror in mirrors for problem in _judge(mirror, now, alert_after)]


def _judge(mirror: MirrorStanding, now: datetime, alert_after: timedelta) -> list[Problem]:
    name, best = mirror.name, mirror.best

    def problem(message: str, hint: str, about: str = "") -> Problem:
        return Problem(kind=Kind.MIRROR, message=f"mirror {name}: {message}", hint=hint, about=f"{name}{about}")

    if best is None or best.counted_at is None:
        return [problem(mirror.problem or "it has no copies yet", f"`cbk mirror {name}` begins, and says what is in the way")]
    problems = []
    reason = f" ({mirror.problem})" if mirror.problem else ""
    patience = max(mirror.every * LATE_PASSES, SHORTEST_MIRROR_PATIENCE, alert_after)
    if mirror.passed_at is not None and now - mirror.passed_at > patience:
        message = f"no pass for {describe_age(now - mirror.passed_at)}"
        problems.append(problem(message, "does a worker serve the queue `mirror`, and does beat run?", "/pass"))
    for disk in mirror.disks:
        unseen = now - (disk.seen_at or disk.added_at)
        if unseen > max(mirror.away, mirror.every * LATE_PASSES):
            message = f"disk {disk.label} was last seen {describe_age(unseen)} ago{reason}"
            hint = f"plug it in, or `cbk mirror {name} --retire {disk.label}` where it is gone for good"
            problems.append(problem(message, hint, f"/{disk.label}"))
        if disk.bad:
            message = f"{counted(disk.bad, 'copy', 'copies')} on disk {disk.label} could not be replaced"
            problems.append(problem(message, f"`cbk mirror {name}` tells why", f"/{disk.label}/bad"))
        if disk.braked:
            message = f"{counted(disk.braked, 'removal is', 'removals at once are')} held back on disk {disk.label}"
            problems.append(problem(message, f"`cbk mirror {name} --approve` where they are meant", f"/{disk.label}/brake"))
    waits = now - best.missing_since if best.missing_since else timedelta(0)
    # A disk that is on its way is no delay: until it counts as away, another one may be elsewhere with what there was.
    if best.missing and waits > max(patience, mirror.away if len(mirror.disks) > 1 else timedelta(0)):
        message = f"{counted(best.missing, 'copy is', 'copies are')} missing there, the oldest since {describe_age(waits)}{reason}"
        problems.append(problem(message, f"`cbk mirror {name}` brings them there now", "/late"))
    return problems
