"""How things stood over time: when that is noted, and what it says of the days to come."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.status.samples import EVERY, Sample, days_left, is_due

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def sample(ago, used, *, total=1000):
    return Sample(
        at=NOW - ago, files=0, protected=0, lag=timedelta(0), copies=0, size=0, stored_size=0, free=total - used, total=total
    )


def left(*samples, free=500, kept_free=0):
    return days_left(samples, now=NOW, free=free, kept_free=kept_free)


@pytest.mark.parametrize(
    ("last", "due"), [(None, True), (NOW, False), (NOW - EVERY + DAY / 86400, False), (NOW - EVERY, True), (NOW + DAY, True)]
)
def test_sample_is_due_once_the_last_one_is_old_or_lies_in_the_future(last, due):
    assert is_due(last, NOW) is due


def test_days_left_go_by_the_growth():
    assert left(sample(4 * DAY, 100), sample(2 * DAY, 120), sample(0 * DAY, 140)) == pytest.approx(50)


def test_days_left_leave_out_what_stays_free():
    assert left(sample(4 * DAY, 100), sample(0 * DAY, 140), kept_free=100) == pytest.approx(40)


def test_disk_that_is_full_has_no_day_left():
    assert left(sample(4 * DAY, 100), sample(0 * DAY, 140), free=50, kept_free=100) == 0


def test_one_odd_sample_does_not_decide():
    steady = [sample(day * DAY, 400 - 10 * day) for day in range(20, 0, -1)]
    assert left(*steady, sample(0 * DAY, 410)) == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [sample(0 * DAY, 10)],
        [sample(DAY / 2, 10), sample(0 * DAY, 20)],
        [sample(2 * DAY, 20), sample(0 * DAY, 20)],
        [sample(2 * DAY, 20), sample(0 * DAY, 10)],
        [sample(2 * DAY, 10, total=500), sample(0 * DAY, 20)],
        [sample(40 * DAY, 10), sample(0 * DAY, 20)],
    ],
    ids=["none", "one", "half a day", "no growth", "shrinks", "another disk", "long ago"],
)
def test_days_left_are_not_known(samples):
    assert left(*samples) is None


def test_days_too_many_to_be_a_prediction_are_not_known():
    assert left(sample(4 * DAY, 100), sample(0 * DAY, 101), free=10_000) is None
