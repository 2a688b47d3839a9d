"""The jobs, called directly, on a real source, catalog, disk and HTTP origin."""

import errno
import gzip
import os
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges import archive as archive_module
from cbk.jobs import poll as poll_module
from cbk.jobs import stream as stream_module
from cbk.jobs.intake import take_in
from cbk.jobs.resync import resync
from cbk.jobs.setup import initialise
from cbk.model import VersionState
from tests.desk import claim_row
from tests.origin import Origin, cut, html_page, s3_error, serve, status

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
LEASE = timedelta(minutes=2)


def stored(desk, location):
    return gzip.decompress((desk.root / location).read_bytes())


# ---- polling: no row is missed -----------------------------------------------------------------------------------------------


def test_poll_takes_rows_in_and_sends_each_new_version_once(desk):
    ids = [desk.upload(f"{i}.txt", b"x") for i in range(3)]
    summary = desk.poll()
    counted = {"read": 3, "new": 3, "declined": 0, "deletes": 0, "sent": 3, "prunes": 0}
    assert (summary.outcome, dict(summary.facts)) == ("polled", counted)
    assert desk.courier.take() == ids
    desk.poll()
    assert desk.courier.take() == []


def test_poll_reads_over_page_borders(desk, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    for i in range(5):
        desk.upload(f"{i}.txt", b"x")
    assert desk.poll().facts["new"] == 5
    desk.upload("5.txt", b"x")
    assert desk.poll().facts["new"] == 1


def test_poll_reads_rows_that_are_known_not_again(desk):
    for i in range(3):
        desk.upload(f"{i}.txt", b"x")
    desk.poll()
    assert desk.poll().facts["read"] == 0


def test_row_that_commits_late_with_a_lower_id_is_taken_in_while_ids_settle(desk):
    desk.upload("1.txt", b"x", row_id=1)
    desk.upload("3.txt", b"x", row_id=3)
    desk.poll()
    desk.upload("2.txt", b"x", row_id=2)
    desk.poll()
    assert ("2.txt", 1) in desk.versions()


def test_row_that_commits_late_beside_a_new_one_is_taken_in(desk):
    desk.upload("1.txt", b"x", row_id=1)
    desk.upload("3.txt", b"x", row_id=3)
    desk.poll()
    desk.upload("4.txt", b"x", row_id=4)
    desk.upload("2.txt", b"x", row_id=2)
    desk.poll()
    assert {number for number, _ in desk.versions()} == {"1.txt", "2.txt", "3.txt", "4.txt"}


def test_row_that_commits_late_after_some_polls_without_news_is_taken_in(desk):
    desk.upload("3.txt", b"x", row_id=3)
    for _ in range(3):
        desk.poll()
    desk.upload("2.txt", b"x", row_id=2)
    desk.poll()
    assert ("2.txt", 1) in desk.versions()


def test_row_later_than_the_settling_window_is_found_by_the_next_full_reconciliation(make_desk):
    desk = make_desk(settle="0s")
    desk.upload("3.txt", b"x", row_id=3)
    desk.poll()
    desk.poll()
    desk.upload("2.txt", b"x", row_id=2)
    desk.poll()
    assert ("2.txt", 1) not in desk.versions()
    yesterday = desk.kit.catalog.database.now() - timedelta(days=1, seconds=1)
    desk.kit.catalog.facts.set(**{"files.reconcile.finished_at": yesterday.isoformat()})
    desk.poll()
    assert ("2.txt", 1) in desk.versions()
    assert datetime.fromisoformat(desk.fact("files.reconcile.finished_at")) > yesterday + timedelta(hours=1)


def test_reconciliation_goes_on_where_the_last_poll_stopped(make_desk, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    monkeypatch.setattr(stream_module, "RECONCILE_PAGES", 1)
    desk = make_desk(settle="0s", reconcile_interval="1ms")
    for i in range(10, 16):
        desk.upload(f"{i}.txt", b"x", row_id=i)
    desk.poll()
    desk.upload("1.txt", b"x", row_id=1)
    desk.upload("14b.txt", b"x", row_id=17)
    read, cursors = [], []
    for _ in range(5):
        read.append(desk.poll().facts["read"])
        cursors.append(desk.fact("files.reconcile.cursor"))
    assert cursors == ["10", "12", "14", "17", None]
    assert read[1:] == [2, 2, 2, 0]
    assert ("1.txt", 1) in desk.versions()


def test_poll_that_died_half_way_is_made_good_by_the_next(desk, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 2)
    for i in range(5):
        desk.upload(f"{i}.txt", b"x")
    desk.courier.away = True
    with pytest.raises(errors.BrokerUnavailable):
        desk.poll()
    assert len(desk.versions()) == 2
    desk.courier.away = False
    desk.poll()
    assert len(desk.versions()) == 5
    assert len(desk.courier.take()) == 5


def test_ids_without_an_order_are_all_read_with_each_poll(make_desk, tmp_path):
    application = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with application.begin() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE "ObjectStorageFiles" ("Id" TEXT PRIMARY KEY, "Name" TEXT, "Path" TEXT, "Storage" TEXT, "Version" INTEGER,'
            ' "Hash" TEXT, "SignedDownloadUrl" TEXT)'
        )
        connection.exec_driver_sql(
            "INSERT INTO \"ObjectStorageFiles\" VALUES ('m', 'm.txt', '', 's3', 1, ?, 'https://h/m')", ("aa" * 32,)
        )
    desk = make_desk(settle="0s")
    desk.poll()
    with application.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO \"ObjectStorageFiles\" VALUES ('a', 'a.txt', '', 's3', 1, ?, 'https://h/a')", ("aa" * 32,)
        )
    application.dispose()
    desk.poll()
    assert set(desk.versions()) == {("m.txt", 1), ("a.txt", 1)}


def test_intake_of_the_same_rows_again_adds_nothing(desk):
    desk.upload("a.txt", b"x")
    rows = desk.kit.source.rows_after(None, 10)
    assert (take_in(desk.kit, rows).new, take_in(desk.kit, rows).new) == (1, 0)


def test_two_processes_that_take_in_the_same_rows_at_once_add_them_once(desk):
    for i in range(20):
        desk.upload(f"{i}.txt", b"x")
    rows = desk.kit.source.rows_after(None, 100)
    other = desk.open()
    between = threading.Event()

    def take_in_first(_connection, _cursor, statement, *_):
        # The moment between gathering what is known and writing: the other process is faster.
        if "place_digest IN" in statement and not between.is_set():
            between.set()
            assert take_in(other, rows).new == 20

    sa.event.listen(desk.kit.catalog.engine, "before_cursor_execute", take_in_first)
    assert take_in(desk.kit, rows).new == 0
    assert between.is_set()
    assert len(desk.versions()) == 20


# ---- polling: one at a time, in a bounded window -----------------------------------------------------------------------------


def test_poll_is_skipped_while_another_process_polls(desk):
    desk.upload("a.txt", b"x")
    with desk.rival() as rival:
        assert rival.leases.acquire("poll", LEASE)
        assert desk.poll().outcome == "skipped"
        assert desk.versions() == {}
        rival.leases.release("poll")
    assert desk.poll().outcome == "polled"


def test_poll_is_skipped_while_another_thread_of_the_same_process_polls(desk):
    desk.upload("a.txt", b"x")
    outcomes = []
    desk.courier.send_backups = lambda _: outcomes.append(desk.poll().outcome)
    assert desk.poll().outcome == "polled"
    assert outcomes == ["skipped"]


def test_poll_whose_lease_went_to_another_stops_and_leaves_it_to_that_one(desk, monkeypatch):
    monkeypatch.setattr(stream_module, "PAGE_ROWS", 1)
    for i in range(3):
        desk.upload(f"{i}.txt", b"x")
    with desk.rival() as rival:

        def overtake(_versions):
            with desk.kit.catalog.database.writing() as connection:
                connection.exec_driver_sql("UPDATE leases SET until = 0")
            assert rival.leases.acquire("poll", LEASE)

        desk.courier.send_backups = overtake
        with pytest.raises(errors.LeaseLost):
            desk.poll()
        assert len(desk.versions()) == 2
        assert desk.poll().outcome == "skipped"


def test_dispatch_is_bounded_by_the_window_until_work_is_done(make_desk):
    desk = make_desk(dispatch_window=3)
    for i in range(7):
        desk.upload(f"{i}.txt", b"x")
    desk.poll()
    first = desk.courier.take()
    assert len(first) == 3
    desk.poll()
    assert desk.courier.take() == []
    for row_id in first[:2]:
        desk.back_up(row_id)
    desk.poll()
    assert len(desk.courier.take()) == 2


def test_poll_stays_and_keeps_the_window_full_while_there_is_a_backlog(make_desk, monkeypatch):
    monkeypatch.setattr(poll_module, "TOP_UP_SECONDS", 0.0)
    desk = make_desk(dispatch_window=2)
    for i in range(7):
        desk.upload(f"{i}.txt", b"x")
    in_flight = []

    def work(_seconds):
        in_flight.append(desk.kit.catalog.work.in_flight())
        for row_id in desk.courier.take():
            desk.back_up(row_id)
        return False

    assert desk.poll(work).facts["sent"] == 7
    assert max(in_flight) == 2


def test_poll_does_not_stay_when_the_worker_is_to_stop(make_desk):
    desk = make_desk(dispatch_window=1)
    for i in range(3):
        desk.upload(f"{i}.txt", b"x")
    pauses = []
    desk.poll(lambda seconds: pauses.append(seconds) or True)
    assert len(pauses) == 1


def test_messages_that_could_not_be_sent_are_sent_by_the_next_poll(desk):
    ids = [desk.upload(f"{i}.txt", b"x") for i in range(3)]
    desk.courier.away = True
    with pytest.raises(errors.BrokerUnavailable):
        desk.poll()
    assert desk.fact("poll.problem") == "the messages could not be sent: ConnectionError"
    assert desk.kit.catalog.work.in_flight() == 0
    desk.courier.away = False
    desk.poll()
    assert desk.courier.take() == ids
    assert desk.fact("poll.problem") is None


def test_work_that_fell_silent_is_sent_again_unless_its_message_still_waits(desk):
    lost, waits = desk.upload("lost.txt", b"x"), desk.upload("waits.txt", b"x")
    desk.poll()
    assert desk.courier.take() == [lost, waits]
    desk.courier.waiting = {waits}
    desk.expire_leases()
    desk.poll()
    assert desk.courier.take() == [lost]


def test_work_of_a_worker_that_died_is_sent_again_once_its_lease_has_run_out(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.poll()
    desk.courier.take()
    with desk.rival() as rival:
        assert claim_row(rival, row_id, LEASE)
    desk.poll()
    assert desk.courier.take() == []
    desk.expire_leases()
    desk.poll()
    assert desk.courier.take() == [row_id]


def test_disk_that_is_not_mounted_stops_dispatch_and_is_noted(desk):
    row_id = desk.upload("a.txt", b"x")
    (desk.root / ".cbk").rename(desk.folder / "away")
    with pytest.raises(errors.RootMissing):
        desk.poll()
    assert desk.courier.take() == []
    assert "identity is missing" in desk.fact("poll.problem")
    with pytest.raises(errors.RootMissing):
        desk.back_up(row_id)
    (desk.folder / "away").rename(desk.root / ".cbk")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}
    assert desk.fact("poll.problem") is None


def test_another_disk_than_the_catalogs_is_not_written_to(desk):
    desk.upload("a.txt", b"x")
    (desk.root / ".cbk").rename(desk.folder / "away")
    other = desk.open(catalog_url=f"sqlite:///{desk.folder}/other.db")
    list(initialise(other))
    desk.reopen()
    with pytest.raises(errors.RootMissing, match="expected"):
        desk.poll()
    assert desk.courier.take() == []


def test_source_that_is_broken_is_noted_until_it_is_mended(desk):
    desk.break_tables()
    with pytest.raises(errors.SourceSchemaError):
        desk.poll()
    assert "ObjectStorageDeleteLog" in desk.fact("poll.problem")
    assert desk.fact("poll.finished_at") is None
    with desk.application.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE "ObjectStorageDeleteLog" ("FileId" INTEGER)')
    desk.poll()
    assert desk.fact("poll.problem") is None
    assert desk.fact("poll.finished_at") is not None


def test_lease_is_given_back_by_a_poll_that_fails(desk):
    desk.upload("a.txt", b"x")
    desk.courier.away = True
    with pytest.raises(errors.BrokerUnavailable):
        desk.poll()
    with desk.rival() as rival:
        assert rival.leases.acquire("poll", LEASE)


def test_parts_of_dead_workers_are_swept_and_those_of_living_ones_kept(desk):
    living, dead = desk.upload("living.txt", b"x"), desk.upload("dead.txt", b"x")
    desk.poll()
    incoming = desk.root / ".cbk" / "incoming"
    with desk.rival() as rival:
        gone = claim_row(rival, dead, LEASE)
        desk.expire_leases()
        alive = claim_row(rival, living, LEASE)
    names = {claim: f"{claim.version.id}-{claim.fence}.part" for claim in (gone, alive)}
    earlier = f"{alive.version.id}-{alive.fence - 1}.part"
    for name in (*names.values(), earlier, "nonsense", "9999-1.part"):
        (incoming / name).write_bytes(b"half")
    desk.poll()
    assert desk.parts() == {names[alive]}


# ---- backing up: bytes before record -----------------------------------------------------------------------------------------


def test_version_is_stored_with_its_sizes_at_the_documented_path(desk):
    row_id = desk.upload("cars/id-1/thumbnail.png", b"png bytes" * 1000)
    desk.poll()
    summary = desk.back_up(row_id)
    assert summary.outcome == "stored"
    [version] = desk.versions().values()
    copy = desk.root / "car-erp/cars/id-1/thumbnail/v1.gzip"
    assert (version.state, version.size, version.stored_size) == (VersionState.STORED, 9000, copy.stat().st_size)
    assert stored(desk, "car-erp/cars/id-1/thumbnail/v1.gzip") == b"png bytes" * 1000
    assert desk.parts() == set()
    assert "DEADBEEFSECRET" not in repr(summary)


def test_copy_says_of_itself_what_its_row_said(desk):
    row_id = desk.upload("cars/a.png", b"x")
    desk.change(row_id, ContentType="image/png")
    desk.work()
    header = desk.kit.archive.inspect("car-erp/cars/a/v1.gzip")
    assert (header.storage, header.key, header.version, header.size) == ("s3", "cars/a.png", 1, 1)
    assert (header.content_type, header.source_id) == ("image/png", row_id)


def test_back_up_a_second_time_does_nothing(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.work()
    summary = desk.back_up(row_id)
    assert (summary.outcome, summary.facts["reason"]) == ("nothing to do", "it is stored")
    assert desk.origin.count("/car-erp/a.txt") == 1


def test_back_up_of_a_row_that_no_poll_has_seen_takes_it_in(desk):
    row_id = desk.upload("a.txt", b"x")
    assert desk.back_up(row_id).outcome == "stored"


def test_back_up_of_a_row_that_does_not_exist_does_nothing(desk):
    assert desk.back_up("12345").facts["reason"] == "there is no such row"
    assert desk.back_up("not an id").outcome == "nothing to do"


def test_back_up_of_a_row_that_is_declined_does_nothing_and_is_visible(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.change(row_id, Hash="nonsense")
    assert desk.back_up(row_id).outcome == "nothing to do"
    assert "Hash is not a SHA-256" in desk.declined()[row_id]


def test_back_up_of_what_another_worker_holds_does_nothing(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.poll()
    with desk.rival() as rival:
        assert claim_row(rival, row_id, LEASE)
        summary = desk.back_up(row_id)
    assert summary.facts["reason"] == "another worker is at it, or it is not due yet"
    assert desk.origin.count("/car-erp/a.txt") == 0


def test_copy_that_a_crash_left_between_publishing_and_recording_is_adopted_without_a_download(desk):
    row_id = desk.upload("cars/a.png", b"png bytes")
    desk.leave_copy("cars/a.png", b"png bytes", location="car-erp/cars/a/v1.gzip")
    desk.poll()
    assert desk.back_up(row_id).outcome == "adopted"
    assert desk.origin.count("/car-erp/cars/a.png") == 0
    [version] = desk.versions().values()
    assert (version.state, version.size) == (VersionState.STORED, 9)
    assert version.stored_size == (desk.root / "car-erp/cars/a/v1.gzip").stat().st_size


@pytest.mark.parametrize(
    "left", [b"", b"no gzip at all", gzip.compress(b"png bytes", mtime=0), gzip.compress(b"png bytes", mtime=0)[:-3]]
)
def test_leftover_that_is_no_good_copy_is_kept_as_evidence_and_fetched_again(desk, left):
    row_id = desk.upload("cars/a.png", b"png bytes")
    (desk.root / "car-erp/cars/a").mkdir(parents=True)
    (desk.root / "car-erp/cars/a/v1.gzip").write_bytes(left)
    desk.poll()
    assert desk.back_up(row_id).outcome == "stored"
    assert stored(desk, "car-erp/cars/a/v1.gzip") == b"png bytes"
    assert desk.quarantined() == [left]


def test_copy_that_another_worker_published_meanwhile_counts(desk):
    content = b"png bytes"

    def answer(exchange):
        desk.leave_copy("a.png", content, location="car-erp/a/v1.gzip")
        return serve()(exchange)

    row_id = desk.upload("a.png", content, answer)
    desk.poll()
    assert desk.back_up(row_id).outcome == "stored"
    assert desk.states() == {("a.png", 1): "stored"}
    assert desk.copies() == {"car-erp/a/v1.gzip"}
    assert desk.parts() == set()


def test_worker_that_lost_its_lease_in_mid_download_records_nothing(desk):
    with desk.rival() as rival:

        def answer(exchange):
            desk.expire_leases()
            assert claim_row(rival, "1", LEASE)
            return serve()(exchange)

        assert desk.upload("a.txt", b"x" * 100, answer) == "1"
        desk.poll()
        with pytest.raises(errors.LeaseLost):
            desk.back_up("1")
        assert desk.states() == {("a.txt", 1): "pending"}
        assert desk.parts() == set()
        assert rival.work.in_flight() == 1


@pytest.mark.parametrize("content", [b"x" * 100, b""])
def test_worker_that_slept_through_its_lease_publishes_nothing(desk, monkeypatch, content):
    slept = threading.Event()
    monkeypatch.setattr("cbk.edges.catalog.work.uptime", lambda: 3600.0 if slept.is_set() else 0.0)
    with desk.rival() as rival:

        def sleep(*_):
            slept.set()
            desk.expire_leases()
            assert claim_row(rival, "1", LEASE)

        assert desk.upload("a.txt", content) == "1"
        desk.poll()
        monkeypatch.setattr(os, "posix_fadvise", sleep)  # called when the part is opened to be read back
        with pytest.raises(errors.LeaseLost):
            desk.back_up("1")
    assert (desk.parts(), desk.copies()) == (set(), set())


def test_lease_is_renewed_with_each_chunk_that_is_read_back(desk, monkeypatch):
    """A copy that takes longer to verify than the lease lasts must not be lost to another worker in the meantime."""
    row_id = desk.upload("large.bin", os.urandom(3_000_000))
    desk.poll()
    reading, renewals = threading.Event(), []
    advise = os.posix_fadvise

    def begin_reading(*arguments):
        reading.set()
        return advise(*arguments)

    def count(_connection, _cursor, statement, *_):
        if reading.is_set() and "SET lease_until" in statement:
            renewals.append(statement)

    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("cbk.edges.catalog.work.uptime", lambda: next(hours))
    monkeypatch.setattr(os, "posix_fadvise", begin_reading)
    sa.event.listen(desk.kit.catalog.engine, "before_cursor_execute", count)
    assert desk.back_up(row_id).outcome == "stored"
    assert len(renewals) > 3


@pytest.fixture
def trail(monkeypatch):
    """Objects from 2 MB on are large. `trail.flushed` has the size of a part each time that it was flushed to be read back."""
    seen = SimpleNamespace(flushed=[], began=threading.Event())
    real = os.fdatasync

    def fdatasync(descriptor):
        assert threading.current_thread().name == "cbk-trail"
        real(descriptor)
        seen.flushed.append(os.fstat(descriptor).st_size)
        seen.began.set()

    for name, value in {"FROM_BYTES": 2_000_000, "STEP_BYTES": 500_000, "GAP_BYTES": 10_000}.items():
        monkeypatch.setattr(archive_module, f"_TRAIL_{name}", value)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return seen


def test_large_object_is_read_back_while_it_comes_in_and_stored(desk, trail):
    content = os.urandom(5_000_000)

    def answer(exchange):
        exchange.head(200, {"Content-Length": str(len(content))})
        exchange.sock.sendall(content[:3_000_000])
        assert trail.began.wait(30)
        exchange.sock.sendall(content[3_000_000:])
        return False

    row_id = desk.upload("large.bin", content, answer)
    desk.poll()
    assert desk.back_up(row_id).outcome == "stored"
    [location] = desk.copies()
    assert stored(desk, location) == content
    assert trail.flushed[0] < 3_500_000
    assert trail.flushed[-1] == (desk.root / location).stat().st_size
    assert desk.parts() == set()


def test_large_object_goes_on_after_a_cut_and_is_stored(desk, trail):
    content = os.urandom(5_000_000)
    row_id = desk.upload("large.bin", content, cut(3_000_000), serve())
    desk.poll()
    assert desk.back_up(row_id).outcome == "stored"
    [location] = desk.copies()
    assert stored(desk, location) == content
    assert trail.flushed


def test_large_object_that_does_not_come_whole_leaves_no_part_and_no_thread(desk, trail):
    row_id = desk.upload("large.bin", os.urandom(5_000_000), cut(3_000_000), status(404))
    desk.poll()
    with pytest.raises(errors.DownloadError):
        desk.back_up(row_id)
    assert (desk.parts(), desk.copies()) == (set(), set())
    assert "cbk-trail" not in {thread.name for thread in threading.enumerate()}


def test_full_disk_fails_the_version_with_its_reason_and_lets_it_back_off(desk, monkeypatch):
    row_id = desk.upload("a.bin", os.urandom(100_000))
    desk.poll()
    write = os.write
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(errors.DiskFull):
        desk.back_up(row_id)
    monkeypatch.setattr(os, "write", write)
    [version] = desk.versions().values()
    assert (version.state, version.attempts) == (VersionState.FAILED, 1)
    assert version.reason.startswith("cannot write part")
    assert version.due_at > desk.kit.catalog.database.now()
    assert (desk.parts(), desk.copies()) == (set(), set())
    desk.pass_backoff()
    assert desk.back_up(row_id).outcome == "stored"


def test_disk_that_does_not_give_back_what_was_written_leaves_no_copy_but_a_reason(desk, monkeypatch):
    row_id = desk.upload("a.bin", os.urandom(100_000))
    desk.poll()

    def rot(descriptor, *_):
        with Path(f"/proc/self/fd/{descriptor}").open("r+b") as part:
            part.seek(50_000)
            part.write(b"rotten")

    monkeypatch.setattr(os, "posix_fadvise", rot)
    with pytest.raises(errors.CopyCorrupt):
        desk.back_up(row_id)
    [version] = desk.versions().values()
    assert (version.state, version.attempts) == (VersionState.FAILED, 1)
    assert version.due_at > desk.kit.catalog.database.now()
    assert version.reason.startswith("part 1-1.part: ")
    assert (desk.parts(), desk.copies()) == (set(), set())


def test_disk_that_is_unmounted_in_mid_download_gives_the_version_back(desk):
    def answer(exchange):
        (desk.root / ".cbk").rename(desk.folder / "away")
        return serve()(exchange)

    row_id = desk.upload("a.txt", b"x", answer, serve())
    desk.poll()
    with pytest.raises(errors.ArchiveError):
        desk.back_up(row_id)
    (desk.folder / "away").rename(desk.root / ".cbk")
    desk.pass_backoff()
    assert desk.back_up(row_id).outcome == "stored"
    desk.poll()
    assert desk.parts() == set()


def test_source_that_goes_away_gives_the_version_back(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.poll()
    desk.courier.take()
    (desk.folder / "app.db").rename(desk.folder / "away.db")
    with pytest.raises(errors.SourceError):
        desk.back_up(row_id)
    (desk.folder / "away.db").rename(desk.folder / "app.db")
    [version] = desk.versions().values()
    assert (version.state, version.attempts) == (VersionState.PENDING, 0)
    desk.pass_backoff()
    assert desk.back_up(row_id).outcome == "stored"


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
def test_download_that_fails_leaves_a_state_a_reason_and_when_it_is_due_again(desk, answers, state, reason, again):
    row_id = desk.upload("a.txt", b"some bytes", *answers)
    desk.poll()
    with pytest.raises(errors.DownloadError):
        desk.back_up(row_id)
    [version] = desk.versions().values()
    assert version.state.value == state
    assert reason in version.reason
    assert (version.due_at is not None) is again
    assert version.due_at is None or version.due_at > desk.kit.catalog.database.now()
    assert "DEADBEEFSECRET" not in version.reason
    assert (desk.copies(), desk.parts()) == (set(), set())


def test_object_that_is_not_the_rows_is_never_a_copy(desk):
    row_id = desk.upload("a.txt", b"other bytes", hash_of=b"the row's bytes")
    desk.poll()
    with pytest.raises(errors.HashMismatch):
        desk.back_up(row_id)
    assert (desk.states(), desk.copies()) == ({("a.txt", 1): "mismatch"}, set())


def test_failed_version_is_sent_again_at_its_time_and_not_before(desk):
    desk.upload("a.txt", b"x", status(503), serve())
    desk.work()
    desk.poll()
    assert desk.courier.take() == []
    desk.pass_backoff()
    desk.work()
    [version] = desk.versions().values()
    assert (version.state, version.reason) == (VersionState.STORED, "")


def test_origin_that_asks_to_wait_is_left_alone_for_so_long(desk):
    desk.upload("a.txt", b"x", status(503, retry_after="7200"))
    desk.work()
    [version] = desk.versions().values()
    assert version.due_at > desk.kit.catalog.database.now() + timedelta(minutes=119)


def test_link_to_a_host_that_is_not_allowed_is_declined_and_never_asked(desk):
    with Origin() as stranger:
        desk.upload("a.txt", b"x", link=stranger.put("/a.txt", b"x"))
        desk.work()
        assert stranger.requests("/a.txt") == []
    [version] = desk.versions().values()
    assert version.state is VersionState.DECLINED
    assert "CBK_ALLOWED_HOSTS" in version.reason


def test_version_that_settings_declined_is_stored_once_they_allow_it(desk):
    with Origin() as stranger:
        desk.upload("a.txt", b"x", link=stranger.put("/a.txt", b"x"))
        desk.work()
        desk.reopen(allowed_hosts=f"{desk.origin.address},{stranger.address}")
        desk.pass_backoff()
        desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_object_that_is_too_large_is_declined_before_it_is_fetched(make_desk):
    desk = make_desk(max_file_size="1k")
    desk.upload("a.bin", b"x" * 1001)
    desk.upload("b.bin", b"x" * 1000)
    desk.work()
    assert desk.states() == {("a.bin", 1): "declined", ("b.bin", 1): "stored"}


def test_bad_row_blocks_no_other(desk):
    bad = desk.upload("bad.txt", b"x")
    desk.change(bad, Version=-1)
    desk.upload("good.txt", b"x")
    desk.work()
    assert desk.states() == {("good.txt", 1): "stored"}
    assert list(desk.declined()) == [bad]


# ---- rows that change --------------------------------------------------------------------------------------------------------


def test_declined_row_that_is_mended_is_forgiven_and_stored(desk):
    row_id = desk.upload("a.txt", b"x")
    good = desk.row(row_id)["Hash"]
    desk.change(row_id, Hash="nonsense")
    desk.work()
    assert list(desk.declined()) == [row_id]
    desk.change(row_id, Hash=good)
    desk.work()
    assert (desk.declined(), desk.states()) == ({}, {("a.txt", 1): "stored"})


def test_declined_row_that_stays_as_it_is_stays_declined(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.change(row_id, Hash="nonsense")
    desk.work()
    desk.work()
    assert list(desk.declined()) == [row_id]


def test_declined_row_that_is_gone_is_forgotten(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.change(row_id, Hash="nonsense")
    desk.work()
    desk.drop(row_id)
    desk.work()
    assert desk.declined() == {}


def test_expired_link_that_is_refreshed_makes_its_version_due(desk):
    row_id = desk.upload("a.txt", b"x", EXPIRED)
    desk.work()
    assert desk.states() == {("a.txt", 1): "expired"}
    desk.work()
    assert desk.origin.count("/car-erp/a.txt") == 1
    desk.origin.put("/fresh/a.txt", b"x")
    desk.refresh(row_id, "/fresh/a.txt")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_link_that_is_signed_anew_again_and_again_leaves_a_failed_version_its_backoff(desk):
    row_id = desk.upload("a.txt", b"x", status(503))
    for _ in range(3):
        desk.work()
        desk.pass_backoff()
    due_at = desk.versions()["a.txt", 1].due_at
    desk.pass_time(due_at=-timedelta(hours=1))
    for number in range(3):
        desk.change(row_id, SignedDownloadUrl=f"{desk.link('/car-erp/a.txt')}{number}&Expires=4102444800&Signature=x")
        desk.work()
    version = desk.versions()["a.txt", 1]
    assert desk.origin.count("/car-erp/a.txt") == 3
    assert (version.state, version.attempts) == ("failed", 3)
    assert version.due_at > due_at
    assert version.link_expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    desk.origin.put("/car-erp/a.txt", b"x")
    desk.pass_time(due_at=timedelta(minutes=1))
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_fresh_link_of_a_version_that_was_denied_does_not_wait_and_goes_on_counting(desk):
    row_id = desk.upload("a.txt", b"x", s3_error(403, "SignatureDoesNotMatch", "The signature does not match."))
    desk.work()
    desk.refresh(row_id, "/still-denied/a.txt")
    desk.origin.put("/still-denied/a.txt", b"x", s3_error(403, "AccessDenied", "Access Denied"))
    desk.work()
    assert (desk.states(), desk.versions()["a.txt", 1].attempts) == ({("a.txt", 1): "failed"}, 2)
    desk.origin.put("/fresh/a.txt", b"x")
    desk.refresh(row_id, "/fresh/a.txt")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_row_that_vanished_before_its_download_leaves_its_version_missing(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.poll()
    desk.drop(row_id)
    assert desk.back_up(row_id).outcome == "missing"
    [version] = desk.versions().values()
    assert (version.reason, version.due_at) == ("its row is gone from the application's table", None)
    assert desk.origin.count("/car-erp/a.txt") == 0


def test_row_that_vanished_and_came_back_is_stored(desk):
    row_id = desk.upload("a.txt", b"x")
    row = desk.row(row_id)
    desk.poll()
    desk.drop(row_id)
    desk.back_up(row_id)
    desk.work()
    assert desk.states() == {("a.txt", 1): "missing"}
    desk.put_back(row)
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_hash_that_changed_under_the_same_version_is_declined_until_it_is_mended(desk):
    row_id = desk.upload("a.txt", b"x")
    good = desk.row(row_id)["Hash"]
    desk.poll()
    desk.courier.take()
    desk.change(row_id, Hash="bb" * 32)
    assert desk.back_up(row_id).outcome == "declined"
    assert "new content needs a higher Version" in desk.versions()["a.txt", 1].reason
    desk.work()
    assert desk.states() == {("a.txt", 1): "declined"}
    desk.change(row_id, Hash=good)
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}


def test_second_row_with_the_same_version_and_another_hash_is_visible_and_overwrites_nothing(desk):
    desk.upload("a.txt", b"first")
    desk.work()
    forged = desk.upload("a.txt", b"second")
    desk.work()
    assert "version 1 is known with another Hash" in desk.declined()[forged]
    assert stored(desk, "car-erp/a/v1.gzip") == b"first"


# ---- versions of one file ----------------------------------------------------------------------------------------------------


def test_newest_version_is_fetched_and_older_ones_are_superseded(desk):
    for number in (1, 2, 3):
        desk.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    desk.work()
    assert desk.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "superseded", ("a.txt", 3): "stored"}
    assert desk.versions()["a.txt", 1].reason == "v3 is stored"
    assert desk.copies() == {"car-erp/a/v3.gzip"}
    assert desk.origin.count("/car-erp/a.txt-1") == 0


def test_new_version_is_stored_beside_the_one_that_it_replaces(desk):
    desk.upload("a.txt", b"v1", version=1)
    desk.work()
    desk.upload("a.txt", b"v2", version=2)
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}
    assert desk.copies() == {"car-erp/a/v1.gzip", "car-erp/a/v2.gzip"}


def test_old_link_that_gives_the_newest_bytes_is_superseded_not_corrupt(make_desk):
    desk = make_desk(keep_versions=3)
    for number in (1, 2, 3):
        desk.upload("a.txt", b"v3", version=number, hash_of=b"v%d" % number)
    desk.work()
    assert desk.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "superseded", ("a.txt", 3): "stored"}
    assert desk.versions()["a.txt", 1].reason == "its object holds the bytes of v3 now"
    desk.pass_backoff()
    desk.work()
    assert desk.origin.count("/car-erp/a.txt") == 3


def test_as_many_versions_are_kept_as_are_asked_for(make_desk):
    desk = make_desk(keep_versions=3)
    for number in (1, 2, 3, 4):
        desk.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    desk.work()
    assert desk.states() == {("a.txt", 1): "superseded", **{("a.txt", number): "stored" for number in (2, 3, 4)}}


def test_superseded_version_returns_when_more_are_to_be_kept_and_its_row_is_read_again(desk):
    for number in (1, 2):
        desk.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    desk.work()
    desk.reopen(keep_versions=2)
    desk.upload("a.txt", b"v3", version=3, served_at="/car-erp/a.txt-3")
    desk.work()
    assert desk.states() == {("a.txt", 1): "superseded", ("a.txt", 2): "stored", ("a.txt", 3): "stored"}


def test_an_old_copy_beats_none(desk):
    desk.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    desk.upload("a.txt", b"v2", EXPIRED, version=2, served_at="/car-erp/a.txt-2")
    desk.work()
    assert desk.states() == {("a.txt", 1): "pending", ("a.txt", 2): "expired"}
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "expired"}


def test_an_old_copy_beats_none_where_the_row_of_the_newest_vanished(desk):
    desk.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    newest = desk.upload("a.txt", b"v2", version=2, served_at="/car-erp/a.txt-2")
    desk.poll()
    desk.drop(newest)
    assert desk.back_up(newest).outcome == "missing"
    desk.courier.take()
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "missing"}


def test_older_version_is_fetched_when_the_newer_one_failed_too_often(desk):
    desk.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    desk.upload("a.txt", b"v2", status(503), version=2, served_at="/car-erp/a.txt-2")
    for attempt in (1, 2, 3):
        assert desk.states().get(("a.txt", 1), "pending") == "pending"
        desk.work()
        assert desk.versions()["a.txt", 2].attempts == attempt
        desk.pass_backoff()
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "failed"}


def test_newest_version_that_comes_back_is_stored_although_an_older_one_was_fetched_meanwhile(desk):
    desk.upload("a.txt", b"v1", version=1, served_at="/car-erp/a.txt-1")
    newest = desk.upload("a.txt", b"v2", EXPIRED, version=2, served_at="/car-erp/a.txt-2")
    desk.work()
    desk.work()
    desk.origin.put("/fresh/a.txt", b"v2")
    desk.refresh(newest, "/fresh/a.txt")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}


