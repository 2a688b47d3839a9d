"""A folder for files that nobody keeps."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbk.errors import DestinationUnavailable

_HINT = "name a folder with room that this user may write to: --scratch, or TMPDIR where a worker does it"


def scratch_place(named: Path | None) -> Path:
    """Where scratch folders are made: as named, or where the system keeps temporary files (TMPDIR)."""
    return named or Path(tempfile.gettempdir())


def free_bytes(place: Path) -> int:
    """The room there is. Raises DestinationUnavailable."""
    try:
        return shutil.disk_usage(place).free
    except OSError as error:
        raise _unusable(place, error) from error


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """An empty folder, which is gone in the end with all that is in it. Raises DestinationUnavailable where none can be made."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="cbk-", dir=place))
    except OSError as error:
        raise _unusable(place, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unusable(place: Path, error: OSError) -> DestinationUnavailable:
    return DestinationUnavailable(f"{place} cannot hold scratch files: {os.strerror(error.errno or 0).lower()}", hint=_HINT)
