"""Dumps from the settings to the disk and back, in one process, mostly of SQLite: taken, kept, read again, drilled, restored."""

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk.edges.catalog.database.schema import dump_versions, dumps
from cbk.errors import CbkError, DumpBroken, DumpIncomplete, UsageError
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.dump.compare import compare_dump
from cbk.jobs.dump.drill import drill_dump
from cbk.jobs.dump.restore import choose_version, restore_to_database, restore_to_folder
from cbk.jobs.dump.take import take_dump
from cbk.jobs.dump.upkeep import plan_dump, prune_dumps, tidy
from cbk.jobs.status.status import gather_status
from cbk.model import Summary
from cbk.rules.dump.records import DumpState
from cbk.rules.status.health import Kind

DAY = timedelta(days=1)


def goes_on(_seconds):
    return False


def nothing(*_):
    pass


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders(x)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(n,) for n in range(3000)])
        connection.commit()
    return path


@pytest.fixture
def make_dumped(make_site, database):
    """A function that makes a site with one dump, `shop`."""

    def make(options=None, **settings):
        return make_site(dumps={"shop": {"url": f"sqlite:///{database}", **(options or {})}}, **settings)

    return make


@pytest.fixture
def site(make_dumped):
    return make_dumped()


def take(site, **how):
    return take_dump(site.context, "shop", pause=goes_on, **how)


def versions(site):
    dump = site.context.catalog.dumps.get("shop")
    return site.context.catalog.dumps.versions(dump.id) if dump else []


def states(site):
    return {version.number: version.state.value for version in versions(site)}


def dump_problems(site):
    return {
        problem.kind: problem.message for problem in gather_status(site.context).problems if problem.kind.value.startswith("dump")
    }


def pass_days(site, days):
    """Move everything that is known of dumps into the past."""
    by = int(timedelta(days=days) / timedelta(milliseconds=1))
    with site.context.catalog.database.writing() as connection:
        for table in (dumps, dump_versions):
            instants = [column for column in table.columns if type(column.type).__name__ == "Instant"]
            moved = {column.name: sa.type_coerce(sa.type_coerce(column, sa.BigInteger) - by, column.type) for column in instants}
            connection.execute(sa.update(table).values(moved))


# ---- in ----------------------------------------------------------------------------------------------------------------------


def test_a_dump_lies_at_its_documented_place_and_any_gunzip_reads_it(site, tmp_path):
    assert take(site).outcome == "stored"
    path = site.root / "dumps/shop/v1.gzip"
    (tmp_path / "back.db").write_bytes(gzip.decompress(path.read_bytes()))
    assert subprocess.run(["gzip", "-t", "-S", ".gzip", str(path)], check=False).returncode == 0
    with closing(sqlite3.connect(tmp_path / "back.db")) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3000,)
    assert versions(site)[0].rows == {"orders": 3000}
    assert dump_problems(site) == {}


def test_each_dump_is_a_version_of_its_own(site):
    take(site)
    take(site)
    assert states(site) == {2: "stored", 1: "stored"}
    assert {"dumps/shop/v1.gzip", "dumps/shop/v2.gzip"} <= site.copies()


def test_a_dump_is_due_once_and_again_with_its_next_slot(site):
    assert take(site, if_due=True).outcome == "stored"
    assert take(site, if_due=True).outcome == "nothing to do"
    pass_days(site, 5)
    assert take(site, if_due=True).outcome == "stored"
    assert take(site, if_due=True).outcome == "nothing to do"


def test_one_dump_at_a_time(site):
    with site.rival() as rival:
        assert rival.leases.acquire("dump", timedelta(minutes=1))
        assert take(site).outcome == "skipped"
    assert states(site) == {}


def test_the_roles_of_postgresql_lie_beside_the_dump(make_site, postgres, pg_database, pg_programs):
    postgres.execute("CREATE TABLE t AS SELECT generate_series(1, 100) x", pg_database)
    site = make_site(dumps={"shop": {"url": postgres.url(pg_database).replace("+psycopg", "")}}, drill_every="1h")
    take(site)
    roles = gzip.decompress((site.root / "dumps/shop/roles/v1.gzip").read_bytes())
    assert b"CREATE ROLE postgres" in roles
    version = versions(site)[0]
    assert (version.rows, version.server_version.split(".")[0]) == ({"public.t": 100}, "17")
    assert drill_dump(site.context, site.context.catalog.dumps.get("shop"), version, tick=nothing) == ""


