"""Taking in rows: what is known of them, and writing what a plan adds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database, in_batches
from cbk.edges.catalog.database.schema import covers, declined, dumps, files, removals, rows, versions
from cbk.edges.catalog.database.transitions import FREE, mark_newest, refresh_versions
from cbk.edges.catalog.intake.rows import FILES_STREAM, count_rows, mark_gone, number_in
from cbk.errors import CatalogUnavailable
from cbk.model import DeclinedRow, Proof, VersionState
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.dump.records import roles_folder
from cbk.rules.intake.intake import Content, FileName, IntakePlan, KnownVersion
from cbk.rules.intake.layout import UNKNOWN_VARIANT, place_key, variant_of
from cbk.rules.intake.rows import ID_MAX_CHARACTERS


def name_digest(storage: str, key: str) -> str:
    """The SHA-256, in hex, that a file is unique by. No two names have one, wherever a NUL is in them."""
    text = f"{storage}\0{key}" if "\0" not in storage else f"\0{len(storage)}\0{storage}\0{key}"
    return _digest(text)


def place_digest(key_of_place: str) -> str:
    """The SHA-256, in hex, that a place is unique by, from its `layout.place_key`."""
    return _digest(key_of_place)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A row that was declined, with the file and the Version that it speaks of, as far as they make sense."""

    row: DeclinedRow
    name: FileName | None = None
    number: int | None = None
    created_at: str | None = None


@dataclass(slots=True, kw_only=True)
class RowChanges:
    """What a page of rows changes: what `plan` adds, what was `refused`, and the entries that are `gone`.

    `created_at` has the accepted rows' own dates, by Id; `entries` the entries that rows have already which were declined before,
    or which were taken for rows of another file: these are `moved`.
    """

    plan: IntakePlan
    refused: Sequence[RefusedRow] = ()
    gone: Sequence[int] = ()
    created_at: Mapping[str, str | None] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    moved: Sequence[int] = ()
    poll: int = 0


