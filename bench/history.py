"""What a million rows cost: to take them in, to have them wait, and to poll when nothing is new."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import redis
import sqlalchemy as sa

from bench.cbk_run import Context
from bench.place import REPOSITORY, Place
from bench.results import Run
from bench.transfers import Options, Turn, in_turn
from bench.watch import Usage, Watch
from cbk.edges.catalog.database.schema import versions

ROWS = 1_000_000
POLLS = 20
RECONCILING_POLLS = 4
NOWHERE = "objects.example.com"
# Rows as an application has them: a key, a hash, and a link of the length that boto3 signs.
NEW_ROWS = """
    INSERT INTO "ObjectStorageFiles" ("Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl", "CreatedAt")
    SELECT md5(n::text) || '.jpg', 'cars/' || n / 100 || '/', 's3', 1, encode(sha256(n::text::bytea), 'hex'),
           'https://objects.example.com/car-erp/cars/' || n / 100 || '/' || md5(n::text) || '.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256'
           || '&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261101%2Feu-central-1%2Fs3%2Faws4_request&X-Amz-Date='
           || to_char(now() AT TIME ZONE 'utc', 'YYYYMMDD"T"HH24MISS"Z"') || '&X-Amz-Expires=604800&X-Amz-SignedHeaders=host'
           || '&X-Amz-Signature=' || encode(sha256(n::text::bytea), 'hex'), now() - interval '30 days'
    FROM generate_series(1, {rows}) n
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A kit and the application's database that it polls."""

    context: Context
    database: str


def poll_history(place: Place, options: Options) -> Iterator[Run]:
    """A million new rows, then polls with nothing new beside those of an empty table; the facts of each run hold sizes."""
    rows = max(int(ROWS * place.scale), 1)
    empty, full = _site(place, options), _site(place, options)
    _poll(place, empty, "empty", 0, polls=0)
    place.postgres.execute(NEW_ROWS.format(rows=rows), full.database)
    place.postgres.execute("ANALYZE", full.database)
    with redis.Redis.from_url(place.valkey.url) as client:
        client.flushall()
        idle = client.info("memory")["used_memory"]
        taken = _poll(place, full, "us", 0, polls=0)
        waiting = client.info("memory")
        messages = client.llen("cbk:backup")
        client.flushall()
    in_redis = {"redis_bytes": waiting["used_memory"] - idle, "redis_peak_bytes": waiting["used_memory_peak"], "messages": messages}
    _store_all(full)
    sizes = in_redis | {"catalog_bytes_per_version": _catalog_bytes(full) / rows}
    yield replace(taken, case="intake", files=rows, facts=sizes)
    turns: dict[str, Turn] = {
        "empty": partial(_poll, place, empty, "empty"),
        "history": partial(_poll, place, full, "history"),
    }
    yield from in_turn(turns, options.rounds)
    reconciled = _poll(place, full, "us", 0, polls=RECONCILING_POLLS, CBK_RECONCILE_INTERVAL="1ms")
    yield replace(reconciled, case="reconcile", files=int(reconciled.facts["read"]))


def _site(place: Place, options: Options) -> Site:
    database, source_url = place.new_tables()
    return Site(Context.made(place, source_url, allowed=NOWHERE, catalog=options.catalog), database)


def _poll(place: Place, site: Site, contender: str, round_: int, *, polls: int = POLLS, **settings: str) -> Run:
    """Some polls in a process of their own; `files` of the run are polls."""
    watch = Watch({"valkey": place.valkey.pid, "postgresql": place.postgres.pid})
    command = [sys.executable, "-m", "bench.polls", str(polls)]
    with watch.watching():
        done = subprocess.run(
            command, env=site.context.environment | settings, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
        )
    said = json.loads(done.stdout)
    used = {"poll": Usage(said["cpu"], said["memory"])} | watch.usage
    facts = {"read": said["read"], "new": said["new"]}
    return Run("poll", contender, round_, said["polls"], 0, said["seconds"], used, facts=facts)


def _store_all(site: Site) -> None:
    """Write into the catalog what it would hold had workers stored every version a day ago."""
    now = sa.select(sa.func.max(versions.c.first_seen_at)).scalar_subquery()
    stored = {
        "state": "stored",
        "due_at": None,
        "lease_until": None,
        "holder": None,
        "fence": 1,
        "size": 20_000,
        "stored_size": 15_000,
        "stored_sha256": versions.c.sha256,
        "stored_at": now,
        "verified_at": now,
    }
    engine = site.context.look()
    with engine.begin() as connection:
        connection.execute(sa.update(versions).values(stored))
    engine.dispose()


def _catalog_bytes(site: Site) -> int:
    engine = site.context.look()
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            return int(connection.scalar(sa.select(sa.func.pg_database_size(engine.url.database))))
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return (site.context.root / ".cbk" / "catalog.db").stat().st_size
