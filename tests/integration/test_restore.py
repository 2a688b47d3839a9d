"""Restoring on a site: every byte back under its own name, past all that can be wrong with a copy, a name or a target."""

import errno
import json
import os
import random
import re
import shutil
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.cli.main import main
from cbk.edges.catalog import restore as catalog_restore
from cbk.edges.catalog.database import schema
from cbk.edges.catalog.database.connection import is_frozen
from cbk.edges.destinations import FolderDestination, open_destination
from cbk.errors import CatalogUnavailable, DestinationError, DestinationUnavailable, UsageError
from cbk.jobs.restore.restore import RestoreOutcome, planned_restore
from cbk.model import RestoreItem
from cbk.rules.restore import RestoreFilter
from tests.in_process_site import InProcessSite

UNICODE = [
    "Fotos/Straße nach Čáslav.jpeg",
    "写真/👨\u200d👩\u200d👧.png",
    "cars/e\u0301.txt",
    "cars/\u00e9.txt",
    "with space/a b.txt",
]
COLLIDING = ["cars/thumb.jpg", "cars/thumb.png", "cars/Thumb.png", "cars/thumb", "cars", "cars/thumb/v1.gzip", "v1.gzip", "%long/x"]
PLAIN = ["README", ".gitignore", "archive.tar.gz", "a/b/c/d/e/f.bin", "12:30?*.txt", "-rf", "100% sure.txt", "n\\m.txt"]
HOSTILE = [
    "../../etc/passwd",
    "a/./b.txt",
    "a//b/c.txt",
    "nul\0byte.txt",
    "line\nbreak\x1b[31m.txt",
    "private\uf8ff.bin",
    "x" * 300 + ".png",
    "/".join(["déep" * 20] * 25),
    f"a~{'0' * 64}",
    f".cbk-part~{'0' * 64}",
    ".cbk/identity",
]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "no.toml")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def restore(site, out, *, overwrite=False, dry_run=False, jobs=4, **restore_filter):
    """All results, in the order of keys."""
    with (
        closing(open_destination(str(out), overwrite=overwrite)) as target,
        planned_restore(site.context, target, RestoreFilter(**restore_filter), dry_run=dry_run) as planned,
        closing(planned.results(lambda _: None, jobs=jobs)) as results,
    ):
        return sorted(results, key=lambda result: (result.version.storage, result.version.key))


def outcomes(results):
    return {(result.version.key, result.version.number): result.outcome.value for result in results}


