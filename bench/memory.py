"""How much memory a worker needs with many files in flight, one of them large: `python -m bench.memory`.

Everything is real and on loopback: Valkey, PostgreSQL behind a user that may only SELECT, `celery worker` and `celery beat`. Only
the origin is made for this (see `bench.origin`). Memory is the resident set of the worker, which is one process with threads.

Exit code 0: every file is stored and the peak is below the target; 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import create_engine

from bench.origin import Object, Origin
from cbk.settings import parse_size
from cbk_app.recorder import Recorder
from cbk_app.schema import ddl, grants
from local_servers import Postgres, Server, ServerFailed, Valkey, wait_until

READER = "cbk_reader"
TARGET_BYTES = 150 * 10**6
SAMPLE_SECONDS = 0.02
WORKER_START_SECONDS = 60.0
STORE_TIMEOUT_SECONDS = 900.0
MB = 10**6


class Celery(Server):
    """`celery -A cbk <name> --loglevel info`."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        super().__init__(folder)
        self._variables = environment

    def command(self) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "cbk", self.name, "--loglevel", "info"]

    def is_ready(self) -> bool:
        return True

    def is_consuming(self) -> bool:
        """Whether a worker takes tasks now. Raise ServerFailed where it has ended."""
        if not self.is_running:
            raise ServerFailed(f"the {self.name} ended; its log ends:\n{self.log_tail()}")
        return " ready" in self.log_tail()

    def _environment(self) -> dict[str, str]:
        return dict(self._variables)


@dataclass
class Memory:
    """The resident set of a process and its children, in bytes: `idle` before, and `peak` while it was `sampled`."""

    process: psutil.Process
    idle: int = 0
    peak: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        self.idle = self._now()
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        yield
        self._over.set()
        thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        return sum(process.memory_info().rss for process in (self.process, *self.process.children(recursive=True)))

    def high_water_mark(self) -> int:
        """What the kernel remembers as the largest resident set of the process itself (proc(5), VmHWM, in kB of 1024)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> int:
    options = parse_arguments()
    objects = {f"/bench/{number}.bin": Object(number, options.small) for number in range(1, options.files)}
    objects["/bench/large.bin"] = Object(0, options.large)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cbk-bench-", ignore_cleanup_errors=True)))
        folder.chmod(0o711)
        origin = stack.enter_context(Origin(objects))
        valkey, postgres = stack.enter_context(Valkey(folder)), stack.enter_context(Postgres(folder))
        environment = make_environment(folder, valkey, postgres, origin, options.files)
        write_tables(postgres)
        cbk(environment, "init", "--on-system-disk")
        worker = stack.enter_context(Celery(folder, "worker", environment))
        wait_until(worker.is_consuming, WORKER_START_SECONDS, "the worker to be ready")
        memory = Memory(psutil.Process(worker.pid))
        write_rows(postgres, origin)
        with memory.sampled():
            stack.enter_context(Celery(folder, "beat", environment))
            stored = wait_for_copies(environment, worker, options.files)
        return report(options, memory, stored, origin.most_in_flight)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="How much memory a worker needs.")
    parser.add_argument("--files", type=int, default=16, metavar="N", help="files in flight (default: %(default)s)")
    parser.add_argument("--large", type=parse_size, default=2 * 1024**3, metavar="SIZE", help="the large one (default: 2GiB)")
    parser.add_argument(
        "--small", type=parse_size, default=32 * 1024**2, metavar="SIZE", help="each of the others (default: 32MiB)"
    )
    return parser.parse_args()


def make_environment(folder: Path, valkey: Valkey, postgres: Postgres, origin: Origin, files: int) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "CELERY_", "FLOWER_"))}
    return plain | {
        "CBK_SOURCE_URL": postgres.url("app", user=READER),
        "CBK_BROKER_URL": valkey.url,
        "CBK_BACKUP_ROOT": str(folder / "backups"),
        "CBK_ALLOWED_HOSTS": origin.address,
        "CBK_POLL_INTERVAL": "2s",
        "CBK_CONCURRENCY": str(files),
    }


def write_tables(postgres: Postgres) -> None:
    postgres.create_database("app")
    postgres.execute(ddl("postgresql") + grants("postgresql", READER), "app")


def write_rows(postgres: Postgres, origin: Origin) -> None:
    engine, recorder = create_engine(postgres.url("app")), Recorder(storage="s3")
    with engine.begin() as connection:
        for path, wanted in origin.objects.items():
            link = f"http://{origin.address}{path}"
            recorder.record_upload(connection, path.lstrip("/"), hash=wanted.sha256(), version=1, link=link)
    engine.dispose()


def cbk(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "cbk.cli", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout


def wait_for_copies(environment: Mapping[str, str], worker: Server, files: int) -> int:
    """How many files are protected in the end: all, or as many as there are when a worker ends or time is up."""

    def protected() -> int:
        return int(json.loads(cbk(environment, "status", "--json"))["protected_files"])

    pause = threading.Event()
    try:
        wait_until(
            lambda: not worker.is_running or protected() == files or pause.wait(1), STORE_TIMEOUT_SECONDS, "every file to be stored"
        )
    except TimeoutError as error:
        print(f"{error}; the worker's log ends:\n{worker.log_tail()}", file=sys.stderr)
    return protected()


def report(options: argparse.Namespace, memory: Memory, stored: int, in_flight: int) -> int:
    peak = max(memory.peak, memory.high_water_mark())
    sizes = f"one of {options.large / MB:.1f} MB, the others of {options.small / MB:.1f} MB"
    print(f"stored: {stored} of {options.files} files, {sizes}; {in_flight} were in flight at the same time")
    print(f"the worker's resident set: {memory.idle / MB:.1f} MB idle, {peak / MB:.1f} MB at its peak")
    print(f"target: below {TARGET_BYTES / MB:.0f} MB")
    return 0 if stored == in_flight == options.files and peak < TARGET_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
