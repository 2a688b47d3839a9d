"""Copies on their way into the trash and out of it: twice, by several at once, and by processes that die in between."""

import errno
import gzip
import os
import threading
from contextlib import contextmanager

import pytest

from cbk.edges.archive import archive as module
from cbk.edges.archive.archive import Archive
from cbk.errors import ArchiveError, CopyExists, CopyMissing, DiskFailed, RootMissing
from tests.unit.test_archive import CONTENT, LOCATION, NOW, files_below, on_disk, store

NAME = "17.gzip"
OTHER = "car-erp/cars/id-1/thumbnail/v2.gzip"


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "backups", now=NOW)


@pytest.fixture
def stored(archive):
    """A disk with one copy."""
    store(archive)
    return archive


@pytest.fixture
def trashed(stored):
    """A disk with one copy in the trash."""
    assert stored.trash(LOCATION, NAME)
    return stored


def in_trash(archive, name=NAME):
    return archive.root / ".cbk/trash" / name


def content_of(path):
    return gzip.decompress(path.read_bytes())


@contextmanager
def dying(monkeypatch, owner, name, *, after=False):
    """A process that is killed before or after it calls this."""
    real = getattr(owner, name)

    def die(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, die)
        with pytest.raises(SystemExit):
            yield


# ---- into the trash ----------------------------------------------------------------------------------------------------------


def test_trashed_copy_is_whole_in_the_trash_and_leaves_no_empty_folders(stored):
    assert stored.trash(LOCATION, NAME) is True
    assert content_of(in_trash(stored)) == CONTENT
    assert not (stored.root / "car-erp/cars").exists()
    assert (stored.root / "car-erp").is_dir()


def test_trashing_leaves_the_file_s_other_copies_where_they_are(stored):
    store(stored, b"two", OTHER, version=2)
    stored.trash(LOCATION, NAME)
    assert files_below(stored.root / "car-erp") == ["cars/id-1/thumbnail/v2.gzip"]


def test_trashing_twice_is_as_trashing_once(trashed):
    assert trashed.trash(LOCATION, NAME) is True
    assert content_of(in_trash(trashed)) == CONTENT


def test_trashing_what_is_nowhere_says_so(archive):
    assert archive.trash(LOCATION, NAME) is False
    assert files_below(archive.root / ".cbk/trash") == []


def test_trashing_takes_the_copy_that_counts_where_an_older_one_lies_in_the_trash(trashed):
    store(trashed, b"stored again")
    assert trashed.trash(LOCATION, NAME) is True
    assert content_of(in_trash(trashed)) == b"stored again"
    assert not on_disk(trashed).exists()


