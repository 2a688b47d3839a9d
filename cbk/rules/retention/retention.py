"""What may go and when, with the reason. Nothing goes early, nothing that is wanted goes at all, and nothing stays for ever.

A removal is asked about each version that it covers. The order of the answers matters: a hold is stronger than a brake, a brake
than a grace that has passed, and the last verified copy of a file that is not deleted is kept whatever else is so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cbk.model import Hold, Removal, RemovalKind, Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The version stays, until an instant (None: until something else changes)."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """The version goes now."""

    reason: str


Decision = Keep | Remove


def decide(  # noqa: PLR0911 - one answer after the other, in their order
    version: Version,
    *,
    removal: Removal,
    versions: Iterable[Version],
    holds: Iterable[Hold],
    now: datetime,
    grace: timedelta,
    keep_versions: int,
) -> Decision | None:
    """Whether `version`, which `removal` is about, goes now. `versions` are all versions of its file, `holds` all that there are.

    None: the removal no longer concerns it, because another row brings it. A shorter `grace` than the one that was in force when
    the removal was first seen shortens nothing; a longer one counts.
    """
    if removal.kind is RemovalKind.DELETED and not version.deleted:
        return None
    due_at = when_due(removal, grace)
    if due_at is None:
        return Keep(reason="no row that it names was ever seen")
    hold = next((hold for hold in holds if hold.covers(version.storage, version.key, now)), None)
    if hold is not None:
        return Keep(reason=f"on hold{': ' + hold.reason if hold.reason else ''}", until=hold.until)
    if removal.braked:
        return Keep(reason=f"held by brake {removal.brake_id}: `cbk prune --approve {removal.brake_id}` lets it go")
    if now < due_at:
        return Keep(reason="its grace has not passed", until=due_at)
    if version.claimed_until is not None and now < version.claimed_until:
        return Keep(reason="a worker is at it", until=version.claimed_until)
    others = [other for other in versions if other.id != version.id]
    if removal.kind is RemovalKind.DELETED:
        waits = next((each for version_id, each in removal.beside if version_id == version.id and _waits(each, now, grace)), None)
        if waits is not None:
            until = None if waits.braked else when_due(waits, grace)
            return Keep(reason=f"another delete of it waits (delete-log row {waits.delete_id})", until=until)
        return _decide_deleted(version, removal, others)
    return _decide_replaced(version, others, keep_versions)


def when_due(removal: Removal, grace: timedelta) -> datetime | None:
    """The end of the grace: as it was promised when the removal was first seen, or later where the setting has grown since.

    None: it has not begun.
    """
    return None if removal.due_at is None else max(removal.due_at, removal.first_seen_at + grace)


def _waits(removal: Removal, now: datetime, grace: timedelta) -> bool:
    """Whether a delete is not to be carried out yet: a row that it covers may turn out to be live."""
    due_at = when_due(removal, grace)
    return removal.braked or due_at is None or now < due_at


def _decide_deleted(version: Version, removal: Removal, others: list[Version]) -> Decision:
    live = [other for other in others if other.live]
    if version.state is VersionState.STORED and live and not any(other.state is VersionState.STORED for other in live):
        newest = max(live, key=lambda other: other.number)
        return Keep(reason=f"the file was created again, and v{newest.number} has no copy yet: this is its only one")
    return Remove(reason=f"its file was deleted (delete-log row {removal.delete_id}), and the grace has passed")


def _decide_replaced(version: Version, others: list[Version], keep_versions: int) -> Decision:
    newer = sorted(other.number for other in others if _replaces(other, version))
    if len(newer) >= keep_versions:
        return Remove(reason=f"v{newer[0]} has replaced it, and the grace has passed")
    if newer:
        return Keep(reason=f"one of the newest {keep_versions} versions of its file")
    if version.state is VersionState.STORED:
        return Keep(reason="the only verified copy of its file")
    # Its own copy was found bad: an old one beats none, and it is fetched again where no newer one can be had.
    return Keep(reason="no newer version of its file has a copy")


def is_replaced(version: Version, newer_stored: int, keep_versions: int) -> bool:
    """Whether so many newer live versions are stored that this copy may go when a grace has passed."""
    return version.state is VersionState.STORED and not version.deleted and newer_stored >= keep_versions


def replaced_versions(versions: Iterable[Version], keep_versions: int) -> tuple[list[Version], list[Version]]:
    """Of the versions of one file, the copies that newer live ones have replaced, and the older ones that stay all the same."""
    replaced: list[Version] = []
    kept: list[Version] = []
    newer_stored, of_this_number, number = 0, 0, -1
    for version in sorted(versions, key=lambda version: version.number, reverse=True):
        if version.number != number:
            newer_stored, of_this_number, number = newer_stored + of_this_number, 0, version.number
        if is_replaced(version, newer_stored, keep_versions):
            replaced.append(version)
        elif version.state is VersionState.STORED and not version.newest and not version.deleted:
            kept.append(version)
        of_this_number += version.live and version.state is VersionState.STORED
    return replaced, kept


def _replaces(other: Version, version: Version) -> bool:
    """A version whose row is gone, or deleted, replaces nothing. Nor do other bytes of the same Version: its row may come back."""
    return other.number > version.number and other.live and other.state is VersionState.STORED
