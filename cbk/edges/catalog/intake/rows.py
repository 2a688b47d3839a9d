"""What each row of the application's table said when it was last read, and which of them are gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches
from cbk.edges.catalog.database.schema import covers, facts, files, rows, versions
from cbk.edges.catalog.database.transitions import refresh_versions
from cbk.model import AcceptedRow, Proof, RowEntry
from cbk.rules.backup.hashes import Hashes, proof_of

FILES_STREAM = "files"
DELETES_STREAM = "deletes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """How many rows of a table are there as far as they were read, and the sum of their Ids where these are numbers."""

    count: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentRow:
    """A row that is there, and what it says, its Hash as in `AcceptedRow.hash`: None where it was declined.

    `version_id` is what it brings; `sha256` and `md5` are those of the bytes that this version has, or had: "" if it had none.
    """

    entry_id: int
    source_id: str
    says: tuple[str, str, int, str] | None
    created_at: str | None = None
    version_id: int | None = None
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restated:
    """A row that says the same of its bytes in other words: `row` is as it reads now, `entry` as it was known."""

    entry: PresentRow
    row: AcceptedRow


_ENTRY_COLUMNS = (
    rows.c.id,
    rows.c.source_id,
    rows.c.file_id,
    rows.c.version_id,
    rows.c.number,
    rows.c.poll,
    rows.c.gone_at,
    rows.c.created_at,
)


def select_entries() -> sa.Select[Any]:
    """Entries of rows: what `entry_of` reads."""
    return sa.select(*_ENTRY_COLUMNS)


def entry_of(row: Any) -> RowEntry:
    """A `RowEntry` from a row of `select_entries`."""
    return RowEntry(
        id=row.id,
        source_id=row.source_id,
        file_id=row.file_id,
        version_id=row.version_id,
        number=row.number,
        poll=row.poll,
        present=row.gone_at is None,
        created_at=row.created_at,
    )


class Rows:
    """Rows as they were read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def present(self, source_ids: Iterable[str]) -> dict[str, list[PresentRow]]:
        """The rows with these Ids that are there, as far as is known."""
        found: dict[str, list[PresentRow]] = {}
        columns = (
            rows.c.id,
            rows.c.source_id,
            rows.c.created_at,
            files.c.storage,
            files.c.key,
            versions.c.number,
            versions.c.sha256,
            rows.c.claim,
            versions.c.id.label("version_id"),
            versions.c.md5,
            versions.c.stored_at,
        )
        with_versions = rows.outerjoin(versions, versions.c.id == rows.c.version_id)
        joined = sa.select(*columns).select_from(with_versions.outerjoin(files, files.c.id == versions.c.file_id))
        with self._database.reading() as connection:
            for batch in in_batches(list(source_ids)):
                query = joined.where(rows.c.source_id.in_(batch), rows.c.gone_at.is_(None))
                for found_row in connection.execute(query):
                    found.setdefault(found_row.source_id, []).append(_present(found_row))
        return found

    def note_dates(self, dates: dict[int, str | None]) -> None:
        """CreatedAt of these entries as it reads now."""
        with self._database.writing() as connection:
            for entry_id, created_at in sorted(dates.items()):
                connection.execute(sa.update(rows).where(rows.c.id == entry_id).values(created_at=created_at))

    def restate(self, restated: Iterable[Restated]) -> None:
        """Note what these rows say now of bytes that are known, and that these are proved by it, if it proves more."""
        with self._database.writing() as connection:
            for each in sorted(restated, key=lambda one: one.entry.entry_id):
                claim = None if each.row.sha256 else each.row.hash
                connection.execute(sa.update(rows).where(rows.c.id == each.entry.entry_id).values(claim=claim))
                proof = proof_of(Hashes(sha256=each.row.sha256, md5=each.row.md5))
                weaker = [other.value for other in Proof if other.strength < proof.strength]
                ours = (versions.c.id == each.entry.version_id, versions.c.proof.in_(weaker))
                connection.execute(sa.update(versions).where(*ours).values(proof=proof.value))

    def under_ids(self, source_ids: Iterable[str]) -> dict[str, list[RowEntry]]:
        """Every entry that there ever was under these Ids, by Id."""
        found: dict[str, list[RowEntry]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(source_ids)):
                for row in connection.execute(select_entries().where(rows.c.source_id.in_(batch))):
                    found.setdefault(row.source_id, []).append(entry_of(row))
        return found

    def of_files(self, file_ids: Iterable[int]) -> dict[int, list[RowEntry]]:
        """Every entry of these files, by file."""
        found: dict[int, list[RowEntry]] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(file_ids)):
                for row in connection.execute(select_entries().where(rows.c.file_id.in_(batch))):
                    found.setdefault(row.file_id, []).append(entry_of(row))
        return found

    def after(self, entry_id: int, limit: int) -> list[tuple[int, str]]:
        """The next rows that are there as far as is known, as (entry, Id), in the order of their entries."""
        query = sa.select(rows.c.id, rows.c.source_id).where(rows.c.id > entry_id, rows.c.gone_at.is_(None)).order_by(rows.c.id)
        with self._database.reading() as connection:
            return [(row.id, row.source_id) for row in connection.execute(query.limit(limit))]

    def mark_gone(self, entry_ids: Iterable[int]) -> set[int]:
        """These rows are not there any more; returns the files whose versions that changes."""
        changed: set[int] = set()
        with self._database.writing() as connection:
            for batch in in_batches(sorted(entry_ids)):
                changed |= mark_gone(self._database, connection, batch)
        return changed

    def take_out(self, entry_ids: Iterable[int]) -> set[int]:
        """Rows that are to be taken in anew, as if they had not been read; returns the files whose versions that changes."""
        changed: set[int] = set()
        with self._database.writing() as connection:
            for batch in in_batches(sorted(entry_ids)):
                changed |= mark_gone(self._database, connection, batch)
                touched = set(connection.scalars(sa.select(rows.c.version_id).where(rows.c.id.in_(batch))))
                connection.execute(sa.delete(rows).where(rows.c.id.in_(batch)))
                changed |= refresh_versions(self._database, connection, touched)
        return changed

    def silent_beside(self, entry_ids: Iterable[int], poll: int) -> dict[int, str]:
        """Ids by entry: rows without a Hash, not deleted, that `poll` saw first and that speak of a version of one of these."""
        found: dict[int, str] = {}
        with self._database.reading() as connection:
            for batch in in_batches(sorted(entry_ids)):
                versions_of = sa.select(rows.c.version_id).where(rows.c.id.in_(batch))
                uncovered = ~sa.exists().where(covers.c.row_id == rows.c.id)
                silent = (rows.c.claim == "", rows.c.poll == poll, rows.c.gone_at.is_(None), uncovered)
                query = sa.select(rows.c.id, rows.c.source_id).where(rows.c.version_id.in_(versions_of), *silent)
                found |= {row.id: row.source_id for row in connection.execute(query)}
        return found

    def counters(self, stream: str) -> Counters:
        """What was read of a table and is there, counted."""
        with self._database.reading() as connection:
            return _counters_in(connection, stream)

    def correct_total(self, stream: str, count: int, total: int) -> None:
        """The sum of a table's Ids as it is, if it has as many rows as were counted."""
        with self._database.writing() as connection:
            known = _counters_in(connection, stream)
            if known.count == count and known.total != total:
                count_rows(connection, stream, 0, total - known.total)

    def were_ever_seen(self) -> bool:
        """Whether any row of the files table was ever read."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(rows.c.id).limit(1)) is not None

    def of_version(self, version_id: int) -> list[RowEntry]:
        """Every entry that brought this version."""
        with self._database.reading() as connection:
            return [entry_of(row) for row in connection.execute(select_entries().where(rows.c.version_id == version_id))]


def _present(row: Any) -> PresentRow:
    said = row.sha256 if row.claim is None else row.claim
    had_bytes = row.number is not None and row.stored_at is not None
    return PresentRow(
        entry_id=row.id,
        source_id=row.source_id,
        says=None if row.number is None else (row.storage, row.key, row.number, said),
        created_at=row.created_at,
        version_id=row.version_id,
        sha256=row.sha256 if had_bytes else "",
        md5=row.md5 if had_bytes else "",
    )


def mark_gone(database: Database, connection: sa.Connection, entry_ids: Sequence[int]) -> set[int]:
    """As `Rows.mark_gone`, for at most a batch, in the caller's transaction."""
    query = sa.select(rows.c.id, rows.c.source_id, rows.c.version_id).where(rows.c.id.in_(entry_ids), rows.c.gone_at.is_(None))
    found = connection.execute(query.with_for_update()).all()
    if not found:
        return set()
    ids = [row.id for row in found]
    connection.execute(sa.update(rows).where(rows.c.id.in_(ids)).values(gone_at=database.now_sql))
    count_rows(connection, FILES_STREAM, -len(found), -sum(number_in(row.source_id) for row in found))
    return refresh_versions(database, connection, {row.version_id for row in found if row.version_id is not None})