class Intake:
    """Files and versions on their way into the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known_versions(
        self, names: Iterable[FileName], numbers: AbstractSet[int], without: Iterable[int] = ()
    ) -> dict[FileName, list[KnownVersion]]:
        """The versions with these numbers of those of these files that are known, as if the entries `without` were gone."""
        digests = {name_digest(*name): name for name in names}
        known: dict[FileName, list[KnownVersion]] = {}
        ignored = set(without)
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                columns = (files.c.name_digest, versions.c.id, versions.c.number, versions.c.sha256, versions.c.variant)
                proof = (versions.c.md5, versions.c.proof, versions.c.deleted, versions.c.stored_at)
                state = (versions.c.state, versions.c.leftover, *proof)
                ours = (versions.c.file_id == files.c.id) & versions.c.number.in_(numbers)
                query = sa.select(*columns, *state).join_from(files, versions, ours, isouter=True)
                found = connection.execute(query.where(files.c.name_digest.in_(batch))).all()
                live = _live_rows(connection, [row.id for row in found if row.id is not None], ignored)
                for row in found:
                    listed = known.setdefault(digests[row.name_digest], [])
                    if row.id is None:
                        continue
                    listed.append(
                        KnownVersion(
                            number=row.number,
                            sha256=row.sha256,
                            md5=row.md5,
                            proof=Proof(row.proof),
                            deleted=row.deleted,
                            was_stored=row.stored_at is not None,
                            live_rows=frozenset(live.get(row.id, ())),
                            has_plain_name=row.variant == "" and (row.state != VersionState.PRUNED.value or row.leftover),
                        )
                    )
        return known

    def occupied_places(self, place_keys: Iterable[str]) -> set[str]:
        """Of these place keys, those that are a file's or a dump's already."""
        digests = {place_digest(place): place for place in place_keys}
        taken: set[str] = set()
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                query = sa.select(files.c.place_digest).where(files.c.place_digest.in_(batch))
                taken.update(digests[digest] for digest in connection.scalars(query))
            for place in connection.scalars(sa.select(dumps.c.place)):  # a handful, each with its roles beside it
                taken.update(place_key(folder) for folder in (place, roles_folder(place)))
        return taken & set(digests.values())

    def write(self, changes: RowChanges) -> list[int]:
        """Write what the rows change, in one transaction; return the ids of files in which another version may be wanted now.

        The only version of a file is due at once. Files of several versions need `rules.intake.version_selection` to say which is.
        Raises CatalogUnavailable where another process added the same file in between: gather and plan again.
        """
        try:
            with self._database.writing() as connection:
                now = connection.scalar(sa.select(self._database.now_sql))
                assert isinstance(now, datetime)
                changed: set[int] = set()
                for batch in in_batches(sorted(changes.gone)):
                    changed |= mark_gone(self._database, connection, batch)
                ids = self._write_files(connection, changes)
                self._write_claims(connection, changes.plan, ids)
                changed |= self._write_versions(connection, changes, ids, now)
                changed |= self._write_rows(connection, changes, ids, now)
                self._write_declined(connection, changes, ids, now)
        except sa.exc.IntegrityError as error:
            raise CatalogUnavailable("another process took in the same rows at the same time") from error
        return sorted(changed)

    def _write_files(self, connection: sa.Connection, changes: RowChanges) -> Mapping[FileName, int]:
        plan = changes.plan
        added = [
            {
                "storage": file.storage,
                "key": file.key,
                "bucket": file.bucket,
                "place": file.place,
                "name_digest": name_digest(file.storage, file.key),
                "place_digest": place_digest(file.place_key),
            }
            for file in plan.files
        ]
        if added:
            connection.execute(sa.insert(files), added)
        names = {brought.content[:2] for brought in plan.rows} | {each.name for each in changes.refused if each.name is not None}
        names |= {(each.row.storage, each.row.key) for each in plan.contradictions}
        digests = {name_digest(*name): name for name in names}
        ids: dict[FileName, int] = {}
        for batch in in_batches(sorted(digests)):
            query = sa.select(files.c.id, files.c.name_digest).where(files.c.name_digest.in_(batch)).order_by(files.c.id)
            # Two intakes that each add a version to one file would both call theirs the newest: the second one waits here.
            ids.update({digests[row.name_digest]: row.id for row in connection.execute(query.with_for_update())})
        return ids

    def _write_claims(self, connection: sa.Connection, plan: IntakePlan, ids: Mapping[FileName, int]) -> None:
        """What rows say of known versions now. Whoever fetches one that had no SHA-256 looks for too little: he is stopped."""
        for claim in plan.claims:
            storage, key, number, sha256 = claim.content
            ours = (versions.c.file_id == ids[storage, key], versions.c.number == number, versions.c.sha256 == sha256)
            values: dict[str, Any] = {"sha256": claim.sha256, "md5": claim.md5, "proof": claim.proof.value}
            if not sha256:
                values |= {"fence": versions.c.fence + 1, **FREE}
            connection.execute(sa.update(versions).where(*ours).values(**values))
            if claim.sha256:
                unnamed = (*ours[:2], versions.c.sha256 == claim.sha256, versions.c.variant == UNKNOWN_VARIANT)
                connection.execute(sa.update(versions).where(*unnamed).values(variant=variant_of(claim.sha256)))

    def _write_versions(
        self, connection: sa.Connection, changes: RowChanges, ids: Mapping[FileName, int], now: datetime
    ) -> set[int]:
        plan = changes.plan
        if not plan.versions:
            return set()
        fresh = {(file.storage, file.key) for file in plan.files}
        counts: dict[FileName, int] = {}
        for version in plan.versions:
            name = (version.storage, version.key)
            counts[name] = counts.get(name, 0) + 1
        alone = {name for name, count in counts.items() if count == 1 and name in fresh}
        connection.execute(
            sa.insert(versions),
            [
                {
                    "file_id": ids[version.storage, version.key],
                    "number": version.number,
                    "source_id": version.source_id,
                    "sha256": version.sha256,
                    "md5": version.md5,
                    "proof": version.proof.value,
                    "variant": version.variant,
                    "content_type": version.content_type,
                    "state": VersionState.PENDING.value,
                    "reason": "waits to be fetched" if (version.storage, version.key) in alone else "",
                    "live": True,
                    "newest": (version.storage, version.key) in alone,
                    "link_digest": version.link_digest,
                    "link_expires_at": version.link_expires_at,
                    "due_at": now if (version.storage, version.key) in alone else None,
                    "first_seen_at": now,
                }
                for version in plan.versions
            ],
        )
        several = {ids[name] for name in counts if name not in alone}
        mark_newest(connection, several)
        return several

    def _write_rows(self, connection: sa.Connection, changes: RowChanges, ids: Mapping[FileName, int], now: datetime) -> set[int]:
        brought = self._versions_of(connection, changes.plan, ids)
        values = []
        for each in changes.plan.rows:
            row, version = each.row, brought[each.content]
            entry = _entry(changes, row.source_id, version_id=version, file_id=ids[row.storage, row.key], number=row.number)
            values.append(entry | {"claim": None if row.sha256 else row.hash})
        for contradiction in changes.plan.contradictions:
            row = contradiction.row
            values.append(_entry(changes, row.source_id, file_id=ids.get((row.storage, row.key)), number=row.number))
        for refused in changes.refused:
            file_id = ids.get(refused.name) if refused.name is not None else None
            entry = _entry(changes, refused.row.source_id, file_id=file_id, number=refused.number)
            values.append(entry | {"created_at": refused.created_at})
        known = [
            value | {"of_id": changes.entries[value["source_id"]]} for value in values if value["source_id"] in changes.entries
        ]
        added = [value | {"first_seen_at": now} for value in values if value["source_id"] not in changes.entries]
        left: set[int] = set()
        for batch in in_batches(sorted(changes.moved)):
            query = sa.select(rows.c.version_id).where(rows.c.id.in_(batch), rows.c.version_id.is_not(None))
            left |= set(connection.scalars(query))
        if known:
            columns: dict[str, Any] = {name: sa.bindparam(f"is_{name}") for name in ("version_id", "file_id", "number", "claim")}
            statement = sa.update(rows).where(rows.c.id == sa.bindparam("of_id")).values(**columns)
            connection.execute(
                statement, [{"of_id": value["of_id"], **{f"is_{name}": value[name] for name in columns}} for value in known]
            )
        if added:
            connection.execute(sa.insert(rows), added)
            count_rows(connection, FILES_STREAM, len(added), sum(number_in(value["source_id"]) for value in added))
        changed = self._attach(connection, changes, brought)
        return changed | (refresh_versions(self._database, connection, left) if left else set())

    def _versions_of(self, connection: sa.Connection, plan: IntakePlan, ids: Mapping[FileName, int]) -> dict[Content, int]:
        """The id of the version that each accepted row brings."""
        names = {file_id: name for name, file_id in ids.items()}
        by_file: dict[int, set[int]] = {}
        by_number: dict[int, set[int]] = {}
        for brought in plan.rows:
            storage, key, of_number, _ = brought.content
            of_file = ids[storage, key]
            by_file.setdefault(of_file, set()).add(of_number)
            by_number.setdefault(of_number, set()).add(of_file)
        file_id: sa.Column[int] = versions.c.file_id
        number: sa.Column[int] = versions.c.number
        # By both columns of an index: a file of 20,000 versions is not looked through for the one that is meant.
        few_files = len(by_file) <= len(by_number)
        groups: list[tuple[sa.ColumnElement[bool], sa.ColumnElement[int], set[int]]]
        if few_files:
            groups = [(file_id == one, number, many) for one, many in by_file.items()]
        else:
            groups = [(number == one, file_id, many) for one, many in by_number.items()]
        found: dict[Content, int] = {}
        query = sa.select(versions.c.id, file_id, number, versions.c.sha256)
        for one, column, many in groups:
            for batch in in_batches(sorted(many)):
                for version in connection.execute(query.where(one, column.in_(batch))):
                    found[*names[version.file_id], version.number, version.sha256] = version.id
        return found

    def _attach(
        self,
        connection: sa.Connection,
        changes: RowChanges,
        brought: Mapping[Content, int],
    ) -> set[int]:
        """Rows that bring a version which was known before: it may be live again, and is fetched by the latest of them."""
        new = {(version.storage, version.key, version.number, version.sha256) for version in changes.plan.versions}
        latest = {each.content: each.row for each in changes.plan.rows}
        repeated = {key: row for key, row in latest.items() if key not in new}
        for key, row in repeated.items():
            values = {
                "source_id": row.source_id,
                "link_digest": link_digest(row.link),
                "link_expires_at": link_expires_at(row.link),
            }
            # Stored or not: whoever asks for its row later finds the one that is there.
            ours = versions.c.id == brought[key]
            connection.execute(sa.update(versions).where(ours).values(**values))
            # Its message named another row.
            connection.execute(sa.update(versions).where(ours, versions.c.holder.is_(None)).values(lease_until=None))
        touched = {brought[key] for key in repeated}
        # A delete may cover a row that makes sense only now.
        mended = {brought[key] for key, row in latest.items() if key in new and row.source_id in changes.entries}
        changed = refresh_versions(self._database, connection, mended) if mended else set()
        return changed | (refresh_versions(self._database, connection, touched, brought_again=True) if touched else set())

    def _write_declined(self, connection: sa.Connection, changes: RowChanges, ids: Mapping[FileName, int], now: datetime) -> None:
        accepted = [each.row.source_id for each in changes.plan.rows if each.row.source_id in changes.entries]
        for batch in in_batches(accepted):
            connection.execute(sa.delete(declined).where(declined.c.source_id.in_(batch)))
        contradictions = [
            RefusedRow(row=each.declined, name=(each.row.storage, each.row.key)) for each in changes.plan.contradictions
        ]
        for batch in in_batches([*contradictions, *changes.refused]):
            # A row whose file was deleted need not be mended any more.
            deleted = set(connection.scalars(_deleted_rows([each.row.source_id for each in batch])))
            wanting = {each.row.source_id: each for each in batch if each.row.source_id not in deleted}
            query = sa.select(declined.c.source_id, declined.c.first_seen_at).where(declined.c.source_id.in_(wanting))
            first_seen = {row.source_id: row.first_seen_at for row in connection.execute(query)}
            connection.execute(sa.delete(declined).where(declined.c.source_id.in_([each.row.source_id for each in batch])))
            if wanting:
                connection.execute(
                    sa.insert(declined),
                    [
                        {
                            "source_id": each.row.source_id,
                            "file_id": ids.get(each.name) if each.name is not None else None,
                            "storage": each.row.storage,
                            "key": each.row.key,
                            "version": each.row.version,
                            "reason": each.row.reason,
                            "first_seen_at": first_seen.get(each.row.source_id, now),
                            "checked_at": now,
                        }
                        for each in wanting.values()
                    ],
                )

    def declined_ids(self, limit: int) -> list[str]:
        """Ids of declined rows that can be read again, longest unchecked first. An overlong Id was shortened: it names no row."""
        whole = sa.func.length(declined.c.source_id) < ID_MAX_CHARACTERS
        query = sa.select(declined.c.source_id).where(whole).order_by(declined.c.checked_at).limit(limit)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def clear_declined(self, source_ids: Iterable[str]) -> None:
        """Forget that these rows were declined: they are gone, or make sense now."""
        with self._database.writing() as connection:
            for batch in in_batches(list(source_ids)):
                connection.execute(sa.delete(declined).where(declined.c.source_id.in_(batch)))

    def clear_deleted(self, source_ids: Iterable[str]) -> None:
        """Forget that rows with these Ids were declined, if a delete covers them: they need not be mended any more."""
        with self._database.writing() as connection:
            for batch in in_batches(list(source_ids)):
                connection.execute(sa.delete(declined).where(declined.c.source_id.in_(_deleted_rows(batch))))


def _entry(
    changes: RowChanges, source_id: str, *, version_id: int | None = None, file_id: int | None = None, number: int | None = None
) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "version_id": version_id,
        "file_id": file_id,
        "number": number,
        "claim": None,
        "poll": changes.poll,
        "created_at": changes.created_at.get(source_id),
    }


def _live_rows(connection: sa.Connection, version_ids: list[int], ignored: set[int]) -> dict[int, set[str]]:
    """The Ids of the rows of these versions that are there and that no delete covers."""
    found: dict[int, set[str]] = {}
    covered = sa.exists().where(covers.c.row_id == rows.c.id)
    for batch in in_batches(version_ids):
        query = sa.select(rows.c.id, rows.c.version_id, rows.c.source_id)
        for row in connection.execute(query.where(rows.c.version_id.in_(batch), rows.c.gone_at.is_(None), ~covered)):
            if row.id not in ignored:
                found.setdefault(row.version_id, set()).add(row.source_id)
    return found


def _deleted_rows(source_ids: list[str]) -> sa.Select[Any]:
    """Those of these Ids whose row, as it is now, is covered by a delete: not one that had the Id before."""
    in_force = removals.c.outcome.in_(("", "done", "re-created"))
    entries = rows.join(covers, covers.c.row_id == rows.c.id).join(removals, removals.c.id == covers.c.removal_id)
    ours = (rows.c.source_id.in_(source_ids), rows.c.gone_at.is_(None), rows.c.version_id.is_(None), in_force)
    return sa.select(rows.c.source_id).select_from(entries).where(*ours)
