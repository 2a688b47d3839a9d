"""Which links die before their versions are fetched: told before they do, as far as that can be known.

Links that die first are fetched first. So what is due is a line in the order of its deadlines, and with the rate at which versions
were stored of late it shows who will come too late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.rules.status.health import Kind, Problem

# What dies later than that is no news: services sign for seven days at most (AWS Signature 4, Google's V4).
FARTHEST_HORIZON = timedelta(days=7)
# The rate is that of so much time, or that of the last minute where enough came to an end in it to tell and it was faster.
RATE_WINDOW = timedelta(minutes=15)
LAST = timedelta(minutes=1)
ENOUGH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """What is due, by when links die.

    `dying` is (instant, how many versions whose link dies then or up to a minute later), earliest first; a link that is dead
    already counts to the present. `waiting_since` is when the one that waits longest became due. `too_late` counts versions whose
    next try comes after their link's death, which is at `too_late_at` first. `stored` were stored within `RATE_WINDOW`,
    `stored_last` of them within `LAST`.
    """

    dying: Sequence[tuple[datetime, int]]
    waiting_since: datetime | None
    too_late: int
    too_late_at: datetime | None
    stored: int
    stored_last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """So many links die unfetched, the first of them then; `rate` is in versions per second, None where it is not known."""

    count: int
    first_at: datetime
    rate: float | None


def horizon(poll_interval: timedelta, lease: timedelta) -> timedelta:
    """What dies sooner than this and is not fetched yet may be too late: a poll, a lost message and another poll take so long."""
    return 2 * poll_interval + lease


def storing_rate(deadlines: Deadlines, now: datetime) -> float | None:
    """Versions stored per second of late; None where work has not waited long enough to tell. Idle time is no measure."""
    if deadlines.waiting_since is None or now - deadlines.waiting_since < LAST:
        return None
    busy = min(now - deadlines.waiting_since, RATE_WINDOW)
    last = deadlines.stored_last / LAST.total_seconds() if deadlines.stored_last >= ENOUGH else 0.0
    return max(deadlines.stored / busy.total_seconds(), last)


def find_doomed(deadlines: Deadlines, *, now: datetime, horizon: timedelta) -> Doomed | None:
    """The links that die within the horizon, those that die before it is their turn, and those whose next try comes too late."""
    rate = storing_rate(deadlines, now)
    count, moments = deadlines.too_late, [deadlines.too_late_at] if deadlines.too_late_at else []
    busy_for = 0.0  # seconds from now on that are taken by those in front
    for instant, waiting in deadlines.dying:
        late = waiting
        if rate is not None:
            free_seconds = max((instant - now).total_seconds() - busy_for, 0.0)
            fetched = min(waiting, math.floor(free_seconds * rate))
            busy_for += fetched / rate if fetched else 0.0
            late = waiting - fetched
        if instant - now <= horizon:
            late = waiting
        elif rate is None:
            break
        if late:
            count += late
            moments.append(instant)
    return Doomed(count=count, first_at=min(moments), rate=rate) if count else None


def judge_links(doomed: Doomed | None) -> list[Problem]:
    """The problem that links die unfetched."""
    if doomed is None:
        return []
    die = "1 link dies" if doomed.count == 1 else f"{doomed.count} links die"
    pace = "" if doomed.rate is None else f", at {doomed.rate * 3600:.0f} stored per hour"
    return [
        Problem(
            kind=Kind.LINKS,
            message=f"{die} before the object is fetched{pace}, the first at {doomed.first_at:%Y-%m-%d %H:%M} UTC",
            hint="more workers or a higher CBK_CONCURRENCY fetch sooner; the application can sign these links anew, and for longer",
        )
    ]
