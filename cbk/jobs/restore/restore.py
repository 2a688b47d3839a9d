"""Bring files back: to a folder, to object storage, or one of them to a stream.

Gather: which files are wished for, which version each gets (rules/restore.py), how many bytes that is, and which paths several of
them want. Decide: where each goes. Apply: a few threads read copies, compare their bytes with the catalog's hash, and write. What
is there already and right is left alone, so that a second run goes on where the first one ended.

Nothing here writes to the backup disk or to the catalog: a restore works on a disk that is mounted read-only, and while backups go
on.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from queue import SimpleQueue

from cbk.edges.destinations import Destination, FolderDestination, WantedPaths
from cbk.errors import (
    ArchiveError,
    CopyCorrupt,
    CopyMissing,
    CopySwapped,
    DestinationError,
    DestinationUnavailable,
    RootMissing,
    UsageError,
)
from cbk.jobs.context import Context
from cbk.jobs.copies import find_in_place
from cbk.model import RestoreItem, Version, VersionState
from cbk.rules.intake.layout import location_of, place_key, restore_path
from cbk.rules.restore import Choice, RestoreFilter, choose

DEFAULT_JOBS = 4
# Files that wait for each thread, so that none of them stands still while the next page is read.
AHEAD = 4
# So many copies are fetched together, where they come from afar.
FETCH_PAGE = 200

_BAD_COPY_HINT = "`cbk resync` fetches a bad copy again, where its link lives; an older version may have a good one (--version)"

Advance = Callable[[int], None]
FetchAhead = Callable[[Sequence[str]], None]


class RestoreOutcome(StrEnum):
    """What became of a file."""

    RESTORED = "restored"
    PRESENT = "present"
    PLANNED = "would restore"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One file of a restore: its version, and its path below the target.

    `reason` says why it failed, or where `is_older`, why it is not the version that was wished for.
    """

    outcome: RestoreOutcome
    version: Version
    path: str
    reason: str = ""
    hint: str | None = None

    @property
    def is_older(self) -> bool:
        """Whether an older version stands in for the one that was wished for."""
        return self.outcome is not RestoreOutcome.FAILED and bool(self.reason)


@dataclass(slots=True)
class Totals:
    """The results, counted; `size` is the bytes of what was restored, or would be."""

    restored: int = 0
    present: int = 0
    planned: int = 0
    failed: int = 0
    older: int = 0
    size: int = 0

    def add(self, result: Result) -> None:
        """Count one more."""
        self.restored += result.outcome is RestoreOutcome.RESTORED
        self.present += result.outcome is RestoreOutcome.PRESENT
        self.planned += result.outcome is RestoreOutcome.PLANNED
        self.failed += result.outcome is RestoreOutcome.FAILED
        self.older += result.is_older
        if result.outcome in {RestoreOutcome.RESTORED, RestoreOutcome.PLANNED}:
            self.size += result.version.size or 0

    @property
    def files(self) -> int:
        """How many results there were."""
        return self.restored + self.present + self.planned + self.failed


class _RestoreStopped(Exception):
    """The restore ends before its time."""


@contextmanager
def planned_restore(
    context: Context,
    target: Destination,
    restore_filter: RestoreFilter,
    *,
    dry_run: bool = False,
    properties: bool = True,
    ahead: FetchAhead | None = None,
) -> Iterator[Restore]:
    """The restore of all that `restore_filter` names to `target`. With `dry_run`, nothing is written anywhere.

    With `properties`, what is written has those of the object that it was, where the target keeps any.

    `ahead` is told where the copies lie that come next, page by page, before they are read.

    Raises UsageError where the wish names nothing, or target and backup root lie one in the other; CatalogError, RootMissing,
    DestinationUnavailable.
    """
    _require(context)
    # What is added from now on is left out: it could want the path of a file that is restored by then.
    through = context.catalog.selection.last_file_id()
    if next(_choices(context, restore_filter, through), None) is None:  # before a folder is made for nothing
        raise _nothing_matches(restore_filter)
    folds = isinstance(target, FolderDestination) and _folds_names(context, target, dry_run=dry_run)
    with closing(WantedPaths(same=place_key if folds else str)) as paths:
        ahead = None if dry_run else ahead
        properties = properties and target.keeps_properties
        yield Restore(context, target, restore_filter, through, paths, dry_run=dry_run, properties=properties, ahead=ahead)


