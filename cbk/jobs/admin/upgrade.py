"""From one release to the next: a copy of the catalog first, then what `cbk init` does."""

from __future__ import annotations

from collections.abc import Iterator

from cbk.errors import CatalogOutdated
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import Context


def upgrade(context: Context, *, dry_run: bool = False) -> Iterator[str]:
    """Do what this release needs and say it, step by step; a second time changes nothing.

    Raises RootMissing if the disk is not mounted, CatalogOutdated where there is no catalog yet, and what `initialise` raises.
    """
    context.archive.identity()
    if not context.catalog.exists or context.catalog.revision is None:
        raise CatalogOutdated(
            f"there is no catalog at {context.catalog.place} to bring to this release",
            hint="`cbk rebuild` makes it again from the copies on the disk; on a disk without any, run `cbk init`",
        )
    if not context.catalog.is_current:
        yield from _keep(context, dry_run=dry_run)
    yield from initialise(context, dry_run=dry_run)


def _keep(context: Context, *, dry_run: bool) -> Iterator[str]:
    file = context.catalog.file
    if file is None:
        yield "the catalog is in PostgreSQL: it is migrated in one transaction, and `pg_dump` makes a copy of it"
        return
    # One for each release that was left: a second try makes it anew, so that there are never many.
    copy = file.with_name(f"{file.name}.{context.catalog.revision}")
    if dry_run:
        yield f"would keep a copy of the catalog as it is in {copy}"
        return
    context.catalog.save_as(copy)
    yield f"a copy of the catalog as it was is in {copy}"
