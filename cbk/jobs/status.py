"""What would be left if the cloud account were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cbk.edges import machine
from cbk.edges.archive import Room
from cbk.edges.catalog import BRAKE_HELD, BucketCounts, Counts, Standing, Unprotected
from cbk.jobs import workers
from cbk.jobs.clock import check_clock
from cbk.jobs.drill import Drill, last_drill
from cbk.jobs.kit import Kit
from cbk.jobs.orders import look_at_orders
from cbk.jobs.room import check_room
from cbk.jobs.workers import check_workers
from cbk.model import Brake, Version, VersionState
from cbk.rules.deadlines import find_doomed, horizon, judge_links
from cbk.rules.health import LATE_AT_LEAST, LATE_INTERVALS, Problem, judge, judge_retention
from cbk.rules.orders import BANDWIDTH_FACT, judge_pause
from cbk.rules.room import reserve
from cbk.rules.samples import LOOK_BACK, days_left
from cbk.rules.scrub import drill_problems, overdue_before, verification_problems

# More of them are what `cbk ls --refresh` is for.
REFRESH_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What waits to go: open removals, how many of them a brake holds, the brakes, and the holds in force."""

    removals: int
    braked: int
    brakes: list[Brake]
    holds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The backup disk: bytes, of which `kept_free` are for no new copy, and the days until the rest is full at the rate of late."""

    room: Room
    kept_free: int
    days_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """What a person ordered, or set: until when nothing new is fetched, and the bytes per second at the most, now (None: no limit).

    `is_ordered`: the limit is one of `cbk bandwidth`, not that of the settings.
    """

    paused_until: datetime | None
    bandwidth: int | None
    is_ordered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """How many rows the application must write another link into, and the first of their versions."""

    count: int
    first: list[Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The answer. `problems` is empty only where everything is protected."""

    counts: Counts
    buckets: list[BucketCounts]
    disk: Disk
    unprotected: list[Unprotected]
    refresh: Refresh
    problems: list[Problem]
    polled_at: datetime | None
    retention: Retention
    verification: Standing
    drill: Drill | None
    ordered: Ordered

    @property
    def is_protected(self) -> bool:
        """Whether everything is."""
        return not self.problems

    @property
    def lag(self) -> timedelta:
        """How long the oldest unprotected file has been waiting since its row was first seen; zero where there is none."""
        oldest = self.counts.oldest_unprotected_at
        return self.counts.now - oldest if oldest else timedelta(0)

    @property
    def protected_until(self) -> datetime | None:
        """Every row that had been seen before this instant is protected; None where that is true of no instant.

        It is the last poll, or where something is not protected or was declined, when the oldest of that was first seen.
        """
        if self.polled_at is None:
            return None
        unprotected = (self.counts.oldest_unprotected_at, self.counts.oldest_declined_at)
        return min(instant for instant in (self.polled_at, *unprotected) if instant is not None)


