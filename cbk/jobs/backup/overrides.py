"""Orders of a person that workers follow while they run: `pause`, `resume`, and another bandwidth."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from time import monotonic

from cbk.edges import host
from cbk.errors import CatalogError, UsageError
from cbk.jobs.context import Context
from cbk.rules.backup.bandwidth import Timetable
from cbk.rules.backup.overrides import BANDWIDTH_FACT, LONGEST_PAUSE, PAUSE_FACT, RuntimeOverrides, note_pause, read_overrides

# Workers look for new orders so often.
LOOK_EVERY_SECONDS = 5.0


def current_overrides(context: Context) -> RuntimeOverrides:
    """The orders, at most some seconds old. While the catalog is away, the last ones hold; raises CatalogError without any."""
    if context.overrides is None:
        refresh_overrides(context)
    elif monotonic() - context.overrides_read_at >= LOOK_EVERY_SECONDS:
        with suppress(CatalogError):  # whoever needs the catalog hears of it; a limit that was in force holds
            refresh_overrides(context)
    assert context.overrides is not None
    return context.overrides


def refresh_overrides(context: Context) -> RuntimeOverrides:
    """The orders as they are now. Raises CatalogError."""
    context.overrides_read_at = monotonic()  # before the look: other threads need not look as well
    context.overrides = read_overrides(context.catalog.facts.all(), context.settings.bandwidth)
    return context.overrides


def paused_until(context: Context) -> datetime | None:
    """Until when nothing new is fetched; None where there is no pause."""
    return current_overrides(context).pause_at(host.now())


def bandwidth_now(context: Context) -> int | None:
    """Bytes per second for all workers together; None: no limit."""
    timetable = current_overrides(context).timetable
    return timetable.limit_at(host.now().astimezone()) if timetable.limits else None


def pause(context: Context, until: datetime) -> None:
    """Fetch nothing new until then. Raises UsageError where that is no time ahead, or too far; CatalogError."""
    now = context.catalog.database.now()
    if not now < until <= now + LONGEST_PAUSE:
        days = LONGEST_PAUSE.days
        raise UsageError(
            f"a pause ends within {days} days from now", hint="such as `cbk pause 2h`; a longer one is asked for again"
        )
    context.catalog.facts.set(**{PAUSE_FACT: note_pause(now, until)})
    refresh_overrides(context)


def resume(context: Context) -> bool:
    """End the pause; whether there was one. Raises CatalogError."""
    was_paused = refresh_overrides(context).pause_at(host.now()) is not None
    context.catalog.facts.set(**{PAUSE_FACT: None})
    refresh_overrides(context)
    return was_paused


def override_bandwidth(context: Context, text: str | None) -> None:
    """Let this limit or timetable hold instead of CBK_BANDWIDTH; None: let that hold again. Raises UsageError, CatalogError."""
    if text is not None:
        try:
            text = text if Timetable.parse(text).limits else None
        except ValueError as error:
            raise UsageError(f"{text!r} is no bandwidth: {error}", hint="`cbk bandwidth --help` shows what it takes") from None
    context.catalog.facts.set(**{BANDWIDTH_FACT: text})
    refresh_overrides(context)
