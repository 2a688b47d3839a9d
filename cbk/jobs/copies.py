"""Take the bytes of what is pruned in the record off their place."""

from __future__ import annotations

from hashlib import sha256

from cbk.errors import ArchiveError, CopyExists, CopyMissing, RootMissing
from cbk.jobs.context import Context
from cbk.model import Version, VersionState, Written
from cbk.rules.intake.layout import location_of


def find_in_place(context: Context, version: Version, *, record: bool = True) -> Written | None:
    """The copy of a version that the catalog does not count, if it lies whole in its place: a disk that was away, a lost record.

    With `record` it counts from now on. A copy that is there and bad stays there, for whoever holds the version's claim. Raises
    CatalogError or RootMissing.
    """
    location = location_of(version)
    if version.state in {VersionState.STORED, VersionState.PRUNED}:
        return None
    if context.archive.is_free(location) and not (record and _is_back_from_trash(context, version)):
        return None
    read = context.archive.adopt if record else context.archive.check
    named = None if version.sha256 else (version.storage, version.key, version.number)
    try:
        written = read(location, sha256=version.sha256, md5=version.md5, of=named)
    except RootMissing:
        raise
    except ArchiveError:
        return None
    if record and not context.catalog.pruned_copies.found_whole(version, written):
        return None
    return written


def _is_back_from_trash(context: Context, version: Version) -> bool:
    """A worker that died on the way into the trash has left a copy there of which no record tells."""
    try:
        context.archive.restore_from_trash(trash_name_of(version), location_of(version))
    except (CopyMissing, CopyExists):
        return False
    return True


def trash_name_of(version: Version) -> str:
    """The name of its copy in the trash. Not the catalog's number: a catalog that is made again counts anew."""
    return f"{sha256(f'{location_of(version)} {version.sha256}'.encode()).hexdigest()[:32]}.gzip"


def remove_bytes(context: Context, version: Version) -> None:
    """Take the copy of a version that is pruned in the record into the trash, where there is one, or away.

    Does nothing where that is done, or where the version was brought back meanwhile. Raises ArchiveError or CatalogError: the next
    poll tries it again.
    """
    location = location_of(version)
    trash_name = trash_name_of(version)

    def remove() -> str | None:
        # What was put aside as bad is the file's as well.
        context.archive.purge_quarantine(location)
        if context.settings.trash and context.archive.trash(location, trash_name):
            return trash_name
        context.archive.remove(location)
        return None

    context.catalog.pruned_copies.remove_bytes(version.id, remove, trash=context.settings.trash)
