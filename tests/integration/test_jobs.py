"""The jobs, called directly, on a real source, catalog, disk and HTTP origin."""

import errno
import gzip
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.archive import archive as archive_module
from cbk.jobs.admin.init import initialise
from cbk.jobs.intake import table_reader as stream_module
from cbk.jobs.intake.rows import record_rows
from cbk.jobs.poll import poll as poll_module
from cbk.jobs.poll.resync import resync
from cbk.model import VersionState
from cbk.rules.intake import reading
from tests.in_process_site import claim_row
from tests.origin import Origin, cut, html_page, s3_error, serve, status

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
LEASE = timedelta(minutes=2)


def stored(site, location):
    return gzip.decompress((site.root / location).read_bytes())


# ---- polling: no row is missed -----------------------------------------------------------------------------------------------


def test_poll_takes_rows_in_and_sends_each_new_version_once(site):
    ids = [site.upload(f"{i}.txt", b"x") for i in range(3)]
    summary = site.poll()
    counted = {"read": 3, "new": 3, "declined": 0, "deletes": 0, "sent": 3, "prunes": 0}
    assert (summary.outcome, dict(summary.facts)) == ("polled", counted)
    assert site.publisher.take() == ids
    site.poll()
    assert site.publisher.take() == []


def test_poll_reads_over_page_borders(site, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    for i in range(5):
        site.upload(f"{i}.txt", b"x")
    assert site.poll().facts["new"] == 5
    site.upload("5.txt", b"x")
    assert site.poll().facts["new"] == 1


def test_poll_reads_the_rows_of_a_large_table_that_are_known_not_again(site, monkeypatch):
    monkeypatch.setattr(reading, "ONE_PAGE", 2)
    monkeypatch.setattr(reading, "SMALL_ROWS", 2)
    for i in range(3):
        site.upload(f"{i}.txt", b"x")
    site.poll()
    assert site.poll().facts["read"] == 0


def test_poll_reads_a_small_table_wholly_so_that_what_is_changed_in_place_shows_at_once(site):
    row = site.upload("a.txt", b"x")
    site.work()
    site.upload("b.txt", b"y")
    site.work()
    site.change(row, Name="c.txt")
    site.work()
    assert ("c.txt", 1) in site.versions()


def test_row_that_commits_late_with_a_lower_id_is_taken_in_while_ids_settle(site):
    site.upload("1.txt", b"x", row_id=1)
    site.upload("3.txt", b"x", row_id=3)
    site.poll()
    site.upload("2.txt", b"x", row_id=2)
    site.poll()
    assert ("2.txt", 1) in site.versions()


def test_row_that_commits_late_beside_a_new_one_is_taken_in(site):
    site.upload("1.txt", b"x", row_id=1)
    site.upload("3.txt", b"x", row_id=3)
    site.poll()
    site.upload("4.txt", b"x", row_id=4)
    site.upload("2.txt", b"x", row_id=2)
    site.poll()
    assert {number for number, _ in site.versions()} == {"1.txt", "2.txt", "3.txt", "4.txt"}


def test_row_that_commits_late_after_some_polls_without_news_is_taken_in(site):
    site.upload("3.txt", b"x", row_id=3)
    for _ in range(3):
        site.poll()
    site.upload("2.txt", b"x", row_id=2)
    site.poll()
    assert ("2.txt", 1) in site.versions()


@pytest.fixture
def large_table(monkeypatch):
    """A few rows are a large table, which is read wholly only if there is a reason to."""
    monkeypatch.setattr(reading, "ONE_PAGE", 0)
    monkeypatch.setattr(reading, "SMALL_ROWS", 0)
    monkeypatch.setattr(reading, "SHARE_OF_TIME", 0)


@pytest.mark.usefixtures("large_table")
@pytest.mark.parametrize("late", [2, 1, -5])
def test_row_later_than_the_settling_window_is_found_by_the_next_poll(make_site, late):
    site = make_site(settle="0s")
    site.upload("3.txt", b"x", row_id=3)
    site.poll()
    site.poll()
    site.upload("late.txt", b"x", row_id=late)
    site.poll()
    assert ("late.txt", 1) in site.versions()


@pytest.mark.usefixtures("large_table")
def test_full_read_goes_on_where_the_last_poll_stopped(make_site, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    monkeypatch.setattr(stream_module, "FULL_READ_PAGES", 1)
    site = make_site(settle="0s")
    for i in range(10, 16):
        site.upload(f"{i}.txt", b"x", row_id=i)
    site.poll()
    site.upload("1.txt", b"x", row_id=1)
    site.drop(12)
    read, cursors = [], []
    for _ in range(9):
        read.append(site.poll().facts["read"])
        under_way = json.loads(site.fact("files.reading"))["under_way"]
        cursors.append(under_way and (under_way["cursor"], under_way["asked_through"]))
    assert cursors[:3] == [("10", None), ("13", None), ("15", None)]
    assert cursors[-1] is None
    assert read[:3] == [2, 2, 2]
    assert ("1.txt", 1) in site.versions()
    assert not site.versions()["12.txt", 1].live


@pytest.mark.usefixtures("large_table")
def test_id_absurdly_far_above_the_others_hides_no_row_that_comes_after_it(make_site):
    site = make_site(settle="0s")
    site.upload("1.txt", b"x", row_id=1)
    site.upload("far.txt", b"x", row_id=9 * 10**18)
    site.work()
    site.drop(9 * 10**18)
    site.work()
    site.upload("2.txt", b"x", row_id=2)
    site.work()
    assert ("2.txt", 1) in site.versions()
    site.upload("3.txt", b"x", row_id=3)
    read = site.poll().facts["read"]
    assert ("3.txt", 1) in site.versions()
    assert read == 1


def test_poll_that_died_half_way_is_made_good_by_the_next(site, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    for i in range(5):
        site.upload(f"{i}.txt", b"x")
    site.publisher.away = True
    with pytest.raises(errors.BrokerUnavailable):
        site.poll()
    assert len(site.versions()) == 2
    site.publisher.away = False
    site.poll()
    assert len(site.versions()) == 5
    assert len(site.publisher.take()) == 5


def test_ids_without_an_order_are_all_read_with_each_poll(make_site, tmp_path):
    application = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with application.begin() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE "ObjectStorageFiles" ("Id" TEXT PRIMARY KEY, "Name" TEXT, "Path" TEXT, "Storage" TEXT, "Version" INTEGER,'
            ' "Hash" TEXT, "SignedDownloadUrl" TEXT)'
        )
        connection.exec_driver_sql(
            "INSERT INTO \"ObjectStorageFiles\" VALUES ('m', 'm.txt', '', 's3', 1, ?, 'https://h/m')", ("aa" * 32,)
        )
    site = make_site(settle="0s")
    site.poll()
    with application.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO \"ObjectStorageFiles\" VALUES ('a', 'a.txt', '', 's3', 1, ?, 'https://h/a')", ("aa" * 32,)
        )
    application.dispose()
    site.poll()
    assert set(site.versions()) == {("m.txt", 1), ("a.txt", 1)}


def test_intake_of_the_same_rows_again_adds_nothing(site):
    site.upload("a.txt", b"x")
    rows = site.context.source.rows_after(None, 10)
    assert (record_rows(site.context, rows).new, record_rows(site.context, rows).new) == (1, 0)


def test_two_processes_that_take_in_the_same_rows_at_once_add_them_once(site):
    for i in range(20):
        site.upload(f"{i}.txt", b"x")
    rows = site.context.source.rows_after(None, 100)
    other = site.open()
    between = threading.Event()

    def take_in_first(_connection, _cursor, statement, *_):
        # The moment between gathering what is known and writing: the other process is faster.
        if "place_digest IN" in statement and not between.is_set():
            between.set()
            assert record_rows(other, rows).new == 20

    sa.event.listen(site.context.catalog.engine, "before_cursor_execute", take_in_first)
    assert record_rows(site.context, rows).new == 0
    assert between.is_set()
    assert len(site.versions()) == 20


# ---- polling: one at a time, in a bounded window -----------------------------------------------------------------------------


def test_poll_is_skipped_while_another_process_polls(site):
    site.upload("a.txt", b"x")
    with site.rival() as rival:
        assert rival.leases.acquire("poll", LEASE)
        assert site.poll().outcome == "skipped"
        assert site.versions() == {}
        rival.leases.release("poll")
    assert site.poll().outcome == "polled"


def test_poll_is_skipped_while_another_thread_of_the_same_process_polls(site):
    site.upload("a.txt", b"x")
    outcomes = []
    site.publisher.send_backups = lambda _: outcomes.append(site.poll().outcome)
    assert site.poll().outcome == "polled"
    assert outcomes == ["skipped"]


def test_poll_whose_lease_went_to_another_stops_and_leaves_it_to_that_one(site, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 1)
    for i in range(3):
        site.upload(f"{i}.txt", b"x")
    with site.rival() as rival:

        def overtake(_versions):
            with site.context.catalog.database.writing() as connection:
                connection.exec_driver_sql("UPDATE leases SET until = 0")
            assert rival.leases.acquire("poll", LEASE)

        site.publisher.send_backups = overtake
        with pytest.raises(errors.LeaseLost):
            site.poll()
        assert len(site.versions()) == 2
        assert site.poll().outcome == "skipped"


def test_dispatch_is_bounded_by_the_window_until_work_is_done(make_site):
    site = make_site(dispatch_window=3)
    for i in range(7):
        site.upload(f"{i}.txt", b"x")
    site.poll()
    first = site.publisher.take()
    assert len(first) == 3
    site.poll()
    assert site.publisher.take() == []
    for row_id in first[:2]:
        site.back_up(row_id)
    site.poll()
    assert len(site.publisher.take()) == 2


def test_poll_stays_and_keeps_the_window_full_while_there_is_a_backlog(make_site, monkeypatch):
    monkeypatch.setattr(poll_module, "TOP_UP_SECONDS", 0.0)
    site = make_site(dispatch_window=2)
    for i in range(7):
        site.upload(f"{i}.txt", b"x")
    in_flight = []

    def work(_seconds):
        in_flight.append(site.context.catalog.work.in_flight())
        for row_id in site.publisher.take():
            site.back_up(row_id)
        return False

    assert site.poll(work).facts["sent"] == 7
    assert max(in_flight) == 2


def test_poll_does_not_stay_when_the_worker_is_to_stop(make_site):
    site = make_site(dispatch_window=1)
    for i in range(3):
        site.upload(f"{i}.txt", b"x")
    pauses = []
    site.poll(lambda seconds: pauses.append(seconds) or True)
    assert len(pauses) == 1


def test_messages_that_could_not_be_sent_are_sent_by_the_next_poll(site):
    ids = [site.upload(f"{i}.txt", b"x") for i in range(3)]
    site.publisher.away = True
    with pytest.raises(errors.BrokerUnavailable):
        site.poll()
    assert site.fact("poll.problem") == "the messages could not be sent: ConnectionError"
    assert site.context.catalog.work.in_flight() == 0
    site.publisher.away = False
    site.poll()
    assert site.publisher.take() == ids
    assert site.fact("poll.problem") is None


def test_work_that_fell_silent_is_sent_again_unless_its_message_still_waits(site):
    lost, waits = site.upload("lost.txt", b"x"), site.upload("waits.txt", b"x")
    site.poll()
    assert site.publisher.take() == [lost, waits]
    site.publisher.waiting = {waits}
    site.expire_leases()
    site.poll()
    assert site.publisher.take() == [lost]


def test_work_of_a_worker_that_died_is_sent_again_once_its_lease_has_run_out(site):
    row_id = site.upload("a.txt", b"x")
    site.poll()
    site.publisher.take()
    with site.rival() as rival:
        assert claim_row(rival, row_id, LEASE)
    site.poll()
    assert site.publisher.take() == []
    site.expire_leases()
    site.poll()
    assert site.publisher.take() == [row_id]


def test_disk_that_is_not_mounted_stops_dispatch_and_is_noted(site):
    row_id = site.upload("a.txt", b"x")
    (site.root / ".cbk").rename(site.folder / "away")
    with pytest.raises(errors.RootMissing):
        site.poll()
    assert site.publisher.take() == []
    assert "identity is missing" in site.fact("poll.problem")
    with pytest.raises(errors.RootMissing):
        site.back_up(row_id)
    (site.folder / "away").rename(site.root / ".cbk")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}
    assert site.fact("poll.problem") is None


def test_another_disk_than_the_catalogs_is_not_written_to(site):
    site.upload("a.txt", b"x")
    (site.root / ".cbk").rename(site.folder / "away")
    other = site.open(catalog_url=f"sqlite:///{site.folder}/other.db")
    list(initialise(other))
    site.reopen()
    with pytest.raises(errors.RootMissing, match="expected"):
        site.poll()
    assert site.publisher.take() == []


def test_source_that_is_broken_is_noted_until_it_is_mended(site):
    site.break_tables()
    with pytest.raises(errors.SourceSchemaError):
        site.poll()
    assert "ObjectStorageDeleteLog" in site.fact("poll.problem")
    assert site.fact("poll.finished_at") is None
    with site.application.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE "ObjectStorageDeleteLog" ("FileId" INTEGER)')
    site.poll()
    assert site.fact("poll.problem") is None
    assert site.fact("poll.finished_at") is not None


def test_lease_is_given_back_by_a_poll_that_fails(site):
    site.upload("a.txt", b"x")
    site.publisher.away = True
    with pytest.raises(errors.BrokerUnavailable):
        site.poll()
    with site.rival() as rival:
        assert rival.leases.acquire("poll", LEASE)


def test_parts_of_dead_workers_are_swept_and_those_of_living_ones_kept(site):
    living, dead = site.upload("living.txt", b"x"), site.upload("dead.txt", b"x")
    site.poll()
    incoming = site.root / ".cbk" / "incoming"
    with site.rival() as rival:
        gone = claim_row(rival, dead, LEASE)
        site.expire_leases()
        alive = claim_row(rival, living, LEASE)
    names = {claim: f"{claim.version.id}-{claim.fence}.part" for claim in (gone, alive)}
    earlier = f"{alive.version.id}-{alive.fence - 1}.part"
    for name in (*names.values(), earlier, "nonsense", "9999-1.part"):
        (incoming / name).write_bytes(b"half")
    site.poll()
    assert site.parts() == {names[alive]}


# ---- backing up: bytes before record -----------------------------------------------------------------------------------------


def test_version_is_stored_with_its_sizes_at_the_documented_path(site):
    row_id = site.upload("cars/id-1/thumbnail.png", b"png bytes" * 1000)
    site.poll()
    summary = site.back_up(row_id)
    assert summary.outcome == "stored"
    [version] = site.versions().values()
    copy = site.root / "car-erp/cars/id-1/thumbnail/v1.gzip"
    assert (version.state, version.size, version.stored_size) == (VersionState.STORED, 9000, copy.stat().st_size)
    assert stored(site, "car-erp/cars/id-1/thumbnail/v1.gzip") == b"png bytes" * 1000
    assert site.parts() == set()
    assert "DEADBEEFSECRET" not in repr(summary)


def test_copy_says_of_itself_what_its_row_said(site):
    row_id = site.upload("cars/a.png", b"x")
    site.change(row_id, ContentType="image/png")
    site.work()
    header = site.context.archive.inspect("car-erp/cars/a/v1.gzip")
    assert (header.storage, header.key, header.version, header.size) == ("s3", "cars/a.png", 1, 1)
    assert (header.content_type, header.source_id) == ("image/png", row_id)


def test_back_up_a_second_time_does_nothing(site):
    row_id = site.upload("a.txt", b"x")
    site.work()
    summary = site.back_up(row_id)
    assert (summary.outcome, summary.facts["reason"]) == ("nothing to do", "it is stored")
    assert site.origin.count("/car-erp/a.txt") == 1


def test_back_up_of_a_row_that_no_poll_has_seen_takes_it_in(site):
    row_id = site.upload("a.txt", b"x")
    assert site.back_up(row_id).outcome == "stored"


def test_back_up_of_a_row_that_does_not_exist_does_nothing(site):
    assert site.back_up("12345").facts["reason"] == "there is no such row"
    assert site.back_up("not an id").outcome == "nothing to do"


def test_back_up_of_a_row_that_is_declined_does_nothing_and_is_visible(site):
    row_id = site.upload("a.txt", b"x")
    site.change(row_id, Hash="nonsense")
    assert site.back_up(row_id).outcome == "nothing to do"
    assert "Hash is not a SHA-256" in site.declined()[row_id]


def test_back_up_of_what_another_worker_holds_does_nothing(site):
    row_id = site.upload("a.txt", b"x")
    site.poll()
    with site.rival() as rival:
        assert claim_row(rival, row_id, LEASE)
        summary = site.back_up(row_id)
    assert summary.facts["reason"] == "another worker is at it, or it is not due yet"
    assert site.origin.count("/car-erp/a.txt") == 0


def test_copy_that_a_crash_left_between_publishing_and_recording_is_adopted_without_a_download(site):
    row_id = site.upload("cars/a.png", b"png bytes")
    site.leave_copy("cars/a.png", b"png bytes", location="car-erp/cars/a/v1.gzip")
    site.poll()
    assert site.back_up(row_id).outcome == "adopted"
    assert site.origin.count("/car-erp/cars/a.png") == 0
    [version] = site.versions().values()
    assert (version.state, version.size) == (VersionState.STORED, 9)
    assert version.stored_size == (site.root / "car-erp/cars/a/v1.gzip").stat().st_size


@pytest.mark.parametrize(
    "left", [b"", b"no gzip at all", gzip.compress(b"png bytes", mtime=0), gzip.compress(b"png bytes", mtime=0)[:-3]]
)
def test_leftover_that_is_no_good_copy_is_kept_as_evidence_and_fetched_again(site, left):
    row_id = site.upload("cars/a.png", b"png bytes")
    (site.root / "car-erp/cars/a").mkdir(parents=True)
    (site.root / "car-erp/cars/a/v1.gzip").write_bytes(left)
    site.poll()
    assert site.back_up(row_id).outcome == "stored"
    assert stored(site, "car-erp/cars/a/v1.gzip") == b"png bytes"
    assert site.quarantined() == [left]


def test_copy_that_another_worker_published_meanwhile_counts(site):
    content = b"png bytes"

    def answer(exchange):
        site.leave_copy("a.png", content, location="car-erp/a/v1.gzip")
        return serve()(exchange)

    row_id = site.upload("a.png", content, answer)
    site.poll()
    assert site.back_up(row_id).outcome == "stored"
    assert site.states() == {("a.png", 1): "stored"}
    assert site.copies() == {"car-erp/a/v1.gzip"}
    assert site.parts() == set()


def test_worker_that_lost_its_lease_in_mid_download_records_nothing(site):
    with site.rival() as rival:

        def answer(exchange):
            site.expire_leases()
            assert claim_row(rival, "1", LEASE)
            return serve()(exchange)

        assert site.upload("a.txt", b"x" * 100, answer) == "1"
        site.poll()
        with pytest.raises(errors.LeaseLost):
            site.back_up("1")
        assert site.states() == {("a.txt", 1): "pending"}
        assert site.parts() == set()
        assert rival.work.in_flight() == 1


@pytest.mark.parametrize("content", [b"x" * 100, b""])
def test_worker_that_slept_through_its_lease_publishes_nothing(site, monkeypatch, content):
    slept = threading.Event()
    monkeypatch.setattr("cbk.edges.catalog.backup.work_queue.uptime", lambda: 3600.0 if slept.is_set() else 0.0)
    with site.rival() as rival:

        def sleep(*_):
            slept.set()
            site.expire_leases()
            assert claim_row(rival, "1", LEASE)

        assert site.upload("a.txt", content) == "1"
        site.poll()
        monkeypatch.setattr(os, "posix_fadvise", sleep)  # called when the part is opened to be read back
        with pytest.raises(errors.LeaseLost):
            site.back_up("1")
    assert (site.parts(), site.copies()) == (set(), set())


def test_lease_is_renewed_with_each_chunk_that_is_read_back(site, monkeypatch):
    """A copy that takes longer to verify than the lease lasts must not be lost to another worker in the meantime."""
    row_id = site.upload("large.bin", os.urandom(3_000_000))
    site.poll()
    reading, renewals = threading.Event(), []
    advise = os.posix_fadvise

    def begin_reading(*arguments):
        reading.set()
        return advise(*arguments)

    def count(_connection, _cursor, statement, *_):
        if reading.is_set() and "SET lease_until" in statement:
            renewals.append(statement)

    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("cbk.edges.catalog.backup.work_queue.uptime", lambda: next(hours))
    monkeypatch.setattr(os, "posix_fadvise", begin_reading)
    sa.event.listen(site.context.catalog.engine, "before_cursor_execute", count)
    assert site.back_up(row_id).outcome == "stored"
    assert len(renewals) > 3


@pytest.fixture
def readback(monkeypatch):
    """Objects from 2 MB on are large. `readback.flushed` has the size of a part each time that it was flushed to be read back."""
    seen = SimpleNamespace(flushed=[], began=threading.Event())
    real = os.fdatasync

    def fdatasync(descriptor):
        assert threading.current_thread().name == "cbk-trail"
        real(descriptor)
        seen.flushed.append(os.fstat(descriptor).st_size)
        seen.began.set()

    for name, value in {"FROM_BYTES": 2_000_000, "STEP_BYTES": 500_000, "GAP_BYTES": 10_000}.items():
        monkeypatch.setattr(archive_module, f"_READBACK_{name}", value)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return seen


def test_large_object_is_read_back_while_it_comes_in_and_stored(site, readback):
    content = os.urandom(5_000_000)

    def answer(exchange):
        exchange.head(200, {"Content-Length": str(len(content))})
        exchange.sock.sendall(content[:3_000_000])
        assert readback.began.wait(30)
        exchange.sock.sendall(content[3_000_000:])
        return False

    row_id = site.upload("large.bin", content, answer)
    site.poll()
    assert site.back_up(row_id).outcome == "stored"
    [location] = site.copies()
    assert stored(site, location) == content
    assert readback.flushed[0] < 3_500_000
    assert readback.flushed[-1] == (site.root / location).stat().st_size
    assert site.parts() == set()


def test_large_object_goes_on_after_a_cut_and_is_stored(site, readback):
    content = os.urandom(5_000_000)
    row_id = site.upload("large.bin", content, cut(3_000_000), serve())
    site.poll()
    assert site.back_up(row_id).outcome == "stored"
    [location] = site.copies()
    assert stored(site, location) == content
    assert readback.flushed


def test_large_object_that_does_not_come_whole_leaves_no_part_and_no_thread(site, readback):
    row_id = site.upload("large.bin", os.urandom(5_000_000), cut(3_000_000), status(404))
    site.poll()
    with pytest.raises(errors.DownloadError):
        site.back_up(row_id)
    assert (site.parts(), site.copies()) == (set(), set())
    assert "cbk-trail" not in {thread.name for thread in threading.enumerate()}


def test_full_disk_fails_the_version_with_its_reason_and_lets_it_back_off(site, monkeypatch):
    row_id = site.upload("a.bin", os.urandom(100_000))
    site.poll()
    write = os.write
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(errors.DiskFull):
        site.back_up(row_id)
    monkeypatch.setattr(os, "write", write)
    [version] = site.versions().values()
    assert (version.state, version.attempts) == (VersionState.FAILED, 1)
    assert version.reason.startswith("cannot write part")
    assert version.due_at > site.context.catalog.database.now()
    assert (site.parts(), site.copies()) == (set(), set())
    site.pass_backoff()
    assert site.back_up(row_id).outcome == "stored"


def test_disk_that_does_not_give_back_what_was_written_leaves_no_copy_but_a_reason(site, monkeypatch):
    row_id = site.upload("a.bin", os.urandom(100_000))
    site.poll()

    def rot(descriptor, *_):
        with Path(f"/proc/self/fd/{descriptor}").open("r+b") as part:
            part.seek(50_000)
            part.write(b"rotten")

    monkeypatch.setattr(os, "posix_fadvise", rot)
    with pytest.raises(errors.CopyCorrupt):
        site.back_up(row_id)
    [version] = site.versions().values()
    assert (version.state, version.attempts) == (VersionState.FAILED, 1)
    assert version.due_at > site.context.catalog.database.now()
    assert version.reason.startswith("part 1-1.part: ")
    assert (site.parts(), site.copies()) == (set(), set())


def test_disk_that_is_unmounted_in_mid_download_gives_the_version_back(site):
    def answer(exchange):
        (site.root / ".cbk").rename(site.folder / "away")
        return serve()(exchange)

    row_id = site.upload("a.txt", b"x", answer, serve())
    site.poll()
    with pytest.raises(errors.ArchiveError):
        site.back_up(row_id)
    (site.folder / "away").rename(site.root / ".cbk")
    site.pass_backoff()
    assert site.back_up(row_id).outcome == "stored"
    site.poll()
    assert site.parts() == set()


def test_source_that_goes_away_gives_the_version_back(site):
    row_id = site.upload("a.txt", b"x")
    site.poll()
    site.publisher.take()
    (site.folder / "app.db").rename(site.folder / "away.db")
    with pytest.raises(errors.SourceError):
        site.back_up(row_id)
    (site.folder / "away.db").rename(site.folder / "app.db")
    [version] = site.versions().values()
    assert (version.state, version.attempts) == (VersionState.PENDING, 0)
    site.pass_backoff()
    assert site.back_up(row_id).outcome == "stored"


# ---- backing up: what goes wrong has a state, a reason and a time ------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "state", "reason", "again"),
    [
        ([status(503)], "failed", "answers 503 for now", True),
        ([html_page()], "mismatch", "but its row says", True),
        ([status(204)], "failed", "answers 204 instead of the object", True),
        ([cut(0)], "failed", "closed the connection before the object was complete", True),
        ([s3_error(403, "SignatureDoesNotMatch", "no")], "failed", "the link was altered after it was signed", True),
        ([s3_error(404, "NoSuchKey", "no")], "missing", "has no such object (404)", True),
        ([EXPIRED], "expired", "the application has to write a fresh link", False),
    ],
)
def test_download_that_fails_leaves_a_state_a_reason_and_when_it_is_due_again(site, answers, state, reason, again):
    row_id = site.upload("a.txt", b"some bytes", *answers)
    site.poll()
    with pytest.raises(errors.DownloadError):
        site.back_up(row_id)
    [version] = site.versions().values()
    assert version.state.value == state
    assert reason in version.reason
    assert (version.due_at is not None) is again
    assert version.due_at is None or version.due_at > site.context.catalog.database.now()
    assert "DEADBEEFSECRET" not in version.reason
    assert (site.copies(), site.parts()) == (set(), set())


