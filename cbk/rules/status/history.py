"""What happened to a version and when, from what the catalog remembers of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from cbk.model import Hold, Removal, RemovalKind, Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`what` happened `at` an instant; `until` is when a grace, a hold or the time in the trash ends.

    `detail` is what else there is to say. `what` is seen (its row), stored, verified (the latest time), superseded (it has no copy,
    and a newer version is stored), replaced (newer versions are stored, and the grace of its copy runs), deleted, kept (what was to
    go stays), held or pruned.
    """

    at: datetime
    what: str
    until: datetime | None = None
    detail: str = ""


def events_of(version: Version, *, replaced_by: Version | None, removals: Iterable[Removal], holds: Iterable[Hold]) -> list[Event]:
    """What happened to `version`, oldest first.

    `replaced_by` is the newer version of its file that was stored first. Of `removals` and `holds` those count that cover it; holds
    count that have ended, too.
    """
    covering = [removal for removal in removals if removal.covers(version)]
    found = [*_life(version, replaced_by), *_removals(covering), *_holds(version, holds)]
    return sorted(found, key=lambda event: event.at)


def _life(version: Version, replaced_by: Version | None) -> Iterator[Event]:
    if version.first_seen_at is not None:
        yield Event(at=version.first_seen_at, what="seen", detail=f"row {version.source_id}")
    if version.stored_at is not None:
        yield Event(at=version.stored_at, what="stored")
    if version.verified_at is not None:
        yield Event(at=version.verified_at, what="verified")
    if version.state is VersionState.SUPERSEDED and replaced_by is not None and replaced_by.stored_at is not None:
        yield Event(at=replaced_by.stored_at, what="superseded", detail=f"v{replaced_by.number} was stored")
    if version.pruned_at is not None:
        yield Event(at=version.pruned_at, what="pruned", until=version.trash_until, detail=version.reason)


def _removals(covering: list[Removal]) -> Iterator[Event]:
    for removal in covering:
        deleted = removal.kind is RemovalKind.DELETED
        cause = f"delete-log row {removal.delete_id}" if deleted else "newer versions are stored"
        detail = f"{cause}; {removal.reason}" if removal.open and removal.reason else cause
        yield Event(at=removal.first_seen_at, what=removal.kind.value, until=removal.due_at, detail=detail)
        if removal.closed_at is not None and removal.outcome != "done":
            yield Event(at=removal.closed_at, what="kept", detail=": ".join(filter(None, (removal.outcome, removal.reason))))


def _holds(version: Version, holds: Iterable[Hold]) -> Iterator[Event]:
    for hold in holds:
        if hold.created_at is not None and hold.covers(version.storage, version.key, hold.created_at):
            yield Event(at=hold.created_at, what="held", until=hold.until, detail=hold.reason)
