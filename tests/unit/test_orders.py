"""What a person ordered, as the catalog's facts have it, and what a pause means for the answer."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.backup.overrides import BANDWIDTH_FACT, PAUSE_FACT, judge_pause, note_pause, read_overrides
from cbk.rules.status.health import Kind

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def paused(start, end):
    return read_overrides({PAUSE_FACT: note_pause(start, end)}, "").pause_at(NOW)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (NOW - HOUR, NOW + HOUR, True),
        (NOW - 2 * HOUR, NOW, False),
        (NOW, NOW + HOUR, True),
        (NOW + HOUR / 2, NOW + HOUR, True),  # another machine's clock is ahead by that
        (NOW + 2 * HOUR, NOW + 3 * HOUR, False),  # it was ordered by a clock that has gone back since
    ],
)
def test_pause_is_in_force_until_its_end(start, end, expected):
    assert paused(start, end) == (end if expected else None)


def test_without_orders_the_settings_hold():
    orders = read_overrides({}, "2M")
    assert (orders.pause_at(NOW), orders.timetable.limit_at(NOW)) == (None, 2_000_000)


@pytest.mark.parametrize(("ordered", "limit"), [("1M", 1_000_000), ("off", None)])
def test_bandwidth_that_was_ordered_holds_instead_of_that_of_the_settings(ordered, limit):
    assert read_overrides({BANDWIDTH_FACT: ordered}, "2M").timetable.limit_at(NOW) == limit


def judged(until, oldest_at, unprotected=3):
    problems = judge_pause(until, unprotected=unprotected, oldest_at=oldest_at, now=NOW, alert_after=6 * HOUR)
    return [(problem.kind, problem.message) for problem in problems]


def test_pause_is_a_problem_once_a_file_has_waited_for_long():
    text = "paused for 60 min more, and 3 files are not protected, the oldest since 6 h"
    assert judged(NOW + HOUR, NOW - 6 * HOUR) == [(Kind.PAUSED, text)]
    assert "1 file is" in judged(NOW + HOUR, NOW - 6 * HOUR, 1)[0][1]


@pytest.mark.parametrize(("until", "oldest_at"), [(None, NOW - 7 * HOUR), (NOW + HOUR, None), (NOW + HOUR, NOW - 5 * HOUR)])
def test_pause_that_harms_nothing_yet_is_none(until, oldest_at):
    assert judged(until, oldest_at) == []
