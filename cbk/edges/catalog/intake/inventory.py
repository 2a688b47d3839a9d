"""What the inventories of the buckets said, and what the catalog knows of the objects that they name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import BATCH, Database, begins_with, in_batches, select_versions, version_of
from cbk.edges.catalog.database.schema import files, inventories, inventory_findings, removals, versions
from cbk.edges.catalog.intake.intake import name_digest
from cbk.model import Version, VersionState
from cbk.rules.intake.inventory import INVENTORY_KEY, CatalogFile, FindingKind, Inventory, InventoryFinding, InventoryHeader

# More of a kind are counted, but not kept by name until the next inventory.
KEPT_FINDINGS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryComparison:
    """What came of comparing one inventory: the first findings of each kind, and how many there are of it."""

    header: InventoryHeader
    objects: int
    findings: list[InventoryFinding]
    counts: Mapping[FindingKind, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFinding:
    """A finding that is known by name."""

    id: int
    storage: str
    finding: InventoryFinding


class Inventories:
    """One row for each storage that had an inventory, and a row for each of its findings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expect(self, storages: Iterable[str]) -> None:
        """These storages have an inventory: it is compared once it is stored."""
        with self._database.writing() as connection:
            for storage in storages:
                if connection.scalar(sa.select(inventories.c.storage).where(inventories.c.storage == storage)) is None:
                    connection.execute(sa.insert(inventories).values(storage=storage))

    def to_compare(self) -> list[Version]:
        """The newest stored inventory of each storage, of those that were not compared yet."""
        found = []
        with self._database.reading() as connection:
            for storage, version_id in connection.execute(sa.select(inventories.c.storage, inventories.c.version_id)).all():
                is_inventory = files.c.name_digest == name_digest(storage, INVENTORY_KEY)
                stored = select_versions().where(is_inventory, versions.c.state == VersionState.STORED.value)
                row = connection.execute(stored.order_by(versions.c.number.desc()).limit(1)).first()
                if row is not None and row.id != version_id:
                    found.append(version_of(row))
        return found

    def record(self, version: Version, comparison: InventoryComparison, *, as_of: datetime) -> None:
        """Note what came of it, in place of what the one before said."""
        kept: list[InventoryFinding] = []
        beyond = {}
        for kind in FindingKind:
            some = [finding for finding in comparison.findings if finding.kind is kind][:KEPT_FINDINGS]
            kept += some
            beyond[f"{kind.value}_beyond"] = comparison.counts.get(kind, 0) - len(some)
        values = {"version_id": version.id, "as_of": as_of, "objects": comparison.objects, "problem": ""} | beyond
        ours = inventory_findings.c.storage == version.storage
        rows = [
            {"storage": version.storage, "kind": each.kind.value, "key": each.key, "size": each.size, "number": each.number}
            for each in kept
        ]
        with self._database.writing() as connection:
            connection.execute(sa.delete(inventory_findings).where(ours))
            for batch in in_batches(rows):
                connection.execute(sa.insert(inventory_findings), batch)
            connection.execute(sa.update(inventories).where(inventories.c.storage == version.storage).values(values))

    def record_problem(self, version: Version, problem: str, *, as_of: datetime) -> None:
        """Note why it could not be compared; what the one before said stays."""
        values = {"version_id": version.id, "as_of": as_of, "problem": problem}
        with self._database.writing() as connection:
            connection.execute(sa.update(inventories).where(inventories.c.storage == version.storage).values(values))

    def all(self) -> list[Inventory]:
        """The last inventory of each storage that was compared, with how many findings are left."""
        counted = sa.select(inventory_findings.c.storage, inventory_findings.c.kind, sa.func.count())
        counted = counted.group_by(inventory_findings.c.storage, inventory_findings.c.kind)
        with self._database.reading() as connection:
            counts = {(storage, kind): count for storage, kind, count in connection.execute(counted)}
            rows = connection.execute(sa.select(inventories).where(inventories.c.version_id.is_not(None))).mappings().all()
        return [
            Inventory(
                storage=row["storage"],
                as_of=row["as_of"],
                objects=row["objects"],
                problem=row["problem"],
                counts={kind: counts.get((row["storage"], kind.value), 0) + row[f"{kind.value}_beyond"] for kind in FindingKind},
            )
            for row in rows
        ]

    def findings(self, kind: FindingKind) -> Iterator[KeptFinding]:
        """The findings of a kind that are known by name, in the order of the inventory."""
        table, last = inventory_findings, 0
        of_kind = sa.select(table).where(table.c.kind == kind.value).order_by(table.c.id).limit(BATCH)
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(of_kind.where(table.c.id > last)).all()
            yield from map(_kept, rows)
            if len(rows) < BATCH:
                return
            last = rows[-1].id

    def oldest_findings(self, limit: int) -> list[KeptFinding]:
        """The findings that were looked at longest ago."""
        table = inventory_findings
        in_order = sa.select(table).order_by(sa.func.coalesce(sa.type_coerce(table.c.checked_at, sa.BigInteger), 0), table.c.id)
        with self._database.reading() as connection:
            return list(map(_kept, connection.execute(in_order.limit(limit)).all()))

    def settle(self, settled: Sequence[int], looked_at: Sequence[int]) -> None:
        """Forget those findings, by id, that are none any more, and note that the others were looked at now."""
        table, now = inventory_findings, self._database.now_sql
        with self._database.writing() as connection:
            for batch in in_batches(list(settled)):
                connection.execute(sa.delete(table).where(table.c.id.in_(batch)))
            for batch in in_batches(list(looked_at)):
                connection.execute(sa.update(table).where(table.c.id.in_(batch)).values(checked_at=now))

    # What the catalog knows

    def known(self, storage: str, keys: Iterable[str]) -> dict[str, CatalogFile]:
        """What is known of each of these files that there is."""
        digests = {name_digest(storage, key): key for key in keys}
        deleted_at = sa.select(sa.func.max(sa.type_coerce(removals.c.first_seen_at, sa.BigInteger)))
        deleted_at = deleted_at.where(removals.c.file_id == files.c.id, versions.c.deleted)
        columns = (versions.c.number, versions.c.size, versions.c.state, versions.c.deleted, versions.c.first_seen_at)
        known: dict[str, CatalogFile] = {}
        with self._database.reading() as connection:
            for batch in in_batches(list(digests)):
                at = sa.type_coerce(deleted_at.scalar_subquery(), removals.c.first_seen_at.type)
                query = sa.select(files.c.name_digest, *columns, at.label("deleted_at")).join_from(versions, files)
                for row in connection.execute(query.where(files.c.name_digest.in_(batch), versions.c.newest)):
                    known[digests[row.name_digest]] = CatalogFile(
                        number=row.number,
                        size=row.size,
                        stored=row.state == VersionState.STORED.value,
                        deleted=row.deleted,
                        deleted_at=row.deleted_at,
                        first_seen_at=row.first_seen_at,
                    )
        return known

    def live_files(self, storage: str, prefix: str, seen_before: datetime) -> Iterator[list[tuple[str, int]]]:
        """Key and newest version of the files that were known before that instant and are not deleted, page by page."""
        last = 0
        live = (versions.c.newest, versions.c.deleted.is_(False), versions.c.first_seen_at < seen_before)
        query = sa.select(files.c.id, files.c.key, versions.c.number).join_from(files, versions).where(*live)
        query = query.where(files.c.storage == storage).order_by(files.c.id).limit(BATCH)
        query = query.where(begins_with(files.c.key, prefix)) if prefix else query
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(query.where(files.c.id > last)).all()
            yield [(row.key, row.number) for row in rows]
            if len(rows) < BATCH:
                return
            last = rows[-1].id


def _kept(row: Any) -> KeptFinding:
    finding = InventoryFinding(kind=FindingKind(row.kind), key=row.key, size=row.size, number=row.number)
    return KeptFinding(id=row.id, storage=row.storage, finding=finding)


class SeenKeys:
    """The keys that an inventory named, in a file that SQLite makes and takes away: memory stays flat."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, keys: Iterable[str]) -> None:
        """These are there."""
        digests = [(bytes.fromhex(name_digest("", key))[:16],) for key in keys]
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", digests)

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of these that are not."""
        digests = {bytes.fromhex(name_digest("", key))[:16]: key for key in keys}
        marks = ", ".join("?" * len(digests))
        found = self._connection.execute(f"SELECT digest FROM seen WHERE digest IN ({marks})", list(digests))  # noqa: S608 - marks
        return set(digests.values()) - {digests[digest] for (digest,) in found}


@contextmanager
def seen_keys() -> Iterator[SeenKeys]:
    """An empty set of keys."""
    with closing(sqlite3.connect("")) as connection:
        yield SeenKeys(connection)