def test_row_whose_version_was_raised_in_place_brings_the_new_version(desk):
    row_id = desk.upload("a.txt", b"v1")
    desk.work()
    desk.origin.put("/car-erp/a.txt", b"v2")
    desk.change(row_id, Version=2, Hash=sha256(b"v2").hexdigest())
    desk.forget_fact("files.window")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}
    assert stored(desk, "car-erp/a/v2.gzip") == b"v2"


# ---- resync ------------------------------------------------------------------------------------------------------------------


def test_resync_fetches_a_copy_that_was_lost(desk):
    row_id = desk.upload("cars/a.png", b"x")
    desk.work()
    (desk.root / "car-erp/cars/a/v1.gzip").unlink()
    summary = resync(desk.kit, desk.courier, storage="s3", key="/cars/a.png")
    assert summary.facts["why"] == "v1: its copy was not on the disk"
    assert desk.courier.take() == [row_id]
    assert desk.back_up(row_id).outcome == "stored"
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}


def test_resync_puts_a_corrupt_copy_aside_and_fetches_it_again(desk):
    row_id = desk.upload("cars/a.png", b"x")
    desk.work()
    (desk.root / "car-erp/cars/a/v1.gzip").write_bytes(b"rotten")
    assert resync(desk.kit, desk.courier, file_id=row_id).facts["why"] == "v1: its copy was corrupt"
    assert desk.states() == {("cars/a.png", 1): "pending"}
    assert desk.back_up(row_id).outcome == "stored"
    assert desk.quarantined() == [b"rotten"]


