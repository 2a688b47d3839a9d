"""The programs that this machine has: databases' own tools, the newest of each."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from cbk.errors import ToolMissing

_POSTGRES_FOLDERS = "/usr/lib/postgresql/*/bin"
_VERSION_SECONDS = 30
_PACKAGES = {
    "pg_dump": "postgresql-client",
    "pg_dumpall": "postgresql-client",
    "pg_restore": "postgresql-client",
    "psql": "postgresql-client",
    "initdb": "postgresql",
    "postgres": "postgresql",
    "mariadb-dump": "mariadb-client",
    "mariadb": "mariadb-client",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "ssh": "openssh-client",
}


def find(*names: str) -> str:
    """The path of the first of these programs that is here. Raises ToolMissing."""
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if found:
            return found
    raise missing(names[0])


def find_postgres(name: str) -> tuple[str, int]:
    """The newest program of this name of PostgreSQL's, and its major version. Raises ToolMissing.

    Beside the PATH, Debian's folders are looked through: its servers are in none, and several releases may be there.
    """
    on_path = shutil.which(name)
    candidates = ([on_path] if on_path else []) + sorted(str(folder / name) for folder in _globbed() if (folder / name).is_file())
    versions = [(version, program) for program in candidates if (version := _major(program)) is not None]
    if not versions:
        raise missing(name)
    newest = max(version for version, _ in versions)
    return next(program for version, program in versions if version == newest), newest


def missing(name: str) -> ToolMissing:
    """The error for a program that is not here."""
    package = _PACKAGES.get(name)
    hint = f"on Debian: apt-get install {package}" if package else f"install {name}"
    return ToolMissing(f"{name} is not on this machine", hint=hint)


def _globbed() -> list[Path]:
    return list(Path("/").glob(_POSTGRES_FOLDERS.lstrip("/")))


@lru_cache(64)
def _major(program: str) -> int | None:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=_VERSION_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)", asked.stdout)
    return int(match[1]) if match else None
