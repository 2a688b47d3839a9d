"""Which row an Id means, and what a delete covers: whatever an application does to its tables, what lives keeps its copy."""

from datetime import timedelta

import pytest

from tests.model.application import HUGE
from tests.model.fixtures import DATES, NUMBERS
from tests.model.story import POLL_INTERVAL
from tests.model.tables import FILES, LOG

only_numbers = pytest.mark.parametrize("kind", NUMBERS)


# An Id is a hint


def test_id_that_names_another_file_before_its_delete_is_written_deletes_that_one(story):
    story.upload("a.png", 1)
    story.rounds()
    story.upload("other.png")
    row = story.upload("a.png", 2)
    story.rounds()
    story.change(row, "b.png")
    story.rounds()
    assert story.has("b.png")

    story.delete(row)
    story.pass_grace()

    assert story.has("a.png", 1)
    assert not story.has("b.png")


def test_id_that_names_another_file_in_the_poll_that_sees_its_delete_loses_neither(story):
    story.upload("a.png", 1)
    story.rounds()
    row = story.upload("a.png", 2)
    story.rounds()
    story.app.vanish(row)
    story.upload("b.png", row_id=row.id)
    story.delete(row)

    story.pass_grace()

    assert story.has("a.png", 1) or story.has("a.png", 2)
    assert story.has("b.png")


def test_file_whose_row_was_changed_into_another_file_is_not_deleted_with_that_one(story):
    story.upload("other.png")
    row = story.upload("a.png", 2)
    story.rounds()
    story.change(row, "b.png")
    story.rounds()
    assert story.has("b.png")

    story.delete(row)
    story.pass_grace()

    assert story.has("a.png", 2)
    assert not story.has("b.png")


@pytest.mark.parametrize("log", ["kept", "emptied"])
def test_delete_after_a_renumbering_goes_to_the_file_that_the_id_names_now(story, log):
    rows = [story.upload(f"{name}.png") for name in "abc"]
    story.rounds()
    story.app.renumber(rows[::-1], log=log)
    story.rounds()

    [named] = [row for row in story.meaning.rows.values() if row.content.key == "c.png"]
    story.delete(named)
    story.pass_grace()

    assert [story.has(f"{name}.png") for name in "abc"] == [True, True, False]


@only_numbers
def test_delete_that_is_seen_with_a_renumbering_takes_no_file_that_lives(story):
    rows = [story.upload(f"{name}.png") for name in "abc"]
    story.rounds()
    story.delete(rows[0])
    story.app.renumber(rows[::-1], log="kept")

    story.pass_grace()

    assert story.has("b.png")
    assert story.has("c.png")


@only_numbers
@pytest.mark.parametrize("date", ["now", "ancient"])
def test_id_that_is_given_again_after_its_delete_keeps_the_new_file(story, date):
    story.upload("a.png")
    row = story.upload("b.png")
    story.rounds()
    story.delete(row, drops="named")
    story.upload("c.png", row_id=row.id, date=date)

    story.pass_grace()

    assert story.has("c.png")


def test_id_of_a_removed_row_that_is_given_again_is_a_new_file(story):
    story.upload("a.png")
    row = story.upload("b.png")
    story.rounds()
    story.app.vanish(row)
    story.upload("c.png", row_id=row.id)

    story.rounds()

    assert story.has("c.png")


@only_numbers
@pytest.mark.parametrize("highest", [HUGE, 1_860_000_000_000_000_000, 2**53 + 1])
def test_rows_after_one_of_an_absurd_id_are_stored(story, highest):
    story.upload("a.png")
    story.rounds()
    row = story.upload("b.png", row_id=highest)
    story.rounds()
    story.app.vanish(row)
    story.upload("c.png", row_id=7)

    story.rounds()

    assert story.has("c.png")


@only_numbers
def test_sum_of_ids_may_be_more_than_64_bits(story):
    for number in range(12):
        story.upload(f"{number}.png", row_id=1_860_000_000_000_000_000 + number * 7)

    story.rounds()

    assert all(story.has(f"{number}.png") for number in range(12))
    story.upload("late.png", row_id=1_860_000_000_000_000_001)
    story.rounds()
    assert story.has("late.png")


