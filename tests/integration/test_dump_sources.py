"""Dumps of real databases, by URL, over a real sshd and by a command; and what is said where one cannot be taken."""

import os
import random
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from cbk.edges.dump import open_source
from cbk.errors import DumpBroken, DumpIncomplete, DumpRefused, DumpUnavailable, LeaseLost, ToolMissing, ToolTooOld
from cbk.rules.dump.formats import end_check, roles_check
from cbk.rules.dump.spec import parse_dump
from local_servers import LOOPBACK

OTHER_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDPTWgLdvH0tGGMlSUrtnHC/v6l+y1/a8yFJNlKcjIxp"


def nothing():
    pass


def take(folder, tick=nothing, **options):
    """The dump's bytes, what it says about itself, and its rows."""
    spec = parse_dump("app", options)
    scratch = folder / f"scratch-{random.getrandbits(32)}"
    scratch.mkdir(mode=0o700)
    with open_source(spec, tick=tick, scratch=scratch) as source:
        content = b"".join(source.chunks())
        checking = end_check(spec.kind, spec.end_mark)
        checking.feed(content)
        said = checking.finish()
        rows = source.rows()
        roles = source.roles()
        if roles is not None:
            checking = roles_check()
            for chunk in roles:
                checking.feed(chunk)
            checking.finish()
    return content, said, rows


@pytest.fixture
def pg_url(postgres, pg_database, pg_programs):
    postgres.execute('CREATE TABLE t AS SELECT generate_series(1, 5000) x; CREATE TABLE "Odd Name"(x int)', pg_database)
    postgres.execute("SELECT lo_from_bytea(0, 'abc')", pg_database)
    return postgres.url(pg_database).replace("+psycopg", "")


@pytest.fixture
def my_url(mariadb):
    name = f"test_{random.getrandbits(32)}"
    url = mariadb.create_database(name)
    mariadb.execute("CREATE TABLE t(x int, b blob); INSERT INTO t SELECT seq, unhex(md5(seq)) FROM seq_1_to_5000", name)
    mariadb.execute("CREATE TABLE `it's`(x int); CREATE VIEW v AS SELECT * FROM t", name)
    yield url
    mariadb.execute(f"DROP DATABASE `{name}`")


@pytest.fixture
def lite(tmp_path):
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
        connection.commit()
        yield path


@pytest.fixture
def over_ssh(sshd, postgres, pg_database, pg_url, pg_programs):
    """Options of a dump over SSH, whose key can run pg_dump and nothing else."""
    reach = f"-h {LOOPBACK} -p {postgres.port} -U postgres"
    sshd.dump = f"{pg_programs}/pg_dump -Fc -Z0 {reach} {pg_database}"
    sshd.force(f'case "$SSH_ORIGINAL_COMMAND" in roles*) {pg_programs}/pg_dumpall --globals-only {reach};; *) {sshd.dump};; esac')
    return {
        "ssh": f"{sshd.user}@{sshd.host}:{sshd.port}",
        "kind": "postgresql",
        "ssh_key": str(sshd.key),
        "host_key": sshd.host_key,
        "roles": True,
    }


# ---- whole -------------------------------------------------------------------------------------------------------------------


def test_postgresql_by_url_with_rows_of_the_same_snapshot(tmp_path, pg_url):
    _, said, rows = take(tmp_path, url=pg_url)
    assert rows == {"public.Odd Name": 0, "public.t": 5000}
    assert set(said.tables) == rows.keys()


def test_rows_that_are_written_meanwhile_are_in_neither(tmp_path, pg_url, postgres, pg_database):
    spec = parse_dump("app", {"url": pg_url})
    with open_source(spec, tick=nothing, scratch=tmp_path) as source:
        chunks = source.chunks()
        next(chunks)
        postgres.execute("INSERT INTO t VALUES (0)", pg_database)
        for _ in chunks:
            pass
        assert source.rows() == {"public.Odd Name": 0, "public.t": 5000}


def test_postgresql_over_ssh_with_a_forced_command(tmp_path, over_ssh, pg_url):
    content, said, rows = take(tmp_path, **over_ssh)
    assert set(said.tables) == {"public.t", "public.Odd Name"}
    assert rows is None
    assert len(content) == len(take(tmp_path, url=pg_url)[0])


