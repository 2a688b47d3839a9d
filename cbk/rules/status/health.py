"""Whether everything is protected, and if not, why: computed from verified files. What is not known is red."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cbk.model import Brake, VersionState
from cbk.rules.intake.reading import CAME_OR_WENT
from cbk.rules.text.display import counted

# A poll may be late by so many intervals, or by this time, whichever is longer, before it counts as missing.
LATE_INTERVALS = 3
LATE_AT_LEAST = timedelta(minutes=2)
# Work that waits for so many leases (or for LATE_AT_LEAST, if that is longer), with no worker that took any, is not just queued.
LATE_LEASES = 3

# Every row is compared within CBK_RECONCILE_INTERVAL; it may be late by this part.
READ_LATE = 1.5

HINTS = {
    VersionState.PENDING: "waits for a worker: `celery -A cbk worker` and `celery -A cbk beat` do the work",
    VersionState.FAILED: "is tried again by itself; `cbk ls --state failed` tells when and why",
    VersionState.EXPIRED: "the application must write a fresh SignedDownloadUrl into these rows: `cbk ls --refresh` lists them",
    VersionState.MISSING: "the object is not in the storage: was it deleted without a delete-log row?",
    VersionState.MISMATCH: "the object is not what the row's Hash says: changed without a new row, or a wrong Hash",
    VersionState.DECLINED: "mend the row, write a new one with a higher Version, or mend the setting: the reason says which",
}

CLOCK_HINT = "set the clock right and let a service keep it; where it is right already, `cbk prune --trust-clock`"


class Kind(StrEnum):
    """What a problem is about: the name by which pages, metrics and notifications know it again."""

    CLOCK = "clock"
    POLL = "poll"
    WORKERS = "workers"
    LINKS = "links"
    PENDING = "pending"
    FAILED = "failed"
    EXPIRED = "expired"
    MISSING = "missing"
    MISMATCH = "mismatch"
    UNFETCHED = "unfetched"
    ROWS = "rows"
    SOURCE = "source"
    GONE = "gone"
    BRAKE = "brake"
    REMOVALS = "removals"
    VERIFY = "verify"
    UNREAD = "unread"
    DRILL = "drill"
    DUMP = "dump"
    DUMP_DRILL = "dump_drill"
    UNRECORDED = "unrecorded"
    ABSENT = "absent"
    OTHER_SIZE = "other_size"
    INVENTORY = "inventory"
    DISK_READ_ONLY = "disk_read_only"
    DISK_FULL = "disk_full"
    # Known to whoever looks by itself (`rules.voice`), where `status` ends with an error, has a line of its own, or shows a note.
    DISK_MISSING = "disk_missing"
    CATALOG = "catalog"
    CORRUPT = "corrupt"
    PAUSED = "paused"
    MIRROR = "mirror"


# Any other state of a file's newest version is of the kind `unfetched`.
_STATE_KINDS = {
    VersionState.PENDING: Kind.PENDING,
    VersionState.FAILED: Kind.FAILED,
    VersionState.EXPIRED: Kind.EXPIRED,
    VersionState.MISSING: Kind.MISSING,
    VersionState.MISMATCH: Kind.MISMATCH,
    VersionState.DECLINED: Kind.ROWS,
}
# Of one file, and of several, if a state's name does not make a sentence.
_STATE_WORDS = {VersionState.MISMATCH: ("file is not what its row's Hash says", "files are not what their rows' Hash says")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Why the application's tables may hold what is not seen of them, and what to do about it."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that keeps the answer from being "everything is protected". `about` tells several of one kind apart."""

    kind: Kind
    message: str
    hint: str
    about: str = ""


def judge(
    *,
    by_state: Mapping[VersionState, int],
    declined_rows: int,
    polled_at: datetime | None,
    poll_problem: str | None,
    now: datetime,
    poll_interval: timedelta,
    clock_problem: str | None = None,
    links: Iterable[Problem] = (),
) -> list[Problem]:
    """The problems, gravest first; none means that everything is protected. `by_state` counts files by their newest version.

    `links` are those of `rules.deadlines`.
    """
    problems = [Problem(kind=Kind.CLOCK, message=f"nothing is pruned: {clock_problem}", hint=CLOCK_HINT)] if clock_problem else []
    problems += _poll_problems(polled_at, poll_problem, now, poll_interval)
    problems += links
    for state in VersionState:
        count = by_state.get(state, 0)
        if count and state is not VersionState.STORED:
            hint = HINTS.get(state, "its newest version has no copy: `cbk ls` tells more")
            one, many = _STATE_WORDS.get(state, (f"file is {state.value}", f"files are {state.value}"))
            message = f"{count} {one if count == 1 else many}"
            problems.append(Problem(kind=_STATE_KINDS.get(state, Kind.UNFETCHED), message=message, hint=hint))
    if declined_rows:
        problems.append(
            Problem(
                kind=Kind.ROWS,
                message=f"{declined_rows} {'row was' if declined_rows == 1 else 'rows were'} declined",
                hint="`cbk ls --state declined` gives the reasons",
            )
        )
    return problems


def judge_source(
    doubts: Iterable[Doubt],
    *,
    ever_seen: bool,
    gone_files: int,
    last_read_at: datetime | None,
    reading_since: datetime | None,
    reading_why: str,
    now: datetime,
    reconcile_interval: timedelta,
) -> list[Problem]:
    """What cannot be read of the application's tables, or was not compared: nothing of it is "nothing".

    `last_read_at` is when every row was read last, `reading_since` when the full read began that is under way, and why.
    """
    problems = [Problem(kind=Kind.SOURCE, message=doubt.message, hint=doubt.hint, about=doubt.message) for doubt in doubts]
    if not ever_seen:
        problems.append(
            Problem(
                kind=Kind.SOURCE,
                message='no row was ever seen in "ObjectStorageFiles"',
                hint="does the application write its uploads there, and does CBK_SOURCE_URL name its database? `cbk doctor` looks",
                about="empty",
            )
        )
    elif last_read_at is None or not timedelta(0) <= now - last_read_at <= max(reconcile_interval * READ_LATE, LATE_AT_LEAST):
        ago = "" if last_read_at is None else f" for {describe_age(now - last_read_at)}"
        begun = "" if reading_since is None else "; a full read is under way"
        problems.append(
            Problem(
                kind=Kind.SOURCE,
                message=f"not every row was compared{ago}{begun}",
                hint="polls do this some pages at a time: are they running? `cbk status --watch` shows how it goes",
                about="compare",
            )
        )
    elif reading_since is not None and reading_why == CAME_OR_WENT:
        problems.append(
            Problem(
                kind=Kind.SOURCE,
                message=f"rows came or went, and which is being looked for since {describe_age(now - reading_since)}",
                hint="every row is read, some pages per poll; this ends by itself",
                about="compare",
            )
        )
    if gone_files:
        named = (
            "1 file has a copy here, and its rows are"
            if gone_files == 1
            else f"{gone_files} files have copies here, and their rows are"
        )
        problems.append(
            Problem(
                kind=Kind.GONE,
                message=f"{named} gone without a delete: the copies are kept",
                hint=(
                    "`cbk ls --gone` lists them. If they were deleted, write their rows' Ids into the delete log; "
                    "if all is well as it is, `cbk prune --accept-gone`"
                ),
            )
        )
    return problems


def judge_workers(
    *, waiting: int, waiting_since: datetime | None, at_work: bool, taken_at: datetime | None, now: datetime, lease: timedelta
) -> list[Problem]:
    """That work waits and nobody takes it: `waiting` versions are due, the first since then.

    A worker last took one at `taken_at`; `at_work`: one is at work on another version now.
    """
    patience = max(lease * LATE_LEASES, LATE_AT_LEAST)
    if waiting_since is None or at_work or now - waiting_since <= patience:
        return []
    if taken_at is not None and timedelta(0) <= now - taken_at <= patience:
        return []
    since = waiting_since if taken_at is None or taken_at > now else max(waiting_since, taken_at)
    named = "1 version waits" if waiting == 1 else f"{waiting} versions wait"
    return [
        Problem(
            kind=Kind.WORKERS,
            message=f"{named}, and no worker took any for {describe_age(now - since)}",
            hint="does a worker run that serves the queue `backup`, and does Redis? `celery -A cbk inspect ping`, `cbk doctor`",
        )
    ]


def judge_retention(brakes: Iterable[Brake], *, overdue: int) -> list[Problem]:
    """What keeps removals back that a person has to know of: a brake, and `overdue` ones that nothing explains."""
    problems = [
        Problem(
            kind=Kind.BRAKE,
            message=f"{counted(brake.removals, 'removal is', 'removals are')} held back by brake {brake.id}{_because(brake)}",
            hint=f"`cbk prune --plan` lists them; `cbk prune --approve {brake.id}` or `--reject {brake.id}` decides",
            about=str(brake.id),
        )
        for brake in brakes
    ]
    if overdue:
        problems.append(
            Problem(
                kind=Kind.REMOVALS,
                message=f"{overdue} {'removal is' if overdue == 1 else 'removals are'} overdue",
                hint="does a worker serve the queue `prune`? `cbk prune` carries them out here",
            )
        )
    return problems


def _because(brake: Brake) -> str:
    return f": {brake.reason}" if brake.reason else ""


def _poll_problems(polled_at: datetime | None, poll_problem: str | None, now: datetime, poll_interval: timedelta) -> list[Problem]:
    if polled_at is None:
        reason = f": {poll_problem}" if poll_problem else ""
        return [
            Problem(
                kind=Kind.POLL,
                message=f"the application's tables were never read{reason}",
                hint="start a worker and beat; `cbk doctor` checks the rest",
            )
        ]
    age = now - polled_at
    if age > max(poll_interval * LATE_INTERVALS, LATE_AT_LEAST):
        reason = f": {poll_problem}" if poll_problem else ""
        return [
            Problem(
                kind=Kind.POLL,
                message=f"the application's tables were last read {describe_age(age)} ago{reason}",
                hint="is beat running, is the source up? `cbk doctor`",
            )
        ]
    if age < -LATE_AT_LEAST:
        return [
            Problem(
                kind=Kind.CLOCK,
                message="the last poll lies in the future: the clock went back",
                hint="check this machine's clock",
            )
        ]
    if poll_problem:
        return [Problem(kind=Kind.POLL, message=f"the last poll failed: {poll_problem}", hint="`cbk doctor` tells more")]
    return []


def is_poll_due(polled_at: datetime | None, now: datetime, poll_interval: timedelta) -> bool:
    """Whether two polls could have been and were not: reason enough to ask Redis whether it is there."""
    return polled_at is None or now - polled_at > 2 * poll_interval


def blame_broker(problems: list[Problem], message: str, hint: str) -> list[Problem]:
    """The problems, with Redis before them as the cause of polls that do not come."""
    return [Problem(kind=Kind.POLL, message=f"no poll comes: {message}", hint=hint, about="redis"), *problems]


def describe_age(age: timedelta) -> str:
    """A duration for people: "42 s", "17 min", "3 h", "5 days"."""
    seconds = max(age.total_seconds(), 0.0)  # what a clock that was set back makes younger than nothing is no age
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / unit)} {name}"
    return f"{int(seconds / 86400)} days"
