"""Deletes on a site: nothing goes early, nothing that is wanted goes, and nothing stays."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.edges.archive.archive import Publication
from cbk.errors import LeaseLost, SourceUnavailable, UsageError
from tests.in_process_site import claim_row

WEEK = timedelta(days=7)


@pytest.fixture
def stored(site):
    """A site with one stored file, and its row."""
    row = site.upload("cars/a.txt", b"one")
    site.work()
    return site, row


def test_deleted_file_keeps_its_copy_through_its_grace(stored):
    site, row = stored
    site.delete(row)
    assert site.let_go() == []
    site.pass_grace(WEEK - timedelta(minutes=1))
    assert [summary.outcome for summary in site.let_go()] == ["early"]
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


def test_deleted_file_goes_when_its_grace_has_passed(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert site.copies() == set()
    assert not (site.root / "car-erp" / "cars").exists()
    assert site.states() == {("cars/a.txt", 1): "pruned"}
    assert site.removals()[delete].outcome == "done"


def test_grace_runs_from_when_the_kit_saw_the_delete_whatever_date_the_application_wrote(stored):
    site, row = stored
    delete = site.delete(row, deleted_at=datetime(2020, 1, 1, tzinfo=UTC))
    before = site.context.catalog.database.now()
    site.poll()
    assert site.removals()[delete].due_at >= before + WEEK


def test_message_is_sent_once_what_remains_fits_one_hop(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.pass_grace(WEEK - timedelta(minutes=16))
    site.poll()
    assert site.publisher.prunes == []
    site.pass_grace(timedelta(minutes=2))
    site.poll()
    [(removal, countdown)] = site.publisher.prunes
    assert removal.row_id == row
    assert timedelta(minutes=13) < countdown <= timedelta(minutes=14)


def test_armed_removal_is_not_sent_a_second_time(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.poll()
    site.poll()
    assert len(site.publisher.prunes) == 1


def test_lost_message_is_sent_again(make_site):
    site = make_site(poll_interval="1ms")
    row = site.upload("a.txt", b"x")
    site.work()
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    site.poll()
    assert site.removals()[delete].armed_until - site.context.catalog.database.now() <= timedelta(seconds=5)
    site.publisher.prunes = []
    site.pass_grace(timedelta(seconds=6))
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]


def test_early_message_arms_itself_again_for_the_rest(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace(WEEK - timedelta(minutes=5))
    assert site.prune(delete).outcome == "early"
    [(_, countdown)] = site.publisher.prunes
    assert timedelta(minutes=4) < countdown <= timedelta(minutes=5)
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


def test_message_for_a_removal_that_is_far_off_does_nothing(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    assert site.prune(delete).outcome == "early"
    assert site.publisher.prunes == []


def test_doubled_message_is_harmless(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    assert [site.prune(delete).outcome for _ in range(3)] == ["pruned", "nothing to do", "nothing to do"]


@pytest.mark.parametrize("delete_id", ["999", "not-an-id", ""])
def test_message_for_an_unknown_delete_is_harmless(site, delete_id):
    assert site.prune(delete_id).outcome == "nothing to do"


@pytest.mark.parametrize("named", [{}, {"delete_id": "1", "version_id": 1}])
def test_prune_takes_one_thing(site, named):
    with pytest.raises(UsageError):
        site.prune(**named)


def test_delete_that_is_taken_back_keeps_the_copy(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.withdraw(delete)
    site.pass_grace()
    assert site.prune(delete).outcome == "taken back"
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    assert not site.versions()["cars/a.txt", 1].deleted


def test_poll_notices_a_delete_that_was_taken_back(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    assert site.versions()["cars/a.txt", 1].deleted
    site.withdraw(delete)
    site.poll()
    [removal] = site.removals().values()
    assert (removal.outcome, removal.delete_id) == ("taken back", None)
    assert not site.versions()["cars/a.txt", 1].deleted


def test_delete_that_comes_back_after_it_was_taken_back_has_a_whole_grace(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.withdraw(delete)
    site.poll()
    site.pass_grace()
    again = site.delete(row)
    site.poll()
    assert site.removals()[again].due_at > site.context.catalog.database.now() + WEEK - timedelta(minutes=1)
    assert site.let_go() == []


def test_delete_row_that_is_changed_to_name_another_file_begins_anew(make_site):
    site = make_site()
    first, second = site.upload("a.txt", b"1"), site.upload("b.txt", b"2")
    site.work()
    delete = site.delete(first)
    site.poll()
    site.pass_grace()
    site.change_delete(delete, FileId=int(second))
    assert site.prune(delete).outcome == "kept"
    assert site.copies() == {"car-erp/a/v1.gzip", "car-erp/b/v1.gzip"}
    assert not site.versions()["a.txt", 1].deleted
    assert site.removals()[delete].due_at > site.context.catalog.database.now() + WEEK - timedelta(minutes=1)


def test_older_versions_go_with_the_one_that_is_named(site):
    site.upload("a.txt", b"1", served_at="/one")
    site.work()
    newest = site.upload("a.txt", b"2", version=2)
    site.work()
    assert len(site.copies()) == 2
    site.delete(newest)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == set()
    assert set(site.states().values()) == {"pruned"}


def test_delete_that_names_an_older_version_keeps_the_newer_one_and_is_listed(site):
    row = site.upload("a.txt", b"1")
    site.work()
    site.upload("a.txt", b"2", version=2)
    delete = site.delete(row)
    site.work()
    assert (site.removals()[delete].through, site.removals()[delete].keeps_newer) == (1, 2)
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/a/v2.gzip"}


def test_version_that_appears_after_the_delete_is_a_recreation_and_stays(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.upload("cars/a.txt", b"two", version=2)
    site.work()
    site.pass_grace()
    site.let_go()
    assert site.states() == {("cars/a.txt", 1): "pruned", ("cars/a.txt", 2): "stored"}
    assert site.copies() == {"car-erp/cars/a/v2.gzip"}


def test_file_that_was_created_again_while_the_kit_was_off_stays_by_its_dates(stored):
    site, row = stored
    site.change(row, CreatedAt=datetime(2026, 1, 1, 9, tzinfo=UTC))
    site.delete(row, deleted_at=datetime(2026, 1, 1, 10, tzinfo=UTC))
    again = site.upload("cars/a.txt", b"two", version=2)
    site.change(again, CreatedAt=datetime(2026, 1, 1, 15, tzinfo=UTC))
    site.work()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/cars/a/v2.gzip"}


def test_only_copy_of_a_file_that_was_created_again_stays_until_the_new_one_is_there(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    again = site.upload("cars/a.txt", b"two", version=2, hash_of=b"not there yet")
    site.work()
    site.pass_grace()
    [summary] = site.let_go()
    assert (summary.outcome, site.copies()) == ("kept", {"car-erp/cars/a/v1.gzip"})
    assert "only one" in summary.facts["reason"]
    site.origin.put("/car-erp/cars/a.txt", b"not there yet")
    site.pass_backoff()
    site.work()
    assert site.versions()["cars/a.txt", 2].state == "stored", again
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/cars/a/v2.gzip"}


def test_row_that_is_written_after_the_delete_with_the_same_version_creates_the_file_again(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.drop(row)
    again = site.upload("cars/a.txt", b"one")
    site.poll()
    assert not site.versions()["cars/a.txt", 1].deleted
    site.pass_grace()
    assert [summary.facts["count"] for summary in site.let_go()] == [0]
    assert site.removals()[delete].outcome == "re-created"
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    assert site.versions()["cars/a.txt", 1].source_id == again


def test_pruned_file_that_is_uploaded_again_is_stored_again(stored):
    site, row = stored
    site.delete(row)
    site.poll()
    site.drop(row)
    site.pass_grace()
    site.let_go()
    site.upload("cars/a.txt", b"one")
    site.work()
    assert site.states() == {("cars/a.txt", 1): "stored"}
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


def test_row_that_always_repeated_another_does_not_take_its_delete_back(site):
    first = site.upload("a.txt", b"x")
    site.upload("a.txt", b"x")
    site.work()
    delete = site.delete(first)
    site.poll()
    site.forget_fact("files.window")
    site.poll()
    assert site.removals()[delete].open


def test_lower_version_that_comes_after_the_delete_is_a_recreation(site):
    row = site.upload("a.txt", b"2", version=2, row_id=10)
    site.work()
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    site.upload("a.txt", b"1", version=1, row_id=9)
    site.work()
    assert site.states() == {("a.txt", 2): "pruned", ("a.txt", 1): "stored"}
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/a/v1.gzip"}


def test_delete_that_commits_late_with_a_lower_id_is_seen(make_site):
    site = make_site()
    rows = [site.upload(f"{i}.txt", b"x") for i in range(3)]
    site.work()
    site.delete(rows[0], delete_id=10)
    site.poll()
    site.delete(rows[1], delete_id=9)
    site.poll()
    assert set(site.removals()) == {"9", "10"}


def test_delete_of_a_file_that_no_poll_has_seen_is_taken_in_with_it(site):
    row = site.upload("a.txt", b"x")
    delete = site.delete(row)
    site.poll()
    assert site.removals()[delete].through == 1
    assert site.versions()["a.txt", 1].deleted


def test_delete_of_a_row_that_there_never_was_has_no_due_time(site):
    delete = site.delete(4711)
    site.poll()
    site.pass_grace()
    assert site.let_go() == []
    assert (site.removals()[delete].open, site.removals()[delete].due_at) == (True, None)


def test_row_that_appears_after_its_delete_has_a_grace_from_then_and_waits_for_a_person(site):
    delete = site.delete(4711)
    site.poll()
    site.pass_grace()
    site.upload("a.txt", b"x", row_id=4711)
    before = site.context.catalog.now()
    site.work()
    site.poll()
    removal = site.removals()[delete]
    assert removal.due_at >= before + WEEK
    site.pass_grace()
    assert site.let_go() == []
    assert site.states() == {("a.txt", 1): "stored"}
    [brake] = site.context.catalog.brakes.all()
    assert "4711" in brake.reason


def test_declined_row_whose_file_was_deleted_counts_no_more(site):
    row = site.upload("a.txt", b"x")
    site.change(row, Hash="nonsense")
    site.poll()
    assert site.declined() != {}
    site.delete(row)
    site.poll()
    site.forget_fact("files.window")
    site.poll()
    assert site.declined() == {}


def test_version_that_was_never_fetched_is_pruned_in_the_record(site):
    row = site.upload("gone.txt", b"x")
    site.origin.remove("/car-erp/gone.txt")
    site.work()
    assert site.states() == {("gone.txt", 1): "missing"}
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.states() == {("gone.txt", 1): "pruned"}
    site.pass_backoff()
    site.poll()
    assert site.publisher.take() == []


def test_version_that_a_worker_is_at_goes_when_the_worker_is_done(site):
    row = site.upload("a.txt", b"x")
    site.poll()
    claim = claim_row(site.context.catalog, row, timedelta(minutes=2))
    site.publisher.take()
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    assert site.prune(delete).outcome == "kept"
    site.context.catalog.work.give_back([claim], timedelta(0), reason="test")
    site.back_up(row)
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert site.copies() == set()


def test_copy_that_a_slow_worker_publishes_after_the_prune_is_removed(site, monkeypatch):
    row = site.upload("a.txt", b"x")
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    put = Publication.put

    def sleep_through_the_lease_first(publication, part, location):
        site.expire_leases()
        assert site.prune(delete).outcome == "pruned"
        put(publication, part, location)
        assert site.copies() == {"car-erp/a/v1.gzip"}

    monkeypatch.setattr(Publication, "put", sleep_through_the_lease_first)
    with pytest.raises(LeaseLost):
        site.back_up(row)
    assert site.copies() == set()


def test_source_that_is_away_leaves_the_removal_for_later(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    with site.source_away(), pytest.raises(SourceUnavailable):
        site.prune(delete)
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    assert site.prune(delete).outcome == "pruned"


def test_worker_that_dies_between_record_and_removal_is_made_good_by_the_next_poll(stored, monkeypatch):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace()
    monkeypatch.setattr(type(site.context.archive), "remove", _die)
    with pytest.raises(SystemExit):
        site.prune(delete)
    assert site.states() == {("cars/a.txt", 1): "pruned"}
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    monkeypatch.undo()
    site.poll()
    assert site.copies() == set()


def _die(*_):
    raise SystemExit


def test_longer_grace_counts_for_what_waits_already_and_a_shorter_one_does_not(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.reopen(grace_period="30d")
    site.pass_grace(timedelta(days=8))
    assert site.prune(delete).outcome == "early"
    site.reopen(grace_period="1s")
    assert site.prune(delete).outcome == "early"
    site.pass_grace(timedelta(days=23))
    assert site.prune(delete).outcome == "pruned"


def test_grace_that_was_noted_while_the_clock_was_ahead_begins_again(stored):
    site, row = stored
    delete = site.delete(row)
    site.poll()
    site.pass_grace(-timedelta(days=730))
    site.poll()
    assert site.removals()[delete].due_at < site.context.catalog.database.now() + WEEK + timedelta(minutes=1)


# Replaced copies


@pytest.fixture
def replaced(site):
    """A site with a stored file whose first version was replaced by a second one, both stored."""
    site.upload("a.txt", b"one", served_at="/one")
    site.work()
    site.upload("a.txt", b"two", version=2, served_at="/two")
    site.work()
    return site


def test_replaced_copy_stays_through_a_grace_and_goes_after_it(replaced):
    site = replaced
    assert site.let_go() == []
    assert len(site.copies()) == 2
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert site.copies() == {"car-erp/a/v2.gzip"}
    assert site.states() == {("a.txt", 1): "pruned", ("a.txt", 2): "stored"}


def test_replaced_copy_stays_while_the_newer_one_is_bad_on_the_disk(replaced):
    site = replaced
    site.poll()
    site.pass_grace()
    path = site.root / "car-erp/a/v2.gzip"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)
    assert [summary.outcome for summary in site.let_go()] == ["kept"]
    assert "car-erp/a/v1.gzip" in site.copies()
    assert site.versions()["a.txt", 2].state == "pending"
    site.work()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert site.copies() == {"car-erp/a/v2.gzip"}


def test_copies_that_the_setting_asks_for_stay(make_site):
    site = make_site(keep_versions=2)
    for number in (1, 2, 3):
        site.upload("a.txt", b"%d" % number, version=number, served_at=f"/{number}")
        site.work()
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/a/v2.gzip", "car-erp/a/v3.gzip"}
    site.reopen(keep_versions=1)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/a/v3.gzip"}


def test_older_copy_stays_where_the_newer_version_cannot_be_had(site):
    site.upload("a.txt", b"one", served_at="/one")
    site.work()
    site.upload("a.txt", b"two", version=2, hash_of=b"other", served_at="/two")
    site.work()
    site.poll()
    site.pass_grace()
    assert site.let_go() == []
    assert site.copies() == {"car-erp/a/v1.gzip"}
