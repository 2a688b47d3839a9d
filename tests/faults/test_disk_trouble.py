"""A disk that is full, read-only or gone: downloads stop and say why, everything else goes on, and work resumes by itself."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial

import pytest

from cbk.edges.destinations import FolderDestination
from cbk.errors import CatalogUnavailable, CbkError, DiskFailed, DiskFull, DumpBroken
from cbk.jobs.dump.take import take_dump
from cbk.jobs.restore.restore import planned_restore
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification.verify import choose, verify
from cbk.model import VersionState
from cbk.rules.restore import RestoreFilter
from cbk.rules.status.health import Kind
from tests.faults.disks import BALLAST, LoopDisk, MemoryDisk, fill
from tests.in_process_site import InProcessSite, version_of_row

MB = 1_000_000
# A copy does not get smaller than this.
CONTENT = os.urandom(MB)


@pytest.fixture
def make_site(tmp_path, origin, small_disks):
    """A function that makes a site whose backup disk is a tmpfs of 16 MB; of these, 8 MB are to stay free."""
    with MemoryDisk(tmp_path / "backups", megabytes=16):
        sites = []

        def make(**settings):
            sites.append(InProcessSite(tmp_path, origin, clock_sync="ignore", **{"min_free_space": "8MB"} | settings))
            return sites[-1]

        yield make
        for site in sites:
            site.close()


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def site_on_the_disk(make_site, tmp_path):
    """Its catalog lies on the disk as well."""
    return make_site(catalog_url=f"sqlite:///{tmp_path}/backups/.cbk/catalog.db")


@pytest.fixture
def ext4(tmp_path, kind):
    with LoopDisk(kind, tmp_path / "backups") as disk:
        yield disk


ON_EXT4 = pytest.mark.parametrize("kind", ["ext4"], indirect=True)


def make_room(site):
    (site.root / BALLAST).unlink()


def problems(site):
    return " | ".join(f"{problem.message} {problem.hint}" for problem in gather_status(site.context).problems)


def reason(site, key):
    version = site.versions()[key, 1]
    return f"{version.state.value}: {version.reason}"


# A disk that is almost full


def test_almost_full_disk_takes_nothing_new_and_says_so(site):
    fill(site.root, leave=7 * MB)
    site.upload("a.bin", CONTENT)
    site.work()
    assert site.states() == {("a.bin", 1): "pending"}
    assert site.origin.count("/car-erp/a.bin") == 0
    assert "the backup disk is almost full (7 MB are free, 8 MB stay free): nothing new is fetched" in problems(site)


def test_almost_full_disk_is_a_problem_although_everything_is_stored(site):
    site.upload("a.bin", CONTENT)
    site.work()
    assert gather_status(site.context).is_protected
    fill(site.root, leave=7 * MB)
    assert not gather_status(site.context).is_protected


def test_work_goes_on_by_itself_when_there_is_room_again(site):
    fill(site.root, leave=7 * MB)
    site.upload("a.bin", CONTENT)
    site.work()
    make_room(site)
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}
    assert problems(site) == ""


def test_message_that_comes_when_the_disk_is_almost_full_is_put_off_and_sent_again(site):
    row_id = site.upload("a.bin", CONTENT)
    site.poll()
    fill(site.root, leave=7 * MB)
    assert site.back_up(row_id).outcome == "put off"
    assert (site.states(), site.origin.count("/car-erp/a.bin")) == ({("a.bin", 1): "pending"}, 0)
    make_room(site)
    site.expire_leases()
    site.publisher.take()
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}
    assert site.versions()["a.bin", 1].attempts == 1


def test_rows_are_taken_in_while_the_disk_is_almost_full(site):
    fill(site.root, leave=7 * MB)
    site.upload("a.bin", CONTENT)
    site.upload("b.bin", CONTENT, hash_of=b"", link="nonsense")
    site.work()
    assert len(site.versions()) == 2


def test_reserve_of_nothing_fetches_while_there_is_any_room(make_site):
    site = make_site(min_free_space="0")
    fill(site.root, leave=2 * MB)
    site.upload("a.bin", CONTENT)
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}


def test_default_reserve_fits_a_small_disk(make_site):
    site = make_site(min_free_space=None)
    site.upload("a.bin", CONTENT)
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}


# A disk that is full


def test_download_that_fills_the_disk_ends_clean_and_is_tried_again(make_site):
    site = make_site(min_free_space="0")
    fill(site.root, leave=600_000)
    row_id = site.upload("a.bin", CONTENT)
    site.upload("small.bin", b"x")
    site.poll()
    with pytest.raises(DiskFull, match="no space left"):
        site.back_up(row_id)
    site.expire_leases()
    site.publisher.take()
    site.work()
    assert "failed: cannot write part" in reason(site, "a.bin")
    assert "work goes on by itself" in reason(site, "a.bin")
    assert site.states()["small.bin", 1] == "stored"
    assert site.parts() == set()
    make_room(site)
    site.pass_backoff()
    site.work()
    assert site.states()["a.bin", 1] == "stored"


def dump_problem(site):
    return next(iter(problem for problem in gather_status(site.context).problems if problem.kind is Kind.DUMP), None)


def test_dump_that_fills_the_disk_is_not_stored_names_the_disk_and_is_taken_once_there_is_room(make_site):
    command = [sys.executable, "-c", f"import os, sys\nfor _ in range(30): sys.stdout.buffer.write(os.urandom({MB // 10}))"]
    site = make_site(min_free_space="0", dumps={"app": {"command": command, "kind": "raw"}})
    fill(site.root, leave=1_500_000)
    with pytest.raises(DiskFull, match=f"the backup disk {site.root} is full.*no space left"):
        take_dump(site.context, "app", pause=lambda _seconds: False)
    dump = site.context.catalog.dumps.get("app")
    assert site.context.catalog.dumps.versions(dump.id) == []
    assert (site.copies(), site.parts()) == ({BALLAST}, set())
    assert str(site.root) in dump_problem(site).message
    assert dump_problem(site).hint
    make_room(site)
    assert take_dump(site.context, "app", pause=lambda _seconds: False).outcome == "stored"
    assert dump_problem(site) is None
    [version] = site.context.catalog.dumps.versions(dump.id)
    assert site.context.archive.check("dumps/app/v1.gzip", sha256=version.sha256).size == 3 * MB


def test_database_that_finds_no_room_for_its_copy_says_which_folder_wants_it(tmp_path, make_site, monkeypatch):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(os.urandom(MB),) for _ in range(4)])
        connection.commit()
    site = make_site(min_free_space="0", dumps={"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}})
    with MemoryDisk(tmp_path / "temporary", megabytes=16):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
        monkeypatch.setattr("tempfile.tempdir", None)
        ballast = fill(tmp_path / "temporary", leave=1_500_000)
        with pytest.raises(DumpBroken, match="could not be copied") as raised:
            take_dump(site.context, "shop", pause=lambda _seconds: False)
        assert "TMPDIR" in raised.value.hint
        assert site.copies() == set()
        assert [path.name for path in (tmp_path / "temporary").iterdir()] == [BALLAST]
        ballast.unlink()
        assert take_dump(site.context, "shop", pause=lambda _seconds: False).outcome == "stored"


def restored(site, folder):
    with (
        closing(FolderDestination(folder)) as target,
        planned_restore(site.context, target, RestoreFilter()) as planned,
        closing(planned.results(lambda _: None)) as results,
    ):
        return [(result.version.key, result.outcome.value) for result in results]


def test_almost_full_disk_leaves_prune_alive(site_on_the_disk):
    """The reserve is for the catalog, too: a prune is what makes room, and has to be recorded first."""
    site = site_on_the_disk
    deleted = site.upload("a.bin", CONTENT)
    site.work()
    site.delete(deleted)
    fill(site.root, leave=7 * MB)
    site.poll()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert site.copies() == {BALLAST}


def test_full_disk_leaves_verify_restore_and_status_alive(site_on_the_disk, tmp_path):
    """To the last byte, with the catalog on it and a worker that runs."""
    site = site_on_the_disk
    site.upload("a.bin", CONTENT)
    site.work()
    fill(site.root, leave=0)
    assert "almost full" in problems(site)
    assert verify(site.context, choose(site.context), by="a test", repair=False).found == 0
    assert restored(site, tmp_path / "out") == [("a.bin", "restored")]
    assert (tmp_path / "out/car-erp/a.bin").read_bytes() == CONTENT


def test_full_disk_is_read_by_commands_while_no_worker_runs(site_on_the_disk):
    """To the last byte, with the catalog on it: nothing of it has room for another file."""
    site = site_on_the_disk
    site.upload("a.bin", CONTENT)
    site.work()
    site.close()
    fill(site.root, leave=0)
    command = [sys.executable, "-m", "cbk.cli", "cat", "a.bin"]
    done = subprocess.run(command, env=os.environ | site.environment, capture_output=True, check=True)
    assert done.stdout == CONTENT
    assert "almost full" in problems(site)
    make_room(site)
    site.upload("b.bin", CONTENT)
    site.work()
    assert site.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}


def test_full_disk_loses_nothing_and_work_goes_on_by_itself(site_on_the_disk):
    site = site_on_the_disk
    site.upload("a.bin", CONTENT)
    site.work()
    with site.context.catalog.engine.connect().execution_options(reading=True) as connection:
        connection.rollback()
        connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the next record needs room
    fill(site.root, leave=0)
    site.upload("b.bin", CONTENT)
    with pytest.raises(CatalogUnavailable, match="full"):
        site.work()
    assert site.states() == {("a.bin", 1): "stored"}
    make_room(site)
    site.expire_leases()
    site.work()
    assert site.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}
    assert site.fact("poll.problem") is None


# A disk that takes nothing, or is gone


@ON_EXT4
def test_disk_that_becomes_read_only_stops_downloads_says_so_and_resumes(tmp_path, origin, ext4):
    with closing(InProcessSite(tmp_path, origin)) as site:
        row_id = site.upload("a.bin", CONTENT)
        site.poll()
        ext4.remount("ro")
        assert site.back_up(row_id).outcome == "put off"
        assert "the backup disk is mounted read-only" in problems(site)
        site.expire_leases()
        site.publisher.take()
        with suppress(DiskFailed):
            site.work()
        assert site.states() == {("a.bin", 1): "pending"}
        ext4.remount("rw")
        site.work()
        assert site.states() == {("a.bin", 1): "stored"}


@ON_EXT4
def test_disk_that_becomes_read_only_under_a_download_is_named(tmp_path, origin, ext4):
    with closing(InProcessSite(tmp_path, origin)) as site:
        row_id = site.upload("a.bin", CONTENT)
        version = partial(version_of_row, site.context.catalog)
        site.poll()
        room = site.context.archive.usage()
        site.context.archive.usage = lambda: room  # it was writable when the download began
        ext4.remount("ro")
        with pytest.raises(DiskFailed, match=r"read-only file system \(EROFS\)") as caught:
            site.back_up(row_id)
        assert caught.value.retryable
        assert "mount it for writing" in caught.value.hint
        assert version(row_id).state is VersionState.FAILED
        assert version(row_id).due_at is not None
        ext4.remount("rw")
        site.pass_backoff()
        site.work()
        assert site.states() == {("a.bin", 1): "stored"}


@ON_EXT4
def test_disk_that_answers_with_errors_only_loses_nothing_and_work_goes_on_when_it_is_back(tmp_path, origin, ext4):
    with closing(InProcessSite(tmp_path, origin)) as site:
        site.upload("a.bin", CONTENT)
        site.work()
        row_id = site.upload("b.bin", CONTENT)
        site.poll()
        ext4.pull_plug()
        with pytest.raises(DiskFailed):
            site.back_up(row_id)
        with suppress(CbkError):
            site.poll()
        assert site.states() == {("a.bin", 1): "stored", ("b.bin", 1): "failed"}
        ext4.power_up()
        site.pass_backoff()
        site.publisher.take()
        site.work()
        assert site.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}
        assert verify(site.context, choose(site.context), by="a test").found == 0
