"""Limits and timetables of bytes per second: a table of what is written, when, and what is in force then."""

from datetime import UTC, datetime

import pytest

from cbk.rules.backup.bandwidth import Timetable, describe_limit

# 2026-11-23 is a Monday.
DAYS = {"mon": 23, "tue": 24, "wed": 25, "thu": 26, "fri": 27, "sat": 28, "sun": 29}


def limit(text, when):
    day, _, clock = when.partition(" ")
    hour, minute = clock.split(":")
    return Timetable.parse(text).limit_at(datetime(2026, 11, DAYS[day], int(hour), int(minute), 59, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "  ", "off", "OFF", "0"])
def test_no_limit(text):
    assert limit(text, "wed 12:00") is None


@pytest.mark.parametrize(
    ("text", "expected"), [("2M", 2_000_000), ("2MiB", 2_097_152), ("500k", 500_000), ("1M/s", 1_000_000), ("1000", 1000)]
)
def test_one_limit_is_always_in_force(text, expected):
    assert {limit(text, when) for when in ("mon 00:00", "sun 23:59")} == {expected}


DAILY = "08:00,1M 23:00,off"
WEEKDAYS = "Mon-Fri 08:00,1M 23:00,off"
MIXED = "Mon-Fri 08:00,500k 18:00,2M Sat,Sun 10:00,3M"
RCLONE = "Mon-00:00,512k Fri-23:59,10M Sat-10:00,1M Sun-20:00,off"
NIGHT = "Fri-Mon 22:00,off Tue-Thu 22:00,4M"


@pytest.mark.parametrize(
    ("text", "when", "expected"),
    [
        (DAILY, "wed 07:59", None),
        (DAILY, "wed 08:00", 1_000_000),
        (DAILY, "wed 22:59", 1_000_000),
        (DAILY, "wed 23:00", None),
        (DAILY, "mon 00:00", None),
        (WEEKDAYS, "fri 12:00", 1_000_000),
        (WEEKDAYS, "sat 12:00", None),
        (WEEKDAYS, "mon 07:59", None),
        (MIXED, "mon 07:59", 3_000_000),
        (MIXED, "mon 08:00", 500_000),
        (MIXED, "sat 09:59", 2_000_000),
        (MIXED, "sun 10:00", 3_000_000),
        (RCLONE, "mon 00:00", 512_000),
        (RCLONE, "fri 23:58", 512_000),
        (RCLONE, "fri 23:59", 10_000_000),
        (RCLONE, "sat 10:00", 1_000_000),
        (RCLONE, "sun 20:00", None),
        (NIGHT, "mon 22:00", None),
        (NIGHT, "tue 22:00", 4_000_000),
        (NIGHT, "fri 21:59", 4_000_000),
        (NIGHT, "sun 22:00", None),
        ("9:00,1M", "tue 08:00", 1_000_000),
    ],
)
def test_limit_is_in_force_until_the_next_one_begins_round_the_week(text, when, expected):
    assert limit(text, when) == expected


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "1X",
        "-1M",
        "24:00,1M",
        "08:60,1M",
        "08:00",
        "08:00,",
        "08:00,fast",
        "Mon-Fri",
        "Mon-Fri 1M",
        "1M 2M",
        "Noday 08:00,1M",
        "08:00,1M;23:00,off",
    ],
)
def test_what_is_no_bandwidth_is_refused_with_what_is_expected(text):
    with pytest.raises(ValueError, match="expected bytes per second such as"):
        Timetable.parse(text)


@pytest.mark.parametrize("text", ["999", "1", "08:00,500"])
def test_limit_that_no_worker_could_work_under_is_refused(text):
    with pytest.raises(ValueError, match="expected at least 1000 bytes per second"):
        Timetable.parse(text)


@pytest.mark.parametrize("text", ["08:00,1M 08:00,2M", "Mon-Fri 08:00,1M Fri-08:00,2M", "Mon,Mon-Tue 08:00,1M 8:00,1M"])
def test_two_limits_that_begin_at_once_are_refused(text):
    with pytest.raises(ValueError, match=r"two limits begin at 0?8:00 of the same day"):
        Timetable.parse(text)


@pytest.mark.parametrize(
    ("number", "text"), [(None, "no limit"), (1_000_000, "1 MB/s"), (1_500_000, "1.5 MB/s"), (250_000, "250 kB/s")]
)
def test_limit_for_people(number, text):
    assert describe_limit(number) == text
