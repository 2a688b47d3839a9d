"""Which versions of a file are to be fetched, and what the others are waiting for or replaced by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cbk.model import Version, VersionState

# After so many failed attempts a version no longer keeps an older one waiting: an old copy beats none.
PATIENCE_ATTEMPTS = 3

_SETTLED = frozenset({VersionState.STORED, VersionState.PRUNED, VersionState.DECLINED})
_OUT_OF_REACH = frozenset({VersionState.EXPIRED, VersionState.MISSING, VersionState.MISMATCH, VersionState.DECLINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A version's new state and reason; `due`: it is to be fetched now (True), not at all (False), or as before (None)."""

    version_id: int
    state: VersionState
    reason: str
    due: bool | None = None


def plan_versions(versions: Iterable[Version], keep_versions: int) -> list[Transition]:
    """What changes among the versions of one file, given in any order.

    The newest `keep_versions` are fetched. An older one without a copy is superseded once a newer one is stored; until then it
    waits, unless no newer one can be had: then it is fetched, newest first.
    """
    ordered = sorted(versions, key=lambda version: version.number, reverse=True)
    transitions = [_place_in_line(version, ordered[:rank], rank < keep_versions) for rank, version in enumerate(ordered)]
    return [transition for transition in transitions if transition is not None]


def _place_in_line(version: Version, newer: Sequence[Version], kept: bool) -> Transition | None:  # noqa: FBT001 - private
    if version.state in _SETTLED:
        return None
    stored = next((other for other in newer if other.state is VersionState.STORED), None)
    if kept or (stored is None and all(_cannot_be_had(other) for other in newer)):
        return _want(version)
    if stored is not None:
        return _supersede(version, stored)
    return _wait(version, newer[0])


def _cannot_be_had(version: Version) -> bool:
    exhausted = version.state is VersionState.FAILED and version.attempts >= PATIENCE_ATTEMPTS
    return version.state in _OUT_OF_REACH or exhausted or _is_overwritten(version)


def _is_overwritten(version: Version) -> bool:
    """A superseded version that was tried has lost its bytes in the bucket: trying again finds the newer one's."""
    return version.state is VersionState.SUPERSEDED and version.attempts > 0


def _want(version: Version) -> Transition | None:
    waiting = version.state is VersionState.PENDING and version.due_at is None
    returning = version.state is VersionState.SUPERSEDED and not _is_overwritten(version)
    if not waiting and not returning:
        return None
    return Transition(version_id=version.id, state=VersionState.PENDING, reason="waits to be fetched", due=True)


def _supersede(version: Version, stored: Version) -> Transition | None:
    if version.state is VersionState.SUPERSEDED:
        return None
    return Transition(version_id=version.id, state=VersionState.SUPERSEDED, reason=f"v{stored.number} is stored", due=False)


def _wait(version: Version, newest: Version) -> Transition | None:
    if version.state is not VersionState.PENDING or (version.due_at is None and version.reason):
        return None
    return Transition(
        version_id=version.id, state=VersionState.PENDING, reason=f"waits for v{newest.number}, which is newer", due=False
    )
