"""When a table of the application's is read wholly once more, and what its being read was worth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# What a poll asks or reads beside its work may cost one part in so many of the time.
SHARE_OF_TIME = 100
# A table of at most so many rows is read wholly as often as that share allows: what is changed in place shows soon.
SMALL_ROWS = 10_000
# So few are read at each poll.
ONE_PAGE = 1_000
# If no more files than that have lost their rows, somebody has removed single ones.
FEW_FILES = 10


CAME_OR_WENT = "rows came or went"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRead:
    """The last time that every row was read: in which poll that began, when, how long it took, and how many rows there were."""

    poll: int
    started_at: datetime
    finished_at: datetime
    seconds: float
    rows: int


def is_affordable(last_at: datetime | None, seconds: float, now: datetime) -> bool:
    """Whether what took `seconds` and ended at `last_at` may be done again. A last time that lies in the future is none."""
    if last_at is None or last_at > now:
        return True
    return now - last_at >= timedelta(seconds=seconds * SHARE_OF_TIME)


def is_read_by_each_poll(last: LastRead) -> bool:
    """Whether the table is so small that each poll reads every row."""
    return last.rows <= ONE_PAGE


def why_read_all(  # noqa: PLR0911 - one reason after the other
    last: LastRead | None,
    *,
    poll: int,
    now: datetime,
    interval: timedelta,
    is_other: bool,
    is_ordered: bool,
    needed: bool,
) -> str:
    """Why every row is to be read now, in this `poll`; "" if it need not be.

    `is_other`: the table is not what was read of it. `needed`: something waits to be removed that was noted since the last time.
    """
    if last is None:
        return "it never was"
    if is_other:
        return CAME_OR_WENT
    if needed:
        return "something is to be removed"
    if last.poll == poll:
        return ""
    age = now - last.finished_at
    if age < timedelta(0) or age >= interval:
        return "the last time is too long ago"
    if is_read_by_each_poll(last):
        return "it is a small table"
    often = last.rows <= SMALL_ROWS or not is_ordered
    if often and is_affordable(last.finished_at, last.seconds, now):
        return "it is a small table" if is_ordered else "its Ids are in no order"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What a full read found to be gone: files with a copy and without any row, of so many files with rows."""

    gone_files: int
    live_files: int

    def doubt(self, share: int) -> str:
        """Why nothing may be removed because of what this table says; "" if there is no doubt. `share` is in percent."""
        if not self.gone_files:
            return ""
        if not self.live_files:
            return "the table of files is empty, which it was not before"
        if self.gone_files > FEW_FILES and self.gone_files * 100 > (self.gone_files + self.live_files) * share:
            return f"{self.gone_files} files have lost their rows, though nothing in the delete log names them"
        return ""
