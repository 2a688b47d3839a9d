"""How values look to a person and to a program, and what a person may type for a time."""

from __future__ import annotations

from datetime import UTC, datetime

from cbk.errors import UsageError
from cbk.rules.text.display import as_line, as_size, as_text, counted
from cbk.rules.text.durations import parse_duration

__all__ = ["as_line", "as_size", "as_text", "counted", "parse_instant"]


def parse_instant(text: str, *, now: datetime, forward: bool) -> datetime:
    """An instant from "2027-01-31", "2027-01-31 14:00", ISO 8601, or a duration from now: onwards where `forward`, else back.

    Without a zone it is local time. Raises UsageError.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    try:
        if instant is not None:
            return instant.astimezone(UTC)
    except (OverflowError, ValueError):  # the first or the last day of the calendar, which is another one in UTC
        raise UsageError(f"{text!r} is beyond the calendar", hint='such as "2027-01-31", or "30d"') from None
    try:
        if text.strip().isdecimal():
            raise ValueError("a bare number could be a year as well as seconds")
        duration = parse_duration(text)
        return now + duration if forward else now - duration
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no time", hint='such as "2027-01-31", "2027-01-31 14:00", "2027-01-31T14:00Z", or "30d"'
        ) from None
