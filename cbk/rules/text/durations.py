"""Durations as a person writes them."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
# Longer ones are typing errors, and would leave the calendar when they are added to a date.
_LONGEST_DURATION = timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """A duration from "90s", "1h30m", "7d", "250ms" or a number of seconds, 0 to 100 years. Raises ValueError."""
    try:
        duration = value if isinstance(value, timedelta) else timedelta(seconds=_seconds(value))
    except (OverflowError, ValueError):
        duration = None
    if duration is None or not timedelta(0) <= duration <= _LONGEST_DURATION:
        raise ValueError('expected a duration such as "90s", "15m", "12h" or "7d"')
    return duration


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_DURATION.pattern}\s*)+", text, re.ASCII):
        raise ValueError("no duration")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION.findall(text))
