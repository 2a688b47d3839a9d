"""Copies are read again: each kind of damage has its name, and is whole again by itself; what is well stays as it is."""

import errno
import json
import os
import random
import shutil
import threading
from contextlib import contextmanager
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges import host
from cbk.edges.archive import archive as archive_module
from cbk.edges.catalog.database.schema import leases, versions
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification import verify as module
from cbk.jobs.verification.reader import Reads, Stopped
from cbk.jobs.verification.verify import Task, choose, verify
from cbk.model import VersionState
from tests.in_process_site import claim_row
from tests.origin import s3_error

HOUR = timedelta(hours=1)
EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
CONTENT = b"the bytes of an object, which compress\n" * 400
MEDIA = random.Random(7).randbytes(300_000)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def run(site):
    """A function that verifies and gives {key: finding}; `run.found` are the findings as told, `run.last` how it ended."""

    def run(context=None, *, share=Fraction(1), older_than=None, task=None, **options):
        context = context or site.context
        run.found = []
        run.last = verify(
            context, task or choose(context, share=share, older_than=older_than), by="a test", on_found=run.found.append, **options
        )
        return {found.version.key: found.finding.value for found in run.found}

    return run


def place(site, name, version=1):
    return site.root / f"car-erp/{name}/v{version}.gzip"


def store(site, *names, content=CONTENT):
    for name in names:
        site.upload(f"{name}.bin", content + name.encode())
    site.work()


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def rot(path):
    """Flip a bit of the CRC-32 at the end: even of a copy of nothing, that is no harmless one."""
    flip(path, -5)


def swap(one, other):
    spare = one.with_suffix(".spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def evidence(site):
    return [json.loads(path.read_text()) for path in (site.root / ".cbk/quarantine").glob("*.json")]


@contextmanager
def unreadable(*paths, monkeypatch):
    """The disk answers with an I/O error for these files, as a broken sector makes it."""
    real = os.read
    broken = {str(path) for path in paths}

    def read(descriptor, size):
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()) in broken:
            raise OSError(errno.EIO, "x")
        return real(descriptor, size)

    with monkeypatch.context() as patched:
        patched.setattr(archive_module.os, "read", read)
        yield


def damage_all_kinds(site):
    store(site, "well", "flipped", "cut", "lost", "here", "there")
    flip(place(site, "flipped"), -100)
    os.truncate(place(site, "cut"), 200)
    place(site, "lost").unlink()
    swap(place(site, "here"), place(site, "there"))


KINDS = {"flipped.bin": "corrupt", "cut.bin": "truncated", "lost.bin": "missing", "here.bin": "swapped", "there.bin": "swapped"}


# ---- what is found -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_each_kind_of_damage_has_its_name_and_is_whole_again_by_itself(site, run, quick):
    damage_all_kinds(site)
    assert run(quick=quick) == KINDS
    assert (run.last.copies, run.last.found, run.last.stopped) == (6, 5, False)
    assert {key for (key, _), state in site.states().items() if state == "pending"} == set(KINDS)
    site.work()
    assert set(site.states().values()) == {"stored"}
    assert run(quick=quick) == {}
    assert len(site.copies()) == 6


def test_each_bad_copy_says_why_it_counts_no_more_until_it_is_fetched_again(site, run):
    damage_all_kinds(site)
    now = site.context.catalog.database.now()
    run()
    reasons = {key: version.reason for (key, _), version in site.versions().items() if version.reason}
    when = {f"{now + timedelta(minutes=late):%Y-%m-%d %H:%M}" for late in (0, 1)}
    assert {key: reason.split(", ")[0] for key, reason in reasons.items()} == {
        key: f"its copy was {finding}" for key, finding in KINDS.items()
    }
    assert all(any(minute in reason for minute in when) for reason in reasons.values())
    assert not gather_status(site.context).is_protected
    site.work()
    assert gather_status(site.context).is_protected


