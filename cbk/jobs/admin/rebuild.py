"""Rebuild the catalog from the disk alone, and learn from the source, where it answers, what has no copy.

Nothing that the catalog knows is changed, so a rebuild may be broken off and run again, or fill the gaps of a catalog that lives.
A copy is taken at its header's word, unless it is to be verified; one that was not has no `verified_at`: the scrub reads it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from time import monotonic

from cbk.edges.catalog import Leases
from cbk.errors import ArchiveError, CatalogOutdated, CatalogUnavailable, CopyMissing, LeaseLost, RootMissing, SourceError
from cbk.jobs.admin.init import prepare_catalog
from cbk.jobs.context import Context
from cbk.jobs.copies import find_in_place
from cbk.jobs.dump.rebuild import add_dumps, is_dump
from cbk.jobs.intake.rows import TRIES, record_rows
from cbk.jobs.intake.table_reader import PAGE_ROWS
from cbk.jobs.poll.poll import POLL_LEASE
from cbk.rules.admin.rebuild import FoundCopy, PlacedCopy, RebuildPlan, RebuildProblem, place_copy, plan_rebuild
from cbk.rules.intake.layout import place_key
from cbk.rules.retention.journal import JOURNAL_NAME, Journal, decode_journal
from cbk.rules.status.health import describe_age

# Copies that go into the catalog in one transaction.
BATCH = 500

_UNREAD = (
    "what was added was taken at its header's word: `cbk verify` reads it now, the workers do in turn, and until then status is red"
)
_FORGOTTEN = "holds have to be set again, and the grace of a deleted file starts anew when its delete-log row is read"

Tell = Callable[[RebuildProblem], None]
Advance = Callable[[int], None]


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild found and did, in numbers; `notes` say what could not be known.

    `copies` lie on the disk, `dumps` of which are of databases; of these, `known` were in the catalog, `added` are now, and the
    others were left out and told as problems. `problems` counts all that was told. `rows` were read from the source, and brought
    `pending` versions without a copy.
    """

    copies: int = 0
    dumps: int = 0
    known: int = 0
    added: int = 0
    problems: int = 0
    holds: int = 0
    removals: int = 0
    journal_written_at: datetime | None = None
    rows: int = 0
    pending: int = 0
    notes: list[str] = field(default_factory=list)


def rebuild(context: Context, *, tell: Tell, advance: Advance, verify: bool = False, dry_run: bool = False) -> Rebuilt:
    """Take in what the disk has and the catalog does not know. With `verify`, each of these copies is read to its end.

    `tell` gets each problem when it is found, `advance` the number of copies that were looked at since it was last called. With
    `dry_run` nothing is written, and the source is not asked. Raises RootMissing where the disk is not mounted, LeaseLost while a
    poll works, CatalogError.
    """
    context.archive.identity()
    if dry_run:
        return _Rebuild(context, tell, advance, verify=verify, dry_run=True).run()
    prepared = prepare_catalog(context)
    leases = context.catalog.leases.for_one()
    if not leases.acquire(POLL_LEASE, context.settings.lease):
        raise LeaseLost(
            "a poll or another rebuild is at work, or was killed a moment ago",
            hint=f"stop beat and the workers, and try again in {describe_age(context.settings.lease)}",
        )
    try:
        done = _Rebuild(context, tell, advance, verify=verify, leases=leases).run()
        done.holds += prepared.holds
        return done
    finally:
        leases.release(POLL_LEASE)


