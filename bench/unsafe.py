"""`celery` without what keeps copies safe: `python -m bench.unsafe -A cbk worker ...`. What it shows is what safety costs.

Nothing is flushed, neither copies nor folders nor a catalog in SQLite, and the disk is not told to begin: when it writes is the
kernel's matter. Nothing is read back, and so nothing is hashed: what came is taken for what it should be. A catalog in PostgreSQL
flushes as its server does. For measurements, and for nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import sqlalchemy as sa
from celery.__main__ import main

from cbk.edges.archive import archive
from cbk.edges.archive.archive import IncomingCopy
from cbk.model import Written


def take_as_written(part: IncomingCopy, **_: object) -> Written:
    """In place of `IncomingCopy.read_back`: what the header says, believed."""
    header = part.header
    size = os.stat(part._path).st_size  # noqa: PTH116, SLF001 - a measurement looks behind the curtain
    part.written = Written(sha256=header.sha256, size=header.size, stored_size=size, stored_sha256=header.sha256, stored_at=None)
    return part.written


def let_nothing_be_flushed() -> None:
    """Make this process an unsafe one, before it opens its catalog."""
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]
    archive._sync_filesystem = lambda _: True  # noqa: SLF001
    archive._begin_writeback = lambda _: None  # noqa: SLF001
    archive._READBACK_FROM_BYTES = sys.maxsize  # noqa: SLF001 - nor is a large copy read while it comes in
    IncomingCopy.read_back = take_as_written  # type: ignore[method-assign, assignment]
    # A flush by SQLite is made past Python. On ext4 (data=ordered) it waits for all new files as well, and whoever writes to the
    # catalog waits for it: copies that nobody flushes would be flushed all the same, at the dearest moment.
    said = sa.Connection.exec_driver_sql

    def say(connection: sa.Connection, statement: str, *more: Any, **options: Any) -> sa.CursorResult[Any]:
        unsafe = "PRAGMA synchronous=OFF" if statement.startswith("PRAGMA synchronous=") else statement
        return said(connection, unsafe, *more, **options)

    sa.Connection.exec_driver_sql = say  # type: ignore[method-assign]


if __name__ == "__main__":
    let_nothing_be_flushed()
    sys.exit(main())