def test_object_that_is_not_the_rows_is_never_a_copy(site):
    row_id = site.upload("a.txt", b"other bytes", hash_of=b"the row's bytes")
    site.poll()
    with pytest.raises(errors.HashMismatch):
        site.back_up(row_id)
    assert (site.states(), site.copies()) == ({("a.txt", 1): "mismatch"}, set())


def test_failed_version_is_sent_again_at_its_time_and_not_before(site):
    site.upload("a.txt", b"x", status(503), serve())
    site.work()
    site.poll()
    assert site.publisher.take() == []
    site.pass_backoff()
    site.work()
    [version] = site.versions().values()
    assert (version.state, version.reason) == (VersionState.STORED, "")


def test_origin_that_asks_to_wait_is_left_alone_for_so_long(site):
    site.upload("a.txt", b"x", status(503, retry_after="7200"))
    site.work()
    [version] = site.versions().values()
    assert version.due_at > site.context.catalog.database.now() + timedelta(minutes=119)


def test_link_to_a_host_that_is_not_allowed_is_declined_and_never_asked(site):
    with Origin() as stranger:
        site.upload("a.txt", b"x", link=stranger.put("/a.txt", b"x"))
        site.work()
        assert stranger.requests("/a.txt") == []
    [version] = site.versions().values()
    assert version.state is VersionState.DECLINED
    assert "CBK_ALLOWED_HOSTS" in version.reason


