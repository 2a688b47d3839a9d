"""What a grown site costs: `python -m bench.scale [--files N] [--folder DIR] [--json FILE]`.

Makes the catalog (SQLite) and the application's database of a site with so many files, of the shape that sites have: of ten
files, one was deleted and pruned, and one was replaced twice, so that there are 1.2 versions for each file. Then measures what runs
by itself (an idle poll, the status that the watch takes, the page's view) and what a person starts (`status`, `ls --prefix`,
`history`), and how long 1,000 new rows take from being there to being sent. Nothing is on the disk but the catalog.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from bench.watch import high_water_mark
from cbk.edges.catalog import Planned
from cbk.edges.catalog.intake.intake import name_digest, place_digest
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import Context, open_context
from cbk.jobs.poll.poll import poll
from cbk.jobs.status.overview import gather_overview
from cbk.jobs.status.status import gather_status
from cbk.model import Version
from cbk.settings import Settings, load_settings
from cbk_app.schema import ddl

NEW_ROWS = 1000
ROUNDS = 3
DAY = 86_400_000  # milliseconds

SOURCE = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :files)
    INSERT INTO "ObjectStorageFiles" ("Id", "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl", "CreatedAt")
    SELECT i, i || '.jpg', 'cars/' || (i / 100) || '/', 's3', CASE i % 10 WHEN 1 THEN 3 ELSE 1 END, hex(hash(i)),
        'https://objects.example.com/car-erp/cars/' || (i / 100) || '/' || i || '.jpg',
        '2026-11-01 00:00:00'
    FROM n WHERE i % 10 <> 0;
"""
SOURCE_DELETES = """
    WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 10 FROM n WHERE i + 10 <= :files)
    INSERT INTO "ObjectStorageDeleteLog" ("Id", "FileId", "DeletedAt") SELECT i / 10, i, '2026-11-01 00:00:00' FROM n;
"""
CATALOG = (
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :files)
    INSERT INTO files (id, storage, key, bucket, place, name_digest, place_digest)
    SELECT i, 's3', 'cars/' || (i / 100) || '/' || i || '.jpg', 'car-erp', 'car-erp/cars/' || (i / 100) || '/' || i,
        name_digest('s3', 'cars/' || (i / 100) || '/' || i || '.jpg'), place_digest('car-erp/cars/' || (i / 100) || '/' || i) FROM n
    """,
    # The newest version of each file; that of one in ten is deleted and pruned.
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :files)
    INSERT INTO versions (id, file_id, number, source_id, sha256, state, live, deleted, newest, fence, size, stored_size,
        stored_sha256, first_seen_at, stored_at, verified_at, pruned_at)
    SELECT i, i, CASE i % 10 WHEN 1 THEN 3 ELSE 1 END, i, hash(i), CASE i % 10 WHEN 0 THEN 'pruned' ELSE 'stored' END,
        i % 10 <> 0, i % 10 = 0, 1, 1, 20000, 15000, hash(-i), :now - 30 * :day + i % 1000, :now - 30 * :day + i % 1000,
        :now - i * 1000003 % (30 * :day), CASE i % 10 WHEN 0 THEN :now - 20 * :day END FROM n
    """,
    # The earlier ones, replaced and pruned.
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 10 FROM n WHERE i + 10 <= :files), v(number) AS (VALUES (1), (2))
    INSERT INTO versions (file_id, number, source_id, sha256, state, live, newest, fence, size, stored_size, stored_sha256,
        first_seen_at, stored_at, verified_at, pruned_at)
    SELECT i, number, (:files * number + i), hash(:files * number + i), 'pruned', 0, 0, 1, 20000, 15000, hash(-i), :now - 60 * :day,
        :now - 60 * :day, :now - 60 * :day, :now - 25 * :day FROM n, v
    """,
    """
    INSERT INTO rows (source_id, version_id, file_id, number, poll, created_at, first_seen_at, gone_at)
    SELECT source_id, id, file_id, number, 1, '2026-11-01 00:00:00', first_seen_at,
        CASE WHEN live THEN NULL ELSE :now - 25 * :day END
    FROM versions ORDER BY id
    """,
    """
    INSERT INTO removals (id, kind, delete_id, row_id, deleted_at, file_id, through, poll, first_seen_at, due_at, open, outcome,
        closed_at)
    SELECT file_id / 10, 'deleted', file_id / 10, file_id, '2026-11-01 00:00:00', file_id, 1, 1, :now - 27 * :day,
        :now - 20 * :day, 0, 'done', :now - 20 * :day
    FROM versions WHERE deleted
    """,
    """
    INSERT INTO covers (removal_id, row_id)
    SELECT versions.file_id / 10, rows.id FROM versions JOIN rows ON rows.version_id = versions.id WHERE versions.deleted
    """,
)


class Nobody:
    """Takes messages and keeps none."""

    def send_backups(self, batches: Iterable[Sequence[Version]]) -> None:
        """Take them."""
        for _ in batches:
            pass

    def send_prunes(self, planned: Iterable[Planned], now: datetime) -> None:
        """Take them."""
        assert now
        for _ in planned:
            pass

    def send_mirrors(self, names: Iterable[str]) -> None:
        """Take them."""
        assert names is not None

    def waiting_backups(self) -> set[str]:
        """None."""
        return set()


def main() -> int:
    """Make the site, unless the folder has it, and print one line for each thing measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="of the site (default: 1,000,000)")
    parser.add_argument("--folder", type=Path, help="where the site is made, and stays; else in a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cbk-scale-") as temporary:
        folder = options.folder or Path(temporary)
        settings = settings_of(folder)
        if not (folder / "source.db").exists():
            make_site(folder, settings, options.files)
        figures = measure(folder, settings, options.files)
    if options.json:
        options.json.write_text(json.dumps({"files": options.files, "figures": figures}, indent=1) + "\n")
    return 0