def test_a_file_of_the_application_cannot_take_a_dumps_place(site):
    take(site)
    row = site.upload("shop.txt", b"mine", version=2, storage="dumps")
    site.work()
    take(site)
    assert states(site) == {2: "stored", 1: "stored"}
    assert site.versions()[("shop.txt", 2)].place == "dumps/shop.txt"
    assert row


def test_nor_the_place_of_its_roles(site):
    take(site)
    site.upload("shop/roles.txt", b"mine", storage="dumps")
    site.work()
    assert site.versions()[("shop/roles.txt", 1)].place == "dumps/shop/roles.txt"


def test_a_dump_whose_rows_cannot_be_counted_is_stored_all_the_same(site, monkeypatch):
    def broken(_source):
        raise DumpBroken("the connection broke")

    monkeypatch.setattr("cbk.edges.dump.sqlite.SqliteSource.rows", broken)
    take(site)
    assert versions(site)[0].rows is None
    assert drill_dump(site.context, site.context.catalog.dumps.get("shop"), versions(site)[0], tick=nothing) == ""


def test_a_dump_does_not_take_the_place_of_a_file(site):
    site.upload("shop.txt", b"mine", storage="dumps")
    site.work()
    take(site)
    assert {"dumps/shop/v1.gzip"} < site.copies()
    assert gzip.decompress((site.root / "dumps/shop/v1.gzip").read_bytes()) == b"mine"
    assert site.context.catalog.dumps.get("shop").place != "dumps/shop"


# ---- never stored ------------------------------------------------------------------------------------------------------------

FAILURES = [
    (["sh", "-c", "echo half; exit 1"], "", DumpBroken, "sh exited with 1"),
    (["sh", "-c", "echo half; kill -9 $$"], "", DumpBroken, "sh was ended by SIGKILL"),
    (["sh", "-c", "echo half"], "BYE", DumpIncomplete, "the dump does not end in 'BYE': it was cut short"),
    (["true"], "", DumpIncomplete, "nothing came"),
]


@pytest.mark.parametrize(("command", "mark", "error", "message"), FAILURES)
def test_what_fails_is_never_stored_and_says_why(make_site, command, mark, error, message):
    options = {"command": command, "kind": "raw"} | ({"end_mark": mark} if mark else {})
    site = make_site(dumps={"shop": options})
    with pytest.raises(error):
        take(site)
    assert (states(site), site.copies(), site.parts()) == ({}, set(), set())
    assert message in dump_problems(site)[Kind.DUMP]


def test_a_failure_is_tried_again_later_and_a_success_ends_it(make_dumped, database):
    site = make_dumped()
    database.rename(database.with_suffix(".away"))
    with pytest.raises(CbkError):
        take(site, if_due=True)
    assert take(site, if_due=True).facts["reason"] == "it failed, and waits for its next try"
    database.with_suffix(".away").rename(database)
    pass_days(site, 1)
    assert take(site, if_due=True).outcome == "stored"
    assert dump_problems(site) == {}


def test_a_dump_that_was_never_taken_is_red(site):
    assert "there is none yet" in dump_problems(site)[Kind.DUMP]


def test_a_dump_that_is_late_is_red(site):
    take(site)
    pass_days(site, 3)
    assert "the newest is 3 days old" in dump_problems(site)[Kind.DUMP]


def test_a_disk_without_room_takes_no_dump(make_dumped):
    site = make_dumped(min_free_space="100TB")
    with pytest.raises(CbkError, match="almost full"):
        take(site)
    assert take(site, if_due=True).outcome in {"put off", "nothing to do"}
    assert states(site) == {}


def test_an_unknown_name_is_a_usage_error(site):
    with pytest.raises(UsageError, match="no dump shoq is configured"):
        take_dump(site.context, "shoq", pause=goes_on)


KILLED_AT = [
    "cbk.jobs.dump.take.open_source",
    "cbk.edges.archive.archive.IncomingCopy.write",
    "cbk.edges.archive.archive.IncomingCopy.seal",
    "cbk.edges.archive.archive.IncomingCopy.finish",
    "cbk.edges.archive.archive.IncomingCopy.flush",
    "cbk.edges.archive.archive.IncomingCopy.read_back",
    "cbk.edges.archive.archive.Publication.put",
    "cbk.edges.archive.archive.Publication.flush",
    "cbk.edges.catalog.dump.Dumps.record_stored",
]
KILL = """
import os, pydoc, signal, sys
from cbk.jobs.context import open_context
from cbk.jobs.dump.take import take_dump
from cbk.settings import load_settings
owner, _, name = sys.argv[1].rpartition(".")
target = pydoc.locate(owner)
real = getattr(target, name)
def die(*args, **kwargs):
    if sys.argv[2] == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(target, name, die)
take_dump(open_context(load_settings()), "shop", pause=lambda _seconds: False)
"""


