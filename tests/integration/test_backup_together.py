"""Versions that share a message: stored together, and each for itself where something goes wrong."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.archive.archive import Archive, IncomingCopy, Publication
from cbk.edges.download import Downloader
from cbk.jobs.backup import backup
from cbk.jobs.backup.backup import back_up_together, sum_up
from cbk.jobs.backup.overrides import pause
from cbk.jobs.context import DEFAULT_CONCURRENCY
from cbk.jobs.intake.rows import record_rows
from cbk.model import VersionState
from tests.in_process_site import claim_row
from tests.origin import serve, status

LEASE = timedelta(minutes=2)


@pytest.fixture
def rows(site):
    """Five files, polled: their row Ids, in order."""
    ids = [site.upload(f"{number}.txt", b"x" * number) for number in range(5)]
    site.poll()
    return ids


def failures(done):
    return {failure.version.key: type(failure.error).__name__ for failure in done.failures}


def states(site):
    return {key: state for (key, _), state in site.states().items()}


def test_all_of_a_batch_are_stored(site, rows):
    done = back_up_together(site.context, rows)
    assert failures(done) == {}
    assert set(states(site).values()) == {"stored"}
    assert site.copies() == {f"car-erp/{number}/v1.gzip" for number in range(5)}
    assert sum_up(done).facts == {"stored": 5, "size": 10}


def test_batch_is_recorded_in_one_transaction(site, rows):
    commits = []
    sa.event.listen(site.context.catalog.engine, "commit", lambda _: commits.append(len(site.copies())))
    back_up_together(site.context, rows)
    assert commits == [0, 0, 5]  # the claims, that a worker is at work, and what is stored


def test_batch_that_comes_twice_has_nothing_to_do(site, rows):
    back_up_together(site.context, rows)
    done = back_up_together(site.context, rows)
    assert (sum_up(done).facts, site.parts()) == ({"nothing_to_do": 5, "size": 0}, set())


def test_rows_that_no_poll_has_seen_and_rows_that_are_not_there_are_no_trouble_for_the_others(site, rows):
    unseen = site.upload("unseen.txt", b"new")
    done = back_up_together(site.context, [*rows[:2], unseen, "4711"])
    assert sum_up(done).facts == {"nothing_to_do": 1, "stored": 3, "size": 4}
    assert states(site)["unseen.txt"] == "stored"


def test_failure_of_one_leaves_the_others_alone(site):
    ids = [site.upload("good.txt", b"x"), site.upload("bad.txt", b"x", status(503)), site.upload("fine.txt", b"x")]
    site.poll()
    done = back_up_together(site.context, ids)
    assert failures(done) == {"bad.txt": "OriginUnavailable"}
    assert states(site) == {"good.txt": "stored", "bad.txt": "failed", "fine.txt": "stored"}
    assert site.parts() == set()


def test_wrong_bytes_of_one_leave_the_others_alone(site):
    ids = [site.upload("good.txt", b"x"), site.upload("bad.txt", b"x", status(200, b"y")), site.upload("fine.txt", b"x")]
    site.poll()
    assert failures(back_up_together(site.context, ids)) == {"bad.txt": "HashMismatch"}
    assert states(site) == {"good.txt": "stored", "bad.txt": "mismatch", "fine.txt": "stored"}


@pytest.mark.parametrize("step", ["flush", "read_back"])
def test_disk_error_with_one_leaves_the_others_alone(site, rows, monkeypatch, step):
    real, calls = getattr(IncomingCopy, step), []

    def fail_second(part, **options):
        calls.append(part)
        if len(calls) == 2:
            raise errors.DiskFailed("the disk says no", hint="see dmesg")
        return real(part, **options)

    monkeypatch.setattr(IncomingCopy, step, fail_second)
    assert failures(back_up_together(site.context, rows)) == {"1.txt": "DiskFailed"}
    assert states(site) == {f"{number}.txt": "failed" if number == 1 else "stored" for number in range(5)}
    assert site.parts() == set()


def test_bug_with_one_is_recorded_and_leaves_the_others_alone(site, rows, monkeypatch):
    real = Publication.put

    def stumble(publication, part, location):
        if part.header.name == "3.txt":
            raise ZeroDivisionError
        real(publication, part, location)

    monkeypatch.setattr(Publication, "put", stumble)
    assert failures(back_up_together(site.context, rows)) == {"3.txt": "ZeroDivisionError"}
    assert states(site)["3.txt"] == "failed"
    assert site.versions()["3.txt", 1].reason.startswith("unexpected ZeroDivisionError")
    assert len(site.copies()) == 4


def test_folders_that_cannot_be_flushed_fail_all_that_were_put_there_and_the_next_try_adopts_them(site, rows, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("cbk.edges.archive.archive._sync_filesystem", lambda _: False)
        broken.setattr("cbk.edges.archive.archive._sync_folder", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
        assert set(failures(back_up_together(site.context, rows)).values()) == {"DiskFailed"}
    assert set(states(site).values()) == {"failed"}
    site.pass_backoff()
    assert sum_up(back_up_together(site.context, rows)).facts == {"adopted": 5, "size": 10}
    assert [site.origin.count(f"/car-erp/{number}.txt") for number in range(5)] == [1] * 5


@pytest.mark.parametrize("where", ["cbk.edges.source.Source.rows", "cbk.edges.archive.archive.Archive.publishing"])
def test_part_of_the_kit_that_is_away_gives_all_back_uncounted(site, rows, monkeypatch, where):
    def away(*_):
        raise errors.RootMissing("it is away", hint="mount it")

    with monkeypatch.context() as broken:
        broken.setattr(where, away)
        assert isinstance(back_up_together(site.context, rows).ended_by, errors.RootMissing)
    found = site.versions().values()
    assert {(version.state, version.attempts, version.claimed_until) for version in found} == {(VersionState.PENDING, 0, None)}
    assert {version.reason for version in found} == {"tried again soon: it is away"}
    assert (site.copies(), site.parts()) == (set(), set())


def test_version_that_another_worker_took_over_is_left_to_that_one(site, rows, monkeypatch):
    real = IncomingCopy.read_back

    def lose_the_third(part, **options):
        if part.header.name == "2.txt":
            with site.context.catalog.database.writing() as connection:
                connection.exec_driver_sql(f"UPDATE versions SET lease_until = 0 WHERE source_id = '{rows[2]}'")
            with site.rival() as rival:
                assert claim_row(rival, rows[2], LEASE)
        return real(part, **options)

    monkeypatch.setattr(IncomingCopy, "read_back", lose_the_third)
    assert failures(back_up_together(site.context, rows)) == {"2.txt": "LeaseLost"}
    assert states(site) == {f"{number}.txt": "pending" if number == 2 else "stored" for number in range(5)}


def test_worker_that_slept_through_all_leases_of_a_batch_publishes_nothing(site, rows, monkeypatch):
    real, clock = IncomingCopy.flush, [0.0]
    monkeypatch.setattr("cbk.edges.catalog.backup.work_queue.uptime", lambda: clock[0])

    def sleep(part):
        if not clock[0]:
            clock[0] = 3600.0
            site.expire_leases()
            with site.rival() as rival:
                assert len(rival.work.claim(rows, LEASE)) == 5
        real(part)

    monkeypatch.setattr(IncomingCopy, "flush", sleep)
    assert set(failures(back_up_together(site.context, rows)).values()) == {"LeaseLost"}
    assert (site.copies(), site.parts()) == (set(), set())


def test_others_go_back_uncounted_once_one_turns_out_to_be_large(site, monkeypatch):
    monkeypatch.setattr(backup, "LARGE_BYTES", 1_000_000)
    ids = [site.upload("small.txt", b"x"), site.upload("large.bin", os.urandom(3_000_000)), site.upload("last.txt", b"x")]
    site.poll()
    back_up_together(site.context, ids)
    assert states(site) == {"small.txt": "stored", "large.bin": "stored", "last.txt": "pending"}
    last = site.versions()["last.txt", 1]
    assert (last.attempts, last.claimed_until) == (0, None)
    site.poll()
    assert site.publisher.take()[-1] == ids[2]


def test_others_go_back_once_the_batch_takes_long(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "BATCH_SECONDS", 0.0)
    back_up_together(site.context, rows)
    assert states(site)["0.txt"] == "stored"
    assert [state for name, state in states(site).items() if name != "0.txt"] == ["pending"] * 4


def test_others_are_sent_to_whoever_is_free_at_once(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "BATCH_SECONDS", 0.0)
    site.publisher.take()
    back_up_together(site.context, rows, site.publisher)
    assert sorted(site.publisher.take()) == sorted(rows[1:])


def test_others_wait_for_the_next_poll_where_they_cannot_be_sent(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "BATCH_SECONDS", 0.0)
    site.publisher.take()
    site.publisher.away = True
    assert back_up_together(site.context, rows, site.publisher).ended_by is None
    site.publisher.away = False
    site.poll()
    assert sorted(site.publisher.take()) == sorted(rows[1:])


def test_what_came_is_stored_while_another_task_downloads(make_site, monkeypatch):
    site = make_site(concurrency=1)
    ids = [site.upload("first.txt", b"x"), site.upload("second.txt", b"y")]
    site.poll()
    is_storing, comes = threading.Event(), threading.Event()
    flush, write = IncomingCopy.flush, IncomingCopy.write

    def store(part):
        if part.header.name == "first.txt":
            is_storing.set()
            assert comes.wait(30)
        flush(part)

    def receive(part, data):
        if part.header.name == "second.txt":
            comes.set()
        write(part, data)

    monkeypatch.setattr(IncomingCopy, "flush", store)
    monkeypatch.setattr(IncomingCopy, "write", receive)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(back_up_together, site.context, ids[:1])
        assert is_storing.wait(30)
        second = pool.submit(back_up_together, site.context, ids[1:])
        assert not first.result(30).failures
        assert not second.result(30).failures
    assert set(states(site).values()) == {"stored"}


def test_as_many_downloads_go_on_at_a_time_as_were_set_and_no_more(make_site, monkeypatch):
    site = make_site(concurrency=2)
    ids = [site.upload(f"{number}.txt", b"x") for number in range(12)]
    site.poll()
    now, most, counting, two = [0], [0], threading.Lock(), threading.Barrier(2, timeout=30)
    fetch = Downloader.fetch

    def counted(downloader, *arguments, **options):
        with counting:
            now[0] += 1
            most[0] = max(most[0], now[0])
        two.wait()
        try:
            return fetch(downloader, *arguments, **options)
        finally:
            with counting:
                now[0] -= 1

    monkeypatch.setattr(Downloader, "fetch", counted)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda batch: back_up_together(site.context, batch), [ids[at : at + 2] for at in range(0, 12, 2)]))
    assert most[0] == 2
    assert set(states(site).values()) == {"stored"}


class Slots:
    """In place of a process's downloads: `waits` is what happens while one is waited for, and whether it comes."""

    def __init__(self, *waits):
        self._waits = iter(waits)

    def acquire(self, timeout):
        wait = next(self._waits, None)
        return wait is None or wait() is not False

    def release(self):
        pass


