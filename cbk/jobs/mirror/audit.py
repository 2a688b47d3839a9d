"""All that lies on a mirror against the ledger: what is missing there is sent again, and what is unknown is told, never removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from cbk.errors import MirrorError
from cbk.jobs.context import Context
from cbk.jobs.mirror.places import MirrorPlace
from cbk.jobs.mirror.run import mirror_of, places_of
from cbk.rules.mirror import MirrorDisk

AUDIT_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What one place has: files in all, those that the ledger does not know, and copies of the ledger that are not there."""

    disk: str
    files: int
    unknown: list[str]
    missing: list[str]


def audit(context: Context, name: str, *, advance: Callable[[int], None]) -> list[Audited]:
    """List every place of the mirror that can be reached. Raises MirrorError where there is none."""
    known = {disk.identity: disk for disk in context.catalog.mirrors.disks(name)}
    found: list[Audited] = []
    for place in places_of(context, mirror_of(context, name)):
        try:
            marker = place.marker()
        except MirrorError:
            continue
        if marker is not None and marker.identity in known:
            found.append(_audit(context, place, known[marker.identity], advance))
    if not found:
        raise MirrorError(f"no place of mirror {name} can be reached", hint=f"`cbk mirror {name}` says why")
    return found


def _audit(context: Context, place: MirrorPlace, disk: MirrorDisk, advance: Callable[[int], None]) -> Audited:
    ledger = context.catalog.mirrors
    files, unknown, seen = 0, [], set()
    for page in _pages(place.locations(lambda: None)):
        of_ledger = ledger.locations(disk.id, page)
        unknown += [location for location in page if location not in of_ledger]
        seen |= {hash(location) for location in of_ledger}
        files += len(page)
        advance(len(page))
    missing = []
    for copy in ledger.all_copies(disk.id):
        if hash(copy.location) not in seen:
            missing.append(copy.location)
            ledger.note_bad(disk.id, copy.version_id, "it is not there")
    ledger.note_unknown(disk.id, len(unknown))
    return Audited(disk=disk.label, files=files, unknown=sorted(unknown), missing=sorted(missing))


def _pages(locations: Iterator[str]) -> Iterator[list[str]]:
    while page := list(islice(locations, AUDIT_PAGE)):
        yield page
