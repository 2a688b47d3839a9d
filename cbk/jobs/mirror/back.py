"""Everything back from a mirror: copies for a new backup disk, and files for a restore.

A mirror is enough: the copies say what they are, and the journal beside them brings holds and graces. What comes from there is
compared where it arrives, like everything that comes in.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from cbk.edges.archive.archive import Archive
from cbk.errors import ArchiveError, CopyMissing, MirrorError, RootMissing
from cbk.jobs.context import Context
from cbk.jobs.mirror.places import MirrorPlace, copies_of
from cbk.jobs.mirror.remote import RemotePlace
from cbk.jobs.mirror.run import mirror_of, places_of
from cbk.jobs.mirror.transfer import Wanted, transfer
from cbk.rules.admin.rebuild import RebuildProblem
from cbk.rules.retention.journal import JOURNAL_NAME

PULL_TOGETHER = 200
# Of what a restore fetched from a remote, so much is kept: threads still read the last page while the next one comes.
PAGES_KEPT = 2

Tell = Callable[[RebuildProblem], None]
Advance = Callable[[int], None]
# Told where copies lie that are read next.
FetchAhead = Callable[[Sequence[str]], None]


def find_place(context: Context, name: str) -> MirrorPlace:
    """The place of this mirror that can be reached now, the first of several. Raises MirrorError where there is none."""
    reasons = []
    for place in places_of(context, mirror_of(context, name)):
        try:
            marker = place.marker()
        except MirrorError as error:
            reasons.append(error.message)
            continue
        if marker is not None and marker.mirror == name:
            return place
        reasons.append(f"{place.where} is no disk of this mirror")
    hint = "plug the disk in, or see what `rclone lsd` says of the remote"
    raise MirrorError(f"mirror {name} cannot be reached: {'; '.join(reasons)}", hint=hint)


def pull(context: Context, name: str, *, tell: Tell, advance: Advance, dry_run: bool = False) -> tuple[int, int]:
    """Bring to the backup disk every copy of the mirror that it does not have; how many came, and how many were there already.

    Each is verified. `tell` gets what did not come. It may be broken off, and run again. Raises MirrorError, RootMissing,
    ArchiveError.
    """
    context.archive.identity()
    place = find_place(context, name)
    came, present = 0, 0
    for batch in _pages(copies_of(place.locations(_no_tick)), PULL_TOGETHER):
        missing = [location for location in batch if context.archive.is_free(location)]
        present += len(batch) - len(missing)
        came += len(missing) if dry_run else _pull_some(context, place, missing, tell)
        advance(len(batch))
    if not dry_run:
        _pull_journal(context, place)
    return came, present


def adopt_place(context: Context, name: str) -> None:
    """The ledger of a new catalog is told that this place is one of the mirror's. Raises MirrorError, CatalogError."""
    marker = find_place(context, name).marker()
    if marker is not None:
        context.catalog.mirrors.add_disk(name, marker.identity)


def _pull_some(context: Context, place: MirrorPlace, locations: Sequence[str], tell: Tell) -> int:
    if not locations:
        return 0
    with place.reading(locations, tick=_no_tick, on_bytes=_no_bytes) as archive:
        wanted = []
        for number, location in enumerate(locations):
            try:
                sha256 = archive.inspect(location).sha256
            except RootMissing:
                raise
            except ArchiveError as error:
                tell(RebuildProblem(location=location, reason=error.message.removeprefix(f"{location}: ")))
                continue
            wanted.append(Wanted(location=location, sha256=sha256, part_name=f"pull-{number}.part"))
        moved = transfer(archive, context.archive, wanted, tick=_no_tick)
    for each in moved:
        if each.error is not None:
            reason = each.error.message.removeprefix(f"{each.wanted.location}: ")
            tell(RebuildProblem(location=each.wanted.location, reason=reason))
    return sum(each.written is not None for each in moved)


def _pull_journal(context: Context, place: MirrorPlace) -> None:
    """Holds and graces come with the copies. A disk that has a journal of its own keeps it."""
    if context.archive.read_note(JOURNAL_NAME) is None:
        journal = place.read_note(JOURNAL_NAME)
        if journal is not None:
            context.archive.write_note(JOURNAL_NAME, journal)


# ---- a restore -------------------------------------------------------------------------------------------------------------------


@contextmanager
def reading_from(context: Context, mirror: str | None) -> Iterator[tuple[Context, FetchAhead | None]]:
    """As `context_from`; without a mirror, the kit as it is. Raises MirrorError."""
    if mirror is None:
        yield context, None
        return
    with context_from(context, mirror) as found:
        yield found


@contextmanager
def context_from(context: Context, name: str) -> Iterator[tuple[Context, FetchAhead | None]]:
    """The kit with the mirror in place of the backup disk, for reading only; and what fetches copies ahead, of a remote.

    Raises MirrorError where no place of the mirror can be reached.
    """
    place = find_place(context, name)
    if not isinstance(place, RemotePlace):
        with place.reading([], tick=_no_tick, on_bytes=_no_bytes) as archive:
            yield _with(context, archive), None
        return
    with tempfile.TemporaryDirectory(prefix="cbk-restore-") as folder:
        fetched = _Fetched(place, Path(folder))
        yield _with(context, fetched.archive), fetched.ahead


def _with(context: Context, archive: Archive) -> Context:
    return dataclasses.replace(context, archive=archive, _identity=archive.identity())


class _Fetched:
    """Copies of a remote in a folder, page by page; the pages before are removed."""

    def __init__(self, place: RemotePlace, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self._pages: deque[Sequence[str]] = deque()
        self.archive = place.fetch(folder, [], tick=_no_tick, on_bytes=_no_bytes)

    def ahead(self, locations: Sequence[str]) -> None:
        """Fetch these, and forget what was fetched long ago."""
        while len(self._pages) >= PAGES_KEPT:
            for location in self._pages.popleft():
                try:
                    self.archive.remove(location)
                except CopyMissing:
                    continue
        if shutil.disk_usage(self._folder).free == 0:
            raise MirrorError(f"no room in {self._folder}", hint="set TMPDIR to a folder on a larger disk")
        self._place.fetch(self._folder, locations, tick=_no_tick, on_bytes=_no_bytes)
        self._pages.append(locations)


def _pages(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page


def _no_tick() -> None:
    pass


def _no_bytes(_count: int) -> None:
    pass