def test_nothing_is_claimed_where_all_downloads_are_under_way(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "SLOT_SECONDS", 0.0)
    for _ in range(DEFAULT_CONCURRENCY):
        assert site.context.slots.acquire(blocking=False)
    with pytest.raises(errors.Busy):
        back_up_together(site.context, rows)
    assert {(version.attempts, version.claimed_until) for version in site.versions().values()} == {(0, None)}


def test_download_is_given_back_to_the_process(make_site):
    site = make_site(concurrency=1)
    ids = [site.upload("bad.txt", b"x", hash_of=b"y"), site.upload("good.txt", b"x")]
    site.poll()
    back_up_together(site.context, ids)
    assert site.context.slots.acquire(blocking=False)
    with pytest.raises(ValueError, match="released"):
        [site.context.slots.release() for _ in range(2)]


def test_message_in_the_hands_of_a_busy_worker_is_not_sent_again(make_site, monkeypatch):
    site = make_site(concurrency=1)
    row = site.upload("a.txt", b"x")
    site.poll()
    monkeypatch.setattr(backup, "SLOT_SECONDS", 0.0)
    site.context.slots.acquire()
    site.expire_leases()
    with pytest.raises(errors.Busy):
        back_up_together(site.context, [row])
    site.publisher.take()
    site.poll()
    assert site.publisher.take() == []