def test_random_ids_of_60_bits_are_all_read(story):
    if story.app.shape.has_numbers:
        ids = [(number * 0x9E3779B97F4A7C15) % 2**60 for number in range(1, 30)]
        for number, row_id in enumerate(ids):
            story.upload(f"{number}.png", row_id=row_id)
            if number % 10 == 0:
                story.rounds()
        story.rounds()
        assert all(story.has(f"{number}.png") for number in range(len(ids)))


@only_numbers
def test_row_that_commits_late_before_a_pause_longer_than_the_settling_time_is_stored(story):
    story.upload("a.png", row_id=10)
    story.upload("c.png", row_id=20)
    story.rounds()
    story.upload("b.png", row_id=15)
    for _ in range(11):
        story.let_time_pass(POLL_INTERVAL)

    story.rounds()

    assert story.has("b.png")


def test_row_that_is_changed_in_place_is_read_as_what_it_is_now(story):
    row = story.upload("a.png")
    story.rounds()
    for content in ("b.png", 1, 0), ("a.png", 2, 0), ("a.png", 1, 1):
        story.change(story.meaning.rows[row.id], *content)
        story.rounds()
        assert story.has(*content)


# What a delete covers


@pytest.mark.parametrize("columns", DATES)
@pytest.mark.parametrize("drops", ["nothing", "named"])
@pytest.mark.parametrize("number", [2, 1])
def test_version_that_replaces_a_deleted_one_in_the_same_transaction_lives(tell, columns, drops, number):
    story = tell(columns=columns)
    row = story.upload("a.png", 1)
    story.rounds()
    story.replace(row, number, 1, drops=drops)

    story.pass_grace()

    assert story.has("a.png", number, 1)


@pytest.mark.parametrize("columns", DATES)
def test_version_that_replaces_a_deleted_one_a_second_later_lives(tell, columns):
    story = tell(columns=columns)
    row = story.upload("a.png", 1)
    story.rounds()
    story.delete(row)
    story.let_time_pass(POLL_INTERVAL / 61)
    story.upload("a.png", 2)

    story.pass_grace()

    assert story.has("a.png", 2)


@pytest.mark.parametrize("columns", DATES)
@pytest.mark.parametrize(("number", "content"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)])
def test_file_that_is_created_again_after_its_delete_is_stored(tell, number, content, columns):
    story = tell(columns=columns)
    row = story.upload("a.png", 2, 0)
    story.rounds()
    story.delete(row)
    story.pass_grace()
    assert not story.has("a.png", 2, 0)

    story.upload("a.png", number, content)
    story.rounds()
    assert story.has("a.png", number, content)
    story.pass_grace()
    assert story.has("a.png", number, content)


@pytest.mark.parametrize("columns", DATES)
@pytest.mark.parametrize(("number", "content"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)])
def test_file_that_is_created_again_while_the_kit_is_off_is_stored_beside_what_waits(tell, number, content, columns):
    story = tell(columns=columns)
    row = story.upload("a.png", 2, 0)
    story.rounds()
    story.delete(row)
    story.let_time_pass(POLL_INTERVAL * 60)
    story.upload("a.png", number, content)

    story.rounds()
    assert story.has("a.png", number, content)
    assert story.has("a.png", 2, 0)
    story.pass_grace()
    assert story.has("a.png", number, content)


@only_numbers
@pytest.mark.parametrize("columns", DATES)
def test_lower_version_that_is_written_after_its_delete_lives_though_one_poll_sees_all(tell, columns):
    story = tell(columns=columns)
    story.upload("b.png")
    story.rounds()
    row = story.upload("a.png", 2)
    story.delete(row)
    story.upload("a.png", 1)

    story.rounds()
    assert story.has("a.png", 1)
    story.pass_grace()
    assert story.has("a.png", 1)


@only_numbers
def test_dates_tell_a_row_that_came_after_its_delete_from_the_same_one_under_its_id(story):
    story.upload("b.png")
    row = story.upload("a.png")
    story.rounds()
    story.delete(row, drops="named")
    story.let_time_pass(POLL_INTERVAL)
    story.upload("a.png", row_id=row.id)

    story.rounds()
    assert story.has("a.png")
    story.pass_grace()
    assert story.has("a.png")


