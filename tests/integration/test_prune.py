"""Deletes on a desk: nothing goes early, nothing that is wanted goes, and nothing stays."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.edges.archive import Publication
from cbk.errors import LeaseLost, SourceUnavailable, UsageError
from tests.desk import claim_row

WEEK = timedelta(days=7)


@pytest.fixture
def stored(desk):
    """A desk with one stored file, and its row."""
    row = desk.upload("cars/a.txt", b"one")
    desk.work()
    return desk, row


def test_deleted_file_keeps_its_copy_through_its_grace(stored):
    desk, row = stored
    desk.delete(row)
    assert desk.let_go() == []
    desk.pass_grace(WEEK - timedelta(minutes=1))
    assert [summary.outcome for summary in desk.let_go()] == ["early"]
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}


def test_deleted_file_goes_when_its_grace_has_passed(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert desk.copies() == set()
    assert not (desk.root / "car-erp" / "cars").exists()
    assert desk.states() == {("cars/a.txt", 1): "pruned"}
    assert desk.removals()[delete].outcome == "done"


def test_grace_runs_from_when_the_kit_saw_the_delete_whatever_date_the_application_wrote(stored):
    desk, row = stored
    delete = desk.delete(row, deleted_at=datetime(2020, 1, 1, tzinfo=UTC))
    before = desk.kit.catalog.database.now()
    desk.poll()
    assert desk.removals()[delete].due_at >= before + WEEK


def test_message_is_sent_once_what_remains_fits_one_hop(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.pass_grace(WEEK - timedelta(minutes=16))
    desk.poll()
    assert desk.courier.prunes == []
    desk.pass_grace(timedelta(minutes=2))
    desk.poll()
    [(removal, countdown)] = desk.courier.prunes
    assert removal.row_id == row
    assert timedelta(minutes=13) < countdown <= timedelta(minutes=14)


def test_armed_removal_is_not_sent_a_second_time(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.poll()
    desk.poll()
    assert len(desk.courier.prunes) == 1


def test_lost_message_is_sent_again(make_desk):
    desk = make_desk(poll_interval="1ms")
    row = desk.upload("a.txt", b"x")
    desk.work()
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.poll()
    assert desk.removals()[delete].armed_until - desk.kit.catalog.database.now() <= timedelta(seconds=5)
    desk.courier.prunes = []
    desk.pass_grace(timedelta(seconds=6))
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]


def test_early_message_arms_itself_again_for_the_rest(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace(WEEK - timedelta(minutes=5))
    assert desk.prune(delete).outcome == "early"
    [(_, countdown)] = desk.courier.prunes
    assert timedelta(minutes=4) < countdown <= timedelta(minutes=5)
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}


def test_message_for_a_removal_that_is_far_off_does_nothing(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    assert desk.prune(delete).outcome == "early"
    assert desk.courier.prunes == []


def test_doubled_message_is_harmless(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    assert [desk.prune(delete).outcome for _ in range(3)] == ["pruned", "nothing to do", "nothing to do"]


@pytest.mark.parametrize("delete_id", ["999", "not-an-id", ""])
def test_message_for_an_unknown_delete_is_harmless(desk, delete_id):
    assert desk.prune(delete_id).outcome == "nothing to do"


@pytest.mark.parametrize("named", [{}, {"delete_id": "1", "version_id": 1}])
def test_prune_takes_one_thing(desk, named):
    with pytest.raises(UsageError):
        desk.prune(**named)


def test_delete_that_is_taken_back_keeps_the_copy(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.take_back(delete)
    desk.pass_grace()
    assert desk.prune(delete).outcome == "taken back"
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}
    assert not desk.versions()["cars/a.txt", 1].deleted


def test_poll_notices_a_delete_that_was_taken_back(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    assert desk.versions()["cars/a.txt", 1].deleted
    desk.take_back(delete)
    desk.poll()
    assert desk.removals()[delete].outcome == "taken back"
    assert not desk.versions()["cars/a.txt", 1].deleted


def test_delete_that_comes_back_after_it_was_taken_back_has_a_whole_grace(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.take_back(delete)
    desk.poll()
    desk.pass_grace()
    again = desk.delete(row)
    desk.poll()
    assert desk.removals()[again].due_at > desk.kit.catalog.database.now() + WEEK - timedelta(minutes=1)
    assert desk.let_go() == []


def test_delete_row_that_is_changed_to_name_another_file_begins_anew(make_desk):
    desk = make_desk()
    first, second = desk.upload("a.txt", b"1"), desk.upload("b.txt", b"2")
    desk.work()
    delete = desk.delete(first)
    desk.poll()
    desk.pass_grace()
    desk.change_delete(delete, FileId=int(second))
    assert desk.prune(delete).outcome == "kept"
    assert desk.copies() == {"car-erp/a/v1.gzip", "car-erp/b/v1.gzip"}
    assert not desk.versions()["a.txt", 1].deleted
    assert desk.removals()[delete].due_at > desk.kit.catalog.database.now() + WEEK - timedelta(minutes=1)


def test_every_version_that_is_known_goes_with_its_file(desk):
    first = desk.upload("a.txt", b"1", served_at="/one")
    desk.work()
    desk.upload("a.txt", b"2", version=2)
    desk.work()
    assert len(desk.copies()) == 2
    desk.delete(first)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == set()
    assert set(desk.states().values()) == {"pruned"}


def test_version_that_was_written_before_its_delete_is_covered_though_no_poll_saw_it_first(desk):
    row = desk.upload("a.txt", b"1")
    desk.work()
    desk.upload("a.txt", b"2", version=2)
    delete = desk.delete(row)
    desk.poll()
    assert desk.removals()[delete].through == 2


def test_version_that_appears_after_the_delete_is_a_recreation_and_stays(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.upload("cars/a.txt", b"two", version=2)
    desk.work()
    desk.pass_grace()
    desk.let_go()
    assert desk.states() == {("cars/a.txt", 1): "pruned", ("cars/a.txt", 2): "stored"}
    assert desk.copies() == {"car-erp/cars/a/v2.gzip"}


def test_file_that_was_created_again_while_the_kit_was_off_stays_by_its_dates(stored):
    desk, row = stored
    desk.delete(row, deleted_at=datetime(2026, 1, 1, 10, tzinfo=UTC))
    again = desk.upload("cars/a.txt", b"two", version=2)
    desk.change(again, CreatedAt=datetime(2026, 1, 1, 15, tzinfo=UTC))
    desk.work()
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == {"car-erp/cars/a/v2.gzip"}


def test_only_copy_of_a_file_that_was_created_again_stays_until_the_new_one_is_there(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    again = desk.upload("cars/a.txt", b"two", version=2, hash_of=b"not there yet")
    desk.work()
    desk.pass_grace()
    [summary] = desk.let_go()
    assert (summary.outcome, desk.copies()) == ("kept", {"car-erp/cars/a/v1.gzip"})
    assert "only one" in summary.facts["reason"]
    desk.origin.put("/car-erp/cars/a.txt", b"not there yet")
    desk.pass_backoff()
    desk.work()
    assert desk.versions()["cars/a.txt", 2].state == "stored", again
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == {"car-erp/cars/a/v2.gzip"}


def test_row_that_is_written_after_the_delete_with_the_same_version_creates_the_file_again(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.drop(row)
    again = desk.upload("cars/a.txt", b"one")
    desk.poll()
    assert desk.removals()[delete].outcome == "re-created"
    desk.pass_grace()
    assert desk.let_go() == []
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}
    assert desk.versions()["cars/a.txt", 1].source_id == again


def test_pruned_file_that_is_uploaded_again_is_stored_again(stored):
    desk, row = stored
    desk.delete(row)
    desk.poll()
    desk.drop(row)
    desk.pass_grace()
    desk.let_go()
    desk.upload("cars/a.txt", b"one")
    desk.work()
    assert desk.states() == {("cars/a.txt", 1): "stored"}
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}


def test_row_that_always_repeated_another_does_not_take_its_delete_back(desk):
    first = desk.upload("a.txt", b"x")
    desk.upload("a.txt", b"x")
    desk.work()
    delete = desk.delete(first)
    desk.poll()
    desk.forget_fact("files.window")
    desk.poll()
    assert desk.removals()[delete].open


def test_version_that_commits_late_goes_with_its_deleted_file(desk):
    row = desk.upload("a.txt", b"2", version=2, row_id=10)
    desk.work()
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    desk.upload("a.txt", b"1", version=1, row_id=9)
    desk.work()
    assert desk.versions()["a.txt", 1].deleted
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == set()
    assert set(desk.states().values()) == {"pruned"}


def test_delete_that_commits_late_with_a_lower_id_is_seen(make_desk):
    desk = make_desk()
    rows = [desk.upload(f"{i}.txt", b"x") for i in range(3)]
    desk.work()
    desk.delete(rows[0], delete_id=10)
    desk.poll()
    desk.delete(rows[1], delete_id=9)
    desk.poll()
    assert set(desk.removals()) == {"9", "10"}


def test_delete_of_a_file_that_no_poll_has_seen_is_taken_in_with_it(desk):
    row = desk.upload("a.txt", b"x")
    delete = desk.delete(row)
    desk.poll()
    assert desk.removals()[delete].through == 1
    assert desk.versions()["a.txt", 1].deleted


def test_delete_of_a_row_that_there_never_was_is_over_when_its_grace_is(desk):
    delete = desk.delete(4711)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.removals()[delete].outcome == "unknown"


def test_declined_row_whose_file_was_deleted_counts_no_more(desk):
    row = desk.upload("a.txt", b"x")
    desk.change(row, Hash="nonsense")
    desk.poll()
    assert desk.declined() != {}
    desk.delete(row)
    desk.poll()
    desk.forget_fact("files.window")
    desk.poll()
    assert desk.declined() == {}


def test_version_that_was_never_fetched_is_pruned_in_the_record(desk):
    row = desk.upload("gone.txt", b"x")
    desk.origin.remove("/car-erp/gone.txt")
    desk.work()
    assert desk.states() == {("gone.txt", 1): "missing"}
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.states() == {("gone.txt", 1): "pruned"}
    desk.pass_backoff()
    desk.poll()
    assert desk.courier.take() == []


def test_version_that_a_worker_is_at_goes_when_the_worker_is_done(desk):
    row = desk.upload("a.txt", b"x")
    desk.poll()
    claim = claim_row(desk.kit.catalog, row, timedelta(minutes=2))
    desk.courier.take()
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    assert desk.prune(delete).outcome == "kept"
    desk.kit.catalog.work.give_back([claim], timedelta(0), reason="test")
    desk.back_up(row)
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert desk.copies() == set()


def test_copy_that_a_slow_worker_publishes_after_the_prune_is_removed(desk, monkeypatch):
    row = desk.upload("a.txt", b"x")
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    put = Publication.put

    def sleep_through_the_lease_first(publication, part, location):
        desk.expire_leases()
        assert desk.prune(delete).outcome == "pruned"
        put(publication, part, location)
        assert desk.copies() == {"car-erp/a/v1.gzip"}

    monkeypatch.setattr(Publication, "put", sleep_through_the_lease_first)
    with pytest.raises(LeaseLost):
        desk.back_up(row)
    assert desk.copies() == set()


def test_source_that_is_away_leaves_the_removal_for_later(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    with desk.source_away(), pytest.raises(SourceUnavailable):
        desk.prune(delete)
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}
    assert desk.prune(delete).outcome == "pruned"


def test_worker_that_dies_between_record_and_removal_is_made_good_by_the_next_poll(stored, monkeypatch):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace()
    monkeypatch.setattr(type(desk.kit.archive), "remove", _die)
    with pytest.raises(SystemExit):
        desk.prune(delete)
    assert desk.states() == {("cars/a.txt", 1): "pruned"}
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}
    monkeypatch.undo()
    desk.poll()
    assert desk.copies() == set()


def _die(*_):
    raise SystemExit


def test_longer_grace_counts_for_what_waits_already_and_a_shorter_one_does_not(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.reopen(grace_period="30d")
    desk.pass_grace(timedelta(days=8))
    assert desk.prune(delete).outcome == "early"
    desk.reopen(grace_period="1s")
    assert desk.prune(delete).outcome == "early"
    desk.pass_grace(timedelta(days=23))
    assert desk.prune(delete).outcome == "pruned"


def test_grace_that_was_noted_while_the_clock_was_ahead_begins_again(stored):
    desk, row = stored
    delete = desk.delete(row)
    desk.poll()
    desk.pass_grace(-timedelta(days=730))
    desk.poll()
    assert desk.removals()[delete].due_at < desk.kit.catalog.database.now() + WEEK + timedelta(minutes=1)


# Replaced copies


@pytest.fixture
def replaced(desk):
    """A desk with a stored file whose first version was replaced by a second one, both stored."""
    desk.upload("a.txt", b"one", served_at="/one")
    desk.work()
    desk.upload("a.txt", b"two", version=2, served_at="/two")
    desk.work()
    return desk


def test_replaced_copy_stays_through_a_grace_and_goes_after_it(replaced):
    desk = replaced
    assert desk.let_go() == []
    assert len(desk.copies()) == 2
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert desk.copies() == {"car-erp/a/v2.gzip"}
    assert desk.states() == {("a.txt", 1): "pruned", ("a.txt", 2): "stored"}


def test_replaced_copy_stays_while_the_newer_one_is_bad_on_the_disk(replaced):
    desk = replaced
    desk.poll()
    desk.pass_grace()
    path = desk.root / "car-erp/a/v2.gzip"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)
    assert [summary.outcome for summary in desk.let_go()] == ["kept"]
    assert "car-erp/a/v1.gzip" in desk.copies()
    assert desk.versions()["a.txt", 2].state == "pending"
    desk.work()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert desk.copies() == {"car-erp/a/v2.gzip"}


def test_copies_that_the_setting_asks_for_stay(make_desk):
    desk = make_desk(keep_versions=2)
    for number in (1, 2, 3):
        desk.upload("a.txt", b"%d" % number, version=number, served_at=f"/{number}")
        desk.work()
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == {"car-erp/a/v2.gzip", "car-erp/a/v3.gzip"}
    desk.reopen(keep_versions=1)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == {"car-erp/a/v3.gzip"}


def test_older_copy_stays_where_the_newer_version_cannot_be_had(desk):
    desk.upload("a.txt", b"one", served_at="/one")
    desk.work()
    desk.upload("a.txt", b"two", version=2, hash_of=b"other", served_at="/two")
    desk.work()
    desk.poll()
    desk.pass_grace()
    assert desk.let_go() == []
    assert desk.copies() == {"car-erp/a/v1.gzip"}