def test_version_that_settings_declined_is_stored_once_they_allow_it(site):
    with Origin() as stranger:
        site.upload("a.txt", b"x", link=stranger.put("/a.txt", b"x"))
        site.work()
        site.reopen(allowed_hosts=f"{site.origin.address},{stranger.address}")
        site.pass_backoff()
        site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_object_that_is_too_large_is_declined_before_it_is_fetched(make_site):
    site = make_site(max_file_size="1k")
    site.upload("a.bin", b"x" * 1001)
    site.upload("b.bin", b"x" * 1000)
    site.work()
    assert site.states() == {("a.bin", 1): "declined", ("b.bin", 1): "stored"}


def test_bad_row_blocks_no_other(site):
    bad = site.upload("bad.txt", b"x")
    site.change(bad, Version=-1)
    site.upload("good.txt", b"x")
    site.work()
    assert site.states() == {("good.txt", 1): "stored"}
    assert list(site.declined()) == [bad]


# ---- rows that change --------------------------------------------------------------------------------------------------------


def test_declined_row_that_is_mended_is_forgiven_and_stored(site):
    row_id = site.upload("a.txt", b"x")
    good = site.row(row_id)["Hash"]
    site.change(row_id, Hash="nonsense")
    site.work()
    assert list(site.declined()) == [row_id]
    site.change(row_id, Hash=good)
    site.work()
    assert (site.declined(), site.states()) == ({}, {("a.txt", 1): "stored"})


