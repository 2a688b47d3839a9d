"""The backup disk, on a real one: `tmp_path`, real descriptors, real processes that die."""

import dataclasses
import errno
import gzip
import hashlib
import json
import os
import random
import resource
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from cbk.edges.archive import archive as module
from cbk.edges.archive.archive import Archive
from cbk.edges.archive.disk_tools import plain_tools
from cbk.errors import (
    ArchiveError,
    CopyCorrupt,
    CopyExists,
    CopyMissing,
    CopySwapped,
    DiskFailed,
    DiskFull,
    HashMismatch,
    RootMissing,
)
from cbk.model import CopyHeader, ObjectProperties
from cbk.rules.backup.gzip_format import encode_header
from cbk.rules.intake.layout import copy_location, places
from tests.disk import publish

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOCATION = "car-erp/cars/id-1/thumbnail/v1.gzip"
CONTENT = b"the bytes of a thumbnail\n" * 40
MEDIA = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "backups", now=NOW)


def make_header(content=CONTENT, **overrides):
    values = {"storage": "s3", "path": "cars/id-1/", "name": "thumbnail.png", "version": 1, "size": 0}
    return CopyHeader(sha256=hashlib.sha256(content).hexdigest(), **(values | overrides))


@contextmanager
def arriving(archive, content=CONTENT, part_name="1-1", **overrides):
    """A part that was written, sealed and read back."""
    with archive.incoming(part_name, make_header(content, **overrides)) as part:
        for start in range(0, len(content), 65_536):
            part.write(memoryview(content)[start : start + 65_536])
        part.finish()
        part.flush()
        part.read_back()
        yield part


def store(archive, content=CONTENT, location=LOCATION, **overrides):
    with arriving(archive, content, f"{threading.get_ident()}-{location.replace('/', '-')[-100:]}", **overrides) as part:
        publish(archive, part, location)
        return part.written


def parts(archive):
    return sorted(path.name for path in (archive.root / ".cbk/incoming").iterdir())


def on_disk(archive, location=LOCATION):
    return archive.root / location


def open_descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- the disk and its identity -----------------------------------------------------------------------------------------------


def test_create_gives_a_disk_an_identity_and_its_folders(archive):
    assert sorted(path.name for path in (archive.root / ".cbk").iterdir()) == ["identity", "incoming", "quarantine"]
    identity = json.loads((archive.root / ".cbk/identity").read_text())
    assert identity == {"uuid": archive.identity(), "created": "2026-03-01T12:00:00+00:00", "format": 1}


def test_create_changes_nothing_the_second_time(archive):
    before = (archive.root / ".cbk/identity").read_bytes()
    assert Archive.create(archive.root, now=NOW).identity() == archive.identity()
    assert (archive.root / ".cbk/identity").read_bytes() == before


