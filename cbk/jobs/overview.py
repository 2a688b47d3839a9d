"""What the page shows at a glance: the status, and beside it what a person would ask next."""

from __future__ import annotations

from dataclasses import dataclass

from cbk.jobs.kit import Kit
from cbk.jobs.status import Status, take_status
from cbk.model import Version
from cbk.rules.samples import LOOK_BACK, Sample

OLDEST = 20
CLAIMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The status, the unprotected files that have waited longest, who is at work on what, and the samples of late, oldest first."""

    status: Status
    oldest_unprotected: list[Version]
    at_work: list[tuple[str, list[Version]]]
    samples: list[Sample]


def take_overview(kit: Kit) -> Overview:
    """All of it, as it is now. Raises what `take_status` raises."""
    status = take_status(kit)
    return Overview(
        status=status,
        oldest_unprotected=kit.catalog.report.oldest_unprotected(OLDEST),
        at_work=kit.catalog.report.at_work(CLAIMS),
        samples=kit.catalog.samples.since(status.counts.now - LOOK_BACK),
    )
