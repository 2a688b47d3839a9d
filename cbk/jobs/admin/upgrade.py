"""From one release to the next, and back: a copy of the catalog first, then what `cbk init` does."""

from __future__ import annotations

from collections.abc import Iterator

from cbk.errors import CatalogOutdated
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import Context


def upgrade(context: Context, *, dry_run: bool = False) -> Iterator[str]:
    """Do what this release needs and say it, step by step; a second time changes nothing.

    A dry run tries the migration, while workers may run, and takes it back. Raises RootMissing if the disk is not mounted,
    CatalogOutdated where there is no catalog yet, and what `initialise` raises.
    """
    context.archive.identity()
    before = _revision(context)
    if not context.catalog.is_current:
        kept = context.catalog.kept_copies
        if dry_run:
            context.catalog.try_upgrade()
            yield f"tried the migration from revision {before}: it succeeds"
            yield f"would keep a copy of the catalog as it is in {kept.place(before)}"
        else:
            kept.keep(before)
            yield f"a copy of the catalog as it was is in {kept.place(before)}"
    yield from initialise(context, dry_run=dry_run)


def roll_back(context: Context, revision: str | None, *, dry_run: bool = False) -> Iterator[str]:
    """Put back the catalog that a former release left at `revision`, or the last one that was kept, and say it, step by step.

    What is there now is kept in turn. Raises RootMissing if the disk is not mounted, CatalogOutdated if there is no such copy.
    """
    context.archive.identity()
    before = _revision(context)
    kept = context.catalog.kept_copies
    if revision == before:
        yield f"the catalog is at revision {before} already"
        return
    earlier = [each for each in kept.revisions() if each < before and revision in (None, each)]
    if not earlier:
        wanted = "an earlier revision" if revision is None else f"revision {revision}"
        raise CatalogOutdated(
            f"there is no copy of the catalog at {wanted}; nothing was changed",
            hint="an empty catalog serves as well: name one in CBK_CATALOG_URL, and let the former release run `cbk init` and "
            "`cbk rebuild`",
        )
    if dry_run:
        yield f"would keep the catalog as it is in {kept.place(before)}, and put back {kept.place(earlier[-1])}"
        return
    kept.keep(before)
    yield f"the catalog at revision {before} is in {kept.place(before)}"
    kept.put_back(earlier[-1])
    yield f"the catalog is at revision {earlier[-1]} again; `cbk rebuild` of that release takes in what came since"


def _revision(context: Context) -> str:
    revision = context.catalog.revision if context.catalog.exists else None
    if revision is None:
        raise CatalogOutdated(
            f"there is no catalog at {context.catalog.place} to bring to this release",
            hint="`cbk rebuild` makes it again from the copies on the disk; on a disk without any, run `cbk init`",
        )
    return revision