def _folds_names(context: Context, target: FolderDestination, *, dry_run: bool) -> bool:
    if target.is_within(context.archive.root):
        hint = "choose a folder elsewhere: in there, only copies may lie"
        raise UsageError(f"{target.folder} is within the backup root", hint=hint)
    if target.contains(context.archive.root):
        hint = "choose a folder elsewhere: a file of a restored bucket could come to lie among the copies"
        raise UsageError(f"the backup root is within {target.folder}", hint=hint)
    return not dry_run and target.folds_names()


class Restore:
    """A restore that is about to begin, with its number of `files` and their `size` in bytes. Made by `planned_restore`."""

    def __init__(
        self,
        context: Context,
        target: Destination,
        restore_filter: RestoreFilter,
        through: int,
        paths: WantedPaths,
        *,
        dry_run: bool,
        properties: bool = False,
        ahead: FetchAhead | None = None,
    ) -> None:
        self.files = 0
        self.size = 0
        self._context = context
        self._target = target
        self._wish = restore_filter
        self._through = through
        self._paths = paths
        self._dry_run = dry_run
        self._properties = properties
        self._ahead = ahead
        self._advance: Advance = _ignore
        self._stopped = threading.Event()
        self._some_odd = False
        for choice in self._choices():
            self.files += 1
            self._some_odd = self._some_odd or self._may_mistake(choice)
            if choice.has_copy:
                self.size += choice.version.size or 0
                paths.add(_path(choice.version))

    def results(self, advance: Advance, *, jobs: int = DEFAULT_JOBS) -> Generator[Result]:
        """Restore with `jobs` threads, and say how each file went, in no order. `advance` is called with the bytes that are done.

        What is wrong with one file is its result. Raises DestinationUnavailable or RootMissing: no other file would fare better.
        Whoever does not iterate to the end closes the iteration: what is under way ends then, and leaves nothing unfinished.
        """
        self._advance = advance
        done: SimpleQueue[Future[Result]] = SimpleQueue()  # to wait for one of many futures takes a lock of each, every time
        running = 0
        with ThreadPoolExecutor(jobs, thread_name_prefix="restore") as pool:
            try:
                for choice in self._coming(odd=False):
                    pool.submit(self._restore, choice, self._path_of(choice)).add_done_callback(done.put)
                    running += 1
                    if running >= jobs * AHEAD:
                        running -= 1
                        yield done.get().result()
                for _ in range(running):
                    yield done.get().result()
                # One at a time, and last: what the target takes for one has to be there to be found.
                for choice in self._coming(odd=True) if self._some_odd else ():
                    yield pool.submit(self._restore, choice, self._path_of(choice)).result()
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _choices(self) -> Iterator[Choice]:
        return _choices(self._context, self._wish, self._through)

    def _may_mistake(self, choice: Choice) -> bool:
        return self._target.may_mistake(_item(choice.version, ""))

    def _coming(self, *, odd: bool) -> Iterator[Choice]:
        """Those whose names the target may take for others', or all others; `ahead` knows of them before they come."""
        choices = (choice for choice in self._choices() if self._may_mistake(choice) is odd)
        if self._ahead is None:
            yield from choices
            return
        while page := list(islice(choices, FETCH_PAGE)):
            self._ahead([location_of(choice.version) for choice in page if choice.has_copy])
            yield from page

    def _path_of(self, choice: Choice) -> str:
        path = _path(choice.version)
        return _path(choice.version, contested=True) if self._paths.is_contested(path) else path

    def _restore(self, choice: Choice, path: str) -> Result:
        if not choice.has_copy:
            return Result(outcome=RestoreOutcome.FAILED, version=choice.version, path=path, reason=choice.reason)
        try:
            return self._bring(choice, path)
        except CopyMissing as missing:
            again = self._choose_again(choice.version)
            if again is None or again.version.id == choice.version.id:
                return _failed(choice.version, path, missing)
            return self._restore(again, path)  # it was replaced since, or is being fetched again
        except (RootMissing, DestinationUnavailable):
            raise
        except (ArchiveError, DestinationError) as error:
            return _failed(choice.version, path, error)

    def _bring(self, choice: Choice, path: str) -> Result:
        item = _item(choice.version, path)
        meter = _Meter(self._advance)
        try:
            outcome = self._deliver(item, meter)
        finally:
            meter.end(item.size)
        return Result(outcome=outcome, version=choice.version, path=path, reason=choice.reason)

    def _deliver(self, item: RestoreItem, meter: _Meter) -> RestoreOutcome:
        if self._stopped.is_set():
            raise _RestoreStopped
        if self._target.holds(item):
            return RestoreOutcome.PRESENT
        if self._dry_run:
            self._context.archive.inspect(item.location)
            return RestoreOutcome.PLANNED
        if self._properties:
            item = dataclasses.replace(item, properties=self._context.archive.inspect(item.location).properties)
        with closing(_content(self._context, item, self._until_stopped(meter))) as content:
            self._target.write(item, content)
        return RestoreOutcome.RESTORED

    def _until_stopped(self, meter: _Meter) -> Advance:
        def tick(count: int) -> None:
            if self._stopped.is_set():
                raise _RestoreStopped
            meter.add(count)

        return tick

    def _choose_again(self, version: Version) -> Choice | None:
        known = self._context.catalog.selection.file(version.file_id)
        return choose(known.versions, self._wish, known.deletions, known.brought_at)


