"""Run the model for a number of steps, on each processor at once, and say what came of it.

    scripts/test-model --steps 100000 --write
    scripts/test-model --database postgresql --steps 5000
    scripts/test-model --seed 17          the same histories again, with the shortest one that breaks a law

Every batch has a seed of its own, which is printed where a law broke. Exit code 1: one did. ^C ends it
after the batches that are under way.
"""

import argparse
import gc
import os
import re
import secrets
import signal
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from tests.model.machine import Histories, run
from tests.model.tables import MariaDB, PostgreSQL

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
LINES = re.compile(r"(<!-- lines: scripts/test-model -->\n)(.*?)(<!-- end of lines -->)", re.DOTALL)
EXAMPLES, STEPS = 10, 50
# Seeds that one process does before it ends, and its server with it.
AT_ONCE = {"sqlite": 1, "postgresql": 2, "mariadb": 2}


@contextmanager
def histories_on(database):
    """The machine for a kind of database, with a server of its own where it needs one."""
    with TemporaryDirectory(prefix="cbk-model-server-") as folder:
        Path(folder).chmod(0o755)
        if database == "sqlite":
            yield Histories
        elif database == "postgresql":
            from local_servers import Postgres  # noqa: PLC0415 - needed here only

            with Postgres(Path(folder)) as server:
                server.create_database("app")
                yield on_server(PostgreSQL, server.url("app"))
        else:
            from tests.dump_servers import MariaDB as Server  # noqa: PLC0415

            with Server(Path(folder)) as server:
                yield on_server(MariaDB, server.create_database("app"))


def on_server(kind, url):
    """The machine on a database of a server, whose tables each history makes anew."""

    class OnServer(Histories):
        @classmethod
        def open_database(cls, shape, folder):
            return kind(shape, url)

    OnServer.__name__ = OnServer.__qualname__ = kind.__name__
    return OnServer


def work(database, seeds, shrinks):
    """Batches for these seeds, in a process of its own: the steps of each, and what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(100_000, 50, 50)
    done = []
    with histories_on(database) as machine:
        for seed in seeds:
            try:
                done.append((seed, run(machine, examples=EXAMPLES, steps=STEPS, number=seed, shrinks=shrinks), ""))
            except BaseException as error:  # noqa: BLE001 - it is what this is for
                notes = "\n".join(getattr(error, "__notes__", ()))
                done.append((seed, 0, f"{type(error).__name__}: {error}\n{notes}" if notes else traceback.format_exc(limit=-3)))
    return done


def main(argv=None):
    arguments = parse(argv)
    if arguments.seed is not None:
        [(_, steps, problem)] = work(arguments.database, [arguments.seed], shrinks=True)
        print(problem or f"seed {arguments.seed}: {steps} steps, and both laws held")
        return bool(problem)
    began, steps, broken = time.monotonic(), 0, 0
    first, enough = secrets.randbelow(2**31), Event()
    signal.signal(signal.SIGINT, lambda *_: enough.set())
    print(f"seeds from {first} on")
    with ProcessPoolExecutor(arguments.processes) as pool:
        running, number = set(), first
        while running or not (steps >= arguments.steps or enough.is_set()):
            while steps < arguments.steps and not enough.is_set() and len(running) < arguments.processes:
                seeds = range(number, number + AT_ONCE[arguments.database])
                running.add(pool.submit(work, arguments.database, seeds, shrinks=False))
                number = seeds.stop
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for seed, count, problem in (each for batch in finished for each in batch.result()):
                steps += count
                if problem:
                    broken += 1
                    print(f"seed {seed} broke a law: {problem}\n  scripts/test-model --database {arguments.database} --seed {seed}")
            rate = steps / (time.monotonic() - began)
            print(f"\r{steps:,} steps, {rate:.0f} a second, {broken} broken", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    minutes = (time.monotonic() - began) / 60
    line = (
        f"- {arguments.database}: {steps:,} steps with seeds {first} to {number - 1}, {minutes:.0f} minutes: {broken} broken laws"
    )
    print(line)
    if arguments.write:
        write(line, arguments.database)
    return bool(broken)


def write(line, database):
    """Put the line into the page, for the one of the same database."""
    text = PAGE.read_text(encoding="utf-8")
    found = LINES.search(text)
    others = [old for old in found[2].splitlines() if old and not old.startswith(f"- {database}:")]
    lines = "\n".join(sorted([*others, line]))
    PAGE.write_text(text[: found.start(2)] + f"{lines}\n" + text[found.end(2) :], encoding="utf-8")


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/test-model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000, help="how many at least")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "mariadb"], default="sqlite")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once")
    parser.add_argument("--seed", type=int, help="one batch again, made as short as it goes")
    parser.add_argument("--write", action="store_true", help=f"put a line into {PAGE.relative_to(ROOT)}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