def test_create_by_many_at_once_gives_one_identity(tmp_path):
    found = set()
    threads = [threading.Thread(target=lambda: found.add(Archive.create(tmp_path / "new", now=NOW).identity())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert files_below(tmp_path / "new") == [".cbk/identity"]


def test_create_where_a_file_is_in_the_way_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match=r"cannot prepare .*file exists"):
        Archive.create(tmp_path / "file", now=NOW)


# ---- notes -------------------------------------------------------------------------------------------------------------------


def test_note_is_read_as_it_was_written(archive):
    archive.write_note("retention.jsonl", b"one\n")
    archive.write_note("retention.jsonl", b"two\n")
    assert archive.read_note("retention.jsonl") == b"two\n"
    assert stat.S_IMODE((archive.root / ".cbk/retention.jsonl").stat().st_mode) == 0o640


def test_note_that_was_never_written_is_none(archive):
    assert archive.read_note("retention.jsonl") is None


def test_note_that_is_the_same_already_is_not_written_again(archive):
    archive.write_note("note", b"same")
    before = (archive.root / ".cbk/note").stat()
    archive.write_note("note", b"same")
    after = (archive.root / ".cbk/note").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_note_of_a_writer_that_died_half_way_does_no_harm(archive):
    archive.write_note("note", b"old")
    (archive.root / ".cbk/note.new").write_bytes(b"half of something much longer")
    assert archive.read_note("note") == b"old"
    archive.write_note("note", b"new")
    assert archive.read_note("note") == b"new"
    assert not (archive.root / ".cbk/note.new").exists()


def test_note_by_many_at_once_is_one_of_theirs(archive):
    contents = {bytes([letter]) * 50_000 for letter in b"abcdefgh"}
    threads = [threading.Thread(target=archive.write_note, args=("note", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archive.read_note("note") in contents
    assert not (archive.root / ".cbk/note.new").exists()


def test_note_that_cannot_be_written_leaves_the_old_one(archive, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space")

    archive.write_note("note", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match=r"cannot write \.cbk/note"):
            archive.write_note("note", b"new")
    assert archive.read_note("note") == b"old"


def test_note_is_flushed_before_and_after_it_gets_its_name(archive, monkeypatch):
    calls = []
    rename, fsync = os.rename, os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (calls.append(stat.S_IFMT(os.fstat(descriptor).st_mode)), fsync(descriptor))
    )
    monkeypatch.setattr(os, "rename", lambda *args, **kwargs: (calls.append("rename"), rename(*args, **kwargs)))
    archive.write_note("note", b"new")
    assert calls == [stat.S_IFREG, "rename", stat.S_IFDIR]


def test_note_follows_no_link_and_leaves_the_disk_by_no_name(archive, tmp_path):
    (archive.root / ".cbk/note").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("secret")
    with pytest.raises(ArchiveError, match="symbolic"):
        archive.read_note("note")
    with pytest.raises(ValueError, match="plain file name"):
        archive.write_note("../note", b"")


def test_note_is_not_sought_on_a_disk_that_is_not_mounted(tmp_path):
    with pytest.raises(RootMissing):
        Archive(tmp_path).read_note("retention.jsonl")


# ---- which disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["nowhere", "empty", "file"])
def test_identity_of_a_disk_that_is_not_mounted_is_missing(tmp_path, root):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(RootMissing, match="identity is missing") as caught:
        Archive(tmp_path / root).identity()
    assert "mounted" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"uuid": "x"}', '{"uuid": "x", "format": "y"}'])
def test_identity_that_is_damaged_is_refused(archive, content):
    (archive.root / ".cbk/identity").write_text(content)
    with pytest.raises(RootMissing, match="damaged"):
        archive.identity()


def test_identity_of_a_later_format_is_refused(archive):
    (archive.root / ".cbk/identity").write_text('{"uuid": "x", "format": 2}')
    with pytest.raises(ArchiveError, match="format 2, this release knows 1"):
        archive.identity()


def test_require_accepts_the_disk_that_is_expected(archive):
    Archive(archive.root).require(archive.identity())
    Archive(archive.root, identity=archive.identity()).require()


def test_require_refuses_another_disk(archive):
    with pytest.raises(RootMissing, match=f"is disk {archive.identity()}, expected another"):
        Archive(archive.root, identity="another").require()
    with pytest.raises(RootMissing, match="expected another"):
        archive.require("another")


def swap_disk(archive, tmp_path):
    archive.root.rename(tmp_path / "unplugged")
    Archive.create(archive.root, now=NOW)


def unplug_disk(archive, tmp_path):
    archive.root.rename(tmp_path / "unplugged")
    archive.root.mkdir()


@pytest.mark.parametrize("change", [swap_disk, unplug_disk])
def test_no_part_is_opened_once_the_disk_is_gone_or_another(archive, tmp_path, change):
    change(archive, tmp_path)
    with pytest.raises(RootMissing), archive.incoming("1-1", make_header()):
        pass
    assert [name for name in files_below(archive.root) if not name.startswith(".cbk/")] == []


@pytest.mark.parametrize("change", [swap_disk, unplug_disk])
def test_nothing_is_published_once_the_disk_is_gone_or_another(archive, tmp_path, change):
    with arriving(archive) as part:
        change(archive, tmp_path)
        with pytest.raises(RootMissing):
            publish(archive, part, LOCATION)
    assert not on_disk(archive).exists()


@pytest.mark.parametrize("change", [swap_disk, unplug_disk])
@pytest.mark.parametrize(
    "action",
    [
        lambda archive: archive.check(LOCATION, sha256="x"),
        lambda archive: archive.inspect(LOCATION),
        lambda archive: list(archive.open_copy(LOCATION)),
        lambda archive: archive.remove(LOCATION),
        lambda archive: archive.quarantine(LOCATION),
        lambda archive: archive.sweep(lambda _: False),
        lambda archive: list(archive.walk()),
        lambda archive: archive.usage(),
    ],
    ids=["check", "inspect", "open_copy", "remove", "quarantine", "sweep", "walk", "usage"],
)
def test_no_copy_seems_missing_because_the_disk_is(archive, tmp_path, change, action):
    store(archive)
    change(archive, tmp_path)
    with pytest.raises(RootMissing):
        action(archive)


def test_usage_tells_the_room_on_the_disk(archive):
    room = archive.usage()
    assert 0 <= room.free <= room.total
    assert room.total == os.statvfs(archive.root).f_blocks * os.statvfs(archive.root).f_frsize


def test_readme_commands_do_what_they_say(archive):
    store(archive, properties=ObjectProperties(cache_control="no-store", metadata=(("owner", "id-1"),)))
    readme = plain_tools()["README.txt"].decode()
    commands = [line.strip() for line in readme.splitlines() if line.startswith(("    gzip", "    zcat", "    head"))]
    output = []
    for command in commands:
        copied = command.replace(" v1.gzip", f" {LOCATION}")
        output.append(subprocess.run(copied, shell=True, cwd=archive.root, capture_output=True, check=True).stdout)
        if "> thumbnail.png" in command:
            assert (archive.root / "thumbnail.png").read_bytes() == CONTENT
            (archive.root / "thumbnail.png").unlink()
    assert len(commands) == 4
    said = json.loads(output[2])
    assert said.pop("properties") == {"cache_control": "no-store", "metadata": [["owner", "id-1"]]}
    wanted = dataclasses.asdict(make_header(size=len(CONTENT)))
    assert said.items() >= {name: value for name, value in wanted.items() if name != "properties"}.items()
    assert output[3].split()[0].decode() == make_header().sha256


# ---- in ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"x", CONTENT, MEDIA[:65_536], MEDIA, CONTENT * 2000 + MEDIA],
    ids=["empty", "byte", "small", "64k", "media", "mixed"],
)
def test_published_copy_is_read_by_zcat_and_python(archive, content):
    store(archive, content)
    assert subprocess.run(["zcat", on_disk(archive)], capture_output=True, check=True).stdout == content
    assert gzip.decompress(on_disk(archive).read_bytes()) == content


def test_published_copy_is_what_read_back_says(archive):
    written = store(archive, MEDIA)
    stored = on_disk(archive).read_bytes()
    assert (written.sha256, written.size) == (hashlib.sha256(MEDIA).hexdigest(), len(MEDIA))
    assert (written.stored_sha256, written.stored_size) == (hashlib.sha256(stored).hexdigest(), len(stored))


def test_publish_leaves_nothing_but_the_copy(archive):
    store(archive)
    assert files_below(archive.root) == [".cbk/identity", LOCATION]


def test_copy_and_its_folders_are_closed_to_others(archive):
    store(archive)
    assert stat.S_IMODE(on_disk(archive).stat().st_mode) & 0o137 == 0
    assert stat.S_IMODE(on_disk(archive).parent.stat().st_mode) & 0o027 == 0


@pytest.mark.parametrize("content", [CONTENT, MEDIA], ids=["small", "large"])
def test_header_of_a_published_copy_knows_its_size(archive, content):
    store(archive, content)
    assert archive.inspect(LOCATION) == make_header(content, size=len(content))


def test_write_counts_the_bytes_of_the_object(archive):
    with archive.incoming("1-1", make_header()) as part:
        part.write(b"hello")
        part.write(bytearray(b", "))
        part.write(memoryview(b"world"))
        assert part.bytes_in == 12


def test_read_back_refuses_other_bytes_than_the_rows(archive):
    with archive.incoming("1-1", make_header(b"expected")) as part:
        part.write(b"an error page")
        part.finish()
        part.flush()
        with pytest.raises(HashMismatch) as caught:
            part.read_back()
        with pytest.raises(ValueError, match="after it was read back"):
            publish(archive, part, LOCATION)
    assert caught.value.expected == hashlib.sha256(b"expected").hexdigest()
    assert caught.value.actual == hashlib.sha256(b"an error page").hexdigest()
    assert parts(archive) == []


def replace_with_a_damaged_one(archive):
    """Another file takes the name of the part 1-1."""
    path = archive.root / ".cbk/incoming/1-1"
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 1
    path.unlink()
    path.write_bytes(damaged)


def test_read_back_reads_the_file_under_its_name(archive):
    with archive.incoming("1-1", make_header()) as part:
        part.write(CONTENT)
        part.finish()
        part.flush()
        replace_with_a_damaged_one(archive)
        with pytest.raises(CopyCorrupt, match="part 1-1"):
            part.read_back()
        with pytest.raises(ValueError, match="after it was read back"):
            publish(archive, part, LOCATION)
    assert parts(archive) == []


def test_read_back_blames_the_disk_for_other_bytes_than_were_written_whatever_the_object_was(archive):
    with archive.incoming("1-1", make_header(b"expected")) as part:
        part.write(MEDIA)
        part.finish()
        part.flush()
        path = archive.root / ".cbk/incoming/1-1"
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CopyCorrupt, match=r"its trailer is|does not inflate"):
            part.read_back()


def test_read_back_refuses_a_header_that_was_not_written(archive):
    with archive.incoming("1-1", make_header()) as part:
        part.write(CONTENT)
        part.finish()
        part.flush()
        path = archive.root / ".cbk/incoming/1-1"
        own = encode_header(part.header)
        other = encode_header(dataclasses.replace(part.header, name="other.png"))
        path.write_bytes(other + path.read_bytes()[len(own) :])
        with pytest.raises(CopyCorrupt, match="not the one that was written"):
            part.read_back()


def test_publish_refuses_a_part_that_was_not_read_back(archive):
    with archive.incoming("1-1", make_header()) as part:
        part.write(CONTENT)
        part.finish()
        part.flush()
        with pytest.raises(ValueError, match="after it was read back"):
            publish(archive, part, LOCATION)


def test_flushed_part_takes_no_more_bytes(archive):
    with arriving(archive) as part, pytest.raises(ValueError, match="no more bytes"):
        part.write(b"x")


def test_part_is_not_flushed_before_it_was_finished(archive):
    with archive.incoming("1-1", make_header(b"x")) as part, pytest.raises(ValueError, match="after it was finished"):
        part.flush()


def test_publish_does_not_overwrite(archive):
    store(archive)
    before = on_disk(archive).read_bytes()
    with pytest.raises(CopyExists, match="is there already"):
        store(archive, b"other bytes")
    assert on_disk(archive).read_bytes() == before
    assert parts(archive) == []


def test_publish_by_many_at_once_is_won_by_one(archive):
    contents = [b"worker %d" % number for number in range(8)]
    barrier = threading.Barrier(len(contents))
    won, lost = [], []

    def work(number):
        with arriving(archive, contents[number], f"{number}-1") as part:
            barrier.wait()
            try:
                publish(archive, part, LOCATION)
            except CopyExists:
                lost.append(number)
            else:
                won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert gzip.decompress(on_disk(archive).read_bytes()) == contents[won[0]]
    assert parts(archive) == []


def test_publish_stands_folders_that_are_removed_under_it(archive):
    """One worker prunes v1 again and again, and with it the folders; the other publishes v2 into the same folder each time."""
    done = threading.Event()
    first, second = (copy_location("car-erp/a/b/c", number) for number in (1, 2))

    def prune():
        while not done.is_set():
            archive.remove(first)

    pruning = threading.Thread(target=prune)
    pruning.start()
    try:
        for _ in range(60):
            store(archive, location=second)
            assert on_disk(archive, second).is_file()
            on_disk(archive, second).unlink()
    finally:
        done.set()
        pruning.join()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, ConnectionResetError], ids=lambda error: error.__name__)
