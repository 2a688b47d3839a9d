"""Whether new copies may be fetched now: the backup disk takes them, and nobody ordered a pause.

Verifying, pruning, restoring and looking go on all the same.
"""

from __future__ import annotations

from cbk.jobs.kit import Kit
from cbk.jobs.orders import paused_until
from cbk.rules.health import Problem
from cbk.rules.room import judge_room


def check_room(kit: Kit) -> Problem | None:
    """Why no new download may start, None where it may. Raises RootMissing, or ArchiveError where the disk does not answer."""
    room = kit.archive.usage()
    return judge_room(free=room.free, total=room.total, read_only=room.read_only, least_free=kit.settings.min_free_space)


def why_not_now(kit: Kit) -> str | None:
    """Why nothing new is fetched now, None where it is. Raises as `check_room`, and CatalogError."""
    until = paused_until(kit)
    if until is not None:
        return f"paused until {until.isoformat(timespec='seconds')}"
    problem = check_room(kit)
    return problem.message if problem else None
