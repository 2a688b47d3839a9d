"""Dumps on a mirror: they go there as copies do, stay for the mirror's own grace, heal what is bad here, and come back."""

import gzip
import hashlib
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog.database.schema import dump_versions
from cbk.errors import CopyCorrupt
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.dump.drill import drill_dump
from cbk.jobs.dump.restore import choose_version, restore_to_folder
from cbk.jobs.dump.take import take_dump
from cbk.jobs.dump.upkeep import put_aside
from cbk.jobs.mirror.audit import audit
from cbk.jobs.mirror.back import pull
from cbk.jobs.mirror.call import call_mirrors
from cbk.jobs.retention.holds import place_hold
from cbk.rules.dump.records import DumpState
from cbk.rules.mirror import dump_copy_id
from tests.integration.mirror.conftest import copies_in
from tests.integration.mirror.test_back import ignore, new_machine

MONTH = timedelta(days=31)
FIRST = "dumps/shop/v1.gzip"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders(x)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(500)])
        connection.commit()
    return path


@pytest.fixture
def make_dumped(make_mirrored, database):
    """A function that makes a site with a mirror, and dumps of `shop` that were taken so many times."""

    def make(times=1, mirror=None, **settings):
        mirrored = make_mirrored(mirror, dumps={"shop": {"url": f"sqlite:///{database}"}}, **settings)
        for _ in range(times):
            take(mirrored)
        return mirrored

    return make


@pytest.fixture
def dumped(make_dumped):
    return make_dumped()


def take(mirrored):
    assert take_dump(mirrored.context, "shop", pause=lambda _seconds: False).outcome == "stored"


def prune(mirrored, number):
    """As `prune_dumps` does it, without its rules."""
    dump, version = choose_version(mirrored.context, "shop", number=number)
    mirrored.context.catalog.dumps.record_pruned(version)
    mirrored.context.archive.remove(f"{dump.place}/v{number}.gzip")
    mirrored.context.catalog.dumps.forget_leftover(version)


