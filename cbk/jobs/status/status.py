"""What would be left if the cloud account were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cbk.edges import host
from cbk.edges.archive.archive import DiskUsage
from cbk.edges.catalog import BucketCounts, Counts, Standing, Unprotected
from cbk.edges.redis.broker import ping_broker
from cbk.errors import BrokerUnavailable
from cbk.jobs.backup.disk_space import DISK_FACT, judge_usage, usage_for_workers
from cbk.jobs.backup.overrides import refresh_overrides
from cbk.jobs.context import Context
from cbk.jobs.dump.listing import DumpStanding, dump_object, gather_dumps
from cbk.jobs.intake.doubts import doubts_of
from cbk.jobs.intake.table_reader import reading_of
from cbk.jobs.mirror.report import elsewhere_object, mirror_standings
from cbk.jobs.retention.clock_guard import check_clock
from cbk.jobs.status import workers
from cbk.jobs.status.workers import check_workers
from cbk.jobs.verification.drill import Drill, last_drill
from cbk.model import Brake, BrakeState, Version, VersionState
from cbk.rules.backup.disk_space import reserve
from cbk.rules.backup.link_deadlines import find_doomed, horizon, judge_links
from cbk.rules.backup.overrides import BANDWIDTH_FACT, judge_pause
from cbk.rules.intake.inventory import FindingKind, Inventory, inventory_problems
from cbk.rules.intake.reading import CAME_OR_WENT
from cbk.rules.mirror import MirrorStanding, judge_mirrors
from cbk.rules.retention.brake import Allowance
from cbk.rules.status.health import (
    LATE_AT_LEAST,
    LATE_INTERVALS,
    Problem,
    blame_broker,
    is_poll_due,
    judge,
    judge_retention,
    judge_source,
)
from cbk.rules.status.samples import TREND_WINDOW, days_left
from cbk.rules.verification import drill_problems, overdue_before, verification_problems

# More of them are what `cbk ls --refresh` is for.
REFRESH_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What waits to go: open removals, how many of them a brake holds, the brakes, and the holds in force.

    `partial` counts the deletes that name an older version than the newest live one, which they keep; `allowance` is how much of
    the brake's window is used, None where nothing was ever to go.
    """

    removals: int
    braked: int
    partial: int
    allowance: Allowance | None
    brakes: list[Brake]
    holds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The backup disk: bytes, of which `kept_free` are for no new copy, and the days until the rest is full at the rate of late."""

    usage: DiskUsage
    kept_free: int
    days_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverridesInForce:
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
    inventories: list[Inventory]
    ordered: OverridesInForce
    dumps: list[DumpStanding]
    mirrors: list[MirrorStanding]
    # When the last full read began, while another one looks for rows that came or went.
    compared_at: datetime | None = None

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
        unprotected = (self.counts.oldest_unprotected_at, self.counts.oldest_declined_at, self.compared_at)
        return min(instant for instant in (self.polled_at, *unprotected) if instant is not None)


def status_object(taken: Status) -> dict[str, Any]:
    """The answer as JSON, whoever gives it; docs/commands.md documents its shape."""
    counts = taken.counts
    return {
        "protected": taken.is_protected,
        "files": counts.files,
        "protected_files": counts.protected,
        "proved_files": counts.proved,
        "proofs": {proof.value: count for proof, count in counts.by_proof.items()},
        "pending": counts.by_state.get(VersionState.PENDING, 0),
        "states": {state.value: count for state, count in sorted(counts.by_state.items())},
        "declined_rows": counts.declined_rows,
        "deleted_files": counts.deleted_files,
        "declined_files": counts.declined_files,
        "gone_files": counts.gone_files,
        "removals": taken.retention.removals,
        "held_by_brake": taken.retention.braked,
        "brakes": [
            {
                "id": brake.id,
                "pulled_at": _text(brake.pulled_at),
                "removals": brake.removals,
                "stored_files": brake.stored_files,
                "reason": brake.reason,
            }
            for brake in taken.retention.brakes
        ],
        "partial_deletes": taken.retention.partial,
        "allowance": _allowance_object(taken.retention.allowance),
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
            "free": taken.disk.usage.free,
            "total": taken.disk.usage.total,
            "kept_free": taken.disk.kept_free,
            "read_only": taken.disk.usage.read_only,
            "days_left": None if taken.disk.days_left is None else round(taken.disk.days_left, 1),
        },
        "oldest_verified_at": _text(taken.verification.oldest_at),
        "overdue_copies": taken.verification.overdue,
        "found_bad": taken.verification.found,
        "last_found_bad_at": taken.verification.latest[-1]["at"] if taken.verification.latest else None,
        "last_drill_at": _text(taken.drill.at) if taken.drill else None,
        "last_drill_passed": taken.drill.passed if taken.drill else None,
        "dumps": [dump_object(standing, counts.now) for standing in taken.dumps],
        "elsewhere": elsewhere_object(taken.mirrors),
        "inventories": [
            {
                "storage": each.storage,
                "as_of": _text(each.as_of),
                "objects": each.objects,
                **{kind.value: each.counts.get(kind, 0) for kind in FindingKind},
            }
            for each in taken.inventories
        ],
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


def _allowance_object(allowance: Allowance | None) -> dict[str, Any]:
    if allowance is None:
        return {"used": 0, "waiting": 0, "allowed": None, "since": None}
    since = allowance.since.isoformat()
    return {"used": allowance.used, "waiting": allowance.waiting, "allowed": allowance.allowed, "since": since}


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def gather_status(context: Context) -> Status:
    """Count, and judge. Raises CatalogError or RootMissing: what cannot be counted is not protected."""
    context.catalog.require_current()
    context.require_disk()
    counts = context.catalog.report.counts()
    facts = context.catalog.facts.all()
    polled_at = datetime.fromisoformat(facts["poll.finished_at"]) if "poll.finished_at" in facts else None
    clock_problem, poll_interval = check_clock(context), context.settings.poll_interval
    problems = judge(
        by_state=counts.by_state,
        declined_rows=counts.declined_rows,
        polled_at=polled_at,
        poll_problem=facts.get("poll.problem"),
        now=counts.now,
        poll_interval=poll_interval,
        clock_problem=clock_problem,
        links=judge_links(
            find_doomed(context.catalog.links.deadlines(), now=counts.now, horizon=horizon(poll_interval, context.settings.lease))
        ),
    )
    if is_poll_due(polled_at, counts.now, poll_interval):
        problems = _look_at_broker(context, problems)
    reading, doubts = reading_of(context, "files"), doubts_of(context)
    if polled_at is not None:
        problems += judge_source(
            doubts,
            ever_seen=context.catalog.rows.were_ever_seen(),
            gone_files=counts.gone_files,
            last_read_at=reading.last.finished_at if reading.last else None,
            reading_since=reading.since,
            reading_why=reading.why,
            now=counts.now,
            reconcile_interval=context.settings.reconcile_interval,
        )
    retention = _retention(context, counts.now)
    overdue = context.catalog.removals.count_overdue(max(context.settings.poll_interval * LATE_INTERVALS, LATE_AT_LEAST))
    problems += judge_retention(retention.brakes, overdue=0 if clock_problem or doubts else overdue)
    verification, drill = (
        context.catalog.verification.standing(overdue_before(counts.now, context.settings.verify_every)),
        last_drill(context),
    )
    problems += verification_problems(
        overdue=verification.overdue, problem=facts.get("verify.problem"), every=context.settings.verify_every
    )
    problems += drill_problems(failed=drill.problem if drill else None)
    inventories = context.catalog.inventories.all()
    problems += inventory_problems(inventories, now=counts.now, max_age=context.settings.inventory_max_age)
    usage = usage_for_workers(context, facts.get(DISK_FACT), counts.now)
    problem = judge_usage(context, usage)
    ordered = _ordered(context, facts)
    if problem is not None:
        problems.append(problem)
    elif ordered.paused_until is None:  # else workers leave alone what waits
        problems += check_workers(context, facts.get(workers.WORK_FACT), counts.now)
    problems += judge_pause(
        ordered.paused_until,
        unprotected=counts.files - counts.protected,
        oldest_at=counts.oldest_unprotected_at,
        now=counts.now,
        alert_after=context.settings.alert_after,
    )
    dumps = gather_dumps(context, counts.now)
    problems += dumps.problems
    mirrors = mirror_standings(context, facts)
    problems += judge_mirrors(mirrors, now=counts.now, alert_after=context.settings.alert_after)
    to_refresh, first = context.catalog.links.to_refresh(REFRESH_ROWS)
    return Status(
        counts=counts,
        buckets=context.catalog.report.buckets(),
        disk=_disk(context, usage, counts.now),
        refresh=Refresh(count=to_refresh, first=first),
        unprotected=context.catalog.report.unprotected(),
        problems=problems,
        polled_at=polled_at,
        retention=retention,
        verification=verification,
        drill=drill,
        inventories=inventories,
        ordered=ordered,
        dumps=dumps.dumps,
        mirrors=mirrors,
        compared_at=reading.last.started_at if reading.last and reading.why == CAME_OR_WENT else None,
    )


def _look_at_broker(context: Context, problems: list[Problem]) -> list[Problem]:
    try:
        ping_broker(context.settings.broker)
    except BrokerUnavailable as error:
        return blame_broker(problems, error.message, error.hint or "")
    return problems


def _ordered(context: Context, facts: dict[str, str]) -> OverridesInForce:
    orders, now = refresh_overrides(context), host.now()
    return OverridesInForce(
        paused_until=orders.pause_at(now),
        bandwidth=orders.timetable.limit_at(now.astimezone()),
        is_ordered=BANDWIDTH_FACT in facts,
    )


def _retention(context: Context, now: datetime) -> Retention:
    removals, braked = context.catalog.removals.count_open()
    in_force = [hold for hold in context.catalog.holds.all() if hold.until is None or now < hold.until]
    return Retention(
        removals=removals,
        braked=braked,
        partial=context.catalog.removals.count_partial(),
        allowance=context.catalog.brakes.allowance(),
        brakes=context.catalog.brakes.all(BrakeState.HELD),
        holds=len(in_force),
    )


def _disk(context: Context, usage: DiskUsage, now: datetime) -> Disk:
    kept_free = reserve(usage.total, context.settings.min_free_space)
    left = days_left(context.catalog.samples.since(now - TREND_WINDOW), now=now, free=usage.free, kept_free=kept_free)
    return Disk(usage=usage, kept_free=kept_free, days_left=left)
