"""What happened to one file: all its versions, and what each of them went through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cbk.errors import UsageError
from cbk.jobs.context import Context
from cbk.model import DeclinedRow, Version
from cbk.rules.intake.layout import object_key
from cbk.rules.status.history import Event, events_of


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionHistory:
    """A version, or a row that could not become one, and what happened to it, oldest first."""

    of: Version | DeclinedRow
    events: list[Event] = field(default_factory=list)


def history(context: Context, key: str, *, storage: str | None = None) -> Iterator[VersionHistory]:
    """The past of the file `key`, in `storage` or in each that has one, newest version first, then of its declined rows.

    Memory stays flat, but for the deletes and holds that there were of this one file.
    Raises UsageError where the kit knows no such file.
    """
    named = object_key("", key)
    holds = context.catalog.holds.all()
    newer: Version | None = None
    is_known = False
    for page in context.catalog.report.pages_of_key(named, storage=storage):
        removals = context.catalog.removals.about(page)
        for version in page:
            if newer is not None and newer.file_id != version.file_id:
                newer = None
            is_known = True
            yield VersionHistory(of=version, events=events_of(version, replaced_by=newer, removals=removals, holds=holds))
            newer = _stored_first(version, newer)
    for row in context.catalog.report.declined_rows(key=named, storage=storage):
        is_known = True
        yield VersionHistory(of=row)
    if not is_known:
        raise UsageError("the kit knows no such file", hint=f"a key has no storage or bucket in front of it: cbk ls '*{named}*'")


def _stored_first(version: Version, newer: Version | None) -> Version | None:
    if version.stored_at is None:
        return newer
    return version if newer is None or newer.stored_at is None or version.stored_at < newer.stored_at else newer
