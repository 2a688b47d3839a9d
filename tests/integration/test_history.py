"""`cbk history`: what happened to each version of a file, and when, told from what the kit did."""

from datetime import timedelta

import pytest

from cbk.errors import UsageError
from cbk.jobs.retention.holds import place_hold, release_holds
from cbk.jobs.retention.undelete import undelete
from cbk.jobs.status.history import history
from cbk.model import DeclinedRow
from cbk.rules.status.history import Event
from tests.origin import status

KEY = "cars/a.png"
WHOLE = ["seen", "stored", "verified"]


def told(site, key=KEY, **options):
    """The events of each version, newest first, by (storage, number)."""
    return {(past.of.storage, past.of.number): past.events for past in history(site.context, key, **options)}


def words(site, number=1):
    return [event.what for event in told(site)["s3", number]]


def hold(site, key, **options):
    return place_hold(site.context, key, **{"is_prefix": False, "storage": None, "until": None, "reason": ""} | options)


@pytest.fixture
def stored(site):
    """A site with one stored file, and its row."""
    row = site.upload(KEY, b"one")
    site.work()
    return site, row


def test_stored_version_was_seen_stored_and_verified(stored):
    site, row = stored
    version = site.versions()[KEY, 1]
    assert told(site)["s3", 1] == [
        Event(at=version.first_seen_at, what="seen", detail=f"row {row}"),
        Event(at=version.stored_at, what="stored"),
        Event(at=version.verified_at, what="verified"),
    ]


def test_version_that_failed_was_only_seen(site):
    site.upload(KEY, b"x", status(503))
    site.work()
    assert words(site) == ["seen"]


def test_version_was_verified_when_its_copy_was_read_again_later(stored):
    site, _ = stored
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET verified_at = stored_at + 86400000")
    version = site.versions()[KEY, 1]
    assert [(event.what, event.at) for event in told(site)["s3", 1]][-1] == ("verified", version.stored_at + timedelta(days=1))


def test_version_without_a_copy_was_superseded_when_the_first_newer_one_was_stored(site):
    for number in (1, 2, 3):
        site.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}")
    site.work()
    events = told(site)
    assert list(events) == [("s3", 3), ("s3", 2), ("s3", 1)]
    [_, superseded] = events["s3", 1]
    assert (superseded.what, superseded.detail) == ("superseded", "v3 was stored")
    assert superseded.at == site.versions()[KEY, 3].stored_at


def test_newer_version_that_was_stored_first_is_the_one_that_supersedes(make_site):
    site = make_site(keep_versions=2)
    rows = [site.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}") for number in (1, 2, 3)]
    site.poll()
    site.back_up(rows[2])
    site.pass_time(stored_at=timedelta(minutes=1))
    site.back_up(rows[1])
    site.work()
    assert [event.detail for event in told(site)["s3", 1] if event.what == "superseded"] == ["v3 was stored"]


def test_copy_was_replaced_when_its_grace_began_and_pruned_when_that_was_over(stored):
    site, _ = stored
    site.upload(KEY, b"two", version=2, served_at="/2")
    site.work()
    site.poll()
    replaced = told(site)["s3", 1][-1]
    assert (replaced.what, replaced.until - replaced.at) == ("replaced", timedelta(days=7))
    site.pass_grace()
    site.let_go()
    *_, pruned = told(site)["s3", 1]
    assert sorted(words(site)) == ["pruned", "replaced", "seen", "stored", "verified"]
    assert pruned.what == "pruned"
    assert pruned.detail == "v2 has replaced it, and the grace has passed"
    assert words(site, 2) == WHOLE


