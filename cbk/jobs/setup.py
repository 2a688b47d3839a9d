"""Prepare the disk and the catalog, and tie them to one another."""

from __future__ import annotations

from collections.abc import Iterator

from cbk.edges import machine
from cbk.edges.archive import Archive
from cbk.errors import CatalogOutdated, RootMissing
from cbk.jobs.kit import Kit


def initialise(kit: Kit, *, dry_run: bool = False) -> Iterator[str]:
    """Do what is missing and say it, step by step; a second time changes nothing.

    Raises RootMissing where the catalog belongs to another disk than the one that is mounted, CatalogError where it cannot be made.
    """
    root = kit.archive.root
    shared = kit.catalog.is_shared
    known = _known_identity(kit) if shared else None
    if known is not None:
        kit.archive.require(known)
    if dry_run:
        yield f"would give {root} an identity, unless it has one"
        yield f"would make or migrate the catalog at {kit.catalog.place}"
        return
    Archive.create(root, now=machine.now())
    identity = kit.archive.identity()
    yield f"{root} is the disk {identity}"
    changed = kit.catalog.upgrade()
    yield f"the catalog at {kit.catalog.place} {'is ready' if changed else 'was ready'}"
    belongs_to = kit.catalog.facts.get("identity")
    if belongs_to not in {None, identity}:
        raise RootMissing(
            f"the catalog belongs to the disk {belongs_to}, not to {identity}",
            hint="mount the right disk, or name another catalog for this one",
        )
    kit.catalog.facts.set(identity=identity)


def _known_identity(kit: Kit) -> str | None:
    """The disk that a shared catalog knows already: a folder that is not it must not become a second one."""
    try:
        return kit.catalog.facts.get("identity")
    except CatalogOutdated:
        return None
