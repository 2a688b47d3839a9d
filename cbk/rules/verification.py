"""Reading copies again: how much of them at a time, which of them for a sample, and what it means that one is bad."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

from cbk.rules.status.health import Kind, Problem, describe_age

ItemT = TypeVar("ItemT")

# The part of CBK_VERIFY_EVERY within which all copies are read: the rest is for downtime, and for copies that come meanwhile.
PASS_SHARE = 0.8
# So many slices at least are in CBK_VERIFY_EVERY; the longest one ends before Redis would hand its message out again.
SLICES = 20
SHORTEST_SLICE = timedelta(seconds=1)
LONGEST_SLICE = timedelta(minutes=10)
# The part of a slice's time after which it takes up no further copy, so that it has ended when the next one is due.
STAY = 0.8
# A copy is overdue when it was not read for CBK_VERIFY_EVERY and this part of it.
MARGIN = 0.25
# So many copies one after the other that are bad or missing are no bad copies, but a disk, a mount or a memory that fails; and so
# many without a single good one.
BAD_IN_A_ROW_LIMIT = 10
NONE_GOOD_LIMIT = 5
# So many copies that gave other bytes when they were read once more.
FLAKY_LIMIT = 3

_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")


class CopyFinding(StrEnum):
    """What can be wrong with a copy.

    ALTERED is a copy whose content is whole, but whose file is not the one that was written: its name in the gzip header, or bits
    that mean nothing, have changed. It goes on counting, as a copy of these bytes beats none.
    """

    MISSING = "missing"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    SWAPPED = "swapped"
    UNREADABLE = "unreadable"
    ALTERED = "altered"

    @property
    def counts_still(self) -> bool:
        """Whether the version stays stored."""
        return self is CopyFinding.ALTERED

    @property
    def leaves_bytes(self) -> bool:
        """Whether bytes are put aside. What cannot be read stays in its place: the next reader may be able to."""
        return self in {CopyFinding.TRUNCATED, CopyFinding.CORRUPT, CopyFinding.SWAPPED}


def damage_of(size: int, expected: int | None) -> CopyFinding:
    """Of a copy that does not give its bytes: whether it was cut short, by its size on the disk and the size that was written."""
    return CopyFinding.TRUNCATED if expected is not None and size < expected else CopyFinding.CORRUPT


def reason_of(finding: CopyFinding, now: datetime) -> str:
    """Why the version no longer counts, for a person."""
    return f"its copy was {finding.value}, found {now:%Y-%m-%d %H:%M} UTC"


# ---- pacing ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Copies of `size` bytes on the disk, none of which was read after `read_at`; None: not all of them were ever read."""

    read_at: datetime | None
    size: int


def may_read(batches: Iterable[Batch], *, credit: int, now: datetime, every: timedelta) -> int:
    """How many bytes may be read in this slice, `credit` of which the last ones left; a copy is read once it fits in.

    That much more is earned as takes the slowest steady rate at which each copy, longest unread first, is read in time. After a
    downtime, or where copies come or go, it is another one. `batches` are ordered like the copies.
    """
    period, interval = every * PASS_SHARE, slice_interval(every)
    size, earned = 0, 0
    for batch in batches:
        size += batch.size
        left = interval if batch.read_at is None else max(batch.read_at + period - now, interval)
        earned = max(earned, math.ceil((size - credit) * (interval / left)))
    return min(credit + earned, size)


def slice_interval(every: timedelta) -> timedelta:
    """How often a slice is due."""
    return min(max(every / SLICES, SHORTEST_SLICE), LONGEST_SLICE)


# ---- samples -----------------------------------------------------------------------------------------------------------------


def parse_share(text: str) -> Fraction:
    """A part of all copies from "1%" or "0.5%", more than 0 and up to 100%. Raises ValueError."""
    match = _SHARE.fullmatch(text.strip())
    share = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < share <= 1:
        raise ValueError('expected a percentage such as "1%" or "0.5%"')
    return share


def sample_size(count: int, share: Fraction) -> int:
    """How many of `count` copies a sample has: at least one, where there are any."""
    return -(-count * share.numerator // share.denominator)


def sampled(items: Iterable[ItemT], *, count: int, size: int, draw: Callable[[], float]) -> Iterator[ItemT]:
    """`size` of the `count` items, each as likely as any other, in their order; `draw` gives random numbers from 0 to below 1.

    Selection sampling (Knuth, The Art of Computer Programming 3.4.2, algorithm S): one pass, and nothing is kept.
    """
    left, wanted = count, size
    for item in items:
        if wanted <= 0:
            return
        if draw() * left < wanted:
            wanted -= 1
            yield item
        left -= 1


# ---- status ------------------------------------------------------------------------------------------------------------------


def overdue_before(now: datetime, every: timedelta) -> datetime:
    """Copies last read before this instant are overdue."""
    return now - every * (1 + MARGIN)


def verification_problems(*, overdue: int, problem: str | None, every: timedelta) -> list[Problem]:
    """What `status` says about the rolling scrub; nothing where it is off (`every` is 0). `problem` is how the last one failed."""
    if not every:
        return []
    problems = []
    if problem:
        message = f"the last verification failed: {problem}"
        problems.append(Problem(kind=Kind.VERIFY, message=message, hint="`cbk verify --sample 1%` tells more"))
    if overdue:
        copies = "1 copy was" if overdue == 1 else f"{overdue} copies were"
        problems.append(
            Problem(
                kind=Kind.UNREAD,
                message=f"{copies} not read again in the last {describe_age(every)}",
                hint="does a worker serve the queue verify? is CBK_VERIFY_RATE enough? `cbk verify --older-than 1d` does it now",
            )
        )
    return problems


# ---- drill -------------------------------------------------------------------------------------------------------------------


def drill_is_due(last: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether a drill is to be held; a last one that lies in the future was dated by a clock that was ahead."""
    return bool(every) and (last is None or last > now or now - last >= every)


def drill_problems(*, failed: str | None) -> list[Problem]:
    """What `status` says about a last drill that failed; None where it did not."""
    if not failed:
        return []
    hint = "`cbk drill` tries again, and names what fails"
    return [Problem(kind=Kind.DRILL, message=f"the last drill failed: {failed}", hint=hint)]


def restore_seconds(*, by_file: float, files: int, by_byte: float, size: int) -> float:
    """An estimate for `files` of `size` bytes, from the seconds that a file and a byte took on average: whichever is longer."""
    return max(by_file * files, by_byte * size)
