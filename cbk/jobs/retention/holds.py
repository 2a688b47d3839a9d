"""Holds: what a person wants kept, written to the catalog and, so that it survives the catalog, to the disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cbk.errors import UsageError
from cbk.jobs.context import Context
from cbk.jobs.retention.journal import write_journal
from cbk.model import Hold
from cbk.rules.intake.layout import object_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A hold and how many files that the kit knows it keeps."""

    hold: Hold
    files: int


def place_hold(
    context: Context, key: str, *, is_prefix: bool, storage: str | None, until: datetime | None, reason: str, dry_run: bool = False
) -> Placed:
    """Keep the file `key`, or all whose key begins with it, until `until` (None: until it is released).

    Raises UsageError where that is in the past already, or the key is empty or can be no file's. A prefix that is empty keeps
    everything.
    """
    context.require_disk()
    key = object_key("", key)
    if not key and not is_prefix:
        raise UsageError("a hold needs a key", hint="the key is Path + Name, as in the application's table")
    if not is_prefix and key.endswith("/") and not context.catalog.holds.names_a_file(key, storage):
        # Hardly any object's key ends like this: such a hold would keep nothing, and look as if it did.
        raise UsageError(f"{key} is no file, but where keys begin", hint=f"hold all files below it: `cbk hold --prefix {key}`")
    if until is not None and until <= context.catalog.database.now():
        raise UsageError(f"{until.isoformat()} is over already", hint="a hold ends in the future, or when it is released")
    if dry_run:
        hold = Hold(id=0, key=key, is_prefix=is_prefix, storage=storage, until=until, reason=reason)
        return Placed(hold=hold, files=context.catalog.holds.files_under(hold))
    hold = context.catalog.holds.add(key, is_prefix=is_prefix, storage=storage, until=until, reason=reason)
    write_journal(context)
    return Placed(hold=hold, files=context.catalog.holds.files_under(hold))


def list_holds(context: Context) -> list[Placed]:
    """All holds; those that have ended are kept in the list until they are released."""
    return [Placed(hold=hold, files=context.catalog.holds.files_under(hold)) for hold in context.catalog.holds.all()]


def release_holds(
    context: Context, *, key: str | None = None, is_prefix: bool = False, storage: str | None = None, hold_id: int | None = None
) -> list[Hold]:
    """End the hold with this number, or those of this very key or prefix; gives them. Raises UsageError where there is none."""
    context.require_disk()
    wanted = [hold for hold in context.catalog.holds.all() if _is_meant(hold, key, is_prefix, storage, hold_id)]
    if not wanted:
        raise UsageError("there is no such hold", hint="`cbk hold --list` shows all of them")
    context.catalog.holds.release([hold.id for hold in wanted])
    # What they kept may have been due for long.
    context.catalog.removals.disarm_all()
    write_journal(context)
    return wanted


def _is_meant(hold: Hold, key: str | None, is_prefix: bool, storage: str | None, hold_id: int | None) -> bool:  # noqa: FBT001 - private
    if hold_id is not None:
        return hold.id == hold_id
    return key is not None and (hold.key, hold.is_prefix) == (object_key("", key), is_prefix) and storage in {None, hold.storage}