def settings_of(folder: Path) -> Settings:
    """Those of the site in that folder, which the environment gets as well."""
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "CBK_SOURCE_URL": f"sqlite:///{folder / 'source.db'}",
        "CBK_BACKUP_ROOT": str(root),
        "CBK_BROKER_URL": "redis://127.0.0.1:1/0",
        "CBK_BUCKETS": '{"s3": "car-erp"}',
    }
    return load_settings()


def make_site(folder: Path, settings: Settings, files: int) -> None:
    """The application's database, and the catalog as it is when all of it was backed up."""
    with closing(sqlite3.connect(folder / "source.db")) as source:
        source.create_function("hash", 1, _hash, deterministic=True)
        source.executescript(ddl("sqlite"))
        for statement in (SOURCE, SOURCE_DELETES):
            source.execute(statement.strip().rstrip(";"), {"files": files})
        source.commit()
    with closing(open_context(settings)) as context:
        list(initialise(context))
        assert context.catalog.file is not None
        path = context.catalog.file
    now = time.time_ns() // 1_000_000
    with closing(sqlite3.connect(path)) as catalog:
        catalog.create_function("hash", 1, _hash, deterministic=True)
        catalog.create_function("name_digest", 2, lambda storage, key: bytes.fromhex(name_digest(storage, key)), deterministic=True)
        catalog.create_function("place_digest", 1, lambda place: bytes.fromhex(place_digest(place)), deterministic=True)
        catalog.execute("PRAGMA synchronous = OFF")
        for statement in CATALOG:
            catalog.execute(statement, {"files": files, "now": now, "day": DAY})
        catalog.executemany("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", _facts(catalog, files))
        catalog.commit()


def _hash(number: int) -> bytes:
    return number.to_bytes(32, "big", signed=True)


