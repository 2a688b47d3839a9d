"""Dumps of databases: which there are, their versions, and when each was tried, verified and drilled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import dump_versions, dumps, files
from cbk.edges.catalog.intake.intake import place_digest
from cbk.errors import CatalogUnavailable
from cbk.model import Written
from cbk.rules.dump.records import Dump, DumpState, DumpVersion, TakenDump
from cbk.rules.dump.retention import APPROVED_REASON, DumpVerdict
from cbk.rules.dump.spec import DumpKind
from cbk.rules.intake.layout import place_key

_ON_DISK = dump_versions.c.state == DumpState.STORED.value
_FIELDS = tuple(column.name for column in dump_versions.columns if column.name not in {"slot", "leftover", "rows"})


class Dumps:
    """Dumps by name. Whoever writes about one holds the lease `dump`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Dump]:
        """All that were ever configured, by name."""
        with self._database.reading() as connection:
            return [_dump_of(row) for row in connection.execute(sa.select(dumps).order_by(dumps.c.name))]

    def get(self, name: str) -> Dump | None:
        """One of them, None where it was never taken or tried."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(dumps).where(dumps.c.name == name)).first()
            return _dump_of(row) if row else None

    def ensure(self, name: str, *, kind: DumpKind, bucket: str, places: Sequence[str]) -> Dump:
        """The dump of this name; a new one gets the first of these places that nobody has. Raises CatalogUnavailable."""
        known = self.get(name)
        if known is not None:
            if known.kind is not kind:
                with self._database.writing() as connection:
                    connection.execute(sa.update(dumps).where(dumps.c.id == known.id).values(kind=kind.value))
            return known
        try:
            with self._database.writing() as connection:
                place = _free_place(connection, places)
                values = {"name": name, "kind": kind.value, "bucket": bucket, "place": place}
                digest = place_digest(place_key(place))
                connection.execute(sa.insert(dumps).values(**values, place_digest=digest, first_seen_at=self._database.now_sql))
        except IntegrityError as error:
            raise CatalogUnavailable(f"another worker has just made the dump {name}") from error
        made = self.get(name)
        assert made is not None
        return made

    def versions(self, dump_id: int) -> list[DumpVersion]:
        """Those that are on the disk, and those that went or were found bad, newest first."""
        return self._versions(dump_versions.c.dump_id == dump_id)

    def stored(self, dump_id: int) -> list[DumpVersion]:
        """Those that are on the disk and good, newest first."""
        return self._versions(dump_versions.c.dump_id == dump_id, _ON_DISK)

    def found(self, state: DumpState) -> list[tuple[Dump, DumpVersion]]:
        """All versions of all dumps that are in this state, newest first."""
        versions = self._versions(dump_versions.c.state == state.value)
        by_id = {dump.id: dump for dump in self.all()} if versions else {}
        return [(by_id[version.dump_id], version) for version in versions]

    def newest(self, dump_id: int) -> DumpVersion | None:
        """The newest that is on the disk and good."""
        found = self._versions(dump_versions.c.dump_id == dump_id, _ON_DISK, limit=1)
        return found[0] if found else None

    def oldest_unread(self, before: datetime) -> tuple[Dump, DumpVersion] | None:
        """The copy that was verified the longest ago, if that was before this instant."""
        found = self._versions(_ON_DISK, sa.or_(dump_versions.c.verified_at.is_(None), dump_versions.c.verified_at < before))
        if not found:
            return None
        version = min(found, key=lambda each: each.verified_at or datetime.min.replace(tzinfo=before.tzinfo))
        return next(dump for dump in self.all() if dump.id == version.dump_id), version

    def next_number(self, dump_id: int) -> int:
        """One more than any version had."""
        with self._database.reading() as connection:
            query = sa.select(sa.func.max(dump_versions.c.number)).where(dump_versions.c.dump_id == dump_id)
            return (connection.scalar(query) or 0) + 1

    def counts_since(self, dump_id: int, since: datetime) -> tuple[int, int]:
        """How many versions were stored since an instant, and how many were pruned without a person's word."""
        with self._database.reading() as connection:
            mine = dump_versions.c.dump_id == dump_id
            count = sa.select(sa.func.count()).select_from(dump_versions)
            added = connection.scalar(count.where(mine, dump_versions.c.stored_at >= since))
            by_itself = (dump_versions.c.pruned_at >= since, dump_versions.c.reason != APPROVED_REASON)
            pruned = connection.scalar(count.where(mine, *by_itself))
            return added or 0, pruned or 0

    # ---- writing -------------------------------------------------------------------------------------------------------------

    def record_stored(self, dump: Dump, taken: TakenDump) -> None:
        """A dump whose copy is in its place, read back and flushed: bytes before record."""
        copy, roles = taken.copy, taken.roles
        values = {
            "dump_id": dump.id,
            "number": taken.number,
            "state": DumpState.STORED.value,
            "slot": taken.slot,
            "taken_at": taken.taken_at,
            "seconds": taken.seconds,
            "format": taken.format,
            "server_version": taken.server_version,
            "tool_version": taken.tool_version,
            "rows": None if taken.rows is None else json.dumps(dict(taken.rows), ensure_ascii=False),
            "sha256": copy.sha256,
            "size": copy.size,
            "stored_size": copy.stored_size,
            "stored_sha256": copy.stored_sha256,
            "roles_sha256": roles.sha256 if roles else None,
        }
        with self._database.writing() as connection:
            now = self._database.now_sql
            connection.execute(sa.insert(dump_versions).values(**values, stored_at=now, verified_at=now))
            cleared = {"attempts": 0, "retry_at": None, "problem": "", "hint": "", "tried_at": now}
            connection.execute(sa.update(dumps).where(dumps.c.id == dump.id).values(done_slot=taken.slot, **cleared))

    def record_failure(self, dump: Dump, *, problem: str, hint: str, retry_at: datetime) -> None:
        """Why a dump could not be taken, and when it is tried again."""
        values = {"problem": problem, "hint": hint, "retry_at": retry_at, "attempts": dump.attempts + 1}
        with self._database.writing() as connection:
            connection.execute(sa.update(dumps).where(dumps.c.id == dump.id).values(**values, tried_at=self._database.now_sql))

    def record_verified(self, version: DumpVersion) -> None:
        """Its copy was read again, and is good."""
        self._update(version, verified_at=self._database.now_sql)

    def record_bad(self, version: DumpVersion, reason: str) -> None:
        """Its copy does not count any more: durable, before its bytes are put aside. The dump is due again."""
        with self._database.writing(durable=True) as connection:
            mine = dump_versions.c.id == version.id
            connection.execute(sa.update(dump_versions).where(mine).values(state=DumpState.BAD.value, reason=reason))
            newer = sa.select(dump_versions.c.id).where(
                dump_versions.c.dump_id == version.dump_id, dump_versions.c.number > version.number, _ON_DISK
            )
            if connection.scalar(newer.limit(1)) is None:
                again = {"done_slot": None, "retry_at": None}
                connection.execute(sa.update(dumps).where(dumps.c.id == version.dump_id).values(**again))

    def record_restored(self, version: DumpVersion, copy: Written) -> None:
        """The copy of one that was bad is in its place again, read back and flushed: bytes before record."""
        values: dict[str, Any] = {"state": DumpState.STORED.value, "reason": "", "verified_at": self._database.now_sql}
        values |= {"stored_size": copy.stored_size, "stored_sha256": copy.stored_sha256}
        with self._database.writing() as connection:
            bad = (dump_versions.c.id == version.id, dump_versions.c.state == DumpState.BAD.value)
            connection.execute(sa.update(dump_versions).where(*bad).values(**values))

    def record_drill(self, version: DumpVersion, problem: str) -> None:
        """A drill was held; `problem` is empty where it passed."""
        self._update(version, drilled_at=self._database.now_sql, drill_problem=problem)

    def record_verdicts(self, dump: Dump, verdicts: Iterable[DumpVerdict]) -> None:
        """Which places and graces the versions have now."""
        with self._database.writing() as connection:
            for verdict in verdicts:
                mine = (dump_versions.c.dump_id == dump.id) & (dump_versions.c.number == verdict.number)
                values = {
                    "unkept_since": verdict.unkept_since,
                    "due_at": verdict.due_at,
                    "reasons": "; ".join(verdict.reasons),
                }
                connection.execute(sa.update(dump_versions).where(mine).values(**values))

    def record_pruned(self, version: DumpVersion, reason: str = "") -> None:
        """It is gone for the catalog, durably; its bytes go after this: record before bytes."""
        with self._database.writing(durable=True) as connection:
            gone = {"state": DumpState.PRUNED.value, "reason": reason, "leftover": True, "pruned_at": self._database.now_sql}
            connection.execute(sa.update(dump_versions).where(dump_versions.c.id == version.id, _ON_DISK).values(**gone))

    def leftovers(self) -> list[tuple[Dump, DumpVersion]]:
        """Those that were pruned and whose bytes may be there still."""
        by_id = {dump.id: dump for dump in self.all()}
        return [(by_id[version.dump_id], version) for version in self._versions(dump_versions.c.leftover.is_(True))]

    def forget_leftover(self, version: DumpVersion) -> None:
        """Its bytes are gone."""
        self._update(version, leftover=False)

    def add_found(self, dump: Dump, **values: Any) -> bool:
        """A version that the disk has and the catalog does not know; False where it does."""
        with self._database.writing() as connection:
            known = sa.select(dump_versions.c.id).where(
                dump_versions.c.dump_id == dump.id, dump_versions.c.number == values["number"]
            )
            if connection.scalar(known) is not None:
                return False
            connection.execute(sa.insert(dump_versions).values(dump_id=dump.id, state=DumpState.STORED.value, **values))
            older = dumps.c.done_slot.is_(None) | (dumps.c.done_slot < values["slot"])
            connection.execute(sa.update(dumps).where(dumps.c.id == dump.id, older).values(done_slot=values["slot"]))
            return True

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _versions(self, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> list[DumpVersion]:
        query = sa.select(dump_versions).where(*conditions).order_by(dump_versions.c.number.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_version_of(row) for row in connection.execute(query)]

    def _update(self, version: DumpVersion, **values: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(sa.update(dump_versions).where(dump_versions.c.id == version.id).values(**values))


def _free_place(connection: sa.Connection, places: Sequence[str]) -> str:
    for place in places:
        digest = place_digest(place_key(place))
        taken = [
            connection.scalar(sa.select(table.c.id).where(table.c.place_digest == digest).limit(1)) for table in (files, dumps)
        ]
        if taken == [None, None]:
            return place
    raise CatalogUnavailable(f"{places[0]} and the places like it are all taken", hint="give the dump another bucket or name")


def _dump_of(row: Any) -> Dump:
    values = {name: value for name, value in row._mapping.items() if name != "place_digest"}  # noqa: SLF001 - SQLAlchemy's public name
    return Dump(**values | {"kind": DumpKind(values["kind"])})


def _version_of(row: Any) -> DumpVersion:
    values = {name: row._mapping[name] for name in _FIELDS}  # noqa: SLF001 - as above
    values["state"] = DumpState(values["state"])
    return DumpVersion(**values, rows=None if row.rows is None else json.loads(row.rows))