def test_declined_row_that_stays_as_it_is_stays_declined(site):
    row_id = site.upload("a.txt", b"x")
    site.change(row_id, Hash="nonsense")
    site.work()
    site.work()
    assert list(site.declined()) == [row_id]


def test_declined_row_that_is_gone_is_forgotten(site):
    row_id = site.upload("a.txt", b"x")
    site.change(row_id, Hash="nonsense")
    site.work()
    site.drop(row_id)
    site.work()
    assert site.declined() == {}


def test_expired_link_that_is_refreshed_makes_its_version_due(site):
    row_id = site.upload("a.txt", b"x", EXPIRED)
    site.work()
    assert site.states() == {("a.txt", 1): "expired"}
    site.work()
    assert site.origin.count("/car-erp/a.txt") == 1
    site.origin.put("/fresh/a.txt", b"x")
    site.refresh(row_id, "/fresh/a.txt")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_link_that_is_signed_anew_again_and_again_leaves_a_failed_version_its_backoff(site):
    row_id = site.upload("a.txt", b"x", status(503))
    for _ in range(3):
        site.work()
        site.pass_backoff()
    due_at = site.versions()["a.txt", 1].due_at
    site.pass_time(due_at=-timedelta(hours=1))
    for number in range(3):
        site.change(row_id, SignedDownloadUrl=f"{site.link('/car-erp/a.txt')}{number}&Expires=4102444800&Signature=x")
        site.work()
    version = site.versions()["a.txt", 1]
    assert site.origin.count("/car-erp/a.txt") == 3
    assert (version.state, version.attempts) == ("failed", 3)
    assert version.due_at > due_at
    assert version.link_expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    site.origin.put("/car-erp/a.txt", b"x")
    site.pass_time(due_at=timedelta(minutes=1))
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_fresh_link_of_a_version_that_was_denied_does_not_wait_and_goes_on_counting(site):
    row_id = site.upload("a.txt", b"x", s3_error(403, "SignatureDoesNotMatch", "The signature does not match."))
    site.work()
    site.refresh(row_id, "/still-denied/a.txt")
    site.origin.put("/still-denied/a.txt", b"x", s3_error(403, "AccessDenied", "Access Denied"))
    site.work()
    assert (site.states(), site.versions()["a.txt", 1].attempts) == ({("a.txt", 1): "failed"}, 2)
    site.origin.put("/fresh/a.txt", b"x")
    site.refresh(row_id, "/fresh/a.txt")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_row_that_vanished_before_its_download_leaves_its_version_missing(site):
    row_id = site.upload("a.txt", b"x")
    site.poll()
    site.drop(row_id)
    assert site.back_up(row_id).outcome == "missing"
    [version] = site.versions().values()
    assert (version.reason, version.due_at) == ("its row is gone from the application's table", None)
    assert site.origin.count("/car-erp/a.txt") == 0