def test_bad_bytes_are_put_aside_with_what_is_known_about_them(site, run):
    damage_all_kinds(site)
    before = site.versions()["flipped.bin", 1]
    damaged = place(site, "flipped").read_bytes()
    run()
    known = {one["key"]: one for one in evidence(site)}
    assert set(known) == set(KINDS) - {"lost.bin"}
    told = {found.version.key: found for found in run.found}
    assert (site.root / told["flipped.bin"].quarantined).read_bytes() == damaged
    one = known["flipped.bin"]
    assert (one["finding"], one["found_by"], one["row"], one["version"]) == ("corrupt", "a test", before.source_id, 1)
    assert one["location"] == "car-erp/flipped/v1.gzip"
    assert one["message"].startswith("car-erp/flipped/v1.gzip: ")
    assert one["expected"] == {
        "sha256": before.sha256,
        "size": before.size,
        "stored_sha256": before.stored_sha256,
        "stored_size": before.stored_size,
    }
    assert one["actual"]["stored_size"] == len(damaged)
    assert one["actual"]["stored_sha256"] not in {None, before.stored_sha256}
    assert one["stored_at"] == before.stored_at.isoformat()
    assert known["cut.bin"]["actual"]["stored_size"] == 200
    assert "is the copy of" in known["here.bin"]["message"] or "of other bytes" in known["here.bin"]["message"]


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_any_flipped_bit_is_noticed(site, run, quick):
    chance = random.Random(5)
    contents = {"empty": b"", "one": b"x", "text": CONTENT, "media": MEDIA}
    for name, content in contents.items():
        site.upload(f"{name}.bin", content)
    site.work()
    for name in contents:
        path, task = place(site, name), choose(site.context, key=f"{name}.bin")
        versions, whole = list(task.versions), path.read_bytes()
        end_of_header = whole.index(f"{name}.bin\0".encode(), whole.index(b"CC")) + len(name) + 5
        for at in {
            0,
            3,
            10,
            40,
            end_of_header - 3,
            end_of_header,
            len(whole) - 1,
            len(whole) - 6,
            *chance.choices(range(len(whole)), k=6),
        }:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
            assert list(run(task=Task(versions=versions), quick=quick, repair=False)) == [f"{name}.bin"], (name, at)
        path.write_bytes(whole)
    assert run(quick=quick) == {}


