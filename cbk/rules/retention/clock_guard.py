"""Whether the clock may be trusted to prune by: a clock that is wrong for an hour must not cost a copy.

The *catalog's clock* says when something is due: PostgreSQL's own, with SQLite the machine's. The machine's *uptime* cannot be set
by anybody, and goes on through suspend: it explains how far the clock moves while the machine is up. What is remembered of a boot
is its first trusted reading, not its last, so that a clock that moves ahead in small steps is found out as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from cbk.rules.status.health import describe_age

ClockPolicy = Literal["auto", "require", "ignore"]

# By so much clocks differ, and services set them, without anything being wrong.
SLACK = timedelta(minutes=1)
CLOCK_STEP = timedelta(minutes=5)
# A clock that nobody keeps is off by a few seconds a day: this allows 86.
DRIFT = 0.001
# Without a service that keeps it, a machine's clock is set by hand after an outage; an outage of a night explains itself.
OFF_AT_MOST = timedelta(days=1)
FORGET_BOOTS = timedelta(days=30)
BOOTS_AT_MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """What the clocks say at one moment: `now` the catalog's clock, `wall` this machine's.

    `uptime` counts from this machine's boot, named `boot`; None where it cannot be read. `synchronised` is what the kernel says,
    None where it says nothing; `kept` is whether a service on this machine keeps the clock.
    """

    now: datetime
    wall: datetime
    uptime: timedelta | None = None
    boot: str | None = None
    synchronised: bool | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot of a machine: the catalog's clock and the uptime when it was first trusted, and when it was last seen."""

    now: datetime
    uptime: timedelta
    synchronised: bool
    seen_at: datetime
    seen_uptime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockMemory:
    """What was trusted before: the highest of the catalog's clock, and the boots of all machines by their id."""

    latest: datetime | None = None
    boots: Mapping[str, Boot] = field(default_factory=dict)


def judge_clock(reading: ClockReading, memory: ClockMemory, *, policy: ClockPolicy) -> str | None:
    """None where the clock is to be trusted; else the reason why not, as a person reads it."""
    return _went_back(reading, memory) or _differs(reading) or _jumped(reading, memory) or _unsynchronised(reading, policy)


def put_forward(reading: ClockReading, memory: ClockMemory) -> timedelta:
    """By how much the clock was put forward since it was last trusted, as far as nothing proves that the time did pass.

    What was noted before waits as much longer. While a machine was off, time passed: but only clocks that a service kept, before
    and since, say how much.
    """
    if reading.uptime is None or memory.latest is None:
        return timedelta(0)
    boot = memory.boots.get(reading.boot) if reading.boot is not None else None
    if boot is not None and reading.uptime >= boot.seen_uptime:
        unexplained = (reading.now - boot.seen_at) - (reading.uptime - boot.seen_uptime)
    else:
        unexplained = (reading.now - memory.latest) - reading.uptime
        if reading.synchronised and any(each.synchronised for each in memory.boots.values()):
            return timedelta(0)
    return unexplained if unexplained > CLOCK_STEP else timedelta(0)


def remember(reading: ClockReading, memory: ClockMemory) -> ClockMemory:
    """The memory after a reading that is trusted."""
    boots = {name: boot for name, boot in memory.boots.items() if reading.now - boot.seen_at <= FORGET_BOOTS}
    if reading.boot is not None and reading.uptime is not None:
        boots[reading.boot] = _seen(reading, reading.uptime, memory)
    newest = sorted(boots, key=lambda name: boots[name].seen_at, reverse=True)[:BOOTS_AT_MOST]
    latest = reading.now if memory.latest is None else max(memory.latest, reading.now)
    return ClockMemory(latest=latest, boots={name: boots[name] for name in newest})


def _went_back(reading: ClockReading, memory: ClockMemory) -> str | None:
    if memory.latest is None or reading.now >= memory.latest - SLACK:
        return None
    return f"the clock went back by {describe_age(memory.latest - reading.now)}"


def _differs(reading: ClockReading) -> str | None:
    skew = abs(reading.wall - reading.now)
    return f"this machine's clock and that of the catalog's database differ by {describe_age(skew)}" if skew > SLACK else None


def _jumped(reading: ClockReading, memory: ClockMemory) -> str | None:
    if reading.uptime is None or memory.latest is None:
        return None
    if boot := _known_boot(reading, memory):
        up = reading.uptime - boot.uptime
        unexplained, allowed = (reading.now - boot.now) - up, CLOCK_STEP + DRIFT * up
    else:
        # A reboot, or a machine that is new here: it may have been off, and where a service has set its clock since, that is so.
        unexplained = (reading.now - memory.latest) - reading.uptime
        allowed = timedelta.max if reading.synchronised else OFF_AT_MOST
    if unexplained <= allowed:
        return None
    return f"the clock jumped ahead by {describe_age(unexplained)}, which this machine's uptime does not explain"


def _unsynchronised(reading: ClockReading, policy: ClockPolicy) -> str | None:
    if policy == "require" and reading.synchronised is None:
        return "this system does not tell whether its clock is synchronised"
    if reading.synchronised is False and (policy == "require" or (policy == "auto" and reading.kept)):
        return "the system says that its clock is not synchronised"
    return None


def _known_boot(reading: ClockReading, memory: ClockMemory) -> Boot | None:
    """The boot to compare with: not one whose uptime began anew (a container's), nor one from before a service set the clock."""
    boot = memory.boots.get(reading.boot) if reading.boot is not None else None
    if boot is None or reading.uptime is None or reading.uptime < boot.seen_uptime - SLACK:
        return None
    return None if reading.synchronised and not boot.synchronised else boot


def _seen(reading: ClockReading, uptime: timedelta, memory: ClockMemory) -> Boot:
    if boot := _known_boot(reading, memory):
        return replace(boot, seen_at=reading.now, seen_uptime=uptime)
    return Boot(now=reading.now, uptime=uptime, synchronised=bool(reading.synchronised), seen_at=reading.now, seen_uptime=uptime)