def count_rows(connection: sa.Connection, stream: str, count: int, total: int) -> None:
    """Keep the counters of a table, in the transaction that changes what they count."""
    if not count and not total:
        return
    name = _counters_name(stream)
    value = connection.scalar(sa.select(facts.c.value).where(facts.c.name == name).with_for_update())
    before = _counters_from(value)
    text = json.dumps([before.count + count, before.total + total])
    if value is None:
        connection.execute(sa.insert(facts).values(name=name, value=text))
    else:
        connection.execute(sa.update(facts).where(facts.c.name == name).values(value=text))


def number_in(source_id: str) -> int:
    """An Id as a number, 0 where it is none: what a table's sum is made of."""
    try:
        return int(source_id)
    except ValueError:
        return 0


def uncover(connection: sa.Connection, removal_ids: Sequence[int]) -> set[int]:
    """These deletes cover nothing any more; returns the versions whose rows they covered."""
    of_removals = covers.c.removal_id.in_(removal_ids)
    query = sa.select(rows.c.version_id).join_from(covers, rows).where(of_removals, rows.c.version_id.is_not(None))
    touched = set(connection.scalars(query))
    connection.execute(sa.delete(covers).where(of_removals))
    return touched


def _counters_name(stream: str) -> str:
    return f"{stream}.counters"


def _counters_in(connection: sa.Connection, stream: str) -> Counters:
    return _counters_from(connection.scalar(sa.select(facts.c.value).where(facts.c.name == _counters_name(stream))))


def _counters_from(value: str | None) -> Counters:
    count, total = json.loads(value) if value else (0, 0)
    return Counters(count=count, total=total)