def test_row_that_vanished_and_came_back_is_stored(site):
    row_id = site.upload("a.txt", b"x")
    row = site.row(row_id)
    site.poll()
    site.drop(row_id)
    site.back_up(row_id)
    site.work()
    assert site.states() == {("a.txt", 1): "missing"}
    site.put_back(row)
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_hash_that_changed_in_place_is_what_the_row_says_now_until_it_is_mended(site):
    row_id = site.upload("a.txt", b"x")
    good = site.row(row_id)["Hash"]
    site.poll()
    site.publisher.take()
    site.change(row_id, Hash="bb" * 32)
    assert site.back_up(row_id).outcome == "declined"
    assert "new content needs a higher Version" in site.versions()["a.txt", 1].reason
    site.work()
    assert site.states() == {("a.txt", 1): "mismatch"}
    site.change(row_id, Hash=good)
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}


def test_second_row_with_the_same_version_and_another_hash_is_visible_and_overwrites_nothing(site):
    site.upload("a.txt", b"first")
    site.work()
    forged = site.upload("a.txt", b"second")
    site.work()
    assert "version 1 is known with another Hash" in site.declined()[forged]
    assert stored(site, "car-erp/a/v1.gzip") == b"first"


# ---- versions of one file ----------------------------------------------------------------------------------------------------


