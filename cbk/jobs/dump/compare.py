"""Database and files of one moment: which of the file rows that a dump holds have no copy on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cbk.edges.source import Source
from cbk.errors import UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.drill import restored
from cbk.jobs.intake.table_reader import PAGE_ROWS
from cbk.model import AcceptedRow, SourceRow
from cbk.rules.backup.hashes import Hashes, differ
from cbk.rules.dump.records import Dump, DumpVersion
from cbk.rules.intake.rows import read_row

STATEMENT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWithoutCopy:
    """A file row of the dump, with why no copy stands for it."""

    row: str
    label: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Compared:
    """How many file rows the dump holds, and those without a copy."""

    rows: int = 0
    without: list[RowWithoutCopy] = field(default_factory=list)


def compare_dump(
    context: Context, dump: Dump, version: DumpVersion, *, tick: Callable[[], None], scratch: Path | None = None
) -> Compared:
    """Restore the dump into a scratch server and look for each file row's copy. Raises DumpError, SourceError, UsageError."""
    done = Compared()
    with restored(context, dump, version, tick=tick, scratch=scratch) as database:
        if database is None:
            raise UsageError(f"dump {dump.name} is of no database that the kit can look into", hint="its kind is raw")
        source = Source(database.url, statement_timeout_seconds=STATEMENT_SECONDS, connect_timeout_seconds=10.0)
        try:
            for rows in _pages(source):
                done.rows += len(rows)
                done.without += _without_copy(context, rows)
                tick()
        finally:
            source.close()
    return done


def _pages(source: Source) -> Iterator[list[SourceRow]]:
    last = None
    while rows := source.rows_after(last, PAGE_ROWS):
        yield rows
        last = rows[-1].id


def _without_copy(context: Context, rows: list[SourceRow]) -> Iterator[RowWithoutCopy]:
    read = [(row, read_row(row)) for row in rows]
    accepted = [each for _, each in read if isinstance(each, AcceptedRow)]
    stored = context.catalog.selection.stored_hashes({(row.storage, row.key) for row in accepted})
    for row, each in read:
        if not isinstance(each, AcceptedRow):
            yield RowWithoutCopy(row=row.id, label=f"{each.storage}/{each.key}", reason=each.reason)
        elif all(differ(_said(each), copy) for copy in stored.get((each.storage, each.key, each.number), ())):
            yield RowWithoutCopy(
                row=row.id, label=f"{each.storage}/{each.key} v{each.number}", reason="no copy of these bytes is on the disk"
            )


def _said(row: AcceptedRow) -> Hashes:
    return Hashes(sha256=row.sha256, md5=row.md5)
