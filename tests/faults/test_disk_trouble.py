"""A disk that is full, read-only or gone: downloads stop and say why, everything else goes on, and work resumes by itself."""

import os
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial

import pytest

from cbk.edges.targets import FolderTarget
from cbk.errors import CatalogUnavailable, CbkError, DiskFailed, DiskFull
from cbk.jobs.restore import planned_restore
from cbk.jobs.status import take_status
from cbk.jobs.verify import choose, verify
from cbk.model import VersionState
from cbk.rules.restore import Wish
from tests.desk import Desk, version_of_row
from tests.faults.disks import BALLAST, LoopDisk, MemoryDisk, fill

MB = 1_000_000
# A copy does not get smaller than this.
CONTENT = os.urandom(MB)


@pytest.fixture
def make_desk(tmp_path, origin, small_disks):
    """A function that makes a desk whose backup disk is a tmpfs of 16 MB; of these, 8 MB are to stay free."""
    with MemoryDisk(tmp_path / "backups", megabytes=16):
        desks = []

        def make(**settings):
            desks.append(Desk(tmp_path, origin, clock_sync="ignore", **{"min_free_space": "8MB"} | settings))
            return desks[-1]

        yield make
        for desk in desks:
            desk.close()


@pytest.fixture
def desk(make_desk):
    return make_desk()


@pytest.fixture
def desk_on_the_disk(make_desk, tmp_path):
    """Its catalog lies on the disk as well."""
    return make_desk(catalog_url=f"sqlite:///{tmp_path}/backups/.cbk/catalog.db")


@pytest.fixture
def ext4(tmp_path, kind):
    with LoopDisk(kind, tmp_path / "backups") as disk:
        yield disk


ON_EXT4 = pytest.mark.parametrize("kind", ["ext4"], indirect=True)


def make_room(desk):
    (desk.root / BALLAST).unlink()


def problems(desk):
    return " | ".join(f"{problem.message} {problem.hint}" for problem in take_status(desk.kit).problems)


def reason(desk, key):
    version = desk.versions()[key, 1]
    return f"{version.state.value}: {version.reason}"


# A disk that is almost full


def test_almost_full_disk_takes_nothing_new_and_says_so(desk):
    fill(desk.root, leave=7 * MB)
    desk.upload("a.bin", CONTENT)
    desk.work()
    assert desk.states() == {("a.bin", 1): "pending"}
    assert desk.origin.count("/car-erp/a.bin") == 0
    assert "the backup disk is almost full (7 MB are free, 8 MB stay free): nothing new is fetched" in problems(desk)


def test_almost_full_disk_is_a_problem_although_everything_is_stored(desk):
    desk.upload("a.bin", CONTENT)
    desk.work()
    assert take_status(desk.kit).is_protected
    fill(desk.root, leave=7 * MB)
    assert not take_status(desk.kit).is_protected


def test_work_goes_on_by_itself_when_there_is_room_again(desk):
    fill(desk.root, leave=7 * MB)
    desk.upload("a.bin", CONTENT)
    desk.work()
    make_room(desk)
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}
    assert problems(desk) == ""


def test_message_that_comes_when_the_disk_is_almost_full_is_put_off_and_sent_again(desk):
    row_id = desk.upload("a.bin", CONTENT)
    desk.poll()
    fill(desk.root, leave=7 * MB)
    assert desk.back_up(row_id).outcome == "put off"
    assert (desk.states(), desk.origin.count("/car-erp/a.bin")) == ({("a.bin", 1): "pending"}, 0)
    make_room(desk)
    desk.expire_leases()
    desk.courier.take()
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}
    assert desk.versions()["a.bin", 1].attempts == 1


def test_rows_are_taken_in_while_the_disk_is_almost_full(desk):
    fill(desk.root, leave=7 * MB)
    desk.upload("a.bin", CONTENT)
    desk.upload("b.bin", CONTENT, hash_of=b"", link="nonsense")
    desk.work()
    assert len(desk.versions()) == 2


def test_reserve_of_nothing_fetches_while_there_is_any_room(make_desk):
    desk = make_desk(min_free_space="0")
    fill(desk.root, leave=2 * MB)
    desk.upload("a.bin", CONTENT)
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}


def test_default_reserve_fits_a_small_disk(make_desk):
    desk = make_desk(min_free_space=None)
    desk.upload("a.bin", CONTENT)
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}


# A disk that is full


def test_download_that_fills_the_disk_ends_clean_and_is_tried_again(make_desk):
    desk = make_desk(min_free_space="0")
    fill(desk.root, leave=600_000)
    row_id = desk.upload("a.bin", CONTENT)
    desk.upload("small.bin", b"x")
    desk.poll()
    with pytest.raises(DiskFull, match="no space left"):
        desk.back_up(row_id)
    desk.expire_leases()
    desk.courier.take()
    desk.work()
    assert "failed: cannot write part" in reason(desk, "a.bin")
    assert "work goes on by itself" in reason(desk, "a.bin")
    assert desk.states()["small.bin", 1] == "stored"
    assert desk.parts() == set()
    make_room(desk)
    desk.pass_backoff()
    desk.work()
    assert desk.states()["a.bin", 1] == "stored"