def test_copy_that_is_cut_anywhere_is_truncated(site, run):
    names = ["nothing", "header", "half", "trailer"]
    store(site, *names)
    for name in names:
        size = place(site, name).stat().st_size
        os.truncate(place(site, name), {"nothing": 0, "header": 30, "half": size // 2, "trailer": size - 1}[name])
    assert run() == {f"{name}.bin": "truncated" for name in names}


def test_copy_that_goes_on_after_its_end_is_corrupt(site, run):
    store(site, "a")
    with place(site, "a").open("ab") as file:
        file.write(b"more")
    assert run() == {"a.bin": "corrupt"}


def test_copies_of_one_content_that_are_swapped_are_told_apart_by_their_headers(site, run):
    for name in ("here", "there"):
        site.upload(f"{name}.bin", CONTENT)
    site.work()
    swap(place(site, "here"), place(site, "there"))
    assert run() == {"here.bin": "swapped", "there.bin": "swapped"}
    assert "is the copy of s3/there.bin v1" in run.found[0].message + run.found[1].message


def test_copy_of_another_version_is_swapped(site, run):
    store(site, "a")
    site.upload("a.bin", b"newer", version=2)
    site.work()
    shutil.copy(place(site, "a"), place(site, "a", 2))
    assert run() == {"a.bin": "swapped"}
    assert run.found[0].version.number == 2


def test_copy_whose_content_is_whole_but_not_its_name_goes_on_counting(site, run):
    store(site, "a")
    path = place(site, "a")
    flip(path, path.read_bytes().index(b"a.bin\0", 300))
    assert run(quick=True) == {"a.bin": "altered"}
    assert (run.found[0].quarantined, run.found[0].again) == (None, False)
    assert site.states() == {("a.bin", 1): "stored"}
    assert site.quarantined() == []
    assert gather_status(site.context).verification.found == 1
    assert run() == run(quick=True) == {}  # known as it is now


def test_a_link_in_the_place_of_a_copy_is_unreadable(site, run, tmp_path):
    store(site, "a", "b")
    target = place(site, "a").rename(tmp_path / "elsewhere")
    place(site, "a").symlink_to(target)
    assert run() == {"a.bin": "unreadable"}
    assert "symbolic" in run.found[0].message


def test_well_copies_are_read_in_full_and_counted_as_read_now(site, run):
    store(site, "a", "b")
    before = site.versions()
    assert run() == {}
    assert run.last.read == run.last.size == sum(version.stored_size for version in before.values())
    for name, version in site.versions().items():
        assert version.verified_at > before[name].verified_at
        assert (version.stored_at, version.fence, version.state) == (
            before[name].stored_at,
            before[name].fence,
            VersionState.STORED,
        )


def test_quick_reads_the_copy_in_full_where_nobody_noted_its_hash(site, run):
    store(site, "a")
    known = site.versions()["a.bin", 1]
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(stored_sha256=None, stored_size=None))
    assert run(quick=True) == {}
    now = site.versions()["a.bin", 1]
    assert (now.stored_sha256, now.stored_size) == (known.stored_sha256, known.stored_size)


def test_nothing_stored_is_nothing_to_read(site, run):
    assert run() == {}
    assert (run.last.copies, run.last.read) == (0, 0)


# ---- the order: record before bytes ------------------------------------------------------------------------------------------


def test_copy_counts_no_more_before_its_bytes_are_moved(site, run, monkeypatch):
    store(site, "a")
    rot(place(site, "a"))
    seen = []
    real = site.context.archive.quarantine

    def quarantine(location, **options):
        seen.append((site.states()["a.bin", 1], claim_row(site.context.catalog, site.versions()["a.bin", 1].source_id, HOUR)))
        return real(location, **options)

    monkeypatch.setattr(site.context.archive, "quarantine", quarantine)
    run()
    assert seen == [("pending", None)]  # and no backup may publish at that place in between


def test_verification_that_dies_between_record_and_bytes_leaves_a_version_that_is_fetched_again(site, run, monkeypatch):
    store(site, "a")
    rot(place(site, "a"))

    def die(*_arguments, **_options):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(site.context.archive, "quarantine", die)
        patched.setattr(site.context.catalog.work, "give_back", lambda *_arguments, **_options: None)
        with pytest.raises(Killed):
            run()
    assert site.states() == {("a.bin", 1): "pending"}
    site.work()
    assert site.states() == {("a.bin", 1): "pending"}  # the dead one's lease
    site.expire_leases()
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}
    assert len(site.quarantined()) == 1
    assert run() == {}


def test_copy_that_was_pruned_while_it_was_looked_for_is_no_finding(site, run):
    store(site, "a")
    chosen = list(choose(site.context).versions)
    place(site, "a").unlink()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state="pruned"))
    assert run(task=Task(versions=chosen)) == {}
    assert run(task=Task(versions=chosen), repair=False) == {}
    assert site.states() == {("a.bin", 1): "pruned"}


def test_copy_that_was_stored_anew_while_its_old_one_was_read_is_no_finding(site, run):
    store(site, "a")
    chosen = list(choose(site.context).versions)
    rot(place(site, "a"))
    run()
    site.work()
    place(site, "a").rename(place(site, "a").with_suffix(".aside"))  # what the reader of the old list sees
    assert run(task=Task(versions=chosen)) == {}
    assert site.states() == {("a.bin", 1): "stored"}


def test_two_verifications_at_once_find_a_bad_copy_once(site, run):
    store(site, "a", "b", "c")
    for name in ("a", "b", "c"):
        rot(place(site, name))
    found = []
    threads = [
        threading.Thread(
            target=lambda context=context: verify(
                context, choose(context), by="x", on_found=lambda one: found.append(one.version.key)
            )
        )
        for context in (site.context, site.open())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["a.bin", "b.bin", "c.bin"]
    assert len(evidence(site)) == 3


# ---- fetched again -----------------------------------------------------------------------------------------------------------


def test_bad_copy_whose_link_has_died_asks_for_a_fresh_one_by_itself(site, run, origin):
    row_id = site.upload("a.bin", CONTENT)
    site.work()
    origin.put("/car-erp/a.bin", CONTENT, EXPIRED)
    place(site, "a").unlink()
    assert run() == {"a.bin": "missing"}
    site.work()
    assert site.states() == {("a.bin", 1): "expired"}
    origin.put("/car-erp/fresh", CONTENT)
    site.refresh(row_id, "/car-erp/fresh")
    site.poll()
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}


