"""The labelled steps of the way in and of the way out, as places in the product's own code that a harness can stop at.

Each is (what happened just before, where): the function, and whether the moment is before or after its nth call.
"""

import functools
import os
from dataclasses import dataclass

from cbk.edges.archive import archive
from cbk.edges.archive.archive import Archive, IncomingCopy, Publication
from cbk.edges.catalog.backup.work_queue import Work
from cbk.edges.catalog.retention.pruned_copies import PrunedCopies
from cbk.edges.catalog.retention.removals import Removals


@dataclass(frozen=True)
class Step:
    """The moment before or after the nth call of `owner.name`."""

    owner: object
    name: str
    after: bool
    nth: int = 1


IN = {
    "claimed": Step(Work, "claim", after=True),
    "part opened": Step(IncomingCopy, "__init__", after=True),
    "half written": Step(IncomingCopy, "write", after=True, nth=2),
    "written, not flushed": Step(os, "fsync", after=False),
    "flushed": Step(os, "fsync", after=True),
    "finished": Step(IncomingCopy, "finish", after=True),
    "read back": Step(IncomingCopy, "read_back", after=True),
    "folder made": Step(os, "mkdir", after=True),
    "about to be renamed": Step(IncomingCopy, "move", after=False),
    "renamed, not flushed": Step(IncomingCopy, "move", after=True),
    "copy's folder flushed": Step(archive, "_sync_folder", after=True),
    "first folder above flushed": Step(archive, "_sync_folder", after=True, nth=2),
    "put in its place": Step(Publication, "put", after=True),
    "published": Step(Publication, "flush", after=True),
    "recorded": Step(Work, "record_stored", after=True),
}
# Those that only a file gets to whose folder is not there yet.
NEW_FOLDERS = frozenset({"folder made", "first folder above flushed"})

# The way in of several files together: their flush is the first call of its kind, that of their folders the second.
IN_BATCH = {
    "batch not flushed": Step(archive, "_sync_filesystem", after=False),
    "batch flushed": Step(archive, "_sync_filesystem", after=True),
    "batch's folders not flushed": Step(archive, "_sync_filesystem", after=False, nth=2),
    "batch's folders flushed": Step(archive, "_sync_filesystem", after=True, nth=2),
    "batch recorded": Step(Work, "record_stored", after=True),
}

OUT = {
    "pruned in the record": Step(Removals, "carry_out", after=True),
    "bytes unlinked, not flushed": Step(os, "unlink", after=True),
    "bytes gone": Step(Archive, "remove", after=True),
    "bytes gone in the record": Step(PrunedCopies, "remove_bytes", after=True),
}

STEPS = IN | IN_BATCH | OUT
# After these there may be nothing left to do.
DONE_AFTER = frozenset({"recorded", "batch recorded", *OUT})


def before_step(label, happen):
    """Have `happen()` called at that step, in the thread that gets there."""
    step = STEPS[label]
    real = getattr(step.owner, step.name)
    calls = 0

    @functools.wraps(real)
    def counting(*args, **kwargs):
        nonlocal calls
        calls += 1
        now = calls == step.nth
        if now and not step.after:
            happen()
        result = real(*args, **kwargs)
        if now and step.after:
            happen()
        return result

    setattr(step.owner, step.name, counting)
