"""Whether new copies may come to the disk: a reserve of it stays free, for the catalog and for whoever looks after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.rules.status.health import LATE_AT_LEAST, LATE_INTERVALS, Kind, Problem

LARGEST_RESERVE = 1 << 30
RESERVED_SHARE = 50
# A copy takes a file and up to a folder for each segment of its key; a batch of them is under way at a time.
LEAST_FILES = 1000
_BYTES_PER_MB = 1e6


def reserve(total: int, least_free: int | None) -> int:
    """Bytes that stay free on a disk of `total` bytes: `least_free`; where that is None, 1 GiB or a fiftieth of a smaller disk."""
    return min(LARGEST_RESERVE, total // RESERVED_SHARE) if least_free is None else least_free


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """How a worker found the backup disk when it last looked."""

    at: datetime
    read_only: bool


def is_read_only(sightings: Iterable[Sighting], *, now: datetime, poll_interval: timedelta, disk_is: bool, shares: bool) -> bool:
    """Whether the backup disk is read-only for the workers, as far as one who only looks can tell.

    What workers saw of late counts, and never how the looker's own mount is. `disk_is` says that the disk takes nothing from
    anybody on the looker's machine: that counts where no worker looked of late, and always where they are on it too (`shares`).
    """
    if disk_is and shares:
        return True
    patience = max(poll_interval * LATE_INTERVALS, LATE_AT_LEAST)
    recent = [sighting.read_only for sighting in sightings if abs(now - sighting.at) <= patience]
    return any(recent) if recent else disk_is


def judge_disk_space(
    *, free: int, total: int, read_only: bool, least_free: int | None, files_left: int | None = None
) -> Problem | None:
    """Why nothing new is fetched now; None where it may be. Sizes are in bytes, `least_free` as in `reserve`.

    `files_left` is how many more files the disk can hold (inodes); None if there is no limit.
    """
    if read_only:
        return Problem(
            kind=Kind.DISK_READ_ONLY,
            message="the backup disk is mounted read-only: nothing new is fetched",
            hint="the system's log (dmesg) tells why; check the disk and mount it for writing, work goes on by itself",
        )
    kept = reserve(total, least_free)
    if free < kept:
        left = f"{free / _BYTES_PER_MB:,.0f} MB are free, {kept / _BYTES_PER_MB:,.0f} MB stay free"
        return Problem(
            kind=Kind.DISK_FULL,
            message=f"the backup disk is almost full ({left}): nothing new is fetched",
            hint="make room on it, or prune; work goes on by itself. CBK_MIN_FREE_SPACE is what stays free",
        )
    if files_left is not None and files_left < LEAST_FILES:
        return Problem(
            kind=Kind.DISK_FULL,
            message=f"the backup disk can hold only {files_left} more files (inodes): nothing new is fetched",
            hint="remove what is not the kit's from it, or move to a disk with more inodes; work goes on by itself then",
        )
    return None
