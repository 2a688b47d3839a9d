"""Opening the catalog's database, SQLite (WAL) for one machine, PostgreSQL for several; its clock; what its errors mean."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL, make_url

from cbk.edges.catalog.database.schema import Instant
from cbk.edges.databases.postgres import ENCODING, limit_waiting
from cbk.edges.databases.tls import line_arguments
from cbk.errors import (
    CatalogDamaged,
    CatalogError,
    CatalogMisplaced,
    CatalogMissing,
    CatalogOutdated,
    CatalogUnavailable,
    SettingsError,
)
from cbk.rules.text.database_url import DatabaseTls, parse_database_url

BUSY_TIMEOUT_SECONDS = 30.0
# How often in a row the other end of a connection to PostgreSQL may miss the timeout.
_TIMES_SILENT = 3
# A migration of a large catalog may take a while; with the usual timeout, five minutes.
_TIMES_UNANSWERED = 30
# What SQLite needs room for before it reads anything: the index of its log.
_LOG_INDEX_BYTES = 32 * 1024
_FILE_MODE = 0o640
# Filesystem types on which SQLite's locks or shared memory do not hold between machines (proc(5), mounts).
NETWORK_FILESYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.glusterfs",
        "davfs",
        "fuse.davfs2",
    }
)


def open_engine(
    url: str,
    *,
    pool_size: int,
    timeout_seconds: float,
    tls: DatabaseTls | None = None,
    require_place: Callable[[], object] | None = None,
) -> sa.Engine:
    """An engine that has not connected yet. Raises CatalogMisplaced, or SettingsError for a URL that no catalog can have.

    `require_place` is called before a file is opened, and raises if the disk that it lies on is not the right one.
    """
    try:
        understood = parse_database_url(url)
        if understood.backend not in {"sqlite", "postgresql"}:
            raise ValueError(f"a catalog cannot be kept in {understood.backend}")
    except ValueError as error:
        hint = "use sqlite:////path on one machine, postgresql+psycopg://user:password@host/database for several"
        raise SettingsError([f"CBK_CATALOG_URL: {error}"], hint=hint) from None
    parsed = make_url(understood.url)
    if understood.backend == "sqlite":
        return _open_sqlite(parsed, require_place or (lambda: None))
    return _open_postgresql(parsed, pool_size, timeout_seconds, line_arguments(url, tls or DatabaseTls()))


def _open_postgresql(url: URL, pool_size: int, timeout_seconds: float, line: dict[str, object]) -> sa.Engine:
    """Whoever falls silent is given up after three times the timeout, by both ends, and an answer that does not come after thirty.

    Without that, a worker that is cut off waits for a quarter of an hour, and one that dies, or is stopped, within a transaction
    holds its locks, and with them all other workers, until the server's system asks for it: two hours later.
    """
    seconds = max(1, math.ceil(timeout_seconds))
    milliseconds = _TIMES_SILENT * seconds * 1000
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,  # a thread waits for a connection rather than take more than the role may have
        pool_pre_ping=True,
        connect_args=line
        | ENCODING
        | {
            "connect_timeout": seconds,
            "application_name": "cbk-catalog",
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": _TIMES_SILENT - 1,
            "tcp_user_timeout": milliseconds,
        },
    )
    server = {
        "tcp_keepalives_idle": seconds,
        "tcp_keepalives_interval": seconds,
        "tcp_keepalives_count": _TIMES_SILENT - 1,
        "tcp_user_timeout": milliseconds,
        # The system of a worker that is stopped still answers for it.
        "idle_in_transaction_session_timeout": milliseconds,
    }

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # Not as start-up options, which a connection pooler refuses.
        connection.execute("; ".join(f"SET {name} = {value}" for name, value in server.items()))
        connection.commit()

    return limit_waiting(engine, _TIMES_UNANSWERED * timeout_seconds)


def _open_sqlite(url: URL, require_place: Callable[[], object]) -> sa.Engine:
    path = url.database
    if path and path != ":memory:":
        refuse_network_share(Path(path))
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "isolation_level": None, "check_same_thread": False},
    )

    file = Path(path or "")

    @sa.event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, record: Any, _arguments: list[Any], options: dict[str, Any]) -> Any:
        require_place()
        _require_file(file)
        record.info["frozen"] = is_frozen(file)
        if record.info["frozen"]:
            return dialect.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True, **options)
        return None  # in the ordinary way

    @sa.event.listens_for(engine, "checkout")
    def _check(_connection: Any, record: Any, _proxy: Any) -> None:
        require_place()
        if record.info["frozen"] != is_frozen(file):
            raise sa_exc.DisconnectionError  # the pool opens another one

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later would fail at once where another writer came between: take the lock first.
        options = connection.get_execution_options()
        # A commit that a power cut takes back is done again from what is on the disk; what must not be taken back is durable.
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN" if options.get("reading") else "BEGIN IMMEDIATE")

    return engine


def make_file(path: Path) -> None:
    """Make the empty file that a new SQLite catalog begins as, which nobody but its user and group may read.

    Raises CatalogUnavailable.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        hint = "make the folder of CBK_CATALOG_URL, and let this user write there"
        raise CatalogUnavailable(f"the catalog {path} cannot be made: {reason}", hint=hint) from None