def restore_one(context: Context, target: Destination, restore_filter: RestoreFilter) -> Choice:
    """Write the one file that `restore_filter` names to `target`, such as a stream, and say which version it was.

    Raises UsageError where the wish names none or several; CopyMissing where it has no copy; CopyCorrupt where what was written is
    not the file; CatalogError, RootMissing or DestinationError.
    """
    _require(context)
    found = list(islice(_choices(context, restore_filter, context.catalog.selection.last_file_id()), 2))
    if not found:
        raise _nothing_matches(restore_filter)
    if len(found) > 1:
        names = " and ".join(f"{f'{each.version.storage}/{each.version.key}'!r} in {each.version.bucket!r}" for each in found)
        raise UsageError(f"several files are meant, such as {names}", hint="name one by its key and storage")
    choice = found[0]
    if not choice.has_copy:
        raise CopyMissing(choice.reason, hint="`cbk ls` says what has a copy, and why the rest has none")
    item = _item(choice.version, _path(choice.version))
    try:
        with closing(_content(context, item, _ignore)) as content:
            target.write(item, content)
    except CopyCorrupt as error:
        raise CopyCorrupt(f"{error.message}; what came out is not the file", hint=_BAD_COPY_HINT) from error
    return choice


# ---- what both ways have in common -------------------------------------------------------------------------------------------


class _Meter:
    """Bytes of one file, passed on to `advance`; in the end, all of them."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._advance(count)

    def end(self, size: int) -> None:
        if self._done < size:
            self._advance(size - self._done)


def _ignore(_count: int) -> None:
    pass


def _require(context: Context) -> None:
    context.catalog.require_current()
    context.require_disk()


def _choices(context: Context, restore_filter: RestoreFilter, through: int) -> Iterator[Choice]:
    for known in context.catalog.selection.files(restore_filter, through=through):
        choice = choose(known.versions, restore_filter, known.deletions, known.brought_at)
        if choice is not None:
            yield _with_copy_in_place(context, choice)


def _with_copy_in_place(context: Context, choice: Choice) -> Choice:
    """Where the catalog knows of no copy, one may lie whole in its place all the same; nothing is recorded of it here."""
    if choice.has_copy:
        return choice
    written = find_in_place(context, choice.version, record=False)
    if written is None:
        return choice
    return Choice(version=dataclasses.replace(choice.version, state=VersionState.STORED, size=written.size))


def _path(version: Version, *, contested: bool = False) -> str:
    return restore_path(version.bucket, version.key, version.storage, contested=contested)


def _item(version: Version, path: str) -> RestoreItem:
    return RestoreItem(
        storage=version.storage,
        bucket=version.bucket,
        key=version.key,
        number=version.number,
        sha256=version.sha256,
        size=version.size or 0,
        location=location_of(version),
        path=path,
        content_type=version.content_type,
    )


def _content(context: Context, item: RestoreItem, advance: Advance) -> Generator[bytes]:
    """The bytes of a version, which are right only where the iteration ends without CopyCorrupt."""
    size = 0
    for chunk in context.archive.open_copy(item.location, sha256=item.sha256):
        advance(len(chunk))
        size += len(chunk)
        yield chunk
    if size != item.size:
        raise CopySwapped(f"{item.location}: holds {size} bytes, but the catalog says {item.size}")


def _failed(version: Version, path: str, error: ArchiveError | DestinationError) -> Result:
    hint = _BAD_COPY_HINT if isinstance(error, CopyCorrupt) else error.hint
    return Result(outcome=RestoreOutcome.FAILED, version=version, path=path, reason=error.message, hint=hint)


def _nothing_matches(restore_filter: RestoreFilter) -> UsageError:
    if restore_filter == dataclasses.replace(RestoreFilter(), deleted=restore_filter.deleted):
        return UsageError("the catalog knows no file", hint="is CBK_CATALOG_URL the right one? `cbk ls` lists what it knows")
    hint = "`cbk ls` lists what there is; what was deleted is restored with --deleted, or as of a time before it was (--at)"
    return UsageError("the catalog knows no such file", hint=hint)