def damage(path):
    """Turn over a byte in the middle of a file; its SHA-256 before."""
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2] + bytes([before[len(before) // 2] ^ 0xFF]) + before[len(before) // 2 + 1 :])
    return hashlib.sha256(before).hexdigest()


def states(mirrored):
    dump = mirrored.context.catalog.dumps.get("shop")
    return {version.number: version.state for version in mirrored.context.catalog.dumps.versions(dump.id)}


def read_here(mirrored, number):
    """Read a dump's copy, and put it aside where it is bad, as a worker does in turn."""
    dump, version = choose_version(mirrored.context, "shop", number=number)
    with pytest.raises(Exception, match="v1") as raised:
        mirrored.context.archive.check(FIRST, sha256=version.sha256)
    put_aside(mirrored.context, dump, version, raised.value)


def test_a_dump_arrives_beside_the_files_and_is_counted_with_them(dumped):
    dumped.site.upload("photo.png", b"content")
    dumped.site.work()
    passed = dumped.run(by_person=True)
    assert (passed.done[0].sent, passed.done[0].missing, passed.done[0].problems) == (2, 0, [])
    assert FIRST in dumped.ledger()
    assert dumped.lies_at(FIRST).is_file()
    assert (dumped.standing()[0].held, dumped.standing()[0].missing) == (2, 0)


def test_a_dump_that_is_new_is_missing_there_until_the_next_pass(dumped):
    dumped.run(by_person=True)
    take(dumped)
    disk = dumped.context.catalog.mirrors.count(dumped.standing()[0].id)
    assert (disk.held, disk.missing) == (1, 1)
    assert disk.missing_since is not None
    copies, size = dumped.context.catalog.mirrors.missing(disk.id)
    assert (copies, size > 0) == (1, True)
    assert dumped.run().done[0].sent == 1
    assert dumped.run().done[0].sent == 0


def test_dumps_go_before_a_backlog_of_files(dumped):
    dumped.site.upload("photo.png", b"content")
    dumped.site.work()
    disk = dumped.context.catalog.mirrors.add_disk("there", "a-disk")
    assert [copy.label for copy in dumped.context.catalog.mirrors.to_send(disk.id)] == ["dump shop v1", "s3/photo.png v1"]


def test_a_dump_that_is_bad_there_is_found_and_sent_again(make_dumped):
    mirrored = make_dumped(mirror={"every": "1h", "verify_every": "1h"})
    mirrored.run(by_person=True)
    path = mirrored.lies_at(FIRST)
    before = damage(path)
    passed = mirrored.run()
    assert (passed.done[0].bad, passed.done[0].missing) == (1, 0)
    assert mirrored.run().done[0].bad == 0
    if mirrored.kind != "crypt":
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_a_dump_that_went_bad_here_comes_back_from_there(dumped):
    dumped.run(by_person=True)
    before = damage(dumped.site.root / FIRST)
    read_here(dumped, 1)
    assert states(dumped) == {1: DumpState.BAD}
    assert dumped.run().done[0].repaired == 1
    assert states(dumped) == {1: DumpState.STORED}
    assert hashlib.sha256((dumped.site.root / FIRST).read_bytes()).hexdigest() == before
    assert drill_dump(dumped.context, *choose_version(dumped.context, "shop"), tick=ignore) == ""


def test_a_dump_that_is_bad_here_does_not_go_there_and_is_found_out(dumped):
    damage(dumped.site.root / FIRST)
    passed = dumped.run(by_person=True)
    assert (passed.done[0].sent, len(passed.done[0].problems)) == (0, 1)
    assert FIRST not in dumped.ledger()
    assert states(dumped) == {1: DumpState.BAD}


def test_while_a_dump_is_at_work_what_is_bad_waits(dumped):
    dumped.run(by_person=True)
    damage(dumped.site.root / FIRST)
    read_here(dumped, 1)
    with dumped.site.rival() as rival:
        assert rival.leases.acquire("dump", timedelta(minutes=1))
        assert dumped.run().done[0].repaired == 0
        rival.leases.release("dump")
    assert dumped.run().done[0].repaired == 1


def test_a_mirror_that_can_help_a_dump_is_called_at_once(dumped):
    class Recorder:
        sent = ()

        def send_mirrors(self, names):
            self.sent = (*self.sent, *names)

    publisher = Recorder()
    dumped.run(by_person=True)
    call_mirrors(dumped.context, publisher)
    assert publisher.sent == ()
    damage(dumped.site.root / FIRST)
    read_here(dumped, 1)
    call_mirrors(dumped.context, publisher)
    assert publisher.sent == ("there",)


def test_a_pruned_dump_stays_there_for_the_mirrors_own_grace(make_dumped):
    mirrored = make_dumped(3, brake_files=100)
    mirrored.run(by_person=True)
    prune(mirrored, 1)
    assert mirrored.run().done[0].removed == 0
    mirrored.pass_time(timedelta(days=29))
    assert mirrored.run().done[0].removed == 0
    assert mirrored.lies_at(FIRST).is_file()
    mirrored.pass_time(timedelta(days=2))
    assert mirrored.run().done[0].removed == 1
    assert not mirrored.lies_at(FIRST).exists()
    assert mirrored.ledger().keys() == mirrored.site.copies()


def test_dumps_that_are_all_pruned_at_once_wait_there_for_a_person(make_dumped):
    mirrored = make_dumped(4, brake_files=1)
    mirrored.run(by_person=True)
    for number in (1, 2, 3):
        prune(mirrored, number)
    mirrored.run()
    mirrored.pass_time(MONTH)
    passed = mirrored.run()
    assert (passed.done[0].removed, passed.done[0].braked) == (0, 3)
    mirrored.context.catalog.mirrors.approve("there", mirrored.context.catalog.database.now())
    assert mirrored.run().done[0].removed == 3


def test_a_hold_on_a_dump_keeps_it_there(make_dumped):
    mirrored = make_dumped(2, brake_files=100)
    mirrored.run(by_person=True)
    prune(mirrored, 1)
    place_hold(mirrored.context, "shop", is_prefix=False, storage="dumps", until=None, reason="a lawsuit")
    mirrored.run()
    mirrored.pass_time(MONTH)
    passed = mirrored.run()
    assert (passed.done[0].removed, passed.done[0].kept) == (0, 1)


def test_a_ledger_in_postgresql_knows_dumps_and_files_alike(make_dumped, postgres, pg_database, kind):
    if kind != "folder":
        pytest.skip("the ledger is the same")
    mirrored = make_dumped(3, {"every": "1h", "verify_every": "1h"}, catalog_url=postgres.url(pg_database), brake_files=100)
    mirrored.site.upload("photo.png", b"content")
    mirrored.site.work()
    assert mirrored.run(by_person=True).done[0].sent == 4
    assert mirrored.run().done[0].verified == 4
    assert mirrored.standing()[0].held == 4
    damage(mirrored.site.root / FIRST)
    read_here(mirrored, 1)
    assert mirrored.run().done[0].repaired == 1
    prune(mirrored, 1)
    mirrored.run()
    mirrored.pass_time(MONTH)
    assert mirrored.run().done[0].removed == 1
    assert mirrored.ledger().keys() == mirrored.site.copies()
    [found] = audit(mirrored.context, "there", advance=ignore)
    assert (found.unknown, found.missing) == ([], [])


def test_what_lies_there_of_dumps_is_known_to_an_audit_and_what_is_gone_is_sent_again(dumped):
    dumped.run(by_person=True)
    [found] = audit(dumped.context, "there", advance=ignore)
    assert (found.files, found.unknown, found.missing) == (1, [], [])
    dumped.lies_at(FIRST).unlink()
    [found] = audit(dumped.context, "there", advance=ignore)
    assert found.missing == [FIRST]
    assert dumped.run().done[0].sent == 1


def test_a_new_machine_has_the_dumps_again(make_dumped, tmp_path):
    mirrored = make_dumped(2)
    mirrored.run(by_person=True)
    before = {name: (mirrored.site.root / name).read_bytes() for name in mirrored.site.copies()}
    new_machine(mirrored)
    assert pull(mirrored.context, "there", tell=pytest.fail, advance=ignore) == (2, 0)
    rebuild(mirrored.context, tell=pytest.fail, advance=ignore)
    assert {name: (mirrored.site.root / name).read_bytes() for name in mirrored.site.copies()} == before
    dump, version = choose_version(mirrored.context, "shop")
    assert version.number == 2
    restored = restore_to_folder(mirrored.context, dump, version, tmp_path / "back", ignore)
    assert restored.files[0].read_bytes() == gzip.decompress(before["dumps/shop/v2.gzip"])


def test_the_roles_of_postgresql_go_there_and_heal_with_their_dump(make_mirrored, postgres, pg_database, pg_programs):
    postgres.execute("CREATE TABLE t AS SELECT generate_series(1, 100) x", pg_database)
    mirrored = make_mirrored(dumps={"shop": {"url": postgres.url(pg_database).replace("+psycopg", "")}})
    take(mirrored)
    mirrored.run(by_person=True)
    assert mirrored.ledger().keys() == {FIRST, "dumps/shop/roles/v1.gzip"}
    digests = {name: hashlib.sha256((mirrored.site.root / name).read_bytes()).hexdigest() for name in mirrored.ledger()}
    damage(mirrored.site.root / "dumps/shop/roles/v1.gzip")
    dump, version = choose_version(mirrored.context, "shop")
    put_aside(mirrored.context, dump, version, CopyCorrupt("its roles are bad"))
    assert copies_in(mirrored.site.root) == set()
    assert mirrored.run().done[0].repaired == 1
    assert {name: hashlib.sha256((mirrored.site.root / name).read_bytes()).hexdigest() for name in digests} == digests


def test_each_copy_of_a_dump_has_a_number_of_its_own_below_zero():
    numbers = [dump_copy_id(version, roles=roles) for version in (1, 2, 3) for roles in (False, True)]
    assert len(set(numbers)) == 6
    assert max(numbers) < 0


def test_a_ledger_that_names_a_dump_nobody_knows_removes_nothing(dumped):
    dumped.run(by_person=True)
    with dumped.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(dump_versions))
    dumped.run()
    dumped.pass_time(MONTH)
    assert dumped.run().done[0].removed == 0
    assert dumped.lies_at(FIRST).is_file()


# ---- the commands ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(dumped, monkeypatch):
    """A function that runs `cbk` on the site and gives what it printed."""
    for name, value in dumped.site.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments, expect=0):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == expect, (result.output, result.exception)
        return result.stdout

    return run


def test_a_dump_is_restored_from_there_although_it_is_pruned_here(dumped, command, tmp_path):
    take(dumped)
    dumped.run(by_person=True)
    content = gzip.decompress((dumped.site.root / FIRST).read_bytes())
    prune(dumped, 1)
    command("dump", "restore", "shop", "--version", "1", "--to", str(tmp_path / "back"), expect=1)
    command("dump", "restore", "shop", "--version", "1", "--from", "there", "--to", str(tmp_path / "back"))
    assert (tmp_path / "back/shop-v1.sqlite").read_bytes() == content


def test_files_and_database_of_one_moment_are_restored_from_there_without_the_backup_disk(make_mirrored, command, tmp_path, dumped):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute(
            'CREATE TABLE "ObjectStorageFiles"("Id" INTEGER PRIMARY KEY, "Name", "Path", "Storage", "Version" INT, "Hash", '
            '"SignedDownloadUrl")'
        )
        connection.execute('CREATE TABLE "ObjectStorageDeleteLog"("Id" INTEGER PRIMARY KEY, "FileId" INT)')
        connection.commit()
    dumped.site.upload("photo.png", b"content")
    dumped.site.work()
    take(dumped)
    dumped.run(by_person=True)
    for location in dumped.site.copies():
        (dumped.site.root / location).unlink()
    command("restore", "--to", str(tmp_path / "back"), "--with-dump", "shop", "--from", "there")
    assert (tmp_path / "back/car-erp/photo.png").read_bytes() == b"content"
    with closing(sqlite3.connect(tmp_path / "back/shop-v2.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (500,)


def test_a_dumps_line_says_which_mirrors_have_it(dumped, command):
    assert "on no mirror yet" in command("dump", "ls")
    dumped.run(by_person=True)
    assert "; on there;" in command("dump", "ls")
