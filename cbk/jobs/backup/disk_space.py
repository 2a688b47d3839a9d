"""Whether new copies may be fetched now: the backup disk takes them, and nobody ordered a pause.

Verifying, pruning, restoring and looking go on all the same.
"""

from __future__ import annotations

from cbk.jobs.backup.overrides import paused_until
from cbk.jobs.context import Context
from cbk.rules.backup.disk_space import judge_disk_space
from cbk.rules.status.health import Problem


def check_disk_space(context: Context) -> Problem | None:
    """Why no new download may start, None where it may. Raises RootMissing, or ArchiveError where the disk does not answer."""
    usage = context.archive.usage()
    return judge_disk_space(
        free=usage.free,
        total=usage.total,
        read_only=usage.read_only,
        least_free=context.settings.min_free_space,
        files_left=usage.files_left,
    )


def fetch_blocker(context: Context) -> str | None:
    """Why nothing new is fetched now, None where it is. Raises as `check_disk_space`, and CatalogError."""
    until = paused_until(context)
    if until is not None:
        return f"paused until {until.isoformat(timespec='seconds')}"
    problem = check_disk_space(context)
    return problem.message if problem else None
