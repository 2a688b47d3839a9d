"""What the page shows at a glance: the status, and beside it what a person would ask next."""

from __future__ import annotations

from dataclasses import dataclass

from cbk.jobs.context import Context
from cbk.jobs.status.status import Status, gather_status
from cbk.model import Version
from cbk.rules.status.samples import TREND_WINDOW, Sample

OLDEST = 20
CLAIMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The status, the unprotected files that have waited longest, who is at work on what, and the samples of late, oldest first."""

    status: Status
    oldest_unprotected: list[Version]
    at_work: list[tuple[str, list[Version]]]
    samples: list[Sample]


def gather_overview(context: Context) -> Overview:
    """All of it, as it is now. Raises what `gather_status` raises."""
    status = gather_status(context)
    return Overview(
        status=status,
        oldest_unprotected=context.catalog.report.oldest_unprotected(OLDEST),
        at_work=context.catalog.report.at_work(CLAIMS),
        samples=context.catalog.samples.since(status.counts.now - TREND_WINDOW),
    )
