"""Take the bytes of what is pruned in the record off their place."""

from __future__ import annotations

from hashlib import sha256

from cbk.jobs.context import Context
from cbk.model import Version
from cbk.rules.intake.layout import copy_location


def remove_bytes(context: Context, version: Version) -> None:
    """Take the copy of a version that is pruned in the record into the trash, where there is one, or away.

    Does nothing where that is done, or where the version was brought back meanwhile. Raises ArchiveError or CatalogError: the next
    poll tries it again.
    """
    location = copy_location(version.place, version.number)
    # Not the catalog's number of it: a catalog that is made again counts anew. The same name again is the same content.
    trash_name = f"{sha256(location.encode()).hexdigest()[:32]}.gzip"

    def remove() -> str | None:
        if context.settings.trash and context.archive.trash(location, trash_name):
            return trash_name
        context.archive.remove(location)
        return None

    context.catalog.removals.remove_bytes(version.id, remove, trash=context.settings.trash)
