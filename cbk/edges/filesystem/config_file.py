"""The file of settings, as `cbk setup` leaves it: whole or not at all, and for nobody but root and the kit's group to read."""

from __future__ import annotations

import os
from pathlib import Path

from cbk.errors import UsageError

BEFORE = ".before"
_OWN = 0o600
_GROUP_READS = 0o640


def write_config(path: Path, text: str) -> None:
    """Put `text` in the place of what is there, which stays beside it as `<name>.before`. Raises UsageError.

    Root gives the file to the group of its folder, which may read it then: scripts/install.sh makes that folder the kit's.
    """
    try:
        _write(path, text)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="run this as root, or name another file with `cbk --config`"
        ) from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWN)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if os.geteuid() == 0:
            os.fchown(descriptor, 0, path.parent.stat().st_gid)
            os.fchmod(descriptor, _GROUP_READS)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    if path.exists():
        before = path.with_name(path.name + BEFORE)
        before.unlink(missing_ok=True)
        before.hardlink_to(path)  # with its owner and its mode
    draft.replace(path)
