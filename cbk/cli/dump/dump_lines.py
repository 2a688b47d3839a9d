"""A dump and its versions, a line each, for a person."""

from __future__ import annotations

from datetime import datetime

from cbk.cli.terminal.text import as_size, counted
from cbk.jobs.dump.listing import DumpStanding
from cbk.rules.dump.records import DumpState, DumpVersion
from cbk.rules.status.health import describe_age


def standing_line(standing: DumpStanding, now: datetime) -> str:
    """How one dump stands."""
    age = standing.age(now)
    parts = [f"{describe_age(age)} old" if age is not None else "never taken"]
    if standing.newest:
        parts.append(f"v{standing.newest.number}, {as_size(standing.newest.size)}")
    if standing.growth is not None:
        sign = "-" if standing.growth < 0 else "+"
        parts.append(f"{sign}{as_size(round(abs(standing.growth)))} a day")
    parts.append(f"{counted(standing.versions, 'version')}, {as_size(standing.stored_size)} on disk")
    parts.append(_drill_text(standing.drilled, now))
    if standing.newest and standing.mirrors is not None:
        parts.append(f"on {', '.join(standing.mirrors)}" if standing.mirrors else "on no mirror yet")
    if not standing.is_configured:
        parts.append("not configured any more: kept")
    elif standing.next_at is not None:
        parts.append("due now" if standing.next_at <= now else f"next {standing.next_at:%Y-%m-%d %H:%M} UTC")
    if standing.problem:
        parts.append(f"FAILED: {standing.problem}")
    return f"{standing.name:<16} {'; '.join(parts)}"


def _drill_text(drilled: DumpVersion | None, now: datetime) -> str:
    if drilled is None or drilled.drilled_at is None:
        return "never drilled"
    verdict = "passed" if drilled.drill_problem == "" else "FAILED"
    return f"drill {verdict} {describe_age(now - drilled.drilled_at)} ago"


def version_line(version: DumpVersion) -> str:
    """One version of a dump, and why it stays or goes."""
    rows = (
        "" if version.rows is None else f", {counted(sum(version.rows.values()), 'row')} in {counted(len(version.rows), 'table')}"
    )
    drill = "" if version.drill_problem is None else ", drill passed" if version.drill_problem == "" else ", drill FAILED"
    reason = version.reasons if version.state is DumpState.STORED else version.reason
    facts = f"{version.taken_at:%Y-%m-%d %H:%M} UTC  {as_size(version.size)}{rows}{drill}"
    return f"v{version.number:<5} {version.state.value:<7} {facts}{f'  ({reason})' if reason else ''}"