def tree(folder):
    """The content of every file below a folder; names that are no text as surrogates."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


def content_of(key):
    return random.Random(key.encode("utf-8", "surrogatepass")).randbytes(100 + 7 * len(key))


def location(site, key, number=1):
    version = site.versions()[key, number]
    return site.root / version.place / f"v{number}.gzip"


def flip_bit(path, at=-20):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture
def cbk(monkeypatch, capfdbinary):
    """A function that runs `cbk` on a site and gives its exit code, its standard output as bytes and its standard error."""

    def run(site, *arguments):
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["cbk", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capfdbinary.readouterr()
        return ending.value.code, captured.out, captured.err.decode()

    return run


# ---- byte by byte ------------------------------------------------------------------------------------------------------------


def test_every_file_comes_back_byte_by_byte_under_its_own_name(site, out):
    for key in [*UNICODE, *COLLIDING, *PLAIN]:
        site.upload(key, content_of(key))
    site.upload("empty.txt", b"")
    site.work()
    results = restore(site, out)
    assert {result.outcome for result in results} == {RestoreOutcome.RESTORED}
    restored = tree(out / "car-erp")
    assert len(restored) == len(results)
    for key in {*UNICODE, *COLLIDING, *PLAIN} - {"cars", "cars/thumb", "%long/x"}:
        assert restored[key] == content_of(key)
    assert restored["empty.txt"] == b""
    # Others' names lead through these, so that they have names of their own.
    for key in ("cars", "cars/thumb"):
        (own,) = [name for name in restored if name.startswith(f"{key}~")]
        assert restored[own] == content_of(key)


def test_hostile_names_stay_within_the_target_and_lose_no_byte(site, out, tmp_path):
    for number, key in enumerate(HOSTILE):
        site.upload(key, content_of(key), served_at=f"/hostile/{number}")
    site.work()
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    results = restore(site, out)
    assert {result.version.key for result in results if result.outcome is RestoreOutcome.RESTORED} == set(HOSTILE)
    assert {path for path in tmp_path.rglob("*") if out not in path.parents} == before | {out}
    assert {result.path: content_of(result.version.key) for result in results} == tree(out)


def test_same_key_in_two_storages_of_one_bucket_gives_two_files(make_site, out):
    site = make_site(buckets={"s3": "one", "azure": "one"})
    site.upload("a.txt", b"from s3", served_at="/s3")
    site.upload("a.txt", b"from azure", storage="azure", served_at="/azure")
    site.work()
    restore(site, out)
    assert sorted(tree(out).values()) == [b"from azure", b"from s3"]


def test_names_that_the_targets_disk_takes_for_one_give_two_files(site, out, monkeypatch):
    monkeypatch.setattr(FolderDestination, "folds_names", lambda _: True)  # no such file system is everywhere
    for key in ("A.txt", "a.txt", "dir/x", "DIR"):
        site.upload(key, content_of(key))
    site.work()
    results = restore(site, out)
    assert len({result.path.lower() for result in results}) == 4
    assert {result.path: content_of(result.version.key) for result in results} == tree(out)
    assert "car-erp/dir/x" in tree(out)


def test_ordinary_disk_is_found_not_to_fold_names_and_keeps_nothing_of_the_trial(out):
    with closing(FolderDestination(out)) as target:
        assert not target.folds_names()
    assert list(out.iterdir()) == []


def test_files_over_many_pages_are_all_restored(site, out, monkeypatch):
    monkeypatch.setattr(catalog_restore, "BATCH", 2)
    for number in range(7):
        site.upload(f"{number}.txt", b"%d" % number)
    site.work()
    assert len(restore(site, out, jobs=1)) == 7
    assert len(tree(out)) == 7


def test_bytes_that_are_dealt_with_add_up_to_all_of_them(site, out):
    for number in range(5):
        site.upload(f"{number}.txt", b"x" * 100_000)
    site.upload("gone.txt", b"y" * 100_000)
    site.work()
    location(site, "gone.txt").unlink()
    restore(site, out, key="0.txt")
    advanced = []
    with (
        closing(open_destination(str(out))) as target,
        planned_restore(site.context, target, RestoreFilter()) as planned,
        closing(planned.results(advanced.append)) as results,
    ):
        list(results)
    assert sum(advanced) == planned.size == 600_000


def test_memory_is_flat_in_the_number_of_files(site, out, monkeypatch):
    monkeypatch.setattr(catalog_restore, "BATCH", 50)
    site.upload("a.txt", b"x")
    site.work()
    peaks = []
    for files_there in (100, 1_000):
        multiply(site, "a.txt", files_there)
        tracemalloc.start()
        with (
            closing(open_destination(str(out))) as target,
            planned_restore(site.context, target, RestoreFilter(), dry_run=True) as planned,
            closing(planned.results(lambda _: None)) as results,
        ):
            assert planned.files == files_there
            next(results)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


def multiply(site, key, files_there):
    """Add rows to the catalog until it has so many files, all like the one of `key`."""
    version = site.versions()[key, 1]
    with site.context.catalog.database.writing() as connection:
        first = connection.scalar(sa.select(sa.func.count()).select_from(schema.files)) + 1
        digests = [sha256(b"%d" % number).hexdigest() for number in range(first, files_there + 1)]
        like = {"storage": version.storage, "bucket": version.bucket}
        named = [
            {"id": number, "key": f"folder-{number}/a.txt", "place": f"p/{number}", "name_digest": digest, "place_digest": digest}
            for number, digest in enumerate(digests, start=first)
        ]
        connection.execute(sa.insert(schema.files), [like | row for row in named])
        like = {"number": 1, "source_id": "9", "sha256": version.sha256, "state": "stored", "newest": True, "size": 1}
        rows = [like | {"file_id": row["id"], "first_seen_at": version.first_seen_at} for row in named]
        connection.execute(sa.insert(schema.versions), rows)


# ---- what is there already ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready(tmp_path_factory, origin):
    """The folder of a site with three stored files."""
    folder = tmp_path_factory.mktemp("ready")
    site = InProcessSite(folder, origin)
    for key in ("a.txt", "b.txt", "c/d.txt"):
        site.upload(key, content_of(key))
    site.work()
    site.close()
    return folder


@pytest.fixture
def three(ready, make_site, tmp_path):
    """A site of its own with three stored files, copied: that is quicker."""
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    return make_site()


def test_what_is_there_and_right_is_not_written_again(three, out):
    restore(three, out)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")}
    (out / "car-erp/b.txt").unlink()
    assert outcomes(restore(three, out)) == {("a.txt", 1): "present", ("b.txt", 1): "restored", ("c/d.txt", 1): "present"}
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before[path]} == {out / "car-erp/b.txt"}


@pytest.mark.parametrize("other", [b"something else", content_of("a.txt")[:-1] + b"!"])
def test_file_of_another_content_is_replaced_only_with_overwrite(three, out, other):
    (out / "car-erp").mkdir(parents=True)
    (out / "car-erp/a.txt").write_bytes(other)
    (failed, *others) = restore(three, out)
    assert (failed.outcome, failed.reason) == (RestoreOutcome.FAILED, "something else is there already: 'car-erp/a.txt'")
    assert "--overwrite" in failed.hint
    assert {result.outcome for result in others} == {RestoreOutcome.RESTORED}
    assert (out / "car-erp/a.txt").read_bytes() == other
    restore(three, out, overwrite=True)
    assert (out / "car-erp/a.txt").read_bytes() == content_of("a.txt")


def test_symbolic_link_to_a_folder_is_not_followed(three, out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    out.mkdir()
    (out / "car-erp").symlink_to(outside)
    results = restore(three, out, overwrite=True)
    assert {result.outcome for result in results} == {RestoreOutcome.FAILED}
    assert "symbolic link" in results[0].hint
    assert list(outside.iterdir()) == []


def test_symbolic_link_in_a_files_place_is_replaced_and_not_followed(three, out, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (out / "car-erp").mkdir(parents=True)
    (out / "car-erp/a.txt").symlink_to(victim)
    assert outcomes(restore(three, out))["a.txt", 1] == "failed"
    assert outcomes(restore(three, out, overwrite=True))["a.txt", 1] == "restored"
    assert (victim.read_bytes(), (out / "car-erp/a.txt").read_bytes()) == (b"mine", content_of("a.txt"))


def test_pipe_or_folder_in_a_files_place_fails_that_file_alone(three, out):
    (out / "car-erp/b.txt").mkdir(parents=True)
    os.mkfifo(out / "car-erp/a.txt")
    for overwrite in (False, True):
        results = outcomes(restore(three, out, overwrite=overwrite))
        assert results["b.txt", 1] == "failed"
        assert results["a.txt", 1] == ("restored" if overwrite else "failed")


def test_file_in_a_folders_place_fails_that_file_alone(three, out):
    (out / "car-erp").mkdir(parents=True)
    (out / "car-erp/c").write_text("a file")
    assert outcomes(restore(three, out)) == {("a.txt", 1): "restored", ("b.txt", 1): "restored", ("c/d.txt", 1): "failed"}


# ---- copies that are not what they should be ---------------------------------------------------------------------------------


def test_one_flipped_bit_fails_that_file_alone_and_leaves_nothing_of_it(site, out):
    for key in ("a.bin", "b.bin", "c.bin"):
        site.upload(key, content_of(key) * 5000)
    site.work()
    flip_bit(location(site, "b.bin"))
    first, bad, third = restore(site, out)
    assert [first.outcome, bad.outcome, third.outcome] == [RestoreOutcome.RESTORED, RestoreOutcome.FAILED, RestoreOutcome.RESTORED]
    assert "car-erp/b/v1.gzip" in bad.reason
    assert "cbk resync" in bad.hint
    assert sorted(path.name for path in (out / "car-erp").iterdir()) == ["a.bin", "c.bin"]


def test_file_of_another_size_than_the_catalog_says_fails(three, out):
    with three.context.catalog.engine.begin() as connection:
        connection.execute(sa.update(schema.versions).where(schema.versions.c.number == 1).values(size=1))
    results = restore(three, out)
    assert {result.outcome for result in results} == {RestoreOutcome.FAILED}
    assert "but the catalog says 1" in results[0].reason


def test_copies_that_were_swapped_fail_although_each_is_good(three, out):
    first, second = location(three, "a.txt"), location(three, "b.txt")
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)
    results = restore(three, out)
    assert outcomes(results) == {("a.txt", 1): "failed", ("b.txt", 1): "failed", ("c/d.txt", 1): "restored"}
    assert "its header names other bytes" in results[0].reason
    assert set(tree(out)) == {"car-erp/c/d.txt"}


def test_missing_copy_fails_that_file_alone(three, out):
    location(three, "c/d.txt").unlink()
    results = restore(three, out)
    assert results[-1].reason == "car-erp/c/d/v1.gzip is not on the disk"
    assert set(tree(out)) == {"car-erp/a.txt", "car-erp/b.txt"}
    assert not (out / "car-erp/c").exists()


def test_copy_that_goes_while_the_restore_runs_gives_way_to_what_the_catalog_says_by_then(make_site, out):
    site = make_site(keep_versions=2)
    for number in range(10):
        for version in (1, 2):
            site.upload(f"{number}.txt", b"%d" % version, version=version, served_at=f"/{number}/{version}")
    site.work()
    with (
        closing(open_destination(str(out))) as target,
        planned_restore(site.context, target, RestoreFilter()) as planned,
        closing(planned.results(lambda _: None, jobs=1)) as results,
    ):
        seen = [next(results)]
        location(site, "9.txt", 2).unlink()
        site.context.catalog.work.make_due([site.versions()["9.txt", 2].id], reason="its copy was corrupt")
        seen += results
    (last,) = [result for result in seen if result.version.key == "9.txt"]
    assert (last.outcome, last.version.number) == (RestoreOutcome.RESTORED, 1)
    assert last.reason == "older version: v2 is pending (its copy was corrupt)"
    assert (out / "car-erp/9.txt").read_bytes() == b"1"


def test_disk_that_is_another_one_is_not_read(three, out):
    (three.root / ".cbk/identity").unlink()
    with pytest.raises(Exception, match="identity is missing"):
        restore(three, out)
    assert not out.exists()


# ---- which version -----------------------------------------------------------------------------------------------------------


def now(site):
    """The catalog's clock, on an instant at which nothing happens."""
    instant = before = site.context.catalog.database.now()
    while (instant - before).total_seconds() < 0.002:
        instant = site.context.catalog.database.now()
    while site.context.catalog.database.now() == instant:
        pass
    return instant


