"""Orders of a person that workers follow while they run: `pause`, `resume`, and another bandwidth."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from time import monotonic

from cbk.edges import machine
from cbk.errors import CatalogError, UsageError
from cbk.jobs.kit import Kit
from cbk.rules.bandwidth import Timetable
from cbk.rules.orders import BANDWIDTH_FACT, LONGEST_PAUSE, PAUSE_FACT, Orders, note_pause, read_orders

# Workers look for new orders so often.
LOOK_EVERY_SECONDS = 5.0


def current_orders(kit: Kit) -> Orders:
    """The orders, at most some seconds old. While the catalog is away, the last ones hold; raises CatalogError without any."""
    if kit.orders is None:
        look_at_orders(kit)
    elif monotonic() - kit.orders_seen_at >= LOOK_EVERY_SECONDS:
        with suppress(CatalogError):  # whoever needs the catalog hears of it; a limit that was in force holds
            look_at_orders(kit)
    assert kit.orders is not None
    return kit.orders


def look_at_orders(kit: Kit) -> Orders:
    """The orders as they are now. Raises CatalogError."""
    kit.orders_seen_at = monotonic()  # before the look: other threads need not look as well
    kit.orders = read_orders(kit.catalog.facts.all(), kit.settings.bandwidth)
    return kit.orders


def paused_until(kit: Kit) -> datetime | None:
    """Until when nothing new is fetched; None where there is no pause."""
    return current_orders(kit).pause_at(machine.now())


def bandwidth_now(kit: Kit) -> int | None:
    """Bytes per second for all workers together; None: no limit."""
    timetable = current_orders(kit).timetable
    return timetable.limit_at(machine.now().astimezone()) if timetable.limits else None


def pause(kit: Kit, until: datetime) -> None:
    """Fetch nothing new until then. Raises UsageError where that is no time ahead, or too far; CatalogError."""
    now = kit.catalog.database.now()
    if not now < until <= now + LONGEST_PAUSE:
        days = LONGEST_PAUSE.days
        raise UsageError(
            f"a pause ends within {days} days from now", hint="such as `cbk pause 2h`; a longer one is asked for again"
        )
    kit.catalog.facts.set(**{PAUSE_FACT: note_pause(now, until)})
    look_at_orders(kit)


def resume(kit: Kit) -> bool:
    """End the pause; whether there was one. Raises CatalogError."""
    was_paused = look_at_orders(kit).pause_at(machine.now()) is not None
    kit.catalog.facts.set(**{PAUSE_FACT: None})
    look_at_orders(kit)
    return was_paused


def order_bandwidth(kit: Kit, text: str | None) -> None:
    """Let this limit or timetable hold instead of CBK_BANDWIDTH; None: let that hold again. Raises UsageError, CatalogError."""
    if text is not None:
        try:
            text = text if Timetable.parse(text).limits else None
        except ValueError as error:
            raise UsageError(f"{text!r} is no bandwidth: {error}", hint="`cbk bandwidth --help` shows what it takes") from None
    kit.catalog.facts.set(**{BANDWIDTH_FACT: text})
    look_at_orders(kit)
