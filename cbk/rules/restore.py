"""What a restore takes: which of a file's versions was wished for, and which one it gets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

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

    def covers(self, number: int, at: datetime) -> bool:
        """Whether version `number` was deleted at that instant."""
        return number <= self.through and self.seen_at <= at and (self.ended_at is None or at < self.ended_at)


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


def choose(versions: Iterable[Version], restore_filter: RestoreFilter, deletions: Iterable[Deletion] = ()) -> Choice | None:
    """Which of a file's versions is restored; None where none of them is wished for.

    It is the highest that is wished for. Has that one no copy, the next lower one with a copy stands in: an old copy beats none.
    `deletions` are the file's own; they matter only to a wish with `at`.
    """
    deletions = list(deletions)
    wanted = [version for version in versions if _is_wanted(version, restore_filter, deletions)]
    if not wanted:
        return None
    highest = max(wanted, key=_number)
    stored = max((version for version in wanted if version.state is VersionState.STORED), key=_number, default=None)
    if stored is None:
        return Choice(version=highest, reason=f"v{highest.number} has no copy: it {_standing(highest)}")
    if stored is highest:
        return Choice(version=stored)
    return Choice(version=stored, reason=f"older version: v{highest.number} {_standing(highest)}")


def _is_wanted(version: Version, restore_filter: RestoreFilter, deletions: list[Deletion]) -> bool:
    if restore_filter.number not in {None, version.number}:
        return False
    if restore_filter.at is None:
        return restore_filter.deleted or not version.deleted
    if version.first_seen_at is None or version.first_seen_at > restore_filter.at:
        return False
    return restore_filter.deleted or not any(deletion.covers(version.number, restore_filter.at) for deletion in deletions)


def _number(version: Version) -> int:
    return version.number


def _standing(version: Version) -> str:
    return f"is {version.state.value}{f' ({version.reason})' if version.reason else ''}"
