"""How many bytes per second may be fetched, and when: a limit, or a timetable of limits (after rclone's `--bwlimit`)."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime

from cbk.rules.text.sizes import parse_size

# Less could not be shared among workers without an origin giving up on them.
LEAST = 1000
OFF = "off"

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_PER_DAY = 24 * 60
_DAY = "|".join(_DAYS)
# "Mon", "Mon-Fri", "Mon,Wed-Fri"
_ON_DAYS = re.compile(rf"(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*")
# "08:00,1M", and rclone's "Mon-08:00,1M"
_FROM = re.compile(rf"(?:({_DAY})-)?([01]?\d|2[0-3]):([0-5]\d),(\S+)", re.ASCII)
_EXPECTED = 'expected bytes per second such as "2M", or a timetable such as "08:00,1M 23:00,off" or "Mon-Fri 08:00,1M 18:00,off"'


@dataclass(frozen=True, slots=True)
class Timetable:
    """Limits, each with the minute of the week from which it is in force, in order; None is no limit, and so is an empty table."""

    limits: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Timetable:
        """One limit for ever, or limits from times on, each until the next one, round the week.

        Times are of every day, or of the days named before them ("Mon-Fri 08:00,1M 18:00,off Sat,Sun 10:00,2M"). Raises ValueError.
        """
        words = text.strip().lower().split()
        if not words:
            return cls()
        if len(words) == 1 and ":" not in words[0]:
            return cls(((0, _parse_limit(words[0])),))
        days: tuple[int, ...] = tuple(range(7))
        limits: dict[int, int | None] = {}
        for word in words:
            if _ON_DAYS.fullmatch(word):
                days = _parse_days(word)
                continue
            match = _FROM.fullmatch(word)
            if match is None:
                raise ValueError(_EXPECTED)
            day, hour, minute, limit = match.groups()
            for each in (_DAYS.index(day),) if day else days:
                start = each * _MINUTES_PER_DAY + int(hour) * 60 + int(minute)
                if start in limits:
                    raise ValueError(f"two limits begin at {hour}:{minute} of the same day")
                limits[start] = _parse_limit(limit)
        if not limits:
            raise ValueError(_EXPECTED)
        return cls(tuple(sorted(limits.items())))

    def limit_at(self, local: datetime) -> int | None:
        """The limit in force at a local time, in bytes per second; None where there is none."""
        if not self.limits:
            return None
        minute = local.weekday() * _MINUTES_PER_DAY + local.hour * 60 + local.minute
        place = bisect_right(self.limits, minute, key=lambda limit: limit[0])
        return self.limits[place - 1][1]  # before the first of the week, the last one still is in force


def describe_limit(limit: int | None) -> str:
    """For people: "1 MB/s", "250 kB/s", "no limit"."""
    if limit is None:
        return "no limit"
    value, unit = (limit / 1e6, "MB/s") if limit >= 1e6 else (limit / 1e3, "kB/s")
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def _parse_limit(text: str) -> int | None:
    if text in {OFF, "0"}:
        return None
    try:
        limit = parse_size(text.removesuffix("/s"))
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if limit < LEAST:
        raise ValueError(f'expected at least {LEAST} bytes per second, or "{OFF}"')
    return limit


def _parse_days(word: str) -> tuple[int, ...]:
    named: list[int] = []
    for part in word.split(","):
        first, _, last = part.partition("-")
        start, end = _DAYS.index(first), _DAYS.index(last or first)
        named += [(start + step) % 7 for step in range((end - start) % 7 + 1)]
    return tuple(dict.fromkeys(named))
