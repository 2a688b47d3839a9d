"""`celery` without what keeps copies safe: `python -m bench.unsafe -A cbk worker ...`. What it shows is what safety costs.

Nothing is flushed, nothing is read back, and so nothing is hashed: what came is taken for what it should be. The catalog's own
flushes stay. For measurements, and for nothing else.
"""

from __future__ import annotations

import os
import sys

from celery.__main__ import main

from cbk.edges import archive
from cbk.edges.archive import Part
from cbk.model import Written


def take_as_written(part: Part, **_: object) -> Written:
    """In place of `Part.read_back`: what the header says, believed."""
    header = part.header
    size = os.stat(part._path).st_size  # noqa: PTH116, SLF001 - a measurement looks behind the curtain
    part.written = Written(sha256=header.sha256, size=header.size, stored_size=size, stored_sha256=header.sha256, stored_at=None)
    return part.written


if __name__ == "__main__":
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]
    archive._sync_filesystem = lambda _: True  # noqa: SLF001
    archive._TRAIL_FROM_BYTES = sys.maxsize  # noqa: SLF001 - nor is a large copy read while it comes in
    Part.read_back = take_as_written  # type: ignore[method-assign, assignment]
    sys.exit(main())
