"""The machine that we run on: its mounts and its clock."""

from __future__ import annotations

import ctypes
import os
from datetime import UTC, datetime
from pathlib import Path

# adjtimex(2): the return value when the clock is not synchronised, and the size of struct timex with room to spare.
_TIME_ERROR = 5
_TIMEX_BYTES = 512


def now() -> datetime:
    """The machine's clock, UTC."""
    return datetime.now(UTC)  # noqa: TID251 - an edge


def clock_is_synchronised() -> bool | None:
    """What the kernel says of its clock (adjtimex(2), which reads without privilege). None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def shares_system_disk(root: Path) -> bool:
    """Whether the folder is on the filesystem of "/": most likely the SD card, not the backup disk."""
    return root.stat().st_dev == Path("/").stat().st_dev


def is_writable(root: Path) -> bool:
    """Whether this user may write there, as far as permissions and the mount tell."""
    return os.access(root, os.W_OK | os.X_OK)
