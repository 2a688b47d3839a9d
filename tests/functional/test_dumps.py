"""Databases of each kind, dumped by schedule, drilled and restored by real processes."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date, timedelta

import pytest

from bench.dumps import TARGET_BYTES, peak_of
from local_servers import LOOPBACK, wait_until
from tests.functional.site import REPOSITORY


@pytest.fixture
def make_databases(postgres, pg_database, pg_programs, mariadb, sshd, tmp_path):
    """A function that fills one database of each kind; gives the dumps' settings."""

    def make(rows):
        postgres.execute(
            f"CREATE TABLE shop_orders AS SELECT g AS id, md5(g::text) AS name FROM generate_series(1, {rows}) g", pg_database
        )
        my_url = mariadb.create_database("shop")
        mariadb.execute(
            f"CREATE OR REPLACE TABLE orders AS SELECT seq, md5(seq) AS name FROM seq_1_to_{min(rows, 100_000)}", "shop"
        )
        with closing(sqlite3.connect(tmp_path / "wiki.db")) as connection:
            connection.execute("CREATE TABLE pages(x)")
            connection.executemany("INSERT INTO pages VALUES (?)", [(n,) for n in range(min(rows, 100_000))])
            connection.commit()
        reach = f"-h {LOOPBACK} -p {postgres.port} -U postgres"
        roles = f"{pg_programs}/pg_dumpall --globals-only {reach}"
        dump = f"{pg_programs}/pg_dump -Fc -Z0 {reach} {pg_database}"
        sshd.force(f'case "$SSH_ORIGINAL_COMMAND" in roles*) {roles};; *) {dump};; esac')
        return {
            "app": {"url": postgres.url(pg_database).replace("+psycopg", "")},
            "far": {
                "ssh": f"{sshd.user}@{sshd.host}:{sshd.port}",
                "kind": "postgresql",
                "roles": True,
                "ssh_key": str(sshd.key),
                "host_key": sshd.host_key,
            },
            "shop": {"url": my_url},
            "wiki": {"url": f"sqlite:///{tmp_path}/wiki.db"},
        }

    return make


def standings(site):
    return {each["name"]: each for each in map(json.loads, site.cbk("dump", "ls", "--json").stdout.splitlines())}


def take_and_drill_all(make_site, databases, timeout):
    site = make_site(CBK_DUMPS=json.dumps(databases), CBK_DRILL_EVERY="1h", CBK_LEASE="30s", PATH=os.environ["PATH"])
    site.init()
    site.worker()
    site.beat()
    drilled = lambda: all(each["last_drill_passed"] for each in standings(site).values())  # noqa: E731 - said once
    wait_until(drilled, timeout, lambda: f"every drill\n{standings(site)}\n{site.logs()[-5000:]}", every_seconds=1.0)
    assert {name: each["newest_version"] for name, each in standings(site).items()} == dict.fromkeys(databases, 1)
    return site