def test_part_is_removed_on_any_error_which_stays_as_it_is(archive, error):
    with pytest.raises(error), archive.incoming("1-1", make_header()) as part:  # noqa: PT012 - errors are raised inside
        part.write(MEDIA)
        assert parts(archive) == ["1-1"]
        raise error
    assert parts(archive) == []


def test_part_that_was_not_published_is_removed(archive):
    with arriving(archive):
        assert parts(archive) == ["1-1"]
    assert parts(archive) == []


def test_part_with_a_name_in_use_is_refused_and_the_other_left_alone(archive):
    with arriving(archive) as part:
        with pytest.raises(ArchiveError, match="cannot open part 1-1: file exists"), archive.incoming("1-1", make_header()):
            pass
        publish(archive, part, LOCATION)
    assert on_disk(archive).is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x"])
def test_part_name_is_one_plain_file_name(archive, name):
    with pytest.raises(ValueError, match="not a plain file name"), archive.incoming(name, make_header()):
        pass


def test_incoming_folder_that_somebody_removed_is_made_again(archive):
    (archive.root / ".cbk/incoming").rmdir()
    store(archive)
    assert on_disk(archive).is_file()


def test_no_descriptor_is_left_open(archive):
    store(archive)
    before = open_descriptors()
    store(archive, location="car-erp/new/folder/v1.gzip")
    with suppress(CopyExists):
        store(archive)
    with suppress(HashMismatch), archive.incoming("1-1", make_header()) as part:
        part.finish()
        part.flush()
        part.read_back()
    archive.check(LOCATION, sha256=make_header().sha256)
    next(archive.open_copy(LOCATION))
    list(archive.walk())
    archive.quarantine(LOCATION)
    archive.remove("car-erp/new/folder/v1.gzip")
    assert open_descriptors() == before


