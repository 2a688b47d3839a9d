"""Rows for the objects that were in the bucket before: what has a row is skipped, the rest is hashed and recorded.

Gather, decide, apply: a page of the listing, and what is known of its keys; `decide` says what each object needs; workers hash, and
the rows of what they hashed are written together. A run that was killed is simply run again: it skips what it wrote.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from sqlalchemy import Engine

from cbk_app.contract import INVENTORY_KEY, NamingError, clean_hash, split_key
from cbk_app.errors import ObjectGone, StoreError
from cbk_app.recorder import Recorder
from cbk_app.rows import KnownRow, RowReader
from cbk_app.sql import open_session
from cbk_app.stores.store import Store, StoredObject

logger = logging.getLogger(__name__)

PAGE_OBJECTS = 500
ROWS_PER_TRANSACTION = 100
WORKERS = 8
# So many objects wait for each worker, so that none is idle and none piles up.
WAITING_PER_WORKER = 4
READ_ATTEMPTS = 3


class Need(StrEnum):
    """What an object needs."""

    ROW = "row"  # it has none, or was written again after it had been deleted
    LOOK = "look"  # it was written after its row: other content needs another version
    NOTHING = "nothing"
    DELETED = "deleted"  # the application logged its delete, and has not removed it
    SKIP = "skip"  # a folder's marker, or an inventory of ours
    UNNAMEABLE = "unnameable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An object and what it needs; `row` is the newest one that speaks of it."""

    found: StoredObject
    need: Need
    row: KnownRow | None = None


def decide(found: StoredObject, row: KnownRow | None) -> Wanted:
    """What an object needs, from its listing and its newest row. Dates only ever make us look, never forget."""
    try:
        split_key(found.key)
    except NamingError:
        return Wanted(found=found, need=Need.UNNAMEABLE if found.size else Need.SKIP)
    if found.key == INVENTORY_KEY:
        return Wanted(found=found, need=Need.SKIP)
    if row is None:
        return Wanted(found=found, need=Need.ROW)
    if row.deleted:
        created_again = row.deleted_at is not None and found.modified > row.deleted_at
        return Wanted(found=found, need=Need.ROW if created_again else Need.DELETED, row=row)
    written_since = row.created_at is not None and found.modified > row.created_at
    return Wanted(found=found, need=Need.LOOK if written_since else Need.NOTHING, row=row)