def _require_file(path: Path) -> None:
    """Raise CatalogMissing if there is nothing to open: SQLite would make an empty file, which knows of nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CatalogMissing(
            f"there is no catalog at {path}",
            hint="`cbk rebuild` makes it again from the copies on the disk; on a disk without any, run `cbk init`",
        ) from None
    except OSError:
        return  # SQLite is about to say what is wrong


def is_frozen(path: Path) -> bool:
    """Whether a SQLite file lies where nothing can be written, as on a full disk, and has no log beside it that is in use.

    SQLite reads a file in WAL mode only with such a log beside it, or when it is told that nothing changes.
    """
    try:
        if not path.is_file() or _takes_more(path.parent) or path.with_name(f"{path.name}-shm").exists():
            return False
        return path.with_name(f"{path.name}-wal").stat().st_size == 0
    except FileNotFoundError:
        return True
    except OSError:  # SQLite is about to say what the disk says
        return False


def _takes_more(folder: Path) -> bool:
    room = os.statvfs(folder)
    return os.access(folder, os.W_OK) and room.f_bavail * room.f_frsize >= _LOG_INDEX_BYTES


def refuse_network_share(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise CatalogMisplaced where `path` is on a network filesystem. Without /proc nothing is known, and nothing refused."""
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    kind = _filesystem_of(folder.resolve(), mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise CatalogMisplaced(
            f"the SQLite catalog {path} would be on a network share ({kind}), where it gets corrupted",
            hint="set CBK_CATALOG_URL to a local file, or to a PostgreSQL database where several machines work together",
        )


def _filesystem_of(folder: Path, mounts: Path) -> str:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        # proc(5): blanks and backslashes in a mount point are written in octal.
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if len(point) >= len(best) and (point == "/" or str(folder) == point or str(folder).startswith(point + os.sep)):
            best, kind = point, fields[2]
    return kind


def now_in(engine: sa.Engine, delay: timedelta = timedelta(0)) -> sa.ColumnElement[Any]:
    """The database's clock, `delay` from now, as an SQL expression of type Instant: one clock for all machines that share it."""
    if engine.dialect.name == "postgresql":
        return sa.type_coerce(
            sa.literal_column(
                f"((extract(epoch from statement_timestamp()) * 1000)::bigint + {delay // timedelta(milliseconds=1)})"
            ),
            Instant,
        )
    return sa.literal(datetime.now(UTC) + delay, Instant)  # noqa: TID251 - an edge: the machine's clock is SQLite's


@contextmanager
def catalog_errors() -> Iterator[None]:
    """Turn what the driver raises into the catalog's errors, without its chain: that could tell parameters, people's file names."""
    try:
        yield
    except sa_exc.IntegrityError:
        raise  # a race that the caller knows the meaning of
    except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
        raise _translated(error) from None


def _translated(error: Exception) -> CatalogError:
    said = _first_line(error)
    # 42P01 and 42703: no such table, no such column (PostgreSQL, Appendix A).
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state in {"42P01", "42703"} or "no such table" in said or "no such column" in said:
        return CatalogOutdated(f"the catalog has not the tables of this release: {said}", hint="run `cbk init`")
    if state == "22P05":  # untranslatable character
        return CatalogUnavailable(
            f"the catalog's database cannot hold a name: {said}",
            hint="make a database with ENCODING 'UTF8', name it in CBK_CATALOG_URL, run `cbk init` and `cbk rebuild`",
        )
    if "malformed" in said or "not a database" in said:
        return CatalogDamaged(
            f"the catalog is damaged: {said}",
            hint="stop the workers, move the file away, and let `cbk rebuild` make it again from the copies on the disk",
        )
    if "too many connections" in said or "remaining connection slots" in said or state == "53300":
        return CatalogUnavailable(
            "the catalog's server has no connection left for this user",
            hint="raise the CONNECTION LIMIT of its role or max_connections, or run fewer workers; work goes on by itself",
        )
    return CatalogUnavailable(
        f"the catalog does not answer: {said}",
        hint="start its server, or make its disk writable; `cbk doctor` looks at each part",
    )


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
