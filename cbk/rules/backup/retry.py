"""What becomes of a version after its row was read again, and after a download that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.errors import CbkError, DownloadError, HashMismatch
from cbk.model import AcceptedRow, DeclinedRow, Version, VersionState
from cbk.rules.backup.hashes import Hashes, agree, differ, shown_hash
from cbk.rules.backup.http_responses import FRESH_LINK
from cbk.rules.intake.layout import names_file

LONGEST_DELAY = timedelta(hours=6)
# An object that is not there, or not yet the row's, may come: the application writes the row before or after the upload.
LONGEST_DELAY_MISSING = timedelta(days=1)

# What was declined comes back as well: whoever mends the settings that forbade it need not know which versions that met.
_COMES_BACK = frozenset({VersionState.FAILED, VersionState.MISSING, VersionState.MISMATCH, VersionState.DECLINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOutcome:
    """A version's next state, the reason a person reads, and when it is due again (None: only if something changes)."""

    state: VersionState
    reason: str
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Fetch the object of this row."""

    row: AcceptedRow


def decide_fetch(version: Version, row: AcceptedRow | DeclinedRow | None) -> Fetch | FetchOutcome:
    """Whether the version is still what its row says, read again just before the download."""
    if row is None:
        return FetchOutcome(state=VersionState.MISSING, reason="its row is gone from the application's table")
    if isinstance(row, DeclinedRow):
        return FetchOutcome(state=VersionState.DECLINED, reason=row.reason)
    if (row.storage, row.number) != (version.storage, version.number) or not names_file(version.key, row.key):
        return FetchOutcome(state=VersionState.MISSING, reason=f"row {version.source_id} is of another version now (v{row.number})")
    if differ(_hashes(version), _hashes(row)):
        known, said = shown_hash(version.sha256, version.md5), shown_hash(row.sha256, row.md5)
        return FetchOutcome(
            state=VersionState.DECLINED,
            reason=f"the row's Hash changed ({known} became {said}): new content needs a higher Version",
        )
    return Fetch(row=row)


def is_worth_another_try(version: Version, row: AcceptedRow, *, link_is_fresh: bool) -> bool:
    """Whether the row, read again, changes anything for a version that could not be fetched.

    A fresh link does, but for a version that failed for another reason than its link: that waits for its time, however often the
    application signs anew. So does a row that makes sense again where the row alone was in the way: nothing else leaves a version
    that is neither due nor expired.
    """
    if version.state is VersionState.PENDING or isinstance(decide_fetch(version, row), FetchOutcome):
        return False  # it is due already, or cannot be
    if link_is_fresh:
        return version.state is not VersionState.FAILED or FRESH_LINK in version.reason
    return version.due_at is None and version.state is not VersionState.EXPIRED


def after_failure(
    version: Version,
    error: CbkError,
    *,
    siblings: Iterable[Version],
    now: datetime,
    base: timedelta,
    jitter: float,
) -> FetchOutcome:
    """The outcome of a backup that raised `error`; what is no DownloadError (the disk, a bug) is failed.

    `siblings` are the file's other versions, `base` is the first delay (doubled with each attempt), `jitter` is 0 to 1 and spreads
    the delay between a half and one and a half of it.
    """
    state = VersionState(error.state) if isinstance(error, DownloadError) else VersionState.FAILED
    if isinstance(error, HashMismatch):
        actual = Hashes(sha256=error.actual, md5=error.actual_md5)
        for other in siblings:
            if other.number > version.number and agree(_hashes(other), actual):
                return FetchOutcome(state=VersionState.SUPERSEDED, reason=f"its object holds the bytes of v{other.number} now")
    if state not in _COMES_BACK:
        return FetchOutcome(state=state, reason=_with_hint(error))
    longest = LONGEST_DELAY if state is VersionState.FAILED else LONGEST_DELAY_MISSING
    delay = backoff(version.attempts, base=base, longest=longest, jitter=jitter)
    if isinstance(error, DownloadError) and error.retry_after_seconds is not None:
        delay = max(delay, timedelta(seconds=error.retry_after_seconds))
    return FetchOutcome(state=state, reason=_with_hint(error), due_at=now + delay)


def backoff(attempts: int, *, base: timedelta, longest: timedelta, jitter: float) -> timedelta:
    """The delay after `attempts` (1 or more): base, 2 x base, 4 x base ... at most `longest`, times 0.5 to 1.5 by `jitter`."""
    doublings = min(max(attempts, 1) - 1, 25)  # more would leave the calendar
    return min(min(base, longest) * (1 << doublings), longest) * (0.5 + jitter)


def _hashes(of: Version | AcceptedRow) -> Hashes:
    return Hashes(sha256=of.sha256, md5=of.md5)


def _with_hint(error: CbkError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