def test_instant_brings_back_what_was_live_then_around_updates_and_deletes(make_site, out):
    site = make_site(keep_versions=9)
    site.upload("a.txt", b"one", served_at="/1")
    site.upload("b.txt", b"other")
    instants = [now(site)]
    site.work()
    instants.append(now(site))
    row = site.upload("a.txt", b"two", version=2, served_at="/2")
    site.work()
    instants.append(now(site))
    delete = site.delete(row)
    site.work()
    instants.append(now(site))
    site.withdraw(delete)
    site.work()
    instants.append(now(site))
    site.delete(row, delete_id=99)
    site.work()
    site.upload("a.txt", b"three", version=3, served_at="/3")
    site.work()
    instants.append(now(site))
    found = []
    for number, instant in enumerate(instants):
        with suppress(UsageError):
            restore(site, out / str(number), at=instant)
        found.append(tree(out / str(number)).get("car-erp/a.txt") if (out / str(number)).exists() else "nothing")
    assert found == ["nothing", b"one", b"two", None, b"two", b"three"]
    assert all(earlier < later for earlier, later in pairwise(instants))


def test_instant_says_where_the_version_of_then_has_no_copy_any_more(site, out):
    site.upload("a.txt", b"one", served_at="/1")
    site.work()
    instant = now(site)
    site.upload("a.txt", b"two", version=2, served_at="/2")
    site.work()
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.states()["a.txt", 1] == "pruned"
    (result,) = restore(site, out, at=instant)
    assert (result.outcome, result.version.number) == (RestoreOutcome.FAILED, 1)
    assert result.reason.startswith("v1 has no copy: it is pruned")


