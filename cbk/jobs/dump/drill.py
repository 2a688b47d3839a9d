"""Prove that a dump would come back: restore it into a scratch server of its own and compare what can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cbk.edges.dump.process import Tick
from cbk.edges.dump.scratch import scratch_database
from cbk.edges.dump.servers import DatabaseTarget
from cbk.edges.filesystem.scratch import free_bytes, scratch_folder, scratch_place
from cbk.errors import ArchiveError, DestinationUnavailable, DrillFailed, DumpError, RootMissing
from cbk.jobs.context import Context
from cbk.rules.dump.records import Dump, DumpVersion, dump_location, roles_location
from cbk.rules.dump.spec import DumpKind
from cbk.rules.text.display import as_size, counted
from cbk.rules.verification import drill_is_due

# What a restored database needs beside the dump: indexes, and the server's own log.
ROOM_TIMES = 3
SHOWN = 3


def drill_is_due_for(context: Context, version: DumpVersion) -> bool:
    """Whether CBK_DRILL_EVERY has passed since the last drill of this dump, or its newest version never had one."""
    every = context.settings.drill_every
    return bool(every) and drill_is_due(version.drilled_at, context.catalog.database.now(), every)


def drill_dump(context: Context, dump: Dump, version: DumpVersion, *, tick: Tick, scratch: Path | None = None) -> str:
    """Restore one dump for a test and record the verdict; gives why it failed, empty where it passed.

    Raises RootMissing, CatalogError, and what `tick` does: then there is no verdict.
    """
    problem = ""
    try:
        with restored(context, dump, version, tick=tick, scratch=scratch) as database:
            if database is not None:
                compare(version.rows, database.rows(tick))
    except RootMissing:
        raise
    except (DumpError, ArchiveError, DestinationUnavailable) as error:
        problem = error.message
    context.catalog.dumps.record_drill(version, problem)
    return problem


@contextmanager
def restored(
    context: Context, dump: Dump, version: DumpVersion, *, tick: Tick, scratch: Path | None = None
) -> Iterator[DatabaseTarget | None]:
    """A dump in a scratch database, for the length of the block; None for a kind that has no server: it was read to its end.

    Raises DumpError, ArchiveError, DestinationUnavailable.
    """
    if dump.kind is DumpKind.RAW:
        for _ in chunks_of(context, dump, version):
            tick()
        yield None
        return
    with scratch_folder(require_room(version, scratch)) as folder:
        folder.chmod(0o711)  # the server's own account goes through it
        with scratch_database(dump.kind, folder, tick=tick) as database:
            chunks = chunks_of(context, dump, version)
            database.restore(chunks, version.format, tick, roles=roles_of(context, dump, version))
            yield database


def chunks_of(context: Context, dump: Dump, version: DumpVersion) -> Iterator[bytes]:
    """The bytes of a dump; they count once the iteration has ended. Raises ArchiveError."""
    return context.archive.open_copy(dump_location(dump.place, version.number), sha256=version.sha256)


def roles_of(context: Context, dump: Dump, version: DumpVersion) -> Iterator[bytes] | None:
    """The users and rights beside it, None where none are kept."""
    if version.roles_sha256 is None:
        return None
    return context.archive.open_copy(roles_location(dump.place, version.number), sha256=version.roles_sha256)


def compare(noted: Mapping[str, int] | None, found: Mapping[str, int]) -> None:
    """Raise DrillFailed where a table, or rows of one, are not there that were noted when the dump was taken."""
    wrong = [
        f"{table} has {counted(found[table], 'row')} of {rows}" if table in found else f"{table} is missing"
        for table, rows in sorted((noted or {}).items())
        if found.get(table) != rows
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DrillFailed("; ".join(wrong[:SHOWN]) + more)


def require_room(version: DumpVersion, scratch: Path | None) -> Path:
    """Where the dump would be restored to. Raises DestinationUnavailable where there is no room."""
    place = scratch_place(scratch)
    needed, free = version.size * ROOM_TIMES, free_bytes(place)
    if free < needed:
        raise DestinationUnavailable(
            f"a dump of {as_size(version.size)} is drilled with {as_size(needed)} of room, and {place} has {as_size(free)}",
            hint="name a folder with more room: --scratch, or TMPDIR where a worker holds the drill",
        )
    return place
