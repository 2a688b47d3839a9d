"""How things stood over time: how often that is noted, how long it is kept, and when the disk will be full at this rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# One sample in so much time; polls may come much more often.
EVERY = timedelta(minutes=15)
# Older samples are thinned to one in so much time, and go in the end: ten thousand of them are the most there are.
FINE_FOR = timedelta(days=14)
COARSE = timedelta(hours=1)
KEPT_FOR = timedelta(days=366)

# The growth of this time says when the disk will be full; less of a past than that says nothing.
TREND_WINDOW = timedelta(days=30)
SHORTEST_PAST = timedelta(days=1)
# Whatever is farther off than this is no prediction.
FARTHEST_DAYS = 3650


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How things stood at an instant: files, how many of them were protected, how long the oldest unprotected one had waited.

    `copies` with the bytes of their objects (`size`) and on the disk (`stored_size`); `free` and `total` are the disk's bytes.
    """

    at: datetime
    files: int
    protected: int
    lag: timedelta
    copies: int
    size: int
    stored_size: int
    free: int
    total: int


def is_due(last: datetime | None, now: datetime) -> bool:
    """Whether another sample is to be noted; a last one that lies in the future was dated by a clock that was ahead."""
    return last is None or last > now or now - last >= EVERY


def days_left(samples: Sequence[Sample], *, now: datetime, free: int, kept_free: int) -> float | None:
    """After how many days nothing new fits on the disk, should it go on filling as it did lately; None where that cannot be said.

    `samples` are oldest first. The rate is that of the straight line which fits best to the bytes in use (least squares), so that
    one large upload, or one day of pruning, does not decide. Samples of a disk of another size are of another disk.
    """
    recent = [sample for sample in samples if now - TREND_WINDOW <= sample.at <= now and sample.total == samples[-1].total]
    if not recent or recent[-1].at - recent[0].at < SHORTEST_PAST:
        return None
    days = [(sample.at - recent[0].at) / timedelta(days=1) for sample in recent]
    used = [sample.total - sample.free for sample in recent]
    middle_day, middle_use = sum(days) / len(days), sum(used) / len(used)
    spread = sum((day - middle_day) ** 2 for day in days)
    bytes_per_day = sum((day - middle_day) * (use - middle_use) for day, use in zip(days, used, strict=True)) / spread
    if bytes_per_day <= 0:
        return None
    left = max(free - kept_free, 0) / bytes_per_day
    return left if left <= FARTHEST_DAYS else None