def test_older_version_is_fetched_again_as_well(make_site):
    site = make_site(keep_versions=2)
    site.upload("a.bin", b"old", served_at="/car-erp/old")
    site.work()
    site.upload("a.bin", b"new", version=2, served_at="/car-erp/new")
    site.work()
    rot(place(site, "a"))
    verify(site.context, choose(site.context), by="x")
    assert site.states() == {("a.bin", 1): "pending", ("a.bin", 2): "stored"}
    site.work()
    assert site.states() == {("a.bin", 1): "stored", ("a.bin", 2): "stored"}


def test_replaced_version_whose_grace_runs_is_fetched_again_as_long_as_its_object_is_there(site, run):
    site.upload("a.bin", b"old", served_at="/car-erp/old")
    site.work()
    site.upload("a.bin", b"new", version=2, served_at="/car-erp/new")
    site.work()
    rot(place(site, "a"))
    assert run() == {"a.bin": "corrupt"}
    site.work()
    assert site.states() == {("a.bin", 1): "stored", ("a.bin", 2): "stored"}


def test_older_version_whose_bytes_are_overwritten_in_the_bucket_is_superseded(site, run, origin):
    site.upload("a.bin", b"old")
    site.work()
    site.upload("a.bin", b"new", version=2)
    site.work()
    rot(place(site, "a"))
    assert run() == {"a.bin": "corrupt"}
    site.work()
    assert site.states() == {("a.bin", 1): "superseded", ("a.bin", 2): "stored"}


# ---- the disk ----------------------------------------------------------------------------------------------------------------


def test_disk_that_is_away_misses_no_copy(site, run, tmp_path):
    store(site, "a", "b")
    site.root.rename(tmp_path / "unmounted")
    site.root.mkdir()
    with pytest.raises(errors.RootMissing):
        run()
    assert set(site.states().values()) == {"stored"}


def test_disk_that_goes_away_on_the_way_ends_it_and_what_was_read_before_counts(site, run, tmp_path, monkeypatch):
    store(site, "a", "b", "c")
    before = site.versions()
    task = choose(site.context)

    def versions_then_unmount():
        taken = iter(task.versions)
        yield next(taken)
        yield next(taken)
        site.root.rename(tmp_path / "unmounted")
        site.root.mkdir()
        yield from taken

    with pytest.raises(errors.RootMissing):
        run(task=Task(versions=versions_then_unmount()), readers=1)
    assert set(site.states().values()) == {"stored"}
    assert site.versions()["a.bin", 1].verified_at > before["a.bin", 1].verified_at


def test_disk_that_is_unmounted_while_a_copy_is_opened_misses_no_copy(site, run, monkeypatch, tmp_path):
    store(site, "a")
    real = site.context.archive.check

    def check(location, **options):
        site.root.rename(tmp_path / "unmounted")
        site.root.mkdir()
        (site.root / ".cbk").mkdir()
        raise errors.CopyMissing("it seems to be missing")

    assert real
    monkeypatch.setattr(site.context.archive, "check", check)
    with pytest.raises(errors.RootMissing):
        run()
    assert site.states() == {("a.bin", 1): "stored"}


def test_copy_that_cannot_be_read_is_a_finding_and_others_are_read_all_the_same(site, run, monkeypatch):
    store(site, "a", "b", "c")
    with unreadable(place(site, "b"), monkeypatch=monkeypatch):
        assert run() == {"b.bin": "unreadable"}
    assert "input/output error" in run.found[0].message
    assert (run.found[0].quarantined, run.found[0].again, run.last.copies) == (None, True, 3)
    assert site.states() == {("a.bin", 1): "stored", ("b.bin", 1): "pending", ("c.bin", 1): "stored"}
    assert site.quarantined() == []


def test_copy_that_can_be_read_again_counts_again_without_a_download(site, run, monkeypatch, origin):
    store(site, "a", "b")
    with unreadable(place(site, "b"), monkeypatch=monkeypatch):
        run()
    site.work()
    assert set(site.states().values()) == {"stored"}
    assert origin.count("/car-erp/b.bin") == 1


