"""Reading copies again: how much at a time, samples, and what a finding means."""

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from cbk.rules.verification import (
    PASS_SHARE,
    Batch,
    CopyFinding,
    damage_of,
    drill_is_due,
    drill_problems,
    may_read,
    overdue_before,
    parse_share,
    reason_of,
    restore_seconds,
    sample_size,
    sampled,
    slice_interval,
    verification_problems,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MONTH = 30 * DAY
PERIOD = MONTH * PASS_SHARE


def may(*batches, credit=0, now=NOW, every=MONTH):
    """`batches` as (how long ago they were read, bytes)."""
    made = [Batch(read_at=None if age is None else now - age, size=size) for age, size in batches]
    return may_read(made, credit=credit, now=now, every=every)


# ---- findings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected", "finding"), [(9, 10, "truncated"), (10, 10, "corrupt"), (11, 10, "corrupt")])
def test_damage_is_told_apart_by_the_size_on_the_disk(size, expected, finding):
    assert damage_of(size, expected) == finding


def test_damage_of_a_copy_whose_size_nobody_noted_is_corrupt():
    assert damage_of(3, None) is CopyFinding.CORRUPT


def test_bytes_are_put_aside_where_there_are_any_that_can_be_read():
    assert {finding.value for finding in CopyFinding if finding.leaves_bytes} == {"truncated", "corrupt", "swapped"}


def test_only_a_copy_whose_content_is_whole_goes_on_counting():
    assert [finding for finding in CopyFinding if finding.counts_still] == [CopyFinding.ALTERED]


def test_reason_says_what_was_found_and_when():
    assert reason_of(CopyFinding.SWAPPED, NOW) == "its copy was swapped, found 2026-03-01 12:00 UTC"


# ---- pacing ------------------------------------------------------------------------------------------------------------------


SLICES_IN_PERIOD = 24 * 24 * 6  # of ten minutes


def test_copies_that_were_all_read_at_once_are_read_at_an_even_rate():
    assert may((timedelta(0), SLICES_IN_PERIOD * 7)) == 7


def test_copies_that_were_read_at_an_even_rate_go_on_like_that():
    ages = [((SLICES_IN_PERIOD - number) * timedelta(minutes=10), 7) for number in range(1, SLICES_IN_PERIOD + 1)]
    assert 7 <= may(*ages) <= 8


def test_rate_is_that_of_the_most_urgent_copies():
    assert may((PERIOD / 2, SLICES_IN_PERIOD * 7), (timedelta(0), SLICES_IN_PERIOD)) == 14


def test_credit_grows_until_the_next_copy_fits_in():
    credit = 0
    for number in range(SLICES_IN_PERIOD):
        credit = may((timedelta(minutes=10) * number, SLICES_IN_PERIOD * 7), credit=credit)
        assert 0 <= credit - 7 * (number + 1) < SLICES_IN_PERIOD  # of rounding


def test_credit_for_copies_that_are_gone_is_not_kept():
    assert may((timedelta(0), 300), credit=5000) == 300


@pytest.mark.parametrize("age", [None, PERIOD, 400 * DAY])
def test_what_was_never_read_or_is_late_is_read_at_once(age):
    assert may((age, 5000), (timedelta(0), 7)) == 5000


def test_disk_without_copies_has_nothing_to_read():
    assert may() == may(credit=100) == 0


@pytest.mark.parametrize(
    ("every", "interval"), [("30d", 600), ("1h", 180), ("10s", 1), ("100y", 600)], ids=["month", "hour", "seconds", "century"]
)
def test_slices_are_short_and_at_least_twenty(every, interval):
    spans = {"30d": MONTH, "1h": timedelta(hours=1), "10s": timedelta(seconds=10), "100y": 36500 * DAY}
    assert slice_interval(spans[every]).total_seconds() == interval


@pytest.mark.parametrize("away", [0, 12], ids=["always on", "off for a while"])
@pytest.mark.parametrize("seed", range(6))
def test_every_copy_is_read_again_in_time_and_no_more_than_that(seed, away):
    """A site for 400 slices, 80 in CBK_VERIFY_EVERY: copies of very different sizes, all verified at once, and some to come."""
    chance = random.Random(seed)
    every = timedelta(minutes=800)
    sizes = [int(chance.paretovariate(0.6) * 1000) for _ in range(100)]
    verified = dict.fromkeys(range(100), NOW)
    credit, oldest, bytes_read, bytes_held = 0, timedelta(0), 0, 0
    for step in range(400):
        now = NOW + step * timedelta(minutes=10)
        if 170 <= step < 170 + away:
            continue
        if step % 10 == 0:
            sizes.append(int(chance.paretovariate(0.6) * 1000))
            verified[len(sizes) - 1] = now
        order = sorted(verified, key=verified.get)
        credit = may(*((now - verified[copy], sizes[copy]) for copy in order), credit=credit, now=now, every=every)
        for copy in order:
            if sizes[copy] > credit:
                break
            oldest = max(oldest, now - verified[copy])
            verified[copy] = now
            bytes_read += sizes[copy]
            credit -= sizes[copy]
        bytes_held += sum(sizes)
    assert max(oldest, now - min(verified.values())) <= every
    assert bytes_read <= bytes_held / (80 * PASS_SHARE) * 1.2


# ---- samples -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "share"),
    [("1%", Fraction(1, 100)), (" 0.5 % ", Fraction(1, 200)), ("100%", Fraction(1)), ("12.25%", Fraction(49, 400))],
)
def test_share_is_read(text, share):
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "1", "0%", "101%", "-1%", "half", "1%%", "nan%", "1e1%", "٣%"])
def test_share_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="expected a percentage"):
        parse_share(text)


