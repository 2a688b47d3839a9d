"""What lies on the disk for the person who has nothing but the disk: a README, and a script that restores everything.

They are plain files beside this module, and run where there is no Python.
"""

from __future__ import annotations

from pathlib import Path

README = "README.txt"
RESTORE = "restore.sh"
MIRROR_README = "MIRROR.txt"


def mirror_tools(where: str) -> dict[str, bytes]:
    """As `plain_tools`, for a mirror that is reached as `where`."""
    note = (Path(__file__).parent / MIRROR_README).read_text(encoding="utf-8").replace("{where}", where)
    return plain_tools() | {MIRROR_README: note.encode()}


def plain_tools() -> dict[str, bytes]:
    """The content of each file by its name in `.cbk`."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in (README, RESTORE)}