def restored(desk, folder):
    with (
        closing(FolderTarget(folder)) as target,
        planned_restore(desk.kit, target, Wish()) as planned,
        closing(planned.results(lambda _: None)) as results,
    ):
        return [(result.version.key, result.outcome.value) for result in results]


def test_almost_full_disk_leaves_prune_alive(desk_on_the_disk):
    """The reserve is for the catalog, too: a prune is what makes room, and has to be recorded first."""
    desk = desk_on_the_disk
    deleted = desk.upload("a.bin", CONTENT)
    desk.work()
    desk.delete(deleted)
    fill(desk.root, leave=7 * MB)
    desk.poll()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert desk.copies() == {BALLAST}


def test_full_disk_leaves_verify_restore_and_status_alive(desk_on_the_disk, tmp_path):
    """To the last byte, with the catalog on it and a worker that runs."""
    desk = desk_on_the_disk
    desk.upload("a.bin", CONTENT)
    desk.work()
    fill(desk.root, leave=0)
    assert "almost full" in problems(desk)
    assert verify(desk.kit, choose(desk.kit), by="a test", repair=False).found == 0
    assert restored(desk, tmp_path / "out") == [("a.bin", "restored")]
    assert (tmp_path / "out/car-erp/a.bin").read_bytes() == CONTENT


def test_full_disk_is_read_by_commands_while_no_worker_runs(desk_on_the_disk):
    """To the last byte, with the catalog on it: nothing of it has room for another file."""
    desk = desk_on_the_disk
    desk.upload("a.bin", CONTENT)
    desk.work()
    desk.close()
    fill(desk.root, leave=0)
    command = [sys.executable, "-m", "cbk.cli", "cat", "a.bin"]
    done = subprocess.run(command, env=os.environ | desk.environment, capture_output=True, check=True)
    assert done.stdout == CONTENT
    assert "almost full" in problems(desk)
    make_room(desk)
    desk.upload("b.bin", CONTENT)
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}


def test_full_disk_loses_nothing_and_work_goes_on_by_itself(desk_on_the_disk):
    desk = desk_on_the_disk
    desk.upload("a.bin", CONTENT)
    desk.work()
    with desk.kit.catalog.engine.connect().execution_options(reading=True) as connection:
        connection.rollback()
        connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the next record needs room
    fill(desk.root, leave=0)
    desk.upload("b.bin", CONTENT)
    with pytest.raises(CatalogUnavailable, match="full"):
        desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}
    make_room(desk)
    desk.expire_leases()
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}
    assert desk.fact("poll.problem") is None


# A disk that takes nothing, or is gone


@ON_EXT4
def test_disk_that_becomes_read_only_stops_downloads_says_so_and_resumes(tmp_path, origin, ext4):
    with closing(Desk(tmp_path, origin)) as desk:
        row_id = desk.upload("a.bin", CONTENT)
        desk.poll()
        ext4.remount("ro")
        assert desk.back_up(row_id).outcome == "put off"
        assert "the backup disk is mounted read-only" in problems(desk)
        desk.expire_leases()
        desk.courier.take()
        with suppress(DiskFailed):
            desk.work()
        assert desk.states() == {("a.bin", 1): "pending"}
        ext4.remount("rw")
        desk.work()
        assert desk.states() == {("a.bin", 1): "stored"}


@ON_EXT4
def test_disk_that_becomes_read_only_under_a_download_is_named(tmp_path, origin, ext4):
    with closing(Desk(tmp_path, origin)) as desk:
        row_id = desk.upload("a.bin", CONTENT)
        version = partial(version_of_row, desk.kit.catalog)
        desk.poll()
        room = desk.kit.archive.usage()
        desk.kit.archive.usage = lambda: room  # it was writable when the download began
        ext4.remount("ro")
        with pytest.raises(DiskFailed, match=r"read-only file system \(EROFS\)") as caught:
            desk.back_up(row_id)
        assert caught.value.retryable
        assert "mount it for writing" in caught.value.hint
        assert version(row_id).state is VersionState.FAILED
        assert version(row_id).due_at is not None
        ext4.remount("rw")
        desk.pass_backoff()
        desk.work()
        assert desk.states() == {("a.bin", 1): "stored"}


@ON_EXT4
def test_disk_that_answers_with_errors_only_loses_nothing_and_work_goes_on_when_it_is_back(tmp_path, origin, ext4):
    with closing(Desk(tmp_path, origin)) as desk:
        desk.upload("a.bin", CONTENT)
        desk.work()
        row_id = desk.upload("b.bin", CONTENT)
        desk.poll()
        ext4.pull_plug()
        with pytest.raises(DiskFailed):
            desk.back_up(row_id)
        with suppress(CbkError):
            desk.poll()
        assert desk.states() == {("a.bin", 1): "stored", ("b.bin", 1): "failed"}
        ext4.power_up()
        desk.pass_backoff()
        desk.courier.take()
        desk.work()
        assert desk.states() == {("a.bin", 1): "stored", ("b.bin", 1): "stored"}
        assert verify(desk.kit, choose(desk.kit), by="a test").found == 0
