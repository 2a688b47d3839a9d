"""Get a dump back: into a folder, with what to type next, or into an empty database."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cbk.edges.dump.servers import open_database
from cbk.edges.filesystem.scratch import scratch_folder, scratch_place
from cbk.errors import DestinationError, UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.drill import chunks_of, roles_of
from cbk.rules.dump.records import EXTENSIONS, Dump, DumpState, DumpVersion
from cbk.rules.dump.spec import kind_of_url

OnBytes = Callable[[int], None]
_FILE_MODE = 0o600  # it holds all that the database does


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredDump:
    """What was written where, and the commands for a person, to go on with them."""

    version: DumpVersion
    files: list[Path]
    commands: list[str]


def choose_version(
    context: Context, name: str, *, at: datetime | None = None, number: int | None = None, mirror: str | None = None
) -> tuple[Dump, DumpVersion]:
    """The dump that was the newest at an instant, or that has this number; else the newest. Raises UsageError.

    With `mirror` also of those that are no longer here, or bad, and that this mirror has.
    """
    dump = context.catalog.dumps.get(name)
    if dump is None:
        raise UsageError(f"there is no dump {name}", hint="`cbk dump ls` lists them")
    there = context.catalog.mirrors.dumps_on(mirror) if mirror is not None else set()
    usable = [
        version for version in context.catalog.dumps.versions(dump.id) if version.state is DumpState.STORED or version.id in there
    ]
    fits = [
        version for version in usable if (at is None or version.taken_at <= at) and (number is None or version.number == number)
    ]
    if not fits:
        asked = f"v{number}" if number is not None else f"taken before {at:%Y-%m-%d %H:%M} UTC" if at else "good"
        raise UsageError(f"dump {name} has no version that is {asked}", hint=f"`cbk dump ls {name}` lists them")
    return dump, fits[0]


def restore_to_folder(context: Context, dump: Dump, version: DumpVersion, folder: Path, on_bytes: OnBytes) -> RestoredDump:
    """Write a dump, and its roles, as files. Raises DestinationError where one is there already; ArchiveError."""
    stem = f"{dump.name}-v{version.number}"
    file = folder / f"{stem}.{EXTENSIONS.get(version.format, 'raw')}"
    roles_file = folder / f"{stem}.roles.sql"
    _write(file, chunks_of(context, dump, version), on_bytes)
    files = [file]
    roles = roles_of(context, dump, version)
    if roles is not None:
        _write(roles_file, roles, lambda _count: None)
        files.append(roles_file)
    return RestoredDump(
        version=version, files=files, commands=restore_commands(version.format, file, roles_file if roles else None)
    )


def restore_to_database(context: Context, dump: Dump, version: DumpVersion, url: str, on_bytes: OnBytes) -> RestoredDump:
    """Put a dump into an empty database. Raises UsageError where it is not empty or of another kind, DumpError, ArchiveError."""
    if kind_of_url(url) is not dump.kind:
        raise UsageError(f"dump {dump.name} is one of {dump.kind.value}, and the target is not", hint="name a database of its kind")
    with scratch_folder(scratch_place(None)) as scratch:
        database = open_database(url, scratch)
        present = database.rows(lambda: None)
        if present:
            raise UsageError(f"the target has tables already, such as {next(iter(present))}", hint="restore into an empty database")
        chunks = _counted(chunks_of(context, dump, version), on_bytes)
        database.restore(chunks, version.format, lambda: None)
    return RestoredDump(version=version, files=[], commands=[])


def restore_commands(format_: str, file: Path, roles_file: Path | None) -> list[str]:
    """What a person types to put these files into a server, without `cbk`."""
    name = shlex.quote(str(file))
    roles = [f"psql --dbname=postgres --file={shlex.quote(str(roles_file))}"] if roles_file else []
    return {
        "pg_dump -Fc": [*roles, "createdb app", f"pg_restore --exit-on-error --dbname=app {name}"],
        "pg_dump": [*roles, "createdb app", f"psql --set=ON_ERROR_STOP=1 --dbname=app --file={name}"],
        "mysqldump": ["mariadb --execute='CREATE DATABASE app'", f"mariadb app < {name}"],
        "sqlite": [f"sqlite3 {name} 'PRAGMA integrity_check'"],
    }.get(format_, [])


def _write(file: Path, chunks: Iterator[bytes], on_bytes: OnBytes) -> None:
    """All of it, under its name only once it was compared with its SHA-256."""
    draft = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise DestinationError(f"{file} is there already", hint="remove it, or name another folder")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as target:
            for chunk in _counted(chunks, on_bytes):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        draft.rename(file)
    except OSError as error:
        raise DestinationError(f"{file} cannot be written: {(error.strerror or '').lower()}") from error
    finally:
        draft.unlink(missing_ok=True)


def _counted(chunks: Iterator[bytes], on_bytes: OnBytes) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk
