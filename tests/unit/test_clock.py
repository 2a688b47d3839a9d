"""Whether the clock may be pruned by: what the clocks say now, beside what was trusted before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cbk.rules.retention.clock_guard import BOOTS_AT_MOST, ClockMemory, ClockReading, judge_clock, remember

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def reading(after=timedelta(0), *, up=None, off=timedelta(0), boot="one", **changes):
    """What the clocks say `after` some time, of which the machine was up for all, or for `up`; its wall clock is `off`."""
    uptime = HOUR + (after if up is None else up)
    return replace(ClockReading(now=NOW + after, wall=NOW + after + off, uptime=uptime, boot=boot, synchronised=None), **changes)


def memory(*readings):
    kept = ClockMemory()
    for one in readings or [reading()]:
        kept = remember(one, kept)
    return kept


def judged(one, kept=None, policy="auto"):
    return judge_clock(one, memory() if kept is None else kept, policy=policy)


UNEXPLAINED = "which this machine's uptime does not explain"


def test_first_reading_ever_is_trusted():
    assert judged(reading(), ClockMemory()) is None


@pytest.mark.parametrize("after", [timedelta(0), SECOND, HOUR, 400 * DAY])
def test_clock_that_goes_on_as_the_machine_does_is_trusted(after):
    assert judged(reading(after)) is None


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (-59 * SECOND, None),
        (-MINUTE, None),
        (-61 * SECOND, "the clock went back by 61 s"),
        (-14 * DAY, "the clock went back by 14 days"),
        (-20_000 * DAY, "the clock went back by 20000 days"),
    ],
)
def test_clock_that_went_back_is_not_trusted(after, told):
    assert judged(reading(after, up=SECOND)) == told
    assert judged(reading(after, up=SECOND, boot="two", uptime=MINUTE, synchronised=True)) == told


@pytest.mark.parametrize(
    ("up", "ahead", "told"),
    [
        (MINUTE, 5 * MINUTE, None),
        (MINUTE, 6 * MINUTE, f"the clock jumped ahead by 6 min, {UNEXPLAINED}"),
        (MINUTE, 730 * DAY, f"the clock jumped ahead by 730 days, {UNEXPLAINED}"),
        # A clock that nobody keeps runs away slowly.
        (100 * DAY, 2 * HOUR, None),
        (100 * DAY, 3 * HOUR, f"the clock jumped ahead by 3 h, {UNEXPLAINED}"),
    ],
)
def test_clock_that_moved_further_than_the_machine_was_up_is_not_trusted(up, ahead, told):
    assert judged(reading(up + ahead, up=up)) == told


def test_jump_is_not_trusted_either_where_the_system_calls_it_synchronised():
    assert UNEXPLAINED in judged(reading(2 * DAY, up=MINUTE, synchronised=True), memory(reading(synchronised=True)))


def test_clock_that_moves_ahead_in_small_steps_is_found_out():
    kept, told = memory(), None
    for step in range(1, 5):
        now = reading(step * 3 * MINUTE, up=step * MINUTE)
        told = told or judged(now, kept)
        kept = remember(now, kept)
    assert UNEXPLAINED in told


def test_memory_of_a_clock_that_is_not_trusted_is_left_so_that_it_is_trusted_when_it_is_right_again():
    kept = memory()
    assert judged(reading(730 * DAY, up=MINUTE), kept)
    assert judged(reading(2 * MINUTE), kept) is None
    assert judged(reading(-14 * DAY, up=3 * MINUTE), kept)
    assert judged(reading(4 * MINUTE), kept) is None


@pytest.mark.parametrize(
    ("off", "synchronised", "told"),
    [
        (10 * HOUR, None, None),
        (10 * HOUR, False, None),
        (25 * HOUR, None, f"the clock jumped ahead by 25 h, {UNEXPLAINED}"),
        (25 * HOUR, False, f"the clock jumped ahead by 25 h, {UNEXPLAINED}"),
        (25 * HOUR, True, None),
        (400 * DAY, True, None),
    ],
)
def test_long_rest_of_a_machine_is_believed_where_a_service_has_set_its_clock_since(off, synchronised, told):
    after_boot = reading(off + MINUTE, boot="two", uptime=MINUTE, synchronised=synchronised)
    assert judged(after_boot) == told


def test_clock_that_a_service_sets_after_the_boot_is_believed():
    # Without a clock of its own, a Raspberry Pi goes on where it was switched off, until a service tells it the time.
    stale = reading(SECOND, boot="two", uptime=MINUTE, synchronised=False)
    kept = memory(reading(), stale)
    still = reading(3 * DAY, boot="two", uptime=2 * MINUTE, synchronised=False)
    assert UNEXPLAINED in judged(still, kept)
    set_right = replace(still, synchronised=True)
    assert judged(set_right, kept) is None
    again = reading(9 * DAY, boot="two", uptime=3 * MINUTE, synchronised=True)
    assert UNEXPLAINED in judged(again, remember(set_right, kept))


def test_container_whose_uptime_begins_anew_on_the_same_boot_is_a_boot_of_its_own():
    restarted = reading(HOUR, uptime=MINUTE)
    assert judged(restarted) is None
    kept = remember(restarted, memory())
    assert judged(reading(2 * HOUR, uptime=61 * MINUTE), kept) is None
    assert UNEXPLAINED in judged(reading(4 * HOUR, uptime=61 * MINUTE), kept)


def test_two_processes_that_read_the_uptime_at_once_are_no_new_boot():
    kept = memory(reading(), reading(HOUR))
    late = reading(HOUR - SECOND)
    assert remember(late, kept).boots["one"].now == NOW
    assert UNEXPLAINED in judged(reading(2 * HOUR, up=HOUR - SECOND), kept)


def test_machines_that_share_a_catalog_are_judged_by_their_own_uptime():
    other = reading(10 * DAY, boot="two", uptime=100 * DAY)
    kept = memory(reading(), other)
    assert judged(reading(10 * DAY), kept) is None
    assert UNEXPLAINED in judged(reading(10 * DAY + HOUR, up=DAY), kept)
    new = reading(10 * DAY + MINUTE, boot="three", uptime=MINUTE)
    assert judged(new, kept) is None


@pytest.mark.parametrize("off", [HOUR, -HOUR])
def test_machine_and_catalog_that_differ_are_not_trusted(off):
    assert judged(reading(off=off)) == "this machine's clock and that of the catalog's database differ by 60 min"
    assert judged(reading(off=off), ClockMemory(), "ignore") is not None


@pytest.mark.parametrize("off", [MINUTE, -MINUTE])
def test_machine_and_catalog_that_differ_by_a_moment_are_trusted(off):
    assert judged(reading(off=off)) is None


SAYS_NO = "the system says that its clock is not synchronised"


@pytest.mark.parametrize(
    ("policy", "synchronised", "kept", "told"),
    [
        ("auto", True, True, None),
        ("auto", None, True, None),
        ("auto", False, False, None),
        ("auto", False, True, SAYS_NO),
        ("require", True, False, None),
        ("require", False, False, SAYS_NO),
        ("require", None, False, "this system does not tell whether its clock is synchronised"),
        ("ignore", False, True, None),
        ("ignore", None, False, None),
    ],
)
def test_what_the_system_says_of_its_clock_counts_as_the_setting_has_it(policy, synchronised, kept, told):
    said = reading(synchronised=synchronised, kept=kept)
    assert judged(said, policy=policy) == told
    assert judged(said, ClockMemory(), policy) == told


def test_machine_that_tells_nothing_of_its_uptime_still_knows_a_clock_that_went_back():
    silent = {"uptime": None, "boot": None}
    kept = memory(reading(**silent))
    assert kept.boots == {}
    assert judged(reading(DAY, **silent), kept) is None
    assert judged(reading(-DAY, **silent), kept) == "the clock went back by 24 h"


def test_machine_without_a_name_for_its_boot_is_judged_by_its_uptime_alone():
    kept = memory(reading(boot=None))
    assert judged(reading(HOUR, boot=None), kept) is None
    assert UNEXPLAINED in judged(reading(2 * DAY, up=HOUR, boot=None), kept)


def test_machine_that_was_up_all_the_time_explains_a_kit_that_was_not():
    assert judged(reading(40 * DAY, boot="two", uptime=40 * DAY)) is None
    assert UNEXPLAINED in judged(reading(40 * DAY, boot="two", uptime=38 * DAY))


def test_latest_never_goes_back():
    kept = memory(reading(), reading(-SECOND))
    assert kept.latest == NOW


def test_boots_that_are_long_gone_are_forgotten_and_a_long_one_is_not():
    kept = memory(reading(boot="gone"), reading(), reading(boot="two"))
    for day in range(1, 60):
        kept = remember(reading(day * DAY, boot="two"), remember(reading(day * DAY), kept))
    assert sorted(kept.boots) == ["one", "two"]
    assert {boot.now for boot in kept.boots.values()} == {NOW}


def test_number_of_boots_is_bounded_to_the_newest():
    kept = memory(*(reading(number * MINUTE, boot=str(number), uptime=MINUTE) for number in range(50)))
    assert list(kept.boots) == [str(number) for number in range(49, 49 - BOOTS_AT_MOST, -1)]