def _facts(catalog: sqlite3.Connection, files: int) -> list[tuple[str, str]]:
    """What polls have noted of the two tables."""
    now = (datetime.now(UTC) - timedelta(hours=1)).isoformat()  # long enough ago to have settled
    count, total = catalog.execute("SELECT count(*), sum(CAST(source_id AS INTEGER)) FROM rows WHERE gone_at IS NULL").fetchone()
    deletes = files // 10
    found: dict[str, object] = {"files.counters": [count, total], "deletes.counters": [deletes, deletes * (deletes + 1) // 2]}
    for table, highest in (("files", files), ("deletes", deletes)):
        last = {"poll": 1, "started_at": now, "finished_at": now, "seconds": files / 20_000, "rows": highest}
        found[f"{table}.reading"] = {
            "marks": [[highest, now]],
            "window": None,
            "under_way": None,
            "last": last,
            "clean_poll": 1,
            "doubt": "",
            "unread": [0, 0],
            "asked_at": None,
            "ask_seconds": 0.0,
        }
    return [(name, json.dumps(value)) for name, value in found.items()] + [("poll.number", "1")]


def measure(folder: Path, settings: Settings, files: int) -> dict[str, dict[str, float]]:
    """Print and give, for each thing, seconds of a processor and of the clock, the middle one of three."""
    figures = {}
    key = f"cars/{files // 200}/{files // 2 + 1}.jpg"
    with closing(open_context(settings)) as context:
        idle_poll(context)  # the first after a while asks more
        for name, thing in {
            "an idle poll": lambda: idle_poll(context),
            "status, as the watch and the page take it": lambda: gather_status(context),
            "the page's view": lambda: gather_overview(context),
        }.items():
            figures[name] = _timed(name, thing)
        figures["1,000 new rows, poll and sending"] = _timed(
            "1,000 new rows, poll and sending", lambda: _more(folder, context), rounds=1
        )
    for name, arguments in {
        "cbk status": ["status", "--json"],
        "cbk ls --prefix": ["ls", "--prefix", key.rpartition("/")[0], "--json"],
        "cbk history": ["history", key, "--json"],
    }.items():
        figures[name] = _timed(name, partial(_run_cbk, arguments))
    print(f"{high_water_mark(os.getpid()) / 1e6:.0f} MB of memory at the peak")
    return figures


def idle_poll(context: Context) -> None:
    """A poll whose messages nobody takes."""
    poll(context, Nobody(), pause=lambda _seconds: True)


def _timed(name: str, thing: Callable[[], object], rounds: int = ROUNDS) -> dict[str, float]:
    taken = []
    for _ in range(rounds):
        begun, worked = time.perf_counter(), _worked()
        thing()
        taken.append({"cpu": _worked() - worked, "seconds": time.perf_counter() - begun})
    middle = sorted(taken, key=lambda each: each["cpu"])[rounds // 2]
    print(f"{middle['cpu']:8.3f} s of a processor, {middle['seconds']:8.3f} s: {name}", flush=True)
    return middle


def _more(folder: Path, context: Context) -> None:
    with closing(sqlite3.connect(folder / "source.db")) as source:
        highest = source.execute('SELECT max("Id") FROM "ObjectStorageFiles"').fetchone()[0]
        source.create_function("hash", 1, _hash)
        source.execute(
            """
            WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :first + :rows)
            INSERT INTO "ObjectStorageFiles" ("Id", "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl", "CreatedAt")
            SELECT i, i || '.jpg', 'new/', 's3', 1, hex(hash(i)), 'https://objects.example.com/new/' || i, '2026-11-30 00:00:00'
            FROM n
            """,
            {"first": highest + 1, "rows": NEW_ROWS},
        )
        source.commit()
    idle_poll(context)


def _run_cbk(arguments: list[str]) -> None:
    """As a process of its own. Its exit code is not of interest: no worker is there, so that the status is red."""
    subprocess.run([sys.executable, "-m", "cbk.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _worked() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    sys.exit(main())
