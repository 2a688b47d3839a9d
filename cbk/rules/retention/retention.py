"""What may go and when, with the reason. Nothing goes early, nothing that is wanted goes at all, and nothing stays for ever.

A removal is asked about each version that it covers. The order of the answers matters: a hold is stronger than a brake, a brake
than a grace that has passed, and the last verified copy of a file that is not deleted is kept whatever else is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def decide(
    version: Version,
    *,
    removal: Removal,
    versions: Iterable[Version],
    holds: Iterable[Hold],
    now: datetime,
    grace: timedelta,
    keep_versions: int,
) -> Decision:
    """Whether `version`, which `removal` covers, goes now. `versions` are all versions of its file, `holds` all that there are.

    A shorter `grace` than the one that was in force when the removal was first seen shortens nothing; a longer one counts.
    """
    hold = next((hold for hold in holds if hold.covers(version.storage, version.key, now)), None)
    if hold is not None:
        return Keep(reason=f"on hold{': ' + hold.reason if hold.reason else ''}", until=hold.until)
    if removal.braked:
        return Keep(reason=f"held by brake {removal.brake_id}: `cbk prune --approve {removal.brake_id}` lets it go")
    due_at = when_due(removal, grace)
    if now < due_at:
        return Keep(reason="its grace has not passed", until=due_at)
    if version.claimed_until is not None and now < version.claimed_until:
        return Keep(reason="a worker is at it", until=version.claimed_until)
    others = [other for other in versions if other.id != version.id]
    if removal.kind is RemovalKind.DELETED:
        return _decide_deleted(version, removal, others)
    return _decide_replaced(version, others, keep_versions)


def when_due(removal: Removal, grace: timedelta) -> datetime:
    """The end of the grace: as it was promised when the removal was first seen, or later where the setting has grown since."""
    return max(removal.due_at, removal.first_seen_at + grace)


def _decide_deleted(version: Version, removal: Removal, others: list[Version]) -> Decision:
    live = [other for other in others if not other.deleted and other.state is not VersionState.PRUNED]
    if version.state is VersionState.STORED and live and not any(other.state is VersionState.STORED for other in live):
        newest = max(live, key=lambda other: other.number)
        return Keep(reason=f"the file was created again, and v{newest.number} has no copy yet: this is its only one")
    return Remove(reason=f"its file was deleted (delete-log row {removal.delete_id}), and the grace has passed")


def _decide_replaced(version: Version, others: list[Version], keep_versions: int) -> Decision:
    newer = sorted(other.number for other in others if other.number > version.number and other.state is VersionState.STORED)
    if len(newer) >= keep_versions:
        return Remove(reason=f"v{newer[0]} has replaced it, and the grace has passed")
    if newer:
        return Keep(reason=f"one of the newest {keep_versions} versions of its file")
    if version.state is VersionState.STORED:
        return Keep(reason="the only verified copy of its file")
    # Its own copy was found bad: an old one beats none, and it is fetched again where no newer one can be had.
    return Keep(reason="no newer version of its file has a copy")


def is_replaced(version: Version, versions: Iterable[Version], keep_versions: int) -> bool:
    """Whether so many newer versions are stored that this copy may go when a grace has passed."""
    newer = [other for other in versions if other.number > version.number and other.state is VersionState.STORED]
    return version.state is VersionState.STORED and len(newer) >= keep_versions


def covered_through(named: int, created: Mapping[int, object], deleted_at: object) -> int:
    """The highest version that a delete covers: of those known, by number, with the creation dates of their rows.

    Everything that is known when the delete is first seen is covered, whichever version its row names: but where the application
    tells when the file was deleted and when its versions were created, one that was created afterwards is a re-creation. These
    dates only ever keep more.
    """
    later = [number for number, date in created.items() if number > named and _is_after(date, deleted_at)]
    covered = [number for number in [named, *created] if not later or number < min(later)]
    return max(covered)


def _is_after(created_at: object, deleted_at: object) -> bool:
    created, deleted = _instant(created_at), _instant(deleted_at)
    if created is None or deleted is None or (created.tzinfo is None) != (deleted.tzinfo is None):
        return False
    return created > deleted


def _instant(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
