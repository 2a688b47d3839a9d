"""Ids of removed rows that other rows bear, in a table that is too large to be read by each poll: seen by the next two polls.

As a restored dump gives them again, `setval`, SQLite without AUTOINCREMENT, or InnoDB before MySQL 8.0 after a restart. If just as
many rows came as went, the number of rows, the highest Id and the sum of all are what they were.
"""

import pytest

from cbk.jobs.intake import table_reader
from tests.model.tables import FILES, LOG

pytestmark = pytest.mark.parametrize("kind", ["sqlite-reused", "postgresql-numbers", "mariadb-numbers"])
ROWS = 30


@pytest.fixture
def story(tell, monkeypatch):
    """A table that counts as large, and whose rows have all settled."""
    monkeypatch.setattr("cbk.rules.intake.reading.ONE_PAGE", 0)
    monkeypatch.setattr("cbk.rules.intake.reading.SMALL_ROWS", 0)
    monkeypatch.setattr(table_reader, "PAGE_ROWS", 7)
    monkeypatch.setattr(table_reader, "NEWEST_ROWS", 5)
    story = tell(settle="1s")
    for number in range(ROWS):
        story.upload(f"{number}.png")
    story.rounds(3)
    return story


def give_again(story, removed, written, name):
    """The newest rows go, and others come; gives these."""
    rows = sorted(story.meaning.rows.values(), key=lambda row: row.id)
    for row in rows[len(rows) - removed :]:
        story.app.vanish(row)
    story.app.database.number_anew(FILES, len(rows) - removed)
    return [story.upload(f"{name}-{number}.png") for number in range(written)]


def fingerprint(story):
    return story.site.context.source.fingerprint()


@pytest.mark.parametrize("removed", [1, 5, 6, 19, ROWS])
def test_rows_that_take_the_ids_of_the_newest_are_stored_though_count_highest_and_sum_are_the_same(story, removed):
    before = fingerprint(story)
    rows = give_again(story, removed, removed, "again")
    assert fingerprint(story) == before

    story.rounds()

    assert all(story.has(row.content.key) for row in rows)


@pytest.mark.parametrize(("removed", "written"), [(12, 11), (12, 1), (12, 13), (12, 40), (1, 0)])
def test_rows_that_take_ids_of_the_newest_are_stored_however_many_they_are(story, removed, written):
    rows = give_again(story, removed, written, "again")

    story.rounds()

    assert all(story.has(row.content.key) for row in rows)
    assert story.site.context.catalog.rows.counters("files").count == ROWS - removed + written


def test_rows_after_a_restored_dump_are_stored_though_count_highest_and_sum_are_the_same(story):
    story.app.dump()
    for number in range(12):
        story.upload(f"late-{number}.png")
    story.rounds(3)
    before = fingerprint(story)
    story.app.restore(0)
    story.app.database.number_anew(FILES, ROWS)
    rows = [story.upload(f"again-{number}.png") for number in range(12)]
    assert fingerprint(story) == before

    story.rounds()

    assert all(story.has(row.content.key) for row in rows)


def test_poll_that_dies_on_the_way_down_leaves_the_rest_to_the_next_ones(story):
    for steps in range(0, 60, 6):
        rows = give_again(story, 19, 19, f"{steps}")
        with story.trouble(), story.site.mortal(steps):
            story.poll()
        story.rounds()
        assert all(story.has(row.content.key) for row in rows)


def test_log_rows_that_take_the_ids_of_the_newest_delete_what_they_name(story):
    rows = sorted(story.meaning.rows.values(), key=lambda row: row.id)
    for row in rows[:12]:
        story.delete(row)
    story.rounds(3)
    for delete in list(story.meaning.log.values()):
        story.app.take_back(delete)
    story.app.database.number_anew(LOG, 0)
    for row in rows[12:24]:
        story.delete(row)

    story.pass_grace()

    assert [story.has(row.content.key) for row in rows] == [True] * 12 + [False] * 12 + [True] * 6
