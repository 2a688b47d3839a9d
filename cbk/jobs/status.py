"""What would be left if the cloud account were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.edges.catalog import Counts, Unprotected
from cbk.jobs.clock import check_clock
from cbk.jobs.kit import Kit
from cbk.rules.health import Problem, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The answer. `problems` is empty only where everything is protected."""

    counts: Counts
    unprotected: list[Unprotected]
    problems: list[Problem]
    polled_at: datetime | None

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
    problems = judge(
        by_state=counts.by_state,
        declined_rows=counts.declined_rows,
        polled_at=polled_at,
        poll_problem=facts.get("poll.problem"),
        now=counts.now,
        poll_interval=kit.settings.poll_interval,
        clock_problem=check_clock(kit),
    )
    return Status(counts=counts, unprotected=kit.catalog.report.unprotected(), problems=problems, polled_at=polled_at)
