"""Whether everything is protected: a table of how things stand and what `status` makes of it."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.model import VersionState
from cbk.rules.status.health import Kind, describe_age, judge, judge_workers

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HARMLESS = {VersionState.STORED, VersionState.SUPERSEDED, VersionState.PRUNED}


def problems(*, states=None, declined_rows=0, polled_at=NOW, poll_problem=None, interval=MINUTE, **more):
    found = judge(
        by_state=states or {},
        declined_rows=declined_rows,
        polled_at=polled_at,
        poll_problem=poll_problem,
        now=NOW,
        poll_interval=interval,
        **more,
    )
    assert all(problem.hint for problem in found)
    return [problem.message for problem in found]


def test_everything_stored_and_read_a_moment_ago_is_protected():
    assert problems(states={VersionState.STORED: 5}) == []


@pytest.mark.parametrize("state", sorted(set(VersionState) - HARMLESS - {VersionState.MISMATCH}))
def test_file_whose_newest_version_is_in_any_other_state_is_a_problem(state):
    assert problems(states={VersionState.STORED: 5, state: 1}) == [f"1 file is {state}"]
    assert problems(states={state: 2}) == [f"2 files are {state}"]


def test_state_that_no_file_is_in_is_no_problem():
    assert problems(states={VersionState.FAILED: 0}) == []


@pytest.mark.parametrize(("count", "message"), [(1, "1 row was declined"), (3, "3 rows were declined")])
def test_declined_row_is_a_problem(count, message):
    assert problems(declined_rows=count) == [message]


def test_tables_that_were_never_read_are_a_problem_even_where_nothing_else_is():
    assert problems(polled_at=None) == ["the application's tables were never read"]


def test_reason_why_the_tables_were_never_read_is_told():
    assert problems(polled_at=None, poll_problem="no such host") == ["the application's tables were never read: no such host"]


@pytest.mark.parametrize(
    ("age", "interval", "late"),
    [
        (2 * MINUTE, timedelta(seconds=5), False),
        (2.1 * MINUTE, timedelta(seconds=5), True),
        (180 * MINUTE, 60 * MINUTE, False),
        (181 * MINUTE, 60 * MINUTE, True),
    ],
)
def test_poll_is_missing_after_three_intervals_and_two_minutes(age, interval, late):
    assert bool(problems(polled_at=NOW - age, interval=interval)) is late


def test_missing_poll_says_since_when_and_why():
    assert problems(polled_at=NOW - timedelta(hours=5), poll_problem="the disk is away") == [
        "the application's tables were last read 5 h ago: the disk is away"
    ]


def test_failed_poll_is_a_problem_before_it_is_late():
    assert problems(poll_problem="the broker is away") == ["the last poll failed: the broker is away"]


def test_poll_in_the_future_shows_that_the_clock_went_back():
    assert problems(polled_at=NOW + 3 * MINUTE) == ["the last poll lies in the future: the clock went back"]


def test_clock_that_keeps_from_pruning_is_named_before_what_comes_of_it():
    late = "the application's tables were last read 730 days ago"
    reason = "the clock jumped ahead by 730 days"
    assert problems(clock_problem=reason, polled_at=NOW - 730 * 1440 * MINUTE) == [f"nothing is pruned: {reason}", late]


def test_clocks_that_differ_by_a_moment_are_no_problem():
    assert problems(polled_at=NOW + MINUTE) == []


def test_gravest_problem_comes_first():
    found = problems(states={VersionState.PENDING: 1, VersionState.FAILED: 1}, declined_rows=1, polled_at=None)
    assert found == ["the application's tables were never read", "1 file is pending", "1 file is failed", "1 row was declined"]


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 file is not what its row's Hash says"), (2, "2 files are not what their rows' Hash says")]
)
def test_files_that_are_a_mismatch_are_told_in_words(count, said):
    assert problems(states={VersionState.MISMATCH: count}) == [said]


def idle(*, waiting=3, waited=60 * MINUTE, at_work=False, taken=None, lease=2 * MINUTE):
    since, taken_at = waiting and NOW - waited, taken and NOW - taken
    found = judge_workers(
        waiting=waiting, waiting_since=since or None, at_work=at_work, taken_at=taken_at or None, now=NOW, lease=lease
    )
    assert {problem.kind for problem in found} <= {Kind.WORKERS}
    return [problem.message for problem in found]


def test_work_that_waits_while_no_worker_takes_any_is_a_problem():
    assert idle(taken=17 * MINUTE) == ["3 versions wait, and no worker took any for 17 min"]
    assert idle(waiting=1, waited=20 * MINUTE) == ["1 version waits, and no worker took any for 20 min"]


@pytest.mark.parametrize("harmless", [{"waiting": 0}, {"waited": 6 * MINUTE}, {"taken": 6 * MINUTE}, {"at_work": True}])
def test_work_is_only_queued_where_it_came_lately_or_workers_take_some(harmless):
    assert idle(**harmless) == []


def test_worker_that_took_work_in_the_future_is_none():
    assert idle(taken=-60 * MINUTE) == ["3 versions wait, and no worker took any for 60 min"]


def test_short_lease_does_not_make_status_nervous():
    assert idle(waited=2 * MINUTE, lease=timedelta(seconds=5)) == []
    assert idle(waited=2.1 * MINUTE, lease=timedelta(seconds=5)) != []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-34_559_996, "0 s"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
    ],
)
def test_age_is_told_in_the_unit_that_fits(seconds, text):
    assert describe_age(timedelta(seconds=seconds)) == text
