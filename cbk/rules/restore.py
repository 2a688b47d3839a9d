"""What a restore takes: which of a file's versions was wished for, and which one it gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from cbk.model import Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFilter:
    """What a person wants back. None: whatever it is. `prefix` is how keys begin.

    Of each file that is named: version `number`; or what was live `at` an instant; or, where neither is asked for, the newest.
    What is deleted counts only with `deleted`, as long as its grace runs.
    """

    storage: str | None = None
    bucket: str | None = None
    key: str | None = None
    prefix: str | None = None
    number: int | None = None
    at: datetime | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """That the kit saw a file's versions up to `through` deleted, from `seen_at` until `ended_at` (None: for good)."""

    through: int
    seen_at: datetime
    ended_at: datetime | None = None

    def covers(self, number: int, at: datetime, brought_at: Iterable[datetime] = ()) -> bool:
        """Whether version `number` was deleted at that instant; `brought_at` is when its rows were first seen.

        A row that came after the delete has created it again.
        """
        if number > self.through or at < self.seen_at or (self.ended_at is not None and at >= self.ended_at):
            return False
        return not any(self.seen_at < instant <= at for instant in brought_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The version that a file gets, and in `reason` why it is not the one that was wished for.

    Where no version has a copy, it is the one that was wished for, and `reason` says why there is none.
    """

    version: Version
    reason: str = ""

    @property
    def has_copy(self) -> bool:
        """Whether there is anything to restore."""
        return self.version.state is VersionState.STORED


def choose(
    versions: Iterable[Version],
    restore_filter: RestoreFilter,
    deletions: Iterable[Deletion] = (),
    brought_at: Mapping[int, Sequence[datetime]] = MappingProxyType({}),
) -> Choice | None:
    """Which of a file's versions is restored; None where none of them is wished for.

    It is the highest that is wished for. Has that one no copy, the next lower one with a copy stands in: an old copy beats none.
    What is live goes before what is not: a version whose row has vanished says nothing about the others. `brought_at` is when the
    rows of each version were first seen, by its id; `deletions` are the file's own. These two matter only to a wish with `at`.
    """
    deletions = list(deletions)
    wanted = [version for version in versions if _is_wanted(version, restore_filter, deletions, brought_at.get(version.id, ()))]
    if not wanted:
        return None
    order = _number if restore_filter.at is not None else _live_first
    highest = max(wanted, key=order)
    stored = max((version for version in wanted if version.state is VersionState.STORED), key=order, default=None)
    if stored is None:
        return Choice(version=highest, reason=f"v{highest.number} has no copy: it {_standing(highest)}")
    if stored is highest:
        return Choice(version=stored)
    return Choice(version=stored, reason=f"older version: v{highest.number} {_standing(highest)}")


def _is_wanted(version: Version, restore_filter: RestoreFilter, deletions: list[Deletion], brought_at: Sequence[datetime]) -> bool:
    if restore_filter.number not in {None, version.number}:
        return False
    if restore_filter.at is None:
        return restore_filter.deleted or not version.deleted
    if version.first_seen_at is None or version.first_seen_at > restore_filter.at:
        return False
    return restore_filter.deleted or not any(
        deletion.covers(version.number, restore_filter.at, brought_at) for deletion in deletions
    )


def _number(version: Version) -> tuple[bool, int, int]:
    return True, version.number, version.id


def _live_first(version: Version) -> tuple[bool, int, int]:
    return version.live, version.number, version.id


def _standing(version: Version) -> str:
    return f"is {version.state.value}{f' ({version.reason})' if version.reason else ''}"
