"""Which dumps stay."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.dump.retention import KeptDump, brake_allowance, places, plan
from cbk.rules.dump.spec import DEFAULT_KEEP, KeepRules

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, 3, tzinfo=UTC)
ALL = 10_000


def dump(number, at=None, **more):
    return KeptDump(number=number, taken_at=at or FIRST + (number - 1) * DAY, **more)


def decide(dumps, *, keep=DEFAULT_KEEP, now=None, grace=timedelta(0), is_held=False, allowed=ALL):
    now = now or max(each.taken_at for each in dumps)
    found = plan(dumps, keep=keep, grace=grace, zone=UTC, now=now, is_held=is_held, allowed=allowed)
    return {verdict.number: verdict for verdict in found}


def live_through(days, *, grace, keep=DEFAULT_KEEP):
    """One dump a day, and what is pruned each day; gives the dumps that are there in the end."""
    there = {}
    for number in range(1, days + 1):
        there[number] = dump(number)
        for verdict in decide(list(there.values()), keep=keep, grace=grace, now=there[number].taken_at).values():
            if verdict.prune:
                del there[verdict.number]
            else:
                there[verdict.number] = dump(verdict.number, unkept_since=verdict.unkept_since, due_at=verdict.due_at)
    return there


def last_of(numbers, period, count):
    """The newest number of each of the newest `count` periods."""
    newest = {}
    for number in sorted(numbers):
        newest[period(FIRST + (number - 1) * DAY)] = number
    return set(sorted(newest.values())[-count:])


def test_400_daily_dumps_leave_exactly_the_set_that_7_4_and_12_say():
    everyone = range(1, 401)
    expected = (
        last_of(everyone, lambda at: at.date(), 7)
        | last_of(everyone, lambda at: at.isocalendar()[:2], 4)
        | last_of(everyone, lambda at: (at.year, at.month), 12)
    )
    assert set(live_through(400, grace=timedelta(0))) == expected
    assert len(expected) == 19  # some are a day, a week and a month in one


def test_with_a_grace_only_what_is_in_it_stays_beside_that_set():
    without, with_grace = live_through(400, grace=timedelta(0)), live_through(400, grace=5 * DAY)
    beside = with_grace.keys() - without.keys()
    assert without.keys() < with_grace.keys()
    assert all(with_grace[number].due_at > FIRST + 399 * DAY for number in beside)


def test_a_reason_is_given_for_each():
    decided = decide([dump(number) for number in range(1, 11)], keep=KeepRules(last=2, daily=3))
    assert decided[10].reasons == ("newest", "last 1 of 2", "daily 1 of 3")
    assert decided[8].reasons == ("daily 3 of 3",)
    assert decided[1].reasons == ("no rule keeps it (2 last, 3 daily), and its grace has passed",)


def test_the_newest_of_a_day_stands_for_it():
    dumps = [dump(hour + 1, FIRST + timedelta(hours=hour)) for hour in range(10)]
    assert set(places(dumps, KeepRules(daily=7), UTC)) == {10}


def test_a_bad_dump_takes_no_place_and_the_newest_good_one_never_goes():
    decided = decide([dump(1), dump(2, is_good=False)], keep=KeepRules(last=1))
    assert decided[1].keeps_place
    assert decided[2].prune


def test_nothing_goes_where_no_dump_is_good():
    assert not any(
        verdict.prune for verdict in decide([dump(1, is_good=False), dump(2, is_good=False)], keep=KeepRules(last=1)).values()
    )


def test_none_go_because_none_are_made_any_more():
    dumps = [dump(number) for number in range(1, 8)]
    assert all(verdict.keeps_place for verdict in decide(dumps, now=FIRST + 4000 * DAY).values())


def test_a_grace_begins_when_a_dump_loses_its_place():
    now = FIRST + 10 * DAY
    verdict = decide([dump(1), dump(2)], keep=KeepRules(last=1), now=now, grace=7 * DAY)[1]
    assert (verdict.prune, verdict.unkept_since, verdict.due_at) == (False, now, now + 7 * DAY)


@pytest.mark.parametrize("grace", [timedelta(0), 3 * DAY, 30 * DAY])
def test_a_grace_that_runs_is_never_shortened(grace):
    began = FIRST + 10 * DAY
    first = dump(1, unkept_since=began, due_at=began + 7 * DAY)
    verdict = decide([first, dump(2)], keep=KeepRules(last=1), now=began + 6 * DAY, grace=grace)[1]
    assert not verdict.prune
    assert verdict.due_at == began + max(grace, 7 * DAY)


def test_rules_that_change_shorten_no_grace_and_begin_none_in_the_past():
    now = FIRST + 30 * DAY
    dumps = [dump(number) for number in range(1, 31)]
    dumps[0] = dump(1, unkept_since=now - 6 * DAY, due_at=now + DAY)
    decided = decide(dumps, keep=KeepRules(last=1), now=now, grace=7 * DAY)
    assert not any(verdict.prune for verdict in decided.values())
    assert {verdict.due_at for number, verdict in decided.items() if 2 <= number < 30} == {now + 7 * DAY}


def test_a_place_that_is_won_back_ends_the_grace():
    verdict = decide([dump(1, unkept_since=FIRST, due_at=FIRST), dump(2)], keep=KeepRules(last=2))[1]
    assert (verdict.keeps_place, verdict.due_at) == (True, None)


def test_a_hold_keeps_all():
    decided = decide([dump(1), dump(2)], keep=KeepRules(last=1), is_held=True)
    assert (decided[1].prune, decided[1].reasons) == (False, ("a hold keeps it",))


def test_the_brake_lets_the_oldest_go_first():
    decided = decide([dump(number) for number in range(1, 11)], keep=KeepRules(last=1), allowed=3)
    assert sorted(number for number, verdict in decided.items() if verdict.prune) == [1, 2, 3]
    assert decided[4].reasons == ("the brake holds it: too many would go at once",)


def test_each_new_dump_lets_one_go_and_a_share_may_go_beside():
    assert brake_allowance(share=10, stored=100, added=30, pruned=30) == 10
    assert brake_allowance(share=10, stored=5, added=0, pruned=0) == 2
    assert brake_allowance(share=10, stored=5, added=0, pruned=3) == 0
