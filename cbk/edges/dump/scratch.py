"""Servers of a drill's own: made in a scratch folder, reached by a socket in it alone, and gone with whoever asked for them.

A server runs under a small watcher, which holds a pipe to us. When that closes, for whatever reason (a kill among them), the
watcher ends the server and removes the folder, so that no drill leaves anything behind.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import psycopg

from cbk.edges.dump.mysql import Client
from cbk.edges.dump.process import TICK_SECONDS, Program, Tick, environment_for, run
from cbk.edges.dump.servers import Account, DatabaseTarget, MysqlTarget, PostgresTarget, SqliteTarget
from cbk.edges.dump.tools import find, find_postgres
from cbk.errors import DumpError, DumpUnavailable
from cbk.rules.dump.spec import DumpKind

DATABASE = "restored"
_USER = "cbk_drill"
_START_SECONDS = 180.0
_STOP_SECONDS = 30.0
_LOG_BYTES = 2000
_SOCKET_MAX_BYTES = 90  # of the folder's path: a socket's may have 107

# Arguments: user, group, folder, then the server's program and its arguments.
_WATCHER = """
import os, shutil, signal, subprocess, sys, threading
user, group, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
who = {"user": user, "group": group, "extra_groups": []} if user >= 0 else {}
with open(folder + "/server.log", "ab") as log:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    server = subprocess.Popen(sys.argv[4:], cwd="/", start_new_session=True, **pipes, **who)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def gone():
    server.wait()
    os.close(1)
threading.Thread(target=gone, daemon=True).start()
sys.stdin.buffer.read()
for how in (signal.SIGQUIT, signal.SIGKILL):
    try:
        os.killpg(server.pid, how)
    except ProcessLookupError:
        break
    try:
        server.wait(10)
        if how == signal.SIGKILL:
            break
    except subprocess.TimeoutExpired:
        pass
shutil.rmtree(folder, ignore_errors=True)
"""


@contextmanager
def scratch_database(kind: DumpKind, place: Path, *, tick: Tick) -> Iterator[DatabaseTarget]:
    """An empty database of this kind in a folder below `place`, gone in the end. Raises ToolMissing, DumpUnavailable."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-drill-", dir=place))
    try:
        if kind is DumpKind.SQLITE:
            yield SqliteTarget(folder / "restored.sqlite")
        elif kind is DumpKind.MYSQL:
            with _mariadb(folder, tick) as mariadb:
                yield mariadb
        elif kind is DumpKind.POSTGRESQL:
            with _postgres(folder, tick) as postgres:
                yield postgres
        else:
            raise DumpUnavailable("there is no server for dumps of this kind")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgres(folder: Path, tick: Tick) -> Iterator[PostgresTarget]:
    server, _ = find_postgres("postgres")
    account = _give_up_root(folder, "postgres")
    data = folder / "data"
    options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
    initdb = [str(Path(server).with_name("initdb")), f"--pgdata={data}", f"--username={_USER}", *options]
    run(Program(name="initdb", arguments=initdb, account=account), tick=tick)
    sockets = _short(folder, account)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "autovacuum": "off",
        "max_connections": "10",
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    urls = {name: f"postgresql://{_USER}@/{name}?host={quote(str(sockets), safe='')}" for name in ("postgres", DATABASE)}
    with _watched([server, "-D", str(data), *flags], folder, account) as watcher:
        _await(lambda: psycopg.connect(urls["postgres"], connect_timeout=5).close(), watcher, folder, tick)
        with psycopg.connect(urls["postgres"], autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
        yield PostgresTarget(urls[DATABASE], account=account)
    if sockets != folder:
        shutil.rmtree(sockets, ignore_errors=True)


@contextmanager
def _mariadb(folder: Path, tick: Tick) -> Iterator[MysqlTarget]:
    server = find("mariadbd", "mysqld")
    account = _give_up_root(folder, "mysql")
    data, sockets = folder / "data", _short(folder, account)
    install = [find("mariadb-install-db", "mysql_install_db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
    run(Program(name="mariadb-install-db", arguments=install, account=account), tick=tick)
    socket = f"{sockets}/s"
    flags = [f"--datadir={data}", f"--socket={socket}", "--skip-networking", "--innodb-flush-log-at-trx-commit=0"]
    flags += [f"--pid-file={folder}/pid", f"--tmpdir={folder}", "--max-allowed-packet=1G"]
    reach = ["--no-defaults", f"--socket={socket}", "--user=root"]
    with _watched([server, "--no-defaults", *flags], folder, account) as watcher:
        client = find("mariadb", "mysql")
        admin = Program(name="mariadb", arguments=[client, *reach, f"--execute=CREATE DATABASE IF NOT EXISTS {DATABASE}"])
        _await(lambda: run(admin), watcher, folder, tick)
        url = f"mysql://root@localhost/{DATABASE}?unix_socket={quote(socket, safe='')}"
        yield MysqlTarget(url, Client(client, [*reach, "--max-allowed-packet=1G", DATABASE], account))
    if sockets != folder:
        shutil.rmtree(sockets, ignore_errors=True)


@contextmanager
def _watched(command: list[str], folder: Path, account: Account) -> Iterator[subprocess.Popen[bytes]]:
    user, group = account or (-1, -1)
    arguments = [sys.executable, "-I", "-S", "-c", _WATCHER, str(user), str(group), str(folder), *command]
    environment = environment_for(Program(name="server", arguments=command))
    with subprocess.Popen(  # noqa: S603 - arguments are a list, and no shell reads them
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
    ) as watcher:
        try:
            yield watcher
        finally:
            assert watcher.stdin is not None
            with suppress(OSError):
                watcher.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                watcher.wait(_STOP_SECONDS)


def _await(reach: Callable[[], object], watcher: subprocess.Popen[bytes], folder: Path, tick: Tick) -> None:
    """Wait until the server can be reached. Raises DumpUnavailable, with the end of its log."""
    assert watcher.stdout is not None
    os.set_blocking(watcher.stdout.fileno(), False)
    deadline = monotonic() + _START_SECONDS
    pause = TICK_SECONDS / 10
    while True:
        try:
            reach()
        except (psycopg.OperationalError, DumpError):
            if watcher.stdout.read() == b"" or monotonic() > deadline:
                raise DumpUnavailable(f"the scratch server did not start: {_log_tail(folder)}") from None
        else:
            return
        with suppress(subprocess.TimeoutExpired):
            watcher.wait(pause)
        tick()


def _log_tail(folder: Path) -> str:
    try:
        text = (folder / "server.log").read_bytes()[-_LOG_BYTES:].decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its log is empty"


def _give_up_root(folder: Path, name: str) -> Account:
    """The account that a server runs as, which then owns the folder: a dump is not to be run by root."""
    if os.geteuid() != 0:
        return None
    for candidate in (name, "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(candidate)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            return entry.pw_uid, entry.pw_gid
    return None


def _short(folder: Path, account: Account) -> Path:
    """A folder for the socket: this one, or where its path is too long for one, another."""
    if len(os.fsencode(folder)) <= _SOCKET_MAX_BYTES:
        return folder
    other = Path(tempfile.mkdtemp(prefix="cbk-drill-", dir="/tmp"))
    if account:
        os.chown(other, *account)
    return other