@pytest.mark.parametrize("beside_from", [0, 1 << 40], ids=["in a thread beside", "in the same thread"])
def test_stored_bytes_are_hashed_alike_in_any_thread(archive, monkeypatch, beside_from):
    monkeypatch.setattr(module, "_BACKGROUND_FROM_BYTES", beside_from)
    before = threading.active_count()
    written = store(archive, MEDIA)
    assert written.stored_sha256 == hashlib.sha256(on_disk(archive).read_bytes()).hexdigest()
    assert archive.digest(LOCATION) == (written.stored_sha256, written.stored_size)
    damaged = bytearray(on_disk(archive).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    on_disk(archive).write_bytes(damaged)
    with pytest.raises(CopyCorrupt):
        archive.check(LOCATION, sha256=written.sha256)
    assert archive.digest(LOCATION) == (hashlib.sha256(damaged).hexdigest(), written.stored_size)
    assert threading.active_count() == before


@pytest.fixture
def no_threads(monkeypatch):
    """A process that has as many threads as it may have, or is about to end."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_stored_bytes_are_hashed_where_no_thread_can_be_had(archive, monkeypatch, no_threads):
    monkeypatch.setattr(module, "_BACKGROUND_FROM_BYTES", 0)
    written = store(archive, MEDIA)
    assert written.stored_sha256 == hashlib.sha256(on_disk(archive).read_bytes()).hexdigest()


def test_stored_bytes_are_hashed_by_a_thread_that_outlives_the_main_one(archive):
    script = """
        import sys, threading

        pools_are_closed = threading.Event()
        threading._register_atexit(pools_are_closed.set)  # called after those that are registered later

        import concurrent.futures.thread
        from cbk.edges.archive.archive import Archive

        def digest():
            assert pools_are_closed.wait(30)
            print(*Archive(sys.argv[1]).digest(sys.argv[2]))

        threading.Thread(target=digest).start()
    """
    content = MEDIA * 3
    store(archive, content)
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), archive.root, LOCATION], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    assert tuple(said.stdout.split()) == tuple(map(str, archive.digest(LOCATION)))


@pytest.mark.parametrize(("content", "begins"), [(CONTENT, False), (MEDIA, True)], ids=["small", "large"])
def test_disk_begins_at_the_end_of_a_large_part_only(archive, monkeypatch, content, begins):
    begun = []
    monkeypatch.setattr(module, "_begin_writeback", begun.append)
    store(archive, content)
    assert bool(begun) is begins


def test_error_of_a_thread_beside_is_raised(archive, monkeypatch):
    def fail(_chunk):
        raise MemoryError

    def take_more_than_may_wait():
        with module._BackgroundWorker(fail, "cbk-hash") as beside:
            for _ in range(10):
                beside.feed(b"x")

    with pytest.raises(MemoryError):
        take_more_than_may_wait()


@pytest.mark.parametrize("trail_from", [1, 1 << 40], ids=["read back meanwhile", "read back afterwards"])
def test_memory_stays_flat_while_a_large_copy_comes_in(archive, monkeypatch, trail_from):
    monkeypatch.setattr(module, "_READBACK_FROM_BYTES", trail_from)
    monkeypatch.setattr(module, "_READBACK_STEP_BYTES", 5_000_000)
    content = MEDIA * 8
    sha256 = hashlib.sha256(content).hexdigest()
    tracemalloc.start()
    with archive.incoming("1-1", dataclasses.replace(make_header(), sha256=sha256)) as part:
        part.expect(len(content))
        for start in range(0, len(content), 65_536):
            part.write(memoryview(content)[start : start + 65_536])
        part.finish()
        part.flush()
        part.read_back()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


# ---- large copies, which are read back while they come in -------------------------------------------------------------------


SIZE = len(MEDIA)
STEP, GAP = 300_000, 10_000


@pytest.fixture
def readback(monkeypatch):
    """Any copy is large. `readback.calls` has what was done to the disk, in order, as (thread, call, offset that it reached)."""
    seen = SimpleNamespace(calls=[], moved=threading.Condition(), before_reading=lambda *_: None, flush=os.fdatasync)
    real_read, real_fsync, real_advise = os.read, os.fsync, os.posix_fadvise

    def note(call, offset):
        with seen.moved:
            seen.calls.append(("trail" if threading.current_thread().name == "cbk-trail" else "writer", call, offset))
            seen.moved.notify_all()

    def read(descriptor, count):
        data = real_read(descriptor, count)
        note("read", os.lseek(descriptor, 0, os.SEEK_CUR))
        return data

    def fdatasync(descriptor):
        size = os.fstat(descriptor).st_size
        seen.flush(descriptor)
        note("flush", size)

    def fsync(descriptor):
        real_fsync(descriptor)
        note("flush", os.fstat(descriptor).st_size)

    def advise(descriptor, offset, *arguments):
        ours = [call for call in list(seen.calls) if call[0] == "trail"]
        if threading.current_thread().name == "cbk-trail" and ours and ours[-1][1] == "flush":
            seen.before_reading(offset, ours[-1][2])
        return real_advise(descriptor, offset, *arguments)

    for name, value in {"FROM_BYTES": 1, "STEP_BYTES": STEP, "GAP_BYTES": GAP, "TICK_SECONDS": 0.001}.items():
        monkeypatch.setattr(module, f"_READBACK_{name}", value)
    for name, value in {"read": read, "fdatasync": fdatasync, "fsync": fsync, "posix_fadvise": advise}.items():
        monkeypatch.setattr(os, name, value)
    seen.wait_for = lambda happened: wait_for(seen, happened)
    return seen


def wait_for(seen, happened):
    with seen.moved:
        assert seen.moved.wait_for(lambda: any(map(happened, seen.calls)), 30)


def read_by_trail(call):
    return call[:2] == ("trail", "read")


def come_in(part, content=MEDIA):
    for start in range(0, len(content), 65_536):
        part.write(memoryview(content)[start : start + 65_536])


def write_on_after_the_reader(part):
    """Go on with a copy of which more is to come, once its reader has ended."""
    come_in(part, MEDIA[: STEP * 3])
    part._readback._thread.join(30)
    part.write(b"x")


def trailed(archive, content=MEDIA, expected=SIZE, sha256_of=MEDIA, *, before_the_end=lambda _: None, tick=None):
    """Bring a copy in, all the way."""
    with archive.incoming("1-1", make_header(sha256_of)) as part:
        part.expect(expected)
        come_in(part, content)
        before_the_end(part)
        part.finish()
        part.flush()
        part.read_back(tick=tick)
        publish(archive, part, LOCATION)
        return part.written


def test_large_copy_is_read_back_afterwards_where_no_thread_can_be_had(archive, readback, no_threads):
    before = open_descriptors()
    trailed(archive)
    assert not any(map(read_by_trail, readback.calls))
    assert open_descriptors() == before


def assert_nothing_is_left(archive, descriptors, threads):
    assert (parts(archive), list(archive.walk())) == ([], [])
    assert open_descriptors() == descriptors
    assert threading.active_count() == threads


@pytest.mark.parametrize("content", [MEDIA, CONTENT * 3000], ids=["media", "text"])
def test_large_copy_is_the_same_as_one_that_was_read_back_afterwards(archive, readback, content):
    found = trailed(archive, content, len(content), content)
    bytes_found = on_disk(archive).read_bytes()
    on_disk(archive).unlink()
    assert any(map(read_by_trail, readback.calls))
    readback.calls.clear()
    written = store(archive, content)
    assert not any(map(read_by_trail, readback.calls))
    assert dataclasses.replace(found, stored_at=written.stored_at) == written
    assert bytes_found == on_disk(archive).read_bytes()


def test_large_copy_says_when_its_file_was_written(archive, readback):
    assert trailed(archive).stored_at == archive.examine(LOCATION).stored_at


def test_large_copy_is_read_back_before_all_of_it_came(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        come_in(part, MEDIA[:1_500_000])
        readback.wait_for(lambda call: read_by_trail(call) and call[2] > 1_000_000)


def test_large_copy_is_read_only_as_far_as_its_reader_has_flushed_it(archive, readback):
    trailed(archive)
    end = on_disk(archive).stat().st_size
    flushed = 0
    for thread, call, offset in readback.calls:
        if thread == "trail" and call == "flush":
            flushed = offset
        elif thread == "trail":
            assert offset <= (end if flushed == end else flushed - GAP)
    assert flushed == end


def test_end_of_a_large_copy_is_read_only_after_its_writer_has_flushed_it(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        come_in(part)
        part.finish()
        end = (archive.root / ".cbk/incoming/1-1").stat().st_size
        readback.wait_for(lambda call: read_by_trail(call) and call[2] >= end - STEP - GAP)
        part._readback._thread.join(0.2)  # which it would do in this time
        part.flush()
        part.read_back()
    assert readback.calls.index(("writer", "flush", end)) < readback.calls.index(("trail", "read", end))


def test_large_copy_is_dropped_from_the_page_cache_before_it_is_read(archive, readback):
    dropped = []
    readback.before_reading = lambda offset, _flushed: dropped.append(offset)
    trailed(archive)
    reached = 0
    flushes = [index for index, call in enumerate(readback.calls) if call[:2] == ("trail", "flush")]
    for index, offset in zip(flushes, dropped, strict=True):
        reached = max((call[2] for call in readback.calls[:index] if read_by_trail(call)), default=0)
        assert offset == max(0, reached - GAP)  # a page that reaches over the limit is dropped whole
    assert reached > 0


def test_damage_of_a_large_copy_is_told_while_it_still_comes_in(archive, readback):
    def damage(_offset, _flushed):
        with (archive.root / ".cbk/incoming/1-1").open("r+b") as file:
            file.write(b"x")

    readback.before_reading = damage
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(1 << 40)
        with pytest.raises(CopyCorrupt, match="part 1-1: is not a gzip file"):
            write_on_after_the_reader(part)


@pytest.mark.parametrize("at", [0, 1_000_000, 2_990_000], ids=["begin", "middle", "end"])
def test_damage_between_the_flush_and_the_reading_of_a_large_copy_is_found(archive, readback, at):
    before = open_descriptors(), threading.active_count()
    damaged = []

    def damage(offset, flushed):
        path = archive.root / ".cbk/incoming/1-1"
        if offset <= at < flushed and not damaged:
            damaged.append(at)
            with path.open("r+b") as file:
                byte = os.pread(file.fileno(), 1, at)
                os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)

    readback.before_reading = damage
    with pytest.raises(CopyCorrupt, match="part 1-1"):
        trailed(archive)
    assert damaged == [at]
    assert_nothing_is_left(archive, *before)


def test_large_object_that_is_not_the_rows_is_refused(archive, readback):
    before = open_descriptors(), threading.active_count()
    with pytest.raises(HashMismatch) as caught:
        trailed(archive, sha256_of=b"another")
    assert caught.value.actual == hashlib.sha256(MEDIA).hexdigest()
    assert_nothing_is_left(archive, *before)


@pytest.mark.parametrize("expected", [1_000_000, SIZE - 1, SIZE + 1, 10**18 - 1])
def test_large_object_of_another_size_than_was_announced_is_a_right_copy(archive, readback, expected):
    before = threading.active_count()

    def wait_until_the_header_was_read(_part):
        readback.wait_for(read_by_trail)

    assert trailed(archive, expected=expected, before_the_end=wait_until_the_header_was_read).size == SIZE
    assert archive.inspect(LOCATION) == make_header(MEDIA, size=SIZE)
    archive.check(LOCATION, sha256=make_header(MEDIA).sha256)
    assert threading.active_count() == before


def test_announced_size_that_no_header_can_name_is_not_believed(archive):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(10**20)
        come_in(part, MEDIA)
        part.finish()
        part.flush()
        assert part.read_back().size == SIZE


def test_large_object_that_goes_on_after_its_announced_size_is_a_right_copy(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(500_000)
        come_in(part, MEDIA[:2_000_000])
        part._readback._thread.join(30)  # it has found more than the header says
        come_in(part, MEDIA[2_000_000:])
        part.finish()
        part.flush()
        assert part.read_back().size == SIZE


@pytest.mark.parametrize("expected", [SIZE, SIZE - 1])
def test_large_copy_fails_where_its_reader_cannot_flush_it_though_its_writer_can(archive, readback, expected):
    before = open_descriptors(), threading.active_count()
    came = threading.Event()

    def fail(_descriptor):
        came.wait(30)
        raise OSError(errno.EIO, "x")

    def wait_until_it_failed(part):
        came.set()
        part._readback._thread.join(30)

    readback.flush = fail
    with pytest.raises(DiskFailed, match=r"cannot write part 1-1: .*EIO"):
        trailed(archive, expected=expected, before_the_end=wait_until_it_failed)
    assert_nothing_is_left(archive, *before)


def test_large_copy_fails_where_its_reader_cannot_flush_its_end(archive, readback):
    before = open_descriptors(), threading.active_count()

    def fail_at_the_end(descriptor):
        if ("writer", "flush", os.fstat(descriptor).st_size) in readback.calls:
            raise OSError(errno.EIO, "x")

    readback.flush = fail_at_the_end
    with pytest.raises(DiskFailed, match=r"cannot write part 1-1: .*EIO"):
        trailed(archive)
    assert_nothing_is_left(archive, *before)


def test_large_copy_fails_where_it_cannot_be_read(archive, readback, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(DiskFailed, match=r"cannot read part 1-1: .*EIO"):
        trailed(archive)


def test_disk_that_fails_the_reader_ends_the_writing_of_a_large_copy(archive, readback):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "x")

    readback.flush = full
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(1 << 40)
        with pytest.raises(DiskFull, match="cannot write part 1-1"):
            write_on_after_the_reader(part)


def test_whatever_ends_the_reader_of_a_large_copy_ends_the_copy(archive, readback):
    def fail(*_):
        raise MemoryError

    readback.before_reading = fail
    with pytest.raises(MemoryError):
        trailed(archive)
    assert list(archive.walk()) == []


def expects(_part):
    pass


def comes_half(part):
    come_in(part, MEDIA[: SIZE // 2])


def finishes(part):
    come_in(part)
    part.finish()


def flushes_it(part):
    finishes(part)
    part.flush()


@pytest.mark.parametrize("gets_to", [expects, comes_half, finishes, flushes_it])
def test_large_part_that_is_discarded_leaves_nothing(archive, readback, gets_to):
    before = open_descriptors(), threading.active_count()
    with suppress(Lost), archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        gets_to(part)
        raise Lost
    assert_nothing_is_left(archive, *before)


def test_large_part_that_was_published_leaves_no_thread_and_no_descriptor(archive, readback):
    trailed(archive)
    before = open_descriptors(), threading.active_count()
    on_disk(archive).unlink()
    trailed(archive)
    assert (open_descriptors(), threading.active_count()) == before


def test_waiting_for_a_large_copy_ticks_and_ends_where_the_tick_raises(archive, readback):
    before = open_descriptors(), threading.active_count()
    goes_on, ticks = threading.Event(), []

    def tick():
        ticks.append(None)
        if len(ticks) == 3:
            goes_on.set()
            raise Lost

    readback.flush = lambda _: goes_on.wait(30)
    with pytest.raises(Lost):
        trailed(archive, tick=tick)
    assert len(ticks) == 3
    assert_nothing_is_left(archive, *before)


def test_large_copy_whose_file_was_replaced_is_read_under_its_name(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        flushes_it(part)
        part._readback._thread.join(30)
        replace_with_a_damaged_one(archive)
        with pytest.raises(CopyCorrupt, match="part 1-1"):
            part.read_back()


def test_small_copy_is_read_back_afterwards(archive):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        before = threading.active_count()
        part.expect(SIZE)
        assert threading.active_count() == before


def test_header_of_an_announced_size_is_written_once(archive, monkeypatch):
    written_again = []
    monkeypatch.setattr(os, "lseek", lambda *arguments: written_again.append(arguments))
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        flushes_it(part)
        part.read_back()
    assert written_again == []


def test_size_that_is_announced_after_the_first_byte_changes_nothing(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.write(MEDIA[:1])
        part.expect(SIZE)
        come_in(part, MEDIA[1:])
        part.finish()
        part.flush()
        assert part.read_back().size == SIZE
    assert not any(map(read_by_trail, readback.calls))


def test_last_size_that_is_announced_before_the_first_byte_counts(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(5)
        part.expect(SIZE)
        assert part.header.size == SIZE
        flushes_it(part)
        assert part.read_back().size == SIZE


def test_part_is_not_read_back_before_it_was_flushed(archive, readback):
    with archive.incoming("1-1", make_header(MEDIA)) as part:
        part.expect(SIZE)
        finishes(part)
        with pytest.raises(ValueError, match="after it was flushed"):
            part.read_back()


# ---- what is on the disk when the power goes ---------------------------------------------------------------------------------


@pytest.fixture
def flushes(archive, monkeypatch):
    """What was flushed, in order: (path, whether LOCATION was there by then)."""
    calls = []
    real_fsync = os.fsync

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(archive.root)
        calls.append((str(path), on_disk(archive).exists()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


FOLDERS = ["car-erp/cars/id-1/thumbnail", "car-erp/cars/id-1", "car-erp/cars", "car-erp", "."]


def test_copy_is_flushed_before_it_has_its_name_and_every_new_folder_after(archive, flushes):
    with arriving(archive, part_name="1-1") as part:
        publish(archive, part, LOCATION)
    assert flushes == [(".cbk/incoming/1-1", False), *((folder, True) for folder in FOLDERS)]


def test_only_new_folders_are_flushed(archive, flushes):
    store(archive, location="car-erp/cars/id-1/thumbnail/v2.gzip")
    flushes.clear()
    with arriving(archive, part_name="1-1") as part:
        publish(archive, part, LOCATION)
    assert flushes == [(".cbk/incoming/1-1", False), (FOLDERS[0], True)]


def test_adopt_flushes_a_copy_and_the_folders_above_it(archive, flushes):
    written = store(archive)
    flushes.clear()
    assert archive.adopt(LOCATION, sha256=written.sha256) == written
    assert flushes == [(LOCATION, True), *((folder, True) for folder in FOLDERS)]


def test_adopt_refuses_a_copy_of_other_bytes(archive):
    store(archive)
    with pytest.raises(CopyCorrupt, match="good copy of other bytes"):
        archive.adopt(LOCATION, sha256="0" * 64)


def test_large_part_is_flushed_now_and_then(archive, monkeypatch):
    monkeypatch.setattr(module, "_SYNC_EVERY_BYTES", 1_000_000)
    flushed = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    store(archive, MEDIA)
    assert len(flushed) == 2
    assert all(1_000_000 <= later - earlier < 1_600_000 for earlier, later in zip([0, *flushed], flushed, strict=False))


def test_kill_between_seal_and_publish_leaves_a_part_that_sweep_removes(archive):
    script = f"""
        import os, hashlib
        from cbk.edges.archive.archive import Archive
        from cbk.model import CopyHeader
        content = b"hello"
        header = CopyHeader(storage="s3", path="", name="x", version=1, sha256=hashlib.sha256(content).hexdigest(), size=0)
        with Archive({str(archive.root)!r}).incoming("17-3", header) as part:
            part.write(content)
            part.finish()
            part.flush()
            part.read_back()
            os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 9
    assert parts(archive) == ["17-3"]
    assert list(archive.walk()) == []
    assert archive.sweep(lambda name: name == "17-3") == 0
    assert archive.sweep(lambda name: name != "17-3") == 1
    assert parts(archive) == []


# ---- hostile disks and paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["car-erp", "car-erp/cars", "car-erp/cars/id-1/thumbnail"])
def test_publish_follows_no_link_out_of_the_root(archive, tmp_path, planted):
    outside = tmp_path / "outside"
    outside.mkdir()
    (archive.root / planted).parent.mkdir(parents=True, exist_ok=True)
    (archive.root / planted).symlink_to(outside)
    with pytest.raises(ArchiveError, match="ENOTDIR") as caught:
        store(archive)
    assert "symbolic link" in caught.value.hint
    assert list(outside.iterdir()) == []
    assert parts(archive) == []


def test_publish_replaces_no_link_in_the_place_of_a_copy(archive, tmp_path):
    on_disk(archive).parent.mkdir(parents=True)
    on_disk(archive).symlink_to(tmp_path / "outside")
    with pytest.raises(CopyExists):
        store(archive)
    assert not (tmp_path / "outside").exists()


def test_check_follows_no_link_in_the_place_of_a_copy(archive):
    written = store(archive)
    on_disk(archive).with_name("v2.gzip").symlink_to("v1.gzip")
    with pytest.raises(ArchiveError, match="ELOOP"):
        archive.check("car-erp/cars/id-1/thumbnail/v2.gzip", sha256=written.sha256)


def test_root_itself_may_be_a_link(archive, tmp_path):
    (tmp_path / "link").symlink_to(archive.root)
    store(Archive(tmp_path / "link"))
    assert on_disk(archive).is_file()


@pytest.mark.parametrize(
    "location",
    [
        *("../outside/v1.gzip", "car-erp/../../v1.gzip", "/etc/v1.gzip", "car-erp//v1.gzip", "car-erp/./v1.gzip"),
        *(".cbk/identity/v1.gzip", ".cbk/identity", "lost+found/v1.gzip", "car-erp/x", "v1.gzip", ""),
    ],
)
def test_location_that_the_layout_does_not_give_is_refused(archive, location):
    with pytest.raises(ArchiveError, match="not the location of a copy"):
        archive.remove(location)
    with pytest.raises(ArchiveError, match="not the location of a copy"), arriving(archive) as part:
        publish(archive, part, location)
    with pytest.raises(ArchiveError, match="not the location of a copy"):
        archive.check(location, sha256="x")
    assert archive.identity()


@pytest.mark.parametrize(
    "key", ["../../../etc/passwd", "a\0b\n.png", "é" * 400 + ".jpg", "x/" * 200 + "y", "\udcff.bin", "a//b/", "v1.gzip/v2.gzip"]
)
def test_hostile_key_gets_a_copy_below_its_bucket(archive, key):
    location = copy_location(places("car-erp", key)[0], 1)
    store(archive, location=location, path="", name=key)
    assert list(archive.walk()) == [location]
    assert archive.inspect(location).key == key
    assert os.path.realpath(on_disk(archive, location)) == str(on_disk(archive, location))


def test_full_disk_is_named_and_leaves_no_part(archive):
    with archive.incoming("1-1", make_header()) as part:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, part._descriptor)
        os.close(full)
        with pytest.raises(DiskFull, match=r"cannot write part 1-1: no space left on device \(ENOSPC\)"):
            part.write(MEDIA)
    assert parts(archive) == []


