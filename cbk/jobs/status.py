"""What would be left if the cloud account were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.edges.catalog import BRAKE_HELD, Counts, Standing, Unprotected
from cbk.jobs.clock import check_clock
from cbk.jobs.drill import Drill, last_drill
from cbk.jobs.kit import Kit
from cbk.jobs.room import check_room
from cbk.model import Brake
from cbk.rules.health import LATE_AT_LEAST, LATE_INTERVALS, Problem, judge, judge_retention
from cbk.rules.scrub import drill_problems, overdue_before, verification_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What waits to go: open removals, how many of them a brake holds, the brakes, and the holds in force."""

    removals: int
    braked: int
    brakes: list[Brake]
    holds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The answer. `problems` is empty only where everything is protected."""

    counts: Counts
    unprotected: list[Unprotected]
    problems: list[Problem]
    polled_at: datetime | None
    retention: Retention
    verification: Standing
    drill: Drill | None

    @property
    def is_protected(self) -> bool:
        """Whether everything is."""
        return not self.problems

    @property
    def lag(self) -> timedelta:
        """How long the oldest unprotected file has been waiting since its row was first seen; zero where there is none."""
        oldest = self.counts.oldest_unprotected_at
        return self.counts.now - oldest if oldest else timedelta(0)


def take_status(kit: Kit) -> Status:
    """Count, and judge. Raises CatalogError or RootMissing: what cannot be counted is not protected."""
    kit.catalog.require_current()
    kit.require_disk()
    counts = kit.catalog.report.counts()
    facts = kit.catalog.facts.all()
    polled_at = datetime.fromisoformat(facts["poll.finished_at"]) if "poll.finished_at" in facts else None
    clock_problem = check_clock(kit)
    problems = judge(
        by_state=counts.by_state,
        declined_rows=counts.declined_rows,
        polled_at=polled_at,
        poll_problem=facts.get("poll.problem"),
        now=counts.now,
        poll_interval=kit.settings.poll_interval,
        clock_problem=clock_problem,
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
    if problem is not None:
        problems.append(problem)
    return Status(
        counts=counts,
        unprotected=kit.catalog.report.unprotected(),
        problems=problems,
        polled_at=polled_at,
        retention=retention,
        verification=verification,
        drill=drill,
    )


def _retention(kit: Kit, now: datetime) -> Retention:
    removals, braked = kit.catalog.removals.count_open()
    in_force = [hold for hold in kit.catalog.holds.all() if hold.until is None or now < hold.until]
    return Retention(removals=removals, braked=braked, brakes=kit.catalog.brakes.all(BRAKE_HELD), holds=len(in_force))
