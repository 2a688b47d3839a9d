"""Reading one of the application's tables: no row is missed, none is taken for gone that is there, and history costs nothing.

Ids are hints. Rows above the highest known Id are read by each poll, and the newest ones below it as well, since the Ids of removed
rows may be given again, which no sum tells: from there on down, as long as a page has a row that says something else. Those above
the newest Id that has *settled* are looked at again, since Ids commit out of order. Beside that each poll asks what tells at little
cost that the table is another one than was read (how many rows, the sum of their Ids), as often as costs 1 % of the time. If it is,
every row is read: at once, some pages per poll. So is it now and then whatever the sums say, and before anything is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from cbk.edges.source import Fingerprint
from cbk.jobs.context import Context
from cbk.rules.intake.reading import LastRead, is_affordable, is_read_by_each_poll, why_read_all

PAGE_ROWS = 1000
# So many of the newest rows are read again by each poll.
NEWEST_ROWS = 100
# A full read takes so many pages per poll, so that it never keeps new rows waiting for long.
FULL_READ_PAGES = 50

_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class _Row(Protocol):
    @property
    def id(self) -> str: ...


RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[RowT]):
    """One of the application's tables, and the catalog's memory of it.

    `record` puts a page into the catalog and returns how many of its rows are there by then; `record_again` is for rows that are
    most likely known; `say_otherwise` tells whether one of them is known as something else.
    `known_after` gives the next rows that are there as far as the catalog knows, as (entry, Id); `forget` is told of those that are
    gone.
    """

    name: str
    is_ordered: Callable[[], bool]
    rows_after: Callable[[str | int | None, int], list[RowT]]
    newest: Callable[[int, str | int], list[RowT]]
    sum_between: Callable[[str | int | None, str | int], tuple[int, int]]
    fingerprint: Callable[[], Fingerprint]
    existing: Callable[[list[str]], set[str]]
    record: Callable[[list[RowT]], int]
    record_again: Callable[[list[RowT]], object]
    say_otherwise: Callable[[list[RowT]], bool]
    known_after: Callable[[int, int], list[tuple[int, str]]]
    forget: Callable[[list[int]], object]


@dataclass(slots=True)
class _FullRead:
    """A full read that has begun: where it stands, how many rows it met, and of the second part, which entries were asked for."""

    poll: int
    started_at: datetime
    count_at_start: int
    reason: str = ""
    cursor: str | None = None
    read: int = 0
    met: int = 0
    seconds: float = 0.0
    asked_through: int | None = None


@dataclass(slots=True)
class _State:
    """What is remembered of a table between polls."""

    marks: list[tuple[int, datetime]] = field(default_factory=list)
    window: tuple[int | None, int, int, int] | None = None
    under_way: _FullRead | None = None
    last: LastRead | None = None
    # The last full read that ended without doubt: in which poll it began.
    clean_poll: int | None = None
    doubt: str = ""
    # Rows that are counted but can be read by nobody.
    unread: tuple[int, int] = (0, 0)
    asked_at: datetime | None = None
    ask_seconds: float = 0.0
    # The Id from which on down rows are to be read again, since one of them said something else.
    again_from: str | int | None = None

    @property
    def highest(self) -> int | None:
        return self.marks[-1][0] if self.marks else None


class TableReader(Generic[RowT]):
    """Reads one table in one poll, whose number is `poll`. `between_pages` is called between pages."""

    def __init__(self, context: Context, table: Table[RowT], poll: int, between_pages: Callable[[], None]) -> None:
        self._context = context
        self._table = table
        self._poll = poll
        self._between_pages = between_pages
        self._fact = f"{table.name}.reading"
        self._state = _decode(context.catalog.facts.get(self._fact))

    @property
    def clean_poll(self) -> int | None:
        """The poll in which the last full read began that ended without doubt."""
        return self._state.clean_poll

    @property
    def doubt(self) -> str:
        """Why the last full read cannot be believed; "" if it can."""
        return self._state.doubt

    @property
    def knows_what_is_there(self) -> bool:
        """Whether the rows that are there are known, so that what a delete covers is: without an order, a full read tells."""
        state = self._state
        return state.last is not None and (self._table.is_ordered() or state.under_way is None)

    # New rows

    def read_new(self) -> None:
        """Read the rows above the newest Id that has settled, or only those above the highest known one where none came between."""
        if not self._table.is_ordered():
            return
        state, began = self._state, monotonic()
        is_first = state.last is None and not state.marks
        if state.marks and state.last is not None and not is_read_by_each_poll(state.last):
            self._read_newest_again(state.marks[-1][0])
        now = self._context.catalog.now()
        settled = _settled_id(state.marks, now, self._context.settings.settle)
        window = self._unchanged_window(settled) or (settled, settled, 0, 0)
        low, high, count, total = window
        read = 0
        for rows in self._read_pages(high):
            read += len(rows)
            # In SQLite 1.5 may lie between 1 and 2: it is taken in, and counts for no window, which is read anew then.
            ids = [int(row.id) for row in rows if _WHOLE_NUMBER.fullmatch(row.id)]
            if ids:
                high, count, total = ids[-1], count + len(ids), total + sum(ids)
                self._mark(high)
            self._save()
        state.window = None if high is None else (low, high, count, total)
        state.marks = [mark for mark in state.marks if settled is None or mark[0] >= settled] or state.marks[-1:]
        if is_first:
            state.last = LastRead(poll=self._poll, started_at=now, finished_at=now, seconds=monotonic() - began, rows=read)
        self._save()

    def _read_newest_again(self, highest: int) -> None:
        """Read the newest known Ids again, and on down as long as rows say something else than they did.

        Where that goes on is noted before a page is taken in: by then it says nothing new any more.
        """
        state, table = self._state, self._table
        newest = table.newest(NEWEST_ROWS, highest)
        if table.say_otherwise(newest):
            state.again_from = highest
            self._save()
        else:
            table.record_again(newest)
        while state.again_from is not None:
            page = table.newest(PAGE_ROWS, state.again_from)
            table.record_again(page)
            self._between_pages()
            lowest = next((row.id for row in page[:-1] if _WHOLE_NUMBER.fullmatch(row.id)), None)
            is_over = lowest is None or not table.say_otherwise(table.newest(PAGE_ROWS, lowest))
            state.again_from = None if is_over else lowest
            self._save()

    def _read_pages(self, last: int | str | None) -> Iterator[Sequence[RowT]]:
        """Take in the rows above `last`, page by page; each page is given when it is in the catalog."""
        while rows := self._table.rows_after(last, PAGE_ROWS):
            self._table.record(rows)
            yield rows
            self._between_pages()
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1].id

    def _mark(self, highest: int) -> None:
        """All rows up to this Id that were visible now are taken in. Only a higher Id than before is news."""
        state, now = self._state, self._context.catalog.now()
        if state.highest is None or highest > state.highest:
            # A clock that was once ahead must not make rows look settled, or never settle.
            state.marks = [mark for mark in state.marks if mark[1] <= now] + [(highest, now)]

    def _unchanged_window(self, settled: int | None) -> tuple[int | None, int | None, int, int] | None:
        """The window that the last poll left, with `settled` as its new low end; None where a row came or went in it since.

        A sum is an index scan in the database, where reading the rows again would cost the whole way. Asked in this order, a row
        that commits between the two questions shows in the second one.
        """
        if self._state.window is None:
            return None
        low, high, *seen = self._state.window
        count, total = self._table.sum_between(settled, high)
        if list(self._table.sum_between(low, high)) != seen:
            return None
        return settled, high, count, total

    # Every row

    def read_all(self, *, needed: bool) -> None:
        """Where there is a reason to, begin a full read, and go on with the one that has begun, some pages.

        `needed`: something waits to be removed that was noted since the last one began.
        """
        state, settings = self._state, self._context.settings
        now = self._context.catalog.now()
        if state.under_way is None:
            reason = why_read_all(
                state.last,
                poll=self._poll,
                now=now,
                interval=settings.reconcile_interval,
                is_other=self._is_other(now),
                is_ordered=self._table.is_ordered(),
                needed=needed,
            )
            if not reason:
                return
            count = self._table.fingerprint().count
            state.under_way = _FullRead(poll=self._poll, started_at=now, count_at_start=count, reason=reason)
        began = monotonic()
        ended = self._go_on(state.under_way)
        state.under_way.seconds += monotonic() - began
        if ended:
            self._finish(state.under_way)
        self._save()

    def _is_other(self, now: datetime) -> bool:
        """Whether the table is not what was read of it: asked at each poll, or as often as costs a hundredth of the time."""
        state, table = self._state, self._table
        if state.last is None or not is_affordable(state.asked_at, state.ask_seconds, now):
            return False
        began = monotonic()
        known = self._context.catalog.rows.counters(table.name)
        if table.is_ordered() and state.highest is not None:
            # Rows that came just now are above it.
            found = table.sum_between(None, state.highest)
            is_other = found != (known.count, known.total)
        else:
            is_other = table.fingerprint().count - state.unread[0] != known.count
        state.asked_at, state.ask_seconds = now, monotonic() - began
        self._save()
        return is_other

    def _go_on(self, read: _FullRead) -> bool:
        """Read pages; whether that was the end."""
        for _ in range(FULL_READ_PAGES):
            if read.asked_through is None:
                rows = self._table.rows_after(read.cursor, PAGE_ROWS)
                read.met += self._table.record(rows) if rows else 0
                read.read += len(rows)
                if rows:
                    read.cursor = rows[-1].id
                if len(rows) < PAGE_ROWS:
                    if read.met >= self._context.catalog.rows.counters(self._table.name).count:
                        return True
                    read.asked_through = 0
            elif self._ask(read):
                return True
            self._save()
            self._between_pages()
        return False

    def _ask(self, read: _FullRead) -> bool:
        """More rows are known than were met: ask for some of them by their Ids; whether these were the last."""
        assert read.asked_through is not None
        known = self._table.known_after(read.asked_through, PAGE_ROWS)
        there = self._table.existing([row_id for _, row_id in known]) if known else set()
        gone = [entry for entry, row_id in known if row_id not in there]
        if gone:
            self._table.forget(gone)
        if known:
            read.asked_through = known[-1][0]
        return len(known) < PAGE_ROWS

    def _finish(self, read: _FullRead) -> None:
        state, table = self._state, self._table
        found = table.fingerprint()
        known = self._context.catalog.rows.counters(table.name)
        now = self._context.catalog.now()
        state.under_way = None
        state.last = LastRead(poll=read.poll, started_at=read.started_at, finished_at=now, seconds=read.seconds, rows=read.read)
        state.doubt = ""
        if found.count == read.count_at_start:
            missed = found.count - read.read
            state.unread = (found.count - known.count, 0)
            if missed > 0:
                state.doubt = f"{missed} of the {found.count} rows of {table.name} cannot be read by their Id"
            if found.total is not None:
                self._context.catalog.rows.correct_total(table.name, found.count - found.unaddressable, found.total)
        if not state.doubt:
            state.clean_poll = read.poll
        if table.is_ordered() and state.marks:
            # The highest Id may be lower than it was: rows above that are new ones.
            highest = found.highest if found.highest is not None else state.marks[0][0] - 1
            if highest < state.marks[-1][0]:
                state.marks = [(highest, now)] if found.highest is not None else []
                state.window = None

    def _save(self) -> None:
        self._context.catalog.facts.set(**{self._fact: _encode(self._state)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a table was read: the last full read, the poll of the last one without doubt, the doubt, and the one that is under way.

    `since` is when that one began and `why` why, None and "" if none is.
    """

    last: LastRead | None
    clean_poll: int
    doubt: str
    since: datetime | None
    why: str


