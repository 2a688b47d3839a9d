"""A worker dies between two steps, a clock was wrong, a row was renamed: nothing stays stuck, and nothing untrue is claimed."""

import traceback
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.catalog.tables import facts, leases, versions
from cbk.jobs.resync import resync
from cbk.jobs.status import take_status
from tests.desk import claim_row
from tests.origin import s3_error, serve, status

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
YEAR = timedelta(days=365)


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch, place):
    def die(*_arguments, **_keywords):
        raise Killed

    monkeypatch.setattr(place, die)


def test_new_version_is_fetched_although_the_poll_died_before_deciding_about_it(desk, monkeypatch):
    desk.upload("a.txt", b"1")
    desk.work()
    desk.upload("a.txt", b"2", version=2)
    with monkeypatch.context() as patched:
        kill_at(patched, "cbk.jobs.intake.settle_files")
        with pytest.raises(Killed):
            desk.poll()
    assert desk.versions()["a.txt", 2].due_at is None
    desk.pass_time()
    with desk.kit.catalog.database.writing() as connection:
        connection.execute(sa.delete(leases))
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}


def test_older_version_is_fetched_although_the_worker_died_after_recording_that_the_newer_one_expired(desk, monkeypatch):
    desk.upload("a.txt", b"1", served_at="/car-erp/old")
    newer = desk.upload("a.txt", b"2", EXPIRED, version=2, served_at="/car-erp/new")
    desk.poll()
    with monkeypatch.context() as patched:
        kill_at(patched, "cbk.jobs.backup.settle_files")
        with pytest.raises(Killed):
            desk.back_up(newer)
    assert desk.states() == {("a.txt", 1): "pending", ("a.txt", 2): "expired"}
    desk.courier.take()
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored", ("a.txt", 2): "expired"}


def test_link_that_is_refreshed_while_the_old_one_is_tried_counts_at_the_next_poll(desk, origin):
    row = desk.upload("a.txt", b"x", status(503), served_at="/car-erp/old")
    desk.work()
    origin.put("/car-erp/old", b"x", EXPIRED)
    origin.put("/car-erp/fresh", b"x", serve())
    desk.pass_time(due_at=timedelta(hours=12))
    claim = claim_row(desk.kit.catalog, row, timedelta(minutes=2))
    desk.refresh(row, "/car-erp/fresh")
    desk.poll()
    assert claim.version.id not in {version.id for version, _ in desk.kit.catalog.work.refreshable(10)}


def test_resync_that_breaks_off_leaves_no_copy_counted_that_is_not_there(desk, monkeypatch):
    desk.upload("a.txt", b"1")
    desk.work()
    row = desk.upload("a.txt", b"2", version=2)
    desk.work()
    (desk.root / "car-erp/a/v1.gzip").write_bytes(b"rotten")
    check = desk.kit.archive.check

    def fail_at_second(location, **keywords):
        if location.endswith("v2.gzip"):
            raise errors.DiskFailed("the disk answers with an error")
        return check(location, **keywords)

    monkeypatch.setattr(desk.kit.archive, "check", fail_at_second)
    with pytest.raises(errors.DiskFailed):
        resync(desk.kit, desk.courier, file_id=row)
    assert desk.states()["a.txt", 1] != "stored"


def test_row_that_was_renamed_in_place_is_taken_in_under_its_new_name(desk, origin):
    row = desk.upload("old.txt", b"x")
    desk.work()
    origin.put("/car-erp/new.txt", b"x")
    desk.change(row, Name="new.txt", SignedDownloadUrl=desk.link("/car-erp/new.txt"))
    resync(desk.kit, desk.courier, storage="s3", key="new.txt")
    desk.work()
    assert desk.states() == {("old.txt", 1): "stored", ("new.txt", 1): "stored"}


def test_row_that_was_renamed_before_its_first_copy_is_stored_under_its_new_name(desk, origin):
    row = desk.upload("old.txt", b"x")
    desk.poll()
    desk.courier.take()
    desk.change(row, Name="new.txt")
    resync(desk.kit, desk.courier, file_id=row)
    desk.back_up(row)
    assert desk.states()["new.txt", 1] == "stored"
    desk.back_up(row)
    assert desk.states()["old.txt", 1] == "missing"


def test_odd_thing_among_the_files_in_arrival_keeps_no_poll_from_its_work(desk):
    (desk.root / ".cbk/incoming/odd.part").mkdir()
    desk.upload("a.txt", b"x")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}
    assert take_status(desk.kit).is_protected


def test_unexpected_error_gives_the_version_a_reason_and_a_delay(desk, monkeypatch):
    row = desk.upload("a.txt", b"x")
    desk.poll()
    monkeypatch.setattr(desk.kit.downloader, "fetch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.back_up(row)
    [version] = desk.versions().values()
    assert (version.state.value, "unexpected ZeroDivisionError" in version.reason, version.attempts) == ("failed", True, 1)


def test_unexpected_error_in_a_poll_is_seen_in_status(desk, monkeypatch):
    monkeypatch.setattr(desk.kit.source, "rows_after", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.poll()
    assert "unexpected ZeroDivisionError" in take_status(desk.kit).problems[0].message


def test_clock_that_was_once_a_year_ahead_stops_nothing(desk):
    row = desk.upload("a.txt", b"x")
    database = desk.kit.catalog.database
    desk.poll()
    desk.courier.take()
    with database.writing() as connection:
        connection.execute(sa.insert(leases).values(name="poll", holder="someone", until=database.later_sql(YEAR)))
        connection.execute(sa.update(versions).values(due_at=database.later_sql(YEAR), lease_until=database.later_sql(YEAR)))
        future = (database.now() + YEAR).isoformat()
        connection.execute(sa.update(facts).where(facts.c.name == "files.reconcile.finished_at").values(value=future))
    desk.poll()
    assert desk.courier.take() == [row]
    assert desk.fact("files.reconcile.finished_at") < future


def test_late_row_is_seen_although_another_one_left_in_the_same_moment(desk):
    rows = [desk.upload(f"{number}.txt", b"x", row_id=number) for number in (1, 2, 4, 5)]
    desk.poll()
    desk.drop(rows[1])
    desk.upload("3.txt", b"x", row_id=3)
    desk.poll()
    assert ("3.txt", 1) in desk.states()


def test_version_that_is_no_longer_wanted_holds_no_lease(desk):
    desk.upload("a.txt", b"1")
    desk.poll()
    desk.upload("a.txt", b"2", version=2)
    desk.poll()
    desk.pass_time(lease_until=timedelta(hours=1))
    assert [row for row in desk.kit.catalog.work.silent(10) if row == "1"] == []


def test_failure_of_the_catalog_shows_no_parameter(desk):
    with (
        pytest.raises(errors.CatalogError) as caught,
        desk.kit.catalog.database.writing() as connection,
    ):
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:key)"), {"key": "private name.pdf"})
    assert "private" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("state", ["superseded", "pruned"])
def test_newest_version_without_a_copy_is_never_called_protected(desk, state):
    desk.upload("a.txt", b"x")
    desk.work()
    with desk.kit.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state=state))
    assert not take_status(desk.kit).is_protected
