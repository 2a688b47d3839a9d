"""What a dump costs: `python -m bench.dumps`.

The processor's time of the kit's dump of a real PostgreSQL beside that of `pg_dump | gzip`, on the same database, and the memory of
a real worker while it takes a large dump. The server's own time is in neither; the kit's has the reading back, the drill is apart.

Exit code 0: the ratio is at most 0.5, and the worker's peak below 150 MB; 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from bench.memory import Celery
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import open_context
from cbk.jobs.dump.drill import drill_dump
from cbk.jobs.dump.take import take_dump
from cbk.settings import Settings, parse_size
from local_servers import Postgres, Valkey, wait_until

TARGET_RATIO = 0.5
TARGET_BYTES = 150 * 10**6
BLOCK_BYTES = 32 * 10**6
TIMEOUT_SECONDS = 3600.0
TABLE = "CREATE TABLE t(id bigint PRIMARY KEY, name text, digest bytea, at timestamptz DEFAULT now())"
ROWS = """
    INSERT INTO t SELECT g, 'cars/' || g || '/' || md5(g::text) || '.jpg', decode(md5(g::text), 'hex') FROM generate_series(1, {}) g
"""


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the database (default: 2,000,000)")
    parser.add_argument("--size", type=parse_size, default=parse_size("5GB"), help="of the large dump (default: 5GB)")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cbk-bench-")))
        folder.chmod(0o755)
        ratio = measure_cpu(stack, folder, options.rows)
        peak = measure_memory(stack, folder, options.size) if options.size else 0
    return int(ratio > TARGET_RATIO or peak > TARGET_BYTES)


def measure_cpu(stack: ExitStack, folder: Path, rows: int) -> float:
    """Print both, and give the kit's share of what pg_dump and gzip take."""
    postgres = stack.enter_context(Postgres(folder))
    postgres.create_database("app")
    postgres.execute(f"{TABLE}; {ROWS.format(rows)}", "app")
    url = postgres.url("app").replace("+psycopg", "")
    programs = str(Path(postgres._tool("pg_dump")).parent)  # noqa: SLF001 - where the wheel has them
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    settings = {"source_url": f"sqlite:///{folder}/none.db", "backup_root": str(folder / "backups"), "dumps": {"app": {"url": url}}}
    with closing(open_context(Settings(**settings))) as context:
        list(initialise(context))
        script = f"pg_dump '{url}' | gzip > {folder}/app.sql.gz"
        naive, naive_wall = timed(lambda: subprocess.run(["sh", "-c", script], check=True))
        ours, wall = timed(lambda: take_dump(context, "app", pause=lambda _seconds: False))
        dump = context.catalog.dumps.get("app")
        assert dump is not None
        version = context.catalog.dumps.stored(dump.id)[0]
        drill, drill_wall = timed(lambda: drill_dump(context, dump, version, tick=lambda: None))
    gzip_bytes = (folder / "app.sql.gz").stat().st_size
    print(f"{rows} rows, {version.size / 1e6:.0f} MB as they come")
    print(f"  pg_dump | gzip     {naive:6.1f} s of the processor, {naive_wall:6.1f} s, {gzip_bytes / 1e6:6.1f} MB")
    print(f"  cbk dump           {ours:6.1f} s of the processor, {wall:6.1f} s, {version.stored_size / 1e6:6.1f} MB, read back")
    print(f"  cbk dump drill     {drill:6.1f} s of the processor, {drill_wall:6.1f} s")
    print(f"  ratio              {ours / naive:6.2f}")
    return ours / naive


def measure_memory(stack: ExitStack, folder: Path, size: int) -> int:
    """Print the peak of a worker's resident set while it takes a dump of so many bytes, and give it."""
    valkey = stack.enter_context(Valkey(folder))
    block = folder / "block"
    block.write_bytes(b"".join(b"%d\tcars/%d.jpg\t%d\n" % (n, n * n, n**3) for n in range(BLOCK_BYTES // 30))[:BLOCK_BYTES])
    times = -(-size // block.stat().st_size)
    command = ["sh", "-ec", f"i=0; while [ $i -lt {times} ]; do cat {block}; i=$((i+1)); done; echo THE END"]
    environment = {
        "CBK_SOURCE_URL": f"sqlite:///{folder}/none.db",
        "CBK_BACKUP_ROOT": str(folder / "large"),
        "CBK_BROKER_URL": valkey.url,
        "CBK_DUMPS": json.dumps({"large": {"command": command, "kind": "raw", "end_mark": "THE END"}}),
    }
    cbk = [str(Path(sys.executable).with_name("cbk"))]
    subprocess.run([*cbk, "init", "--on-system-disk"], env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    worker = stack.enter_context(Celery(folder, "worker", environment))
    wait_until(worker.is_consuming, 120, worker.log_tail)
    call = [sys.executable, "-m", "celery", "-A", "cbk", "call", "cbk.dump", "--args", '["large"]']
    before = peak_of(worker.pid)
    subprocess.run(call, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: "cbk.dump stored" in worker.log_tail(), TIMEOUT_SECONDS, worker.log_tail, every_seconds=1.0)
    peak = peak_of(worker.pid)
    size = times * block.stat().st_size
    print(f"a dump of {size / 1e9:.1f} GB: the worker's peak is {peak / 1e6:.0f} MB, {before / 1e6:.0f} MB before")
    return peak


def peak_of(pid: int | None) -> int:
    """The most that a process ever had in memory, in bytes (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor that this process and its children took, and seconds that passed."""
    began, used = time.monotonic(), processor_seconds()
    work()
    return processor_seconds() - used, time.monotonic() - began


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


if __name__ == "__main__":
    sys.exit(main())