@only_numbers
def test_delete_under_the_id_of_one_that_was_taken_back_is_another_delete(story):
    story.upload("other.png")
    row = story.upload("a.png")
    story.rounds()
    story.delete(row, drops="named")
    story.rounds()
    again = story.upload("b.png", row_id=row.id)
    story.rounds()
    [delete] = story.meaning.log.values()
    story.app.take_back(delete)
    story.app.database.number_from(LOG, 0)
    story.delete(again, drops="named")
    assert list(story.meaning.log) == [delete.id]

    story.pass_grace()

    assert story.has("a.png")
    assert story.has("b.png")
    assert "bears another date" in story.problems()


@only_numbers
def test_delete_whose_date_is_told_otherwise_takes_no_row_that_its_id_was_given_to_since(story):
    story.upload("other.png")
    row = story.upload("a.png")
    story.rounds()
    story.delete(row, drops="named")
    story.pass_grace()
    story.upload("b.png", row_id=row.id, date="ancient")
    story.rounds()

    [delete] = story.meaning.log.values()
    story.app.database.update(LOG, delete.id, {"DeletedAt": story.app.database.instant(delete.deleted_at + timedelta(hours=1))})
    story.pass_grace()

    assert story.has("b.png")


@only_numbers
def test_delete_whose_date_is_told_otherwise_goes_on_after_another_grace(story):
    story.upload("other.png")
    row = story.upload("a.png")
    story.rounds()
    story.delete(row)
    story.rounds()
    [delete] = story.meaning.log.values()
    story.app.database.update(LOG, delete.id, {"DeletedAt": story.app.database.instant(delete.deleted_at + timedelta(hours=1))})
    story.pass_grace()

    assert not story.has("a.png")
    assert story.problems() == ""


@only_numbers
def test_delete_does_not_go_to_the_row_before_because_the_date_of_the_last_one_is_wrong(story):
    story.upload("other.png")
    row = story.upload("a.png")
    story.rounds()
    story.change(row, "b.png", date="farthest")
    story.rounds()
    story.app.vanish(story.meaning.rows[row.id])
    story.delete(story.upload("c.png", row_id=row.id), drops="named")  # came and went between two polls

    story.pass_grace()

    assert story.has("a.png")
    assert story.has("b.png")


@only_numbers
def test_version_with_two_rows_stays_while_a_person_is_asked_about_the_delete_of_one_of_them(story):
    row = story.upload("a.png")
    story.rounds()
    story.app.delete(row.id + 1)  # a row that is not there
    story.rounds()
    story.upload("a.png")  # a row that appears only after its delete: in doubt
    story.rounds()
    story.delete(row)

    story.pass_grace()

    assert story.has("a.png")


@pytest.mark.parametrize("is_stored", [True, False])
def test_row_without_a_hash_that_comes_with_the_delete_of_its_version_brings_its_own_bytes(tell, is_stored):
    story = tell(columns={"hashes": "mixed"})
    row = story.upload("a.png")
    if is_stored:
        story.rounds()
    story.delete(row)
    story.upload("a.png", 1, 1, proof="first_seen")

    story.rounds()
    assert story.has("a.png", 1, 1)
    story.pass_grace()
    assert story.has("a.png", 1, 1)
    assert not story.has("a.png", 1, 0)
    assert story.problems() == ""


def test_new_version_that_cannot_be_fetched_is_red_though_the_old_one_is_stored(story):
    story.upload("a.png", 1)
    story.rounds()
    story.upload("a.png", 2, is_good=False)

    story.rounds()

    assert story.problems()
    assert story.has("a.png", 1)
    story.pass_grace()
    assert story.has("a.png", 1)


def test_two_live_rows_that_claim_one_number_with_different_bytes_are_red(story):
    story.upload("a.png", 1)
    story.upload("b.png", 1)
    story.rounds()
    story.upload("a.png", 1, 1)
    story.rounds()
    assert story.problems()
    assert story.has("a.png", 1, 0)

    story.upload("a.png", 2)
    story.upload("b.png", 2)
    story.rounds()

    assert story.has("a.png", 2)
    assert story.has("b.png", 2)


