"""Reading one of the application's tables in the order of its Ids, so that no row is missed and a long history costs nothing.

Ids commit out of order: rows above the newest Id that has *settled* are looked at again by each poll. A sum over that window tells
whether a row came or went; only then is it read again. Where Ids are no numbers, every poll reads every row. Now and then every row
is read whatever the sums say (`reconcile`), some pages per poll.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from cbk.jobs.context import Context

PAGE_ROWS = 1000
# A reconciliation reads so many pages per poll, so that it never keeps new rows waiting for long.
RECONCILE_PAGES = 50


class _Row(Protocol):
    @property
    def id(self) -> str: ...


RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReader(Generic[RowT]):
    """One table: `name` tells its marks and facts apart, `record` puts a page into the catalog, `between_pages` is called
    between pages.
    """

    name: str
    context: Context
    is_ordered: Callable[[], bool]
    rows_after: Callable[[str | int | None, int], list[RowT]]
    sum_between: Callable[[str | int | None, str | int], tuple[int, int]]
    record: Callable[[list[RowT]], None]
    between_pages: Callable[[], None]

    def read_new(self) -> None:
        """Read the rows above the newest Id that has settled, or only those above the highest known one where none came between."""
        catalog = self.context.catalog
        if not self.is_ordered():
            for _ in self._read_pages(None):
                pass
            catalog.facts.set(**{self._fact("reconcile.finished_at"): catalog.database.now().isoformat()})
            return
        settled = catalog.intake.settled_id(self.name, self.context.settings.settle)
        window = self._unchanged_window(settled) or _Window(low=settled, high=settled)
        for rows in self._read_pages(window.high):
            ids = [int(row.id) for row in rows]
            window = _Window(low=settled, high=ids[-1], rows=window.rows + len(ids), total=window.total + sum(ids))
            catalog.intake.mark(self.name, ids[-1])
        catalog.facts.set(**{self._fact("window"): json.dumps([window.low, window.high, window.rows, window.total])})
        if settled is not None:
            catalog.intake.drop_marks_below(self.name, settled)

    def reconcile(self) -> None:
        """Now and then read every row, some pages per poll, going on where the last poll stopped."""
        facts = self.context.catalog.facts.all()
        at_name, cursor_name = self._fact("reconcile.finished_at"), self._fact("reconcile.cursor")
        finished, cursor = facts.get(at_name), facts.get(cursor_name)
        now = self.context.catalog.database.now()
        if finished is None and cursor is None:
            # The first intake has just read every row.
            self.context.catalog.facts.set(**{at_name: now.isoformat()})
            return
        age = now - datetime.fromisoformat(finished) if finished else self.context.settings.reconcile_interval
        if cursor is None and timedelta(0) <= age < self.context.settings.reconcile_interval:
            return
        for _ in range(RECONCILE_PAGES):
            rows = self.rows_after(cursor, PAGE_ROWS)
            if rows:
                self.record(rows)
            if len(rows) < PAGE_ROWS:
                self.context.catalog.facts.set(**{cursor_name: None, at_name: now.isoformat()})
                return
            cursor = rows[-1].id
            self.context.catalog.facts.set(**{cursor_name: cursor})
            self.between_pages()

    def _read_pages(self, last: int | str | None) -> Iterator[Sequence[RowT]]:
        """Take in the rows above `last`, page by page; each page is given when it is in the catalog."""
        while rows := self.rows_after(last, PAGE_ROWS):
            self.record(rows)
            yield rows
            self.between_pages()
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1].id

    def _unchanged_window(self, settled: int | None) -> _Window | None:
        """The window that the last poll left, with `settled` as its new low end; None where a row came or went in it since.

        A sum is an index scan in the database, where reading the rows again would cost the whole way. Asked in this order, a row
        that commits between the two questions shows in the second one.
        """
        saved = self.context.catalog.facts.get(self._fact("window"))
        low, high, *seen = json.loads(saved) if saved else (None, None)
        if high is None:
            return None
        rows, total = self.sum_between(settled, high)
        if list(self.sum_between(low, high)) != seen:
            return None
        return _Window(low=settled, high=high, rows=rows, total=total)

    def _fact(self, name: str) -> str:
        return f"{self.name}.{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The Ids above `low`, which late commits may still join, up to `high`; how many rows were seen, and the sum of their Ids."""

    low: int | None
    high: int | None
    rows: int = 0
    total: int = 0