@pytest.mark.parametrize(("step", "when"), [(step, "before") for step in KILLED_AT] + [(step, "after") for step in KILLED_AT[-3:]])
def test_whoever_is_killed_at_a_step_leaves_no_lie_and_the_next_one_takes_it(site, step, when):
    done = subprocess.run([sys.executable, "-c", KILL, step, when], env={**os.environ, **site.environment}, check=False)
    assert done.returncode == -signal.SIGKILL
    for version in versions(site):
        site.context.archive.check(f"dumps/shop/v{version.number}.gzip", sha256=version.sha256)
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.text("DELETE FROM leases"))
    assert take(site).outcome == "stored"
    newest = versions(site)[0]
    site.context.archive.check(f"dumps/shop/v{newest.number}.gzip", sha256=newest.sha256)
    site.poll()
    assert site.parts() == set()


def test_a_part_of_a_dump_that_is_at_work_is_not_swept(site):
    part = site.root / ".cbk/incoming/dump-shop-1-abc.part"
    part.write_bytes(b"half")
    with site.rival() as rival:
        assert rival.leases.acquire("dump", timedelta(minutes=1))
        site.poll()
        assert part.exists()
        rival.leases.release("dump")
    site.poll()
    assert not part.exists()


# ---- out ---------------------------------------------------------------------------------------------------------------------


def test_what_no_rule_keeps_goes_after_its_grace_and_no_earlier(make_dumped):
    site = make_dumped({"keep": 1}, grace_period="7d")
    for _ in range(3):
        take(site)
    spec, dump = site.context.settings.dumps["shop"], site.context.catalog.dumps.get("shop")
    assert prune_dumps(site.context, spec, dump) == []
    pass_days(site, 6)
    assert prune_dumps(site.context, spec, dump) == []
    pass_days(site, 2)
    assert prune_dumps(site.context, spec, dump) == [1, 2]
    assert (states(site), site.copies()) == ({3: "stored", 2: "pruned", 1: "pruned"}, {"dumps/shop/v3.gzip"})


def test_a_hold_keeps_dumps_and_the_plan_says_so(make_dumped):
    site = make_dumped({"keep": 1}, grace_period="0s")
    site.context.catalog.holds.add("shop", is_prefix=False, storage="dumps", until=None, reason="audit")
    for _ in range(3):
        take(site)
    spec, dump = site.context.settings.dumps["shop"], site.context.catalog.dumps.get("shop")
    assert prune_dumps(site.context, spec, dump) == []
    assert [verdict.reasons for verdict in plan_dump(site.context, spec, dump)][1:] == [("a hold keeps it",)] * 2


def test_the_brake_holds_many_at_once(make_dumped):
    site = make_dumped({"keep": 50}, grace_period="0s", brake_window="30d")
    for _ in range(9):
        take(site)
    pass_days(site, 40)
    site.reopen(dumps={"shop": {"url": site.context.settings.dumps["shop"].url, "keep": 1}})
    spec, dump = site.context.settings.dumps["shop"], site.context.catalog.dumps.get("shop")
    assert prune_dumps(site.context, spec, dump) == [1, 2]
    assert prune_dumps(site.context, spec, dump) == []


def test_what_the_brake_holds_is_red_and_goes_by_a_persons_word_which_uses_up_nothing(make_dumped):
    site = make_dumped({"keep": 1}, grace_period="0s")
    for _ in range(8):
        take(site)
    pass_days(site, 40)
    dump, spec = site.context.catalog.dumps.get("shop"), site.context.settings.dumps["shop"]
    assert prune_dumps(site.context, spec, dump) == [1, 2]
    assert "5 versions of dump shop" in problems_of(site, Kind.BRAKE)
    assert prune_dumps(site.context, spec, dump) == []
    assert prune_dumps(site.context, spec, dump, approved=True) == [3, 4, 5, 6, 7]
    assert problems_of(site, Kind.BRAKE) == ""
    pass_days(site, 31)
    for _ in range(3):
        take(site)
    assert prune_dumps(site.context, spec, dump) == [8, 9, 10]


def problems_of(site, kind):
    return " ".join(problem.message for problem in gather_status(site.context).problems if problem.kind is kind)


def test_nothing_goes_where_the_newest_copy_is_gone(make_dumped):
    site = make_dumped({"keep": 1}, grace_period="0s")
    for _ in range(3):
        take(site)
    (site.root / "dumps/shop/v3.gzip").unlink()
    spec, dump = site.context.settings.dumps["shop"], site.context.catalog.dumps.get("shop")
    assert prune_dumps(site.context, spec, dump) == []
    assert states(site) == {3: "bad", 2: "stored", 1: "stored"}