class _Rebuild:
    def __init__(
        self, context: Context, tell: Tell, advance: Advance, *, verify: bool, dry_run: bool = False, leases: Leases | None = None
    ) -> None:
        self._context = context
        self._tell = tell
        self._advance = advance
        self._verify = verify
        self._dry_run = dry_run
        self._leases = leases
        self._renewed_at = monotonic()
        self._done = Rebuilt()
        self._dumps: list[FoundCopy] = []
        self._catalog_is_there = not dry_run or _has_tables(context)

    def run(self) -> Rebuilt:
        journal = self._read_journal()
        # Holds first: whatever breaks this off, nothing that a person wants kept is forgotten.
        if not self._dry_run:
            self._done.holds = self._context.catalog.rebuilding.add_holds(journal.holds)
        for locations in self._batches():
            self._record_copies(locations)
            self._advance(len(locations))
        self._add_dumps()
        if self._done.added and not self._verify:
            self._done.notes.append(_UNREAD)
        if self._dry_run:
            self._done.holds, self._done.removals = len(journal.holds), len(journal.removals)
        else:
            self._reconcile()
            self._done.removals = self._context.catalog.rebuilding.add_removals(journal.removals)
        return self._done

    # What the disk says

    def _batches(self) -> Iterator[list[str]]:
        locations = self._context.archive.walk(
            lambda folder, error: self._note(RebuildProblem(location=folder, reason=error.message))
        )
        while batch := list(islice(locations, BATCH)):
            yield batch

    def _record_copies(self, locations: list[str]) -> None:
        rebuilding = self._context.catalog.rebuilding
        known = rebuilding.known_locations(locations) if self._catalog_is_there else set()
        self._done.copies += len(locations)
        self._done.known += len(known)
        if known and not self._dry_run:
            self._done.added += sum(find_in_place(self._context, version) is not None for version in rebuilding.without_copy(known))
        placed = [copy for location in locations if location not in known and (copy := self._look(location))]
        for remaining in reversed(range(TRIES)):
            plan = self._plan(placed)
            try:
                if not self._dry_run:
                    rebuilding.add(plan)
                break
            except CatalogUnavailable:
                # A worker may have taken in the same file between gathering and writing: then it is known now.
                if not remaining:
                    raise
        self._done.added += len(plan.copies)
        self._done.known += plan.known
        for problem in plan.problems:
            self._note(problem)

    def _add_dumps(self) -> None:
        """Once all of the disk was looked at: a dump's roles lie beside it."""
        added, known, problems = add_dumps(self._context, self._dumps, dry_run=self._dry_run)
        self._done.dumps = len(self._dumps)
        self._done.added += added
        self._done.known += known
        for problem in problems:
            self._note(problem)

    def _look(self, location: str) -> PlacedCopy | None:
        self._breathe()
        try:
            found = self._examine(location)
        except RootMissing:
            raise
        except CopyMissing:  # pruned since it was listed
            self._done.copies -= 1
            return None
        except ArchiveError as error:
            self._note(RebuildProblem(location=location, reason=error.message.removeprefix(f"{location}: ")))
            return None
        if is_dump(found):
            self._dumps.append(found)
            return None
        placed = place_copy(found, self._context.settings.bucket)
        if isinstance(placed, RebuildProblem):
            self._note(placed)
            return None
        return placed

    def _examine(self, location: str) -> FoundCopy:
        examined = self._context.archive.examine(location)
        sha256 = None
        if self._verify:
            sha256 = self._context.archive.check(location, sha256=examined.header.sha256, tick=self._breathe).stored_sha256
        return FoundCopy(
            location=location,
            header=examined.header,
            stored_size=examined.stored_size,
            stored_at=examined.stored_at,
            stored_sha256=sha256,
        )

    def _plan(self, placed: list[PlacedCopy]) -> RebuildPlan:
        if not self._catalog_is_there:
            return plan_rebuild(placed, known={}, owners={})
        rebuilding = self._context.catalog.rebuilding
        owners = rebuilding.owners({place_key(copy.place) for copy in placed})
        known = rebuilding.known_files({copy.file_name for copy in placed} | set(owners.values()))
        return plan_rebuild(placed, known=known, owners=owners)

    # What else there is to know

    def _read_journal(self) -> Journal:
        try:
            content = self._context.archive.read_note(JOURNAL_NAME)
        except RootMissing:
            raise
        except ArchiveError as error:
            self._note(RebuildProblem(location=f".cbk/{JOURNAL_NAME}", reason=error.message))
            content = None
        if content is None:
            self._done.notes.append(f"the disk has no journal that can be read: {_FORGOTTEN}")
            return Journal()
        journal = decode_journal(content)
        for problem in journal.problems:
            self._note(RebuildProblem(location=f".cbk/{JOURNAL_NAME}", reason=problem))
        if journal.problems:
            self._done.notes.append(f"the journal is damaged; of what it lost, {_FORGOTTEN}")
        if journal.written_at:
            self._done.journal_written_at = journal.written_at
            self._done.notes.append(
                f"holds and graces are those of {journal.written_at:%Y-%m-%d %H:%M} UTC, when the journal was written"
            )
        return journal

    def _reconcile(self) -> None:
        """Take in all rows: what has no copy becomes pending."""
        last = None
        try:
            while rows := self._context.source.rows_after(last, PAGE_ROWS):
                self._done.pending += record_rows(self._context, rows).new
                self._done.rows += len(rows)
                self._breathe()
                last = rows[-1].id
        except SourceError as error:
            self._done.notes.append(f"the source was not read to its end, so what has no copy is not known yet: {error.message}")

    # On the way

    def _note(self, problem: RebuildProblem) -> None:
        self._done.problems += 1
        self._tell(problem)

    def _breathe(self) -> None:
        """Keep the lease: no poll meets a rebuild."""
        if self._leases is None or monotonic() - self._renewed_at < self._context.settings.lease.total_seconds() / 3:
            return
        if not self._leases.acquire(POLL_LEASE, self._context.settings.lease):
            raise LeaseLost("a poll has taken over, because this rebuild was silent for too long", hint="run it again: it goes on")
        self._renewed_at = monotonic()


def _has_tables(context: Context) -> bool:
    try:
        if context.catalog.exists:
            context.catalog.require_current()
            return True
    except CatalogOutdated:
        pass
    return False