def test_deleted_file_is_left_out_unless_it_is_asked_for(three, out):
    three.delete(next(iter(three.versions().values())).source_id)
    three.poll()
    assert set(outcomes(restore(three, out))) == {("b.txt", 1), ("c/d.txt", 1)}
    assert set(outcomes(restore(three, out, key="a.txt", deleted=True))) == {("a.txt", 1)}
    with pytest.raises(UsageError, match="no such file") as nothing:
        restore(three, out, key="a.txt")
    assert "--deleted" in nothing.value.hint


def test_older_copy_is_restored_where_the_newest_version_has_none(site, out):
    site.upload("a.txt", b"one", served_at="/1")
    site.work()
    site.upload("a.txt", b"two", version=2, served_at="/2", hash_of=b"something else")
    site.work()
    (result,) = restore(site, out)
    assert (result.outcome, result.version.number, result.is_older) == (RestoreOutcome.RESTORED, 1, True)
    assert result.reason.startswith("older version: v2 is mismatch")


def test_named_version_is_restored(make_site, out):
    site = make_site(keep_versions=2)
    site.upload("a.txt", b"one", served_at="/1")
    site.upload("a.txt", b"two", version=2, served_at="/2")
    site.upload("b.txt", b"only one")
    site.work()
    assert outcomes(restore(site, out, number=2)) == {("a.txt", 2): "restored"}
    assert tree(out) == {"car-erp/a.txt": b"two"}