def reading_of(context: Context, name: str) -> Reading:
    """How "files" or "deletes" was read. A poll that reads every row for the first time has number 0 as its clean one."""
    state = _decode(context.catalog.facts.get(f"{name}.reading"))
    under_way = state.under_way
    return Reading(
        last=state.last,
        clean_poll=state.clean_poll or 0,
        doubt=state.doubt,
        since=under_way.started_at if under_way else None,
        why=under_way.reason if under_way else "",
    )


def _settled_id(marks: list[tuple[int, datetime]], now: datetime, settle: timedelta) -> int | None:
    """The highest Id that was seen at least `settle` ago: rows up to it are taken in for good. None: nothing is yet."""
    return max((highest for highest, seen_at in marks if seen_at <= now - settle), default=None)


def _encode(state: _State) -> str:
    def text(value: object) -> object:
        return value.isoformat() if isinstance(value, datetime) else value

    def values(thing: object) -> dict[str, object] | None:
        if thing is None:
            return None
        return {name: text(getattr(thing, name)) for name in thing.__dataclass_fields__}  # type: ignore[attr-defined]

    return json.dumps(
        {
            "marks": [[highest, seen_at.isoformat()] for highest, seen_at in state.marks],
            "window": state.window,
            "under_way": values(state.under_way),
            "last": values(state.last),
            "clean_poll": state.clean_poll,
            "doubt": state.doubt,
            "unread": state.unread,
            "asked_at": text(state.asked_at),
            "ask_seconds": state.ask_seconds,
            "again_from": state.again_from,
        }
    )


def _decode(value: str | None) -> _State:
    if value is None:
        return _State()
    noted: dict[str, Any] = json.loads(value)

    def instant(text: str | None) -> datetime | None:
        return None if text is None else datetime.fromisoformat(text)

    def dated(fields: dict[str, Any] | None) -> dict[str, Any] | None:
        return fields and {
            name: datetime.fromisoformat(each) if name.endswith("_at") and isinstance(each, str) else each
            for name, each in fields.items()
        }

    under_way, last = dated(noted["under_way"]), dated(noted["last"])
    return _State(
        marks=[(highest, datetime.fromisoformat(seen_at)) for highest, seen_at in noted["marks"]],
        window=tuple(noted["window"]) if noted["window"] else None,
        under_way=_FullRead(**under_way) if under_way else None,
        last=LastRead(**last) if last else None,
        clean_poll=noted["clean_poll"],
        doubt=noted["doubt"],
        unread=tuple(noted["unread"]),
        asked_at=instant(noted["asked_at"]),
        ask_seconds=noted["ask_seconds"],
        again_from=noted.get("again_from"),
    )