def status_object(taken: Status) -> dict[str, Any]:
    """The answer as JSON, whoever gives it; docs/commands.md documents its shape."""
    counts = taken.counts
    return {
        "protected": taken.is_protected,
        "files": counts.files,
        "protected_files": counts.protected,
        "pending": counts.by_state.get(VersionState.PENDING, 0),
        "states": {state.value: count for state, count in sorted(counts.by_state.items())},
        "declined_rows": counts.declined_rows,
        "deleted_files": counts.deleted_files,
        "removals": taken.retention.removals,
        "held_by_brake": taken.retention.braked,
        "brakes": [
            {"id": brake.id, "pulled_at": _text(brake.pulled_at), "removals": brake.removals, "stored_files": brake.stored_files}
            for brake in taken.retention.brakes
        ],
        "holds": taken.retention.holds,
        "copies": counts.copies,
        "size": counts.size,
        "stored_size": counts.stored_size,
        "buckets": [
            {
                "bucket": bucket.bucket,
                "files": bucket.files,
                "protected_files": bucket.protected,
                "copies": bucket.copies,
                "size": bucket.size,
                "stored_size": bucket.stored_size,
            }
            for bucket in taken.buckets
        ],
        "disk": {
            "free": taken.disk.room.free,
            "total": taken.disk.room.total,
            "kept_free": taken.disk.kept_free,
            "read_only": taken.disk.room.read_only,
            "days_left": None if taken.disk.days_left is None else round(taken.disk.days_left, 1),
        },
        "oldest_verified_at": _text(taken.verification.oldest_at),
        "overdue_copies": taken.verification.overdue,
        "found_bad": taken.verification.found,
        "last_found_bad_at": taken.verification.latest[-1]["at"] if taken.verification.latest else None,
        "last_drill_at": _text(taken.drill.at) if taken.drill else None,
        "last_drill_passed": taken.drill.passed if taken.drill else None,
        "paused_until": _text(taken.ordered.paused_until),
        "bandwidth": taken.ordered.bandwidth,
        "last_poll_at": _text(taken.polled_at),
        "oldest_unprotected_at": _text(counts.oldest_unprotected_at),
        "newest_protected_at": _text(counts.newest_stored_seen_at),
        "protected_until": _text(taken.protected_until),
        "lag_seconds": round(taken.lag.total_seconds(), 3),
        "refresh": {
            "count": taken.refresh.count,
            "rows": [
                {
                    "row": version.source_id,
                    "storage": version.storage,
                    "key": version.key,
                    "version": version.number,
                    "reason": version.reason,
                }
                for version in taken.refresh.first
            ],
        },
        "problems": [{"kind": problem.kind.value, "message": problem.message, "hint": problem.hint} for problem in taken.problems],
        "unprotected": [
            {"state": group.state.value, "reason": group.reason, "count": group.count, "examples": group.examples}
            for group in taken.unprotected
        ],
    }


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def take_status(kit: Kit) -> Status:
    """Count, and judge. Raises CatalogError or RootMissing: what cannot be counted is not protected."""
    kit.catalog.require_current()
    kit.require_disk()
    counts = kit.catalog.report.counts()
    facts = kit.catalog.facts.all()
    polled_at = datetime.fromisoformat(facts["poll.finished_at"]) if "poll.finished_at" in facts else None
    clock_problem, poll_interval = check_clock(kit), kit.settings.poll_interval
    problems = judge(
        by_state=counts.by_state,
        declined_rows=counts.declined_rows,
        polled_at=polled_at,
        poll_problem=facts.get("poll.problem"),
        now=counts.now,
        poll_interval=poll_interval,
        clock_problem=clock_problem,
        links=judge_links(
            find_doomed(kit.catalog.links.deadlines(), now=counts.now, horizon=horizon(poll_interval, kit.settings.lease))
        ),
    )
    retention = _retention(kit, counts.now)
    overdue = kit.catalog.removals.count_overdue(max(kit.settings.poll_interval * LATE_INTERVALS, LATE_AT_LEAST))
    problems += judge_retention(retention.brakes, overdue=0 if clock_problem else overdue)
    verification, drill = kit.catalog.verification.standing(overdue_before(counts.now, kit.settings.verify_every)), last_drill(kit)
    problems += verification_problems(
        overdue=verification.overdue, problem=facts.get("verify.problem"), every=kit.settings.verify_every
    )
    problems += drill_problems(failed=drill.problem if drill else None)
    problem = check_room(kit)
    ordered = _ordered(kit, facts)
    if problem is not None:
        problems.append(problem)
    elif ordered.paused_until is None:  # else workers leave alone what waits
        problems += check_workers(kit, facts.get(workers.FACT), counts.now)
    problems += judge_pause(
        ordered.paused_until,
        unprotected=counts.files - counts.protected,
        oldest_at=counts.oldest_unprotected_at,
        now=counts.now,
        alert_after=kit.settings.alert_after,
    )
    to_refresh, first = kit.catalog.links.to_refresh(REFRESH_ROWS)
    return Status(
        counts=counts,
        buckets=kit.catalog.report.buckets(),
        disk=_disk(kit, counts.now),
        refresh=Refresh(count=to_refresh, first=first),
        unprotected=kit.catalog.report.unprotected(),
        problems=problems,
        polled_at=polled_at,
        retention=retention,
        verification=verification,
        drill=drill,
        ordered=ordered,
    )


def _ordered(kit: Kit, facts: dict[str, str]) -> Ordered:
    orders, now = look_at_orders(kit), machine.now()
    return Ordered(
        paused_until=orders.pause_at(now),
        bandwidth=orders.timetable.limit_at(now.astimezone()),
        is_ordered=BANDWIDTH_FACT in facts,
    )


def _retention(kit: Kit, now: datetime) -> Retention:
    removals, braked = kit.catalog.removals.count_open()
    in_force = [hold for hold in kit.catalog.holds.all() if hold.until is None or now < hold.until]
    return Retention(removals=removals, braked=braked, brakes=kit.catalog.brakes.all(BRAKE_HELD), holds=len(in_force))


def _disk(kit: Kit, now: datetime) -> Disk:
    room = kit.archive.usage()
    kept_free = reserve(room.total, kit.settings.min_free_space)
    left = days_left(kit.catalog.samples.since(now - LOOK_BACK), now=now, free=room.free, kept_free=kept_free)
    return Disk(room=room, kept_free=kept_free, days_left=left)
