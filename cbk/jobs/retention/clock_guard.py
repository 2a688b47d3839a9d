"""The clock guard: read the clocks, judge them by what was trusted before, and remember."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from cbk.edges import host
from cbk.jobs.context import Context
from cbk.rules.retention.clock_guard import Boot, ClockMemory, ClockReading, judge_clock, put_forward, remember

CLOCK_FACT = "clock"
# Prunes come in bursts: one write serves those of the same moment.
WRITE_EVERY = timedelta(seconds=5)


def check_clock(context: Context) -> str | None:
    """None where the clock is to be trusted; else why it is not, as a person reads it. Writes nothing. Raises CatalogError."""
    return judge_clock(read_clock(context), _memory(context), policy=context.settings.clock_sync)


def note_clock(context: Context) -> str | None:
    """As `check_clock`, and remembers a clock that is trusted. Raises CatalogError."""
    reading, memory = read_clock(context), _memory(context)
    reason = judge_clock(reading, memory, policy=context.settings.clock_sync)
    if reason is None and _is_news(reading, memory):
        _wait_longer(context, reading, memory)
        _note(context, remember(reading, memory))
    return reason


def trust_clock(context: Context) -> str | None:
    """Forget what was remembered and begin with the clock as it is now, on the word of a person who knows that it is right.

    Gives what keeps it from being trusted all the same, such as two clocks that differ. Raises CatalogError.
    """
    reading = read_clock(context)
    _wait_longer(context, reading, _memory(context))
    memory = remember(reading, ClockMemory())
    _note(context, memory)
    return judge_clock(reading, memory, policy=context.settings.clock_sync)


def _wait_longer(context: Context, reading: ClockReading, memory: ClockMemory) -> None:
    """A grace is a time that passes, not a date: where the clock was put forward, what waits does so for as much longer."""
    by = put_forward(reading, memory)
    if by:
        context.catalog.removals.shift(by)


def read_clock(context: Context) -> ClockReading:
    """What the clocks say now; what cannot be read is None. Raises CatalogError."""
    before = host.now()
    now = context.catalog.database.now()
    after = host.now()
    synchronised = host.clock_is_synchronised()
    return ClockReading(
        now=now,
        # While the catalog answered, this machine's clock went on: the two differ only by what is outside of that.
        wall=min(max(now, before), after),
        uptime=host.uptime(),
        boot=host.boot_id(),
        synchronised=synchronised,
        # It takes a look at every process, and matters only here.
        kept=synchronised is False and host.clock_is_kept(),
    )


def _is_news(reading: ClockReading, memory: ClockMemory) -> bool:
    known = reading.boot is None or reading.boot in memory.boots
    return not known or memory.latest is None or reading.now - memory.latest >= WRITE_EVERY


def _memory(context: Context) -> ClockMemory:
    value = context.catalog.facts.get(CLOCK_FACT)
    if value is None:
        return ClockMemory()
    noted = json.loads(value)
    return ClockMemory(
        latest=datetime.fromisoformat(noted["latest"]), boots={name: _boot(boot) for name, boot in noted["boots"].items()}
    )


def _boot(noted: dict[str, Any]) -> Boot:
    return Boot(
        now=datetime.fromisoformat(noted["now"]),
        uptime=timedelta(seconds=noted["uptime"]),
        synchronised=noted["synchronised"],
        seen_at=datetime.fromisoformat(noted["seen_at"]),
        seen_uptime=timedelta(seconds=noted["seen_uptime"]),
    )


def _note(context: Context, memory: ClockMemory) -> None:
    assert memory.latest is not None
    boots = {
        name: {
            "now": boot.now.isoformat(),
            "uptime": boot.uptime.total_seconds(),
            "synchronised": boot.synchronised,
            "seen_at": boot.seen_at.isoformat(),
            "seen_uptime": boot.seen_uptime.total_seconds(),
        }
        for name, boot in memory.boots.items()
    }
    context.catalog.facts.set(**{CLOCK_FACT: json.dumps({"latest": memory.latest.isoformat(), "boots": boots})})