@pytest.mark.parametrize(("count", "share", "size"), [(0, "1%", 0), (1, "1%", 1), (100, "1%", 1), (101, "1%", 2), (7, "100%", 7)])
def test_sample_of_any_copies_has_at_least_one(count, share, size):
    assert sample_size(count, parse_share(share)) == size


@pytest.mark.parametrize("size", [0, 1, 7, 20])
def test_sample_has_exactly_its_size_in_order_and_nothing_twice(size):
    chosen = list(sampled(range(20), count=20, size=size, draw=random.Random(5).random))
    assert len(chosen) == size
    assert chosen == sorted(set(chosen))


def test_each_item_is_as_likely_as_any_other():
    draw = random.Random(1).random
    hits = [0] * 10
    for _ in range(3000):
        for item in sampled(range(10), count=10, size=3, draw=draw):
            hits[item] += 1
    assert all(780 < count < 1020 for count in hits)


def test_sample_of_fewer_items_than_were_counted_ends_with_them():
    assert list(sampled(iter([1, 2]), count=2000, size=2000, draw=random.Random(1).random)) == [1, 2]


# ---- status ------------------------------------------------------------------------------------------------------------------


def messages(*, overdue=0, problem=None, every=MONTH):
    return [found.message for found in verification_problems(overdue=overdue, problem=problem, every=every)]


def test_copies_are_overdue_a_quarter_after_their_time():
    assert overdue_before(NOW, MONTH) == NOW - timedelta(days=37.5)


@pytest.mark.parametrize(("overdue", "said"), [(1, "1 copy was"), (7, "7 copies were")])
def test_overdue_copies_are_a_problem(overdue, said):
    assert messages(overdue=overdue) == [f"{said} not read again in the last 30 days"]


def test_verification_that_failed_is_a_problem_before_anything_is_overdue():
    assert messages(problem="the disk is away") == ["the last verification failed: the disk is away"]


def test_verification_that_is_off_or_in_time_is_none():
    assert messages() == messages(overdue=3, problem="x", every=timedelta(0)) == []


@pytest.mark.parametrize(
    ("last", "every", "is_due"),
    [
        (None, DAY, True),
        (NOW - DAY, DAY, True),
        (NOW - DAY / 2, DAY, False),
        (NOW + DAY, DAY, True),
        (None, timedelta(0), False),
    ],
)
def test_drill_is_due_when_its_time_has_passed_or_its_date_cannot_be(last, every, is_due):
    assert drill_is_due(last, NOW, every) is is_due


def test_drill_is_a_problem_where_it_failed():
    assert drill_problems(failed=None) == []
    assert [found.message for found in drill_problems(failed="1 of 3 files")] == ["the last drill failed: 1 of 3 files"]


def test_restore_is_estimated_by_count_or_by_bytes_whichever_is_longer():
    assert restore_seconds(by_file=0.5, files=100, by_byte=0.001, size=1000) == 50
    assert restore_seconds(by_file=0.5, files=1, by_byte=0.001, size=9000) == 9