def test_only_what_is_named_is_restored(site, out):
    keys = ["cars/a.txt", "cars/A.txt", "Cars/a.txt", "100%_.txt", "100%x.txt", "pri\uf8ff.txt", "pri\uf8fe.txt"]
    for number, key in enumerate(keys):
        site.upload(key, b"x", served_at=f"/named/{number}")
    site.upload("other.txt", b"x", storage="azure")
    site.work()

    def restored(**restore_filter):
        return {result.version.key for result in restore(site, out, **restore_filter)}

    assert restored(prefix="cars/") == {"cars/a.txt", "cars/A.txt"}
    assert restored(prefix="Cars/") == {"Cars/a.txt"}
    assert restored(prefix="100%_") == {"100%_.txt"}
    assert restored(prefix="pri\uf8ff") == {"pri\uf8ff.txt"}
    assert restored(key="cars/a.txt") == {"cars/a.txt"}
    assert restored(key="cars/a.txt", storage="s3") == {"cars/a.txt"}
    assert restored(storage="azure") == restored(bucket="azure") == restored(prefix="o", storage="azure") == {"other.txt"}
    assert restored() == {*keys, "other.txt"}


# ---- the target --------------------------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing_and_finds_what_is_missing(three, out):
    location(three, "a.txt").unlink()
    before = {path: path.stat().st_mtime_ns for path in three.root.rglob("*")}
    results = restore(three, out, dry_run=True)
    assert outcomes(results) == {("a.txt", 1): "failed", ("b.txt", 1): "would restore", ("c/d.txt", 1): "would restore"}
    assert not out.exists()
    assert {path: path.stat().st_mtime_ns for path in three.root.rglob("*")} == before


def test_dry_run_sees_what_is_there_already_and_what_is_in_the_way(three, out):
    restore(three, out)
    (out / "car-erp/b.txt").write_text("another")
    (out / "car-erp/c/d.txt").unlink()
    wanted = {("a.txt", 1): "present", ("b.txt", 1): "failed", ("c/d.txt", 1): "would restore"}
    assert outcomes(restore(three, out, dry_run=True)) == wanted
    assert sorted(tree(out)) == ["car-erp/a.txt", "car-erp/b.txt"]


@pytest.mark.parametrize("way", ["", "restored", "../backups/x"])
def test_target_within_the_backup_root_is_refused(three, way):
    before = set(three.root.rglob("*"))
    with pytest.raises(UsageError, match="within the backup root"):
        restore(three, three.root / way)
    assert set(three.root.rglob("*")) == before


def test_target_that_leads_to_the_backup_root_by_a_link_is_refused(three, tmp_path):
    (tmp_path / "link").symlink_to(three.root)
    with pytest.raises(UsageError, match="within the backup root"):
        restore(three, tmp_path / "link" / "x")


@pytest.mark.parametrize("way", ["..", "../..", "../../.."])
def test_target_that_the_backup_root_lies_in_is_refused(three, way):
    before = set(three.root.parent.rglob("*"))
    with pytest.raises(UsageError, match="the backup root is within"):
        restore(three, three.root / way)
    assert set(three.root.parent.rglob("*")) == before


def test_target_beside_the_backup_root_whose_name_begins_alike_is_taken(three):
    beside = three.root.with_name(f"{three.root.name}-restored")
    assert {result.outcome for result in restore(three, beside)} == {RestoreOutcome.RESTORED}


def test_one_restore_at_a_time_works_in_a_folder(three, out):
    with closing(FolderDestination(out)) as busy:
        busy.folds_names()
        with pytest.raises(DestinationUnavailable, match="another restore is at work"):
            restore(three, out)
    assert {result.outcome for result in restore(three, out)} == {RestoreOutcome.RESTORED}


def test_target_that_is_a_file_is_said_so_once(three, out):
    out.write_text("a file")
    with pytest.raises(DestinationUnavailable, match=r"cannot use .*out"):
        restore(three, out)


@pytest.mark.parametrize("url", ["ftp://host/x", "://", ""])
def test_target_of_an_unknown_kind_is_refused(url):
    with pytest.raises(UsageError):
        open_destination(url)