def test_newest_version_is_fetched_and_older_ones_are_superseded(site):
    for number in (1, 2, 3):
        site.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    site.work()
    assert site.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "superseded", ("a.txt", 3): "stored"}
    assert site.versions()["a.txt", 1].reason == "v3 is stored"
    assert site.copies() == {"car-erp/a/v3.gzip"}
    assert site.origin.count("/car-erp/a.txt-1") == 0


def test_new_version_is_stored_beside_the_one_that_it_replaces(site):
    site.upload("a.txt", b"v1", version=1)
    site.work()
    site.upload("a.txt", b"v2", version=2)
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}
    assert site.copies() == {"car-erp/a/v1.gzip", "car-erp/a/v2.gzip"}


def test_old_link_that_gives_the_newest_bytes_is_superseded_not_corrupt(make_site):
    site = make_site(keep_versions=3)
    for number in (1, 2, 3):
        site.upload("a.txt", b"v3", version=number, hash_of=b"v%d" % number)
    site.work()
    assert site.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "superseded", ("a.txt", 3): "stored"}
    assert site.versions()["a.txt", 1].reason == "its object holds the bytes of v3 now"
    site.pass_backoff()
    site.work()
    assert site.origin.count("/car-erp/a.txt") == 3


def test_as_many_versions_are_kept_as_are_asked_for(make_site):
    site = make_site(keep_versions=3)
    for number in (1, 2, 3, 4):
        site.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    site.work()
    assert site.states() == {("a.txt", 1): "superseded", **{("a.txt", number): "stored" for number in (2, 3, 4)}}


