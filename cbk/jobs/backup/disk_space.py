"""Whether new copies may be fetched now: the backup disk takes them, and nobody ordered a pause.

Verifying, pruning, restoring and looking go on all the same. Workers judge by the disk as they see it, and note that; whoever only
looks, as the page does, judges by their notes: its own mount may well be read-only.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic

from cbk.edges import host
from cbk.edges.archive.archive import DiskUsage
from cbk.errors import ArchiveError, CatalogError
from cbk.jobs.backup.overrides import paused_until
from cbk.jobs.context import Context
from cbk.rules.backup.disk_space import Sighting, is_read_only, judge_disk_space
from cbk.rules.status.health import Problem

DISK_FACT = "disk.seen"
# One write serves the looks of this time, unless the disk looks otherwise.
NOTE_EVERY = timedelta(minutes=1)
# Machines come and go, and containers have another name each time.
FORGET_AFTER = timedelta(days=1)


def check_disk_space(context: Context) -> Problem | None:
    """Why no new download may start, None where it may. Raises RootMissing, or ArchiveError where the disk does not answer."""
    return judge_usage(context, context.archive.usage())


def judge_usage(context: Context, usage: DiskUsage) -> Problem | None:
    """The same of a disk that was looked at."""
    return judge_disk_space(
        free=usage.free,
        total=usage.total,
        read_only=usage.read_only,
        least_free=context.settings.min_free_space,
        files_left=usage.files_left,
    )


def note_disk(context: Context) -> None:
    """Note how this worker sees the disk, for who looks. Where it cannot be seen, or nothing can be noted, others tell of that."""
    with suppress(ArchiveError, CatalogError):
        read_only, now = context.archive.usage().read_only, monotonic()
        noted_at, noted = context.noted_disk
        if read_only is noted and now - noted_at < NOTE_EVERY.total_seconds():
            return
        at = context.catalog.now()
        known = _sightings(context.catalog.facts.get(DISK_FACT)) | {socket.gethostname(): Sighting(at=at, read_only=read_only)}
        kept = {
            name: {"at": sighting.at.isoformat(), "read_only": sighting.read_only}
            for name, sighting in known.items()
            if abs(at - sighting.at) <= FORGET_AFTER
        }
        context.catalog.facts.set(**{DISK_FACT: json.dumps(kept)})
        context.noted_disk = now, read_only


def usage_for_workers(context: Context, noted: str | None, now: datetime) -> DiskUsage:
    """What room there is, and whether the workers can use it. `noted` is the fact, `now` the catalog's clock.

    Raises RootMissing, or ArchiveError where the disk does not answer.
    """
    read_only = is_read_only(
        _sightings(noted).values(),
        now=now,
        poll_interval=context.settings.poll_interval,
        disk_is=host.is_disk_read_only(context.settings.backup_root),
        shares=not context.catalog.is_shared,
    )
    return context.archive.usage()._replace(read_only=read_only)


def _sightings(noted: str | None) -> dict[str, Sighting]:
    known = json.loads(noted or "{}").items()
    return {name: Sighting(at=datetime.fromisoformat(seen["at"]), read_only=seen["read_only"]) for name, seen in known}


def fetch_blocker(context: Context) -> str | None:
    """Why nothing new is fetched now, None where it is. Raises as `check_disk_space`, and CatalogError."""
    until = paused_until(context)
    if until is not None:
        return f"paused until {until.isoformat(timespec='seconds')}"
    problem = check_disk_space(context)
    return problem.message if problem else None