def test_mariadb_by_url_with_rows_that_stood_still(tmp_path, my_url):
    content, said, rows = take(tmp_path, url=my_url)
    assert (said.format, rows) == ("mysqldump", {"it's": 0, "t": 5000})
    assert b"CREATE TABLE `t`" in content


def test_sqlite_by_path_is_one_moment_of_a_database_in_use(tmp_path, lite):
    content, _, rows = take(tmp_path, url=f"sqlite:///{lite}")
    assert rows == {"t": 1000}
    assert content.startswith(b"SQLite format 3\0")


def test_a_command_of_ones_own(tmp_path):
    content, _, rows = take(tmp_path, command=[sys.executable, "-c", "print('data'); print('BYE')"], kind="raw", end_mark="BYE")
    assert (content, rows) == (b"data\nBYE\n", None)


def test_a_command_does_not_see_the_kits_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("CBK_SOURCE_URL", "postgresql://user:secret@host/app")
    content, *_ = take(tmp_path, command=["env"], kind="raw")
    assert b"CBK_" not in content


def test_no_password_is_among_a_programs_arguments(tmp_path, my_url, pg_url):
    for url in (my_url, pg_url.replace("postgres@", "postgres:pass-word@")):
        with open_source(parse_dump("app", {"url": url}), tick=nothing, scratch=tmp_path) as source:
            assert not any("secret" in part or "pass-word" in part for part in source._program.arguments)


# ---- not whole ---------------------------------------------------------------------------------------------------------------


def test_a_dump_that_is_cut_while_its_tool_exits_with_0_is_never_whole(tmp_path, sshd, over_ssh, pg_url):
    """At 50 random bytes: what a forced command such as `pg_dump | head -c N` would send."""
    over_ssh["roles"] = False
    content, *_ = take(tmp_path, **over_ssh)
    for _ in range(50):
        end = random.randrange(len(content))
        checking = end_check(parse_dump("app", over_ssh).kind)
        checking.feed(content[:end])
        with pytest.raises(DumpIncomplete):
            checking.finish()
    sshd.force(f"{sshd.dump} | head -c {len(content) - 1}")
    with pytest.raises(DumpIncomplete):
        take(tmp_path, **over_ssh)


FAILURES = [
    ("echo hi; exit 3", DumpBroken, "sh exited with 3"),
    ("echo hi; kill -9 $$", DumpBroken, "sh was ended by SIGKILL"),
    ("echo hi; sleep 60", DumpBroken, "sh sent nothing for 1 s"),
    ("echo hi; exec >&-; sleep 60", DumpBroken, "sh took longer than it may"),
    ("while :; do echo y; sleep 0.01; done", DumpBroken, "sh took longer than it may"),
    ("exit 0", DumpIncomplete, "nothing came"),
    ("echo 'disk on fire' >&2; exit 1", DumpBroken, "sh exited with 1: disk on fire"),
]


@pytest.mark.parametrize(("script", "error", "message"), FAILURES)
def test_a_command_that_does_not_end_well_is_said_in_one_sentence(tmp_path, script, error, message):
    with pytest.raises(error) as failed:
        take(tmp_path, command=["sh", "-c", script], kind="raw", silence="1s", timeout="3s")
    assert str(failed.value) == message


def test_a_missing_program_is_named(tmp_path, pg_url, monkeypatch):
    with pytest.raises(ToolMissing, match="no-such-tool is not on this machine"):
        take(tmp_path, command=["no-such-tool"], kind="raw")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cbk.edges.dump.tools._POSTGRES_FOLDERS", str(tmp_path / "*"))
    with pytest.raises(ToolMissing, match="pg_dump is not on this machine"):
        take(tmp_path, url=pg_url)