def test_file_larger_than_the_file_system_allows_is_named_and_leaves_no_part(archive):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ArchiveError, match=r"cannot write part 1-1: file too large \(EFBIG\)"), arriving(archive, MEDIA):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert parts(archive) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, DiskFailed),
        (errno.ESTALE, DiskFailed),
        (errno.EROFS, DiskFailed),
        (errno.ENODEV, DiskFailed),
        (errno.EACCES, ArchiveError),
        (errno.EPERM, ArchiveError),
        (errno.ELOOP, ArchiveError),
        (None, DiskFailed),
    ],
)
def test_disk_errors_become_what_they_mean(number, kind):
    with pytest.raises(kind) as caught, module._disk_errors("write car-erp/x/v1.gzip"):
        raise OSError(number, "x") if number else OSError("x")
    assert type(caught.value) is kind
    assert caught.value.message.startswith("cannot write car-erp/x/v1.gzip: ")
    assert errno.errorcode.get(number, "no error number") in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "mount it for writing"), (errno.ESTALE, "mount it again"), (errno.ENOTCONN, "mount it again")],
)
def test_disk_that_takes_nothing_or_went_away_is_retryable_and_says_what_to_do(number, advice):
    with pytest.raises(DiskFailed) as caught, module._disk_errors("write car-erp/x/v1.gzip"):
        raise OSError(number, "x")
    assert caught.value.retryable
    assert advice in caught.value.hint