def test_bytes_that_a_killed_worker_left_behind_go_with_the_next_look(make_dumped):
    site = make_dumped({"keep": 1})
    take(site)
    take(site)
    site.context.catalog.dumps.record_pruned(versions(site)[1])
    assert "dumps/shop/v1.gzip" in site.copies()
    tidy(site.context, "shop", pause=goes_on, after=Summary(outcome="nothing to do"))
    assert "dumps/shop/v1.gzip" not in site.copies()


# ---- proof -------------------------------------------------------------------------------------------------------------------


def test_copies_are_read_again_and_a_bad_one_counts_no_longer(site):
    take(site)
    path = site.root / "dumps/shop/v1.gzip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    pass_days(site, 31)
    tidy(site.context, "shop", pause=goes_on, after=Summary(outcome="nothing to do"))
    assert states(site) == {1: "bad"}
    assert len(site.quarantined()) == 1
    assert Kind.DUMP in dump_problems(site)
    assert take(site, if_due=True).outcome == "stored"
    assert states(site) == {2: "stored", 1: "bad"}


def test_a_drill_is_held_when_due_and_its_verdict_is_dated(make_dumped):
    site = make_dumped(drill_every="7d")
    summary = tidy(site.context, "shop", pause=goes_on, after=take(site))
    assert summary.facts["drill"] == "passed"
    assert versions(site)[0].drilled_at is not None
    assert "drill" not in tidy(site.context, "shop", pause=goes_on, after=take(site, if_due=True)).facts


def test_a_drill_that_finds_other_rows_fails_and_is_red(site):
    take(site)
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(dump_versions).values(rows='{"orders": 3001, "gone": 1}'))
    problem = drill_dump(site.context, site.context.catalog.dumps.get("shop"), versions(site)[0], tick=nothing)
    assert problem == "gone is missing; orders has 3000 rows of 3001"
    assert "did not restore" in dump_problems(site)[Kind.DUMP_DRILL]


# ---- back --------------------------------------------------------------------------------------------------------------------


def test_a_dump_comes_back_into_a_folder_and_into_a_database(site, tmp_path):
    take(site)
    dump, version = choose_version(site.context, "shop")
    done = restore_to_folder(site.context, dump, version, tmp_path / "back", nothing)
    assert [file.name for file in done.files] == ["shop-v1.sqlite"]
    assert done.commands
    restore_to_database(site.context, dump, version, f"sqlite:///{tmp_path}/new.db", nothing)
    for path in (done.files[0], tmp_path / "new.db"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3000,)
    with pytest.raises(CbkError):
        restore_to_folder(site.context, dump, version, tmp_path / "back", nothing)
    with pytest.raises(UsageError, match="has tables already"):
        restore_to_database(site.context, dump, version, f"sqlite:///{tmp_path}/new.db", nothing)


def test_the_dump_of_a_moment_is_the_newest_of_then(site):
    take(site)
    pass_days(site, 10)
    take(site)
    now = site.context.catalog.database.now()
    assert choose_version(site.context, "shop", at=now - 2 * DAY)[1].number == 1
    assert choose_version(site.context, "shop")[1].number == 2
    with pytest.raises(UsageError):
        choose_version(site.context, "shop", at=now - 20 * DAY)


def test_file_rows_of_a_dump_that_have_no_copy_are_told(make_site, tmp_path):
    site = make_site(dumps={"app": {"url": f"sqlite:///{tmp_path}/app.db"}})
    site.upload("cars/1.png", b"one")
    site.work()
    site.upload("cars/2.png", b"two")
    take_dump(site.context, "app", pause=goes_on)
    dump, version = choose_version(site.context, "app")
    compared = compare_dump(site.context, dump, version, tick=nothing)
    assert compared.rows == 2
    assert [each.label for each in compared.without] == ["s3/cars/2.png v1"]


def test_dumps_are_rebuilt_from_the_disk(site):
    take(site)
    take(site)
    before = {version.number: (version.sha256, version.size, version.taken_at.date()) for version in versions(site)}
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(dump_versions))
        connection.execute(sa.delete(dumps))
    problems = []
    done = rebuild(site.context, tell=problems.append, advance=nothing)
    assert problems == []
    assert done.dumps == 2
    assert {version.number: (version.sha256, version.size, version.taken_at.date()) for version in versions(site)} == before
    assert all(version.state is DumpState.STORED for version in versions(site))
    assert take(site).facts["version"] == 3
