"""What who can only write rows can have removed without a person, whatever the pace."""

from datetime import timedelta

import pytest

pytestmark = pytest.mark.parametrize("kind", ["sqlite-numbers"])
DAY = timedelta(days=1)


def test_garbage_a_little_at_a_time_takes_no_more_than_the_share_of_the_window(tell):
    story = tell(brake_files=3)
    keys = [f"{number}.png" for number in range(40)]
    for key in keys:
        story.upload(key, 1)
    story.rounds()
    for key in keys:
        story.upload(key, 2, 1)
        story.round()
        story.let_time_pass(DAY / 2)
    for _ in range(9):
        story.round()
        story.let_time_pass(DAY)

    assert sum(story.has(key, 1) for key in keys) >= 36
    assert story.problems()


def test_many_deletes_stay_held_however_many_files_are_added(tell):
    story = tell(brake_files=20)
    rows = [story.upload(f"{number}.png") for number in range(50)]
    story.rounds()
    for row in rows[:30]:
        story.delete(row)
    story.pass_grace()
    assert all(story.has(row.content.key) for row in rows)

    for number in range(320):
        story.upload(f"more/{number}")
    story.rounds()
    story.let_time_pass(DAY)
    story.rounds()

    assert all(story.has(row.content.key) for row in rows)


def test_clock_that_is_set_forward_ends_no_grace(tell, monkeypatch):
    story = tell()
    monkeypatch.setattr("cbk.edges.host.clock_is_synchronised", lambda: False)
    monkeypatch.setattr("cbk.edges.host.clock_is_kept", lambda: False)
    row = story.upload("a.png")
    story.rounds()
    story.delete(row)
    story.rounds()

    story.set_clock_forward(8 * DAY)
    story.rounds()

    assert story.has("a.png")
