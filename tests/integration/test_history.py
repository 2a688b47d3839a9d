"""`cbk history`: what happened to each version of a file, and when, told from what the kit did."""

from datetime import timedelta

import pytest

from cbk.errors import UsageError
from cbk.jobs.history import history
from cbk.jobs.holds import place_hold, release_holds
from cbk.jobs.undelete import undelete
from cbk.model import DeclinedRow
from cbk.rules.history import Event
from tests.origin import status

KEY = "cars/a.png"
WHOLE = ["seen", "stored", "verified"]


def told(desk, key=KEY, **options):
    """The events of each version, newest first, by (storage, number)."""
    return {(past.of.storage, past.of.number): past.events for past in history(desk.kit, key, **options)}


def words(desk, number=1):
    return [event.what for event in told(desk)["s3", number]]


def hold(desk, key, **options):
    return place_hold(desk.kit, key, **{"is_prefix": False, "storage": None, "until": None, "reason": ""} | options)


@pytest.fixture
def stored(desk):
    """A desk with one stored file, and its row."""
    row = desk.upload(KEY, b"one")
    desk.work()
    return desk, row


def test_stored_version_was_seen_stored_and_verified(stored):
    desk, row = stored
    version = desk.versions()[KEY, 1]
    assert told(desk)["s3", 1] == [
        Event(at=version.first_seen_at, what="seen", detail=f"row {row}"),
        Event(at=version.stored_at, what="stored"),
        Event(at=version.verified_at, what="verified"),
    ]


def test_version_that_failed_was_only_seen(desk):
    desk.upload(KEY, b"x", status(503))
    desk.work()
    assert words(desk) == ["seen"]


def test_version_was_verified_when_its_copy_was_read_again_later(stored):
    desk, _ = stored
    with desk.kit.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET verified_at = stored_at + 86400000")
    version = desk.versions()[KEY, 1]
    assert [(event.what, event.at) for event in told(desk)["s3", 1]][-1] == ("verified", version.stored_at + timedelta(days=1))


def test_version_without_a_copy_was_superseded_when_the_first_newer_one_was_stored(desk):
    for number in (1, 2, 3):
        desk.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}")
    desk.work()
    events = told(desk)
    assert list(events) == [("s3", 3), ("s3", 2), ("s3", 1)]
    [_, superseded] = events["s3", 1]
    assert (superseded.what, superseded.detail) == ("superseded", "v3 was stored")
    assert superseded.at == desk.versions()[KEY, 3].stored_at


def test_newer_version_that_was_stored_first_is_the_one_that_supersedes(make_desk):
    desk = make_desk(keep_versions=2)
    rows = [desk.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}") for number in (1, 2, 3)]
    desk.poll()
    desk.back_up(rows[2])
    desk.pass_time(stored_at=timedelta(minutes=1))
    desk.back_up(rows[1])
    desk.work()
    assert [event.detail for event in told(desk)["s3", 1] if event.what == "superseded"] == ["v3 was stored"]


def test_copy_was_replaced_when_its_grace_began_and_pruned_when_that_was_over(stored):
    desk, _ = stored
    desk.upload(KEY, b"two", version=2, served_at="/2")
    desk.work()
    desk.poll()
    replaced = told(desk)["s3", 1][-1]
    assert (replaced.what, replaced.until - replaced.at) == ("replaced", timedelta(days=7))
    desk.pass_grace()
    desk.let_go()
    *_, pruned = told(desk)["s3", 1]
    assert sorted(words(desk)) == ["pruned", "replaced", "seen", "stored", "verified"]
    assert pruned.what == "pruned"
    assert pruned.detail == "v2 has replaced it, and the grace has passed"
    assert words(desk, 2) == WHOLE


