"""Whether the backup disk takes new copies now. Verifying, pruning, restoring and looking go on where it does not."""

from __future__ import annotations

from cbk.jobs.kit import Kit
from cbk.rules.health import Problem
from cbk.rules.room import judge_room


def check_room(kit: Kit) -> Problem | None:
    """Why no new download may start, None where it may. Raises RootMissing, or ArchiveError where the disk does not answer."""
    room = kit.archive.usage()
    return judge_room(free=room.free, total=room.total, read_only=room.read_only, least_free=kit.settings.min_free_space)
