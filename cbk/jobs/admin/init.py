"""Prepare the disk and the catalog, and tie them to one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.archive.disk_tools import plain_tools
from cbk.errors import ArchiveError, CatalogOutdated, RootMissing
from cbk.jobs.context import Context
from cbk.model import Hold
from cbk.rules.retention.journal import JOURNAL_NAME, decode_journal


def initialise(context: Context, *, dry_run: bool = False) -> Iterator[str]:
    """Do what is missing and say it, step by step; a second time changes nothing.

    Raises RootMissing where the catalog belongs to another disk than the one that is mounted, CatalogError where it cannot be made.
    """
    root = context.archive.root
    if context.catalog.exists:
        _refuse_another_disk(context)
    if dry_run:
        yield f"would give {root} an identity, unless it has one, and put a README and a restore script beside it"
        yield f"would make or migrate the catalog at {context.catalog.place}"
        return
    Archive.create(root, now=host.now())
    for name, content in plain_tools().items():
        context.archive.write_note(name, content)
    yield f"{root} is the disk {context.archive.identity()}"
    prepared = prepare_catalog(context)
    yield f"the catalog at {context.catalog.place} {'is ready' if prepared.changed else 'was ready'}"
    if prepared.holds:
        yield f"holds that the disk remembers: {prepared.holds}"
    if context.catalog.report.counts().copies == 0 and next(context.archive.walk(), None) is not None:
        yield "the disk has copies that this catalog does not know: let `cbk rebuild` take them in before workers start"


def require_own_disk(context: Context) -> None:
    """Raise RootMissing if the root is no backup disk yet, and is not a disk of its own.

    Most likely its disk is not mounted: a folder of the system's own disk that became one would be filled, and look well.
    """
    root = context.archive.root
    with suppress(RootMissing):
        context.archive.identity()
        return
    unmounted = host.unmounted_place(root)
    if unmounted is not None:
        raise RootMissing(
            f"no disk is mounted at {unmounted}, where /etc/fstab says that one belongs",
            hint=f"plug it in and `mount {unmounted}`; `cbk init` prepares it then, if it is new",
        )
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if host.shares_system_disk(place):
        raise RootMissing(
            f"{root} is on the system's own disk: no backup disk is mounted there",
            hint="mount the backup disk there; that copies are to be on the system's own disk for good, --on-system-disk says",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Whether the catalog's tables were made or migrated, and how many holds a new catalog got from the disk's journal."""

    changed: bool
    holds: int


def prepare_catalog(context: Context) -> Prepared:
    """Make or migrate the catalog of the disk that is mounted, and tie it to that. Raises RootMissing or CatalogError."""
    if context.catalog.exists:
        _refuse_another_disk(context)
    changed = context.catalog.upgrade()
    _refuse_another_disk(context)
    # Before any poll can write a journal without them: a new catalog on an old disk knows of no hold.
    is_new = context.catalog.facts.get("identity") is None
    holds = context.catalog.rebuilding.add_holds(_remembered_holds(context)) if is_new else 0
    context.catalog.facts.set(identity=context.archive.identity())
    return Prepared(changed=changed, holds=holds)


def _remembered_holds(context: Context) -> list[Hold]:
    try:
        content = context.archive.read_note(JOURNAL_NAME)
    except RootMissing:
        raise
    except ArchiveError:  # `cbk rebuild` says what is wrong with it
        return []
    return decode_journal(content).holds if content is not None else []


def _refuse_another_disk(context: Context) -> None:
    """A folder that is not the disk that the catalog knows already must not become a second one."""
    try:
        known = context.catalog.facts.get("identity")
    except CatalogOutdated:
        return
    try:
        found = f"the disk {context.archive.identity()}"
    except RootMissing:
        found = "no disk of the kit"
    if known is not None and found != f"the disk {known}":
        raise RootMissing(
            f"the catalog belongs to the disk {known}, but {context.archive.root} is {found}",
            hint="mount the right disk, or name another catalog for this one",
        )
