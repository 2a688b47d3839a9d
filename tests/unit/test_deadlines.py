"""Which links die unfetched: a line in the order of its deadlines, and how fast it gets shorter."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.backup.link_deadlines import Deadlines, Doomed, find_doomed, horizon, judge_links, storing_rate
from cbk.rules.status.health import Kind

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SOON = 4 * MINUTE


def deadlines(*dying, waited=15 * MINUTE, too_late=0, too_late_at=None, stored=0, stored_last=0):
    """`dying` are (minutes from now, how many)."""
    return Deadlines(
        dying=[(NOW + minutes * MINUTE, number) for minutes, number in dying],
        waiting_since=None if waited is None else NOW - waited,
        too_late=too_late,
        too_late_at=too_late_at,
        stored=stored,
        stored_last=stored_last,
    )


def doomed(*dying, **more):
    found = find_doomed(deadlines(*dying, **more), now=NOW, horizon=SOON)
    return (found.count, (found.first_at - NOW) / MINUTE) if found else None


def test_nothing_waits_and_nothing_dies():
    assert doomed(waited=None) is None


@pytest.mark.parametrize(
    ("dying", "stored", "expected"),
    [
        # 900 in a quarter of an hour are 60 in a minute.
        ([(10, 600)], 900, None),
        ([(10, 601)], 900, (1, 10)),
        ([(10, 600), (20, 600)], 900, None),
        ([(10, 600), (20, 601)], 900, (1, 20)),
        ([(10, 700), (20, 600)], 900, (100, 10)),
        ([(10, 300), (20, 1000)], 900, (100, 20)),
        ([(10, 1000), (11, 1000), (12, 1000)], 900, (2280, 10)),
        ([(600, 10_000)], 15, (9_400, 600)),
    ],
)
def test_links_behind_a_line_that_is_too_long_die(dying, stored, expected):
    assert doomed(*dying, stored=stored) == expected


def test_what_is_dead_takes_no_time_of_those_behind_it():
    assert doomed((0, 1000), (10, 600), stored=900) == (1000, 0)


def test_links_that_die_within_the_horizon_are_told_however_fast_the_line_is():
    assert doomed((4, 1), (5, 1), stored=90_000) == (1, 4)


def test_nothing_stored_while_work_waits_lets_everything_die():
    assert doomed((10, 5), (1000, 5)) == (10, 10)


@pytest.mark.parametrize("waited", [timedelta(0), timedelta(seconds=59)])
def test_nothing_but_the_horizon_counts_before_the_rate_is_known(waited):
    assert doomed((3, 2), (10, 10**6), waited=waited) == (2, 3)
    assert doomed((10, 10**6), waited=waited) is None


def test_versions_that_are_tried_again_too_late_count():
    assert doomed(waited=None, too_late=3, too_late_at=NOW + 30 * MINUTE) == (3, 30)
    assert doomed((10, 601), stored=900, too_late=3, too_late_at=NOW + 5 * MINUTE) == (4, 5)


@pytest.mark.parametrize(
    ("waited", "stored", "stored_last", "per_minute"),
    [
        (60 * MINUTE, 150, 0, 10),
        (15 * MINUTE, 150, 9, 10),
        (15 * MINUTE, 150, 30, 30),
        (5 * MINUTE, 150, 0, 30),
        (MINUTE, 30, 30, 30),
        (15 * MINUTE, 0, 0, 0),
    ],
)
def test_rate_is_that_of_the_time_in_which_there_was_work(waited, stored, stored_last, per_minute):
    rate = storing_rate(deadlines(waited=waited, stored=stored, stored_last=stored_last), NOW)
    assert rate * 60 == pytest.approx(per_minute)


@pytest.mark.parametrize("waited", [None, timedelta(seconds=59), -MINUTE])
def test_rate_of_an_idle_time_is_unknown(waited):
    assert storing_rate(deadlines(waited=waited, stored=900), NOW) is None


def test_horizon_is_two_polls_and_a_lease():
    assert horizon(MINUTE, 2 * MINUTE) == SOON


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Doomed(count=1, first_at=NOW, rate=None), "1 link dies before the object is fetched, the first at 2026-01-01 12:00 UTC"),
        (
            Doomed(count=20_000, first_at=NOW, rate=1.5),
            "20000 links die before the object is fetched, at 5400 stored per hour, the first at 2026-01-01 12:00 UTC",
        ),
    ],
)
def test_problem_says_how_many_and_when(found, message):
    (problem,) = judge_links(found)
    assert (problem.kind, problem.message) == (Kind.LINKS, message)


def test_no_problem_where_no_link_dies():
    assert judge_links(None) == []
