"""A row for each upload, and one for each delete, in the application's own transaction.

    recorder = Recorder(storage="s3", link=links.link)

    with engine.begin() as connection:
        body = Hashing(request.files["photo"].stream)
        s3.upload_fileobj(body, "car-erp", "cars/id-1/photo.jpg")
        recorder.record_upload(connection, "cars/id-1/photo.jpg", body)

`connection` is a SQLAlchemy connection or session, Django's connection or one of a database driver (PEP 249): the row stands or
falls with what the application writes beside it. A recorder keeps no state: threads may share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from cbk_app.contract import clean_hash, key_spellings, object_key, split_key
from cbk_app.errors import AppError
from cbk_app.sql import Session, open_session

# So often another transaction may take the version that was meant, before we give up.
ATTEMPTS = 200
LOCK_SECONDS = 30

_COLUMNS = '"Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl"'


class Hashing:
    """A stream that hashes what is read from it: hand it to whoever uploads, then to `record_upload`.

    It can be read once, from its beginning to its end, and not be sought: what was read twice would be hashed twice.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size`; all that is left if that is negative; none at the end."""
        chunk = self._stream.read(size)
        self._digest.update(chunk)
        self.size += len(chunk)
        return chunk

    def readable(self) -> bool:
        """True: it is for reading."""
        return True

    def seekable(self) -> bool:
        """False: see above."""
        return False

    def sha256(self) -> str:
        """The hash of the whole stream, in hex. Raise ValueError if it was not read to its end: its hash is not known then."""
        if self.read(1):
            raise ValueError(f"only {self.size - 1} bytes of the stream were uploaded, and there are more")
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A row that was written."""

    id: int
    version: int
    hash: str


@dataclass(frozen=True, slots=True)
class _Row:
    storage: str
    path: str
    name: str
    hash: str
    link: str
    content_type: str | None


class Recorder:
    """Writes the rows of one storage.

    `link` gives the address under which the kit fetches a key, best a permanent one; without it each upload has to bring its own.
    """

    def __init__(self, *, storage: str, link: Callable[[str], str] | None = None) -> None:
        self.storage = storage
        self._link = link

    def record_upload(
        self,
        connection: Any,
        key: str,
        content: Hashing | bytes | None = None,
        *,
        hash: str | None = None,  # noqa: A002 - the column's name
        version: int | None = None,
        link: str | None = None,
        content_type: str | None = None,
    ) -> Recorded:
        """Record that the object `key` can be downloaded, and return its row.

        Its hash is that of `content`, or `hash`, a SHA-256 (see `clean_hash`). The version is the next one of the key unless the
        caller counts by itself. Raise ValueError for a hash or a key that the contract does not know, and without any.
        """
        if content is None and hash is None:
            raise ValueError("neither the content nor its hash is given")
        known = hash_of(content) if content is not None else clean_hash(str(hash))
        path, name = split_key(key)
        if link is None:
            if self._link is None:
                raise ValueError(f"no link to {key!r}, and nobody who makes one")
            link = self._link(key)
        row = _Row(self.storage, path, name, known, link, content_type)
        database = open_session(connection)
        if version is None:
            return _insert_next(database, row, key)
        return Recorded(id=_insert(database, row, version), version=version, hash=known)

    def record_delete(self, connection: Any, key: str) -> int:
        """Record that the object `key` was deleted, all of its versions, and return the log row's Id.

        Removing that row before the kit's grace period ends takes the delete back. Raise LookupError if no row speaks of `key`.
        """
        database = open_session(connection)
        rows = rows_of_key(database, self.storage, key)
        if not rows:
            raise LookupError(f"no row of {self.storage}/{key}")
        newest = max(rows, key=lambda row: (row.version, row.id))
        return log_delete(connection, newest.id)


def hash_of(content: Hashing | bytes) -> str:
    """The SHA-256 of what was uploaded, in hex."""
    return content.sha256() if isinstance(content, Hashing) else hashlib.sha256(content).hexdigest()


def log_delete(connection: Any, file_id: int) -> int:
    """Record that the file of the row `file_id` was deleted, with the versions up to that row's; return the log row's Id."""
    log_id = open_session(connection).insert('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (?)', [file_id])
    assert log_id is not None
    return log_id


def refresh_link(connection: Any, file_id: int, link: str) -> None:
    """Replace the link of row `file_id`, whose old one has died or will soon. Raise LookupError if there is no such row."""
    database = open_session(connection)
    if not database.run('SELECT 1 FROM "ObjectStorageFiles" WHERE "Id" = ?', [file_id]):
        raise LookupError(f"no row with Id {file_id}")
    database.run('UPDATE "ObjectStorageFiles" SET "SignedDownloadUrl" = ? WHERE "Id" = ?', [link, file_id])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A row that speaks of a key."""

    id: int
    version: int


def rows_of_key(database: Session, storage: str, key: str) -> list[KeyRow]:
    """All rows of one object, wherever their Path ends and their Name begins."""
    condition, parameters = _about_key(storage, key)
    found = database.run(f'SELECT "Id", "Path", "Name", "Version" FROM "ObjectStorageFiles" WHERE {condition}', parameters)
    return [KeyRow(id=int(row_id), version=int(version)) for row_id, path, name, version in found if object_key(path, name) == key]


def _about_key(storage: str, key: str) -> tuple[str, list[object]]:
    """The condition for all rows of a key, and perhaps of a few others: those whose halves are halves of this one."""
    names, paths = key_spellings(key)
    condition = f'"Storage" = ? AND "Name" IN ({_marks(names)}) AND ("Path" IN ({_marks(paths)}) OR "Path" IS NULL)'
    return condition, [storage, *names, *paths]


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _insert(database: Session, row: _Row, version: int) -> int:
    """Insert `row` with that version and return its Id."""
    statement, parameters = _insertion(row, "?", [version])
    row_id = database.insert(statement, parameters)
    assert row_id is not None
    return row_id


def _insertion(row: _Row, version: str, parameters: list[object], *, source: str = "") -> tuple[str, list[object]]:
    """The INSERT of `row`; its Version is the SQL expression `version`, and `parameters` are those of that and of `source`."""
    columns, last = _COLUMNS, [row.hash, row.link]
    if row.content_type is not None:  # the column is optional
        columns, last = f'{columns}, "ContentType"', [*last, row.content_type]
    marks = ", ".join("?" * len(last))
    values = f"?, ?, ?, {version}, {marks}"
    statement = f'INSERT INTO "ObjectStorageFiles" ({columns}) ' + (f"SELECT {values}{source}" if source else f"VALUES ({values})")
    return statement, [row.storage, row.path, row.name, parameters[0], *last, *parameters[1:]]


def _insert_next(database: Session, row: _Row, key: str) -> Recorded:
    """Insert `row` with the next version of its key; if another transaction takes that one meanwhile, with the one after."""
    step, highest = 1, 0 if database.kind == "sqlite" else _highest(database, row.storage, key)
    with _in_turn(database, row.storage, key):
        for _ in range(ATTEMPTS):
            try:
                with database.attempt():
                    row_id = _insert_above(database, row, key, highest, step)
            except Exception as error:
                if not database.is_conflict(error):
                    raise
                # A transaction that sees the database as it was at its beginning never sees who took the version: go past it.
                before, highest = highest, _highest(database, row.storage, key)
                step = step + 1 if highest == before else 1
                continue
            ((version,),) = database.run('SELECT "Version" FROM "ObjectStorageFiles" WHERE "Id" = ?', [row_id])
            return Recorded(id=row_id, version=int(version), hash=row.hash)
    raise AppError(f"{ATTEMPTS} times somebody else took the next version of {row.storage}/{key}", hint="try again")


def _insert_above(database: Session, row: _Row, key: str, highest: int, step: int) -> int:
    """Insert `row` so many steps above the highest version, and return its Id."""
    if database.kind != "sqlite":
        return _insert(database, row, highest + step)
    # One statement looks and inserts, so that SQLite has its lock for writing before it looks.
    condition, parameters = _about_key(row.storage, key)
    source = f' FROM "ObjectStorageFiles" WHERE {condition}'
    statement, parameters = _insertion(row, 'COALESCE(MAX("Version"), 0) + ?', [step, *parameters], source=source)
    row_id = database.insert(statement, parameters)
    assert row_id is not None
    return row_id


@contextmanager
def _in_turn(database: Session, storage: str, key: str) -> Iterator[None]:
    """On MySQL, writers of one key come one by one: of several that find a version taken, all but one would have to die.

    InnoDB gives each of them a shared lock on the row that was there first, and then none of them the lock for its own.
    """
    if database.kind != "mysql":
        yield
        return
    name = "cbk-" + hashlib.sha256(f"{storage}\n{key}".encode()).hexdigest()[:40]
    ((got,),) = database.run("SELECT GET_LOCK(?, ?)", [name, LOCK_SECONDS])
    if got != 1:
        raise AppError(f"others have written versions of {storage}/{key} for {LOCK_SECONDS} s", hint="try again")
    try:
        yield
    finally:
        database.run("SELECT RELEASE_LOCK(?)", [name])


def _highest(database: Session, storage: str, key: str) -> int:
    return max((each.version for each in rows_of_key(database, storage, key)), default=0)