def test_full_target_ends_the_restore_at_once_and_leaves_nothing_unfinished(site, out, monkeypatch):
    for number in range(40):
        site.upload(f"{number}.txt", b"x" * 1000)
    site.work()
    write = os.write
    written = []

    def limited(descriptor, data):
        written.append(len(data))
        if sum(written) > 3000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(DestinationUnavailable, match=r"no space left on device \(ENOSPC\)") as full:
        restore(site, out, jobs=2)
    assert "make room" in full.value.hint
    assert len(written) < 20
    assert {len(content) for content in tree(out).values()} == {1000}


class SlowTarget(FolderDestination):
    """Takes a while for each chunk."""

    def write(self, item, chunks):
        def slowly():
            for chunk in chunks:
                yield chunk
                threading.Event().wait(0.01)

        super().write(item, slowly())


def test_restore_that_is_left_half_way_leaves_nothing_unfinished(site, out):
    site.upload("first.txt", b"x")
    site.upload("large.bin", b"\0" * 60_000_000)
    for number in range(10):
        site.upload(f"{number}.txt", b"x")
    site.work()
    with closing(SlowTarget(out)) as target, planned_restore(site.context, target, RestoreFilter()) as planned:
        with closing(planned.results(lambda _: None, jobs=1)) as results:
            assert next(results).version.key == "first.txt"
        assert tree(out) == {"car-erp/first.txt": b"x"}


def an_item(content, path="b/a.txt"):
    digest = sha256(content).hexdigest()
    return RestoreItem(storage="s3", bucket="b", key="a.txt", number=1, sha256=digest, size=len(content), location="", path=path)


def test_what_a_killed_restore_left_is_taken_away_by_the_next(out):
    with closing(FolderDestination(out)) as target:
        (out / "b").mkdir(parents=True)
        (out / "b" / target._temporary("b/a.txt")).write_bytes(b"half")
        target.write(an_item(b"whole"), [b"who", b"le"])
    assert tree(out) == {"b/a.txt": b"whole"}


def test_error_of_the_bytes_passes_through_and_leaves_nothing(out):
    def chunks():
        yield b"half"
        raise KeyError("mine")

    with closing(FolderDestination(out)) as target, pytest.raises(KeyError):
        target.write(an_item(b"half and half"), chunks())
    assert tree(out) == {}


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_that_appears_while_another_is_written_is_not_lost_unless_overwritten(out, overwrite):
    def chunks():
        yield b"ours"
        (out / "b/a.txt").write_bytes(b"theirs")

    with closing(FolderDestination(out, overwrite=overwrite)) as target:
        if overwrite:
            target.write(an_item(b"ours"), chunks())
        else:
            with pytest.raises(DestinationError, match="something else is there"):
                target.write(an_item(b"ours"), chunks())
    assert tree(out) == {"b/a.txt": b"ours" if overwrite else b"theirs"}


def test_folder_is_entered_once_for_files_that_follow_one_another(out, monkeypatch):
    made = []
    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda name, *rest, **more: (made.append(name), mkdir(name, *rest, **more)))
    out.mkdir()
    made.clear()
    with closing(FolderDestination(out)) as target:
        for path in ("b/c/1", "b/c/2", "b/d/3"):
            assert not target.holds(an_item(b"x", path))
            target.write(an_item(b"x", path), [b"x"])
    assert [name for name in made if name in {"b", "c", "d"}] == ["b", "c", "b", "d"]
    assert tree(out) == dict.fromkeys(("b/c/1", "b/c/2", "b/d/3"), b"x")


def test_folder_that_is_removed_between_two_files_is_made_again(out):
    with closing(FolderDestination(out)) as target:
        target.write(an_item(b"first", "b/first"), [b"first"])
        shutil.rmtree(out / "b")
        target.write(an_item(b"second", "b/second"), [b"second"])
    assert tree(out) == {"b/second": b"second"}