def test_download_is_not_left_to_others_between_a_bad_copy_and_the_good_one(make_site, monkeypatch):
    site = make_site(concurrency=1)
    clock = [0.0]
    monkeypatch.setattr(backup, "uptime", lambda: clock[0])
    ids = [site.upload(f"{name}.txt", b"x") for name in ("first", "second")]
    site.poll()
    bad = site.context.archive.root / "car-erp/second/v1.gzip"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no copy")
    free = []
    fetch = Downloader.fetch

    def adopt(_archive, _location, *, sha256, tick, **_):
        clock[0] += backup.STORE_AFTER_SECONDS
        tick()
        raise errors.CopyCorrupt(f"is not {sha256}")

    def look(*arguments, **options):
        free.append(site.context.slots.acquire(blocking=False))
        return fetch(*arguments, **options)

    monkeypatch.setattr(Archive, "adopt", adopt)
    monkeypatch.setattr(Downloader, "fetch", look)
    back_up_together(site.context, ids)
    assert free == [False, False]
    assert set(states(site).values()) == {"stored"}


def test_pause_that_is_ordered_while_a_download_is_waited_for_holds(site, rows):
    site.context.slots = Slots(lambda: pause(site.context, site.context.catalog.database.now() + timedelta(hours=1)))
    assert sum_up(back_up_together(site.context, rows)).facts == {"put_off": 5, "size": 0}