def test_superseded_version_returns_when_more_are_to_be_kept_and_its_row_is_read_again(site):
    for number in (1, 2):
        site.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    site.work()
    site.reopen(keep_versions=2)
    site.upload("a.txt", b"v3", version=3, served_at="/car-erp/a.txt-3")
    site.work()
    assert site.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "stored", ("a.txt", 3): "stored"}


def test_an_old_copy_beats_none(site):
    site.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    site.upload("a.txt", b"v2", EXPIRED, version=2, served_at="/car-erp/a.txt-2")
    site.work()
    assert site.states() == {("a.txt", 1): "pending", ("a.txt", 2): "expired"}
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "expired"}


def test_an_old_copy_beats_none_where_the_row_of_the_newest_vanished(site):
    site.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    newest = site.upload("a.txt", b"v2", version=2, served_at="/car-erp/a.txt-2")
    site.poll()
    site.drop(newest)
    assert site.back_up(newest).outcome == "missing"
    site.publisher.take()
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "missing"}


def test_older_version_is_fetched_when_the_newer_one_failed_too_often(site):
    site.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    site.upload("a.txt", b"v2", status(503), version=2, served_at="/car-erp/a.txt-2")
    for attempt in (1, 2, 3):
        assert site.states().get(("a.txt", 1), "pending") == "pending"
        site.work()
        assert site.versions()["a.txt", 2].attempts == attempt
        site.pass_backoff()
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "failed"}


def test_newest_version_that_comes_back_is_stored_although_an_older_one_was_fetched_meanwhile(site):
    site.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    newest = site.upload("a.txt", b"v2", EXPIRED, version=2, served_at="/car-erp/a.txt-2")
    site.work()
    site.work()
    site.origin.put("/fresh/a.txt", b"v2")
    site.refresh(newest, "/fresh/a.txt")
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}


