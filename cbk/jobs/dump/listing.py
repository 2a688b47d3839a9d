"""What there is of dumps, for `cbk dump ls`, `status`, the page and the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cbk.jobs.context import Context
from cbk.jobs.dump.take import decide_dump
from cbk.rules.dump.health import dump_problems, orphan_names
from cbk.rules.dump.records import Dump, DumpState, DumpVersion, dump_location
from cbk.rules.status.health import Problem

# A dump that is within so much of its predecessor's time tells the growth of a day.
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpStanding:
    """How one dump stands. `growth` is bytes a day, from its versions of late; None where there are not two.

    `mirrors` are those that have the newest version; None if none are set.
    """

    name: str
    kind: str
    is_configured: bool
    schedule: str
    keep: str
    next_at: datetime | None
    newest: DumpVersion | None
    versions: int
    stored_size: int
    growth: float | None
    drilled: DumpVersion | None
    mirrors: list[str] | None
    problem: str
    attempts: int

    def age(self, now: datetime) -> timedelta | None:
        """Of the newest good version; None where there is none."""
        return now - self.newest.taken_at if self.newest else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpsStanding:
    """All of them, and what is wrong."""

    dumps: list[DumpStanding]
    problems: list[Problem]


def gather_dumps(context: Context, now: datetime) -> DumpsStanding:
    """How all dumps stand. Raises CatalogError."""
    specs = context.settings.dumps
    known = {dump.name: dump for dump in context.catalog.dumps.all()}
    there = {name: context.catalog.mirrors.dumps_on(name) for name in sorted(context.settings.mirrors)}
    standings, problems = [], []
    for name in sorted(specs.keys() | known.keys()):
        dump = known.get(name)
        stored = context.catalog.dumps.stored(dump.id) if dump else []
        standings.append(_standing(context, name, dump, stored, there=there, now=now))
        if name in specs:
            problems += dump_problems(specs[name], dump, stored, now=now, alert_after=context.settings.alert_after)
    return DumpsStanding(dumps=standings, problems=problems)


def _standing(
    context: Context, name: str, dump: Dump | None, stored: list[DumpVersion], *, there: Mapping[str, set[int]], now: datetime
) -> DumpStanding:
    spec = context.settings.dumps.get(name)
    drilled = [version for version in stored if version.drilled_at is not None]
    return DumpStanding(
        name=name,
        kind=dump.kind.value if dump else spec.kind.value if spec else "",
        is_configured=spec is not None,
        schedule=spec.schedule.text if spec else "",
        keep=str(spec.keep) if spec else "",
        next_at=decide_dump(spec, dump, now).at if spec else None,
        newest=stored[0] if stored else None,
        versions=len(stored),
        stored_size=sum(version.stored_size for version in stored),
        growth=_growth(stored),
        drilled=max(drilled, key=lambda version: version.drilled_at or version.taken_at) if drilled else None,
        mirrors=[mirror for mirror, ids in there.items() if stored and stored[0].id in ids] if there else None,
        problem=dump.problem if dump else "",
        attempts=dump.attempts if dump else 0,
    )


def _growth(stored: list[DumpVersion]) -> float | None:
    """Bytes a day between the newest version and the one that is about a week older, or the oldest."""
    if len(stored) < 2:
        return None
    newest = stored[0]
    before = next((version for version in stored[1:] if newest.taken_at - version.taken_at >= 7 * _DAY), stored[-1])
    days = (newest.taken_at - before.taken_at) / _DAY
    return (newest.size - before.size) / days if days > 0 else None


def dump_object(standing: DumpStanding, now: datetime) -> dict[str, Any]:
    """One dump as JSON; docs/commands.md documents its shape."""
    newest, age = standing.newest, standing.age(now)
    return {
        "name": standing.name,
        "kind": standing.kind,
        "configured": standing.is_configured,
        "schedule": standing.schedule,
        "keep": standing.keep,
        "next_at": _text(standing.next_at),
        "versions": standing.versions,
        "stored_size": standing.stored_size,
        "newest_version": newest.number if newest else None,
        "newest_at": _text(newest.taken_at) if newest else None,
        "age_seconds": round(age.total_seconds(), 3) if age is not None else None,
        "size": newest.size if newest else None,
        "growth_per_day": None if standing.growth is None else round(standing.growth),
        "last_drill_at": _text(standing.drilled.drilled_at) if standing.drilled else None,
        "last_drill_passed": standing.drilled.drill_problem == "" if standing.drilled else None,
        "mirrors": standing.mirrors,
        "problem": standing.problem,
        "attempts": standing.attempts,
    }


def version_object(dump: Dump, version: DumpVersion) -> dict[str, Any]:
    """One version of a dump as JSON; docs/commands.md documents its shape."""
    return {
        "name": dump.name,
        "version": version.number,
        "state": version.state.value,
        "taken_at": _text(version.taken_at),
        "size": version.size,
        "stored_size": version.stored_size,
        "sha256": version.sha256,
        "format": version.format,
        "server_version": version.server_version,
        "tables": None if version.rows is None else len(version.rows),
        "rows": None if version.rows is None else sum(version.rows.values()),
        "roles": version.roles_sha256 is not None,
        "location": dump_location(dump.place, version.number),
        "verified_at": _text(version.verified_at),
        "drilled_at": _text(version.drilled_at),
        "drill_passed": None if version.drill_problem is None else version.drill_problem == "",
        "due_at": _text(version.due_at),
        "reason": version.reasons if version.state is DumpState.STORED else version.reason,
    }


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


__all__ = ["DumpStanding", "DumpsStanding", "dump_object", "gather_dumps", "orphan_names", "version_object"]
