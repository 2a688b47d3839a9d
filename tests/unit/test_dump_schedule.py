"""When a dump is due."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.dump.schedule import RETRY_LONGEST, Schedule, decide_due, is_late, jitter_of, retry_delay

NIGHTLY = Schedule("0 3 * * *")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
SLOT = datetime(2026, 11, 30, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def decide(done_slot, now=NOON, *, retry_at=None, jitter=timedelta(0), schedule=NIGHTLY):
    return decide_due(name="app", schedule=schedule, jitter=jitter, done_slot=done_slot, retry_at=retry_at, now=now)


def test_the_first_dump_is_due_at_once():
    assert decide(None).now


def test_a_dump_is_due_once_for_each_slot():
    assert decide(SLOT - DAY).now
    assert not decide(SLOT).now
    assert decide(SLOT).at == SLOT + DAY


def test_dumps_that_were_missed_are_made_up_for_by_one():
    due = decide(SLOT - 9 * DAY)
    assert (due.now, due.slot) == (True, SLOT)
    assert not decide(due.slot).now


def test_nothing_is_due_before_its_jitter_has_passed():
    late_by = jitter_of("app", SLOT, timedelta(hours=1))
    assert timedelta(0) < late_by < timedelta(hours=1)
    assert not decide(SLOT - DAY, SLOT + late_by - timedelta(seconds=1), jitter=timedelta(hours=1)).now
    assert decide(SLOT - DAY, SLOT + late_by, jitter=timedelta(hours=1)).now


def test_two_dumps_at_one_time_begin_apart():
    assert len({jitter_of(name, SLOT, timedelta(hours=1)) for name in ("app", "shop", "wiki")}) == 3


def test_a_dump_that_failed_waits_for_its_next_try():
    assert not decide(SLOT - DAY, retry_at=NOON + timedelta(minutes=1)).now
    assert decide(SLOT - DAY, retry_at=NOON).now


def test_tries_come_ever_less_often_and_never_cease():
    delays = [retry_delay(attempts) for attempts in range(1, 20)]
    assert delays[:3] == [timedelta(minutes=5), timedelta(minutes=10), timedelta(minutes=20)]
    assert delays[-1] == RETRY_LONGEST


@pytest.mark.parametrize("noted", [NOON + timedelta(days=400), NOON + timedelta(hours=2)])
def test_what_a_clock_ahead_has_noted_keeps_no_dump_away(noted):
    assert decide(noted).now
    assert decide(SLOT - DAY, retry_at=NOON + timedelta(days=400)).now


def test_a_schedule_is_of_its_time_zone_and_comes_once_where_an_hour_is_skipped_or_comes_twice():
    vienna = Schedule("30 2 * * *", "Europe/Vienna")
    skipped = datetime(2026, 3, 29, 12, tzinfo=UTC)
    doubled = datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert vienna.newest(skipped) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    slots = {vienna.newest(doubled - timedelta(minutes=minutes)) for minutes in range(0, 12 * 60, 7)}
    assert len([slot for slot in slots if slot.date() == doubled.date()]) == 1


def test_a_slot_counts_from_its_own_minute_on():
    assert NIGHTLY.newest(SLOT) == SLOT
    assert NIGHTLY.newest(SLOT - timedelta(seconds=1)) == SLOT - DAY
    assert NIGHTLY.following(SLOT) == SLOT + DAY


def test_aliases_are_understood():
    assert Schedule("@daily").newest(NOON) == datetime(2026, 11, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "x", "* * * *", "0 25 * * *"])
def test_what_is_no_cron_text_is_refused(text):
    with pytest.raises(ValueError, match="expected cron text"):
        Schedule(text)


def test_a_dump_is_late_once_its_slot_came_longer_ago_than_patience():
    patience = timedelta(hours=6)
    assert not is_late(schedule=NIGHTLY, done_slot=SLOT - DAY, now=SLOT + timedelta(hours=5), patience=patience)
    assert is_late(schedule=NIGHTLY, done_slot=SLOT - DAY, now=SLOT + timedelta(hours=7), patience=patience)
    assert is_late(schedule=NIGHTLY, done_slot=None, now=SLOT, patience=patience)