def test_deleted_file_tells_which_row_deleted_it_and_when_its_copies_go(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    deleted = told(site)["s3", 1][-1]
    assert (deleted.what, deleted.detail) == ("deleted", f"delete-log row {delete}")
    assert (deleted.at, deleted.until) == (site.removals()[delete].first_seen_at, site.removals()[delete].due_at)


def test_delete_says_nothing_of_a_version_that_came_later(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.upload(KEY, b"again", version=2, served_at="/2")
    site.work()
    assert "deleted" not in words(site, 2)
    assert "deleted" in words(site, 1)


def test_delete_that_was_taken_back_kept_the_version(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.withdraw(delete)
    site.poll()
    kept = told(site)["s3", 1][-1]
    [removal] = site.removals().values()
    assert (kept.what, kept.at) == ("kept", removal.closed_at)
    assert kept.detail.startswith("taken back")


def test_file_that_is_pruned_tells_it_once(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert sorted(words(site)) == ["deleted", "pruned", "seen", "stored", "verified"]
    pruned = next(event for event in told(site)["s3", 1] if event.what == "pruned")
    assert (pruned.at, pruned.until) == (site.versions()[KEY, 1].pruned_at, None)


def test_file_that_came_back_from_the_trash_was_deleted_and_kept(make_site):
    site = make_site(trash="30d")
    row = site.upload(KEY, b"one")
    site.work()
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    pruned = next(event for event in told(site)["s3", 1] if event.what == "pruned")
    assert pruned.until == site.versions()[KEY, 1].trash_until
    undelete(site.context, KEY)
    assert sorted(words(site)) == ["deleted", "kept", "seen", "stored", "verified"]


def test_hold_is_told_of_what_it_covers_until_it_is_released(stored):
    site, _ = stored
    site.upload("cars/b.png", b"b")
    site.work()
    until = site.context.catalog.database.now() + timedelta(days=90)
    hold(site, KEY, reason="court", until=until)
    held = told(site)["s3", 1][-1]
    assert (held.what, held.detail) == ("held", "court")
    assert abs(held.until - until) < timedelta(milliseconds=1)
    assert [event.what for event in told(site, "cars/b.png")["s3", 1]] == WHOLE
    release_holds(site.context, key=KEY)
    assert words(site) == WHOLE


def test_reason_why_something_waits_beyond_its_grace_is_told(stored):
    site, row = stored
    hold(site, "cars/", is_prefix=True, reason="court")
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    deleted = next(event for event in told(site)["s3", 1] if event.what == "deleted")
    assert deleted.detail.endswith("; on hold: court")


def test_each_storage_has_its_own_file_and_one_of_them_can_be_asked_for(stored):
    site, _ = stored
    for number in (1, 2):
        site.upload(KEY, b"azure %d" % number, version=number, storage="azure", served_at=f"/azure/{number}")
    site.work()
    assert list(told(site)) == [("s3", 1), ("azure", 2), ("azure", 1)]
    assert list(told(site, storage="azure")) == [("azure", 2), ("azure", 1)]
    assert [event.what for event in told(site)["azure", 1]] == ["seen", "superseded"]


def test_newer_version_of_another_storage_supersedes_nothing(stored):
    site, _ = stored
    site.upload(KEY, b"1", status(503), storage="azure", version=1, served_at="/azure/1")
    site.work()
    assert [event.what for event in told(site)["azure", 1]] == ["seen"]


def test_slash_in_front_of_a_key_is_no_difference(stored):
    assert list(told(stored[0], f"/{KEY}")) == [("s3", 1)]


def test_declined_row_is_a_part_of_the_history(site):
    site.change(site.upload(KEY, b"x"), Hash="nonsense")
    site.poll()
    [past] = history(site.context, KEY)
    assert isinstance(past.of, DeclinedRow)
    assert past.of.reason.startswith("Hash is not a SHA-256")


@pytest.mark.parametrize(("key", "storage"), [("cars/a", None), ("CARS/a.png", None), ("cars/*", None), (KEY, "azure")])
def test_file_that_is_not_known_is_wrong_usage(stored, key, storage):
    with pytest.raises(UsageError, match="the kit knows no such file"):
        list(history(stored[0].context, key, storage=storage))


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_long_history_comes_page_by_page_newest_first(make_site, monkeypatch, request, where):
    monkeypatch.setattr("cbk.edges.catalog.status.reports.BATCH", 3)
    url = (
        {}
        if where == "sqlite"
        else {"catalog_url": request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))}
    )
    site = make_site(**url)
    for number in range(1, 8):
        site.upload(KEY, b"%d" % number, version=number, served_at=f"/{number}")
        site.upload(KEY, b"%d" % number, version=number, storage="azure", served_at=f"/azure/{number}")
    site.work()
    assert list(told(site)) == [(storage, number) for storage in ("s3", "azure") for number in range(7, 0, -1)]
    assert {events[0].what for events in told(site).values()} == {"seen"}