def test_deleted_file_tells_which_row_deleted_it_and_when_its_copies_go(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    deleted = told(desk)["s3", 1][-1]
    assert (deleted.what, deleted.detail) == ("deleted", f"delete-log row {delete}")
    assert (deleted.at, deleted.until) == (desk.removals()[delete].first_seen_at, desk.removals()[delete].due_at)


def test_delete_says_nothing_of_a_version_that_came_later(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.upload(KEY, b"again", version=2, served_at="/2")
    desk.work()
    assert "deleted" not in words(desk, 2)
    assert "deleted" in words(desk, 1)


def test_delete_that_was_taken_back_kept_the_version(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.take_back(delete)
    desk.poll()
    kept = told(desk)["s3", 1][-1]
    assert (kept.what, kept.at) == ("kept", desk.removals()[delete].closed_at)
    assert kept.detail.startswith("taken back")


def test_file_that_is_pruned_tells_it_once(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert sorted(words(desk)) == ["deleted", "pruned", "seen", "stored", "verified"]
    pruned = next(event for event in told(desk)["s3", 1] if event.what == "pruned")
    assert (pruned.at, pruned.until) == (desk.versions()[KEY, 1].pruned_at, None)


def test_file_that_came_back_from_the_trash_was_deleted_and_kept(make_desk):
    desk = make_desk(trash="30d")
    row = desk.upload(KEY, b"one")
    desk.work()
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    pruned = next(event for event in told(desk)["s3", 1] if event.what == "pruned")
    assert pruned.until == desk.versions()[KEY, 1].trash_until
    undelete(desk.kit, KEY)
    assert sorted(words(desk)) == ["deleted", "kept", "seen", "stored", "verified"]


def test_hold_is_told_of_what_it_covers_until_it_is_released(stored):
    desk, _ = stored
    desk.upload("cars/b.png", b"b")
    desk.work()
    until = desk.kit.catalog.database.now() + timedelta(days=90)
    hold(desk, KEY, reason="court", until=until)
    held = told(desk)["s3", 1][-1]
    assert (held.what, held.detail) == ("held", "court")
    assert abs(held.until - until) < timedelta(milliseconds=1)
    assert [event.what for event in told(desk, "cars/b.png")["s3", 1]] == WHOLE
    release_holds(desk.kit, key=KEY)
    assert words(desk) == WHOLE


def test_reason_why_something_waits_beyond_its_grace_is_told(stored):
    desk, row = stored
    hold(desk, "cars/", is_prefix=True, reason="court")
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    deleted = next(event for event in told(desk)["s3", 1] if event.what == "deleted")
    assert deleted.detail.endswith("; on hold: court")


def test_each_storage_has_its_own_file_and_one_of_them_can_be_asked_for(stored):
    desk, _ = stored
    for number in (1, 2):
        desk.upload(KEY, b"azure %d" % number, version=number, storage="azure", served_at=f"/azure/{number}")
    desk.work()
    assert list(told(desk)) == [("s3", 1), ("azure", 2), ("azure", 1)]
    assert list(told(desk, storage="azure")) == [("azure", 2), ("azure", 1)]
    assert [event.what for event in told(desk)["azure", 1]] == ["seen", "superseded"]


def test_newer_version_of_another_storage_supersedes_nothing(stored):
    desk, _ = stored
    desk.upload(KEY, b"1", status(503), storage="azure", version=1, served_at="/azure/1")
    desk.work()
    assert [event.what for event in told(desk)["azure", 1]] == ["seen"]


def test_slash_in_front_of_a_key_is_no_difference(stored):
    assert list(told(stored[0], f"/{KEY}")) == [("s3", 1)]


def test_declined_row_is_a_part_of_the_history(desk):
    desk.change(desk.upload(KEY, b"x"), Hash="nonsense")
    desk.poll()
    [past] = history(desk.kit, KEY)
    assert isinstance(past.of, DeclinedRow)
    assert past.of.reason.startswith("Hash is not a SHA-256")


@pytest.mark.parametrize(("key", "storage"), [("cars/a", None), ("CARS/a.png", None), ("cars/*", None), (KEY, "azure")])
def test_file_that_is_not_known_is_wrong_usage(stored, key, storage):
    with pytest.raises(UsageError, match="the kit knows no such file"):
        list(history(stored[0].kit, key, storage=storage))


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_long_history_comes_page_by_page_newest_first(make_desk, monkeypatch, request, where):
    monkeypatch.setattr("cbk.edges.catalog.report.BATCH", 3)
    url = (
        {}
        if where == "sqlite"
        else {"catalog_url": request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))}
    )
    desk = make_desk(**url)
    for number in range(1, 8):
        desk.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}")
        desk.upload(KEY, b"%d" % number, version=number, storage="azure", served_at=f"/azure/{number}")
    desk.work()
    assert list(told(desk)) == [(storage, number) for storage in ("s3", "azure") for number in range(7, 0, -1)]
    assert {events[0].what for events in told(desk).values()} == {"seen"}