def test_a_server_that_is_newer_than_the_tool_is_told_before_any_byte(tmp_path, pg_url, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    (old / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.22'\n")
    (old / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{old}:{os.defpath}")
    monkeypatch.setattr("cbk.edges.dump.tools._POSTGRES_FOLDERS", str(tmp_path / "none*"))
    with pytest.raises(ToolTooOld, match="the server is PostgreSQL 17, and pg_dump here is 12") as failed:
        take(tmp_path, url=pg_url)
    assert "postgresql-client-17" in failed.value.hint


def test_postgresql_says_what_is_wrong(tmp_path, postgres, pg_database, pg_url):
    user = f"reader_{random.getrandbits(32)}"
    postgres.execute(f"CREATE ROLE {user} LOGIN")
    cases = [
        (pg_url.replace("postgres@", f"{user}@"), DumpRefused, "the user may not read all of it"),
        (pg_url.replace("postgres@", "nobody_here@"), DumpRefused, 'role "nobody_here" does not exist'),
        (pg_url.replace(pg_database, "nowhere"), DumpRefused, 'database "nowhere" does not exist'),
        (pg_url.replace(f":{postgres.port}", ":1"), DumpUnavailable, "Connection refused"),
    ]
    try:
        for url, error, message in cases:
            with pytest.raises(error, match=message):
                take(tmp_path, url=url)
    finally:
        postgres.execute(f"DROP ROLE {user}")


def test_rows_that_a_policy_hides_are_not_left_out_in_silence(tmp_path, postgres, pg_database, pg_url):
    user = f"reader_{random.getrandbits(32)}"
    postgres.execute(f"CREATE ROLE {user} LOGIN; GRANT pg_read_all_data TO {user}")
    postgres.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY", pg_database)
    try:
        with pytest.raises(DumpRefused, match="the user may not read every row"):
            take(tmp_path, url=pg_url.replace("postgres@", f"{user}@"))
    finally:
        postgres.execute(f"DROP ROLE {user}")


def test_mariadb_says_what_is_wrong(tmp_path, mariadb, my_url):
    cases = [
        (my_url.replace("secret", "wrong"), DumpRefused, "Access denied"),
        (my_url.replace("test_", "nowhere_"), DumpRefused, "Access denied|Unknown database"),
        (my_url.replace(f":{mariadb.port}", ":1"), DumpUnavailable, "Can't connect"),
    ]
    for url, error, message in cases:
        with pytest.raises(error, match=message):
            take(tmp_path, url=url)


def test_sqlite_says_what_is_wrong(tmp_path):
    (tmp_path / "text.db").write_text("no database" * 500)
    for name, message in (("none.db", "is no file"), ("text.db", "cannot be read as a SQLite database")):
        with pytest.raises(DumpRefused, match=message):
            take(tmp_path, url=f"sqlite:///{tmp_path}/{name}")


def test_ssh_says_what_is_wrong(tmp_path, sshd, over_ssh):
    without_pin = {name: value for name, value in over_ssh.items() if name != "host_key"}
    cases = [
        (over_ssh | {"host_key": OTHER_HOST_KEY}, DumpRefused, "host key is not the one that is pinned"),
        (without_pin, DumpRefused, "host key is not the one that is pinned, or none is"),
        (over_ssh | {"ssh_key": str(sshd.folder / "host_key")}, DumpRefused, "does not accept our key"),
        (over_ssh | {"ssh": f"{sshd.user}@{sshd.host}:1"}, DumpUnavailable, "cannot be reached by ssh"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            take(tmp_path, **options)


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("no-such-tool", DumpRefused, "the server lacks a program"),
        ("echo half; kill -9 $PPID", DumpBroken, "the ssh connection broke"),
        ("echo half; exit 4", DumpBroken, "exited with 4"),
    ],
)
def test_a_forced_command_that_fails_is_told(tmp_path, sshd, over_ssh, command, error, message):
    sshd.force(command)
    with pytest.raises(error, match=message):
        take(tmp_path, **over_ssh)


def test_a_forced_command_that_knows_no_roles_is_told(tmp_path, sshd, over_ssh):
    sshd.force(sshd.dump)
    with pytest.raises(DumpIncomplete):
        take(tmp_path, **over_ssh)


def test_whoever_loses_its_lease_ends_the_program(tmp_path):
    mark = tmp_path / "pid"
    deadline = time.monotonic() + 1.0

    def tick():
        if mark.exists() and time.monotonic() > deadline:
            raise LeaseLost("another worker has taken over")

    with pytest.raises(LeaseLost):
        take(tmp_path, tick, command=["sh", "-c", f"echo $$ > {mark}; exec sleep 60"], kind="raw")
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
