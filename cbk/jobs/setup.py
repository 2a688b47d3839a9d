"""Prepare the disk and the catalog, and tie them to one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cbk.edges import machine
from cbk.edges.archive import Archive
from cbk.edges.plain import plain_tools
from cbk.errors import ArchiveError, CatalogOutdated, RootMissing
from cbk.jobs.kit import Kit
from cbk.model import Hold
from cbk.rules.journal import JOURNAL_NAME, decode_journal


def initialise(kit: Kit, *, dry_run: bool = False) -> Iterator[str]:
    """Do what is missing and say it, step by step; a second time changes nothing.

    Raises RootMissing where the catalog belongs to another disk than the one that is mounted, CatalogError where it cannot be made.
    """
    root = kit.archive.root
    if kit.catalog.exists:
        _refuse_another_disk(kit)
    if dry_run:
        yield f"would give {root} an identity, unless it has one, and put a README and a restore script beside it"
        yield f"would make or migrate the catalog at {kit.catalog.place}"
        return
    Archive.create(root, now=machine.now())
    for name, content in plain_tools().items():
        kit.archive.write_note(name, content)
    yield f"{root} is the disk {kit.archive.identity()}"
    prepared = prepare_catalog(kit)
    yield f"the catalog at {kit.catalog.place} {'is ready' if prepared.changed else 'was ready'}"
    if prepared.holds:
        yield f"holds that the disk remembers: {prepared.holds}"
    if kit.catalog.report.counts().copies == 0 and next(kit.archive.walk(), None) is not None:
        yield "the disk has copies that this catalog does not know: let `cbk rebuild` take them in before workers start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Whether the catalog's tables were made or migrated, and how many holds a new catalog got from the disk's journal."""

    changed: bool
    holds: int


def prepare_catalog(kit: Kit) -> Prepared:
    """Make or migrate the catalog of the disk that is mounted, and tie it to that. Raises RootMissing or CatalogError."""
    if kit.catalog.exists:
        _refuse_another_disk(kit)
    changed = kit.catalog.upgrade()
    _refuse_another_disk(kit)
    # Before any poll can write a journal without them: a new catalog on an old disk knows of no hold.
    is_new = kit.catalog.facts.get("identity") is None
    holds = kit.catalog.rebuilding.add_holds(_remembered_holds(kit)) if is_new else 0
    kit.catalog.facts.set(identity=kit.archive.identity())
    return Prepared(changed=changed, holds=holds)


def _remembered_holds(kit: Kit) -> list[Hold]:
    try:
        content = kit.archive.read_note(JOURNAL_NAME)
    except RootMissing:
        raise
    except ArchiveError:  # `cbk rebuild` says what is wrong with it
        return []
    return decode_journal(content).holds if content is not None else []


def _refuse_another_disk(kit: Kit) -> None:
    """A folder that is not the disk that the catalog knows already must not become a second one."""
    try:
        known = kit.catalog.facts.get("identity")
    except CatalogOutdated:
        return
    try:
        found = f"the disk {kit.archive.identity()}"
    except RootMissing:
        found = "no disk of the kit"
    if known is not None and found != f"the disk {known}":
        raise RootMissing(
            f"the catalog belongs to the disk {known}, but {kit.archive.root} is {found}",
            hint="mount the right disk, or name another catalog for this one",
        )