def test_copy_is_trashed_by_one_of_many_at_once_and_all_say_that_it_is_there(stored):
    found = []
    threads = [threading.Thread(target=lambda: found.append(stored.trash(LOCATION, NAME))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert content_of(in_trash(stored)) == CONTENT


@pytest.mark.parametrize(("name", "after"), [("rename", False), ("rename", True), ("rmdir", False), ("rmdir", True)])
def test_process_that_dies_while_it_trashes_loses_nothing_and_is_made_good(stored, monkeypatch, name, after):
    with dying(monkeypatch, os, name, after=after):
        stored.trash(LOCATION, NAME)
    assert [on_disk(stored).exists(), in_trash(stored).exists()].count(True) == 1
    assert stored.trash(LOCATION, NAME) is True
    assert content_of(in_trash(stored)) == CONTENT
    assert not (stored.root / "car-erp/cars").exists()


def test_trash_folder_that_is_a_planted_link_leads_nowhere(stored, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (stored.root / ".cbk/trash").symlink_to(elsewhere)
    with pytest.raises(ArchiveError):
        stored.trash(LOCATION, NAME)
    assert on_disk(stored).exists()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x.gzip", "a/b.gzip"])
@pytest.mark.parametrize("verb", ["trash", "restore_from_trash", "empty_trash"])
def test_name_in_the_trash_is_a_plain_one(stored, name, verb):
    arguments = {"trash": (LOCATION, name), "restore_from_trash": (name, LOCATION), "empty_trash": (name,)}[verb]
    with pytest.raises(ValueError, match="plain"):
        getattr(stored, verb)(*arguments)


@pytest.mark.parametrize("location", ["../v1.gzip", "a/../../v1.gzip", ".cbk/v1.gzip", "car-erp/a/identity", "/etc/v1.gzip", "v1"])
def test_what_is_no_place_of_a_copy_is_neither_trashed_nor_filled(trashed, location):
    with pytest.raises(ArchiveError):
        trashed.trash(location, "other.gzip")
    with pytest.raises(ArchiveError):
        trashed.restore_from_trash(NAME, location)
    assert content_of(in_trash(trashed)) == CONTENT


def test_disk_that_fails_while_it_trashes_keeps_the_copy(stored, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        with pytest.raises(DiskFailed, match="to the trash"):
            stored.trash(LOCATION, NAME)
    assert content_of(on_disk(stored)) == CONTENT


@pytest.mark.parametrize("verb", ["trash", "restore_from_trash", "empty_trash"])
def test_disk_that_is_not_mounted_is_not_touched(trashed, verb):
    (trashed.root / ".cbk/identity").unlink()
    arguments = {"trash": (LOCATION, NAME), "restore_from_trash": (NAME, LOCATION), "empty_trash": (NAME,)}[verb]
    with pytest.raises(RootMissing):
        getattr(trashed, verb)(*arguments)
    assert in_trash(trashed).exists()


# ---- out of the trash --------------------------------------------------------------------------------------------------------


def test_copy_comes_back_to_its_place_though_its_folders_were_gone(trashed):
    trashed.restore_from_trash(NAME, LOCATION)
    assert content_of(on_disk(trashed)) == CONTENT
    assert not in_trash(trashed).exists()


def test_copy_that_is_back_stays_where_it_is_asked_for_again(trashed):
    trashed.restore_from_trash(NAME, LOCATION)
    with pytest.raises(CopyMissing, match="not in the trash"):
        trashed.restore_from_trash(NAME, LOCATION)
    assert content_of(on_disk(trashed)) == CONTENT


def test_copy_that_never_was_in_the_trash_is_missing_and_makes_no_folders(archive):
    with pytest.raises(CopyMissing):
        archive.restore_from_trash(NAME, LOCATION)
    assert not (archive.root / "car-erp").exists()


@pytest.mark.parametrize("move", ["_rename_noreplace", "_link_and_unlink", "_checked_rename"])
def test_place_that_is_taken_is_never_overwritten(trashed, monkeypatch, move):
    """On every kind of file system: those that can rename without replacing, those with links only, and those with neither."""

    def not_supported(*_args):
        raise OSError(errno.ENOSYS, "not supported")

    for other in ("_rename_noreplace", "_link_and_unlink"):
        if move != other:
            monkeypatch.setattr(module, other, not_supported)
        else:
            break
    store(trashed, b"stored again")
    with pytest.raises(CopyExists, match="there already"):
        trashed.restore_from_trash(NAME, LOCATION)
    assert content_of(on_disk(trashed)) == b"stored again"
    assert content_of(in_trash(trashed)) == CONTENT


def test_copy_is_brought_back_by_one_of_many_at_once(trashed):
    outcomes = []

    def take():
        try:
            trashed.restore_from_trash(NAME, LOCATION)
        except (CopyMissing, CopyExists) as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("back")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("back") == 1
    assert len(outcomes) == 8
    assert content_of(on_disk(trashed)) == CONTENT


@pytest.mark.parametrize("after", [False, True])
def test_process_that_dies_while_it_brings_back_loses_nothing_and_is_made_good(trashed, monkeypatch, after):
    with dying(monkeypatch, module, "_move", after=after):
        trashed.restore_from_trash(NAME, LOCATION)
    assert [on_disk(trashed).exists(), in_trash(trashed).exists()] == [after, not after]
    if not after:
        trashed.restore_from_trash(NAME, LOCATION)
    assert content_of(on_disk(trashed)) == CONTENT


def test_folders_that_another_worker_removes_meanwhile_are_made_again(trashed):
    """A prune of the file's other version removes empty folders while this one comes back."""
    stop = threading.Event()

    def prune():
        while not stop.is_set():
            trashed.remove(OTHER)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for _ in range(30):
            trashed.restore_from_trash(NAME, LOCATION)
            assert trashed.trash(LOCATION, NAME)
    finally:
        stop.set()
        pruner.join()
    assert content_of(in_trash(trashed)) == CONTENT


# ---- away for good -----------------------------------------------------------------------------------------------------------


def test_emptied_copy_is_gone_and_emptying_twice_is_fine(trashed):
    in_trash(trashed, "18.gzip").write_bytes(b"another's")
    trashed.empty_trash(NAME)
    trashed.empty_trash(NAME)
    assert files_below(trashed.root / ".cbk/trash") == ["18.gzip"]


def test_emptying_where_there_never_was_a_trash_is_fine(archive):
    archive.empty_trash(NAME)
    assert not (archive.root / ".cbk/trash").exists()


def test_trash_is_no_part_of_what_the_disk_holds(trashed):
    assert list(trashed.walk()) == []


# ---- what root makes ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
def test_all_that_root_makes_belongs_to_who_has_the_backup_root(tmp_path):
    workers = (1234, 1235)
    root = tmp_path / "backups"
    root.mkdir()
    os.chown(root, *workers)
    archive = Archive.create(root, now=NOW)
    store(archive)
    archive.write_note("journal", b"{}")
    assert archive.trash(LOCATION, NAME)
    made = [root, *root.rglob("*")]
    assert {root / ".cbk/trash" / NAME, root / ".cbk/identity", root / ".cbk/lock"} <= set(made)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {workers}