def test_row_is_read_after_a_download_was_waited_for(site, rows):
    site.context.slots = Slots(lambda: site.drop(rows[0]))
    back_up_together(site.context, rows)
    assert states(site)["0.txt"] != "stored"
    assert states(site)["1.txt"] == "stored"


def test_others_are_sent_to_whoever_is_free_where_no_download_comes_free_again(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "STORE_BYTES", 0)
    site.context.slots = Slots(lambda: True, lambda: True, lambda: False)
    site.publisher.take()
    assert sum_up(back_up_together(site.context, rows, site.publisher)).facts == {"stored": 1, "size": 0}
    assert sorted(site.publisher.take()) == sorted(rows[1:])
    assert {version.attempts for version in site.versions().values() if version.source_id != rows[0]} == {0}


def test_no_more_are_sent_than_were_given_back(site, rows, monkeypatch):
    monkeypatch.setattr(backup, "BATCH_SECONDS", 0.0)
    more = [site.upload(f"more-{number}.txt", b"x") for number in range(20)]
    record_rows(site.context, list(site.context.source.rows(more).values()))
    site.publisher.take()
    back_up_together(site.context, rows, site.publisher)
    assert len(site.publisher.take()) == len(rows) - 1


def test_time_before_the_first_download_counts_for_no_batch(site, rows, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(backup, "uptime", lambda: clock[0])
    read = type(site.context.source).rows

    def slowly(source, source_ids):
        clock[0] += 2 * backup.BATCH_SECONDS
        return read(source, source_ids)

    monkeypatch.setattr(type(site.context.source), "rows", slowly)
    back_up_together(site.context, rows)
    assert set(states(site).values()) == {"stored"}


def test_what_is_ready_is_stored_while_a_download_goes_on(site, monkeypatch):
    clock, seen = [0.0], []
    monkeypatch.setattr(backup, "uptime", lambda: clock[0])
    ids = [site.upload("small.txt", b"x"), site.upload("next.bin", os.urandom(3_000_000))]
    site.poll()
    real = IncomingCopy.write

    def write(part, data):
        if part.header.name == "next.bin":
            clock[0] += backup.STORE_AFTER_SECONDS
            seen.append(states(site)["small.txt"])
        real(part, data)

    monkeypatch.setattr(IncomingCopy, "write", write)
    back_up_together(site.context, ids)
    assert (seen[0], seen[-1]) == ("pending", "stored")
    assert set(states(site).values()) == {"stored"}


def test_much_that_is_ready_is_stored_before_the_rest_is_fetched(site, monkeypatch):
    monkeypatch.setattr(backup, "STORE_BYTES", 1)
    seen = []
    ids = [site.upload(f"{number}.txt", b"x") for number in range(3)]
    site.poll()
    real = IncomingCopy.write
    monkeypatch.setattr(IncomingCopy, "write", lambda part, data: (seen.append(len(site.copies())), real(part, data)))
    back_up_together(site.context, ids)
    assert seen == [0, 1, 2]


def test_older_versions_in_a_batch_are_settled_once_their_newer_one_is_stored(site):
    ids = [
        site.upload("a.txt", b"old", serve(), version=1, served_at="/a/1"),
        site.upload("a.txt", b"new", version=2, served_at="/a/2"),
    ]
    site.poll()
    back_up_together(site.context, ids)
    assert {number: state for (_, number), state in site.states().items()} == {1: "superseded", 2: "stored"}


def test_nothing_of_a_batch_is_claimed_while_the_disk_is_full(make_site):
    site = make_site(min_free_space="1000TB")
    ids = [site.upload(f"{number}.txt", b"x") for number in range(3)]
    site.poll()
    assert sum_up(back_up_together(site.context, ids)).facts == {"put_off": 3, "size": 0}
    assert {version.attempts for version in site.versions().values()} == {0}


def test_bug_outside_of_any_version_gives_all_back_as_well(site, rows, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("cbk.edges.source.Source.rows", lambda *_: 1 / 0)
        done = back_up_together(site.context, rows)
    assert isinstance(done.ended_by, ZeroDivisionError)
    assert {version.claimed_until for version in site.versions().values()} == {None}


def test_what_was_claimed_goes_back_where_the_source_is_away_when_another_row_is_looked_up(site, rows):
    with site.source_away():
        done = back_up_together(site.context, [rows[0], "4711"])
    assert isinstance(done.ended_by, errors.SourceUnavailable)
    assert (site.versions()["0.txt", 1].attempts, site.versions()["0.txt", 1].claimed_until) == (0, None)


def test_root_that_cannot_be_opened_to_publish_fails_the_whole_batch_with_the_reason(site, rows, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("cbk.edges.archive.archive.Publication", lambda _: (_ for _ in ()).throw(OSError(errno.EMFILE, "x")))
        done = back_up_together(site.context, rows)
    assert failures(done) == {f"{number}.txt": "DiskFailed" for number in range(5)}
    assert set(states(site).values()) == {"failed"}


def test_rest_of_a_batch_goes_back_once_nothing_new_is_to_be_fetched(site, rows, monkeypatch):
    answers = iter([None, "paused until noon"])
    monkeypatch.setattr(backup, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(backup, "fetch_blocker", lambda _: next(answers))
    assert sum_up(back_up_together(site.context, rows)).facts == {"stored": 1, "size": 0}
    assert {(version.attempts, version.claimed_until) for version in site.versions().values() if version.key != "0.txt"} == {
        (0, None)
    }


def test_rest_of_a_batch_goes_back_after_an_origin_that_was_silent_for_long(site, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(backup, "uptime", lambda: clock[0])

    def fall_silent(_downloader, _link, _part, **_options):
        clock[0] += 2 * backup.BATCH_SECONDS
        raise errors.OriginUnavailable("it says nothing")

    ids = [site.upload(f"{number}.txt", b"x") for number in range(3)]
    site.poll()
    monkeypatch.setattr("cbk.edges.download.Downloader.fetch", fall_silent)
    back_up_together(site.context, ids)
    assert states(site) == {"0.txt": "failed", "1.txt": "pending", "2.txt": "pending"}
    assert {site.versions()[f"{number}.txt", 1].attempts for number in (1, 2)} == {0}


def test_what_is_ready_does_not_wait_for_what_cannot_be_fetched(site, monkeypatch):
    monkeypatch.setattr(backup, "STORE_AFTER_SECONDS", 0.0)
    ids = [site.upload("good.txt", b"x"), site.upload("bad.txt", b"x", status(503))]
    site.poll()
    seen = []
    real = backup._Batch._store
    monkeypatch.setattr(backup._Batch, "_store", lambda batch: (seen.append(len(batch._ready)), real(batch)))
    back_up_together(site.context, ids)
    assert seen[0] == 1
    assert states(site) == {"good.txt": "stored", "bad.txt": "failed"}
