"""Take in the dumps that a disk has and the catalog does not know."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from cbk.jobs.context import Context
from cbk.rules.admin.rebuild import FoundCopy, RebuildProblem
from cbk.rules.dump.pg_archive import MAGIC
from cbk.rules.dump.records import FoundDump, dump_location, dump_of, roles_location
from cbk.rules.dump.spec import DumpKind
from cbk.rules.intake.layout import place_key, places


def is_dump(found: FoundCopy) -> bool:
    """Whether a copy is one of a dump's, or of its roles."""
    return dump_of(found.header) is not None


def add_dumps(context: Context, copies: Iterable[FoundCopy], *, dry_run: bool) -> tuple[int, int, list[RebuildProblem]]:
    """Add each dump at its header's word; gives how many were added, how many were known, and what is wrong with the others.

    The copies of roles count with the dump that they belong to: one that has none is a problem.
    """
    whose = [(found, dump) for found in copies if (dump := dump_of(found.header)) is not None]
    roles = {found.location: found for found, dump in whose if dump.is_roles}
    added, known, problems = 0, 0, []
    for found, dump in sorted(whose, key=lambda each: each[0].header.version):
        if dump.is_roles:
            continue
        place, number = found.location.rpartition("/")[0], found.header.version
        wanted = map(place_key, places(found.header.storage, dump.name))
        if place_key(place) not in wanted or found.location != dump_location(place, number):
            reason = f"it is not where v{number} of dump {dump.name} belongs"
            problems.append(RebuildProblem(location=found.location, reason=reason))
            continue
        beside = roles.pop(roles_location(place, number), None)
        copies_of_it = 1 + (beside is not None)
        if dry_run or _add(context, found, dump, place, beside):
            added += copies_of_it
        else:
            known += copies_of_it
    problems += [RebuildProblem(location=location, reason="the dump that these roles belong to is not there") for location in roles]
    return added, known, problems


def _add(context: Context, found: FoundCopy, dump: FoundDump, place: str, roles: FoundCopy | None) -> bool:
    header = found.header
    recorded = context.catalog.dumps.ensure(dump.name, kind=dump.kind, bucket=place.partition("/")[0], places=[place])
    return context.catalog.dumps.add_found(
        recorded,
        number=header.version,
        slot=found.stored_at,
        taken_at=found.stored_at,
        stored_at=found.stored_at,
        seconds=0.0,
        format=_format(context, found, dump),
        sha256=header.sha256,
        size=header.size,
        stored_size=found.stored_size,
        stored_sha256=found.stored_sha256,
        roles_sha256=roles.header.sha256 if roles else None,
        verified_at=context.catalog.database.now() if found.stored_sha256 else None,
    )


def _format(context: Context, found: FoundCopy, dump: FoundDump) -> str:
    """What the header does not tell: a dump of PostgreSQL is an archive or SQL."""
    if dump.kind is not DumpKind.POSTGRESQL:
        return dump.format
    with closing(context.archive.open_copy(found.location)) as chunks:  # type: ignore[type-var]
        return dump.format if next(chunks, b"").startswith(MAGIC) else "pg_dump"
