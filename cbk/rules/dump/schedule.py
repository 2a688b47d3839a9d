"""When a dump is due: cron text, a delay that is the dump's own, and one dump for all that were missed.

A *slot* is an instant that the schedule names, as UTC. A dump is taken for the newest slot that has come, so a machine that was off
for a week makes up for one dump, not for seven.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_ALIASES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *"}
# A dump that failed is tried again after this, then twice that and so on.
RETRY_FIRST = timedelta(minutes=5)
RETRY_LONGEST = timedelta(hours=6)
# A slot so far in the future was noted by a clock that was wrong.
_AHEAD = timedelta(hours=1)
# Cron texts exist that name no day (30 February): nothing comes for so long then.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cron text, `minute hour day month weekday`, in a time zone; None: UTC. Raises ValueError where it is none."""

    text: str
    timezone: str | None = None

    def __post_init__(self) -> None:
        try:
            CronSim(self._cron, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f'expected cron text such as "0 3 * * *": {str(error).lower()}') from None

    @property
    def _cron(self) -> str:
        return _ALIASES.get(self.text.strip().lower(), self.text.strip())

    @property
    def zone(self) -> ZoneInfo:
        """The time zone that its hours and its days are of."""
        return ZoneInfo(self.timezone or "UTC")

    def newest(self, now: datetime) -> datetime:
        """The newest slot that has come."""
        # CronSim looks before what it is given: the minute that has just begun counts.
        return self._find(now + timedelta(minutes=1), reverse=True)

    def following(self, now: datetime) -> datetime:
        """The next slot after now."""
        return self._find(now, reverse=False)

    def _find(self, start: datetime, *, reverse: bool) -> datetime:
        local = start.astimezone(self.zone).replace(second=0, microsecond=0)
        try:
            return next(CronSim(self._cron, local, reverse=reverse)).astimezone(UTC)
        except StopIteration:
            return _NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Whether a dump is to be taken now, for which slot, why, and when one will be next where it is not."""

    now: bool
    slot: datetime
    reason: str
    at: datetime


def jitter_of(name: str, slot: datetime, longest: timedelta) -> timedelta:
    """The delay of this dump at this slot, less than `longest`: the same whoever asks, and another one each time."""
    share = int.from_bytes(hashlib.sha256(f"{name} {slot.isoformat()}".encode()).digest()[:4])
    return longest * share // 2**32


def decide_due(
    *, name: str, schedule: Schedule, jitter: timedelta, done_slot: datetime | None, retry_at: datetime | None, now: datetime
) -> Due:
    """Whether a dump is due. `done_slot` is the slot of the newest one that was stored; `retry_at` is set after a failure."""
    slot = schedule.newest(now)
    begins = slot + jitter_of(name, slot, jitter)
    if done_slot is not None and done_slot > now + _AHEAD:
        done_slot = None
    following = schedule.following(now)
    next_at = following + jitter_of(name, following, jitter)
    if done_slot is None:
        begins, reason = now, "there is no dump yet"
    elif done_slot >= slot:
        return Due(now=False, slot=slot, reason="the newest one is there", at=next_at)
    else:
        reason = f"its schedule says {slot:%Y-%m-%d %H:%M} UTC"
    if retry_at is not None and now < retry_at <= now + RETRY_LONGEST:
        return Due(now=False, slot=slot, reason="it failed, and waits for its next try", at=retry_at)
    return Due(now=begins <= now, slot=slot, reason=reason, at=max(begins, now))


def retry_delay(attempts: int) -> timedelta:
    """How long a dump that failed `attempts` times in a row waits."""
    doublings: int = min(max(attempts, 1) - 1, 10)
    return min(RETRY_LONGEST, RETRY_FIRST * (1 << doublings))


def is_late(*, schedule: Schedule, done_slot: datetime | None, now: datetime, patience: timedelta) -> bool:
    """Whether a slot that came longer ago than `patience` has no dump; true where there is none at all."""
    return done_slot is None or done_slot < schedule.newest(now - patience)
