"""A worker dies between two steps, a clock was wrong, a row was renamed: nothing stays stuck, and nothing untrue is claimed."""

import json
import traceback
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.catalog.database.schema import facts, leases, versions
from cbk.jobs.poll.resync import resync
from cbk.jobs.status.status import gather_status
from tests.in_process_site import claim_row
from tests.origin import s3_error, serve, status

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
YEAR = timedelta(days=365)


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch, place):
    def die(*_arguments, **_keywords):
        raise Killed

    monkeypatch.setattr(place, die)


def test_new_version_is_fetched_although_the_poll_died_before_deciding_about_it(site, monkeypatch):
    site.upload("a.txt", b"1")
    site.work()
    site.upload("a.txt", b"2", version=2)
    with monkeypatch.context() as patched:
        kill_at(patched, "cbk.jobs.intake.rows.settle_files")
        with pytest.raises(Killed):
            site.poll()
    assert site.versions()["a.txt", 2].due_at is None
    site.pass_time()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(leases))
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "stored"}


def test_older_version_is_fetched_although_the_worker_died_after_recording_that_the_newer_one_expired(site, monkeypatch):
    site.upload("a.txt", b"1", served_at="/car-erp/old")
    newer = site.upload("a.txt", b"2", EXPIRED, version=2, served_at="/car-erp/new")
    site.poll()
    with monkeypatch.context() as patched:
        kill_at(patched, "cbk.jobs.backup.backup.settle_files")
        with pytest.raises(Killed):
            site.back_up(newer)
    assert site.states() == {("a.txt", 1): "pending", ("a.txt", 2): "expired"}
    site.publisher.take()
    site.work()
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "expired"}


def test_link_that_is_refreshed_while_the_old_one_is_tried_counts_at_the_next_poll(site, origin):
    row = site.upload("a.txt", b"x", status(503), served_at="/car-erp/old")
    site.work()
    origin.put("/car-erp/old", b"x", EXPIRED)
    origin.put("/car-erp/fresh", b"x", serve())
    site.pass_time(due_at=timedelta(hours=12))
    claim = claim_row(site.context.catalog, row, timedelta(minutes=2))
    site.refresh(row, "/car-erp/fresh")
    site.poll()
    assert claim.version.id not in {version.id for version, _ in site.context.catalog.work.refreshable(10)}


def test_resync_that_breaks_off_leaves_no_copy_counted_that_is_not_there(site, monkeypatch):
    site.upload("a.txt", b"1")
    site.work()
    row = site.upload("a.txt", b"2", version=2)
    site.work()
    (site.root / "car-erp/a/v1.gzip").write_bytes(b"rotten")
    check = site.context.archive.check

    def fail_at_second(location, **keywords):
        if location.endswith("v2.gzip"):
            raise errors.DiskFailed("the disk answers with an error")
        return check(location, **keywords)

    monkeypatch.setattr(site.context.archive, "check", fail_at_second)
    with pytest.raises(errors.DiskFailed):
        resync(site.context, site.publisher, file_id=row)
    assert site.states()["a.txt", 1] != "stored"


def test_row_that_was_renamed_in_place_is_taken_in_under_its_new_name(site, origin):
    row = site.upload("old.txt", b"x")
    site.work()
    origin.put("/car-erp/new.txt", b"x")
    site.change(row, Name="new.txt", SignedDownloadUrl=site.link("/car-erp/new.txt"))
    resync(site.context, site.publisher, storage="s3", key="new.txt")
    site.work()
    assert site.states() == {("old.txt", 1): "stored", ("new.txt", 1): "stored"}


def test_row_that_was_renamed_before_its_first_copy_is_stored_under_its_new_name(site, origin):
    row = site.upload("old.txt", b"x")
    site.poll()
    site.publisher.take()
    site.change(row, Name="new.txt")
    resync(site.context, site.publisher, file_id=row)
    site.back_up(row)
    assert site.states()["new.txt", 1] == "stored"
    site.back_up(row)
    assert site.states()["old.txt", 1] == "missing"


def test_odd_thing_among_the_files_in_arrival_keeps_no_poll_from_its_work(site):
    (site.root / ".cbk/incoming/odd.part").mkdir()
    site.upload("a.txt", b"x")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}
    assert gather_status(site.context).is_protected


def test_unexpected_error_gives_the_version_a_reason_and_a_delay(site, monkeypatch):
    row = site.upload("a.txt", b"x")
    site.poll()
    monkeypatch.setattr(site.context.downloader, "fetch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.back_up(row)
    [version] = site.versions().values()
    assert (version.state.value, "unexpected ZeroDivisionError" in version.reason, version.attempts) == ("failed", True, 1)


def test_unexpected_error_in_a_poll_is_seen_in_status(site, monkeypatch):
    monkeypatch.setattr(site.context.source, "rows_after", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.poll()
    assert any("unexpected ZeroDivisionError" in problem.message for problem in gather_status(site.context).problems)


def test_clock_that_was_once_a_year_ahead_stops_nothing(site):
    row = site.upload("a.txt", b"x")
    database = site.context.catalog.database
    site.poll()
    site.publisher.take()
    with database.writing() as connection:
        connection.execute(sa.insert(leases).values(name="poll", holder="someone", until=database.later_sql(YEAR)))
        connection.execute(sa.update(versions).values(due_at=database.later_sql(YEAR), lease_until=database.later_sql(YEAR)))
        reading = json.loads(connection.scalar(sa.select(facts.c.value).where(facts.c.name == "files.reading")))
        future = (database.now() + YEAR).isoformat()
        reading["last"]["finished_at"] = future
        connection.execute(sa.update(facts).where(facts.c.name == "files.reading").values(value=json.dumps(reading)))
    site.poll()
    assert site.publisher.take() == [row]
    assert json.loads(site.fact("files.reading"))["last"]["finished_at"] < future


def test_late_row_is_seen_although_another_one_left_in_the_same_moment(site):
    rows = [site.upload(f"{number}.txt", b"x", row_id=number) for number in (1, 2, 4, 5)]
    site.poll()
    site.drop(rows[1])
    site.upload("3.txt", b"x", row_id=3)
    site.poll()
    assert ("3.txt", 1) in site.states()


def test_version_that_is_no_longer_wanted_holds_no_lease(site):
    site.upload("a.txt", b"1")
    site.poll()
    site.upload("a.txt", b"2", version=2)
    site.poll()
    site.pass_time(lease_until=timedelta(hours=1))
    assert [row for row in site.context.catalog.work.silent(10) if row == "1"] == []


def test_failure_of_the_catalog_shows_no_parameter(site):
    with (
        pytest.raises(errors.CatalogError) as caught,
        site.context.catalog.database.writing() as connection,
    ):
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:key)"), {"key": "private name.pdf"})
    assert "private" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("state", ["superseded", "pruned"])
def test_newest_version_without_a_copy_is_never_called_protected(site, state):
    site.upload("a.txt", b"x")
    site.work()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state=state))
    assert not gather_status(site.context).is_protected
