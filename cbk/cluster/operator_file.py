"""Where the operator's Celery configuration may be found without being named."""

from __future__ import annotations

import os
from pathlib import Path

# Root's own, beside the settings: what services read.
SYSTEM_FILE = Path("/etc/cbk/celeryconfig.py")

# `celery -A cbk` reads the folder that it is run in, as Celery does. `cbk` runs nothing that it finds where it stands.
look_in_working_folder = True


def find_unnamed() -> Path | None:
    """The file in the working folder if that is looked at, else the system's; None if there is neither."""
    candidates = [Path("celeryconfig.py").absolute()] if look_in_working_folder else []
    # In a folder that this user may not enter, there is none either.
    return next((path for path in (*candidates, SYSTEM_FILE) if os.path.isfile(path)), None)  # noqa: PTH113 - Path.is_file raises there