@dataclass(slots=True, kw_only=True)
class Survey:
    """What there is to do: how many objects need what, and the bytes that may have to be read."""

    objects: int = 0
    needs: dict[Need, int] = field(default_factory=lambda: dict.fromkeys(Need, 0))
    bytes: int = 0
    unnameable: list[str] = field(default_factory=list)

    @property
    def to_read(self) -> int:
        """How many objects are to be looked at."""
        return self.needs[Need.ROW] + self.needs[Need.LOOK]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an import did. `failed` are keys with their reasons; `by_store` are hashes that the store itself knew."""

    recorded: int = 0
    unchanged: int = 0
    gone: int = 0
    by_store: int = 0
    bytes_read: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


class Importer:
    """One import. `link` gives the address of a key for its row; `bytes_per_second` bounds what all workers read together."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        storage: str,
        link: Callable[[str], str],
        prefix: str = "",
        workers: int = WORKERS,
        bytes_per_second: float | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._storage = storage
        self._recorder = Recorder(storage=storage, link=link)
        self._prefix = prefix
        self._workers = workers
        self._pacer = Pacer(bytes_per_second)

    def survey(self, report: Callable[[Survey], None] = lambda _: None) -> Survey:
        """List everything and count, without reading or writing anything; `report` is called after each page."""
        survey = Survey()
        for page in self._pages():
            for wanted in page:
                survey.objects += 1
                survey.needs[wanted.need] += 1
                if wanted.need in {Need.ROW, Need.LOOK}:
                    survey.bytes += wanted.found.size
                if wanted.need is Need.UNNAMEABLE:
                    survey.unnameable.append(wanted.found.key)
            report(survey)
        return survey

    def run(self, report: Callable[[Outcome], None] = lambda _: None) -> Outcome:
        """Hash and record what needs it; `report` is called after each transaction."""
        outcome = Outcome()
        hashed: list[Hashed] = []
        with ThreadPoolExecutor(self._workers, thread_name_prefix="cbk-import") as pool:
            for result in _windowed(pool, self._hash, self._all_wanted(outcome), self._workers * WAITING_PER_WORKER):
                hashed.append(result)
                if len(hashed) == ROWS_PER_TRANSACTION:
                    self._record(hashed, outcome)
                    hashed = []
                    report(outcome)
        self._record(hashed, outcome)
        report(outcome)
        return outcome

    def _all_wanted(self, outcome: Outcome) -> Iterator[Wanted]:
        for page in self._pages():
            for wanted in page:
                if wanted.need in {Need.ROW, Need.LOOK}:
                    yield wanted
                elif wanted.need is Need.UNNAMEABLE:
                    outcome.failed.append((wanted.found.key, "a row cannot name it: its key ends with a slash"))

    def _pages(self) -> Iterator[list[Wanted]]:
        objects = self._store.objects(self._prefix)
        while page := list(islice(objects, PAGE_OBJECTS)):
            with self._engine.connect() as connection:
                rows = RowReader(connection).newest(self._storage, [found.key for found in page])
            yield [decide(found, rows.get(found.key)) for found in page]

    def _hash(self, wanted: Wanted) -> Hashed:
        found = wanted.found
        try:
            if known := self._store.sha256(found):
                return Hashed(wanted=wanted, sha256=known, by_store=True)
            return Hashed(wanted=wanted, sha256=self._read(found), size=found.size)
        except ObjectGone:
            return Hashed(wanted=wanted, gone=True)
        except StoreError as error:
            return Hashed(wanted=wanted, reason=str(error))

    def _read(self, found: StoredObject) -> str:
        for attempt in range(1, READ_ATTEMPTS + 1):
            digest, size = hashlib.sha256(), 0
            try:
                for chunk in self._store.read(found):
                    self._pacer.wait_for(len(chunk))
                    digest.update(chunk)
                    size += len(chunk)
            except ObjectGone:
                raise
            except StoreError:
                if attempt == READ_ATTEMPTS:
                    raise
                continue
            if size == found.size:
                return digest.hexdigest()
        raise StoreError(f"{size} bytes came, and the listing says {found.size}", hint="run the command again")

    def _record(self, hashed: list[Hashed], outcome: Outcome) -> None:
        """Write the rows of what was hashed in one transaction, but for what somebody else has recorded meanwhile."""
        with self._engine.begin() as connection:
            known = RowReader(connection).newest(self._storage, [each.wanted.found.key for each in hashed])
            for each in hashed:
                outcome.bytes_read += each.size
                outcome.by_store += each.by_store
                found, row = each.wanted.found, known.get(each.wanted.found.key)
                if each.gone:
                    outcome.gone += 1
                elif each.sha256 is None:
                    outcome.failed.append((found.key, each.reason))
                elif row != each.wanted.row or (row is not None and not row.deleted and _is_same(row.hash, each.sha256)):
                    outcome.unchanged += 1
                elif self._recorded(connection, found, each.sha256, 1 if row is None else row.version + 1):
                    outcome.recorded += 1
                else:
                    outcome.unchanged += 1

    def _recorded(self, connection: object, found: StoredObject, sha256: str, version: int) -> bool:
        """Whether the row was written; not if that version of the key appeared at this very moment."""
        database = open_session(connection)
        try:
            with database.attempt():
                self._recorder.record_upload(connection, found.key, hash=sha256, version=version)
        except Exception as error:
            if not database.is_conflict(error):
                raise
            return False
        return True


def _is_same(hash_of_row: str | None, sha256: str) -> bool:
    """Whether a row's Hash names these bytes; one that is no SHA-256 does not say."""
    try:
        return hash_of_row is not None and clean_hash(hash_of_row) == sha256
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """What became of one object: its hash, or that it is gone, or why it could not be read."""

    wanted: Wanted
    sha256: str | None = None
    by_store: bool = False
    size: int = 0
    gone: bool = False
    reason: str = ""


class Pacer:
    """Holds readers back so that together they read so many bytes a second."""

    def __init__(
        self,
        bytes_per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def wait_for(self, size: int) -> None:
        """Wait until these bytes fit; returns at once if there is no limit."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + size / self._rate
            delay = self._free_at - now
        if delay > 0:
            self._sleep(delay)


def _windowed(pool: ThreadPoolExecutor, work: Callable[[Wanted], Hashed], items: Iterator[Wanted], window: int) -> Iterator[Hashed]:
    """What `work` makes of each item, as it gets done; never more than `window` of them are under way or waiting."""
    pending: set[Future[Hashed]] = set()
    try:
        for item in items:
            pending.add(pool.submit(work, item))
            if len(pending) >= window:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
    finally:
        for each in pending:
            each.cancel()