def test_symbolic_link_that_takes_a_folders_place_between_two_files_leads_nowhere(out, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with closing(FolderDestination(out)) as target:
        target.write(an_item(b"first", "b/first"), [b"first"])
        (out / "b").rename(out / "moved")
        (out / "b").symlink_to(elsewhere)
        target.write(an_item(b"second", "b/second"), [b"second"])
    assert tree(elsewhere) == {}


def open_descriptors():
    return {path.name: path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()}


def test_no_folder_stays_open_after_the_end(out):
    before = open_descriptors()
    with closing(FolderDestination(out)) as target, ThreadPoolExecutor(2) as pool:
        both = threading.Barrier(2, timeout=10)

        def write(path):
            both.wait()
            target.write(an_item(b"x", path), [b"x"])

        list(pool.map(write, ["b/1", "c/2"]))
    assert open_descriptors() == before


def test_disk_without_hard_links_gets_whole_files_and_keeps_what_is_there(three, out, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with closing(FolderDestination(out)) as target:
        target.write(an_item(b"first"), [b"first"])
        with pytest.raises(DestinationError, match="something else is there"):
            target.write(an_item(b"second"), [b"second"])
    assert tree(out) == {"b/a.txt": b"first"}


def test_share_that_locks_no_folders_gets_unfinished_files_of_names_of_their_own(out, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    with closing(FolderDestination(out)) as one, closing(FolderDestination(out)) as two:
        one.folds_names()
        two.folds_names()
        assert one._temporary("b/a.txt") != two._temporary("b/a.txt")


# ---- a catalog that cannot be written ----------------------------------------------------------------------------------------


@pytest.fixture
def unwritable(monkeypatch):
    """A function that says whether folders can be written, to a process that may write everywhere."""

    def change(*, is_unwritable):
        monkeypatch.setattr(os, "access", lambda *_: not is_unwritable)

    return change


@pytest.mark.parametrize(
    ("beside", "frozen"),
    [({}, True), ({"-wal": b""}, True), ({"-wal": b"more"}, False), ({"-shm": b""}, False), ({"-shm": b"", "-wal": b""}, False)],
)
def test_catalog_is_read_as_it_is_only_where_nothing_is_beside_it(tmp_path, unwritable, beside, frozen):
    for ending, content in {"": b"", **beside}.items():
        (tmp_path / f"catalog.db{ending}").write_bytes(content)
    assert not is_frozen(tmp_path / "catalog.db")
    unwritable(is_unwritable=True)
    assert is_frozen(tmp_path / "catalog.db") == frozen
    assert not is_frozen(tmp_path / "other.db")


def test_catalog_on_a_disk_that_is_made_writable_again_is_written_by_the_same_process(three, unwritable):
    with three.rival() as catalog:
        three.close()
        unwritable(is_unwritable=True)
        assert catalog.selection.last_file_id() == 3
        with pytest.raises(CatalogUnavailable, match="readonly"):
            catalog.facts.set(of="old")
        unwritable(is_unwritable=False)
        catalog.facts.set(of="new")
        assert catalog.facts.get("of") == "new"


# ---- the commands ------------------------------------------------------------------------------------------------------------


def test_restore_says_in_one_line_what_came_back(three, out, cbk):
    code, said, complained = cbk(three, "restore", "--to", out)
    assert (code, complained) == (0, "")
    assert said.decode() == f"3 files to {out}: 3 restored ({sum(map(len, tree(out).values()))} bytes)\n"


def test_restore_lists_what_failed_and_ends_with_3(three, out, cbk):
    location(three, "b.txt").unlink()
    code, said, complained = cbk(three, "restore", "--to", out)
    assert code == 3
    assert said.decode().splitlines()[0] == "failed: s3/b.txt v1: car-erp/b/v1.gzip is not on the disk"
    assert said.decode().splitlines()[1].endswith(" bytes), 1 failed")
    assert complained.startswith("HINT: ")


def test_restore_as_json_gives_one_object_per_file_and_a_summary(three, out, cbk):
    location(three, "b.txt").unlink()
    restore(three, out, key="a.txt")
    code, said, _ = cbk(three, "restore", "--to", out, "--json")
    *items, summary = map(json.loads, said.splitlines())
    assert code == 3
    assert {item["key"]: item["outcome"] for item in items} == {"a.txt": "present", "b.txt": "failed", "c/d.txt": "restored"}
    (restored,) = [item for item in items if item["key"] == "c/d.txt"]
    content = content_of("c/d.txt")
    assert restored == {
        "outcome": "restored",
        "storage": "s3",
        "bucket": "car-erp",
        "key": "c/d.txt",
        "version": 1,
        "sha256": sha256(content).hexdigest(),
        "size": len(content),
        "path": "car-erp/c/d.txt",
        "older": False,
        "reason": "",
    }
    assert summary == {
        "target": str(out),
        "at": None,
        "files": 3,
        "restored": 1,
        "present": 1,
        "planned": 0,
        "older": 0,
        "failed": 1,
        "unfinished": 0,
        "size": len(content),
    }


def test_json_has_the_documented_shape(three, out, cbk):
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    documented = [re.search(rf"^```json {name}\n(.*)$", page, re.MULTILINE)[1] for name in ("restore", "restore-summary")]
    _, said, _ = cbk(three, "restore", "--to", out, "--key", "a.txt", "--json")
    assert [list(json.loads(line)) for line in said.splitlines()] == [list(json.loads(line)) for line in documented]


def test_restore_of_a_time_takes_a_date_or_an_age(three, out, cbk):
    code, said, _ = cbk(three, "restore", "--to", out, "--at", "2999-01-01 14:00", "--json")
    assert (code, json.loads(said.splitlines()[-1])["restored"]) == (0, 3)
    code, _, complained = cbk(three, "restore", "--to", out, "--at", "3d")
    assert (code, "no such file" in complained) == (2, True)


def test_dry_run_lists_what_would_be_restored(three, out, cbk):
    code, said, _ = cbk(three, "restore", "--to", out, "--dry-run", "--prefix", "/c")
    assert code == 0
    assert said.decode().splitlines()[0] == "would restore: s3/c/d.txt v1"
    assert "1 would be restored" in said.decode()
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to", "x", "--stdout"],
        ["--stdout", "--key", "a.txt", "--json"],
        ["--stdout", "--key", "a.txt", "--dry-run"],
        ["--to", "x", "--key", "a", "--prefix", "b"],
        ["--to", "x", "--version", "1", "--at", "1d"],
        ["--to", "x", "--at", "soon"],
        ["--to", "x", "--jobs", "0"],
        ["--to", "x", "--key", "nothing.txt"],
        ["--stdout", "--prefix", ""],
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(three, cbk, monkeypatch, tmp_path, arguments):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, said, complained = cbk(three, "restore", *arguments)
    assert (code, said) == (2, b"")
    assert "HINT: " in complained
    assert list((tmp_path / "here").iterdir()) == []


def test_stdout_gives_the_bytes_and_nothing_else(site, cbk):
    content = bytes(range(256)) * 1000
    site.upload("a.bin", content)
    site.work()
    assert cbk(site, "restore", "--stdout", "--key", "a.bin") == (0, content, "")
    assert cbk(site, "cat", "/a.bin") == (0, content, "")


def test_cat_gives_the_version_that_is_named_or_says_that_it_is_an_older_one(site, cbk):
    site.upload("a.txt", b"one", served_at="/1")
    site.work()
    site.upload("a.txt", b"two", version=2, served_at="/2", hash_of=b"something else")
    site.work()
    code, said, complained = cbk(site, "cat", "a.txt")
    assert (code, said) == (0, b"one")
    assert complained.startswith("cbk: v1 is an older version: v2 is mismatch")
    assert cbk(site, "cat", "a.txt", "--version", "1") == (0, b"one", "")
    code, said, complained = cbk(site, "cat", "a.txt", "--version", "2")
    assert (code, said) == (1, b"")
    assert "v2 has no copy: it is mismatch" in complained


def test_cat_gives_a_deleted_file_in_its_grace(three, cbk):
    three.delete(three.versions()["a.txt", 1].source_id)
    three.poll()
    assert cbk(three, "cat", "a.txt") == (0, content_of("a.txt"), "")


def test_cat_of_a_key_that_two_storages_have_asks_which(make_site, cbk):
    site = make_site()
    site.upload("a.txt", b"from s3", served_at="/s3")
    site.upload("a.txt", b"from azure", storage="azure", served_at="/azure")
    site.work()
    code, said, complained = cbk(site, "cat", "a.txt")
    assert (code, said) == (2, b"")
    assert "several files" in complained
    assert cbk(site, "cat", "a.txt", "--storage", "azure") == (0, b"from azure", "")
    assert cbk(site, "cat", "a.txt", "--bucket", "car-erp") == (0, b"from s3", "")


@pytest.mark.parametrize("command", [["cat", "b.bin"], ["restore", "--stdout", "--key", "b.bin"]])
def test_corrupt_copy_ends_with_1_and_says_that_what_came_out_is_not_the_file(site, cbk, command):
    site.upload("b.bin", random.Random(1).randbytes(500_000))
    site.work()
    flip_bit(location(site, "b.bin"), at=-1000)
    code, said, complained = cbk(site, *command)
    assert code == 1
    assert len(said) <= 500_000
    assert "what came out is not the file" in complained


def test_missing_copy_ends_with_1(three, cbk):
    location(three, "a.txt").unlink()
    code, said, complained = cbk(three, "cat", "a.txt")
    assert (code, said) == (1, b"")
    assert "is not on the disk" in complained
