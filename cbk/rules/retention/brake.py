"""When so many removals come due together that a person has to say whether they are meant."""

from __future__ import annotations

from collections.abc import Mapping

# Removals are counted in slots, of which so many in a row hold any stretch of time that is as long as the window.
SLOTS_PER_WINDOW = 2
SLOTS_COUNTED = SLOTS_PER_WINDOW + 1
# A burst goes on while a poll brings more than this part of the limit; fewer are single deletes beside it.
CONTINUING_PART = 10


def limit_of(*, stored_files: int, files: int, share: int) -> int:
    """How many removals within the window are still let go: the larger of `files` and of `share` percent of the stored files."""
    return max(files, stored_files * share // 100)


def find_burst(slots: Mapping[int, int], *, limit: int) -> set[int]:
    """The slots, numbered in the order of time, in which more removals than the limit come due within one window.

    `slots` holds the number of removals that come due in each slot and that no brake has been pulled on.
    """
    burst: set[int] = set()
    for first in slots:
        for start in range(first - SLOTS_COUNTED + 1, first + 1):
            together = range(start, start + SLOTS_COUNTED)
            if sum(slots.get(slot, 0) for slot in together) > limit:
                burst.update(slot for slot in together if slots.get(slot))
    return burst


def continues(count: int, *, limit: int) -> bool:
    """Whether `count` removals that were first seen right after a brake was pulled belong to its burst."""
    return count > limit // CONTINUING_PART