def test_version_whose_row_went_without_a_delete_supersedes_nothing(story):
    story.upload("a.png", 1)
    story.rounds()
    garbage = story.upload("a.png", 2147483647, 1)
    story.rounds()
    story.app.vanish(garbage)
    story.rounds()

    story.pass_grace()
    assert story.has("a.png", 1)

    story.upload("a.png", 2)
    story.rounds()
    story.upload("a.png", 3)
    story.rounds()
    assert story.has("a.png", 3)
    story.pass_grace()
    assert story.has("a.png", 3)


def test_row_that_is_written_anew_under_a_lower_id_with_a_good_link_is_stored(story):
    story.upload("b.png")
    row = story.upload("a.png", is_good=False, row_id=50 if story.app.shape.has_numbers else None)
    story.rounds()
    story.app.vanish(row)
    story.upload("a.png", row_id=3 if story.app.shape.has_numbers else None)

    story.rounds(4)

    assert story.has("a.png")


def test_file_whose_delete_is_taken_back_after_its_prune_is_fetched_again(story):
    row = story.upload("a.png")
    story.rounds()
    story.delete(row)
    story.pass_grace()
    assert not story.has("a.png")
    [delete] = story.meaning.log.values()
    story.app.take_back(delete)

    story.rounds()

    assert story.has("a.png")


@only_numbers
def test_grace_of_a_delete_that_came_before_its_row_begins_when_the_file_is_seen(story):
    story.upload("b.png")
    story.rounds()
    story.app.delete(9)
    story.pass_grace()
    story.upload("a.png", row_id=9)
    story.rounds()
    assert story.has("a.png")

    story.let_time_pass(POLL_INTERVAL * 60 * 24 * 6)
    story.rounds()

    assert story.has("a.png")


@pytest.mark.parametrize("kind", ["sqlite-reused", "postgresql-numbers"])
def test_restored_dump_brings_back_what_was_deleted_since(story):
    row = story.upload("a.png", 1)
    other = story.upload("b.png", 1)
    story.rounds()
    story.app.dump()
    story.delete(row, drops="named")
    story.delete(other)
    story.pass_grace()
    assert not story.has("a.png")

    story.app.restore(0)
    story.rounds()
    assert story.has("a.png")
    assert story.has("b.png")
    story.pass_grace()
    assert story.has("a.png")
    assert story.has("b.png")


@only_numbers
def test_declined_row_under_an_id_that_an_old_delete_names_is_red(story):
    story.upload("o.png")
    row = story.upload("a.png")
    story.rounds()
    story.delete(row, drops="named")
    story.pass_grace()
    assert not story.problems()

    again = story.upload("z.png", row_id=row.id)
    story.app.database.update(FILES, again.id, {"Hash": "no hash at all"})
    again.is_good = False
    story.rounds()

    assert story.problems()


def test_row_that_comes_back_beside_other_bytes_of_its_version_keeps_its_copy(story):
    story.upload("o.png")
    row = story.upload("a.png", 3, 0)
    story.rounds()
    story.app.vanish(row)
    story.upload("a.png", 3, 1)
    story.rounds()
    assert story.has("a.png", 3, 1)

    story.upload("a.png", 3, 0)
    story.rounds()
    story.pass_grace()

    assert story.problems()
    assert story.has("a.png", 3, 0)
    assert story.has("a.png", 3, 1)


# What cannot be told is red


def test_database_in_which_no_row_was_ever_seen_is_not_green(story):
    story.site.read_tables()

    assert story.problems()


def test_names_with_nul_are_kept_apart(tell, kind):
    if not kind.startswith("sqlite"):
        pytest.skip("a text with NUL is no text to PostgreSQL")
    story = tell()
    story.upload("c", storage="a\0b")
    story.upload("b\0c", storage="a")

    story.rounds()

    assert story.has("c", storage="a\0b")
    assert story.has("b\0c", storage="a")