def test_copy_that_stays_unreadable_is_put_aside_and_fetched_in_the_end(site, run, monkeypatch, origin):
    store(site, "a", "b")
    with unreadable(place(site, "b"), monkeypatch=monkeypatch):
        run()
        row_id = site.versions()["b.bin", 1].source_id
        for attempt in (1, 2):
            with pytest.raises(errors.DiskFailed):
                site.back_up(row_id)
            assert (site.states()["b.bin", 1], site.versions()["b.bin", 1].attempts) == ("failed", attempt)
            site.pass_backoff()
        assert origin.count("/car-erp/b.bin") == 1
        assert site.back_up(row_id).outcome == "stored"
    assert len(site.quarantined()) == 1


def test_disk_that_fails_is_not_ten_bad_copies(site, run, monkeypatch):
    names = [f"n{number}" for number in range(12)]
    store(site, *names)
    with (
        unreadable(*(place(site, name) for name in names), monkeypatch=monkeypatch),
        pytest.raises(errors.DiskFailed, match="10 copies one after the other are unreadable") as caught,
    ):
        run()
    assert "dmesg" in caught.value.hint
    assert set(site.states().values()) == {"stored"}


def test_many_copies_that_cannot_be_read_are_findings_where_others_can(site, run, monkeypatch):
    names = [f"n{number:02}" for number in range(14)]
    store(site, *names)
    bad = names[:7] + names[8:]
    with unreadable(*(place(site, name) for name in bad), monkeypatch=monkeypatch):
        found = run(readers=1)
    assert found == {f"{name}.bin": "unreadable" for name in bad}


def test_disk_that_takes_no_change_keeps_the_bad_copy_which_counts_no_more_all_the_same(site, run, monkeypatch):
    store(site, "a", "b")
    rot(place(site, "a"))

    def refuse(*_arguments):
        raise OSError(errno.EROFS, "x")

    with monkeypatch.context() as patched:
        patched.setattr(archive_module, "_move", refuse)
        assert run() == {"a.bin": "corrupt"}
    assert "read-only file system" in run.found[0].message
    assert site.states() == {("a.bin", 1): "pending", ("b.bin", 1): "stored"}
    site.work()
    assert set(site.states().values()) == {"stored"}
    assert len(site.quarantined()) == 1


def test_reading_gives_way_to_others_on_the_disk_and_leaves_the_threads_that_come_after_as_they_are(site, run, monkeypatch):
    store(site, "a")
    pacer = []
    real = host.read_gently

    def read_gently():
        real()
        pacer.append((threading.current_thread().name, io_priority()))

    monkeypatch.setattr(host, "read_gently", read_gently)
    run()
    assert {priority for _, priority in pacer} == {(2, 7)}
    assert all(name.startswith("cbk-verify") for name, _ in pacer)
    assert io_priority() != (2, 7)


def io_priority():
    """(class, level) of this thread, as the kernel sees it."""
    import ctypes  # noqa: PLC0415 - only here
    import platform  # noqa: PLC0415 - as above

    number = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    value = ctypes.CDLL(None).syscall(number, 1, 0)
    return value >> 13, value & 0x1FFF


# ---- only reporting, samples, ends ---------------------------------------------------------------------------------------------


def test_report_alone_changes_nothing(site, run):
    damage_all_kinds(site)
    before, files = site.versions(), site.copies()
    assert run(repair=False) == KINDS
    assert not any(found.again or found.quarantined for found in run.found)
    assert (site.versions(), site.copies(), site.quarantined()) == (before, files, [])
    assert gather_status(site.context).verification.found == 0


def test_sample_reads_so_many_copies(site, run):
    store(site, *(f"n{number}" for number in range(20)))
    run(share=Fraction(1, 10))
    assert run.last.copies == 2
    assert choose(site.context, share=Fraction(1, 10)).size == pytest.approx(choose(site.context).size / 10, abs=1)


