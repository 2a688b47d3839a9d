"""Which versions of a file are to be fetched, and what the others are waiting for or replaced by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cbk.model import Version, VersionState
from cbk.rules.lifecycle import StateEvent

# After so many failed attempts a version no longer keeps an older one waiting: an old copy beats none.
PATIENCE_ATTEMPTS = 3

_SETTLED = frozenset({VersionState.STORED, VersionState.PRUNED, VersionState.DECLINED})
_OUT_OF_REACH = frozenset({VersionState.EXPIRED, VersionState.MISSING, VersionState.MISMATCH, VersionState.DECLINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What happens to a version, why, and whether it is to be fetched now (`due`) or not at all as things stand."""

    version_id: int
    event: StateEvent
    reason: str
    due: bool


def decides(versions: Iterable[Version], ranks: int) -> bool:
    """Whether the newest `ranks` of these versions of one file settle that none of those below them is to be fetched."""
    return any(version.state is VersionState.STORED or not _cannot_be_had(version) for version in _wanted(versions)[:ranks])


def plan_versions(versions: Iterable[Version], keep_versions: int) -> list[Transition]:
    """What changes among the versions of one file, given in any order; in linear time, however many there are.

    The newest `keep_versions` live ones are fetched. An older one without a copy is superseded once a newer live one is stored;
    until then it waits, unless no newer one can be had: then it is fetched, newest first. Only what is live supersedes: a version
    whose row is gone, or deleted, says nothing about the others. Where nothing is live, what is deleted counts as if it were. One
    without any hash waits for a newer one even where both are kept, so that it can be told from that.
    """
    transitions = []
    newest: Version | None = None
    stored: Version | None = None
    others_cannot_be_had = True
    for rank, version in enumerate(_wanted(versions)):
        if version.state not in _SETTLED or (version.state is VersionState.PRUNED and version.live):
            newer_first = stored is None and not others_cannot_be_had and _says_nothing(version)
            kept = (rank < keep_versions and not newer_first) or (stored is None and others_cannot_be_had)
            transition = _want(version) if kept else _supersede(version, stored) if stored else _wait(version, newest)
            if transition is not None:
                transitions.append(transition)
        newest = newest or version
        if stored is None and version.state is VersionState.STORED:
            stored = version
        others_cannot_be_had = others_cannot_be_had and _cannot_be_had(version)
    return transitions


def _wanted(versions: Iterable[Version]) -> list[Version]:
    """Those that count, newest first."""
    listed = list(versions)
    wanted = [version for version in listed if version.live] or [version for version in listed if version.deleted]
    return sorted(wanted, key=lambda version: version.number, reverse=True)


def _cannot_be_had(version: Version) -> bool:
    exhausted = version.state is VersionState.FAILED and version.attempts >= PATIENCE_ATTEMPTS
    return version.state in _OUT_OF_REACH or exhausted or _is_overwritten(version)


def _is_overwritten(version: Version) -> bool:
    """A superseded version that was tried has lost its bytes in the bucket: trying again finds the newer one's."""
    return version.state is VersionState.SUPERSEDED and version.attempts > 0


def _says_nothing(version: Version) -> bool:
    """Whether nothing tells its bytes from those of a newer version, which its link may give by now, but these themselves."""
    return not version.sha256 and not version.md5


def _want(version: Version) -> Transition | None:
    if version.state is VersionState.PRUNED:
        return Transition(version_id=version.id, event=StateEvent.CREATED_AGAIN, reason="created again", due=True)
    waiting = version.state is VersionState.PENDING and version.due_at is None
    returning = version.state is VersionState.SUPERSEDED and not _is_overwritten(version)
    if not waiting and not returning:
        return None
    return Transition(version_id=version.id, event=StateEvent.WANTED, reason="waits to be fetched", due=True)


def _supersede(version: Version, stored: Version) -> Transition | None:
    if version.state in {VersionState.SUPERSEDED, VersionState.PRUNED}:
        return None
    return Transition(version_id=version.id, event=StateEvent.OVERTAKEN, reason=f"v{stored.number} is stored", due=False)


def _wait(version: Version, newest: Version | None) -> Transition | None:
    if newest is None or version.state is not VersionState.PENDING or (version.due_at is None and version.reason):
        return None
    return Transition(
        version_id=version.id, event=StateEvent.WAITS, reason=f"waits for v{newest.number}, which is newer", due=False
    )
