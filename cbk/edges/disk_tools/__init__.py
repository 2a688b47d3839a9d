"""What lies on the disk for the person who has nothing but the disk: a README, and a script that restores everything.

They are plain files beside this module, and run where there is no Python.
"""

from __future__ import annotations

from pathlib import Path

README = "README.txt"
RESTORE = "restore.sh"


def plain_tools() -> dict[str, bytes]:
    """The content of each file by its name in `.cbk`."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in (README, RESTORE)}
