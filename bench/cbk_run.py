"""The kit's turn: from rows in PostgreSQL to `stored` in the catalog, through real beat, Valkey and workers with their events on.

Workers and beat are daemons, so their start is not in the figures. The clock runs from when the first poll takes its lease until
the catalog calls every file stored, which is after its copy was flushed, read back and published. What is counted then is Valkey,
PostgreSQL, the workers and beat, each with all its processes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import redis
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from bench.place import BUCKET, REPOSITORY, STORAGE, TRANSFERS, Origin, Place, plain_environment
from bench.results import Run
from bench.watch import Watch, flushed
from cbk.edges.catalog.database.schema import files as files_table
from cbk.edges.catalog.database.schema import leases, versions
from cbk.rules.intake.layout import copy_location
from local_servers import Server, ServerFailed, wait_until

WORKER_START_SECONDS = 60.0
STORE_SECONDS = 1800.0
LOOK_SECONDS = 0.1
FIRST_LOOK_SECONDS = 0.005
CHECKED_COPIES = 50


class BenchFailed(Exception):
    """A contender did not do its work; the message says what is missing."""


class Celery(Server):
    """`celery -A cbk ...`, by default as docs/operations.md starts it; `program` is another module to run in its place."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str], *arguments: str, program: str = "celery") -> None:
        self.name = name
        super().__init__(folder)
        self._variables = environment
        self._arguments = arguments
        self._program = program

    def command(self) -> list[str]:
        kind = "beat" if self.name == "beat" else "worker"
        return [sys.executable, "-m", self._program, "-A", "cbk", kind, *self._arguments, "--loglevel", "info"]

    def is_ready(self) -> bool:
        return True

    def _environment(self) -> dict[str, str]:
        return dict(self._variables)


@dataclass
class Context:
    """The kit in a place: `root` is its backup disk."""

    place: Place
    root: Path
    catalog_url: str
    environment: dict[str, str]

    @classmethod
    def made(cls, place: Place, source_url: str, *, allowed: str, catalog: str = "sqlite", **settings: str) -> Context:
        """With an empty disk and an empty catalog, in SQLite on that disk or in PostgreSQL."""
        root = place.new_folder("backups")
        sqlite = f"sqlite:///{root}/.cbk/catalog.db"
        catalog_url = sqlite if catalog == "sqlite" else place.postgres.url(place.new_database("catalog"))
        environment = plain_environment() | {
            "CBK_SOURCE_URL": source_url,
            "CBK_CATALOG_URL": catalog_url,
            "CBK_BROKER_URL": place.valkey.url,
            "CBK_BACKUP_ROOT": str(root),
            "CBK_BUCKETS": json.dumps({STORAGE: BUCKET}),
            "CBK_ALLOWED_HOSTS": allowed,
            **settings,
        }
        context = cls(place, root, catalog_url, environment)
        with redis.Redis.from_url(place.valkey.url) as client:
            client.flushall()
        context.cbk("init", "--on-system-disk")
        return context

    def cbk(self, *arguments: str) -> str:
        """Run a command; return what it prints. Raises CalledProcessError."""
        command = [sys.executable, "-m", "cbk.cli", *arguments]
        return subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    def workers(self, stack: ExitStack, count: int, *, program: str = "celery") -> list[Celery]:
        """Start so many worker processes and wait until each takes tasks."""
        names = [f"worker-{number}" for number in range(1, count + 1)]
        environment = self.environment | {"PYTHONPATH": str(REPOSITORY)}
        workers = [Celery(self.place.folder, name, environment, "-n", f"{name}@%h", program=program) for name in names]
        started = [stack.enter_context(worker) for worker in workers]

        def are_consuming() -> bool:
            _require_running(started)
            with redis.Redis.from_url(self.place.valkey.url) as client:
                return sum(each["cmd"] == "brpop" for each in client.client_list()) >= count

        wait_until(are_consuming, WORKER_START_SECONDS, "the workers to take tasks")
        return started

    def forget_catalog(self) -> None:
        """Lose the catalog, for good."""
        url = make_url(self.catalog_url)
        if url.get_backend_name() == "sqlite":
            for path in self.root.glob(".cbk/catalog.db*"):
                path.unlink()
        else:
            self.place.postgres.execute(f'DROP DATABASE "{url.database}"')
            self.place.postgres.create_database(str(url.database))

    def look(self) -> sa.Engine:
        """The catalog, to look at."""
        return sa.create_engine(self.catalog_url)