def test_resync_of_what_is_well_changes_nothing(desk):
    row_id = desk.upload("a.txt", b"x")
    desk.work()
    summary = resync(desk.kit, desk.courier, storage="s3", key="a.txt")
    assert (summary.outcome, summary.facts["again"], desk.courier.take()) == ("resynced", 0, [])
    assert desk.states() == {("a.txt", 1): "stored"}
    assert desk.back_up(row_id).outcome == "nothing to do"


def test_resync_takes_in_a_row_that_no_poll_has_seen(desk):
    row_id = desk.upload("a.txt", b"x")
    resync(desk.kit, desk.courier, storage="s3", key="a.txt")
    assert desk.courier.take() == [row_id]


def test_resync_tries_a_version_again_whose_link_had_expired(desk):
    row_id = desk.upload("a.txt", b"x", EXPIRED, serve())
    desk.work()
    resync(desk.kit, desk.courier, storage="s3", key="a.txt")
    assert desk.courier.take() == [row_id]
    assert desk.back_up(row_id).outcome == "stored"


def test_dry_resync_changes_nothing(desk):
    lost = desk.upload("lost.txt", b"x")
    desk.work()
    (desk.root / "car-erp/lost/v1.gzip").write_bytes(b"rotten")
    unseen = desk.upload("unseen.txt", b"x")
    for row_id in (lost, unseen):
        summary = resync(desk.kit, desk.courier, file_id=row_id, dry_run=True)
        assert summary.outcome == "would fetch"
    assert (desk.states(), desk.courier.take(), desk.quarantined()) == ({("lost.txt", 1): "stored"}, [], [])


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
def test_resync_that_names_no_file_says_what_it_takes(desk, named):
    desk.upload("a.txt", b"x")
    with pytest.raises(errors.UsageError) as caught:
        resync(desk.kit, desk.courier, **named)
    assert caught.value.hint


