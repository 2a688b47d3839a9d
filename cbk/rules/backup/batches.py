"""Which versions of a backlog share a message: many small files cost less together, a single new one is a task of its own."""

from __future__ import annotations

from collections.abc import Iterable

from cbk.model import Version

LARGEST = 32
# So many messages are there to share at the least, whatever there is to do: workers and their threads all get some.
SHARES = 64


def share_out(versions: Iterable[Version], *, in_flight: int) -> list[list[Version]]:
    """The versions in batches of one message each, in their order.

    `in_flight` is how many others are on their way or at work already: a backlog is what is on its way with these. What was tried
    before is alone, so that it shows as a task how that goes.
    """
    versions = list(versions)
    size = min(LARGEST, max(1, (in_flight + len(versions)) // SHARES))
    batches: list[list[Version]] = []
    open_batch: list[Version] = []
    for version in versions:
        if version.attempts:
            batches.append([version])
            continue
        # A row that was changed in place can bring two versions: a message names it once.
        if not open_batch or len(open_batch) == size or any(other.source_id == version.source_id for other in open_batch):
            open_batch = []
            batches.append(open_batch)
        open_batch.append(version)
    return batches
