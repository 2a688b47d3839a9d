"""Scratch servers: a dump is restored into one, and nothing of it stays."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from cbk.edges.dump import open_source
from cbk.edges.dump.scratch import scratch_database
from cbk.errors import DrillFailed
from cbk.rules.dump.spec import DumpKind, parse_dump
from local_servers import wait_until


def nothing():
    pass


def read_all(spec, scratch):
    with open_source(spec, tick=nothing, scratch=scratch) as source:
        content = b"".join(source.chunks())
        roles = source.roles()
        return content, roles and b"".join(roles)


@pytest.fixture
def place():
    """A short path that everybody may enter, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="cbk-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def restored(kind, place, content, format_, roles=None):
    pieces = [content[start : start + 65_536] for start in range(0, len(content), 65_536)]
    with scratch_database(kind, place, tick=nothing) as database:
        database.restore(pieces, format_, nothing, roles=[roles] if roles else None)
        return database.rows(nothing)


@pytest.fixture
def pg_dumped(postgres, pg_database, pg_programs, tmp_path):
    postgres.execute("DO $$ BEGIN CREATE ROLE owner_of; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgres.execute("CREATE TABLE t AS SELECT generate_series(1, 500) x; ALTER TABLE t OWNER TO owner_of", pg_database)
    url = postgres.url(pg_database).replace("+psycopg", "")
    yield read_all(parse_dump("app", {"url": url}), tmp_path)
    postgres.execute("DROP OWNED BY owner_of", pg_database)


def test_postgresql_with_its_roles_and_without(place, pg_dumped):
    content, roles = pg_dumped
    assert restored(DumpKind.POSTGRESQL, place, content, "pg_dump -Fc", roles) == {"public.t": 500}
    assert restored(DumpKind.POSTGRESQL, place, content, "pg_dump -Fc") == {"public.t": 500}
    assert list(place.iterdir()) == []


def test_postgresql_that_is_damaged_does_not_restore(place, pg_dumped):
    content, _ = pg_dumped
    with pytest.raises(DrillFailed):
        restored(DumpKind.POSTGRESQL, place, content[:-500], "pg_dump -Fc")
    with pytest.raises(DrillFailed):
        restored(DumpKind.POSTGRESQL, place, b"CREATE TALE t (x int);\n", "pg_dump")


def test_mariadb_restores_and_says_where_not(place, mariadb, tmp_path):
    url = mariadb.create_database("scratched")
    mariadb.execute("CREATE OR REPLACE TABLE t(x int); INSERT INTO t SELECT seq FROM seq_1_to_500", "scratched")
    content, _ = read_all(parse_dump("app", {"url": url}), tmp_path)
    assert restored(DumpKind.MYSQL, place, content, "mysqldump") == {"t": 500}
    with pytest.raises(DrillFailed, match="does not take the dump"):
        restored(DumpKind.MYSQL, place, content.replace(b"INSERT", b"INSRT"), "mysqldump")
    assert list(place.iterdir()) == []


def test_sqlite_is_looked_through(place, tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
        connection.commit()
    content = path.read_bytes()
    assert restored(DumpKind.SQLITE, place, content, "sqlite") == {"t": 5000}
    with pytest.raises(DrillFailed, match="integrity_check says"):
        restored(DumpKind.SQLITE, place, content[:4200] + b"x" * (len(content) - 4200), "sqlite")


def test_a_drill_that_is_killed_leaves_no_server_and_no_folder(place, pg_programs):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from cbk.edges.dump.scratch import scratch_database; from cbk.rules.dump.spec import DumpKind\n"
        "with scratch_database(DumpKind.POSTGRESQL, Path(sys.argv[1]), tick=lambda: None):\n"
        "    print('up', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, env=dict(os.environ)) as drill:
        assert drill.stdout.readline() == b"up\n"
        postmaster = int(next(place.glob("*/data/postmaster.pid")).read_text().split()[0])
        drill.kill()
    wait_until(lambda: not any(place.iterdir()), 30, "the watcher to remove the scratch folder")
    with pytest.raises(ProcessLookupError):
        os.kill(postmaster, 0)