def test_folder_that_cannot_be_flushed_is_no_error_where_the_file_system_has_no_such_call(archive, monkeypatch):
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "x")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store(archive)
    assert on_disk(archive).is_file()


def test_folder_that_fails_to_flush_is_an_error(archive, monkeypatch):
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "x")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFailed, match=r"cannot flush .*EIO"):
        store(archive)


# ---- renaming without overwriting --------------------------------------------------------------------------------------------

MOVES = [module._move, module._rename_noreplace, module._link_and_unlink, module._checked_rename]


@pytest.fixture
def folder(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "source").write_text("new")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("move", MOVES)
def test_move_renames(tmp_path, folder, move):
    move(folder, "source", folder, "target")
    assert files_below(tmp_path) == ["target"]


@pytest.mark.parametrize("move", MOVES)
def test_move_takes_a_path_for_its_source(tmp_path, folder, move):
    move(None, str(tmp_path / "source"), folder, "target")
    assert files_below(tmp_path) == ["target"]


@pytest.mark.parametrize("move", MOVES)
def test_move_does_not_overwrite(tmp_path, folder, move):
    (tmp_path / "target").write_text("old")
    with pytest.raises(FileExistsError):
        move(folder, "source", folder, "target")
    assert ((tmp_path / "source").read_text(), (tmp_path / "target").read_text()) == ("new", "old")