def test_only_what_was_not_read_for_long_is_read(site, run):
    store(site, "a", "b")
    site.pass_time(verified_at=3 * HOUR)
    store(site, "c")
    run(older_than=2 * HOUR)
    assert run.last.copies == 2
    run(older_than=2 * HOUR)
    assert run.last.copies == 0


def test_copies_are_chosen_by_name_and_a_name_that_no_copy_has_is_an_error_and_not_all_good(site):
    store(site, "cars/a", "b")
    for named in ({"key": "/cars/a.bin"}, {"prefix": "cars/"}, {"storage": "s3", "key": "cars/a.bin"}):
        assert [version.key for version in choose(site.context, **named).versions] == ["cars/a.bin"]
    for named in ({"key": "none"}, {"prefix": "x"}, {"storage": "azure"}):
        with pytest.raises(errors.UsageError, match="no stored copy is named like this"):
            choose(site.context, **named)
        assert choose(site.context, older_than=HOUR, **named).copies == 0


def test_reading_that_is_to_stop_ends_in_the_middle_of_a_copy_and_keeps_what_was_read_before(site, run):
    store(site, "a")
    site.upload("z.bin", MEDIA * 10)
    site.work()
    before = site.versions()
    seen = []

    def on_read(count):
        seen.append(count)
        if sum(seen) > 500_000:
            raise Stopped

    run(on_read=on_read, readers=1)
    assert (run.last.stopped, run.last.copies) == (True, 1)
    assert run.last.read < len(MEDIA) * 10
    now = site.versions()
    assert now["a.bin", 1].verified_at > before["a.bin", 1].verified_at
    assert now["z.bin", 1].verified_at == before["z.bin", 1].verified_at


def test_interrupt_ends_the_readers_and_keeps_what_was_read_before(site, run, monkeypatch):
    store(site, "a")
    site.upload("z.bin", MEDIA)
    site.work()
    before = site.versions()
    interrupted, chunks = threading.Event(), []
    real_take, real_stop = module._Run.handle, Reads.stop

    def take(self, version, look):
        real_take(self, version, look)
        raise KeyboardInterrupt

    def stop(self):
        real_stop(self)
        interrupted.set()

    def on_read(count):
        chunks.append(count)
        if len(chunks) > 1:
            interrupted.wait(1)  # the large copy is not through before that

    monkeypatch.setattr(module._Run, "handle", take)
    monkeypatch.setattr(Reads, "stop", stop)
    with pytest.raises(KeyboardInterrupt):
        run(readers=1, on_read=on_read)
    assert len(chunks) <= 2
    assert [name for name, version in site.versions().items() if version != before[name]] == [("a.bin", 1)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cbk-verify")]


def test_lost_lease_of_a_claim_that_was_slept_through_is_somebody_elses_business(site, run, monkeypatch):
    store(site, "a", "b")
    rot(place(site, "a"))
    real = site.context.archive.quarantine

    def quarantine(location, **options):
        site.expire_leases()
        row_id = site.versions()["a.bin", 1].source_id
        with site.rival() as rival:
            assert claim_row(rival, row_id, HOUR)
        return real(location, **options)

    monkeypatch.setattr(site.context.archive, "quarantine", quarantine)
    assert run() == {"a.bin": "corrupt"}
    assert site.versions()["a.bin", 1].claimed_until is not None
    with site.context.catalog.database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(leases)) == 0


def test_works_while_backups_go_on(site, run):
    store(site, *(f"n{number}" for number in range(12)))
    stop = threading.Event()
    context = site.open()
    found = []

    def verify_again_and_again():
        while not stop.is_set():
            verify(context, choose(context), by="x", on_found=found.append)

    thread = threading.Thread(target=verify_again_and_again)
    thread.start()
    store(site, *(f"m{number}" for number in range(12)))
    stop.set()
    thread.join()
    assert found == []
    assert set(site.states().values()) == {"stored"}


def test_works_with_a_catalog_in_postgresql(make_site, postgres, pg_database):
    site = make_site(catalog_url=postgres.url(pg_database))
    damage_all_kinds(site)
    found = {}
    verify(site.context, choose(site.context), by="x", on_found=lambda one: found.update({one.version.key: one.finding.value}))
    assert found == KINDS
    site.work()
    assert set(site.states().values()) == {"stored"}