STORED = sa.select(sa.func.count()).where(versions.c.newest.is_(True), versions.c.deleted.is_(False), versions.c.state == "stored")
A_POLL_HAS_BEGUN = sa.select(sa.func.count()).select_from(leases).where(leases.c.name == "poll")


# As installed on a machine with several processors. Eight downloads at a time in all, as the others have.
WORKERS = 2

Beside = Callable[[int], AbstractContextManager[None]]


def remove_copies(context: Context) -> None:
    """How a turn ends, unless something else is to be done with the copies."""
    context.place.done_with(context.root, sum(1 for _ in context.root.rglob("*.gzip")))


def back_up(
    place: Place,
    origin: Origin,
    source_url: str,
    case: str,
    round_: int,
    *,
    contender: str = "us",
    workers: int = WORKERS,
    downloads: int = TRANSFERS // WORKERS,
    program: str = "celery",
    catalog: str = "sqlite",
    beside: Beside = nullcontext,
    finish: Callable[[Context], None] = remove_copies,
) -> Run:
    """One turn of the kit, by so many workers with so many downloads each, which run `program`.

    `beside` is entered with the id of the first worker's process while the clock runs.

    Raises BenchFailed where a copy is missing or wrong, TimeoutError where they do not come.
    """
    context = Context.made(place, source_url, allowed=origin.address, catalog=catalog, CBK_CONCURRENCY=str(downloads))
    files = len(origin.corpus.files)
    with ExitStack() as stack:
        engine = context.look()
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
        started = context.workers(stack, workers, program=program)
        beat = Celery(place.folder, "beat", context.environment)

        def has_begun() -> bool:
            return bool(connection.scalar(A_POLL_HAS_BEGUN))

        def is_done() -> bool:
            _require_running(started)
            return connection.scalar(STORED) >= files

        def explain() -> str:
            return f"{files} copies; there are {connection.scalar(STORED)}; a worker's log ends:\n{started[0].log_tail()}"

        flushed()
        stack.enter_context(beat)
        wait_until(has_begun, WORKER_START_SECONDS, "the first poll", every_seconds=FIRST_LOOK_SECONDS)
        parts = {worker.name: worker.pid for worker in started}
        parts |= {"beat": beat.pid, "valkey": place.valkey.pid, "postgresql": place.postgres.pid}
        watch = Watch(parts | {"origin": origin.server.pid})
        with beside(started[0].pid), watch.watching():
            begun = time.perf_counter()
            wait_until(is_done, STORE_SECONDS, explain, every_seconds=LOOK_SECONDS)
            seconds = time.perf_counter() - begun
        facts = {"flush_seconds": flushed()}
        facts["failures"] = sum(worker.log_path.read_text().count("warning cbk.backup") for worker in started)
    _check_copies(context, origin)
    finish(context)
    server = watch.usage.pop("origin")
    return Run(case, contender, round_, files, origin.corpus.size, seconds, watch.usage, server, facts)


def _require_running(workers: list[Celery]) -> None:
    for worker in workers:
        if not worker.is_running:
            raise ServerFailed(f"the {worker.name} ended; its log ends:\n{worker.log_tail()}")


def _check_copies(context: Context, origin: Origin) -> None:
    """Every copy is there, and some of them are read as anybody would."""
    found = sum(1 for path in context.root.rglob("*.gzip") if ".cbk" not in path.parts)
    if found != len(origin.corpus.files):
        raise BenchFailed(f"the kit made {found} copies of {len(origin.corpus.files)} files")
    engine = context.look()
    with engine.connect() as connection:
        places = dict(connection.execute(sa.select(files_table.c.key, files_table.c.place)).all())
    engine.dispose()
    for file in random.Random(0).sample(origin.corpus.files, min(CHECKED_COPIES, found)):
        with gzip.open(context.root / copy_location(places[file.key], 1)) as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() != origin.corpus.sha256[file.key]:
                raise BenchFailed(f"the copy of {file.key} is another file")