def test_databases_of_each_kind_are_dumped_by_schedule_drilled_and_restored(
    make_site, make_databases, tmp_path, postgres, pg_database
):
    site = take_and_drill_all(make_site, make_databases(2000), 240)
    postgres.execute("CREATE DATABASE back_again")
    try:
        target = postgres.url("back_again").replace("+psycopg", "")
        site.cbk("dump", "restore", "app", "--to", target)
        assert postgres.execute("SELECT count(*), max(name) FROM shop_orders", "back_again") == postgres.execute(
            "SELECT count(*), max(name) FROM shop_orders", pg_database
        )
    finally:
        postgres.execute("DROP DATABASE back_again WITH (FORCE)")
    site.cbk("dump", "restore", "wiki", "--to", str(tmp_path / "back"))
    with closing(sqlite3.connect(tmp_path / "back/wiki-v1.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM pages").fetchone() == (2000,)


@pytest.mark.nightly
def test_a_million_rows_by_url_and_over_ssh(make_site, make_databases):
    databases = make_databases(1_000_000)
    site = take_and_drill_all(make_site, {name: databases[name] for name in ("app", "far")}, 900)
    versions = json.loads(site.cbk("dump", "ls", "app", "--json").stdout.splitlines()[0])
    assert versions["rows"] >= 1_000_000


def test_a_worker_that_is_killed_in_a_dump_leaves_no_lie_and_another_one_takes_it(make_site, tmp_path):
    mark = tmp_path / "slow"
    mark.touch()
    script = f"echo half; while [ -e {mark} ]; do sleep 0.2; done; echo THE END"
    dumps = {"slow": {"command": ["sh", "-c", script], "kind": "raw", "end_mark": "THE END"}}
    site = make_site(CBK_DUMPS=json.dumps(dumps), CBK_LEASE="3s")
    site.init()
    worker = site.worker()
    site.beat()
    wait_until(
        lambda: list((site.root / ".cbk/incoming").glob("dump-slow-*")), 90, lambda: f"a part in arrival\n{site.logs()[-3000:]}"
    )
    worker.kill()
    assert standings(site)["slow"]["versions"] == 0
    mark.unlink()
    site.worker()
    wait_until(
        lambda: standings(site)["slow"]["newest_version"] == 1, 120, lambda: f"the dump\n{site.logs()[-3000:]}", every_seconds=1.0
    )
    assert gunzip(site.root / "dumps/slow/v1.gzip") == "half\nTHE END\n"


def gunzip(copy):
    """Its content, by the gzip of the machine."""
    return subprocess.run(["gzip", "-dc", "-S", ".gzip", copy], capture_output=True, check=True, text=True).stdout


def newest_of_each(days, period, count):
    """The newest day of each of the newest `count` periods."""
    newest = {period(day): day for day in sorted(days)}
    return set(sorted(newest.values())[-count:])


@pytest.mark.nightly
def test_400_daily_dumps_leave_exactly_the_days_that_7_4_and_12_say(tmp_path, libfaketime):
    # Each dump says its day, so that what is on the disk tells what was kept.
    dumps = {
        "app": {
            "command": ["sh", "-c", "date -u +%F; echo THE END"],
            "kind": "raw",
            "end_mark": "THE END",
            "keep": {"daily": 7, "weekly": 4, "monthly": 12},
            "schedule": "0 3 * * *",
            "timezone": "UTC",
        }
    }
    first, count, clock = date(2025, 1, 1), 400, tmp_path / "clock"
    clock.write_text(f"@{first} 00:00:00\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")} | {
        "LD_PRELOAD": libfaketime,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "CBK_SOURCE_URL": f"sqlite:///{tmp_path}/none.db",
        "CBK_BACKUP_ROOT": str(tmp_path / "backups"),
        "CBK_GRACE_PERIOD": "1h",
        "CBK_DUMPS": json.dumps(dumps),
    }
    command = [sys.executable, "-m", "tests.functional.dumps_of_a_year", clock, first.isoformat(), str(count)]
    subprocess.run(command, env=environment, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    days = [first + timedelta(days=number) for number in range(count)]
    expected = (
        newest_of_each(days, lambda day: day, 7)
        | newest_of_each(days, lambda day: day.isocalendar()[:2], 4)
        | newest_of_each(days, lambda day: (day.year, day.month), 12)
    )
    kept = {copy.stem: gunzip(copy).split()[0] for copy in (tmp_path / "backups/dumps/app").iterdir()}
    assert sorted(kept.values()) == sorted(map(str, expected))
    assert {f"v{days.index(day) + 1}" for day in expected} == set(kept)


MB = 1_000_000


@pytest.mark.parametrize("megabytes", [400, pytest.param(5000, marks=pytest.mark.nightly)])
def test_a_worker_stays_small_however_large_a_dump_is(make_site, megabytes):
    # One block again and again: it costs the disk little, and no memory more than any other.
    script = f"import os, sys\nblock = os.urandom({MB // 10}) * 10\nfor _ in range({megabytes}): sys.stdout.buffer.write(block)"
    dumps = {"large": {"command": [sys.executable, "-c", script], "kind": "raw"}}
    site = make_site(CBK_DUMPS=json.dumps(dumps), CBK_LEASE="30s")
    site.init()
    worker = site.worker()
    site.beat()
    wait_until(
        lambda: standings(site)["large"]["newest_version"] == 1,
        120 + megabytes,
        lambda: f"the dump\n{site.logs()[-3000:]}",
        every_seconds=1.0,
    )
    assert standings(site)["large"]["size"] == megabytes * MB
    assert peak_of(worker.pid) < TARGET_BYTES
