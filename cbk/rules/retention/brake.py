"""When so much is to be removed that a person has to say whether it is meant.

Two bounds, each enough to hold. Of what was here at the window's beginning, no more than a share is removed within the window,
however small the steps (`Allowance`). And no more than that comes due within a day at once, however new it is (`find_burst`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

# What comes due at once is counted within a day, or the window if that is shorter.
BURST_WINDOW = timedelta(days=1)
# Removals are counted in slots, of which so many in a row hold any stretch of time that is as long as the burst window.
SLOTS_PER_WINDOW = 2
SLOTS_COUNTED = SLOTS_PER_WINDOW + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStart:
    """What was here when the window began: so many copies, at that instant. What came later neither counts nor widens anything."""

    at: datetime
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much of the window is used: copies removed without a person since `since`, copies that wait, and the bound.

    `allowed` is None for a set so small that the brake is off.
    """

    used: int
    waiting: int
    allowed: int | None
    since: datetime

    @property
    def is_exceeded(self) -> bool:
        """Whether what waits may not go without a person's word."""
        return self.allowed is not None and self.waiting > 0 and self.used + self.waiting > self.allowed


def allowed_of(copies: int, *, files: int, share: int) -> int | None:
    """How many of `copies` may be removed within the window: `share` percent; None, which is any number, for at most `files`."""
    return None if copies <= files else copies * share // 100


def limit_of(*, stored: int, files: int, share: int) -> int:
    """How many removals at once are still let go: the larger of `files` and of `share` percent of the copies that are here."""
    return max(files, stored * share // 100)


def find_burst(slots: Mapping[int, int], *, limit: int) -> set[int]:
    """The slots, numbered in the order of time, in which more removals than the limit come due within one window.

    `slots` holds the number of removals that come due in each slot and that no brake has been pulled on.
    """
    burst: set[int] = set()
    for first in slots:
        for start in range(first - SLOTS_COUNTED + 1, first + 1):
            together = range(start, start + SLOTS_COUNTED)
            if sum(slots.get(slot, 0) for slot in together) > limit:
                burst.update(slot for slot in together if slots.get(slot))
    return burst
