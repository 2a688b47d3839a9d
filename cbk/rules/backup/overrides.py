"""What a person ordered while the kit runs: a pause, and another bandwidth than the settings'. Kept in the catalog's facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.rules.backup.bandwidth import Timetable
from cbk.rules.status.health import Kind, Problem, describe_age

PAUSE_FACT = "order.pause"
BANDWIDTH_FACT = "order.bandwidth"
# A pause that is forgotten is a backup that is not there.
LONGEST_PAUSE = timedelta(days=7)
# Machines' clocks may differ by this much. A pause that begins later was ordered by a clock that has gone back since: it is over.
_TOLERANCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOverrides:
    """In force now: nothing new is fetched from `paused_from` until `paused_until`, and `timetable` limits the bytes per second."""

    timetable: Timetable
    paused_from: datetime | None = None
    paused_until: datetime | None = None

    def pause_at(self, now: datetime) -> datetime | None:
        """Until when nothing new is fetched; None where there is no pause."""
        if self.paused_from is None or self.paused_until is None:
            return None
        return self.paused_until if self.paused_from - _TOLERANCE <= now < self.paused_until else None


def read_overrides(facts: Mapping[str, str], setting: str) -> RuntimeOverrides:
    """The orders in the catalog's facts; `setting` is CBK_BANDWIDTH, which holds where no other bandwidth was ordered."""
    timetable = Timetable.parse(facts.get(BANDWIDTH_FACT, setting))
    if PAUSE_FACT not in facts:
        return RuntimeOverrides(timetable=timetable)
    noted = json.loads(facts[PAUSE_FACT])
    start, end = (datetime.fromisoformat(noted[name]) for name in ("from", "until"))
    return RuntimeOverrides(timetable=timetable, paused_from=start, paused_until=end)


def note_pause(start: datetime, end: datetime) -> str:
    """A pause, as `read_overrides` reads it."""
    return json.dumps({"from": start.isoformat(), "until": end.isoformat()})


def judge_pause(
    until: datetime | None, *, unprotected: int, oldest_at: datetime | None, now: datetime, alert_after: timedelta
) -> list[Problem]:
    """A pause is a problem of its own once a file that has no copy waits for `alert_after` because of it."""
    if until is None or oldest_at is None or now - oldest_at < alert_after:
        return []
    files = "1 file is" if unprotected == 1 else f"{unprotected} files are"
    message = (
        f"paused for {describe_age(until - now)} more, and {files} not protected, the oldest since {describe_age(now - oldest_at)}"
    )
    return [Problem(kind=Kind.PAUSED, message=message, hint="`cbk resume` ends the pause")]