# ---- setup -------------------------------------------------------------------------------------------------------------------


def test_initialise_a_second_time_changes_nothing(desk):
    identity = desk.kit.archive.identity()
    steps = list(initialise(desk.kit))
    assert desk.kit.archive.identity() == identity
    assert steps[-1].endswith("was ready")


def test_initialise_refuses_another_disk_than_the_catalogs_and_leaves_nothing_on_it(desk):
    (desk.root / ".cbk").rename(desk.folder / "away")
    for dry_run in (True, False):
        with pytest.raises(errors.RootMissing) as caught:
            list(initialise(desk.kit, dry_run=dry_run))
        assert "is no disk of the kit" in caught.value.message
        assert "mount the right disk" in caught.value.hint
    assert list(desk.root.iterdir()) == []


def test_dry_initialise_makes_no_table_in_a_shared_catalog(make_desk, postgres, pg_database):
    kit = make_desk().open(catalog_url=postgres.url(pg_database))
    assert len(list(initialise(kit, dry_run=True))) == 2
    with pytest.raises(errors.CatalogOutdated):
        kit.catalog.require_current()
    assert sa.inspect(kit.catalog.engine).get_table_names() == []


# ---- two machines that share a catalog -----------------------------------------------------------------------------------------


def test_everything_works_with_a_catalog_in_postgresql(make_desk, postgres, pg_database):
    desk = make_desk(catalog_url=postgres.url(pg_database), keep_versions=2)
    for number in (1, 2, 3):
        desk.upload("a.txt", b"v%d" % number, version=number, served_at=f"/car-erp/a.txt-{number}")
    desk.change(desk.upload("bad.txt", b"x"), Hash="nonsense")
    desk.upload("busy.txt", b"x", status(503), serve())
    desk.work()
    desk.pass_backoff()
    desk.work()
    assert desk.states() == {
        ("a.txt", 1): "superseded",
        ("a.txt", 2): "stored",
        ("a.txt", 3): "stored",
        ("busy.txt", 1): "stored",
    }
    assert len(desk.declined()) == 1
    assert list(initialise(desk.kit))[-1].endswith("was ready")