@pytest.mark.parametrize("move", MOVES)
def test_move_of_a_file_that_is_gone_says_so(folder, move):
    with pytest.raises(FileNotFoundError):
        move(folder, "gone", folder, "target")


def refuse(*_args, **_kwargs):
    raise OSError(errno.EPERM, "x")


def test_move_goes_on_to_hard_links_where_the_system_has_no_renameat2(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(module, "_renameat2", None)
    monkeypatch.setattr(os, "rename", refuse)
    module._move(folder, "source", folder, "target")
    assert files_below(tmp_path) == ["target"]


def test_move_goes_on_to_a_checked_rename_where_the_disk_has_no_hard_links(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(module, "_renameat2", None)
    monkeypatch.setattr(os, "link", refuse)
    module._move(folder, "source", folder, "target")
    assert files_below(tmp_path) == ["target"]


# ---- there -------------------------------------------------------------------------------------------------------------------


def test_check_gives_what_was_written(archive):
    written = store(archive, MEDIA)
    assert archive.check(LOCATION, sha256=written.sha256, size=len(MEDIA)) == written


class Lost(Exception):
    pass


def lose():
    raise Lost


def test_reading_ticks_as_it_goes_and_ends_where_the_tick_raises(archive):
    ticks = []
    with arriving(archive, MEDIA) as part:
        written = part.read_back(tick=lambda: ticks.append("read back"))
        publish(archive, part, LOCATION)
    archive.check(LOCATION, sha256=written.sha256, tick=lambda: ticks.append("check"))
    archive.adopt(LOCATION, sha256=written.sha256, tick=lambda: ticks.append("adopt"))
    assert {name: ticks.count(name) >= len(MEDIA) // 262_144 for name in ticks} == {"read back": True, "check": True, "adopt": True}
    with pytest.raises(Lost):
        archive.check(LOCATION, sha256=written.sha256, tick=lose)


def flip(data, position):
    data[position] ^= 0x01


DAMAGES = {
    "cut in the header": lambda data: data.__delitem__(slice(100, None)),
    "cut in the body": lambda data: data.__delitem__(slice(len(data) // 2, None)),
    "cut in the trailer": lambda data: data.__delitem__(slice(len(data) - 3, None)),
    "emptied": lambda data: data.clear(),
    "a bit of the header": lambda data: flip(data, 40),
    "a bit of the body": lambda data: flip(data, len(data) // 2),
    "a bit of the trailer": lambda data: flip(data, -2),
    "trailing garbage": lambda data: data.extend(b"\0" * 512),
    "another header": lambda data: data.__setitem__(
        slice(0, len(encode_header(make_header()))), encode_header(make_header(b"other"))
    ),
    "zeros": lambda data: data.__setitem__(slice(None), bytes(len(data))),
    "another format": lambda data: data.__setitem__(slice(None), gzip.compress(CONTENT)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_check_names_a_damaged_copy(archive, damage):
    written = store(archive)
    data = bytearray(on_disk(archive).read_bytes())
    damage(data)
    on_disk(archive).write_bytes(data)
    with pytest.raises(CopyCorrupt, match=f"^{LOCATION}: "):
        archive.check(LOCATION, sha256=written.sha256)


def test_check_names_a_copy_of_other_bytes(archive):
    written = store(archive)
    with pytest.raises(CopyCorrupt, match=f"good copy of other bytes: SHA-256 {written.sha256} .* expected {'0' * 64}"):
        archive.check(LOCATION, sha256="0" * 64)
    with pytest.raises(CopyCorrupt, match=r"\(1000 bytes\), expected .* \(7 bytes\)"):
        archive.check(LOCATION, sha256=written.sha256, size=7)


@pytest.mark.parametrize("location", [LOCATION, "car-erp/cars/id-1/thumbnail/v2.gzip", "nowhere/x/v1.gzip"])
def test_missing_copy_is_named(archive, location):
    store(archive, location="car-erp/cars/id-1/thumbnail/v3.gzip")
    for action in (
        archive.inspect,
        archive.quarantine,
        lambda path: archive.check(path, sha256="x"),
        lambda path: list(archive.open_copy(path)),
    ):
        with pytest.raises(CopyMissing, match=f"{location} is not on the disk"):
            action(location)


def test_inspect_of_something_else_is_corrupt(archive):
    on_disk(archive).parent.mkdir(parents=True)
    on_disk(archive).write_bytes(gzip.compress(b"hello"))
    with pytest.raises(CopyCorrupt, match=f"^{LOCATION}: its header"):
        archive.inspect(LOCATION)


def test_open_copy_gives_the_bytes(archive):
    store(archive, MEDIA)
    assert b"".join(archive.open_copy(LOCATION)) == MEDIA


def test_open_copy_ends_with_an_error_where_the_copy_is_damaged(archive):
    store(archive, MEDIA)
    data = bytearray(on_disk(archive).read_bytes())
    data[-100_000] ^= 1
    on_disk(archive).write_bytes(data)
    with pytest.raises(CopyCorrupt):
        list(archive.open_copy(LOCATION))


def test_open_copy_gives_nothing_where_the_copy_is_of_other_bytes_than_are_asked_for(archive):
    written = store(archive, MEDIA)
    assert b"".join(archive.open_copy(LOCATION, sha256=written.sha256)) == MEDIA
    with pytest.raises(CopySwapped, match=f"^{LOCATION}: its header names other bytes, of SHA-256 {written.sha256}$"):
        next(archive.open_copy(LOCATION, sha256="0" * 64))


def test_walk_finds_every_copy_and_nothing_else(archive, tmp_path):
    locations = [
        copy_location(f"{bucket}/{place}", number) for bucket in ("b", "c") for place in ("x", "x/y", "x/y/z") for number in (1, 22)
    ]
    for location in locations:
        store(archive, location=location)
    (archive.root / "b/x/notes.txt").touch()
    (archive.root / "b/x/v1.gzip.bak").touch()
    (archive.root / "v1.gzip").touch()
    (archive.root / "b/x/v9.gzip").mkdir()
    (archive.root / "b/x/v8.gzip").symlink_to("v1.gzip")
    (archive.root / "b/link").symlink_to(archive.root / "c")
    (archive.root / "lost+found").mkdir()
    (archive.root / "lost+found/v1.gzip").touch()
    archive.quarantine(locations[-1])
    with arriving(archive):
        assert sorted(archive.walk()) == sorted(locations[:-1])


def test_walk_stands_folders_that_go_while_it_walks(archive):
    for number in range(5):
        store(archive, location=f"b/x{number}/v1.gzip")
    for location in archive.walk():
        for other in range(5):
            if f"b/x{other}/v1.gzip" != location:
                archive.remove(f"b/x{other}/v1.gzip")


@pytest.fixture
def unreadable(archive, monkeypatch):
    """A folder of two copies that the disk cannot list any more."""
    store(archive, location="b/bad/v1.gzip")
    store(archive, location="b/good/v1.gzip")
    scandir = os.scandir

    def fail(path="."):
        if str(path).endswith("b/bad"):
            raise OSError(errno.EIO, "input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)


def test_walk_ends_at_a_folder_that_cannot_be_listed(archive, unreadable):
    with pytest.raises(DiskFailed, match="cannot list b/bad"):
        list(archive.walk())


def test_walk_goes_on_past_a_folder_that_cannot_be_listed_where_somebody_is_told(archive, unreadable):
    problems = []
    assert list(archive.walk(lambda folder, error: problems.append((folder, type(error))))) == ["b/good/v1.gzip"]
    assert problems == [("b/bad", DiskFailed)]


def test_walk_stands_foreign_folders_of_any_depth(archive):
    store(archive)
    descriptor = os.open(archive.root, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert list(archive.walk()) == [LOCATION]


def test_examine_says_what_the_disk_says_of_the_file(archive):
    written = store(archive)
    os.utime(on_disk(archive), ns=(0, 1_772_366_400_123_999_999))
    examined = archive.examine(LOCATION)
    assert examined.header == make_header(size=len(CONTENT))
    assert examined.stored_size == written.stored_size
    assert examined.stored_at == datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


@pytest.mark.parametrize("cut", [1, 8, 9, 100])
def test_examine_notices_a_copy_that_is_cut_short(archive, cut):
    store(archive, MEDIA)
    content = on_disk(archive).read_bytes()
    on_disk(archive).write_bytes(content[:-cut])
    assert archive.inspect(LOCATION).size == len(MEDIA)
    with pytest.raises(CopyCorrupt, match="it is cut short"):
        archive.examine(LOCATION)


def test_examine_reads_a_header_of_any_length(archive):
    header = make_header(path="\0" * 2047 + "/", name="x")
    with archive.incoming("1-1", header) as part:
        part.write(CONTENT)
        part.finish()
        part.flush()
        part.read_back()
        publish(archive, part, LOCATION)
    assert archive.examine(LOCATION).header.path == header.path


def test_written_says_when_the_file_was_written(archive):
    written = store(archive)
    assert written.stored_at == archive.examine(LOCATION).stored_at
    assert archive.check(LOCATION, sha256=make_header().sha256).stored_at == written.stored_at


# ---- out ---------------------------------------------------------------------------------------------------------------------


def test_remove_takes_the_copy_and_the_folders_that_it_leaves_empty(archive):
    store(archive)
    store(archive, location="car-erp/cars/id-2/v1.gzip")
    archive.remove(LOCATION)
    assert list(archive.walk()) == ["car-erp/cars/id-2/v1.gzip"]
    assert not (archive.root / "car-erp/cars/id-1").exists()


def test_remove_keeps_the_folder_of_the_bucket(archive):
    store(archive)
    archive.remove(LOCATION)
    assert list((archive.root / "car-erp").iterdir()) == []


def test_remove_keeps_folders_with_anything_else_in_them(archive):
    store(archive)
    store(archive, location="car-erp/cars/id-1/thumbnail/v2.gzip")
    archive.remove(LOCATION)
    assert list(archive.walk()) == ["car-erp/cars/id-1/thumbnail/v2.gzip"]


def test_remove_of_a_copy_that_is_gone_finishes_what_a_killed_worker_began(archive):
    store(archive)
    on_disk(archive).unlink()
    archive.remove(LOCATION)
    archive.remove(LOCATION)
    assert list((archive.root / "car-erp").iterdir()) == []


def test_remove_is_flushed(archive, flushes):
    store(archive)
    flushes.clear()
    archive.remove(LOCATION)
    assert flushes == [(folder, False) for folder in FOLDERS[:-1]]


def test_quarantine_keeps_the_evidence_under_a_name_of_its_own(archive):
    found = []
    for content in (b"one", b"two"):
        store(archive, content)
        found.append(archive.quarantine(LOCATION))
    assert len(set(found)) == 2
    assert all(path.startswith(".cbk/quarantine/") for path in found)
    assert [gzip.decompress((archive.root / path).read_bytes()) for path in found] == [b"one", b"two"]
    assert list(archive.walk()) == []


def test_copy_can_come_in_again_after_quarantine(archive):
    store(archive)
    archive.quarantine(LOCATION)
    store(archive)
    assert on_disk(archive).is_file()


def test_sweep_leaves_parts_that_are_kept_alone(archive):
    with arriving(archive, part_name="1-1") as part:
        assert archive.sweep(lambda name: name == "1-1") == 0
        publish(archive, part, LOCATION)
    assert on_disk(archive).is_file()


def test_sweep_works_where_the_folder_is_gone(archive):
    (archive.root / ".cbk/incoming").rmdir()
    assert archive.sweep(lambda _: False) == 0


# ---- several together --------------------------------------------------------------------------------------------------------


@pytest.fixture
def flushed(monkeypatch):
    """How often a file or a folder was flushed, and how often the file system; `flushed.works` is whether the latter does."""
    seen = SimpleNamespace(each=0, all=0, works=True)
    real_fsync = os.fsync

    def fsync(descriptor):
        seen.each += 1
        real_fsync(descriptor)

    def syncfs(_descriptor):
        seen.all += 1
        return seen.works

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(module, "_sync_filesystem", syncfs)
    return seen


def store_together(archive, count):
    with ExitStack() as keep:
        parts = [keep.enter_context(archive.incoming(f"{number}-1", make_header(b"x"))) for number in range(count)]
        for part in parts:
            part.write(b"x")
            part.finish()
        archive.flush(parts)
        with archive.publishing() as publication:
            for number, part in enumerate(parts):
                part.flush()
                part.read_back()
                publication.put(part, f"car-erp/{number}/v1.gzip")
    return sorted(archive.walk())


def test_root_that_cannot_be_opened_to_publish_is_an_error_of_the_disk(archive, monkeypatch):
    real = os.open

    def fail_at_the_root(path, *arguments, **options):
        if str(path) == str(archive.root):
            raise OSError(errno.EIO, "x")
        return real(path, *arguments, **options)

    with arriving(archive) as part:
        part.read_back()
        monkeypatch.setattr(os, "open", fail_at_the_root)
        with pytest.raises(DiskFailed, match=r"cannot publish .*EIO"):
            publish(archive, part, LOCATION)


def test_many_parts_and_their_folders_are_flushed_by_one_call_each(archive, flushed):
    assert len(store_together(archive, 10)) == 10
    assert (flushed.all, flushed.each) == (2, 0)


def test_single_part_is_flushed_by_itself(archive, flushed):
    store_together(archive, 1)
    assert (flushed.all, flushed.each) == (0, 4)  # the part, its folder, the bucket's and the root, which are new or have a new one


def test_parts_are_flushed_one_by_one_where_the_file_system_cannot_be(archive, flushed):
    flushed.works = False
    assert len(store_together(archive, 10)) == 10
    assert flushed.each == 10 + 10 + 2  # parts, their folders, the bucket's and the root


def test_file_system_that_promises_nothing_is_not_asked_to_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SYNCED_WHOLE", frozenset())
    with (tmp_path / "file").open("wb") as file:
        assert not module._sync_filesystem(file.fileno())


def test_file_system_whose_writing_failed_counts_as_not_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_syncfs", lambda _: -1)
    with (tmp_path / "file").open("wb") as file:
        assert not module._sync_filesystem(file.fileno())


@pytest.mark.parametrize(
    ("release", "tells"), [("5.16.20", False), ("5.17.0-rc1", True), ("6.18.44", True), ("4.19.0", False), ("x", False)]
)
def test_syncfs_is_trusted_from_the_release_on_that_tells_of_errors(monkeypatch, release, tells):
    monkeypatch.setattr(os, "uname", lambda: ("Linux", "pi", release, "#1", "aarch64"))
    assert module._syncfs_tells() == tells