def test_row_whose_version_was_raised_in_place_brings_the_new_version(site):
    row_id = site.upload("a.txt", b"v1")
    site.work()
    site.origin.put("/car-erp/a.txt", b"v2")
    site.change(row_id, Version=2, Hash=sha256(b"v2").hexdigest())
    site.forget_fact("files.window")
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}
    assert stored(site, "car-erp/a/v2.gzip") == b"v2"


# ---- resync ------------------------------------------------------------------------------------------------------------------


def test_resync_fetches_a_copy_that_was_lost(site):
    row_id = site.upload("cars/a.png", b"x")
    site.work()
    (site.root / "car-erp/cars/a/v1.gzip").unlink()
    summary = resync(site.context, site.publisher, storage="s3", key="/cars/a.png")
    assert summary.facts["why"] == "v1: its copy was not on the disk"
    assert site.publisher.take() == [row_id]
    assert site.back_up(row_id).outcome == "stored"
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


def test_resync_puts_a_corrupt_copy_aside_and_fetches_it_again(site):
    row_id = site.upload("cars/a.png", b"x")
    site.work()
    (site.root / "car-erp/cars/a/v1.gzip").write_bytes(b"rotten")
    assert resync(site.context, site.publisher, file_id=row_id).facts["why"] == "v1: its copy was corrupt"
    assert site.states() == {("cars/a.png", 1): "pending"}
    assert site.back_up(row_id).outcome == "stored"
    assert site.quarantined() == [b"rotten"]


def test_resync_of_what_is_well_changes_nothing(site):
    row_id = site.upload("a.txt", b"x")
    site.work()
    summary = resync(site.context, site.publisher, storage="s3", key="a.txt")
    assert (summary.outcome, summary.facts["again"], site.publisher.take()) == ("resynced", 0, [])
    assert site.states() == {("a.txt", 1): "stored"}
    assert site.back_up(row_id).outcome == "nothing to do"


def test_resync_takes_in_a_row_that_no_poll_has_seen(site):
    row_id = site.upload("a.txt", b"x")
    resync(site.context, site.publisher, storage="s3", key="a.txt")
    assert site.publisher.take() == [row_id]


def test_resync_tries_a_version_again_whose_link_had_expired(site):
    row_id = site.upload("a.txt", b"x", EXPIRED, serve())
    site.work()
    resync(site.context, site.publisher, storage="s3", key="a.txt")
    assert site.publisher.take() == [row_id]
    assert site.back_up(row_id).outcome == "stored"


def test_dry_resync_changes_nothing(site):
    lost = site.upload("lost.txt", b"x")
    site.work()
    (site.root / "car-erp/lost/v1.gzip").write_bytes(b"rotten")
    unseen = site.upload("unseen.txt", b"x")
    for row_id in (lost, unseen):
        summary = resync(site.context, site.publisher, file_id=row_id, dry_run=True)
        assert summary.outcome == "would fetch"
    assert (site.states(), site.publisher.take(), site.quarantined()) == ({("lost.txt", 1): "stored"}, [], [])


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"storage": "s3"},
        {"key": "a.txt"},
        {"storage": "s3", "key": "a.txt", "file_id": "1"},
        {"storage": "s3", "key": "nothing.txt"},
        {"storage": "azure", "key": "a.txt"},
        {"file_id": "777"},
        {"file_id": "no id"},
    ],
)
def test_resync_that_names_no_file_says_what_it_takes(site, named):
    site.upload("a.txt", b"x")
    with pytest.raises(errors.UsageError) as caught:
        resync(site.context, site.publisher, **named)
    assert caught.value.hint


# ---- setup -------------------------------------------------------------------------------------------------------------------


def test_initialise_a_second_time_changes_nothing(site):
    identity = site.context.archive.identity()
    steps = list(initialise(site.context))
    assert site.context.archive.identity() == identity
    assert steps[-1].endswith("was ready")


def test_initialise_refuses_another_disk_than_the_catalogs_and_leaves_nothing_on_it(site):
    (site.root / ".cbk").rename(site.folder / "away")
    for dry_run in (True, False):
        with pytest.raises(errors.RootMissing) as caught:
            list(initialise(site.context, dry_run=dry_run))
        assert "is no disk of the kit" in caught.value.message
        assert "mount the right disk" in caught.value.hint
    assert list(site.root.iterdir()) == []


def test_dry_initialise_makes_no_table_in_a_shared_catalog(make_site, postgres, pg_database):
    context = make_site().open(catalog_url=postgres.url(pg_database))
    assert len(list(initialise(context, dry_run=True))) == 2
    with pytest.raises(errors.CatalogOutdated):
        context.catalog.require_current()
    assert sa.inspect(context.catalog.engine).get_table_names() == []


# ---- two machines that share a catalog -----------------------------------------------------------------------------------------


def test_everything_works_with_a_catalog_in_postgresql(make_site, postgres, pg_database):
    site = make_site(catalog_url=postgres.url(pg_database), keep_versions=2)
    for number in (1, 2, 3):
        site.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    site.change(site.upload("bad.txt", b"x"), Hash="nonsense")
    site.upload("busy.txt", b"x", status(503), serve())
    site.work()
    site.pass_backoff()
    site.work()
    assert site.states() == {
        ("a.txt", 1): "superseded",
        ("a.txt", 2): "stored",
        ("a.txt", 3): "stored",
        ("busy.txt", 1): "stored",
    }
    assert len(site.declined()) == 1
    assert list(initialise(site.context))[-1].endswith("was ready")
