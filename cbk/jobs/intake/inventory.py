"""Compare the inventories that came in with the catalog; with each poll, after the rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from cbk.edges.catalog.intake.inventory import KEPT_FINDINGS, InventoryComparison, KeptFinding, seen_keys
from cbk.errors import ArchiveError, InventoryUnreadable
from cbk.jobs.context import Context
from cbk.model import SourceRow, Version
from cbk.rules.intake.inventory import (
    INVENTORY_KEY,
    FindingKind,
    InventoryEntry,
    InventoryFinding,
    is_settled,
    judge_entry,
    read_inventory,
)
from cbk.rules.intake.layout import location_of
from cbk.rules.intake.rows import name_of

logger = logging.getLogger(__name__)

OBJECTS_PER_PAGE = 500
# Findings that are looked at again with each poll.
RECHECKED_FINDINGS = 1000


def note_inventories(context: Context, rows: Iterable[SourceRow]) -> None:
    """Note which storages have an inventory, by the rows that were read."""
    likely = (row for row in rows if isinstance(row.name, str) and INVENTORY_KEY.endswith(row.name.rpartition("/")[2]))
    storages = {name[0] for row in likely if (name := name_of(row)) and name[1] == INVENTORY_KEY}
    if storages:
        context.catalog.inventories.expect(storages)


def compare_inventories(context: Context, between_pages: Callable[[], None]) -> None:
    """Compare each stored inventory that was not, and look again at what earlier ones found.

    What cannot be read or makes no sense is noted for `status`. Raises CatalogError.
    """
    for version in context.catalog.inventories.to_compare():
        assert version.first_seen_at is not None
        try:
            comparison = _compare(context, version, between_pages)
        except (InventoryUnreadable, ArchiveError) as error:
            context.catalog.inventories.record_problem(version, error.message, as_of=version.first_seen_at)
            logger.warning("an inventory could not be compared", extra={"storage": version.storage, "error": error.message})
            continue
        as_of = min(comparison.header.taken_at, version.first_seen_at)
        context.catalog.inventories.record(version, comparison, as_of=as_of)
        logger.info("an inventory was compared", extra={"storage": version.storage, "objects": comparison.objects})
    _recheck(context)


def _compare(context: Context, version: Version, between_pages: Callable[[], None]) -> InventoryComparison:
    header, entries = read_inventory(context.archive.open_copy(location_of(version), sha256=version.sha256))
    if header.storage != version.storage:
        hint = "is --storage of `cbk-app inventory` the rows' Storage?"
        raise InventoryUnreadable(f"the inventory is one of the storage {header.storage!r}", hint=hint)
    counts: dict[FindingKind, int] = defaultdict(int)
    kept: list[InventoryFinding] = []
    objects = 0
    with seen_keys() as seen:
        while page := list(islice(entries, OBJECTS_PER_PAGE)):
            objects += len(page)
            seen.add(entry.key for entry in page)
            _keep(_findings(context, version.storage, page), kept, counts)
            between_pages()
        assert version.first_seen_at is not None
        seen_before = min(header.taken_at, version.first_seen_at)
        for files in context.catalog.inventories.live_files(version.storage, header.prefix, seen_before):
            absent = seen.missing(key for key, _ in files if key != INVENTORY_KEY) if files else set()
            found = (InventoryFinding(kind=FindingKind.ABSENT, key=key, number=number) for key, number in files if key in absent)
            _keep(found, kept, counts)
            between_pages()
    return InventoryComparison(header=header, objects=objects, findings=kept, counts=counts)


def _findings(context: Context, storage: str, page: list[InventoryEntry]) -> Iterator[InventoryFinding]:
    known = context.catalog.inventories.known(storage, [entry.key for entry in page])
    for entry in page:
        if finding := judge_entry(entry, known.get(entry.key)):
            yield finding


def _keep(findings: Iterable[InventoryFinding], kept: list[InventoryFinding], counts: dict[FindingKind, int]) -> None:
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= KEPT_FINDINGS:
            kept.append(finding)


def _recheck(context: Context) -> None:
    """Forget what was found and is so no more: a row came for the object, or the file was deleted."""
    by_storage: dict[str, list[KeptFinding]] = defaultdict(list)
    for kept in context.catalog.inventories.oldest_findings(RECHECKED_FINDINGS):
        by_storage[kept.storage].append(kept)
    for storage, some in by_storage.items():
        known = context.catalog.inventories.known(storage, [kept.finding.key for kept in some])
        settled = [kept.id for kept in some if is_settled(kept.finding, known.get(kept.finding.key))]
        context.catalog.inventories.settle(settled, [kept.id for kept in some if kept.id not in set(settled)])
