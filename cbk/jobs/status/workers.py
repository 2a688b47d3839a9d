"""Whether anybody works: each worker notes now and then that it took something, and `status` looks at what waits."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import monotonic

from cbk.jobs.context import Context
from cbk.rules.status.health import Problem, judge_workers

WORK_FACT = "work.taken_at"
# One write serves the work of this time, or of a lease where that is shorter.
NOTE_EVERY = timedelta(minutes=1)


def note_at_work(context: Context) -> None:
    """Note that this worker took something. Raises CatalogError."""
    now = monotonic()
    if now - context.noted_at_work < min(NOTE_EVERY, context.settings.lease).total_seconds():
        return
    context.catalog.facts.set(**{WORK_FACT: context.catalog.database.now().isoformat()})
    context.noted_at_work = now


def check_workers(context: Context, taken_at: str | None, now: datetime) -> list[Problem]:
    """That work waits and nobody takes it. `taken_at` is the fact, `now` the catalog's clock. Raises CatalogError."""
    waiting = context.catalog.work.waiting()
    return judge_workers(
        waiting=waiting.count,
        waiting_since=waiting.since,
        at_work=waiting.at_work,
        taken_at=datetime.fromisoformat(taken_at) if taken_at else None,
        now=now,
        lease=context.settings.lease,
    )
